//! Simulated ESP32s: `rumqttc` over mutual TLS, publishing what devices in the field really send.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, Request, Transport};
use rustls::ClientConfig;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Payloads from the field, good and bad, one JSON object a line.
const PAYLOADS: &str = include_str!("../../tests/payloads.jsonl");
/// Between two publishes of one device.
const PACE: Duration = Duration::from_millis(300);
/// Before a device that lost its connection tries again.
const RECONNECT_AFTER: Duration = Duration::from_millis(300);
/// Packet ids of one device. More than it sends in a demo: `rumqttc` loses what wraps around while it resends.
const PACKET_IDS: u16 = 10_000;
/// Publishes that wait in a device while it has no connection.
const WAITING: usize = 1_000;

/// One payload of the file, with the topic that it is published to.
#[derive(Debug, Clone)]
struct Template {
    /// The topic below the device's name. Each payload has its own, by which it is known at the sinks.
    topic: String,
    payload: String,
    is_trouble: bool,
}

/// What names a message at the sinks: its topic, and its number if the payload is a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) topic: String,
    pub(super) number: Option<u64>,
}

impl Key {
    /// The key of a message by what a sink was given of it.
    pub(super) fn of(topic: &str, payload: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Numbered {
            n: u64,
        }
        let number = serde_json::from_slice::<Numbered>(payload).ok().map(|numbered| numbered.n);
        Self { topic: topic.to_owned(), number }
    }
}

/// A message, as its device remembers it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) key: Key,
    pub(super) at_least_once: bool,
    /// How often it was given to the network: more than once if a connection ended before its ack.
    pub(super) transmissions: u64,
    pub(super) acked: bool,
}

/// What a device has sent.
#[derive(Debug, Default)]
struct Diary {
    messages: Vec<Message>,
    /// Those that have no packet id yet, in order.
    fresh: VecDeque<usize>,
    /// Those that wait for their ack, by packet id.
    in_flight: BTreeMap<u16, usize>,
    connections: u64,
}

/// A simulated device.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) name: String,
    diary: Arc<Mutex<Diary>>,
}

/// Figures of all devices together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) acked: u64,
    pub(super) waiting_for_ack: u64,
    pub(super) without_ack: u64,
    pub(super) retransmissions: u64,
    pub(super) connections: u64,
}

impl Device {
    pub(super) fn new(name: String) -> Self {
        Self { name, diary: Arc::default() }
    }

    /// Publishes until it is told to stop, then waits for the acks that are missing, and disconnects.
    pub(super) async fn run(self, gateway: SocketAddr, tls: Arc<ClientConfig>, stop: CancellationToken) {
        let mut options = MqttOptions::new(&self.name, gateway.ip().to_string(), gateway.port());
        options.set_keep_alive(Duration::from_secs(15)).set_inflight(PACKET_IDS);
        options.set_transport(Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(tls)));
        let (client, events) = AsyncClient::new(options, WAITING);
        tokio::join!(self.publish(client, &stop), self.listen(events));
    }

    /// Every message that it has made.
    pub(super) fn messages(&self) -> Vec<Message> {
        self.diary().messages.clone()
    }

    async fn publish(&self, client: AsyncClient, stop: &CancellationToken) {
        // Devices do not publish in step.
        let offset = PACE.mul_f64(f64::from(self.name.bytes().last().unwrap_or(0) % 8) / 8.0);
        let mut pace = tokio::time::interval_at(Instant::now() + offset, PACE);
        for (template, qos) in choice(&self.name) {
            if stop.run_until_cancelled(pace.tick()).await.is_none() {
                break;
            }
            let (topic, payload) = self.note(&template, qos);
            if client.publish(topic, qos, false, payload).await.is_err() {
                return;
            }
        }
        while !self.diary().is_settled() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It fails if the connection is gone already, and then there is nothing to end.
        client.disconnect().await.ok();
    }

    /// Writes a message into the diary, before the client gets it, and numbers its payload.
    fn note(&self, template: &Template, qos: QoS) -> (String, String) {
        let mut diary = self.diary();
        let index = diary.messages.len();
        let topic = format!("{}/{}", self.name, template.topic);
        let payload = numbered(&template.payload, index as u64 + 1);
        diary.messages.push(Message {
            key: Key::of(&topic, payload.as_bytes()),
            at_least_once: qos == QoS::AtLeastOnce,
            transmissions: 0,
            acked: false,
        });
        diary.fresh.push_back(index);
        (topic, payload)
    }

    /// Follows the connection, and resends what was not acknowledged when it ended, as esp-mqtt does.
    /// `rumqttc` itself forgets it when the gateway has not kept the session.
    async fn listen(&self, mut events: EventLoop) {
        let mut unsent: Vec<Request> = Vec::new();
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    self.diary().connections += 1;
                    events.pending.extend(unsent.drain(..));
                }
                Ok(Event::Incoming(Packet::PubAck(ack))) => self.diary().acked(ack.pkid),
                Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => self.diary().transmitted(packet_id),
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(_) => {
                    unsent.extend(events.pending.drain(..).map(as_duplicate));
                    tokio::time::sleep(RECONNECT_AFTER).await;
                }
            }
        }
    }

    fn diary(&self) -> MutexGuard<'_, Diary> {
        self.diary.lock().expect("no panic under this lock")
    }
}

