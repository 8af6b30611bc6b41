//! Arbitrary packets, and the same packets as `rumqttc` has them.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes::{self as mqttbytes5, v5};

use super::*;
use crate::message::Qos;

const PUBLISH_REASONS: &[Reason] = &[
    Reason::Success,
    Reason::NoMatchingSubscribers,
    Reason::UnspecifiedError,
    Reason::NotAuthorized,
    Reason::QuotaExceeded,
];

const DISCONNECT_REASONS: &[Reason] = &[Reason::Success, Reason::DisconnectWithWill, Reason::ProtocolError];

const ACK_KINDS: &[AckKind] = &[AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp];

const HANDLING: &[RetainHandling] = &[RetainHandling::Always, RetainHandling::IfNew, RetainHandling::Never];

fn text() -> impl Strategy<Value = String> {
    "[a-z \u{1}\u{e9}\u{20ac}\u{1d11e}+#]{0,40}"
}

pub(super) fn topic() -> impl Strategy<Value = String> {
    prop_oneof![9 => "[a-z/\u{e9}]{1,30}", 1 => "[a-z/]{120,140}"]
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![9 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 16_380..16_400)].prop_map(Bytes::from)
}

pub(super) fn any_qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn properties() -> impl Strategy<Value = Option<Box<Properties>>> {
    let pairs = vec((text(), text()), 0..6);
    let data = option::of(vec(any::<u8>(), 0..20).prop_map(Bytes::from));
    let texts = (option::of(text()), option::of(topic()));
    (option::of(0..2_u8), option::of(any::<u32>()), texts, data, pairs).prop_map(
        |(payload_format, message_expiry, (content_type, response_topic), correlation_data, pairs)| {
            let user = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let properties = Properties {
                payload_format,
                message_expiry,
                content_type,
                response_topic,
                correlation_data,
                user,
            };
            (properties != Properties::default()).then(|| Box::new(properties))
        },
    )
}

fn properties_of(version: Version) -> BoxedStrategy<Option<Box<Properties>>> {
    match version {
        Version::V3 => Just(None).boxed(),
        Version::V5 => properties().boxed(),
    }
}

/// What may be given in 5.0 alone.
fn only_in_v5<T: std::fmt::Debug + Clone + 'static>(
    version: Version,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    match version {
        Version::V3 => Just(None).boxed(),
        Version::V5 => option::of(strategy).boxed(),
    }
}

pub(super) fn any_publish(version: Version) -> impl Strategy<Value = Publish> {
    let flags = (any::<bool>(), any_qos(), any::<bool>(), 1..=u16::MAX);
    let alias = only_in_v5(version, 1..=u16::MAX);
    (flags, topic(), alias, payload(), properties_of(version)).prop_map(
        |((dup, qos, retain, packet_id), topic, topic_alias, payload, properties)| {
            let is_acked = qos != Qos::AtMostOnce;
            Publish {
                dup: dup && is_acked,
                qos,
                retain,
                packet_id: if is_acked { packet_id } else { 0 },
                topic,
                topic_alias,
                payload,
                properties,
            }
        },
    )
}

pub(super) fn any_ack(version: Version) -> impl Strategy<Value = Ack> {
    (prop::sample::select(ACK_KINDS), 1..=u16::MAX, prop::sample::select(PUBLISH_REASONS), any::<bool>())
        .prop_map(move |(kind, packet_id, reason, is_known)| {
            let reason = match (version, kind) {
                (Version::V3, _) => Reason::Success,
                (Version::V5, AckKind::Puback | AckKind::Pubrec) => reason,
                (Version::V5, _) if is_known => Reason::Success,
                (Version::V5, _) => Reason::PacketIdentifierNotFound,
            };
            Ack { kind, packet_id, reason }
        })
}

fn any_subscribe(version: Version) -> impl Strategy<Value = Subscribe> {
    let options = only_in_v5(version, (any::<bool>(), any::<bool>(), prop::sample::select(HANDLING)));
    let wanted = (text(), any_qos(), options).prop_map(|(filter, qos, options)| {
        let (no_local, retain_as_published, retain_handling) =
            options.unwrap_or((false, false, RetainHandling::Always));
        Wanted { filter, qos, no_local, retain_as_published, retain_handling }
    });
    (1..=u16::MAX, only_in_v5(version, 1..=268_435_455_u32), vec(wanted, 1..6))
        .prop_map(|(packet_id, identifier, filters)| Subscribe { packet_id, identifier, filters })
}

