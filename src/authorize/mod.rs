//! Who is this, and may it do this on that topic? Pure: no clock, no disk, no lock.
//!
//! What no rule allows is refused. The rules, in the order in which they are asked:
//!
//! 1. Nobody publishes to `$…` or subscribes to `$…`: those topics are the gateway's own (MQTT 3.1.1, 4.7.2).
//! 2. A device with a certificate publishes and subscribes below its own name: `{device}/#`.
//! 3. A stream that is `open_to` a device takes its publishes.
//! 4. The `[[access.rule]]`s of the configuration.
//!
//! An anonymous device has rules 3 and 4 only, and only where they name its identity: `*` means
//! every device that showed a certificate.

pub(crate) mod log_limit;
pub mod refusals;

use std::sync::Arc;

use crate::config::{self, AclRule, DeviceMatch, TopicTemplate};
use crate::message::{DeviceId, TopicFilter};

/// How a device has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// By a certificate of our CA.
    Certificate,
    /// Not at all: the operator lets such devices in under one name.
    Anonymous,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its name.
    pub device: DeviceId,
    /// How it has shown that.
    pub kind: IdentityKind,
}

/// Decides. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authorizer(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    own_topics: TopicTemplate,
    rules: Vec<AclRule>,
    streams: Vec<(TopicFilter, Vec<DeviceMatch>)>,
    anonymous: Option<DeviceId>,
}

impl Authorizer {
    /// Takes the rules of the configuration.
    #[must_use]
    pub fn new(access: &config::Access, streams: &[config::Stream]) -> Self {
        let open = streams.iter().filter(|stream| !stream.open_to.is_empty());
        Self(Arc::new(Rules {
            own_topics: TopicTemplate::parse("{device}/#").expect("it is a filter"),
            rules: access.rules.clone(),
            streams: open.map(|stream| (stream.filter.clone(), stream.open_to.clone())).collect(),
            anonymous: access.anonymous.clone(),
        }))
    }

    /// Whether a device may publish to a topic.
    #[must_use]
    pub fn may_publish(&self, who: &Identity, topic: &str) -> bool {
        let streams = &self.0.streams;
        !topic.starts_with('$')
            && (self.templates(who, |rule| &rule.publish).any(|filter| filter.matches(topic))
                || streams.iter().any(|(filter, open_to)| {
                    filter.matches(topic) && open_to.iter().any(|devices| devices.includes(who))
                }))
    }

    /// Whether a device may subscribe to a filter: all that it could match must be allowed by one rule.
    #[must_use]
    pub fn may_subscribe(&self, who: &Identity, wanted: &TopicFilter) -> bool {
        !wanted.as_str().starts_with('$')
            && self.templates(who, |rule| &rule.subscribe).any(|filter| filter.covers(wanted))
    }

    /// The identity of a device without a certificate; `None` when such devices are refused.
    #[must_use]
    pub fn anonymous(&self) -> Option<Identity> {
        let device = self.0.anonymous.clone()?;
        Some(Identity { device, kind: IdentityKind::Anonymous })
    }

    /// The filters that speak of a device, its own topics first.
    fn templates<'a>(
        &'a self,
        who: &'a Identity,
        list: impl Fn(&'a AclRule) -> &'a Vec<TopicTemplate> + 'a,
    ) -> impl Iterator<Item = TopicFilter> + 'a {
        let own = (who.kind == IdentityKind::Certificate).then_some(&self.0.own_topics);
        let granted = self.0.rules.iter().filter(|rule| rule.device.includes(who)).flat_map(list);
        own.into_iter().chain(granted).map(|template| template.for_device(&who.device))
    }
}

