//! An MQTT 3.1.1 client of hand-made packets over blocking rustls: it must cost less than what it measures.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::net::{AddressFamily, SocketType, bind, socket};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Where the brokers are, and whoever has no address of its own.
pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The size of every payload, as in the figures of other brokers.
pub(crate) const PAYLOAD_BYTES: usize = 205;

/// A broker that says nothing for so long has failed the run.
const PATIENCE: Duration = Duration::from_secs(60);

const STAMP: &[u8] = b"{\"sent_us\":\"";
const STAMP_DIGITS: usize = 13;

/// One connection.
pub(crate) struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    name: String,
    next_id: u16,
    next_ack: u16,
    sent: u64,
    inbox: Inbox,
}

impl Client {
    /// From nothing to a CONNACK that says yes.
    pub(crate) fn connect(
        from: Ipv4Addr,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        name: &str,
    ) -> anyhow::Result<Self> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddrV4::new(from, 0))?;
        rustix::net::connect(&socket, &address)?;
        let tcp = TcpStream::from(socket);
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        let server = ServerName::try_from("localhost")?;
        let connection = ClientConnection::new(Arc::clone(tls), server)?;
        let mut client = Self {
            stream: StreamOwned::new(connection, tcp),
            name: name.to_owned(),
            next_id: 1,
            next_ack: 1,
            sent: 0,
            inbox: Inbox::new(),
        };
        client.stream.write_all(&connect_packet(name))?;
        let packet = client.receive().with_context(|| format!("{name} waits for its CONNACK"))?;
        ensure!(packet == [0x20, 2, 0, 0], "{name}: CONNACK {packet:02x?}");
        Ok(client)
    }

    /// The TLS version and cipher suite, which should be the same for both brokers.
    pub(crate) fn tls(&self) -> String {
        let suite = self.stream.conn.negotiated_cipher_suite().map(|s| s.suite());
        format!("{:?}", suite.unwrap_or(rustls::CipherSuite::TLS_NULL_WITH_NULL_NULL))
    }

    /// Subscribes, and returns when it is granted.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> anyhow::Result<()> {
        let mut body = vec![0, 1];
        push_text(&mut body, filter);
        body.push(qos);
        self.stream.write_all(&packet(0x82, &body))?;
        let reply = self.receive()?;
        ensure!(reply == [0x90, 3, 0, 1, qos], "SUBACK {reply:02x?}");
        Ok(())
    }

    /// Takes a message of QoS 1 and acknowledges it.
    pub(crate) fn obey(&mut self) -> anyhow::Result<()> {
        let publish = self.receive()?;
        ensure!(
            publish[0] == 0x32 && publish[1] & 0x80 == 0,
            "{}: no short PUBLISH: {publish:02x?}",
            self.name
        );
        let id = 4 + usize::from(u16::from_be_bytes([publish[2], publish[3]]));
        self.stream.write_all(&packet(0x40, &publish[id..id + 2]))?;
        Ok(())
    }

    /// PINGREQ and PINGRESP.
    pub(crate) fn ping(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(b"\xc0\0")?;
        let reply = self.receive()?;
        ensure!(reply == [0xd0, 0], "PINGRESP {reply:02x?}");
        Ok(())
    }

    /// Whether the connection has ended, after a moment in which it may.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        self.stream.sock.set_read_timeout(Some(Duration::from_millis(500)))?;
        let ended = self.inbox.fill(&mut self.stream);
        Ok(ended.is_err_and(|error| !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)))
    }

    /// Publishes `count` times at QoS 1 with `window` in flight, each in a TLS record of its own.
    /// The time from each publish to its ack, in microseconds.
    pub(crate) fn publish_window(
        &mut self,
        epoch: Instant,
        count: usize,
        window: usize,
    ) -> anyhow::Result<Vec<u32>> {
        let mut sent_at = VecDeque::with_capacity(window);
        let mut latencies = Vec::with_capacity(count);
        let mut sent = 0;
        while latencies.len() < count {
            while sent < count && sent_at.len() < window {
                sent_at.push_back(Instant::now());
                self.publish(epoch)?;
                sent += 1;
            }
            self.await_acks(|| {
                let at = sent_at.pop_front().context("an ack for nothing")?;
                latencies.push(micros(at.elapsed()));
                Ok(())
            })?;
        }
        Ok(latencies)
    }

    /// Publishes every `period`, the first after `offset`, until `duration` is over.
    pub(crate) fn publish_gently(
        &mut self,
        epoch: Instant,
        offset: Duration,
        period: Duration,
        duration: Duration,
    ) -> anyhow::Result<Vec<u32>> {
        let start = Instant::now();
        let mut latencies = Vec::new();
        let mut due = offset;
        while due < duration {
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            latencies.extend(self.publish_window(epoch, 1, 1)?);
            due += period;
        }
        Ok(latencies)
    }

    /// Takes publishes until the publishers are `done` and none came for a moment. The time each was under way, in microseconds.
    pub(crate) fn collect(&mut self, epoch: Instant, done: &AtomicBool) -> anyhow::Result<Vec<u32>> {
        self.stream.sock.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut latencies = Vec::new();
        loop {
            match self.inbox.fill(&mut self.stream) {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if done.load(Ordering::Acquire) {
                        return Ok(latencies);
                    }
                }
                Err(e) => return Err(e).context("the subscriber lost its connection"),
            }
            let now = micros(epoch.elapsed());
            while let Some(packet) = self.inbox.next()? {
                ensure!(packet[0] == 0x30, "the subscriber got {:#04x}", packet[0]);
                let stamp = packet.len() - PAYLOAD_BYTES + STAMP.len();
                let sent: u32 = std::str::from_utf8(&packet[stamp..stamp + STAMP_DIGITS])?.parse()?;
                latencies.push(now.saturating_sub(sent));
            }
        }
    }

    fn publish(&mut self, epoch: Instant) -> io::Result<()> {
        let mut body = Vec::with_capacity(PAYLOAD_BYTES + 64);
        push_text(&mut body, &format!("{}/readings", self.name));
        body.extend(self.next_id.to_be_bytes());
        push_payload(&mut body, &self.name, self.sent, micros(epoch.elapsed()))?;
        self.next_id = after(self.next_id);
        self.sent += 1;
        self.stream.write_all(&packet(0x32, &body))
    }

    /// Waits for at least one ack. They must come in the order of the publishes.
    fn await_acks(&mut self, mut acked: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.inbox.fill(&mut self.stream).with_context(|| format!("{} waits for acks", self.name))?;
        while let Some(packet) = self.inbox.next()? {
            let [high, low] = self.next_ack.to_be_bytes();
            ensure!(packet == [0x40, 2, high, low], "{}: {packet:02x?} is not the next ack", self.name);
            self.next_ack = after(self.next_ack);
            acked()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(packet) = self.inbox.next()? {
                return Ok(packet.to_vec());
            }
            self.inbox.fill(&mut self.stream)?;
        }
    }
}

