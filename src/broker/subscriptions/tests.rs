use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::config::TopicBounds;

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

fn plain(qos: Qos) -> Options {
    Options { qos, no_local: false, retain_as_published: false }
}

fn subscription(text: &str, options: Options, identifier: Option<u32>) -> Subscription {
    Subscription { filter: filter(text), options, identifier, owed: None }
}

fn session() -> Arc<Mailbox> {
    Arc::default()
}

/// The only target, which is no group.
fn only(targets: &[Target]) -> Subscriber {
    let [Target::One(subscriber)] = targets else { panic!("{targets:?}") };
    subscriber.clone()
}

fn group(targets: &[Target]) -> &Group {
    let [Target::Shared(group)] = targets else { panic!("{targets:?}") };
    group
}

/// Whose turn it is.
fn turn(group: &Group) -> *const Mailbox {
    Arc::as_ptr(&group.in_turn().next().unwrap().mailbox)
}

#[test]
fn overlapping_filters_of_a_session_give_one_delivery_with_the_highest_qos_and_all_identifiers() {
    let (subscriptions, session) = (Subscriptions::default(), session());
    let published = Options { retain_as_published: true, ..plain(Qos::AtMostOnce) };
    subscriptions.add(&subscription("a/#", published, Some(7)), &session);
    subscriptions.add(&subscription("a/+", plain(Qos::ExactlyOnce), None), &session);
    subscriptions.add(&subscription("a/b", plain(Qos::AtLeastOnce), Some(7)), &session);
    subscriptions.add(&subscription("+/b", plain(Qos::AtMostOnce), Some(9)), &session);
    let found = only(&subscriptions.of("a/b", None));
    assert_eq!((found.qos, found.retain_as_published), (Qos::ExactlyOnce, true));
    let mut identifiers = found.identifiers.as_slice().to_vec();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [7, 7, 9], "also twice (section 3.3.4)");
    assert_eq!(only(&subscriptions.of("a/c", None)).identifiers.as_slice(), [7]);
}

#[test]
fn what_a_session_publishes_comes_back_by_its_filters_without_no_local_alone() {
    let (subscriptions, session, other) = (Subscriptions::default(), session(), session());
    let no_local = Options { no_local: true, ..plain(Qos::ExactlyOnce) };
    subscriptions.add(&subscription("a/#", no_local, Some(1)), &session);
    assert!(subscriptions.of("a/b", Some(&session)).is_empty());
    subscriptions.add(&subscription("a/b", plain(Qos::AtMostOnce), Some(2)), &session);

    let own = only(&subscriptions.of("a/b", Some(&session)));
    assert_eq!((own.qos, own.identifiers.as_slice()), (Qos::AtMostOnce, &[2][..]));
    for publisher in [None, Some(&other)] {
        let others = only(&subscriptions.of("a/b", publisher));
        assert_eq!((others.qos, others.identifiers.as_slice().len()), (Qos::ExactlyOnce, 2));
    }
}

