use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::buffer::Change;
use crate::config::ClockSource;
use crate::message::Qos;
use crate::message::Topic;
use crate::relay::record;
use crate::relay::{Command, FailedIf, Origin, Reply};

pub(super) fn device() -> DeviceId {
    DeviceId::parse("led-1").unwrap()
}

pub(super) fn new_command(payload: &str) -> NewCommand {
    NewCommand {
        device: device(),
        topic: Topic::parse("led-1/cmd").unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: Qos::AtLeastOnce,
        origin: Origin { source: Source::Supabase, name: "cloud".into(), reference: None },
        key: None,
        good_for: Duration::from_secs(60),
        reply: None,
    }
}

fn with_reference(payload: &str, reference: &str) -> NewCommand {
    let mut new = new_command(payload);
    new.origin.reference = Some(reference.into());
    new
}

fn with_reply(payload: &str) -> NewCommand {
    let reply = Reply { topic: Topic::parse("led-1/reply").unwrap(), failed_if: FailedIf::default() };
    NewCommand { reply: Some(reply), ..new_command(payload) }
}

fn clock(dir: &Path) -> Clock {
    let settings = config::Clock { source: ClockSource::Trusted, ..config::Clock::default() };
    Clock::start(&settings, &dir.join("floor"), BTreeMap::new()).unwrap()
}

async fn open_with(dir: &Path, settings: &config::Commands) -> (Ledger, Buffer) {
    let (buffer, _) = Buffer::open(&dir.join("buffer"), &config::Buffer::default(), &[]).unwrap();
    (Ledger::open(&buffer, clock(dir), settings).await.unwrap(), buffer)
}

async fn open(dir: &Path) -> (Ledger, Buffer) {
    open_with(dir, &config::Commands::default()).await
}

async fn accept(ledger: &Ledger, new: NewCommand) -> SharedCommand {
    match ledger.accept(new).await.unwrap() {
        Accepted::New(command) => command,
        Accepted::Known(command) => panic!("it is known: {command:?}"),
    }
}

async fn refusal(ledger: &Ledger, new: NewCommand) -> String {
    let Err(NotAccepted::Refused(command)) = ledger.accept(new).await else { panic!("it was accepted") };
    assert_eq!(command.state, State::Refused);
    assert_eq!(
        ledger.get(command.id),
        Some(Arc::clone(&command)),
        "what is refused is kept, with the reason"
    );
    command.reason.as_deref().unwrap().to_owned()
}

fn state_of(ledger: &Ledger, command: &SharedCommand) -> State {
    ledger.get(command.id).unwrap().state
}

/// Takes note of who was called.
#[derive(Debug, Default, Clone)]
struct Bell(Arc<Mutex<Vec<DeviceId>>>);

impl Postman for Bell {
    fn ring(&self, device: &DeviceId) {
        self.0.lock().unwrap().push(device.clone());
    }

    fn objection(&self, new: &NewCommand) -> Option<String> {
        (*new.payload == *b"objectionable").then(|| "the postman objects".to_owned())
    }
}

/// Which command it answers.
fn reply(
    ledger: &Ledger,
    device: &DeviceId,
    topic: &str,
    correlation: Option<&[u8]>,
    payload: &[u8],
) -> Option<CommandId> {
    let open: Vec<_> = ledger.list(&Wanted::default(), None, 100).commands;
    let open: Vec<_> =
        open.iter().filter(|command| !command.state.is_final()).map(|command| command.id).collect();
    let (is_repetition, is_unrepeatable) = (false, false);
    let said = Said { device, topic, correlation, payload, is_repetition, is_unrepeatable };
    ledger.replied(&said, &mut ledger.0.buffer.writer()).unwrap()?;
    open.into_iter().find(|id| ledger.get(*id).unwrap().state.is_final())
}

