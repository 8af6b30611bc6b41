//! Which readings make which rows: one each.

use super::super::payload::{self, Digits, Formats, quoted};
use super::super::{Batch, Plan, Row, TimedReading, Unsent};
use crate::config::{ColumnMapping, ColumnValue, SupabaseRows};
use crate::message::DeviceId;

/// The columns of `packaging/supabase/schema.sql` besides the key, in the order of a row.
const WHOLE: [&str; 6] = ["device", "stream", "topic", "received_at", "clock", "payload"];

/// Makes rows of readings.
#[derive(Debug)]
pub(super) struct Rows {
    /// `{"gateway_id":"…"`, with which every row begins.
    start: String,
    columns: Vec<ColumnMapping>,
    formats: Formats,
}

impl Rows {
    pub(super) fn new(rows: &SupabaseRows, gateway: &DeviceId, formats: Formats) -> Self {
        let columns = match rows {
            SupabaseRows::Whole => WHOLE.into_iter().map(whole_column).collect(),
            SupabaseRows::Columns(columns) => columns.clone(),
        };
        Self { start: format!("{{\"gateway_id\":{}", quoted(gateway.as_str())), columns, formats }
    }

    /// Every column that a row may have, as `columns=` wants them.
    pub(super) fn columns(&self) -> String {
        let mut names = super::KEY_COLUMNS.to_owned();
        for column in &self.columns {
            names.push(',');
            names.push_str(&column.column);
        }
        names
    }

    pub(super) fn plan(&self, batch: &Batch<'_>, max_bytes: usize) -> Plan {
        let mut plan = Plan::default();
        let mut bytes = "[]".len();
        for timed in batch.readings {
            let seq = timed.reading.seq;
            match self.row(timed) {
                Err(why) => plan.dropped.push((seq, Unsent::Unfit(why))),
                Ok(None) => plan.dropped.push((seq, Unsent::NothingMapped)),
                Ok(Some(text)) => {
                    bytes += text.len() + 1;
                    let is_full = plan.rows.len() == batch.max_rows || bytes > max_bytes;
                    // One row that is too long on its own goes alone: the far side may take it.
                    if is_full && !plan.rows.is_empty() {
                        break;
                    }
                    let at_s = timed.at_ms.div_euclid(1_000);
                    plan.rows.push(Row { text, at_s, carried: vec![seq], lost: Vec::new() });
                }
            }
        }
        plan
    }

    /// The row as JSON; `None` when the payload has none of the values that are mapped.
    fn row(&self, timed: &TimedReading) -> Result<Option<String>, String> {
        let reading = &timed.reading;
        let payload = self.formats.json(reading)?;
        let mut text = format!("{},\"epoch\":{},\"seq\":{}", self.start, reading.epoch, reading.seq);
        let (mut wanted, mut found) = (0, 0);
        for ColumnMapping { column, value } in &self.columns {
            let json = match value {
                ColumnValue::Payload(path) => {
                    wanted += 1;
                    let Some(json) = payload::at_path(&payload, path) else { continue };
                    found += 1;
                    json.to_owned()
                }
                ColumnValue::Device => quoted(reading.device.as_str()),
                ColumnValue::Stream => quoted(&reading.stream),
                ColumnValue::Topic => quoted(&reading.topic),
                ColumnValue::Time => payload::iso8601(timed.at_ms, Digits::Milliseconds)
                    .map(|time| quoted(&time))
                    .ok_or("its time cannot be printed: the clock was wrong")?,
                ColumnValue::Clock => quoted(timed.quality.as_str()),
            };
            text.push(',');
            text.push_str(&quoted(column));
            text.push(':');
            text.push_str(&json);
        }
        text.push('}');
        Ok((wanted == 0 || found > 0).then_some(text))
    }
}