pub(super) fn any_packet(version: Version) -> impl Strategy<Value = Packet> {
    let disconnect =
        only_in_v5(version, (prop::sample::select(DISCONNECT_REASONS), option::of(any::<u32>()))).prop_map(
            |parts| {
                let (reason, session_expiry) = parts.unwrap_or((Reason::Success, None));
                Disconnect { reason, session_expiry }
            },
        );
    prop_oneof![
        3 => any_publish(version).prop_map(Packet::Publish),
        1 => any_ack(version).prop_map(Packet::Ack),
        1 => any_subscribe(version).prop_map(Packet::Subscribe),
        1 => (1..=u16::MAX, vec(text(), 1..6))
            .prop_map(|(packet_id, filters)| Packet::Unsubscribe(Unsubscribe { packet_id, filters })),
        1 => disconnect.prop_map(Packet::Disconnect),
        1 => Just(Packet::PingReq),
    ]
}

pub(super) fn any_connect(version: Version) -> impl Strategy<Value = Connect> {
    let will = (
        topic(),
        payload(),
        any_qos(),
        any::<bool>(),
        only_in_v5(version, any::<u32>()),
        properties_of(version),
    )
        .prop_map(|(topic, payload, qos, retain, delay, properties)| {
            Box::new(Will { topic, payload, qos, retain, delay: delay.unwrap_or(0), properties })
        });
    // `rumqttc` cannot say that a user name or password is empty, and takes a password for text.
    let login = option::of(("[a-z]{1,9}", "[a-z]{1,9}"));
    let numbers = (any::<u32>(), 1..=u16::MAX, option::of(1..=u32::MAX), any::<u16>());
    let wishes = (any::<bool>(), any::<bool>(), option::of(text()));
    let of_v5 = only_in_v5(version, (numbers, wishes));
    ("[a-z/+#]{1,40}", any::<bool>(), any::<u16>(), option::of(will), login, of_v5).prop_map(
        move |(client_id, clean_start, keep_alive, will, login, of_v5)| {
            let (user_name, password) = login.unzip();
            let expiry = if version == Version::V3 && !clean_start { u32::MAX } else { 0 };
            let ((session_expiry, receive_maximum, max_packet_bytes, topic_alias_maximum), wishes) =
                of_v5.unwrap_or(((expiry, u16::MAX, None, 0), (true, false, None)));
            let (request_problem_information, request_response_information, authentication_method) = wishes;
            Connect {
                version,
                client_id,
                clean_start,
                keep_alive,
                session_expiry,
                receive_maximum,
                max_packet_bytes,
                topic_alias_maximum,
                request_problem_information,
                request_response_information,
                authentication_method,
                will,
                user_name,
                password: password.map(|password| Password::new(password.as_bytes())),
            }
        },
    )
}

/// As a client that uses `rumqttc` sends it.
pub(super) fn bytes_of(packet: &Packet, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    match version {
        Version::V3 => v4_packet(packet).write(&mut out, usize::MAX).unwrap(),
        Version::V5 => v5_packet(packet).write(&mut out, None).unwrap(),
    };
    out
}

pub(super) fn v4_packet(packet: &Packet) -> v4::Packet {
    match packet.clone() {
        Packet::Publish(publish) => v4::Packet::Publish(v4::Publish {
            dup: publish.dup,
            qos: v4_qos(publish.qos),
            retain: publish.retain,
            topic: publish.topic,
            pkid: publish.packet_id,
            payload: publish.payload,
        }),
        Packet::Ack(Ack { kind, packet_id, .. }) => match kind {
            AckKind::Puback => v4::Packet::PubAck(v4::PubAck::new(packet_id)),
            AckKind::Pubrec => v4::Packet::PubRec(v4::PubRec::new(packet_id)),
            AckKind::Pubrel => v4::Packet::PubRel(v4::PubRel::new(packet_id)),
            AckKind::Pubcomp => v4::Packet::PubComp(v4::PubComp::new(packet_id)),
        },
        Packet::Subscribe(subscribe) => v4::Packet::Subscribe(v4::Subscribe {
            pkid: subscribe.packet_id,
            filters: (subscribe.filters.into_iter())
                .map(|wanted| v4::SubscribeFilter::new(wanted.filter, v4_qos(wanted.qos)))
                .collect(),
        }),
        Packet::Unsubscribe(Unsubscribe { packet_id, filters }) => {
            v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: packet_id, topics: filters })
        }
        Packet::PingReq => v4::Packet::PingReq,
        Packet::Disconnect(_) => v4::Packet::Disconnect,
        Packet::Auth => panic!("3.1.1 has no AUTH"),
    }
}

