//! Retained messages and time: those that come while somebody subscribes, and those that expire.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_subscribes_while_a_message_is_retained_gets_it_one_way_or_the_other() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    for n in 1..=300_u16 {
        let mut panel = gateway.connect("panel", &n.to_string()).await;
        let state = n.to_string();
        let publish = retained(publish1("plug/state", n, &state));
        let subscription = subscribe(1, &[("plug/state", 0)]);
        tokio::join!(plug.send(&publish), panel.send(&subscription));
        plug.expect(&puback(n)).await;
        let gets_it = async {
            loop {
                let (first, body) = panel.receive().await;
                if first & 0xf0 == 0x30 && body.ends_with(state.as_bytes()) {
                    break;
                }
            }
        };
        patiently("for the present state", gets_it).await;
    }
}

#[tokio::test]
async fn what_belongs_to_a_retained_message_outlives_a_power_cut_and_its_time_counts_down() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    // Message expiry of 600 s, content type, a user property.
    let properties = b"\x02\0\0\x02\x58\x03\0\x04text\x26\0\x01k\0\x01v";
    plug.send(&publish5(0x33, "plug/long", 1, properties, "long")).await;
    plug.expect(b"\x40\x03\0\x01\x10").await;
    plug.send(&publish5(0x33, "plug/short", 2, b"\x02\0\0\0\x01", "short")).await;
    plug.expect(b"\x40\x03\0\x02\x10").await;
    let published = std::time::Instant::now();
    eventually("for one to expire", || published.elapsed() > Duration::from_millis(1_100)).await;
    for gateway in [&gateway, &gateway.power_cut()] {
        let mut panel = gateway.connect5("panel", "c", &[]).await;
        panel.send(&subscribe5(1, b"\x0b\x05", "plug/#", 0)).await;
        panel.expect(b"\x90\x04\0\x01\0\0").await;
        let (first, body) = panel.receive().await;
        assert_eq!((first, &body[2..11]), (0x31, &b"plug/long"[..]));
        let has = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
        assert!(has(b"\x03\0\x04text") && has(b"\x26\0\x01k\0\x01v") && has(b"\x0b\x05"), "{body:02x?}");
        let expiry = body.windows(3).position(|window| window == [0x02, 0, 0]).unwrap() + 1;
        let remaining = u32::from_be_bytes(body[expiry..expiry + 4].try_into().unwrap());
        assert!((500..600).contains(&remaining), "{remaining} s");
        panel.ping().await;
    }
}
