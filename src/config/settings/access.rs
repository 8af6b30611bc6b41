//! Who is let in, and who may do what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::super::Secret;
use super::Door;
use crate::message::{DeviceId, InvalidTopic, Qos, TopicFilter};

/// How a device has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// By a certificate of our CA.
    Certificate,
    /// By a user name and a password.
    Password,
    /// By an API key.
    ApiKey,
    /// By a JSON Web Token.
    Jwt,
    /// Not at all: the operator lets such devices in under one name.
    Anonymous,
}

impl IdentityKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Certificate, Self::Password, Self::ApiKey, Self::Jwt, Self::Anonymous];

    /// The word that stands for it in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Password => "password",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Anonymous => "anonymous",
        }
    }

    /// The kind with this word.
    ///
    /// # Errors
    /// What the words are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| format!("an identity is one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// Who is let in, and who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The rules before the default, in the order of the file. The first that speaks decides.
    pub rules: Vec<AclRule>,
    /// The devices of each group.
    pub groups: BTreeMap<DeviceId, BTreeSet<DeviceId>>,
    /// The name of a device that shows nothing; `None` refuses it.
    pub anonymous: Option<DeviceId>,
    /// The kinds of identity that each listener takes, the one that wins first; see [`Access::identities`].
    pub doors: BTreeMap<Door, Vec<IdentityKind>>,
    /// Whose tokens are believed.
    pub issuers: Vec<TokenIssuer>,
    /// What in a certificate is the device's name.
    pub certificate_name: CertificateName,
    /// Whether topics below `devices/` and `server/auth/` are those of the message gateway.
    pub keyed_topics: bool,
}

impl std::fmt::Display for CertificateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CommonName => "common name (CN)",
            Self::AlternativeName => "alternative name (SAN)",
        })
    }
}

impl Access {
    /// The kinds of identity that a listener takes, the one that wins first. Without a list of its own it takes
    /// certificates, and anonymous devices if there is a name for them.
    #[must_use]
    pub fn identities(&self, door: Door) -> &[IdentityKind] {
        const DEFAULT: &[IdentityKind] = &[IdentityKind::Certificate, IdentityKind::Anonymous];
        self.doors.get(&door).map_or(DEFAULT, Vec::as_slice)
    }
}

/// What in a certificate is the device's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub enum CertificateName {
    /// Its one common name.
    #[default]
    #[serde(rename = "cn")]
    CommonName,
    /// Its one alternative name (SAN): a DNS name, or what follows the last `/` or `:` of a URI.
    #[serde(rename = "san")]
    AlternativeName,
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleOrigin {
    /// The `[[acl]]` with this number, counted from 1.
    Acl(usize),
    /// The topics of `[anonymous]`.
    Anonymous,
}

/// What a rule does with whom and what it speaks of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It is allowed.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

/// A rule. It speaks of something if all of it fits: the device, the group, the identity, a topic, and the flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclRule {
    /// Where it stands.
    pub origin: RuleOrigin,
    /// What it does.
    pub effect: Effect,
    /// The devices it speaks of; `None`: all that the other two let.
    pub device: Option<DeviceMatch>,
    /// The group whose devices it speaks of.
    pub group: Option<DeviceId>,
    /// The kind of identity it speaks of.
    pub identity: Option<IdentityKind>,
    /// The topics of publishes that it speaks of.
    pub publish: Vec<TopicTemplate>,
    /// The filters of subscriptions that it speaks of.
    pub subscribe: Vec<TopicTemplate>,
    /// It speaks only of publishes with (or without) RETAIN.
    pub retain: Option<bool>,
    /// It speaks only of wills (or of what is no will).
    pub will: Option<bool>,
    /// It speaks of publishes up to this QoS; to a subscription it gives no more.
    pub max_qos: Option<Qos>,
}

impl AclRule {
    /// A rule that allows, whatever the flags.
    #[must_use]
    pub fn allow(device: DeviceMatch, publish: Vec<TopicTemplate>, subscribe: Vec<TopicTemplate>) -> Self {
        Self {
            origin: RuleOrigin::Acl(1),
            effect: Effect::Allow,
            device: Some(device),
            group: None,
            identity: None,
            publish,
            subscribe,
            retain: None,
            will: None,
            max_qos: None,
        }
    }
}

/// Which devices a rule or a stream speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceMatch {
    /// `*`: every device that has shown who it is, so all but anonymous ones.
    Known,
    /// This one.
    Named(DeviceId),
}

/// A topic filter in which `{device}`, `{user}` and `{group}` stand for names. Checked: it is a filter whatever
/// the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    text: String,
    /// The filter, if no name stands in it: it is the same for everybody.
    fixed: Option<TopicFilter>,
}

impl TopicTemplate {
    const NAMES: [&str; 3] = ["{device}", "{user}", "{group}"];

    /// Parses a template.
    ///
    /// # Errors
    /// When it is no filter.
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        let filled = Self::NAMES.iter().fold(text.to_owned(), |text, name| text.replace(name, "x"));
        let filter = TopicFilter::parse(&filled)?;
        let fixed = (filled == text).then_some(filter);
        Ok(Self { text: text.to_owned(), fixed })
    }

    /// Whether it holds a brace that opens none of the names.
    #[must_use]
    pub fn has_other_braces(text: &str) -> bool {
        let rest = Self::NAMES.iter().fold(text.to_owned(), |text, name| text.replace(name, ""));
        rest.contains(['{', '}'])
    }

    /// The filter for one device. `None` when a name that stands in it is missing, or cannot stand in a topic.
    #[must_use]
    pub fn fill(
        &self,
        device: &DeviceId,
        user: Option<&str>,
        group: Option<&DeviceId>,
    ) -> Option<TopicFilter> {
        if self.fixed.is_some() {
            return self.fixed.clone();
        }
        let mut text = self.text.replace("{device}", device.as_str());
        if text.contains("{user}") {
            text = text.replace("{user}", user.filter(|user| can_stand_in_a_level(user))?);
        }
        if text.contains("{group}") {
            text = text.replace("{group}", group?.as_str());
        }
        TopicFilter::parse(&text).ok()
    }

    /// Whether `{group}` stands in it.
    #[must_use]
    pub fn names_group(&self) -> bool {
        self.text.contains("{group}")
    }

    /// The template as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether a name can be (a part of) one level of a topic without meaning more than itself.
#[must_use]
pub fn can_stand_in_a_level(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('$') && !name.contains(['/', '+', '#', '\0', '{', '}'])
}

/// A `[[jwt]]`: whose tokens are believed, and what must stand in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    /// What it is called in the log.
    pub name: String,
    /// By what a signature is checked.
    pub keys: TokenKeys,
    /// What `aud` must be, or hold.
    pub audience: Option<String>,
    /// What `iss` must be.
    pub issuer: Option<String>,
    /// How far the clocks may be apart.
    pub leeway: Duration,
    /// The claim that is the device's name.
    pub device_claim: String,
    /// The claims of which one must be the client id; none of them in a token refuses it, an empty list binds nothing.
    pub client_id_claims: Vec<String>,
}

/// By what the signature of a token is checked. The algorithm belongs to the key, never to the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKeys {
    /// HS256 with this secret.
    Secret(Secret),
    /// A public key (PEM).
    PublicKey {
        /// Its algorithm.
        algorithm: TokenAlgorithm,
        /// The file.
        file: PathBuf,
    },
    /// A JSON Web Key Set (RFC 7517), whose keys are found by `kid`.
    Set {
        /// The file.
        file: PathBuf,
    },
}

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
}