pub(super) fn v5_packet(packet: &Packet) -> v5::Packet {
    match packet.clone() {
        Packet::Publish(publish) => v5::Packet::Publish(v5::Publish {
            dup: publish.dup,
            qos: v5_qos(publish.qos),
            retain: publish.retain,
            topic: publish.topic.into(),
            pkid: publish.packet_id,
            payload: publish.payload,
            properties: v5_properties(publish.properties.as_deref(), publish.topic_alias, &[]),
        }),
        Packet::Ack(ack) => v5_ack(ack),
        Packet::Subscribe(subscribe) => v5::Packet::Subscribe(v5::Subscribe {
            pkid: subscribe.packet_id,
            properties: subscribe.identifier.map(|identifier| v5::SubscribeProperties {
                id: Some(identifier as usize),
                user_properties: vec![("n".to_owned(), "v".repeat(130))],
            }),
            filters: subscribe.filters.into_iter().map(v5_filter).collect(),
        }),
        Packet::Unsubscribe(Unsubscribe { packet_id, filters }) => {
            let user_properties = vec![("n".to_owned(), "v".to_owned())];
            let properties = Some(v5::UnsubscribeProperties { user_properties });
            v5::Packet::Unsubscribe(v5::Unsubscribe { pkid: packet_id, filters, properties })
        }
        Packet::PingReq => v5::Packet::PingReq(v5::PingReq),
        Packet::Disconnect(Disconnect { reason, session_expiry }) => v5::Packet::Disconnect(v5::Disconnect {
            reason_code: (reason as u8).try_into().unwrap(),
            // Without properties it would write a length that is wrong.
            properties: Some(v5::DisconnectProperties {
                session_expiry_interval: session_expiry,
                reason_string: Some("because".to_owned()),
                user_properties: Vec::new(),
                server_reference: None,
            }),
        }),
        Packet::Auth => panic!("rumqttc cannot write a right AUTH"),
    }
}

/// As either side has it.
pub(super) fn v5_ack(Ack { kind, packet_id: pkid, reason }: Ack) -> v5::Packet {
    use v5::{PubAckReason, PubRecReason};
    let is_known = reason == Reason::Success;
    let properties = None;
    match kind {
        AckKind::Puback => {
            let reason = match reason {
                Reason::Success => PubAckReason::Success,
                Reason::NoMatchingSubscribers => PubAckReason::NoMatchingSubscribers,
                Reason::NotAuthorized => PubAckReason::NotAuthorized,
                Reason::QuotaExceeded => PubAckReason::QuotaExceeded,
                _ => PubAckReason::UnspecifiedError,
            };
            v5::Packet::PubAck(v5::PubAck { pkid, reason, properties: None })
        }
        AckKind::Pubrec => {
            let reason = match reason {
                Reason::Success => PubRecReason::Success,
                Reason::NoMatchingSubscribers => PubRecReason::NoMatchingSubscribers,
                Reason::NotAuthorized => PubRecReason::NotAuthorized,
                Reason::QuotaExceeded => PubRecReason::QuotaExceeded,
                _ => PubRecReason::UnspecifiedError,
            };
            v5::Packet::PubRec(v5::PubRec { pkid, reason, properties: None })
        }
        AckKind::Pubrel => {
            let known = (v5::PubRelReason::Success, v5::PubRelReason::PacketIdentifierNotFound);
            let reason = if is_known { known.0 } else { known.1 };
            v5::Packet::PubRel(v5::PubRel { pkid, reason, properties })
        }
        AckKind::Pubcomp => {
            let known = (v5::PubCompReason::Success, v5::PubCompReason::PacketIdentifierNotFound);
            let reason = if is_known { known.0 } else { known.1 };
            v5::Packet::PubComp(v5::PubComp { pkid, reason, properties: None })
        }
    }
}

