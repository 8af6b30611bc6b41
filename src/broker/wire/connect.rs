//! The CONNECT packet (section 3.1).

use bytes::{Buf, Bytes, BytesMut};

use super::fields::Fields;
use super::header::{self, Header};
use super::properties::PropertyFields;
use super::rules::{self, BadPacket};
use super::{Connect, Password, Properties, Reason, Version, Will, id};
use crate::message::Qos;

/// A server may refuse client ids of more than 23 bytes (MQTT-3.1.3-5); firmware uses UUIDs and paths.
const MAX_CLIENT_ID_BYTES: usize = 256;

/// Why a CONNECT is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectError {
    /// `version`: the one it asks for, if that could be read.
    #[error("{bad}")]
    Bad { bad: BadPacket, version: Option<Version> },
    /// MQTT-3.1.2-2.
    #[error("protocol level {0}; this gateway speaks MQTT 3.1.1, level 4, and 5.0, level 5")]
    Version(u8),
    /// MQTT-3.1.3-5, MQTT-3.1.3-8.
    #[error("{what}")]
    ClientId { what: &'static str, version: Version },
}

impl ConnectError {
    /// The CONNACK with which the connection is closed. `None`: it is closed without one
    /// (MQTT-3.1.4-1; 3.1.1 has no return code for a packet that is against the specification).
    pub(crate) fn answer(&self) -> Option<(Version, Reason)> {
        match self {
            Self::Bad { bad, version: Some(Version::V5) } => Some((Version::V5, bad.reason())),
            Self::Bad { .. } => None,
            Self::Version(0..=4) => Some((Version::V3, Reason::UnsupportedProtocolVersion)),
            Self::Version(_) => Some((Version::V5, Reason::UnsupportedProtocolVersion)),
            Self::ClientId { version, .. } => Some((*version, Reason::ClientIdentifierNotValid)),
        }
    }
}

/// Takes the CONNECT out of the input. `None`: there is not enough of it yet.
///
/// `max_bytes`: of the whole packet; it comes before anything is known of the client.
pub(crate) fn take(input: &mut BytesMut, max_bytes: usize) -> Result<Option<Connect>, ConnectError> {
    let unreadable = |bad| ConnectError::Bad { bad, version: None };
    // 3.1.1 is the laxer of the two; what 5.0 forbids besides is checked when the version is known.
    if input.first().is_some_and(|first| first >> 4 != header::CONNECT) {
        return Err(unreadable(rules::NOT_CONNECT.broken(Version::V3)));
    }
    let Some(header) = Header::peek(input, Version::V3, max_bytes).map_err(unreadable)? else {
        return Ok(None);
    };
    let Some(frame) = input.get(..header.frame_bytes()) else { return Ok(None) };
    let mut fields = Fields::new(&frame[header.bytes..], Version::V3);
    let version = read_version(&mut fields)?;
    let bad = |bad| ConnectError::Bad { bad, version: Some(version) };
    header.check_padding(version).map_err(bad)?;
    let connect = read(Fields::new(fields.rest(), version)).map_err(bad)?;
    check_client_id(&connect)?;
    input.advance(header.frame_bytes());
    Ok(Some(connect))
}

fn read_version(fields: &mut Fields<'_>) -> Result<Version, ConnectError> {
    let mut name_and_level = || Ok((fields.bytes()?, fields.byte()?));
    match name_and_level().map_err(|bad| ConnectError::Bad { bad, version: None })? {
        (b"MQTT", 4) => Ok(Version::V3),
        (b"MQTT", 5) => Ok(Version::V5),
        // `MQIsdp` was the name in MQTT 3.1.
        (b"MQTT" | b"MQIsdp", level) => Err(ConnectError::Version(level)),
        _ => Err(ConnectError::Bad { bad: fields.broken(&rules::PROTOCOL_NAME), version: None }),
    }
}

fn check_client_id(connect: &Connect) -> Result<(), ConnectError> {
    let version = connect.version;
    let what = match connect.client_id.len() {
        0 if version == Version::V3 && !connect.clean_start => {
            "an empty client id needs a clean session [MQTT-3.1.3-8]"
        }
        0..=MAX_CLIENT_ID_BYTES => return Ok(()),
        _ => "the client id has more than 256 bytes",
    };
    Err(ConnectError::ClientId { what, version })
}

