//! What a run of the simulation is given.

use std::str::FromStr;

/// What befalls a world beside publishers, nodes that come and go, and lost connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// Nothing.
    Fair,
    /// Two streams, and publishers who do not know which is a topic's.
    Several,
    /// Entries go before all nodes have read them.
    Trimmed,
    /// The same with two streams.
    SeveralTrimmed,
    /// Failovers that lose writes, restarts, deleted keys.
    Lossy,
    /// The same with two streams.
    SeveralLossy,
    /// A clock that jumps, no memory, commands that are missing or held up, IDs that publishers give.
    Odd,
    /// Topics are moved to other streams.
    Moving,
}

impl Weather {
    /// Whether publishers do not know which of two streams is a topic's.
    pub(super) fn is_several(self) -> bool {
        matches!(self, Self::Several | Self::SeveralTrimmed | Self::SeveralLossy)
    }

    pub(super) fn is_trimmed(self) -> bool {
        matches!(self, Self::Trimmed | Self::SeveralTrimmed)
    }

    pub(super) fn is_lossy(self) -> bool {
        matches!(self, Self::Lossy | Self::SeveralLossy)
    }
}

pub(super) fn of_environment<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lines that are told of a world that went wrong.
pub(super) fn lines() -> usize {
    of_environment("NEXUS_TEST_LINES").unwrap_or(60)
}
