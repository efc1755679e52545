//! One `send` per write, on sockets that `mio` watches edge-triggered.

use std::io::{ErrorKind, Write};

use mio::net::TcpStream;

use super::flush::{Flush, Outgoing, Sent};

/// The backend that is always available.
#[derive(Debug, Default)]
pub(in crate::hub) struct Epoll;

impl Flush for Epoll {
    fn batch(&self) -> usize {
        1
    }

    fn send(&mut self, outgoing: &mut [Outgoing<'_>]) {
        for one in outgoing {
            one.sent = write(one.socket, one.bytes, 0);
        }
    }

    fn name(&self) -> &'static str {
        "epoll"
    }
}

/// Writes `bytes` from `done` on, as much as the socket takes.
pub(in crate::hub) fn write(mut socket: &TcpStream, bytes: &[u8], mut done: usize) -> Sent {
    // After a partial write, write again: only the kernel's refusal makes the poll report the socket as writable later.
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match socket.write(rest) {
            Ok(0) => return Sent::Gone,
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Sent::Full(done),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Sent::Gone,
        }
    }
    Sent::All
}
