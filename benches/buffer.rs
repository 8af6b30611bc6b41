//! The buffer alone: CPU, device bytes, memory, and time to open.
//!
//! ```text
//! cargo bench --bench buffer                      1,000,000 readings
//! cargo bench --bench buffer -- 5000000           5,000,000
//! ```
//! Device bytes are what the block device under `TMPDIR` counts, the journal of the file system included: give it one
//! that nobody else writes to, such as an ext4 image on a loop device. (`/proc/self/io` counts whole folios of the
//! page cache, many times what is written.)

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tampu::buffer::{Buffer, Limits, Outcome, Wait};
use tampu::config::{self, SinkName};
use tampu::message::{BootId, ClockQuality, DeviceId, Incoming, Qos, Stamp};

const OPEN: &str = "--open";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    match arguments.as_slice() {
        [flag, dir] if flag == OPEN => runtime.block_on(reopen(Path::new(dir))),
        [count] => runtime.block_on(all(count.parse().expect("the argument is a number of readings"))),
        _ => runtime.block_on(all(1_000_000)),
    }
}

async fn all(count: u64) {
    println!("payload 205 bytes; CPU of the whole process, the making of payloads included");
    for (group, readings) in [(256, count.min(1_000_000)), (16, 50_000), (1, 3_000)] {
        append_and_drain(group, readings).await;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    open_in_child("empty", dir.path());
    append(&open(dir.path(), 1).0, 256, count).await;
    open_in_child(&format!("{count} waiting"), dir.path());
}

async fn append_and_drain(group: u64, readings: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (buffer, _) = open(dir.path(), 1);
    let before = Usage::now(dir.path());
    append(&buffer, group, readings).await;
    let appended = Usage::now(dir.path());
    let status = buffer.status();
    let live = status.live_bytes;
    let disk = files_bytes(&dir.path().join("store"));
    drain(&buffer, readings).await;
    buffer.close().await;
    let drained = Usage::now(dir.path());
    let payload = (readings * 205) as f64;
    let per_million = 1e6 / readings as f64;
    println!(
        "group {group:>3}: append {:>6.2} CPU s per 1M, drain {:>5.2}; device bytes per payload byte: append {:.2}, \
         with drain {:.2}; per payload byte live {:.3}, on disk {:.2}; {:.2} fdatasync a group; {:.0} readings/s",
        (appended.cpu - before.cpu).as_secs_f64() * per_million,
        (drained.cpu - appended.cpu).as_secs_f64() * per_million,
        (appended.written - before.written) as f64 / payload,
        (drained.written - before.written) as f64 / payload,
        live as f64 / payload,
        disk as f64 / payload,
        status.commits as f64 / readings.div_ceil(group) as f64,
        readings as f64 / (appended.at - before.at).as_secs_f64(),
    );
}

fn cloud() -> SinkName {
    SinkName::parse("cloud").expect("a valid name")
}

fn open(dir: &Path, ack_delay_ms: u64) -> (Buffer, Duration) {
    let settings = config::Buffer {
        ack_delay: Duration::from_millis(ack_delay_ms),
        max_bytes: u64::MAX,
        ..config::Buffer::default()
    };
    let start = Instant::now();
    let (buffer, report) = Buffer::open(dir, &settings, &[cloud()]).expect("the buffer opens");
    assert!(report.findings.is_empty(), "{report:?}");
    (buffer, start.elapsed())
}

/// Appends, waiting for the disk after each `group` readings.
async fn append(buffer: &Buffer, group: u64, readings: u64) {
    let devices: Vec<DeviceId> =
        (0..50).map(|n| DeviceId::parse(&format!("esp32-{n:02}")).expect("a valid name")).collect();
    let topics: Vec<String> = devices.iter().map(|device| format!("{device}/telemetry")).collect();
    let mut writer = buffer.writer();
    let mut payload = String::new();
    for n in 0..readings {
        let which = (n % 50) as usize;
        fill(&mut payload, n);
        let reading = Incoming {
            device: &devices[which],
            stream: "telemetry",
            topic: &topics[which],
            payload: payload.as_bytes(),
            qos: Qos::AtLeastOnce,
            received: Stamp {
                wall_ms: 1_800_000_000_000 + n as i64 * 3,
                boot_ms: n * 3,
                boot: BootId([1; 16]),
                quality: ClockQuality::Synchronized,
            },
            fault: None,
        };
        let taken = writer.submit(Some(&reading), Vec::new(), Wait::ForAck).expect("there is room");
        if (n + 1) % group == 0 || n + 1 == readings {
            writer.until_durable(taken.mark).await.expect("the buffer is open");
        }
    }
}

/// 205 bytes of JSON with numbers that do not repeat.
fn fill(payload: &mut String, n: u64) {
    use std::fmt::Write;
    payload.clear();
    let noise = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    write!(
        payload,
        "{{\"n\":{n},\"temperature\":{}.{:02},\"humidity\":{}.{:02},\"pressure\":{}.{:02},\"battery\":3.{:03},\
         \"rssi\":-{},\"uptime\":{},\"firmware\":\"1.4.2\",\"site\":\"greenhouse-3\",\"status\":\"ok\"",
        noise % 40,
        (noise >> 8) % 100,
        (noise >> 16) % 100,
        (noise >> 20) % 100,
        980 + (noise >> 24) % 60,
        (noise >> 28) % 100,
        (noise >> 32) % 1_000,
        40 + (noise >> 40) % 50,
        n * 3,
    )
    .expect("a string takes everything");
    while payload.len() < 204 {
        payload.push(' ');
    }
    payload.push('}');
}

async fn drain(buffer: &Buffer, readings: u64) {
    let mut reader = buffer.reader(&cloud()).expect("the first reader");
    let limits = Limits { max_readings: 1_000, max_bytes: 1_000_000 };
    let mut drained = 0;
    while drained < readings {
        let batch = reader.next(limits).await.expect("the buffer is open");
        drained += batch.len() as u64;
        let outcomes: Vec<_> = batch.iter().map(|reading| (reading.seq, Outcome::Delivered)).collect();
        reader.settle(&outcomes).await.expect("the buffer is open");
    }
}

/// Memory is measured in a process that has done nothing else.
fn open_in_child(what: &str, dir: &Path) {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg(OPEN).arg(dir).output().expect("the child runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    print!("{what}: {}", String::from_utf8_lossy(&output.stdout));
}

async fn reopen(dir: &Path) {
    let (buffer, took) = open(dir, 1);
    let opened = resident_kib();
    let mut reader = buffer.reader(&cloud()).expect("the first reader");
    let limits = Limits { max_readings: 1_000, max_bytes: 1_000_000 };
    for _ in 0..100 {
        let batch = reader.peek(limits).await.expect("the buffer is open");
        let outcomes: Vec<_> = batch.iter().map(|reading| (reading.seq, Outcome::Delivered)).collect();
        reader.settle(&outcomes).await.expect("the buffer is open");
    }
    println!(
        "open {:.3} s, RSS {:.1} MiB after open, {:.1} MiB after reading 100,000; {} keys, {:.1} MB on disk",
        took.as_secs_f64(),
        opened as f64 / 1024.0,
        resident_kib() as f64 / 1024.0,
        buffer.status().blocks,
        buffer.status().disk_bytes as f64 / 1e6,
    );
    buffer.close().await;
}

#[derive(Clone, Copy)]
struct Usage {
    at: Instant,
    cpu: Duration,
    written: u64,
}

impl Usage {
    fn now(dir: &Path) -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self {
            at: Instant::now(),
            cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32),
            written: device_bytes(dir),
        }
    }
}

/// Bytes that the device under `dir` has written since it is there; 0 when there is none (tmpfs).
fn device_bytes(dir: &Path) -> u64 {
    let device = std::fs::metadata(dir).expect("the directory is there").dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(stat) = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")) else { return 0 };
    let sectors: u64 =
        stat.split_whitespace().nth(6).and_then(|n| n.parse().ok()).expect("it counts sectors");
    sectors * 512
}

fn files_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("the directory is there");
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
