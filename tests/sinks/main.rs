//! Forwarders, sinks and the real buffer against the local cloud, over HTTP.

#![allow(clippy::unwrap_used, reason = "all of it is test; clippy knows functions marked as one alone")]

mod bench;
mod supabase;
mod thingspeak;
mod wire;
