//! Close codes. 1000–1015 are RFC 6455 §7.4.1; 3000–3499 ask the client to reconnect and 3500–3999 tell it not
//! to, with the meanings that Centrifuge clients know; to them 4000–4499 ask for it too, and are for servers to give a meaning.

/// Why the server closes a session: the code on the wire and a word for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "`code` and `reason` say it")]
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
    /// All of them, for metrics.
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
            // To both the answer is the same: connect again, and recover what can be.
            Self::InsufficientState | Self::ReplayLost => 3010,
            Self::NoPong => 3012,
            Self::TooManyRequests => 3013,
            Self::InvalidToken | Self::TooManyTokens => 3500,
            Self::BadRequest => 3501,
            Self::NoCommand | Self::SlowMessage | Self::NoToken => 3502,
            Self::Forced => 3503,
            // Centrifugo says 3504, after which its SDKs give up for good. But who comes back after its network was gone may
            // find the sessions that it had still counted, until their pings show that they are dead: it must try again, and
            // later each time. That is what SDKs do after codes of this range.
            Self::TooManySessions => 4429,
            // Not the client's fault alone: it may come back, and does so later each time.
            Self::TooMuchIncoming => 4413,
            // This server's fault alone.
            Self::NoAnswer => 4408,
        }
    }

    /// The same for Centrifuge clients, where they have a code of their own for it.
    pub fn centrifuge_code(self) -> u16 {
        match self {
            // "Shutdown": they come back, each after a time of its own.
            Self::ServiceRestart => 3001,
            _ => self.code(),
        }
    }

    /// The reason of the close frame; also the metric's label.
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
