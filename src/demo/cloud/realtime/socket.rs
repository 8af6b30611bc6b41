//! One connection: its channels, what they are told, and what ends it.

use std::collections::BTreeMap;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{self, Role, WebSocketConfig};

use super::frame::{Message, Version};
use super::{IDLE, Inserted, Order, Realtime};

/// The real server takes no longer frame.
const MAX_FRAME_BYTES: usize = 5_000_000;

type Frames = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// The connection has come to its end.
struct Over;

struct Socket<'a> {
    realtime: &'a Realtime,
    version: Version,
    frames: Frames,
    channels: BTreeMap<String, Channel>,
}

/// A channel that somebody has joined.
#[derive(Debug)]
struct Channel {
    join_ref: Value,
    token: Option<String>,
    wanted: Vec<Wanted>,
    is_ready: bool,
}

/// What a channel is to tell of.
#[derive(Debug)]
struct Wanted {
    id: u64,
    table: String,
    /// A column, and the value that it must have.
    filter: Option<(String, String)>,
}

pub(super) async fn serve(realtime: &Realtime, version: Version, stream: TokioIo<hyper::upgrade::Upgraded>) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    let frames = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let mut socket = Socket { realtime, version, frames, channels: BTreeMap::new() };
    let cancelled = realtime.0.spawner.cancelled().clone();
    tokio::select! {
        () = cancelled.cancelled() => {}
        Over = socket.run() => {}
    }
    // It may be gone.
    socket.frames.close(None).await.ok();
}

