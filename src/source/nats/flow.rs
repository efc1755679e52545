//! The bytes that come over a connection, and waits that last for as long as they do.
//!
//! On a slow link an answer waits behind the messages that the server sent before it. So a wait has no
//! fixed end: it ends when the connection is silent, or when next to nothing has come for some time.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Statistics};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// Time between two looks at the bytes that came. A process that was stopped counts one look, however long it was.
const TICK: Duration = Duration::from_millis(250);

/// A wait ends when no byte has come for so long.
const SILENCE: Duration = Duration::from_secs(5);

/// It also ends when less than [`FLOW_BYTES`] have come in each tick for so long: signs of life and answers to
/// others say nothing of what is waited for, and a queue of messages moves faster.
const QUIET: Duration = Duration::from_secs(15);
const FLOW_BYTES: u64 = 1_024;

/// It ends after this time in any case.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ended {
    #[error("the connection was lost")]
    Lost,
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silent,
    #[error("no answer for {} s", QUIET.as_secs())]
    Quiet,
    #[error("no answer for {} s", LONGEST.as_secs())]
    TooLong,
}

/// What a look at the bytes has found, in ticks since the connection was made.
#[derive(Debug, Clone, Copy, Default)]
struct Tick {
    now: u32,
    /// The last in which a byte came.
    byte: u32,
    /// The last in which [`FLOW_BYTES`] came.
    flow: u32,
}

impl Tick {
    fn next(self, bytes: u64) -> Self {
        let now = self.now.saturating_add(1);
        Self {
            now,
            byte: if bytes > 0 { now } else { self.byte },
            flow: if bytes >= FLOW_BYTES { now } else { self.flow },
        }
    }

    /// Whether a wait that began at this tick is over.
    fn ends(self, began: u32) -> Option<Ended> {
        let is_past = |since: u32, most: Duration| u128::from(self.now.saturating_sub(since)) >= ticks(most);
        if is_past(began, LONGEST) {
            return Some(Ended::TooLong);
        }
        if is_past(began.max(self.byte), SILENCE) {
            return Some(Ended::Silent);
        }
        is_past(began.max(self.flow), QUIET).then_some(Ended::Quiet)
    }
}

const fn ticks(time: Duration) -> u128 {
    time.as_millis() / TICK.as_millis()
}

/// See above. Clones are of the same connection.
#[derive(Clone)]
pub(super) struct Flow {
    ticks: watch::Receiver<Tick>,
    lost: watch::Receiver<bool>,
    _watching: Arc<AbortOnDropHandle<()>>,
}

impl Flow {
    /// Of this connection; `lost` turns true once it is.
    pub(super) fn of(client: &Client, lost: watch::Receiver<bool>) -> Self {
        let (tell, ticks) = watch::channel(Tick::default());
        let watching = tokio::spawn(count(client.statistics(), tell));
        Self { ticks, lost, _watching: Arc::new(AbortOnDropHandle::new(watching)) }
    }

    /// Waits for as long as bytes come. What is ready counts, also after the connection was lost.
    pub(super) async fn wait<F: Future>(&self, waited_for: F) -> Result<F::Output, Ended> {
        let (mut ticks, mut lost, mut waited_for) = (self.ticks.clone(), self.lost.clone(), pin!(waited_for));
        let began = ticks.borrow_and_update().now;
        loop {
            tokio::select! {
                biased;
                outcome = &mut waited_for => return Ok(outcome),
                _ = lost.wait_for(|lost| *lost) => return Err(Ended::Lost),
                changed = ticks.changed() => {
                    let tick = *ticks.borrow_and_update();
                    if let Some(ended) = tick.ends(began) {
                        return Err(ended);
                    }
                    if changed.is_err() {
                        return Err(Ended::Lost);
                    }
                }
            }
        }
    }

    /// Whether the connection was lost.
    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits until the connection is lost.
    pub(super) async fn lost(&self) {
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }
}

/// Counts bytes for as long as there is a [`Flow`].
async fn count(statistics: Arc<Statistics>, tell: watch::Sender<Tick>) {
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = statistics.in_bytes.load(Ordering::Relaxed);
    loop {
        clock.tick().await;
        let bytes = statistics.in_bytes.load(Ordering::Relaxed);
        tell.send_modify(|tick| *tick = tick.next(bytes.saturating_sub(before)));
        before = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(began: u32, bytes: impl IntoIterator<Item = u64>) -> Option<Ended> {
        let mut tick = Tick { now: began, ..Tick::default() };
        for bytes in bytes {
            tick = tick.next(bytes);
            if let Some(ended) = tick.ends(began) {
                return Some(ended);
            }
        }
        None
    }

    #[test]
    fn a_wait_lasts_while_bytes_come() {
        for (what, bytes, ended) in [
            ("a slow link", vec![5_000; 200], None),
            ("a chunk now and then", [[0; 15].as_slice(), &[64_000]].concat().repeat(12), None),
            ("silence", vec![0; 20], Some(Ended::Silent)),
            ("almost", vec![0; 19], None),
            ("silence after messages", [[5_000; 50], [0; 50]].concat(), Some(Ended::Silent)),
            ("signs of life alone", [1; 60].to_vec(), Some(Ended::Quiet)),
            ("bytes of others", [5_000; 2_400].to_vec(), Some(Ended::TooLong)),
        ] {
            for began in [0, 1_000] {
                assert_eq!(after(began, bytes.clone()), ended, "{what}");
            }
        }
    }
}
