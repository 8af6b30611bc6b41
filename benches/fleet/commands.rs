//! The way back: a command by the REST API to one of many devices that are connected, and its ack.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::client::micros;
use crate::devices::{Fleet, connect_all};
use crate::runs::Latency;

/// A prime, so that one device after the other is not the next one.
const STRIDE: usize = 7_919;

/// A new token is in force within a second.
const TOKEN_DEADLINE: Duration = Duration::from_secs(10);

/// Commands, one after the other, each to another device.
pub(crate) struct RoundTrips {
    pub(crate) devices: usize,
    pub(crate) commands: usize,
    /// From the request until the device has the command.
    pub(crate) to_device: Latency,
    /// From the request until the API knows of the device's ack.
    pub(crate) round_trip: Latency,
}

pub(crate) fn round_trips(
    broker: &Broker,
    fleet: &Fleet,
    count: usize,
    commands: usize,
) -> anyhow::Result<RoundTrips> {
    let devices = fleet.first(count);
    let mut clients = connect_all(devices, broker)?;
    for (client, device) in clients.iter_mut().zip(devices) {
        client.subscribe(&format!("{}/cmd", device.name()), 1)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let api = Api::new(broker)?;
    runtime.block_on(api.until_in_force())?;
    let (mut to_device, mut round_trip) = (Vec::with_capacity(commands), Vec::with_capacity(commands));
    for n in 0..commands {
        let at = n * STRIDE % count;
        let start = Instant::now();
        let id = runtime.block_on(api.send(devices[at].name(), n))?;
        clients[at].obey()?;
        to_device.push(micros(start.elapsed()));
        runtime.block_on(api.until_done(&id))?;
        round_trip.push(micros(start.elapsed()));
    }
    let (to_device, round_trip) = (Latency::of(to_device), Latency::of(round_trip));
    Ok(RoundTrips { devices: count, commands, to_device, round_trip })
}

/// The REST API, over one connection.
struct Api {
    http: reqwest::Client,
    commands: String,
    token: String,
}

impl Api {
    fn new(broker: &Broker) -> anyhow::Result<Self> {
        let token = broker.tampu(&["token", "create", "bench", "--scope", "commands:write,commands:read"])?;
        let commands = format!("http://{}/api/v1/commands", broker.api);
        // The client wants one, although nothing is encrypted here. A second run finds it installed.
        rustls::crypto::ring::default_provider().install_default().ok();
        Ok(Self {
            http: reqwest::Client::builder().no_proxy().build()?,
            commands,
            token: token.trim().to_owned(),
        })
    }

    async fn until_in_force(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.http.get(&self.commands).bearer_auth(&self.token).send().await?.status().is_success() {
            ensure!(start.elapsed() < TOKEN_DEADLINE, "the token is not taken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// It is on disk when this returns.
    async fn send(&self, device: &str, n: usize) -> anyhow::Result<String> {
        let command = json!({ "device": device, "topic": format!("{device}/cmd"), "payload": { "brightness": n % 256 } });
        let request = self.http.post(&self.commands).bearer_auth(&self.token).json(&command);
        let reply: Value = request.send().await?.error_for_status()?.json().await?;
        Ok(reply["id"].as_str().context("a command without an id")?.to_owned())
    }

    async fn until_done(&self, id: &str) -> anyhow::Result<()> {
        let url = format!("{}/{id}?wait=5", self.commands);
        let reply = self.http.get(url).bearer_auth(&self.token).send().await?.error_for_status()?;
        let command: Value = reply.json().await?;
        ensure!(command["state"] == "done", "{command}");
        Ok(())
    }
}
