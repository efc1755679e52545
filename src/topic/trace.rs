//! A sample of deltas, followed by log lines from their source to the last socket: docs/operations.md shows them.
//!
//! The topic and the offset decide, so that all nodes that give a delta the same offset trace the same ones under the
//! same name.

use std::fmt;
use std::time::Instant;

use crate::name::TopicName;
use crate::position::Offset;

/// The name of a traced delta in the log, and when it was taken in.
#[derive(Debug)]
pub struct Trace {
    id: u64,
    taken: Instant,
}

impl Trace {
    /// Time since it was taken in, in µs.
    pub fn us(&self) -> u64 {
        u64::try_from(self.taken.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.id)
    }
}

/// Which deltas are followed.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Those whose hash is no more than this.
    upto: Option<u64>,
}

impl Sampler {
    /// A share of them, 0 to 1.
    pub(super) fn new(share: f64) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "0 to 1"
        )]
        let upto = (share > 0.0).then_some((share.min(1.0) * u64::MAX as f64) as u64);
        Self { upto }
    }

    /// Whether this one is.
    pub(super) fn pick(&self, topic: &TopicName, offset: Offset) -> Option<Box<Trace>> {
        let upto = self.upto?;
        let id = hash(topic.as_str(), offset.get());
        (id <= upto).then(|| Box::new(Trace { id, taken: Instant::now() }))
    }
}

/// FNV-1a of the name, then SplitMix64's mixing: offsets that follow each other are far apart.
fn hash(topic: &str, offset: u64) -> u64 {
    let name = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut h = name ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_asked_for_is_picked_and_always_the_same() {
        let topics: Vec<TopicName> = (0..50).map(|n| TopicName::new(&format!("quotes:{n}")).unwrap()).collect();
        let picked = |share: f64| {
            let sampler = Sampler::new(share);
            let all = topics.iter().flat_map(|t| (1..=400).map(move |n| (t, Offset::new(n).unwrap())));
            all.filter_map(|(topic, offset)| Some(sampler.pick(topic, offset)?.to_string())).collect::<Vec<_>>()
        };
        assert!(picked(0.0).is_empty());
        assert_eq!(picked(1.0).len(), 20_000);
        let tenth = picked(0.1);
        assert!((1_700..2_300).contains(&tenth.len()), "{} of 20,000", tenth.len());
        assert_eq!(tenth, picked(0.1), "on every node the same");
        assert!(picked(0.01).iter().all(|id| tenth.contains(id)), "a smaller share is part of a larger one");
    }
}
