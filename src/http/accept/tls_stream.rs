//! A TLS connection until it is upgraded, as the HTTP server reads and writes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::http::accept::connection_limiter::SlotHandle;
use crate::limits::HTTP_PATIENCE;
use crate::wire::tls::{SEALED_BYTES_MAX, Tls, TlsError};

/// Bytes of one read.
const READ_BYTES: usize = 4 * 1024;

/// Time that a client has to read why its handshake failed.
const ALERT_TIME: Duration = Duration::from_millis(500);

/// A socket with its TLS state.
pub(in crate::http) struct TlsStream {
    socket: TcpStream,
    tls: Box<Tls>,
    /// The decrypted bytes, and how many of them have been read.
    opened: Vec<u8>,
    read: usize,
}

/// A handshake that failed.
#[derive(Debug)]
pub(in crate::http) struct Failed {
    pub(in crate::http) error: io::Error,
    /// The socket of a client that was sent an alert.
    told: Option<TcpStream>,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { error, told: None }
    }
}

impl Failed {
    /// Closes the connection so that its client can read why: received data is read and discarded,
    /// or a reset would discard the alert.
    pub(in crate::http) async fn close(self) {
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
    /// Performs the handshake; the caller bounds its time. A client that keeps one of its turns
    /// waiting for [`HTTP_PATIENCE`] is evicted if another connection waits for its slot.
    ///
    /// # Errors
    /// The client disconnects, its TLS does not fit `config`, or it is evicted (`TimedOut`).
    pub(in crate::http) async fn accept(
        mut socket: TcpStream,
        config: Arc<ServerConfig>,
        slot_handle: &SlotHandle,
    ) -> Result<Self, Failed> {
        let mut wanted = std::pin::pin!(slot_handle.evicted_after(Duration::ZERO));
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
                // During the server's own turn it is not evictable.
                wanted.set(slot_handle.evicted_after(Duration::ZERO));
            }
            if let Err(error) = outcome {
                return Err(Failed { error: broken(error), told: Some(socket) });
            }
        }
        Ok(Self { socket, tls, opened, read: 0 })
    }

    /// Whether the client showed a valid certificate.
    pub(in crate::http) fn has_client_certificate(&self) -> bool {
        self.tls.has_client_certificate()
    }

    /// The socket, its TLS state, and decrypted bytes that were not read.
    pub(in crate::http) fn into_parts(mut self) -> (TcpStream, Box<Tls>, Vec<u8>) {
        (self.socket, self.tls, self.opened.split_off(self.read))
    }

    /// Writes pending ciphertext.
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
            // A TLS reply is sent as far as the socket takes it; the next write sends the rest.
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
        // Ciphertext that the socket does not take becomes pending; the data counts as accepted.
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
