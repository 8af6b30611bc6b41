//! The real program under attack over TLS, while a well-behaved client is served and must not notice.

#![allow(clippy::unwrap_used, reason = "all of it is test; clippy knows functions marked as one alone")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../store/random.rs"]
mod random;

mod client;
mod packet;
mod scene;

mod connections;
mod deadly;
mod doors;
mod flood;
mod greedy;
