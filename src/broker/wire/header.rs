//! The fixed header (section 2.2 of 3.1.1, 2.1 of 5.0).

use super::Version;
use super::fields::Varint;
use super::rules::{self, BadPacket};

pub(super) const CONNECT: u8 = 1;
pub(super) const PUBLISH: u8 = 3;
pub(super) const PUBACK: u8 = 4;
pub(super) const PUBREC: u8 = 5;
pub(super) const PUBREL: u8 = 6;
pub(super) const PUBCOMP: u8 = 7;
pub(super) const SUBSCRIBE: u8 = 8;
pub(super) const UNSUBSCRIBE: u8 = 10;
pub(super) const PINGREQ: u8 = 12;
pub(super) const DISCONNECT: u8 = 14;
pub(super) const AUTH: u8 = 15;

/// A fixed header that keeps the rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// The length of the header itself.
    pub(super) bytes: usize,
    remaining: Varint,
}

impl Header {
    /// Reads the header at the start of the input. `None`: there is not enough of it yet.
    /// A first byte that no client may send is told before there is more.
    pub(super) fn peek(input: &[u8], version: Version, max_bytes: usize) -> Result<Option<Self>, BadPacket> {
        let Some((first, rest)) = input.split_first() else { return Ok(None) };
        let (kind, flags) = (first >> 4, first & 0x0f);
        check_kind_and_flags(kind, flags, version)?;
        let Some(remaining) = Varint::peek(rest).map_err(|rule| rule.broken(version))? else {
            return Ok(None);
        };
        let header = Self { kind, flags, bytes: 1 + remaining.bytes, remaining };
        header.check_padding(version)?;
        match header.frame_bytes() {
            bytes if bytes > max_bytes => Err(BadPacket::TooLarge { bytes, max: max_bytes }),
            _ => Ok(Some(header)),
        }
    }

    /// The length of the whole packet.
    pub(super) fn frame_bytes(self) -> usize {
        self.bytes + self.remaining.value as usize
    }

    pub(super) fn check_padding(self, version: Version) -> Result<(), BadPacket> {
        match version {
            Version::V5 if !self.remaining.is_minimal() => Err(rules::PADDED_LENGTH.broken(version)),
            _ => Ok(()),
        }
    }
}

fn check_kind_and_flags(kind: u8, flags: u8, version: Version) -> Result<(), BadPacket> {
    let rule = match (kind, flags) {
        (PUBLISH, _) if flags & 0b0110 == 0b0110 => &rules::QOS_3,
        (PUBLISH, _) if flags & 0b1110 == 0b1000 => &rules::DUP_WITH_QOS_0,
        (PUBLISH, _) | (PUBREL | SUBSCRIBE | UNSUBSCRIBE, 0b0010) => return Ok(()),
        (CONNECT | PUBACK | PUBREC | PUBCOMP | PINGREQ | DISCONNECT, 0) => return Ok(()),
        (AUTH, 0) if version == Version::V5 => return Ok(()),
        (AUTH, _) if version == Version::V3 => &rules::FORBIDDEN_TYPE,
        (0, _) => &rules::FORBIDDEN_TYPE,
        (2 | 9 | 11 | 13, _) => &rules::SERVER_ONLY,
        _ => &rules::RESERVED_FLAGS,
    };
    Err(rule.broken(version))
}
