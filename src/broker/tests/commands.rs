//! Commands, from the ledger to a client and back.

use bytes::Bytes;

use super::*;
use crate::message::{CommandId, Qos, Topic};
use crate::relay::{
    Accepted, FailedIf, NewCommand, NotAccepted, Origin, Reply, SharedCommand, Source, State,
};

const CMD: &str = "plug/cmd";
const REPLY: &str = "plug/reply";

fn new_command(payload: &str, qos: u8) -> NewCommand {
    NewCommand {
        device: device("plug"),
        topic: Topic::parse(CMD).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(qos)],
        origin: Origin { source: Source::Api, name: "test".into(), reference: None },
        key: None,
        good_for: Duration::from_secs(600),
        reply: None,
    }
}

fn with_reply(payload: &str) -> NewCommand {
    let reply = Reply { topic: Topic::parse(REPLY).unwrap(), failed_if: FailedIf::default() };
    NewCommand { reply: Some(reply), ..new_command(payload, 1) }
}

impl Gateway {
    async fn accept(&self, new: NewCommand) -> CommandId {
        match patiently("for the ledger", self.ledger.accept(new)).await.unwrap() {
            Accepted::New(command) => command.id,
            Accepted::Known(command) => panic!("it is known: {command:?}"),
        }
    }

    async fn command(&self, payload: &str, qos: u8) -> CommandId {
        self.accept(new_command(payload, qos)).await
    }

    async fn becomes(&self, id: CommandId, state: State) -> SharedCommand {
        let is_there = || self.ledger.get(id).unwrap().state == state;
        eventually(&format!("for {state:?}, it is {:?}", self.ledger.get(id)), is_there).await;
        self.ledger.get(id).unwrap()
    }

    fn state(&self, id: CommandId) -> State {
        self.ledger.get(id).unwrap().state
    }

    /// Everything that has been submitted is on disk.
    async fn sync(&self) {
        let mut writer = self.buffer.writer();
        let change = Change::Remove(crate::buffer::RecordKey::new(crate::buffer::Table::Will, b"none"));
        let mark = writer.submit(None, vec![change], crate::buffer::Wait::Now).unwrap().mark;
        patiently("for the disk", writer.until_durable(mark)).await.unwrap();
    }

    /// As [`Gateway::power_cut`]; what the earlier process had is known when this resolves.
    async fn cut(&self) -> Self {
        self.sync().await;
        let gateway = self.power_cut();
        patiently("for the gateway to be ready", gateway.broker.0.ready.wait()).await;
        gateway
    }
}

#[tokio::test]
async fn a_command_for_a_device_that_is_away_comes_when_it_has_subscribed() {
    let gateway = Gateway::start();
    let id = gateway.command("on", 1).await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.ping().await;
    assert_eq!(gateway.state(id), State::Queued, "it has not subscribed");
    plug.subscribe("plug/#", 1).await;
    plug.expect(&publish1(CMD, 1, "on")).await;
    assert_eq!(gateway.state(id), State::Sent);
    plug.send(&puback(1)).await;
    gateway.becomes(id, State::Done).await;
    let later = gateway.command("off", 1).await;
    plug.expect(&publish1(CMD, 2, "off")).await;
    plug.send(&puback(2)).await;
    gateway.becomes(later, State::Done).await;
}

#[tokio::test]
async fn without_a_kept_session_a_command_comes_anew_until_it_is_acknowledged() {
    let gateway = Gateway::start();
    let id = gateway.command("on", 1).await;
    for attempt in 1..=3 {
        let mut plug = gateway.connect("plug", "c").await;
        plug.subscribe(CMD, 1).await;
        plug.expect(&publish1(CMD, 1, "on")).await;
        assert_eq!(gateway.ledger.get(id).unwrap().attempts, attempt);
        if attempt < 3 {
            plug.vanish(&gateway).await;
            gateway.becomes(id, State::Queued).await;
        } else {
            plug.send(&puback(1)).await;
            gateway.becomes(id, State::Done).await;
        }
    }
}

