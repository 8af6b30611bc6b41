//! What a token says that its bearer may do: the `acl` claim of EMQX in both of its forms, and the
//! `publ`, `subl` and `subs` of mosquitto-jwt-auth.
//!
//! | claim | it is |
//! |---|---|
//! | `acl: {"pub": […], "sub": […], "all": […]}` | a list of what is allowed; nothing else is |
//! | `publ: […]`, `subl: […]` or `subs: […]` | the same |
//! | `acl: [{"permission", "action", "topic", "qos", "retain"}, …]` | rules of which the first that speaks decides; if none does, the gateway's rules are asked |
//!
//! `${clientid}` and `${username}` stand for what the token itself has proved, never for what the client merely says.

use serde_json::{Map, Value};

use super::rules::{Action, Wish};
use crate::config::can_stand_in_a_level;
use crate::message::{Qos, TopicFilter};

/// A token holds no more rules: each of them is kept for as long as the connection lives.
const MAX_RULES: usize = 100;

/// What stands before a topic that is not a filter but itself.
const LITERAL: &str = "eq ";

/// The rules of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAcl {
    rules: Vec<Rule>,
    /// What none of them speaks of is refused.
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allow: bool,
    publish: bool,
    subscribe: bool,
    topic: Topic,
    /// A bit for each QoS.
    qos: u8,
    retain: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Topic {
    Filter(TopicFilter),
    /// This text alone, and the same as a filter if it is one.
    Literal(Box<str>, Option<TopicFilter>),
}

/// What the rules of a token say about a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The rule with this number, counted from 1, decides.
    Said { allowed: bool, number: u16 },
    /// None speaks of it, and what none speaks of is refused.
    NotListed,
    /// None speaks of it.
    Nothing,
}

/// For whom the names in the claims stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) client_id: &'a str,
    pub(super) user: Option<&'a str>,
}

impl TokenAcl {
    /// Reads the claims; `None` if they say nothing about topics.
    ///
    /// # Errors
    /// In words, when a claim is not of its form: what cannot be understood must not be passed over.
    pub(super) fn of_claims(claims: &Map<String, Value>, names: Names) -> Result<Option<Self>, String> {
        let mut rules = Vec::new();
        let lists = [("publ", true, false), ("subl", false, true), ("subs", false, true)];
        let mut closed = false;
        for (name, publish, subscribe) in lists {
            if let Some(topics) = claims.get(name) {
                closed = true;
                allow_all(name, topics, names, (publish, subscribe), &mut rules)?;
            }
        }
        match claims.get("acl") {
            None => {}
            Some(Value::Object(lists)) => {
                closed = true;
                for (name, topics) in lists {
                    let of = match name.as_str() {
                        "pub" => (true, false),
                        "sub" => (false, true),
                        "all" => (true, true),
                        other => return Err(format!("acl: there is no list {other:?}")),
                    };
                    allow_all(name, topics, names, of, &mut rules)?;
                }
            }
            Some(Value::Array(_)) if closed => {
                return Err("acl: rules and lists (publ, subl) are not understood together".to_owned());
            }
            Some(Value::Array(listed)) => {
                for rule in listed {
                    rules.push(parse_rule(rule, names)?);
                }
                if rules.len() > MAX_RULES {
                    return Err(format!("acl: it has more than {MAX_RULES} rules"));
                }
                return Ok(Some(Self { rules, closed: false }));
            }
            Some(_) => return Err("acl: it is neither an object nor a list".to_owned()),
        }
        if rules.len() > MAX_RULES {
            return Err(format!("acl: it has more than {MAX_RULES} topics"));
        }
        Ok(closed.then_some(Self { rules, closed }))
    }

    pub(super) fn word(&self, wish: &Wish) -> Word {
        match self.rules.iter().position(|rule| rule.speaks_of(wish)) {
            Some(index) => Word::Said {
                allowed: self.rules[index].allow,
                number: u16::try_from(index + 1).expect("there are at most MAX_RULES"),
            },
            None if self.closed => Word::NotListed,
            None => Word::Nothing,
        }
    }

    /// Whether a rule takes something away from what subscriptions bring.
    pub(super) fn denies_receiving(&self) -> bool {
        self.rules.iter().any(|rule| rule.subscribe && !rule.allow)
    }
}

