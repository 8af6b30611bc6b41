//! What is asked for in a SUBSCRIBE: a filter, perhaps shared, and how its messages are wanted.

use std::fmt;

use crate::broker::wire::Wanted;
use crate::message::{InvalidTopic, Qos, TopicFilter};

/// What the filter of a shared subscription begins with. 3.1.1 does not know it; its clients may share as well.
const SHARE: &str = "$share/";

/// A filter as a client writes it, `a/#` or `$share/name/a/#`. A session has one subscription with it
/// (MQTT-3.8.4-3).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::broker) struct Filter {
    /// The name of the group that shares the messages.
    pub(in crate::broker) share: Option<Box<str>>,
    /// Which topics.
    pub(in crate::broker) topics: TopicFilter,
}

/// How the messages of a subscription are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) struct Options {
    /// The highest quality of service.
    pub(in crate::broker) qos: Qos,
    /// None that the session has published itself.
    pub(in crate::broker) no_local: bool,
    /// With RETAIN as the publisher has set it; otherwise without.
    pub(in crate::broker) retain_as_published: bool,
}

/// A subscription, whoever has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::broker) struct Subscription {
    pub(in crate::broker) filter: Filter,
    pub(in crate::broker) options: Options,
    /// What the client wants to be told of which subscription a message came from; at least 1.
    pub(in crate::broker) identifier: Option<u32>,
    /// Its session is still to be given the retained messages behind this topic, all behind an empty one.
    pub(in crate::broker) owed: Option<Box<str>>,
}

/// Why a subscription cannot be: the client breaks the specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::broker) enum InvalidSubscription {
    #[error("{0}")]
    Topics(InvalidTopic),
    #[error("a share has a name, as in \"$share/name/a/#\"")]
    NoShareName,
    #[error("the name of a share must not hold '+' or '#', and a filter must stand behind it")]
    ShareName,
    #[error("a shared subscription must not have no local set")]
    NoLocalShared,
}

impl InvalidSubscription {
    /// The normative statement of MQTT 5 that says so.
    pub(in crate::broker) fn statement(&self) -> &'static str {
        match self {
            Self::Topics(InvalidTopic::Empty) => "MQTT-4.7.3-1",
            Self::Topics(InvalidTopic::Nul) => "MQTT-4.7.3-2",
            Self::Topics(InvalidTopic::TooLong(_)) => "MQTT-4.7.3-3",
            Self::Topics(InvalidTopic::MultiLevel | InvalidTopic::Wildcard) => "MQTT-4.7.1-1",
            Self::Topics(InvalidTopic::SingleLevel) => "MQTT-4.7.1-2",
            Self::NoShareName => "MQTT-4.8.2-1",
            Self::ShareName => "MQTT-4.8.2-2",
            Self::NoLocalShared => "MQTT-3.8.3-4",
        }
    }
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// When it is none by section 4.7 or 4.8.2.
    pub(in crate::broker) fn parse(text: &str) -> Result<Self, InvalidSubscription> {
        let (share, topics) = match text.strip_prefix(SHARE) {
            None => (None, text),
            Some(shared) => {
                let (name, topics) = shared.split_once('/').unwrap_or((shared, ""));
                if name.is_empty() {
                    return Err(InvalidSubscription::NoShareName);
                }
                if topics.is_empty() || name.contains(['+', '#']) {
                    return Err(InvalidSubscription::ShareName);
                }
                (Some(name.into()), topics)
            }
        };
        let topics = TopicFilter::parse(topics).map_err(InvalidSubscription::Topics)?;
        Ok(Self { share, topics })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.share {
            write!(f, "{SHARE}{name}/")?;
        }
        self.topics.fmt(f)
    }
}

impl Subscription {
    /// Parses what is asked for.
    ///
    /// # Errors
    /// When the specification forbids it.
    pub(in crate::broker) fn parse(
        wanted: &Wanted,
        identifier: Option<u32>,
    ) -> Result<Self, InvalidSubscription> {
        let filter = Filter::parse(&wanted.filter)?;
        if filter.share.is_some() && wanted.no_local {
            return Err(InvalidSubscription::NoLocalShared);
        }
        let options = Options {
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
        };
        Ok(Self { filter, options, identifier, owed: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::wire::RetainHandling;

    #[test]
    fn a_share_has_a_name_without_wildcards_and_a_filter_behind_it() {
        use InvalidSubscription::{NoShareName, ShareName, Topics};
        for (text, error) in [
            ("$share", None),
            ("$share/", Some(NoShareName)),
            ("$share//a", Some(NoShareName)),
            ("$share/n", Some(ShareName)),
            ("$share/n/", Some(ShareName)),
            ("$share/+/a", Some(ShareName)),
            ("$share/n#/a", Some(ShareName)),
            ("$share/n//", None),
            ("$share/n/#/a", Some(Topics(InvalidTopic::MultiLevel))),
            ("$share/n/a+", Some(Topics(InvalidTopic::SingleLevel))),
            ("", Some(Topics(InvalidTopic::Empty))),
            ("$Share/n/a", None),
        ] {
            assert_eq!(Filter::parse(text).err(), error, "{text:?}");
        }
    }

    #[test]
    fn a_filter_is_shown_as_it_was_written() {
        for text in ["a/#", "$share/n/+/b", "$share/n//", "$SYS/#", "$share"] {
            let filter = Filter::parse(text).unwrap();
            assert_eq!(filter.to_string(), text);
        }
        let shared = Filter::parse("$share/n/a/#").unwrap();
        assert_eq!((shared.share.as_deref(), shared.topics.as_str()), (Some("n"), "a/#"));
    }

    #[test]
    fn no_local_is_not_for_shared_subscriptions() {
        let wanted = |filter: &str, no_local| Wanted {
            filter: filter.to_owned(),
            qos: Qos::AtLeastOnce,
            no_local,
            retain_as_published: true,
            retain_handling: RetainHandling::Always,
        };
        assert_eq!(
            Subscription::parse(&wanted("$share/n/a", true), None),
            Err(InvalidSubscription::NoLocalShared)
        );
        assert!(Subscription::parse(&wanted("$share/n/a", false), None).is_ok());
        let plain = Subscription::parse(&wanted("a", true), Some(7)).unwrap();
        let options = Options { qos: Qos::AtLeastOnce, no_local: true, retain_as_published: true };
        assert_eq!((plain.options, plain.identifier), (options, Some(7)));
    }
}
