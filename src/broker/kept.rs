//! What of the sessions is on disk, and how it is read at the start.
//!
//! | table | key | value |
//! |---|---|---|
//! | `Session` | session (8) | who, client id, expiry, since when it is left, subscriptions, which retained messages are owed to them |
//! | `Queued` | session (8) number (8) | a message of QoS 1 or 2 that the session is still to be given, or that it was released |
//! | `Will` | session (8) | the will of its client, as long as it may have to be published, and what it is judged by |
//! | `Received` | session (8) packet identifier (2) | of a QoS 2 publish that was taken and not yet released: a digest |
//!
//! A message waits under the number that its packet identifier follows from: it is sent again with the same one,
//! and needs no second write for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::history::{Digest, SharedHistory};
use super::message::Message;
use super::outbox::{Depot, Mailbox, Parcel, Phase};
use super::registry::{Ended, SessionKey};
use super::subscriptions::{Filter, Identifiers, Options, Subscription};
use super::will;
use super::wire::Will;
use crate::authorize::{Identity, IdentityKind};
use crate::buffer::{Buffer, Change, Closed, Decoder, Encoder, RecordKey, Table};
use crate::message::{CommandId, DeviceId, Qos, Stamp};

fn session_key(session: u64) -> RecordKey {
    RecordKey::new(Table::Session, &session.to_be_bytes())
}

fn will_key(session: u64) -> RecordKey {
    RecordKey::new(Table::Will, &session.to_be_bytes())
}

fn queued_key(session: u64, number: u64) -> RecordKey {
    RecordKey::new(Table::Queued, &[session.to_be_bytes(), number.to_be_bytes()].concat())
}

fn received_key(session: u64, packet_id: u16) -> RecordKey {
    RecordKey::new(Table::Received, &[&session.to_be_bytes()[..], &packet_id.to_be_bytes()].concat())
}

/// A session as it is now. `left`: since when nobody is connected.
pub(super) fn put_session(
    session: u64,
    key: &SessionKey,
    expiry: u32,
    left: Option<&Stamp>,
    subscriptions: &[Subscription],
) -> Change {
    let mut record = Encoder::new();
    record.text(key.identity.device.as_str()).u8(kind_code(key.identity.kind)).text(&key.client_id);
    record.u32(expiry).option(left, |record, left| record.stamp(left));
    record.u32(u32::try_from(subscriptions.len()).expect("their number is bounded"));
    for Subscription { filter, options, identifier, owed } in subscriptions {
        record.text(&filter.to_string()).u8(options.qos as u8);
        record.u8(options.no_local.into()).u8(options.retain_as_published.into());
        record.option(*identifier, Encoder::u32).option(owed.as_deref(), Encoder::text);
    }
    Change::Put(session_key(session), record.finish())
}

/// The will of a session's client. `by_token`: its token allows it, whatever the rules say.
pub(super) fn put_will(session: u64, will: &Will, user: Option<&str>, by_token: bool) -> Change {
    let mut record = Encoder::new();
    will::encode(&mut record, will).option(user, Encoder::text).u8(by_token.into());
    Change::Put(will_key(session), record.finish())
}

/// The will is void, or published.
pub(super) fn remove_will(session: u64) -> Change {
    Change::Remove(will_key(session))
}

/// A message that a session is to be given.
pub(super) fn put_queued(session: u64, number: u64, parcel: &Parcel) -> Change {
    let mut record = Encoder::new();
    record.u8(parcel.qos as u8).u8(parcel.retain.into());
    let identifiers = parcel.identifiers.as_slice();
    record.u32(u32::try_from(identifiers.len()).expect("one a subscription"));
    for identifier in identifiers {
        record.u32(*identifier);
    }
    parcel.message.encode(&mut record);
    if let Some(command) = parcel.message.command {
        record.bytes(command.as_bytes());
    }
    Change::Put(queued_key(session, number), record.finish())
}

