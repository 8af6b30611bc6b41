//! Every stored value is a frame: it says what it is, names its own key and carries a checksum, so that a scan
//! over the raw bytes of the files finds and verifies it without the help of any index.
//!
//! ```text
//! magic 4 │ version 1 │ kind 1 │ key length 1 │ body length 2 │ key │ body │ CRC-32C of all that, 4
//! ```
//! Integers of fixed width are little-endian; those in keys are big-endian, so that keys sort by number.

use crate::message::Seq;

/// No stored value is larger: a page of values must stay below 128 KiB, beyond which the store would put it
/// into a file of its own that it never syncs.
pub(super) const MAX_VALUE: usize = 6 * 1024;

/// Not valid UTF-8, and rare in compressed data.
pub(super) const MAGIC: [u8; 4] = [0xF7, b'T', 0x9A, b'p'];

const VERSION: u8 = 1;
const HEADER: usize = 9;
const CHECKSUM: usize = 4;

/// What a frame around a body adds, for the longest key.
pub(super) const OVERHEAD: usize = HEADER + MAX_KEY + CHECKSUM;

/// A dead letter's key is the longest: prefix, number, a sink's name, part.
const MAX_KEY: usize = 1 + 8 + 64 + 1 + 2;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A block of readings, or its first part.
    Block = 1,
    /// A further part of a block.
    BlockPart = 2,
    /// A sink's cursor.
    Cursor = 3,
    /// Facts about the whole store.
    Meta = 4,
    /// A dead letter, or its first part.
    Letter = 5,
    /// A further part of a dead letter.
    LetterPart = 6,
    /// A record of the broker, or its first part.
    Record = 7,
    /// A further part of a record.
    RecordPart = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Block,
            2 => Self::BlockPart,
            3 => Self::Cursor,
            4 => Self::Meta,
            5 => Self::Letter,
            6 => Self::LetterPart,
            7 => Self::Record,
            8 => Self::RecordPart,
            _ => return None,
        })
    }
}

/// A verified frame, borrowed from where it was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) key: &'a [u8],
    pub(super) body: &'a [u8],
    /// Bytes from the magic to the checksum.
    pub(super) size: usize,
}

/// Bytes of a frame.
pub(super) fn size(key: usize, body: usize) -> usize {
    HEADER + key + body + CHECKSUM
}

/// Wraps a body.
pub(super) fn wrap(kind: Kind, key: &[u8], body: &[u8]) -> Vec<u8> {
    wrap_all(kind, key, &[body])
}

/// Wraps a body that comes in pieces.
pub(super) fn wrap_all(kind: Kind, key: &[u8], body: &[&[u8]]) -> Vec<u8> {
    let length = body.iter().map(|piece| piece.len()).sum();
    debug_assert!(key.len() <= MAX_KEY && size(key.len(), length) <= MAX_VALUE);
    let mut frame = Vec::with_capacity(size(key.len(), length));
    frame.extend_from_slice(&MAGIC);
    frame.push(VERSION);
    frame.push(kind as u8);
    frame.push(u8::try_from(key.len()).expect("keys are shorter than 256 bytes"));
    frame.extend_from_slice(&u16::try_from(length).expect("values are at most 6 KiB").to_le_bytes());
    frame.extend_from_slice(key);
    body.iter().for_each(|piece| frame.extend_from_slice(piece));
    frame.extend_from_slice(&crc32c::crc32c(&frame).to_le_bytes());
    frame
}

/// The frame at the start of `bytes`, if there is a whole and sound one.
pub(super) fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let header = bytes.get(..HEADER)?;
    if header[..4] != MAGIC || header[4] != VERSION {
        return None;
    }
    let kind = Kind::from_byte(header[5])?;
    let key_end = HEADER + usize::from(header[6]);
    let body_end = key_end + usize::from(u16::from_le_bytes([header[7], header[8]]));
    let checksum = bytes.get(body_end..body_end + CHECKSUM)?;
    if crc32c::crc32c(&bytes[..body_end]).to_le_bytes() != checksum {
        return None;
    }
    Some(Frame {
        kind,
        key: &bytes[HEADER..key_end],
        body: &bytes[key_end..body_end],
        size: body_end + CHECKSUM,
    })
}

/// The frame that `value` is, if it is exactly one and belongs to `key`.
pub(super) fn parse_value<'a>(key: &[u8], value: &'a [u8]) -> Option<Frame<'a>> {
    parse(value).filter(|frame| frame.key == key && frame.size == value.len())
}

/// Keys, by prefix byte: `b` blocks, `c` cursors, `d` dead letters, `m` facts about the store, `r` records.
pub(super) mod key {
    use super::Seq;

