//! Certificate revocation lists of the CA that signs devices (RFC 5280, 5), from files that others write.
//!
//! A list counts from the moment on at which it was read whole and its signature was found to be the CA's.
//! It is kept until a better one comes: neither a file that cannot be read nor a date that has passed takes
//! back what it says, and neither locks anybody out. Both are an alarm, because what was revoked since is not known.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use x509_parser::x509::ReasonCode;

use super::PkiError;
use super::authority::{Authority, AuthorityFiles};
use super::certificate::hex;
use crate::message::CertificateId;

/// About 400,000 certificates.
const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;
const REMEDY: &str = "put a list of the CA in its place; the last good one counts until then";

/// The lists of all files. The default: none.
#[derive(Debug, Default)]
pub(super) struct Lists(BTreeMap<PathBuf, File>);

#[derive(Debug, Default)]
struct File {
    seen: Option<Seen>,
    good: Vec<Arc<List>>,
    problem: Option<PkiError>,
}

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// A list that was believed.
#[derive(Debug)]
pub(super) struct List {
    issuer: String,
    /// As they stand in the list, without an allocation for each to point at.
    serials: HashSet<Box<[u8]>>,
    next_update: Option<OffsetDateTime>,
}

impl Lists {
    /// Reads the files that have changed; all of them if `again`. Says whether what was revoked may be other
    /// than before. `authorities`: asked for if something is read; those whose signature counts.
    pub(super) fn refresh(
        &mut self,
        paths: &[PathBuf],
        authorities: impl Fn() -> Result<Vec<CertificateDer<'static>>, PkiError>,
        again: bool,
    ) -> bool {
        let before = self.0.len();
        self.0.retain(|path, _| paths.contains(path));
        let mut changed = self.0.len() < before;
        for path in paths {
            let file = self.0.entry(path.clone()).or_default();
            let seen = look(path);
            if !again && seen.is_some() && seen == file.seen {
                continue;
            }
            file.seen = seen;
            match authorities().and_then(|authorities| read(path, &authorities)) {
                Ok(lists) => {
                    (file.good, file.problem) = (lists, None);
                    changed = true;
                }
                Err(problem) => file.problem = Some(problem),
            }
        }
        changed
    }

    /// The lists that count.
    pub(super) fn good(&self) -> Vec<Arc<List>> {
        self.0.values().flat_map(|file| &file.good).cloned().collect()
    }

    /// What the operator has to mend, by the time `now`.
    pub(super) fn problems(&self, now: OffsetDateTime) -> Vec<PkiError> {
        let mut problems = Vec::new();
        for (path, file) in &self.0 {
            match &file.problem {
                Some(PkiError::File { wrong, remedy, .. }) => {
                    problems.push(PkiError::file(path, wrong, remedy))
                }
                Some(other) => problems.push(PkiError::file(path, other.to_string(), REMEDY)),
                None => {}
            }
            let ended = file.good.iter().filter_map(|list| list.next_update).filter(|end| *end < now).min();
            if let Some(end) = ended {
                let wrong = format!(
                    "it should have been replaced by {}; whom it names is refused, what was revoked since is not known",
                    end.date()
                );
                problems.push(PkiError::file(path, wrong, "fetch a new one from the CA"));
            }
        }
        problems
    }
}

/// What is wrong with these lists, for somebody who only looks.
pub(super) fn problems(paths: &[PathBuf], authority: &AuthorityFiles, now: OffsetDateTime) -> Vec<PkiError> {
    let mut lists = Lists::default();
    // A CA that cannot be read is said by others.
    let Ok(authorities) = Authority::load(authority).map(|authority| authority.certificates) else {
        return Vec::new();
    };
    lists.refresh(paths, || Ok(authorities.clone()), true);
    lists.problems(now)
}

fn look(path: &Path) -> Option<Seen> {
    let metadata = fs::metadata(path).ok()?;
    Some(Seen { modified: metadata.modified().ok(), bytes: metadata.len(), inode: metadata.ino() })
}

