//! How fast somebody may come back.
//!
//! An address has a rate for connections, beyond which they are closed at once, and one for TLS handshakes,
//! beyond which they wait. Besides, whoever leaves as soon as it has come gets restless points:
//!
//! | a connection that ends within 5 s | points |
//! |---|---|
//! | never got past the door | 10 for its address |
//! | did, with a certificate | 10 for its device |
//! | did, without one, and was refused something | 10 for its address |
//! | did, without one | 1 for its address |
//!
//! Ten points a second are forgotten, and fifty are free. Beyond them whoever comes waits, twice as long for every ten
//! points more, up to [`config::Limits::max_reconnect_delay`]: an address before its handshake, a device after
//! it. Who waits holds no turn at the handshake, and who goes away meanwhile gets no points for that: else a fleet whose
//! patience is short would never be let in again. So a device that is refused and tries again at once comes to be served
//! once a second, while a fleet behind one router does not wait, however often all of it comes and goes.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use crate::authorize::refusals::Refusal;
use crate::config;
use crate::message::DeviceId;

/// Addresses, and devices, that are remembered. When all of them are restless or here, further ones share one memory.
const MAX_REMEMBERED: usize = 8_192;
/// Forgetting looks at all of them.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// A connection that ends earlier has ended as soon as it had begun.
const SHORT: Duration = Duration::from_secs(5);
const FREE: f64 = 50.0;
const FORGOTTEN_PER_SECOND: f64 = 10.0;
const DOUBLED_BY: f64 = 10.0;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const REFUSED: f64 = 10.0;
const SERVED: f64 = 1.0;
const LET_IN: f64 = 10.0;

/// Who comes how fast. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pace {
    max_delay: Duration,
    addresses: Arc<Memory<IpAddr, Origin>>,
    devices: Arc<Memory<DeviceId, Temper>>,
}

struct Origin {
    connects: DefaultDirectRateLimiter,
    handshakes: DefaultDirectRateLimiter,
    temper: Temper,
}

/// A connection, from its accept to its end.
pub(super) struct Visit {
    pace: Pace,
    origin: Arc<Origin>,
    begun: Instant,
    has_waited: bool,
}

impl Pace {
    pub(super) fn new(limits: &config::Limits) -> Self {
        let quota = |each_second, burst| {
            let at_least_1 = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(at_least_1(each_second)).allow_burst(at_least_1(burst))
        };
        let connects = quota(limits.connects_per_second, limits.connect_burst);
        let handshakes = quota(limits.handshakes_per_second, limits.handshake_burst);
        let origin = move || Origin {
            connects: RateLimiter::direct(connects),
            handshakes: RateLimiter::direct(handshakes),
            temper: Temper::default(),
        };
        Self {
            max_delay: limits.max_reconnect_delay,
            addresses: Arc::new(Memory::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), origin)),
            devices: Arc::new(Memory::new(
                DeviceId::parse("-").expect("it keeps the rules"),
                Temper::default,
            )),
        }
    }

    /// Somebody has come from this address; `None` if it comes too fast.
    pub(super) fn enter(&self, origin: IpAddr) -> Option<Visit> {
        let origin = self.addresses.of(&origin, |origin| origin.temper.is_calm());
        origin.connects.check().ok()?;
        Some(Visit { pace: self.clone(), origin, begun: Instant::now(), has_waited: false })
    }
}

impl Visit {
    /// Waits as long as the address has to before it is looked at.
    pub(super) async fn approach(&mut self) {
        let delay = self.origin.temper.delay(self.pace.max_delay);
        self.has_waited = !delay.is_zero();
        pause(delay).await;
        self.begun = Instant::now();
    }

    /// Waits until its address may make a handshake.
    pub(super) async fn handshake(&self) {
        while let Err(early) = self.origin.handshakes.check() {
            pause(early.wait_time_from(DefaultClock::default().now())).await;
        }
    }

    /// Waits as long as a device has to before it is served.
    pub(super) async fn greet(&mut self, device: Option<&DeviceId>) {
        let Some(device) = device else { return };
        let temper = self.pace.devices.look(device);
        pause(temper.map_or(Duration::ZERO, |temper| temper.delay(self.pace.max_delay))).await;
        self.begun = Instant::now();
    }

