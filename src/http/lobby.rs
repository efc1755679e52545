//! How many HTTP connections are served and wait, and which of them give way to others.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_PATIENCE, HTTP_WAIT, HTTP_WAITING_MAX, OPERATOR_CONNECTIONS_MAX};

/// Plain HTTP holds descriptors too, out of the reserve: so many connections are served, and so many more wait for a while.
/// Whoever holds them all keeps no socket out.
#[derive(Clone)]
pub(super) struct Lobby {
    served: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// How many wait to be served because all places are taken.
    crowd: Arc<AtomicUsize>,
    /// How many of those are still to be given way to: a permit for each.
    wanted: Arc<Semaphore>,
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
        Self {
            served: Arc::new(Semaphore::new(served)),
            waiting: Arc::new(Semaphore::new(waiting)),
            crowd: Arc::default(),
            wanted: Arc::new(Semaphore::new(0)),
        }
    }

    /// A place to wait in, if there is one.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }

    /// Waits for a place to wait in, at most [`HTTP_WAIT`] and until `stop`.
    pub(super) async fn enter_in_time(&self, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        let place = timeout(HTTP_WAIT, self.waiting.clone().acquire_owned());
        stop.run_until_cancelled(place).await?.ok()?.ok()
    }

    /// Waits until there is room to be served, at most [`HTTP_WAIT`].
    pub(super) async fn be_served(&self, waiting: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let served = match self.served.clone().try_acquire_owned() {
            Ok(served) => Some(served),
            Err(_) => self.be_given_way().await,
        };
        drop(waiting);
        served
    }

    async fn be_given_way(&self) -> Option<OwnedSemaphorePermit> {
        self.crowd.fetch_add(1, Ordering::Relaxed);
        self.wanted.add_permits(1);
        let served = timeout(HTTP_WAIT, self.served.clone().acquire_owned()).await;
        let others = self.crowd.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        // A place was found otherwise, or not at all: nobody needs to leave for this one any more.
        if self.wanted.available_permits() > others {
            self.wanted.forget_permits(1);
        }
        served.ok()?.ok()
    }

    /// Waits until somebody waits to be served whom nobody else gives way to; of several, the one that asked first is chosen.
    /// Who calls this then has to end.
    pub(super) fn to_give_way(&self) -> impl Future<Output = ()> + Send + use<> {
        let wanted = self.wanted.clone();
        async move {
            if let Ok(place) = wanted.acquire_owned().await {
                place.forget();
            }
        }
    }

    /// The same for a client that is waited for: not before it was for [`HTTP_PATIENCE`].
    pub(super) fn to_give_way_after_patience(&self) -> impl Future<Output = ()> + Send + use<> {
        let wanted = self.to_give_way();
        async move {
            sleep(HTTP_PATIENCE).await;
            wanted.await;
        }
    }
}
