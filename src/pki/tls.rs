//! TLS for the listener: what is in force now, swapped while connections stay open.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use time::OffsetDateTime;
use tracing::info;

use super::authority::Authority;
use super::certificate::{CertificateInfo, NoDevice, device_of, named_device};
use super::crl::Lists;
use super::server::{self, Why};
use super::{Pki, PkiError, Revocations, life};
use crate::clock::Clock;
use crate::config::{self, CertificateName, ClientAuth};
use crate::message::{CertificateId, DeviceId};

/// TLS sessions kept for resumption, about 1 KB each. In memory and not in tickets: BearSSL resumes by session
/// id alone, and a ticket would carry the client's certificate back and forth.
const MAX_RESUMABLE_SESSIONS: usize = 1_024;

/// The server's side of TLS. Cheap to clone; all clones see a renewal at once, and connections that are open
/// keep what they began with.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    revocations: Revocations,
    // Held while files are read, as `source`.
    lists: Mutex<Lists>,
    in_force: RwLock<Result<InForce, TlsUnavailable>>,
    // Held while certificates are made and read; never while a connection waits.
    source: Mutex<Source>,
}

#[derive(Debug)]
struct Source {
    pki: Pki,
    revocations: Revocations,
}

#[derive(Debug)]
struct InForce {
    /// For listeners that want a certificate of every client …
    required: Arc<ServerConfig>,
    /// … and for those that do not.
    optional: Arc<ServerConfig>,
    material: Material,
}

/// What a configuration is made of: if it is the same, the configuration stays, and with it the sessions.
#[derive(Debug, PartialEq, Eq)]
struct Material {
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
}

/// Why no TLS connection can be served: it says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsUnavailable(Arc<str>);

/// What a look at the certificates has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    /// Nothing.
    No,
    /// New connections are served with another certificate, CA or rule.
    Yes(Why),
}

impl ServerTls {
    pub(super) fn new(pki: Pki) -> Self {
        let revocations = Revocations::default();
        let source = Source { pki, revocations: revocations.clone() };
        let in_force = source.build(None).map(|(in_force, why)| {
            if let Some(why) = why {
                info!(%why, "the server's certificate was made");
            }
            in_force.expect("there was nothing before")
        });
        let clock = source.pki.clock.clone();
        let in_force = in_force.map_err(|error| TlsUnavailable(error.to_string().into()));
        let in_force = RwLock::new(in_force);
        Self(Arc::new(Shared {
            clock,
            revocations,
            lists: Mutex::default(),
            in_force,
            source: Mutex::new(source),
        }))
    }

    /// The configuration for a new connection to a listener with this rule.
    ///
    /// # Errors
    /// When certificates are damaged or wrong, with what to do about it. [`ServerTls::renew_if_due`] tries again.
    pub fn current(&self, client_auth: ClientAuth) -> Result<Arc<ServerConfig>, TlsUnavailable> {
        match &*self.0.in_force.read().expect("no panic under this lock") {
            Ok(in_force) => Ok(match client_auth {
                ClientAuth::Required => in_force.required.clone(),
                ClientAuth::Optional => in_force.optional.clone(),
            }),
            Err(unavailable) => Err(unavailable.clone()),
        }
    }

    /// The server's certificate that new connections are shown.
    #[cfg(test)]
    pub(super) fn certificate(&self) -> Option<CertificateInfo> {
        let in_force = self.0.in_force.read().expect("no panic under this lock");
        in_force.as_ref().ok().and_then(|in_force| CertificateInfo::of(in_force.material.chain.first()?))
    }

    /// Renews the server's certificate if it is due, and takes up files that have changed.
    /// Call it every hour, and when the wall clock was set. It writes to disk: not on an async thread.
    ///
    /// # Errors
    /// When something is wrong with the files; what was in force stays so.
    pub fn renew_if_due(&self) -> Result<Renewed, PkiError> {
        let source = self.0.source.lock().expect("no panic under this lock");
        self.refresh(&source)
    }