/// A message that the client has, but for the last words about it.
pub(super) fn put_released(session: u64, number: u64) -> Change {
    Change::Put(queued_key(session, number), Vec::new())
}

/// A message that is done with.
pub(super) fn remove_queued(session: u64, number: u64) -> Change {
    Change::Remove(queued_key(session, number))
}

/// A QoS 2 publish was taken.
pub(super) fn put_received(session: u64, packet_id: u16, digest: Digest) -> Change {
    let mut record = Encoder::new();
    record.u32(digest.0);
    Change::Put(received_key(session, packet_id), record.finish())
}

/// A QoS 2 publish was released.
pub(super) fn remove_received(session: u64, packet_id: u16) -> Change {
    Change::Remove(received_key(session, packet_id))
}

/// A session that has ended leaves nothing.
pub(super) fn remove_all(ended: &Ended) -> Vec<Change> {
    let session = ended.mailbox.number;
    let queued = ended.remains.numbers.iter().map(|number| remove_queued(session, *number));
    let received = ended.received.iter().map(|packet_id| remove_received(session, *packet_id));
    let itself = [Change::Remove(session_key(session)), remove_will(session)];
    itself.into_iter().chain(queued).chain(received).collect()
}

fn kind_code(kind: IdentityKind) -> u8 {
    match kind {
        IdentityKind::Certificate => 1,
        IdentityKind::Anonymous => 2,
        IdentityKind::Password => 3,
        IdentityKind::ApiKey => 4,
        IdentityKind::Jwt => 5,
    }
}

fn kind_of(code: u8) -> Option<IdentityKind> {
    IdentityKind::ALL.into_iter().find(|kind| kind_code(*kind) == code)
}

/// What an earlier process has left.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) sessions: Vec<Restored>,
    /// Commands that sessions have, and the QoS of their delivery.
    pub(super) commands: Vec<(CommandId, Qos)>,
    /// Records that cannot be read, or whose session there is not.
    pub(super) useless: Vec<Change>,
    /// The highest number of a session that is in any record.
    pub(super) last_number: u64,
}

/// A session that an earlier process has left.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) key: SessionKey,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) history: SharedHistory,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) will: Option<LeftWill>,
}

/// A will that an earlier process has left, with what must be known of its client to judge it.
#[derive(Debug, Clone)]
pub(super) struct LeftWill {
    pub(super) will: Box<Will>,
    /// As whom the client was known.
    pub(super) user: Option<Box<str>>,
    /// The client's token has allowed it: a token's claims come before the rules, and do not change.
    pub(super) by_token: bool,
}

/// Reads what is on disk. What was `left` never is left `now`: the process was killed with its connections.
pub(super) async fn load(buffer: &Buffer, depot: &Arc<Depot>, now: Stamp) -> Result<Loaded, Closed> {
    let mut loaded = Loaded::default();
    let mut sessions = BTreeMap::new();
    for (key, value) in buffer.records(Table::Session).await? {
        let number = take_number(&mut &key[..]);
        loaded.last_number = loaded.last_number.max(number.unwrap_or_default());
        match number.and_then(|number| decode_session(number, &value, depot, now)) {
            Some(session) => drop(sessions.insert(session.mailbox.number, session)),
            None => loaded.useless.push(Change::Remove(RecordKey::new(Table::Session, &key))),
        }
    }
    for (key, value) in buffer.records(Table::Will).await? {
        let session = take_number(&mut &key[..]).and_then(|session| sessions.get_mut(&session));
        match session.zip(decode_will(&value)) {
            Some((session, will)) => session.will = Some(will),
            None => loaded.useless.push(Change::Remove(RecordKey::new(Table::Will, &key))),
        }
    }
    for (key, value) in buffer.records(Table::Queued).await? {
        let mut rest = &key[..];
        let session = take_number(&mut rest).unwrap_or_default();
        loaded.last_number = loaded.last_number.max(session);
        let restored = sessions.get(&session).zip(take_number(&mut rest)).zip(decode_queued(&value));
        match restored {
            Some(((session, number), phase)) if number > 0 => {
                if let Phase::Sent(Parcel { message, qos, .. }) = &phase {
                    loaded.commands.extend(message.command.map(|command| (command, *qos)));
                }
                session.mailbox.restore_message(number, phase);
            }
            _ => loaded.useless.push(Change::Remove(RecordKey::new(Table::Queued, &key))),
        }
    }
    for (key, value) in buffer.records(Table::Received).await? {
        let mut rest = &key[..];
        let session = take_number(&mut rest).unwrap_or_default();
        loaded.last_number = loaded.last_number.max(session);
        match (sessions.get(&session), <[u8; 2]>::try_from(rest), decode_received(&value)) {
            (Some(session), Ok(packet_id), Some(digest)) => {
                let mut history = session.history.lock().expect("no panic under this lock");
                history.restore(u16::from_be_bytes(packet_id), digest);
            }
            _ => loaded.useless.push(Change::Remove(RecordKey::new(Table::Received, &key))),
        }
    }
    loaded.sessions = sessions.into_values().collect();
    Ok(loaded)
}

