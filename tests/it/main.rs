//! The server from outside: the real program on a real port, real sockets, a real Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod cluster;
mod delivery;
mod http;
mod ops;
mod protocol;
mod security;
mod sources;
mod support;
