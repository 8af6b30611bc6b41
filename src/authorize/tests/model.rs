//! Random rules against a model that is too simple to be wrong: topics of a small world, matched one by one.

use proptest::prelude::*;

use super::*;
use crate::config::{Effect, RuleOrigin};

const LEVELS: [&str; 3] = ["a", "b", "plug"];

/// Every topic of one, two or three levels.
fn world() -> Vec<String> {
    let mut topics: Vec<String> = LEVELS.iter().map(|level| (*level).to_owned()).collect();
    for _ in 0..2 {
        let longer = topics.iter().flat_map(|topic| LEVELS.map(|level| format!("{topic}/{level}")));
        topics = topics.iter().cloned().chain(longer).collect();
        topics.sort();
        topics.dedup();
    }
    topics
}

/// A filter within that world.
fn filters() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "plug", "+"]);
    (prop::collection::vec(level, 0..3), any::<bool>()).prop_map(|(levels, rest)| {
        let levels = levels.into_iter().chain(rest.then_some("#")).collect::<Vec<_>>();
        if levels.is_empty() { "#".to_owned() } else { levels.join("/") }
    })
}

fn rules() -> impl Strategy<Value = Vec<AclRule>> {
    let topics = || prop::collection::vec(filters(), 0..3);
    let rule = (any::<bool>(), any::<bool>(), topics(), topics(), prop::option::of(any::<bool>()));
    prop::collection::vec(rule, 0..5).prop_map(|rules| {
        let rules = rules.into_iter().enumerate();
        let templates = |texts: Vec<String>| texts.iter().map(|t| TopicTemplate::parse(t).unwrap()).collect();
        let rules = rules.map(|(index, (deny, other, publish, subscribe, retain))| AclRule {
            origin: RuleOrigin::Acl(index + 1),
            effect: if deny { Effect::Deny } else { Effect::Allow },
            retain,
            ..AclRule::allow(
                if other { DeviceMatch::Named(device("other")) } else { DeviceMatch::Known },
                templates(publish),
                templates(subscribe),
            )
        });
        rules.collect()
    })
}

/// The specification's words (4.7.1), level by level.
fn model_matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        ([wanted, filter @ ..], [level, topic @ ..]) => {
            (*wanted == "+" || wanted == level) && model_matches(filter, topic)
        }
        _ => false,
    }
}

fn matches(filter: &str, topic: &str) -> bool {
    model_matches(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>())
}

/// The first rule that names the topic, then the own topics.
fn model(rules: &[AclRule], topic: &str, retain: Option<bool>) -> bool {
    for rule in rules {
        let topics = if retain.is_some() { &rule.publish } else { &rule.subscribe };
        let is_for_plug = rule.device == Some(DeviceMatch::Known);
        let fits = retain.is_none() || rule.retain.is_none() || rule.retain == retain;
        if is_for_plug && fits && topics.iter().any(|filter| matches(filter.as_str(), topic)) {
            return rule.effect == Effect::Allow;
        }
    }
    matches("plug/#", topic)
}

proptest! {
    #[test]
    fn a_publish_is_decided_by_the_first_rule_that_names_its_topic(rules in rules(), retain: bool) {
        let authorizer = authorizer(rules.clone(), &[]);
        for topic in world() {
            let decision = authorizer.may_publish(&certified("plug"), &topic, Qos::AtMostOnce, retain, false);
            prop_assert_eq!(decision.allowed, model(&rules, &topic, Some(retain)), "{}", topic);
        }
    }

    #[test]
    fn a_subscription_brings_nothing_that_a_rule_denies(rules in rules(), wanted in filters()) {
        let (authorizer, plug) = (authorizer(rules.clone(), &[]), certified("plug"));
        let granted = authorizer.may_subscribe(&plug, &filter(&wanted), Qos::AtMostOnce).allowed;
        for topic in world().into_iter().filter(|topic| matches(&wanted, topic)) {
            let may = model(&rules, &topic, None);
            prop_assert_eq!(authorizer.may_receive(&plug, &topic).allowed, may, "{}", &topic);
            if granted && !authorizer.holds_back(&plug) {
                prop_assert!(may, "{} comes unasked", topic);
            }
        }
    }

    #[test]
    fn a_subscription_to_one_topic_is_decided_as_its_message(rules in rules(), index in 0_usize..39) {
        let (authorizer, plug) = (authorizer(rules.clone(), &[]), certified("plug"));
        let topic = world().swap_remove(index);
        let granted = authorizer.may_subscribe(&plug, &filter(&topic), Qos::AtMostOnce).allowed;
        prop_assert_eq!(granted, model(&rules, &topic, None));
    }
}