fn take_number(key: &mut &[u8]) -> Option<u64> {
    let (number, rest) = key.split_first_chunk()?;
    *key = rest;
    Some(u64::from_be_bytes(*number))
}

fn decode_session(number: u64, value: &[u8], depot: &Arc<Depot>, now: Stamp) -> Option<Restored> {
    let mut record = Decoder::new(value)?;
    let device = DeviceId::parse(record.text()?).ok()?;
    let identity = Identity { device, kind: kind_of(record.u8()?)? };
    let key = SessionKey { identity, client_id: record.text()?.into() };
    let expiry = record.u32()?;
    let left = record.option(Decoder::stamp)?.unwrap_or(now);
    let subscriptions = (0..record.u32()?)
        .map(|_| {
            let filter = Filter::parse(record.text()?).ok()?;
            let (qos, no_local, retain_as_published) = (record.qos()?, record.flag()?, record.flag()?);
            let identifier = record.option(Decoder::u32)?;
            let owed = record.option(Decoder::text)?.map(Into::into);
            let options = Options { qos, no_local, retain_as_published };
            Some(Subscription { filter, options, identifier, owed })
        })
        .collect::<Option<Vec<_>>>()?;
    record.end()?;
    if expiry == 0 {
        // Its last connection wanted it to end with itself.
        return None;
    }
    let mailbox = Arc::new(Mailbox::new(number, depot.share(&key.identity), expiry));
    mailbox.restore(subscriptions.clone(), left);
    Some(Restored { key, mailbox, history: SharedHistory::default(), subscriptions, will: None })
}

fn decode_will(value: &[u8]) -> Option<LeftWill> {
    let mut record = Decoder::new(value)?;
    let will = Box::new(will::decode(&mut record)?);
    let user = record.option(Decoder::text)?.map(Into::into);
    let by_token = record.flag()?;
    record.end().map(|()| LeftWill { will, user, by_token })
}

fn decode_received(value: &[u8]) -> Option<Digest> {
    let mut record = Decoder::new(value)?;
    let digest = Digest(record.u32()?);
    record.end().map(|()| digest)
}

fn decode_queued(value: &[u8]) -> Option<Phase> {
    if value.is_empty() {
        return Some(Phase::Released);
    }
    let mut record = Decoder::new(value)?;
    let (qos, retain) = (record.qos()?, record.flag()?);
    let identifiers = (0..record.u32()?).map(|_| record.u32()).collect::<Option<Vec<_>>>()?;
    let mut message = Message::decode(&mut record)?;
    if record.end().is_none() {
        message.command = Some(CommandId::from(<[u8; 16]>::try_from(record.bytes()?).ok()?));
        record.end()?;
    }
    let message = Arc::new(message);
    Some(Phase::Sent(Parcel { message, qos, retain, identifiers: Identifiers::of(identifiers) }))
}
