//! What makes the store smaller: removing what is settled, dropping what is in the way, merging small blocks.

use std::time::Duration;

use super::DropReason;
use super::block::{Base, Block, Packer, Records};
use super::commit::{drop_ranges, put_pieces, put_state};
use super::ledger::{Ledger, MAX_REMOVED, State};
use super::store::{Batch, Span, Store, StoreError};
use crate::message::{ClockQuality, Seq, Stamp};

/// Keys that are removed in one atomic change.
const BATCH_REMOVALS: usize = 64;
/// Blocks with less data than this are worth merging.
const SMALL_BLOCK: usize = 2 * 1024;
/// So many small neighbours are worth a write.
const MERGE_AT_LEAST: usize = 8;
/// Fewer keys than this are nobody's trouble.
pub(super) const SEAL_KEYS: u64 = 64;

/// Removes some of `removable`, which every sink has passed. The cursors that say so are on disk: a crash cannot bring
/// back a sink that still wants it.
pub(super) fn remove_settled(
    store: &Store,
    ledger: &Ledger,
    removable: &mut Vec<(Seq, Seq)>,
) -> Result<(), StoreError> {
    let mut next = ledger.book().state.clone();
    let mut batch = Batch::default();
    let mut left = BATCH_REMOVALS;
    while left > 0 {
        let Some((from, to)) = removable.pop() else { break };
        let spans = store.spans(from, to, left)?;
        for span in spans.iter().filter(|span| span.end <= to) {
            if next.removed.ranges_with(span.first, span.end) <= MAX_REMOVED {
                remove(&mut batch, &mut next, span);
            }
        }
        if spans.len() == left {
            removable.extend(spans.last().filter(|last| last.end < to).map(|last| (last.end, to)));
        }
        left -= spans.len();
    }
    if batch.is_empty() {
        return Ok(());
    }
    put_state(&mut batch, &mut next);
    store.apply(batch)?;
    ledger.book().set_state(next);
    Ok(())
}

/// Drops the oldest blocks until `enough` says so, and settles them for every sink that still wanted them, in one
/// atomic change with the removal.
pub(super) fn drop_oldest(
    store: &Store,
    ledger: &Ledger,
    reason: DropReason,
    enough: impl Fn(&State) -> bool,
) -> Result<(), StoreError> {
    loop {
        let mut next = ledger.book().state.clone();
        let mut batch = Batch::default();
        let mut dropped = Vec::new();
        for span in store.spans(next.oldest(), next.end, BATCH_REMOVALS)? {
            if enough(&next) {
                break;
            }
            remove(&mut batch, &mut next, &span);
            dropped.push((span.first, span.end));
        }
        if dropped.is_empty() {
            return Ok(());
        }
        drop_ranges(store, ledger, batch, next, &dropped, reason)?;
    }
}

fn remove(batch: &mut Batch, next: &mut State, span: &Span) {
    span.keys.iter().for_each(|key| batch.remove(key));
    next.keys = next.keys.saturating_sub(span.keys.len() as u64);
    next.live_bytes = next.live_bytes.saturating_sub(span.bytes);
    next.removed.insert(span.first, span.end);
}

/// Drops the oldest block if all of it is older than `max_age`; says whether it was.
pub(super) fn drop_too_old(
    store: &Store,
    ledger: &Ledger,
    now: &Stamp,
    max_age: Duration,
) -> Result<bool, StoreError> {
    let (oldest, end) = {
        let book = ledger.book();
        (book.state.oldest(), book.state.end)
    };
    let Some(block) = store.fetch(oldest, end.min(oldest + 1))?.blocks.pop() else { return Ok(false) };
    let limit = block.end();
    let too_old = block
        .newest()
        .and_then(|newest| age_ms(&newest, now))
        .is_some_and(|age| u128::from(age) > max_age.as_millis());
    if too_old {
        drop_oldest(store, ledger, DropReason::TooOld, |state| state.oldest() >= limit)?;
    }
    Ok(too_old)
}

/// How long before `now` a stamp was taken, where the clocks can tell: within one boot, or between two moments at
/// which the wall clock could be trusted.
fn age_ms(stamp: &Stamp, now: &Stamp) -> Option<u64> {
    if stamp.boot == now.boot {
        return Some(now.boot_ms.saturating_sub(stamp.boot_ms));
    }
    let trusted = [stamp, now].iter().all(|stamp| stamp.quality == ClockQuality::Synchronized);
    trusted.then(|| u64::try_from(now.wall_ms.saturating_sub(stamp.wall_ms)).unwrap_or(0))
}

/// Merges small neighbours from `from` on, in one atomic change; says where to go on, and whether there is more now.
pub(super) fn seal(
    store: &Store,
    ledger: &Ledger,
    packer: &mut Packer,
    from: Seq,
) -> Result<(Seq, bool), StoreError> {
    let mut next = ledger.book().state.clone();
    let from = from.max(next.oldest());
    let blocks = store.fetch(from, next.end)?.blocks;
    let Some(last) = blocks.last() else { return Ok((next.end, false)) };
    let go_on = (last.end(), last.end() < next.end);
    let (mut batch, mut pieces) = (Batch::default(), Vec::new());
    for run in blocks.chunk_by(mergeable).filter(|run| run.len() >= MERGE_AT_LEAST) {
        let base = run[0].header.base;
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        if run.iter().any(|block| block.append_to(&base, &mut bytes, &mut ends).is_none()) {
            // A reader will meet it and put it on record.
            continue;
        }
        for span in store.spans(run[0].first, run[run.len() - 1].end(), run.len())? {
            span.keys.iter().for_each(|key| batch.remove(key));
            next.keys = next.keys.saturating_sub(span.keys.len() as u64);
            next.live_bytes = next.live_bytes.saturating_sub(span.bytes);
        }
        let records = Records { first: run[0].first, base, offset: 0, bytes: &bytes, ends: &ends };
        packer.pack(run[0].header.epoch, &records, &mut pieces);
    }
    if !batch.is_empty() {
        put_pieces(&mut batch, &mut next, &pieces);
        store.apply(batch)?;
        ledger.book().set_state(next);
    }
    Ok(go_on)
}

fn mergeable(one: &Block, two: &Block) -> bool {
    let boot = |base: &Base| base.boot;
    one.end() == two.first
        && one.header.epoch == two.header.epoch
        && boot(&one.header.base) == boot(&two.header.base)
        && one.data.len() < SMALL_BLOCK
        && two.data.len() < SMALL_BLOCK
}
