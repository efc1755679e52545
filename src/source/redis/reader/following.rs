//! Reads on, once a partition is loaded, until something breaks or the epoch changes.

use std::task::Poll;
use std::time::Duration;

use ::redis::{RedisResult, cmd};
use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::super::appetite::READ_BYTES;
use super::super::continuity::{self, Break, Facts, Progress, Witness};
use super::super::entries::{Entry, Size};
use super::super::id::EntryId;
use super::super::link::Link;
use super::super::wire::is_too_large;
use super::epoch::LoadAgain;
use super::reading::LastRead;
use super::source::RedisSource;
use super::time::READ_AHEAD_FRESH;
use crate::clock::unix_ms;
use crate::source::Feed;

/// After batches from this length on, reading makes way for others.
const MAKE_WAY_FROM: usize = 32;

/// Batches of more bytes are taken in before the next is asked for, so that not two of them are held at once.
const READ_AHEAD_BYTES_MAX: usize = READ_BYTES;

/// Begins the next millisecond of IDs (`ARGV[2]`), if the last one given is still of the one before (`ARGV[1]`) and the clock
/// has not passed it.
const MOVE_ON: &str = "local now = redis.pcall('TIME')
if not now.err and now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(ARGV[1]) then return 0 end
local info, last = redis.pcall('XINFO', 'STREAM', KEYS[1]), nil
if info.err then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  last = newest and newest[1]
else
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
if not last or string.find(last, ARGV[1] .. '-', 1, true) ~= 1 then return 0 end
redis.call('XSETID', KEYS[1], ARGV[2])
return 1";

/// Time between two attempts at that.
const MOVE_ON_EVERY: Duration = Duration::from_secs(1);

/// The sequence from which on that is done: half of what a millisecond holds.
const MOVE_ON_FROM: u64 = 4_096;

