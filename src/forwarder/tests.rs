//! A scripted sink and a real buffer, in paused time.

mod pausing;
mod suspicion;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::*;
use crate::buffer::{Buffer, Mark, Wait};
use crate::clock::TimeQuality;
use crate::config::{ClockSource, Secret, SinkKind};
use crate::message::{DeviceId, Incoming, Qos, Stamp};
use crate::sink::{Bounds, Plan, Unsent};

const INTERVAL: Duration = Duration::from_secs(1);
const SPACING: Duration = Duration::from_millis(100);

type Answer = Result<Accepted, SendError>;
type Script = Box<dyn FnMut(usize, &[Row]) -> Answer + Send>;

/// What the sink was asked to send.
#[derive(Debug, Clone)]
struct Sent {
    at: Instant,
    rows: Vec<Row>,
}

impl Sent {
    fn seqs(&self) -> Vec<Seq> {
        self.rows.iter().flat_map(|row| row.carried.clone()).collect()
    }
}

/// One row a reading; the payload decides. `answer` is told the row texts and which request this is.
struct FakeSink {
    bounds: Bounds,
    answer: Script,
    sent: Arc<Mutex<Vec<Sent>>>,
    /// One permit a request.
    gate: Arc<Semaphore>,
}

impl Sink for FakeSink {
    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn plan(&mut self, batch: &Batch<'_>) -> Plan {
        let mut plan = Plan::default();
        for timed in batch.readings {
            let text = String::from_utf8_lossy(&timed.reading.payload).into_owned();
            let seq = timed.reading.seq;
            if text == "nothing" {
                plan.dropped.push((seq, Unsent::NothingMapped));
            } else if plan.rows.len() < batch.max_rows {
                let text = format!("{text} {} {}", timed.quality.as_str(), timed.at_ms);
                plan.rows.push(Row { text, at_s: 0, carried: vec![seq], lost: Vec::new() });
            }
        }
        plan
    }

    async fn send(&mut self, rows: &[Row]) -> Answer {
        self.gate.acquire().await.unwrap().forget();
        let mut sent = self.sent.lock().unwrap();
        sent.push(Sent { at: Instant::now(), rows: rows.to_vec() });
        (self.answer)(sent.len(), rows)
    }
}

/// A buffer with a forwarder on it.
struct Bench {
    dir: tempfile::TempDir,
    buffer: Buffer,
    clock: Clock,
    sent: Arc<Mutex<Vec<Sent>>>,
    gate: Arc<Semaphore>,
    cancel: CancellationToken,
    status: watch::Receiver<ForwarderStatus>,
}

fn settings() -> config::Sink {
    let kind = config::ThingSpeak {
        url: String::new(),
        channel: 1,
        write_key: Secret::new(String::new()),
        fields: Vec::new(),
        max_entries: 1,
        interval: INTERVAL,
        collision: config::Collision::Average,
        average: None,
        yearly_allowance: 0,
    };
    config::Sink {
        name: DeviceId::parse("cloud").unwrap(),
        streams: Vec::new(),
        kind: SinkKind::ThingSpeak(kind),
        timeout: Duration::from_secs(30),
        ca_file: None,
        live_first: true,
    }
}

impl Bench {
    fn new(
        max_rows: usize,
        answer: impl FnMut(usize, &[Row]) -> Answer + Send + 'static,
    ) -> (Self, Forwarder<FakeSink>) {
        Self::with(max_rows, &settings(), ClockSource::Trusted, answer)
    }

    fn with(
        max_rows: usize,
        settings: &config::Sink,
        source: ClockSource,
        answer: impl FnMut(usize, &[Row]) -> Answer + Send + 'static,
    ) -> (Self, Forwarder<FakeSink>) {
        let dir = tempfile::tempdir().unwrap();
        let store = config::Buffer {
            ack_delay: Duration::from_millis(1),
            min_free_bytes: 0,
            ..config::Buffer::default()
        };
        let (buffer, _) =
            Buffer::open(&dir.path().join("b"), &store, std::slice::from_ref(&settings.name)).unwrap();
        let clock = config::Clock { source, sync_wait: Duration::from_secs(3_600) };
        let clock = Clock::start(&clock, &dir.path().join("floor"), BTreeMap::new()).unwrap();
        let sink = FakeSink {
            bounds: Bounds {
                max_rows,
                max_readings: max_rows,
                max_bytes: 1_000_000,
                interval: INTERVAL,
                spacing: SPACING,
            },
            answer: Box::new(answer),
            sent: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        };
        let (sent, gate) = (Arc::clone(&sink.sent), Arc::clone(&sink.gate));
        let reader = buffer.reader(&settings.name).unwrap();
        let forwarder = Forwarder::new(settings, sink, reader, clock.clone());
        let status = forwarder.status();
        (Self { dir, buffer, clock, sent, gate, cancel: CancellationToken::new(), status }, forwarder)
    }

