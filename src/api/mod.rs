//! HTTP over the handles of the running parts; no logic of its own.
//!
//! - The REST API, `/api/v1/…`, for whoever has a token with the scope ([`router`]); `/healthz` and `/readyz` for
//!   supervisors; `/api/openapi.json` and `/api/docs`, which describe it.
//! - The Unix socket `tampu.sock` in the data directory (mode 0600), for the command line ([`Api`]).

mod access;
pub mod client;
mod commands;
mod devices;
mod extract;
mod firmware;
mod health;
mod idempotency;
mod keys;
mod limits;
pub mod local;
mod messages;
mod openapi;
mod page;
mod phones;
mod problem;
mod readings;
mod rest;
mod shape;
mod sinks;
mod socket;
mod store;
#[cfg(test)]
mod tests;

pub use access::Guards;
pub use rest::{Parts, router};
pub use sinks::Switches;
pub use socket::{Api, CertificateFigures, DeadLetter, Handles, Status, socket_path};
