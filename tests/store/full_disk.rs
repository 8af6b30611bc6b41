//! A disk that is full: nothing acknowledged is lost, the store says so, starts all the same, and goes on when
//! there is room.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tampu::buffer::{Buffer, Limits, Outcome, Receipt, Status, Wait, Writer};
use tampu::config;
use tampu::message::Qos;

use super::check::{Excuse, Promises, check, conserved};
use super::driver::{Key, SINKS, settings, sink, store};
use super::random::Rng;
use super::records;
use super::replay::Image;

/// A small file system of its own, gone with this value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` without the right to mount one; a failure on CI, where the test must not be skipped unseen.
    fn mount(megabytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            why => {
                let on_ci = std::env::var_os("CI").is_some();
                assert!(!on_ci, "a test of a full disk must be root, to mount a small one: {why:?}");
                eprintln!("skipped: only root can mount a small disk: {why:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left; the file that does it.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("foreign");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount");
    }
}

/// A buffer with one writer, and what it promised.
struct Bench {
    buffer: Buffer,
    writer: Writer,
    promises: Promises,
    run: u64,
    count: u64,
}

impl Bench {
    fn open(disk: &Path, settings: &config::Buffer, run: u64, promises: Promises) -> Self {
        let (buffer, report) = Buffer::open(&store(disk), settings, &SINKS.map(sink)).unwrap();
        assert!(report.gaps.is_empty(), "{report:?}");
        let writer = buffer.writer();
        Self { buffer, writer, promises, run, count: 0 }
    }

    /// Puts one reading in; `None` when there is no room.
    fn submit(&mut self) -> Option<(Key, Receipt)> {
        let key = Key { run: self.run, writer: 0, count: self.count };
        let (device, topic, payload) = (key.device(), key.topic(), key.payload());
        let reading = key.reading(&device, &topic, &payload, Qos::AtLeastOnce);
        let taken = self.writer.submit(Some(&reading), records::beside(key), Wait::ForAck).ok()?;
        self.count += 1;
        Some((key, taken))
    }

    /// Whether a reading was acknowledged within that time.
    async fn acked(&mut self, (key, taken): (Key, Receipt), within: Duration) -> bool {
        let durable = tokio::time::timeout(within, self.writer.until_durable(taken.mark)).await;
        let acked = matches!(durable, Ok(Ok(())));
        if acked {
            let seq = taken.seq.unwrap();
            self.promises.hear(&format!("durable {} {} {} {seq}", key.run, key.writer, key.count));
        }
        acked
    }

    /// Appends in small bursts until a reading stays without its ack, or is refused.
    async fn append_until_stuck(&mut self, most: usize) {
        for _ in 0..most / 20 {
            let burst: Vec<_> = (0..20).map_while(|_| self.submit()).collect();
            for submitted in &burst {
                let mut waited = 0;
                while !self.acked(*submitted, Duration::from_millis(250)).await {
                    waited += 1;
                    if self.buffer.status().trouble.is_some() || waited == 240 {
                        return;
                    }
                }
            }
            if burst.len() < 20 {
                return;
            }
        }
        panic!("{most} readings fitted: the disk is not full");
    }