impl Diary {
    fn transmitted(&mut self, packet_id: u16) {
        let known = self.in_flight.get(&packet_id).copied();
        let Some(index) = known.or_else(|| self.fresh.pop_front()) else { return };
        self.messages[index].transmissions += 1;
        if packet_id != 0 {
            self.in_flight.insert(packet_id, index);
        }
    }

    fn acked(&mut self, packet_id: u16) {
        if let Some(index) = self.in_flight.remove(&packet_id) {
            self.messages[index].acked = true;
        }
    }

    fn is_settled(&self) -> bool {
        self.fresh.is_empty() && self.in_flight.is_empty()
    }
}

/// Adds up what devices have sent.
pub(super) fn sum(devices: &[Device]) -> Sent {
    let mut sum = Sent::default();
    for device in devices {
        let diary = device.diary();
        sum.connections += diary.connections;
        for message in &diary.messages {
            sum.retransmissions += message.transmissions.saturating_sub(1);
            match (message.at_least_once, message.acked) {
                (false, _) => sum.without_ack += u64::from(message.transmissions > 0),
                (true, true) => sum.acked += 1,
                (true, false) => sum.waiting_for_ack += 1,
            }
        }
    }
    sum
}

fn as_duplicate(mut request: Request) -> Request {
    if let Request::Publish(publish) = &mut request {
        publish.dup = publish.pkid != 0;
    }
    request
}

/// Puts a message's number into a payload that is a JSON object; others stay as they are.
fn numbered(payload: &str, number: u64) -> String {
    match payload.strip_prefix('{') {
        Some(rest) if is_json(payload) => format!("{{\"n\":{number},{rest}"),
        _ => payload.to_owned(),
    }
}

fn is_json(payload: &str) -> bool {
    serde_json::from_str::<&RawValue>(payload).is_ok()
}

/// Which payload comes next, and how. Three in four are good ones, and three in four are QoS 1.
struct Choice<I> {
    plain: I,
    trouble: I,
    turn: usize,
}

/// Devices begin at different places in the file.
fn choice(device: &str) -> Choice<impl Iterator<Item = Template>> {
    let begin = device.bytes().map(usize::from).sum();
    let (trouble, plain): (Vec<_>, Vec<_>) =
        templates().into_iter().partition(|template| template.is_trouble);
    let endless = |templates: Vec<Template>| templates.into_iter().cycle().skip(begin);
    Choice { plain: endless(plain), trouble: endless(trouble), turn: 0 }
}

impl<I: Iterator<Item = Template>> Iterator for Choice<I> {
    type Item = (Template, QoS);

    fn next(&mut self) -> Option<(Template, QoS)> {
        self.turn += 1;
        let from = if self.turn.is_multiple_of(4) { &mut self.trouble } else { &mut self.plain };
        // Moved by one every four turns, so that good and bad ones come with either.
        let qos =
            if (self.turn + self.turn / 4).is_multiple_of(4) { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        Some((from.next()?, qos))
    }
}

/// The payloads of the file: numbers to `level`, words to `switch`, everything else below `readings`.
fn templates() -> Vec<Template> {
    #[derive(serde::Deserialize)]
    struct Line {
        kind: String,
        payload: String,
    }
    let line = |(index, line): (usize, &str)| {
        let Line { kind, payload } = serde_json::from_str(line).expect("the file is part of the program");
        let is_trouble = kind == "trouble";
        let topic = match payload.as_str() {
            number if number.parse::<f64>().is_ok() => "level".to_owned(),
            word if !is_trouble && !is_json(word) => "switch".to_owned(),
            _ => format!("readings/{:02}", index + 1),
        };
        Template { topic, payload, is_trouble }
    };
    PAYLOADS.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_number_goes_into_objects_alone_and_leaves_the_rest_as_it_is() {
        assert_eq!(numbered(r#"{"t":1e400}"#, 7), r#"{"n":7,"t":1e400}"#);
        for payload in ["21.4", "on", "", "[1]", "{'t':21.5}", r#"{"t":nan}"#, "{\"t\":21.5}\0"] {
            assert_eq!(numbered(payload, 7), payload);
        }
        assert_eq!(Key::of("a/level", b"21.4").number, None);
        assert_eq!(Key::of("a/readings/01", br#"{"n":7,"t":1e400}"#).number, Some(7));
    }

    #[test]
    fn every_payload_of_the_file_is_sent_and_three_in_four_are_good() {
        let sent: Vec<_> = choice("esp32-01").take(64).collect();
        let topics: BTreeSet<_> = sent.iter().map(|(template, _)| template.topic.as_str()).collect();
        assert_eq!(topics.len(), PAYLOADS.lines().count());
        assert_eq!(sent.iter().filter(|(template, _)| !template.is_trouble).count(), 48);
        assert_eq!(sent.iter().filter(|(_, qos)| *qos == QoS::AtLeastOnce).count(), 48);
        assert!(sent.iter().any(|(template, qos)| template.is_trouble && *qos == QoS::AtMostOnce));
    }

    #[test]
    fn a_packet_id_that_is_used_again_before_its_ack_is_a_retransmission() {
        let device = Device::new("a".to_owned());
        for (template, _) in choice("a").take(2) {
            device.note(&template, QoS::AtLeastOnce);
        }
        let mut diary = device.diary();
        for packet_id in [1, 2, 1] {
            diary.transmitted(packet_id);
        }
        diary.acked(1);
        drop(diary);
        let sent = sum(&[device]);
        assert_eq!((sent.acked, sent.waiting_for_ack, sent.retransmissions), (1, 1, 1));
    }
}
