//! The keys of those who may sign tokens, read from files that may change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::TokenKeys;
use crate::authorize::identity::Mark;
use crate::authorize::seen::Seen;
use crate::config::{self, TokenAlgorithm, TokenIssuer};

/// A set has no more keys: each that fits may cost a check of a signature.
const MAX_KEYS_OF_A_SET: usize = 32;

/// No file of keys is larger; what is, is not read into memory.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// `ring` checks no shorter modulus: 2,048 bits.
const MIN_MODULUS_BYTES: usize = 256;

/// As RFC 7518, 3.2 wants it.
const MIN_SECRET_BYTES: usize = 32;

/// A point of P-256, uncompressed: 0x04 and two numbers (SEC 1, 2.3.3).
const POINT_BYTES: usize = 65;

/// A key, with the algorithm that is its own.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) issuer: Arc<TokenIssuer>,
    kid: Option<Box<str>>,
    check: Check,
    pub(super) mark: Mark,
}

#[derive(Clone)]
enum Check {
    Hs256(hmac::Key),
    Rs256 { modulus: Box<[u8]>, exponent: Box<[u8]> },
    Es256(Box<[u8]>),
}

impl Key {
    /// Whether a token with this header may have been signed with it. A key without an id may have signed any.
    pub(super) fn fits(&self, algorithm: &str, kid: Option<&str>) -> bool {
        let own = match self.check {
            Check::Hs256(_) => "HS256",
            Check::Rs256 { .. } => "RS256",
            Check::Es256(_) => "ES256",
        };
        own == algorithm && self.kid.as_deref().is_none_or(|own| kid.is_none_or(|kid| kid == own))
    }

    pub(super) fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        match &self.check {
            // In constant time.
            Check::Hs256(key) => hmac::verify(key, text, signature).is_ok(),
            Check::Rs256 { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&RSA_PKCS1_2048_8192_SHA256, text, signature)
                .is_ok(),
            Check::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(text, signature).is_ok()
            }
        }
    }

    fn new(issuer: &Arc<TokenIssuer>, kid: Option<&str>, material: Material) -> Self {
        let (mark, check) = match material {
            Material::Secret(secret) => (
                Mark::of(&[b"HS256", &*secret].concat()),
                Check::Hs256(hmac::Key::new(hmac::HMAC_SHA256, &secret)),
            ),
            Material::Rsa { modulus, exponent } => (
                Mark::of(&[b"RS256", &*modulus, &*exponent].concat()),
                Check::Rs256 { modulus: modulus.into(), exponent: exponent.into() },
            ),
            Material::P256(point) => (Mark::of(&[b"ES256", &*point].concat()), Check::Es256(point.into())),
        };
        Self { issuer: Arc::clone(issuer), kid: kid.map(Into::into), check, mark }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("issuer", &self.issuer.name)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// What a key is made of, checked.
enum Material {
    Secret(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
}

/// A `[[jwt]]` whose keys cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("jwt.{issuer}: {}: {wrong}", file.display())]
pub struct KeyProblem {
    /// The name of the `[[jwt]]`.
    pub issuer: String,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub wrong: String,
}

/// The files of keys, as a running gateway sees them.
#[derive(Debug, Default)]
pub struct KeyFiles {
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    issuer: Arc<TokenIssuer>,
    seen: Option<Seen>,
    keys: Vec<Key>,
    trouble: Option<KeyProblem>,
}

impl KeyFiles {
    /// Reads the keys of these issuers. Those of an issuer that was there before stay in force if they cannot be read.
    pub fn set(&mut self, issuers: &[TokenIssuer]) {
        let mut before = std::mem::take(&mut self.watched);
        for issuer in issuers {
            let known = before.iter().position(|known| *known.issuer == *issuer);
            let mut watched = known.map_or_else(
                || Watched { issuer: Arc::new(issuer.clone()), seen: None, keys: Vec::new(), trouble: None },
                |index| before.swap_remove(index),
            );
            watched.read();
            self.watched.push(watched);
        }
    }

    /// What is wrong with the files as of the last look: somebody must act.
    pub fn troubles(&self) -> impl Iterator<Item = &KeyProblem> {
        self.watched.iter().filter_map(|watched| watched.trouble.as_ref())
    }

    /// Looks whether files have changed; call it twice a second, not on an async thread. `true`: there are other keys
    /// now. While a file cannot be read, its keys that were in force stay so.
    pub fn look(&mut self) -> bool {
        let mut changed = false;
        for watched in &mut self.watched {
            let has_changed = |file: &_| watched.trouble.is_some() || Seen::look(file) != watched.seen;
            if watched.file().is_some_and(has_changed) {
                watched.read();
                changed |= watched.trouble.is_none();
            }
        }
        changed
    }

    /// The keys as of the last look.
    #[must_use]
    pub fn keys(&self) -> Arc<TokenKeys> {
        Arc::new(TokenKeys { keys: self.watched.iter().flat_map(|watched| watched.keys.clone()).collect() })
    }
}

impl Watched {
    fn file(&self) -> Option<&Path> {
        match &self.issuer.keys {
            config::TokenKeys::Secret(_) => None,
            config::TokenKeys::PublicKey { file, .. } | config::TokenKeys::Set { file } => Some(file),
        }
    }

    fn read(&mut self) {
        self.seen = self.file().and_then(Seen::look);
        let issuer = &self.issuer;
        let read = match &issuer.keys {
            config::TokenKeys::Secret(secret) => {
                Ok(vec![Key::new(issuer, None, Material::Secret(secret.expose().as_bytes().to_vec()))])
            }
            config::TokenKeys::PublicKey { algorithm, file } => {
                let key = read_file(file).and_then(|text| public_key(&text, *algorithm));
                key.map(|material| vec![Key::new(issuer, None, material)]).map_err(|wrong| (file, wrong))
            }
            config::TokenKeys::Set { file } => {
                read_file(file).and_then(|text| key_set(&text, issuer)).map_err(|wrong| (file, wrong))
            }
        };
        match read {
            Ok(keys) => (self.keys, self.trouble) = (keys, None),
            Err((file, wrong)) => {
                self.trouble = Some(KeyProblem { issuer: issuer.name.clone(), file: file.clone(), wrong });
            }
        }
    }
}

fn read_file(file: &Path) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("it has {length} bytes, so it holds no keys"));
    }
    std::fs::read(file).map_err(|error| error.to_string())
}

