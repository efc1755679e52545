//! A socket that was upgraded, on its way to a shard.

use std::net::TcpStream;
use std::sync::Arc;

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
}
