//! Lines of a file or of standard input, in bounded memory.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Bytes per read.
const READ_BYTES: usize = 256 * 1024;

/// A line of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(Bytes),
    /// It was longer than the limit, and was skipped.
    TooLong,
}

/// Reads line by line. A cancelled read continues with the next call.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    bytes_max: usize,
    /// The part of the line that was read.
    line: Vec<u8>,
    is_too_long: bool,
    number: u64,
    bytes: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, bytes_max: usize) -> Self {
        let reader = BufReader::with_capacity(READ_BYTES, reader);
        Self { reader, bytes_max, line: Vec::new(), is_too_long: false, number: 0, bytes: 0 }
    }

    /// The number of the last line, counted from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Number of bytes that were read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line that is not blank; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let found = self.reader.fill_buf().await?;
            let is_end = found.is_empty();
            let at = found.iter().position(|byte| *byte == b'\n');
            let part = found.get(..at.unwrap_or(found.len())).unwrap_or_default();
            if self.line.len() + part.len() > self.bytes_max {
                (self.is_too_long, self.line) = (true, Vec::new());
            }
            if !self.is_too_long {
                self.line.extend_from_slice(part);
            }
            let taken = part.len() + usize::from(at.is_some());
            self.reader.consume(taken);
            self.bytes += taken as u64;
            if at.is_none() && !is_end {
                continue;
            }
            if is_end && self.line.is_empty() && !self.is_too_long {
                return Ok(None);
            }
            self.number += 1;
            let line = std::mem::take(&mut self.line);
            if std::mem::take(&mut self.is_too_long) {
                return Ok(Some(Line::TooLong));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(Line::Text(line.into())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_numbered_bounded_and_whole() {
        let text = format!("one\n\n  \ntwo\r\n{}\nthree", "x".repeat(600_000));
        let mut lines = Lines::new(text.as_bytes(), 100);
        let line = |text: &'static str| Some(Line::Text(Bytes::from_static(text.as_bytes())));
        for (expected, number) in [(line("one"), 1), (line("two\r"), 4), (Some(Line::TooLong), 5), (line("three"), 6)] {
            assert_eq!((lines.next().await.unwrap(), lines.number()), (expected, number));
        }
        assert_eq!((lines.next().await.unwrap(), lines.next().await.unwrap()), (None, None));
        assert_eq!(lines.bytes(), text.len() as u64);
    }

    #[tokio::test]
    async fn a_read_that_is_given_up_loses_nothing() {
        use tokio::io::AsyncWriteExt as _;
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut lines = Lines::new(reader, 100);
        for part in ["on", "e\ntw", "o\n"] {
            writer.write_all(part.as_bytes()).await.unwrap();
            if part != "o\n" {
                let mut given_up = Box::pin(lines.next());
                let polled = futures_util::poll!(&mut given_up);
                assert_eq!(polled.is_ready(), part == "e\ntw");
            }
        }
        assert_eq!(lines.next().await.unwrap(), Some(Line::Text(Bytes::from_static(b"two"))));
    }
}
