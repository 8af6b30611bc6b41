//! The way back: commands for devices, each kept until it has an end, and where they come from.
//!
//! [`Ledger`] has every command on disk before anybody hears that it was accepted. Sources accept commands into it
//! and read what became of them; the broker takes them from it and tells it what the device says. Neither knows the
//! other: `relay` imports nothing of the broker.

mod command;
mod ledger;
mod record;
pub mod rules;
mod shown;
mod source;
mod supabase;
mod thingspeak;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::supabase::SupabaseSource;
pub use self::thingspeak::{FieldSource, TalkBackSource};
use crate::clock::Clock;
use crate::config::{CommandSource, CommandSourceKind};
use crate::message::DeviceId;
use crate::sink::SinkError;

pub use command::{Command, FailedIf, NewCommand, Origin, Reply, SharedCommand, Source, State};
pub use ledger::{
    Accepted, Figures, Ledger, NoRoom, NotAccepted, NotCancelled, Page, Postman, Said, Undelivered, Wanted,
};
pub use shown::{Shown, ShownStep};
pub use source::SourceStatus;

/// Any of the far sides that commands come from.
#[derive(Debug)]
pub enum AnySource {
    /// A ThingSpeak TalkBack.
    TalkBack(Box<TalkBackSource>),
    /// A field of a ThingSpeak channel.
    Field(Box<FieldSource>),
    /// A Supabase table.
    Supabase(Box<SupabaseSource>),
}

/// A source that is set up, and how it is doing.
pub type Opened = (AnySource, watch::Receiver<SourceStatus>);

/// Makes the source that the settings ask for.
///
/// # Errors
/// What is wrong with a setting.
pub fn open(
    settings: &CommandSource,
    gateway: &DeviceId,
    ledger: &Ledger,
    clock: &Clock,
) -> Result<Opened, SinkError> {
    Ok(match &settings.kind {
        CommandSourceKind::TalkBack(kind) => {
            let (source, status) = TalkBackSource::new(settings, kind, ledger.clone(), clock)?;
            (AnySource::TalkBack(Box::new(source)), status)
        }
        CommandSourceKind::Field(kind) => {
            let (source, status) = FieldSource::new(settings, kind, ledger.clone(), clock)?;
            (AnySource::Field(Box::new(source)), status)
        }
        CommandSourceKind::Supabase(kind) => {
            let (source, status) = SupabaseSource::new(settings, kind, gateway, ledger.clone(), clock)?;
            (AnySource::Supabase(Box::new(source)), status)
        }
    })
}

impl AnySource {
    /// Asks for commands and tells what became of them, until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        match self {
            Self::TalkBack(source) => source.run(cancel).await,
            Self::Field(source) => source.run(cancel).await,
            Self::Supabase(source) => source.run(cancel).await,
        }
    }
}
