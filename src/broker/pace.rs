//! How fast clients may send. Who sends faster is not listened to for a while: its network stack slows it down, and
//! nothing that it has sent is lost.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::living::Living;
use crate::authorize::origin;
use crate::config::{self, Rate};

/// So long somebody may be ahead of its rate.
const BURST: Duration = Duration::from_secs(1);

/// Who sends how fast. Of an address something is remembered as long as a connection of it lives.
#[derive(Debug)]
pub(super) struct Paces {
    connection: Rate,
    address: Rate,
    addresses: Living<IpAddr, Mutex<Account>>,
}

/// The pace of one connection. What others at its address have sent counts from its next read on: so they take turns.
#[derive(Debug)]
pub(super) struct Pace {
    own: Account,
    of_address: Arc<Mutex<Account>>,
    opens: Instant,
}

#[derive(Debug)]
struct Account {
    rate: Rate,
    /// When all that has come would have come at this rate.
    due: Instant,
}

impl Account {
    fn new(rate: Rate) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// When it may send more; in the past if that is now.
    fn opens(&self) -> Instant {
        self.due.checked_sub(BURST).unwrap_or(self.due)
    }

    /// What takes longer counts, the packets or the bytes: so neither rate is exceeded.
    fn charge(&mut self, now: Instant, packets: u32, bytes: usize) {
        let Rate { messages_per_second, bytes_per_second } = self.rate;
        let seconds = |count: f64, rate: u64| count / rate as f64;
        let taken = seconds(packets.into(), messages_per_second).max(seconds(bytes as f64, bytes_per_second));
        self.due = self.due.max(now) + Duration::from_secs_f64(taken);
    }
}

impl Paces {
    pub(super) fn new(limits: &config::Limits) -> Self {
        Self { connection: limits.connection, address: limits.address, addresses: Living::default() }
    }

    /// For a connection from this address.
    pub(super) fn of(&self, address: IpAddr) -> Pace {
        let of_address = self.addresses.of(origin(address), || Mutex::new(Account::new(self.address)));
        let opens = of_address.lock().expect("no panic under this lock").opens();
        Pace { own: Account::new(self.connection), of_address, opens }
    }
}

impl Pace {
    /// Until when nothing may be taken; `None` if something may.
    pub(super) fn closed_until(&self) -> Option<Instant> {
        Some(self.opens).filter(|opens| *opens > Instant::now())
    }

    /// So many packets were taken, of so many bytes together.
    pub(super) fn charge(&mut self, packets: u32, bytes: usize) {
        let now = Instant::now();
        self.own.charge(now, packets, bytes);
        let mut of_address = self.of_address.lock().expect("no panic under this lock");
        of_address.charge(now, packets, bytes);
        self.opens = self.own.opens().max(of_address.opens());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(connection: u64, address: u64) -> Paces {
        let rate = |rate| Rate { messages_per_second: rate, bytes_per_second: 1_000 * rate };
        Paces::new(&config::Limits {
            connection: rate(connection),
            address: rate(address),
            ..config::Limits::default()
        })
    }

    async fn sent_in(pace: &mut Pace, time: Duration, bytes: usize) -> u32 {
        let (end, mut count) = (Instant::now() + time, 0);
        while Instant::now() < end {
            match pace.closed_until() {
                Some(opens) => tokio::time::sleep_until(opens).await,
                None => {
                    pace.charge(1, bytes);
                    count += 1;
                }
            }
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_a_burst_and_then_its_rate_in_packets_and_in_bytes() {
        let paces = paces(100, 1_000_000);
        let home = IpAddr::from([192, 0, 2, 1]);
        for (bytes, expected) in [(10, 1_100), (10_000, 110)] {
            let sent = sent_in(&mut paces.of(home), Duration::from_secs(10), bytes).await;
            assert!(sent.abs_diff(expected) <= 20, "{sent} packets of {bytes} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_one_address_share_a_rate_and_others_have_their_own() {
        let paces = paces(1_000_000, 100);
        let home = IpAddr::from([192, 0, 2, 1]);
        let (mut first, mut second) = (paces.of(home), paces.of(home));
        let time = Duration::from_secs(10);
        let (by_first, by_second) = tokio::join!(sent_in(&mut first, time, 1), sent_in(&mut second, time, 1));
        assert!((by_first + by_second).abs_diff(1_100) <= 20, "{by_first} and {by_second}");
        // One of them had all of the burst.
        assert!(by_first.abs_diff(by_second) <= 120, "{by_first} and {by_second}");
        first.charge(1_000, 1_000);
        assert!(paces.of(home).closed_until().is_some(), "a newcomer has no rate of its own");
        assert!(paces.of(IpAddr::from([192, 0, 2, 2])).closed_until().is_none());
    }

    #[test]
    fn of_connections_that_have_ended_nothing_is_remembered() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let paces = paces(1, 1);
        let kept: Vec<_> = (0..100_u8).map(|n| paces.of(IpAddr::from([10, 0, 0, n]))).collect();
        for n in 0..100_000_u32 {
            drop(paces.of(IpAddr::from((0xC000_0000 + n).to_be_bytes())));
        }
        assert!(paces.addresses.len() < 1_000);
        assert_eq!(kept.len(), 100);
    }
}
