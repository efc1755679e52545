//! Connections to NATS.

use std::fmt::Display;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::Stream;
use async_nats::{ConnectOptions, Event};
use tokio::sync::watch;

use super::flow::{Flow, LONGEST};
use super::pull::Pull;
use super::read_size::ReadSize;
use super::trouble::{Trouble, trouble};
use crate::config;

/// Time to connect to one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time to connect to any of them.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two pings of the library; after two without an answer, it ends the connection. Answers to pings wait
/// behind messages: [`Flow`] notices silence sooner.
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// Publishes that may wait for their acknowledgement. Past it: the next wait for one to come.
const UNACKNOWLEDGED_MAX: usize = 4_096;

/// The reader's connection, for as long as there is one: the publish API uses it too, so that it works exactly while the
/// source is connected.
#[derive(Clone, Default)]
pub struct Link(Arc<Mutex<Option<Connection>>>);

impl Link {
    /// The connection now.
    pub(super) fn get(&self) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This is the connection, until what is returned is dropped.
    pub(super) fn hold(&self, connection: Connection) -> HeldLink {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        HeldLink(self.clone())
    }
}

/// A connection of its own, for whoever reads nothing.
pub(in crate::source) struct OpenLink {
    link: Link,
    _held: HeldLink,
}

impl OpenLink {
    /// Connects.
    pub(in crate::source) async fn open(config: &config::Nats) -> Result<Self, Trouble> {
        let connecting = tokio::time::timeout(OPEN_TIMEOUT, connect(config, ReadSize::new(None, 0))).await;
        let connection = connecting.map_err(trouble(&format!("connecting to {}", config.servers())))??;
        let link = Link::default();
        let _held = link.hold(connection);
        Ok(Self { link, _held })
    }

    /// What appenders use.
    pub(in crate::source) fn link(&self) -> Link {
        self.link.clone()
    }
}

/// Takes the connection back when dropped.
pub(super) struct HeldLink(Link);

impl Drop for HeldLink {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A connection, for as long as it lasts: it is not to be used once it was lost, though the library might bring it
/// back. A reader has to look at the stream again first.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) context: Context,
    pub(super) flow: Flow,
    /// Bytes to ask for at once.
    pub(super) size: ReadSize,
}

impl Connection {
    /// Asks for something, and waits for the answer for as long as bytes come.
    pub(super) async fn ask<T, E: Display>(
        &self,
        tried: &str,
        asked: impl IntoFuture<Output = Result<T, E>>,
    ) -> Result<T, Trouble> {
        self.flow.wait(asked.into_future()).await.map_err(trouble(tried))?.map_err(trouble(tried))
    }

    /// Reads messages of a stream, those of at most `one_most` bytes.
    pub(super) async fn pull<I>(
        &self,
        stream: &Stream<I>,
        config: pull::Config,
        one_most: usize,
    ) -> Result<Pull, Trouble> {
        let consumer = self.ask("consumer", stream.create_consumer(config)).await?;
        Pull::open(self.context.clone(), consumer, self.flow.clone(), (self.size.clone(), one_most)).await
    }
}

/// Connects to one of the servers.
pub(super) async fn connect(config: &config::Nats, size: ReadSize) -> Result<Connection, Trouble> {
    // Already installed is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (lose, lost) = watch::channel(false);
    let servers: Vec<Server> = config.urls.iter().map(|url| Server::of(url)).collect();
    let mut options = ConnectOptions::new()
        .name(concat!("nexus-push/", env!("CARGO_PKG_VERSION")))
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(LONGEST))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(servers.len())
        .event_callback(move |event| {
            match &event {
                Event::Disconnected | Event::Closed => {
                    lose.send_replace(true);
                }
                Event::ServerError(error) => tracing::warn!(%error, "NATS says"),
                _ => {}
            }
            std::future::ready(())
        });
    if let Some(path) = &config.credentials_file {
        let tried = format!("source.nats.credentials_file {}", path.display());
        options = options.credentials_file(path).await.map_err(trouble(&tried))?;
    }
    if let Some(path) = &config.nkey_file {
        options = options.nkey(secret("nkey_file", path).await?);
    }
    if let Some(token) = &config.token {
        options = options.token(token.clone());
    }
    if let Some(path) = &config.token_file {
        options = options.token(secret("token_file", path).await?);
    }
    let login = servers.first().and_then(|server| server.login.clone());
    if let Some(user) = &config.user {
        let password = match &config.password_file {
            Some(path) => secret("password_file", path).await?,
            None => config.password.clone().unwrap_or_default(),
        };
        options = options.user_and_password(user.clone(), password);
    } else {
        options = match login {
            Some((user, Some(password))) => options.user_and_password(user, password),
            Some((token, None)) => options.token(token),
            None => options,
        };
    }
    if config.tls {
        options = options.require_tls(true);
    }
    if let Some(path) = &config.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let (Some(certificate), Some(key)) = (&config.client_certificate_file, &config.client_key_file) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    let addresses: Vec<String> = servers.into_iter().map(|server| server.address).collect();
    let tried = format!("connecting to {}", addresses.join(", "));
    let client = options.connect(addresses).await.map_err(trouble(&tried))?;
    let flow = Flow::of(&client, lost);
    let context = ContextBuilder::new()
        .timeout(LONGEST)
        .ack_timeout(LONGEST)
        .max_ack_inflight(UNACKNOWLEDGED_MAX)
        .backpressure_on_inflight(true)
        .build(client);
    Ok(Connection { context, flow, size })
}

async fn secret(key: &str, path: &std::path::Path) -> Result<String, Trouble> {
    let tried = format!("source.nats.{key} {}", path.display());
    let text = tokio::fs::read_to_string(path).await.map_err(trouble(&tried))?;
    Ok(text.trim().to_owned())
}

/// A URL taken apart, so that what is logged of it holds no password.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    address: String,
    /// A user and a password, or a token alone.
    login: Option<(String, Option<String>)>,
}

impl Server {
    fn of(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let Some((login, host)) = rest.rsplit_once('@') else {
            return Self { address: url.to_owned(), login: None };
        };
        let login = match login.split_once(':') {
            Some((user, password)) => (decoded(user), Some(decoded(password))),
            None => (decoded(login), None),
        };
        Self { address: format!("{scheme}://{host}"), login: Some(login) }
    }
}

/// With `%40` as `@` and so on (RFC 3986).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let hex = more.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_taken_out_of_urls() {
        for (url, address, login) in [
            ("nats://a:4222", "nats://a:4222", None),
            ("tls://u:p@a:4222", "tls://a:4222", Some(("u", Some("p")))),
            ("nats://u:p%40%3a%zz@a", "nats://a", Some(("u", Some("p@:%zz")))),
            ("nats://token@a", "nats://a", Some(("token", None))),
        ] {
            let login = login.map(|(user, password)| (user.to_owned(), password.map(str::to_owned)));
            assert_eq!(Server::of(url), Server { address: address.into(), login }, "{url}");
        }
    }
}
