//! Entry IDs, and offsets made of them.
//!
//! An ID is `<ms>-<sequence>`. Its offset is `(ms − 2024-01-01) · 2^13 + sequence`: a function of the ID alone, so that
//! every node comes to the same without a word between them and whatever else it has read. It stays below 2^53 until
//! November 2058. What does not fit (a sequence above 8,191, a time before 2024 or after 2058) has no offset: such an entry
//! is refused, on every node alike.

use std::fmt;
use std::str::FromStr;

use crate::limits::OFFSET_MAX;
use crate::position::Offset;
use crate::source::refusal::{Reason, Refusal};

/// 2024-01-01T00:00:00Z, Unix ms.
const BASE_MS: u64 = 1_704_067_200_000;

const SEQ_BITS: u32 = 13;

/// The highest sequence that has an offset.
const SEQ_MAX: u64 = (1 << SEQ_BITS) - 1;

const MS_BITS: u32 = 40;

const _: () = assert!(((1_u64 << MS_BITS) << SEQ_BITS) - 1 == OFFSET_MAX);

/// A stream entry's ID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Unix ms, normally.
    pub ms: u64,
    /// Number within the ms.
    pub seq: u64,
}

/// Why an entry has no offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Before the first time that offsets can say.
    #[error(
        "the ID {0} says a time before 2024: the first number of an ID is Unix milliseconds; let Redis give it (`XADD … *`) and \
         put the time of the event into the field for it (source.redis.ts_field)"
    )]
    TooEarly(EntryId),
    /// After the last one.
    #[error(
        "the ID {0} says a time after November 2058: the first number of an ID is Unix milliseconds (not microseconds or \
         nanoseconds). All that is added to the stream from now on gets such IDs: publish to a new stream, or delete this one, \
         and let Redis give the IDs (`XADD … *`)"
    )]
    TooLate(EntryId),
    /// More entries in one ms than offsets can tell apart.
    #[error(
        "the ID {0} has a sequence above {SEQ_MAX}: one millisecond holds that many entries and no more; let Redis give the IDs \
         (`XADD … *`), and append fewer at once"
    )]
    Sequence(EntryId),
}

impl IdError {
    /// Whether all later entries of the stream share the fault: Redis gives no ID below one that it has given.
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::TooLate(_))
    }

    /// What its publisher learns.
    pub(super) fn refusal(self) -> Refusal {
        let (reason, text, remedy) = match self {
            Self::TooEarly(id) => (
                Reason::IdTooEarly,
                format!("its ID {id} says a time before 2024: the first number of an ID is Unix milliseconds"),
                "let Redis give the ID (`XADD … *`), and put the time of the event into the field for it (source.redis.ts_field)",
            ),
            Self::TooLate(id) => (
                Reason::IdTooLate,
                format!("its ID {id} says a time after November 2058: the first number of an ID is Unix milliseconds"),
                "publish to a new stream, or delete this one, and let Redis give the IDs (`XADD … *`)",
            ),
            Self::Sequence(id) => (
                Reason::IdSequence,
                format!("its ID {id} has a sequence above {SEQ_MAX}, the last that one millisecond holds"),
                "let Redis give the IDs (`XADD … *`), and append fewer in one script",
            ),
        };
        Refusal::new(reason, text, remedy)
    }
}

impl EntryId {
    /// The entry's offset.
    ///
    /// # Errors
    /// If it has none.
    pub fn offset(self) -> Result<Offset, IdError> {
        if self.ms < BASE_MS || (self.ms == BASE_MS && self.seq == 0) {
            return Err(IdError::TooEarly(self));
        }
        if self.ms - BASE_MS >= 1 << MS_BITS {
            return Err(IdError::TooLate(self));
        }
        if self.seq > SEQ_MAX {
            return Err(IdError::Sequence(self));
        }
        Offset::new(((self.ms - BASE_MS) << SEQ_BITS) + self.seq).ok_or(IdError::TooLate(self))
    }

    /// The offset that no entry up to this one passes.
    pub fn ceiling(self) -> Offset {
        let own = self.ms.saturating_sub(BASE_MS).saturating_mul(1 << SEQ_BITS);
        let sequence = if self.ms < BASE_MS { 0 } else { self.seq.min(SEQ_MAX) };
        Offset::new(own.saturating_add(sequence).min(OFFSET_MAX)).unwrap_or_default()
    }

    /// The entry of this offset.
    pub fn of_offset(offset: Offset) -> Self {
        Self { ms: BASE_MS + (offset.get() >> SEQ_BITS), seq: offset.get() & SEQ_MAX }
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
        // Byte by byte: IDs are short, and each entry has one.
        let dash = text.bytes().position(|byte| byte == b'-').ok_or_else(error)?;
        let (ms, seq) = text.split_at_checked(dash).ok_or_else(error)?;
        let seq = seq.strip_prefix('-').ok_or_else(error)?;
        Ok(Self { ms: ms.parse().map_err(|_| error())?, seq: seq.parse().map_err(|_| error())? })
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
        let offset = |ms, seq| EntryId { ms, seq }.offset();
        assert_eq!(offset(BASE_MS + (1 << 40) - 1, SEQ_MAX).unwrap().get(), OFFSET_MAX);
        assert_eq!(offset(BASE_MS, 1).unwrap().get(), 1);
        for (ms, seq, label) in [
            (0, 1, "id_too_early"),
            (1_732_000_000, 999_999_999, "id_too_early"),
            (1_600_000_000_000, 0, "id_too_early"),
            (BASE_MS, 0, "id_too_early"),
            (BASE_MS + 1, SEQ_MAX + 1, "id_sequence"),
            (1_732_000_000_000, u64::MAX, "id_sequence"),
            (BASE_MS + (1 << 40), 0, "id_too_late"),
            (1_732_000_000_000_000, 0, "id_too_late"),
            (u64::MAX, u64::MAX, "id_too_late"),
        ] {
            let refusal = offset(ms, seq).unwrap_err().refusal();
            assert_eq!(refusal.reason.label(), label, "{ms}-{seq}");
            assert!(refusal.text.contains(&format!("{ms}-{seq}")));
            crate::source::entry::tests::is_plain(&refusal);
        }
    }

    proptest! {
        #[test]
        fn offsets_grow_with_ids_and_say_nothing_of_other_entries(
            one in (BASE_MS - 5..BASE_MS + 5, 0u64..9_000),
            other in (BASE_MS - 5..BASE_MS + 5, 0u64..9_000),
        ) {
            let id = |(ms, seq)| EntryId { ms, seq };
            let (one, other) = (id(one), id(other));
            if let (Ok(a), Ok(b)) = (one.offset(), other.offset()) {
                prop_assert_eq!(one.cmp(&other), a.cmp(&b));
            }
            if let (true, Ok(a)) = (one <= other, one.offset()) {
                prop_assert!(a <= other.ceiling());
            }
            if let Ok(a) = one.offset() {
                prop_assert_eq!(EntryId::of_offset(a), one);
                prop_assert_eq!(a, one.ceiling());
            }
        }
    }
}
