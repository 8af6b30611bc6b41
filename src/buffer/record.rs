//! Records: small values under keys that the broker keeps, committed in the same groups as the readings.
//!
//! A value is cut into frames. The first is: generation 8 │ parts 2 │ length 4 │ data; each further one: generation 8 │
//! data. All parts of one value carry the generation of the commit that put them there.

use std::collections::BTreeMap;

use super::Record;
use super::frame::{self, Fields, Frame, Kind, MAX_VALUE, wrap_all};
use super::ledger::State;
use super::store::{Batch, Store, StoreError};

/// Prefix of the keys of all tables.
pub(super) const PREFIX: u8 = b'r';
/// Bytes of a key beyond its table.
const MAX_KEY: usize = 32;
const HEADER: usize = 8 + 2 + 4;
/// Bytes of a value in one frame.
const MAX_DATA: usize = MAX_VALUE - frame::OVERHEAD - HEADER;
/// What a change costs in memory besides its value, and about what its frame costs on disk.
const OVERHEAD: usize = 96;

/// What a record is about. Each table has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Commands for devices.
    Command = b'c',
    /// How local rules stand.
    Rule = b'l',
    /// Sessions that outlive their connection.
    Session = b's',
    /// Messages that wait for such a session.
    Queued = b'q',
    /// QoS 2 publishes that were taken and not released yet.
    Received = b'r',
    /// Retained messages.
    Retained = b't',
    /// Wills of the clients of such sessions.
    Will = b'w',
}

/// The name of a record: a table, and at most 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    table: Table,
    length: u8,
    bytes: [u8; MAX_KEY],
}

impl RecordKey {
    /// # Panics
    /// When `key` is longer than 32 bytes: keys are made by code, not by clients.
    #[must_use]
    pub fn new(table: Table, key: &[u8]) -> Self {
        assert!(key.len() <= MAX_KEY, "a record's key of {} bytes", key.len());
        let mut bytes = [0; MAX_KEY];
        bytes[..key.len()].copy_from_slice(key);
        Self { table, length: key.len() as u8, bytes }
    }

    /// Its length stands before it, so that the parts of no two records lie between each other.
    pub(super) fn part(&self, part: u16) -> Vec<u8> {
        let key = &self.bytes[..self.length.into()];
        [&[PREFIX, self.table as u8, self.length], key, &part.to_be_bytes()[..]].concat()
    }
}

/// The key, without its table, and the part that a stored key names.
pub(super) fn parse_key(stored: &[u8]) -> Option<(&[u8], u16)> {
    let [PREFIX, _, length, rest @ ..] = stored else { return None };
    let (key, part) = rest.split_last_chunk::<2>()?;
    (key.len() == usize::from(*length)).then(|| (key, u16::from_be_bytes(*part)))
}

/// What the keys of all parts of a record have in common.
pub(super) fn stem(stored: &[u8]) -> &[u8] {
    &stored[..stored.len().saturating_sub(2)]
}

/// The generation of a record's part.
pub(super) fn generation(body: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*body.first_chunk()?))
}

/// How many parts a record has, says its first.
pub(super) fn parts(body: &[u8]) -> u16 {
    Header::parse(body).map_or(0, |(header, _)| header.parts)
}

/// Bytes that a change takes up in memory.
pub(super) fn cost(value: Option<&[u8]>) -> usize {
    OVERHEAD + value.map_or(0, <[u8]>::len)
}

/// The header of a value's first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) generation: u64,
    pub(super) parts: u16,
    length: u32,
}

impl Header {
    pub(super) fn parse(body: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = Fields::new(body);
        let header = Self {
            generation: u64::from_le_bytes(fields.array()?),
            parts: u16::from_le_bytes(fields.array()?).max(1),
            length: u32::from_le_bytes(fields.array()?),
        };
        Some((header, fields.rest()))
    }

    fn put(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&self.generation.to_le_bytes());
        out[8..10].copy_from_slice(&self.parts.to_le_bytes());
        out[10..].copy_from_slice(&self.length.to_le_bytes());
        out
    }

    /// Bytes of all frames of such a value.
    fn size(&self, key: usize) -> u64 {
        let parts = u64::from(self.parts);
        let first = frame::size(key, HEADER) as u64;
        first + (parts - 1) * frame::size(key, 8) as u64 + u64::from(self.length)
    }
}

