//! The rules, and what they say about a wish. No clock and no disk; and no state of their own but that of the
//! lists of revoked certificates, which are too large to be copied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::identity::{Door, Identity, IdentityKind, Principal, Proof};
use super::jwt::TokenKeys;
use super::keyed;
use super::refusals::Refusal;
use super::registry::Devices;
use super::token::{ANY_QOS, Word};
use crate::config::{self, Access, AclRule, DeviceMatch, Effect, RuleOrigin, TopicTemplate};
use crate::message::{DeviceId, Qos, TopicFilter};
use crate::pki::Revocations;

/// Decides, by the rules and the devices as they were at one moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authorizer(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    access: Access,
    own_topics: TopicTemplate,
    streams: Vec<OpenStream>,
    devices: Arc<Devices>,
    tokens: Arc<TokenKeys>,
    revocations: Revocations,
}

#[derive(Debug)]
struct OpenStream {
    filter: TopicFilter,
    open_to: Vec<DeviceMatch>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action<'a> {
    Publish(&'a str),
    Subscribe(&'a TopicFilter),
    /// A message of this topic would be given to a subscriber.
    Receive(&'a str),
}

/// What is wanted, with the flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) action: Action<'a>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) will: bool,
}

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The QoS that a subscription may be given at most.
    pub max_qos: Qos,
    /// What decided.
    pub cause: Cause,
}

/// What has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Topics that begin with `$` are the gateway's own (MQTT 3.1.1, 4.7.2).
    GatewaysOwn,
    /// The topics of the message gateway are for who has logged in with the key in them.
    MessageGateway,
    /// The rule with this number in the token.
    Token(u16),
    /// The token lists what is allowed, and this is not in the list.
    NotInToken,
    /// A rule of the configuration.
    Rule(RuleOrigin),
    /// The default: a device may publish and subscribe below its own name.
    OwnTopics,
    /// The open stream with this index, of those that are open to anybody.
    OpenStream(usize),
    /// No rule speaks of it, so it is refused.
    NoRule,
}

impl Decision {
    fn yes(cause: Cause) -> Self {
        Self { allowed: true, max_qos: ANY_QOS, cause }
    }

    fn no(cause: Cause) -> Self {
        Self { allowed: false, ..Self::yes(cause) }
    }
}

impl Authorizer {
    /// The rules of a configuration, without any device in the registry.
    #[must_use]
    pub fn new(access: &Access, streams: &[config::Stream]) -> Self {
        Self::with(access, streams, Arc::default(), Arc::default())
    }

    /// The rules of a configuration, the devices of the registry, and the keys by which tokens are checked.
    #[must_use]
    pub fn with(
        access: &Access,
        streams: &[config::Stream],
        devices: Arc<Devices>,
        tokens: Arc<TokenKeys>,
    ) -> Self {
        let open = streams.iter().filter(|stream| !stream.open_to.is_empty());
        let open =
            open.map(|stream| OpenStream { filter: stream.filter.clone(), open_to: stream.open_to.clone() });
        Self(Arc::new(Rules {
            access: access.clone(),
            own_topics: TopicTemplate::parse("{device}/#").expect("it is a filter"),
            streams: open.collect(),
            devices,
            tokens,
            revocations: Revocations::default(),
        }))
    }