#[tokio::test]
async fn over_a_kept_session_a_command_is_repeated_as_it_was_also_after_a_power_cut() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect_kept("plug", "c", false).await;
    plug.subscribe(CMD, 1).await;
    let id = gateway.command("on", 1).await;
    plug.expect(&publish1(CMD, 1, "on")).await;
    plug.vanish(&gateway).await;
    assert_eq!(gateway.state(id), State::Sent, "its session still has it");
    let mut plug = gateway.connect_kept("plug", "c", true).await;
    plug.expect(&dup(publish1(CMD, 1, "on"))).await;

    let gateway = gateway.cut().await;
    assert_eq!(gateway.state(id), State::Sent);
    let mut plug = gateway.connect_kept("plug", "c", true).await;
    plug.expect(&dup(publish1(CMD, 1, "on"))).await;
    plug.send(&puback(1)).await;
    assert_eq!(gateway.becomes(id, State::Done).await.attempts, 1);
    let gateway = gateway.cut().await;
    gateway.connect_kept("plug", "c", true).await.ping().await;
    assert_eq!(gateway.state(id), State::Done);
}

#[tokio::test]
async fn with_qos_2_a_command_comes_once_over_a_kept_session_and_a_power_cut() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect_kept("plug", "c", false).await;
    plug.subscribe(CMD, 2).await;
    let id = gateway.command("on", 2).await;
    plug.expect(&publish2(CMD, 1, "on")).await;
    let gateway = gateway.cut().await;
    let mut plug = gateway.connect_kept("plug", "c", true).await;
    // With the same identifier: a client that has it knows it.
    plug.expect(&dup(publish2(CMD, 1, "on"))).await;
    plug.send(&ack(PUBREC, 1)).await;
    plug.expect(&ack(PUBREL, 1)).await;
    gateway.becomes(id, State::Done).await;
    let gateway = gateway.cut().await;
    let mut plug = gateway.connect_kept("plug", "c", true).await;
    plug.expect(&ack(PUBREL, 1)).await;
    plug.send(&ack(PUBCOMP, 1)).await;
    plug.ping().await;
    assert_eq!(gateway.state(id), State::Done);
}

#[tokio::test]
async fn with_qos_2_and_a_session_that_is_not_kept_a_command_is_not_sent_twice() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 2).await;
    let (first, second) = (gateway.command("1", 2).await, gateway.command("2", 2).await);
    plug.expect(&[publish2(CMD, 1, "1"), publish2(CMD, 2, "2")].concat()).await;
    plug.send(&ack(PUBREC, 2)).await;
    gateway.becomes(second, State::Done).await;
    let after_a_cut = gateway.cut().await;
    plug.vanish(&gateway).await;
    for gateway in [&gateway, &after_a_cut] {
        let failed = gateway.becomes(first, State::Failed).await;
        assert!(failed.reason.as_ref().unwrap().contains("not sent twice"), "{failed:?}");
        let mut plug = gateway.connect("plug", "c").await;
        plug.subscribe(CMD, 2).await;
        plug.ping().await;
        assert_eq!(gateway.state(second), State::Done);
    }
}

#[tokio::test]
async fn with_qos_0_a_command_is_done_when_it_is_written() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    // The subscription lowers the QoS.
    plug.subscribe(CMD, 0).await;
    let ids = [gateway.command("1", 0).await, gateway.command("2", 1).await];
    plug.expect(&[publish0(CMD, "1"), publish0(CMD, "2")].concat()).await;
    for id in ids {
        let done = gateway.becomes(id, State::Done).await;
        assert_eq!(done.reason.as_deref(), Some("not confirmed: it was sent with QoS 0"));
    }
    let gateway = gateway.cut().await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 0).await;
    plug.ping().await;
}

#[tokio::test]
async fn a_newer_connection_takes_over_what_the_older_one_had() {
    let gateway = Gateway::start();
    let mut older = gateway.connect_kept("plug", "c", false).await;
    older.subscribe(CMD, 1).await;
    let id = gateway.command("on", 1).await;
    older.expect(&publish1(CMD, 1, "on")).await;
    let mut newer = gateway.connect_kept("plug", "c", true).await;
    older.expect_close().await;
    newer.expect(&dup(publish1(CMD, 1, "on"))).await;
    let next = gateway.command("off", 1).await;
    newer.expect(&publish1(CMD, 2, "off")).await;
    newer.send(&[puback(1), puback(2)].concat()).await;
    gateway.becomes(id, State::Done).await;
    gateway.becomes(next, State::Done).await;

    // Without a session that is kept, the newer one gets it anew.
    let mut older = gateway.connect("plug", "other").await;
    older.subscribe(CMD, 1).await;
    newer.leave().await;
    let id = gateway.command("on", 1).await;
    older.expect(&publish1(CMD, 1, "on")).await;
    let mut newer = gateway.connect("plug", "other").await;
    older.expect_close().await;
    newer.subscribe(CMD, 1).await;
    newer.expect(&publish1(CMD, 1, "on")).await;
    newer.send(&puback(1)).await;
    gateway.becomes(id, State::Done).await;
}

