//! Values by topic, found by filter. A tree of levels that is laid out as one sorted map: in its keys each level
//! ends in NUL, which no topic holds (MQTT-4.7.3-2). Everything below a topic stands behind it, side by side.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
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

    /// Visits the values of all topics that match, in an order of its own, until it is told to stop. What does not
    /// match is skipped level by level; the depth of the recursion is that of the filter.
    ///
    /// `after`: only the topics behind this one in that order; empty for all.
    pub(super) fn matching<'a>(
        &'a self,
        filter: &TopicFilter,
        after: &str,
        mut visit: impl FnMut(&'a T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let after = if after.is_empty() { String::new() } else { key(after) };
        self.visit(&mut String::new(), filter.as_str().split('/'), &after, &mut visit)
    }

    /// `path`: the key of the topic that the levels so far have led to.
    fn visit<'a>(
        &'a self,
        path: &mut String,
        mut levels: Split<'_, char>,
        after: &str,
        visit: &mut impl FnMut(&'a T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (parent, is_first) = (path.len(), path.is_empty());
        match levels.next() {
            None if path.as_str() <= after => ControlFlow::Continue(()),
            None => self.0.get(path.as_str()).map_or(ControlFlow::Continue(()), visit),
            Some("#") => {
                let start = if after < path.as_str() {
                    Bound::Included(path.as_str())
                } else {
                    Bound::Excluded(after)
                };
                let below = self.0.range::<str, _>((start, Bound::Unbounded));
                let below = below.take_while(|(key, _)| key.starts_with(path.as_str()));
                below
                    .filter(|(key, _)| !(is_first && is_special(key)))
                    .try_for_each(|(_, value)| visit(value))
            }
            Some("+") => {
                while let Some(level) = self.next_level(path, parent, after) {
                    path.truncate(parent);
                    path.push_str(level);
                    if !(is_first && is_special(level)) {
                        path.push(END);
                        self.visit(path, levels.clone(), after, visit)?;
                        path.pop();
                    }
                    path.push(BEYOND_END);
                }
                path.truncate(parent);
                ControlFlow::Continue(())
            }
            Some(level) => {
                path.push_str(level);
                path.push(END);
                self.visit(path, levels, after, visit)?;
                path.truncate(parent);
                ControlFlow::Continue(())
            }
        }
    }

    /// The first level below a parent, the first `parent` bytes of `from`, with topics behind `from` and `after`.
    fn next_level(&self, from: &str, parent: usize, after: &str) -> Option<&str> {
        let behind = Bound::Excluded(from.max(after));
        let (key, _) = self.0.range::<str, _>((behind, Bound::Unbounded)).next()?;
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

    /// All that match, looked up so many at a time.
    fn matching(topics: &Topics<String>, filter: &TopicFilter, at_once: usize) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        loop {
            let (after, end) = (found.last().cloned().unwrap_or_default(), found.len() + at_once);
            let walk = topics.matching(filter, &after, |topic| {
                found.push(topic.clone());
                if found.len() == end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if walk.is_continue() {
                found.sort();
                return found;
            }
        }
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
            assert_eq!(matching(&topics, &TopicFilter::parse(filter).unwrap(), 1), expected, "{filter}");
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_matches(
            topics in prop::collection::btree_set("((\\$?[ab\u{1} ü]?[ab]?/){1,3}[ab\u{1}]?|[ab])", 0..30),
            filters in prop::collection::vec("(\\$?([ab+\u{1} ü]|ab)?/){0,3}([ab+#]|\\$a)?", 1..10),
            at_once in 1..5_usize,
        ) {
            let mut held = Topics::default();
            for topic in &topics {
                prop_assert_eq!(held.insert(topic, topic.clone()), None);
            }
            for filter in filters.iter().filter_map(|filter| TopicFilter::parse(filter).ok()) {
                let expected: Vec<_> = topics.iter().filter(|topic| filter.matches(topic)).cloned().collect();
                prop_assert_eq!(matching(&held, &filter, at_once), expected, "{}", filter);
            }
            for topic in &topics {
                let removed = held.remove(topic);
                prop_assert_eq!(removed.as_ref(), Some(topic));
            }
            prop_assert_eq!(held.len(), 0);
        }
    }
}
