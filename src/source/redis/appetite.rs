//! How many entries are asked for at once: as many as fit a bound on memory and a bound on time, by what the last ones took.
//! Bytes are those of the memory that an answer takes ([`super::resp`]).
//!
//! Redis bounds a read by count alone. Entries may be of any size, and a link of any speed: so it begins with a few and goes
//! on with at most twice as many each time. What comes may be larger than all before: an answer to several that has more than
//! twice the bound on bytes is given up, and they are read one by one.

use std::time::Duration;

/// Bytes that one answer is to have at most, as far as can be told from those before it.
pub(super) const READ_BYTES: usize = 4 << 20;

/// Bytes of an answer to several entries at which it is given up.
const SEVERAL_BYTES_MAX: usize = 2 * READ_BYTES;

/// Bytes of an answer to one entry at which it is given up: a share of the memory there is, between these. The oldest entry comes
/// with it, and may be the same: half of it is what one may have.
const ONE_SHARE: u64 = 4;
const ONE_BYTES_MIN: usize = 16 << 20;
const ONE_BYTES_MAX: usize = 1 << 30;

/// Bytes that an answer to one entry may have, of `memory`.
pub(super) fn one_bytes_max(memory: Option<u64>) -> usize {
    let share = memory.map(|memory| usize::try_from(memory / ONE_SHARE).unwrap_or(usize::MAX));
    share.unwrap_or(ONE_BYTES_MAX).clamp(ONE_BYTES_MIN, ONE_BYTES_MAX)
}

/// Bytes that an answer to so many entries may have, beside `known` ones that are read again with them; `one` may be of one.
pub(super) fn bytes_max(asked: usize, known: usize, one: usize) -> usize {
    let several = SEVERAL_BYTES_MAX.saturating_add(known);
    if asked > 1 { several.min(one) } else { one }
}

/// Entries of the first read, and of that after a failure.
const FIRST: usize = 16;

/// An answer that takes longer than this was too large for the link.
const SLOW: Duration = Duration::from_secs(1);

/// See above.
#[derive(Debug, Clone)]
pub(super) struct Appetite {
    count: usize,
    most: usize,
    /// The largest entry of late, in bytes.
    largest: usize,
}

impl Appetite {
    /// At most `most` entries at once.
    pub(super) fn new(most: usize) -> Self {
        Self { count: FIRST.min(most), most, largest: 0 }
    }

    /// Entries to ask for.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// So large were the entries of an answer to `asked` of them, which took this long. Only a full one tells that more would
    /// have been there.
    pub(super) fn fed(&mut self, sizes: impl IntoIterator<Item = usize>, asked: usize, took: Duration) {
        let mut number = 0;
        let mut sizes = sizes.into_iter().inspect(|_| number += 1).peekable();
        if sizes.peek().is_none() {
            return;
        }
        // What was large once is forgotten little by little.
        self.largest = sizes.fold(self.largest - self.largest / 8, usize::max);
        let wanted = match took > SLOW {
            true => self.count / 2,
            false if number >= asked => self.count.saturating_mul(2),
            false => self.count,
        };
        self.count = wanted.min(READ_BYTES / self.largest.max(1)).clamp(1, self.most);
    }

    /// An answer to several entries was given up for its size. What comes next is taken to be as large.
    pub(super) fn overfed(&mut self) {
        (self.count, self.largest) = (1, READ_BYTES);
    }

    /// No answer came.
    pub(super) fn failed(&mut self) {
        self.count = (self.count / 2).clamp(1, FIRST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);

    fn after(answers: &[(usize, usize, Duration)]) -> usize {
        let mut appetite = Appetite::new(1_000);
        for (count, bytes, took) in answers {
            appetite.fed(std::iter::repeat_n(*bytes, *count), 1, *took);
        }
        appetite.count()
    }

    #[test]
    fn reads_grow_to_the_most_of_small_entries_and_to_the_bound_of_large_ones() {
        assert_eq!(after(&[]), FIRST);
        assert_eq!(after(&[(16, 150, QUICK)]), 32);
        assert_eq!(after(&[(16, 150, QUICK); 20]), 1_000);
        assert_eq!(after(&[(16, 250_000, QUICK); 20]), 16);
        assert_eq!(after(&[(16, 4 << 20, QUICK)]), 1);
        assert_eq!(after(&[(1, 500 << 20, QUICK); 3]), 1, "one is always asked for");
    }

    #[test]
    fn after_an_answer_that_was_too_large_reads_are_of_one_and_grow_again() {
        let mut appetite = Appetite::new(1_000);
        for _ in 0..10 {
            appetite.fed([1; 8], 8, QUICK);
        }
        appetite.overfed();
        assert_eq!(appetite.count(), 1);
        for _ in 0..4 {
            appetite.fed([1], 1, QUICK);
            assert_eq!(appetite.count(), 1);
        }
        for _ in 0..60 {
            appetite.fed(std::iter::repeat_n(1, appetite.count()), appetite.count(), QUICK);
        }
        assert_eq!(appetite.count(), 1_000);
        for (memory, one) in
            [(None, 1 << 30), (Some(256 << 20), 64 << 20), (Some(1), 16 << 20), (Some(1 << 40), 1 << 30)]
        {
            assert_eq!(one_bytes_max(memory), one);
        }
        let one = one_bytes_max(None);
        assert_eq!((bytes_max(2, 0, one), bytes_max(2, 5, one), bytes_max(1, 0, one)), (8 << 20, (8 << 20) + 5, one));
        assert_eq!(bytes_max(2, one, one), one, "never more than that");
    }

    #[test]
    fn a_slow_link_gets_small_reads_and_what_was_large_is_forgotten() {
        let slow = Duration::from_secs(2);
        assert_eq!(after(&[(16, 6_000, QUICK), (32, 6_000, slow), (16, 6_000, slow)]), 8);
        assert_eq!(after(&[(16, 6_000, slow); 50]), 1);
        let mut answers = vec![(1, READ_BYTES, QUICK)];
        answers.extend([(1, 150, QUICK); 100]);
        assert_eq!(after(&answers), 1_000);
        let mut appetite = Appetite::new(1_000);
        appetite.fed([1; 8], 8, QUICK);
        for _ in 0..10 {
            appetite.fed([1; 8], 8, QUICK);
        }
        appetite.failed();
        assert_eq!(appetite.count(), FIRST);
        for _ in 0..10 {
            appetite.failed();
        }
        assert_eq!(appetite.count(), 1);
        appetite.fed([], 1, slow);
        assert_eq!(appetite.count(), 1, "nothing says nothing");
        appetite.fed([1; 8], 9, QUICK);
        assert_eq!(appetite.count(), 1, "there were no more");
    }
}
