//! An insert as it was asked for: preferences, columns, rows.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::HeaderMap;
use serde_json::value::RawValue;

use super::refusal::Refusal;
use super::table::{Inserted, Resolution, Table};
use super::text;
use super::value::Cell;
use crate::demo::cloud::Reply;

/// Preferences that PostgREST knows, in the order in which `Preference-Applied` names them.
const PREFERENCES: [&str; 8] =
    ["resolution", "missing", "return", "count", "tx", "handling", "timezone", "max-affected"];

/// A parsed request.
pub(super) struct Insert<'a> {
    preferences: BTreeMap<&'static str, String>,
    on_conflict: Option<Vec<&'a str>>,
    /// From `columns=`, or from the keys of the objects, which are all alike.
    columns: BTreeSet<String>,
    rows: Vec<BTreeMap<String, &'a RawValue>>,
}

impl<'a> Insert<'a> {
    pub(super) fn parse(
        headers: &HeaderMap,
        query: &'a BTreeMap<String, String>,
        body: &'a [u8],
    ) -> Result<Self, Refusal> {
        let preferences = preferences(headers)?;
        if let Some(schema) = text(headers, "content-profile").filter(|schema| *schema != "public") {
            return Err(Refusal::new(406, "PGRST106", format!("Invalid schema: {schema}"))
                .hint("Only the following schemas are exposed: public"));
        }
        if let Some(kind) = text(headers, "content-type").filter(|kind| !kind.starts_with("application/json"))
        {
            return Err(Refusal::new(400, "PGRST102", format!("Content-Type not acceptable: {kind}")));
        }
        let names = |key: &str| query.get(key).map(|list| list.split(',').map(|name| name.trim_matches('"')));
        let (columns, rows) = match names("columns") {
            Some(names) => (names.map(str::to_owned).collect(), rows_for_database(body)?),
            None => rows_for_postgrest(body)?,
        };
        Ok(Self { preferences, on_conflict: names("on_conflict").map(Iterator::collect), columns, rows })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Checks the names against the table, and finds the index that a conflict is resolved by.
    pub(super) fn plan(&self, table: &Table) -> Result<Resolution, Refusal> {
        if let Some(unknown) = self.columns.iter().find(|name| table.column(name).is_none()) {
            let message =
                format!("Could not find the '{unknown}' column of '{}' in the schema cache", table.name);
            return Err(Refusal::new(400, "PGRST204", message));
        }
        let Some(wanted) = self.preferences.get("resolution") else { return Ok(Resolution::Fail) };
        let index = match &self.on_conflict {
            None => 0,
            Some(names) => {
                let names: BTreeSet<&str> = names.iter().copied().collect();
                let fits = |columns: &[&str]| columns.iter().copied().collect::<BTreeSet<_>>() == names;
                table.unique.iter().position(|unique| fits(unique.columns)).ok_or_else(no_such_index)?
            }
        };
        match wanted.as_str() {
            _ if index >= table.unique.len() => Ok(Resolution::Fail),
            "merge-duplicates" => Ok(Resolution::Merge(index)),
            _ => Ok(Resolution::Ignore(index)),
        }
    }

    /// A value for each column of the table; `None` where the default is to be taken. Every row is read
    /// before the first is inserted.
    pub(super) fn cells(&self, table: &Table) -> Result<Vec<Vec<Option<Cell>>>, Refusal> {
        let missing_is_default = self.preferences.get("missing").is_some_and(|missing| missing == "default");
        let row = |row: &BTreeMap<String, &RawValue>| {
            let mut cells = vec![None; table.columns.len()];
            for name in &self.columns {
                let at = table.column(name).expect("the plan has looked at it");
                cells[at] = match row.get(name) {
                    Some(json) => Some(Cell::read(json, table.columns[at].kind)?),
                    None if missing_is_default => None,
                    None => Some(Cell::Null),
                };
            }
            Ok(cells)
        };
        self.rows.iter().map(row).collect()
    }

    /// The reply to an insert that went well.
    pub(super) fn reply(&self, inserted: &Inserted) -> Reply {
        let preferred = |name| self.preferences.get(name).map(String::as_str);
        let changed = inserted.representation.len();
        let status = if changed > 0 && inserted.new == 0 { 200 } else { 201 };
        let reply = match preferred("return") {
            Some("representation") => {
                Reply::json(status, format!("[{}]", inserted.representation.join(", \n ")))
            }
            _ => Reply::empty(status),
        };
        let counted = preferred("count").map_or("*".to_owned(), |_| changed.to_string());
        let reply = reply
            .with_header("content-range", format!("*/{counted}"))
            .with_header("vary", "Accept, Prefer, Range");
        let applied = PREFERENCES.iter().filter_map(|name| Some(format!("{name}={}", preferred(name)?)));
        match applied.collect::<Vec<_>>().join(", ") {
            applied if applied.is_empty() => reply,
            applied => reply.with_header("preference-applied", applied),
        }
    }
}

fn no_such_index() -> Refusal {
    let message = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
    Refusal::new(400, "42P10", message)
}

fn preferences(headers: &HeaderMap) -> Result<BTreeMap<&'static str, String>, Refusal> {
    let (mut known, mut unknown) = (BTreeMap::new(), Vec::new());
    let lines = headers.get_all("prefer").iter().filter_map(|line| line.to_str().ok());
    for preference in lines.flat_map(|line| line.split(',')).map(str::trim) {
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        let allowed: &[&str] = match name {
            "resolution" => &["ignore-duplicates", "merge-duplicates"],
            "missing" => &["default", "null"],
            "return" => &["minimal", "headers-only", "representation"],
            "count" => &["exact", "planned", "estimated"],
            "handling" => &["strict", "lenient"],
            _ => &[],
        };
        match PREFERENCES.iter().find(|known| **known == name) {
            Some(name) if allowed.contains(&value) => _ = known.entry(*name).or_insert(value.to_owned()),
            _ => unknown.push(preference.to_owned()),
        }
    }
    if known.get("handling").is_some_and(|handling| handling == "strict") && !unknown.is_empty() {
        return Err(Refusal::new(400, "PGRST122", "Invalid preferences given with handling=strict")
            .details(format!("Invalid preferences: {}", unknown.join(", "))));
    }
    Ok(known)
}

