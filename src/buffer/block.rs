//! Readings to bytes and back.
//!
//! A record is: flags 1 │ (boot 16) │ boot ms │ wall ms │ device │ stream │ topic │ payload │ (fault). Times are
//! differences to the base of the block, the wall clock's as what it moved more than the boot clock: mostly 0.
//!
//! A block is: [state record with its length 1 before it] │ epoch 8 │ boot 16 │ base wall ms 8 │ base boot ms 8 │
//! count │ raw length │ parts │ codec 1 │ data. The last block of a commit carries the state record: a commit is then
//! often a single key, which costs the disk half of what two do.
//! Its first number is its key. A block holds at most what fits a value after compression; a single reading that
//! does not is spread over several parts. A further part is: epoch 8 │ data. A number that was given again has another
//! epoch: the parts of two readings are never mixed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, Fields, Kind, MAX_VALUE, key, put_bytes, put_signed, put_varint};
use crate::message::{BootId, ClockQuality, DeviceId, Incoming, Qos, Reading, Seq, Stamp};

const QOS_1: u8 = 1;
const SYNCHRONIZED: u8 = 2;
const FAULT: u8 = 4;
const OWN_BOOT: u8 = 8;
/// Beside `QOS_1`: whoever does not know it takes the reading for one of QoS 1.
const QOS_2: u8 = 16;

const CODEC_PLAIN: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const LEVEL: i32 = 1;

/// The longest state record that a block carries.
pub(super) const MAX_STATE: usize = 255;

/// Three varints, the codec and the length of the state are at most 16 bytes.
const BLOCK_HEADER: usize = MAX_STATE + 8 + 16 + 8 + 8 + 16;

/// Compressed bytes in one value.
const MAX_DATA: usize = MAX_VALUE - frame::OVERHEAD - BLOCK_HEADER;

/// What the times in records count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) boot: BootId,
    pub(super) wall_ms: i64,
    pub(super) boot_ms: u64,
}

impl Base {
    pub(super) const ZERO: Self = Self { boot: BootId([0; 16]), wall_ms: 0, boot_ms: 0 };
}

impl From<Stamp> for Base {
    fn from(stamp: Stamp) -> Self {
        Self { boot: stamp.boot, wall_ms: stamp.wall_ms, boot_ms: stamp.boot_ms }
    }
}

/// A record, borrowed from where it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) device: &'a str,
    pub(super) stream: &'a str,
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) qos: Qos,
    pub(super) received: Stamp,
    pub(super) fault: Option<&'a str>,
}

impl<'a> From<&Incoming<'a>> for Record<'a> {
    fn from(reading: &Incoming<'a>) -> Self {
        Self {
            device: reading.device.as_str(),
            stream: reading.stream,
            topic: reading.topic,
            payload: reading.payload,
            qos: reading.qos,
            received: reading.received,
            fault: reading.fault,
        }
    }
}

impl<'a> From<&'a Reading> for Record<'a> {
    fn from(reading: &'a Reading) -> Self {
        Self {
            device: reading.device.as_str(),
            stream: &reading.stream,
            topic: &reading.topic,
            payload: &reading.payload,
            qos: reading.qos,
            received: reading.received,
            fault: reading.fault.as_deref(),
        }
    }
}

/// Appends a record.
pub(super) fn put_record(out: &mut Vec<u8>, base: &Base, record: &Record<'_>) {
    let stamp = &record.received;
    let mut flags = match record.qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => QOS_1,
        Qos::ExactlyOnce => QOS_1 | QOS_2,
    };
    if stamp.quality == ClockQuality::Synchronized {
        flags |= SYNCHRONIZED;
    }
    if record.fault.is_some() {
        flags |= FAULT;
    }
    if stamp.boot != base.boot {
        flags |= OWN_BOOT;
    }
    out.push(flags);
    if stamp.boot != base.boot {
        out.extend_from_slice(&stamp.boot.0);
    }
    let elapsed = stamp.boot_ms.wrapping_sub(base.boot_ms) as i64;
    put_signed(out, elapsed);
    put_signed(out, stamp.wall_ms.wrapping_sub(base.wall_ms).wrapping_sub(elapsed));
    put_bytes(out, record.device.as_bytes());
    put_bytes(out, record.stream.as_bytes());
    put_bytes(out, record.topic.as_bytes());
    put_bytes(out, record.payload);
    if let Some(fault) = record.fault {
        put_bytes(out, fault.as_bytes());
    }
}

