//! A gateway under siege, with somebody who behaves and must not notice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use time::Duration as Days;

use crate::client::Client;
use crate::harness::authority::Authority;
use crate::harness::{Gateway, Home, eventually};
use crate::packet::{Hello, Version, ack, publish, subscribe};

/// What the daemon may take of memory at its peak, whatever is done to it: some 25 MB that it has anyway, the
/// cache of the store, and what the settings below allow to be kept for clients, in a build that is not optimised.
const MAX_RSS_KIB: u64 = 200 * 1024;

/// Small bounds: they are to be reached.
const BOUNDS: &str = "[sessions]\nmax_kept = 500\nmax_kept_per_device = 100\nmax_queued_in_all = \"32 MiB\"\n\
                      [retained]\nmax_messages = 1000\nmax_size = \"4 MiB\"\n\
                      [[acl]]\ndevice = \"other\"\npublish = [\"#\"]\nsubscribe = [\"#\"]\n";

/// The gateway, and who is served all the time.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    authority: Authority,
    good: Option<Good>,
}

impl Scene {
    /// With the gateway's own bounds for connections.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// With these settings besides.
    pub(crate) fn start_with(settings: &str) -> Self {
        let home = Home::new("");
        let authority = Authority::create(&home.path("authority"), "besieged CA");
        home.configure(&format!("{}{settings}{BOUNDS}", authority.settings()));
        let gateway = home.start();
        let tls = authority.device("good", Days::days(1)).tls();
        let good = Some(Good::start(gateway.address, &tls));
        Self { gateway, authority, good }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.address
    }

    /// What a device with this name needs to connect.
    pub(crate) fn device(&self, name: &str) -> Arc<ClientConfig> {
        self.authority.device(name, Days::days(1)).tls()
    }

    /// A device that may publish and hear everything.
    pub(crate) fn other(&self) -> Arc<ClientConfig> {
        self.device("other")
    }

    pub(crate) fn connect(&self, tls: &Arc<ClientConfig>, hello: &Hello) -> Client {
        Client::connect(self.address(), tls, hello)
    }

    /// The one who behaves is served now, and somebody new is let in.
    pub(crate) fn others_are_served(&self) {
        let good = self.good.as_ref().expect("it is there until the end");
        let before = good.rounds();
        eventually("the well-behaved client is served", || {
            assert!(
                !good.thread.is_finished(),
                "it has failed: {:#}",
                self.gateway.home.status().unwrap_or_default()
            );
            (good.rounds() >= before + 3).then_some(())
        });
        let tls = self.device("newcomer");
        let mut newcomer = self.connect(&tls, &Hello::new(Version::V5, "newcomer"));
        newcomer.send(&publish(Version::V5, "newcomer/readings", b"{}", 1, 1));
        assert_eq!(newcomer.expect(4).id(), 1);
    }

    /// How often something was refused for this reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let status = self.gateway.home.status().expect("the gateway answers");
        status["broker"]["refusals"][reason].as_u64().unwrap_or_default()
    }

    /// A figure of the broker.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let status = self.gateway.home.status().expect("the gateway answers");
        status["broker"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {status:#}"))
    }

    /// What the daemon has taken of memory at its peak.
    pub(crate) fn peak_rss_kib(&self) -> u64 {
        let file = format!("/proc/{}/status", self.gateway.pid());
        let status = std::fs::read_to_string(file).expect("the daemon runs");
        let (_, rest) = status.split_once("VmHWM:").expect("the kernel tells the peak");
        rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number of KiB")
    }

    /// Nothing was hurt: everybody is served, memory was bounded at every moment, no task has ended.
    pub(crate) fn end(mut self) {
        self.others_are_served();
        self.good.take().expect("it is there until now").end();
        let peak = self.peak_rss_kib();
        println!("peak of resident memory: {} MiB", peak / 1024);
        assert!(peak < MAX_RSS_KIB, "the daemon has taken {peak} KiB");
        let (status, home) = self.gateway.terminate();
        let log = home.log();
        assert!(status.success(), "{status}:\n{log}");
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    }
}

/// Publishes readings at QoS 1, one after the other, and gets each back at QoS 1.
struct Good {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Good {
    fn start(gateway: SocketAddr, tls: &Arc<ClientConfig>) -> Self {
        let mut client = Client::connect(gateway, tls, &Hello::new(Version::V3, "good"));
        client.send(&subscribe(Version::V3, 1, &[("good/#", 1)]));
        assert_eq!(client.expect(9).body, [0, 1, 1]);
        let (rounds, stop): (Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            for id in (1..=u16::MAX).cycle() {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                longest = longest.max(round(&mut client, id));
                counted.fetch_add(1, Ordering::Release);
                std::thread::sleep(Duration::from_millis(5));
            }
            longest
        });
        Self { rounds, stop, thread }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    fn end(self) {
        self.stop.store(true, Ordering::Release);
        let longest = self.thread.join().expect("the well-behaved client was served");
        println!(
            "{} rounds of the well-behaved client, the longest {longest:?}",
            self.rounds.load(Ordering::Acquire)
        );
    }
}

/// One reading there and back: how long it took.
fn round(client: &mut Client, id: u16) -> Duration {
    let start = Instant::now();
    let payload = format!("{{\"n\":{id}}}");
    client.send(&publish(Version::V3, "good/readings", payload.as_bytes(), 1, id));
    let (mut acked, mut delivered) = (false, false);
    while !(acked && delivered) {
        let packet = client.try_receive().unwrap_or_else(|error| {
            panic!("publish {id}: acked {acked}, delivered {delivered}, and nothing more comes: {error}")
        });
        match packet.kind() {
            4 => {
                assert_eq!((packet.id(), acked), (id, false), "one ack for each publish");
                acked = true;
            }
            3 => {
                let (topic, delivery, came) = packet.publish();
                assert_eq!((topic.as_str(), came), ("good/readings", payload.as_bytes()));
                client.send(&ack(0x40, delivery));
                delivered = true;
            }
            _ => panic!("{packet:?} instead of an ack or a message"),
        }
    }
    start.elapsed()
}
