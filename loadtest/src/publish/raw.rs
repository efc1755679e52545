//! Publishing to peers that pass on our envelope, each in its own form, with many requests per round trip.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::protocol::{PUSHER_KEY, pusher_channel};
use crate::servers::peer::Peer;

/// Time in which a peer must take a batch.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to another server.
pub(crate) struct RawPublisher {
    stream: TcpStream,
    address: SocketAddr,
    peer: Peer,
    offsets: HashMap<String, u64>,
}

impl RawPublisher {
    pub(crate) async fn connect(peer: Peer, address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if peer == Peer::Nats {
            stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n").await?;
        }
        Ok(Self { stream, address, peer, offsets: HashMap::new() })
    }

    /// Publishes, waits until the peer has taken the batch, and returns the offsets in the envelopes.
    pub(crate) async fn publish(&mut self, batch: &[(String, &str)]) -> anyhow::Result<Vec<u64>> {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::with_capacity(batch.len()));
        for (topic, data) in batch {
            let last = self.offsets.entry(topic.clone()).or_default();
            let prev = *last;
            *last += 1;
            let offset = *last;
            let envelope = format!(
                "{{\"topic\":\"{topic}\",\"type\":\"delta\",\"offset\":{offset},\"prev\":{prev},\"data\":{data}}}"
            );
            let request = request(self.peer, topic, &envelope)?;
            if self.peer == Peer::Sockudo {
                self.publish_alone(request.as_bytes()).await?;
            }
            bytes.extend_from_slice(request.as_bytes());
            offsets.push(offset);
        }
        if self.peer == Peer::Sockudo {
            return Ok(offsets);
        }
        if self.peer == Peer::Nats {
            bytes.extend_from_slice(b"PING\r\n");
        }
        let answers = if self.peer == Peer::Nats { 1 } else { batch.len() };
        tokio::time::timeout(TIMEOUT, async {
            // Answers are read while requests are written, so that no side's buffers fill up.
            let (mut reader, mut writer) = self.stream.split();
            let (written, read) = tokio::join!(writer.write_all(&bytes), answered(&mut reader, self.peer, answers));
            written?;
            read
        })
        .await
        .context("the peer did not accept a batch in time")??;
        Ok(offsets)
    }

    /// Sends one request on its own connection: sockudo closes each after its answer.
    async fn publish_alone(&self, request: &[u8]) -> anyhow::Result<()> {
        tokio::time::timeout(TIMEOUT, async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(request).await?;
            answered(&mut stream, self.peer, 1).await
        })
        .await
        .context("the peer did not accept a publish in time")?
    }
}

/// Reads until this many requests are answered.
async fn answered(reader: &mut (impl tokio::io::AsyncRead + Unpin), peer: Peer, answers: usize) -> anyhow::Result<()> {
    let good: &[u8] = if peer == Peer::Nats { b"PONG\r\n" } else { b"HTTP/1.1 20" };
    let (mut seen, mut kept) = (0, Vec::new());
    let mut chunk = vec![0u8; 65_536];
    while seen < answers {
        let n = reader.read(&mut chunk).await?;
        if n == 0 {
            bail!("the peer closed the publisher's connection");
        }
        kept.extend_from_slice(chunk.get(..n).unwrap_or_default());
        for bad in [&b"HTTP/1.1 4"[..], b"HTTP/1.1 5", b"-ERR"] {
            if kept.windows(bad.len()).any(|w| w == bad) {
                bail!("publishing was answered with {}", String::from_utf8_lossy(&kept));
            }
        }
        seen += kept.windows(good.len()).filter(|w| *w == good).count();
        // Counted answers must not be counted again; a part of the next one may follow them.
        let last = kept.windows(good.len()).rposition(|w| w == good).map_or(0, |at| at + good.len());
        let tail = kept.len().saturating_sub(good.len() - 1).max(last);
        kept.drain(..tail);
    }
    Ok(())
}

fn request(peer: Peer, topic: &str, envelope: &str) -> anyhow::Result<String> {
    let post = |path: &str, kind: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    Ok(match peer {
        Peer::Nats => format!("PUB {topic} {}\r\n{envelope}\r\n", envelope.len()),
        Peer::Nchan => post(&format!("/pub?id={topic}"), "application/json", envelope),
        Peer::Sockudo => {
            let body = serde_json::json!({"name": "delta", "channels": [pusher_channel(topic)], "data": envelope});
            let body = body.to_string();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
            let query = format!(
                "auth_key={PUSHER_KEY}&auth_timestamp={now}&auth_version=1.0&body_md5={}",
                hex(&Md5::digest(body.as_bytes()))
            );
            let mut mac = Hmac::<Sha256>::new_from_slice(b"app-secret").context("a key of any length will do")?;
            mac.update(format!("POST\n/apps/app-id/events\n{query}").as_bytes());
            let signature = hex(&mac.finalize().into_bytes());
            post(&format!("/apps/app-id/events?{query}&auth_signature={signature}"), "application/json", &body)
        }
        other => bail!("publishing to {} uses /api/batch", other.name()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_counted_wherever_reads_cut_them() {
        let text: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 201 Created\r\n\r\n";
        for cut in 0..text.len() {
            let mut reader = tokio_test_reader(&[&text[..cut], &text[cut..]]);
            answered(&mut reader, Peer::Nchan, 2).await.unwrap();
        }
        let mut refused = tokio_test_reader(&[b"HTTP/1.1 403 Forbidden\r\n\r\n"]);
        assert!(answered(&mut refused, Peer::Nchan, 1).await.is_err());
    }

    fn tokio_test_reader(parts: &[&[u8]]) -> tokio::io::DuplexStream {
        let (mut writer, reader) = tokio::io::duplex(1_024);
        let parts: Vec<Vec<u8>> = parts.iter().map(|p| p.to_vec()).collect();
        tokio::spawn(async move {
            for part in parts {
                let _ = writer.write_all(&part).await;
                tokio::task::yield_now().await;
            }
        });
        reader
    }
}