#[tokio::test]
async fn of_several_sessions_of_a_device_one_gets_a_command_and_of_others_none() {
    let gateway = Gateway::start();
    let mut clients = Vec::new();
    for client_id in ["a", "b"] {
        let mut plug = gateway.connect("plug", client_id).await;
        plug.subscribe("plug/#", 1).await;
        clients.push(plug);
    }
    // It may hear everything, but is another device.
    let mut panel = gateway.connect("panel", "c").await;
    panel.subscribe("#", 1).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(gateway.command(&n.to_string(), 1).await);
    }
    eventually("for all to be sent", || ids.iter().all(|id| gateway.state(*id) == State::Sent)).await;
    assert!(ids.iter().all(|id| gateway.ledger.get(*id).unwrap().attempts == 1));
    panel.ping().await;
    // Where one ends, the other gets what it had.
    let mut last = clients.pop().unwrap();
    clients.pop().unwrap().vanish(&gateway).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 20 {
        let (first, body) = last.receive().await;
        assert_eq!(first, 0x32);
        let packet_id = u16::from_be_bytes(body[2 + CMD.len()..][..2].try_into().unwrap());
        assert!(seen.insert(body[4 + CMD.len()..].to_vec()), "it came twice");
        last.send(&puback(packet_id)).await;
    }
    for id in ids {
        gateway.becomes(id, State::Done).await;
    }
}

#[tokio::test]
async fn what_a_client_has_not_subscribed_to_does_not_keep_the_rest() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 1).await;
    let elsewhere = NewCommand { topic: Topic::parse("plug/other").unwrap(), ..new_command("1", 1) };
    let waits = gateway.accept(elsewhere).await;
    let goes = gateway.command("2", 1).await;
    plug.expect(&publish1(CMD, 1, "2")).await;
    plug.send(&puback(1)).await;
    gateway.becomes(goes, State::Done).await;
    assert_eq!(gateway.state(waits), State::Queued);
    // A shared subscription is for one of many: it does not count.
    plug.send(&subscribe(2, &[("$share/all/plug/#", 1)])).await;
    plug.expect(&[0x90, 3, 0, 2, 1]).await;
    plug.ping().await;
    assert_eq!(gateway.state(waits), State::Queued);
    plug.send(&subscribe(3, &[("plug/+", 1)])).await;
    plug.expect(&[0x90, 3, 0, 3, 1]).await;
    plug.expect(&publish1("plug/other", 2, "1")).await;
}

#[tokio::test]
async fn beyond_the_window_commands_wait_in_the_ledger_where_they_can_be_replaced() {
    let gateway = Gateway::start();
    // A receive maximum of 1.
    let mut plug = gateway.connect5("plug", "c", &[0x21, 0, 1]).await;
    plug.send(&subscribe5(1, &[], CMD, 1)).await;
    plug.expect(&[0x90, 4, 0, 1, 0, 1]).await;
    let keyed = |payload| NewCommand { key: Some("level".into()), ..new_command(payload, 1) };
    let first = gateway.accept(keyed("1")).await;
    plug.receive().await;
    let second = gateway.accept(keyed("2")).await;
    let taken_back = gateway.command("never", 1).await;
    let third = gateway.accept(keyed("3")).await;
    assert_eq!(
        [first, second, third].map(|id| gateway.state(id)),
        [State::Sent, State::Cancelled, State::Queued]
    );
    gateway.ledger.cancel(taken_back).await.unwrap();
    plug.send(&puback(1)).await;
    let (_, body) = plug.receive().await;
    assert!(body.ends_with(b"3"));
    plug.send(&puback(2)).await;
    gateway.becomes(third, State::Done).await;
    plug.ping().await;
}

