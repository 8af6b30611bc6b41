//! Reason codes (MQTT 5, section 2.4), and what 3.1.1 has in their place.

/// Why something was done or not. From 0x80 on it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(dead_code, reason = "all that table 2-6 has; not every one is given or taken")]
pub(crate) enum Reason {
    /// Also granted QoS 0, and a normal disconnection.
    Success = 0x00,
    GrantedQos1 = 0x01,
    GrantedQos2 = 0x02,
    DisconnectWithWill = 0x04,
    NoMatchingSubscribers = 0x10,
    NoSubscriptionExisted = 0x11,
    UnspecifiedError = 0x80,
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    ImplementationSpecificError = 0x83,
    UnsupportedProtocolVersion = 0x84,
    ClientIdentifierNotValid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    Banned = 0x8a,
    ServerShuttingDown = 0x8b,
    BadAuthenticationMethod = 0x8c,
    KeepAliveTimeout = 0x8d,
    SessionTakenOver = 0x8e,
    TopicFilterInvalid = 0x8f,
    TopicNameInvalid = 0x90,
    PacketIdentifierInUse = 0x91,
    PacketIdentifierNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    MessageRateTooHigh = 0x96,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
    PayloadFormatInvalid = 0x99,
    RetainNotSupported = 0x9a,
    QosNotSupported = 0x9b,
    UseAnotherServer = 0x9c,
    ServerMoved = 0x9d,
    SharedSubscriptionsNotSupported = 0x9e,
    ConnectionRateExceeded = 0x9f,
    MaximumConnectTime = 0xa0,
    SubscriptionIdentifiersNotSupported = 0xa1,
    WildcardSubscriptionsNotSupported = 0xa2,
}

impl Reason {
    /// What was asked for was not done.
    pub(crate) fn is_refusal(self) -> bool {
        self as u8 >= 0x80
    }

    /// The return code of a CONNACK in 3.1.1 (table 3.1), which knows five reasons to refuse.
    pub(crate) fn connack_v3(self) -> u8 {
        match self {
            reason if !reason.is_refusal() => 0x00,
            Self::UnsupportedProtocolVersion => 0x01,
            Self::ClientIdentifierNotValid => 0x02,
            Self::BadUserNameOrPassword => 0x04,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 0x05,
            _ => 0x03,
        }
    }

    /// The return code of a SUBACK in 3.1.1 (section 3.9.3).
    pub(crate) fn suback_v3(self) -> u8 {
        match self {
            reason if reason.is_refusal() => 0x80,
            reason => reason as u8,
        }
    }
}
