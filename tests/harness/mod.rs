//! A gateway as its user has it: the real program, its files, its devices. Each test has its own.

#![allow(dead_code, reason = "each test binary uses its part of this")]
#![allow(clippy::result_large_err, reason = "rumqttc's error is what it is")]

pub(crate) mod authority;
pub(crate) mod cloud;
pub(crate) mod mqtt;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use mqtt::Credentials;

/// How long anything may take on a slow and busy machine. Nothing waits so long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "it never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The files of a gateway, whether it runs or not.
pub(crate) struct Home {
    dir: TempDir,
    /// Settings from the environment, which win over the file.
    environment: BTreeMap<&'static str, String>,
}

impl Home {
    /// A configuration file with these settings, and the environment that every test wants: free ports, a
    /// directory of its own, a log that can be read, a clock that is right.
    pub(crate) fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data").display().to_string();
        let environment = [
            ("TAMPU_GATEWAY__ID", "gw".to_owned()),
            ("TAMPU_GATEWAY__DATA_DIR", data),
            ("TAMPU_LISTENER__ADDRESS", "127.0.0.1:0".to_owned()),
            ("TAMPU_API__ADDRESS", "127.0.0.1:0".to_owned()),
            ("TAMPU_LOG__FORMAT", "json".to_owned()),
            ("TAMPU_CLOCK__SOURCE", "trusted".to_owned()),
        ];
        let home = Self { dir, environment: environment.into() };
        home.configure(settings);
        home
    }

    /// Another setting from the environment, or any other variable.
    pub(crate) fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.environment.insert(variable, value.into());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration file anew.
    pub(crate) fn configure(&self, settings: &str) {
        std::fs::write(self.config(), settings).expect("the configuration can be written");
    }

    /// Runs a command of the program to its end, with this gateway's configuration.
    pub(crate) fn tampu(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("the program starts")
    }

    /// The same with this on its standard input; it must succeed. What it has printed.
    pub(crate) fn tampu_with(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(arguments);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the program starts");
        let mut stdin = process.stdin.take().expect("it was piped");
        stdin.write_all(input.as_bytes()).expect("the program reads");
        drop(stdin);
        let output = process.wait_with_output().expect("the program ends");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// A new device, with the gateway's own command.
    pub(crate) fn device(&self, name: &str) -> Credentials {
        let out = self.path("devices");
        let path = out.to_str().expect("temporary directories are UTF-8");
        let output = self.tampu(&["device", "add", name, "--format", "pem", "--out", path]);
        assert!(output.status.success(), "device add {name}: {output:?}");
        Credentials::in_directory(&out, name)
    }

    /// Starts the daemon and waits until it serves.
    pub(crate) fn start(self) -> Gateway {
        self.launch().serve()
    }

    /// Starts the daemon.
    pub(crate) fn launch(self) -> Starting {
        let log = File::options().append(true).create(true).open(self.path("log")).expect("a log file");
        let mut command = self.command(&["run"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        Starting { process: Process(command.spawn().expect("the program starts")), home: self }
    }

    /// Everything that the daemon has logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `GET /v1/status`, if somebody answers.
    pub(crate) fn status(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.path("data/tampu.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /v1/status HTTP/1.0\r\nHost: tampu\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        assert!(head.contains(" 200 "), "{answer}");
        Some(serde_json::from_str(body).expect("the status is JSON"))
    }

    fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tampu"));
        command.args(arguments).arg("--config").arg(self.config()).envs(&self.environment);
        command
    }
}

/// A gateway that may not serve yet.
pub(crate) struct Starting {
    process: Process,
    home: Home,
}

impl Starting {
    /// Waits until it serves.
    pub(crate) fn serve(mut self) -> Gateway {
        let listener = eventually("the daemon serves", || {
            if let Some(status) = self.process.0.try_wait().expect("a child can be asked") {
                panic!("the daemon ended with {status}:\n{}", self.home.log());
            }
            self.home.status()?["listener"].as_str().map(str::to_owned)
        });
        let address = listener.parse().expect("the status holds an address");
        Gateway { address, process: self.process, home: self.home }
    }

    /// Before that, the kernel ends a process that is sent one.
    pub(crate) fn wait_until_it_listens_to_signals(&self) {
        let status = format!("/proc/{}/status", self.process.0.id());
        eventually("the daemon listens to SIGHUP", || {
            let status = std::fs::read_to_string(&status).expect("Linux tells of a child");
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).expect("it is a mask");
            (caught & 1 << (Signal::HUP.as_raw() - 1) != 0).then_some(())
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn ended(self) -> (ExitStatus, Home) {
        (self.process.ended(), self.home)
    }
}

/// A gateway that runs until this is dropped.
pub(crate) struct Gateway {
    process: Process,
    pub(crate) home: Home,
    /// Where devices connect.
    pub(crate) address: SocketAddr,
}

impl Gateway {
    pub(crate) fn start(settings: &str) -> Self {
        Home::new(settings).start()
    }

    /// The daemon's process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// The power plug, as far as a process has one.
    pub(crate) fn kill(mut self) -> Home {
        self.process.0.kill().expect("a child can be killed");
        self.process.0.wait().expect("a child can be waited for");
        self.home
    }

    /// SIGTERM, and how the daemon ended.
    pub(crate) fn terminate(self) -> (ExitStatus, Home) {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn ended(self) -> (ExitStatus, Home) {
        (self.process.ended(), self.home)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for a figure of the status.
    pub(crate) fn wait_for_status<T>(&self, what: &str, mut pick: impl FnMut(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        let start = Instant::now();
        loop {
            if let Some(status) = self.home.status() {
                if let Some(found) = pick(&status) {
                    return found;
                }
                last = status;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {last:#}\n{}", self.home.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a line of the log.
    pub(crate) fn wait_for_log(&self, what: &str, mut pick: impl FnMut(&LogLine) -> bool) -> LogLine {
        let start = Instant::now();
        loop {
            let log = self.home.log();
            if let Some(line) = log.lines().filter_map(LogLine::parse).find(|line| pick(line)) {
                return line;
            }
            assert!(start.elapsed() < PATIENCE, "{what}:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a refusal for this reason was logged, and says with which device and detail.
    pub(crate) fn wait_for_refusal(&self, reason: &str) -> LogLine {
        let line = self.wait_for_log(&format!("a refusal: {reason}"), |line| line.field("reason") == reason);
        assert_eq!(line.field("peer"), "127.0.0.1", "who was refused");
        line
    }
}

/// A line of the JSON log, whose fields stand beside time and level.
pub(crate) struct LogLine(Value);

impl LogLine {
    fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok().map(Self)
    }

    pub(crate) fn level(&self) -> &str {
        self.0["level"].as_str().unwrap_or_default()
    }

    /// A field as text, empty if it is not there.
    pub(crate) fn field(&self, name: &str) -> String {
        match &self.0[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }
}

/// A child that does not outlive its test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("a child can be sent a signal");
    }

    fn ended(mut self) -> ExitStatus {
        eventually("the daemon ends", || self.0.try_wait().expect("a child can be asked"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The output of a command, for assertions and their messages.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A path as text.
pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().expect("temporary directories are UTF-8")
}
