//! What a client sends in a session.

use bytes::{Buf, Bytes, BytesMut};

use super::fields::Fields;
use super::header::{self, Header};
use super::properties::PropertyFields;
use super::rules::{self, BadPacket};
use super::{
    Ack, AckKind, Disconnect, Packet, Properties, Publish, Reason, RetainHandling, Subscribe, Unsubscribe,
    Version, Wanted, id, qos,
};

/// What stands at the head of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Packet(Packet),
    /// Not yet a whole packet.
    Incomplete,
    /// A whole or partial PUBLISH, which is left where it is.
    Held,
}

/// Takes the next packet of an established session out of the input.
///
/// `max_bytes`: of a whole packet. `takes_publishes`: whether a PUBLISH may be taken now.
pub(crate) fn next(
    input: &mut BytesMut,
    version: Version,
    max_bytes: usize,
    takes_publishes: bool,
) -> Result<Next, BadPacket> {
    let Some(header) = Header::peek(input, version, max_bytes)? else { return Ok(Next::Incomplete) };
    if header.kind == header::PUBLISH && !takes_publishes {
        return Ok(Next::Held);
    }
    let Some(frame) = input.get(..header.frame_bytes()) else { return Ok(Next::Incomplete) };
    let packet = read(header, Fields::new(&frame[header.bytes..], version))?;
    input.advance(header.frame_bytes());
    Ok(Next::Packet(packet))
}

fn read(header: Header, fields: Fields<'_>) -> Result<Packet, BadPacket> {
    match header.kind {
        header::PUBLISH => publish(header.flags, fields).map(Packet::Publish),
        header::PUBACK => ack(AckKind::Puback, fields).map(Packet::Ack),
        header::PUBREC => ack(AckKind::Pubrec, fields).map(Packet::Ack),
        header::PUBREL => ack(AckKind::Pubrel, fields).map(Packet::Ack),
        header::PUBCOMP => ack(AckKind::Pubcomp, fields).map(Packet::Ack),
        header::SUBSCRIBE => subscribe(fields).map(Packet::Subscribe),
        header::UNSUBSCRIBE => unsubscribe(fields).map(Packet::Unsubscribe),
        header::PINGREQ => fields.end().map(|()| Packet::PingReq),
        header::DISCONNECT => disconnect(fields).map(Packet::Disconnect),
        header::AUTH => auth(fields).map(|()| Packet::Auth),
        // No other type has a header that keeps the rules.
        _ => Err(fields.broken(&rules::SECOND_CONNECT)),
    }
}

/// Section 3.3. The payload is copied: what is kept of it is to hold no more memory than it has bytes.
fn publish(flags: u8, mut fields: Fields<'_>) -> Result<Publish, BadPacket> {
    let qos = qos(flags >> 1 & 0b11).ok_or_else(|| fields.broken(&rules::QOS_3))?;
    let topic = fields.topic(&rules::WILDCARD_IN_TOPIC)?.to_owned();
    let packet_id = match flags & 0b0110 {
        0 => 0,
        _ => fields.packet_id()?,
    };
    let mut topic_alias = None;
    let mut properties: Option<Box<Properties>> = None;
    let mut from = PropertyFields::take(&mut fields)?;
    while let Some(id) = from.next()? {
        match id {
            id::TOPIC_ALIAS => match from.value().u16()? {
                0 => return Err(fields.broken(&rules::TOPIC_ALIAS_ZERO)),
                alias => topic_alias = Some(alias),
            },
            id::SUBSCRIPTION_ID => return Err(fields.broken(&rules::CLIENT_SUBSCRIPTION_ID)),
            _ => properties.get_or_insert_default().read(id, &mut from)?,
        }
    }
    if topic.is_empty() && topic_alias.is_none() {
        return Err(fields.broken(&rules::EMPTY_TOPIC));
    }
    Ok(Publish {
        dup: flags & 0b1000 != 0,
        qos,
        retain: flags & 0b0001 != 0,
        packet_id,
        topic,
        topic_alias,
        payload: Bytes::copy_from_slice(fields.rest()),
        properties,
    })
}

/// Sections 3.4 to 3.7.
fn ack(kind: AckKind, mut fields: Fields<'_>) -> Result<Ack, BadPacket> {
    const OF_A_PUBLISH: &[Reason] = &[
        Reason::Success,
        Reason::NoMatchingSubscribers,
        Reason::UnspecifiedError,
        Reason::ImplementationSpecificError,
        Reason::NotAuthorized,
        Reason::TopicNameInvalid,
        Reason::PacketIdentifierInUse,
        Reason::QuotaExceeded,
        Reason::PayloadFormatInvalid,
    ];
    const OF_A_RELEASE: &[Reason] = &[Reason::Success, Reason::PacketIdentifierNotFound];
    let (allowed, rule) = match kind {
        AckKind::Puback | AckKind::Pubrec => (OF_A_PUBLISH, &rules::PUBLISH_ACK_REASON),
        AckKind::Pubrel | AckKind::Pubcomp => (OF_A_RELEASE, &rules::RELEASE_REASON),
    };
    let packet_id = fields.packet_id()?;
    let reason = match fields.version() {
        Version::V5 if !fields.is_empty() => fields.reason(allowed, rule)?,
        Version::V3 | Version::V5 => Reason::Success,
    };
    let mut properties = PropertyFields::take_if_any(&mut fields)?;
    while let Some(id) = properties.next()? {
        match id {
            id::REASON_STRING => drop(properties.value().text()?),
            id::USER => properties.skip_user()?,
            _ => return Err(properties.misplaced()),
        }
    }
    fields.end()?;
    Ok(Ack { kind, packet_id, reason })
}