impl Rule {
    fn speaks_of(&self, wish: &Wish) -> bool {
        let has_qos = self.qos & (1 << wish.qos as u8) != 0;
        match wish.action {
            Action::Publish(topic) => {
                let flags = has_qos && self.retain.is_none_or(|retain| retain == wish.retain);
                self.publish && flags && self.topic.matches(topic)
            }
            Action::Subscribe(filter) => self.subscribe && has_qos && self.topic.covers(filter),
            // What a subscription to the literal filter brings, it brings.
            Action::Receive(topic) => {
                self.subscribe
                    && match &self.topic {
                        Topic::Literal(_, Some(filter)) if self.allow => filter.matches(topic),
                        other => other.matches(topic),
                    }
            }
        }
    }
}

impl Topic {
    fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Filter(filter) => filter.matches(topic),
            Self::Literal(text, _) => **text == *topic,
        }
    }

    fn covers(&self, wanted: &TopicFilter) -> bool {
        match self {
            Self::Filter(filter) => filter.covers(wanted),
            Self::Literal(text, _) => **text == *wanted.as_str(),
        }
    }
}

fn allow_all(
    name: &str,
    topics: &Value,
    names: Names,
    (publish, subscribe): (bool, bool),
    rules: &mut Vec<Rule>,
) -> Result<(), String> {
    let topics = topics.as_array().ok_or_else(|| format!("{name}: it is not a list"))?;
    for topic in topics {
        let topic = parse_topic(topic, names)?;
        rules.push(Rule { allow: true, publish, subscribe, topic, qos: 0b111, retain: None });
    }
    Ok(())
}

fn parse_rule(rule: &Value, names: Names) -> Result<Rule, String> {
    let rule = rule.as_object().ok_or("acl: a rule is not an object")?;
    let known = ["permission", "action", "topic", "qos", "retain"];
    if let Some(other) = rule.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("acl: a rule has a member {other:?} that is not known"));
    }
    let allow = match rule.get("permission").and_then(Value::as_str) {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err("acl: a rule's permission is neither allow nor deny".to_owned()),
    };
    let (publish, subscribe) = match rule.get("action").map(Value::as_str) {
        Some(Some("publish")) => (true, false),
        Some(Some("subscribe")) => (false, true),
        None | Some(Some("all")) => (true, true),
        Some(_) => return Err("acl: a rule's action is not publish, subscribe or all".to_owned()),
    };
    let retain = match rule.get("retain") {
        None => None,
        Some(Value::Bool(retain)) => Some(*retain),
        Some(Value::String(all)) if all == "all" => None,
        Some(_) => return Err("acl: a rule's retain is not true, false or all".to_owned()),
    };
    let topic = parse_topic(rule.get("topic").unwrap_or(&Value::Null), names)?;
    Ok(Rule { allow, publish, subscribe, topic, qos: parse_qos(rule.get("qos"))?, retain })
}

fn parse_qos(qos: Option<&Value>) -> Result<u8, String> {
    let bit = |level: &Value| match level.as_u64() {
        Some(level @ 0..=2) => Ok(1_u8 << level),
        _ => Err("acl: a rule's qos is not 0, 1 or 2".to_owned()),
    };
    match qos {
        None => Ok(0b111),
        Some(Value::Array(levels)) => levels.iter().try_fold(0, |bits, level| Ok(bits | bit(level)?)),
        Some(level) => bit(level),
    }
}

fn parse_topic(topic: &Value, names: Names) -> Result<Topic, String> {
    let text = topic.as_str().ok_or("acl: a topic is not a text")?;
    let mut filled = text.to_owned();
    let stands_for = [("${clientid}", Some(names.client_id)), ("${username}", names.user)];
    for (name, value) in stands_for {
        if text.contains(name) {
            let value = value
                .filter(|value| can_stand_in_a_level(value))
                .ok_or_else(|| format!("acl: what {name} stands for cannot stand in a topic"))?;
            filled = filled.replace(name, value);
        }
    }
    if let Some(literal) = filled.strip_prefix(LITERAL) {
        return Ok(Topic::Literal(literal.into(), TopicFilter::parse(literal).ok()));
    }
    TopicFilter::parse(&filled).map(Topic::Filter).map_err(|error| format!("acl: {text:?}: {error}"))
}

/// The highest QoS whatever a rule says.
pub(super) const ANY_QOS: Qos = Qos::ExactlyOnce;
