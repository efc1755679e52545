//! Rebalancing: some of a shard's sessions are closed with the messages of a drain, and go to other nodes. Nothing else
//! changes: the shard goes on, and takes whom it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::event::SessionKey;
use super::session::Stage;
use super::shard::Shard;
use super::waves::Waves;
use crate::limits::SHED_RETRY_MS_MAX;
use crate::protocol::Notice;
use crate::wire::close::CloseReason;

/// One shard's share of what is to go. What is left of it is given back when it is dropped, wherever that is, so that the
/// node's count always ends at 0.
pub(super) struct Share {
    left: Arc<AtomicUsize>,
    count: usize,
}

impl Share {
    /// A share of what `left` counts already.
    pub(super) fn new(left: Arc<AtomicUsize>, count: usize) -> Self {
        Self { left, count }
    }

    /// So many went, or were gone already.
    fn went(&mut self, count: usize) {
        let count = count.min(self.count);
        self.count -= count;
        self.left.fetch_sub(count, Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.went(self.count);
    }
}

/// Sessions of one shard on their way to other nodes.
pub(super) struct Shed {
    waves: Waves,
    share: Share,
}

/// `count` parted by the shards' sessions, so that they stay as even as they are (largest remainders).
pub(super) fn apportion(count: usize, sessions: &[usize]) -> Vec<usize> {
    let total: usize = sessions.iter().sum();
    if total == 0 {
        return vec![0; sessions.len()];
    }
    let count = count.min(total);
    let mut shares: Vec<usize> = sessions.iter().map(|n| n * count / total).collect();
    let mut by_remainder: Vec<usize> = (0..sessions.len()).collect();
    by_remainder.sort_by_key(|i| std::cmp::Reverse(sessions.get(*i).map_or(0, |n| n * count % total)));
    let missing = count - shares.iter().sum::<usize>();
    for i in by_remainder.into_iter().take(missing) {
        if let Some(share) = shares.get_mut(i) {
            *share += 1;
        }
    }
    shares
}

impl Shard {
    /// Begins to close `share` of the sessions, chosen by lot, in waves over `window`. Who has only just come is left alone.
    pub(super) fn begin_shed(&mut self, mut share: Share, window: Duration) {
        if self.drain.is_some() {
            return;
        }
        let open: Vec<SessionKey> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.stage == Stage::Open)
            .map(|(index, session)| session.key(u32::try_from(index).unwrap_or(u32::MAX)))
            .collect();
        let chosen = rand::seq::index::sample(&mut rand::rng(), open.len(), share.count.min(open.len()));
        let chosen: Vec<SessionKey> = chosen.into_iter().filter_map(|i| open.get(i).copied()).collect();
        share.went(share.count - chosen.len());
        self.shed = Some(Shed { waves: Waves::new(self.now_ms, window, chosen), share });
        self.next_sweep_ms = self.now_ms;
    }

    /// Tells those whose turn it is how long to stay away, and closes them.
    pub(super) fn shed_wave(&mut self) {
        let Some(mut shed) = self.shed.take() else { return };
        let wave = shed.waves.due(self.now_ms);
        shed.share.went(wave.len());
        for key in wave {
            let retry_after_ms = rand::random_range(0..=SHED_RETRY_MS_MAX);
            let Some(session) = self.keyed(key).filter(|s| s.stage == Stage::Open) else { continue };
            let notice = session.dialect.notice(Notice::Closing { retry_after_ms });
            self.send(key.index, notice);
            self.close(key.index, CloseReason::ServiceRestart);
            self.stats.shed.add(1);
        }
        if !shed.waves.is_over() {
            self.shed = Some(shed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_stay_as_even_as_they_are() {
        for (count, sessions, want) in [
            (10, &[50, 50][..], &[5, 5][..]),
            (3, &[50, 50], &[2, 1]),
            (30, &[100, 200], &[10, 20]),
            (1, &[0, 9], &[0, 1]),
            (5, &[1, 1, 1], &[1, 1, 1]),
            (7, &[0, 0], &[0, 0]),
            (0, &[4, 4], &[0, 0]),
        ] {
            assert_eq!(apportion(count, sessions), want, "{count} of {sessions:?}");
        }
        for count in 0..=60 {
            let shares = apportion(count, &[7, 31, 0, 22]);
            assert_eq!(shares.iter().sum::<usize>(), count);
            assert!(shares.iter().zip([7, 31, 0, 22]).all(|(share, of)| *share <= of), "{shares:?}");
        }
    }

    #[test]
    fn what_is_left_of_a_share_is_given_back() {
        let left = Arc::new(AtomicUsize::new(10));
        let mut share = Share::new(left.clone(), 6);
        share.went(2);
        assert_eq!(left.load(Ordering::Relaxed), 8);
        drop(share);
        assert_eq!(left.load(Ordering::Relaxed), 4);
    }
}
