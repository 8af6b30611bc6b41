//! What the gateway itself publishes, and what of its devices' publishes it listens to.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::outbox::Mailbox;
use super::publisher::{Outcome, Publisher};
use super::routes::Route;
use super::wire::Publish;
use super::{Broker, Shared};
use crate::authorize::{Door, Principal};
use crate::config::TopicTemplate;
use crate::message::{DeviceId, Qos, TopicFilter};

/// What waits to be heard by one listener. What is beyond is passed over: who listens hears the next.
const MAX_UNHEARD: usize = 256;

/// A publish of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whose it is.
    pub device: DeviceId,
    /// What it says.
    pub payload: Bytes,
}

/// Who listens to what.
#[derive(Debug, Default)]
pub(super) struct Ears(RwLock<Vec<Ear>>);

#[derive(Debug)]
struct Ear {
    topic: TopicTemplate,
    heard: mpsc::Sender<Heard>,
}

impl Broker {
    /// Listens to what each device publishes to a topic of its own, in which `{device}` stands for it. Call it before
    /// devices come: topics that they have published to are not looked at again.
    #[must_use]
    pub fn listen(&self, topic: TopicTemplate) -> mpsc::Receiver<Heard> {
        let (heard, receiver) = mpsc::channel(MAX_UNHEARD);
        self.0.ears.0.write().expect("no panic under this lock").push(Ear { topic, heard });
        receiver
    }

    /// Publishes a message as the gateway, retained, QoS 1. No rule of the ACL is asked, and it is no reading. An empty
    /// one takes away what is retained. `false`: there is no room for it, on disk or among what is retained. `topic` must be one.
    pub fn publish_retained(&self, topic: &str, payload: Bytes) -> bool {
        let shared = &*self.0;
        let gateway = DeviceId::parse("gateway").expect("it keeps the rules");
        let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let who = Arc::new(Principal::anonymous(gateway, Door::Tls));
        let mut publisher =
            Publisher::new(shared, who, Arc::from("gateway"), nowhere, Arc::new(Mailbox::default()));
        publisher.hears_refusals = true;
        let publish = Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: true,
            packet_id: 0,
            topic: topic.into(),
            topic_alias: None,
            payload,
            properties: None,
        };
        let taken = publisher.publish(shared, &Route::inside(), publish, shared.clock.stamp(), Vec::new());
        publisher.wakes.pay();
        matches!(taken, Outcome::Taken { .. })
    }
}

impl Shared {
    /// Who listens to what a device publishes to a topic.
    pub(super) fn listeners(&self, device: &DeviceId, topic: &str) -> Vec<mpsc::Sender<Heard>> {
        let ears = self.ears.0.read().expect("no panic under this lock");
        let is_it = |filter: &TopicFilter| filter.as_str() == topic;
        let listening =
            ears.iter().filter(|ear| ear.topic.fill(device, None, None).as_ref().is_some_and(is_it));
        listening.map(|ear| ear.heard.clone()).collect()
    }
}
