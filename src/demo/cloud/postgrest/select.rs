//! Which rows a request means: filters, columns, order and limit of its query; and what an update writes.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::refusal::Refusal;
use super::table::Table;
use super::value::Cell;

/// A query as it was asked.
#[derive(Debug, Default)]
pub(super) struct Select {
    filters: Vec<(String, Test)>,
    columns: Option<Vec<String>>,
    order: Option<String>,
    limit: Option<usize>,
}

/// The same with the places of columns.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) filters: Vec<Filter>,
    pub(super) columns: Vec<usize>,
    pub(super) order: usize,
    pub(super) limit: usize,
}

/// A condition on one column.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) column: usize,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    IsNull(bool),
    In(Vec<String>),
    After(String),
}

impl Filter {
    pub(super) fn passes(&self, cell: &Cell) -> bool {
        match (&self.test, cell) {
            (Test::IsNull(wanted), cell) => (*cell == Cell::Null) == *wanted,
            (_, Cell::Null) => false,
            (Test::In(texts), cell) => cell.text().is_some_and(|text| texts.contains(&text)),
            (Test::After(text), Cell::Bigint(number)) => text.parse().is_ok_and(|after: i64| *number > after),
            (Test::After(text), cell) => cell.text().is_some_and(|own| own > *text),
        }
    }
}

impl Select {
    pub(super) fn parse(query: &[(String, String)]) -> Result<Self, Refusal> {
        let unclear = |text: &str| {
            Refusal::new(400, "PGRST100", format!("\"failed to parse filter ({text})\" (line 1, column 1)"))
        };
        let mut select = Self::default();
        for (name, value) in query {
            match name.as_str() {
                "select" => select.columns = Some(value.split(',').map(str::to_owned).collect()),
                "order" => select.order = Some(value.trim_end_matches(".asc").to_owned()),
                "limit" => select.limit = Some(value.parse().map_err(|_| unclear(value))?),
                _ => select.filters.push((name.clone(), test(value).ok_or_else(|| unclear(value))?)),
            }
        }
        Ok(select)
    }

    pub(super) fn plan(&self, table: &Table) -> Result<Plan, Refusal> {
        let place = |name: &str| {
            let message = format!("column {}.{name} does not exist", table.name);
            table.column(name).ok_or_else(|| Refusal::new(400, "42703", message))
        };
        let filter = |(name, test): &(String, Test)| Ok(Filter { column: place(name)?, test: test.clone() });
        Ok(Plan {
            filters: self.filters.iter().map(filter).collect::<Result<_, _>>()?,
            columns: match &self.columns {
                Some(names) => names.iter().map(|name| place(name)).collect::<Result<_, _>>()?,
                None => (0..table.columns.len()).collect(),
            },
            order: self.order.as_deref().map_or(Ok(0), place)?,
            limit: self.limit.unwrap_or(usize::MAX),
        })
    }
}

fn test(text: &str) -> Option<Test> {
    if let Some(list) = text.strip_prefix("in.(") {
        let texts = list.strip_suffix(')')?.split(',').map(|text| text.trim_matches('"').to_owned());
        return Some(Test::In(texts.collect()));
    }
    match text.split_once('.')? {
        ("eq", value) => Some(Test::In(vec![value.to_owned()])),
        ("gt", value) => Some(Test::After(value.to_owned())),
        ("is", "null") => Some(Test::IsNull(true)),
        ("not", "is.null") => Some(Test::IsNull(false)),
        _ => None,
    }
}

/// The values that the body of an update gives to columns.
pub(super) fn values(body: &[u8], table: &Table) -> Result<Vec<(usize, Cell)>, Refusal> {
    let object: BTreeMap<String, &RawValue> =
        serde_json::from_slice(body).map_err(|_| Refusal::invalid_json())?;
    let value = |(name, json): (&String, &&RawValue)| {
        let message = format!("Could not find the '{name}' column of '{}' in the schema cache", table.name);
        let at = table.column(name).ok_or_else(|| Refusal::new(400, "PGRST204", message))?;
        Ok((at, Cell::read(json, table.columns[at].kind)?))
    };
    object.iter().map(value).collect()
}
