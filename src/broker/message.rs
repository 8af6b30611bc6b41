//! A message as subscribers share it, and as it is kept on disk.

use std::time::Duration;

use bytes::Bytes;

use super::wire::Properties;
use crate::authorize::Identity;
use crate::buffer::{Decoder, Encoder};
use crate::clock::Clock;
use crate::message::{CommandId, Qos, Stamp};

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
    /// Who has published it; known of a message that is retained.
    pub(super) from: Option<Origin>,
    /// The command that it carries.
    pub(super) command: Option<CommandId>,
}

/// Who has published a message: a mark of the client id, and of the identity that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin(u64);

impl Origin {
    pub(super) fn of(Identity { device, kind }: &Identity, client_id: &str) -> Self {
        // No part but the last can hold a NUL.
        let name = format!("{}\0{device}\0{client_id}", kind.as_str());
        let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
        let start = digest.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(*start))
    }
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
        from: Option<Origin>,
    ) -> Self {
        Self { topic, payload, properties, qos, retain, received, from, command: None }
    }

    /// What it costs in memory.
    pub(super) fn cost(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, properties_cost);
        OVERHEAD_BYTES + self.topic.len() + self.payload.len() + properties
    }

    /// How long it may still be sent (MQTT-3.3.2-5, MQTT-3.3.2-6).
    ///
    /// It never ends too early: of a message from before a reboot, so much time has passed as is certain (see
    /// [`Clock::age`]). While the wall clock cannot be trusted that is the time since the boot, so that a message
    /// may live on until the clock is right; if nobody ever knew when it came, for its whole time once more.
    pub(super) fn remaining(&self, clock: &Clock) -> Remaining {
        let Some(seconds) = self.expiry() else { return Remaining::Unlimited };
        let left = Duration::from_secs(seconds.into()).saturating_sub(clock.age(&self.received));
        match u32::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX) {
            0 => Remaining::Expired,
            seconds => Remaining::Seconds(seconds),
        }
    }

    /// Seconds that it may be sent, from when it came.
    fn expiry(&self) -> Option<u32> {
        self.properties.as_ref()?.message_expiry
    }

    /// Appends it to a record.
    pub(super) fn encode(&self, record: &mut Encoder) {
        record.text(&self.topic).bytes(&self.payload).u8(self.qos as u8).u8(self.retain.into());
        record.stamp(&self.received).option(self.properties.as_deref(), encode_properties);
        record.option(self.from, |to, Origin(mark)| to.u64(mark));
    }

    /// Reads it from a record.
    pub(super) fn decode(record: &mut Decoder<'_>) -> Option<Self> {
        let (topic, payload) = (record.owned_text()?, record.owned_bytes()?);
        let (qos, retain, received) = (record.qos()?, record.flag()?, record.stamp()?);
        let properties = record.option(decode_properties)?;
        let from = record.option(Decoder::u64)?.map(Origin);
        Some(Self::new(topic, payload, properties, qos, retain, received, from))
    }
}

pub(super) fn properties_cost(properties: &Properties) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let user = properties.user.iter().map(|(name, value)| 5 + name.len() + value.len());
    128 + text(&properties.content_type)
        + text(&properties.response_topic)
        + properties.correlation_data.as_ref().map_or(0, Bytes::len)
        + user.sum::<usize>()
}

pub(super) fn encode_properties<'a>(record: &'a mut Encoder, properties: &Properties) -> &'a mut Encoder {
    record
        .option(properties.payload_format, |to, format| to.u8(format))
        .option(properties.message_expiry, |to, seconds| to.u32(seconds))
        .option(properties.content_type.as_deref(), |to, text| to.text(text))
        .option(properties.response_topic.as_deref(), |to, text| to.text(text))
        .option(properties.correlation_data.as_deref(), |to, data| to.bytes(data))
        .u32(u32::try_from(properties.user.iter().count()).expect("they came in one packet"));
    for (name, value) in properties.user.iter() {
        record.text(name).text(value);
    }
    record
}

