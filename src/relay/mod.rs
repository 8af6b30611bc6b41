//! The way back: commands for devices, each kept until it has an end, and where they come from.
//!
//! [`Ledger`] has every command on disk before anybody hears that it was accepted. Sources accept commands into it
//! and read what became of them; the broker takes them from it and tells it what the device says. Neither knows the
//! other: `relay` imports nothing of the broker.

mod command;
mod ledger;
mod record;
mod shown;

pub use command::{Command, FailedIf, NewCommand, Origin, Reply, SharedCommand, Source, State};
pub use ledger::{
    Accepted, Figures, Ledger, NotAccepted, NotCancelled, Page, Postman, Said, Undelivered, Wanted,
};
pub use shown::{Shown, ShownStep};
