//! Time-outs of an HTTP connection for what depends on its client: sending a body and taking an
//! answer. The head has `limits.handshake_timeout`, which the HTTP server applies.

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

/// Bytes of one read whose data is discarded.
const DISCARD_BYTES: usize = 16 * 1024;

/// Memory of a body part beside its bytes.
const PART_BYTES: usize = 64;

/// The state of a connection's bodies.
#[derive(Clone, Default)]
pub(in crate::http) struct Bodies(Arc<Outcomes>);

struct Outcomes {
    late: AtomicBool,
    unread: AtomicBool,
    full: AtomicBool,
    /// The bytes of the current body.
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
    /// Whether a body did not arrive in time.
    pub(in crate::http) fn late(&self) -> bool {
        self.0.late.load(Ordering::Relaxed)
    }

    /// Whether a body found no room.
    pub(in crate::http) fn full(&self) -> bool {
        self.0.full.load(Ordering::Relaxed)
    }

    /// The request is answered and its body is gone.
    pub(in crate::http) fn answered(&self) {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).set(0);
    }

    /// Counts more received bytes. `false` if all bodies together now exceed their ceiling; 0 is no
    /// ceiling.
    fn came(&self, bytes: usize, max: Option<usize>) -> bool {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = held.bytes() + bytes + PART_BYTES;
        held.set(sum);
        max.is_none_or(|max| accounts::REQUESTS.bytes() <= max)
    }

    /// Whether a body was not read to its end.
    pub(in crate::http) fn unread(&self) -> bool {
        self.0.unread.load(Ordering::Relaxed)
    }
}

/// Room for data that is made of a body: it counts with the body and is given back with it.
#[derive(Clone)]
pub(in crate::http) struct BodyRoom {
    bodies: Bodies,
    max: Option<usize>,
}

impl BodyRoom {
    /// The room beside the body of a request that `bodies` counts.
    pub(in crate::http) fn new(bodies: Bodies, max: Option<usize>) -> Self {
        Self { bodies, max }
    }

    /// Whether the request was already answered because of its body; the handler's answer is then
    /// ignored.
    pub(in crate::http) fn is_answered(&self) -> bool {
        self.bodies.late() || self.bodies.full()
    }

    /// Counts more bytes. `false` if all bodies together now exceed their ceiling; the request is
    /// then answered with that.
    pub(in crate::http) fn take(&self, bytes: usize) -> bool {
        let has_room = self.bodies.came(bytes, self.max);
        self.bodies.0.full.fetch_or(!has_room, Ordering::Relaxed);
        has_room
    }
}

/// A body that must arrive in time.
pub(in crate::http) struct TimedBody {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    bodies: Bodies,
    /// Ceiling for the bodies of all connections, in bytes; 0 is none.
    max: Option<usize>,
    ended: bool,
}

impl TimedBody {
    /// All of `body` must arrive within `time`; otherwise it ends with an error, and `bodies` is
    /// marked late.
    pub(in crate::http) fn new(body: Incoming, time: Duration, max: Option<usize>, bodies: Bodies) -> Self {
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
            return Poll::Ready(Some(Err("the body did not arrive in time".into())));
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

/// A connection whose client must take an answer in time: from when the socket is full until all of
/// it is written.
pub(in crate::http) struct TimedStream<S> {
    stream: S,
    /// Whether the client has not taken some of the answer.
    untaken: Arc<AtomicBool>,
    time: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    pub(in crate::http) fn new(stream: S, time: Duration) -> Self {
        Self { stream, untaken: Arc::default(), time, deadline: None }
    }

    /// Whether the client is not taking data right now.
    pub(in crate::http) fn untaken(&self) -> Arc<AtomicBool> {
        self.untaken.clone()
    }

    pub(in crate::http) fn into_inner(self) -> S {
        self.stream
    }

    /// The result of the write, or an error once the time is over. The time covers all data to
    /// write, so a client that takes a byte now and then gains nothing.
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
        // The HTTP server flushes once all its data is written.
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

/// Ends a connection so that its client can read the answer: for a while, received data is read and
/// discarded. Otherwise the kernel would reset the connection and discard the answer.
pub(in crate::http) async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
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
