//! A socket that was upgraded, on its way to a shard.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::auth::Identity;
use crate::protocol::Dialect;
use crate::rate::Shared;
use crate::wire::tls::Tls;

/// Released when the session ends. The listener counts sessions by address with it.
pub trait Permit: Send + Sync {
    /// A number for the client's address, if sessions are counted by address.
    fn address(&self) -> Option<u64> {
        None
    }

    /// The answers charged to the address' sessions without a user, if sessions are counted by address.
    fn asked(&self) -> Option<Arc<Shared>> {
        None
    }
}

/// A socket that was upgraded, on its way to a shard.
pub struct NewSession {
    /// The socket, in non-blocking mode.
    pub socket: TcpStream,
    /// Set if the connection uses TLS; the TLS handshake is complete.
    pub tls: Option<Box<Tls>>,
    /// The protocol that it speaks.
    pub dialect: Dialect,
    /// Whether permessage-deflate was negotiated: both sides may send compressed messages.
    pub deflate: bool,
    /// Bytes that followed the upgrade request.
    pub early: Bytes,
    /// The client's identity, if the request had a valid token.
    pub identity: Option<Identity>,
    /// Released when the session ends.
    pub permit: Option<Box<dyn Permit>>,
    /// The session's reservation.
    pub reservation: Reservation,
}

/// Room for one session, reserved before the handshake is answered: a client that reads `101` has its place. Returned
/// on drop, unless a session has taken it.
#[derive(Debug)]
pub struct Reservation {
    /// The shard in which the room is.
    pub(super) shard: usize,
    counted: Option<Counted>,
}

/// The counters that a session is counted in.
#[derive(Debug)]
struct Counted {
    /// Sessions of its shard.
    sessions: Arc<AtomicUsize>,
    /// If it has no token: the number of such sessions in all shards.
    tokenless: Option<Arc<AtomicUsize>>,
}

impl Reservation {
    /// Counts one more session of a shard, and one more without a token if `tokenless` is given.
    pub(super) fn new(shard: usize, sessions: &Arc<AtomicUsize>, tokenless: Option<&Arc<AtomicUsize>>) -> Self {
        for count in [Some(sessions), tokenless].into_iter().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self { shard, counted: Some(Counted { sessions: sessions.clone(), tokenless: tokenless.cloned() }) }
    }

    /// The session is in its shard's table, which decrements the counters when it ends.
    pub(super) fn taken(mut self) {
        self.counted = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(Counted { sessions, tokenless }) = &self.counted else { return };
        for count in [Some(sessions), tokenless.as_ref()].into_iter().flatten() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Why there is no room for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRoom {
    /// The limit on sessions is reached.
    Full,
    /// The limit on sessions without a token is reached.
    Tokenless,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_once() {
        let (sessions, tokenless) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = || (sessions.load(Ordering::Relaxed), tokenless.load(Ordering::Relaxed));
        let dropped = Reservation::new(0, &sessions, Some(&tokenless));
        let with_token = Reservation::new(0, &sessions, None);
        assert_eq!(counts(), (2, 1));
        drop(dropped);
        assert_eq!(counts(), (1, 0));
        with_token.taken();
        Reservation::new(0, &sessions, Some(&tokenless)).taken();
        assert_eq!(counts(), (2, 1), "taken sessions are still counted");
    }
}
