//! The sources against the local cloud; the test plays the device.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::config::{self, ClockSource, Config};
use crate::demo::cloud::{Cloud, CloudSettings, Fault, Reply, ThingSpeakSettings};
use crate::message::{DeviceId, Qos};
use crate::relay::{self, Ledger, Said, SharedCommand, SourceStatus, State, Wanted};

const NOW: Duration = Duration::ZERO;
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    cloud: Cloud,
    ledger: Ledger,
    buffer: Buffer,
    clock: Clock,
    status: watch::Receiver<SourceStatus>,
    _dir: TempDir,
}

impl Scene {
    async fn play<T, F>(settings: &str, max_open: usize, prepare: impl FnOnce(&Cloud), act: F) -> T
    where
        F: AsyncFnOnce(Scene) -> T,
    {
        Self::play_by(ClockSource::Trusted, settings, max_open, prepare, act).await
    }

    /// A cloud with this written in it, a ledger, and the source as `settings` has it, which runs until `act` is done.
    async fn play_by<T, F>(
        clock: ClockSource,
        settings: &str,
        max_open: usize,
        prepare: impl FnOnce(&Cloud),
        act: F,
    ) -> T
    where
        F: AsyncFnOnce(Scene) -> T,
    {
        let thingspeak =
            ThingSpeakSettings { interval: Duration::from_millis(5), ..ThingSpeakSettings::default() };
        let cloud = Cloud::start(CloudSettings { thingspeak, ..CloudSettings::default() }).await.unwrap();
        prepare(&cloud);
        let dir = tempfile::tempdir().unwrap();
        let (buffer, _) = Buffer::open(&dir.path().join("buffer"), &config::Buffer::default(), &[]).unwrap();
        let clock_settings = config::Clock { source: clock, ..config::Clock::default() };
        let clock = Clock::start(&clock_settings, &dir.path().join("floor"), BTreeMap::new()).unwrap();
        let commands = config::Commands { max_open_per_device: max_open, ..config::Commands::default() };
        let ledger = Ledger::open(&buffer, clock.clone(), &commands).await.unwrap();
        let text = settings.replace("URL", &cloud.thingspeak.line().url());
        let config = Config::from_toml(&text).unwrap_or_else(|invalid| panic!("{invalid}"));
        let (source, status) =
            relay::open(&config.command_sources[0], &config.gateway_id, &ledger, &clock).unwrap();
        let scene = Scene { cloud, ledger, buffer, clock, status, _dir: dir };
        let cancel = CancellationToken::new();
        tokio::select! {
            () = source.run(cancel.clone()) => panic!("a source does not end by itself"),
            done = tokio::time::timeout(2 * PATIENCE, act(scene)) => done.expect("it takes too long"),
        }
    }