#[tokio::test]
async fn a_command_that_is_too_large_for_the_client_or_refused_by_it_has_failed() {
    let gateway = Gateway::start();
    // A maximum packet size of 100.
    let mut plug = gateway.connect5("plug", "c", &[0x27, 0, 0, 0, 100]).await;
    plug.send(&subscribe5(1, &[], CMD, 1)).await;
    plug.expect(&[0x90, 4, 0, 1, 0, 1]).await;
    let large = gateway.command(&"x".repeat(100), 1).await;
    let failed = gateway.becomes(large, State::Failed).await;
    assert_eq!(failed.reason.as_deref(), Some("it is larger than the device takes"));
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    plug.send(&subscribe5(1, &[], CMD, 1)).await;
    plug.expect(&[0x90, 4, 0, 1, 0, 1]).await;
    let refused = gateway.command("on", 1).await;
    let (_, body) = plug.receive().await;
    let packet_id = &body[2 + CMD.len()..][..2];
    // PUBACK 0x83, implementation specific error.
    plug.send(&packet(0x40, &[packet_id, &[0x83, 0]].concat())).await;
    let failed = gateway.becomes(refused, State::Failed).await;
    assert!(failed.reason.as_ref().unwrap().starts_with("the device refused it"), "{failed:?}");
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_neither_sent_nor_repeated() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect_kept("plug", "c", false).await;
    plug.subscribe(CMD, 2).await;
    let short =
        |payload, qos| NewCommand { good_for: Duration::from_millis(500), ..new_command(payload, qos) };
    let sent = [gateway.accept(short("1", 1)).await, gateway.accept(short("2", 2)).await];
    plug.expect(&[publish1(CMD, 1, "1"), publish2(CMD, 2, "2")].concat()).await;
    plug.vanish(&gateway).await;
    let queued = gateway.accept(short("3", 1)).await;
    for id in sent {
        let expired = gateway.becomes(id, State::Expired).await;
        assert_eq!(expired.reason.as_deref(), Some("sent, not acknowledged"));
    }
    gateway.becomes(queued, State::Expired).await;
    let mut plug = gateway.connect_kept("plug", "c", true).await;
    plug.ping().await;
    // Its session is clear of it: what comes next is acknowledged in its turn.
    let next = gateway.command("4", 1).await;
    plug.expect(&publish1(CMD, 3, "4")).await;
    // A late ack changes nothing.
    plug.send(&[puback(1), puback(3)].concat()).await;
    gateway.becomes(next, State::Done).await;
    assert_eq!(gateway.state(sent[0]), State::Expired);
    let gateway = gateway.cut().await;
    gateway.connect_kept("plug", "c", true).await.ping().await;
}

#[tokio::test]
async fn rules_that_change_hold_for_commands_at_once() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe("plug/#", 1).await;
    let all = vec![TopicTemplate::parse("plug/cmd").unwrap()];
    let mut deny = AclRule::allow(DeviceMatch::Named(device("plug")), Vec::new(), all);
    deny.effect = config::Effect::Deny;
    let denied = Authorizer::new(&Access { rules: vec![deny], ..Access::default() }, &gateway.streams);
    gateway.broker.reload(denied, &gateway.streams);
    // What the rules never allow is refused at once.
    let refused = gateway.ledger.accept(new_command("on", 1)).await;
    let Err(NotAccepted::Refused(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.reason.as_deref(), Some("no rule lets plug subscribe to plug/cmd"));
    plug.ping().await;
    gateway.broker.reload(authorizer(&gateway.streams), &gateway.streams);
    let id = gateway.command("on", 1).await;
    plug.expect(&publish1(CMD, 1, "on")).await;
    plug.send(&puback(1)).await;
    gateway.becomes(id, State::Done).await;
}

#[tokio::test]
async fn rules_allow_a_command_that_waits_before_they_let_it_go() {
    let gateway = Gateway::start();
    let id = gateway.command("on", 1).await;
    let everything = vec![TopicTemplate::parse("plug/cmd").unwrap()];
    let mut deny = AclRule::allow(DeviceMatch::Named(device("plug")), Vec::new(), everything);
    deny.effect = config::Effect::Deny;
    let denied = Authorizer::new(&Access { rules: vec![deny], ..Access::default() }, &gateway.streams);
    gateway.broker.reload(denied, &gateway.streams);
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe("plug/#", 1).await;
    plug.ping().await;
    assert_eq!(gateway.state(id), State::Queued);
    gateway.broker.reload(authorizer(&gateway.streams), &gateway.streams);
    plug.expect(&publish1(CMD, 1, "on")).await;
}

#[tokio::test]
async fn a_gateway_that_stops_leaves_what_was_not_acknowledged_to_the_next() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 1).await;
    let id = gateway.command("on", 1).await;
    plug.expect(&publish1(CMD, 1, "on")).await;
    let gateway = gateway.restart().await;
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 1).await;
    plug.expect(&publish1(CMD, 1, "on")).await;
    plug.send(&puback(1)).await;
    assert_eq!(gateway.becomes(id, State::Done).await.attempts, 2);
}

