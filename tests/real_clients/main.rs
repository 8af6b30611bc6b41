//! The real program against programs that we did not write, from Debian: `mosquitto_pub` and
//! `mosquitto_sub`, and `faketime`. `tests/run` installs them; `cargo test` alone leaves this out.

#![allow(clippy::unwrap_used, reason = "all of it is test; clippy knows functions marked as one alone")]

#[path = "../harness/mod.rs"]
mod harness;

mod clock;
mod mosquitto;
