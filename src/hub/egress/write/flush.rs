//! The interface of a backend.
//!
//! Every backend must send the bytes of one socket in order, each byte once, before [`Flush::send`] returns.
//! [`Sent::Full`] says how many bytes were sent before the socket was full; the caller keeps the rest, and writes again
//! only after the poll has reported the socket as writable.

use mio::net::TcpStream;

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hub) enum Sent {
    /// All bytes were sent.
    All,
    /// The socket is full; this many bytes were sent.
    Full(usize),
    /// The connection is closed.
    Gone,
}

/// One write: a socket, and the bytes for it. A batch has at most one write per socket.
pub(in crate::hub) struct Outgoing<'a> {
    pub(in crate::hub) socket: &'a TcpStream,
    pub(in crate::hub) bytes: &'a [u8],
    /// The result; set by the backend.
    pub(in crate::hub) sent: Sent,
}

/// A way to write to sockets.
pub(in crate::hub) trait Flush {
    /// The best number of writes in a batch.
    fn batch(&self) -> usize;

    /// Writes to each socket as much as it takes.
    fn send(&mut self, writes: &mut [Outgoing<'_>]);

    /// The backend's name, for logs and metrics.
    fn name(&self) -> &'static str;
}
