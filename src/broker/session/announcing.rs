//! A phone of the message gateway announces itself, and is answered.

use std::sync::Arc;

use super::{End, Session};
use crate::authorize::keyed;
use crate::authorize::refusals::Refusal;
use crate::broker::message::Message;
use crate::broker::outbox::Parcel;
use crate::broker::phones::Announced;
use crate::broker::wire::Publish;
use crate::message::Qos;

/// What is wrong with an announcement, for the phone and for the log.
const OTHER_CLIENT_ID: &str = "the payload is not the client id of this connection";

impl Session {
    /// A publish that the client may make: it may be its announcement. The answer goes to this connection alone, if
    /// it has subscribed to it.
    pub(super) fn take_announcement(&mut self, publish: &Publish) -> Result<(), End> {
        let device = &self.key.identity.device;
        if !self.publisher.rules.authorizer.has_keyed_topics()
            || publish.topic != keyed::announcements(device)
        {
            return Ok(());
        }
        // Sketches send the NUL at the end, too.
        let said = publish.payload.strip_suffix(b"\0").unwrap_or(&publish.payload);
        let answer = if said == self.key.client_id.as_bytes() {
            let (client_id, since) = (Arc::clone(&self.key.client_id), self.broker.clock.stamp());
            let announced = Announced { device: device.clone(), client_id, since };
            if self.broker.phones.announce(&self.line, announced) {
                tracing::info!(%device, client_id = ?keyed::masked(&self.key.client_id), "a phone has announced itself");
            }
            serde_json::json!({ "status": "ok", "device": device })
        } else {
            self.refuse(Refusal::AnnouncementWrong, OTHER_CLIENT_ID);
            serde_json::json!({ "status": "refused", "reason": OTHER_CLIENT_ID })
        };
        self.answer_announcement(&answer.to_string())
    }

    fn answer_announcement(&mut self, answer: &str) -> Result<(), End> {
        let topic = keyed::answers(&self.key.identity.device);
        let held = self.mailbox.held_by(&self.line).ok_or(End::TakenOver)?;
        let granted = held.granted(&topic);
        drop(held);
        let Some((qos, identifiers)) = granted else { return Ok(()) };
        let (payload, now) = (answer.to_owned().into(), self.broker.clock.stamp());
        let message = Arc::new(Message::new(topic, payload, None, Qos::AtLeastOnce, false, now, None));
        let parcel = Parcel { message, qos: qos.min(Qos::AtLeastOnce), retain: false, identifiers };
        match self.put_own(parcel) {
            Ok(()) => self.mail = true,
            Err(full) => self.broker.counters.dropped(full),
        }
        Ok(())
    }
}
