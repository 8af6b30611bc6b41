//! The brokers as child processes, and what the kernel says of them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustls::ClientConfig;

use crate::client::{Client, LOOPBACK};
use crate::pki::Pki;

/// `USER_HZ`: the unit of the times in `/proc/<pid>/stat`, 100 on every Linux (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a broker says, in its directory.
pub(crate) const LOG: &str = "broker.log";

const START_DEADLINE: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mosquitto,
    Tampu,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mosquitto => "mosquitto",
            Self::Tampu => "tampu",
        }
    }
}

/// How far connections of one address are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doors {
    /// Not: all clients have one address.
    Open,
    /// As a gateway has it that nobody has configured.
    AsShipped,
}

impl Doors {
    fn limits(self) -> &'static str {
        match self {
            Self::Open => {
                "max_connections_per_address = 10000\nmax_connections_per_device = 10000\n\
                 [limits]\nconnects_per_second = 10000\nconnect_burst = 10000\n\
                 handshakes_per_second = 10000\nhandshake_burst = 10000\nmax_reconnect_delay = \"0s\"\n"
            }
            Self::AsShipped => "",
        }
    }
}

/// A broker that runs until it is dropped.
pub(crate) struct Broker {
    kind: Kind,
    config_file: PathBuf,
    command: Command,
    dir: PathBuf,
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where tampu has its REST API, with doors as shipped.
    pub(crate) api: SocketAddr,
    /// From the start of the process to the first CONNACK.
    pub(crate) started_in: Duration,
}

impl Broker {
    /// Starts one in a directory of its own and waits until `probe` gets a CONNACK.
    pub(crate) fn start(
        kind: Kind,
        dir: &Path,
        pki: &Pki,
        probe: &Arc<ClientConfig>,
        doors: Doors,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (address, api) = (free_address()?, free_address()?);
        let (program, arguments, config) = match kind {
            Kind::Mosquitto => (mosquitto()?, vec!["-c"], mosquitto_config(address, pki)?),
            Kind::Tampu => (
                env!("CARGO_BIN_EXE_tampu").into(),
                vec!["run", "--config"],
                tampu_config([address, api], dir, pki, doors)?,
            ),
        };
        let config_file = dir.join("broker.conf");
        std::fs::write(&config_file, config)?;
        let mut command = Command::new(&program);
        command.args(arguments).arg(&config_file);
        let start = Instant::now();
        let child = spawn(&mut command, dir)?;
        let dir = dir.to_owned();
        let mut broker =
            Self { kind, config_file, command, dir, child, address, api, started_in: Duration::ZERO };
        while let Err(error) = Client::connect(LOOPBACK, address, probe, "probe") {
            if let Some(status) = broker.child.try_wait()? {
                bail!("{} ended with {status}: see {}", kind.name(), broker.dir.join(LOG).display());
            }
            if start.elapsed() > START_DEADLINE {
                return Err(error.context(format!("{} does not accept", kind.name())));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        broker.started_in = start.elapsed();
        Ok(broker)
    }

    /// SIGKILL, and at once a new process with the same files.
    pub(crate) fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).context("ending it")?;
        self.child = spawn(&mut self.command, &self.dir)?;
        Ok(())
    }

    /// User and system time of the process so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        // The command, in parentheses, may hold blanks: count from its end. utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("/proc/<pid>/stat without a command")?;
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Resident memory, in KiB.
    pub(crate) fn rss_kib(&self) -> anyhow::Result<u64> {
        number_after(&self.proc("status")?, "VmRSS:")
    }

    /// Bytes that the process has caused to be written to the device so far.
    pub(crate) fn written_bytes(&self) -> anyhow::Result<u64> {
        number_after(&self.proc("io")?, "\nwrite_bytes:")
    }

    /// That tampu has kept this many readings and found nothing wrong with any: mosquitto keeps none.
    pub(crate) fn check_kept(&self, published: usize) -> anyhow::Result<()> {
        if self.kind == Kind::Mosquitto {
            return Ok(());
        }
        let status = self.tampu(&["buffer", "status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&status).context("buffer status")?;
        let buffer = &status["buffer"];
        ensure!(buffer["accepted"] == published, "{published} were acknowledged, but: {buffer}");
        ensure!(buffer["dead_letters"] == 0, "none should be a dead letter: {buffer}");
        Ok(())
    }

    /// What a command of tampu says, beside the gateway that runs.
    pub(crate) fn tampu(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tampu"));
        let output = command.args(arguments).arg("--config").arg(&self.config_file).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        std::fs::read_to_string(&path).with_context(|| path)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("process {} could not be ended: {error}", self.child.id());
        }
    }
}

/// Starts a process that says what it says in a file there.
fn spawn(command: &mut Command, dir: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::options().append(true).create(true).open(dir.join(LOG))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("starting {}", command.get_program().display()))
}

fn mosquitto() -> anyhow::Result<PathBuf> {
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .context("mosquitto is not installed: apt-get install mosquitto")
}

/// Debian's defaults, without persistence and without an ACL, both in its favour.
fn mosquitto_config(address: SocketAddr, pki: &Pki) -> anyhow::Result<String> {
    let mut config = String::new();
    writeln!(config, "listener {} {}", address.port(), address.ip())?;
    writeln!(config, "cafile {}", pki.ca_cert().display())?;
    writeln!(config, "certfile {}", pki.server_cert().display())?;
    writeln!(config, "keyfile {}", pki.server_key().display())?;
    writeln!(config, "require_certificate true\nuse_identity_as_username true\nset_tcp_nodelay true")?;
    writeln!(config, "persistence false\nlog_dest stderr\nlog_type error")?;
    // Started by root it would change to a user who cannot read the key.
    writeln!(config, "user root")?;
    Ok(config)
}

/// Every publish is a reading: on disk before its ack.
fn tampu_config(
    [address, api]: [SocketAddr; 2],
    dir: &Path,
    pki: &Pki,
    doors: Doors,
) -> anyhow::Result<String> {
    let is_shipped = doors == Doors::AsShipped;
    Ok(format!(
        "[gateway]\nid = \"bench\"\ndata_dir = {data:?}\n\
         [pki]\nca_cert = {ca:?}\nserver_cert = {cert:?}\nserver_key = {key:?}\n\
         [listener]\naddress = \"{address}\"\n\
         {limits}[api]\nenabled = {is_shipped}\naddress = \"{api}\"\n\
         commands_per_minute = 1000000\nrequests_per_minute = 1000000\n\
         [clock]\nsource = \"trusted\"\n\
         [[acl]]\ndevice = \"watcher\"\nsubscribe = [\"#\"]\n\
         [[stream]]\nname = \"readings\"\ntopic = \"+/readings\"\nformat = \"json\"\n",
        limits = doors.limits(),
        data = dir.join("data"),
        ca = pki.ca_cert(),
        cert = pki.server_cert(),
        key = pki.server_key(),
    ))
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn number_after(text: &str, key: &str) -> anyhow::Result<u64> {
    let (_, rest) = text.split_once(key).with_context(|| format!("no {key} in /proc"))?;
    Ok(rest.split_whitespace().next().context("no number")?.parse()?)
}