/// Reads a file of one list in DER, or of any number in PEM.
fn read(path: &Path, authorities: &[CertificateDer<'static>]) -> Result<Vec<Arc<List>>, PkiError> {
    let failed = |source| PkiError::io("reading", path, source);
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_LIST_BYTES {
        let wrong = format!("it has {bytes} bytes; at most {MAX_LIST_BYTES} are read");
        return Err(PkiError::file(path, wrong, REMEDY));
    }
    let text = fs::read(path).map_err(failed)?;
    let ders = if text.first() == Some(&0x30) {
        vec![CertificateRevocationListDer::from(text)]
    } else {
        CertificateRevocationListDer::pem_slice_iter(&text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| PkiError::file(path, format!("it is not valid PEM ({error})"), REMEDY))?
    };
    if ders.is_empty() {
        return Err(PkiError::file(path, "it holds no list (no \"BEGIN X509 CRL\")", REMEDY));
    }
    let parsed = ders.iter().map(|der| List::parse(der, authorities));
    parsed
        .map(|list| list.map(Arc::new))
        .collect::<Result<_, _>>()
        .map_err(|wrong| PkiError::file(path, wrong, REMEDY))
}

impl List {
    /// Whose list it is.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether it names a certificate.
    pub(super) fn names(&self, certificate: &CertificateId) -> bool {
        self.issuer == certificate.issuer
            && bytes_of(&certificate.serial).is_some_and(|serial| self.serials.contains(&serial[..]))
    }

    fn parse(der: &[u8], authorities: &[CertificateDer<'static>]) -> Result<Self, String> {
        let list = match CertificateRevocationList::from_der(der) {
            Ok(([], list)) => list,
            Ok(_) => return Err("bytes follow the list".to_owned()),
            Err(error) => return Err(format!("the list cannot be read ({error})")),
        };
        let issuer = list.issuer().to_string();
        let cas: Vec<_> = authorities
            .iter()
            .filter_map(|der| X509Certificate::from_der(der).ok())
            .map(|(_, ca)| ca)
            .collect();
        let mut namesakes =
            cas.iter().filter(|ca| ca.subject().as_raw() == list.issuer().as_raw()).peekable();
        if namesakes.peek().is_none() {
            return Err(format!("it is of \"{issuer}\", which is no CA of this gateway (pki.ca_cert)"));
        }
        if !namesakes.any(|ca| list.verify_signature(ca.public_key()).is_ok()) {
            return Err(format!("its signature is not that of \"{issuer}\": it was changed, or is damaged"));
        }
        if let Some(what) = cannot_be_used(&list) {
            return Err(what.to_owned());
        }
        let removed = |code: Option<(bool, ReasonCode)>| {
            code.is_some_and(|(_, reason)| reason == ReasonCode::RemoveFromCRL)
        };
        let revoked = list.iter_revoked_certificates().filter(|entry| !removed(entry.reason_code()));
        Ok(Self {
            issuer,
            serials: revoked.map(|entry| entry.raw_serial().into()).collect(),
            next_update: list.next_update().map(|time| time.to_datetime()),
        })
    }
}

/// Lists whose entries mean something else than "a certificate of the list's issuer was revoked" (RFC 5280, 5.2).
fn cannot_be_used(list: &CertificateRevocationList<'_>) -> Option<&'static str> {
    const DELTA: &str = "2.5.29.27";
    const OF_ANOTHER_ISSUER: &str = "2.5.29.29";
    if list.extensions().iter().any(|extension| extension.oid.to_id_string() == DELTA) {
        return Some("it is a delta list, which tells only what has changed: give the complete one");
    }
    let mut entries = list.iter_revoked_certificates().flat_map(|entry| entry.extensions());
    let is_indirect = entries.any(|extension| extension.oid.to_id_string() == OF_ANOTHER_ISSUER);
    is_indirect.then_some("it is an indirect list, with entries of several CAs: give the lists of each CA")
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    bytes.collect::<Option<Vec<_>>>().filter(|bytes| hex(bytes) == digits)
}
