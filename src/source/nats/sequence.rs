//! Sequences of messages are their offsets, as far as every client can read the number.

use crate::limits::OFFSET_MAX;
use crate::position::Offset;
use crate::source::refusal::{Reason, Refusal};

/// A message has no offset. A stream's sequences only rise: none that comes after it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the message {0} has a sequence above {OFFSET_MAX}, the last number that every client can read. All that is added to the \
     stream from now on has such sequences: publish to a new stream, or delete this one"
)]
pub(super) struct TooLate(u64);

impl TooLate {
    /// What its publisher learns.
    pub(super) fn refusal(self) -> Refusal {
        let text = format!("its sequence {} is above {OFFSET_MAX}, the last number that every client can read", self.0);
        Refusal::new(Reason::IdTooLate, text, "publish to a new stream, or delete this one")
    }
}

/// The offset of the message with this sequence.
///
/// # Errors
/// If it has none.
pub(super) fn offset(sequence: u64) -> Result<Offset, TooLate> {
    Offset::new(sequence).ok_or(TooLate(sequence))
}

/// The offset that no message up to this one passes.
pub(super) fn ceiling(sequence: u64) -> Offset {
    Offset::new(sequence.min(OFFSET_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_have_offsets_up_to_the_last() {
        for sequence in [1, OFFSET_MAX - 1, OFFSET_MAX] {
            assert_eq!((offset(sequence).unwrap().get(), ceiling(sequence).get()), (sequence, sequence));
        }
        for sequence in [OFFSET_MAX + 1, u64::MAX] {
            let refusal = offset(sequence).unwrap_err().refusal();
            assert_eq!((refusal.reason.label(), ceiling(sequence).get()), ("id_too_late", OFFSET_MAX));
            assert!(refusal.text.contains(&sequence.to_string()), "{refusal:?}");
            crate::source::entry::tests::is_plain(&refusal);
        }
    }
}