fn v5_filter(wanted: Wanted) -> v5::Filter {
    v5::Filter {
        path: wanted.filter,
        qos: v5_qos(wanted.qos),
        nolocal: wanted.no_local,
        preserve_retain: wanted.retain_as_published,
        retain_forward_rule: match wanted.retain_handling {
            RetainHandling::Always => v5::RetainForwardRule::OnEverySubscribe,
            RetainHandling::IfNew => v5::RetainForwardRule::OnNewSubscribe,
            RetainHandling::Never => v5::RetainForwardRule::Never,
        },
    }
}

pub(super) fn v5_properties(
    properties: Option<&Properties>,
    topic_alias: Option<u16>,
    ids: &[u32],
) -> Option<v5::PublishProperties> {
    if properties.is_none() && topic_alias.is_none() && ids.is_empty() {
        return None;
    }
    let properties = properties.cloned().unwrap_or_default();
    Some(v5::PublishProperties {
        payload_format_indicator: properties.payload_format,
        message_expiry_interval: properties.message_expiry,
        topic_alias,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation_data,
        user_properties: owned(&properties.user),
        subscription_identifiers: ids.iter().map(|id| *id as usize).collect(),
        content_type: properties.content_type,
    })
}

fn owned(user: &UserProperties) -> Vec<(String, String)> {
    user.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// As a client that uses `rumqttc` sends it.
pub(super) fn connect_bytes(connect: &Connect) -> BytesMut {
    let mut out = BytesMut::new();
    match connect.version {
        Version::V3 => v4_connect(connect).write(&mut out).unwrap(),
        Version::V5 => {
            let (connect, will, login) = v5_connect(connect);
            connect.write(&will, &login, &mut out).unwrap()
        }
    };
    out
}

fn login(connect: &Connect) -> Option<(String, String)> {
    let password = String::from_utf8(connect.password.as_ref()?.expose().to_vec()).unwrap();
    Some((connect.user_name.clone()?, password))
}

fn v4_connect(connect: &Connect) -> v4::Connect {
    v4::Connect {
        protocol: mqttbytes::Protocol::V4,
        keep_alive: connect.keep_alive,
        client_id: connect.client_id.clone(),
        clean_session: connect.clean_start,
        last_will: connect.will.as_ref().map(|will| v4::LastWill {
            topic: will.topic.clone(),
            message: will.payload.clone(),
            qos: v4_qos(will.qos),
            retain: will.retain,
        }),
        login: login(connect).map(|(user, password)| v4::Login::new(user, password)),
    }
}

fn v5_connect(connect: &Connect) -> (v5::Connect, Option<v5::LastWill>, Option<v5::Login>) {
    let properties = v5::ConnectProperties {
        session_expiry_interval: Some(connect.session_expiry),
        receive_maximum: Some(connect.receive_maximum),
        max_packet_size: connect.max_packet_bytes,
        topic_alias_max: Some(connect.topic_alias_maximum),
        request_response_info: Some(connect.request_response_information.into()),
        request_problem_info: Some(connect.request_problem_information.into()),
        user_properties: vec![("n".to_owned(), "v".repeat(130))],
        authentication_method: connect.authentication_method.clone(),
        authentication_data: connect.authentication_method.as_ref().map(|_| Bytes::from_static(b"\x00\xff")),
    };
    let will = connect.will.as_ref().map(|will| {
        let properties = will.properties.as_deref().cloned().unwrap_or_default();
        v5::LastWill {
            topic: will.topic.clone().into(),
            message: will.payload.clone(),
            qos: v5_qos(will.qos),
            retain: will.retain,
            properties: Some(v5::LastWillProperties {
                delay_interval: Some(will.delay),
                payload_format_indicator: properties.payload_format,
                message_expiry_interval: properties.message_expiry,
                content_type: properties.content_type,
                response_topic: properties.response_topic,
                correlation_data: properties.correlation_data,
                user_properties: owned(&properties.user),
            }),
        }
    });
    let v5_connect = v5::Connect {
        keep_alive: connect.keep_alive,
        client_id: connect.client_id.clone(),
        clean_start: connect.clean_start,
        properties: Some(properties),
    };
    (v5_connect, will, login(connect).map(|(user, password)| v5::Login::new(user, password)))
}

pub(super) fn v4_qos(qos: Qos) -> mqttbytes::QoS {
    mqttbytes::qos(qos as u8).unwrap()
}

pub(super) fn v5_qos(qos: Qos) -> mqttbytes5::QoS {
    mqttbytes5::qos(qos as u8).unwrap()
}
