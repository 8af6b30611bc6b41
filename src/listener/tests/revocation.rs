//! Certificates that were revoked: by a command, and by the list of the CA that has signed them.

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::Duration as Days;

use super::running::{Running, answers, ends, said};
use super::*;
use crate::authorize::refusals::Refusal;
use crate::pki::CertificateInfo;

fn info(credentials: &Credentials) -> CertificateInfo {
    CertificateInfo::of(&credentials.0).unwrap()
}

fn copy(credentials: &Credentials) -> Credentials {
    (credentials.0.clone(), credentials.1.clone_key())
}

/// The list of a CA, which ends so many days from now.
fn list(ca: &Ca, revoked: &[&Credentials], days: i64) -> rcgen::CertificateRevocationList {
    let now = OffsetDateTime::now_utc();
    let revoked = revoked.iter().map(|credentials| {
        let serial = info(credentials).serial;
        let bytes =
            (0..serial.len()).step_by(2).map(|at| u8::from_str_radix(&serial[at..at + 2], 16).unwrap());
        RevokedCertParams {
            serial_number: SerialNumber::from(bytes.collect::<Vec<_>>()),
            revocation_time: now,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        }
    });
    let params = CertificateRevocationListParams {
        this_update: now - Days::days(100),
        next_update: now + Days::days(days),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(ca).unwrap()
}

/// A gateway that reads `list.pem`, which is not there yet.
fn gateway_with_list() -> (Gateway, PathBuf) {
    let mut gateway = Gateway::new();
    let path = gateway.dir.path().join("list.pem");
    gateway.settings.crl = vec![path.clone()];
    gateway.tls.reload(&gateway.settings).unwrap();
    (gateway, path)
}

/// What a client is told that may not come in. With TLS 1.3 it hears so after its handshake.
async fn told(
    running: &Running,
    credentials: Credentials,
    version: &'static SupportedProtocolVersion,
) -> String {
    let config = client(running.gateway.ca.der().clone(), Some(credentials), &[version]);
    match soon(connect(running.address, config)).await {
        Err(error) => error.to_string(),
        Ok(mut client) => soon(client.read_u8()).await.unwrap_err().to_string(),
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_with_the_alert_that_says_so_and_others_are_not() {
    let running = Running::start(Gateway::new(), &config::Listener::default());
    let (lost, new) = (running.gateway.device("pump"), running.gateway.device("pump"));
    let device = DeviceId::parse("pump").unwrap();
    running.gateway.tls.revocations().set([(info(&lost).id(), device)].into());
    for version in [TLS12, TLS13] {
        let error = told(&running, copy(&lost), version).await;
        assert!(error.contains("CertificateRevoked"), "{version:?}: {error}");
    }
    running.refused(Refusal::CertificateRevoked, 2).await;
    let mut client = connect(running.address, running.gateway.client(Some(new))).await.unwrap();
    assert_eq!(said(&mut client).await, "pump");
}

#[tokio::test]
async fn a_resumed_session_does_not_bring_a_revoked_certificate_in() {
    let running = Running::start(Gateway::new(), &config::Listener::default());
    for version in [TLS12, TLS13] {
        let credentials = running.gateway.device("pump");
        let root = running.gateway.ca.der().clone();
        let config = client(root, Some(copy(&credentials)), &[version]);
        let mut before = connect(running.address, config.clone()).await.unwrap();
        assert_eq!(said(&mut before).await, "pump");
        let revoked = [(info(&credentials).id(), DeviceId::parse("pump").unwrap())];
        running.gateway.tls.revocations().set(revoked.into());
        let times = running.refusals.counts()["certificate_revoked"];
        // The session is resumed, for which no certificate is verified; and then the door is shut.
        let after = soon(connect(running.address, config)).await.unwrap();
        assert_eq!(after.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        ends(after).await;
        running.refused(Refusal::CertificateRevoked, times + 1).await;
    }
}

#[tokio::test]
async fn a_list_counts_as_soon_as_it_is_there_in_either_form() {
    let (gateway, path) = gateway_with_list();
    let (lost, good) = (gateway.device("pump"), gateway.device("fan"));
    let running = Running::start(gateway, &config::Listener::default());
    let tls = &running.gateway.tls;
    assert!(!tls.refresh_lists(false));
    assert_eq!(tls.list_problems().len(), 1, "it is not there");
    let signed = list(&running.gateway.ca, &[&lost], 7);
    for bytes in [signed.pem().unwrap().into_bytes(), signed.der().to_vec()] {
        std::fs::write(&path, bytes).unwrap();
        assert!(tls.refresh_lists(true));
        assert!(tls.list_problems().is_empty());
        assert!(told(&running, copy(&lost), TLS13).await.contains("CertificateRevoked"));
    }
    assert!(!tls.refresh_lists(false), "nothing has changed");
    let mut client = connect(running.address, running.gateway.client(Some(good))).await.unwrap();
    answers_as(&mut client, "fan").await;
}

async fn answers_as(client: &mut Client, name: &str) {
    assert_eq!(said(client).await, name);
    answers(client).await;
}

#[tokio::test]
async fn a_list_that_should_have_been_replaced_alarms_keeps_its_word_and_locks_nobody_out() {
    let (gateway, path) = gateway_with_list();
    let (lost, good) = (gateway.device("pump"), gateway.device("fan"));
    let running = Running::start(gateway, &config::Listener::default());
    std::fs::write(&path, list(&running.gateway.ca, &[&lost], -1).pem().unwrap()).unwrap();
    running.gateway.tls.refresh_lists(false);
    let problems = running.gateway.tls.list_problems();
    assert!(problems[0].to_string().contains("should have been replaced by"), "{problems:?}");
    assert!(told(&running, lost, TLS12).await.contains("CertificateRevoked"));
    let mut client = connect(running.address, running.gateway.client(Some(good))).await.unwrap();
    answers_as(&mut client, "fan").await;
}

#[test]
fn what_cannot_be_believed_is_said_and_the_last_good_list_stays() {
    let (gateway, path) = gateway_with_list();
    let lost = gateway.device("pump");
    let tls = &gateway.tls;
    std::fs::write(&path, list(&gateway.ca, &[&lost], 7).pem().unwrap()).unwrap();
    tls.refresh_lists(true);
    let mut damaged = list(&gateway.ca, &[], 7).der().to_vec();
    let at = damaged.len() - 1;
    damaged[at] ^= 1;
    for (bytes, words) in [
        (list(&ca("Other CA"), &[], 7).der().to_vec(), "no CA of this gateway"),
        (list(&ca("Test CA"), &[], 7).der().to_vec(), "its signature is not that of"),
        (damaged, "its signature is not that of"),
        (b"\x30\x03abc".to_vec(), "cannot be read"),
        (b"torn".to_vec(), "no \"BEGIN X509 CRL\""),
        (Vec::new(), "no \"BEGIN X509 CRL\""),
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert!(!tls.refresh_lists(true), "{words}");
        let problem = tls.list_problems().remove(0).to_string();
        assert!(problem.contains(words) && problem.contains("list.pem"), "{problem}");
        assert!(tls.revocations().find(&info(&lost).id()).is_some(), "{words}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(!tls.refresh_lists(false));
    assert!(tls.revocations().find(&info(&lost).id()).is_some(), "a file that is gone takes nothing back");

    std::fs::write(&path, list(&gateway.ca, &[], 7).pem().unwrap()).unwrap();
    assert!(tls.refresh_lists(false));
    assert!(tls.revocations().find(&info(&lost).id()).is_none(), "but a newer list does");
}
