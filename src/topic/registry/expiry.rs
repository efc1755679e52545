//! Topics that go quiet: they become stale, are parked if they have no subscribers, and end after `expire_after`
//! without a delta.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::super::account::Levels;
use super::super::atomics::Ordering;
use super::super::exchange::{Lifetime, SourceId};
use super::super::freshness::Tally;
use super::super::lifetime::{end_ms, expire_ms, millis, over};
use super::super::state::Topic;
use super::homes::hash_of;
use super::source::SourceState;
use super::topics::{Topics, is_own};
use crate::clock::unix_ms;
use crate::config::Namespace;
use crate::position::Offset;

/// While a source is loaded and there is no room, expired topics are looked for at most so many times in the shortest
/// `expire_after` of its topics.
const ROOM_STEPS: u64 = 64;

/// Topics that the map keeps room for, however few there are.
const SHRINK_FROM: usize = 65_536;

impl Topics {
    /// Marks topics that went quiet, ends those that had no delta for too long, drops old history, frees what idle
    /// topics do not need, and cuts the longest histories if all together keep too much. To be called about once a
    /// second.
    pub fn sweep(&self) {
        let now_ms = unix_ms();
        let idle_ms = millis(self.config.limits.topic_idle);
        let expiries = self.namespaces.values().chain([&self.default]).map(|options| expire_ms(options));
        let longest_ms = expiries.clone().all(|ms| ms > 0).then(|| expiries.max().unwrap_or(0));
        let mut forgotten = Vec::new();
        // By source: its present time, up to when it has been read, and topics whose states are in doubt, or wait.
        let mut sources: Vec<(u64, u64, usize, usize)> = self
            .sources
            .iter()
            .map(|source| {
                let loading = source.loading.load(Ordering::Acquire);
                let read_ms = if loading { 0 } else { source.progress.read_by(now_ms) };
                (source.progress.now_ms(now_ms), read_ms, 0, 0)
            })
            .collect();
        self.forget_deletions(&sources);
        let all_read_ms = self.all_read_by(now_ms);
        let mut levels = Levels::new();
        let mut tally = Tally::new();
        for mut topic in self.map.iter_mut() {
            topic.expire_history(now_ms);
            topic.add_level(&mut levels);
            let Some((now_ms, read_ms, doubtful, waiting)) = sources.get_mut(usize::from(topic.source.0)) else {
                continue;
            };
            let quiet_ms = now_ms.saturating_sub(topic.active_ms);
            let upto_ms = if topic.incomplete { all_read_ms } else { *read_ms };
            if self.end_if_over(&mut topic, upto_ms, false) {
                if topic.interest.is_empty() {
                    forgotten.push(topic.name.clone());
                }
                continue;
            }
            *doubtful += usize::from(topic.known && topic.incomplete && topic.options.class.conflatable());
            *waiting += usize::from(topic.waits && !topic.incomplete);
            self.update_staleness(&mut topic, *now_ms);
            if topic.known {
                tally.add(&topic.options, topic.stale, topic.active_ms);
            }
            if topic.interest.is_empty() && quiet_ms > idle_ms && !is_own(&topic.name) {
                if topic.known { topic.park() } else { forgotten.push(topic.name.clone()) }
            }
        }
        for name in forgotten {
            self.remove_if(&name, |topic| topic.interest.is_empty() && !topic.known);
        }
        self.names.settle();
        for (source, (_, read_ms, doubtful, waiting)) in self.sources.iter().zip(sources) {
            source.incomplete.store(doubtful, Ordering::Relaxed);
            source.waiting.store(waiting, Ordering::Relaxed);
            source.gaps.outlive(read_ms, longest_ms);
        }
        *self.freshness.lock().unwrap_or_else(PoisonError::into_inner) = tally.named(&self.namespaces);
        if self.map.len() * 4 < self.map.capacity() && self.map.capacity() > SHRINK_FROM {
            self.map.shrink_to_fit();
        }
        self.cut_to(&levels);
    }

