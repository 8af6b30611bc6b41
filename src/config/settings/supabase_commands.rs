//! A Supabase table that commands come from.

use std::time::Duration;

use crate::config::{Renewable, Secret};
use crate::message::{Qos, Template};

/// A Supabase table that commands come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupabaseCommands {
    /// `https://<ref>.supabase.co`, or the base of another PostgREST with `rest_path`.
    pub url: String,
    /// `/rest/v1` on Supabase.
    pub rest_path: String,
    /// `/realtime/v1` on Supabase; `None` where there is no Realtime, and the table is asked alone.
    pub realtime_path: Option<String>,
    /// The key: `sb_secret_…`, `sb_publishable_…` or a legacy JWT.
    pub key: Secret,
    /// A JWT of the role to act for, when that is not the key's. One in a file may be replaced at any time.
    pub token: Option<Renewable>,
    /// The schema; `None` for `public`.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// The topic of a command whose row names none: `{device}`.
    pub topic: Template,
    /// What a command says: `{device}`, and `{value}` for what stands in the row.
    pub payload: Template,
    /// The QoS of a command whose row has none.
    pub qos: Qos,
    /// How long a command is good whose row does not say it, counted from `created_at`.
    pub good_for: Duration,
    /// Where a device answers a command whose row does not say it: `{device}`.
    pub reply_topic: Option<Template>,
    /// How often the table is asked while Realtime does not tell what is new; ten times as rarely while it does.
    pub interval: Duration,
}
