//! What the fleet does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::broker::Broker;
use crate::client::{Client, LOOPBACK};
use crate::devices::{Device, Fleet, connect_all, joined};

/// Each device has a thread, in a load generator on the same machine.
const STACK_BYTES: usize = 256 * 1024;

/// A device whose connection has failed tries again after 0.5 to 1.5 s, as firmware does.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_SPREAD_MS: u64 = 1_000;

/// A storm that is not over by then has failed.
const STORM_DEADLINE: Duration = Duration::from_secs(180);

/// After it, what an address may do at once is there again.
const REST: Duration = Duration::from_secs(15);

const PERIOD: Duration = Duration::from_secs(1);

/// Connections that do nothing but keep alive.
pub(crate) struct Idle {
    pub(crate) connections: usize,
    pub(crate) kib_each: f64,
    pub(crate) cpu_percent: f64,
    pub(crate) connected_in: Duration,
}

/// Devices that report once a second.
pub(crate) struct Reporting {
    pub(crate) devices: usize,
    pub(crate) published: usize,
    pub(crate) delivered: usize,
    pub(crate) cpu_percent: f64,
    pub(crate) acks: Latency,
    pub(crate) deliveries: Latency,
    pub(crate) rss_kib: u64,
}

/// How long most of them took.
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Devices that come back: times from the start of the new process.
pub(crate) struct Storm {
    pub(crate) devices: usize,
    pub(crate) first: Duration,
    pub(crate) half: Duration,
    pub(crate) all: Duration,
    pub(crate) cpu_seconds: f64,
}

/// Devices behind one router that come back twice: how long that took.
pub(crate) struct Returns {
    pub(crate) devices: usize,
    pub(crate) times: [Duration; 2],
}

pub(crate) fn idle(broker: &Broker, fleet: &Fleet, count: usize, time: Duration) -> anyhow::Result<Idle> {
    // The first connections pay for what all share.
    let (shared, before) =
        (connect_all(&fleet.first(count)[..50.min(count / 2)], broker)?, broker.rss_kib()?);
    let start = Instant::now();
    let mut clients = connect_all(&fleet.first(count)[shared.len()..], broker)?;
    let connected_in = start.elapsed();
    let kib_each = (broker.rss_kib()? as f64 - before as f64) / clients.len() as f64;
    let (start, cpu) = (Instant::now(), broker.cpu_seconds()?);
    // Each says once that it is alive.
    let pause = time / clients.len() as u32;
    for (n, client) in (1..).zip(&mut clients) {
        client.ping()?;
        thread::sleep((pause * n).saturating_sub(start.elapsed()));
    }
    let cpu_percent = (broker.cpu_seconds()? - cpu) / start.elapsed().as_secs_f64() * 100.0;
    Ok(Idle { connections: count, kib_each, cpu_percent, connected_in })
}

pub(crate) fn reporting(
    broker: &Broker,
    fleet: &Fleet,
    count: usize,
    time: Duration,
) -> anyhow::Result<Reporting> {
    let mut watcher = Client::connect(LOOPBACK, broker.address, &fleet.watcher, "watcher")?;
    watcher.subscribe("#", 0)?;
    let mut clients = connect_all(fleet.first(count), broker)?;
    let (epoch, cpu, done) = (Instant::now(), broker.cpu_seconds()?, AtomicBool::new(false));
    let (acks, deliveries) = thread::scope(|scope| -> anyhow::Result<_> {
        let watching = scope.spawn(|| watcher.collect(epoch, &done));
        let mut reporting = Vec::with_capacity(count);
        for (n, client) in clients.iter_mut().enumerate() {
            let offset = PERIOD * n as u32 / count as u32;
            let report = move || client.publish_gently(epoch, offset, PERIOD, time);
            reporting.push(thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, report)?);
        }
        let acks: anyhow::Result<Vec<Vec<u32>>> = reporting.into_iter().map(joined).collect();
        done.store(true, Ordering::Release);
        Ok((acks?.concat(), joined(watching)?))
    })?;
    let cpu_percent = (broker.cpu_seconds()? - cpu) / epoch.elapsed().as_secs_f64() * 100.0;
    broker.check_kept(acks.len())?;
    Ok(Reporting {
        devices: count,
        published: acks.len(),
        delivered: deliveries.len(),
        cpu_percent,
        acks: Latency::of(acks),
        deliveries: Latency::of(deliveries),
        rss_kib: broker.rss_kib()?,
    })
}