    async fn append(&self, payloads: impl IntoIterator<Item = String>) {
        self.append_to("air", payloads).await;
    }

    async fn append_to(&self, stream: &str, payloads: impl IntoIterator<Item = String>) {
        let mut writer = self.buffer.writer();
        let device = DeviceId::parse("esp").unwrap();
        let mut last = Mark::default();
        for payload in payloads {
            let reading = Incoming {
                device: &device,
                stream,
                topic: "esp/air",
                payload: payload.as_bytes(),
                qos: Qos::AtLeastOnce,
                received: self.stamp(),
                fault: None,
            };
            last = writer.submit(Some(&reading), Vec::new(), Wait::ForAck).unwrap().mark;
        }
        writer.until_durable(last).await.unwrap();
    }

    fn stamp(&self) -> Stamp {
        self.clock.stamp()
    }

    /// Runs the forwarder until the status is as wanted, and ends it.
    ///
    /// There is no deadline: in paused time one would pass while the buffer's thread works.
    async fn run_until(
        &self,
        forwarder: Forwarder<FakeSink>,
        wanted: impl FnMut(&ForwarderStatus) -> bool,
    ) -> ForwarderStatus {
        let mut status = self.status.clone();
        let reached = async {
            let reached = status.wait_for(wanted).await.unwrap().clone();
            self.cancel.cancel();
            reached
        };
        tokio::join!(forwarder.run(self.cancel.clone()), reached).1
    }

    /// The buffer as the next process finds it.
    async fn reopened(&self) -> Buffer {
        self.buffer.close().await;
        let (dir, settings) = (self.dir.path().join("b"), config::Buffer::default());
        Buffer::open(&dir, &settings, &[DeviceId::parse("cloud").unwrap()]).unwrap().0
    }

    fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// Delivered, pending, and dropped by reason; checks that they add up (P2).
    fn figures(&self) -> (u64, u64, BTreeMap<DropReason, u64>) {
        let figures = self.buffer.status().sinks["cloud"].clone();
        let dropped: u64 = figures.dropped.values().sum();
        assert_eq!(figures.accepted, figures.delivered + figures.pending + dropped, "{figures:?}");
        (figures.delivered, figures.pending, figures.dropped)
    }
}

fn numbers(range: Range<u64>) -> impl Iterator<Item = String> {
    range.map(|n| n.to_string())
}

fn is_done(status: &ForwarderStatus) -> bool {
    status.pending == 0 && status.requests > 0
}

fn has(rows: &[Row], payload: &str) -> bool {
    rows.iter().any(|row| row.text.split(' ').next() == Some(payload))
}