type Rows<'a> = Vec<BTreeMap<String, &'a RawValue>>;

/// Without `columns=` PostgREST reads the body, and takes the columns from the first object.
fn rows_for_postgrest(body: &[u8]) -> Result<(BTreeSet<String>, Rows<'_>), Refusal> {
    let whole: &RawValue = serde_json::from_slice(body).map_err(|_| Refusal::invalid_json())?;
    let elements = match whole.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(whole.get()).map_err(|_| Refusal::invalid_json())?,
        Some(b'{') => vec![whole],
        // A bare value is taken, and nothing is inserted.
        _ => Vec::new(),
    };
    let unlike = || Refusal::new(400, "PGRST102", "All object keys must match");
    let objects = elements.into_iter().map(|element| serde_json::from_str(element.get()));
    let rows: Rows<'_> = objects.collect::<Result<_, _>>().map_err(|_| unlike())?;
    let keys = |row: &BTreeMap<String, _>| row.keys().cloned().collect::<BTreeSet<_>>();
    let columns = rows.first().map(keys).unwrap_or_default();
    if rows.iter().any(|row| !row.keys().eq(&columns)) {
        return Err(unlike());
    }
    Ok((columns, rows))
}

/// With `columns=` the body goes to the database as it is, whose words for bad JSON are others.
fn rows_for_database(body: &[u8]) -> Result<Rows<'_>, Refusal> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Refusal::new(400, "22021", "invalid byte sequence for encoding \"UTF8\""))?;
    let bad = |_| Refusal::new(400, "22P02", "invalid input syntax for type json");
    let whole: &RawValue = serde_json::from_str(text).map_err(bad)?;
    let elements: Vec<&RawValue> = match whole.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(whole.get()).map_err(bad)?,
        Some(b'{') => vec![whole],
        _ => return Err(Refusal::new(400, "22023", "cannot call json_to_recordset on a scalar")),
    };
    let not_an_object =
        |_| Refusal::new(400, "22023", "argument of json_to_recordset must be an array of objects");
    elements.into_iter().map(|element| serde_json::from_str(element.get()).map_err(not_an_object)).collect()
}
