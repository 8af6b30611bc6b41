//! The real program, driven over TLS by a client of others (rumqttc), with a cloud on this machine.

#![allow(clippy::unwrap_used, reason = "all of it is test; clippy knows functions marked as one alone")]
#![allow(clippy::result_large_err, reason = "rumqttc's error is what it is")]

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod anonymous;
mod api;
mod audit;
mod commands;
mod demo;
mod devices;
mod durability;
mod dying_disk;
mod every_refusal;
mod firmware;
mod identities;
mod kept;
mod local_rules;
mod messages;
mod plain;
mod refused;
mod reload;
mod revocation;
mod sending;
mod supabase_commands;
mod thingspeak_commands;
mod tight_loop;
mod websocket;
