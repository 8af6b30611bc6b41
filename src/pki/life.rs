//! How long certificates are still good for.

use time::{Duration, OffsetDateTime};

use super::authority::Authority;
use super::certificate::read_chain;
use super::{CertificateInfo, Pki};
use crate::message::DeviceId;

/// Before this much of its life is left, or a third of it if that is less, a certificate is to be renewed.
const SOON: Duration = Duration::days(30);

/// Certificates that need somebody's care.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lives {
    /// Devices whose last certificate ends soon or has ended, each with its end, by name. Those of an external CA
    /// are not known until they connect.
    pub devices: Vec<(DeviceId, OffsetDateTime)>,
    /// The certificates of the CA that end soon or have ended, with their names. Every device has to be visited before.
    pub authorities: Vec<(String, OffsetDateTime)>,
    /// The end of the server's certificate, if that is soon or has passed: the gateway could not renew it, or it is
    /// the operator's own.
    pub server: Option<OffsetDateTime>,
}

/// Whether a certificate ends soon by the time `now`, or has ended.
#[must_use]
pub fn ends_soon(certificate: &CertificateInfo, now: OffsetDateTime) -> bool {
    let life = certificate.not_after - certificate.not_before;
    certificate.not_after - now < SOON.min(life / 3)
}

/// Whole days until a certificate ends; negative when it has.
#[must_use]
pub fn days_left(certificate: &CertificateInfo, now: OffsetDateTime) -> i64 {
    (certificate.not_after - now).whole_seconds().div_euclid(86_400)
}

impl Lives {
    /// Whether there is nothing to care for.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn of(pki: &Pki) -> Self {
        let now = pki.now();
        // What cannot be read is said by others.
        let devices = pki.devices().unwrap_or_default().into_iter().flatten();
        let devices = devices.filter(|device| ends_soon(&device.certificate, now));
        let authorities = Authority::load(&pki.authority_files()).map(|authority| authority.certificates);
        let authorities =
            authorities.unwrap_or_default().iter().filter_map(CertificateInfo::of).collect::<Vec<_>>();
        let server = pki.settings.server_cert.clone().unwrap_or_else(|| pki.dir.join("server.pem"));
        let server = read_chain(&server).ok().and_then(|chain| CertificateInfo::of(chain.first()?));
        Self {
            devices: devices.map(|device| (device.name, device.certificate.not_after)).collect(),
            authorities: authorities
                .into_iter()
                .filter(|info| ends_soon(info, now))
                .map(|info| (info.subject, info.not_after))
                .collect(),
            server: server.filter(|info| ends_soon(info, now)).map(|info| info.not_after),
        }
    }
}
