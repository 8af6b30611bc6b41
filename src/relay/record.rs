//! How a command is kept: one record of [`Table::Command`] under its id.

use std::time::Duration;

use super::command::{Command, FailedIf, Origin, Reply, Source, State};
use crate::buffer::{Decoder, Encoder, RecordKey, Table};
use crate::message::{CommandId, DeviceId, Topic};

pub(super) fn key(id: CommandId) -> RecordKey {
    RecordKey::new(Table::Command, id.as_bytes())
}

/// Longer than any step list can be: each state once, and the acceptance.
const MAX_STEPS: u8 = 16;

fn source_code(source: Source) -> u8 {
    match source {
        Source::Api => 1,
        Source::Cli => 2,
        Source::TalkBack => 3,
        Source::Field => 4,
        Source::Supabase => 5,
        Source::Rule => 6,
        Source::Message => 7,
    }
}

pub(super) fn encode(command: &Command) -> Vec<u8> {
    let Command { id: _, number, device, topic, payload, qos, origin, key, good_for, reply, .. } = command;
    let mut record = Encoder::new();
    record.u64(*number).text(device.as_str()).text(topic.as_str()).bytes(payload).u8(*qos as u8);
    record.u8(source_code(origin.source)).text(&origin.name);
    record.option(origin.reference.as_deref(), Encoder::text).option(key.as_deref(), Encoder::text);
    record.u64(u64::try_from(good_for.as_millis()).unwrap_or(u64::MAX));
    record.option(reply.as_ref(), put_reply);
    let Command { state, reason, result, steps, granted, attempts, reported, .. } = command;
    record
        .u8(*state as u8)
        .option(*granted, |to, qos| to.u8(qos as u8))
        .u32(*attempts)
        .option(*reported, |to, state| to.u8(state as u8));
    record.option(reason.as_deref(), Encoder::text).option(result.as_deref(), Encoder::text);
    record.u8(u8::try_from(steps.len()).expect("each state is there once"));
    for (state, at) in steps {
        record.u8(*state as u8).stamp(at);
    }
    record.finish()
}

fn put_reply<'a>(record: &'a mut Encoder, reply: &Reply) -> &'a mut Encoder {
    let Reply { topic, failed_if: FailedIf { field, words } } = reply;
    record.text(topic.as_str()).text(field);
    record.u32(u32::try_from(words.len()).expect("a handful"));
    for word in words {
        record.text(word);
    }
    record
}

/// `None`: it is damaged, or another version of the program has written it.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Command> {
    let id = CommandId::from(<[u8; 16]>::try_from(key).ok()?);
    let mut record = Decoder::new(value)?;
    let (number, device) = (record.u64()?, DeviceId::parse(record.text()?).ok()?);
    let (topic, payload, qos) = (topic(&mut record)?, record.owned_bytes()?, record.qos()?);
    let code = record.u8()?;
    let origin = Origin {
        source: Source::ALL.into_iter().find(|source| source_code(*source) == code)?,
        name: record.text()?.into(),
        reference: record.option(text)?,
    };
    let key = record.option(text)?;
    let good_for = Duration::from_millis(record.u64()?);
    let reply = record.option(take_reply)?;
    let (state, granted, attempts) = (state(&mut record)?, record.option(Decoder::qos)?, record.u32()?);
    let reported = record.option(self::state)?;
    let (reason, result) = (record.option(text)?, record.option(text)?);
    let count = record.u8()?;
    if !(1..=MAX_STEPS).contains(&count) {
        return None;
    }
    let steps =
        (0..count).map(|_| Some((self::state(&mut record)?, record.stamp()?))).collect::<Option<Vec<_>>>()?;
    record.end()?;
    Some(Command {
        id,
        number,
        device,
        topic,
        payload,
        qos,
        origin,
        key,
        good_for,
        reply,
        state,
        reason,
        result,
        steps,
        granted,
        attempts,
        reported,
    })
}

fn take_reply(record: &mut Decoder<'_>) -> Option<Reply> {
    let topic = topic(record)?;
    let field = text(record)?;
    let words = (0..record.u32()?).map(|_| text(record)).collect::<Option<_>>()?;
    Some(Reply { topic, failed_if: FailedIf { field, words } })
}

fn topic(record: &mut Decoder<'_>) -> Option<Topic> {
    Topic::parse(record.text()?).ok()
}

fn text(record: &mut Decoder<'_>) -> Option<Box<str>> {
    record.text().map(Into::into)
}

fn state(record: &mut Decoder<'_>) -> Option<State> {
    let code = record.u8()?;
    State::ALL.into_iter().find(|state| *state as u8 == code)
}