    /// Up to when all sources have been read, Unix ms, `now_ms` at most. If a topic may lack deltas, some may be in
    /// another source than its own.
    pub(super) fn all_read_by(&self, now_ms: u64) -> u64 {
        let read_by = |source: &SourceState| if source.is_unread() { 0 } else { source.progress.read_by(now_ms) };
        self.sources.iter().take(self.partitions()).map(read_by).min().unwrap_or(0)
    }

    /// There is no room for another topic while `source` is loaded, and everything up to `upto_ms` has been read of it:
    /// ends its topics that have expired by then. A walk over all topics, which is not repeated before another can have
    /// expired. Returns whether any has ended.
    pub(super) fn make_room(&self, source: SourceId, upto_ms: u64) -> bool {
        let Some(state) = self.source(source) else { return false };
        if upto_ms <= state.roomless_until_ms.load(Ordering::Acquire) {
            return false;
        }
        let (mut ended, mut next_ms, mut shortest_ms) = (Vec::new(), u64::MAX, u64::MAX);
        // Newer deltas of an incomplete topic may be in another source.
        let is_told_here = |topic: &Topic| !topic.incomplete || self.partitions() < 2;
        let is_here = |topic: &Topic| topic.source == source && topic.known && is_told_here(topic);
        for mut topic in self.map.iter_mut().filter(|topic| is_here(topic)) {
            let after_ms = expire_ms(&topic.options);
            if self.end_if_over(&mut topic, upto_ms, true) {
                ended.push(topic.name.clone());
            } else if after_ms > 0 {
                next_ms = next_ms.min(topic.active_ms.saturating_add(after_ms));
                shortest_ms = shortest_ms.min(after_ms);
            }
        }
        // Nor for each that ends one by one.
        let step_ms = shortest_ms / ROOM_STEPS;
        state.roomless_until_ms.store(next_ms.max(upto_ms.saturating_add(step_ms)), Ordering::Release);
        for name in &ended {
            self.remove_if(name, |topic| topic.interest.is_empty() && !topic.known);
        }
        !ended.is_empty()
    }

    /// Ends a topic that had no delta for too long by `upto_ms`; everything up to then has been read. Returns whether
    /// it has ended.
    pub(super) fn end_if_over(&self, topic: &mut Topic, upto_ms: u64, silent: bool) -> bool {
        let is_over = |upto_ms| self.is_over(topic, upto_ms, true);
        if !is_over(upto_ms) || is_own(&topic.name) || !is_over(upto_ms.min(self.relayed_upto_ms(topic.name.as_str())))
        {
            return false;
        }
        if let Some(source) = self.source(topic.source) {
            let last_ms = if topic.incomplete { source.gaps.last_ms(topic.active_ms) } else { topic.active_ms };
            // Before it is noted as ended.
            let end_ms = end_ms(&topic.options, last_ms);
            source.gaps.expire(end_ms);
            self.note_expiry(topic, end_ms);
        }
        self.end_by_age(topic, silent);
        true
    }

    /// Whether a topic has expired by `at_ms`, by its source's clock. When the last delta of an incomplete topic came
    /// is not known exactly.
    pub(super) fn is_over(&self, topic: &Topic, at_ms: u64, grace: bool) -> bool {
        topic.is_over(at_ms, grace)
            && (!topic.incomplete
                || self
                    .source(topic.source)
                    .is_some_and(|source| over(&topic.options, source.gaps.last_ms(topic.active_ms), at_ms, grace)))
    }

    /// Ends a topic at `offset`; subscribers are told that it has no state.
    pub(super) fn end(&self, topic: &mut Topic, offset: Offset, silent: bool) {
        topic.end(offset);
        self.has_ended(topic, offset, silent);
    }

