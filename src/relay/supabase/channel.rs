//! One connection to Realtime, from the upgrade to its end: join, `system` ready, heartbeats, newer tokens.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Upgraded, Url};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::access::Access;
use super::trouble::Trouble;
use super::wire::{self, Said, Wanted};
use crate::config::Secret;
use crate::sink::http::{Http, Switched};

/// Realtime itself sends a changed row of at most 1 MiB, in a message that repeats its names.
const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;

/// How long a message may be on its way out: longer is a connection that is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of the join, which is the first message.
const JOIN: u64 = 1;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Between two heartbeats. The answer to one must have come before the next.
    pub(super) heartbeat: Duration,
    /// From the join to its answer.
    pub(super) join: Duration,
    /// From there until rows are told.
    pub(super) ready: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // Supabase asks for at least this; its server cuts a connection that is silent for a minute.
            heartbeat: Duration::from_secs(25),
            join: Duration::from_secs(10),
            ready: Duration::from_secs(30),
        }
    }
}

/// What a channel is opened with.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) url: Url,
    /// `realtime:` and a name, which need not be unique.
    pub(super) channel: String,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) gateway: String,
    pub(super) timing: Timing,
}

/// What is news to who reads the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// From now on new rows are told. Those that came before are not.
    Ready,
    /// A row has come.
    Row,
    /// Rows are not told any more; the server tries to mend it.
    NotReady,
}

/// An open connection.
pub(super) struct Channel<'a> {
    door: &'a Door,
    access: &'a Access,
    frames: WebSocketStream<Upgraded>,
    /// The number of the next message.
    next: u64,
    token: Option<Secret>,
    beat: Interval,
    /// The heartbeat that was not answered yet.
    unanswered: Option<u64>,
    /// What must have come by when.
    awaited: Option<(Instant, &'static str)>,
    /// What the server said was wrong, before it closed the channel.
    complaint: Option<String>,
}

impl Door {
    /// Connects, and asks to join.
    pub(super) async fn open<'a>(&'a self, http: &Http, access: &'a Access) -> Result<Channel<'a>, Trouble> {
        let key = nonce();
        let frames = match http.switch(&self.url, &handshake(&key)).await? {
            Switched::No(reply) => return Err(Trouble::of_upgrade(&reply)),
            Switched::Yes(headers, stream) => {
                let accepted = headers.get("sec-websocket-accept").and_then(|value| value.to_str().ok());
                if accepted != Some(accept_key(&key).as_str()) {
                    return Err(Trouble::again("this is no WebSocket server: its key is wrong"));
                }
                let config = WebSocketConfig::default()
                    .read_buffer_size(16 * 1024)
                    .max_message_size(Some(MAX_MESSAGE_BYTES))
                    .max_frame_size(Some(MAX_MESSAGE_BYTES));
                WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await
            }
        };
        let mut beat =
            tokio::time::interval_at(Instant::now() + self.timing.heartbeat, self.timing.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut channel = Channel {
            door: self,
            access,
            frames,
            next: JOIN + 1,
            token: access.token(),
            beat,
            unanswered: None,
            awaited: Some((Instant::now() + self.timing.join, "Realtime does not answer the join")),
            complaint: None,
        };
        let wanted = Wanted { schema: &self.schema, table: &self.table, gateway: &self.gateway };
        channel.send(wire::join(&self.channel, JOIN, wanted, channel.token.as_ref())).await?;
        Ok(channel)
    }
}

impl Channel<'_> {
    /// What comes next. When there is an error, the connection has come to its end.
    pub(super) async fn next(&mut self) -> Result<News, Trouble> {
        loop {
            let late = self.awaited;
            tokio::select! {
                message = self.frames.next() => {
                    let text = match message {
                        Some(Ok(Message::Text(text))) => text,
                        Some(Ok(Message::Close(frame))) => {
                            let why = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                            return Err(self.ended(&why));
                        }
                        Some(Ok(_)) => continue,
                        Some(Err(error)) => return Err(Trouble::again(format!("the connection is lost: {error}"))),
                        None => return Err(self.ended("")),
                    };
                    if let Some(news) = self.heard(&text)? {
                        return Ok(news);
                    }
                }
                _ = self.beat.tick() => self.beat().await?,
                () = sleep_until(late.map_or_else(Instant::now, |(by, _)| by)), if late.is_some() => {
                    let what = late.map_or("", |(_, what)| what);
                    return Err(Trouble::again(what));
                }
            }
        }
    }

    fn heard(&mut self, text: &str) -> Result<Option<News>, Trouble> {
        let said = wire::read(text, &self.door.channel)
            .ok_or_else(|| Trouble::again("Realtime says what it does not say in version 1.0.0"))?;
        match said {
            Said::Reply { to: JOIN, answer } => {
                answer.map_err(|why| Trouble::of_channel("the join is refused", &why))?;
                let by = Instant::now() + self.door.timing.ready;
                self.awaited = Some((by, "Realtime does not say that the table is watched"));
            }
            Said::Reply { to, .. } if self.unanswered == Some(to) => self.unanswered = None,
            Said::System { extension, answer: Ok(()) } if extension == "postgres_changes" => {
                self.awaited = None;
                return Ok(Some(News::Ready));
            }
            Said::System { extension, answer: Err(why) } if extension == "postgres_changes" => {
                // It tries again by itself, but not for ever.
                tracing::debug!(%why, "Realtime does not watch the table");
                self.complaint = Some(why);
                let by = Instant::now() + self.door.timing.ready;
                self.awaited.get_or_insert((by, "Realtime does not watch the table"));
                return Ok(Some(News::NotReady));
            }
            Said::System { answer: Err(why), .. } => self.complaint = Some(why),
            Said::Row => return Ok(Some(News::Row)),
            Said::Closed => return Err(self.ended("")),
            Said::Crashed => {
                let why = self.complaint.take().unwrap_or_default();
                return Err(Trouble::of_channel("the channel has crashed", &why));
            }
            Said::Reply { .. } | Said::System { .. } | Said::Other => {}
        }
        Ok(None)
    }

    async fn beat(&mut self) -> Result<(), Trouble> {
        if self.unanswered.is_some() {
            return Err(Trouble::again("the connection is dead: a heartbeat was not answered"));
        }
        self.access.renew().await;
        let newest = self.access.token();
        if newest != self.token {
            if let Some(token) = &newest {
                let number = self.number();
                self.send(wire::renew(&self.door.channel, number, token)).await?;
            }
            self.token = newest;
        }
        let number = self.number();
        self.unanswered = Some(number);
        self.send(wire::heartbeat(number)).await
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    async fn send(&mut self, text: String) -> Result<(), Trouble> {
        match timeout(SEND_TIMEOUT, self.frames.send(Message::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Trouble::again(format!("the connection is lost: {error}"))),
            Err(_) => Err(Trouble::again("the connection is dead: nothing goes out")),
        }
    }

    fn ended(&mut self, why: &str) -> Trouble {
        let why = self.complaint.take().unwrap_or_else(|| why.to_owned());
        Trouble::of_channel("Realtime has ended the channel", &why)
    }
}

/// What asks for WebSocket (RFC 6455, 4.1).
fn handshake(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]
    {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let key = HeaderValue::from_str(key).expect("base64 can stand in a header");
    headers.insert(HeaderName::from_static("sec-websocket-key"), key);
    headers
}

fn nonce() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
    BASE64_STANDARD.encode(bytes)
}

/// What shows that it is a WebSocket server which has answered (RFC 6455, 1.3).
fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}
