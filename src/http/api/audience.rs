//! The audience of a listener.

/// The audience of a listener; an extension of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Audience {
    /// Everyone: operators have no listener of their own.
    All,
    /// Clients and publishers.
    Public,
    /// Operators, and backends, which may use either listener.
    Operators,
}

impl Audience {
    /// Whether operators' commands are accepted here.
    pub(in crate::http) fn takes_orders(self) -> bool {
        self != Self::Public
    }
}