    /// With the certificates that the lists of a CA have revoked, besides those of the registry.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Revocations) -> Self {
        let rules = Arc::get_mut(&mut self.0).expect("nobody else has these rules yet");
        rules.revocations = revocations;
        self
    }

    /// Whether a device may publish to a topic. `will`: not now, but when its connection breaks.
    pub fn may_publish(&self, who: &Principal, topic: &str, qos: Qos, retain: bool, will: bool) -> Decision {
        self.0.decide(who, &Wish { action: Action::Publish(topic), qos, retain, will })
    }

    /// Whether a device may subscribe to a filter, and with which QoS at most: one rule must allow all that the filter
    /// can match. What is denied within an allowed filter is held back by [`Authorizer::may_receive`].
    pub fn may_subscribe(&self, who: &Principal, wanted: &TopicFilter, qos: Qos) -> Decision {
        self.0.decide(who, &Wish { action: Action::Subscribe(wanted), qos, retain: false, will: false })
    }

    /// Whether a message may be given to a device that has subscribed to it. It may, unless
    /// [`Authorizer::holds_back`] says that it must be asked.
    pub fn may_receive(&self, who: &Principal, topic: &str) -> Decision {
        let (action, qos) = (Action::Receive(topic), Qos::AtMostOnce);
        self.0.decide(who, &Wish { action, qos, retain: false, will: false })
    }

    /// Whether a device is in a group, of the configuration or of the registry.
    #[must_use]
    pub fn is_in_group(&self, device: &DeviceId, group: &DeviceId) -> bool {
        self.0.is_in(device, group)
    }

    /// The devices of a group; `None` if there is no group of this name.
    #[must_use]
    pub fn group_members(&self, group: &DeviceId) -> Option<BTreeSet<DeviceId>> {
        let configured = self.0.access.groups.get(group);
        let registered = self.0.devices.iter().filter(|(_, known)| known.groups.contains(group));
        let registered: Vec<_> = registered.map(|(device, _)| device.clone()).collect();
        let is_one = configured.is_some() || !registered.is_empty();
        is_one.then(|| configured.into_iter().flatten().cloned().chain(registered).collect())
    }

    /// Whether a rule denies this device something within what its subscriptions may match, so that each message has
    /// to be asked for with [`Authorizer::may_receive`].
    #[must_use]
    pub fn holds_back(&self, who: &Principal) -> bool {
        let mut denies = self.0.access.rules.iter().filter(|rule| rule.effect == Effect::Deny);
        denies.any(|rule| !rule.subscribe.is_empty() && self.0.is_about(rule, who))
            || who.claims.as_ref().is_some_and(|claims| claims.denies_receiving())
    }

    /// Whether this device is let in, or may stay: asked with every CONNECT, and for each live connection when
    /// the configuration or the registry has changed.
    ///
    /// # Errors
    /// Why not, and the same in words.
    pub fn admits(&self, who: &Principal) -> Result<(), (Refusal, String)> {
        let Principal { identity: Identity { device, kind }, door, .. } = who;
        let access = &self.0.access;
        if !access.identities(*door).contains(kind) {
            let detail = format!("a device's {} is not asked for any more", kind.as_str());
            return Err((Refusal::IdentityNotAllowed, detail));
        }
        let known = self.0.devices.device(device);
        if known.is_some_and(|known| known.disabled) {
            return Err((Refusal::DeviceDisabled, format!("{device} is disabled")));
        }
        let gone = |what: &str| Err((Refusal::CredentialRevoked, what.to_owned()));
        match &who.proof {
            Proof::None if access.anonymous.as_ref() != Some(device) => {
                let what = "devices that show nothing are not let in";
                return Err((Refusal::CertificateMissing, what.to_owned()));
            }
            Proof::None => {}
            Proof::Certificate(id) => {
                if known.is_some_and(|known| known.has_revoked(id)) {
                    return Err((Refusal::CertificateRevoked, format!("the certificate {id} was revoked")));
                }
                if let Some(revoked) = self.0.revocations.find(id) {
                    return Err((Refusal::CertificateRevoked, revoked.to_string()));
                }
            }
            Proof::Password(mark) => {
                if known.and_then(|known| known.password.as_ref()).map(|hash| hash.mark()) != Some(*mark) {
                    return gone("the password is another one now");
                }
            }
            Proof::ApiKey { id, expires } => match known.and_then(|known| known.key(id)) {
                None => return gone("the API key was revoked"),
                Some(key) if key.expires != *expires => return gone("the API key has another end now"),
                Some(_) => {}
            },
            Proof::Jwt(mark) => {
                if !self.0.tokens.knows(*mark) {
                    return gone("the key that has signed the token is not believed any more");
                }
            }
        }
        if who.ends.is_some_and(|end| end <= Instant::now()) {
            return Err((Refusal::TokenExpired, "what it showed has expired".to_owned()));
        }
        Ok(())
    }

    /// Whether topics may hold API keys: see [`keyed`].
    #[must_use]
    pub fn has_keyed_topics(&self) -> bool {
        self.0.access.keyed_topics
    }

    /// The kinds of identity that a listener takes, the one that wins first.
    #[must_use]
    pub fn identities(&self, door: Door) -> &[IdentityKind] {
        self.0.access.identities(door)
    }

    /// The devices of the registry.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.0.devices
    }

    pub(super) fn tokens(&self) -> &TokenKeys {
        &self.0.tokens
    }

    /// The name of a device that shows nothing; `None` when such devices are refused.
    #[must_use]
    pub fn anonymous(&self) -> Option<&DeviceId> {
        self.0.access.anonymous.as_ref()
    }
}

