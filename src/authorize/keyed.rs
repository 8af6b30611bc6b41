//! The topics of the message gateway: each holds an API key where others hold the name of a device.
//!
//! | a phone writes | the gateway has | it may |
//! |---|---|---|
//! | `devices/auth/{key}` | `devices/auth/{device}` | publish, without RETAIN and not as a will |
//! | `server/auth/{key}` | `server/auth/{device}` | subscribe |
//! | `devices/{key}/sms` | `devices/{device}/sms` | subscribe |
//!
//! A key is a secret. It is taken out of a topic where that comes in and put back where it goes out, on the
//! connection that has shown that very key ([`KeyedTopics`]). Nothing in between has it: no subscription, no record
//! on disk, no command, no log. So a key can be rotated while messages wait. Of somebody else's key its id is left.
//!
//! With the profile, everything below `devices/` and `server/auth/` is the gateway's own: whatever rules say, nobody
//! uses more of it than is in the table, and only who has logged in with an API key.

use std::borrow::Cow;
use std::ops::Range;
use std::time::UNIX_EPOCH;

use subtle::ConstantTimeEq as _;

use super::identity::{Identity, IdentityKind, Principal, Proof};
use super::registry::Devices;
use super::rules::{Action, Wish};
use super::{api_tokens, keys};
use crate::config::Secret;
use crate::message::DeviceId;

const ANNOUNCEMENTS: &str = "devices/auth/";
const ANSWERS: &str = "server/auth/";
const DEVICES: &str = "devices/";
const MESSAGES: &str = "/sms";

/// A device of this name would have the topic of announcements for its messages.
pub const NO_DEVICE: &str = "auth";

/// What stands in the place of a secret.
const MASK: &str = "…";

/// Where a device announces itself, as the gateway has it.
#[must_use]
pub fn announcements(device: &DeviceId) -> String {
    format!("{ANNOUNCEMENTS}{device}")
}

/// Where the answer to that comes.
#[must_use]
pub fn answers(device: &DeviceId) -> String {
    format!("{ANSWERS}{device}")
}

/// Where messages reach a device.
#[must_use]
pub fn messages(device: &DeviceId) -> String {
    format!("{DEVICES}{device}{MESSAGES}")
}

/// The level of a topic or filter in which a key belongs, if it is one of the message gateway's.
fn place(topic: &str) -> Option<Range<usize>> {
    let prefix = [ANNOUNCEMENTS, ANSWERS, DEVICES].into_iter().find(|prefix| topic.starts_with(prefix))?;
    let level = topic[prefix.len()..].split('/').next().unwrap_or_default();
    Some(prefix.len()..prefix.len() + level.len())
}

/// Whether a wish concerns topics of the message gateway, and then whether it may be.
pub(super) fn decide(who: &Identity, wish: &Wish<'_>) -> Option<bool> {
    let topic = match wish.action {
        Action::Publish(topic) | Action::Receive(topic) => topic,
        Action::Subscribe(filter) => filter.as_str(),
    };
    place(topic)?;
    let may = match wish.action {
        Action::Publish(topic) => topic == announcements(&who.device) && !wish.retain && !wish.will,
        Action::Subscribe(_) | Action::Receive(_) => {
            topic == answers(&who.device) || topic == messages(&who.device)
        }
    };
    Some(may && who.kind == IdentityKind::ApiKey)
}

/// Turns the topics of one connection into those of the gateway, and back.
#[derive(Debug)]
pub struct KeyedTopics {
    device: DeviceId,
    /// The key that the connection was let in with; without one it has no topic of these.
    key: Option<Secret>,
}

impl KeyedTopics {
    /// Of who has shown this user name and this password.
    #[must_use]
    pub fn new(who: &Principal, user: Option<&str>, password: Option<&[u8]>) -> Self {
        let is_key = matches!(who.proof, Proof::ApiKey { .. });
        let key = is_key.then(|| String::from_utf8_lossy(keys::shown(user, password).0).into_owned());
        Self { device: who.identity.device.clone(), key: key.map(Secret::new) }
    }