#[tokio::test]
async fn a_reply_is_on_disk_by_the_time_of_its_puback() {
    // Long enough that what is not waited for is not there.
    let limits = config::Listener::default();
    let gateway = Gateway::start_with(&limits, |buffer| buffer.ack_delay = Duration::from_millis(300));
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 1).await;
    let id = gateway.accept(with_reply("on")).await;
    plug.expect(&publish1(CMD, 1, "on")).await;
    plug.send(&puback(1)).await;
    gateway.becomes(id, State::Acked).await;
    plug.send(&publish1(REPLY, 9, r#"{"status":"error","why":"hot"}"#)).await;
    plug.expect(&puback(9)).await;
    // Not another moment is given to the disk.
    let gateway = gateway.power_cut();
    patiently("for the gateway to be ready", gateway.broker.0.ready.wait()).await;
    let failed = gateway.ledger.get(id).unwrap();
    assert_eq!(
        (failed.state, failed.result.as_deref()),
        (State::Failed, Some(r#"{"status":"error","why":"hot"}"#))
    );
    assert!(!gateway.ledger.awaits_replies());
}

#[tokio::test]
async fn a_reply_that_is_repeated_does_not_answer_the_next_command() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 1).await;
    let first = gateway.accept(with_reply("1")).await;
    plug.expect(&publish1(CMD, 1, "1")).await;
    plug.send(&publish1(REPLY, 5, "ok")).await;
    plug.expect(&puback(5)).await;
    assert_eq!(gateway.state(first), State::Done);
    let second = gateway.accept(with_reply("2")).await;
    plug.expect(&publish1(CMD, 2, "2")).await;
    plug.send(&dup(publish1(REPLY, 5, "ok"))).await;
    plug.expect(&puback(5)).await;
    assert_eq!(gateway.state(second), State::Sent);
    plug.send(&publish1(REPLY, 6, "ok")).await;
    plug.expect(&puback(6)).await;
    assert_eq!(gateway.state(second), State::Done);
}

#[tokio::test]
async fn a_reply_that_is_also_a_reading_is_both_and_others_reply_for_themselves() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 1).await;
    let mut new = with_reply("on");
    new.reply.as_mut().unwrap().topic = Topic::parse("plug/reading").unwrap();
    let id = gateway.accept(new).await;
    plug.expect(&publish1(CMD, 1, "on")).await;
    let mut panel = gateway.connect("panel", "c").await;
    panel.send(&publish1("plug/reading", 1, "{}")).await;
    panel.expect(&puback(1)).await;
    assert_eq!(gateway.state(id), State::Sent, "the panel is not the plug");
    plug.send(&publish1("plug/reading", 2, r#"{"level":7}"#)).await;
    plug.expect(&puback(2)).await;
    assert_eq!(gateway.state(id), State::Done);
    assert_eq!(gateway.broker.figures().readings, 2);
}

#[tokio::test]
async fn a_client_of_5_0_is_told_the_command_where_to_reply_and_what_is_left_of_its_time() {
    let gateway = Gateway::start();
    let mut plug = gateway.connect5("plug", "c", &[]).await;
    // With a subscription identifier.
    plug.send(&subscribe5(1, &[0x0b, 42], CMD, 1)).await;
    plug.expect(&[0x90, 4, 0, 1, 0, 1]).await;
    let id = gateway.accept(with_reply("on")).await;
    let (first, body) = plug.receive().await;
    assert_eq!(first, 0x32);
    let properties = &body[4 + CMD.len() + 1..];
    let holds = |wanted: &[u8]| properties.windows(wanted.len()).any(|window| window == wanted);
    assert!(holds(&[&[0x08][..], &text(REPLY)].concat()), "the response topic");
    assert!(holds(&[&[0x09][..], &text(&id.to_string())].concat()), "the correlation data");
    assert!(holds(&[&[0x26][..], &text("command-id"), &text(&id.to_string())].concat()), "the user property");
    assert!(holds(&[0x0b, 42]), "the subscription identifier");
    let expiry = properties.windows(5).find(|window| window[0] == 0x02).unwrap();
    assert!((500..=600).contains(&u32::from_be_bytes(expiry[1..].try_into().unwrap())));

    let other = gateway.accept(with_reply("off")).await;
    plug.receive().await;
    let answer = |id: CommandId| [&[0x09][..], &text(&id.to_string())].concat();
    plug.send(&publish5(0x32, REPLY, 7, &answer(other), "ok")).await;
    // There are no subscribers.
    plug.expect(&[0x40, 3, 0, 7, 0x10]).await;
    assert_eq!([id, other].map(|id| gateway.state(id)), [State::Sent, State::Done]);
}

#[tokio::test]
async fn a_command_that_could_never_arrive_or_be_answered_is_refused() {
    let gateway = Gateway::start();
    let refusal = async |new: NewCommand| match gateway.ledger.accept(new).await {
        Err(NotAccepted::Refused(command)) => command.reason.as_deref().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    let elsewhere = NewCommand { topic: Topic::parse("lamp/cmd").unwrap(), ..new_command("on", 1) };
    assert_eq!(refusal(elsewhere).await, "no rule lets plug subscribe to lamp/cmd");
    let mut deaf = with_reply("on");
    deaf.reply.as_mut().unwrap().topic = Topic::parse("lamp/reply").unwrap();
    assert_eq!(refusal(deaf).await, "no rule lets plug publish its reply to lamp/reply");
}

#[tokio::test]
async fn a_command_waits_in_the_ledger_while_the_queue_of_its_client_is_full() {
    let sessions = config::Sessions { max_queued_messages: 1, ..config::Sessions::default() };
    let gateway = Gateway::start_as(Setup { sessions, ..Setup::default() });
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe("plug/#", 1).await;
    let mut panel = gateway.connect("panel", "c").await;
    panel.send(&publish1("plug/x", 1, "!")).await;
    panel.expect(&puback(1)).await;
    plug.expect(&publish1("plug/x", 1, "!")).await;
    let id = gateway.command("on", 1).await;
    plug.ping().await;
    assert_eq!(gateway.state(id), State::Queued);
    plug.send(&puback(1)).await;
    let (_, body) = plug.receive().await;
    assert!(body.ends_with(b"on"));
}

#[tokio::test]
async fn on_a_full_disk_commands_and_replies_wait_until_there_is_room() {
    use crate::buffer::{RecordKey, SubmitError, Table, Wait};
    let limits = config::Listener::default();
    let gateway = Gateway::start_with(&limits, |buffer| buffer.max_bytes = 300_000);
    let mut plug = gateway.connect("plug", "c").await;
    plug.subscribe(CMD, 1).await;
    let answered = gateway.accept(with_reply("1")).await;
    plug.expect(&publish1(CMD, 1, "1")).await;
    plug.send(&puback(1)).await;
    gateway.becomes(answered, State::Acked).await;
    let other = NewCommand { topic: Topic::parse("plug/other").unwrap(), ..new_command("2", 1) };
    let sent = gateway.accept(other).await;

    let key = |n: u16| RecordKey::new(Table::Retained, &n.to_be_bytes());
    let mut writer = gateway.buffer.writer();
    let mut records = 0_u16;
    let mut state = 1_u64;
    loop {
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        let value = (0..2_000).map(|_| noise()).collect();
        match writer.submit(None, vec![Change::Put(key(records), value)], Wait::Now) {
            Ok(receipt) => patiently("for the disk", writer.until_durable(receipt.mark)).await.unwrap(),
            Err(error) => break assert_eq!(error, SubmitError::Full),
        }
        records += 1;
    }
    plug.send(&subscribe(2, &[("plug/+", 1)])).await;
    plug.expect(&[0x90, 3, 0, 2, 1]).await;
    plug.send(&publish1(REPLY, 9, "ok")).await;
    plug.ping().await;
    assert_eq!([answered, sent].map(|id| gateway.state(id)), [State::Acked, State::Queued]);

    let removed =
        writer.submit(None, (0..records).map(|n| Change::Remove(key(n))).collect(), Wait::Now).unwrap();
    patiently("for the disk", writer.until_durable(removed.mark)).await.unwrap();
    // Its own reply comes to it as well: it has subscribed to that.
    let mut came = Vec::new();
    while !came.iter().any(|(first, _)| *first == 0x40)
        || !came.iter().any(|(_, body): &(u8, Vec<u8>)| body.ends_with(b"2"))
    {
        came.push(plug.receive().await);
    }
    gateway.becomes(answered, State::Done).await;
    gateway.becomes(sent, State::Sent).await;
}
