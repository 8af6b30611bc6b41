//! Whether devices will believe the server certificate that the operator brought.

use std::collections::BTreeSet;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::PkiError;
use super::certificate::{HostName, host_names};

/// What makes every device that looks refuse a server certificate, besides its dates.
pub(super) fn problems(path: &Path, der: &CertificateDer<'_>) -> Vec<PkiError> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let mut problems = Vec::new();
    let usage = certificate.extended_key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        let wrong = "it is not one for servers (its extended key usage lacks serverAuth)";
        problems.push(PkiError::file(path, wrong, "have it signed with extendedKeyUsage=serverAuth"));
    }
    if host_names(&certificate).is_empty() {
        let wrong = "it holds for no host (it has no subject alternative name)";
        let remedy =
            "have it signed with subjectAltName=DNS:NAME, the name under which devices find this host";
        problems.push(PkiError::file(path, wrong, remedy));
    }
    problems
}

/// What to know about the names that a server certificate holds for, if devices could be surprised by them.
/// `wanted`: the names in the settings; `host`: all names and addresses of this host.
pub(super) fn names_to_know(
    path: &Path,
    der: &CertificateDer<'_>,
    wanted: &BTreeSet<HostName>,
    host: &BTreeSet<HostName>,
) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let held = host_names(&certificate);
    let not_covered: BTreeSet<_> = wanted.iter().filter(|name| !covers(&held, name)).cloned().collect();
    let (missing, whose) = if !not_covered.is_empty() {
        (not_covered, "it does not hold for these of pki.names")
    } else {
        let from_outside: BTreeSet<_> = host.iter().filter(|name| !is_local(name)).cloned().collect();
        if from_outside.iter().any(|name| covers(&held, name)) {
            return None;
        }
        (from_outside, "it holds for no name or address of this host")
    };
    if held.is_empty() {
        return None;
    }
    Some(format!(
        "{}: {whose} ({}): devices have to find this host as {} (`tampu device add --host`)",
        path.display(),
        list(&missing, ", "),
        list(&held, " or ")
    ))
}

/// As RFC 6125, 6.4.3: a `*` stands for one whole label, the first.
fn covers(held: &BTreeSet<HostName>, name: &HostName) -> bool {
    let wildcard = match name {
        HostName::Dns(name) => name.split_once('.').map(|(_, parent)| HostName::Dns(format!("*.{parent}"))),
        HostName::Address(_) => None,
    };
    held.contains(name) || wildcard.is_some_and(|wildcard| held.contains(&wildcard))
}

/// Whether a name leads every host to itself.
fn is_local(name: &HostName) -> bool {
    match name {
        HostName::Dns(name) => name == "localhost",
        HostName::Address(address) => address.is_loopback(),
    }
}

fn list(names: &BTreeSet<HostName>, separator: &str) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
