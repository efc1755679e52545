//! Time that an HTTP connection has for what depends on its client: sending a body, and taking an answer. A head has
//! `limits.handshake_timeout`, which is the HTTP server's own.

use std::future::Future as _;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::accounts::{self, Held};
use crate::limits::{CLOSE_TIMEOUT, PUBLISH_BODY_BYTES_MAX};

/// Bytes of one read of what is thrown away.
const DISCARD_BYTES: usize = 16 * 1024;

/// What a part of a body takes beside its bytes.
const PART_BYTES: usize = 64;

/// What became of the bodies of a connection.
#[derive(Clone, Default)]
pub(super) struct Bodies(Arc<Outcomes>);

struct Outcomes {
    late: AtomicBool,
    unread: AtomicBool,
    full: AtomicBool,
    /// Of the body that is there, or coming.
    held: Mutex<Held>,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            late: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            full: AtomicBool::new(false),
            held: Mutex::new(Held::none(&accounts::REQUESTS)),
        }
    }
}

impl Bodies {
    /// Whether one did not come in time.
    pub(super) fn late(&self) -> bool {
        self.0.late.load(Ordering::Relaxed)
    }

    /// Whether there was no room for one.
    pub(super) fn full(&self) -> bool {
        self.0.full.load(Ordering::Relaxed)
    }

    /// The request is answered: its body is gone.
    pub(super) fn answered(&self) {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).set(0);
    }

    /// So many more bytes came. `false` if all bodies together are over their ceiling now; 0 is none.
    fn came(&self, bytes: usize, max: usize) -> bool {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = held.bytes() + bytes + PART_BYTES;
        held.set(sum);
        max == 0 || accounts::REQUESTS.bytes() <= max
    }

    /// Whether one was not read to its end.
    pub(super) fn unread(&self) -> bool {
        self.0.unread.load(Ordering::Relaxed)
    }
}

/// Room for what is made of a body: it counts with the body, and is given back with it.
#[derive(Clone)]
pub(super) struct BodyRoom {
    bodies: Bodies,
    max: usize,
}

impl BodyRoom {
    /// Beside the body of a request that `bodies` counts.
    pub(super) fn new(bodies: Bodies, max: usize) -> Self {
        Self { bodies, max }
    }

    /// Whether the request is answered for its body, whatever its handler says.
    pub(super) fn is_answered(&self) -> bool {
        self.bodies.late() || self.bodies.full()
    }

    /// Counts so many bytes more. `false` if all bodies together are over their ceiling now; the request is answered so.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let has_room = self.bodies.came(bytes, self.max);
        self.bodies.0.full.fetch_or(!has_room, Ordering::Relaxed);
        has_room
    }
}

/// A body that must be there in time.
pub(super) struct TimedBody {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    bodies: Bodies,
    /// Bytes that all bodies of all connections may have; 0 is no ceiling.
    max: usize,
    ended: bool,
}

impl TimedBody {
    /// All of `body` must come within `time`; if it does not, it ends with an error and `bodies` says so.
    pub(super) fn new(body: Incoming, time: Duration, max: usize, bodies: Bodies) -> Self {
        Self { body, deadline: Box::pin(sleep(time)), bodies, max, ended: false }
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.bodies.0.unread.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.ended = frame.is_none();
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len));
            if bytes.is_some_and(|bytes| !self.bodies.came(bytes, self.max)) {
                self.bodies.0.full.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err("there is no room for the body".into())));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            self.bodies.0.late.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err("the body did not come in time".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose client must take an answer in time: from when it does not fit the socket until all of it is in.
pub(super) struct TimedStream<S> {
    stream: S,
    /// Whether there is something that the client does not take.
    untaken: Arc<AtomicBool>,
    time: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, time: Duration) -> Self {
        Self { stream, untaken: Arc::default(), time, deadline: None }
    }

    /// Whether there is something that the client does not take just now.
    pub(super) fn untaken(&self) -> Arc<AtomicBool> {
        self.untaken.clone()
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// What the stream said, or that the time is over. A client that takes a byte now and then is as good as one that takes
    /// none: the time is that of all there is to write.
    fn bounded<T>(&mut self, context: &mut Context<'_>, outcome: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if outcome.is_pending() {
            let time = self.time;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(time)));
            self.untaken.store(true, Ordering::Relaxed);
            if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
            }
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        // The HTTP server flushes once all that it had is written.
        if outcome.is_ready() {
            self.deadline = None;
            self.untaken.store(false, Ordering::Relaxed);
        }
        self.bounded(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Ends a connection so that its client can read what it was answered: what it still sends is read and thrown away for a
/// while, or the kernel would throw our answer away with it.
pub(super) async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let heard = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; DISCARD_BYTES];
        let mut rest = PUBLISH_BODY_BYTES_MAX;
        loop {
            let bytes = stream.read(&mut buffer).await?;
            rest = rest.saturating_sub(bytes);
            if bytes == 0 || rest == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, heard).await;
}
