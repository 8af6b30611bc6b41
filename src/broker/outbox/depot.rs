//! The room that all mailboxes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::authorize::Identity;
use crate::broker::living::Living;
use crate::config;

/// The part of [`config::Sessions::max_total_bytes`] that may wait for the sessions of one identity: a device that
/// leaves many behind does not take the room of all others.
const SHARE_OF_ONE: u64 = 4;

/// What all mailboxes share: their bounds, and how much waits in them.
#[derive(Debug, Default)]
pub(in crate::broker) struct Depot {
    pub(super) bounds: config::Sessions,
    pub(super) bytes: AtomicU64,
    pub(super) shares: Living<Identity, Share>,
}

/// What the mailboxes of one identity share, of a [`Depot`].
#[derive(Debug, Default)]
pub(in crate::broker) struct Share {
    pub(super) depot: Arc<Depot>,
    bytes: AtomicU64,
}

impl Share {
    /// Whether there is room. What `is_due` is let in at any rate.
    pub(super) fn admit(&self, cost: u64, is_due: bool) -> bool {
        let Depot { bounds, bytes, .. } = &*self.depot;
        let max = bounds.max_total_bytes;
        // One message is always let in, if there is room at all: the bound may be small.
        let own = self.bytes.fetch_add(cost, Ordering::Relaxed);
        let all = bytes.fetch_add(cost, Ordering::Relaxed);
        let fits = is_due || (own == 0 || own + cost <= max / SHARE_OF_ONE) && all + cost <= max;
        if !fits {
            self.bytes.fetch_sub(cost, Ordering::Relaxed);
            bytes.fetch_sub(cost, Ordering::Relaxed);
        }
        fits
    }

    pub(super) fn changed(&self, before: usize, after: usize) {
        for bytes in [&self.bytes, &self.depot.bytes] {
            if after >= before {
                bytes.fetch_add((after - before) as u64, Ordering::Relaxed);
            } else {
                bytes.fetch_sub((before - after) as u64, Ordering::Relaxed);
            }
        }
    }
}

impl Depot {
    pub(in crate::broker) fn new(bounds: config::Sessions) -> Arc<Self> {
        Arc::new(Self { bounds, ..Self::default() })
    }

    /// What the sessions of an identity share.
    pub(in crate::broker) fn share(self: &Arc<Self>, identity: &Identity) -> Arc<Share> {
        let share = || Share { depot: Arc::clone(self), bytes: AtomicU64::new(0) };
        self.shares.of(identity.clone(), share)
    }
}
