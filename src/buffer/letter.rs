//! Dead letters: readings that no sink, or one sink, could not use, kept with the reason.
//!
//! The raw form is: reason │ epoch │ record. A value is: raw length │ zstd data; further parts are data only.

use bytes::Bytes;

use super::block::{Base, Names, Record, put_record, take_record};
use super::frame::{self, Fields, Kind, MAX_VALUE, key, put_bytes, put_varint};
use super::{DeadLetter, store};
use crate::config::SinkName;
use crate::message::{Reading, Seq};

const MAX_DATA: usize = MAX_VALUE - frame::OVERHEAD - 16;
/// zstd's answer to a length that cannot be right; no MQTT packet is larger.
const MAX_RAW: usize = 300 * 1024 * 1024;

/// A dead letter on its way to the disk.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) seq: Seq,
    /// Empty: unfit on arrival.
    pub(super) sink: String,
    raw: Vec<u8>,
}

impl Letter {
    /// From a reading that a sink gave back.
    pub(super) fn refused(reading: &Reading, sink: &SinkName, reason: &str) -> Self {
        let mut raw = Self::head(reason, reading.epoch);
        put_record(&mut raw, &Base::ZERO, &reading.into());
        Self { seq: reading.seq, sink: sink.to_string(), raw }
    }

    /// From a record that came with a fault.
    pub(super) fn unfit(seq: Seq, epoch: u64, found: &Record<'_>) -> Option<Self> {
        let mut raw = Self::head(found.fault?, epoch);
        put_record(&mut raw, &Base::ZERO, found);
        Some(Self { seq, sink: String::new(), raw })
    }

    fn head(reason: &str, epoch: u64) -> Vec<u8> {
        let mut raw = Vec::new();
        put_bytes(&mut raw, reason.as_bytes());
        put_varint(&mut raw, epoch);
        raw
    }

    /// Bytes that it holds in memory.
    pub(super) fn size(&self) -> usize {
        self.raw.len()
    }

    /// The key of its first part.
    pub(super) fn key(&self) -> Vec<u8> {
        key::letter(self.seq, &self.sink, 0)
    }

    /// Its values, in order of their parts.
    pub(super) fn values(&self) -> std::io::Result<Vec<store::Pair>> {
        let data = zstd::bulk::compress(&self.raw, 1)?;
        let mut values = Vec::new();
        for (part, chunk) in (0_u16..).zip(data.chunks(MAX_DATA)) {
            let key = key::letter(self.seq, &self.sink, part);
            let mut body = Vec::with_capacity(chunk.len() + 16);
            if part == 0 {
                put_varint(&mut body, self.raw.len() as u64);
            }
            body.extend_from_slice(chunk);
            let kind = if part == 0 { Kind::Letter } else { Kind::LetterPart };
            let frame = frame::wrap(kind, &key, &body);
            values.push((key, frame));
        }
        Ok(values)
    }
}

/// A dead letter from the bodies of all its parts, joined.
pub(super) fn decode(seq: Seq, sink: &str, body: &[u8], names: &mut Names) -> Option<DeadLetter> {
    let mut fields = Fields::new(body);
    let length = usize::try_from(fields.varint()?).ok().filter(|length| *length <= MAX_RAW)?;
    let raw = Bytes::from(zstd::bulk::decompress(fields.rest(), length).ok()?);
    let mut fields = Fields::new(&raw);
    let reason = fields.text()?.to_owned();
    let epoch = fields.varint()?;
    let found = take_record(&mut fields, &Base::ZERO)?;
    Some(DeadLetter {
        reading: names.reading(seq, epoch, &raw, &found)?,
        reason,
        sink: if sink.is_empty() { None } else { Some(SinkName::parse(sink).ok()?) },
    })
}
