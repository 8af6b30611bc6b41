//! The normative statements of MQTT 3.1.1 and MQTT 5.0 that bind a server, each with the test that shows it.
//!
//! A test's doc comment names its statements, by version; `docs/mqtt-conformance.md` lists all statements, and
//! `page` holds the two together.

#![allow(clippy::unwrap_used, reason = "all of it is test; clippy knows functions marked as one alone")]

#[path = "../harness/mod.rs"]
mod harness;

mod broker;
mod client;
mod packet;
mod steps;

/// What nearly every test needs.
mod prelude {
    pub(crate) use crate::broker::Broker;
    pub(crate) use crate::client::{Client, Connect, Publish, V3, V5, Version, Will, unique};
    pub(crate) use crate::packet::{self, Body, Kind, Prop, Received};
    pub(crate) use crate::steps::*;
}

/// Tests for both versions, or for the one whose statement is named. Each becomes a module with a test a version.
macro_rules! judged {
    ($($(#[$doc:meta])+ fn $name:ident($version:ident $(= $only:ident)?) $body:block)*) => {
        $(judged!(@one $(#[$doc])+ $name $version [$($only)?] $body);)*
    };
    (@one $(#[$doc:meta])+ $name:ident $version:ident [$($only:ident)?] $body:block) => {
        $(#[$doc])+
        mod $name {
            use super::*;
            fn judge($version: Version) $body
            judged!(@tests $($only)?);
        }
    };
    (@tests) => {
        judged!(@tests V3);
        judged!(@tests V5);
    };
    (@tests V3) => {
        #[test]
        fn v3() {
            judge(V3);
        }
    };
    (@tests V5) => {
        #[test]
        fn v5() {
            judge(V5);
        }
    };
}

mod aliases;
mod connack;
mod connect;
mod disconnect;
mod errors;
mod expiry;
mod flow_control;
mod framing;
mod keep_alive;
mod page;
mod properties;
mod publish;
mod qos1;
mod qos2;
mod reasons;
mod request_response;
mod retained;
mod sessions;
mod shared;
mod subscribe;
mod topics;
mod unsubscribe;
mod utf8;
mod wills;
