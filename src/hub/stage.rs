//! The stage of a session's life.

/// The stage of a session's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No valid command yet.
    New,
    Open,
    /// Its end was requested and is carried out in this tick or the next.
    Ending,
    /// A close frame is queued or sent; the client's is awaited for a time.
    Closing,
    /// Its last frame is queued. It is dropped once all bytes are written.
    Done,
    /// It is removed in this tick or the next.
    Dropped,
}

impl Stage {
    /// Whether deliveries and replies may still be sent to it.
    pub(super) fn is_live(self) -> bool {
        matches!(self, Self::New | Self::Open)
    }

    /// Whether its socket is read.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::New | Self::Open | Self::Closing)
    }

    /// Whether its socket is written. A session that is ending waits for its last frame.
    pub(super) fn is_written(self) -> bool {
        !matches!(self, Self::Ending | Self::Dropped)
    }
}

/// The state of an unanswered ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ping {
    /// No ping is unanswered.
    None,
    /// The ping waits to be written.
    Queued,
    /// The socket has taken the whole ping.
    Written,
}
