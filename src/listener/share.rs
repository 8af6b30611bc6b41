//! A bound for each key, such as an address: nobody takes what is there for all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many places for each key. Cheap to clone. A key costs memory only while somebody has a place of it, or waits for one.
#[derive(Clone)]
pub(super) struct Shares<K> {
    each: usize,
    held: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
}

/// A place, given back when it is dropped.
pub(super) struct Share<K: Eq + Hash> {
    key: K,
    held: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    pub(super) fn new(each: usize) -> Self {
        Self { each, held: Arc::default() }
    }

    /// The places of a key.
    pub(super) fn each(&self) -> usize {
        self.each
    }

    /// A place, if there is one left.
    pub(super) fn try_take(&self, key: K) -> Option<Share<K>> {
        let mut share = self.none_yet(key);
        share.permit = Some(self.places(&share.key).try_acquire_owned().ok()?);
        Some(share)
    }

    /// Waits for a place; first come, first served.
    pub(super) async fn take(&self, key: K) -> Share<K> {
        // Before the wait, so that the key is forgotten if the wait is given up.
        let mut share = self.none_yet(key);
        let permit = self.places(&share.key).acquire_owned().await;
        share.permit = Some(permit.expect("the semaphore is never closed"));
        share
    }

    /// The keys of which somebody has a place.
    #[cfg(test)]
    pub(super) fn keys(&self) -> Vec<K> {
        self.held.lock().expect("no panic under this lock").keys().cloned().collect()
    }

    fn none_yet(&self, key: K) -> Share<K> {
        Share { key, held: self.held.clone(), permit: None }
    }

    fn places(&self, key: &K) -> Arc<Semaphore> {
        let mut held = self.held.lock().expect("no panic under this lock");
        held.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
    }
}

impl<K: Eq + Hash> Share<K> {
    /// Whether it is the last of its key.
    pub(super) fn is_last(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.semaphore().available_permits() == 0)
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.permit = None;
        let mut held = self.held.lock().expect("no panic under this lock");
        // Who else has a place, or waits for one, holds the semaphore too.
        if held.get(&self.key).is_some_and(|places| Arc::strong_count(places) == 1) {
            held.remove(&self.key);
        }
    }
}