impl RedisSource {
    /// Reads on until something breaks or the epoch changes. While what was read is taken in, the next read is under way,
    /// so that Redis and this node work at the same time.
    pub(super) async fn follow(&mut self, link: &mut Link, feed: &Feed) -> RedisResult<LoadAgain> {
        let masters = self.masters.clone();
        let moved = masters.moved(link.place().clone());
        tokio::pin!(moved);
        let Progress { last: mut before, seen, .. } = self.progress();
        let mut last_read = LastRead { id: before, seen, size: Size::default() };
        let mut reading = self.read(link, last_read);
        // How long the answer may have waited until it was looked at.
        let mut waited = Duration::ZERO;
        loop {
            // Only this may be given up half-way: what was read is taken in whole, or it would be read again.
            let replies = tokio::select! {
                biased;
                error = &mut moved => return Err(error),
                replies = reading => match replies {
                    Err(error) if self.appetite.count() > 1 && is_too_large(&error) => {
                        self.appetite.overfed();
                        self.note_overfed(before);
                        return Ok(LoadAgain);
                    }
                    replies => replies?,
                },
            };
            let read = self.look_at(link, replies)?;
            self.look_for_moves(link, feed).await?;
            if read.has_first {
                feed.topics.set_first(self.id, read.first.map_or(u64::MAX, |first| first.ms));
            }
            if !self.is_epoch(read.epoch.as_deref()) {
                tracing::warn!(
                    stream = self.keys.stream,
                    found = read.epoch,
                    "another epoch: the database was wiped, or another node changed it"
                );
                return Ok(LoadAgain);
            }
            if feed.topics.needs_reload(self.id) {
                return Ok(self.reload_after_other());
            }
            if self.is_over_now(link).await? {
                return Ok(LoadAgain);
            }
            // Where a backup is put back, entries may come to have the IDs of those that were read.
            if let Some(found) = read.witness.broken(link, &self.keys, before).await? {
                return self.load_again(link, feed, found).await;
            }
            let count = read.batch.len();
            let Some((last, seen)) = read.batch.last().map(|entry| (entry.id, entry.fingerprint())) else {
                self.status.read(0, 0);
                self.note_time(feed, read.time_ms, before, waited);
                if self.is_unwritten && Some(self.agree_on_epoch(link).await?) != self.epoch {
                    return Ok(LoadAgain);
                }
                self.move_on(link, before).await;
                let facts = Facts::of(link, &self.keys).await?;
                if facts.is_emptied && !self.is_emptied {
                    let why = format!("the stream is empty and tells nothing of what came after {before}");
                    return self.load_again(link, feed, Break::Missed(why)).await;
                }
                if !facts.is_emptied && facts.newest < before || facts.is_another(before, self.progress().count) {
                    let why = "the stream's IDs went backwards, or it has been given fewer entries than were read";
                    return self.load_again(link, feed, Break::Rewritten(why.into())).await;
                }
                // Where it is not known how many were read, an empty stream that has had newer ones says enough.
                let count = self.progress().count;
                let came_and_went = count.is_none() && facts.first.is_none() && facts.newest > before;
                let is_missed = facts.is_surely_gone_after(before, count) || facts.is_deleted_unread(before, count);
                if came_and_went || is_missed {
                    return self.load_again(link, feed, Break::missed(before)).await;
                }
                self.verified = Instant::now();
                let mut progress = self.progress();
                progress.count = progress.count.or(facts.count_upto(before));
                self.set_progress(progress);
                reading = self.read(link, last_read);
                waited = Duration::ZERO;
                continue;
            };
            self.is_emptied = false;
            let progress = self.progress();
            let first = read.first.or((read.witness == Witness::Same).then_some(before));
            let found = continuity::broken_before(link, &self.keys, &progress, &read.batch, first).await?;
            if let Some(found) = found {
                return self.load_again(link, feed, found).await;
            }
            let counted = progress.count.map(|before| before + count as u64);
            if let Some(facts) = read.facts
                && facts.newest == last
            {
                if facts.is_deleted_unread(last, counted) {
                    return self.load_again(link, feed, Break::missed(before)).await;
                }
                self.verified = Instant::now();
            }
            self.move_on(link, last).await;
            before = last;
            let size = read.batch.last().map(Entry::size).unwrap_or_default();
            last_read = LastRead { id: last, seen: Some(seen), size };
            // Whether the answer was slow in coming cannot be told from a read that waits.
            let mut bytes = 0;
            let sizes = read.batch.iter().map(Entry::cost).inspect(|size| bytes += size);
            self.appetite.fed(sizes, read.asked, Duration::ZERO);
            reading = self.read(link, last_read);
            let mut early = Poll::Pending;
            if bytes <= READ_AHEAD_BYTES_MAX {
                early = futures_util::poll!(&mut reading);
                if count >= MAKE_WAY_FROM {
                    // What sends it is another task, which does not run on this thread until this one makes way.
                    tokio::task::yield_now().await;
                }
            }
            // A batch that is not full left nothing behind when it was read, which may have been a while ago.
            let is_behind = count == read.asked || waited >= READ_AHEAD_FRESH;
            let began = Instant::now();
            let had_waited = waited;
            self.take_in(read.batch, feed, None).await;
            waited = began.elapsed();
            self.note_time(feed, read.time_ms.filter(|_| count < read.asked), last, had_waited);
            feed.topics.set_reached(self.id, self.reached);
            let offset = self.reached;
            self.change_progress(|before| Progress {
                last,
                count: counted,
                seen: Some(seen),
                offset,
                loaded: true,
                ..before
            });
            let lag_ms = if is_behind { unix_ms().saturating_sub(last.ms) } else { 0 };
            self.status.read(count as u64, lag_ms);
            if let Poll::Ready(replies) = early {
                reading = std::future::ready(replies).boxed();
            }
        }
    }

    /// Where Redis' clock stands still or went back, all entries get the last one's millisecond, which holds only so many.
    /// The next millisecond is begun before it is full.
    pub(super) async fn move_on(&mut self, link: &mut Link, last: EntryId) {
        let is_tried = self.move_tried.is_some_and(|(ms, when)| ms == last.ms && when.elapsed() < MOVE_ON_EVERY);
        let is_last_of_all = last.offset().is_err_and(|error| error.is_for_good());
        if self.only_looks || last.seq < MOVE_ON_FROM || last.ms == self.moved_on || is_tried || is_last_of_all {
            return;
        }
        self.move_tried = Some((last.ms, Instant::now()));
        let next = EntryId { ms: last.ms + 1, seq: 0 };
        let mut command = cmd("EVAL");
        command.arg(MOVE_ON).arg(1).arg(&self.keys.stream).arg(last.ms).arg(next.to_string());
        match command.query_async::<bool>(link).await {
            Ok(true) => {
                self.moved_on = last.ms;
                tracing::info!(stream = self.keys.stream, %last, "a millisecond of IDs is nearly used up: the next is begun");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(stream = self.keys.stream, %last, %error, "a millisecond of IDs is nearly used up, and the next cannot be begun yet");
            }
        }
    }
}
