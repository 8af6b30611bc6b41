//! A message as subscribers share it, and as it is kept on disk.

use super::record::{Decoder, Encoder};
use super::wire::Properties;
use crate::clock::Clock;
use crate::message::{Qos, Stamp};
use bytes::Bytes;

/// What a message costs in memory besides its bytes.
const OVERHEAD_BYTES: usize = 160;

/// A message that somebody wants: made once, shared by all who do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// `None` when all are empty.
    pub(super) properties: Option<Box<Properties>>,
    /// As it was published.
    pub(super) qos: Qos,
    /// As it was published.
    pub(super) retain: bool,
    /// When it came; its expiry counts from then.
    pub(super) received: Stamp,
    /// When it expires, milliseconds on the boot clock of this boot.
    expires_boot_ms: Option<u64>,
    /// The number of the session that published it; 0 for none that is known.
    pub(super) from: u64,
}

/// How long a message may still be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remaining {
    Unlimited,
    /// At least 1.
    Seconds(u32),
    Expired,
}

impl Remaining {
    /// The seconds to be forwarded.
    pub(super) fn seconds(self) -> Option<u32> {
        match self {
            Self::Seconds(seconds) => Some(seconds),
            Self::Unlimited | Self::Expired => None,
        }
    }
}

impl Message {
    pub(super) fn new(
        topic: String,
        payload: Bytes,
        properties: Option<Box<Properties>>,
        qos: Qos,
        retain: bool,
        received: Stamp,
        from: u64,
    ) -> Self {
        let expiry = properties.as_ref().and_then(|properties| properties.message_expiry);
        let expires_boot_ms = expiry.map(|seconds| received.boot_ms.saturating_add(u64::from(seconds) * 1_000));
        Self { topic, payload, properties, qos, retain, received, expires_boot_ms, from }
    }

    /// What it costs in memory.
    pub(super) fn cost(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_cost);
        OVERHEAD_BYTES + self.topic.len() + self.payload.len() + properties
    }

    /// How long it may still be sent (MQTT-3.3.2-5, MQTT-3.3.2-6).
    pub(super) fn remaining(&self, now_boot_ms: u64) -> Remaining {
        match self.expires_boot_ms {
            None => Remaining::Unlimited,
            Some(at) => match at.saturating_sub(now_boot_ms).div_ceil(1_000) {
                0 => Remaining::Expired,
                seconds => Remaining::Seconds(u32::try_from(seconds).unwrap_or(u32::MAX)),
            },
        }
    }

    /// Whether it has an end.
    pub(super) fn expires(&self) -> bool {
        self.expires_boot_ms.is_some()
    }

    /// Appends it to a record.
    pub(super) fn encode(&self, record: &mut Encoder) {
        record.text(&self.topic).bytes(&self.payload).u8(self.qos as u8).u8(self.retain.into());
        record.stamp(&self.received);
        record.option(self.properties.as_deref(), |record, properties| {
            record
                .option(properties.payload_format, |record, format| drop(record.u8(format)))
                .option(properties.message_expiry, |record, seconds| drop(record.u32(seconds)))
                .option(properties.content_type.as_deref(), |record, text| drop(record.text(text)))
                .option(properties.response_topic.as_deref(), |record, text| drop(record.text(text)))
                .option(properties.correlation_data.as_deref(), |record, data| drop(record.bytes(data)))
                .u32(u32::try_from(properties.user.len()).expect("they came in one packet"));
            for (name, value) in &properties.user {
                record.text(name).text(value);
            }
        });
    }

    /// Reads it from a record. How old it is, the clock says.
    pub(super) fn decode(record: &mut Decoder<'_>, clock: &Clock, now: Stamp) -> Option<Self> {
        let (topic, payload) = (record.owned_text()?, record.owned_bytes()?);
        let (qos, retain, received) = (record.qos()?, record.flag()?, record.stamp()?);
        let properties = record.option(decode_properties)?;
        let mut message = Self::new(topic, payload, properties, qos, retain, received, 0);
        if let Some(at) = &mut message.expires_boot_ms {
            let life_ms = at.saturating_sub(received.boot_ms);
            let age_ms = age_ms(clock, &received, &now);
            *at = now.boot_ms.saturating_add(life_ms.saturating_sub(age_ms));
        }
        Some(message)
    }
}

fn properties_cost(properties: &Properties) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let user = properties.user.iter().map(|(name, value)| 48 + name.len() + value.len());
    128 + text(&properties.content_type)
        + text(&properties.response_topic)
        + properties.correlation_data.as_ref().map_or(0, Bytes::len)
        + user.sum::<usize>()
}

fn decode_properties(record: &mut Decoder<'_>) -> Option<Box<Properties>> {
    Some(Box::new(Properties {
        payload_format: record.option(Decoder::u8)?,
        message_expiry: record.option(Decoder::u32)?,
        content_type: record.option(Decoder::owned_text)?,
        response_topic: record.option(Decoder::owned_text)?,
        correlation_data: record.option(Decoder::owned_bytes)?,
        user: (0..record.u32()?)
            .map(|_| Some((record.owned_text()?, record.owned_text()?)))
            .collect::<Option<_>>()?,
    }))
}

/// Milliseconds between two stamps. Of another boot only the wall clock tells, and when that was not
/// synchronised at either end, nobody: then none have passed, so that nothing ends too early.
pub(super) fn age_ms(clock: &Clock, earlier: &Stamp, now: &Stamp) -> u64 {
    use crate::clock::{Resolved, TimeQuality};
    if earlier.boot == now.boot {
        return now.boot_ms.saturating_sub(earlier.boot_ms);
    }
    let known = |stamp| match clock.resolve(stamp) {
        Resolved::At(ms, TimeQuality::Synchronized | TimeQuality::Corrected) => Some(ms),
        Resolved::At(_, TimeQuality::Unsynchronized) | Resolved::Wait => None,
    };
    match (known(earlier), known(now)) {
        (Some(earlier), Some(now)) => u64::try_from(now.saturating_sub(earlier)).unwrap_or(0),
        _ => 0,
    }
}
