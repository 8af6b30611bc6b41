//! How messages are written for one client: its version, its largest packet, its topic aliases.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::BytesMut;

use super::queue::Parcel;
use crate::authorize::keyed::KeyedTopics;
use crate::broker::message::Remaining;
use crate::broker::wire::{self, Ack, AckKind, Answer, Connect, Delivery, Packet, Reason, Version};
use crate::clock::Clock;
use crate::message::Qos;

/// Topic aliases that are given to one client at most.
const MAX_ALIASES: u16 = 32;

/// Topics that are not longer cost no more than the alias.
const MIN_ALIASED_BYTES: usize = 4;

/// Longer topics are not remembered.
const MAX_ALIASED_BYTES: usize = 256;

/// Why a message is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsendable {
    /// Its time is over.
    Expired,
    /// It is larger than the client takes (MQTT-3.1.2-24).
    TooLarge,
    /// The client may not receive it.
    Forbidden,
}

/// Writes for one client.
#[derive(Debug)]
pub(in crate::broker) struct Outlet {
    version: Version,
    max_packet_bytes: Option<u32>,
    aliases: Option<Box<Aliases>>,
    /// Of topics that may hold API keys, this client is shown its own.
    keyed: Option<Box<KeyedTopics>>,
}

/// The topics that the client knows by number: the first ones that came, as devices hear few.
#[derive(Debug)]
struct Aliases {
    max: u16,
    topics: HashMap<Box<str>, u16>,
}

impl Outlet {
    pub(in crate::broker) fn new(connect: &Connect, keyed: Option<Box<KeyedTopics>>) -> Self {
        let max = connect.topic_alias_maximum.min(MAX_ALIASES);
        Self {
            version: connect.version,
            max_packet_bytes: connect.max_packet_bytes,
            aliases: (max > 0).then(|| Box::new(Aliases { max, topics: HashMap::new() })),
            keyed,
        }
    }

    /// Turns the topics that the client has written into those of the gateway: no API key goes on from here.
    pub(in crate::broker) fn turn_inward(&self, packet: &mut Packet) {
        let Some(keyed) = &self.keyed else { return };
        let turn = |topic: &mut String| {
            if let Cow::Owned(turned) = keyed.inward(topic) {
                *topic = turned;
            }
        };
        match packet {
            Packet::Publish(publish) => turn(&mut publish.topic),
            Packet::Subscribe(subscribe) => {
                subscribe.filters.iter_mut().for_each(|wanted| turn(&mut wanted.filter));
            }
            Packet::Unsubscribe(unsubscribe) => unsubscribe.filters.iter_mut().for_each(turn),
            Packet::Ack(_) | Packet::PingReq | Packet::Disconnect(_) | Packet::Auth => {}
        }
    }

    /// Writes an answer.
    ///
    /// # Errors
    /// When it cannot be given, and the connection cannot go on.
    pub(in crate::broker) fn answer(
        &self,
        answer: &Answer,
        out: &mut BytesMut,
    ) -> Result<(), wire::Unsendable> {
        wire::write(answer, self.version, self.max_packet_bytes, out)
    }

    pub(super) fn release(&self, packet_id: u16, out: &mut BytesMut) -> Result<(), Unsendable> {
        let ack = Ack { kind: AckKind::Pubrel, packet_id, reason: Reason::Success };
        self.answer(&Answer::Ack(ack), out).map_err(|_| Unsendable::TooLarge)
    }

    /// Writes a message for the first time.
    pub(super) fn send(
        &mut self,
        parcel: &Parcel,
        packet_id: u16,
        clock: &Clock,
        out: &mut BytesMut,
    ) -> Result<(), Unsendable> {
        match parcel.message.remaining(clock) {
            Remaining::Expired => Err(Unsendable::Expired),
            remaining => self.write(parcel, packet_id, false, remaining, out),
        }
    }

    /// Writes a message that was sent over an earlier connection. Its delivery has begun: its time does not matter.
    pub(super) fn repeat(
        &mut self,
        parcel: &Parcel,
        packet_id: u16,
        clock: &Clock,
        out: &mut BytesMut,
    ) -> Result<(), Unsendable> {
        self.write(parcel, packet_id, true, parcel.message.remaining(clock), out)
    }

    fn write(
        &mut self,
        Parcel { message, qos, retain, identifiers }: &Parcel,
        packet_id: u16,
        dup: bool,
        remaining: Remaining,
        out: &mut BytesMut,
    ) -> Result<(), Unsendable> {
        debug_assert_eq!(packet_id == 0, *qos == Qos::AtMostOnce);
        let topic = match &self.keyed {
            Some(keyed) => keyed.outward(&message.topic),
            None => Cow::Borrowed(message.topic.as_str()),
        };
        let mut delivery = Delivery {
            topic: &topic,
            topic_alias: None,
            payload: &message.payload,
            properties: message.properties.as_deref(),
            message_expiry: remaining.seconds(),
            subscription_ids: identifiers.as_slice(),
            qos: *qos,
            dup,
            retain: *retain,
            packet_id,
        };
        let alias = self.aliases.as_ref().and_then(|aliases| aliases.of(&message.topic));
        if let Some((alias, known)) = alias {
            delivery.topic_alias = Some(alias);
            if known {
                delivery.topic = "";
            }
        }
        if let Some(max) = self.max_packet_bytes
            && wire::publish_bytes(&delivery, self.version) as u64 > u64::from(max)
        {
            return Err(Unsendable::TooLarge);
        }
        wire::put_publish(&delivery, self.version, out);
        if let (Some((alias, false)), Some(aliases)) = (alias, &mut self.aliases) {
            aliases.topics.insert(message.topic.as_str().into(), alias);
        }
        Ok(())
    }
}

impl Aliases {
    /// The alias of a topic, and whether the client knows it.
    fn of(&self, topic: &str) -> Option<(u16, bool)> {
        if !(MIN_ALIASED_BYTES..=MAX_ALIASED_BYTES).contains(&topic.len()) {
            return None;
        }
        if let Some(alias) = self.topics.get(topic) {
            return Some((*alias, true));
        }
        let next = u16::try_from(self.topics.len()).ok()? + 1;
        (next <= self.max).then_some((next, false))
    }
}
