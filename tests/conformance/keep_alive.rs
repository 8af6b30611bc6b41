//! PINGREQ and keep alive (sections 3.12 and 3.1.2.10 of both versions).

use std::time::{Duration, Instant};

use crate::prelude::*;

judged! {
    /// v3: MQTT-3.12.4-1 · v5: MQTT-3.12.4-1
    fn a_pingreq_is_answered(version) {
        let mut client = Client::new(version, "ping");
        for _ in 0..3 {
            client.send(&[0xC0, 0]);
            client.expect(Kind::PingResp);
        }
    }

    /// v3: MQTT-3.1.2-24 · v5: MQTT-3.1.2-22, MQTT-3.2.2-22
    fn a_client_that_is_silent_too_long_is_closed(version) {
        let start = Instant::now();
        let mut client = Client::connect(&Connect::new(version, &unique("silent")).keep_alive(1));
        let reason = client.expect_closed();
        assert!(start.elapsed() >= Duration::from_millis(1_500), "{:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(reason.is_none_or(|reason| reason == 0x8D), "{reason:x?}");
    }

    /// v3: MQTT-3.1.2-24 · v5: MQTT-3.1.2-22
    fn every_packet_keeps_a_client_alive_and_0_asks_for_none(version) {
        let topic = unique("alive");
        let mut silent = Client::connect(&Connect::new(version, &unique("zero")).keep_alive(0));
        let mut client = Client::connect(&Connect::new(version, &unique("alive")).keep_alive(2));
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(1_200));
            client.send(&Publish::new(&topic, "m").packet(version));
        }
        client.expect_nothing();
        silent.expect_nothing();
    }
}
