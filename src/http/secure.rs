//! A connection over TLS until it is upgraded: what the HTTP server reads and writes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::lobby::Guest;
use crate::limits::HTTP_PATIENCE;
use crate::wire::tls::{SEALED_BYTES_MAX, Tls, TlsError};

/// Bytes of one read.
const READ_BYTES: usize = 4 * 1024;

/// Time that a client has to hear why its handshake failed.
const ALERT_TIME: Duration = Duration::from_millis(500);

/// A socket, and what seals and opens its bytes.
pub(super) struct TlsStream {
    socket: TcpStream,
    tls: Box<Tls>,
    /// What was opened, and how much of it has been read.
    opened: Vec<u8>,
    read: usize,
}

/// A handshake that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: io::Error,
    /// The socket of a client that was told why.
    told: Option<TcpStream>,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { error, told: None }
    }
}

impl Failed {
    /// Closes the connection so that its client can hear why: what it still sends is read, or the kernel would throw our
    /// alert away with it.
    pub(super) async fn close(self) {
        let Some(mut socket) = self.told else { return };
        let heard = async {
            socket.shutdown().await?;
            let mut buffer = [0; READ_BYTES];
            while socket.read(&mut buffer).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(ALERT_TIME, heard).await;
    }
}

fn gone() -> Failed {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

fn broken(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsStream {
    /// Makes the handshake. It is for the caller to bound its time. A client whose part of it, between two
    /// answers of ours, was waited for for [`HTTP_PATIENCE`] in all gives way to who waits for its place.
    ///
    /// # Errors
    /// The client goes away, does not speak TLS as `config` wants it, or gives way (`TimedOut`).
    pub(super) async fn accept(
        mut socket: TcpStream,
        config: Arc<ServerConfig>,
        guest: &Guest,
    ) -> Result<Self, Failed> {
        let mut wanted = std::pin::pin!(guest.to_give_way_after(Duration::ZERO));
        let mut patience = HTTP_PATIENCE;
        let mut tls = Box::new(Tls::new(config).map_err(|error| Failed { error: broken(error), told: None })?);
        let mut opened = Vec::new();
        let mut buffer = [0; READ_BYTES];
        while tls.is_handshaking() {
            let waits = Instant::now();
            let n = tokio::select! {
                biased;
                read = socket.read(&mut buffer) => read?,
                () = async { sleep(patience).await; wanted.as_mut().await } => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
            };
            patience = patience.saturating_sub(waits.elapsed());
            let Some(bytes @ [_, ..]) = buffer.get_mut(..n) else { return Err(gone()) };
            let outcome = tls.feed(bytes, &mut opened);
            let due = tls.due();
            if !due.is_empty() {
                socket.write_all(due).await?;
                tls.gone(usize::MAX);
                patience = HTTP_PATIENCE;
                // While its time is not over it stands in no queue.
                wanted.set(guest.to_give_way_after(Duration::ZERO));
            }
            if let Err(error) = outcome {
                return Err(Failed { error: broken(error), told: Some(socket) });
            }
        }
        Ok(Self { socket, tls, opened, read: 0 })
    }

    /// Whether the client showed a certificate, and a good one.
    pub(super) fn has_client_certificate(&self) -> bool {
        self.tls.has_client_certificate()
    }

    /// The socket, what seals it, and what was opened and not read.
    pub(super) fn into_parts(mut self) -> (TcpStream, Box<Tls>, Vec<u8>) {
        (self.socket, self.tls, self.opened.split_off(self.read))
    }

    /// Writes what is due.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.tls.due().is_empty() {
            let n = ready!(Pin::new(&mut self.socket).poll_write(context, self.tls.due()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.tls.gone(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read >= this.opened.len() {
            if this.tls.is_closed() {
                return Poll::Ready(Ok(()));
            }
            this.opened.clear();
            this.read = 0;
            let mut bytes = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.socket).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let outcome = this.tls.feed(buffer.filled_mut(), &mut this.opened);
            // An answer of TLS itself goes as far as the socket takes it; the next write takes the rest along.
            if let Poll::Ready(Err(error)) = this.poll_due(context) {
                return Poll::Ready(Err(error));
            }
            outcome.map_err(broken)?;
        }
        let rest = this.opened.get(this.read..).unwrap_or_default();
        let n = rest.len().min(into.remaining());
        into.put_slice(rest.get(..n).unwrap_or_default());
        this.read += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_due(context))?;
        let part = bytes.get(..bytes.len().min(SEALED_BYTES_MAX)).unwrap_or_default();
        self.tls.seal_due(part).map_err(broken)?;
        // What the socket does not take now is due: it has been accepted all the same.
        match self.poll_due(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(part.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_due(context))?;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.close();
        ready!(self.poll_due(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
