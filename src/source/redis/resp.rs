//! How much memory answers of Redis take once they are read. Each value costs more than its bytes: an answer of many small
//! ones takes about ten times what came over the wire.

/// Memory of a value beside its bytes: its place in a list that grows, and the head of its allocation.
pub(super) const VALUE_BYTES: usize = 128;

/// Counts the values in what comes over a connection, in RESP2 and RESP3. Texts are passed over at once.
#[derive(Debug, Default)]
pub(super) struct ValueCounter {
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// A value begins.
    #[default]
    Begin,
    /// In the line of a value without a text behind it.
    Line,
    /// In the line that has the length of a text; the length so far.
    Length(u64),
    /// In a text, with so many bytes to come.
    Text(u64),
}

impl ValueCounter {
    /// The number of values that begin in the next bytes.
    pub(super) fn count(&mut self, bytes: &[u8]) -> usize {
        let (mut rest, mut values) = (bytes, 0);
        while let Some((&first, after)) = rest.split_first() {
            match self.state {
                State::Begin => {
                    values += 1;
                    // Bulk strings, bulk errors and verbatim strings.
                    self.state = if matches!(first, b'$' | b'!' | b'=') { State::Length(0) } else { State::Line };
                    rest = after;
                }
                State::Line => match rest.iter().position(|byte| *byte == b'\n') {
                    Some(end) => (self.state, rest) = (State::Begin, rest.get(end + 1..).unwrap_or_default()),
                    None => rest = &[],
                },
                State::Length(length) => {
                    self.state = match first {
                        b'0'..=b'9' => State::Length(length.saturating_mul(10).saturating_add(u64::from(first - b'0'))),
                        b'\r' => State::Length(length),
                        b'\n' => State::Text(length.saturating_add(2)),
                        // None (`-1`), or one whose length is not known.
                        _ => State::Line,
                    };
                    rest = after;
                }
                State::Text(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::Begin } else { State::Text(left) };
                    rest = rest.get(taken..).unwrap_or_default();
                }
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_whatever_the_pieces() {
        let answers: [(&[u8], usize); 8] = [
            (b"+OK\r\n", 1),
            (b"$5\r\n$1\r\nx\r\n", 1),
            (b"$-1\r\n", 1),
            (b"$0\r\n\r\n", 1),
            (b"*2\r\n$3\r\n1-0\r\n*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$2\r\n\n*\r\n", 7),
            (b"*-1\r\n:5\r\n-ERR $3 no\r\n", 3),
            (b"%1\r\n+a\r\n=7\r\ntxt:abc\r\n", 3),
            (b">2\r\n+message\r\n_\r\n", 3),
        ];
        let whole: Vec<u8> = answers.iter().flat_map(|(answer, _)| answer.iter().copied()).collect();
        let expected: usize = answers.iter().map(|(_, values)| values).sum();
        for length in 1..whole.len() {
            let mut counter = ValueCounter::default();
            let values: usize = whole.chunks(length).map(|piece| counter.count(piece)).sum();
            assert_eq!((values, counter.state), (expected, State::Begin), "pieces of {length}");
        }
        for (answer, values) in answers {
            assert_eq!(ValueCounter::default().count(answer), values, "{answer:?}");
        }
    }
}
