//! The program that the tests let crash: it fills a `Buffer` and drains it, and says on the marks file what it was
//! promised. It is this test binary started again.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tampu::buffer::{
    Buffer, DropReason, Limits, OpenError, OpenReport, Outcome, Reader, Receipt, Stuck, SubmitError, Wait,
    Writer,
};
use tampu::config;
use tampu::message::{BootId, ClockQuality, DeviceId, Incoming, Qos, Stamp};

use super::random::{Rng, number};
use super::records::{self, Who};

/// The sinks of the store. The first settles eagerly, the second now and then.
pub(super) const SINKS: [&str; 2] = ["eager", "lazy"];
const WRITERS: usize = 4;
/// What a driver says last when its store stands still.
pub(super) const STUCK: &str = "the driver ends:";

/// How a driver ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Closes the buffer.
    Close,
    /// Dies without a word.
    Abort,
    /// Goes on until it is killed.
    Never,
}

/// What a driver does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Names this run: no two runs on one store may have the same.
    pub run: u64,
    /// Readings to append.
    pub readings: usize,
    pub end: End,
    /// The room for the store, in bytes, kept by dropping the oldest; without it there is plenty.
    pub room: Option<u64>,
}

/// Runs with an odd number append small readings one by one, which makes small blocks: the store merges them.
fn trickles(run: u64) -> bool {
    run % 2 == 1
}

/// A reading is known by its run, its writer and its number there: the payload follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub run: u64,
    pub writer: u64,
    pub count: u64,
}

impl Key {
    pub(super) fn who(self) -> Who {
        (self.run, self.writer)
    }

    /// Sizes and entropy as they come from the field, and some as they do not.
    pub(super) fn payload(self) -> Vec<u8> {
        let mut rng = Rng::new(self.run << 40 ^ self.writer << 32 ^ self.count);
        let len = match rng.in_range(0..100) {
            _ if trickles(self.run) => rng.in_range(10..100),
            0..70 => rng.in_range(10..300),
            70..90 => rng.in_range(300..3_000),
            90..99 => rng.in_range(3_000..20_000),
            _ => rng.in_range(20_000..60_000),
        };
        let mut payload = format!("{} {} {} ", self.run, self.writer, self.count).into_bytes();
        if rng.percent(50) {
            payload.extend(rng.bytes(len));
        } else {
            payload.extend(b"{\"t\":21.5}".iter().cycle().take(len));
        }
        payload
    }

    /// The key of a stored payload, if every byte of it is right.
    pub(super) fn of(payload: &[u8]) -> Option<Self> {
        let mut numbers = payload.splitn(4, |byte| *byte == b' ').take(3).map(|word| {
            let text = std::str::from_utf8(word).ok()?;
            text.parse::<u64>().ok()
        });
        let mut next = || numbers.next().flatten();
        let key = Self { run: next()?, writer: next()?, count: next()? };
        (key.payload() == payload).then_some(key)
    }

    pub(super) fn device(self) -> DeviceId {
        DeviceId::parse(&format!("d{}", self.writer)).unwrap()
    }

    pub(super) fn topic(self) -> String {
        format!("d{}/{}", self.writer, self.count % 7)
    }

    /// The reading as it comes out of a packet.
    pub(super) fn reading<'a>(
        self,
        device: &'a DeviceId,
        topic: &'a str,
        payload: &'a [u8],
        qos: Qos,
    ) -> Incoming<'a> {
        Incoming { device, stream: "all", topic, payload, qos, received: self.stamp(), fault: None }
    }

    pub(super) fn stamp(self) -> Stamp {
        Stamp {
            wall_ms: 1_700_000_000_000 + self.count as i64,
            boot_ms: self.count,
            boot: BootId([self.run as u8; 16]),
            quality: ClockQuality::Synchronized,
        }
    }
}

pub(super) fn sink(name: &str) -> config::SinkName {
    DeviceId::parse(name).unwrap()
}

/// Small bounds on time, none on size: only what a test does may make it full.
pub(super) fn settings() -> config::Buffer {
    config::Buffer {
        ack_delay: Duration::from_millis(3),
        qos0_window: Duration::from_millis(100),
        min_free_bytes: 0,
        max_bytes: 1 << 30,
        when_full: config::FullPolicy::RefuseNew,
        // Far longer than anything takes in memory, on however busy a machine.
        stuck_after: Duration::from_secs(15),
        ..config::Buffer::default()
    }
}

