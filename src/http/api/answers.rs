//! HTTP answers that are not taken yet by their clients: counted, bounded together, and passed to a
//! connection in small parts, so that the untaken part stays shared.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use crate::accounts::{self, Held};
use crate::http::failure::failure_for;
use crate::http::state::State;
use crate::limits::{ANSWER_BYTES_SMALL, ANSWER_CHUNK_BYTES};
use crate::topic::{Answering, Snapshot};

/// An extension of a response whose body is this snapshot's data plus some bytes of its own. The
/// snapshot counts as an answer while it is sent, unless its topic keeps it.
#[derive(Clone)]
pub(in crate::http) struct Shares {
    pub(in crate::http) snapshot: Arc<Snapshot>,
    pub(in crate::http) own_bytes: usize,
}

/// A body made of parts that are stored elsewhere.
pub(in crate::http) struct Parts {
    parts: std::array::IntoIter<Bytes, 3>,
    bytes: u64,
}

impl Parts {
    pub(in crate::http) fn new(parts: [Bytes; 3]) -> Self {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.into_iter(), bytes }
    }
}

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let part = self.parts.next();
        self.bytes -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

/// A body on its way to a client, in parts of bounded size.
struct Counted {
    body: Body,
    /// The part read last, as far as it was not passed on yet.
    current: Bytes,
    _held: Held,
    _shared: Option<Answering>,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.current.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.current = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return other,
            }
        }
        let bytes = self.current.len().min(ANSWER_CHUNK_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.current.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.current.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, current) = (self.body.size_hint(), self.current.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + current);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + current);
        }
        hint
    }
}

/// The same answer, counted until its client has taken it. While all answers together exceed their
/// ceiling, an answer that is not small is replaced by an error.
pub(in crate::http) fn counted(mut response: Response, state: &State) -> Response {
    let shares = response.extensions_mut().remove::<Shares>();
    let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    if bytes == 0 {
        return response;
    }
    let waiting = accounts::ANSWERS.bytes();
    if bytes > ANSWER_BYTES_SMALL
        && let Some(max) = state.limits.answers_total_bytes.filter(|max| waiting >= *max)
    {
        state.metrics.answers_refused.inc();
        let message = format!(
            "{waiting} bytes of answers wait for clients that do not take them, the most is {max} \
             (limits.answers_total_bytes); try again"
        );
        return failure_for(Duration::ZERO, StatusCode::SERVICE_UNAVAILABLE, message);
    }
    let held = Held::of(&accounts::ANSWERS, shares.as_ref().map_or(bytes, |shares| shares.own_bytes));
    let shared = shares.map(|shares| Answering::new(shares.snapshot));
    response.map(|body| Body::new(Counted { body, current: Bytes::new(), _held: held, _shared: shared }))
}
