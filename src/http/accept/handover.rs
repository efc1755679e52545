//! Passes a connection's socket on once the answer to its upgrade has been written.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::http::accept::tls_stream::TlsStream;
use crate::wire::tls::Tls;

/// A connection's transport: a plain socket or TLS.
pub(in crate::http) enum Transport {
    Plain(TcpStream),
    Sealed(TlsStream),
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl From<TlsStream> for Transport {
    fn from(stream: TlsStream) -> Self {
        Self::Sealed(stream)
    }
}

impl Transport {
    /// The parts that a shard takes: the socket, its TLS state, and decrypted bytes that were not
    /// read yet.
    pub(in crate::http) fn into_parts(self) -> std::io::Result<(std::net::TcpStream, Option<Box<Tls>>, Vec<u8>)> {
        match self {
            Self::Plain(socket) => Ok((socket.into_std()?, None, Vec::new())),
            Self::Sealed(stream) => {
                let (socket, tls, opened) = stream.into_parts();
                Ok((socket.into_std()?, Some(tls), opened))
            }
        }
    }
}

type OnUpgrade = Box<dyn FnOnce(Transport, Bytes) + Send>;

/// One per connection, an extension of its requests. The handler that answers 101 stores the
/// function that takes the socket and the bytes that followed the request.
#[derive(Clone, Default)]
pub(in crate::http) struct Handover(Arc<Mutex<Option<OnUpgrade>>>);

impl Handover {
    pub(in crate::http) fn to(&self, on_upgrade: impl FnOnce(Transport, Bytes) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(on_upgrade));
    }

    pub(in crate::http) fn take(&self) -> Option<OnUpgrade> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
