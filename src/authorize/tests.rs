//! The rules, as tables.

mod acl;
mod api_tokens;
mod gate;
mod identities;
mod model;
mod signers;
mod tokens;

use std::sync::Arc;

use super::refusals::Refusal;
use super::*;
use crate::config::{Access, AclRule, DeviceMatch, DeviceSource, PayloadFormat, Stream, TopicTemplate};
use crate::message::{CertificateId, DeviceId, Qos, TopicFilter};

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn certified(name: &str) -> Principal {
    let certificate = CertificateId { issuer: "CN=CA".to_owned(), serial: "01".to_owned() };
    Principal::certified(device(name), certificate, Door::Tls)
}

fn anonymous(name: &str) -> Principal {
    Principal::anonymous(device(name), Door::Tls)
}

impl Authorizer {
    fn publishes(&self, who: &Principal, topic: &str) -> bool {
        self.may_publish(who, topic, Qos::AtLeastOnce, false, false).allowed
    }

    fn subscribes(&self, who: &Principal, wanted: &str) -> bool {
        self.may_subscribe(who, &filter(wanted), Qos::AtLeastOnce).allowed
    }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).unwrap()
}

fn rule(device: DeviceMatch, publish: &[&str], subscribe: &[&str]) -> AclRule {
    let templates = |texts: &[&str]| texts.iter().map(|t| TopicTemplate::parse(t).unwrap()).collect();
    AclRule::allow(device, templates(publish), templates(subscribe))
}

fn stream(topics: &str, open_to: Vec<DeviceMatch>) -> Stream {
    Stream {
        name: topics.to_owned(),
        filter: filter(topics),
        device: DeviceSource::Certificate,
        format: PayloadFormat::Json,
        fields: Vec::new(),
        integrity: None,
        open_to,
    }
}

fn authorizer(rules: Vec<AclRule>, streams: &[Stream]) -> Authorizer {
    Authorizer::new(&Access { rules, anonymous: Some(device("anonymous")), ..Access::default() }, streams)
}

#[test]
fn a_certified_device_has_the_topics_below_its_name_and_no_others() {
    let authorizer = authorizer(vec![], &[]);
    let plug = certified("plug");
    assert!(authorizer.publishes(&plug, "plug/temperature"));
    assert!(authorizer.publishes(&plug, "plug"));
    assert!(!authorizer.publishes(&plug, "plug2/temperature"));
    assert!(!authorizer.publishes(&plug, "other/plug"));
    assert!(authorizer.subscribes(&plug, "plug/#"));
    assert!(authorizer.subscribes(&plug, "plug/+/set"));
    for wider in ["#", "+/set", "+", "other/#", "/plug/#"] {
        assert!(!authorizer.subscribes(&plug, wider), "{wider}");
    }
}

#[test]
fn an_anonymous_device_has_nothing_that_does_not_name_it() {
    let rules = vec![rule(DeviceMatch::Known, &["shared/#"], &["shared/#"])];
    let streams = [stream("readings/+", vec![DeviceMatch::Known])];
    let authorizer = authorizer(rules, &streams);
    let nobody = anonymous("anonymous");
    for topic in ["anonymous/x", "shared/x", "readings/x"] {
        assert!(!authorizer.publishes(&nobody, topic), "{topic}");
        assert!(!authorizer.subscribes(&nobody, topic), "{topic}");
    }
    assert!(authorizer.publishes(&certified("plug"), "readings/x"));
    assert!(authorizer.publishes(&certified("plug"), "shared/x"));
}

#[test]
fn an_open_stream_takes_publishes_and_gives_no_right_to_subscribe() {
    let open_to = vec![DeviceMatch::Named(device("anonymous"))];
    let authorizer = authorizer(vec![], &[stream("esp32/sensors", open_to)]);
    let sketch = anonymous("anonymous");
    assert!(authorizer.publishes(&sketch, "esp32/sensors"));
    assert!(!authorizer.publishes(&sketch, "esp32/actuators"));
    assert!(!authorizer.subscribes(&sketch, "esp32/sensors"));
    assert!(!authorizer.publishes(&certified("plug"), "esp32/sensors"));
}

#[test]
fn a_rule_speaks_of_each_device_by_its_name() {
    let tasmota = rule(DeviceMatch::Known, &["tele/{device}/#"], &["cmnd/{device}/+"]);
    let panel = rule(DeviceMatch::Named(device("panel")), &[], &["tele/#"]);
    let authorizer = authorizer(vec![tasmota, panel], &[]);
    assert!(authorizer.publishes(&certified("plug"), "tele/plug/SENSOR"));
    assert!(!authorizer.publishes(&certified("plug"), "tele/lamp/SENSOR"));
    assert!(authorizer.subscribes(&certified("plug"), "cmnd/plug/POWER"));
    assert!(!authorizer.subscribes(&certified("plug"), "cmnd/plug/#"));
    assert!(authorizer.subscribes(&certified("panel"), "tele/+/SENSOR"));
    assert!(!authorizer.subscribes(&certified("plug"), "tele/#"));
}

#[test]
fn dollar_topics_are_nobodys_even_under_a_rule_for_everything() {
    let authorizer = authorizer(vec![rule(DeviceMatch::Known, &["#", "$x/#"], &["#", "$x/#"])], &[]);
    let plug = certified("plug");
    assert!(!authorizer.publishes(&plug, "$SYS/uptime"));
    assert!(!authorizer.publishes(&plug, "$x/y"));
    assert!(!authorizer.subscribes(&plug, "$SYS/#"));
    assert!(!authorizer.subscribes(&plug, "$share/group/x"));
    assert!(authorizer.subscribes(&plug, "#"));
    assert!(authorizer.publishes(&plug, "anything"));
}

#[test]
fn without_a_name_for_them_anonymous_devices_have_no_identity() {
    assert_eq!(Authorizer::new(&Access::default(), &[]).anonymous(), None);
    assert_eq!(authorizer(vec![], &[]).anonymous(), Some(&device("anonymous")));
}
