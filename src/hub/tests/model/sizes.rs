//! How large the model's worlds are: small, so that what happens meets.

pub(super) const TOPICS: [&str; 4] = ["merge:a", "latest:b", "stream:c", "stream:d"];
pub(super) const CLIENTS: usize = 3;

/// Epochs begin behind an offset up to this one.
pub(super) const FLOOR_MAX: u64 = 2;

/// How a client is connected.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientKind {
    pub(super) centrifuge: bool,
    pub(super) deflate: bool,
}
