//! Refusals of the HTTP server's own parser, in the form of all other errors. The parser answers
//! with a bare status that no handler sees, so the answer is replaced on its way out.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest head of an answer by the parser itself; it has a status, a length of 0 and a date.
const BARE_BYTES_MAX: usize = 256;

/// A stream that replaces bare answers by a JSON body and the headers of all answers.
pub(in crate::http) struct Told<S> {
    stream: S,
    /// The replacement of a bare answer, as far as it is not written.
    instead: Bytes,
}

impl<S> Told<S> {
    pub(in crate::http) fn new(stream: S) -> Self {
        Self { stream, instead: Bytes::new() }
    }

    pub(in crate::http) fn into_inner(self) -> S {
        self.stream
    }
}

/// The start and status of a bare answer at the end of these bytes. All other answers have been
/// hardened.
fn bare(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(BARE_BYTES_MAX);
    let tail = bytes.get(from..)?;
    let at = tail.windows(10).rposition(|window| window == b"HTTP/1.1 4")?;
    let head = std::str::from_utf8(tail.get(at..)?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let is_bare = lines.clone().any(|line| line.eq_ignore_ascii_case("content-length: 0"))
        && !lines.any(|line| line.get(..22).is_some_and(|name| name.eq_ignore_ascii_case("x-content-type-options")));
    is_bare.then_some((from + at, status))
}

/// The replacement for a bare answer.
fn answer(status: StatusCode) -> Bytes {
    let reason = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request's head is too large, or has too many headers (docs/limits.md); send fewer or shorter ones"
        }
        StatusCode::URI_TOO_LONG => "the request's target is too long; send a shorter one",
        _ => "the request is malformed as HTTP/1.1: its first line, a header, or the end of its body",
    };
    let body = serde_json::json!({"error": {"code": status.as_u16(), "message": reason}}).to_string();
    let (code, name) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    let head = format!(
        "HTTP/1.1 {code} {name}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into()
}

impl<S: AsyncWrite + Unpin> Told<S> {
    fn write_instead(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.instead.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.instead.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Told<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Told<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        ready!(self.write_instead(context))?;
        match bare(bytes) {
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
            Some((0, status)) => {
                self.instead = answer(status);
                Poll::Ready(Ok(bytes.len()))
            }
            Some((at, _)) => Pin::new(&mut self.stream).poll_write(context, bytes.get(..at).unwrap_or_default()),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.write_instead(context))?;
        // A bare answer is one slice, and the last.
        match slices.split_last() {
            Some((last, before)) if bare(last).is_some() => match before.iter().all(|slice| slice.is_empty()) {
                true => self.poll_write(context, last),
                false => Pin::new(&mut self.stream).poll_write_vectored(context, before),
            },
            _ => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.write_instead(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.write_instead(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
                        date: Sat, 28 Nov 2026 22:00:00 GMT\r\n\r\n";

    async fn through(writes: &[&str]) -> String {
        let (near, mut far) = tokio::io::duplex(16);
        let read = tokio::spawn(async move {
            let mut all = String::new();
            far.read_to_string(&mut all).await.unwrap();
            all
        });
        let mut told = Told::new(near);
        for bytes in writes {
            told.write_all(bytes.as_bytes()).await.unwrap();
        }
        told.shutdown().await.unwrap();
        drop(told);
        read.await.unwrap()
    }

    #[tokio::test]
    async fn a_bare_answer_gets_a_body_and_nosniff_wherever_it_lies() {
        let good = "HTTP/1.1 200 OK\r\nx-content-type-options: nosniff\r\ncontent-length: 2\r\n\r\n{}";
        let glued = format!("{good}{BARE}");
        for writes in [vec![BARE], vec![good, BARE], vec![glued.as_str()]] {
            let all = through(&writes).await;
            let (_, last) = all.rsplit_once("HTTP/1.1 ").unwrap();
            let (head, body) = last.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("400 Bad Request\r\n") && head.contains("X-Content-Type-Options: nosniff"),
                "{all}"
            );
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{all}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["error"]["code"], 400);
            assert_eq!(all.starts_with(good), writes != [BARE], "{all}");
        }
    }

    #[tokio::test]
    async fn other_answers_are_left_as_they_are() {
        for bytes in [
            "HTTP/1.1 404 Not Found\r\nx-content-type-options: nosniff\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nhello",
            "{\r\n\r\n",
        ] {
            assert_eq!(through(&[bytes]).await, bytes);
        }
    }
}
