//! The records that come with the readings, and what must be true of them: from the last one of a writer follows what
//! else must be there.

use std::collections::BTreeMap;

use tampu::buffer::{Buffer, Change, RecordKey, Table};

use super::driver::Key;
use super::random::Rng;

/// So many readings after it was put, a record is removed.
const KEPT: u64 = 3;

/// A writer, by its run and its number.
pub(super) type Who = (u64, u64);

/// How far the writer has come; a record that waits, for a while; and the end of an earlier one.
pub(super) fn beside(key: Key) -> Vec<Change> {
    let mut changes = vec![
        Change::Put(progress(key.who()), progress_value(key)),
        Change::Put(queued(key), queued_value(key)),
    ];
    if let Some(count) = key.count.checked_sub(KEPT) {
        changes.push(Change::Remove(queued(Key { count, ..key })));
    }
    changes
}

/// Changes without a reading: a count, and a record that is there when it is even.
pub(super) fn alone(who: Who, count: u64) -> Vec<Change> {
    let parity = RecordKey::new(Table::Received, &name(who));
    let parity =
        if count.is_multiple_of(2) { Change::Put(parity, Vec::new()) } else { Change::Remove(parity) };
    vec![parity, Change::Put(RecordKey::new(Table::Retained, &name(who)), count.to_be_bytes().to_vec())]
}

fn progress(who: Who) -> RecordKey {
    RecordKey::new(Table::Session, &name(who))
}

fn queued(key: Key) -> RecordKey {
    RecordKey::new(Table::Queued, &[&name(key.who())[..], &key.count.to_be_bytes()].concat())
}

fn name((run, writer): Who) -> [u8; 16] {
    let mut name = [0; 16];
    name[..8].copy_from_slice(&run.to_be_bytes());
    name[8..].copy_from_slice(&writer.to_be_bytes());
    name
}

fn progress_value(key: Key) -> Vec<u8> {
    let mut rng = Rng::new(key.run << 40 ^ key.writer << 32 ^ key.count);
    let noise = rng.in_range(0..100);
    [&key.count.to_be_bytes()[..], &rng.bytes(noise)].concat()
}

/// Now and then it needs several frames.
fn queued_value(key: Key) -> Vec<u8> {
    let mut rng = Rng::new(!key.run << 40 ^ key.writer << 32 ^ key.count);
    let len = if rng.percent(2) { rng.in_range(6_000..14_000) } else { rng.in_range(0..150) };
    rng.bytes(len)
}

/// All records of a store.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The number of the last reading of each writer.
    pub(super) progress: BTreeMap<Who, u64>,
    /// The last change of each writer that came alone.
    pub(super) alone: BTreeMap<Who, u64>,
    queued: BTreeMap<Who, Vec<u64>>,
    even: Vec<Who>,
}

impl Found {
    /// # Errors
    /// A value that nobody put there.
    pub(super) async fn read(buffer: &Buffer) -> Result<Self, String> {
        let mut found = Self::default();
        for (key, value) in records(buffer, Table::Session).await? {
            let (who, count) = (who(&key), number(&value));
            if value != progress_value(Key { run: who.0, writer: who.1, count }) {
                return Err(format!("wrong progress of {who:?}"));
            }
            found.progress.insert(who, count);
        }
        for (key, value) in records(buffer, Table::Queued).await? {
            let (who, count) = (who(&key), number(&key[16..]));
            if value != queued_value(Key { run: who.0, writer: who.1, count }) {
                return Err(format!("wrong content in the record {count} of {who:?}"));
            }
            found.queued.entry(who).or_default().push(count);
        }
        for (key, value) in records(buffer, Table::Retained).await? {
            found.alone.insert(who(&key), number(&value));
        }
        let even = records(buffer, Table::Received).await?;
        found.even = even.iter().map(|(key, _)| who(key)).collect();
        Ok(found)
    }

    /// Whether what is there is what one moment has left: nothing that came together is there in part. What was removed
    /// before may have come back.
    ///
    /// # Errors
    /// The first record that should not be there, or should.
    pub(super) fn is_of_one_moment(&self, may_come_back: bool) -> Result<(), String> {
        for (who, queued) in &self.queued {
            let Some(last) = self.progress.get(who) else {
                return Err(format!("{queued:?} of {who:?} without its progress"));
            };
            let expected: Vec<u64> = ((last + 1).saturating_sub(KEPT)..=*last).collect();
            let all = expected.iter().all(|count| queued.contains(count)) && queued.last() == Some(last);
            if *queued != expected && !(may_come_back && all) {
                return Err(format!("{who:?} has come to {last}, but its records are {queued:?}"));
            }
        }
        if let Some(who) = self.progress.keys().find(|who| !self.queued.contains_key(who)) {
            return Err(format!("{who:?} has progress, but no record"));
        }
        let even: Vec<Who> =
            self.alone.iter().filter(|(_, count)| count.is_multiple_of(2)).map(|(who, _)| *who).collect();
        let all = even.iter().all(|who| self.even.contains(who));
        if even != self.even && !(may_come_back && all) {
            return Err(format!("{:?} are there, but the counts are {:?}", self.even, self.alone));
        }
        Ok(())
    }
}

async fn records(buffer: &Buffer, table: Table) -> Result<Vec<(Box<[u8]>, Vec<u8>)>, String> {
    buffer.records(table).await.map_err(|error| error.to_string())
}

fn who(key: &[u8]) -> Who {
    (number(key), number(&key[8..]))
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().unwrap())
}