pub(crate) fn storm(broker: &mut Broker, fleet: &Fleet, count: usize) -> anyhow::Result<Storm> {
    let clients = connect_all(fleet.first(count), broker)?;
    let address = broker.address;
    let (returned, over, restarted) = (Mutex::new(Vec::new()), AtomicBool::new(false), Mutex::new(None));
    let waiting = AtomicUsize::new(0);
    thread::scope(|scope| -> anyhow::Result<_> {
        for (n, (client, device)) in clients.into_iter().zip(fleet.first(count)).enumerate() {
            let (returned, over, waiting) = (&returned, &over, &waiting);
            let live = move || live(client, device, n as u64, address, (waiting, returned, over));
            thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, live)?;
        }
        while waiting.load(Ordering::Acquire) < count {
            thread::sleep(Duration::from_millis(10));
        }
        let result = (|| -> anyhow::Result<()> {
            broker.kill_and_restart()?;
            *restarted.lock().expect("no panic under this lock") = Some(Instant::now());
            let start = Instant::now();
            while returned.lock().expect("no panic under this lock").len() < count {
                ensure!(start.elapsed() < STORM_DEADLINE, "not all devices have come back");
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        })();
        over.store(true, Ordering::Release);
        result
    })?;
    let start = restarted.into_inner().ok().flatten().context("it was restarted")?;
    let mut times: Vec<Duration> =
        returned.into_inner().context("no panic under this lock")?.iter().map(|at| *at - start).collect();
    times.sort_unstable();
    let cpu_seconds = broker.cpu_seconds()?;
    Ok(Storm { devices: count, first: times[0], half: times[count / 2], all: times[count - 1], cpu_seconds })
}

/// A device: when its connection ends it comes back, publishes, and says when that was acknowledged.
fn live(
    mut client: Client,
    device: &Device,
    n: u64,
    address: SocketAddr,
    (waiting, returned, over): (&AtomicUsize, &Mutex<Vec<Instant>>, &AtomicBool),
) {
    waiting.fetch_add(1, Ordering::Release);
    let is_over = || over.load(Ordering::Acquire);
    while !is_over() && !client.has_ended().unwrap_or(true) {}
    if let Some(mut client) = come_back(device, n, address, None, is_over) {
        returned.lock().expect("no panic under this lock").push(Instant::now());
        while !is_over() && !client.has_ended().unwrap_or(true) {}
    }
}

/// Tries until it is connected and has a publish acknowledged; `None` if it is too late for that.
fn come_back(
    device: &Device,
    n: u64,
    address: SocketAddr,
    router: Option<Ipv4Addr>,
    is_over: impl Fn() -> bool,
) -> Option<Client> {
    for attempt in 1_u64.. {
        if is_over() {
            break;
        }
        let back = device.connect(address, router).and_then(|mut client| {
            client.publish_window(Instant::now(), 1, 1)?;
            Ok(client)
        });
        if let Ok(client) = back {
            return Some(client);
        }
        // A multiplicative hash in place of chance: every run has the same.
        let spread = (n ^ attempt << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        thread::sleep(RETRY_AFTER + Duration::from_millis(spread % RETRY_SPREAD_MS));
    }
    None
}

pub(crate) fn returns(broker: &Broker, fleet: &Fleet, count: usize) -> anyhow::Result<Returns> {
    let devices = fleet.first(count);
    let mut connected = come_all(devices, broker)?;
    thread::sleep(REST);
    let mut times = [Duration::ZERO; 2];
    for time in &mut times {
        let start = Instant::now();
        // A router that has forgotten its connections ends none of them.
        let back = come_all(devices, broker)?;
        *time = start.elapsed();
        connected = back;
    }
    drop(connected);
    Ok(Returns { devices: count, times })
}

/// All of them at once, from one address.
fn come_all(devices: &[Device], broker: &Broker) -> anyhow::Result<Vec<Client>> {
    let (address, start) = (broker.address, Instant::now());
    thread::scope(|scope| {
        let mut coming = Vec::with_capacity(devices.len());
        for (n, device) in (0..).zip(devices) {
            let come = move || {
                let is_over = || start.elapsed() > STORM_DEADLINE;
                come_back(device, n, address, Some(LOOPBACK), is_over).context("a device has not come back")
            };
            coming.push(thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, come)?);
        }
        coming.into_iter().map(joined).collect()
    })
}

impl Latency {
    pub(crate) fn of(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        let at = |percent: usize| {
            let last = micros.len().saturating_sub(1);
            micros.get(last * percent / 100).map_or(0.0, |micros| f64::from(*micros) / 1_000.0)
        };
        Self { p50_ms: at(50), p99_ms: at(99) }
    }
}