/// What stands behind name and level of the protocol.
fn read(mut fields: Fields<'_>) -> Result<Connect, BadPacket> {
    let flags = Flags::read(&mut fields)?;
    let keep_alive = fields.u16()?;
    let mut connect = Connect {
        version: fields.version(),
        client_id: String::new(),
        clean_start: flags.clean_start,
        keep_alive,
        session_expiry: match fields.version() {
            Version::V3 if !flags.clean_start => u32::MAX,
            Version::V3 | Version::V5 => 0,
        },
        receive_maximum: u16::MAX,
        max_packet_bytes: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        request_response_information: false,
        authentication_method: None,
        will: None,
        user_name: None,
        password: None,
    };
    read_properties(&mut connect, &mut fields)?;
    connect.client_id = fields.text()?.to_owned();
    if let Some((qos, retain)) = flags.will {
        connect.will = Some(Box::new(read_will(qos, retain, &mut fields)?));
    }
    if flags.user_name {
        connect.user_name = Some(fields.text()?.to_owned());
    }
    if flags.password {
        connect.password = Some(Password::new(fields.bytes()?));
    }
    fields.end()?;
    Ok(connect)
}

fn read_properties(connect: &mut Connect, fields: &mut Fields<'_>) -> Result<(), BadPacket> {
    let mut properties = PropertyFields::take(fields)?;
    let mut has_data = false;
    while let Some(id) = properties.next()? {
        match id {
            id::SESSION_EXPIRY => connect.session_expiry = properties.value().u32()?,
            id::RECEIVE_MAXIMUM => {
                connect.receive_maximum = properties.value().u16()?;
                if connect.receive_maximum == 0 {
                    return Err(fields.broken(&rules::RECEIVE_MAXIMUM_ZERO));
                }
            }
            id::MAXIMUM_PACKET_SIZE => match properties.value().u32()? {
                0 => return Err(fields.broken(&rules::MAXIMUM_PACKET_SIZE_ZERO)),
                bytes => connect.max_packet_bytes = Some(bytes),
            },
            id::TOPIC_ALIAS_MAXIMUM => connect.topic_alias_maximum = properties.value().u16()?,
            id::REQUEST_PROBLEM_INFORMATION => connect.request_problem_information = properties.flag()?,
            id::REQUEST_RESPONSE_INFORMATION => connect.request_response_information = properties.flag()?,
            id::AUTHENTICATION_METHOD => {
                connect.authentication_method = Some(properties.value().text()?.to_owned());
            }
            id::AUTHENTICATION_DATA => {
                properties.value().bytes()?;
                has_data = true;
            }
            id::USER => properties.skip_user()?,
            _ => return Err(properties.misplaced()),
        }
    }
    match has_data && connect.authentication_method.is_none() {
        true => Err(fields.broken(&rules::DATA_WITHOUT_METHOD)),
        false => Ok(()),
    }
}

fn read_will(qos: Qos, retain: bool, fields: &mut Fields<'_>) -> Result<Will, BadPacket> {
    let mut delay = 0;
    let mut properties: Option<Box<Properties>> = None;
    let mut from = PropertyFields::take(fields)?;
    while let Some(id) = from.next()? {
        match id {
            id::WILL_DELAY => delay = from.value().u32()?,
            _ => properties.get_or_insert_default().read(id, &mut from)?,
        }
    }
    let topic = fields.topic(&rules::WILDCARD_IN_TOPIC)?.to_owned();
    if topic.is_empty() {
        return Err(fields.broken(&rules::EMPTY_TOPIC));
    }
    let payload = Bytes::copy_from_slice(fields.bytes()?);
    Ok(Will { topic, payload, qos, retain, delay, properties })
}

/// Section 3.1.2.3.
struct Flags {
    clean_start: bool,
    /// QoS and RETAIN.
    will: Option<(Qos, bool)>,
    user_name: bool,
    password: bool,
}

impl Flags {
    fn read(fields: &mut Fields<'_>) -> Result<Self, BadPacket> {
        let flags = fields.byte()?;
        let set = |bit: u8| flags & (1 << bit) != 0;
        if set(0) {
            return Err(fields.broken(&rules::CONNECT_RESERVED_FLAG));
        }
        let will_qos = super::qos(flags >> 3 & 0b11).ok_or_else(|| fields.broken(&rules::WILL_QOS_3))?;
        let will_retain = set(5);
        if !set(2) && will_qos != Qos::AtMostOnce {
            return Err(fields.broken(&rules::QOS_WITHOUT_WILL));
        }
        if !set(2) && will_retain {
            return Err(fields.broken(&rules::RETAIN_WITHOUT_WILL));
        }
        let (user_name, password) = (set(7), set(6));
        if password && !user_name && fields.version() == Version::V3 {
            return Err(fields.broken(&rules::PASSWORD_WITHOUT_USER));
        }
        let will = set(2).then_some((will_qos, will_retain));
        Ok(Self { clean_start: set(1), will, user_name, password })
    }
}