#[tokio::test]
async fn a_command_goes_its_way_and_its_times_are_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, buffer) = open(dir.path()).await;
    let bell = Bell::default();
    ledger.deliver_by(Box::new(bell.clone()));
    let command = accept(&ledger, with_reply("on")).await;
    assert_eq!(*bell.0.lock().unwrap(), [device()], "the device is called once it is on disk");
    assert_eq!(ledger.waiting(&device()), [Arc::clone(&command)]);
    assert!(ledger.awaits_replies());

    let sent = ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
    buffer.writer().until_durable(sent).await.unwrap();
    let now = ledger.get(command.id).unwrap();
    assert_eq!((now.state, now.attempts), (State::Sent, 1));
    assert!(ledger.hand_over(command.id, Qos::AtLeastOnce).is_none(), "nobody else gets it");
    assert_eq!(ledger.waiting(&device()), []);
    ledger.acked(command.id);
    assert_eq!(state_of(&ledger, &command), State::Acked);
    assert_eq!(reply(&ledger, &device(), "led-1/other", None, b"ok"), None);
    assert_eq!(reply(&ledger, &device(), "led-1/reply", None, b"brightness 7"), Some(command.id));

    let done = ledger.get(command.id).unwrap();
    assert_eq!((done.state, done.result.as_deref()), (State::Done, Some("brightness 7")));
    let states: Vec<_> = done.steps.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, [State::Queued, State::Sent, State::Acked, State::Done]);
    assert!(done.steps.is_sorted_by_key(|(_, at)| at.boot_ms));
    assert!(!ledger.awaits_replies());
}

#[tokio::test]
async fn without_a_reply_the_ack_is_the_end_and_with_qos_0_the_writing_is() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let command = accept(&ledger, new_command("on")).await;
    ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
    ledger.acked(command.id);
    assert_eq!(state_of(&ledger, &command), State::Done);

    let command = accept(&ledger, new_command("on")).await;
    ledger.hand_over(command.id, Qos::AtMostOnce).unwrap();
    ledger.written(command.id);
    let done = ledger.get(command.id).unwrap();
    assert_eq!(
        (done.state, done.reason.as_deref()),
        (State::Done, Some("not confirmed: it was sent with QoS 0"))
    );
}

#[tokio::test]
async fn a_reply_says_by_its_status_that_the_command_failed() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    for (payload, expected) in [
        (&br#"{"status":"failed","why":"stuck"}"#[..], State::Failed),
        (br#"{"status":"Error"}"#, State::Failed),
        (b"error", State::Failed),
        (br#"{"status":"ok"}"#, State::Done),
        (br#"{"error":"no"}"#, State::Done),
        (b"\xff\xfe", State::Done),
        (b"", State::Done),
    ] {
        let command = accept(&ledger, with_reply("on")).await;
        ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
        // Before the ack: it says more.
        assert_eq!(reply(&ledger, &device(), "led-1/reply", None, payload), Some(command.id));
        assert_eq!(state_of(&ledger, &command), expected, "{}", payload.escape_ascii());
        ledger.acked(command.id);
        assert_eq!(state_of(&ledger, &command), expected);
    }
}

#[tokio::test]
async fn correlation_data_tells_which_command_a_reply_is_for_and_without_it_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let mut commands = Vec::new();
    for payload in ["1", "2", "3"] {
        let command = accept(&ledger, with_reply(payload)).await;
        ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
        commands.push(command.id);
    }
    let replied = |data: Option<&[u8]>| reply(&ledger, &device(), "led-1/reply", data, b"ok");
    assert_eq!(replied(Some(b"somebody else's")), None);
    assert_eq!(replied(Some(commands[1].to_string().as_bytes())), Some(commands[1]));
    assert_eq!(replied(Some(commands[2].as_bytes())), Some(commands[2]));
    let other = DeviceId::parse("led-2").unwrap();
    assert_eq!(reply(&ledger, &other, "led-1/reply", None, b"ok"), None, "another device answers for itself");
    assert_eq!(replied(None), Some(commands[0]));
}

#[tokio::test]
async fn a_long_reply_is_cut_at_a_character() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let command = accept(&ledger, with_reply("on")).await;
    ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
    reply(&ledger, &device(), "led-1/reply", None, format!("x{}", "ü".repeat(2_000)).as_bytes()).unwrap();
    assert_eq!(ledger.get(command.id).unwrap().result.as_ref().unwrap().len(), 1_023);
}

#[tokio::test]
async fn the_same_reference_is_the_same_command_before_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, buffer) = open(dir.path()).await;
    let command = accept(&ledger, with_reference("on", "row-1")).await;
    ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
    ledger.acked(command.id);
    buffer.close().await;
    drop((ledger, buffer));

    let (ledger, _buffer) = open(dir.path()).await;
    let again = ledger.accept(with_reference("off", "row-1")).await.unwrap();
    let Accepted::Known(known) = again else { panic!("it was accepted twice") };
    assert_eq!((known.id, known.state), (command.id, State::Done));
    accept(&ledger, with_reference("on", "row-2")).await;
}

