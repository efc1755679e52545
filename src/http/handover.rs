//! What becomes of a connection's socket once the answer to its upgrade has been written.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::net::TcpStream;

type Taker = Box<dyn FnOnce(TcpStream, Bytes) + Send>;

/// One for each connection, among the extensions of its requests. Whoever answers with 101 leaves in it what takes the
/// socket, and what came behind the request.
#[derive(Clone, Default)]
pub(super) struct Handover(Arc<Mutex<Option<Taker>>>);

impl Handover {
    pub(super) fn to(&self, taker: impl FnOnce(TcpStream, Bytes) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(taker));
    }

    pub(super) fn take(&self) -> Option<Taker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
