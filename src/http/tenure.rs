//! How long a connection that is served may keep us waiting while others wait for its place.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::lobby::Guest;
use crate::limits::HTTP_PATIENCE;

/// What a connection that is served waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// The head of its first request.
    FirstHead,
    /// An answer, which is ours to give; or a body, which has a time of its own.
    Us,
    /// That its client takes what it was answered.
    Taking,
    /// One more request.
    NextRequest,
}

/// When a connection has to give way for keeping us waiting.
pub(super) struct Tenure {
    guest: Guest,
    /// Longest that others wait for an answer to be taken.
    taking: Duration,
    requests: u64,
    awaits: Awaits,
    ends: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Tenure {
    /// Begins now.
    pub(super) fn new(guest: &Guest, taking: Duration) -> Self {
        Self {
            guest: guest.clone(),
            taking,
            requests: 0,
            awaits: Awaits::FirstHead,
            ends: Box::pin(guest.to_give_way_after(HTTP_PATIENCE)),
        }
    }

    /// Ready, once, if the connection has to give way. To be called whenever something has happened on it: how many requests
    /// it has made, and what it waits for.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, requests: u64, awaits: Awaits) -> Poll<()> {
        // More requests are no merit in one that does not take the answers.
        if self.awaits != awaits || (self.requests != requests && awaits != Awaits::Taking) {
            (self.requests, self.awaits) = (requests, awaits);
            let patience = if awaits == Awaits::Taking { self.taking } else { HTTP_PATIENCE };
            // A new one also while it is our turn: it stands in no queue, where it would take what is meant for others.
            self.ends = Box::pin(self.guest.to_give_way_after(patience));
        }
        match awaits {
            Awaits::Us => Poll::Pending,
            _ => self.ends.as_mut().poll(context),
        }
    }
}

/// The time of a connection's heads: of the first, of the next once it has begun, and between the two.
pub(super) struct HeadClock {
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
    pub(super) fn new(handshake: Duration, keep_alive: Duration) -> Self {
        Self { handshake, keep_alive, waits: None }
    }

    /// Ready if the time is over. To be called whenever something has happened on the connection.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, requests: u64, awaits: Awaits, begun: bool) -> Poll<()> {
        let (waits, time) = match awaits {
            Awaits::FirstHead => (Waits::Head, self.handshake),
            Awaits::NextRequest if begun => (Waits::Head, self.handshake),
            Awaits::NextRequest => (Waits::Idle, self.keep_alive),
            Awaits::Us | Awaits::Taking => {
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
