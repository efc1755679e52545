//! How many HTTP connections are served and wait, and which of them give way to others.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_PATIENCE, HTTP_WAIT, HTTP_WAITING_MAX, OPERATOR_CONNECTIONS_MAX};

/// HTTP holds descriptors too, out of the reserve: so many connections of a listener are served, and so many more wait for a
/// while.
#[derive(Clone)]
pub struct Lobby {
    served: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    crowd: Arc<Crowd>,
}

/// Where a connection is.
pub(super) enum Place {
    /// It is served.
    Served(OwnedSemaphorePermit),
    /// It waits for that.
    Waiting(OwnedSemaphorePermit),
}

/// Those that wait to be served because all places are taken.
struct Crowd {
    size: Mutex<usize>,
    /// A permit for each of them that is still to be given way to.
    wanted: Semaphore,
}

impl Crowd {
    fn size(&self) -> MutexGuard<'_, usize> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self) -> InCrowd<'_> {
        let mut size = self.size();
        *size += 1;
        self.wanted.add_permits(1);
        InCrowd(self)
    }
}

/// One of them, for as long as this lives.
struct InCrowd<'a>(&'a Crowd);

impl Drop for InCrowd<'_> {
    fn drop(&mut self) {
        let mut size = self.0.size();
        *size = size.saturating_sub(1);
        // A place was found otherwise, or not at all: nobody needs to leave for this one any more.
        self.0.wanted.forget_permits(self.0.wanted.available_permits().saturating_sub(*size));
    }
}

impl Lobby {
    /// For the public port, or the one with TLS.
    pub(super) fn public() -> Self {
        Self::of(HTTP_CONNECTIONS_MAX, HTTP_WAITING_MAX)
    }

    /// For the operators' own listener.
    pub(super) fn operators() -> Self {
        Self::of(OPERATOR_CONNECTIONS_MAX, OPERATOR_CONNECTIONS_MAX)
    }

    fn of(served: usize, waiting: usize) -> Self {
        let crowd = Crowd { size: Mutex::new(0), wanted: Semaphore::new(0) };
        Self {
            served: Arc::new(Semaphore::new(served)),
            waiting: Arc::new(Semaphore::new(waiting)),
            crowd: Arc::new(crowd),
        }
    }

    /// A place, if there is one.
    pub(super) fn enter(&self) -> Option<Place> {
        let served = || self.served.clone().try_acquire_owned().map(Place::Served);
        let waiting = || self.waiting.clone().try_acquire_owned().map(Place::Waiting);
        served().or_else(|_| waiting()).ok()
    }

    /// Waits for a place to wait in, at most [`HTTP_WAIT`] and until `stop`.
    pub(super) async fn enter_in_time(&self, stop: &CancellationToken) -> Option<Place> {
        let place = timeout(HTTP_WAIT, self.waiting.clone().acquire_owned());
        stop.run_until_cancelled(place).await?.ok()?.ok().map(Place::Waiting)
    }

    /// Waits until there is room to be served, at most [`HTTP_WAIT`].
    pub(super) async fn be_served(&self, place: Place) -> Option<OwnedSemaphorePermit> {
        match place {
            Place::Served(served) => Some(served),
            Place::Waiting(_place) => {
                // One may have become free by now.
                if let Ok(served) = self.served.clone().try_acquire_owned() {
                    return Some(served);
                }
                let _one = self.crowd.join();
                timeout(HTTP_WAIT, self.served.clone().acquire_owned()).await.ok()?.ok()
            }
        }
    }

    /// Waits for `patience`, and then until somebody waits to be served to whom nobody else gives way; of several who could, the
    /// one that asked first is chosen. Whoever calls this has to end then.
    pub(super) fn to_give_way_after(&self, patience: Duration) -> impl Future<Output = ()> + Send + use<> {
        let crowd = self.crowd.clone();
        async move {
            // A sleep of nothing is one of a millisecond.
            if !patience.is_zero() {
                sleep(patience).await;
            }
            while let Ok(wanted) = crowd.wanted.acquire().await {
                wanted.forget();
                // It may be a late one: handed on by somebody who was asked for it and had no time.
                if *crowd.size() > 0 {
                    return;
                }
            }
        }
    }

