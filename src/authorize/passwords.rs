//! Passwords: argon2id, which is slow on purpose, on a machine that has four slow cores.
//!
//! - Hashes are computed off the async threads, one or two at once (19 MiB each); a few more may wait, and beyond
//!   them a client is told to come again.
//! - What was verified once is remembered as a keyed hash (with a key that this process has made and nobody else has),
//!   so that a thousand devices that reconnect cost nothing but the first time. A new password makes it void.
//! - What was wrong once is remembered too: a device with an old password, in a loop, costs nothing.
//! - Other wrong passwords of one address are counted, and beyond [`MAX_WRONG`] it has to wait: guessing costs the guesser.
//! - A user who does not exist takes as long as a wrong password.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use argon2::password_hash::{PasswordHash as Phc, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use super::registry::PasswordHash;
use crate::message::DeviceId;

/// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A hash that was made elsewhere may want more, up to this.
const MAX_MEMORY_KIB: u32 = 128 * 1024;
const MAX_PASSES: u32 = 10;

const SALT_BYTES: usize = 16;

/// A longer password is refused unseen.
const MAX_PASSWORD_BYTES: usize = 1_024;

/// Hashes that are computed at once.
const MAX_AT_ONCE: usize = 2;

/// Clients that wait for their hash. A Raspberry Pi 3 computes some four a second.
const MAX_WAITING: usize = 32;

/// Of two users who do not share a turn, neither waits for the other unless there is no slot.
const TURNS: usize = 64;

/// Wrong passwords that are remembered.
const MAX_REMEMBERED: usize = 4_096;

/// Verified users that are remembered.
const MAX_VERIFIED: usize = 65_536;

/// Different wrong passwords of one address that are looked at, and how long until one of them is forgiven.
const MAX_WRONG: u32 = 20;
const FORGIVE: Duration = Duration::from_secs(15);

/// Addresses of which wrong passwords are counted; beyond them the others share one count.
const MAX_ADDRESSES: usize = 4_096;

/// What a password is remembered as.
type Fingerprint = [u8; 32];

/// Checks passwords, and remembers what came of it.
#[derive(Debug)]
pub(super) struct Passwords {
    secret: hmac::Key,
    slots: Arc<Semaphore>,
    /// The same password of the same user has the same turn, so that it is computed once.
    turns: [tokio::sync::Mutex<()>; TURNS],
    waiting: AtomicUsize,
    memory: Mutex<Memory>,
    computed: AtomicU64,
}

#[derive(Debug, Default)]
struct Memory {
    verified: HashMap<DeviceId, Fingerprint>,
    wrong: HashSet<Fingerprint>,
    /// The same, the oldest first.
    wrong_by_age: VecDeque<Fingerprint>,
    guesses: HashMap<IpAddr, Guesses>,
}

/// Wrong passwords of an address.
#[derive(Debug, Clone, Copy)]
struct Guesses {
    count: u32,
    since: Instant,
}

/// Why a password is not good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotVerified {
    /// It is another one, or there is no such user.
    Wrong,
    /// Too many wait already.
    Busy,
    /// Its address has shown too many wrong ones.
    TooManyWrong,
}

impl PasswordHash {
    /// Hashes a new password. It takes a while, on purpose.
    ///
    /// # Errors
    /// When it is empty or too long, or when the system has no random numbers.
    pub fn of(password: &[u8]) -> Result<Self, String> {
        if password.is_empty() || password.len() > MAX_PASSWORD_BYTES {
            return Err(format!("a password has between 1 and {MAX_PASSWORD_BYTES} bytes"));
        }
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| "the system gives no random numbers".to_owned())?;
        let salt = SaltString::encode_b64(&salt).map_err(|error| error.to_string())?;
        let hash = argon2id().hash_password(password, &salt).map_err(|error| error.to_string())?;
        Ok(Self(hash.to_string()))
    }
}

