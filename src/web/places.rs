//! How many connections there may be, of all and of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::authorize::origin;
use crate::authorize::refusals::Refusal;

/// Counts connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    most: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_origin: HashMap<IpAddr, usize>,
}

/// A place, given back when it is dropped.
pub(super) struct Place {
    places: Places,
    origin: IpAddr,
}

impl Places {
    pub(super) fn new(most: usize, each: usize) -> Self {
        Self(Arc::new(Inner { most, each, taken: Mutex::default() }))
    }

    /// A place, or why there is none.
    pub(super) fn take(&self, address: IpAddr) -> Result<Place, (Refusal, String)> {
        let origin = origin(address);
        let Inner { most, each, .. } = *self.0;
        let mut taken = self.taken();
        if taken.all >= most {
            return Err((Refusal::TooManyConnections, format!("{most} connections for HTTP are open")));
        }
        if taken.by_origin.get(&origin).is_some_and(|count| *count >= each) {
            let detail = format!("{each} connections for HTTP from there are open");
            return Err((Refusal::TooManyConnectionsOfAddress, detail));
        }
        taken.all += 1;
        *taken.by_origin.entry(origin).or_default() += 1;
        Ok(Place { places: self.clone(), origin })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().expect("no panic under this lock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(count) = taken.by_origin.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                taken.by_origin.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share_and_all_have_the_whole() {
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let places = Places::new(3, 2);
        let first = places.take(address(1)).ok();
        let _second = places.take(address(1)).ok();
        let refused = places.take(address(1)).err().map(|(reason, _)| reason);
        assert_eq!(refused, Some(Refusal::TooManyConnectionsOfAddress));
        let _third = places.take(address(2)).ok();
        let refused = places.take(address(3)).err().map(|(reason, _)| reason);
        assert_eq!(refused, Some(Refusal::TooManyConnections));
        drop(first);
        assert!(places.take(address(1)).is_ok(), "it was given back");
        assert_eq!(places.taken().by_origin.len(), 2, "who has none costs nothing");
    }
}