impl DeviceMatch {
    fn includes(&self, who: &Identity) -> bool {
        match self {
            Self::Certified => who.kind == IdentityKind::Certificate,
            Self::Named(device) => *device == who.device,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Access, DeviceSource, PayloadFormat, Stream};

    fn device(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    fn certified(name: &str) -> Identity {
        Identity { device: device(name), kind: IdentityKind::Certificate }
    }

    fn anonymous(name: &str) -> Identity {
        Identity { device: device(name), kind: IdentityKind::Anonymous }
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    fn rule(device: DeviceMatch, publish: &[&str], subscribe: &[&str]) -> AclRule {
        let templates = |texts: &[&str]| texts.iter().map(|t| TopicTemplate::parse(t).unwrap()).collect();
        AclRule { device, publish: templates(publish), subscribe: templates(subscribe) }
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
        Authorizer::new(&Access { rules, anonymous: Some(device("anonymous")) }, streams)
    }

    #[test]
    fn a_certified_device_has_the_topics_below_its_name_and_no_others() {
        let authorizer = authorizer(vec![], &[]);
        let plug = certified("plug");
        assert!(authorizer.may_publish(&plug, "plug/temperature"));
        assert!(authorizer.may_publish(&plug, "plug"));
        assert!(!authorizer.may_publish(&plug, "plug2/temperature"));
        assert!(!authorizer.may_publish(&plug, "other/plug"));
        assert!(authorizer.may_subscribe(&plug, &filter("plug/#")));
        assert!(authorizer.may_subscribe(&plug, &filter("plug/+/set")));
        for wider in ["#", "+/set", "+", "other/#", "/plug/#"] {
            assert!(!authorizer.may_subscribe(&plug, &filter(wider)), "{wider}");
        }
    }

    #[test]
    fn an_anonymous_device_has_nothing_that_does_not_name_it() {
        let rules = vec![rule(DeviceMatch::Certified, &["shared/#"], &["shared/#"])];
        let streams = [stream("readings/+", vec![DeviceMatch::Certified])];
        let authorizer = authorizer(rules, &streams);
        let nobody = anonymous("anonymous");
        for topic in ["anonymous/x", "shared/x", "readings/x"] {
            assert!(!authorizer.may_publish(&nobody, topic), "{topic}");
            assert!(!authorizer.may_subscribe(&nobody, &filter(topic)), "{topic}");
        }
        assert!(authorizer.may_publish(&certified("plug"), "readings/x"));
        assert!(authorizer.may_publish(&certified("plug"), "shared/x"));
    }

    #[test]
    fn an_open_stream_takes_publishes_and_gives_no_right_to_subscribe() {
        let open_to = vec![DeviceMatch::Named(device("anonymous"))];
        let authorizer = authorizer(vec![], &[stream("esp32/sensors", open_to)]);
        let sketch = anonymous("anonymous");
        assert!(authorizer.may_publish(&sketch, "esp32/sensors"));
        assert!(!authorizer.may_publish(&sketch, "esp32/actuators"));
        assert!(!authorizer.may_subscribe(&sketch, &filter("esp32/sensors")));
        assert!(!authorizer.may_publish(&certified("plug"), "esp32/sensors"));
    }

    #[test]
    fn a_rule_speaks_of_each_device_by_its_name() {
        let tasmota = rule(DeviceMatch::Certified, &["tele/{device}/#"], &["cmnd/{device}/+"]);
        let panel = rule(DeviceMatch::Named(device("panel")), &[], &["tele/#"]);
        let authorizer = authorizer(vec![tasmota, panel], &[]);
        assert!(authorizer.may_publish(&certified("plug"), "tele/plug/SENSOR"));
        assert!(!authorizer.may_publish(&certified("plug"), "tele/lamp/SENSOR"));
        assert!(authorizer.may_subscribe(&certified("plug"), &filter("cmnd/plug/POWER")));
        assert!(!authorizer.may_subscribe(&certified("plug"), &filter("cmnd/plug/#")));
        assert!(authorizer.may_subscribe(&certified("panel"), &filter("tele/+/SENSOR")));
        assert!(!authorizer.may_subscribe(&certified("plug"), &filter("tele/#")));
    }

    #[test]
    fn dollar_topics_are_nobodys_even_under_a_rule_for_everything() {
        let authorizer = authorizer(vec![rule(DeviceMatch::Certified, &["#", "$x/#"], &["#", "$x/#"])], &[]);
        let plug = certified("plug");
        assert!(!authorizer.may_publish(&plug, "$SYS/uptime"));
        assert!(!authorizer.may_publish(&plug, "$x/y"));
        assert!(!authorizer.may_subscribe(&plug, &filter("$SYS/#")));
        assert!(!authorizer.may_subscribe(&plug, &filter("$share/group/x")));
        assert!(authorizer.may_subscribe(&plug, &filter("#")));
        assert!(authorizer.may_publish(&plug, "anything"));
    }

    #[test]
    fn without_a_name_for_them_anonymous_devices_have_no_identity() {
        assert_eq!(Authorizer::new(&Access::default(), &[]).anonymous(), None);
        assert_eq!(authorizer(vec![], &[]).anonymous(), Some(anonymous("anonymous")));
    }
}