/// Puts a change into a batch that will be of this generation: a new value, or none. Parts of an older value go. Says
/// of which generation that was; 0: there was none.
pub(super) fn put(
    store: &Store,
    batch: &mut Batch,
    next: &mut State,
    key: &RecordKey,
    value: Option<&[u8]>,
) -> Result<u64, StoreError> {
    let first = key.part(0);
    let older = store.body(&first, Kind::Record)?;
    let older = older.and_then(|body| Header::parse(&body).map(|(header, _)| header));
    if let Some(older) = older {
        next.records = next.records.saturating_sub(older.parts.into());
        next.record_bytes = next.record_bytes.saturating_sub(older.size(first.len()));
    }
    let parts = match value {
        Some(value) => put_value(batch, next, key, value),
        None => 0,
    };
    (parts..older.map_or(0, |older| older.parts)).for_each(|part| batch.remove(&key.part(part)));
    Ok(older.map_or(0, |older| older.generation))
}

fn put_value(batch: &mut Batch, next: &mut State, key: &RecordKey, value: &[u8]) -> u16 {
    let parts = value.len().div_ceil(MAX_DATA).max(1);
    let header = Header {
        generation: next.generation,
        parts: u16::try_from(parts).expect("an MQTT packet has at most 256 MiB, 65,535 parts hold 380"),
        length: u32::try_from(value.len()).expect("an MQTT packet has at most 256 MiB"),
    };
    let mut chunks = value.chunks(MAX_DATA);
    let first = key.part(0);
    let frame = wrap_all(Kind::Record, &first, &[&header.put(), chunks.next().unwrap_or_default()]);
    batch.insert(&first, frame);
    for (part, chunk) in (1_u16..).zip(chunks) {
        let key = key.part(part);
        let frame = wrap_all(Kind::RecordPart, &key, &[&header.generation.to_le_bytes(), chunk]);
        batch.insert(&key, frame);
    }
    next.records += u64::from(header.parts);
    next.record_bytes += header.size(first.len());
    header.parts
}

/// The generations of all values, by their keys as they are stored.
pub(super) fn generations(store: &Store) -> Result<BTreeMap<Vec<u8>, u64>, StoreError> {
    let mut all = BTreeMap::new();
    for pair in store.pairs(&[PREFIX], &[PREFIX + 1]) {
        let (stored, value) = pair?;
        let found = frame::parse_value(&stored, &value).and_then(|frame| generation(frame.body));
        all.insert(stored.to_vec(), found.ok_or_else(|| damaged(&stored))?);
    }
    Ok(all)
}

fn damaged(key: &[u8]) -> StoreError {
    StoreError::Damaged(format!("the record {}", key.escape_ascii()))
}

/// All records of a table, in order of their keys.
pub(super) fn table(store: &Store, table: Table) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    let mut open: Option<Open> = None;
    for pair in store.pairs(&[PREFIX, table as u8], &[PREFIX, table as u8 + 1]) {
        let (stored, value) = pair?;
        let frame = frame::parse_value(&stored, &value).ok_or_else(|| damaged(&stored))?;
        let found = match open.take() {
            None => Open::begin(&frame),
            Some(open) => open.go_on(&frame),
        };
        let found = found.ok_or_else(|| damaged(&stored))?;
        if found.next < found.header.parts {
            open = Some(found);
        } else {
            records.push(found.end().ok_or_else(|| damaged(&stored))?);
        }
    }
    if let Some(open) = open {
        return Err(damaged(&open.key));
    }
    records.sort_unstable_by(|one: &Record, two| one.0.cmp(&two.0));
    Ok(records)
}

/// A record, as far as its parts were read.
struct Open {
    key: Box<[u8]>,
    header: Header,
    next: u16,
    value: Vec<u8>,
}

impl Open {
    fn begin(frame: &Frame<'_>) -> Option<Self> {
        let (key, 0) = parse_key(frame.key)? else { return None };
        let (header, data) = Header::parse(frame.body).filter(|_| frame.kind == Kind::Record)?;
        Some(Self { key: key.into(), header, next: 1, value: data.to_vec() })
    }

    fn go_on(mut self, frame: &Frame<'_>) -> Option<Self> {
        let (key, part) = parse_key(frame.key)?;
        let (generation, data) = frame.body.split_first_chunk()?;
        let fits = (key, part, frame.kind) == (&*self.key, self.next, Kind::RecordPart)
            && u64::from_le_bytes(*generation) == self.header.generation;
        self.value.extend_from_slice(data);
        self.next += 1;
        fits.then_some(self)
    }

    fn end(self) -> Option<Record> {
        (self.value.len() == self.header.length as usize).then_some((self.key, self.value))
    }
}
