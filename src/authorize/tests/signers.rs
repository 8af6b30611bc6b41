//! Keys that sign tokens, made for the test.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use num_bigint::BigUint;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header and these claims.
pub(super) fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let text = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let signature = base64url(sign(text.as_bytes()));
    format!("{text}.{signature}")
}

pub(super) fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    move |text| ring::hmac::sign(&key, text).as_ref().to_vec()
}

/// An EC key on P-256.
pub(super) struct Ec(EcdsaKeyPair, pub(super) String);

impl Ec {
    pub(super) fn make() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
            .unwrap();
        Self(pair, key.public_key_pem())
    }

    pub(super) fn sign(&self, text: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), text).unwrap().as_ref().to_vec()
    }

    pub(super) fn jwk(&self, kid: &str) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..]));
        json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": x, "y": y })
    }
}

/// An RSA key of 2,048 bits.
pub(super) struct Rsa {
    pair: RsaKeyPair,
    modulus: Vec<u8>,
}

impl Rsa {
    pub(super) fn make() -> Self {
        let exponent = BigUint::from(65_537_u32);
        let one = BigUint::from(1_u8);
        let (p, q, d) = loop {
            let (p, q) = (prime(), prime());
            let totient = (&p - &one) * (&q - &one);
            if p != q
                && let Some(d) = exponent.modinv(&totient)
            {
                break (p, q, d);
            }
        };
        let (p, q) = if p > q { (p, q) } else { (q, p) };
        let n = &p * &q;
        let part = |number: &BigUint| number.to_bytes_be();
        let pair = RsaKeyPair::from_components(&KeyPairComponents {
            public_key: PublicKeyComponents { n: part(&n), e: part(&exponent) },
            d: part(&d),
            dP: part(&(&d % (&p - &one))),
            dQ: part(&(&d % (&q - &one))),
            qInv: part(&q.modinv(&p).unwrap()),
            p: part(&p),
            q: part(&q),
        });
        Self { pair: pair.unwrap(), modulus: part(&n) }
    }

    pub(super) fn sign(&self, text: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).unwrap();
        signature
    }

    pub(super) fn jwk(&self, kid: &str) -> Value {
        json!({ "kty": "RSA", "kid": kid, "n": base64url(&self.modulus), "e": "AQAB" })
    }

    /// The `PUBLIC KEY` (RFC 8017, A.1.1 in RFC 5280, 4.1).
    pub(super) fn public_pem(&self) -> String {
        let algorithm =
            der(0x30, &[b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", &b"\x05\0"[..]].concat());
        let key = der(0x03, &[b"\0", self.pair.public().as_ref()].concat());
        let text = STANDARD.encode(der(0x30, &[algorithm, key].concat()));
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match u8::try_from(content.len()) {
        Ok(short @ 0..=0x7f) => vec![short],
        Ok(long) => vec![0x81, long],
        Err(_) => [&[0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes()].concat(),
    };
    [vec![tag], length, content.to_vec()].concat()
}

/// A prime of 1,024 bits, as far as eight rounds of Miller and Rabin can tell.
fn prime() -> BigUint {
    let small: Vec<u32> =
        (3..2_000).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).collect();
    loop {
        let mut bytes = [0; 128];
        SystemRandom::new().fill(&mut bytes).unwrap();
        bytes[0] |= 0xc0;
        bytes[127] |= 1;
        let candidate = BigUint::from_bytes_be(&bytes);
        if small.iter().all(|divisor| &candidate % divisor != BigUint::ZERO) && is_prime(&candidate) {
            return candidate;
        }
    }
}

fn is_prime(candidate: &BigUint) -> bool {
    let one = BigUint::from(1_u8);
    let last = candidate - &one;
    let twos = last.trailing_zeros().unwrap();
    let odd = &last >> twos;
    [2_u32, 3, 5, 7, 11, 13, 17, 19].iter().all(|base| {
        let mut power = BigUint::from(*base).modpow(&odd, candidate);
        if power == one || power == last {
            return true;
        }
        (1..twos).any(|_| {
            power = &power * &power % candidate;
            power == last
        })
    })
}
