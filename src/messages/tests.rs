use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::config::ClockSource;
use crate::relay::Undelivered;

fn device(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

/// Messages, and who is there.
struct Bench {
    ledger: Ledger,
    messages: Messages,
    announced: Arc<Mutex<Vec<DeviceId>>>,
    buffer: Buffer,
}

impl Bench {
    async fn open(dir: &Path, settings: config::Messages) -> Self {
        let (buffer, _) = Buffer::open(&dir.join("buffer"), &config::Buffer::default(), &[]).unwrap();
        let clock = config::Clock { source: ClockSource::Trusted, ..config::Clock::default() };
        let clock = Clock::start(&clock, &dir.join("floor"), BTreeMap::new()).unwrap();
        let ledger = Ledger::open(&buffer, clock, &config::Commands::default()).await.unwrap();
        let announced = Arc::new(Mutex::new(Vec::new()));
        let there = Arc::clone(&announced);
        let messages = Messages::new(ledger.clone(), settings, move || there.lock().unwrap().clone());
        Self { ledger, messages, announced, buffer }
    }

    fn announce(&self, names: &[&str]) {
        *self.announced.lock().unwrap() = names.iter().map(|name| device(name)).collect();
    }

    async fn send(&self, new: NewMessage) -> Message {
        let taken = self.messages.send(new).await.unwrap();
        assert!(taken.is_new);
        taken.message
    }

    /// The device takes what waits for it and refuses it.
    fn refuse_at(&self, name: &str) {
        for command in self.ledger.waiting(&device(name)) {
            self.ledger.hand_over(command.id, Qos::AtLeastOnce).unwrap();
            self.ledger.undelivered(command.id, &Undelivered::Refused("it says no".to_owned()));
        }
    }

    /// Tries messages again until it is so.
    async fn until(&self, what: &str, is_it: impl FnMut() -> bool) {
        tokio::select! {
            () = self.messages.clone().run(CancellationToken::new()) => panic!("it ends by itself"),
            () = until(what, is_it) => {}
        }
    }

    fn state(&self, message: &Message) -> MessageState {
        self.messages.get(message.id).unwrap().state
    }
}

/// Further tries come at once.
fn hurried(retries: u32) -> config::Messages {
    config::Messages { retries, backoff: Duration::ZERO, ..config::Messages::default() }
}

fn patient() -> config::Messages {
    config::Messages { backoff: Duration::from_secs(3_600), ..config::Messages::default() }
}

fn new(text: &str, name: Option<&str>) -> NewMessage {
    NewMessage {
        phone: PhoneNumber::parse("+447700900123").unwrap(),
        text: MessageText::parse(text, 100).unwrap(),
        device: name.map(device),
        token: "t1".into(),
        key: None,
    }
}

async fn until(what: &str, mut is_it: impl FnMut() -> bool) {
    let waiting = async {
        while !is_it() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[test]
fn a_number_is_one_that_e_164_knows() {
    for good in ["+447700900123", "447700900123", "123456", "+999999999999999"] {
        assert_eq!(PhoneNumber::parse(good).unwrap().to_string(), good);
    }
    for bad in
        ["", "+", "12345", "+0447700900", "+44 7700 900123", "+1234567890123456", "++44770090", "+44770o900"]
    {
        assert_eq!(PhoneNumber::parse(bad), Err(InvalidMessage::Number), "{bad}");
    }
}

#[test]
fn a_text_has_new_lines_of_one_kind_and_an_end() {
    let text = MessageText::parse("a: b\r\nc\td\n", 100).unwrap();
    assert_eq!(
        text::payload(&PhoneNumber::parse("+447700900123").unwrap(), &text),
        "+447700900123:a: b\nc\td\n"
    );
    assert!(MessageText::parse("ありがとう", 5).is_ok(), "characters are counted, not bytes");
    assert_eq!(MessageText::parse("123456", 5), Err(InvalidMessage::TooLong(6, 5)));
    assert_eq!(MessageText::parse(" \n", 5), Err(InvalidMessage::Empty));
    for control in ['\0', '\r', '\u{1b}', '\u{9f}'] {
        assert_eq!(MessageText::parse(&format!("a{control}b"), 5), Err(InvalidMessage::Control(control)));
    }
    let (phone, text) = text::parts(b"+447700900123:a: b");
    assert_eq!((phone.as_str(), text.as_str()), ("+447700900123", "a: b"));
}

#[tokio::test]
async fn a_message_goes_to_the_announced_device_with_the_fewest_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), patient()).await;
    assert_eq!(bench.messages.send(new("x", None)).await, Err(NotSent::NobodyThere));
    bench.announce(&["one", "two"]);
    let first = bench.send(new("x", None)).await;
    let second = bench.send(new("y", None)).await;
    assert_eq!((first.device, second.device), (device("one"), device("two")));
    let named = bench.send(new("z", Some("away"))).await;
    assert_eq!((named.device, named.state), (device("away"), MessageState::Queued));

    let waiting = bench.ledger.waiting(&device("one"));
    assert_eq!(waiting[0].topic.as_str(), "devices/one/sms");
    assert_eq!(&*waiting[0].payload, b"+447700900123:x");
    bench.ledger.hand_over(waiting[0].id, Qos::AtLeastOnce).unwrap();
    assert_eq!(bench.messages.get(first.id).unwrap().state, MessageState::Sent);
    bench.ledger.acked(waiting[0].id);
    let done = bench.messages.get(first.id).unwrap();
    assert_eq!((done.state, done.tries, done.message.as_str()), (MessageState::Delivered, 1, "x"));
}

