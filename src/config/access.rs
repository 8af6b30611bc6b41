//! The tables of who is let in, and of who may do what.

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::Table;
use super::{
    Access, AclRule, CertificateName, ClientAuth, DeviceMatch, Door, Effect, IdentityKind, RuleOrigin,
    TokenAlgorithm, TokenIssuer, TokenKeys, TopicTemplate,
};
use crate::message::{DeviceId, InvalidDeviceId, Qos};

/// A shorter secret can be guessed off line from one token (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// A listener, as far as identities are concerned.
pub(super) struct DoorSettings<'a> {
    pub(super) door: Door,
    /// Its `identities`, if there are any.
    pub(super) identities: Option<&'a [IdentityKind]>,
    /// Whether a device may come without a certificate.
    pub(super) client_auth: ClientAuth,
}

impl DoorSettings<'_> {
    fn takes_anonymous(&self) -> bool {
        match self.identities {
            Some(kinds) => kinds.contains(&IdentityKind::Anonymous),
            None => self.client_auth == ClientAuth::Optional,
        }
    }
}

/// The key `identities` of a listener.
pub(super) fn identities(table: &mut Table) -> Option<Vec<IdentityKind>> {
    let kinds = table.list("identities", IdentityKind::parse)?;
    if kinds.is_empty() {
        table.missing("identities", "an identity; leave the whole line out for the default");
        return None;
    }
    Some(kinds)
}

/// Whether a listener with these identities asks for a certificate, if it is not told: it does unless another
/// identity would do.
pub(super) fn client_auth(identities: Option<&[IdentityKind]>) -> ClientAuth {
    match identities {
        Some(kinds) if kinds.iter().any(|kind| *kind != IdentityKind::Certificate) => ClientAuth::Optional,
        _ => ClientAuth::Required,
    }
}

/// Everything about access.
pub(super) fn access(root: &mut Table, doors: &[DoorSettings]) -> Access {
    let listed = |door: &DoorSettings| Some((door.door, door.identities?.to_vec()));
    let mut access = Access {
        rules: rules(root),
        groups: groups(root),
        anonymous: None,
        doors: doors.iter().filter_map(listed).collect(),
        issuers: issuers(root),
        certificate_name: certificate_name(root.table("access")),
        keyed_topics: false,
    };
    if access.issuers.is_empty() && access.doors.values().flatten().any(|kind| *kind == IdentityKind::Jwt) {
        root.missing("jwt", "no token can be checked without a [[jwt]] that says with which key");
    }
    if access.doors.get(&Door::Plain).is_some_and(|kinds| kinds.contains(&IdentityKind::Certificate)) {
        root.wrong("plain.identities", None, "without TLS nobody can show a certificate");
    }
    anonymous(root, doors, &mut access);
    access
}

fn certificate_name(mut table: Table) -> CertificateName {
    let name = table.value("certificate_name", "\"cn\" or \"san\"").unwrap_or_default();
    table.finish();
    name
}

fn rules(root: &mut Table) -> Vec<AclRule> {
    let tables = root.tables("acl").into_iter().enumerate();
    tables.filter_map(|(index, (path, dict))| rule(Table::new(path, dict, root.notes), index + 1)).collect()
}

fn rule(mut table: Table, number: usize) -> Option<AclRule> {
    let effect = table.value("effect", "\"allow\" or \"deny\"").unwrap_or_default();
    let problems = table.notes.problems.len();
    let device = table.parsed("device", device_match);
    let group = table.parsed("group", DeviceId::parse);
    let identity = table.parsed("identity", IdentityKind::parse);
    let named = device.is_some() || group.is_some() || identity.is_some();
    if !named && table.notes.problems.len() == problems {
        table.missing(
            "device",
            "a device's name, or \"*\" for every device that shows who it is (or group, or identity)",
        );
    }
    let (publish, subscribe) = topics(&mut table);
    let retain = table.value("retain", "true or false");
    let will = table.value("will", "true or false");
    let max_qos = table.number("max_qos", 0..=2).map(|number| match number {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    });
    if effect == Effect::Deny && max_qos.is_some() {
        let what = "a rule that denies up to a QoS would let the higher ones through: use it with \"allow\"";
        table.wrong("max_qos", None, what);
    }
    table.finish();
    let origin = RuleOrigin::Acl(number);
    named.then_some(AclRule {
        origin,
        effect,
        device,
        group,
        identity,
        publish,
        subscribe,
        retain,
        will,
        max_qos,
    })
}

fn groups(root: &mut Table) -> BTreeMap<DeviceId, std::collections::BTreeSet<DeviceId>> {
    let mut groups = BTreeMap::new();
    for (path, dict) in root.tables("group") {
        let mut table = Table::new(path, dict, root.notes);
        let name = table.parsed("name", DeviceId::parse);
        if name.is_none() {
            table.missing("name", "a short name, such as \"sensors\"");
        }
        let devices = table.list("devices", DeviceId::parse).unwrap_or_default();
        if let Some(name) = name
            && groups.insert(name, devices.into_iter().collect()).is_some()
        {
            table.wrong("name", None, "another group has this name");
        }
        table.finish();
    }
    groups
}