    pub(in crate::buffer) const BLOCK: u8 = b'b';
    pub(in crate::buffer) const CURSOR: u8 = b'c';
    pub(in crate::buffer) const LETTER: u8 = b'd';
    pub(in crate::buffer) const STATE: &[u8] = b"mstate";
    pub(in crate::buffer) const GAPS: &[u8] = b"mgaps";
    pub(in crate::buffer) const BOOTS: &[u8] = b"mboots";

    pub(in crate::buffer) fn block(first: Seq, part: u16) -> [u8; 11] {
        let mut key = [BLOCK; 11];
        key[1..9].copy_from_slice(&first.to_be_bytes());
        key[9..].copy_from_slice(&part.to_be_bytes());
        key
    }

    /// First number and part of a block's key.
    pub(in crate::buffer) fn parse_block(key: &[u8]) -> Option<(Seq, u16)> {
        let key: &[u8; 11] = key.try_into().ok()?;
        let first = key[1..9].try_into().expect("eight bytes");
        (key[0] == BLOCK).then(|| (Seq::from_be_bytes(first), u16::from_be_bytes([key[9], key[10]])))
    }

    pub(in crate::buffer) fn cursor(sink: &str) -> Vec<u8> {
        [&[CURSOR], sink.as_bytes()].concat()
    }

    /// `sink` is empty for a reading that was unfit on arrival; a sink's name holds no NUL.
    pub(in crate::buffer) fn letter(seq: Seq, sink: &str, part: u16) -> Vec<u8> {
        [&[LETTER], &seq.to_be_bytes()[..], sink.as_bytes(), &[0], &part.to_be_bytes()[..]].concat()
    }

    /// Number, sink and part of a dead letter's key.
    pub(in crate::buffer) fn parse_letter(key: &[u8]) -> Option<(Seq, &str, u16)> {
        let [LETTER, rest @ ..] = key else { return None };
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (sink, part) = rest.split_last_chunk::<2>()?;
        let (0, sink) = sink.split_last().map(|(nul, sink)| (*nul, sink))? else { return None };
        Some((Seq::from_be_bytes(*seq), std::str::from_utf8(sink).ok()?, u16::from_be_bytes(*part)))
    }
}

/// Appends an integer in 1 to 10 bytes, 7 bits a byte, low bits first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer so that small ones of either sign are short.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the functions above wrote; every answer is `None` at the first byte that cannot be right.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        Some(*self.take(N)?.first_chunk()?)
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_any_flipped_bit_is_noticed() {
        let key = key::block(7, 0);
        let frame = wrap(Kind::Block, &key, b"body");
        let parsed = parse_value(&key, &frame).unwrap();
        assert_eq!((parsed.kind, parsed.body, parsed.size), (Kind::Block, &b"body"[..], frame.len()));
        assert!(parse_value(&key::block(8, 0), &frame).is_none(), "it belongs to another key");
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_none(), "bit {bit}");
        }
        for length in 0..frame.len() {
            assert!(parse(&frame[..length]).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn numbers_come_back_and_malformed_ones_are_refused() {
        let mut out = Vec::new();
        let unsigned = [0, 1, 127, 128, 1 << 53, u64::MAX];
        let signed = [0, -1, 1, i64::MIN, i64::MAX];
        unsigned.iter().for_each(|v| put_varint(&mut out, *v));
        signed.iter().for_each(|v| put_signed(&mut out, *v));
        put_bytes(&mut out, "ü".as_bytes());
        let mut fields = Fields::new(&out);
        unsigned.iter().for_each(|v| assert_eq!(fields.varint(), Some(*v)));
        signed.iter().for_each(|v| assert_eq!(fields.signed(), Some(*v)));
        assert_eq!(fields.text(), Some("ü"));
        assert_eq!(fields.byte(), None);
        assert_eq!(Fields::new(&[0xff; 11]).varint(), None);
        assert_eq!(Fields::new(&[0xff, 0xff, 0xff, 0xff, 0x7f]).bytes(), None);
    }

    #[test]
    fn keys_sort_by_number_and_come_back() {
        assert!(key::block(1, 65_535) < key::block(2, 0) && key::block(255, 0) < key::block(256, 0));
        assert_eq!(key::parse_block(&key::block(77, 3)), Some((77, 3)));
        assert_eq!(key::parse_block(b"cx"), None);
        assert_eq!(key::parse_letter(&key::letter(5, "cloud", 2)), Some((5, "cloud", 2)));
        assert_eq!(key::parse_letter(&key::letter(5, "", 0)), Some((5, "", 0)));
    }
}
