//! Which certificate, as X.509 tells them apart.

use std::fmt;

/// Names a certificate: a CA gives no serial number twice (RFC 5280, 4.1.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct CertificateId {
    /// The name of the CA that has signed it, as in `CN=greenhouse CA`.
    pub issuer: String,
    /// Its serial number: lower-case hexadecimal digits, two a byte.
    pub serial: String,
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of \"{}\"", self.serial, self.issuer)
    }
}
