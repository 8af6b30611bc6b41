//! What the broker keeps for its clients outlives a SIGKILL: sessions, subscriptions, messages that wait,
//! QoS 2 publishes that are not released, retained messages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::harness::mqtt::Credentials;
use crate::harness::{Gateway, PATIENCE};

/// A client that says what it is told to, byte for byte.
pub(crate) struct Raw(StreamOwned<ClientConnection, TcpStream>);

impl Raw {
    /// With a session that is kept.
    pub(crate) fn connect(
        gateway: SocketAddr,
        credentials: &Credentials,
        client_id: &str,
        present: bool,
    ) -> Self {
        let name = ServerName::from(gateway.ip());
        let tls = ClientConnection::new(credentials.tls(), name).expect("the settings are good");
        let tcp = TcpStream::connect(gateway).expect("it listens");
        tcp.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
        let mut raw = Self(StreamOwned::new(tls, tcp));
        raw.send(0x10, &[b"\0\x04MQTT\x04\0\0\x3c", &text(client_id)[..]].concat());
        raw.expect(0x20, &[present.into(), 0]);
        raw
    }

    pub(crate) fn send(&mut self, first: u8, body: &[u8]) {
        let length = u8::try_from(body.len()).ok().filter(|length| *length < 0x80).expect("it is short");
        self.0.write_all(&[&[first, length], body].concat()).expect("the gateway listens");
    }

    pub(crate) fn expect(&mut self, first: u8, body: &[u8]) {
        let came = self.receive(body.len());
        assert_eq!((came.0, &came.1[..]), (first, body), "{:?}", String::from_utf8_lossy(&came.1));
    }

    /// The first byte of the next packet, and its body, which has so many bytes.
    pub(crate) fn receive(&mut self, bytes: usize) -> (u8, Vec<u8>) {
        let mut came = vec![0; 2 + bytes];
        self.0.read_exact(&mut came).expect("the gateway answers");
        (came[0], came.split_off(2))
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("it is short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

pub(crate) fn publish(topic: &str, packet_id: u8, payload: &str) -> Vec<u8> {
    [&text(topic)[..], &[0, packet_id], payload.as_bytes()].concat()
}

#[test]
fn what_clients_were_promised_is_there_after_a_kill() {
    let mut gateway = Gateway::start("");
    let plug = gateway.home.device("plug");
    let mut listener = Raw::connect(gateway.address, &plug, "listener", false);
    listener.send(0x82, &[b"\0\x01", &text("plug/x")[..], &[2]].concat());
    listener.expect(0x90, b"\0\x01\x02");
    drop(listener);
    let mut talker = Raw::connect(gateway.address, &plug, "talker", false);
    for life in 0..3_u8 {
        talker.send(0x32, &publish("plug/x", 1, "one"));
        talker.expect(0x40, b"\0\x01");
        talker.send(0x34, &publish("plug/x", 2, "two"));
        talker.expect(0x50, b"\0\x02");
        talker.send(0x33, &publish("plug/state", 3, &life.to_string()));
        talker.expect(0x40, b"\0\x03");
        talker.send(0x34, &publish("plug/readings", 7, "{}"));
        talker.expect(0x50, b"\0\x07");
        gateway = gateway.kill().start();

        talker = Raw::connect(gateway.address, &plug, "talker", true);
        for (topic, id, payload) in [("plug/x", 2, "two"), ("plug/readings", 7, "{}")] {
            talker.send(0x3c, &publish(topic, id, payload));
            talker.expect(0x50, &[0, id]);
            talker.send(0x62, &[0, id]);
            talker.expect(0x70, &[0, id]);
        }
        let accepted = u64::from(life) + 1;
        gateway.wait_for_status("no reading was stored twice", |status| {
            assert!(status["buffer"]["accepted"].as_u64()? <= accepted);
            (status["buffer"]["accepted"] == accepted).then_some(())
        });

        let mut listener = Raw::connect(gateway.address, &plug, "listener", true);
        let id = 2 * life + 1;
        listener.expect(0x3a, &publish("plug/x", id, "one"));
        listener.expect(0x3c, &publish("plug/x", id + 1, "two"));
        listener.send(0x40, &[0, id]);
        listener.send(0x50, &[0, id + 1]);
        listener.expect(0x62, &[0, id + 1]);
        gateway = gateway.kill().start();

        talker = Raw::connect(gateway.address, &plug, "talker", true);
        let mut listener = Raw::connect(gateway.address, &plug, "listener", true);
        listener.expect(0x62, &[0, id + 1]);
        listener.send(0x70, &[0, id + 1]);
        listener.send(0x82, &[b"\0\x02", &text("plug/state")[..], &[0]].concat());
        listener.expect(0x90, b"\0\x02\0");
        listener.expect(0x31, &[&text("plug/state")[..], life.to_string().as_bytes()].concat());
        listener.send(0xa2, &[b"\0\x03", &text("plug/state")[..]].concat());
        listener.expect(0xb0, b"\0\x03");
    }
}