#[tokio::test]
async fn a_message_with_the_same_key_is_the_first_one_whoever_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), patient()).await;
    bench.announce(&["one"]);
    let keyed = |text: &str, key: &str| NewMessage { key: Some(key.into()), ..new(text, None) };
    let first = bench.send(keyed("x", "k")).await;
    bench.announce(&[]);
    let again = bench.messages.send(keyed("x", "k")).await.unwrap();
    assert_eq!((again.message, again.is_new), (first, false));
    assert_eq!(bench.messages.send(keyed("y", "k")).await, Err(NotSent::OtherMessage));
    assert_eq!(bench.messages.send(keyed("y", "l")).await, Err(NotSent::NobodyThere));
    let other = NewMessage { token: "t2".into(), ..keyed("x", "k") };
    assert_eq!(bench.messages.send(other).await, Err(NotSent::NobodyThere), "a key is its token's own");
}

#[tokio::test]
async fn what_failed_is_tried_again_elsewhere_so_often_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), hurried(1)).await;
    bench.announce(&["one", "two"]);
    let message = bench.send(new("x", None)).await;
    bench.refuse_at("one");
    bench.until("it is tried at the other", || !bench.ledger.waiting(&device("two")).is_empty()).await;
    let now = bench.messages.get(message.id).unwrap();
    assert_eq!((now.device, now.state, now.tries), (device("two"), MessageState::Queued, 2));
    bench.refuse_at("two");
    bench.until("it has failed for good", || bench.state(&message) == MessageState::Failed).await;
    bench.until("that is reported", || bench.ledger.unreported(Source::Message, NAME, 10).is_empty()).await;
    assert_eq!(bench.messages.get(message.id).unwrap().tries, 2);
}

#[tokio::test]
async fn a_named_device_keeps_its_message() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), hurried(1)).await;
    bench.announce(&["one", "two"]);
    let message = bench.send(new("x", Some("one"))).await;
    bench.refuse_at("one");
    bench.until("it is tried again", || bench.messages.get(message.id).unwrap().tries == 2).await;
    assert_eq!(bench.messages.get(message.id).unwrap().device, device("one"));
}

#[tokio::test]
async fn a_try_that_waits_for_its_time_is_known_after_a_restart_and_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), patient()).await;
    let message = bench.send(new("x", Some("one"))).await;
    bench.refuse_at("one");
    let mut due = HashMap::new();
    assert!(bench.messages.look(&mut due).await.unwrap().is_some());
    assert_eq!(bench.state(&message), MessageState::Waiting);
    let Bench { ledger, messages, announced, buffer } = bench;
    drop((ledger, messages, announced));
    buffer.close().await;

    let bench = Bench::open(dir.path(), hurried(2)).await;
    assert_eq!(bench.state(&message), MessageState::Waiting);
    assert_eq!(bench.messages.look(&mut HashMap::new()).await, Ok(None));
    // The restart came between the try and the word that it was made.
    let first = bench.ledger.get(message.id).unwrap();
    bench.messages.follow(&first, Try::of(&first).unwrap().next()).await.unwrap();
    assert_eq!(bench.ledger.waiting(&device("one")).len(), 1);
    assert_eq!(bench.messages.get(message.id).unwrap().tries, 2);
}

#[tokio::test]
async fn what_a_phone_may_have_had_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config::Messages { good_for: Duration::from_millis(50), ..hurried(1) };
    let bench = Bench::open(dir.path(), settings).await;
    let (sent, unsent) = (bench.send(new("x", Some("one"))).await, bench.send(new("y", Some("two"))).await);
    bench.ledger.hand_over(sent.id, Qos::AtLeastOnce).unwrap();
    until("both are over", || {
        bench.ledger.sweep();
        [&sent, &unsent].iter().all(|message| bench.ledger.get(message.id).unwrap().state.is_final())
    })
    .await;
    assert_eq!(bench.state(&sent), MessageState::Expired);
    assert_eq!(bench.state(&unsent), MessageState::Waiting);
}

#[tokio::test]
async fn messages_are_listed_newest_first_in_pages_by_device_and_state() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), patient()).await;
    let mut sent = Vec::new();
    for (text, name) in [("a", "one"), ("b", "two"), ("c", "one")] {
        sent.push(bench.send(new(text, Some(name))).await.id);
        // Names are in the order of their milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let ids = |page: &Page| page.messages.iter().map(|message| message.id).collect::<Vec<_>>();
    let all = Wanted::default();
    let page = bench.messages.list(&all, None, 2);
    assert_eq!((ids(&page), page.next), (vec![sent[2], sent[1]], Some(sent[1])));
    let page = bench.messages.list(&all, page.next, 2);
    assert_eq!((ids(&page), page.next), (vec![sent[0]], None));
    let of_one = Wanted { device: Some(device("one")), state: Some(MessageState::Queued) };
    assert_eq!(ids(&bench.messages.list(&of_one, None, 9)), [sent[2], sent[0]]);
    let delivered = Wanted { state: Some(MessageState::Delivered), ..Wanted::default() };
    assert_eq!(ids(&bench.messages.list(&delivered, None, 9)), []);
    assert_eq!(bench.messages.waiting(), BTreeMap::from([(device("one"), 2), (device("two"), 1)]));
}
