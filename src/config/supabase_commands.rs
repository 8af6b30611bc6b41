//! A `[[command_source]]` of type `supabase`.

use std::time::Duration;

use super::SupabaseCommands;
use super::command_sources::{DAY, GOOD_FOR, SECOND, qos};
use super::sinks::{base_url, identifier};
use super::table::Table;
use crate::message::Template;

const INTERVAL: Duration = Duration::from_secs(30);

pub(super) fn supabase_commands(table: &mut Table) -> Option<SupabaseCommands> {
    let url = base_url(table);
    if url.is_none() {
        table.missing("url", "the project's address, such as \"https://<ref>.supabase.co\"");
    }
    let rest_path = table.text("rest_path").unwrap_or_else(|| "/rest/v1".to_owned());
    let realtime_path = table.text("realtime_path").unwrap_or_else(|| "/realtime/v1".to_owned());
    let realtime = table.value("realtime", "true or false").unwrap_or(true);
    let key = table.secret("key");
    if key.is_none() {
        table.missing("key", "an API key, for example { credential = \"supabase-key\" }");
    }
    let token = table.renewable("token");
    let schema = table.parsed("schema", identifier);
    let name = table.parsed("table", identifier).unwrap_or_else(|| "commands".to_owned());
    let of_device = |text: &str| Template::parse(text, &["device"]);
    let topic = table.parsed("topic", of_device).or_else(|| of_device("{device}/cmd").ok());
    let of_value = |text: &str| Template::parse(text, &["device", "value"]);
    let payload = table.parsed("payload", of_value).or_else(|| of_value("{value}").ok());
    let qos = qos(table);
    let good_for = table.duration("good_for", SECOND..=DAY).unwrap_or(GOOD_FOR);
    let reply_topic = table.parsed("reply_topic", of_device);
    let interval = table.duration("interval", SECOND..=DAY).unwrap_or(INTERVAL);
    Some(SupabaseCommands {
        url: url?,
        rest_path,
        realtime_path: realtime.then_some(realtime_path),
        key: key?,
        token,
        schema,
        table: name,
        topic: topic?,
        payload: payload?,
        qos,
        good_for,
        reply_topic,
        interval,
    })
}
