//! Reads one partition: what it holds at the start, then what comes, across failures.
//!
//! The epoch of a partition is a key beside the stream, so that all nodes agree on it. It changes when offsets from
//! before can no longer be compared: the key is gone (a wiped database), or what was read last is not in the stream any more
//! (a failover that lost writes). Whoever notices sets a new one; the others see it within a second. Then the partition's
//! topics are loaded anew and subscribers get snapshots.
//!
//! A node that finds that entries were trimmed before it had read them loads anew by itself, in the same epoch: its offsets
//! are as good as before, and nodes that have read all are none the worse.

mod epoch;
mod following;
mod intake;
mod leaving;
mod load;
mod loading;
mod reading;
mod source;
mod steady_clock;
mod time;
mod waits;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{RedisResult, Value, cmd};
use tokio_util::sync::CancellationToken;

use super::continuity::{self, Break};
use super::link::Link;
use super::refused::Copies;
use super::saver;
use super::value::text;
use super::wire::is_too_large;
use crate::position::Offset;
use crate::source::retry::{self, Retry};
use crate::source::{Feed, Source, SourceStatus};
use epoch::LoadAgain;
pub use source::RedisSource;

/// The longest wait after a failure where another node may take over from one that is gone: it does so within seconds.
const LAST_WAIT_OF_SEVERAL: Duration = Duration::from_secs(1);

/// Wait before a partition is loaded in another epoch.
const EPOCH_WAIT: Duration = Duration::from_millis(20);

/// Which run of Redis this is: another after each start. `None` where it does not say.
async fn run_of(link: &mut Link) -> RedisResult<Option<String>> {
    match cmd("INFO").arg("server").query_async::<Value>(link).await {
        Ok(info) => {
            let lines = text(&info).unwrap_or_default().lines();
            Ok(lines.filter_map(|line| line.strip_prefix("run_id:")).map(str::to_owned).next())
        }
        Err(error) if error.is_io_error() || error.is_timeout() => Err(error),
        Err(_) => Ok(None),
    }
}

impl RedisSource {
    async fn run(mut self, feed: Feed, stop: CancellationToken) {
        // Until it is loaded, nothing is known of what it has.
        feed.topics.doubt(self.id, Offset::ZERO);
        let every = self.config.snapshot_every;
        if !every.is_zero() {
            feed.topics.remember_ended(self.id);
            let (masters, keys, bounds) = (self.masters.clone(), self.keys.clone(), (every, self.delta_bytes_max));
            let place = (self.id, self.config.all_streams().cloned().collect());
            let saver = saver::Saver::new(masters, keys, place, bounds, self.progress.clone(), self.status.clone());
            tokio::spawn(saver.run(feed.clone(), stop.clone()));
        }
        if self.config.refused {
            let (stream, metrics) = (&self.keys.stream, self.metrics.clone());
            let max_len = self.config.refused_max_len;
            self.copies = Some(Copies::start(&self.masters, stream, max_len, metrics, stop.clone()));
        }
        let mut retry = Retry::new(if self.masters.is_one() { retry::LAST } else { LAST_WAIT_OF_SEVERAL });
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.connected(&feed, &mut retry) => outcome,
            };
            let error = match outcome {
                // Not at once: what changes all the time is not to be run after.
                Ok(LoadAgain) => {
                    tokio::time::sleep(EPOCH_WAIT).await;
                    continue;
                }
                Err(error) => error,
            };
            if is_too_large(&error) {
                tracing::error!(
                    stream = self.keys.stream,
                    bytes_max = self.one_bytes_max / 2,
                    "an entry is larger than this node reads: delete it (XDEL), or raise limits.memory, an eighth of which it may take"
                );
            }
            self.appetite.failed();
            tokio::select! {
                () = stop.cancelled() => return,
                () = retry.after(&error, "Redis", &self.status, &self.metrics) => {}
            }
        }
    }

    /// One connection's life.
    async fn connected(&mut self, feed: &Feed, retry: &mut Retry) -> RedisResult<LoadAgain> {
        let mut link = self.masters.connect(&self.keys.stream).await?.within(self.one_bytes_max);
        // Users may not be let to ask for it, and proxies may not know it.
        self.has_time = match cmd("TIME").query_async::<Value>(&mut link).await {
            Err(error) if error.is_io_error() || error.is_timeout() => return Err(error),
            answer => answer.is_ok(),
        };
        let run = run_of(&mut link).await?;
        let epoch = self.agree_on_epoch(&mut link).await?;
        let progress = self.progress();
        let is_known = self.epoch.as_ref() == Some(&epoch) && progress.loaded;
        if is_known && let Some(found) = continuity::broken(&mut link, &self.keys, &progress).await? {
            // After a restart of Redis, or a failover, it may have lost what was read last: that cannot be
            // told from what is trimmed.
            let is_same_run = run.is_some() && run == self.run;
            let found = if is_same_run { found } else { Break::Rewritten(found.why().to_owned()) };
            self.run = run;
            return self.load_again(&mut link, feed, found).await;
        }
        if is_known && !feed.topics.needs_reload(self.id) {
            tracing::info!(stream = self.keys.stream, node = %link.place(), after = %progress.last, "Redis is back, reading on");
        } else {
            let past = self.pasts.iter().find(|(known, _)| *known == epoch).map(|(_, progress)| *progress);
            if let Some(past) = past
                && let Some(Break::Rewritten(why)) = continuity::broken(&mut link, &self.keys, &past).await?
            {
                if !self.change_epoch(&mut link, &epoch, &why).await? {
                    // It is the only one that there can be until Redis takes writes again.
                    self.pasts.retain(|(known, _)| *known != epoch);
                    self.epoch_stays(feed, epoch, &why);
                }
                return Ok(LoadAgain);
            }
            if !self.load(&mut link, feed, epoch, run.clone()).await? {
                return Ok(if feed.topics.needs_reload(self.id) { self.reload_after_other() } else { LoadAgain });
            }
        }
        self.run = run;
        self.status.set_connected(true);
        self.status.note("");
        retry.reset();
        self.follow(&mut link, feed).await
    }
}

impl Source for RedisSource {
    fn status(&self) -> Arc<SourceStatus> {
        self.status.clone()
    }

    fn run(self: Box<Self>, feed: Feed, stop: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin((*self).run(feed, stop))
    }
}
