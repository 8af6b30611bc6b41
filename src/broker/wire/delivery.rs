//! A PUBLISH to a subscriber (section 3.3), written straight into the output of its connection.

use bytes::{BufMut, BytesMut};

use super::fields::varint_bytes;
use super::properties::put_message_expiry;
use super::write::{put_header, put_text, put_varint};
use super::{Properties, Version, id};
use crate::message::Qos;

/// A message as it goes to one subscriber.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    /// May be empty when an alias stands for it.
    pub(crate) topic: &'a str,
    pub(crate) topic_alias: Option<u16>,
    pub(crate) payload: &'a [u8],
    pub(crate) properties: Option<&'a Properties>,
    /// Seconds that are left, in place of what the properties say.
    pub(crate) message_expiry: Option<u32>,
    /// Of the subscriptions that it matches, each at least 1.
    pub(crate) subscription_ids: &'a [u32],
    pub(crate) qos: Qos,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// 0 with QoS 0, and only then.
    pub(crate) packet_id: u16,
}

/// Writes a message.
pub(crate) fn put_publish(delivery: &Delivery<'_>, version: Version, out: &mut BytesMut) {
    let property_bytes = delivery.property_bytes();
    let remaining = delivery.remaining_bytes(version, property_bytes);
    out.reserve(frame_bytes(remaining));
    let dup_and_retain = u8::from(delivery.dup) << 3 | u8::from(delivery.retain);
    put_header(0x30 | dup_and_retain | (delivery.qos as u8) << 1, remaining, out);
    put_text(delivery.topic, out);
    if delivery.qos != Qos::AtMostOnce {
        out.put_u16(delivery.packet_id);
    }
    if version == Version::V5 {
        match property_bytes {
            0 => out.put_u8(0),
            bytes => {
                put_varint(bytes, out);
                delivery.put_properties(out);
            }
        }
    }
    out.put_slice(delivery.payload);
}

/// The length of the whole packet that [`put_publish`] writes.
pub(crate) fn publish_bytes(delivery: &Delivery<'_>, version: Version) -> usize {
    frame_bytes(delivery.remaining_bytes(version, delivery.property_bytes()))
}

fn frame_bytes(remaining: usize) -> usize {
    1 + varint_bytes(remaining) + remaining
}

impl Delivery<'_> {
    fn remaining_bytes(&self, version: Version, property_bytes: usize) -> usize {
        let packet_id = if self.qos == Qos::AtMostOnce { 0 } else { 2 };
        let properties = match version {
            Version::V3 => 0,
            Version::V5 => varint_bytes(property_bytes) + property_bytes,
        };
        2 + self.topic.len() + packet_id + properties + self.payload.len()
    }

    fn property_bytes(&self) -> usize {
        self.properties.map_or(0, Properties::lasting_bytes)
            + self.message_expiry.map_or(0, |_| 5)
            + self.topic_alias.map_or(0, |_| 3)
            + self.subscription_ids.iter().map(|id| 1 + varint_bytes(*id as usize)).sum::<usize>()
    }

    fn put_properties(&self, out: &mut BytesMut) {
        if let Some(alias) = self.topic_alias {
            out.put_u8(id::TOPIC_ALIAS);
            out.put_u16(alias);
        }
        if let Some(seconds) = self.message_expiry {
            put_message_expiry(seconds, out);
        }
        if let Some(properties) = self.properties {
            properties.put_lasting(out);
        }
        // At the end, where a client of `rumqttc` 0.25, which counts them wrongly, can still read one or two.
        for number in self.subscription_ids {
            out.put_u8(id::SUBSCRIPTION_ID);
            put_varint(*number as usize, out);
        }
    }
}
