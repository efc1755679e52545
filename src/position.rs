//! The position of a delta in its topic.

use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::limits::OFFSET_MAX;

/// A delta's position in its topic: strictly increasing, at most 2^53−1; 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(u64);

impl Offset {
    /// Before every delta.
    pub const ZERO: Self = Self(0);

    /// `value`, if a double can represent it exactly.
    pub fn new(value: u64) -> Option<Self> {
        (value <= OFFSET_MAX).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The next one. Stays at the maximum, which 2^53 deltas would take to reach.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1).min(OFFSET_MAX))
    }

    /// The one before. Stays at zero.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Suffix of the epoch of a state that may lack deltas.
const IN_DOUBT: char = '~';

/// Names a range of comparable offsets: offsets of different epochs cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(CompactString);

impl Epoch {
    /// A new random epoch.
    pub fn random() -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let mut bits = crate::random::bits();
        let text = std::iter::repeat_with(|| {
            let letter = ALPHABET.get((bits % 32) as usize).copied().unwrap_or(b'a');
            bits /= 32;
            char::from(letter)
        });
        Self(text.take(8).collect())
    }

    /// An epoch that was stored or sent earlier.
    pub fn from_text(text: &str) -> Self {
        Self(CompactString::from(text))
    }

    /// The epoch for positions in a state that may lack deltas: a client with such a position may
    /// lack data that others have at this offset, so it cannot recover from it.
    #[must_use]
    pub fn in_doubt(&self) -> Self {
        match self.0.ends_with(IN_DOUBT) {
            true => self.clone(),
            false => Self(CompactString::from(format!("{}{IN_DOUBT}", self.0))),
        }
    }

    /// Whether offsets of the two can be compared, even if a state may lack deltas.
    pub fn is_comparable(&self, other: &Self) -> bool {
        self.0.trim_end_matches(IN_DOUBT) == other.0.trim_end_matches(IN_DOUBT)
    }

    /// As sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Offset and epoch: all that a client needs to recover.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Last delta seen.
    pub offset: Offset,
    /// Epoch it was seen in.
    pub epoch: Epoch,
}
