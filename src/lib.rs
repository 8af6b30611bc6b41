//! tampu: an MQTT edge gateway that keeps what it has acknowledged.
//!
//! ```text
//! device ─TLS─▶ listener ─▶ broker::session ─▶ authorize ─▶ buffer ═fdatasync═▶ PUBACK
//!                                │                            │
//!                                └─▶ subscribers              └─▶ forwarder ─▶ sink (ThingSpeak, Supabase)
//! ```
//!
//! The modules stand in the order in which a reading meets them. What a module may
//! import points down this path; `tests/` holds a test that says so.

#![warn(missing_docs)]

pub mod message;

pub mod config;

pub mod clock;

pub mod tasks;

pub mod pki;

pub mod listener;

pub mod audit;

pub mod authorize;

pub mod broker;

pub mod relay;

pub mod buffer;

pub mod forwarder;

pub mod sink;

pub mod web;

pub mod firmware;

pub mod messages;

pub mod api;

pub mod gateway;

pub mod cli;

pub mod demo;