fn whole_column(column: &str) -> ColumnMapping {
    let value = match column {
        "device" => ColumnValue::Device,
        "stream" => ColumnValue::Stream,
        "topic" => ColumnValue::Topic,
        "received_at" => ColumnValue::Time,
        "clock" => ColumnValue::Clock,
        _ => ColumnValue::Payload(String::new()),
    };
    ColumnMapping { column: column.to_owned(), value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Behind;
    use crate::sink::testing::{number_stream, reading, timed};

    fn batch(readings: &[TimedReading]) -> Batch<'_> {
        Batch { readings, behind: Behind::Nothing, now_ms: 0, max_rows: 100 }
    }

    fn rows(rows: &SupabaseRows) -> Rows {
        Rows::new(rows, &DeviceId::parse("gw").unwrap(), Formats::new(&[number_stream("level")]))
    }

    #[test]
    fn a_whole_row_holds_the_payload_byte_for_byte() {
        let payload = r#"{"t":22.50,"text":"a\u00e9", "n":1e400,"deep":[[1]]}"#;
        let plan =
            rows(&SupabaseRows::Whole).plan(&batch(&[timed(7, payload, 1_767_225_600_007)]), 1_000_000);
        assert_eq!(
            plan.rows[0].text,
            format!(
                r#"{{"gateway_id":"gw","epoch":1,"seq":7,"device":"esp","stream":"air","topic":"esp/air","received_at":"2026-01-01T00:00:00.007Z","clock":"synchronized","payload":{payload}}}"#
            )
        );
        assert_eq!(plan.rows[0].carried, [7]);
        assert_eq!(
            rows(&SupabaseRows::Whole).columns(),
            "gateway_id,epoch,seq,device,stream,topic,received_at,clock,payload"
        );
    }

    #[test]
    fn numbers_and_texts_become_json_of_their_kind() {
        let mut number = timed(1, " 21.40\0", 0);
        number.reading.stream = "level".into();
        let text = timed(2, "on", 0);
        let plan = rows(&SupabaseRows::Whole).plan(&batch(&[number, text]), 1_000_000);
        assert!(plan.rows[0].text.ends_with(r#""payload":21.40}"#), "{}", plan.rows[0].text);
        assert!(plan.rows[1].text.ends_with(r#""payload":"on"}"#), "{}", plan.rows[1].text);
    }

    #[test]
    fn mapped_columns_leave_out_what_the_payload_lacks() {
        let map = |column: &str, value| ColumnMapping { column: column.to_owned(), value };
        let columns = SupabaseRows::Columns(vec![
            map("dev", ColumnValue::Device),
            map("t", ColumnValue::Payload("a.t".to_owned())),
            map("h", ColumnValue::Payload("h".to_owned())),
        ]);
        let readings = [timed(1, r#"{"a":{"t":22.50}}"#, 0), timed(2, r#"{"x":1}"#, 0)];
        let plan = rows(&columns).plan(&batch(&readings), 1_000_000);
        assert_eq!(plan.rows[0].text, r#"{"gateway_id":"gw","epoch":1,"seq":1,"dev":"esp","t":22.50}"#);
        assert_eq!(plan.dropped, [(2, Unsent::NothingMapped)]);
        assert_eq!(rows(&columns).columns(), "gateway_id,epoch,seq,dev,t,h");
    }

    #[test]
    fn a_request_ends_at_its_bounds_and_a_row_beyond_them_goes_alone() {
        let readings: Vec<_> = (1..=9).map(|seq| timed(seq, r#"{"t":1}"#, 0)).collect();
        let planner = rows(&SupabaseRows::Whole);
        let by_rows = planner.plan(&Batch { max_rows: 4, ..batch(&readings) }, 1_000_000);
        assert_eq!(by_rows.rows.len(), 4);
        let row = by_rows.rows[0].text.len();
        assert_eq!(planner.plan(&batch(&readings), 2 + 3 * (row + 1)).rows.len(), 3);
        assert_eq!(planner.plan(&batch(&readings), 10).rows.len(), 1);
    }

    #[test]
    fn what_cannot_become_json_is_dropped_with_the_reason() {
        let mut binary = timed(1, "", 0);
        binary.reading = reading(1, b"\xff\xfe");
        let plan = rows(&SupabaseRows::Whole).plan(&batch(&[binary, timed(2, "{}", i64::MAX)]), 1_000);
        assert_eq!(plan.rows, []);
        assert!(matches!(&plan.dropped[..], [(1, Unsent::Unfit(_)), (2, Unsent::Unfit(_))]));
    }
}