fn argon2id() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("they are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Computes what a verification computes. Without a hash it is as slow, and `false`.
fn verify(password: &[u8], hash: Option<&PasswordHash>) -> bool {
    let is_cheap = |params: Params| {
        params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES && params.p_cost() <= 16
    };
    let parsed = hash.and_then(|hash| Phc::new(&hash.0).ok());
    let parsed = parsed.filter(|parsed| Params::try_from(parsed).is_ok_and(is_cheap));
    match parsed {
        Some(parsed) => argon2id().verify_password(password, &parsed).is_ok(),
        None => {
            let mut out = [0; 32];
            argon2id().hash_password_into(password, &[0; SALT_BYTES], &mut out).is_err()
        }
    }
}

impl Passwords {
    pub(super) fn new() -> Self {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            secret: secret.expect("the system gives random numbers: TLS needs them too"),
            slots: Arc::new(Semaphore::new((cores / 2).clamp(1, MAX_AT_ONCE))),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            waiting: AtomicUsize::new(0),
            memory: Mutex::default(),
            computed: AtomicU64::new(0),
        }
    }

    /// Whether this is the password of a user. `known`: the device of that name and its hash, if there are such.
    pub(super) async fn check(
        &self,
        user: &str,
        known: Option<(&DeviceId, &PasswordHash)>,
        password: &[u8],
        address: IpAddr,
    ) -> Result<(), NotVerified> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(NotVerified::Wrong);
        }
        let fingerprint = self.fingerprint(user, known.map(|(_, hash)| hash), password);
        let device = known.map(|(device, _)| device);
        let origin = origin(address);
        if let Some(remembered) = self.memory().recall(device, &fingerprint) {
            return remembered;
        }
        if self.memory().is_over(origin) {
            return Err(NotVerified::TooManyWrong);
        }
        let _place = Place::take(&self.waiting).ok_or(NotVerified::Busy)?;
        let _turn = self.turns[usize::from(fingerprint[0]) % TURNS].lock().await;
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("it is never closed");
        // While this one waited, another connection may have shown the same.
        if let Some(remembered) = self.memory().recall(device, &fingerprint) {
            return remembered;
        }
        if self.memory().is_over(origin) {
            return Err(NotVerified::TooManyWrong);
        }
        self.computed.fetch_add(1, Ordering::Relaxed);
        let (password, hash) = (password.to_vec(), known.map(|(_, hash)| hash.clone()));
        let computed = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, also if nobody waits for it any more.
            let _slot = slot;
            verify(&password, hash.as_ref())
        });
        // A panic in there would be argon2's.
        let good = computed.await.unwrap_or(false);
        let mut memory = self.memory();
        match device.filter(|_| good) {
            Some(device) => {
                memory.keep_verified(device, fingerprint);
                Ok(())
            }
            None => {
                memory.keep_wrong(origin, fingerprint);
                Err(NotVerified::Wrong)
            }
        }
    }

    /// Hashes that were computed since the start.
    #[cfg(test)]
    pub(super) fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    /// The present hash is part of it, so that a new password makes void what was remembered of the one before.
    fn fingerprint(&self, user: &str, hash: Option<&PasswordHash>, password: &[u8]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.secret);
        for part in [user.as_bytes(), hash.map_or("", |hash| &hash.0).as_bytes(), password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no panic under this lock")
    }
}

impl Memory {
    fn recall(&self, device: Option<&DeviceId>, shown: &Fingerprint) -> Option<Result<(), NotVerified>> {
        let verified = device.and_then(|device| self.verified.get(device));
        if verified.is_some_and(|verified| verified.ct_eq(shown).into()) {
            return Some(Ok(()));
        }
        self.wrong.contains(shown).then_some(Err(NotVerified::Wrong))
    }

    fn keep_verified(&mut self, device: &DeviceId, fingerprint: Fingerprint) {
        if self.verified.len() >= MAX_VERIFIED {
            self.verified.clear();
        }
        self.verified.insert(device.clone(), fingerprint);
    }

    fn keep_wrong(&mut self, origin: IpAddr, fingerprint: Fingerprint) {
        if self.wrong.insert(fingerprint) {
            self.wrong_by_age.push_back(fingerprint);
        }
        if self.wrong_by_age.len() > MAX_REMEMBERED
            && let Some(oldest) = self.wrong_by_age.pop_front()
        {
            self.wrong.remove(&oldest);
        }
        let now = Instant::now();
        if self.guesses.len() >= MAX_ADDRESSES {
            self.guesses.retain(|_, guesses| guesses.at(now).count > 0);
        }
        let key = self.key(origin);
        let before =
            self.guesses.get(&key).map_or(Guesses { count: 0, since: now }, |guesses| guesses.at(now));
        self.guesses.insert(key, Guesses { count: before.count + 1, ..before });
    }

    fn is_over(&self, origin: IpAddr) -> bool {
        self.guesses
            .get(&self.key(origin))
            .is_some_and(|guesses| guesses.at(Instant::now()).count >= MAX_WRONG)
    }

    fn key(&self, origin: IpAddr) -> IpAddr {
        let others = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let has_room = self.guesses.contains_key(&origin) || self.guesses.len() < MAX_ADDRESSES;
        if has_room { origin } else { others }
    }
}

impl Guesses {
    /// Those that are not forgiven yet.
    fn at(self, now: Instant) -> Self {
        let forgiven = now.saturating_duration_since(self.since).as_secs() / FORGIVE.as_secs();
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        match self.count.saturating_sub(forgiven) {
            0 => Self { count: 0, since: now },
            count => Self { count, since: self.since + FORGIVE * forgiven },
        }
    }
}

/// A place among those who wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        // Taken before it is looked at, and given back by the drop if it was one too many.
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who counts as one address: a host has as many of an IPv6 /64 as it likes.
pub(crate) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> u64::BITS << u64::BITS)),
        v4 @ IpAddr::V4(_) => v4,
    }
}