/// Reads the next record.
pub(super) fn take_record<'a>(fields: &mut Fields<'a>, base: &Base) -> Option<Record<'a>> {
    let flags = fields.byte()?;
    let boot = if flags & OWN_BOOT == 0 { base.boot } else { BootId(fields.array()?) };
    let elapsed = fields.signed()?;
    let moved = fields.signed()?;
    let synchronized = flags & SYNCHRONIZED != 0;
    let received = Stamp {
        wall_ms: base.wall_ms.wrapping_add(elapsed).wrapping_add(moved),
        boot_ms: base.boot_ms.wrapping_add_signed(elapsed),
        boot,
        quality: if synchronized { ClockQuality::Synchronized } else { ClockQuality::Unsynchronized },
    };
    Some(Record {
        device: fields.text()?,
        stream: fields.text()?,
        topic: fields.text()?,
        payload: fields.bytes()?,
        qos: qos(flags)?,
        received,
        fault: if flags & FAULT == 0 { None } else { Some(fields.text()?) },
    })
}

fn qos(flags: u8) -> Option<Qos> {
    match (flags & QOS_1 != 0, flags & QOS_2 != 0) {
        (false, false) => Some(Qos::AtMostOnce),
        (true, false) => Some(Qos::AtLeastOnce),
        (true, true) => Some(Qos::ExactlyOnce),
        (false, true) => None,
    }
}

/// Consecutive records, as a group holds them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records<'a> {
    pub(super) first: Seq,
    pub(super) base: Base,
    /// Where the first of them starts in `bytes`.
    pub(super) offset: usize,
    pub(super) bytes: &'a [u8],
    /// Where each of them ends in `bytes`.
    pub(super) ends: &'a [u32],
}

/// The header of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) epoch: u64,
    pub(super) base: Base,
    pub(super) count: u32,
    pub(super) raw_len: u32,
    pub(super) parts: u16,
    codec: u8,
}

impl Header {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.base.boot.0);
        out.extend_from_slice(&self.base.wall_ms.to_le_bytes());
        out.extend_from_slice(&self.base.boot_ms.to_le_bytes());
        put_varint(out, self.count.into());
        put_varint(out, self.raw_len.into());
        put_varint(out, self.parts.into());
        out.push(self.codec);
    }

    /// The state record before the header, empty when there is none.
    pub(super) fn state(body: &[u8]) -> Option<&[u8]> {
        let (length, rest) = body.split_first()?;
        rest.get(..usize::from(*length))
    }

    /// The header and the data behind it.
    pub(super) fn parse(body: &[u8]) -> Option<(Self, &[u8])> {
        let state = Self::state(body)?;
        let mut fields = Fields::new(&body[1 + state.len()..]);
        let header = Self {
            epoch: u64::from_le_bytes(fields.array()?),
            base: Base {
                boot: BootId(fields.array()?),
                wall_ms: i64::from_le_bytes(fields.array()?),
                boot_ms: u64::from_le_bytes(fields.array()?),
            },
            count: u32::try_from(fields.varint()?).ok().filter(|count| *count > 0)?,
            raw_len: u32::try_from(fields.varint()?).ok()?,
            parts: u16::try_from(fields.varint()?).ok().filter(|parts| *parts > 0)?,
            codec: fields.byte()?,
        };
        Some((header, fields.rest()))
    }
}

/// A value in the making.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) key: [u8; 11],
    pub(super) kind: Kind,
    body: Vec<u8>,
}