    /// Asks again and again.
    async fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let asked = async {
            loop {
                if let Some(found) = look(self) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, asked).await;
        found.unwrap_or_else(|_| panic!("{what}: {:?} {:?}", self.status.borrow(), self.commands()))
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

    async fn until_payloads(&self, expected: &[&str]) {
        self.until("commands", |scene| (scene.payloads() == expected).then_some(())).await;
    }

    /// The device takes so many commands: each waits for it when it is on disk.
    async fn obey(&self, commands: usize) {
        let device = DeviceId::parse("lamp").unwrap();
        let mut obeyed = 0;
        let obey = |scene: &Self| {
            for command in scene.ledger.waiting(&device) {
                scene.ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
                scene.ledger.acked(command.id);
                obeyed += 1;
            }
            (obeyed == commands).then_some(())
        };
        self.until("the device has what it is to have", obey).await;
    }

    fn answer(&self, text: &str) {
        let device = DeviceId::parse("lamp").unwrap();
        let said = Said {
            device: &device,
            topic: "lamp/reply",
            correlation: None,
            payload: text.as_bytes(),
            is_repetition: false,
            is_unrepeatable: false,
        };
        self.ledger.replied(&said, &mut self.buffer.writer()).unwrap();
    }

    /// What the channel's status was told.
    fn told(&self) -> Vec<String> {
        let entries = self.cloud.thingspeak.entries();
        entries.iter().filter_map(|entry| entry.values.get("status").cloned()).collect()
    }

    async fn status(&self, what: &str, is_it: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        self.until(what, |scene| Some(scene.status.borrow().clone()).filter(&is_it)).await
    }
}

/// A TalkBack; `more` stands with the rest of its table.
fn talkback(more: &str) -> String {
    format!(
        "[[command_source]]\nname = \"dashboard\"\ntype = \"talkback\"\nurl = \"URL\"\ntalkback = 27\n\
         key = \"TAMPUDEMOTALKBACK\"\ninterval = \"1s\"\ndevice = \"lamp\"\n{more}"
    )
}

fn slider(more: &str) -> String {
    format!(
        "[[command_source]]\nname = \"slider\"\ntype = \"thingspeak_field\"\nurl = \"URL\"\nchannel = 1417\n\
         read_key = \"TAMPUDEMOREADKEY1\"\nfield = 2\ninterval = \"1s\"\ndevice = \"lamp\"\n{more}"
    )
}

const REPORT: &str = "report = { write_key = \"TAMPUDEMOWRITEKEY\", interval = \"1s\" }\n";

fn queue(texts: &[&str]) -> impl FnOnce(&Cloud) {
    move |cloud| {
        texts.iter().for_each(|text| {
            cloud.thingspeak.queue_command(text, NOW);
        })
    }
}

/// Plays a TalkBack with one command, whose first call runs into a fault.
async fn after_fault<F: Future>(fault: Fault, act: impl FnOnce(Scene) -> F) -> F::Output {
    let prepare = |cloud: &Cloud| {
        cloud.thingspeak.queue_command("on", NOW);
        cloud.thingspeak.line().next(1, &fault);
    };
    Scene::play(&talkback("timeout = \"2s\"\n"), 10, prepare, async |scene| act(scene).await).await
}

#[tokio::test]
async fn a_talkbacks_commands_are_taken_once_in_order_and_the_channel_is_told_their_outcomes() {
    let settings = talkback(&format!("payload = '{{\"cmd\":\"{{command}}\"}}'\n{REPORT}"));
    Scene::play(&settings, 10, queue(&["on", "say \"hi\""]), async |scene| {
        scene.until_payloads(&[r#"{"cmd":"on"}"#, r#"{"cmd":"say \"hi\""}"#]).await;
        assert_eq!(scene.cloud.thingspeak.waiting_commands(), 0);
        let commands = scene.commands();
        assert_eq!(commands[0].topic.as_str(), "lamp/cmd");
        assert_eq!(commands[0].origin.reference.as_deref(), Some("27/1"));
        scene.obey(2).await;
        scene.until("both told", |scene| (scene.told().join("; ") == "1 done; 2 done").then_some(())).await;
        let status = scene.status("both counted", |status| status.reported == 2).await;
        assert_eq!((status.accepted, status.refused, status.maybe_lost), (2, 0, 0));
        scene.cloud.thingspeak.queue_command("off", NOW);
        scene
            .until("the third", |scene| (scene.payloads().last()? == r#"{"cmd":"off"}"#).then_some(()))
            .await;
    })
    .await;
}

#[tokio::test]
async fn nothing_is_taken_that_could_not_be_kept() {
    Scene::play(&talkback(""), 1, queue(&["1", "2"]), async |scene| {
        scene.until_payloads(&["1"]).await;
        let is_held_back = |status: &SourceStatus| {
            status.last_error.as_ref().is_some_and(|why| why.contains("max_open_per_device"))
        };
        scene.status("it holds back", is_held_back).await;
        assert_eq!((scene.cloud.thingspeak.waiting_commands(), scene.cloud.thingspeak.polls()), (1, 1));
        scene.obey(1).await;
        scene.until_payloads(&["1", "2"]).await;
        scene.status("it is well", |status| status.well == Some(true)).await;
    })
    .await;
}

#[tokio::test]
async fn what_has_waited_too_long_is_not_carried_out_and_that_is_told() {
    let prepare = |cloud: &Cloud| {
        cloud.thingspeak.queue_command("on", Duration::from_secs(600));
    };
    Scene::play(&talkback(&format!("good_for = \"60s\"\n{REPORT}")), 10, prepare, async |scene| {
        let told = scene.until("it is told", |scene| scene.told().pop()).await;
        assert_eq!(told, "1 expired: it was too old when it came");
        assert_eq!(scene.commands()[0].state, State::Expired);
        assert!(scene.ledger.waiting(&DeviceId::parse("lamp").unwrap()).is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_time_that_a_command_has_waited_is_taken_from_that_for_which_it_is_good() {
    let prepare = |cloud: &Cloud| {
        cloud.thingspeak.queue_command("on", Duration::from_secs(60));
    };
    Scene::play(&talkback("good_for = \"10m\"\n"), 10, prepare, async |scene| {
        scene.until_payloads(&["on"]).await;
        let left = scene.commands()[0].good_for;
        assert!(left <= Duration::from_secs(540) && left > Duration::from_secs(400), "{left:?}");
    })
    .await;
}

#[tokio::test]
async fn the_age_of_a_command_is_told_by_the_far_side_as_long_as_the_own_clock_is_not_right() {
    let prepare = |cloud: &Cloud| {
        cloud.thingspeak.queue_command("late", Duration::from_secs(600));
        cloud.thingspeak.queue_command("good", NOW);
    };
    let unset = ClockSource::File("/nowhere/synchronized".into());
    Scene::play_by(unset, &talkback("good_for = \"5m\"\n"), 10, prepare, async |scene| {
        scene.until_payloads(&["late", "good"]).await;
        let states: Vec<_> = scene.commands().iter().map(|it| it.state).collect();
        assert_eq!(states, [State::Expired, State::Queued]);
    })
    .await;
}

#[test]
fn what_is_so_old_that_nobody_knows_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let unset = ClockSource::File("/nowhere/synchronized".into());
    let settings = config::Clock { source: unset, ..config::Clock::default() };
    let clock = Clock::start(&settings, &dir.path().join("floor"), BTreeMap::new()).unwrap();
    let sent_at = std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_660);
    let created_at = Some((sent_at - Duration::from_secs(60)).into());
    assert_eq!(super::age(&clock, created_at, Some(sent_at)), Duration::from_secs(60));
    assert_eq!(super::age(&clock, created_at, None), Duration::MAX);
}

#[tokio::test]
async fn a_reply_that_is_not_thingspeaks_takes_nothing_and_it_is_asked_again() {
    for fault in [
        Reply::captive_portal(),
        Reply::json(200, "[]"),
        Reply::json(503, "{}"),
        Reply::json(409, r#"{"status":"409","error":{"error_code":"error_conflict"}}"#),
    ] {
        after_fault(Fault::Reply(fault.clone()), async |scene| {
            scene.until_payloads(&["on"]).await;
            let status = scene.status("it is well", |status| status.well == Some(true)).await;
            assert!(status.last_error.is_some() && status.maybe_lost == 0, "{fault:?}: {status:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn what_somebody_has_to_mend_is_said_and_nothing_is_asked_for_meanwhile() {
    let refused =
        r#"{"status":"401","error":{"error_code":"error_auth_required","message":"TAMPUDEMOTALKBACK"}}"#;
    for (status, body) in [(401, refused), (402, "{}"), (404, "{}")] {
        after_fault(Fault::Reply(Reply::json(status, body)), async |scene| {
            let said = scene.status("it is held", |status| status.held).await.last_error.unwrap();
            assert!(said.contains(&status.to_string()) && !said.contains("TAMPUDEMO"), "{said}");
            assert_eq!((scene.cloud.thingspeak.polls(), scene.commands().len()), (0, 0));
        })
        .await;
    }
}

#[tokio::test]
async fn after_429_the_far_side_is_left_alone() {
    let prepare = |cloud: &Cloud| {
        cloud.thingspeak.queue_command("on", NOW);
        cloud.thingspeak.line().always(Some(Fault::Reply(Reply::json(429, "{}"))));
    };
    Scene::play(&talkback(""), 10, prepare, async |scene| {
        let status = scene.status("it was refused", |status| status.well == Some(false)).await;
        assert!(!status.held && status.last_error.unwrap().contains("429"));
        let requests = scene.cloud.thingspeak.line().requests();
        // Long enough for one that keeps to its interval of a second, and a tenth of what is to be waited.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(scene.cloud.thingspeak.line().requests(), requests);
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_was_cut_or_never_came_may_have_held_a_command_and_that_is_counted() {
    for (fault, is_there) in [(Fault::CutReply, false), (Fault::Silence, true)] {
        after_fault(fault.clone(), async |scene| {
            scene.status("it may be lost", |status| status.maybe_lost == 1).await;
            scene.cloud.thingspeak.queue_command("off", NOW);
            let expected: &[&str] = if is_there { &["on", "off"] } else { &["off"] };
            scene.until_payloads(expected).await;
            assert_eq!(scene.status.borrow().maybe_lost, 1, "{fault:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_far_side_out_of_reach_has_lost_nothing() {
    Scene::play(
        &talkback(""),
        10,
        |_| (),
        async |scene| {
            scene.cloud.thingspeak.line().go_away().await;
            scene.status("it is not there", |status| status.well == Some(false)).await;
            let lost = scene.status.borrow().maybe_lost;
            scene.status("it is tried again", |status| status.last_error.is_some()).await;
            scene.cloud.thingspeak.queue_command("on", NOW);
            scene.cloud.thingspeak.line().come_back().await;
            scene.until_payloads(&["on"]).await;
            assert_eq!(scene.status.borrow().maybe_lost, lost, "a call that reached nobody");
        },
    )
    .await;
}

#[tokio::test]
async fn outcomes_wait_for_a_channel_that_is_not_there_and_are_told_together() {
    let prepare = |cloud: &Cloud| {
        for text in ["1", "2", "3"] {
            cloud.thingspeak.queue_command(text, NOW);
        }
    };
    let settings = talkback(&format!("reply_topic = \"{{device}}/reply\"\n{REPORT}"));
    Scene::play(&settings, 10, prepare, async |scene| {
        scene.until_payloads(&["1", "2", "3"]).await;
        scene.cloud.thingspeak.line().always(Some(Fault::Reply(Reply::json(200, "0"))));
        scene.obey(3).await;
        for answer in ["21.5", r#"{"status":"failed","why":"hot"}"#, "ok\n"] {
            scene.answer(answer);
        }
        let refused = scene.status("it is refused", |status| status.report_error.is_some()).await;
        assert!(refused.report_error.unwrap().contains("not stored (0)"));
        assert_eq!((refused.reported, scene.told().len()), (0, 0));
        scene.cloud.thingspeak.line().always(None);
        let told = scene.until("told", |scene| Some(scene.told()).filter(|told| !told.is_empty())).await;
        assert_eq!(told, [r#"1 done: 21.5; 2 failed: {"status":"failed","why":"hot"}; 3 done: ok"#]);
        scene.status("it is counted", |status| status.reported == 3 && status.report_error.is_none()).await;
    })
    .await;
}

#[tokio::test]
async fn a_slider_that_is_moved_is_a_command_and_where_it_stood_at_the_start_is_none() {
    let prepare = |cloud: &Cloud| {
        cloud.thingspeak.move_slider("field2", "10");
    };
    Scene::play(
        &slider("payload = '{\"pwm\":{value}}'\nkey_of_commands = \"brightness\"\n"),
        10,
        prepare,
        async |scene| {
            scene.status("it was looked at", |status| status.well == Some(true)).await;
            assert_eq!(scene.commands().len(), 0);
            let moved = |scene: &Scene, value| scene.cloud.thingspeak.move_slider("field2", value).map(drop);
            scene.until("moved", |scene| moved(scene, "50")).await;
            scene.until_payloads(&[r#"{"pwm":50}"#]).await;
            scene.until("moved", |scene| moved(scene, "50")).await;
            scene.until("moved", |scene| moved(scene, "70")).await;
            scene.until_payloads(&[r#"{"pwm":50}"#, r#"{"pwm":70}"#]).await;
            assert_eq!(scene.commands()[0].state, State::Cancelled, "an LED has one brightness");
        },
    )
    .await;
}

#[tokio::test]
async fn the_first_value_counts_where_that_is_wanted_and_not_again_after_a_restart() {
    let prepare = |cloud: &Cloud| {
        cloud.thingspeak.move_slider("field2", "10");
    };
    Scene::play(&slider("first_value = true\n"), 10, prepare, async |scene| {
        scene.until_payloads(&["10"]).await;
        scene.obey(1).await;
        let text = slider("first_value = true\n").replace("URL", &scene.cloud.thingspeak.line().url());
        let config = Config::from_toml(&text).unwrap();
        let (again, mut status) =
            relay::open(&config.command_sources[0], &config.gateway_id, &scene.ledger, &scene.clock).unwrap();
        tokio::select! {
            () = again.run(CancellationToken::new()) => panic!("a source does not end by itself"),
            looked = status.wait_for(|status| status.well == Some(true)) => drop(looked.unwrap()),
        }
        assert_eq!(scene.payloads(), ["10"]);
        drop(scene.buffer);
    })
    .await;
}
