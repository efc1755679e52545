//! What becomes of a connection's socket once the answer to its upgrade has been written.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::net::TcpStream;

use super::secure::TlsStream;
use crate::wire::tls::Tls;

/// What a connection runs over.
pub(super) enum Line {
    Plain(TcpStream),
    Sealed(TlsStream),
}

impl From<TcpStream> for Line {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl From<TlsStream> for Line {
    fn from(stream: TlsStream) -> Self {
        Self::Sealed(stream)
    }
}

impl Line {
    /// The parts that a shard takes: the socket, what seals it, and what was opened and not read.
    pub(super) fn into_parts(self) -> std::io::Result<(std::net::TcpStream, Option<Box<Tls>>, Vec<u8>)> {
        match self {
            Self::Plain(socket) => Ok((socket.into_std()?, None, Vec::new())),
            Self::Sealed(stream) => {
                let (socket, tls, opened) = stream.into_parts();
                Ok((socket.into_std()?, Some(tls), opened))
            }
        }
    }
}

type Taker = Box<dyn FnOnce(Line, Bytes) + Send>;

/// One for each connection, among the extensions of its requests. The handler that answers with 101 leaves in it what
/// takes the socket, and what came behind the request.
#[derive(Clone, Default)]
pub(super) struct Handover(Arc<Mutex<Option<Taker>>>);

impl Handover {
    pub(super) fn to(&self, taker: impl FnOnce(Line, Bytes) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(taker));
    }

    pub(super) fn take(&self) -> Option<Taker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
