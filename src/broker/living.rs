//! What some share who come and go, and what lives as long as one of them does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, Weak};

/// Values that are in use somewhere, by key. It remembers at most about twice as many as are.
#[derive(Debug)]
pub(super) struct Living<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K, V> Default for Living<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V> Living<K, V> {
    /// The value of a key that somebody uses, or else a new one.
    pub(super) fn of(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut values = self.0.lock().expect("no panic under this lock");
        if let Some(value) = values.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        // Before it grows, it is freed of those that nobody uses any more.
        if values.len() == values.capacity() {
            values.retain(|_, value| value.strong_count() > 0);
        }
        let value = Arc::new(make());
        values.insert(key, Arc::downgrade(&value));
        value
    }

    /// How many it remembers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().expect("no panic under this lock").len()
    }
}