#[tokio::test]
async fn a_later_command_with_the_same_key_takes_the_place_of_one_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let keyed = |payload| NewCommand { key: Some("brightness".into()), ..new_command(payload) };
    let first = accept(&ledger, keyed("1")).await;
    let second = accept(&ledger, keyed("2")).await;
    let replaced = ledger.get(first.id).unwrap();
    assert_eq!(replaced.state, State::Cancelled);
    assert_eq!(replaced.reason, Some(format!("replaced by {}", second.id).into()));

    // What is on its way stays there; but it does not come again behind the later one.
    ledger.hand_over(second.id, Qos::AtLeastOnce).unwrap();
    let third = accept(&ledger, keyed("3")).await;
    assert_eq!(state_of(&ledger, &second), State::Sent);
    ledger.undelivered(second.id, &Undelivered::Unconfirmed);
    assert_eq!(state_of(&ledger, &second), State::Cancelled);
    assert_eq!(ledger.waiting(&device()), [third]);
}

#[tokio::test]
async fn a_later_command_that_never_was_sent_takes_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let keyed = |payload| NewCommand { key: Some("brightness".into()), ..new_command(payload) };
    let first = accept(&ledger, keyed("1")).await;
    ledger.hand_over(first.id, Qos::AtLeastOnce).unwrap();
    let too_late = NewCommand { good_for: Duration::ZERO, ..keyed("2") };
    assert!(matches!(ledger.accept(too_late).await, Err(NotAccepted::Refused(_))));
    let taken_back = accept(&ledger, keyed("3")).await;
    ledger.cancel(taken_back.id).await.unwrap();
    ledger.undelivered(first.id, &Undelivered::Unconfirmed);
    assert_eq!(state_of(&ledger, &first), State::Queued);
}

#[tokio::test]
async fn what_is_beyond_a_bound_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Commands {
        max_open_per_device: 2,
        max_open: 3,
        max_payload_bytes: 20,
        ..config::Commands::default()
    };
    let (ledger, _buffer) = open_with(dir.path(), &settings).await;
    ledger.deliver_by(Box::new(Bell::default()));
    let too_large = refusal(&ledger, new_command(&"x".repeat(21))).await;
    assert!(too_large.contains("commands.max_payload"), "{too_large}");
    let no_time = NewCommand { good_for: Duration::ZERO, ..new_command("on") };
    let too_old = ledger.accept(no_time).await;
    assert!(matches!(&too_old, Err(NotAccepted::Refused(it)) if it.state == State::Expired), "{too_old:?}");
    let for_ever = NewCommand { good_for: Duration::MAX, ..new_command("on") };
    assert!(refusal(&ledger, for_ever).await.contains("commands.max_good_for"));
    let long_key = NewCommand { key: Some("k".repeat(257).into()), ..new_command("on") };
    assert!(refusal(&ledger, long_key).await.contains("256 bytes"));
    assert_eq!(refusal(&ledger, new_command("objectionable")).await, "the postman objects");

    let keyed = NewCommand { key: Some("k".into()), ..new_command("on") };
    accept(&ledger, keyed.clone()).await;
    accept(&ledger, new_command("on")).await;
    assert!(refusal(&ledger, new_command("on")).await.contains("commands.max_open_per_device"));
    accept(&ledger, keyed).await;
    let other =
        |n: u8| NewCommand { device: DeviceId::parse(&format!("led-{n}")).unwrap(), ..new_command("on") };
    accept(&ledger, other(2)).await;
    assert!(refusal(&ledger, other(3)).await.contains("commands.max_open lets"));
    assert_eq!((ledger.figures().refused, ledger.figures().expired), (6, 1));
}

