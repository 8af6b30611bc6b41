use super::*;

/// Releases from `for version rollout`, `-` before it: rolled back.
fn releases(lines: &[&str]) -> Releases {
    let mut releases = Releases::default();
    for line in lines {
        let (withdrawn, line) = line.strip_prefix('-').map_or((false, *line), |line| (true, line));
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap();
        let (target, version, rollout) = (next(), next(), next());
        releases.releases.push(Release {
            id: releases.next,
            version: version.parse().unwrap(),
            target: target.parse().unwrap(),
            rollout: rollout.parse().unwrap(),
            withdrawn,
            added: OffsetDateTime::UNIX_EPOCH,
            image: Image::check(version.as_bytes(), Kind::FileSystem, 99, |_| Ok(())).unwrap(),
        });
        releases.next += 1;
    }
    releases
}

/// What a device that is in the group `plugs` is offered.
fn offered(releases: &Releases, name: &str) -> Option<String> {
    let offer = releases.offer(&device(name), Kind::FileSystem, |group| group.as_str() == "plugs");
    offer.release().map(|release| release.version.to_string())
}

#[test]
fn the_newest_release_for_a_device_is_offered_and_the_nearer_before_the_newer() {
    let all = releases(&["plugs 1 100%", "plug-01 2 100%", "plugs 3 100%", "* 4 100%"]);
    assert_eq!(offered(&all, "plug-01").as_deref(), Some("2"));
    assert_eq!(offered(&all, "plug-02").as_deref(), Some("3"));
    let offer = all.offer(&device("lamp"), Kind::FileSystem, |_| false);
    assert_eq!(offer.release().unwrap().version.as_str(), "4");
    assert_eq!(all.offer(&device("plug-01"), Kind::Program, |_| true), Offer::Nothing, "of another kind");
}

#[test]
fn a_release_that_is_rolled_back_gives_way_to_the_one_before_it() {
    let all = releases(&["plugs 1 100%", "-plugs 2 100%"]);
    assert_eq!(offered(&all, "plug-01").as_deref(), Some("1"));
    assert_eq!(offered(&releases(&["-plugs 2 100%"]), "plug-01"), None);
}

#[test]
fn until_it_is_their_turn_devices_stay_with_the_release_before() {
    let all = releases(&["plugs 1 100%", "plugs 2 plug-02,plug-03"]);
    assert_eq!(offered(&all, "plug-01").as_deref(), Some("1"));
    assert_eq!(offered(&all, "plug-03").as_deref(), Some("2"));
    let first = releases(&["plugs 2 plug-02"]);
    assert_eq!(first.offer(&device("plug-01"), Kind::FileSystem, |_| true), Offer::NotYet);
    assert_eq!(first.offer(&device("plug-01"), Kind::FileSystem, |_| false), Offer::Nothing);
}

#[test]
fn a_share_is_about_what_it_says_and_only_grows() {
    let mut all = releases(&["plugs 1 1%", "plugs 2 1%"]);
    let devices: Vec<_> = (0..10_000).map(|number| device(&format!("plug-{number}"))).collect();
    let mut before = vec![false; devices.len()];
    for percent in [1, 10, 11, 50, 99, 100] {
        all.releases[0].rollout.percent = percent;
        let now: Vec<_> = devices.iter().map(|device| all.releases[0].includes(device)).collect();
        assert!(before.iter().zip(&now).all(|(before, now)| !before || *now), "{percent}%: one has lost it");
        let share = now.iter().filter(|included| **included).count();
        let expected = usize::from(percent) * devices.len() / 100;
        assert!(share.abs_diff(expected) <= 250, "{share} at {percent}%");
        before = now;
    }
    assert!(before.iter().all(|included| *included));

    all.releases[0].rollout.percent = 10;
    all.releases[1].rollout.percent = 10;
    let both = devices.iter().filter(|device| all.releases.iter().all(|release| release.includes(device)));
    assert!(both.count() < 300, "of each release others are the first");
}

#[test]
fn a_rollout_is_written_as_a_share_or_as_names() {
    for (text, shown) in [("10%", "10%"), ("100%", "100%"), ("a, b,a", "0% and 2 by name")] {
        assert_eq!(text.parse::<Rollout>().unwrap().to_string(), shown);
    }
    for text in ["0%", "101%", "-1%", "%", "a b", "", "a,"] {
        assert!(text.parse::<Rollout>().is_err(), "{text:?}");
    }
    for text in ["", "1.0 beta", "v\u{e9}", &"1".repeat(65)] {
        assert!(text.parse::<Version>().is_err(), "{text:?}");
    }
}
