//! The sizes of the model's worlds: small, so that rare events coincide.

pub(super) const TOPICS: [&str; 4] = ["merge:a", "latest:b", "stream:c", "stream:d"];
pub(super) const CLIENTS: usize = 3;

/// Epochs begin after an offset up to this one.
pub(super) const FLOOR_MAX: u64 = 2;

/// How a client is connected.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientKind {
    pub(super) centrifuge: bool,
    pub(super) deflate: bool,
}
