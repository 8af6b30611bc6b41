//! Text (section 1.5.3 of MQTT 3.1.1, 1.5.4 and 1.5.7 of MQTT 5).

use crate::prelude::*;

/// A surrogate, an overlong slash, a byte that never is, a sequence cut short, a code point too large.
const ILL_FORMED: &[&[u8]] = &[b"a\xED\xA0\x80", b"\xC0\xAFa", b"a\xFF", b"a\xE2\x82", b"\xF4\x90\x80\x80"];

/// Every packet of a client's that holds text, with these bytes for it. The first is of a connection.
fn packets_with(version: Version, text: &[u8]) -> Vec<Vec<u8>> {
    let head = |flags| connect_head(version, flags);
    vec![
        head(2).bytes(text).packet(0x10),
        will_fields(version, head(0b110).text(&unique("text")), text, b"").packet(0x10),
        head(0b1000_0010).text(&unique("text")).bytes(text).packet(0x10),
    ]
}

fn later_packets_with(version: Version, text: &[u8]) -> Vec<Vec<u8>> {
    let start = || no_properties(version, Body::new().u16(1));
    vec![
        no_properties(version, Body::new().bytes(text)).packet(0x30),
        start().bytes(text).u8(0).packet(0x82),
        start().bytes(text).packet(0xA2),
    ]
}

judged! {
    /// v3: MQTT-1.5.3-1, MQTT-3.1.3-4, MQTT-3.1.3-10, MQTT-3.1.3-11 · v5: MQTT-1.5.4-1, MQTT-3.1.3-4, MQTT-3.1.3-11, MQTT-3.1.3-12
    fn a_connect_with_text_that_is_not_utf8_is_refused(version) {
        for text in ILL_FORMED {
            for packet in packets_with(version, text) {
                refused(version, &packet);
            }
        }
    }

    /// v3: MQTT-1.5.3-1, MQTT-3.3.2-1, MQTT-3.8.3-1, MQTT-3.10.3-1 · v5: MQTT-1.5.4-1, MQTT-3.3.2-1, MQTT-3.8.3-1, MQTT-3.10.3-1
    fn a_topic_that_is_not_utf8_ends_the_connection(version) {
        for text in ILL_FORMED {
            for packet in later_packets_with(version, text) {
                ends(version, &packet, &[0x81, 0x82, 0x8F, 0x90]);
            }
        }
    }

    /// v3: MQTT-1.5.3-2, MQTT-4.7.3-2 · v5: MQTT-1.5.4-2, MQTT-4.7.3-2
    fn text_must_not_hold_a_nul(version) {
        for packet in packets_with(version, b"a\0b") {
            refused(version, &packet);
        }
        for packet in later_packets_with(version, b"a\0b") {
            ends(version, &packet, &[0x81, 0x82, 0x8F, 0x90]);
        }
    }

    /// v3: MQTT-1.5.3-3 · v5: MQTT-1.5.4-3
    fn a_byte_order_mark_is_a_character_like_others(version) {
        let topic = unique("bom");
        let marked = format!("\u{feff}{topic}\u{feff}");
        let mut client = Client::connect(&Connect::new(version, &format!("\u{feff}{}", unique("bom"))));
        client.subscribe(&[(&marked, 1), (&topic, 1)]);
        for name in [&marked, &topic] {
            client.publish(&Publish::new(name, name).qos(1, 0));
            let message = client.message();
            assert_eq!((&message.topic, message.text()), (name, name.as_str()));
        }
        client.expect_nothing();
    }

    /// v3: MQTT-4.7.3-4 · v5: MQTT-4.7.3-4
    fn text_of_any_script_is_passed_on(version) {
        let base = unique("scripts");
        let (mut client, mut publisher) = pair(version, &format!("{base}/#"), 1);
        for name in ["Grüße", "温度", "🌡", "𝄞"] {
            let topic = format!("{base}/{name}");
            publisher.publish(&Publish::new(&topic, name).qos(1, 0));
            assert_eq!(client.message().topic, topic);
        }
    }

    /// v5: MQTT-1.5.7-1, MQTT-3.3.2-13, MQTT-3.3.2-19
    fn text_in_properties_must_be_utf8(version = V5) {
        for text in [b"a\xED\xA0\x80".as_slice(), b"a\xFF", b"a\0"] {
            let inner = [
                Body::new().u8(38).bytes(text).text("value"),
                Body::new().u8(38).text("key").bytes(text),
                Body::new().u8(8).bytes(text),
                Body::new().u8(3).bytes(text),
            ];
            for inner in inner {
                let properties = inner.packet(0);
                // The length and what follows, without the first byte of a packet.
                let packet = Body::new().text("text").raw(&properties[1..]).packet(0x30);
                ends(version, &packet, &[0x81, 0x82, 0x90]);
            }
        }
    }
}
