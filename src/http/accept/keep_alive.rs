//! The keep-alive policy: how long a served connection may stay idle or slow while others wait for
//! its slot.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::http::accept::connection_limiter::SlotHandle;
use crate::limits::HTTP_PATIENCE;

/// The next event that a served connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Awaits {
    /// The head of its first request.
    FirstHead,
    /// The server's answer; or a body, which has a time-out of its own.
    Server,
    /// The client taking its answer.
    Taking,
    /// One more request.
    NextRequest,
}

/// Decides when a connection may be evicted.
pub(in crate::http) struct KeepAlivePolicy {
    slot_handle: SlotHandle,
    /// Longest time for an answer to be taken while others wait.
    taking: Duration,
    requests: u64,
    awaits: Awaits,
    ends: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl KeepAlivePolicy {
    /// Starts now.
    pub(in crate::http) fn new(slot_handle: &SlotHandle, taking: Duration) -> Self {
        Self {
            slot_handle: slot_handle.clone(),
            taking,
            requests: 0,
            awaits: Awaits::FirstHead,
            ends: Box::pin(slot_handle.evicted_after(HTTP_PATIENCE)),
        }
    }

    /// Ready, once, if the connection is evicted. Call it after each event, with the number of
    /// requests so far and the state of the connection.
    pub(in crate::http) fn poll(&mut self, context: &mut Context<'_>, requests: u64, awaits: Awaits) -> Poll<()> {
        // A client that does not take its answers gains nothing by more requests.
        if self.awaits != awaits || (self.requests != requests && awaits != Awaits::Taking) {
            (self.requests, self.awaits) = (requests, awaits);
            let patience = if awaits == Awaits::Taking { self.taking } else { HTTP_PATIENCE };
            // Replaced also during the server's turn: the old entry would keep its place and could
            // be chosen instead of another.
            self.ends = Box::pin(self.slot_handle.evicted_after(patience));
        }
        match awaits {
            Awaits::Server => Poll::Pending,
            _ => self.ends.as_mut().poll(context),
        }
    }
}

/// The time-outs of a connection's heads: the first, the next once begun, and the idle time
/// between.
pub(in crate::http) struct HeadClock {
    handshake: Duration,
    keep_alive: Duration,
    waits: Option<(u64, Waits, Pin<Box<Sleep>>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Head,
    Idle,
}

impl HeadClock {
    pub(in crate::http) fn new(handshake: Duration, keep_alive: Duration) -> Self {
        Self { handshake, keep_alive, waits: None }
    }

    /// Ready if the time is over. Call it after each event on the connection.
    pub(in crate::http) fn poll(
        &mut self,
        context: &mut Context<'_>,
        requests: u64,
        awaits: Awaits,
        begun: bool,
    ) -> Poll<()> {
        let (waits, time) = match awaits {
            Awaits::FirstHead => (Waits::Head, self.handshake),
            Awaits::NextRequest if begun => (Waits::Head, self.handshake),
            Awaits::NextRequest => (Waits::Idle, self.keep_alive),
            Awaits::Server | Awaits::Taking => {
                self.waits = None;
                return Poll::Pending;
            }
        };
        if self.waits.as_ref().is_none_or(|(of, what, _)| (*of, *what) != (requests, waits)) {
            self.waits = Some((requests, waits, Box::pin(sleep(time))));
        }
        self.waits.as_mut().map_or(Poll::Pending, |(_, _, sleep)| sleep.as_mut().poll(context))
    }
}
