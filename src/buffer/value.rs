//! How the values of records are written: fields one after the other, numbers in big-endian, texts and
//! bytes behind their length. A record that cannot be read is left out, never guessed.

use bytes::{BufMut, Bytes};

use crate::message::{BootId, ClockQuality, Qos, Stamp};

/// The layout of all records. One with another number was written by another version of the program.
const LAYOUT: u8 = 2;

/// A record that is being written.
#[derive(Debug)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn new() -> Self {
        Self(vec![LAYOUT])
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.put_u8(value);
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.put_u32(value);
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.put_u64(value);
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(u32::try_from(value.len()).expect("it came in one packet"));
        self.0.put_slice(value);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// What may be absent.
    pub(crate) fn option<T>(
        &mut self,
        value: Option<T>,
        put: impl for<'a> FnOnce(&'a mut Self, T) -> &'a mut Self,
    ) -> &mut Self {
        self.u8(value.is_some().into());
        if let Some(value) = value {
            put(self, value);
        }
        self
    }

    pub(crate) fn stamp(&mut self, stamp: &Stamp) -> &mut Self {
        self.0.put_i64(stamp.wall_ms);
        self.0.put_u64(stamp.boot_ms);
        self.0.put_slice(&stamp.boot.0);
        self.u8(stamp.quality as u8)
    }
}

/// A record that is being read. Every method is `None` when the record ends before, or says what cannot be.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(record: &'a [u8]) -> Option<Self> {
        let (layout, rest) = record.split_first()?;
        (*layout == LAYOUT).then_some(Self(rest))
    }

    /// That nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.u32()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn owned_text(&mut self) -> Option<String> {
        self.text().map(str::to_owned)
    }

    pub(crate) fn owned_bytes(&mut self) -> Option<Bytes> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn option<T>(&mut self, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => take(self).map(Some),
            false => Some(None),
        }
    }

    pub(crate) fn qos(&mut self) -> Option<Qos> {
        match self.u8()? {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }

    pub(crate) fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp {
            wall_ms: i64::from_be_bytes(self.array()?),
            boot_ms: u64::from_be_bytes(self.array()?),
            boot: BootId(self.array()?),
            quality: match self.flag()? {
                true => ClockQuality::Synchronized,
                false => ClockQuality::Unsynchronized,
            },
        })
    }
}
