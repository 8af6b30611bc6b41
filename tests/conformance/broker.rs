//! The broker that is judged: the real program over TLS, or with `CONFORMANCE_BROKER=host:port` any other over plain
//! TCP, to learn whether it is the test that is wrong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::harness::Gateway;

/// Everything is allowed but what is below `forbidden`, and there is room for what all tests leave behind: who may do
/// what, and how much, is judged elsewhere.
const SETTINGS: &str = r##"
[listener]
max_connections_per_device = 10000
max_connections_per_address = 10000

[limits]
connects_per_second = 100000
connect_burst = 100000
handshakes_per_second = 100000
handshake_burst = 100000
max_reconnect_delay = "0s"

[sessions]
max_kept_per_device = 10000

[[acl]]
effect = "deny"
device = "judge"
publish = ["forbidden/#"]
subscribe = ["forbidden/#"]

[[acl]]
device = "judge"
publish = ["#"]
subscribe = ["#"]
"##;

pub(crate) trait Transport: Read + Write + Send {}

impl<T: Read + Write + Send> Transport for T {}

pub(crate) enum Broker {
    Ours { gateway: Gateway, tls: Arc<ClientConfig> },
    Other(String),
}

impl Broker {
    /// One for all tests: each has client ids and topics of its own.
    pub(crate) fn get() -> &'static Self {
        static BROKER: OnceLock<Broker> = OnceLock::new();
        BROKER.get_or_init(|| match std::env::var("CONFORMANCE_BROKER") {
            Ok(address) => Self::Other(address),
            Err(_) => {
                let gateway = Gateway::start(SETTINGS);
                end_with_this_process(&gateway);
                let tls = gateway.home.device("judge").tls();
                Self::Ours { gateway, tls }
            }
        })
    }

    /// Whether it knows the rules above: another broker may allow more.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours { .. })
    }

    pub(crate) fn open(&self) -> Box<dyn Transport> {
        match self {
            Self::Ours { gateway, tls } => {
                let name = ServerName::IpAddress(gateway.address.ip().into());
                let connection = ClientConnection::new(Arc::clone(tls), name).expect("TLS can be set up");
                Box::new(StreamOwned::new(connection, tcp(&gateway.address.to_string())))
            }
            Self::Other(address) => Box::new(tcp(address)),
        }
    }
}

/// What a static holds is never dropped. The shell's input ends when this process does, however that is.
fn end_with_this_process(gateway: &Gateway) {
    let script = "read -r _; kill -9 \"$0\"; rm -rf \"$1\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, &gateway.id().to_string()]).arg(gateway.home.path(""));
    let shell = shell.stdin(Stdio::piped()).spawn().expect("a shell");
    static SHELL: OnceLock<std::process::Child> = OnceLock::new();
    SHELL.set(shell).expect("there is one broker");
}

fn tcp(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_nodelay(true).expect("an option of TCP");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("an option of TCP");
    stream
}
