//! What one commit writes: blocks, dead letters, cursors and the state record, in atomic batches, then one sync.

use super::block::{MAX_STATE, Names, Packer, Piece};
use super::cursor::Fate;
use super::disk::Disk;
use super::frame::{Kind, key, parse_value, wrap};
use super::group::Group;
use super::ledger::{Book, Ledger, State};
use super::letter::{self, Letter};
use super::record;
use super::store::{Batch, Store, StoreError};
use super::{DeadLetter, DropReason};
use crate::message::Seq;

/// Writes a group, dead letters and cursors that have moved, and syncs. Says which numbers every sink has passed,
/// as the cursors on disk now say.
pub(super) fn write(
    store: &Store,
    disk: &Disk,
    ledger: &Ledger,
    packer: &mut Packer,
    group: Option<&mut Group>,
    max_letters: u64,
) -> Result<Vec<(Seq, Seq)>, StoreError> {
    let mut batch = Batch::default();
    let mut next = ledger.book().state.clone();
    let (pieces, applied) = match group {
        Some(group) => put_group(store, packer, &mut batch, &mut next, group)?,
        None => (Vec::new(), false),
    };
    let (passed, letters) = put_progress(&mut batch, &mut next, &mut ledger.book());
    let written = (|| {
        put_letters(store, &mut batch, &mut next, &letters)?;
        evict_letters(store, &mut batch, &mut next, max_letters)?;
        if batch.is_empty() && pieces.is_empty() && !applied {
            // A record that came and went within the group: all that was before is on disk.
            return Ok(false);
        }
        put_pieces(&mut batch, &mut next, &pieces);
        store.apply(batch)?;
        store.sync(disk).map(|()| true)
    })();
    let mut book = ledger.book();
    match written {
        Ok(true) => {
            book.commits += 1;
            book.synced = next.generation;
            book.set_state(next);
        }
        Ok(false) => {}
        Err(error) => {
            book.letters.splice(0..0, letters);
            return Err(error);
        }
    }
    Ok(passed)
}

/// Writes what an opening has changed, and syncs.
pub(super) fn begin(store: &Store, disk: &Disk, book: &mut Book) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    let mut next = book.state.clone();
    put_progress(&mut batch, &mut next, book);
    put_state(&mut batch, &mut next);
    store.apply(batch)?;
    store.sync(disk)?;
    book.synced = next.generation;
    book.set_state(next);
    Ok(())
}

/// A batch for each section, and each is complete in itself. Gives back the last one's pieces, and whether there
/// was one before it.
fn put_group(
    store: &Store,
    packer: &mut Packer,
    batch: &mut Batch,
    next: &mut State,
    group: &mut Group,
) -> Result<(Vec<Piece>, bool), StoreError> {
    let sections = group.sections_from(next.end);
    let mut pieces = Vec::new();
    // After a recovery part of the group may be there already.
    for index in sections.clone() {
        if index > sections.start {
            put_pieces(batch, next, &pieces);
            store.apply(std::mem::take(batch))?;
            pieces.clear();
        }
        let section = &group.sections[index];
        packer.pack(next.epoch, &group.records(section.from, section.to), &mut pieces);
        next.end = group.first + section.to as u64;
        let unfit = group.unfit(section.from, section.to, next.epoch);
        put_letters(store, batch, next, &unfit)?;
        next.generation += 1;
        for (key, value) in &section.changes {
            let before = record::put(store, batch, next, key, value.as_deref())?;
            group.before.entry(*key).or_insert(before);
        }
    }
    Ok((pieces, sections.len() > 1))
}

/// Puts blocks, and the state record into the last of them.
pub(super) fn put_pieces(batch: &mut Batch, next: &mut State, pieces: &[Piece]) {
    let carrier = pieces.iter().rposition(|piece| piece.kind == Kind::Block);
    let length = next.encode().len();
    let carrier = carrier.filter(|_| length <= MAX_STATE);
    let carried = |index: usize| if Some(index) == carrier { length } else { 0 };
    for (index, piece) in pieces.iter().enumerate() {
        next.keys += 1;
        next.live_bytes += piece.size(carried(index)) as u64;
    }
    if carrier.is_none() {
        put_state(batch, next);
    } else {
        next.generation += 1;
    }
    let state = next.encode();
    for (index, piece) in pieces.iter().enumerate() {
        batch.insert(&piece.key, piece.frame(&state[..carried(index)]));
    }
}

