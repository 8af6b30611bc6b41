//! Topic names and topic filters (section 4.7 of both versions).

use crate::prelude::*;

/// Filters and what they match, below a name of the test's own.
const MATCHING: &[(&str, &[&str], &[&str])] = &[
    (
        "/sport/tennis/player1/#",
        &["/sport/tennis/player1", "/sport/tennis/player1/ranking", "/sport/tennis/player1/a/b"],
        &["/sport/tennis", "/sport/tennis/player12"],
    ),
    ("/sport/+", &["/sport/a", "/sport/"], &["/sport", "/sport/a/b"]),
    ("/+/tennis/#", &["/a/tennis", "/a/tennis/b", "//tennis"], &["/tennis", "/a/b/tennis"]),
    ("/a/+/b", &["/a/x/b", "/a//b"], &["/a/b", "/a/x/y/b"]),
    ("/+", &["/finance", "/"], &["", "//"]),
    ("/+/+", &["/a/b", "//"], &["/a", "/a/b/c"]),
    ("/#", &["", "/", "/a", "//a//b", "/$a"], &[]),
    ("/exact", &["/exact"], &["/Exact", "/exact/", "/exac", "//exact"]),
];

judged! {
    /// v3: MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-3.8.3-2 · v5: MQTT-4.7.1-1, MQTT-4.7.1-2
    fn wildcards_match_what_they_should_and_nothing_else(version) {
        let base = unique("match");
        let mut publisher = Client::new(version, "publisher");
        for (number, (filter, matching, others)) in MATCHING.iter().enumerate() {
            let base = format!("{base}-{number}");
            let mut client = Client::new(version, "subscriber");
            assert_eq!(client.subscribe(&[(&format!("{base}{filter}"), 1), (&format!("end/{base}"), 1)]), [1, 1]);
            for name in others.iter().chain(*matching) {
                publisher.publish(&Publish::new(&format!("{base}{name}"), name).qos(1, 0));
            }
            publisher.publish(&Publish::new(&format!("end/{base}"), "end").qos(1, 0));
            let mut found: Vec<_> = client.messages(matching.len());
            assert_eq!(client.message().text(), "end", "{filter} matched more than {found:?}");
            found.sort();
            let mut expected = matching.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{filter}");
        }
    }

    /// v3: MQTT-4.7.1-2, MQTT-4.7.1-3 · v5: MQTT-4.7.1-1, MQTT-4.7.1-2
    fn filters_with_a_wildcard_in_the_wrong_place_are_not_granted(version) {
        for filter in ["a/b#", "a/#/b", "#/a", "##", "a+", "+a", "a/b+/c", "a/+b", "+#", "a/++"] {
            let mut client = Client::new(version, "wrong");
            client.send(&packet::subscribe(version, 5, &[(filter, 0)], &[]));
            client.send(&[0xE0, 0]);
            for answer in client.until_closed() {
                let is_refusal = match answer.kind() {
                    Kind::SubAck => answer.clone().codes().iter().all(|code| *code >= 0x80),
                    Kind::Disconnect => [0x81, 0x82, 0x8F].contains(&answer.reason()),
                    _ => false,
                };
                assert!(is_refusal, "{filter}: {answer:?}");
            }
        }
    }

    /// v3: MQTT-4.7.2-1 · v5: MQTT-4.7.2-1
    fn a_wildcard_in_front_does_not_match_a_dollar(version) {
        let base = unique("dollar");
        let mut client = Client::new(version, "dollar");
        client.subscribe(&[("#", 0), (&format!("+/{base}"), 0), (&format!("+/{base}/#"), 0)]);
        let mut publisher = Client::new(version, "publisher");
        for name in [format!("$judge/{base}"), format!("$SYS/{base}"), format!("end/{base}")] {
            // A server may forbid the first two.
            publisher.send(&Publish::new(&name, "m").packet(version));
        }
        loop {
            let topic = client.message().topic;
            assert!(!topic.starts_with('$'), "{topic}");
            if topic == format!("end/{base}") {
                break;
            }
        }
        client.unsubscribe(&["#"]);
    }

    /// v3: MQTT-4.7.3-1 · v5: MQTT-4.7.3-1
    fn a_topic_has_at_least_one_character(version) {
        ends(version, &Publish::new("", "m").packet(version), &[0x81, 0x82, 0x90]);
        let mut client = Client::new(version, "empty");
        client.send(&packet::subscribe(version, 5, &[("", 0)], &[]));
        client.send(&[0xE0, 0]);
        for answer in client.until_closed() {
            let refused = answer.kind() == Kind::Disconnect || answer.codes().iter().all(|code| *code >= 0x80);
            assert!(refused, "an empty filter was granted");
        }
    }

    /// v3: MQTT-4.7.3-4 · v5: MQTT-4.7.3-4
    fn topics_are_not_made_equal(version) {
        let base = unique("equal");
        // Composed and decomposed, by case, by blanks, by slashes.
        let names = ["é", "e\u{301}", "a", "A", "a ", " a", "a/", "a//b", "a/b", "/a", "%61", "a\u{feff}"];
        let names: Vec<_> = names.iter().map(|name| format!("{base}/{name}")).collect();
        let (mut client, mut publisher) = pair(version, &format!("{base}/nobody"), 0);
        for name in &names {
            client.subscribe(&[(name, 1)]);
            for published in &names {
                publisher.publish(&Publish::new(published, published).qos(1, 0));
            }
            publisher.publish(&Publish::new(&format!("{base}/nobody"), "end").qos(1, 0));
            assert_eq!(client.messages(2), [name, "end"]);
            client.unsubscribe(&[name]);
        }
    }
}
