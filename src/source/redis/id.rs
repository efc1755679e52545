//! Entry IDs, and offsets made of them.
//!
//! An ID is `<ms>-<seq>`. Its offset is `(ms − 2024-01-01) · 2^13 + seq`: the same on every node without a word
//! between them, below 2^53 until November 2058. More than 8,192 entries in one millisecond (a script that appends in
//! one go, or a clock that stood still) run over into the next ms's numbers; where that, or IDs written by hand from
//! before 2024, would make offsets not grow, the next free one is taken and the event is counted.

use std::fmt;
use std::str::FromStr;

use crate::limits::OFFSET_MAX;
use crate::position::Offset;

/// 2024-01-01T00:00:00Z, Unix ms.
const BASE_MS: u64 = 1_704_067_200_000;

const SEQ_BITS: u32 = 13;

const _: () = assert!(((1_u64 << 40) << SEQ_BITS) - 1 == OFFSET_MAX);

/// A stream entry's ID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Unix ms, normally.
    pub ms: u64,
    /// Number within the ms.
    pub seq: u64,
}

impl EntryId {
    /// The ID's own offset; `None` from November 2058 on.
    pub fn offset(self) -> Option<Offset> {
        let packed = self.ms.saturating_sub(BASE_MS).checked_mul(1 << SEQ_BITS)?.checked_add(self.seq)?;
        Offset::new(packed)
    }

    /// Whether nothing comes before it.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || format!("{text:?} is not an entry ID (<ms>-<seq>)");
        let (ms, seq) = text.split_once('-').ok_or_else(error)?;
        Ok(Self { ms: ms.parse().map_err(|_| error())?, seq: seq.parse().map_err(|_| error())? })
    }
}

/// Gives the entries of one partition offsets that grow strictly.
#[derive(Debug, Clone, Default)]
pub struct OffsetPacker {
    last: Offset,
}

impl OffsetPacker {
    /// Continues after `last`.
    pub fn after(last: Offset) -> Self {
        Self { last }
    }

    /// The offset that was given last.
    pub fn last(&self) -> Offset {
        self.last
    }

    /// The offset of the next entry, and whether it had to be raised. `None` if there is none left.
    pub fn pack(&mut self, id: EntryId) -> Option<(Offset, bool)> {
        let own = id.offset()?;
        let raised = own <= self.last;
        let offset = if raised { Offset::new(self.last.get() + 1)? } else { own };
        self.last = offset;
        Some((offset, raised))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_and_their_offsets() {
        let id: EntryId = "1723161256313-7".parse().unwrap();
        assert_eq!(id.offset().unwrap().get(), (1_723_161_256_313 - BASE_MS) * 8_192 + 7);
        assert_eq!(id.to_string(), "1723161256313-7");
        for bad in ["", "5", "a-1", "1-", "-1", "1-2-3"] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
        assert_eq!(EntryId { ms: BASE_MS + (1 << 40), seq: 0 }.offset(), None);
        assert_eq!(EntryId { ms: u64::MAX, seq: u64::MAX }.offset(), None);
        assert!(EntryId { ms: BASE_MS + (1 << 40) - 1, seq: 8_191 }.offset().unwrap().get() == OFFSET_MAX);
    }

    proptest! {
        #[test]
        fn offsets_grow_strictly_and_alike_on_every_node(
            steps in prop::collection::vec((0u64..3, 0u64..20_000), 1..50),
            start in 0usize..50,
        ) {
            let (mut ms, mut seq) = (BASE_MS + 1, 0);
            let ids: Vec<EntryId> = steps.iter().map(|(dms, dseq)| {
                if *dms > 0 { ms += dms; seq = 0; } else { seq += 1 + dseq; }
                EntryId { ms, seq }
            }).collect();
            let mut whole = OffsetPacker::default();
            let offsets: Vec<Offset> = ids.iter().map(|id| whole.pack(*id).unwrap().0).collect();
            prop_assert!(offsets.windows(2).all(|w| w[0] < w[1]));
            // A node that starts later agrees with one that read everything, wherever IDs are ordinary.
            if steps.iter().all(|(_, dseq)| *dseq < 100) {
                let start = start % ids.len();
                let mut late = OffsetPacker::default();
                for (id, offset) in ids.iter().zip(&offsets).skip(start) {
                    prop_assert_eq!(late.pack(*id).unwrap(), (*offset, false));
                }
            }
        }
    }
}
