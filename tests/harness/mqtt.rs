//! rumqttc as a device: a client that this project has not written.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::v4::{Packet, SubscribeReasonCode};
use rumqttc::{
    Client, Connection, ConnectionError, Event, MqttOptions, Publish, QoS, RecvTimeoutError, SubscribeFilter,
    TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::PATIENCE;

/// The files that a device is given.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Credentials {
    /// As `tampu device add` writes them.
    pub(crate) fn in_directory(directory: &Path, name: &str) -> Self {
        Self {
            ca: directory.join("ca.pem"),
            cert: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        }
    }

    pub(crate) fn tls(&self) -> Arc<ClientConfig> {
        let certs = CertificateDer::pem_file_iter(&self.cert).expect("a certificate").map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        let config = trusting(&self.ca).with_client_auth_cert(certs.collect(), key);
        Arc::new(config.expect("the key belongs to the certificate"))
    }
}

/// TLS as a sketch does it that knows the CA and nothing else.
pub(crate) fn without_certificate(ca: &Path) -> Arc<ClientConfig> {
    Arc::new(trusting(ca).with_no_client_auth())
}

fn trusting(ca: &Path) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("a CA") {
        roots.add(certificate.unwrap()).expect("a CA certificate");
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has both versions of TLS")
        .with_root_certificates(roots)
}

/// A connected client. It does not connect again by itself.
pub(crate) struct Device {
    client: Client,
    connection: Connection,
    inbox: VecDeque<Publish>,
}

impl Device {
    /// Connects, with a clean session and a keep alive of 15 s as PubSubClient has it.
    pub(crate) fn try_connect(
        gateway: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        client_id: &str,
    ) -> Result<Self, ConnectionError> {
        Self::try_login(gateway, tls, client_id, None)
    }

    /// The same with a user name and a password.
    pub(crate) fn try_login(
        gateway: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
        client_id: &str,
        login: Option<(&str, &str)>,
    ) -> Result<Self, ConnectionError> {
        let mut options = MqttOptions::new(client_id, gateway.ip().to_string(), gateway.port());
        options.set_keep_alive(Duration::from_secs(15)).set_clean_session(true);
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        if let Some(tls) = tls {
            let tls = TlsConfiguration::Rustls(Arc::clone(tls));
            options.set_transport(Transport::tls_with_config(tls));
        }
        let (client, connection) = Client::new(options, 1_000);
        let mut device = Self { client, connection, inbox: VecDeque::new() };
        device.wait("CONNACK", |event| matches!(event, Event::Incoming(Packet::ConnAck(_))).then_some(()))?;
        Ok(device)
    }

    pub(crate) fn connect(gateway: SocketAddr, credentials: &Credentials, client_id: &str) -> Self {
        Self::try_connect(gateway, Some(&credentials.tls()), client_id)
            .unwrap_or_else(|error| panic!("{client_id} is not let in: {error}"))
    }

    /// Subscribes to several filters with one packet; what was granted for each.
    pub(crate) fn subscribe(&mut self, filters: &[(&str, QoS)]) -> Vec<SubscribeReasonCode> {
        let filters = filters.iter().map(|(filter, qos)| SubscribeFilter::new((*filter).to_owned(), *qos));
        self.client.subscribe_many(filters).expect("the request is queued");
        self.wait("SUBACK", |event| match event {
            Event::Incoming(Packet::SubAck(ack)) => Some(ack.return_codes.clone()),
            _ => None,
        })
        .expect("the connection stays")
    }

    /// Publishes at QoS 1 and waits for the ack.
    pub(crate) fn try_publish(&mut self, topic: &str, payload: &str) -> Result<(), ConnectionError> {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).expect("the request is queued");
        self.wait("PUBACK", |event| matches!(event, Event::Incoming(Packet::PubAck(_))).then_some(()))
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: &str) {
        self.try_publish(topic, payload).unwrap_or_else(|error| panic!("{topic}: {error}"));
    }

    /// Publishes at QoS 0. It has left this process when the call returns.
    pub(crate) fn publish_qos0(&mut self, topic: &str, payload: &str) {
        self.client.publish(topic, QoS::AtMostOnce, false, payload).expect("the request is queued");
        self.wait("the publish leaves", |event| {
            matches!(event, Event::Outgoing(rumqttc::Outgoing::Publish(_))).then_some(())
        })
        .expect("the connection stays");
    }

    /// The next message for this device.
    pub(crate) fn receive(&mut self) -> Publish {
        if let Some(waiting) = self.inbox.pop_front() {
            return waiting;
        }
        self.wait("a message", |event| match event {
            Event::Incoming(Packet::Publish(publish)) => Some(publish.clone()),
            _ => None,
        })
        .expect("the connection stays")
    }

    /// Waits until the gateway ends the connection.
    pub(crate) fn wait_until_closed(&mut self) -> ConnectionError {
        self.wait("the end", |_| None::<()>).expect_err("the wait ends with an error or not at all")
    }

    fn wait<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, ConnectionError> {
        let start = Instant::now();
        loop {
            let left = PATIENCE.checked_sub(start.elapsed()).unwrap_or_else(|| panic!("{what} never came"));
            let event = match self.connection.recv_timeout(left) {
                Ok(event) => event?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => unreachable!("this holds the client"),
            };
            if let Some(found) = pick(&event) {
                return Ok(found);
            }
            if let Event::Incoming(Packet::Publish(publish)) = event {
                self.inbox.push_back(publish);
            }
        }
    }
}