    /// The topic or filter for what the client has written.
    #[must_use]
    pub fn inward<'a>(&self, written: &'a str) -> Cow<'a, str> {
        let (share, topic) = unshared(written);
        let Some(level) = place(topic) else { return Cow::Borrowed(written) };
        let shown = &topic[level.clone()];
        let is_own = |key: &Secret| bool::from(key.expose().as_bytes().ct_eq(shown.as_bytes()));
        let named = match shown {
            "+" | "#" => return Cow::Borrowed(written),
            _ if self.key.as_ref().is_some_and(is_own) => Cow::Borrowed(self.device.as_str()),
            // No device has such a name: nobody may use it.
            other => masked_level(other),
        };
        Cow::Owned(format!("{share}{}{named}{}", &topic[..level.start], &topic[level.end..]))
    }

    /// What the client is to read for a topic.
    #[must_use]
    pub fn outward<'a>(&self, topic: &'a str) -> Cow<'a, str> {
        match (place(topic), &self.key) {
            (Some(level), Some(key)) if topic[level.clone()] == *self.device.as_str() => {
                Cow::Owned(format!("{}{}{}", &topic[..level.start], key.expose(), &topic[level.end..]))
            }
            _ => Cow::Borrowed(topic),
        }
    }
}

/// A topic or filter that a device may have written, as the gateway would have it: with the device's name in the place of
/// a key, if that is one of its keys.
#[must_use]
pub fn turned(devices: &Devices, device: &DeviceId, written: &str) -> String {
    let topic = unshared(written).1;
    let is_of_device = |shown: &&str| {
        keys::check(devices, shown.as_bytes(), None, UNIX_EPOCH).is_ok_and(|(owner, _)| owner == device)
    };
    let key = place(topic).map(|level| &topic[level]).filter(is_of_device);
    let keyed = KeyedTopics { device: device.clone(), key: key.map(|key| Secret::new(key.to_owned())) };
    keyed.inward(written).into_owned()
}

/// `$share/group/` of a shared subscription, and the rest.
fn unshared(filter: &str) -> (&str, &str) {
    let rest = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rest.map_or(("", filter), |(_, topic)| filter.split_at(filter.len() - topic.len()))
}

fn masked_level(shown: &str) -> Cow<'_, str> {
    masked_secret(shown, keys::PREFIX).map_or(Cow::Borrowed(MASK), Cow::Owned)
}

/// A secret with this prefix, cut down to its id; `None` if it is none.
fn masked_secret(shown: &str, prefix: &str) -> Option<String> {
    keys::id_in(shown.as_bytes(), prefix).map(|id| format!("{prefix}{id}_{MASK}"))
}

