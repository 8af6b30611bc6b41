//! What a session may hear: SUBSCRIBE, UNSUBSCRIBE, and rules that change.

use bytes::BytesMut;

use super::{End, Session};
use crate::authorize::refusals::Refusal;
use crate::broker::kept;
use crate::broker::subscriptions::{Filter, InvalidSubscription, Subscription};
use crate::broker::wire::{Answer, Reason, RetainHandling, Subscribe, Unsubscribe};
use crate::message::Qos;

impl Session {
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe, out: &mut BytesMut) -> Result<(), End> {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for (index, wanted) in subscribe.filters.iter().enumerate() {
            if index >= self.broker.limits.max_subscriptions.saturating_mul(2) {
                // Each costs a look at the rules, the subscriptions and what is retained; some may be there already.
                codes.push(Reason::QuotaExceeded);
                continue;
            }
            let subscription = Subscription::parse(wanted, subscribe.identifier)?;
            if let Err(beyond) = self.broker.topics.check(&wanted.filter) {
                self.refuse(Refusal::TopicTooLong, &format!("a filter of {beyond}: {}", wanted.filter));
                codes.push(Reason::TopicFilterInvalid);
                continue;
            }
            codes.push(match self.grant(subscription, wanted.retain_handling)? {
                Ok(Qos::AtMostOnce) => Reason::Success,
                Ok(Qos::AtLeastOnce) => Reason::GrantedQos1,
                Ok(Qos::ExactlyOnce) => Reason::GrantedQos2,
                Err((refusal, reason)) => {
                    self.refuse(refusal, &wanted.filter);
                    reason
                }
            });
        }
        if self.mailbox.is_kept() {
            // Whatever is retained is on disk for it by the time of the SUBACK, or that it is owed.
            self.give_retained();
        }
        self.keep_session()?;
        // One code for each filter, in their order (MQTT-3.8.4-5, in 5.0 -6).
        self.owe_behind_backlog(Answer::SubAck { packet_id: subscribe.packet_id, codes }, out)
    }

    fn grant(
        &mut self,
        mut subscription: Subscription,
        retain_handling: RetainHandling,
    ) -> Result<Result<Qos, (Refusal, Reason)>, End> {
        let Subscription { filter, options, owed, .. } = &mut subscription;
        let authorizer = &self.publisher.rules.authorizer;
        let decision = authorizer.may_subscribe(&self.publisher.who, &filter.topics, options.qos);
        if !decision.allowed {
            return Ok(Err((Refusal::SubscribeNotAllowed, Reason::NotAuthorized)));
        }
        options.qos = options.qos.min(decision.max_qos);
        let qos = options.qos;
        // As long as the session is held, it cannot end and leave the subscription behind.
        let mut held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
        let place = held.subscriptions.iter().position(|present| present.filter == *filter);
        if place.is_none() && held.subscriptions.len() >= self.broker.limits.max_subscriptions {
            return Ok(Err((Refusal::SubscribeImpossible, Reason::QuotaExceeded)));
        }
        let wants_retained = match retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => place.is_none(),
            RetainHandling::Never => false,
        };
        *owed = match place {
            _ if filter.share.is_some() => None,
            _ if wants_retained => Some("".into()),
            place => place.and_then(|place| held.subscriptions[place].owed.take()),
        };
        if owed.is_some() {
            (self.gives, self.mail) = (true, true);
        }
        self.broker.subscriptions.add(&subscription, &self.mailbox);
        match place {
            Some(place) => held.subscriptions[place] = subscription,
            None => held.subscriptions.push(subscription),
        }
        // What waited for it in the ledger.
        (self.commands, self.mail) = (true, true);
        Ok(Ok(qos))
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe, out: &mut BytesMut) -> Result<(), End> {
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for text in &unsubscribe.filters {
            let filter = Filter::parse(text)?;
            let mut held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
            let place = held.subscriptions.iter().position(|present| present.filter == filter);
            codes.push(match place {
                Some(place) => {
                    held.subscriptions.swap_remove(place);
                    self.broker.subscriptions.remove([&filter], &self.mailbox);
                    Reason::Success
                }
                None => Reason::NoSubscriptionExisted,
            });
        }
        self.keep_session()?;
        // Also when there was no such subscription (MQTT-3.10.4-5).
        self.owe_behind_backlog(Answer::UnsubAck { packet_id: unsubscribe.packet_id, codes }, out)
    }

    /// Puts the session as it is now into the backlog.
    pub(super) fn keep_session(&mut self) -> Result<(), End> {
        if self.mailbox.is_kept() {
            let held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
            let record =
                kept::put_session(self.mailbox.number, &self.key, held.expiry, None, &held.subscriptions);
            drop(held);
            self.backlog.push(record);
        }
        Ok(())
    }

    /// The session's identity and what it has subscribed to are checked by the rules as they are now.
    pub(super) fn take_new_rules(&mut self) -> Result<(), End> {
        self.publisher.take_rules(self.broker.rules());
        self.asks = true;
        (self.commands, self.mail) = (true, true);
        self.check_identity()?;
        let forbidden = self.drop_forbidden()?;
        let Some(first) = forbidden.first() else { return Ok(()) };
        self.keep_session()?;
        self.submit_backlog()?;
        // A subscription cannot be taken back in so many words; the client hears no when it asks again.
        Err(End::refused(Refusal::SubscribeNotAllowed, Reason::NotAuthorized, first.filter.to_string()))
    }

    /// Takes away the subscriptions that the client may not have.
    pub(super) fn drop_forbidden(&mut self) -> Result<Vec<Subscription>, End> {
        let (who, authorizer) = (&self.publisher.who, &self.publisher.rules.authorizer);
        let may =
            |it: &Subscription| authorizer.may_subscribe(who, &it.filter.topics, it.options.qos).allowed;
        let mut held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
        if held.subscriptions.iter().all(may) {
            return Ok(Vec::new());
        }
        let (allowed, forbidden) = std::mem::take(&mut held.subscriptions).into_iter().partition(may);
        held.subscriptions = allowed;
        let forbidden: Vec<Subscription> = forbidden;
        self.broker.subscriptions.remove(forbidden.iter().map(|it| &it.filter), &self.mailbox);
        Ok(forbidden)
    }

    /// Whether the client is let in by the rules as they are now.
    pub(super) fn check_identity(&self) -> Result<(), End> {
        let admitted = self.publisher.rules.authorizer.admits(&self.publisher.who);
        admitted.map_err(|(refusal, detail)| End::refused(refusal, Reason::NotAuthorized, detail))
    }
}

impl From<InvalidSubscription> for End {
    fn from(invalid: InvalidSubscription) -> Self {
        let reason = match invalid {
            InvalidSubscription::NoLocalShared => Reason::ProtocolError,
            _ => Reason::TopicFilterInvalid,
        };
        let detail = format!("{invalid} [{}]", invalid.statement());
        Self::refused(Refusal::ProtocolViolation, reason, detail)
    }
}
