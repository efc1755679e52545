//! Writing to sockets. The shard decides what goes in a visit; a backend makes the visit.
//!
//! The contract, whatever the backend: the bytes of one socket leave in the order of the calls, each byte once;
//! [`Sent::Full`] tells how many left before the kernel would take no more, and the caller keeps the rest and
//! calls again only after the poll said that the socket is writable.

mod epoll;

use mio::net::TcpStream;

pub(super) use epoll::Epoll;

/// What became of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything left.
    All,
    /// The socket is full; this many bytes left.
    Full(usize),
    /// The connection is gone.
    Gone,
}

/// A way to write to sockets.
pub(super) trait Flush {
    /// Writes `bytes` to `socket`, as much as it takes.
    fn send(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> Sent;
}