impl Rules {
    fn decide(&self, who: &Principal, wish: &Wish) -> Decision {
        let is_gateways = match wish.action {
            Action::Publish(topic) | Action::Receive(topic) => topic.starts_with('$'),
            Action::Subscribe(filter) => filter.as_str().starts_with('$'),
        };
        if is_gateways {
            return Decision::no(Cause::GatewaysOwn);
        }
        if self.access.keyed_topics
            && let Some(allowed) = keyed::decide(&who.identity, wish)
        {
            return Decision { allowed, ..Decision::yes(Cause::MessageGateway) };
        }
        match who.claims.as_ref().map(|claims| claims.word(wish)) {
            Some(Word::Said { allowed, number }) => {
                return Decision { allowed, ..Decision::yes(Cause::Token(number)) };
            }
            Some(Word::NotListed) => return Decision::no(Cause::NotInToken),
            Some(Word::Nothing) | None => {}
        }
        if let Some(rule) = self.access.rules.iter().find(|rule| self.speaks_of(rule, who, wish)) {
            let (allowed, max_qos) = (rule.effect == Effect::Allow, rule.max_qos.unwrap_or(ANY_QOS));
            return Decision { allowed, max_qos, cause: Cause::Rule(rule.origin) };
        }
        self.decide_by_default(&who.identity, wish)
    }

    fn decide_by_default(&self, who: &Identity, wish: &Wish) -> Decision {
        if who.kind != IdentityKind::Anonymous
            && self.own_topics.fill(&who.device, None, None).is_some_and(|filter| wish.is_within(&filter))
        {
            return Decision::yes(Cause::OwnTopics);
        }
        let Action::Publish(topic) = wish.action else { return Decision::no(Cause::NoRule) };
        let is_open = |stream: &OpenStream| {
            stream.filter.matches(topic) && stream.open_to.iter().any(|devices| devices.includes(who))
        };
        let cause = self.streams.iter().position(is_open).map(Cause::OpenStream);
        cause.map_or(Decision::no(Cause::NoRule), Decision::yes)
    }

    fn speaks_of(&self, rule: &AclRule, who: &Principal, wish: &Wish) -> bool {
        let templates = match wish.action {
            Action::Publish(_) => {
                let fits = |wanted: Option<bool>, is| wanted.is_none_or(|wanted| wanted == is);
                let qos = rule.max_qos.is_none_or(|max| wish.qos <= max);
                if !(qos && fits(rule.retain, wish.retain) && fits(rule.will, wish.will)) {
                    return false;
                }
                &rule.publish
            }
            Action::Subscribe(_) | Action::Receive(_) => &rule.subscribe,
        };
        !templates.is_empty()
            && self.is_about(rule, who)
            && templates.iter().any(|template| self.is_within(template, rule, who, wish))
    }

    /// Whether a rule speaks of a device.
    fn is_about(&self, rule: &AclRule, who: &Principal) -> bool {
        let identity = &who.identity;
        rule.device.as_ref().is_none_or(|devices| devices.includes(identity))
            && rule.identity.is_none_or(|kind| kind == identity.kind)
            && rule.group.as_ref().is_none_or(|group| self.is_in(&identity.device, group))
    }

    fn is_within(&self, template: &TopicTemplate, rule: &AclRule, who: &Principal, wish: &Wish) -> bool {
        let (device, user) = (&who.identity.device, who.user.as_deref());
        let within = |group| template.fill(device, user, group).is_some_and(|filter| wish.is_within(&filter));
        match &rule.group {
            None if template.names_group() => self.groups_of(device).any(|group| within(Some(group))),
            group => within(group.as_ref()),
        }
    }

    fn is_in(&self, device: &DeviceId, group: &DeviceId) -> bool {
        self.access.groups.get(group).is_some_and(|devices| devices.contains(device))
            || self.devices.device(device).is_some_and(|known| known.groups.contains(group))
    }

    fn groups_of<'a>(&'a self, device: &'a DeviceId) -> impl Iterator<Item = &'a DeviceId> {
        let configured = self.access.groups.iter().filter(|(_, devices)| devices.contains(device));
        let registered = self.devices.device(device).into_iter().flat_map(|known| &known.groups);
        configured.map(|(group, _)| group).chain(registered)
    }
}

impl Wish<'_> {
    fn is_within(&self, filter: &TopicFilter) -> bool {
        match self.action {
            Action::Publish(topic) | Action::Receive(topic) => filter.matches(topic),
            Action::Subscribe(wanted) => filter.covers(wanted),
        }
    }
}

impl DeviceMatch {
    fn includes(&self, who: &Identity) -> bool {
        match self {
            Self::Known => who.kind != IdentityKind::Anonymous,
            Self::Named(device) => *device == who.device,
        }
    }
}
