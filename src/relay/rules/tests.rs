use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::config::{self, ClockSource, Condition, Side};
use crate::message::{Qos, Template};
use crate::relay::{SharedCommand, Wanted};

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

fn template(text: &str) -> Template {
    Template::parse(text, &["device", "source", "rule", "value"]).unwrap()
}

/// Buzzer on above 300 ppm, off below 250.
fn co_rule() -> Rule {
    Rule {
        name: "co-alarm".to_owned(),
        stream: "air".to_owned(),
        devices: Vec::new(),
        field: Some("gas.co".to_owned()),
        condition: Condition::Beyond { side: Side::Above, limit: 300.0, clear: 250.0, hold: Duration::ZERO },
        log: Some(template("CO at {device}: {value} ppm")),
        send: Some(RuleCommand {
            device: Some(device("buzzer")),
            topic: template("{device}/cmd"),
            payload: template(r#"{"on":true,"co":{value},"at":"{source}"}"#),
            clear_payload: Some(template("off")),
            qos: Qos::AtLeastOnce,
            good_for: Duration::from_secs(60),
        }),
    }
}

struct Scene {
    rules: Rules,
    ledger: Ledger,
    buffer: Buffer,
    writer: Writer,
    clock: Clock,
}

impl Scene {
    async fn open(dir: &Path, rules: &[Rule]) -> Self {
        let (buffer, _) = Buffer::open(&dir.join("buffer"), &config::Buffer::default(), &[]).unwrap();
        let settings = config::Clock { source: ClockSource::Trusted, ..config::Clock::default() };
        let clock = Clock::start(&settings, &dir.join("floor"), BTreeMap::new()).unwrap();
        let ledger = Ledger::open(&buffer, clock.clone(), &config::Commands::default()).await.unwrap();
        let rules = Rules::new(rules, ledger.clone(), clock.clone(), buffer.clone());
        let mut writer = buffer.writer();
        rules.restore(&mut writer).await.unwrap();
        Self { rules, ledger, writer, buffer, clock }
    }

    fn observe(&mut self, stream: &str, who: &str, payload: &str) {
        self.rules.observe(stream, &device(who), payload.as_bytes(), &self.clock.stamp());
        self.rules.act(&mut self.writer);
    }

    fn co(&mut self, ppm: u32) {
        self.observe("air", "hall", &format!(r#"{{"gas":{{"co":{ppm}}}}}"#));
    }

    fn tick(&mut self) {
        self.ledger.sweep();
        self.rules.look(&mut self.writer);
        self.rules.act(&mut self.writer);
    }

    /// In the order of acceptance.
    fn commands(&self) -> Vec<SharedCommand> {
        let mut commands = self.ledger.list(&Wanted::default(), None, 100).commands;
        commands.reverse();
        commands
    }

    fn payloads(&self) -> Vec<String> {
        self.commands().iter().map(|it| String::from_utf8(it.payload.to_vec()).unwrap()).collect()
    }

    async fn close(self) {
        drop((self.rules, self.ledger, self.writer));
        self.buffer.close().await;
    }
}

#[tokio::test]
async fn what_a_rule_says_becomes_commands_and_the_last_takes_the_place_of_one_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::open(dir.path(), &[co_rule()]).await;
    scene.co(300);
    assert_eq!(scene.payloads(), [""; 0]);
    scene.co(301);
    scene.co(400);
    scene.co(250);
    assert_eq!(scene.payloads(), [r#"{"on":true,"co":301,"at":"hall"}"#], "once");
    scene.co(249);
    let commands = scene.commands();
    assert_eq!(commands[1].payload, "off");
    assert_eq!((commands[0].state, commands[1].state), (State::Cancelled, State::Queued));
    assert_eq!((&commands[1].device, commands[1].topic.as_str()), (&device("buzzer"), "buzzer/cmd"));
    assert_eq!((commands[1].origin.source, &*commands[1].origin.name), (Source::Rule, "co-alarm"));
}

#[tokio::test]
async fn each_device_is_watched_on_its_own_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let only_hall = Rule { name: "hall".to_owned(), devices: vec![device("hall")], ..co_rule() };
    let mut scene = Scene::open(dir.path(), &[only_hall]).await;
    let high = r#"{"gas":{"co":999}}"#;
    scene.observe("water", "hall", high);
    scene.observe("air", "cellar", high);
    scene.observe("air", "hall", r#"{"co":999}"#);
    scene.observe("air", "hall", "not JSON");
    assert_eq!(scene.commands().len(), 0);
    scene.observe("air", "hall", high);
    assert_eq!(scene.commands().len(), 1);

    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::open(dir.path(), &[co_rule()]).await;
    scene.observe("air", "hall", high);
    scene.observe("air", "cellar", high);
    assert_eq!(scene.commands().len(), 2, "one does not hide the other");
}

#[tokio::test]
async fn a_stream_of_bare_numbers_is_its_own_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::open(dir.path(), &[Rule { field: None, ..co_rule() }]).await;
    scene.observe("air", "hall", " 301.5\0");
    assert_eq!(scene.payloads(), [r#"{"on":true,"co":301.5,"at":"hall"}"#]);
}

#[tokio::test]
async fn which_rules_hold_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::open(dir.path(), &[co_rule()]).await;
    scene.co(400);
    scene.close().await;

    let mut scene = Scene::open(dir.path(), &[co_rule()]).await;
    scene.co(400);
    assert_eq!(scene.commands().len(), 1, "it held before");
    scene.co(20);
    assert_eq!(scene.commands()[1].payload, "off", "and does no more");
    scene.close().await;

    let scene = Scene::open(dir.path(), &[]).await;
    // The rule is no more.
    while !scene.buffer.records(crate::buffer::Table::Rule).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_given_anew_as_long_as_its_reason_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut rule = co_rule();
    rule.send.as_mut().unwrap().good_for = Duration::from_millis(20);
    let mut scene = Scene::open(dir.path(), &[rule]).await;
    scene.co(400);
    let first = scene.commands()[0].id;
    while scene.ledger.get(first).unwrap().state != State::Expired {
        tokio::time::sleep(Duration::from_millis(10)).await;
        scene.ledger.sweep();
    }
    scene.tick();
    let commands = scene.commands();
    assert_eq!((commands.len(), &commands[1].payload), (2, &commands[0].payload));
    scene.co(20);
    assert_eq!(
        scene.commands().last().unwrap().payload,
        "off",
        "the buzzer was never reached: it is told all the same"
    );
}

#[tokio::test]
async fn silence_is_noticed_without_a_reading() {
    let dir = tempfile::tempdir().unwrap();
    let mut rule = co_rule();
    rule.condition = Condition::MissingFor(Duration::from_millis(50));
    rule.devices = vec![device("hall")];
    rule.send.as_mut().unwrap().payload = template("silent: {source}");
    let mut scene = Scene::open(dir.path(), &[rule]).await;
    while scene.commands().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        scene.tick();
    }
    scene.co(1);
    assert_eq!(scene.payloads(), ["silent: hall", "off"]);
}

#[tokio::test]
async fn the_task_acts_on_what_is_observed() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::open(dir.path(), &[co_rule()]).await;
    let cancel = CancellationToken::new();
    let acting = scene.rules.clone().run(cancel.clone());
    let observing = async {
        scene.rules.observe("air", &device("hall"), br#"{"gas":{"co":400}}"#, &scene.clock.stamp());
        while scene.commands().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    tokio::join!(acting, observing);
    assert_eq!(scene.payloads(), [r#"{"on":true,"co":400,"at":"hall"}"#]);
}

#[tokio::test]
async fn what_the_ledger_does_not_take_is_given_again_later_and_only_so_often() {
    let dir = tempfile::tempdir().unwrap();
    let mut rule = co_rule();
    rule.send.as_mut().unwrap().payload = template(&"x".repeat(10_000));
    let mut scene = Scene::open(dir.path(), &[rule]).await;
    scene.co(400);
    let refused = |scene: &Scene| scene.commands().iter().filter(|it| it.state == State::Refused).count();
    assert_eq!(refused(&scene), 1);
    scene.co(500);
    scene.tick();
    assert_eq!(refused(&scene), 1, "not at once");
    let waiting = scene.rules.watches().all.values().find_map(|watched| watched.due).unwrap();
    assert!(waiting.is_known && waiting.when_ms > scene.clock.stamp().boot_ms + AGAIN_MS / 2, "{waiting:?}");
    scene.co(20);
    assert_eq!(scene.payloads().last().unwrap(), "off", "what is so now takes the place of what was");
    assert!(scene.rules.watches().all.values().all(|watched| watched.due.is_none()));
}

#[tokio::test]
async fn every_change_is_said_while_an_earlier_command_waits() {
    let dir = tempfile::tempdir().unwrap();
    let rule = Rule { condition: Condition::Changed, ..co_rule() };
    let mut scene = Scene::open(dir.path(), &[rule]).await;
    [1, 2, 2, 3].into_iter().for_each(|value| scene.co(value));
    let states: Vec<_> = scene.commands().iter().map(|it| it.state).collect();
    assert_eq!(states, [State::Cancelled, State::Queued], "the later takes the place of the one that waits");
    let status = &scene.rules.status()["co-alarm"];
    assert_eq!((status.watched, status.holds_for.len()), (1, 0));
}

#[tokio::test]
async fn the_status_tells_for_whom_a_rule_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::open(dir.path(), &[co_rule()]).await;
    scene.co(400);
    scene.observe("air", "cellar", r#"{"gas":{"co":1}}"#);
    let status = &scene.rules.status()["co-alarm"];
    assert_eq!(status.watched, 2);
    assert_eq!(status.holds_for, BTreeSet::from([device("hall")]));
}
