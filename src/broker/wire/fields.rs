//! The fields that packets are made of (section 1.5 in both versions).

use super::rules::{self, BadPacket, Rule};
use super::{Reason, Version};

/// What is left to read of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    version: Version,
}

impl<'a> Fields<'a> {
    pub(super) fn new(rest: &'a [u8], version: Version) -> Self {
        Self { rest, version }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn broken(&self, rule: &Rule) -> BadPacket {
        rule.broken(self.version)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), BadPacket> {
        match self.rest {
            [] => Ok(()),
            _ => Err(self.broken(&rules::BEHIND_END)),
        }
    }

    fn split(&mut self, count: usize) -> Result<&'a [u8], BadPacket> {
        let split = self.rest.split_at_checked(count);
        let (taken, rest) = split.ok_or_else(|| self.broken(&rules::BEYOND_END))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadPacket> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.broken(&rules::BEYOND_END))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, BadPacket> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, BadPacket> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, BadPacket> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A Variable Byte Integer (MQTT 5, section 1.5.5).
    pub(super) fn varint(&mut self) -> Result<u32, BadPacket> {
        let Some(varint) = Varint::peek(self.rest).map_err(|rule| self.broken(rule))? else {
            return Err(self.broken(&rules::BEYOND_END));
        };
        if !varint.is_minimal() {
            return Err(self.broken(&rules::PADDED_LENGTH));
        }
        self.split(varint.bytes)?;
        Ok(varint.value)
    }

    /// Binary data: a length of two bytes, and so many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], BadPacket> {
        let count = self.u16()?;
        self.split(count.into())
    }

    pub(super) fn text(&mut self) -> Result<&'a str, BadPacket> {
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.broken(&rules::NOT_UTF8))?;
        match has_any(bytes, |byte| byte == 0) {
            true => Err(self.broken(&rules::NUL)),
            false => Ok(text),
        }
    }

    /// A text without wildcards, which may be empty. `wildcard`: the rule that it breaks with one.
    pub(super) fn topic(&mut self, wildcard: &Rule) -> Result<&'a str, BadPacket> {
        let text = self.text()?;
        match has_any(text.as_bytes(), |byte| byte == b'+' || byte == b'#') {
            true => Err(self.broken(wildcard)),
            false => Ok(text),
        }
    }

    pub(super) fn packet_id(&mut self) -> Result<u16, BadPacket> {
        match self.u16()? {
            0 => Err(self.broken(&rules::PACKET_ID_ZERO)),
            packet_id => Ok(packet_id),
        }
    }

    /// A reason code, of those that the packet may have.
    pub(super) fn reason(&mut self, allowed: &[Reason], rule: &Rule) -> Result<Reason, BadPacket> {
        let byte = self.byte()?;
        let reason = allowed.iter().copied().find(|reason| *reason as u8 == byte);
        reason.ok_or_else(|| self.broken(rule))
    }

    /// So many bytes as fields of their own: what they hold does not reach beyond them.
    pub(super) fn part(&mut self, count: usize) -> Result<Self, BadPacket> {
        Ok(Self { rest: self.split(count)?, version: self.version })
    }
}

/// Looks at all of them, which is faster for the short texts of MQTT than to stop at the first.
fn has_any(bytes: &[u8], is_it: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |found, byte| found | is_it(*byte))
}

/// A number of one to four bytes (sections 2.2.3 and 1.5.5).
#[derive(Debug, Clone, Copy)]
pub(super) struct Varint {
    pub(super) value: u32,
    /// Its own length.
    pub(super) bytes: usize,
}

impl Varint {
    /// Reads the number at the start of the input. `None`: there is not enough of it yet.
    pub(super) fn peek(input: &[u8]) -> Result<Option<Self>, &'static Rule> {
        let mut value = 0;
        for (index, byte) in input.iter().take(4).enumerate() {
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(Some(Self { value, bytes: index + 1 }));
            }
        }
        match input.len() {
            0..4 => Ok(None),
            _ => Err(&rules::LONG_LENGTH),
        }
    }

    /// In 3.1.1 it need not be.
    pub(super) fn is_minimal(self) -> bool {
        self.bytes == varint_bytes(self.value as usize)
    }
}

/// The length of a number when it is written; of at most 268,435,455.
pub(super) fn varint_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