    /// Ends a topic that has expired.
    pub(super) fn end_by_age(&self, topic: &mut Topic, silent: bool) {
        topic.end_by_age();
        self.has_ended(topic, topic.offset, silent);
    }

    fn has_ended(&self, topic: &mut Topic, offset: Offset, silent: bool) {
        self.names.remove(&topic.name);
        self.release_strays(topic);
        topic.stale = false;
        self.forget(topic);
        self.note_end(topic.source, &topic.name, offset);
        self.metrics.topics_expired.inc();
        self.set_may_exist_at_home(topic);
        // Also for a `stream` topic, or its subscribers would take the next delta for a gap.
        if !silent {
            self.tell_state(topic);
        }
    }

    /// A topic's history is gone: a client with an earlier position may have missed deltas, in the topic's source or in
    /// its home.
    pub(super) fn forget(&self, topic: &Topic) {
        let home = self.home(topic.name.as_str());
        for source in [topic.source, home] {
            if let Some(source) = self.source(source) {
                source.whole.store(false, Ordering::Release);
            }
        }
        if home != topic.source
            && let Some(home) = self.source(home)
        {
            home.forgot_moved.store(true, Ordering::Release);
        }
    }

    /// Marks a topic as stale, or as fresh again, by the time of its source.
    pub(super) fn update_staleness(&self, topic: &mut Topic, now_ms: u64) {
        let quiet_ms = now_ms.saturating_sub(topic.active_ms);
        let quiet = topic.options.stale_after.is_some_and(|after| quiet_ms > millis(after));
        if topic.known && quiet != topic.stale {
            topic.stale = quiet;
            let since_ms = quiet.then_some(topic.active_ms);
            self.each_interest(topic, |shard, slot| self.outlet.stale(shard, slot, &topic.name, since_ms));
        }
    }

    /// How long topics of `source` live on this node, by namespace.
    pub fn lifetimes(&self, source: SourceId) -> Vec<Lifetime> {
        let of = |(name, options): (&str, &Namespace)| Lifetime {
            namespace: hash_of(name),
            expire_ms: expire_ms(options),
            ended_ms: self.source(source).map_or(0, |state| state.gaps.ended_sooner_ms(Some(name))),
        };
        self.configured_namespaces().map(of).collect()
    }

    /// The saved states of `source` are of a node on which topics live so long, and some were ended by `expired_ms`:
    /// topics that live longer here may still exist.
    pub fn ended_sooner(&self, source: SourceId, saved: &[Lifetime], expired_ms: u64) {
        let Some(state) = self.source(source) else { return };
        let find = |name: &str| saved.iter().find(|lifetime| lifetime.namespace == hash_of(name));
        let ended = |(name, options): (&str, &Namespace)| {
            let Some(lifetime) = find(name).or_else(|| find("")) else { return (name.to_owned(), 0) };
            let (own_ms, saved_ms) = (expire_ms(options), lifetime.expire_ms);
            let lives_longer = saved_ms > 0 && (own_ms == 0 || own_ms > saved_ms);
            let ended_ms = if lives_longer { expired_ms.saturating_sub(saved_ms) } else { 0 };
            (name.to_owned(), ended_ms.max(lifetime.ended_ms))
        };
        let ended: HashMap<String, u64> = self.configured_namespaces().map(ended).collect();
        if ended.values().any(|ended_ms| *ended_ms > 0) {
            state.gaps.set_ended_sooner(ended);
        }
    }

    /// Up to when topics of `source` have expired here, Unix ms of its clock.
    pub fn expired_ms(&self, source: SourceId) -> u64 {
        self.source(source).map_or(0, |source| source.gaps.expired_ms())
    }

    /// On another node topics have expired up to `until_ms`, and their saved states were removed: a delta with an
    /// earlier time may belong to one of them.
    pub fn expired_elsewhere(&self, source: SourceId, until_ms: u64) {
        if let Some(state) = self.source(source) {
            state.gaps.expire(until_ms);
        }
    }
}
