//! The `[[rule]]` tables.

use std::collections::BTreeSet;
use std::time::Duration;

use figment::value::Value;

use super::command_sources::qos;
use super::table::{Table, shown};
use super::{Condition, PayloadFormat, Rule, RuleCommand, Side, Stream};
use crate::message::{DeviceId, Template};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// How long a rule's command is good, unless it says something else.
const GOOD_FOR: Duration = Duration::from_secs(300);

/// Places in the texts of a rule.
const PLACES: &[&str] = &["device", "source", "rule", "value"];

pub(super) fn rules(root: &mut Table, streams: &[Stream]) -> Vec<Rule> {
    let mut names = BTreeSet::new();
    let mut rules: Vec<Rule> = Vec::new();
    for (path, dict) in root.tables("rule") {
        let mut table = Table::new(path, dict, root.notes);
        if let Some(rule) = rule(&mut table, streams) {
            if !names.insert(rule.name.clone()) {
                table.wrong("name", None, "another rule has this name");
            }
            rules.push(rule);
        }
        table.finish();
    }
    rules
}

fn rule(table: &mut Table, streams: &[Stream]) -> Option<Rule> {
    let name = table.parsed("name", |text| DeviceId::parse(text).map(|name| name.to_string()));
    if name.is_none() {
        table.missing("name", "a short name, such as \"co-alarm\"");
    }
    let stream = table.parsed("stream", |text| {
        let names: Vec<_> = streams.iter().map(|stream| stream.name.as_str()).collect();
        let known = streams.iter().find(|stream| stream.name == text);
        known.ok_or_else(|| format!("there is no such stream; there are: {}", names.join(", ")))
    });
    if stream.is_none() && streams.len() > 1 {
        table.missing("stream", "the stream whose readings it looks at");
    }
    let stream = stream.or(streams.first().filter(|_| streams.len() == 1));
    let devices = table.list("devices", DeviceId::parse).unwrap_or_default();
    let field = table.text("field");
    if let Some(stream) = stream {
        check_field(table, field.as_deref(), stream);
    }
    let condition = condition(table);
    let log = table.parsed("log", |text| Template::parse(text, PLACES));
    let send = table.table_if_there("send").and_then(command);
    if log.is_none() && send.is_none() {
        table.missing(
            "send",
            "what it brings about: { device = \"buzzer\", payload = \"on\" }, or log = \"…\"",
        );
    }
    if condition == Some(Condition::Changed) && send.as_ref().is_some_and(|it| it.clear_payload.is_some()) {
        table.wrong("send.clear_payload", None, "a change does not last, so it never ends");
    }
    Some(Rule { name: name?, stream: stream?.name.clone(), devices, field, condition: condition?, log, send })
}

fn check_field(table: &mut Table, field: Option<&str>, stream: &Stream) {
    let name = &stream.name;
    match (field, stream.format) {
        (None, PayloadFormat::Json) => {
            table.missing(
                "field",
                "which member of the JSON object, such as \"co\" or \"DS18B20.Temperature\"",
            );
        }
        (Some(_), PayloadFormat::Number | PayloadFormat::Text) => {
            let what = format!("the stream {name} has no fields: the whole payload is the value");
            table.wrong("field", None, what);
        }
        _ => {}
    }
}

fn condition(table: &mut Table) -> Option<Condition> {
    let above = number(table, "above");
    let below = number(table, "below");
    let clear_below = number(table, "clear_below");
    let clear_above = number(table, "clear_above");
    let hold = table.duration("for", Duration::ZERO..=DAY);
    let missing = table.duration("missing_for", SECOND..=MONTH);
    let changed = table.value::<bool>("changed", "true").filter(|changed| *changed);
    let given = [above.is_some(), below.is_some(), missing.is_some(), changed.is_some()];
    let expected = "one of above = 300, below = 5, missing_for = \"5m\", changed = true";
    if given.iter().filter(|given| **given).count() > 1 {
        table.wrong("above", None, format!("a rule has one condition: {expected}"));
        return None;
    }
    let beyond = match (above, below) {
        (Some(limit), _) => Some((Side::Above, limit, clear_below)),
        (_, Some(limit)) => Some((Side::Below, limit, clear_above)),
        _ => None,
    };
    let (useless, key) = match beyond {
        Some((Side::Above, ..)) => (clear_above.is_some(), "clear_above"),
        Some((Side::Below, ..)) => (clear_below.is_some(), "clear_below"),
        None => (clear_above.or(clear_below).is_some() || hold.is_some(), "for"),
    };
    if useless {
        let what = "`for` and clear_below belong to above, `for` and clear_above to below";
        table.wrong(key, None, what);
    }
    if let Some((side, limit, clear)) = beyond {
        let clear = clear.unwrap_or(limit);
        let hold = hold.unwrap_or_default();
        let is_inside = if side == Side::Above { clear <= limit } else { clear >= limit };
        if !is_inside {
            let key = if side == Side::Above { "clear_below" } else { "clear_above" };
            table.wrong(
                key,
                None,
                format!("{clear} is beyond the limit {limit}: it would end before it begins"),
            );
        }
        return Some(Condition::Beyond { side, limit, clear, hold });
    }
    let other = missing.map(Condition::MissingFor).or(changed.map(|_| Condition::Changed));
    if other.is_none() {
        table.missing("above", expected);
    }
    other
}

fn number(table: &mut Table, key: &'static str) -> Option<f64> {
    let value = table.take(key)?;
    let number = match &value {
        Value::Num(_, number) => number.to_f64().or_else(|| number.to_i128().map(|whole| whole as f64)),
        _ => None,
    };
    let number = number.filter(|number| number.is_finite());
    if number.is_none() {
        table.wrong(key, Some(&value), format!("{} is not a number such as 300 or 21.5", shown(&value)));
    }
    number
}

fn command(mut table: Table) -> Option<RuleCommand> {
    let template = |text: &str| Template::parse(text, PLACES);
    let device = table.parsed("device", DeviceId::parse);
    let topic = table.parsed("topic", template);
    let topic = topic.or_else(|| Template::parse("{device}/cmd", PLACES).ok());
    let payload = table.parsed("payload", template);
    if payload.is_none() {
        table.missing("payload", "what is sent, such as \"on\" or {\"co\": {value}}");
    }
    let clear_payload = table.parsed("clear_payload", template);
    let qos = qos(&mut table);
    let good_for = table.duration("good_for", SECOND..=DAY).unwrap_or(GOOD_FOR);
    table.finish();
    Some(RuleCommand { device, topic: topic?, payload: payload?, clear_payload, qos, good_for })
}
