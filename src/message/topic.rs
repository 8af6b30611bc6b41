//! MQTT topic names and filters (MQTT 3.1.1, section 4.7).

use std::fmt;
use std::sync::Arc;

/// The longest topic, in bytes: its length is a 16-bit field (MQTT 3.1.1, 1.5.3).
const MAX_TOPIC_BYTES: usize = 65_535;

/// A topic name: what a message is published to. 1 to 65,535 bytes, no NUL, no wildcard.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// A topic filter: what is subscribed to. `+` stands for one level, `#` for the rest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

/// Why a text is neither a topic name nor a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// MQTT-4.7.3-1.
    #[error("a topic must not be empty")]
    Empty,
    /// MQTT-4.7.3-3.
    #[error("a topic has at most {MAX_TOPIC_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// MQTT-4.7.3-2.
    #[error("a topic must not hold a NUL character")]
    Nul,
    /// MQTT-3.3.2-2.
    #[error("a topic that is published to must not hold the wildcards '+' and '#'")]
    Wildcard,
    /// MQTT-4.7.1-2.
    #[error("'#' must be the last character of a filter and a level of its own, as in \"a/#\"")]
    MultiLevel,
    /// MQTT-4.7.1-3.
    #[error("'+' must be a level of its own, as in \"a/+/b\"")]
    SingleLevel,
}

fn check_text(text: &str) -> Result<(), InvalidTopic> {
    if text.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(InvalidTopic::TooLong(text.len()));
    }
    if text.as_bytes().contains(&0) {
        return Err(InvalidTopic::Nul);
    }
    Ok(())
}

impl Topic {
    /// Parses a topic name.
    ///
    /// # Errors
    /// Says which rule of the specification is broken.
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Says whether a text is a topic name, without keeping it.
    ///
    /// # Errors
    /// As [`Topic::parse`].
    pub fn check(text: &str) -> Result<(), InvalidTopic> {
        check_text(text)?;
        if text.bytes().any(|b| b == b'+' || b == b'#') {
            return Err(InvalidTopic::Wildcard);
        }
        Ok(())
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The level with this number, counted from 1 as people do.
    #[must_use]
    pub fn level(&self, number: usize) -> Option<&str> {
        self.0.split('/').nth(number.checked_sub(1)?)
    }
}

impl TopicFilter {
    /// Parses a filter.
    ///
    /// # Errors
    /// Says which rule of the specification is broken.
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        check_text(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(InvalidTopic::MultiLevel);
            }
            if level.contains('+') && level != "+" {
                return Err(InvalidTopic::SingleLevel);
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the filter holds a wildcard.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.0.bytes().any(|b| b == b'+' || b == b'#')
    }

    /// Whether a topic name matches (section 4.7.1; a leading wildcard does not match `$…`, MQTT-4.7.2-1).
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in self.0.split('/') {
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Whether every topic that `inner` matches is matched by this filter too.
    /// That is what an ACL asks of a subscription.
    #[must_use]
    pub fn covers(&self, inner: &TopicFilter) -> bool {
        if inner.0.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut theirs = inner.0.split('/');
        for mine in self.0.split('/') {
            if mine == "#" {
                return true;
            }
            match theirs.next() {
                // `#` of theirs reaches deeper than any fixed or single level of mine.
                Some("#") | None => return false,
                Some(level) if mine == "+" || mine == level => {}
                Some(_) => return false,
            }
        }
        theirs.next().is_none()
    }
}

macro_rules! text_noun {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_noun!(Topic);
text_noun!(TopicFilter);

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    #[test]
    fn names_and_filters_keep_the_rules_of_the_specification() {
        assert_eq!(Topic::parse(""), Err(InvalidTopic::Empty));
        assert_eq!(Topic::parse("a/+"), Err(InvalidTopic::Wildcard));
        assert_eq!(Topic::parse("a\0"), Err(InvalidTopic::Nul));
        assert_eq!(Topic::parse(&"a".repeat(65_536)), Err(InvalidTopic::TooLong(65_536)));
        assert!(Topic::parse("/").is_ok());
        for bad in ["a#", "#/a", "a/#/b"] {
            assert_eq!(TopicFilter::parse(bad), Err(InvalidTopic::MultiLevel), "{bad}");
        }
        assert_eq!(TopicFilter::parse("a+/b"), Err(InvalidTopic::SingleLevel));
    }

    #[test]
    fn matching_follows_section_4_7() {
        for (pattern, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a", "a/", false),
        ] {
            assert_eq!(filter(pattern).matches(topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn a_filter_covers_only_what_it_would_match_itself() {
        for (outer, inner, expected) in [
            ("a/#", "a/b", true),
            ("a/#", "a/#", true),
            ("a/#", "a", true),
            ("a/#", "#", false),
            ("a/#", "+/b", false),
            ("a/+", "a/#", false),
            ("a/+", "a/+", true),
            ("a/+/c", "a/b/c", true),
            ("#", "$SYS/#", false),
            ("a/b", "a/+", false),
        ] {
            assert_eq!(filter(outer).covers(&filter(inner)), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn levels_are_counted_from_one() {
        let topic = Topic::parse("tele/plug/SENSOR").unwrap();
        assert_eq!(topic.level(1), Some("tele"));
        assert_eq!(topic.level(3), Some("SENSOR"));
        assert_eq!(topic.level(4), None);
        assert_eq!(topic.level(0), None);
    }
}
