//! Tracks where requests begin and end, beside the HTTP server. With both `Transfer-Encoding` and
//! `Content-Length`, the server silently uses the first and drops the second, while a proxy in
//! front may have done the opposite.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest part of a line that is considered. The HTTP server accepts longer lines padded with
/// spaces or zeros, which no client sends. A request whose body headers are on such a line is
/// refused, and so are those after it.
const LINE_BYTES_MAX: usize = 256;

/// Progress of the requests of a connection.
#[derive(Debug, Default)]
pub(in crate::http) struct Heads {
    /// Complete heads read.
    whole: AtomicU64,
    /// The first request, counted from 1, after which it is uncertain where requests end; 0 is
    /// none.
    ambiguous: AtomicU64,
    /// Whether an incomplete head has begun.
    begun: AtomicBool,
}

impl Heads {
    /// Whether the request with this number, counted from 1, is ambiguous or follows an ambiguous
    /// one.
    pub(in crate::http) fn is_ambiguous(&self, number: u64) -> bool {
        let from = self.ambiguous.load(Ordering::Relaxed);
        from > 0 && number >= from
    }

    /// Whether an incomplete head has begun.
    pub(in crate::http) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

/// A stream whose requests are tracked.
pub(in crate::http) struct Followed<S> {
    stream: S,
    framing: Framing,
}

impl<S> Followed<S> {
    pub(in crate::http) fn new(stream: S) -> Self {
        Self { stream, framing: Framing::default() }
    }

    /// The progress of its requests.
    pub(in crate::http) fn heads(&self) -> Arc<Heads> {
        self.framing.heads.clone()
    }

    pub(in crate::http) fn into_inner(self) -> S {
        self.stream
    }
}

/// The part of a request that the next byte belongs to.
#[derive(Debug, Default, PartialEq)]
enum Part {
    /// A line of a head.
    #[default]
    Head,
    /// A body with this many bytes left.
    Body(u64),
    /// The line with a chunk's size.
    Size,
    /// A chunk with this many bytes left.
    Chunk(u64),
    /// The end of the line behind a chunk.
    ChunkEnd,
    /// A line after the last chunk.
    Trailer,
    /// Unknown: the HTTP server refuses this request, or the connection ends after it.
    Lost,
}

#[derive(Debug, Default)]
struct Framing {
    heads: Arc<Heads>,
    part: Part,
    line: Vec<u8>,
    /// Whether the line is longer than the stored part.
    cut: bool,
    /// Whether this head has had a line.
    has_line: bool,
    /// The value of `Content-Length`, if it is a valid length.
    length: Option<Option<u64>>,
    is_coded: bool,
}

impl Framing {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.part {
                Part::Lost => return,
                Part::Body(rest) | Part::Chunk(rest) => {
                    let n = usize::try_from(*rest).unwrap_or(usize::MAX).min(bytes.len());
                    *rest -= n as u64;
                    bytes = bytes.get(n..).unwrap_or_default();
                    match self.part {
                        Part::Body(0) => self.part = Part::Head,
                        Part::Chunk(0) => self.part = Part::ChunkEnd,
                        _ => {}
                    }
                }
                _ => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
                    self.cut |= line.len() > room;
                    self.line.extend_from_slice(line.get(..line.len().min(room)).unwrap_or_default());
                    if self.part == Part::Head {
                        self.heads.begun.store(true, Ordering::Relaxed);
                    }
                    let Some(rest) = rest.get(1..) else { return };
                    bytes = rest;
                    self.end_line();
                }
            }
        }
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        match self.part {
            Part::Head => self.end_head_line(&line, cut),
            Part::Size if cut => self.lose(1),
            Part::Size => self.part = chunk(&line),
            Part::ChunkEnd => self.part = Part::Size,
            Part::Trailer if line.is_empty() => self.part = Part::Head,
            _ => {}
        }
        line.clear();
        self.line = line;
    }

    fn end_head_line(&mut self, line: &[u8], cut: bool) {
        if !line.is_empty() {
            if !std::mem::replace(&mut self.has_line, true) {
                return;
            }
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                self.is_coded = true;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let digits = std::str::from_utf8(value.trim_ascii()).ok().filter(|_| !cut);
                self.length = Some(digits.and_then(|digits| digits.parse().ok()));
            }
            return;
        }
        // RFC 9112 §2.2: empty lines before a request are ignored.
        self.heads.begun.store(false, Ordering::Relaxed);
        if !std::mem::take(&mut self.has_line) {
            return;
        }
        self.heads.whole.fetch_add(1, Ordering::Relaxed);
        self.part = match (self.length.take(), std::mem::take(&mut self.is_coded)) {
            (None, true) => Part::Size,
            (Some(Some(0)) | None, false) => Part::Head,
            (Some(Some(length)), false) => Part::Body(length),
            (Some(_), true) | (Some(None), false) => return self.lose(0),
        };
    }

    /// The end of the last head's request is uncertain: that request is refused, or with `behind`
    /// those after it.
    fn lose(&mut self, behind: u64) {
        let number = self.heads.whole.load(Ordering::Relaxed) + behind;
        self.heads.ambiguous.store(number, Ordering::Relaxed);
        self.heads.begun.store(true, Ordering::Relaxed);
        self.part = Part::Lost;
    }
}

