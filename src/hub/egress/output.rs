//! The sending side of a session: everything that egress knows of it.

use mio::net::TcpStream;

use super::backlog::Backlog;
use super::rate_limit::Pace;
use super::send_queue::SendQueue;
use crate::hub::index::SessionIndex;
use crate::hub::stage::{Ping, Stage};
use crate::limits::DRAIN_CHUNK_BYTES;
use crate::protocol::Dialect;
use crate::wire::tls::Tls;

/// The sending side of a session. Times are in ms of the low half of the shard's clock.
pub(in crate::hub) struct Output {
    pub(in crate::hub) socket: TcpStream,
    /// Set if the connection uses TLS.
    pub(in crate::hub) tls: Option<Box<Tls>>,
    pub(in crate::hub) dialect: Dialect,
    /// permessage-deflate was negotiated.
    pub(in crate::hub) deflate: bool,
    /// Several deliveries are sent as one message (an option of `plain`; always in Centrifuge).
    pub(in crate::hub) batch: bool,
    /// The poll reports when its socket has room again.
    pub(in crate::hub) watched: bool,
    pub(in crate::hub) stage: Stage,
    /// While closing: how long the client's close frame is awaited.
    pub(in crate::hub) close_by_ms: u32,
    /// The state of the ping that the client has not answered.
    pub(in crate::hub) ping: Ping,
    /// The chunks for the next write.
    pub(in crate::hub) send_queue: SendQueue,
    /// When it was last written to.
    pub(in crate::hub) written_ms: u32,
    /// The earliest timer of the session; 0 is none.
    pub(in crate::hub) timer_ms: u32,
    /// Its limit on bytes per second.
    pub(in crate::hub) pace: Option<Box<Pace>>,
    /// Set while the socket is full.
    pub(in crate::hub) backlog: Option<Box<Backlog>>,
}

impl Output {
    /// For a new session, at `now_ms` of the shard's clock.
    pub(in crate::hub) fn new(
        socket: TcpStream,
        tls: Option<Box<Tls>>,
        dialect: Dialect,
        deflate: bool,
        now_ms: u32,
    ) -> Self {
        Self {
            socket,
            tls,
            dialect,
            deflate,
            batch: false,
            watched: false,
            stage: Stage::New,
            close_by_ms: 0,
            ping: Ping::None,
            send_queue: SendQueue::default(),
            // Long enough ago that the first delivery does not wait.
            written_ms: now_ms.wrapping_sub(1 << 30),
            timer_ms: 0,
            pace: None,
            backlog: None,
        }
    }

    /// Limit on the bytes of one write while the backlog is sent.
    pub(in crate::hub) fn drain_chunk(&self) -> usize {
        self.pace.as_ref().map_or(DRAIN_CHUNK_BYTES, |pace| pace.drain_chunk())
    }
}

/// The sending sides of all sessions of a shard.
pub(in crate::hub) trait Outputs {
    fn output(&self, session: SessionIndex) -> Option<&Output>;

    fn output_mut(&mut self, session: SessionIndex) -> Option<&mut Output>;
}
