//! The transport of a session: a socket, or TLS on one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use nexus_testkit::any_certificate::AnyCertificate;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) enum Transport {
    Plain(TcpStream),
    Sealed(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Makes the TLS handshake, if there is to be one.
    pub(crate) async fn over(socket: TcpStream, tls: Option<&TlsConnector>) -> io::Result<Self> {
        match tls {
            None => Ok(Self::Plain(socket)),
            Some(tls) => {
                let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
                Ok(Self::Sealed(Box::new(tls.connect(name, socket).await?)))
            }
        }
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes).await,
            Self::Sealed(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Waits until there are bytes, and reads them into a buffer that `with` lends only for the read.
    pub(crate) async fn read(&mut self, mut with: impl FnMut(&mut dyn FnMut(&mut [u8]))) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => loop {
                socket.readable().await?;
                let mut outcome = Ok(0);
                with(&mut |buffer| outcome = socket.try_read(buffer));
                match outcome {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            },
            Self::Sealed(stream) => {
                std::future::poll_fn(|context| {
                    let mut outcome = std::task::Poll::Pending;
                    with(&mut |buffer| {
                        let mut buffer = ReadBuf::new(buffer);
                        outcome = Pin::new(&mut **stream)
                            .poll_read(context, &mut buffer)
                            .map(|read| read.map(|()| buffer.filled().len()));
                    });
                    outcome
                })
                .await
            }
        }
    }
}

/// Connects to any server: which one is loaded is known.
pub(crate) fn connector() -> anyhow::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(AnyCertificate::new(provider))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