    /// Until a new reading is acknowledged again.
    async fn append_when_there_is_room(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.buffer.status();
            assert!(Instant::now() < deadline, "no reading is taken although there is room: {status:?}");
            match self.submit() {
                Some(submitted) if self.acked(submitted, Duration::from_secs(30)).await => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn status_when(&self, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.buffer.status();
            if is(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "it never came to this: {what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Delivers everything to every sink.
    async fn drain(&mut self) {
        for name in SINKS {
            let mut reader = self.buffer.reader(&sink(name)).unwrap();
            loop {
                let readings = reader.peek(Limits { max_readings: 500, max_bytes: 1 << 20 }).await.unwrap();
                if readings.is_empty() {
                    break;
                }
                let outcomes: Vec<_> = readings.iter().map(|one| (one.seq, Outcome::Delivered)).collect();
                reader.settle(&outcomes).await.unwrap();
            }
        }
        conserved(&self.buffer.status()).unwrap();
    }
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.unwrap().block_on(test)
}

#[test]
fn a_disk_that_others_fill_holds_back_acks_and_loses_none() {
    let Some(disk) = SmallDisk::mount(32) else { return };
    let run = Rng::from_env("foreign file").next() >> 44 << 1;
    let promises = block_on(async {
        let mut bench = Bench::open(disk.path(), &settings(), run, Promises::default());
        for _ in 0..200 {
            let submitted = bench.submit().unwrap();
            assert!(bench.acked(submitted, Duration::from_secs(30)).await);
        }
        let foreign = disk.fill();
        bench.append_until_stuck(100_000).await;
        let status =
            bench.status_when("it says that the disk is full", |status| status.trouble.is_some()).await;
        eprintln!("trouble: {:?}", status.trouble);
        conserved(&status).unwrap();
        let Bench { buffer, promises, count, .. } = bench;
        buffer.close().await;
        drop(buffer);

        // P5: it starts on the full disk, with everything that it acknowledged.
        let mut bench = Bench::open(disk.path(), &settings(), run, promises);
        bench.count = count;
        let status = bench.buffer.status();
        let acked = bench.promises.durable.len() as u64;
        assert!(status.accepted >= acked, "{acked} acknowledged, {status:?}");

        std::fs::remove_file(foreign).unwrap();
        bench.append_when_there_is_room().await;
        bench.status_when("the trouble is over", |status| status.trouble.is_none()).await;
        bench.buffer.close().await;
        bench.promises
    });
    check(disk.path(), &promises, Excuse::None).unwrap();
}

#[test]
fn a_disk_that_the_store_itself_fills_is_left_by_delivering() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let run = Rng::from_env("own backlog").next() >> 44 << 1;
    let (promises, count) = block_on(async {
        let mut bench = Bench::open(disk.path(), &settings(), run, Promises::default());
        bench.append_until_stuck(100_000).await;
        assert!(bench.promises.durable.len() > 100, "{:?}", bench.buffer.status());
        bench.buffer.close().await;
        (bench.promises, bench.count)
    });
    let copy = super::scratch();
    Image::of(disk.path()).write(copy.path());
    check(copy.path(), &promises, Excuse::None).unwrap();
    block_on(async {
        let mut bench = Bench::open(disk.path(), &settings(), run, promises);
        bench.count = count;
        bench.drain().await;
        bench.append_when_there_is_room().await;
        bench.status_when("the trouble is over", |status| status.trouble.is_none()).await;
        bench.buffer.close().await;
    });
}

#[test]
fn with_drop_oldest_a_full_disk_takes_new_readings_and_counts_the_old_ones() {
    let Some(disk) = SmallDisk::mount(40) else { return };
    let run = Rng::from_env("drop oldest").next() >> 44 << 1;
    block_on(async {
        let settings = config::Buffer {
            when_full: config::FullPolicy::DropOldest,
            min_free_bytes: 24 << 20,
            ..settings()
        };
        let mut bench = Bench::open(disk.path(), &settings, run, Promises::default());
        // Half of some 16 MB of payload does not compress: more than the disk holds.
        for number in 0..8_000 {
            let room = tokio::time::timeout(Duration::from_secs(30), bench.writer.room()).await;
            assert!(room.is_ok(), "refused: {:?}", bench.buffer.status());
            let submitted = bench.submit().expect("there was room, and nobody else writes");
            let within = Duration::from_secs(if number % 50 == 0 { 60 } else { 0 });
            let acked = bench.acked(submitted, within).await;
            assert!(acked || number % 50 != 0, "no ack: {:?}", bench.buffer.status());
        }
        let status = bench.buffer.status();
        conserved(&status).unwrap();
        assert_eq!(status.trouble, None);
        let dropped = |name: &str| status.sinks[name].dropped.values().sum::<u64>();
        assert!(dropped(SINKS[0]) > 0 && dropped(SINKS[0]) == dropped(SINKS[1]), "{status:?}");
        bench.drain().await;
        bench.buffer.close().await;
    });
}