    /// Takes up new settings and files, for SIGHUP. It reads the disk: not on an async thread.
    ///
    /// # Errors
    /// When something is wrong with them; the old settings and certificates stay in force.
    pub fn reload(&self, settings: &config::Pki) -> Result<Renewed, PkiError> {
        let mut source = self.0.source.lock().expect("no panic under this lock");
        let pki = Pki { settings: settings.clone(), ..source.pki.clone() };
        let fresh = Source { pki, revocations: self.0.revocations.clone() };
        let renewed = self.refresh(&fresh)?;
        *source = fresh;
        Ok(renewed)
    }

    /// The device that a chain of certificates speaks for, which the handshake has verified, and which
    /// certificate it is. `chain`: the device's own first, at least that one. `kind`: what in it is the name.
    ///
    /// # Errors
    /// When it does not name exactly one device, or has expired or was revoked since: a resumed session brings
    /// the certificates of the first handshake, unverified.
    pub fn device_of(
        &self,
        chain: &[CertificateDer<'_>],
        kind: CertificateName,
    ) -> Result<(DeviceId, CertificateId), NoDevice> {
        let own = chain.first().ok_or(NoDevice::Unreadable)?;
        let device = device_of(own, kind, self.0.clock.certainly_past().into())?;
        match self.0.revocations.find_in(chain) {
            None => Ok(device),
            Some(revoked) => Err(NoDevice::Revoked(revoked)),
        }
    }

    /// The end of a certificate, if that is soon.
    #[must_use]
    pub fn ends_soon(&self, certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
        let info = CertificateInfo::of(certificate)?;
        life::ends_soon(&info, self.0.clock.trusted_now().into()).then_some(info.not_after)
    }

    /// The certificates that are not believed any more.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Reads the lists of the CA (`pki.crl`) that have changed; all of them if `again`, for SIGHUP. Says whether
    /// what was revoked may be other than before. Call it every second. It reads the disk: not on an async thread.
    pub fn refresh_lists(&self, again: bool) -> bool {
        let pki = self.0.source.lock().expect("no panic under this lock").pki.clone();
        let authorities = || Ok(Authority::load(&pki.authority_files())?.certificates);
        let mut lists = self.0.lists.lock().expect("no panic under this lock");
        let changed = lists.refresh(&pki.settings.crl, authorities, again);
        if changed {
            self.0.revocations.set_lists(lists.good());
        }
        changed
    }

    /// What is wrong with the lists of the CA: unreadable, or older than they may be.
    #[must_use]
    pub fn list_problems(&self) -> Vec<PkiError> {
        let lists = self.0.lists.lock().expect("no panic under this lock");
        lists.problems(self.0.clock.trusted_now().into())
    }

    fn refresh(&self, source: &Source) -> Result<Renewed, PkiError> {
        let built = {
            let in_force = self.0.in_force.read().expect("no panic under this lock");
            source.build(in_force.as_ref().ok().map(|in_force| &in_force.material))
        };
        match built {
            Ok((None, _)) => Ok(Renewed::No),
            Ok((Some(fresh), why)) => {
                *self.0.in_force.write().expect("no panic under this lock") = Ok(fresh);
                Ok(Renewed::Yes(why.unwrap_or(Why::NewFiles)))
            }
            Err(error) => {
                let mut in_force = self.0.in_force.write().expect("no panic under this lock");
                if in_force.is_err() {
                    *in_force = Err(TlsUnavailable(error.to_string().into()));
                }
                Err(error)
            }
        }
    }
}

impl Source {
    /// Reads the files, makes what is due, and builds a configuration if it differs from `before`.
    fn build(&self, before: Option<&Material>) -> Result<(Option<InForce>, Option<Why>), PkiError> {
        if let Some(problem) = server::invalid_names(&self.pki.settings).into_iter().next() {
            return Err(problem);
        }
        let authority = Authority::load(&self.pki.authority_files())?;
        let roots = authority.certificates.clone();
        let (certified, why) = server::load(&self.pki, authority)?;
        let material = Material { chain: certified.cert.clone(), roots };
        if before == Some(&material) {
            return Ok((None, None));
        }
        let config = |client_auth| {
            let verifier = |provider| {
                let clock = self.pki.clock.clone();
                Verifier::new(&material, client_auth, provider, clock, self.revocations.clone())
            };
            let config = server_config(certified.clone(), verifier, self.pki.clock.clone());
            config.map_err(|error| PkiError::Settings(format!("TLS cannot be set up: {error}")))
        };
        let (required, optional) = (config(ClientAuth::Required)?, config(ClientAuth::Optional)?);
        Ok((Some(InForce { required: Arc::new(required), optional: Arc::new(optional), material }), why))
    }
}

fn server_config(
    certified: CertifiedKey,
    verifier: impl FnOnce(Arc<CryptoProvider>) -> Result<Verifier, Error>,
    clock: Clock,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(verifier(provider.clone())?);
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(TrustedTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.session_storage = ServerSessionMemoryCache::new(MAX_RESUMABLE_SESSIONS);
    // A device reconnects once with a ticket; rustls would send and keep two.
    config.send_tls13_tickets = 1;
    // `max_fragment_size` stays unset: records of 16 KB cost nothing here, and rustls does not negotiate smaller
    // ones (RFC 6066), so a client with a small receive buffer would need them cut for everybody.
    // `ignore_client_order` stays false: the client is the weak side, and knows which cipher it has hardware for.
    Ok(config)
}

/// The time by which certificates are judged (P7).
#[derive(Debug)]
struct TrustedTime(Clock);

impl TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        unix_time(self.0.trusted_now())
    }
}