/// Puts the facts about the whole store.
pub(super) fn put_state(batch: &mut Batch, next: &mut State) {
    next.generation += 1;
    batch.insert(key::STATE, wrap(Kind::Meta, key::STATE, &next.encode()));
}

/// Puts cursors, gaps and boots that have changed. Says what every sink will have passed once that is on disk, and
/// which dead letters belong into the same batch.
fn put_progress(batch: &mut Batch, next: &mut State, book: &mut Book) -> (Vec<(Seq, Seq)>, Vec<Letter>) {
    next.generation += 1;
    let mut all = true;
    for (name, sink) in book.sinks.iter_mut().filter(|(_, sink)| sink.dirty) {
        let key = key::cursor(name.as_str());
        match sink.cursor.encode(next.generation) {
            Some(body) => {
                batch.insert(&key, wrap(Kind::Cursor, &key, &body));
                sink.dirty = false;
            }
            None => all = false,
        }
    }
    if book.facts_dirty {
        let gaps = Book::encode_gaps(&book.gaps, next.generation);
        batch.insert(key::GAPS, wrap(Kind::Meta, key::GAPS, &gaps));
        next.lost = book.gaps.total();
        let boots = Book::encode_boots(&book.boots, next.generation);
        batch.insert(key::BOOTS, wrap(Kind::Meta, key::BOOTS, &boots));
        book.facts_dirty = false;
    }
    let passed = if all { book.removable(&next.removed) } else { Vec::new() };
    (passed, std::mem::take(&mut book.letters))
}

/// Takes `dropped` out of the store, and settles it for every sink that still wanted it.
pub(super) fn drop_ranges(
    store: &Store,
    ledger: &Ledger,
    mut batch: Batch,
    mut next: State,
    dropped: &[(Seq, Seq)],
    reason: DropReason,
) -> Result<(), StoreError> {
    let letters = {
        let mut book = ledger.book();
        for sink in book.sinks.values_mut() {
            let settle = |(from, to): &(Seq, Seq)| sink.cursor.settle(*from, *to, Fate::Dropped(reason));
            sink.dirty |= dropped.iter().map(settle).sum::<u64>() > 0;
        }
        put_progress(&mut batch, &mut next, &mut book).1
    };
    let written = (|| {
        put_letters(store, &mut batch, &mut next, &letters)?;
        put_state(&mut batch, &mut next);
        store.apply(batch)
    })();
    let mut book = ledger.book();
    match &written {
        Ok(()) => book.set_state(next),
        Err(_) => drop(book.letters.splice(0..0, letters)),
    }
    written
}

fn put_letters(
    store: &Store,
    batch: &mut Batch,
    next: &mut State,
    letters: &[Letter],
) -> Result<(), StoreError> {
    for letter in letters {
        if !store.contains(&letter.key())? {
            next.letters += 1;
        }
        letter.values()?.into_iter().for_each(|(key, frame)| batch.insert(&key, frame));
    }
    Ok(())
}

fn evict_letters(store: &Store, batch: &mut Batch, next: &mut State, most: u64) -> Result<(), StoreError> {
    if next.letters <= most {
        return Ok(());
    }
    for pair in store.pairs(&[key::LETTER], &[key::LETTER + 1]) {
        let (found, _) = pair?;
        if key::parse_letter(&found).is_some_and(|(_, _, part)| part == 0) {
            if next.letters <= most {
                break;
            }
            next.letters -= 1;
            next.letters_evicted += 1;
        }
        batch.remove(&found);
    }
    Ok(())
}

/// The newest dead letters, the newest first.
pub(super) fn newest_letters(
    store: &Store,
    before: Option<&(Seq, String)>,
    limit: usize,
) -> Result<Vec<DeadLetter>, StoreError> {
    let mut names = Names::default();
    let mut letters = Vec::new();
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let end = before.map_or_else(|| vec![key::LETTER + 1], |(seq, sink)| key::letter(*seq, sink, 0));
    for pair in store.pairs(&[key::LETTER], &end).rev() {
        if letters.len() >= limit {
            break;
        }
        let (found, value) = pair?;
        let Some((seq, sink, part)) = key::parse_letter(&found) else { continue };
        let Some(frame) = parse_value(&found, &value) else { continue };
        parts.push(frame.body.to_vec());
        if part == 0 {
            let body: Vec<u8> = parts.drain(..).rev().flatten().collect();
            letters.extend(letter::decode(seq, sink, &body, &mut names));
        }
    }
    Ok(letters)
}