#[tokio::test(start_paused = true)]
async fn one_bad_reading_of_960_becomes_a_dead_letter_and_959_are_delivered() {
    let refuse = |_, rows: &[Row]| {
        let refused = SendError::Refused { known: true, why: "400 22P02 not a number".to_owned() };
        if has(rows, "bad") { Err(refused) } else { Ok(Accepted::Stored) }
    };
    let (bench, forwarder) = Bench::new(960, refuse);
    bench.append(numbers(0..700).chain(["bad".to_owned()]).chain(numbers(701..960))).await;
    let status = bench.run_until(forwarder, is_done).await;
    assert_eq!(bench.figures(), (959, 0, BTreeMap::from([(DropReason::Rejected, 1)])));
    let letters = bench.reopened().await.dead_letters(10).await.unwrap();
    assert_eq!((letters[0].reading.seq, letters[0].reason.as_str()), (701, "400 22P02 not a number"));
    assert!(bench.sent().len() <= 21, "{}", bench.sent().len());
    assert_eq!(status.rows, 959);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved_and_grows_back_slowly() {
    let bound = |request, rows: &[Row]| match rows.len() {
        n if n > 20 && request < 10 => Err(SendError::TooLarge { known: true, why: "413".to_owned() }),
        _ => Ok(Accepted::Stored),
    };
    let (bench, forwarder) = Bench::new(100, bound);
    bench.append(numbers(0..600)).await;
    bench.run_until(forwarder, is_done).await;
    assert_eq!(bench.figures(), (600, 0, BTreeMap::new()));
    let sizes: Vec<usize> = bench.sent().iter().map(|sent| sent.rows.len()).collect();
    assert_eq!(sizes[..4], [100, 50, 25, 12], "{sizes:?}");
    let mut bound = 12;
    for size in &sizes[4..] {
        bound += bound / 8 + 1;
        assert!(*size <= bound, "{sizes:?}");
    }
    assert!(sizes[4..].iter().any(|size| *size > 25), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_far_side_asks_for_is_waited_for_and_the_same_bytes_are_sent_again() {
    let slow_down = |request, _: &[Row]| match request {
        1 => Err(SendError::Retry { after: Some(Duration::from_secs(80)), why: "429".to_owned() }),
        2 => Err(SendError::Slow { why: "timed out, perhaps stored".to_owned() }),
        _ => Ok(Accepted::Stored),
    };
    let (bench, forwarder) = Bench::new(10, slow_down);
    bench.append(numbers(0..8)).await;
    bench.run_until(forwarder, is_done).await;
    let sent = bench.sent();
    assert!(sent[1].at - sent[0].at >= Duration::from_secs(80));
    assert_eq!(sent[0].rows, sent[1].rows);
    let again: Vec<Row> = sent[2..].iter().flat_map(|sent| sent.rows.clone()).collect();
    assert_eq!(again, sent[0].rows, "in smaller requests, but the same rows");
    assert_eq!(sent[2].rows.len(), 4);
    assert_eq!(bench.figures(), (8, 0, BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn requests_keep_their_interval() {
    let (bench, forwarder) = Bench::new(10, |_, _| Ok(Accepted::Queued));
    bench.append(numbers(0..45)).await;
    let status = bench.run_until(forwarder, is_done).await;
    assert!(bench.sent().windows(2).all(|pair| pair[1].at - pair[0].at >= INTERVAL));
    assert_eq!((bench.sent().len(), status.unverified), (5, 45));
}

#[tokio::test(start_paused = true)]
async fn the_search_for_a_bad_reading_keeps_what_the_service_demands_and_not_the_interval() {
    let refuse = |_, rows: &[Row]| match has(rows, "bad") {
        true => Err(SendError::Refused { known: true, why: "400".to_owned() }),
        false => Ok(Accepted::Stored),
    };
    let (bench, forwarder) = Bench::new(16, refuse);
    bench.append(numbers(0..15).chain(["bad".to_owned()]).chain(numbers(0..16))).await;
    bench.run_until(forwarder, is_done).await;
    let sent = bench.sent();
    let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    let (search, next_batch) = gaps.split_at(gaps.len() - 1);
    assert_eq!(search.len(), 8);
    assert!(search.iter().all(|gap| *gap >= SPACING && *gap < INTERVAL), "{gaps:?}");
    assert!(next_batch[0] >= INTERVAL, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_holds_the_sink_and_keeps_every_reading() {
    let locked = |request, _: &[Row]| match request {
        1 => Err(SendError::Hold { why: "401 Invalid API key".to_owned() }),
        _ => Ok(Accepted::Stored),
    };
    let (bench, forwarder) = Bench::new(10, locked);
    bench.append(numbers(0..5)).await;
    let mut status = bench.status.clone();
    let seen = async {
        let held =
            status.wait_for(|status| matches!(status.state, State::Holding { .. })).await.unwrap().clone();
        let figures = bench.figures();
        status.wait_for(is_done).await.unwrap();
        bench.cancel.cancel();
        (held, figures)
    };
    let (held, figures) = tokio::join!(forwarder.run(bench.cancel.clone()), seen).1;
    assert!(matches!(&held.state, State::Holding { why, .. } if why == "401 Invalid API key"));
    assert_eq!((held.pending, held.failures), (5, 1));
    assert_eq!(figures, (0, 5, BTreeMap::new()));
    let sent = bench.sent();
    assert!(sent[1].at - sent[0].at >= Duration::from_secs(15 * 60));
    assert_eq!(bench.figures(), (5, 0, BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_refuses_everything_does_not_empty_the_buffer_into_dead_letters() {
    let refuse_all = |_, _: &[Row]| Err(SendError::Refused { known: true, why: "400 23502".to_owned() });
    let (bench, forwarder) = Bench::new(100, refuse_all);
    bench.append(numbers(0..300)).await;
    let mut holds = 0;
    bench
        .run_until(forwarder, move |status| {
            holds += u32::from(matches!(status.state, State::Holding { .. }));
            holds >= 3
        })
        .await;
    assert_eq!(bench.figures(), (0, 290, BTreeMap::from([(DropReason::Rejected, 10)])));
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_live_readings_go_first_and_the_backlog_fills_the_rest() {
    let outage = |request, _: &[Row]| match request {
        1 => Err(SendError::Retry { after: None, why: "unreachable".to_owned() }),
        _ => Ok(Accepted::Stored),
    };
    let (bench, forwarder) = Bench::new(10, outage);
    bench.gate.forget_permits(Semaphore::MAX_PERMITS);
    bench.append(numbers(0..50)).await;
    let steps = async {
        // The outage, and the first request after it: the oldest ten, for they were on their way.
        bench.gate.add_permits(2);
        bench.status.clone().wait_for(|status| status.rows == 10).await.unwrap();
        for live in 0..3 {
            bench.append([format!("live{live}"), format!("also{live}")]).await;
            bench.gate.add_permits(1);
            bench.status.clone().wait_for(|status| status.rows == 20 + 10 * live).await.unwrap();
        }
        bench.gate.add_permits(100);
        bench.status.clone().wait_for(is_done).await.unwrap();
        bench.cancel.cancel();
    };
    tokio::join!(forwarder.run(bench.cancel.clone()), steps);
    let sent = bench.sent();
    assert_eq!(sent[0].seqs(), (1..=10).collect::<Vec<_>>());
    assert_eq!(sent[1].seqs(), sent[0].seqs());
    // Which of them were stored when a batch was read is up to chance, but they never wait behind the backlog.
    for request in &sent[2..] {
        let live = request.seqs().iter().rposition(|seq| *seq > 50);
        let backlog = request.seqs().iter().position(|seq| *seq <= 50);
        assert!(live.is_none() || backlog.is_none() || live < backlog, "{:?}", request.seqs());
    }
    let position = |payload: &str| sent.iter().rposition(|sent| has(&sent.rows, payload)).unwrap();
    assert!(position("live0") < position("49") && position("also1") < position("49"));
    assert!(sent[2..5].iter().all(|sent| sent.rows.len() == 10), "the backlog is not starved");
    assert_eq!(bench.figures(), (56, 0, BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn readings_wait_for_their_true_time_and_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let synchronized = dir.path().join("synchronized");
    let source = ClockSource::File(synchronized.clone());
    let (bench, forwarder) = Bench::with(10, &settings(), source, |_, _| Ok(Accepted::Stored));
    bench.append(numbers(0..3)).await;
    let steps = async {
        bench.status.clone().wait_for(|status| status.state == State::ClockWait).await.unwrap();
        assert_eq!(bench.sent().len(), 0);
        std::fs::write(&synchronized, "").unwrap();
        bench.clock.look();
        bench.status.clone().wait_for(is_done).await.unwrap();
        bench.cancel.cancel();
    };
    tokio::join!(forwarder.run(bench.cancel.clone()), steps);
    let sent = bench.sent();
    assert!(sent[0].rows.iter().all(|row| row.text.contains(TimeQuality::Corrected.as_str())), "{sent:?}");
    assert_eq!(bench.figures(), (3, 0, BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn other_streams_and_readings_that_map_nowhere_are_counted_and_never_sent() {
    let settings = config::Sink { streams: vec!["air".to_owned()], ..settings() };
    let (bench, forwarder) = Bench::with(10, &settings, ClockSource::Trusted, |_, _| Ok(Accepted::Stored));
    for n in 0..20 {
        bench.append_to("soil", [n.to_string()]).await;
        bench.append([n.to_string(), "nothing".to_owned()]).await;
    }
    bench.run_until(forwarder, is_done).await;
    let dropped = BTreeMap::from([(DropReason::NotSelected, 20), (DropReason::NothingMapped, 20)]);
    assert_eq!(bench.figures(), (20, 0, dropped));
}

#[tokio::test(start_paused = true)]
async fn a_forwarder_that_is_told_to_end_finishes_the_request_in_flight() {
    let (bench, forwarder) = Bench::new(10, |_, _| Ok(Accepted::Stored));
    bench.gate.forget_permits(Semaphore::MAX_PERMITS);
    bench.append(numbers(0..25)).await;
    let steps = async {
        bench.status.clone().wait_for(|status| status.state == State::Running).await.unwrap();
        bench.cancel.cancel();
        bench.gate.add_permits(100);
    };
    tokio::join!(forwarder.run(bench.cancel.clone()), steps);
    let delivered = bench.sent().len() as u64 * 10;
    assert!(delivered <= 10, "nothing new is begun");
    assert_eq!(bench.figures(), (delivered, 25 - delivered, BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_settled_is_sent_again_by_the_next_process() {
    let (bench, forwarder) = Bench::new(10, |_, _| Ok(Accepted::Stored));
    bench.append(numbers(0..7)).await;
    // The process dies between the answer and `settle`.
    bench.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut status = bench.status.clone();
    tokio::select! {
        () = forwarder.run(bench.cancel.clone()) => panic!("it waits for the gate"),
        _ = status.wait_for(|status| status.state == State::Running) => {}
    }
    assert_eq!(bench.figures(), (0, 7, BTreeMap::new()));
    let mut reader = bench.reopened().await.reader(&settings().name).unwrap();
    let readings = reader.peek(Limits { max_readings: 100, max_bytes: 1_000 }).await.unwrap();
    assert_eq!(readings.iter().map(|reading| reading.seq).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
}