fn unix_time(time: SystemTime) -> Option<UnixTime> {
    time.duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
}

/// A certificate that a peer showed, whether it was believed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose it says it is.
    pub subject: String,
    /// Who it says has signed it.
    pub issuer: String,
    certificate: CertificateDer<'static>,
}

impl Shown {
    /// What a certificate says of itself; `None` if it is none.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let CertificateInfo { subject, issuer, .. } = CertificateInfo::of(certificate)?;
        Some(Self { subject, issuer, certificate: certificate.clone().into_owned() })
    }

    /// The device that it says it is of.
    #[must_use]
    pub fn device(&self, kind: CertificateName) -> Option<DeviceId> {
        named_device(&self.certificate, kind).ok()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate of \"{}\", signed by \"{}\"", self.subject, self.issuer)
    }
}

tokio::task_local! {
    static SHOWN: RefCell<Option<Shown>>;
}

/// Runs a handshake, and tells which certificate the peer showed in it: rustls' errors do not say whose
/// certificate was refused, and whoever reads the log needs to know which device to visit.
pub fn witness<T>(handshake: impl Future<Output = T>) -> impl Future<Output = (T, Option<Shown>)> {
    SHOWN.scope(RefCell::new(None), handshake.map(|output| (output, SHOWN.with(RefCell::take))))
}

/// The usual verifier, which also notes for [`witness`] what it was shown, and does not let a clock
/// that is wrong refuse a certificate: without synchronisation only an end before the floor counts.
/// It refuses what was revoked.
#[derive(Debug)]
struct Verifier {
    usual: Arc<dyn ClientCertVerifier>,
    clock: Clock,
    revocations: Revocations,
}

impl Verifier {
    fn new(
        material: &Material,
        client_auth: ClientAuth,
        provider: Arc<CryptoProvider>,
        clock: Clock,
        revocations: Revocations,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for root in &material.roots {
            roots.add(root.clone())?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match client_auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        let usual = builder.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { usual, clock, revocations })
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.usual.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Outside of `witness` nobody asks.
        SHOWN.try_with(|slot| slot.replace(Shown::of(end_entity))).ok();
        let verified = self.verify_by_time(end_entity, intermediates, now)?;
        match self.revocations.find_in(std::iter::once(end_entity).chain(intermediates)) {
            None => Ok(verified),
            Some(_) => Err(CertificateError::Revoked.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

impl Verifier {
    fn verify_by_time(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.clock.is_synchronized() {
            return self.usual.verify_client_cert(end_entity, intermediates, now);
        }
        let mut at = unix_time(self.clock.certainly_past()).unwrap_or(now);
        for _ in 0..=intermediates.len() {
            match self.usual.verify_client_cert(end_entity, intermediates, at) {
                // The CA has signed this certificate, so it is at least as late as the certificate begins: better
                // evidence than a clock that nobody vouches for.
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before, ..
                })) => at = not_before,
                verdict => return verdict,
            }
        }
        self.usual.verify_client_cert(end_entity, intermediates, at)
    }
}
