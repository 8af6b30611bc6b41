//! A gateway's door, for the tests of who is let in.

use std::net::{IpAddr, Ipv4Addr};

use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::config::{self, Config};

pub(super) const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A gateway's door, with what it knows.
pub(super) struct Gate {
    pub(super) authenticator: Authenticator,
    pub(super) clock: Clock,
    pub(super) access: Access,
    pub(super) devices: Devices,
    pub(super) keys: KeyFiles,
    pub(super) dir: TempDir,
}

impl Gate {
    /// `identities`: in the words of the configuration, with what belongs to them.
    pub(super) fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("synchronized"), "").unwrap();
        Self::in_directory(dir, settings)
    }

    pub(super) fn in_directory(dir: TempDir, settings: &str) -> Self {
        let source = config::ClockSource::File(dir.path().join("synchronized"));
        let clock = config::Clock { source, ..config::Clock::default() };
        let clock =
            Clock::start(&clock, &dir.path().join("floor"), std::collections::BTreeMap::new()).unwrap();
        let config = Config::from_toml(settings).unwrap_or_else(|invalid| panic!("{invalid}"));
        let mut keys = KeyFiles::default();
        keys.set(&config.access.issuers);
        assert_eq!(keys.troubles().count(), 0);
        let authenticator = Authenticator::new(clock.clone());
        Self { authenticator, clock, access: config.access, devices: Devices::default(), keys, dir }
    }

    pub(super) fn with_password(mut self, name: &str, password: &str) -> Self {
        self.devices.device_mut(&device(name)).password =
            Some(PasswordHash::of(password.as_bytes()).unwrap());
        self
    }

    pub(super) fn rules(&self) -> Authorizer {
        Authorizer::with(&self.access, &[], Arc::new(self.devices.clone()), self.keys.keys())
    }

    pub(super) async fn show(
        &self,
        shown: Credentials<'_>,
    ) -> Result<Arc<Principal>, (Refusal, DeniedAnswer)> {
        let admitted = self.authenticator.authenticate(&self.rules(), shown).await;
        admitted.map_err(|denied| (denied.refusal, denied.answer))
    }

    pub(super) async fn login(
        &self,
        user: &str,
        password: &str,
    ) -> Result<Arc<Principal>, (Refusal, DeniedAnswer)> {
        self.show(login(user, password)).await
    }
}

pub(super) fn login<'a>(user: &'a str, password: &'a str) -> Credentials<'a> {
    Credentials { user: Some(user), password: Some(password.as_bytes()), ..nothing() }
}

pub(super) fn nothing() -> Credentials<'static> {
    Credentials {
        door: Door::Tls,
        certificate: None,
        client_id: "plug",
        user: None,
        password: None,
        address: HOME,
    }
}

pub(super) fn certificate(name: &str) -> Option<(DeviceId, CertificateId)> {
    Some((device(name), CertificateId { issuer: "CN=CA".to_owned(), serial: "01".to_owned() }))
}