#[tokio::test]
async fn the_time_that_a_command_waits_to_be_accepted_is_part_of_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(&dir.path().join("buffer"), &config::Buffer::default(), &[]).unwrap();
    let ledger = Ledger::new(&buffer, clock(dir.path()), &config::Commands::default());
    let load = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ledger.load().await.unwrap();
    };
    let short = NewCommand { good_for: Duration::from_millis(10), ..new_command("on") };
    let (late, good, ()) = tokio::join!(ledger.accept(short), accept(&ledger, new_command("on")), load);
    assert!(matches!(&late, Err(NotAccepted::Refused(it)) if it.state == State::Expired), "{late:?}");
    assert!(good.good_for < Duration::from_secs(60), "{:?}", good.good_for);
    let at_once = accept(&ledger, new_command("on")).await;
    assert_eq!(at_once.good_for, Duration::from_secs(60), "what did not wait is good for as long as it says");
}

#[tokio::test]
async fn finished_commands_make_room_and_open_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        config::Commands { max_finished: 3, max_total_bytes: 8 * 1024, ..config::Commands::default() };
    let (ledger, buffer) = open_with(dir.path(), &settings).await;
    let mut done = Vec::new();
    for _ in 0..5 {
        let command = accept(&ledger, new_command("on")).await;
        ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
        ledger.acked(command.id);
        done.push(command.id);
    }
    let known: Vec<_> = done.iter().map(|id| ledger.get(*id).is_some()).collect();
    assert_eq!(known, [false, false, true, true, true]);
    let mut open = Vec::new();
    let full = loop {
        match ledger.accept(new_command("on")).await {
            Ok(accepted) => open.push(accepted.command().id),
            Err(NotAccepted::Refused(command)) => break command,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(full.reason.as_ref().unwrap().contains("commands.max_size"));
    assert!(open.iter().all(|id| ledger.get(*id).is_some()));
    ledger.reported(open[0], State::Queued).await.unwrap();
    let on_disk = buffer.records(Table::Command).await.unwrap().len();
    assert_eq!(on_disk as u64, ledger.figures().kept, "what is forgotten is gone from the disk, too");
}

#[tokio::test]
async fn what_its_source_may_send_again_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        config::Commands { max_finished: 3, keep_finished: Duration::ZERO, ..config::Commands::default() };
    let (ledger, _buffer) = open_with(dir.path(), &settings).await;
    let done = async |new: NewCommand| {
        let id = accept(&ledger, new).await.id;
        ledger.hand_over(id, Qos::AtLeastOnce).unwrap();
        ledger.acked(id);
        id
    };
    let untold = done(with_reference("on", "row-1")).await;
    let told = done(with_reference("on", "row-2")).await;
    ledger.reported(told, State::Done).await.unwrap();
    let unnamed = done(new_command("on")).await;
    let is_kept = |ids: &[CommandId]| ids.iter().map(|id| ledger.get(*id).is_some()).collect::<Vec<_>>();
    // What is old is forgotten at every 64th time.
    (0..64).for_each(|_| ledger.sweep());
    assert_eq!(is_kept(&[untold, told, unnamed]), [true, true, false], "both rows are still good");
    let others = [done(new_command("on")).await, done(new_command("on")).await];
    assert_eq!(is_kept(&[untold, told]), [true, false], "there is room for three");
    assert_eq!(is_kept(&others), [true, true]);
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_not_given_to_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let short = |payload| NewCommand { good_for: Duration::from_millis(1), ..new_command(payload) };
    let queued = accept(&ledger, short("on")).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(ledger.waiting(&device()), []);
    assert!(ledger.hand_over(queued.id, Qos::AtLeastOnce).is_none());
    ledger.sweep();
    let expired = ledger.get(queued.id).unwrap();
    assert_eq!(expired.state, State::Expired);
    assert_eq!(expired.reason.as_deref(), Some("the device was not there to take it within 1ms"));
}

