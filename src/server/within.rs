//! Keeps resident memory within `limits.memory`. Accounts count the bytes in use, but an allocator
//! takes more because of fragmentation. Near the limit, the ceilings of everything that can be
//! freed are lowered until the process fits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::accounts::{self, WHOLE};
use crate::allocator;
use crate::memory::rss_bytes;
use crate::metrics::Metrics;
use crate::topic::Topics;

/// Time between two checks of resident memory. One costs some 20 µs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The lowest share of the ceilings, in 1/256.
const LEAST: u32 = WHOLE / 16;

/// Growth of the share per check while there is room, in 1/256: all of it in some 13 s, because
/// freed data does not come back.
const BACK: u32 = 1;

/// Growth of a burst between two checks, until less memory is in use.
const BURST_BYTES: u64 = 32 << 20;

/// For a limit of `memory` bytes: the resident sizes above which ceilings fall, and below which
/// they rise again.
fn marks(memory: u64) -> (u64, u64) {
    let high = memory - (memory / 8).max(BURST_BYTES.min(memory / 4));
    (high, high - memory / 16)
}

/// The new share after `share`, with so many bytes resident beyond those of a start.
fn share_for(share: u32, resident: u64, memory: u64) -> u32 {
    let (high, low) = marks(memory);
    match resident {
        _ if resident > high => (share - share / 4).max(LEAST),
        _ if resident < low => (share + BACK).min(WHOLE),
        _ => share,
    }
}

/// Checks until `stop`. `base` is the resident size at the start.
pub(super) async fn keep(memory: u64, base: u64, topics: Arc<Topics>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let over = || rss_bytes().saturating_sub(base);
    let mut rest = LOOK_EVERY;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        rest = LOOK_EVERY;
        let mut resident = over();
        if resident > marks(memory).0 {
            // Memory that is free already but kept for a while goes first.
            let _ = tokio::task::spawn_blocking(allocator::give_back_now).await;
            resident = over();
        }
        let before = accounts::share();
        let share = share_for(before, resident, memory);
        accounts::set_share(share);
        if share < before {
            metrics.memory_ceilings_lowered.inc();
            if before == WHOLE {
                tracing::warn!(
                    "resident memory is {resident} bytes above the start, the limit is {memory} (limits.memory): history \
                     and backlogs are reduced until it is below {}",
                    marks(memory).1
                );
            }
            let (topics, began) = (topics.clone(), Instant::now());
            let _ = tokio::task::spawn_blocking(move || topics.cut_history()).await;
            // A walk over a million topics must not run all the time.
            rest = rest.max(began.elapsed() * 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// (the share, MiB resident of a limit of 64 MiB) and the share after that.
    #[test]
    fn ceilings_come_down_near_the_limit_and_go_up_again_below_it() {
        for (share, resident, then) in [
            (WHOLE, 0, WHOLE),
            (WHOLE, 48, WHOLE),
            (WHOLE, 49, 192),
            (192, 64, 144),
            (LEAST, 500, LEAST),
            (100, 45, 100),
            (100, 43, 101),
            (255, 0, WHOLE),
        ] {
            assert_eq!(share_for(share, resident * MIB, 64 * MIB), then, "{share} {resident}");
        }
    }

    /// A small server keeps a larger share of its limit free for bursts than a large one.
    #[test]
    fn room_is_left_for_a_burst() {
        for (memory, marks_mib) in [(16, (12, 11)), (128, (96, 88)), (256, (224, 208)), (1_024, (896, 832))] {
            let (high, low) = marks(memory * MIB);
            assert_eq!((high / MIB, low / MIB), marks_mib, "{memory}");
        }
    }
}
