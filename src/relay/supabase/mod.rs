//! Commands from a Supabase table (`packaging/supabase/schema.sql`).
//!
//! Realtime rings, and the table is read: a row has one way in, whether its ring came, came twice, or was lost. Rows
//! are taken in the order of their ids. What became of each is written back to it. Three activities, each with its
//! pace, none of which waits for another: [`listen`](SupabaseSource::listen), [`look`](SupabaseSource::look),
//! [`tell`](SupabaseSource::tell).
//!
//! What can happen to a row, and why it is carried out at most once: the ledger knows a command by the id of its row,
//! and has it on disk before the row hears of it. So a row that is read again, after whatever broke off, is known.

mod access;
mod channel;
mod row;
mod table;
#[cfg(test)]
mod tests;
mod trouble;
mod wire;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::Url;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::access::Access;
use self::channel::{Door, News, Timing};
use self::row::{Reader, Verdict};
use self::table::{MAX_PAGE_BYTES, MAX_ROWS, Outcome, Table};
use self::trouble::{Then, Trouble};
use super::source::{Desk, SourceStatus};
use super::{Ledger, Origin, Source, State};
use crate::clock::Clock;
use crate::config::{self, CommandSource, Secret};
use crate::message::DeviceId;
use crate::sink::http::{self, Http};
use crate::sink::pace::Pace;
use crate::sink::{SendError, SinkError};

/// Between two looks at the table: what rings more often is seen with the next.
const LOOK_SPACING: Duration = Duration::from_millis(100);

/// How much rarer the table is looked at while Realtime rings.
const RARER: u32 = 10;

/// A channel that held so long was a good one: the next failure is a first one.
const SETTLED: Duration = Duration::from_secs(60);

/// How long to leave Realtime alone at least that has had too many of something.
const MUCH_LATER: Duration = Duration::from_secs(60);

/// Outcomes that are told in a row before others are asked for.
const TOLD_AT_ONCE: usize = 16;

/// Rows without a command that wait to be told their end. What has no room is found again.
const MAX_ENDED: usize = 64;

/// A table that commands come from.
#[derive(Debug)]
pub struct SupabaseSource {
    settings: config::SupabaseCommands,
    gateway: DeviceId,
    clock: Clock,
    http: Http,
    access: Access,
    table: Table,
    door: Option<Door>,
    desk: Desk,
    /// There may be a new row.
    rung: Notify,
    /// Realtime rings.
    listens: AtomicBool,
    ended: mpsc::Sender<(String, Outcome)>,
    to_tell: Mutex<Option<mpsc::Receiver<(String, Outcome)>>>,
}

impl SupabaseSource {
    pub(super) fn new(
        source: &CommandSource,
        settings: &config::SupabaseCommands,
        gateway: &DeviceId,
        ledger: Ledger,
        clock: &Clock,
    ) -> Result<(Self, watch::Receiver<SourceStatus>), SinkError> {
        let access = Access::new(&settings.key, settings.token.as_ref())?;
        let client = http::Settings {
            timeout: source.timeout,
            ca_file: source.ca_file.as_deref(),
            secrets: vec![settings.key.clone()],
        };
        let origin = Origin { source: Source::Supabase, name: source.name.as_str().into(), reference: None };
        let (desk, status) = Desk::new(origin, ledger);
        let (ended, to_tell) = mpsc::channel(MAX_ENDED);
        let supabase = Self {
            gateway: gateway.clone(),
            clock: clock.clone(),
            http: Http::new(&client, clock)?.reading(MAX_PAGE_BYTES),
            access,
            table: Table::new(settings, gateway)?,
            door: settings.realtime_path.as_deref().map(|path| door(settings, path, gateway)).transpose()?,
            desk,
            rung: Notify::new(),
            listens: AtomicBool::new(false),
            ended,
            to_tell: Mutex::new(Some(to_tell)),
            settings: settings.clone(),
        };
        Ok((supabase, status))
    }