impl Piece {
    /// Bytes of the frame with a state record of that length.
    pub(super) fn size(&self, state: usize) -> usize {
        frame::size(self.key.len(), self.prefix() + state + self.body.len())
    }

    /// The frame. Only a block's first part can carry a state record.
    pub(super) fn frame(&self, state: &[u8]) -> Vec<u8> {
        let length = u8::try_from(state.len()).expect("at most MAX_STATE");
        frame::wrap_all(self.kind, &self.key, &[&[length][..self.prefix()], state, &self.body])
    }

    fn prefix(&self) -> usize {
        usize::from(self.kind == Kind::Block)
    }
}

/// Cuts groups into blocks that fit a value each.
pub(super) struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
    data: Vec<u8>,
    /// Compressed bytes per raw byte, of late.
    ratio: f64,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("ratio", &self.ratio).finish_non_exhaustive()
    }
}

impl Packer {
    pub(super) fn new() -> std::io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(Self { compressor, data: Vec::new(), ratio: 0.25 })
    }

    /// Cuts and compresses; the pieces come in order of their keys.
    pub(super) fn pack(&mut self, epoch: u64, records: &Records<'_>, pieces: &mut Vec<Piece>) {
        let (mut index, mut begin) = (0, records.offset);
        while index < records.ends.len() {
            let (count, codec) = self.fit(&records.bytes[begin..], begin, &records.ends[index..]);
            let end = records.ends[index + count - 1] as usize;
            let header = Header {
                epoch,
                base: records.base,
                count: count as u32,
                raw_len: (end - begin) as u32,
                parts: u16::try_from(self.data.len().div_ceil(MAX_DATA).max(1))
                    .expect("an MQTT packet has at most 256 MiB, 65,535 parts hold 380"),
                codec,
            };
            self.put_block(records.first + index as u64, &header, pieces);
            (index, begin) = (index + count, end);
        }
    }

    /// Compresses as many records as fit a value (at least one) into `self.data`.
    fn fit(&mut self, bytes: &[u8], begin: usize, ends: &[u32]) -> (usize, u8) {
        let hope = MAX_DATA.max((MAX_DATA as f64 / self.ratio) as usize);
        let mut count = ends.partition_point(|end| *end as usize - begin <= hope).max(1);
        loop {
            let raw = &bytes[..ends[count - 1] as usize - begin];
            let codec = self.compress(raw);
            let got = self.data.len();
            if raw.len() >= MAX_DATA {
                // A little pessimism saves compressing twice.
                self.ratio = (got as f64 / raw.len() as f64 * 1.03).max(0.001);
            }
            if got <= MAX_DATA || count == 1 {
                return (count, codec);
            }
            count = (count * MAX_DATA / got * 31 / 32).clamp(1, count - 1);
        }
    }

    fn compress(&mut self, raw: &[u8]) -> u8 {
        self.data.clear();
        self.data.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        match self.compressor.compress_to_buffer(raw, &mut self.data) {
            Ok(length) if length < raw.len() => CODEC_ZSTD,
            // Incompressible, or zstd is out of memory: as it is.
            _ => {
                self.data.clear();
                self.data.extend_from_slice(raw);
                CODEC_PLAIN
            }
        }
    }

    fn put_block(&self, first: Seq, header: &Header, pieces: &mut Vec<Piece>) {
        let mut chunks = self.data.chunks(MAX_DATA);
        let data = chunks.next().unwrap_or_default();
        let mut body = Vec::with_capacity(BLOCK_HEADER - MAX_STATE + data.len());
        header.put(&mut body);
        body.extend_from_slice(data);
        pieces.push(Piece { key: key::block(first, 0), kind: Kind::Block, body });
        for (part, chunk) in (1_u16..).zip(chunks) {
            let body = [&header.epoch.to_le_bytes()[..], chunk].concat();
            pieces.push(Piece { key: key::block(first, part), kind: Kind::BlockPart, body });
        }
    }
}

