//! Ordered rules, as an operator writes them.

use super::*;
use crate::config::{Config, RuleOrigin};

fn by(settings: &str) -> Authorizer {
    let config = Config::from_toml(settings).unwrap_or_else(|invalid| panic!("{invalid}"));
    Authorizer::new(&config.access, &config.streams)
}

fn named(name: &str, kind: IdentityKind) -> Principal {
    Principal::assumed(device(name), kind)
}

fn acl(number: usize) -> Cause {
    Cause::Rule(RuleOrigin::Acl(number))
}

/// Asks for a publish at QoS 1, and says what has decided.
fn publish(rules: &Authorizer, who: &Principal, topic: &str) -> (bool, Cause) {
    let Decision { allowed, cause, .. } = rules.may_publish(who, topic, Qos::AtLeastOnce, false, false);
    (allowed, cause)
}

fn subscribe(rules: &Authorizer, who: &Principal, wanted: &str) -> (bool, Cause) {
    let Decision { allowed, cause, .. } = rules.may_subscribe(who, &filter(wanted), Qos::AtLeastOnce);
    (allowed, cause)
}

#[test]
fn the_first_rule_that_speaks_decides() {
    let rules = by(r##"
        [[acl]]
        device = "plug"
        publish = ["plug/public/#"]
        [[acl]]
        effect = "deny"
        device = "*"
        publish = ["+/public/#", "{device}/raw"]
        subscribe = ["{device}/raw"]
        [[acl]]
        device = "*"
        publish = ["lamp/#"]
    "##);
    let (plug, lamp) = (certified("plug"), certified("lamp"));
    for (who, topic, expected) in [
        (&plug, "plug/public/x", (true, acl(1))),
        (&lamp, "lamp/public/x", (false, acl(2))),
        (&plug, "lamp/public/x", (false, acl(2))),
        (&plug, "plug/raw", (false, acl(2))),
        (&plug, "lamp/raw", (true, acl(3))),
        (&plug, "plug/other", (true, Cause::OwnTopics)),
        (&plug, "other/x", (false, Cause::NoRule)),
        (&plug, "$SYS/x", (false, Cause::GatewaysOwn)),
    ] {
        assert_eq!(publish(&rules, who, topic), expected, "{topic}");
    }
    assert_eq!(subscribe(&rules, &plug, "plug/raw"), (false, acl(2)));
    assert_eq!(subscribe(&rules, &plug, "plug/+"), (true, Cause::OwnTopics));
}

#[test]
fn rules_speak_of_groups_and_of_identities_too() {
    let rules = by(r##"
        [[group]]
        name = "pumps"
        devices = ["north", "south"]
        [[group]]
        name = "west"
        devices = ["north"]
        [[acl]]
        group = "pumps"
        publish = ["site/{group}/{device}"]
        [[acl]]
        device = "*"
        publish = ["area/{group}"]
        [[acl]]
        effect = "deny"
        identity = "password"
        publish = ["#"]
        [[acl]]
        device = "*"
        identity = "jwt"
        publish = ["users/{user}/#"]
    "##);
    let north = certified("north");
    assert_eq!(publish(&rules, &north, "site/pumps/north"), (true, acl(1)));
    assert_eq!(publish(&rules, &north, "site/pumps/south"), (false, Cause::NoRule));
    assert_eq!(publish(&rules, &certified("lamp"), "site/pumps/lamp"), (false, Cause::NoRule));
    for (group, expected) in [("pumps", true), ("west", true), ("east", false)] {
        assert_eq!(publish(&rules, &north, &format!("area/{group}")).0, expected, "{group}");
    }
    assert_eq!(publish(&rules, &named("lamp", IdentityKind::Password), "lamp/x"), (false, acl(3)));
    assert_eq!(publish(&rules, &named("lamp", IdentityKind::ApiKey), "lamp/x"), (true, Cause::OwnTopics));
    let mut alice = named("lamp", IdentityKind::Jwt);
    alice.user = Some("alice".into());
    assert_eq!(publish(&rules, &alice, "users/alice/x"), (true, acl(4)));
    assert_eq!(publish(&rules, &alice, "users/lamp/x"), (false, Cause::NoRule));
    // A certificate proves no user name, so that {user} stands for nothing.
    let rules = by("[[acl]]\ndevice = \"*\"\npublish = [\"users/{user}/#\"]\n");
    assert_eq!(publish(&rules, &certified("lamp"), "users/lamp/x"), (false, Cause::NoRule));
}

#[test]
fn a_name_cannot_make_a_rule_mean_more() {
    let rules = by("[[acl]]\ndevice = \"*\"\npublish = [\"users/{user}\"]\nsubscribe = [\"users/{user}\"]\n");
    for user in ["+", "#", "a/b", "", "$x", "{device}"] {
        let mut who = named("lamp", IdentityKind::Jwt);
        who.user = Some(user.into());
        for wanted in ["users/lamp", "users/x", "users/a/b", "users/+", "users/#"] {
            assert!(!subscribe(&rules, &who, wanted).0, "{user}: {wanted}");
        }
    }
}

#[test]
fn the_registrys_groups_count_like_those_of_the_file() {
    let config = Config::from_toml("[[acl]]\ngroup = \"pumps\"\npublish = [\"{group}/x\"]\n").unwrap();
    let mut devices = Devices::default();
    devices.device_mut(&device("north")).groups.insert(device("pumps"));
    let rules = Authorizer::with(&config.access, &config.streams, devices.into(), Arc::default());
    assert_eq!(publish(&rules, &certified("north"), "pumps/x"), (true, acl(1)));
    assert_eq!(publish(&rules, &certified("south"), "pumps/x"), (false, Cause::NoRule));
}

#[test]
fn a_rule_can_speak_of_retained_publishes_wills_and_qos_alone() {
    let rules = by(r##"
        [[acl]]
        effect = "deny"
        device = "*"
        publish = ["{device}/#"]
        retain = true
        will = false
        [[acl]]
        device = "*"
        publish = ["status/{device}"]
        will = true
        [[acl]]
        device = "*"
        publish = ["slow/#"]
        subscribe = ["slow/#"]
        max_qos = 1
    "##);
    let plug = certified("plug");
    for (topic, qos, retain, will, expected) in [
        ("plug/x", 0, false, false, (true, Cause::OwnTopics)),
        ("plug/x", 0, true, false, (false, acl(1))),
        ("plug/x", 0, true, true, (true, Cause::OwnTopics)),
        ("status/plug", 0, true, true, (true, acl(2))),
        ("status/plug", 0, true, false, (false, Cause::NoRule)),
        ("slow/x", 1, false, false, (true, acl(3))),
        ("slow/x", 2, false, false, (false, Cause::NoRule)),
    ] {
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][qos];
        let Decision { allowed, cause, .. } = rules.may_publish(&plug, topic, qos, retain, will);
        assert_eq!((allowed, cause), expected, "{topic} {qos:?} retain {retain} will {will}");
    }
    let granted = rules.may_subscribe(&plug, &filter("slow/+"), Qos::ExactlyOnce);
    assert_eq!((granted.allowed, granted.max_qos), (true, Qos::AtLeastOnce));
}

#[test]
fn what_is_denied_within_a_wildcard_is_held_back() {
    let rules = by(r##"
        [[acl]]
        effect = "deny"
        device = "panel"
        subscribe = ["+/secret/#"]
        [[acl]]
        device = "*"
        subscribe = ["#"]
    "##);
    let (panel, other) = (certified("panel"), certified("other"));
    for (wanted, allowed) in [("#", true), ("+/+/x", true), ("plug/secret", false), ("+/secret/+", false)] {
        assert_eq!(subscribe(&rules, &panel, wanted).0, allowed, "{wanted}");
    }
    assert!(rules.holds_back(&panel) && !rules.holds_back(&other));
    for (topic, allowed) in
        [("plug/x", true), ("plug/secret", false), ("plug/secret/x", false), ("panel/x", true)]
    {
        assert_eq!(rules.may_receive(&panel, topic).allowed, allowed, "{topic}");
    }
    assert!(rules.may_receive(&other, "plug/secret").allowed);
}

#[test]
fn configurations_without_the_new_words_keep_their_meaning() {
    let rules = by(r##"
        [listener]
        client_auth = "optional"
        [anonymous]
        name = "sketch"
        publish = ["esp32/sensors"]
        [[acl]]
        device = "sketch"
        subscribe = ["esp32/leds"]
        [[acl]]
        device = "*"
        publish = ["tele/{device}/#"]
        [[stream]]
        name = "air"
        topic = "air/+"
        open_to = ["*"]
    "##);
    let (sketch, plug) = (anonymous("sketch"), certified("plug"));
    assert_eq!(publish(&rules, &sketch, "esp32/sensors"), (true, Cause::Rule(RuleOrigin::Anonymous)));
    assert_eq!(subscribe(&rules, &sketch, "esp32/leds"), (true, acl(1)));
    assert_eq!(publish(&rules, &sketch, "sketch/x"), (false, Cause::NoRule));
    assert_eq!(publish(&rules, &sketch, "air/x"), (false, Cause::NoRule));
    assert_eq!(publish(&rules, &plug, "tele/plug/SENSOR"), (true, acl(2)));
    assert_eq!(publish(&rules, &plug, "air/x"), (true, Cause::OpenStream(0)));
    assert_eq!(rules.admits(&sketch), Ok(()));
    assert_eq!(rules.admits(&plug), Ok(()));
    let strict = by("");
    assert_eq!(strict.admits(&sketch).unwrap_err().0, Refusal::CertificateMissing);
}

#[test]
fn what_the_registry_says_of_a_device_holds_at_once() {
    let plug = certified("plug");
    let id = plug.certificate().unwrap().clone();
    let with = |change: fn(&mut Device, CertificateId)| {
        let mut devices = Devices::default();
        change(devices.device_mut(&device("plug")), id.clone());
        let rules = Authorizer::with(&Access::default(), &[], devices.into(), Arc::default());
        rules.admits(&plug).map_err(|(refusal, _)| refusal)
    };
    let revoke = |device: &mut Device, certificate| {
        let revoked_at = time::OffsetDateTime::UNIX_EPOCH;
        device.revoked.push(RevokedCertificate { certificate, revoked_at, not_after: None });
    };
    assert_eq!(with(|_, _| {}), Ok(()));
    assert_eq!(with(|device, _| device.disabled = true), Err(Refusal::DeviceDisabled));
    assert_eq!(with(revoke), Err(Refusal::CertificateRevoked));
    let another = |device: &mut Device, certificate: CertificateId| {
        let certificate = CertificateId { serial: "02".to_owned(), ..certificate };
        let revoked_at = time::OffsetDateTime::UNIX_EPOCH;
        device.revoked.push(RevokedCertificate { certificate, revoked_at, not_after: None });
    };
    assert_eq!(with(another), Ok(()));
}

#[test]
fn an_identity_that_its_listener_does_not_take_any_more_is_put_out() {
    let config = "[listener]\nidentities = [\"api_key\", \"certificate\"]\n";
    let rules = by(config);
    assert_eq!(rules.admits(&certified("plug")), Ok(()));
    let password = named("plug", IdentityKind::Password);
    assert_eq!(rules.admits(&password).unwrap_err().0, Refusal::IdentityNotAllowed);
}
