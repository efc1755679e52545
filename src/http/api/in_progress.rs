//! Publish requests in progress, which a clean stop waits for.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts requests from their beginning to their end.
#[derive(Debug, Default)]
pub struct InProgress {
    count: AtomicUsize,
    ended: Notify,
}

/// A request in progress, until it is dropped.
#[derive(Debug)]
pub(in crate::http) struct Begun<'a>(&'a InProgress);

impl InProgress {
    pub(in crate::http) fn begin(&self) -> Begun<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Begun(self)
    }

    /// Waits until there is none.
    pub async fn none(&self) {
        loop {
            // Before the check, so that no end is missed.
            let ended = self.ended.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn the_last_request_ends_the_wait() {
        let requests = InProgress::default();
        let (first, second) = (requests.begin(), requests.begin());
        let mut none = pin!(requests.none());
        let mut poll = || none.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!poll());
        drop(first);
        assert!(!poll());
        drop(second);
        assert!(poll());
    }
}
