//! The cloud of `tampu demo`, for tests that do not run in a runtime of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tampu::demo::cloud::{Cloud, CloudSettings, PostgRest, Row, ThingSpeak, ThingSpeakSettings};
use tokio::runtime::Runtime;

pub(crate) struct LocalCloud {
    runtime: Runtime,
    cloud: Cloud,
}

impl LocalCloud {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let interval = Duration::from_millis(20);
        let settings = CloudSettings {
            thingspeak: ThingSpeakSettings { interval, ..ThingSpeakSettings::default() },
            ..CloudSettings::default()
        };
        let cloud = runtime.block_on(Cloud::start(settings)).expect("two free ports");
        Self { runtime, cloud }
    }

    /// The settings of a sink that writes to the table of `packaging/supabase/schema.sql`.
    pub(crate) fn supabase_sink(&self) -> String {
        let url = self.cloud.supabase.line().url();
        format!(
            "[[sink]]\nname = \"database\"\ntype = \"supabase\"\nurl = \"{url}\"\nkey = \"sb_secret_demo\"\n\
             interval = \"0s\"\n"
        )
    }

    /// The settings of a sink that writes `t` of every payload to `field1`.
    pub(crate) fn thingspeak_sink(&self) -> String {
        let (url, settings) = (self.cloud.thingspeak.line().url(), self.cloud.thingspeak.settings());
        format!(
            "[[sink]]\nname = \"channel\"\ntype = \"thingspeak\"\nurl = \"{url}\"\nchannel = {}\n\
             write_key = \"{}\"\nfields = {{ field1 = \"t\" }}\ninterval = \"100ms\"\n",
            settings.channel, settings.write_key
        )
    }

    /// The settings of a source that takes commands from the other table of that schema.
    pub(crate) fn supabase_commands(&self) -> String {
        let url = self.cloud.supabase.line().url();
        format!(
            "[[command_source]]\nname = \"cloud\"\ntype = \"supabase\"\nurl = \"{url}\"\n\
             key = \"sb_secret_demo\"\ninterval = \"1s\"\n"
        )
    }

    /// Somebody wants something done.
    pub(crate) fn insert_command(&self, row: &Value) {
        self.cloud.supabase.insert("commands", row).expect("the table takes it");
    }

    /// A column of every command, in the order of their ids.
    pub(crate) fn commands(&self, column: &str) -> Vec<Option<String>> {
        let rows = self.cloud.supabase.rows("commands");
        rows.iter().map(|row| row.text(column).map(str::to_owned)).collect()
    }

    pub(crate) fn supabase(&self) -> &PostgRest {
        &self.cloud.supabase
    }

    /// The settings of a TalkBack whose commands are for `lamp`, which answers; its outcomes are told to the channel.
    pub(crate) fn talkback(&self) -> String {
        let (url, settings) = (self.thingspeak().line().url(), self.thingspeak().settings());
        format!(
            "[[command_source]]\nname = \"dashboard\"\ntype = \"talkback\"\nurl = \"{url}\"\ntalkback = {}\n\
             key = \"{}\"\ninterval = \"1s\"\ndevice = \"lamp\"\nreply_topic = \"{{device}}/reply\"\n\
             report = {{ write_key = \"{}\", interval = \"1s\" }}\n",
            settings.talkback, settings.talkback_key, settings.write_key
        )
    }

    /// The settings of a slider, `field2` of the channel, for `lamp`.
    pub(crate) fn slider(&self) -> String {
        let (url, settings) = (self.thingspeak().line().url(), self.thingspeak().settings());
        format!(
            "[[command_source]]\nname = \"slider\"\ntype = \"thingspeak_field\"\nurl = \"{url}\"\n\
             channel = {}\nread_key = \"{}\"\nfield = 2\ninterval = \"1s\"\ndevice = \"lamp\"\n\
             payload = '{{\"pwm\":{{value}}}}'\n",
            settings.channel, settings.read_key
        )
    }

    pub(crate) fn thingspeak(&self) -> &ThingSpeak {
        &self.cloud.thingspeak
    }

    /// What the channel's status was told, outcome by outcome.
    pub(crate) fn outcomes(&self) -> Vec<String> {
        let entries = self.cloud.thingspeak.entries();
        let statuses = entries.iter().filter_map(|entry| entry.values.get("status"));
        statuses.flat_map(|status| status.split("; ").map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    pub(crate) fn go_away(&self) {
        self.runtime.block_on(self.cloud.go_away());
    }

    pub(crate) fn come_back(&self) {
        self.runtime.block_on(self.cloud.come_back());
    }

    /// The rows of `readings`, in the order of their sequence numbers.
    pub(crate) fn rows(&self) -> Vec<Reading> {
        let mut rows: Vec<_> = self.cloud.supabase.rows("readings").iter().map(Reading::from_row).collect();
        rows.sort_by_key(|row| (row.epoch, row.seq));
        rows
    }

    /// The values of `field1`, with how often each is there.
    pub(crate) fn field1(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for entry in self.cloud.thingspeak.entries() {
            if let Some(value) = entry.values.get("field1") {
                *found.entry(value.clone()).or_default() += 1;
            }
        }
        found
    }
}

/// A row as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub(crate) gateway: String,
    pub(crate) epoch: i64,
    pub(crate) seq: i64,
    pub(crate) device: String,
    pub(crate) stream: String,
    pub(crate) topic: String,
    pub(crate) received_at: String,
    pub(crate) clock: String,
    pub(crate) payload: Value,
}

impl Reading {
    fn from_row(row: &Row) -> Self {
        let text =
            |column| row.text(column).unwrap_or_else(|| panic!("{column} is null: {row:?}")).to_owned();
        let number = |column| text(column).parse().unwrap_or_else(|e| panic!("{column}: {e}: {row:?}"));
        Self {
            gateway: text("gateway_id"),
            epoch: number("epoch"),
            seq: number("seq"),
            device: text("device"),
            stream: text("stream"),
            topic: text("topic"),
            received_at: text("received_at"),
            clock: text("clock"),
            payload: serde_json::from_str(&text("payload")).expect("a payload is JSON"),
        }
    }
}