    /// Whether somebody waits to be served to whom nobody else gives way. Whoever calls this has to end if so.
    pub(super) fn has_to_give_way(&self) -> bool {
        self.crowd.wanted.try_acquire().map(SemaphorePermit::forget).is_ok()
    }
}

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
    lobby: Lobby,
    /// Longest that others wait for an answer to be taken.
    taking: Duration,
    requests: u64,
    awaits: Awaits,
    ends: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Tenure {
    /// Begins now.
    pub(super) fn new(lobby: &Lobby, taking: Duration) -> Self {
        Self {
            lobby: lobby.clone(),
            taking,
            requests: 0,
            awaits: Awaits::FirstHead,
            ends: Box::pin(lobby.to_give_way_after(HTTP_PATIENCE)),
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
            self.ends = Box::pin(self.lobby.to_give_way_after(patience));
        }
        match awaits {
            Awaits::Us => Poll::Pending,
            _ => self.ends.as_mut().poll(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    /// One that comes; its place, if it gets one.
    fn waits(lobby: &Lobby) -> JoinHandle<Option<OwnedSemaphorePermit>> {
        let lobby = lobby.clone();
        tokio::spawn(async move { lobby.be_served(lobby.enter().unwrap()).await })
    }

    /// Whoever asks to give way is asked for as many times as somebody waits, and no more.
    #[tokio::test(start_paused = true)]
    async fn one_gives_way_for_each_who_waits() {
        let lobby = Lobby::of(2, 8);
        let mut served = Vec::new();
        for _ in 0..2 {
            served.push(lobby.be_served(lobby.enter().unwrap()).await.unwrap());
        }
        let leaves = || tokio::spawn(lobby.to_give_way_after(Duration::ZERO));
        let waits = || waits(&lobby);
        let (first, second) = (leaves(), leaves());
        let waiting = waits();
        first.await.unwrap();
        tokio::time::sleep(HTTP_WAIT / 4).await;
        assert!(!second.is_finished());
        second.abort();
        drop(served.pop());
        served.push(waiting.await.unwrap().unwrap());
        // Of those that were not given way to nothing is left.
        let (one, other) = (waits(), waits());
        assert!(one.await.unwrap().is_none() && other.await.unwrap().is_none());
        assert_eq!(lobby.crowd.wanted.available_permits(), 0);
        let (stays, waiting) = (leaves(), waits());
        stays.await.unwrap();
        drop(served);
        assert!(waiting.await.unwrap().is_some());
        assert_eq!((*lobby.crowd.size(), lobby.crowd.wanted.available_permits()), (0, 0));
    }

    /// One that is busy takes no permit that is meant for another.
    #[tokio::test(start_paused = true)]
    async fn a_busy_one_stands_in_no_queue() {
        let lobby = Lobby::of(1, 8);
        let _served = lobby.be_served(lobby.enter().unwrap()).await.unwrap();
        let mut tenure = Tenure::new(&lobby, HTTP_PATIENCE);
        let mut look = async |requests, awaits| {
            let mut polled = Poll::Pending;
            let look = std::future::poll_fn(|context| {
                polled = tenure.poll(context, requests, awaits);
                polled
            });
            timeout(HTTP_PATIENCE * 2 / 3, look).await.is_ok()
        };
        assert!(!look(1, Awaits::NextRequest).await);
        assert!(!look(2, Awaits::Us).await);
        let other = tokio::spawn(lobby.to_give_way_after(Duration::ZERO));
        let one = waits(&lobby);
        other.await.unwrap();
        assert!(!look(2, Awaits::NextRequest).await);
        one.abort();
        assert!(one.await.is_err());
        // One that takes its answers too slowly gains nothing by asking more.
        let one = waits(&lobby);
        let mut asked = 3;
        while !look(asked, Awaits::Taking).await {
            asked += 1;
            assert!(asked < 6);
        }
        one.abort();
    }
}