#[tokio::test]
async fn a_command_that_is_back_from_a_session_waits_again_if_it_may_come_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    for (granted, why, expected) in [
        (Qos::AtLeastOnce, Undelivered::Unconfirmed, State::Queued),
        (Qos::AtLeastOnce, Undelivered::Unwritten, State::Queued),
        (Qos::ExactlyOnce, Undelivered::Unwritten, State::Queued),
        (Qos::AtMostOnce, Undelivered::Unwritten, State::Queued),
        (Qos::ExactlyOnce, Undelivered::Unconfirmed, State::Failed),
        (Qos::AtLeastOnce, Undelivered::TooLarge, State::Failed),
        (Qos::AtLeastOnce, Undelivered::Forbidden, State::Failed),
        (Qos::AtLeastOnce, Undelivered::Refused("quota exceeded".into()), State::Failed),
    ] {
        let command = accept(&ledger, NewCommand { qos: granted, ..new_command("on") }).await;
        ledger.hand_over(command.id, granted).unwrap();
        ledger.undelivered(command.id, &why);
        let now = ledger.get(command.id).unwrap();
        assert_eq!(now.state, expected, "{granted:?} {why:?}");
        assert_eq!(now.reason.is_some(), expected == State::Failed);
    }
}

#[tokio::test]
async fn a_restart_finds_everything_and_knows_what_nobody_has() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, buffer) = open(dir.path()).await;
    let mut commands = Vec::new();
    for (n, granted) in
        [None, Some(Qos::AtLeastOnce), Some(Qos::AtLeastOnce), Some(Qos::ExactlyOnce), Some(Qos::AtMostOnce)]
            .into_iter()
            .enumerate()
    {
        let command = accept(&ledger, with_reference("on", &n.to_string())).await;
        if let Some(granted) = granted {
            ledger.hand_over(command.id, granted).unwrap();
        }
        commands.push(command.id);
    }
    buffer.close().await;
    drop((ledger, buffer));

    let (ledger, _buffer) = open(dir.path()).await;
    let states = || commands.iter().map(|id| ledger.get(*id).unwrap().state).collect::<Vec<_>>();
    assert_eq!(states(), [State::Queued, State::Sent, State::Sent, State::Sent, State::Sent]);
    ledger.restored(&[(commands[2], Qos::AtLeastOnce)]);
    assert_eq!(states(), [State::Queued, State::Queued, State::Sent, State::Failed, State::Failed]);
    let newer = accept(&ledger, new_command("on")).await;
    assert!(commands.iter().all(|id| ledger.get(*id).unwrap().number < newer.number));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_left_alone_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, buffer) = open(dir.path()).await;
    let command = accept(&ledger, new_command("on")).await;
    let foreign = Change::Put(record::key(CommandId::generate(1)), vec![99, 1, 2]);
    let mut cut = record::encode(&command);
    cut.pop();
    let damaged = Change::Put(record::key(CommandId::generate(2)), cut);
    let mut writer = buffer.writer();
    let mark = writer.submit(None, vec![foreign, damaged], Wait::Now).unwrap().mark;
    writer.until_durable(mark).await.unwrap();

    let ledger = Ledger::open(&buffer, clock(dir.path()), ledger.settings()).await.unwrap();
    assert_eq!(ledger.figures().unreadable, 2);
    assert_eq!(ledger.get(command.id), Some(command));
    ledger.sweep();
    assert_eq!(buffer.records(Table::Command).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_source_hears_of_what_it_was_not_told_and_of_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, buffer) = open(dir.path()).await;
    let command = accept(&ledger, new_command("on")).await;
    ledger.changed(Source::Supabase, "cloud").await;
    assert_eq!(ledger.unreported(Source::Supabase, "cloud", 9), [Arc::clone(&command)]);
    assert_eq!(ledger.unreported(Source::Supabase, "clou", 9), []);
    assert_eq!(ledger.unreported(Source::TalkBack, "cloud", 9), []);
    ledger.reported(command.id, State::Queued).await.unwrap();
    assert_eq!(ledger.unreported(Source::Supabase, "cloud", 9), []);

    let hand_over = async { ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap() };
    tokio::join!(ledger.changed(Source::Supabase, "cloud"), hand_over);
    ledger.acked(command.id);
    ledger.reported(command.id, State::Sent).await.unwrap();
    assert_eq!(ledger.unreported(Source::Supabase, "cloud", 9)[0].state, State::Done);
    ledger.reported(command.id, State::Done).await.unwrap();
    buffer.close().await;
    drop((ledger, buffer));
    let (ledger, _buffer) = open(dir.path()).await;
    assert_eq!(ledger.unreported(Source::Supabase, "cloud", 9), [], "not after a restart either");
}