/// Epoch and data of a further part.
pub(super) fn parse_part(body: &[u8]) -> Option<(u64, &[u8])> {
    let (epoch, data) = body.split_first_chunk()?;
    Some((u64::from_le_bytes(*epoch), data))
}

/// A block as it was stored, its checksums verified.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) first: Seq,
    pub(super) header: Header,
    pub(super) data: Vec<u8>,
}

impl Block {
    /// One past its last number.
    pub(super) fn end(&self) -> Seq {
        self.first + u64::from(self.header.count)
    }

    /// Whether all parts are there.
    pub(super) fn is_whole(&self) -> bool {
        self.data.len().div_ceil(MAX_DATA).max(1) == usize::from(self.header.parts)
    }

    /// The records, decompressed. `None` if they are not what the header says.
    pub(super) fn raw(&self) -> Option<Vec<u8>> {
        let length = self.header.raw_len as usize;
        let raw = match self.header.codec {
            CODEC_PLAIN => self.data.clone(),
            CODEC_ZSTD => zstd::bulk::decompress(&self.data, length).ok()?,
            _ => return None,
        };
        (raw.len() == length).then_some(raw)
    }

    /// Appends the records, counted from another base. `None` if anything in them is malformed.
    pub(super) fn append_to(&self, base: &Base, bytes: &mut Vec<u8>, ends: &mut Vec<u32>) -> Option<()> {
        let raw = self.raw()?;
        let mut fields = Fields::new(&raw);
        for _ in 0..self.header.count {
            put_record(bytes, base, &take_record(&mut fields, &self.header.base)?);
            ends.push(u32::try_from(bytes.len()).ok()?);
        }
        fields.rest().is_empty().then_some(())
    }

    /// When the last reading in it was received.
    pub(super) fn newest(&self) -> Option<Stamp> {
        let raw = self.raw()?;
        let mut fields = Fields::new(&raw);
        (0..self.header.count)
            .map(|_| take_record(&mut fields, &self.header.base))
            .last()?
            .map(|r| r.received)
    }

    /// The readings. `None` if anything in them is malformed.
    pub(super) fn decode(&self, names: &mut Names) -> Option<Vec<Reading>> {
        let raw = Bytes::from(self.raw()?);
        let mut fields = Fields::new(&raw);
        let mut readings = Vec::with_capacity(self.header.count as usize);
        for seq in self.first..self.end() {
            let found = take_record(&mut fields, &self.header.base)?;
            readings.push(names.reading(seq, self.header.epoch, &raw, &found)?);
        }
        fields.rest().is_empty().then_some(readings)
    }
}

/// Gives equal names the same memory.
#[derive(Debug, Default)]
pub(super) struct Names {
    devices: HashMap<Box<str>, DeviceId>,
    texts: HashSet<Arc<str>>,
}

impl Names {
    /// Beyond it the table starts anew; readings keep what they hold.
    const MAX: usize = 4_096;

    /// A reading whose payload shares the memory of `raw`, which `found` was read from.
    pub(super) fn reading(
        &mut self,
        seq: Seq,
        epoch: u64,
        raw: &Bytes,
        found: &Record<'_>,
    ) -> Option<Reading> {
        Some(Reading {
            seq,
            epoch,
            device: self.device(found.device)?,
            stream: self.text(found.stream),
            topic: self.text(found.topic),
            payload: raw.slice_ref(found.payload),
            qos: found.qos,
            received: found.received,
            fault: found.fault.map(|fault| self.text(fault)),
        })
    }

    fn device(&mut self, name: &str) -> Option<DeviceId> {
        if let Some(device) = self.devices.get(name) {
            return Some(device.clone());
        }
        if self.devices.len() >= Self::MAX {
            self.devices.clear();
        }
        let device = DeviceId::parse(name).ok()?;
        self.devices.insert(name.into(), device.clone());
        Some(device)
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        if self.texts.len() >= Self::MAX {
            self.texts.clear();
        }
        let fresh: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&fresh));
        fresh
    }
}
