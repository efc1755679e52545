//! Where a session is in its life.

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No valid command yet.
    New,
    Open,
    /// Its end was asked for, and is carried out in this tick or the next.
    Ending,
    /// A close frame is on its way or sent; the peer's is awaited for a time.
    Closing,
    /// Its last frame is queued: it is dropped once all of its bytes are written.
    Done,
    /// It is to be forgotten, in this tick or the next.
    Dropped,
}

impl Stage {
    /// Whether deliveries and replies still make sense.
    pub(super) fn is_live(self) -> bool {
        matches!(self, Self::New | Self::Open)
    }

    /// Whether what comes from its client still matters.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::New | Self::Open | Self::Closing)
    }

    /// Whether its socket is written to. One that is about to end waits for its last frame.
    pub(super) fn is_written(self) -> bool {
        !matches!(self, Self::Ending | Self::Dropped)
    }
}

/// A ping that the client has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ping {
    /// There is none.
    None,
    /// It waits to be written.
    Queued,
    /// The socket has taken all of it.
    Written,
}
