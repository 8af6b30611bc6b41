//! What a session may hear: SUBSCRIBE, UNSUBSCRIBE, and rules that change.

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, Unsubscribe};

use super::{End, Session};
use crate::authorize::IdentityKind;
use crate::authorize::refusals::Refusal;
use crate::broker::packet::{self, BadPacket};
use crate::broker::subscriptions::{Filter, Options, Subscription, Subscriptions};
use crate::message::Qos;

impl Session {
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe, out: &mut BytesMut) -> Result<(), End> {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for wanted in &subscribe.filters {
            let filter = parse_filter(&wanted.path)?;
            let qos = match wanted.qos {
                QoS::AtMostOnce => Qos::AtMostOnce,
                // A lower QoS than asked for may be granted (MQTT-3.8.4-6).
                QoS::AtLeastOnce | QoS::ExactlyOnce => Qos::AtLeastOnce,
            };
            codes.push(match self.grant(filter, qos) {
                Ok(Qos::AtMostOnce) => SubscribeReasonCode::Success(QoS::AtMostOnce),
                Ok(Qos::AtLeastOnce) => SubscribeReasonCode::Success(QoS::AtLeastOnce),
                Ok(Qos::ExactlyOnce) => SubscribeReasonCode::Success(QoS::ExactlyOnce),
                Err(refusal) => {
                    self.refuse(refusal, &wanted.path);
                    SubscribeReasonCode::Failure
                }
            });
        }
        // One code for each filter, in their order (MQTT-3.8.4-5).
        packet::write(&Packet::SubAck(SubAck::new(subscribe.pkid, codes)), out);
        Ok(())
    }

    fn grant(&mut self, filter: Filter, qos: Qos) -> Result<Qos, Refusal> {
        if !self.rules.authorizer.may_subscribe(&self.key.identity, &filter.topics) {
            return Err(Refusal::SubscribeNotAllowed);
        }
        let is_new = !self.filters.contains(&filter);
        let too_many = is_new && self.filters.len() >= self.broker.limits.max_subscriptions;
        if too_many || !Subscriptions::can_hold(&filter) {
            return Err(Refusal::SubscribeImpossible);
        }
        let options = Options { qos, no_local: false, retain_as_published: false };
        let subscription = Subscription { filter, options, identifier: None };
        self.broker.subscriptions.add(&subscription, &self.mailbox);
        if is_new {
            self.filters.push(subscription.filter);
        }
        Ok(qos)
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe, out: &mut BytesMut) -> Result<(), End> {
        for topic in &unsubscribe.topics {
            let filter = parse_filter(topic)?;
            if let Some(index) = self.filters.iter().position(|held| *held == filter) {
                self.filters.swap_remove(index);
                self.broker.subscriptions.remove([&filter], &self.mailbox);
            }
        }
        // Also when there was no such subscription (MQTT-3.10.4-5).
        packet::write(&Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)), out);
        Ok(())
    }

    /// Whether the identity that the listener gave it is one by the present rules.
    pub(super) fn check_identity(&self) -> Result<(), End> {
        let identity = &self.key.identity;
        if identity.kind == IdentityKind::Anonymous
            && self.rules.authorizer.anonymous().as_ref() != Some(identity)
        {
            let what = "devices without a certificate are not let in any more".to_owned();
            return Err(End::Refused(Refusal::CertificateMissing, what));
        }
        Ok(())
    }

    pub(super) fn take_new_rules(&mut self) -> Result<(), End> {
        self.rules = self.broker.rules();
        self.routes.clear();
        self.check_identity()?;
        let (identity, authorizer) = (&self.key.identity, &self.rules.authorizer);
        match self.filters.iter().find(|filter| !authorizer.may_subscribe(identity, &filter.topics)) {
            // 3.1.1 cannot take a subscription back; the client gets its 0x80 when it connects again.
            Some(filter) => Err(End::Refused(Refusal::SubscribeNotAllowed, filter.to_string())),
            None => Ok(()),
        }
    }
}

fn parse_filter(text: &str) -> Result<Filter, BadPacket> {
    Filter::parse(text).map_err(|error| {
        packet::violation(error.statement(), "what is not a topic filter in a SUBSCRIBE or UNSUBSCRIBE")
    })
}
