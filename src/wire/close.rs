//! Close codes. 1000–1015 are RFC 6455 §7.4.1. 3000–3499 ask the client to reconnect and 3500–3999 not to, with the
//! meanings that Centrifuge clients know. 4000–4499 ask them to reconnect too; servers choose their meanings.

/// The reason of a close: the code on the wire and a text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "see `code`, `label` and `reason`")]
pub enum CloseReason {
    ProtocolError,
    UnsupportedData,
    InvalidUtf8,
    InvalidDeflate,
    MessageTooBig,
    ServiceRestart,
    Expired,
    Slow,
    InsufficientState,
    ReplayLost,
    NoPong,
    TooManyRequests,
    InvalidToken,
    TooManyTokens,
    BadRequest,
    NoCommand,
    SlowMessage,
    NoToken,
    Forced,
    TooManySessions,
    TooMuchIncoming,
    NoAnswer,
}

impl CloseReason {
    /// All reasons, for metrics.
    pub const ALL: [Self; 22] = [
        Self::ProtocolError,
        Self::UnsupportedData,
        Self::InvalidUtf8,
        Self::InvalidDeflate,
        Self::MessageTooBig,
        Self::ServiceRestart,
        Self::Expired,
        Self::Slow,
        Self::InsufficientState,
        Self::ReplayLost,
        Self::NoPong,
        Self::TooManyRequests,
        Self::InvalidToken,
        Self::TooManyTokens,
        Self::BadRequest,
        Self::NoCommand,
        Self::SlowMessage,
        Self::NoToken,
        Self::Forced,
        Self::TooManySessions,
        Self::TooMuchIncoming,
        Self::NoAnswer,
    ];

    /// The status code of the close frame.
    pub fn code(self) -> u16 {
        match self {
            Self::ProtocolError => 1002,
            Self::UnsupportedData => 1003,
            // RFC 7692 names no code; both are payloads that do not fit their message's type.
            Self::InvalidUtf8 | Self::InvalidDeflate => 1007,
            Self::MessageTooBig => 1009,
            Self::ServiceRestart => 1012,
            Self::Expired => 3005,
            Self::Slow => 3008,
            // Both have the same remedy: reconnect and recover.
            Self::InsufficientState | Self::ReplayLost => 3010,
            Self::NoPong => 3012,
            Self::TooManyRequests => 3013,
            Self::InvalidToken | Self::TooManyTokens => 3500,
            Self::BadRequest => 3501,
            Self::NoCommand | Self::SlowMessage | Self::NoToken => 3502,
            Self::Forced => 3503,
            // Centrifugo uses 3504, after which its SDKs give up for good. But after a network
            // failure a client may find its old sessions still counted until their pings time out:
            // it must retry, later each time. SDKs do so after codes of this range.
            Self::TooManySessions => 4429,
            // Not only the client's fault: it may come back, later each time.
            Self::TooMuchIncoming => 4413,
            // The server's own fault.
            Self::NoAnswer => 4408,
        }
    }

    /// The code for Centrifuge clients, if it differs.
    pub fn centrifuge_code(self) -> u16 {
        match self {
            // "Shutdown": clients reconnect, each after a delay of its own.
            Self::ServiceRestart => 3001,
            _ => self.code(),
        }
    }

    /// The identifiers of all reasons, in the order of [`Self::ALL`].
    pub const LABELS: [&str; Self::ALL.len()] = Self::labels();

    #[allow(clippy::indexing_slicing, reason = "computed by the compiler")]
    const fn labels() -> [&'static str; Self::ALL.len()] {
        let mut labels = [""; Self::ALL.len()];
        let mut i = 0;
        while i < labels.len() {
            labels[i] = Self::ALL[i].label();
            i += 1;
        }
        labels
    }

    /// The identifier that metrics and `/status` show.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ProtocolError => "protocol_error",
            Self::UnsupportedData => "unsupported_data",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidDeflate => "invalid_deflate",
            Self::MessageTooBig => "message_too_big",
            Self::ServiceRestart => "service_restart",
            Self::Expired => "token_expired",
            Self::Slow => "slow",
            Self::InsufficientState => "insufficient_state",
            Self::ReplayLost => "replay_lost",
            Self::NoPong => "no_pong",
            Self::TooManyRequests => "too_many_commands",
            Self::InvalidToken => "invalid_token",
            Self::TooManyTokens => "too_many_invalid_tokens",
            Self::BadRequest => "bad_request",
            Self::NoCommand => "no_command",
            Self::SlowMessage => "slow_message",
            Self::NoToken => "no_token",
            Self::Forced => "forced",
            Self::TooManySessions => "too_many_sessions",
            Self::TooMuchIncoming => "too_much_incoming",
            Self::NoAnswer => "no_answer",
        }
    }

    /// The reason in the close frame, for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ProtocolError => "protocol error",
            Self::UnsupportedData => "text where binary is, or the other way round",
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::InvalidDeflate => "invalid compressed data",
            Self::MessageTooBig => "message too big",
            Self::ServiceRestart => "service restart",
            Self::Expired => "token expired",
            Self::Slow => "slow: reconnect and recover",
            Self::InsufficientState => "insufficient state: reconnect and recover",
            Self::ReplayLost => "replay slower than history: reconnect and recover",
            Self::NoPong => "no pong",
            Self::TooManyRequests => "too many commands",
            Self::InvalidToken => "invalid token",
            Self::TooManyTokens => "too many invalid tokens",
            Self::BadRequest => "bad request",
            Self::NoCommand => "no valid command in time",
            Self::SlowMessage => "message not whole in time",
            Self::NoToken => "no token in time",
            Self::Forced => "force disconnect",
            Self::TooManySessions => "too many sessions of this user",
            Self::TooMuchIncoming => "too many messages that are not whole: reconnect",
            Self::NoAnswer => "no answer in time: reconnect",
        }
    }
}
