//! Certificate requests that devices make, so that their key never leaves them.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::PkiError;
use crate::message::DeviceId;

/// Smaller RSA keys are within reach of those who pay for it, and TLS stacks refuse them.
const MIN_RSA_BITS: usize = 2048;

/// Checks a request (PEM) for a device, and takes nothing from it but the key: what else
/// it asks for (names, usages, CA rights) is not granted.
pub(super) fn key_for(device: &DeviceId, pem: &str) -> Result<SubjectPublicKeyInfo, PkiError> {
    let refuse = |why: String| PkiError::Request(why);
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| refuse("it is no PEM file with a \"BEGIN CERTIFICATE REQUEST\" section".to_owned()))?;
    let (_, request) = X509CertificationRequest::from_der(&der)
        .map_err(|error| refuse(format!("it cannot be read ({error})")))?;

    let info = &request.certification_request_info;
    let names: Vec<_> = info.subject.iter_common_name().collect();
    match names.as_slice() {
        [] => {}
        [name] if name.as_str().is_ok_and(|name| name == device.as_str()) => {}
        [name] => {
            let name = name.as_str().unwrap_or("unreadable");
            return Err(refuse(format!(
                "its common name (CN) is {name:?}; it must be \"{device}\", or absent"
            )));
        }
        several => {
            return Err(refuse(format!("it has {} common names (CN); it must have one", several.len())));
        }
    }

    match info.subject_pki.parsed() {
        Ok(PublicKey::EC(point)) if matches!(point.key_size(), 256 | 384) => {}
        Ok(PublicKey::RSA(key)) if key.key_size() >= MIN_RSA_BITS => {}
        Ok(PublicKey::RSA(key)) => {
            return Err(refuse(format!(
                "its RSA key has {} bits; {MIN_RSA_BITS} are needed",
                key.key_size()
            )));
        }
        _ => return Err(refuse("its key must be ECDSA P-256 or P-384, or RSA".to_owned())),
    }
    request.verify_signature().map_err(|_| {
        refuse("its signature is not that of its key: it was changed, or is damaged".to_owned())
    })?;
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|_| refuse("its key must be ECDSA P-256 or P-384, or RSA".to_owned()))
}
