//! Which rules hold, and which commands they wait for, on disk.

use serde::{Deserialize, Serialize};

use super::Watched;
use super::watch::Edge;
use crate::buffer::{Buffer, Change, Closed, RecordKey, Table};
use crate::config::Rule;
use crate::message::{CommandId, DeviceId};

/// How a rule stands for a device.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its index among the rules.
    pub(super) rule: usize,
    pub(super) device: DeviceId,
    pub(super) active: bool,
    pub(super) value: String,
    pub(super) sent: Option<(CommandId, Edge)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record<'a> {
    rule: &'a str,
    device: DeviceId,
    active: bool,
    value: String,
    sent: Option<(CommandId, Edge)>,
}

/// What an earlier process has left, and what is to be removed of it: rules that are no more, and what cannot be read.
pub(super) async fn read(buffer: &Buffer, rules: &[Rule]) -> Result<(Vec<Kept>, Vec<Change>), Closed> {
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for (key, value) in buffer.records(Table::Rule).await? {
        let record = serde_json::from_slice::<Record<'_>>(&value).ok();
        let index = record.as_ref().and_then(|it| rules.iter().position(|rule| rule.name == it.rule));
        match (record, index) {
            (Some(Record { device, active, value, sent, .. }), Some(rule)) => {
                kept.push(Kept { rule, device, active, value, sent });
            }
            _ => gone.push(Change::Remove(RecordKey::new(Table::Rule, &key))),
        }
    }
    Ok((kept, gone))
}

/// How a rule stands now. What rests and waits for nothing need not be known.
pub(super) fn change(rule: &Rule, device: &DeviceId, watched: &Watched) -> Change {
    let name = [rule.name.as_bytes(), b"/", device.as_str().as_bytes()].concat();
    let key = RecordKey::new(Table::Rule, ring::digest::digest(&ring::digest::SHA256, &name).as_ref());
    let active = watched.watch.is_active();
    if !active && watched.sent.is_none() {
        return Change::Remove(key);
    }
    let record = Record {
        rule: &rule.name,
        device: device.clone(),
        active,
        value: watched.value.clone(),
        sent: watched.sent,
    };
    Change::Put(key, serde_json::to_vec(&record).expect("texts and numbers can be written"))
}