    /// It never got past the door.
    pub(super) fn refused(&self, reason: Refusal) {
        let is_our_doing = match reason {
            Refusal::TooManyHandshakes | Refusal::TlsUnavailable => true,
            Refusal::HandshakeAborted => self.has_waited,
            _ => false,
        };
        if !is_our_doing {
            self.origin.temper.provoke(REFUSED);
        }
    }

    /// It got past the door, and has ended. `refused`: something was refused to it.
    pub(super) fn ended(&self, device: Option<&DeviceId>, refused: bool) {
        if self.begun.elapsed() >= SHORT {
            return;
        }
        match device {
            // Its neighbours behind the same router do not suffer from it.
            Some(device) => self.pace.devices.of(device, Temper::is_calm).provoke(LET_IN),
            None if refused => self.origin.temper.provoke(REFUSED),
            None => self.origin.temper.provoke(SERVED),
        }
    }
}

/// A timer is a task's memory: none is made for nothing.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        Box::pin(tokio::time::sleep(delay)).await;
    }
}

/// What is remembered of each key, of a bounded number of them.
struct Memory<K, V> {
    of_the_rest: K,
    make: Box<dyn Fn() -> V + Send + Sync>,
    known: Mutex<Known<K, V>>,
}

struct Known<K, V> {
    values: HashMap<K, Arc<V>>,
    swept: Option<Instant>,
}

impl<K: Hash + Eq + Clone, V> Memory<K, V> {
    fn new(of_the_rest: K, make: impl Fn() -> V + Send + Sync + 'static) -> Self {
        let known = Mutex::new(Known { values: HashMap::new(), swept: None });
        Self { of_the_rest, make: Box::new(make), known }
    }

    /// The memory of a key. If there are too many, those are forgotten that nobody holds and that are `calm`.
    fn of(&self, key: &K, calm: impl Fn(&V) -> bool) -> Arc<V> {
        let mut known = self.known.lock().expect("no panic under this lock");
        if let Some(value) = known.values.get(key) {
            return value.clone();
        }
        if known.values.len() >= MAX_REMEMBERED && known.swept.is_none_or(|at| at.elapsed() >= SWEEP_PERIOD) {
            known.swept = Some(Instant::now());
            known.values.retain(|_, value| Arc::strong_count(value) > 1 || !calm(value));
            known.values.shrink_to_fit();
        }
        let key = if known.values.len() < MAX_REMEMBERED { key } else { &self.of_the_rest };
        known.values.entry(key.clone()).or_insert_with(|| Arc::new((self.make)())).clone()
    }

    fn look(&self, key: &K) -> Option<Arc<V>> {
        let known = self.known.lock().expect("no panic under this lock");
        known.values.get(key).or_else(|| known.values.get(&self.of_the_rest)).cloned()
    }
}

/// How restless somebody is.
struct Temper(Mutex<(f64, Instant)>);

impl Default for Temper {
    fn default() -> Self {
        Self(Mutex::new((0.0, Instant::now())))
    }
}

impl Temper {
    fn provoke(&self, points: f64) {
        let mut state = self.0.lock().expect("no panic under this lock");
        let now = Instant::now();
        // No more than it takes for the longest delay: who was restless for long is forgiven as soon as others.
        *state = ((left(*state, now) + points).min(2.0 * FREE + 10.0 * DOUBLED_BY), now);
    }

    fn delay(&self, longest: Duration) -> Duration {
        let points = left(*self.0.lock().expect("no panic under this lock"), Instant::now());
        if points <= FREE {
            return Duration::ZERO;
        }
        FIRST_DELAY.mul_f64(((points - FREE) / DOUBLED_BY).exp2()).min(longest)
    }

    fn is_calm(&self) -> bool {
        left(*self.0.lock().expect("no panic under this lock"), Instant::now()) <= 0.0
    }
}

