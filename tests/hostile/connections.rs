//! Connections that come too fast, too slowly, or too often.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConfig;

use crate::client::{Client, tcp};
use crate::harness::{PATIENCE, eventually};
use crate::packet::{DISCONNECT, Hello, VERSIONS, Version, publish};
use crate::scene::Scene;

/// Where those are who do not behave: another address than that of the others.
pub(crate) const ABROAD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// Devices behind one router. As many as a noisy machine can simulate in a debug build; `benches/fleet` has 1,000.
const FLEET: usize = 300;

#[test]
fn a_fleet_behind_a_router_that_reboots_twice_is_back_each_time_and_nobody_is_refused() {
    // The defaults in proportion, but that the first coming counts, too, and that there is less to wait for. Each
    // device may be there twice, and not three times.
    let scene = Scene::start_with(
        "[listener]\nhandshake_timeout = \"60s\"\nmax_connections_per_address = 610\n\
         [limits]\nconnects_per_second = 60\nconnect_burst = 1000\nhandshakes_per_second = 100\nhandshake_burst = 300\n",
    );
    allow_open_files(4_096);
    let devices: Vec<_> =
        (0..FLEET).map(|n| format!("d{n}")).map(|name| (scene.device(&name), name)).collect();
    let mut fleet = come(scene.address(), &devices);
    for _ in 0..2 {
        // A router that has forgotten its connections ends none of them.
        let start = Instant::now();
        let back = come(scene.address(), &devices);
        println!("{FLEET} devices are back after {:?}", start.elapsed());
        // The well-behaved client is the other one.
        eventually("the places of the old connections are free", || {
            (scene.figure("connections") == FLEET as u64 + 1).then_some(())
        });
        drop(std::mem::replace(&mut fleet, back));
    }
    let status = scene.gateway.home.status().unwrap();
    assert_eq!(status["broker"]["taken_over"], 2 * FLEET, "{status:#}");
    let refusals = status["broker"]["refusals"].as_object().unwrap();
    assert!(refusals.values().all(|count| count == 0), "{status:#}");
    drop(fleet);
    scene.end();
}

/// All come at once, and each has a reading acknowledged.
fn come(to: SocketAddr, devices: &[(Arc<ClientConfig>, String)]) -> Vec<Client> {
    let come = |(tls, name): &(Arc<ClientConfig>, String)| {
        let (mut client, _) = Client::try_connect(ABROAD, to, tls, &Hello::new(Version::V3, name)).unwrap();
        client.send(&publish(Version::V3, &format!("{name}/readings"), b"{}", 1, 1));
        assert_eq!(client.expect(4).id(), 1);
        client
    };
    std::thread::scope(|scope| {
        let coming: Vec<_> = devices.iter().map(|device| scope.spawn(move || come(device))).collect();
        coming.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn allow_open_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }).unwrap();
    }
}

#[test]
fn a_flood_of_connections_from_one_address() {
    let scene = Scene::start();
    let mut sockets = Vec::new();
    for n in 0..3_000 {
        if let Ok(mut socket) = tcp(ABROAD, scene.address()) {
            // What it says, if anything: plain MQTT, noise, the beginning of TLS.
            let words: [&[u8]; 4] =
                [b"", b"\x10\x0c\0\x04MQTT", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff"];
            socket.write_all(words[n % 4]).ok();
            sockets.push(socket);
        }
        if sockets.len() > 800 {
            sockets.drain(..400);
        }
    }
    scene.others_are_served();
    assert!(scene.refused("too_many_connects") + scene.refused("too_many_connections_of_address") > 0);
    drop(sockets);
    scene.end();
}

#[test]
fn a_flood_of_connects_of_one_device() {
    let scene = Scene::start();
    let tls = scene.device("storm");
    let start = Instant::now();
    let (mut let_in, mut kept_out, mut held) = (0, 0, Vec::new());
    for n in 0_usize.. {
        if start.elapsed() > Duration::from_secs(4) {
            break;
        }
        let mut hello = Hello::new(VERSIONS[n % 2], &format!("storm{n}"));
        hello.clean = n % 3 == 0;
        let result = Client::open(ABROAD, scene.address(), &tls).and_then(|mut client| {
            client.socket().set_read_timeout(Some(Duration::from_millis(50)))?;
            // The CONNECT is whole, and repeated in most: that is against the protocol.
            client.try_send(&hello.packet().repeat(1 + n % 3))?;
            Ok(client)
        });
        match result {
            Ok(client) => {
                let_in += 1;
                held.push(client);
            }
            Err(_) => kept_out += 1,
        }
        if held.len() > 30 {
            held.drain(..15);
        }
    }
    println!("{let_in} let in, {kept_out} kept out");
    drop(held);
    scene.end();
}

#[test]
fn a_device_that_reconnects_in_a_tight_loop_is_slowed_and_its_neighbours_are_not() {
    let scene = Scene::start();
    let tls = scene.device("loop");
    let start = Instant::now();
    let mut times = 0_u32;
    while start.elapsed() < Duration::from_secs(6) {
        let hello = Hello::new(Version::V3, "loop");
        if let Ok((mut client, _)) = Client::try_connect(ABROAD, scene.address(), &tls, &hello) {
            client.try_send(DISCONNECT).ok();
            times += 1;
        }
    }
    // Beyond the first few it is let in once a second or so; without that it would be hundreds of times.
    assert!(times < 40, "{times} times in 6 s");
    scene.end();
}

#[test]
fn connections_that_send_a_byte_a_second() {
    let settings = "[listener]\nhandshake_timeout = \"4s\"\nconnect_timeout = \"4s\"\n";
    let scene = Scene::start_with(settings);
    let tls = scene.device("slow");
    // Within TLS, below it, and one that has been let in.
    let mut in_tls: Vec<_> = (0..10).map(|_| Client::open(ABROAD, scene.address(), &tls).unwrap()).collect();
    let mut below: Vec<_> = (0..50).map(|_| tcp(ABROAD, scene.address()).unwrap()).collect();
    let mut patient = scene.connect(&scene.other(), &Hello::new(Version::V3, "patient"));
    let connect = Hello::new(Version::V3, "a client id that takes its time").packet();
    let reading = publish(Version::V3, "o/r", b"!", 1, 5);
    for (n, byte) in connect.iter().take(8).enumerate() {
        for client in &mut in_tls {
            // It may have been ended by now.
            client.try_send(&[*byte]).ok();
        }
        for socket in &mut below {
            socket.write_all(&[[0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x00][n]]).ok();
        }
        patient.send(&reading[n..=n]);
        std::thread::sleep(Duration::from_secs(1));
    }
    for client in &mut in_tls {
        client.expect_end();
    }
    for socket in &mut below {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // An end, with or without a TLS alert, and not a timeout.
        if let Err(error) = socket.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it was not ended");
        }
    }
    assert!(scene.refused("connect_timeout") >= 10);
    assert!(scene.refused("handshake_timeout") >= 50);
    patient.send(&reading[8..]);
    assert_eq!(patient.expect(4).id(), 5, "who was let in may take its time");
    scene.end();
}