#[tokio::test]
async fn who_waits_for_the_end_of_a_command_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let command = accept(&ledger, new_command("on")).await;
    let go = async {
        ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
        assert_eq!(ledger.leaves(command.id, State::Queued).await.unwrap().state, State::Sent);
        ledger.acked(command.id);
    };
    let (ended, ()) = tokio::join!(ledger.ended(command.id), go);
    assert_eq!(ended.unwrap().state, State::Done);
    assert_eq!(ledger.ended(CommandId::generate(1)).await, None);
}

#[tokio::test]
async fn only_what_waits_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let command = accept(&ledger, new_command("on")).await;
    assert_eq!(ledger.cancel(command.id).await.unwrap().state, State::Cancelled);
    assert!(matches!(ledger.cancel(command.id).await, Err(NotCancelled::Ended(_))));
    assert_eq!(ledger.waiting(&device()), []);
    let command = accept(&ledger, new_command("on")).await;
    ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
    assert!(matches!(ledger.cancel(command.id).await, Err(NotCancelled::Sent(_))));
    assert_eq!(ledger.cancel(CommandId::generate(1)).await, Err(NotCancelled::Unknown));
}

#[tokio::test]
async fn pages_follow_each_other_from_the_newest_to_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _buffer) = open(dir.path()).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(accept(&ledger, new_command(&n.to_string())).await.id);
    }
    ids.reverse();
    let page = |after, limit| {
        let Page { commands, next } = ledger.list(&Wanted::default(), after, limit);
        (commands.iter().map(|command| command.id).collect::<Vec<_>>(), next)
    };
    assert_eq!(page(None, 2), (ids[..2].to_vec(), Some(ids[1])));
    assert_eq!(page(Some(ids[1]), 3), (ids[2..].to_vec(), None));
    assert_eq!(page(Some(CommandId::generate(1)), 3), (Vec::new(), None));
    let wanted = Wanted { state: Some(State::Done), ..Wanted::default() };
    assert_eq!(ledger.list(&wanted, None, 9).commands, []);
}

/// Longer than any machine has run.
const YEARS: Duration = Duration::from_secs(50 * 365 * 86_400);