#[test]
fn a_second_subscription_with_the_same_filter_replaces_the_first() {
    let (subscriptions, session) = (Subscriptions::default(), session());
    for text in ["a", "$share/g/a"] {
        assert!(subscriptions.add(&subscription(text, plain(Qos::AtLeastOnce), Some(1)), &session));
        assert!(!subscriptions.add(&subscription(text, plain(Qos::AtMostOnce), None), &session));
        let found = subscriptions.of("a", None);
        let found = match &found[..] {
            [Target::One(subscriber)] => subscriber,
            [Target::Shared(group)] => group.in_turn().next().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!((found.qos, found.identifiers.as_slice()), (Qos::AtMostOnce, &[][..]));
        subscriptions.remove([&filter(text)], &session);
    }
}

#[test]
fn members_of_a_group_take_turns_and_a_session_may_have_the_same_filter_unshared() {
    let subscriptions = Subscriptions::default();
    let members = [session(), session(), session()];
    for member in &members {
        subscriptions.add(&subscription("$share/g/a/#", plain(Qos::AtLeastOnce), None), member);
    }
    let targets = subscriptions.of("a/b", None);
    let turns: Vec<_> = (0..6).map(|_| turn(group(&targets))).collect();
    assert_eq!(turns[..3], turns[3..]);
    assert_eq!(turns.iter().collect::<BTreeSet<_>>().len(), 3);

    subscriptions.add(&subscription("a/#", plain(Qos::AtMostOnce), None), &members[0]);
    subscriptions.add(&subscription("$share/other/a/#", plain(Qos::AtMostOnce), None), &members[0]);
    assert_eq!(subscriptions.of("a/b", None).len(), 3, "two groups, and the session itself");
}

#[test]
fn a_group_goes_on_where_it_was_when_a_member_joins_or_leaves_and_is_gone_with_the_last() {
    let subscriptions = Subscriptions::default();
    let members = [session(), session(), session()];
    let shared = subscription("$share/g/#", plain(Qos::AtLeastOnce), None);
    subscriptions.add(&shared, &members[0]);
    subscriptions.add(&shared, &members[1]);
    assert_eq!(turn(group(&subscriptions.of("a", None))), Arc::as_ptr(&members[0]));
    subscriptions.add(&shared, &members[2]);
    assert_eq!(turn(group(&subscriptions.of("a", None))), Arc::as_ptr(&members[1]));
    assert_eq!(turn(group(&subscriptions.of("a", None))), Arc::as_ptr(&members[2]));
    for member in &members {
        subscriptions.remove([&shared.filter], member);
    }
    assert!(subscriptions.of("a", None).is_empty());
    assert!(subscriptions.root.read().unwrap().is_empty());
}

#[test]
fn those_online_share_evenly_and_an_offline_one_gets_what_no_other_takes() {
    let subscriptions = Subscriptions::default();
    let members = [session(), session(), session(), session()];
    for member in &members {
        member.connect(&Arc::default(), 0);
        subscriptions.add(&subscription("$share/g/a", plain(Qos::AtLeastOnce), None), member);
    }
    let targets = subscriptions.of("a", None);
    members[1].close();
    members[2].close();
    let mut turns = BTreeMap::<_, usize>::new();
    (0..100).for_each(|_| *turns.entry(turn(group(&targets))).or_default() += 1);
    let online = [Arc::as_ptr(&members[0]), Arc::as_ptr(&members[3])];
    assert_eq!(turns, online.map(|member| (member, 50)).into());

    let in_turn: Vec<_> = group(&targets).in_turn().map(|member| Arc::as_ptr(&member.mailbox)).collect();
    assert!(members.iter().all(|member| in_turn.contains(&Arc::as_ptr(member))), "when others are full");
    assert!(online.iter().all(|member| in_turn[..2].contains(member)));
    members.iter().for_each(|member| drop(member.close()));
    let turns: BTreeSet<_> = (0..8).map(|_| turn(group(&targets))).collect();
    assert_eq!(turns.len(), 4, "all are offline: in turn as well");
}

#[test]
fn what_is_removed_leaves_nothing_behind() {
    let subscriptions = Subscriptions::default();
    let (gone, stays) = (session(), session());
    let filters = ["a/b/c", "a/+/c", "#", "a/#", "$share/g/a/b/c", "$share/g/+/#"].map(filter);
    for filter in &filters {
        let subscription = Subscription {
            filter: filter.clone(),
            options: plain(Qos::AtMostOnce),
            identifier: None,
            owed: None,
        };
        subscriptions.add(&subscription, &gone);
    }
    subscriptions.add(&subscription("a/b", plain(Qos::AtMostOnce), None), &stays);
    let before = subscriptions.generation();
    subscriptions.remove(&filters, &gone);
    assert_ne!(subscriptions.generation(), before);
    assert!(subscriptions.of("a/b/c", None).is_empty());
    assert_eq!(subscriptions.of("a/b", None).len(), 1);
    subscriptions.remove([&filter("a/b")], &stays);
    assert!(subscriptions.root.read().unwrap().is_empty());
}

#[test]
fn the_deepest_filters_that_may_be_allowed_are_found_and_let_go() {
    let (subscriptions, session) = (Subscriptions::default(), session());
    let of_levels = |level: &str, count: usize| vec![level; count].join("/");
    let deepest = TopicBounds::MAX_LEVELS as usize;
    for level in ["a", "+"] {
        let text = of_levels(level, deepest);
        subscriptions.add(&subscription(&text, plain(Qos::AtMostOnce), None), &session);
        assert_eq!(subscriptions.of(&of_levels("a", deepest), None).len(), 1);
        assert!(subscriptions.of(&of_levels("a", 32_768), None).is_empty());
        subscriptions.remove([&filter(&text)], &session);
        assert!(subscriptions.root.read().unwrap().is_empty());
    }
}

const SESSIONS: usize = 3;

/// What the trie is held against: a plain list, and the definition of a match in `message`.
#[derive(Debug, Default)]
struct Model(Vec<(usize, Subscription)>);

/// What a session gets of its own subscriptions: its QoS, RETAIN as published, identifiers.
type Own = BTreeMap<usize, (Qos, bool, Vec<u32>)>;
/// The members of a group, what they were granted and their identifiers.
type Members = BTreeSet<(usize, Qos, bool, Vec<u32>)>;

impl Model {
    fn add(&mut self, session: usize, subscription: Subscription) -> bool {
        let is_new = !self.remove(session, &subscription.filter);
        self.0.push((session, subscription));
        is_new
    }

    fn remove(&mut self, session: usize, filter: &Filter) -> bool {
        let before = self.0.len();
        self.0.retain(|(other, subscription)| *other != session || subscription.filter != *filter);
        self.0.len() < before
    }

    fn of(&self, topic: &str, publisher: Option<usize>) -> (Own, Vec<Members>) {
        let (mut own, mut groups) = (Own::new(), BTreeMap::<_, Members>::new());
        for (session, Subscription { filter, options, identifier, .. }) in &self.0 {
            if !filter.topics.matches(topic) || options.no_local && publisher == Some(*session) {
                continue;
            }
            if filter.share.is_some() {
                let identifiers = identifier.iter().copied().collect();
                let member = (*session, options.qos, options.retain_as_published, identifiers);
                groups.entry(filter).or_default().insert(member);
                continue;
            }
            let entry = own.entry(*session).or_insert((Qos::AtMostOnce, false, Vec::new()));
            entry.0 = entry.0.max(options.qos);
            entry.1 |= options.retain_as_published;
            entry.2.extend(identifier);
        }
        own.values_mut().for_each(|(_, _, identifiers)| identifiers.sort_unstable());
        (own, sorted(groups.into_values().collect()))
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

/// What the trie says, in the model's terms.
fn found(targets: Vec<Target>, sessions: &[Arc<Mailbox>]) -> (Own, Vec<Members>) {
    let number =
        |mailbox: &Arc<Mailbox>| sessions.iter().position(|session| Arc::ptr_eq(session, mailbox)).unwrap();
    let seen = |subscriber: &Subscriber| {
        let identifiers = sorted(subscriber.identifiers.as_slice().to_vec());
        (number(&subscriber.mailbox), subscriber.qos, subscriber.retain_as_published, identifiers)
    };
    let (mut own, mut groups) = (Own::new(), Vec::new());
    for target in targets {
        match target {
            Target::One(subscriber) => {
                let (session, qos, retain_as_published, identifiers) = seen(&subscriber);
                let earlier = own.insert(session, (qos, retain_as_published, identifiers));
                assert!(earlier.is_none(), "a second copy for session {session}");
            }
            Target::Shared(group) => groups.push(group.in_turn().map(seen).collect()),
        }
    }
    (own, sorted(groups))
}

prop_compose! {
    fn any_filter()(
        share in prop::option::weighted(0.3, "[gh]"),
        topics in "(\\$?[ab+]?/){0,3}([ab+#]|\\$a)?".prop_filter_map("no filter", |text| {
            crate::message::TopicFilter::parse(&text).ok()
        }),
    ) -> Filter {
        Filter { share: share.map(String::into), topics }
    }
}

prop_compose! {
    fn any_subscription()(
        filter in any_filter(),
        qos in prop::sample::select(vec![Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]),
        no_local: bool,
        retain_as_published: bool,
        identifier in prop::option::of(1..4_u32),
    ) -> Subscription {
        let no_local = no_local && filter.share.is_none();
        Subscription { filter, options: Options { qos, no_local, retain_as_published }, identifier, owed: None }
    }
}

proptest! {
    #[test]
    fn the_trie_finds_what_a_plain_list_finds(
        steps in prop::collection::vec((0..SESSIONS, any_subscription(), prop::bool::weighted(0.7)), 1..30),
        topics in prop::collection::vec("(\\$?[ab]?/){0,3}[ab]?", 1..8),
    ) {
        let (subscriptions, mut model) = (Subscriptions::default(), Model::default());
        let sessions: Vec<_> = (0..SESSIONS).map(|_| session()).collect();
        for (number, subscription, adds) in steps {
            if adds {
                let is_new = subscriptions.add(&subscription, &sessions[number]);
                prop_assert_eq!(is_new, model.add(number, subscription));
            } else {
                subscriptions.remove([&subscription.filter], &sessions[number]);
                model.remove(number, &subscription.filter);
            }
        }
        for topic in topics {
            for publisher in [None, Some(0), Some(1), Some(2)] {
                let targets = subscriptions.of(&topic, publisher.map(|number: usize| &sessions[number]));
                prop_assert_eq!(found(targets, &sessions), model.of(&topic, publisher), "{}", topic);
            }
        }
        for (number, subscription) in &model.0 {
            subscriptions.remove([&subscription.filter], &sessions[*number]);
        }
        prop_assert!(subscriptions.root.read().unwrap().is_empty());
    }
}
