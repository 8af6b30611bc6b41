//! A cloud on this machine: ThingSpeak's API, PostgREST and Realtime, as strict as their documentation
//! and their recorded replies, on two ports of 127.0.0.1. What was stored can be asked for, and each
//! service has a [`Line`] on which things go wrong on demand.
//!
//! The demo shows the gateway against it, and the sinks' tests judge them by it: every double of a far side
//! is here, so that there is one place to make stricter when a real one is found to behave otherwise.

mod line;

mod reply;

mod timestamp;

mod thingspeak;

mod postgrest;

mod realtime;

#[cfg(test)]
mod tests;

use std::io;

use tokio_util::sync::CancellationToken;

use crate::tasks::{Stage, Tasks};

pub use line::{Fault, Line};
pub use postgrest::{ApiKey, Column, Grant, Kind, PostgRest, PostgRestSettings, Role, Row, Table, Unique};
pub use realtime::{Realtime, Seen};
pub use reply::Reply;
pub use thingspeak::{Entry, ThingSpeak, ThingSpeakSettings};

/// What the two services are like.
#[derive(Debug, Clone, Default)]
pub struct CloudSettings {
    /// The ThingSpeak channel.
    pub thingspeak: ThingSpeakSettings,
    /// The Supabase project.
    pub supabase: PostgRestSettings,
}

/// Both services, running until this is dropped.
#[derive(Debug)]
pub struct Cloud {
    /// ThingSpeak.
    pub thingspeak: ThingSpeak,
    /// Supabase.
    pub supabase: PostgRest,
    end: CancellationToken,
}

impl Cloud {
    /// Starts both on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(settings: CloudSettings) -> io::Result<Self> {
        let tasks = Tasks::default();
        let spawner = tasks.spawner(Stage::Service);
        let thingspeak = ThingSpeak::start(settings.thingspeak, &spawner).await?;
        let supabase = PostgRest::start(settings.supabase, &spawner).await?;
        Ok(Self { thingspeak, supabase, end: spawner.cancelled().clone() })
    }

    /// Takes both services off the net: connections are cut, new ones refused. Returns when that is so.
    pub async fn go_away(&self) {
        self.thingspeak.line().go_away().await;
        self.supabase.line().go_away().await;
    }

    /// Brings both services back, on the same ports. Returns when they answer again.
    pub async fn come_back(&self) {
        self.thingspeak.line().come_back().await;
        self.supabase.line().come_back().await;
    }
}

/// The second, counted from 1970-01-01 UTC, of a time as [`Row::text`] gives it.
#[must_use]
pub fn unix_seconds(text: &str) -> Option<i64> {
    timestamp::parse(text, false).ok().map(time::OffsetDateTime::unix_timestamp)
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
