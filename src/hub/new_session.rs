//! A socket that was upgraded, on its way to a shard.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::auth::Identity;
use crate::protocol::Dialect;
use crate::rate::Shared;
use crate::wire::tls::Tls;

/// Released when the session ends; the front door counts sessions by address with it.
pub trait Permit: Send + Sync {
    /// A number for the client's address, where it is counted.
    fn address(&self) -> Option<u64> {
        None
    }

    /// Bytes of answers that the address's sessions that name no user have asked for, where that is counted.
    fn asked(&self) -> Option<Arc<Shared>> {
        None
    }
}

/// A socket that was upgraded, on its way to a shard.
pub struct NewSession {
    /// The socket, in non-blocking mode.
    pub socket: TcpStream,
    /// Set where its bytes are sealed; its handshake is over.
    pub tls: Option<Box<Tls>>,
    /// How it speaks.
    pub dialect: Dialect,
    /// Whether permessage-deflate was negotiated: it may send compressed messages, and be sent such.
    pub deflate: bool,
    /// Bytes that came behind the upgrade request.
    pub early: Bytes,
    /// Who it is, if it said so in the request.
    pub identity: Option<Identity>,
    /// Kept as long as the session lives.
    pub permit: Option<Box<dyn Permit>>,
    /// The room that it takes.
    pub reservation: Reservation,
}

/// Room for one session, from before its handshake is answered: a client that reads `101` has its place. Given back when
/// dropped, unless a session has taken it.
#[derive(Debug)]
pub struct Reservation {
    /// The shard that it is of.
    pub(super) shard: usize,
    counted: Option<Counted>,
}

/// Where a session is counted.
#[derive(Debug)]
struct Counted {
    /// Sessions of its shard.
    sessions: Arc<AtomicUsize>,
    /// Sessions of all shards without a token, where it has none.
    tokenless: Option<Arc<AtomicUsize>>,
}

impl Reservation {
    /// Counts one more session of a shard, and one more without a token where `tokenless` is given.
    pub(super) fn new(shard: usize, sessions: &Arc<AtomicUsize>, tokenless: Option<&Arc<AtomicUsize>>) -> Self {
        for count in [Some(sessions), tokenless].into_iter().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self { shard, counted: Some(Counted { sessions: sessions.clone(), tokenless: tokenless.cloned() }) }
    }

    /// The session is in its shard's table, which counts it down when it goes.
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
    /// The server has as many sessions as it can.
    Full,
    /// It has as many without a token as it may.
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
        assert_eq!(counts(), (2, 1), "their sessions are counted on");
    }
}