pub(super) fn decode_properties(record: &mut Decoder<'_>) -> Option<Box<Properties>> {
    Some(Box::new(Properties {
        payload_format: record.option(Decoder::u8)?,
        message_expiry: record.option(Decoder::u32)?,
        content_type: record.option(Decoder::owned_text)?,
        response_topic: record.option(Decoder::owned_text)?,
        correlation_data: record.option(Decoder::owned_bytes)?,
        user: (0..record.u32()?).map(|_| Some((record.text()?, record.text()?))).collect::<Option<_>>()?,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{self, ClockSource};
    use crate::message::{BootId, ClockQuality};

    fn properties() -> impl Strategy<Value = Properties> {
        let text = || prop::option::of(".{0,9}");
        let data = prop::option::of(prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from));
        let user = prop::collection::vec(("[a-zü]{0,5}", "[a-zü]{0,5}"), 0..4);
        (prop::option::of(0..2_u8), any::<Option<u32>>(), text(), text(), data, user).prop_map(
            |(payload_format, message_expiry, content_type, response_topic, correlation_data, user)| {
                Properties {
                    payload_format,
                    message_expiry,
                    content_type,
                    response_topic,
                    correlation_data,
                    user: user.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
                }
            },
        )
    }

    fn stamp() -> impl Strategy<Value = Stamp> {
        any::<(i64, u64, [u8; 16], bool)>().prop_map(|(wall_ms, boot_ms, boot, synchronized)| Stamp {
            wall_ms,
            boot_ms,
            boot: BootId(boot),
            quality: if synchronized { ClockQuality::Synchronized } else { ClockQuality::Unsynchronized },
        })
    }

    prop_compose! {
        fn message()(
            topic in ".{1,20}",
            payload in prop::collection::vec(any::<u8>(), 0..50),
            properties in prop::option::of(properties()),
            qos in prop::sample::select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]),
            retain in any::<bool>(),
            received in stamp(),
            from in any::<Option<u64>>(),
        ) -> Message {
            Message::new(topic, payload.into(), properties.map(Box::new), qos, retain, received, from.map(Origin))
        }
    }

    fn encoded(message: &Message) -> Vec<u8> {
        let mut record = Encoder::new();
        message.encode(&mut record);
        record.finish()
    }

    fn decoded(bytes: &[u8]) -> Option<Message> {
        let mut record = Decoder::new(bytes)?;
        let message = Message::decode(&mut record)?;
        record.end().map(|()| message)
    }

    proptest! {
        #[test]
        fn a_message_comes_back_from_its_record_as_it_was(message in message()) {
            prop_assert_eq!(decoded(&encoded(&message)), Some(message));
        }

        #[test]
        fn a_record_that_was_cut_or_has_more_behind_it_is_none(message in message(), cut in 1..200_usize) {
            let mut record = encoded(&message);
            prop_assert_eq!(decoded(&record[..record.len().saturating_sub(cut)]), None);
            record.push(0);
            prop_assert_eq!(decoded(&record), None);
        }

        #[test]
        fn a_damaged_record_does_no_harm(message in message(), at in any::<prop::sample::Index>(), to: u8) {
            let mut record = encoded(&message);
            let at = at.index(record.len());
            record[at] = to;
            decoded(&record);
        }
    }

    #[test]
    fn what_is_left_of_a_message_counts_down_on_the_boot_clock() {
        let dir = tempfile::tempdir().unwrap();
        let settings = config::Clock { source: ClockSource::Trusted, ..config::Clock::default() };
        let clock = Clock::start(&settings, &dir.path().join("floor"), BTreeMap::new()).unwrap();
        let remaining = |seconds_ago: u64, expiry| {
            let now = clock.stamp();
            let received =
                Stamp { boot_ms: now.boot_ms.saturating_sub(seconds_ago * 1_000), wall_ms: 0, ..now };
            let properties = Properties { message_expiry: expiry, ..Properties::default() };
            Message::new(
                "t".into(),
                Bytes::new(),
                Some(Box::new(properties)),
                Qos::AtMostOnce,
                false,
                received,
                None,
            )
            .remaining(&clock)
        };
        assert_eq!(remaining(5, None), Remaining::Unlimited);
        assert_eq!(remaining(5, Some(5)), Remaining::Expired);
        assert_eq!(remaining(0, Some(0)), Remaining::Expired);
        let Remaining::Seconds(left) = remaining(5, Some(3_600)) else { panic!("expired") };
        assert!((3_500..=3_595).contains(&left), "{left} s");
        assert!(matches!(remaining(0, Some(u32::MAX)), Remaining::Seconds(_)));
    }
}
