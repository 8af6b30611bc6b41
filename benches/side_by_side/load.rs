//! What is asked of a broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::ClientConfig;

use crate::broker::Broker;
use crate::client::{Client, LOOPBACK, PAYLOAD_BYTES};

/// Publishers.
pub(crate) const CLIENTS: usize = 50;
/// Publishes that each of them has in flight.
pub(crate) const WINDOW: usize = 20;
/// Messages a second of the gentle run, all publishers together.
const GENTLE_RATE: usize = 500;
const WARM_UP: usize = 100;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) publishes: usize,
    pub(crate) gentle: Duration,
    pub(crate) idle: usize,
}

/// The certificates of everybody who connects.
pub(crate) struct Identities {
    pub(crate) devices: Vec<(String, Arc<ClientConfig>)>,
    pub(crate) watcher: Arc<ClientConfig>,
}

/// The figures of one broker in one round.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) tls: String,
    pub(crate) started_in: Duration,
    pub(crate) idle_kib: f64,
    pub(crate) alone: Run,
    pub(crate) watched: Run,
    pub(crate) gentle: Run,
}

/// The figures of one run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) published: usize,
    /// What the subscriber got.
    pub(crate) delivered: usize,
    pub(crate) elapsed: Duration,
    pub(crate) cpu_seconds: f64,
    /// Device bytes written per payload byte.
    pub(crate) written: f64,
    /// From publish to ack, sorted, in microseconds.
    pub(crate) acks: Vec<u32>,
    /// From publish to the subscriber, sorted, in microseconds.
    pub(crate) deliveries: Vec<u32>,
}

impl Run {
    pub(crate) fn rate(&self) -> f64 {
        self.published as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn cpu_per_100k(&self) -> f64 {
        self.cpu_seconds * 100_000.0 / self.published as f64
    }
}

/// Everything, one after the other, on a broker that was just started.
pub(crate) fn measure(broker: &Broker, who: &Identities, size: Size) -> anyhow::Result<Figures> {
    let idle_kib = idle(broker, who, size.idle).context("idle connections")?;
    let mut clients = connect(broker, who)?;
    let tls = clients[0].tls();
    let full = |client: &mut Client, epoch, _| client.publish_window(epoch, size.publishes / CLIENTS, WINDOW);
    let warm_up =
        run(broker, &mut clients, None, |client, epoch, _| client.publish_window(epoch, WARM_UP, WINDOW))
            .context("warm-up")?;
    let alone = run(broker, &mut clients, None, full).context("publishers alone")?;
    let mut watcher = Client::connect(LOOPBACK, broker.address, &who.watcher, "watcher")?;
    watcher.subscribe("#", 0)?;
    let watched = run(broker, &mut clients, Some(&mut watcher), full).context("with a subscriber")?;
    let period = Duration::from_secs(1) * CLIENTS as u32 / GENTLE_RATE as u32;
    let gentle = run(broker, &mut clients, Some(&mut watcher), |client, epoch, n| {
        client.publish_gently(epoch, period * n as u32 / CLIENTS as u32, period, size.gentle)
    })
    .context("gentle")?;
    broker.check_kept([&warm_up, &alone, &watched, &gentle].iter().map(|run| run.published).sum())?;
    Ok(Figures { tls, started_in: broker.started_in, idle_kib, alone, watched, gentle })
}

fn connect(broker: &Broker, who: &Identities) -> anyhow::Result<Vec<Client>> {
    who.devices.iter().map(|(name, tls)| Client::connect(LOOPBACK, broker.address, tls, name)).collect()
}

/// KiB of resident memory that an idle connection costs.
fn idle(broker: &Broker, who: &Identities, count: usize) -> anyhow::Result<f64> {
    // The first connections pay for what all share.
    let first = connect(broker, who)?;
    let before = broker.rss_kib()?;
    let mut held = Vec::with_capacity(count);
    for n in 0..count {
        let (_, tls) = &who.devices[n % who.devices.len()];
        held.push(Client::connect(LOOPBACK, broker.address, tls, &format!("idle{n}"))?);
    }
    let after = broker.rss_kib()?;
    drop((first, held));
    Ok((after as f64 - before as f64) / count as f64)
}

fn run(
    broker: &Broker,
    clients: &mut [Client],
    watcher: Option<&mut Client>,
    work: impl Fn(&mut Client, Instant, usize) -> anyhow::Result<Vec<u32>> + Sync,
) -> anyhow::Result<Run> {
    let cpu = broker.cpu_seconds()?;
    let written = broker.written_bytes()?;
    let epoch = Instant::now();
    let done = AtomicBool::new(false);
    let (acks, elapsed, deliveries) = std::thread::scope(|scope| {
        let watching = watcher.map(|watcher| scope.spawn(|| watcher.collect(epoch, &done)));
        let work = &work;
        let publishing: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(n, client)| scope.spawn(move || work(client, epoch, n)))
            .collect();
        let acks: anyhow::Result<Vec<Vec<u32>>> = publishing.into_iter().map(joined).collect();
        let elapsed = epoch.elapsed();
        done.store(true, Ordering::Release);
        (acks, elapsed, watching.map(joined).transpose())
    });
    let mut acks = acks?.concat();
    let mut deliveries = deliveries?.unwrap_or_default();
    acks.sort_unstable();
    deliveries.sort_unstable();
    Ok(Run {
        published: acks.len(),
        delivered: deliveries.len(),
        elapsed,
        cpu_seconds: broker.cpu_seconds()? - cpu,
        written: (broker.written_bytes()? - written) as f64 / (acks.len() * PAYLOAD_BYTES) as f64,
        acks,
        deliveries,
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread of the load generator panicked"))?
}