impl Socket<'_> {
    async fn run(&mut self) -> Over {
        let mut rows = self.realtime.0.rows.subscribe();
        let mut orders = self.realtime.0.orders.subscribe();
        let mut holds_ready = self.realtime.0.holds_ready.subscribe();
        loop {
            let is_held = *holds_ready.borrow_and_update();
            if !is_held && self.make_ready(&mut rows).await.is_err() {
                return Over;
            }
            let done = tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Ok(order) => self.obey(&order).await,
                    Err(RecvError::Lagged(_)) => Ok(()),
                    Err(RecvError::Closed) => Err(Over),
                },
                _ = holds_ready.changed() => Ok(()),
                row = rows.recv() => match row {
                    Ok(row) => self.tell(&row).await,
                    Err(RecvError::Lagged(_)) => Ok(()),
                    Err(RecvError::Closed) => Err(Over),
                },
                message = tokio::time::timeout(IDLE, self.frames.next()) => match message {
                    Ok(Some(Ok(protocol::Message::Text(text)))) => self.hear(&text).await,
                    Ok(Some(Ok(protocol::Message::Ping(_) | protocol::Message::Pong(_)))) => Ok(()),
                    _ => Err(Over),
                },
            };
            if done.is_err() {
                return Over;
            }
        }
    }

    async fn hear(&mut self, text: &str) -> Result<(), Over> {
        let message = self.version.read(text).ok_or(Over)?;
        match (message.topic.as_str(), message.event.as_str()) {
            ("phoenix", "heartbeat") => {
                self.realtime.seen_mut().heartbeats += 1;
                if self.realtime.behaviour().ignores_heartbeats {
                    return Ok(());
                }
                self.say(&message.reply("ok", &json!({}))).await
            }
            (_, "phx_join") => self.join(&message).await,
            (topic, _) if !self.channels.contains_key(topic) => {
                self.say(&message.reply("error", &json!({ "reason": "unmatched topic" }))).await
            }
            (_, "access_token") => self.renew(&message).await,
            (_, "phx_leave") => {
                self.say(&message.reply("ok", &json!({}))).await?;
                self.close(&message.topic.clone()).await
            }
            // Broadcast and presence are not here.
            _ => Ok(()),
        }
    }

    async fn join(&mut self, message: &Message) -> Result<(), Over> {
        let payload = &message.payload;
        let token = payload.get("access_token").and_then(Value::as_str);
        let token = token.filter(|token| !token.starts_with("sb_"));
        let version = if self.version == Version::One { "1.0.0" } else { "2.0.0" };
        self.realtime.seen_mut().joins.push((version.to_owned(), token.map(str::to_owned)));
        let scripted = self.realtime.behaviour().joins.pop_front();
        let refused = scripted.or_else(|| self.realtime.objection(token)).or_else(|| {
            let name = message.topic.strip_prefix("realtime:").unwrap_or_default();
            name.is_empty().then(|| "TopicNameRequired: You must provide a topic name".to_owned())
        });
        let wanted = match wanted(payload) {
            Ok(wanted) => wanted,
            Err(why) => return self.say(&message.reply("error", &json!({ "reason": why }))).await,
        };
        if let Some(reason) = refused {
            let is_too_many = reason.contains("RateLimitReached");
            self.say(&message.reply("error", &json!({ "reason": reason }))).await?;
            return if is_too_many { Err(Over) } else { Ok(()) };
        }
        let echo: Vec<Value> = wanted
            .iter()
            .zip(payload["config"]["postgres_changes"].as_array().into_iter().flatten())
            .map(|(wanted, asked)| {
                let mut echo = asked.clone();
                echo["id"] = wanted.id.into();
                echo
            })
            .collect();
        let channel = Channel {
            join_ref: message.number.clone(),
            token: token.map(str::to_owned),
            is_ready: wanted.is_empty(),
            wanted,
        };
        self.channels.insert(message.topic.clone(), channel);
        self.say(&message.reply("ok", &json!({ "postgres_changes": echo }))).await
    }

    /// Says of every channel whose table is watched now that it is. What was inserted before is not told.
    async fn make_ready(
        &mut self,
        rows: &mut tokio::sync::broadcast::Receiver<Inserted>,
    ) -> Result<(), Over> {
        let waiting: Vec<String> = self
            .channels
            .iter()
            .filter(|(_, channel)| !channel.is_ready)
            .map(|(topic, _)| topic.clone())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let others_are_ready = self.channels.values().any(|channel| channel.is_ready);
        if !others_are_ready {
            *rows = rows.resubscribe();
        }
        for topic in waiting {
            let name = topic.trim_start_matches("realtime:").to_owned();
            let payload = json!({
                "extension": "postgres_changes", "status": "ok",
                "message": "Subscribed to PostgreSQL", "channel": name,
            });
            self.push(&topic, "system", payload).await?;
            if let Some(channel) = self.channels.get_mut(&topic) {
                channel.is_ready = true;
            }
            self.realtime.seen_mut().ready += 1;
        }
        Ok(())
    }

    /// A newer token: silence is consent.
    async fn renew(&mut self, message: &Message) -> Result<(), Over> {
        let Some(token) = message.payload.get("access_token").and_then(Value::as_str) else { return Ok(()) };
        if token.starts_with("sb_") {
            return Ok(());
        }
        self.realtime.seen_mut().renewed.push(token.to_owned());
        if let Some(why) = self.realtime.objection(Some(token)) {
            return self.complain_and_close(&message.topic, &why).await;
        }
        if let Some(channel) = self.channels.get_mut(&message.topic) {
            channel.token = Some(token.to_owned());
        }
        Ok(())
    }

    async fn obey(&mut self, order: &Order) -> Result<(), Over> {
        let topics: Vec<String> = self.channels.keys().cloned().collect();
        for topic in topics {
            match order {
                Order::Close => self.close(&topic).await?,
                Order::Crash => {
                    self.push(&topic, "phx_error", json!({})).await?;
                    self.channels.remove(&topic);
                }
                Order::Complain(extension, why) if extension == "system" => {
                    self.complain(&topic, extension, why).await?;
                }
                Order::Complain(extension, why) if extension == "postgres_changes" => {
                    self.complain(&topic, extension, why).await?;
                }
                Order::Complain(token, why) => {
                    if self.channels[&topic].token.as_ref() == Some(token) {
                        self.complain_and_close(&topic, why).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn tell(&mut self, row: &Inserted) -> Result<(), Over> {
        let record: Value = serde_json::from_str(&row.record).expect("a row is JSON");
        let fits = |wanted: &&Wanted| {
            let passes = |(column, value): &(String, String)| match &record[column] {
                Value::String(text) => text == value,
                other => *value == other.to_string().as_str(),
            };
            wanted.table == row.table && wanted.filter.as_ref().is_none_or(passes)
        };
        let told: Vec<(String, Vec<u64>)> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.is_ready)
            .map(|(topic, channel)| {
                (topic.clone(), channel.wanted.iter().filter(fits).map(|it| it.id).collect())
            })
            .filter(|(_, ids): &(_, Vec<u64>)| !ids.is_empty())
            .collect();
        for (topic, ids) in told {
            let names: Vec<Value> = record
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| json!({ "name": name, "type": "text" }))
                .collect();
            let payload = json!({ "ids": ids, "data": {
                "type": "INSERT", "schema": "public", "table": row.table,
                "commit_timestamp": record["created_at"], "columns": names, "record": record, "errors": null,
            }});
            self.realtime.seen_mut().told += 1;
            self.push(&topic, "postgres_changes", payload).await?;
        }
        Ok(())
    }

    async fn complain_and_close(&mut self, topic: &str, why: &str) -> Result<(), Over> {
        self.complain(topic, "system", why).await?;
        self.close(topic).await
    }

    async fn complain(&mut self, topic: &str, extension: &str, why: &str) -> Result<(), Over> {
        let payload = json!({ "extension": extension, "status": "error", "message": why, "channel": topic });
        self.push(topic, "system", payload).await
    }

    async fn close(&mut self, topic: &str) -> Result<(), Over> {
        self.push(topic, "phx_close", json!({})).await?;
        self.channels.remove(topic);
        Ok(())
    }

    async fn push(&mut self, topic: &str, event: &str, payload: Value) -> Result<(), Over> {
        let join_ref = self.channels.get(topic).map_or(Value::Null, |channel| channel.join_ref.clone());
        let (topic, event) = (topic.to_owned(), event.to_owned());
        let number =
            if event == "phx_close" || event == "phx_error" { join_ref.clone() } else { Value::Null };
        self.say(&Message { join_ref, number, topic, event, payload }).await
    }

    async fn say(&mut self, message: &Message) -> Result<(), Over> {
        let text = self.version.write(message);
        self.frames.send(protocol::Message::text(text)).await.map_err(|_| Over)
    }
}

fn wanted(payload: &Value) -> Result<Vec<Wanted>, String> {
    let config = payload.get("config").cloned().unwrap_or_default();
    let asked = config.get("postgres_changes").and_then(Value::as_array).cloned().unwrap_or_default();
    let one = |(index, asked): (usize, &Value)| {
        let text = |name| asked.get(name).and_then(Value::as_str);
        let event = text("event").unwrap_or_default();
        if !matches!(event, "INSERT" | "*") || text("schema") != Some("public") {
            return Err(format!("Unable to subscribe to changes with given parameters: {asked}"));
        }
        let filter = match text("filter").filter(|filter| !filter.is_empty()) {
            None => None,
            Some(filter) => match filter.split_once("=eq.") {
                Some((column, value)) => Some((column.to_owned(), value.to_owned())),
                None => return Err(format!("Error parsing `filter` params: {filter:?}")),
            },
        };
        let id = 1_000 + u64::try_from(index).unwrap_or_default();
        Ok(Wanted { id, table: text("table").unwrap_or_default().to_owned(), filter })
    };
    asked.iter().enumerate().map(one).collect()
}