fn anonymous(root: &mut Table, doors: &[DoorSettings], access: &mut Access) {
    let Some(value) = root.take("anonymous") else {
        if doors.iter().any(|door| door.door == Door::Tls && door.takes_anonymous()) {
            root.missing("anonymous", "listener.client_auth = \"optional\" lets nobody in without it");
        } else if doors.iter().any(|door| door.identities.is_some() && door.takes_anonymous()) {
            root.missing("anonymous", "\"anonymous\" in identities lets nobody in without it");
        }
        return;
    };
    let Some(dict) = value.as_dict() else {
        root.wrong("anonymous", Some(&value), "write [anonymous]");
        return;
    };
    if !doors.iter().any(DoorSettings::takes_anonymous) {
        let what = "no device can be anonymous while listener.client_auth is \"required\" and no identities \
                    name it; set it to \"optional\"";
        root.wrong("anonymous", Some(&value), what);
    }
    let mut table = Table::new("anonymous".to_owned(), dict.clone(), root.notes);
    let name = table
        .parsed("name", DeviceId::parse)
        .unwrap_or_else(|| DeviceId::parse("anonymous").expect("it keeps the rules"));
    let (publish, subscribe) = topics(&mut table);
    table.finish();
    let allow = AclRule::allow(DeviceMatch::Named(name.clone()), publish, subscribe);
    let identity = Some(IdentityKind::Anonymous);
    access.rules.push(AclRule { origin: RuleOrigin::Anonymous, identity, ..allow });
    access.anonymous = Some(name);
}

fn topics(table: &mut Table) -> (Vec<TopicTemplate>, Vec<TopicTemplate>) {
    let publish = table.list("publish", template).unwrap_or_default();
    let subscribe = table.list("subscribe", template).unwrap_or_default();
    (publish, subscribe)
}

fn template(text: &str) -> Result<TopicTemplate, String> {
    if TopicTemplate::has_other_braces(text) {
        return Err("the names that may stand in braces are {device}, {user} and {group}".to_owned());
    }
    TopicTemplate::parse(text).map_err(|error| error.to_string())
}

/// A device's name, or `*`.
pub(super) fn device_match(text: &str) -> Result<DeviceMatch, InvalidDeviceId> {
    match text {
        "*" => Ok(DeviceMatch::Known),
        name => DeviceId::parse(name).map(DeviceMatch::Named),
    }
}

fn issuers(root: &mut Table) -> Vec<TokenIssuer> {
    let tables = root.tables("jwt");
    let mut issuers: Vec<TokenIssuer> = Vec::new();
    for (path, dict) in tables {
        let mut table = Table::new(path, dict, root.notes);
        if let Some(issuer) = issuer(&mut table) {
            if issuers.iter().any(|other| other.name == issuer.name) {
                table.wrong("name", None, "another [[jwt]] has this name");
            }
            issuers.push(issuer);
        }
        table.finish();
    }
    issuers
}

fn issuer(table: &mut Table) -> Option<TokenIssuer> {
    let name = table.parsed("name", |text| DeviceId::parse(text).map(|name| name.to_string()));
    if name.is_none() {
        table.missing("name", "a short name, such as \"cloud\"");
    }
    let keys = token_keys(table);
    let (audience, issuer) = (table.text("audience"), table.text("issuer"));
    let leeway = table
        .duration("leeway", Duration::ZERO..=Duration::from_secs(3_600))
        .unwrap_or(Duration::from_secs(60));
    let device_claim = table.text("device_claim").unwrap_or_else(|| "sub".to_owned());
    let text = |text: &str| Ok::<_, std::convert::Infallible>(text.to_owned());
    let client_id_claims = table.list("client_id_claims", text);
    let client_id_claims = client_id_claims.unwrap_or_else(|| vec!["sub".to_owned(), "client_id".to_owned()]);
    Some(TokenIssuer { name: name?, keys: keys?, audience, issuer, leeway, device_claim, client_id_claims })
}

fn token_keys(table: &mut Table) -> Option<TokenKeys> {
    let algorithm = table.value::<TokenAlgorithm>("algorithm", "\"HS256\", \"RS256\" or \"ES256\"");
    let (secret, file, set) = (table.secret("secret"), table.path("key_file"), table.path("jwks_file"));
    let keys = match (algorithm, secret, file, set) {
        (Some(TokenAlgorithm::Hs256), Some(secret), None, None) => {
            if secret.expose().len() < MIN_SECRET_BYTES {
                table.wrong("secret", None, format!("it has fewer than {MIN_SECRET_BYTES} bytes"));
                return None;
            }
            TokenKeys::Secret(secret)
        }
        (Some(algorithm @ (TokenAlgorithm::Rs256 | TokenAlgorithm::Es256)), None, Some(file), None) => {
            TokenKeys::PublicKey { algorithm, file }
        }
        (None, None, None, Some(file)) => TokenKeys::Set { file },
        _ => {
            let expected = "write algorithm = \"HS256\" with secret, algorithm = \"RS256\" or \"ES256\" with \
                            key_file (a public key), or jwks_file alone";
            table.missing("algorithm", expected);
            return None;
        }
    };
    Some(keys)
}