/// A `PUBLIC KEY` (RFC 7468, 13).
fn public_key(pem: &[u8], algorithm: TokenAlgorithm) -> Result<Material, String> {
    let wanted =
        "what is wanted is a public key: -----BEGIN PUBLIC KEY-----, as `openssl pkey -pubout` writes it";
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| wanted.to_owned())?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| wanted.to_owned())?;
    match (info.parsed(), algorithm) {
        (Ok(PublicKey::RSA(key)), TokenAlgorithm::Rs256) => rsa(key.modulus, key.exponent),
        (Ok(PublicKey::EC(point)), TokenAlgorithm::Es256) => p256(point.data()),
        (Ok(PublicKey::RSA(_)), _) => Err("it is an RSA key, which belongs to RS256".to_owned()),
        (Ok(PublicKey::EC(_)), _) => Err("it is an EC key, which belongs to ES256".to_owned()),
        _ => Err("it is neither an RSA key nor an EC key".to_owned()),
    }
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Material, String> {
    let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
    let modulus = number(modulus);
    if modulus.len() < MIN_MODULUS_BYTES {
        return Err("an RSA key must have 2,048 bits or more".to_owned());
    }
    Ok(Material::Rsa { modulus, exponent: number(exponent) })
}

fn p256(point: &[u8]) -> Result<Material, String> {
    if point.len() != POINT_BYTES || point[0] != 4 {
        return Err("ES256 needs a key on the curve P-256".to_owned());
    }
    Ok(Material::P256(point.to_vec()))
}

/// A JSON Web Key Set (RFC 7517, 5). Keys for another use, or of another kind, are passed over, as it wants.
fn key_set(text: &[u8], issuer: &Arc<TokenIssuer>) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or("it has no list \"keys\"")?;
    let mut keys = Vec::new();
    for (index, entry) in listed.iter().enumerate() {
        let entry = entry.as_object().ok_or_else(|| format!("its key {} is not an object", index + 1))?;
        let kid = entry.get("kid").and_then(Value::as_str);
        let material = jwk(entry).map_err(|wrong| format!("its key {} ({kid:?}): {wrong}", index + 1))?;
        keys.extend(material.map(|material| Key::new(issuer, kid, material)));
    }
    match keys.len() {
        0 => Err("it holds no key for HS256, RS256 or ES256".to_owned()),
        1..=MAX_KEYS_OF_A_SET => Ok(keys),
        more => Err(format!("it holds {more} keys, more than {MAX_KEYS_OF_A_SET}")),
    }
}

/// A key, if it is one that tokens may be signed with here.
fn jwk(entry: &Map<String, Value>) -> Result<Option<Material>, String> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let bytes = |name: &str| {
        let encoded = text(name).ok_or_else(|| format!("it has no {name:?}"))?;
        URL_SAFE_NO_PAD.decode(encoded).map_err(|_| format!("its {name:?} is not base64url"))
    };
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    let is_for = |algorithm: &str| text("alg").is_none_or(|own| own == algorithm);
    Ok(match text("kty") {
        Some("oct") if is_for("HS256") => {
            let secret = bytes("k")?;
            if secret.len() < MIN_SECRET_BYTES {
                return Err(format!("its secret has fewer than {MIN_SECRET_BYTES} bytes"));
            }
            Some(Material::Secret(secret))
        }
        Some("RSA") if is_for("RS256") => Some(rsa(&bytes("n")?, &bytes("e")?)?),
        Some("EC") if is_for("ES256") && text("crv") == Some("P-256") => {
            Some(p256(&[vec![4], bytes("x")?, bytes("y")?].concat())?)
        }
        Some(_) => None,
        None => return Err("it has no \"kty\"".to_owned()),
    })
}