/// Section 3.8.
fn subscribe(mut fields: Fields<'_>) -> Result<Subscribe, BadPacket> {
    let packet_id = fields.packet_id()?;
    let mut identifier = None;
    let mut properties = PropertyFields::take(&mut fields)?;
    while let Some(id) = properties.next()? {
        match id {
            id::SUBSCRIPTION_ID => match properties.value().varint()? {
                0 => return Err(fields.broken(&rules::SUBSCRIPTION_ID_ZERO)),
                number => identifier = Some(number),
            },
            id::USER => properties.skip_user()?,
            _ => return Err(properties.misplaced()),
        }
    }
    let mut filters = Vec::new();
    while !fields.is_empty() {
        filters.push(wanted(&mut fields)?);
    }
    match filters.is_empty() {
        true => Err(fields.broken(&rules::NOTHING_SUBSCRIBED)),
        false => Ok(Subscribe { packet_id, identifier, filters }),
    }
}

fn wanted(fields: &mut Fields<'_>) -> Result<Wanted, BadPacket> {
    let filter = fields.text()?;
    let options = fields.byte()?;
    let reserved = match fields.version() {
        Version::V3 => 0b1111_1100,
        Version::V5 => 0b1100_0000,
    };
    if options & reserved != 0 {
        return Err(fields.broken(&rules::RESERVED_OPTIONS));
    }
    let no_local = options & 0b0000_0100 != 0;
    if no_local && filter.starts_with("$share/") {
        return Err(fields.broken(&rules::SHARED_NO_LOCAL));
    }
    Ok(Wanted {
        filter: filter.to_owned(),
        qos: qos(options & 0b11).ok_or_else(|| fields.broken(&rules::SUBSCRIBED_QOS_3))?,
        no_local,
        retain_as_published: options & 0b0000_1000 != 0,
        retain_handling: match options >> 4 & 0b11 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(fields.broken(&rules::RETAIN_HANDLING_3)),
        },
    })
}

/// Section 3.10.
fn unsubscribe(mut fields: Fields<'_>) -> Result<Unsubscribe, BadPacket> {
    let packet_id = fields.packet_id()?;
    let mut properties = PropertyFields::take(&mut fields)?;
    while let Some(id) = properties.next()? {
        match id {
            id::USER => properties.skip_user()?,
            _ => return Err(properties.misplaced()),
        }
    }
    let mut filters = Vec::new();
    while !fields.is_empty() {
        filters.push(fields.text()?.to_owned());
    }
    match filters.is_empty() {
        true => Err(fields.broken(&rules::NOTHING_UNSUBSCRIBED)),
        false => Ok(Unsubscribe { packet_id, filters }),
    }
}

/// Section 3.14. A reference to another server has no meaning from a client, and is not forbidden either.
fn disconnect(mut fields: Fields<'_>) -> Result<Disconnect, BadPacket> {
    const OF_A_CLIENT: &[Reason] = &[
        Reason::Success,
        Reason::DisconnectWithWill,
        Reason::UnspecifiedError,
        Reason::MalformedPacket,
        Reason::ProtocolError,
        Reason::ImplementationSpecificError,
        Reason::TopicNameInvalid,
        Reason::ReceiveMaximumExceeded,
        Reason::TopicAliasInvalid,
        Reason::PacketTooLarge,
        Reason::MessageRateTooHigh,
        Reason::QuotaExceeded,
        Reason::AdministrativeAction,
        Reason::PayloadFormatInvalid,
    ];
    let reason = match fields.version() {
        Version::V5 if !fields.is_empty() => fields.reason(OF_A_CLIENT, &rules::DISCONNECT_REASON)?,
        Version::V3 | Version::V5 => Reason::Success,
    };
    let mut session_expiry = None;
    let mut properties = PropertyFields::take_if_any(&mut fields)?;
    while let Some(id) = properties.next()? {
        match id {
            id::SESSION_EXPIRY => session_expiry = Some(properties.value().u32()?),
            id::REASON_STRING | id::SERVER_REFERENCE => drop(properties.value().text()?),
            id::USER => properties.skip_user()?,
            _ => return Err(properties.misplaced()),
        }
    }
    fields.end()?;
    Ok(Disconnect { reason, session_expiry })
}

/// Section 3.15. No reason code stands for success, which is the server's to say.
fn auth(mut fields: Fields<'_>) -> Result<(), BadPacket> {
    const CONTINUE: u8 = 0x18;
    const REAUTHENTICATE: u8 = 0x19;
    let reason = match fields.is_empty() {
        true => None,
        false => Some(fields.byte()?),
    };
    if !matches!(reason, Some(CONTINUE | REAUTHENTICATE)) {
        return Err(fields.broken(&rules::AUTH_REASON));
    }
    let mut has_method = false;
    let mut properties = PropertyFields::take_if_any(&mut fields)?;
    while let Some(id) = properties.next()? {
        match id {
            id::AUTHENTICATION_METHOD => {
                properties.value().text()?;
                has_method = true;
            }
            id::AUTHENTICATION_DATA => drop(properties.value().bytes()?),
            id::REASON_STRING => drop(properties.value().text()?),
            id::USER => properties.skip_user()?,
            _ => return Err(properties.misplaced()),
        }
    }
    match has_method {
        true => fields.end(),
        false => Err(fields.broken(&rules::AUTH_WITHOUT_METHOD)),
    }
}
