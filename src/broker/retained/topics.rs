//! Values by topic, found by filter. A tree of levels that is laid out as one sorted map: in its keys each level
//! ends in NUL, which no topic holds (MQTT-4.7.3-2). Everything below a topic stands behind it, side by side.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::str::Split;

use crate::message::TopicFilter;

/// Ends a level.
const END: char = '\0';
/// What comes next after it.
const BEYOND_END: char = '\x01';

/// Values by topic.
#[derive(Debug)]
pub(super) struct Topics<T>(BTreeMap<Box<str>, T>);

impl<T> Default for Topics<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Topics<T> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }

    pub(super) fn find(&self, topic: &str) -> Option<&T> {
        self.0.get(key(topic).as_str())
    }

    /// Returns what was there before.
    pub(super) fn insert(&mut self, topic: &str, value: T) -> Option<T> {
        self.0.insert(key(topic).into(), value)
    }

    pub(super) fn remove(&mut self, topic: &str) -> Option<T> {
        self.0.remove(key(topic).as_str())
    }

    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        self.0.retain(|_, value| wanted(value));
    }

    /// Visits the values of all topics that match. What does not match is skipped level by level; the depth of
    /// the recursion is that of the filter.
    pub(super) fn matching<'a>(&'a self, filter: &TopicFilter, mut visit: impl FnMut(&'a T)) {
        self.visit(&mut String::new(), filter.as_str().split('/'), &mut visit);
    }

    /// `path`: the key of the topic that the levels so far have led to.
    fn visit<'a>(&'a self, path: &mut String, mut levels: Split<'_, char>, visit: &mut impl FnMut(&'a T)) {
        let is_first = path.is_empty();
        match levels.next() {
            None => self.0.get(path.as_str()).into_iter().for_each(visit),
            Some("#") => {
                let below = self.0.range::<str, _>((Bound::Included(path.as_str()), Bound::Unbounded));
                let below = below.take_while(|(key, _)| key.starts_with(path.as_str()));
                below.filter(|(key, _)| !(is_first && is_special(key))).for_each(|(_, value)| visit(value));
            }
            Some("+") => {
                let parent = path.len();
                while let Some(level) = self.next_level(path, parent) {
                    path.truncate(parent);
                    path.push_str(level);
                    if !(is_first && is_special(level)) {
                        path.push(END);
                        self.visit(path, levels.clone(), visit);
                        path.pop();
                    }
                    path.push(BEYOND_END);
                }
                path.truncate(parent);
            }
            Some(level) => {
                let parent = path.len();
                path.push_str(level);
                path.push(END);
                self.visit(path, levels, visit);
                path.truncate(parent);
            }
        }
    }

    /// The first level below a parent, the first `parent` bytes of `from`, whose topics stand behind `from`.
    fn next_level(&self, from: &str, parent: usize) -> Option<&str> {
        let (key, _) = self.0.range::<str, _>((Bound::Excluded(from), Bound::Unbounded)).next()?;
        let below = key.strip_prefix(&from[..parent])?;
        below.split_once(END).map(|(level, _)| level)
    }
}

fn key(topic: &str) -> String {
    let mut key = String::with_capacity(topic.len() + 1);
    key.extend(topic.chars().map(|c| if c == '/' { END } else { c }));
    key.push(END);
    key
}

/// A leading wildcard does not match `$…` (MQTT-4.7.2-1).
fn is_special(key: &str) -> bool {
    key.starts_with('$')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matching(topics: &Topics<String>, filter: &TopicFilter) -> Vec<String> {
        let mut found = Vec::new();
        topics.matching(filter, |topic| found.push(topic.clone()));
        found.sort();
        found
    }

    #[test]
    fn a_level_is_no_other_that_begins_like_it() {
        let mut topics = Topics::default();
        for topic in ["a", "a/", "a/b", "a\x01/b", "ab", "a b/b", "a/b/c", "/b", "$a/b"] {
            topics.insert(topic, topic.to_owned());
        }
        for (filter, expected) in [
            ("a/#", &["a", "a/", "a/b", "a/b/c"][..]),
            ("+/b", &["/b", "a\x01/b", "a b/b", "a/b"]),
            ("+", &["a", "ab"]),
            ("a/+", &["a/", "a/b"]),
            ("$a/+", &["$a/b"]),
            ("+/+/#", &["/b", "a\x01/b", "a b/b", "a/", "a/b", "a/b/c"]),
        ] {
            assert_eq!(matching(&topics, &TopicFilter::parse(filter).unwrap()), expected, "{filter}");
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_matches(
            topics in prop::collection::btree_set("(\\$?[ab\u{1} ü]?[ab]?/){0,3}[ab\u{1}]?", 0..30),
            filters in prop::collection::vec("(\\$?([ab+\u{1} ü]|ab)?/){0,3}([ab+#]|\\$a)?", 1..10),
        ) {
            let mut held = Topics::default();
            for topic in &topics {
                prop_assert_eq!(held.insert(topic, topic.clone()), None);
            }
            for filter in filters.iter().filter_map(|filter| TopicFilter::parse(filter).ok()) {
                let expected: Vec<_> = topics.iter().filter(|topic| filter.matches(topic)).cloned().collect();
                prop_assert_eq!(matching(&held, &filter), expected, "{}", filter);
            }
            for topic in &topics {
                let removed = held.remove(topic);
                prop_assert_eq!(removed.as_ref(), Some(topic));
            }
            prop_assert_eq!(held.len(), 0);
        }
    }
}