    pub(super) async fn run(self, cancel: CancellationToken) {
        let work = async {
            // Who does not know its commands would give them up.
            self.desk.ledger.loaded().await;
            tokio::join!(self.listen(), self.look(), self.tell());
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    /// Keeps a channel to Realtime open, as well as that is possible.
    async fn listen(&self) {
        let Some(door) = &self.door else { return };
        let mut pace = new_pace();
        loop {
            let used = self.access.token();
            let (trouble, ready_for) = self.hear(door).await;
            self.now_listens(false);
            if ready_for.is_some_and(|ready_for| ready_for >= SETTLED) {
                pace.succeeded();
            }
            let wait = match trouble.then {
                Then::Again => pace.failed(None),
                Then::MuchLater => pace.failed(Some(MUCH_LATER)),
                Then::Hold => pace.held(),
                Then::Renew => {
                    self.access.renew().await;
                    if self.access.token() == used { pace.held() } else { pace.failed(None) }
                }
            };
            let held = matches!(trouble.then, Then::Hold | Then::Renew);
            self.desk.deaf(&self.access.hide(&trouble.to_string()), held, wait);
            self.until_renewed(&mut pace, used).await;
        }
    }

    /// The life of one channel: why it ended, and how long it was ready.
    async fn hear(&self, door: &Door) -> (Trouble, Option<Duration>) {
        let mut ready = None;
        let mut channel = match door.open(&self.http, &self.access).await {
            Ok(channel) => channel,
            Err(trouble) => return (trouble, None),
        };
        loop {
            match channel.next().await {
                Ok(News::Ready) => {
                    ready.get_or_insert_with(Instant::now);
                    self.now_listens(true);
                }
                Ok(News::Row) => self.rung.notify_one(),
                Ok(News::NotReady) => self.now_listens(false),
                Err(trouble) => return (trouble, ready.map(|since: Instant| since.elapsed())),
            }
        }
    }

    /// Either way the table is looked at: what came before the channel was ready did not ring.
    fn now_listens(&self, listens: bool) {
        let listened = self.listens.swap(listens, Ordering::Relaxed);
        self.desk.listens(listens);
        if listens || listened {
            self.rung.notify_one();
        }
    }

    /// Waits as long as the pace says, or until there is a newer token, with which all begins anew.
    async fn until_renewed(&self, pace: &mut Pace, used: Option<Secret>) {
        let every = self.door.as_ref().map_or(Timing::default(), |door| door.timing).heartbeat;
        while self.access.token() == used {
            let next = Instant::now() + every;
            tokio::time::sleep_until(next.min(pace.next())).await;
            if pace.next() <= next {
                return;
            }
            self.access.renew().await;
        }
        *pace = new_pace();
    }

    /// Takes the rows that are new: at the start, when it rings, and every now and then all the same.
    async fn look(&self) {
        let mut pace = new_pace();
        let mut has_swept = false;
        loop {
            let used = self.access.token();
            let looked = async {
                self.take_all().await?;
                if !has_swept {
                    self.give_up_lost().await?;
                }
                Ok::<_, SendError>(())
            };
            let looked = looked.await;
            pace.sent();
            match looked {
                Ok(()) => {
                    has_swept = true;
                    pace.succeeded();
                    self.desk.well();
                    let every = self.settings.interval;
                    let every = if self.listens.load(Ordering::Relaxed) { every * RARER } else { every };
                    // A ring that came meanwhile is kept.
                    tokio::time::timeout(every, self.rung.notified()).await.ok();
                    tokio::time::sleep_until(pace.next()).await;
                }
                Err(error) => {
                    self.desk.failed(&error, &mut pace);
                    self.until_renewed(&mut pace, used).await;
                }
            }
        }
    }

    async fn take_all(&self) -> Result<(), SendError> {
        let mut after: Option<String> = None;
        let mut limit = MAX_ROWS;
        loop {
            let wanted = (row::COLUMNS, limit);
            let Some(page) = self.table.untaken(&self.http, &self.access, after.as_deref(), wanted).await?
            else {
                if limit == 1 {
                    after = self.refuse_huge(after.as_deref()).await?;
                }
                limit = limit.div_ceil(2);
                continue;
            };
            let count = page.rows.len();
            let now = self.now(page.at);
            for row in page.rows {
                if let Some(id) = row::id(row.get()) {
                    self.take(&id, row.get(), now).await;
                    after = Some(id);
                }
            }
            if count < limit {
                return Ok(());
            }
        }
    }

    /// The gateway's own clock, if it is right; otherwise that of the far side, which has just answered.
    fn now(&self, far: Option<SystemTime>) -> Option<SystemTime> {
        if self.clock.is_synchronized() { Some(self.clock.trusted_now()) } else { far }
    }

    async fn take(&self, id: &str, row: &str, now: Option<SystemTime>) {
        let Desk { origin, ledger, .. } = &self.desk;
        // It was taken, and will be told what became of it, however old it is by now.
        if ledger.knows(origin.source, &origin.name, id) {
            return;
        }
        let reader = Reader { settings: &self.settings, origin, gateway: &self.gateway, now };
        match reader.read(id, row) {
            Verdict::Command(new) => self.desk.accept(*new).await,
            Verdict::Ended(state, why) => self.end(id, state, &why),
            Verdict::Undated => tracing::debug!(row = %id, "it is not known how old this row is: it waits"),
        }
    }

    /// A row that is longer than all that is read at once: it is none that a device could take.
    async fn refuse_huge(&self, after: Option<&str>) -> Result<Option<String>, SendError> {
        let page = self.table.untaken(&self.http, &self.access, after, ("id", 1)).await?;
        let row = page.and_then(|page| page.rows.into_iter().next());
        let id = row.and_then(|row| row::id(row.get()));
        if let Some(id) = &id {
            self.end(id, State::Refused, "the row is too large");
        }
        Ok(id)
    }

    fn end(&self, id: &str, state: State, why: &str) {
        tracing::warn!(source = %self.desk.origin.name, row = %id, %why, "a row is {}", state.as_str());
        self.desk.refused();
        // Without room it is found, and refused, again.
        self.ended.try_send((id.to_owned(), Outcome::ended(state, why))).ok();
    }

    /// Rows that an earlier process has taken and the ledger does not know: it was lost, and they may have been
    /// carried out. Nothing will become of them.
    async fn give_up_lost(&self) -> Result<(), SendError> {
        let mut after = None;
        loop {
            let rows = self.table.open(&self.http, &self.access, after.as_deref()).await?;
            let is_last = rows.len() < MAX_ROWS;
            for (id, taken) in rows {
                let is_known = taken.command_id.parse().is_ok_and(|id| self.desk.ledger.get(id).is_some());
                if !is_known {
                    let why = "the gateway does not know this command any more; it may have been carried out";
                    let outcome = Outcome::ended(State::Failed, why);
                    self.table.tell(&self.http, &self.access, &id, &outcome).await?;
                }
                after = Some(id);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Tells rows what became of them.
    async fn tell(&self) {
        let waiting = self.to_tell.lock().expect("no panic under this lock").take();
        let mut waiting = waiting.expect("a source runs once");
        let mut pace = new_pace();
        let Origin { source, name, .. } = &self.desk.origin;
        loop {
            tokio::select! {
                () = self.desk.ledger.changed(*source, name) => {
                    for command in self.desk.ledger.unreported(*source, name, TOLD_AT_ONCE) {
                        let row = command.origin.reference.as_deref().unwrap_or_default();
                        let outcome = Outcome::of(&command, &self.clock);
                        self.tell_until_known(row, &outcome, &mut pace).await;
                        if self.desk.ledger.reported(command.id, command.state).await.is_err() {
                            // The gateway is ending.
                            return;
                        }
                        self.desk.reported();
                    }
                }
                Some((row, outcome)) = waiting.recv() => self.tell_until_known(&row, &outcome, &mut pace).await,
            }
        }
    }

    /// Tells one row, until it knows, or cannot be told.
    async fn tell_until_known(&self, row: &str, outcome: &Outcome, pace: &mut Pace) {
        let source = &self.desk.origin.name;
        let mut doubts = 0;
        loop {
            let used = self.access.token();
            match self.table.tell(&self.http, &self.access, row, outcome).await {
                Ok(true) => return pace.succeeded(),
                Ok(false) => {
                    tracing::info!(%source, %row, "the row of a command is not there any more");
                    return pace.succeeded();
                }
                // One row must not keep the others from being told.
                Err(SendError::Doubtful { retries, then: crate::sink::Then::Refused, why })
                    if doubts >= retries =>
                {
                    tracing::error!(%source, %row, %why, "a row cannot be told what became of it");
                    return;
                }
                Err(SendError::Refused { why, .. } | SendError::TooLarge { why, .. }) => {
                    tracing::error!(%source, %row, %why, "a row cannot be told what became of it");
                    return;
                }
                Err(error) => {
                    doubts += 1;
                    self.desk.failed(&error, pace);
                    self.until_renewed(pace, used).await;
                }
            }
        }
    }
}

fn new_pace() -> Pace {
    Pace::new(Duration::ZERO, LOOK_SPACING)
}

fn door(settings: &config::SupabaseCommands, path: &str, gateway: &DeviceId) -> Result<Door, SinkError> {
    let text = format!("{}{}/websocket", settings.url.trim_end_matches('/'), path.trim_end_matches('/'));
    let mut url = Url::parse(&text)
        .map_err(|error| SinkError::Url { url: settings.url.clone(), why: error.to_string() })?;
    url.query_pairs_mut().append_pair("apikey", settings.key.expose()).append_pair("vsn", wire::VERSION);
    Ok(Door {
        url,
        channel: format!("realtime:tampu-{gateway}"),
        schema: settings.schema.clone().unwrap_or_else(|| "public".to_owned()),
        table: settings.table.clone(),
        gateway: gateway.to_string(),
        timing: Timing::default(),
    })
}