fn left((points, since): (f64, Instant), now: Instant) -> f64 {
    (points - now.duration_since(since).as_secs_f64() * FORGOTTEN_PER_SECOND).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn device(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    /// Comes, is refused, comes again at once; so often within 60 seconds.
    async fn refusals_in_a_minute(pace: &Pace, refused: impl Fn(&Visit)) -> u32 {
        let begin = Instant::now();
        let mut times = 0;
        while begin.elapsed() < Duration::from_secs(60) {
            let mut visit = pace.enter(HOME).expect("it is slowed before that");
            visit.approach().await;
            visit.greet(Some(&device("pump"))).await;
            // A handshake on a fast network.
            tokio::time::sleep(Duration::from_millis(20)).await;
            refused(&visit);
            times += 1;
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_and_comes_back_at_once_is_served_once_a_second_and_others_at_once() {
        let pace = Pace::new(&config::Limits::default());
        let times = refusals_in_a_minute(&pace, |visit| visit.refused(Refusal::NotTls)).await;
        assert!((30..=75).contains(&times), "{times} times");
        let begin = Instant::now();
        pace.enter(ELSEWHERE).unwrap().approach().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let begin = Instant::now();
        pace.enter(HOME).unwrap().approach().await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "it was calm, and is forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_in_a_tight_loop_is_slowed_and_its_neighbours_at_the_same_address_are_not() {
        let pace = Pace::new(&config::Limits::default());
        let pump = device("pump");
        for refused in [false, true] {
            let times = refusals_in_a_minute(&pace, |visit| visit.ended(Some(&pump), refused)).await;
            assert!((30..=75).contains(&times), "{times} times");
        }
        let begin = Instant::now();
        let mut neighbour = pace.enter(HOME).unwrap();
        neighbour.approach().await;
        neighbour.greet(Some(&device("fan"))).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_that_comes_and_goes_again_and_again_does_not_wait() {
        let pace = Pace::new(&config::Limits::default());
        for _ in 0..10 {
            for number in 0..100 {
                let device = device(&format!("d{number}"));
                let begin = Instant::now();
                let mut visit = pace.enter(HOME).unwrap();
                visit.approach().await;
                visit.greet(Some(&device)).await;
                assert_eq!(begin.elapsed(), Duration::ZERO);
                visit.ended(Some(&device), false);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_whose_patience_is_shorter_than_the_delay_do_not_lengthen_it() {
        let pace = Pace::new(&config::Limits::default());
        for _ in 0..30 {
            pace.enter(HOME).unwrap().refused(Refusal::HandshakeAborted);
        }
        for _ in 0..30 {
            let mut visit = pace.enter(HOME).unwrap();
            visit.approach().await;
            visit.refused(Refusal::HandshakeAborted);
        }
        let begin = Instant::now();
        pace.enter(HOME).unwrap().approach().await;
        assert!(begin.elapsed() < 2 * FIRST_DELAY, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_last_make_nobody_restless() {
        let pace = Pace::new(&config::Limits::default());
        let visits: Vec<_> = (0..1_000).map(|_| pace.enter(HOME).unwrap()).collect();
        tokio::time::sleep(SHORT).await;
        visits.iter().for_each(|visit| visit.ended(None, true));
        let begin = Instant::now();
        pace.enter(HOME).unwrap().approach().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[test]
    fn an_address_has_a_burst_of_connections_and_then_no_more() {
        let limits =
            config::Limits { connects_per_second: 1, connect_burst: 10, ..config::Limits::default() };
        let pace = Pace::new(&limits);
        let let_in = (0..100).filter(|_| pace.enter(HOME).is_some()).count();
        assert!((10..20).contains(&let_in), "{let_in}");
        assert!(pace.enter(ELSEWHERE).is_some());
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_who_is_restless() {
        let memory = Memory::new(u32::MAX, Temper::default);
        memory.of(&0, Temper::is_calm).provoke(REFUSED);
        for key in 1..3 * MAX_REMEMBERED as u32 {
            memory.of(&key, Temper::is_calm);
        }
        assert!(memory.known.lock().unwrap().values.len() <= MAX_REMEMBERED + 1);
        assert!(memory.known.lock().unwrap().values.contains_key(&0));
    }
}
