//! The gateway under show: a process of its own, so that it can be killed.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::cloud::Cloud;
use crate::api;
use crate::config::Config;

/// How long a gateway may take to answer after its start, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Lines of its log that are shown when it fails.
const LOG_LINES: usize = 15;

/// Where a gateway lives.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) config: Config,
    pub(super) address: SocketAddr,
    config_file: PathBuf,
    log: PathBuf,
}

/// A gateway's process. It does not outlive this.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    place: Place,
}

impl Place {
    /// Writes a configuration for the cloud and these devices.
    pub(super) fn prepare(directory: &Path, cloud: &Cloud, devices: &[&str]) -> anyhow::Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let address = free.context("no free port on 127.0.0.1")?;
        let text = configuration(&directory.join("data"), address, cloud, devices);
        let config = Config::from_toml(&text).context("the demo's own configuration")?;
        let config_file = directory.join("config.toml");
        std::fs::write(&config_file, text)
            .with_context(|| format!("cannot write {}", config_file.display()))?;
        Ok(Self { config, address, config_file, log: directory.join("gateway.log") })
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The whole configuration of the demo's gateway.
fn configuration(data_dir: &Path, address: SocketAddr, cloud: &Cloud, devices: &[&str]) -> String {
    let channel = cloud.thingspeak.settings();
    let mut fields = String::new();
    for (field, device) in (1..=8).zip(devices) {
        write!(fields, "field{field} = {{ path = \"n\", device = \"{device}\" }}, ").expect("a String grows");
    }
    format!(
        r#"# Written by `tampu demo`.
[gateway]
id = "demo"
data_dir = {data_dir:?}

[log]
format = "text"

[pki]
names = ["localhost", "127.0.0.1"]

[listener]
address = "{address}"

[api]
enabled = false

[buffer]
max_size = "64 MiB"
min_free = "16 MiB"

[clock]
# For the show, this machine's clock is believed.
source = "trusted"

[[stream]]
name = "readings"
topic = "+/readings/#"
format = "json"

[[stream]]
name = "level"
topic = "+/level"
format = "number"

[[stream]]
name = "switch"
topic = "+/switch"
format = "text"

[[sink]]
name = "thingspeak"
type = "thingspeak"
url = "{thingspeak}"
channel = {number}
write_key = "{write_key}"
interval = "{interval_ms}ms"
timeout = "5s"
# Each device's message counter in a field of its own: this is what shows that it has arrived.
fields = {{ {fields} }}

[[sink]]
name = "supabase"
type = "supabase"
url = "{supabase}"
key = "sb_secret_demo"
table = "readings"
interval = "100ms"
timeout = "5s"
"#,
        thingspeak = cloud.thingspeak.line().url(),
        number = channel.channel,
        write_key = channel.write_key,
        interval_ms = channel.interval.as_millis(),
        supabase = cloud.supabase.line().url(),
        fields = fields.trim_end_matches(", "),
    )
}

impl Process {
    /// Starts a gateway, and returns when it answers.
    pub(super) async fn start(place: &Place) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(&place.log);
        let log = log.with_context(|| format!("cannot write {}", place.log.display()))?;
        let program = std::env::current_exe().context("cannot find this very program")?;
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(&place.config_file);
        command.arg("--end-with").arg(std::process::id().to_string());
        // The environment wins over the file, and what is set there is meant for another gateway.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TAMPU_") {
                command.env_remove(name);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.context("cannot start the gateway")?;
        let mut gateway = Self { child, place: place.clone() };
        let start = Instant::now();
        while gateway.status().await.is_none() {
            if let Some(status) = gateway.child.try_wait()? {
                bail!("the gateway has ended ({status}); its last words:\n{}", place.last_words());
            }
            if start.elapsed() > PATIENCE {
                bail!("the gateway does not answer; its last words:\n{}", place.last_words());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(gateway)
    }

    /// What it says of itself; nothing while it does not answer.
    pub(super) async fn status(&self) -> Option<Value> {
        api::client::status(&self.place.config.data_dir).await.ok()
    }

    /// SIGKILL: it cannot write, send or say anything any more. Returns when it is gone.
    pub(super) fn kill(&mut self) -> std::io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// SIGTERM: it drains and ends by itself.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).context("cannot tell the gateway to end")?;
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the gateway ended with {status}:\n{}", self.place.last_words()),
                None if start.elapsed() > PATIENCE => bail!("the gateway does not end after SIGTERM"),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it is gone already, which is all that is wanted.
        self.kill().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cloud::CloudSettings;

    #[tokio::test]
    async fn the_configuration_is_one_that_the_gateway_takes() {
        let cloud = Cloud::start(CloudSettings::default()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let place = Place::prepare(directory.path(), &cloud, &["a", "b"]).unwrap();
        assert_eq!(place.config.data_dir, directory.path().join("data"));
        assert_eq!(place.config.listener.address, place.address);
        assert_eq!(place.config.streams.len(), 3);
        let names: Vec<_> = place.config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        assert_eq!(names, ["thingspeak", "supabase"]);
        assert!(place.config_file.exists());
    }
}