/// The store is a directory below the one that stands for the disk, so that its own creation is part of the test.
pub(super) fn store(disk: &Path) -> PathBuf {
    disk.join("buffer")
}

/// The command that runs a plan.
pub(super) fn command(disk: &Path, marks: &Path, plan: Plan) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["driver::driver_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("STORE_DISK", disk)
        .env("STORE_MARKS", marks)
        .env("STORE_RUN", plan.run.to_string())
        .env("STORE_READINGS", plan.readings.to_string())
        .env("STORE_END", format!("{:?}", plan.end));
    if let Some(room) = plan.room {
        command.env("STORE_ROOM", room.to_string());
    }
    command
}

#[test]
#[ignore = "not a test: the tests start this program again with it"]
fn driver_process() {
    // Whatever becomes of the test, no driver outlives it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let end = match std::env::var("STORE_END").unwrap().as_str() {
        "Close" => End::Close,
        "Abort" => End::Abort,
        _ => End::Never,
    };
    let plan = Plan {
        run: number("STORE_RUN").unwrap(),
        readings: number("STORE_READINGS").unwrap() as usize,
        end,
        room: number("STORE_ROOM"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stood = runtime.block_on(drive(&path("STORE_DISK"), Marks::open(&path("STORE_MARKS")), plan));
    // As `tampu run` does: the process ends, with the reason.
    if let Err(stuck) = stood {
        panic!("{STUCK} {stuck}");
    }
}

/// The file that the tests learn from what was promised: one line a write, so that it is whole or not there.
#[derive(Clone)]
struct Marks(Arc<Mutex<File>>);

impl Marks {
    fn open(path: &Path) -> Self {
        Self(Arc::new(Mutex::new(File::options().append(true).create(true).open(path).unwrap())))
    }

    fn say(&self, line: &str) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

async fn drive(disk: &Path, marks: Marks, plan: Plan) -> Result<(), Stuck> {
    let (buffer, report) = open(disk, &marks, plan.room).await?;
    marks.say(&format!("opened {} gaps {:?}", plan.run, report.gaps));
    let left = Arc::new(AtomicUsize::new(plan.readings));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS as u64 {
        writers.spawn(write(buffer.writer(), marks.clone(), plan, number, left.clone()));
    }
    let mut readers = tokio::task::JoinSet::new();
    for name in SINKS {
        readers.spawn(read(buffer.reader(&sink(name)).unwrap(), marks.clone(), plan, name));
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    if let Some(Err(stuck)) = buffer.ended().now_or_never() {
        return Err(stuck);
    }
    if plan.end == End::Abort {
        std::process::abort();
    }
    readers.shutdown().await;
    buffer.close().await;
    buffer.ended().await?;
    marks.say(&format!("ended {}", plan.run));
    Ok(())
}

/// Starts again when the store does not open, as a service manager would: an I/O error may pass.
async fn open(disk: &Path, marks: &Marks, room: Option<u64>) -> Result<(Buffer, OpenReport), Stuck> {
    let mut settings = settings();
    if let Some(seconds) = number("STORE_STUCK_AFTER_S") {
        settings.stuck_after = Duration::from_secs(seconds);
    }
    if let Some(room) = room {
        (settings.max_bytes, settings.when_full) = (room, config::FullPolicy::DropOldest);
    }
    for _ in 0..10 {
        match Buffer::open(&store(disk), &settings, &SINKS.map(sink)) {
            Ok(opened) => return Ok(opened),
            Err(OpenError::Stuck { stuck, .. }) => return Err(stuck),
            Err(error) => marks.say(&format!("failed {error}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the store does not open");
}

/// Sends bursts, as a connection with a window does, and waits for their acks.
async fn write(mut writer: Writer, marks: Marks, plan: Plan, number: u64, left: Arc<AtomicUsize>) {
    let mut rng = Rng::new(plan.run << 8 ^ number);
    let (mut count, mut alone) = (0, 0);
    loop {
        let mut burst: Vec<(Key, Receipt)> = Vec::new();
        let most = if trickles(plan.run) { 2 } else { 20 };
        for _ in 0..rng.in_range(1..most) {
            let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if plan.end != End::Never && taken.is_err() {
                break;
            }
            let key = Key { run: plan.run, writer: number, count };
            count += 1;
            let (qos, wait) = if rng.percent(30) {
                (Qos::AtMostOnce, Wait::Nobody)
            } else {
                (Qos::AtLeastOnce, Wait::ForAck)
            };
            let Some(taken) = submit(&mut writer, &marks, key, qos, wait).await else { return };
            burst.push((key, taken));
        }
        let Some((_, last)) = burst.last().copied() else { return };
        let mut change = Receipt::default();
        if rng.percent(30) {
            let wait = if rng.percent(50) { Wait::Nobody } else { Wait::ForAck };
            match writer.submit(None, records::alone((plan.run, number), alone), wait) {
                Ok(taken) => {
                    marks.say(&format!("changing {} {number} {alone}", plan.run));
                    change = taken;
                }
                Err(SubmitError::Full) => marks.say("full"),
                Err(SubmitError::Closed) => return marks.say("closed"),
            }
        }
        if rng.percent(90) && writer.until_durable(last.mark).await.is_err() {
            return marks.say("closed");
        }
        let durable = writer.durable();
        let acked: String = burst
            .iter()
            .filter(|(_, taken)| taken.mark <= durable)
            .map(|(key, taken)| {
                let seq = taken.seq.unwrap();
                format!("durable {} {} {} {seq}\n", key.run, key.writer, key.count)
            })
            .collect();
        if !acked.is_empty() {
            marks.say(acked.trim_end());
        }
        if change != Receipt::default() {
            if change.mark <= durable {
                marks.say(&format!("changed {} {number} {alone}", plan.run));
            }
            alone += 1;
        }
        if rng.percent(30) {
            tokio::time::sleep(Duration::from_millis(rng.next() % 4)).await;
        }
    }
}

/// Waits for room as long as there is none. QoS 0 publishes are given up instead.
async fn submit(writer: &mut Writer, marks: &Marks, key: Key, qos: Qos, wait: Wait) -> Option<Receipt> {
    let (device, topic, payload) = (key.device(), key.topic(), key.payload());
    loop {
        match writer.submit(Some(&key.reading(&device, &topic, &payload, qos)), records::beside(key), wait) {
            Ok(taken) => {
                let seq = taken.seq.unwrap();
                marks.say(&format!("submitted {} {} {} {seq}", key.run, key.writer, key.count));
                return Some(taken);
            }
            Err(SubmitError::Closed) => {
                marks.say("closed");
                return None;
            }
            Err(SubmitError::Full) => {
                marks.say("full");
                writer.room().await;
            }
        }
    }
}

/// Reads as a forwarder does. What it is about to settle is said before: afterwards it may be gone.
async fn read(mut reader: Reader, marks: Marks, plan: Plan, name: &str) {
    let mut rng = Rng::new(plan.run << 8 ^ name.len() as u64);
    loop {
        let limits = Limits { max_readings: rng.in_range(1..200), max_bytes: rng.in_range(1_000..500_000) };
        let Ok(readings) = reader.next(limits).await else { return };
        let mut outcomes = Vec::new();
        let mut line = format!("settling {name}");
        for reading in &readings {
            let Some(key) = Key::of(&reading.payload) else {
                return marks.say(&format!("wrong content in {} at {name}", reading.seq));
            };
            line += &format!(" {},{},{},{}", key.run, key.writer, key.count, reading.epoch);
            outcomes.push((reading.seq, outcome(&mut rng)));
        }
        if name == SINKS[0] || rng.percent(if trickles(plan.run) { 1 } else { 20 }) {
            marks.say(&line);
            if reader.settle(&outcomes).await.is_err() {
                return;
            }
            marks.say(&line.replacen("settling", "settled", 1));
        }
        tokio::time::sleep(Duration::from_millis(rng.next() % 10)).await;
    }
}

fn outcome(rng: &mut Rng) -> Outcome {
    match rng.in_range(0..20) {
        0 => Outcome::Dropped(DropReason::NothingMapped),
        1 => Outcome::DeadLetter("refused by the far side".to_owned()),
        _ => Outcome::Delivered,
    }
}