/// Bytes that came, cut into packets.
struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn new() -> Self {
        // An idle connection of the generator must be cheap too: 1,000 of them are held at once.
        Self { bytes: vec![0; 8 * 1024].into_boxed_slice(), start: 0, end: 0 }
    }

    /// One read.
    fn fill(&mut self, stream: &mut impl Read) -> io::Result<()> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match stream.read(&mut self.bytes[self.end..])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }

    /// The next whole packet.
    fn next(&mut self) -> anyhow::Result<Option<&[u8]>> {
        let waiting = &self.bytes[self.start..self.end];
        let mut length = 0;
        for (i, byte) in waiting.iter().skip(1).enumerate() {
            if i == 4 {
                bail!("no packet has such a length");
            }
            length |= usize::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                let total = 2 + i + length;
                ensure!(total <= self.bytes.len(), "a packet of {total} bytes");
                if waiting.len() < total {
                    return Ok(None);
                }
                self.start += total;
                return Ok(Some(&self.bytes[self.start - total..self.start]));
            }
        }
        Ok(None)
    }
}

fn connect_packet(client_id: &str) -> Vec<u8> {
    let mut body = Vec::new();
    push_text(&mut body, "MQTT");
    // Version 4 is MQTT 3.1.1; clean session; no keep alive shorter than the run.
    body.extend([4, 2]);
    body.extend(600_u16.to_be_bytes());
    push_text(&mut body, client_id);
    packet(0x10, &body)
}

fn packet(header: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(body.len() + 5);
    packet.push(header);
    let mut rest = body.len();
    loop {
        let low = (rest & 0x7f) as u8;
        rest >>= 7;
        packet.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

fn push_text(to: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("texts here are short");
    to.extend(length.to_be_bytes());
    to.extend(text.as_bytes());
}

/// A reading as a sensor node makes it: the same keys each time, other values, [`PAYLOAD_BYTES`] long.
fn push_payload(to: &mut Vec<u8>, device: &str, n: u64, sent_us: u32) -> io::Result<()> {
    let start = to.len();
    // A multiplicative hash stands for the noise of a sensor.
    let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    to.extend_from_slice(STAMP);
    write!(
        to,
        "{sent_us:0STAMP_DIGITS$}\",\"n\":{n},\"mq7_co\":{},\"mq135_no2\":{},\"dht11_temperature\":{}.{:02},\
         \"dht11_humidity\":{}.{:02},\"device\":\"{device}\",\"note\":\"",
        noise >> 54,
        (noise >> 44) & 0x1ff,
        18 + ((noise >> 40) & 0x7),
        (noise >> 32) % 100,
        40 + ((noise >> 24) & 0xf),
        (noise >> 16) % 100,
    )?;
    to.resize(start + PAYLOAD_BYTES - 2, b'-');
    to.extend_from_slice(b"\"}");
    Ok(())
}

fn after(id: u16) -> u16 {
    id.checked_add(1).unwrap_or(1)
}

pub(crate) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