/// A text of a peer's with every API key, and every token of the API, cut down to its id.
#[must_use]
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed("");
    let mut rest = text;
    while let Some(start) = rest.find(keys::PREFIX) {
        let (before, from) = rest.split_at(start);
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let masked = [api_tokens::PREFIX, keys::PREFIX].iter().find_map(|prefix| {
            let has_secret = word.len() > prefix.len() + keys::PUBLIC_BYTES - keys::PREFIX.len();
            masked_secret(word, prefix).filter(|_| has_secret)
        });
        let word = masked.map_or(Cow::Borrowed(word), Cow::Owned);
        shown.to_mut().push_str(before);
        shown.to_mut().push_str(&word);
        rest = after;
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.to_mut().push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Qos, TopicFilter};

    const KEY: &str = "tampu_1234abcd_S3cr3t-of-the-phone_0123456789abcdefghijklm";
    const OTHER: &str = "tampu_99999999_S3cr3t-of-the-other_0123456789abcdefghijklm";

    fn phone() -> DeviceId {
        DeviceId::parse("phone-1").unwrap()
    }

    fn topics() -> KeyedTopics {
        KeyedTopics { device: phone(), key: Some(Secret::new(KEY.to_owned())) }
    }

    fn may(kind: IdentityKind, action: Action<'_>, retain: bool) -> Option<bool> {
        let wish = Wish { action, qos: Qos::AtLeastOnce, retain, will: false };
        decide(&Identity { device: phone(), kind }, &wish)
    }

    #[test]
    fn a_connection_reads_and_writes_its_key_and_the_gateway_has_the_name() {
        for (written, had) in [
            (format!("devices/auth/{KEY}"), "devices/auth/phone-1"),
            (format!("server/auth/{KEY}"), "server/auth/phone-1"),
            (format!("devices/{KEY}/sms"), "devices/phone-1/sms"),
            ("phone-1/readings".to_owned(), "phone-1/readings"),
        ] {
            assert_eq!(topics().inward(&written), had);
            assert_eq!(topics().outward(had), written);
        }
        let shared = topics();
        let shared = shared.inward("$share/all/devices/tampu_99999999_secret/sms");
        assert_eq!(shared, "$share/all/devices/tampu_99999999_…/sms");
        assert_eq!(
            topics().inward(&format!("$share/all/devices/{KEY}/sms")),
            "$share/all/devices/phone-1/sms"
        );
    }

    #[test]
    fn of_any_other_key_the_id_is_left_and_of_what_is_no_key_nothing() {
        assert_eq!(topics().inward(&format!("devices/{OTHER}/sms")), "devices/tampu_99999999_…/sms");
        for (written, had) in [
            ("devices/phone-1/sms", "devices/…/sms"),
            ("devices/S3cr3t-of-the-phone/sms", "devices/…/sms"),
            ("devices/auth/phone-1", "devices/auth/…"),
            ("devices/+/sms", "devices/+/sms"),
            ("devices/#", "devices/#"),
        ] {
            assert_eq!(topics().inward(written), had);
        }
        let certified = Principal::assumed(phone(), IdentityKind::Certificate);
        let without = KeyedTopics::new(&certified, None, Some(KEY.as_bytes()));
        assert_eq!(without.inward(&format!("devices/{KEY}/sms")), "devices/tampu_1234abcd_…/sms");
        assert_eq!(without.outward("devices/phone-1/sms"), "devices/phone-1/sms");
    }

    #[test]
    fn a_device_has_its_three_topics_and_none_beside_them() {
        let filter = |text: &str| TopicFilter::parse(text).unwrap();
        let key = IdentityKind::ApiKey;
        assert_eq!(may(key, Action::Publish("devices/auth/phone-1"), false), Some(true));
        assert_eq!(may(key, Action::Publish("devices/auth/phone-1"), true), Some(false), "not retained");
        assert_eq!(
            may(IdentityKind::Certificate, Action::Publish("devices/auth/phone-1"), false),
            Some(false)
        );
        for own in ["server/auth/phone-1", "devices/phone-1/sms"] {
            assert_eq!(may(key, Action::Subscribe(&filter(own)), false), Some(true), "{own}");
            assert_eq!(may(key, Action::Publish(own), false), Some(false), "{own}");
        }
        for other in
            ["server/auth/phone-2", "devices/+/sms", "devices/#", "devices/…/sms", "devices/phone-1/x"]
        {
            assert_eq!(may(key, Action::Subscribe(&filter(other)), false), Some(false), "{other}");
        }
        assert_eq!(may(key, Action::Receive("devices/phone-2/sms"), false), Some(false));
        for elsewhere in ["#", "+/+/sms", "phone-1/readings", "server/status"] {
            assert_eq!(may(key, Action::Subscribe(&filter(elsewhere)), false), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_key_in_a_text_is_cut_down_to_its_id() {
        let text = format!("a will to x/{KEY}, and then {OTHER}");
        assert_eq!(masked(&text), "a will to x/tampu_1234abcd_…, and then tampu_99999999_…");
        let token = KEY.replace("tampu_", "tampu_token_");
        assert_eq!(masked(&format!("GET /devices/{token}/x")), "GET /devices/tampu_token_1234abcd_…/x");
        for harmless in ["", "there is no API key 1234abcd", "tampu_1234abcd_…", "tampu_records", "tampu_"]
        {
            assert_eq!(masked(harmless), harmless);
        }
    }
}
