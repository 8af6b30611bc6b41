//! Which certificates are not believed any more, whoever signed them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::id_of;
use super::crl::List;
use crate::message::{CertificateId, DeviceId};

/// The certificates that were revoked: by a command of this gateway, and by the lists of its CA. Cheap to clone;
/// all clones see a change at once.
#[derive(Debug, Clone, Default)]
pub struct Revocations(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    here: BTreeMap<CertificateId, DeviceId>,
    lists: Vec<Arc<List>>,
}

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Which: the device's own, or that of a CA between it and ours.
    pub certificate: CertificateId,
    /// By whom.
    pub by: RevokedBy,
}

/// Who has revoked a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokedBy {
    /// A command of this gateway, for this device.
    Operator(DeviceId),
    /// The CA of this name, by its list.
    Authority(String),
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            RevokedBy::Operator(device) => {
                write!(f, "the certificate {} of {device} was revoked", self.certificate)
            }
            RevokedBy::Authority(name) => {
                write!(f, "the certificate {} was revoked by the list of \"{name}\"", self.certificate)
            }
        }
    }
}

impl Revocations {
    /// Takes the certificates that commands of this gateway have revoked, each with its device, in the place of
    /// those before.
    pub fn set(&self, here: BTreeMap<CertificateId, DeviceId>) {
        self.0.write().expect("no panic under this lock").here = here;
    }

    /// Whether a certificate was revoked.
    #[must_use]
    pub fn find(&self, certificate: &CertificateId) -> Option<Revoked> {
        let inner = self.0.read().expect("no panic under this lock");
        let by = match inner.here.get(certificate) {
            Some(device) => RevokedBy::Operator(device.clone()),
            None => {
                let list = inner.lists.iter().find(|list| list.names(certificate))?;
                RevokedBy::Authority(list.issuer().to_owned())
            }
        };
        Some(Revoked { certificate: certificate.clone(), by })
    }

    /// The first certificate of a chain that was revoked.
    pub(super) fn find_in<'a>(
        &self,
        chain: impl IntoIterator<Item = &'a CertificateDer<'a>>,
    ) -> Option<Revoked> {
        chain.into_iter().find_map(|der| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            self.find(&id_of(&certificate))
        })
    }

    /// Takes these lists in the place of those before.
    pub(super) fn set_lists(&self, lists: Vec<Arc<List>>) {
        self.0.write().expect("no panic under this lock").lists = lists;
    }
}
