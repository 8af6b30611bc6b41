//! rumqttc as a device: one scenario, over its module for MQTT 3.1.1 and over that for 5.0.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport};

use crate::harness::PATIENCE;
use crate::harness::mqtt::without_certificate;
use crate::peers::{Identity, PASSWORD, Peers, USER};

const ALL_QUALITIES: [u8; 3] = [0, 1, 2];

fn transport(peers: &Peers, identity: Identity) -> Transport {
    let tls = match identity {
        Identity::Certificate => peers.certified.tls(),
        Identity::Password => without_certificate(&peers.certified.ca),
    };
    Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(&tls)))
}

/// What both modules have under the same names. Beside it: `configure`, `will` and `text_of`, where they differ.
macro_rules! everything {
    () => {
        struct Peer {
            client: Client,
            connection: Connection,
            inbox: VecDeque<Publish>,
            topic: String,
            session_present: bool,
        }

        impl Peer {
            fn connect(peers: &Peers, identity: Identity, name: &str, kept: bool, last_words: &str) -> Self {
                let (topic, address) = (Peers::name(identity).to_owned(), peers.gateway.address);
                let id = format!("{topic}-{name}");
                let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
                options.set_transport(transport(peers, identity));
                if identity == Identity::Password {
                    options.set_credentials(USER, PASSWORD);
                }
                if !last_words.is_empty() {
                    options.set_last_will(will(&format!("{topic}/will"), last_words));
                }
                configure(&mut options, kept);
                let (client, connection) = Client::new(options, 100);
                let inbox = VecDeque::new();
                let mut peer = Self { client, connection, inbox, topic, session_present: false };
                peer.session_present = peer.wait(|packet| match packet {
                    Packet::ConnAck(ack) => Some(ack.session_present),
                    _ => None,
                });
                peer
            }

            fn wait<T>(&mut self, mut pick: impl FnMut(&Packet) -> Option<T>) -> T {
                loop {
                    let event = self.connection.recv_timeout(PATIENCE).expect("it comes in time");
                    let Event::Incoming(packet) = event.expect("the connection stays") else { continue };
                    if let Some(found) = pick(&packet) {
                        return found;
                    }
                    if let Packet::Publish(publish) = packet {
                        self.inbox.push_back(publish);
                    }
                }
            }

            fn subscribe(&mut self, name: &str, qos: u8) {
                self.client.subscribe(format!("{}/{name}", self.topic), quality(qos)).expect("it is queued");
                self.wait(|packet| matches!(packet, Packet::SubAck(_)).then_some(()));
            }

            fn publish(&mut self, name: &str, payload: &str, qos: u8, retain: bool) {
                let topic = format!("{}/{name}", self.topic);
                self.client.publish(topic, quality(qos), retain, payload.to_owned()).expect("it is queued");
                match qos {
                    // The answer of a ping is behind nothing: what has left is enough.
                    0 => self.wait_until_sent(),
                    1 => self.wait(|packet| matches!(packet, Packet::PubAck(_)).then_some(())),
                    _ => self.wait(|packet| matches!(packet, Packet::PubComp(_)).then_some(())),
                }
            }

            fn wait_until_sent(&mut self) {
                loop {
                    let event = self.connection.recv_timeout(PATIENCE).expect("it comes in time");
                    match event.expect("the connection stays") {
                        Event::Outgoing(rumqttc::Outgoing::Publish(_)) => return,
                        Event::Incoming(Packet::Publish(publish)) => self.inbox.push_back(publish),
                        _ => {}
                    }
                }
            }

            /// The next message, all its acks included; whether it had RETAIN.
            fn next(&mut self, name: &str, payload: &str, qos: u8) -> bool {
                let message = match self.inbox.pop_front() {
                    Some(message) => message,
                    None => self.wait(|packet| match packet {
                        Packet::Publish(publish) => Some(publish.clone()),
                        _ => None,
                    }),
                };
                let found = (text_of(&message), message.payload.as_ref(), message.qos as u8);
                assert_eq!(found, (format!("{}/{name}", self.topic), payload.as_bytes(), qos));
                message.retain
            }

            fn disconnect(mut self) {
                self.client.disconnect().expect("it is queued");
                while let Ok(Ok(_)) = self.connection.recv_timeout(Duration::from_secs(1)) {}
            }
        }

        fn everything(identity: Identity) {
            let peers = Peers::start();
            let connect = |name, kept| Peer::connect(&peers, identity, name, kept, "");
            let (mut one, mut other) = (connect("one", false), connect("other", false));
            one.subscribe("to-one", 2);
            other.subscribe("to-other", 2);
            for qos in ALL_QUALITIES {
                one.publish("to-other", "ping", qos, false);
                other.next("to-other", "ping", qos);
                other.publish("to-one", "pong", qos, false);
                one.next("to-one", "pong", qos);
            }

            one.publish("retained", "kept", 1, true);
            let mut late = connect("late", false);
            late.subscribe("retained", 1);
            assert!(late.next("retained", "kept", 1), "it has RETAIN");
            one.publish("retained", "", 1, true);
            late.disconnect();

            other.subscribe("will", 1);
            drop(Peer::connect(&peers, identity, "dying", false, "last words"));
            other.next("will", "last words", 1);

            let mut away = connect("away", true);
            assert!(!away.session_present);
            away.subscribe("away", 2);
            away.disconnect();
            one.publish("away", "waits", 1, false);
            one.publish("away", "waits", 2, false);
            let mut away = connect("away", true);
            assert!(away.session_present);
            away.next("away", "waits", 1);
            away.next("away", "waits", 2);
            away.disconnect();
        }

        #[test]
        fn it_does_everything_over_tls_with_a_certificate() {
            everything(Identity::Certificate);
        }

        #[test]
        fn it_does_everything_over_tls_with_a_password() {
            everything(Identity::Password);
        }
    };
}

mod v4 {
    use std::collections::VecDeque;

    use rumqttc::mqttbytes::v4::Packet;
    use rumqttc::{Client, Connection, Event, LastWill, MqttOptions, Publish, QoS};

    use super::*;

    fn configure(options: &mut MqttOptions, kept: bool) {
        options.set_clean_session(!kept);
    }

    fn will(topic: &str, payload: &str) -> LastWill {
        LastWill::new(topic, payload, QoS::AtLeastOnce, false)
    }

    fn text_of(publish: &Publish) -> String {
        publish.topic.clone()
    }

    fn quality(qos: u8) -> QoS {
        rumqttc::qos(qos).expect("there are three")
    }

    everything!();
}

mod v5 {
    use std::collections::VecDeque;

    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, Publish};
    use rumqttc::v5::{Client, Connection, Event, MqttOptions};

    use super::*;

    fn configure(options: &mut MqttOptions, kept: bool) {
        options.set_clean_start(!kept).set_session_expiry_interval(kept.then_some(60));
    }

    fn will(topic: &str, payload: &str) -> LastWill {
        LastWill::new(topic, payload, QoS::AtLeastOnce, false, None)
    }

    fn text_of(publish: &Publish) -> String {
        String::from_utf8(publish.topic.to_vec()).expect("a topic is text")
    }

    fn quality(qos: u8) -> QoS {
        rumqttc::v5::mqttbytes::qos(qos).expect("there are three")
    }

    everything!();
}