/// The progress after these pieces; see [`crate::http::parts::followed`].
pub(in crate::http) fn followed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (u64, u64, bool) {
    let mut framing = Framing::default();
    pieces.for_each(|piece| framing.feed(piece));
    let heads = &framing.heads;
    (heads.whole.load(Ordering::Relaxed), heads.ambiguous.load(Ordering::Relaxed), heads.has_begun())
}

/// The state after a line with a chunk's size (RFC 9112 §7.1).
fn chunk(line: &[u8]) -> Part {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let size = line.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok());
    match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
        Some(0) => Part::Trailer,
        Some(size) => Part::Chunk(size),
        None => Part::Lost,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, into);
        self.framing.feed(into.filled().get(before..).unwrap_or_default());
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of heads in these bytes and the first ambiguous one, however the bytes are split.
    fn followed(bytes: &str) -> (u64, u64) {
        let of = |cuts: [usize; 2]| {
            let mut framing = Framing::default();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                framing.feed(&bytes.as_bytes()[from..cut]);
                from = cut;
            }
            (framing.heads.whole.load(Ordering::Relaxed), framing.heads.ambiguous.load(Ordering::Relaxed))
        };
        let whole = of([0, 0]);
        for cut in 0..bytes.len() {
            assert_eq!(of([cut, bytes.len().min(cut + 1)]), whole, "cut at {cut}: {bytes:?}");
        }
        whole
    }

    #[test]
    fn requests_are_told_apart_whatever_their_bodies_hold() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let both = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\ncontent-LENGTH: 3\r\n\r\n";
        let length = |body: &str| format!("POST / HTTP/1.1\r\nContent-Length: 0{}\r\n\r\n{body}", body.len());
        let chunks = |body: &str| {
            format!(
                "POST / HTTP/1.1\nTransfer-Encoding: Chunked\n\n{:X};x=y\r\n{body}\r\n1 \r\nz\r\n0\r\nT: v\r\n\r\n",
                body.len()
            )
        };
        for (bytes, expected) in [
            (get.repeat(3), (3, 0)),
            (format!("\r\n{get}\r\n\r\n{get}"), (2, 0)),
            (both.to_owned(), (1, 1)),
            (format!("{get}{both}{get}"), (2, 2)),
            (format!("{}{get}", length(both)), (2, 0)),
            (format!("{}{both}", length(get)), (2, 2)),
            (format!("{}{get}", chunks(both)), (2, 0)),
            (format!("{}{}{both}", chunks(get), length(both)), (3, 3)),
            (format!("POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\nx{get}"), (1, 1)),
            // Padded, so that the number is not in the stored part.
            (format!("POST / HTTP/1.1\r\nContent-Length:{}1\r\n\r\nx{both}", " ".repeat(300)), (1, 1)),
            (
                format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}5\r\nabcde\r\n{both}", "0".repeat(300)),
                (1, 2),
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n".to_owned(), (1, 1)),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx".to_owned() + get, (2, 0)),
            (format!("GET /{} HTTP/1.1\r\nX: {}\r\n\r\n{get}", "a".repeat(400), "b".repeat(400)), (2, 0)),
        ] {
            assert_eq!(followed(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn half_a_head_has_begun() {
        let mut framing = Framing::default();
        for (bytes, begun) in [("GET /", true), (" HTTP/1.1\r\nHost: a\r\n", true), ("\r\n", false), ("G", true)] {
            framing.feed(bytes.as_bytes());
            assert_eq!(framing.heads.has_begun(), begun, "{bytes:?}");
        }
    }
}