#[tokio::test]
async fn after_a_reboot_a_command_is_held_until_the_clock_is_right_and_goes_if_it_is_still_good() {
    let dir = tempfile::tempdir().unwrap();
    let (buffer, _) = Buffer::open(&dir.path().join("buffer"), &config::Buffer::default(), &[]).unwrap();
    let word = dir.path().join("synchronized");
    let clock_settings =
        config::Clock { source: ClockSource::File(word.clone()), ..config::Clock::default() };
    let clock = Clock::start(&clock_settings, &dir.path().join("floor"), BTreeMap::new()).unwrap();
    let settings = config::Commands { max_good_for: YEARS, ..config::Commands::default() };
    let open = async || Ledger::open(&buffer, clock.clone(), &settings).await.unwrap();
    // One is good for longer than it is old, whatever the clock will say; the other not even for as long as this boot.
    let ledger = open().await;
    let (mut ids, mut changes) = (Vec::new(), Vec::new());
    for good_for in [YEARS, Duration::from_millis(1)] {
        let mut command =
            Command::clone(&*accept(&ledger, NewCommand { good_for, ..new_command("on") }).await);
        let quality = crate::message::ClockQuality::Synchronized;
        let wall_ms = clock.stamp().wall_ms - 10_000;
        command.steps = vec![(State::Queued, Stamp { wall_ms, boot_ms: 1, boot: BootId([9; 16]), quality })];
        ids.push(command.id);
        changes.push(Change::Put(record::key(command.id), record::encode(&command)));
    }
    let mut writer = buffer.writer();
    let mark = writer.submit(None, changes, Wait::Now).unwrap().mark;
    writer.until_durable(mark).await.unwrap();

    let ledger = open().await;
    let bell = Bell::default();
    ledger.deliver_by(Box::new(bell.clone()));
    ledger.sweep();
    assert_eq!(ledger.get(ids[1]).unwrap().state, State::Expired);
    assert_eq!(ledger.waiting(&device()), [], "nobody knows how old it is");
    assert_eq!(ledger.hand_over(ids[0], Qos::AtLeastOnce), None);
    assert_eq!(*bell.0.lock().unwrap(), []);
    std::fs::write(&word, "").unwrap();
    clock.look();
    ledger.sweep();
    assert_eq!(*bell.0.lock().unwrap(), [device()]);
    assert_eq!(ledger.waiting(&device()).len(), 1);
}

#[test]
fn what_was_sent_before_a_reboot_goes_back_and_is_held_as_long_as_nobody_knows_its_age() {
    let at = |boot| Stamp {
        wall_ms: 0,
        boot_ms: 5,
        boot: BootId([boot; 16]),
        quality: crate::message::ClockQuality::Synchronized,
    };
    let known = |age| move |_: &Stamp| Age::Known(Duration::from_secs(age));
    let unknown = |_: &Stamp| Age::AtLeast(Duration::from_secs(5));
    let mut book = Book::new(config::Commands::default());
    let Plan::Keep(planned) = book.plan(new_command("on"), None, &Now { at: at(0), age: &known(0) }) else {
        panic!("it is new")
    };
    let id = book.carry_out(*planned, false, Mark::default()).id;
    let sent = book.handed_over(id, Qos::AtLeastOnce, &Now { at: at(0), age: &known(1) }).unwrap();
    book.replace(sent, Mark::default());

    let later = Now { at: at(1), age: &unknown };
    assert!(!book.may_be_sent(id, &later));
    book.undelivered(id, &Undelivered::Unconfirmed, &later);
    assert_eq!(book.get(id).unwrap().state, State::Queued);
    assert_eq!(book.waiting(&device(), &later), []);
    assert_eq!(book.waiting(&device(), &Now { at: at(1), age: &known(59) }).len(), 1);
    let over = Now { at: at(1), age: &known(60) };
    assert_eq!(book.waiting(&device(), &over), []);
    book.sweep(&over);
    let expired = book.get(id).unwrap();
    assert_eq!(
        expired.reason.as_deref(),
        Some("sent, not acknowledged, and the device did not come back within 1m")
    );
}
