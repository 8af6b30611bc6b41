//! Properties of MQTT 5 (section 2.2.2): how they are read, and those that travel with a message.

use std::fmt;

use bytes::{BufMut, Bytes};

use super::fields::Fields;
use super::rules::{self, BadPacket};
use super::write::{put_bytes, put_text};
use super::{Version, id};

/// The properties of a packet, which are read one by one.
pub(super) struct PropertyFields<'a> {
    fields: Fields<'a>,
    /// A bit for each identifier that came.
    seen: u64,
}

impl<'a> PropertyFields<'a> {
    /// Takes the properties out of a packet. In 3.1.1 there are none, not even their length.
    pub(super) fn take(packet: &mut Fields<'a>) -> Result<Self, BadPacket> {
        let bytes = match packet.version() {
            Version::V3 => 0,
            Version::V5 => packet.varint()? as usize,
        };
        Ok(Self { fields: packet.part(bytes)?, seen: 0 })
    }

    /// The same for a packet that may end before its properties.
    pub(super) fn take_if_any(packet: &mut Fields<'a>) -> Result<Self, BadPacket> {
        match packet.is_empty() {
            true => Ok(Self { fields: *packet, seen: 0 }),
            false => Self::take(packet),
        }
    }

    /// The identifier of the next property; its value must be read then.
    pub(super) fn next(&mut self) -> Result<Option<u8>, BadPacket> {
        if self.fields.is_empty() {
            return Ok(None);
        }
        let id = match u8::try_from(self.fields.varint()?) {
            Ok(id @ 0..64) => id,
            _ => return Err(self.misplaced()),
        };
        let bit = 1 << id;
        if self.seen & bit != 0 && id != id::USER {
            return Err(self.fields.broken(&rules::REPEATED_PROPERTY));
        }
        self.seen |= bit;
        Ok(Some(id))
    }

    /// Where the value of the present property stands.
    pub(super) fn value(&mut self) -> &mut Fields<'a> {
        &mut self.fields
    }

    /// A value of 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, BadPacket> {
        match self.fields.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.fields.broken(&rules::NOT_A_FLAG)),
        }
    }

    /// A name and a value, checked, as they stand there.
    fn pair(&mut self) -> Result<&'a [u8], BadPacket> {
        let start = self.fields.rest();
        self.fields.text()?;
        self.fields.text()?;
        Ok(&start[..start.len() - self.fields.rest().len()])
    }

    /// Checks a user property that nobody wants.
    pub(super) fn skip_user(&mut self) -> Result<(), BadPacket> {
        self.pair().map(|_| ())
    }

    /// The packet must not have the present property.
    pub(super) fn misplaced(&self) -> BadPacket {
        self.fields.broken(&rules::MISPLACED_PROPERTY)
    }
}

/// What travels with a message unchanged from its publisher to its subscribers (section 3.3.2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// 0: bytes, 1: UTF-8. Passed on, and not checked: a broken payload is kept and reported, not refused.
    pub(crate) payload_format: Option<u8>,
    /// Seconds.
    pub(crate) message_expiry: Option<u32>,
    pub(crate) content_type: Option<String>,
    /// A topic name.
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Bytes>,
    pub(crate) user: UserProperties,
}

impl Properties {
    /// Reads one that travels with a message.
    pub(super) fn read(&mut self, id: u8, from: &mut PropertyFields<'_>) -> Result<(), BadPacket> {
        match id {
            id::PAYLOAD_FORMAT => self.payload_format = Some(from.flag()?.into()),
            id::MESSAGE_EXPIRY => self.message_expiry = Some(from.value().u32()?),
            id::CONTENT_TYPE => self.content_type = Some(from.value().text()?.to_owned()),
            id::RESPONSE_TOPIC => {
                let topic = from.value().topic(&rules::RESPONSE_WILDCARD)?;
                if topic.is_empty() {
                    return Err(from.fields.broken(&rules::EMPTY_TOPIC));
                }
                self.response_topic = Some(topic.to_owned());
            }
            id::CORRELATION_DATA => {
                self.correlation_data = Some(Bytes::copy_from_slice(from.value().bytes()?));
            }
            id::USER => self.user.push_encoded(from.pair()?),
            _ => return Err(from.misplaced()),
        }
        Ok(())
    }

    /// The length of all but the expiry when they are written, and about what they cost in memory.
    pub(crate) fn lasting_bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, |text| 3 + text.len());
        self.payload_format.map_or(0, |_| 2)
            + text(&self.content_type)
            + text(&self.response_topic)
            + self.correlation_data.as_ref().map_or(0, |data| 3 + data.len())
            + self.user.0.len()
    }

    /// Writes all but the expiry, which becomes less while the message waits.
    pub(super) fn put_lasting(&self, out: &mut impl BufMut) {
        if let Some(format) = self.payload_format {
            out.put_slice(&[id::PAYLOAD_FORMAT, format]);
        }
        if let Some(content_type) = &self.content_type {
            out.put_u8(id::CONTENT_TYPE);
            put_text(content_type, out);
        }
        if let Some(topic) = &self.response_topic {
            out.put_u8(id::RESPONSE_TOPIC);
            put_text(topic, out);
        }
        if let Some(data) = &self.correlation_data {
            out.put_u8(id::CORRELATION_DATA);
            put_bytes(data, out);
        }
        out.put_slice(&self.user.0);
    }
}

pub(super) fn put_message_expiry(seconds: u32, out: &mut impl BufMut) {
    out.put_u8(id::MESSAGE_EXPIRY);
    out.put_u32(seconds);
}

/// Names and values that mean something to publisher and subscriber, in the order in which they came
/// (MQTT-3.3.2-18). Kept as they stand in a packet: many empty ones cost no more than they did on the wire.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct UserProperties(Vec<u8>);

impl UserProperties {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut fields = Fields::new(&self.0, Version::V5);
        std::iter::from_fn(move || {
            fields.byte().ok()?;
            Some((fields.text().ok()?, fields.text().ok()?))
        })
    }

    fn push_encoded(&mut self, pair: &[u8]) {
        self.0.push(id::USER);
        self.0.extend_from_slice(pair);
    }
}

/// At most 65,535 bytes each, without NUL.
impl<'a> FromIterator<(&'a str, &'a str)> for UserProperties {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(pairs: T) -> Self {
        let mut encoded = Vec::new();
        for (name, value) in pairs {
            encoded.push(id::USER);
            put_text(name, &mut encoded);
            put_text(value, &mut encoded);
        }
        Self(encoded)
    }
}

impl fmt::Debug for UserProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
