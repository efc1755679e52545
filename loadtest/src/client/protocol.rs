//! Protocols of servers: how to subscribe, and which of the received bytes are deliveries.
//!
//! Other servers pass on the `plain` envelope that our publisher made, so one decoder and one set of checks serve all.

use anyhow::Context as _;
use clap::ValueEnum;
use fastwebsockets::OpCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A protocol on top of WebSocket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// `GET /ws`, one JSON object per message
    #[default]
    Plain,
    /// The Centrifuge client protocol in JSON
    Centrifuge,
    /// `GET /sub?id=TOPIC`: the topic is in the path, messages are as published
    #[value(hide = true)]
    Nchan,
    /// The NATS client protocol in WebSocket frames
    #[value(hide = true)]
    Nats,
    /// The Pusher channels protocol, version 7
    #[value(hide = true)]
    Pusher,
}

/// The position from which a subscription recovers.
pub(crate) struct Since {
    pub(crate) offset: u64,
    pub(crate) epoch: String,
}

/// A message from a server, or a part of one.
pub(crate) enum Heard<'a> {
    /// To be decoded.
    Envelope(&'a [u8]),
    /// Requires this answer, as text or as bytes.
    Answer(OpCode, &'static [u8]),
    /// This many of the expected replies have come.
    Subscribed(u32),
}

/// The name of a topic as a Pusher channel.
pub(crate) fn pusher_channel(topic: &str) -> String {
    topic.replace(':', "-")
}

/// Key of the Pusher application in the servers' configuration.
pub(crate) const PUSHER_KEY: &str = "app-key";

impl Protocol {
    /// Path of the upgrade.
    pub(crate) fn path(self, topics: &[String]) -> String {
        match self {
            Self::Plain => "/ws".into(),
            Self::Centrifuge => "/connection/websocket".into(),
            Self::Nchan => format!("/sub?id={}", topics.first().map_or("", String::as_str)),
            Self::Nats => "/".into(),
            Self::Pusher => format!("/app/{PUSHER_KEY}?protocol=7"),
        }
    }

    /// Messages that subscribe, and the number of replies that confirm them.
    pub(crate) fn subscribe(
        self,
        topics: &[String],
        since: Option<Vec<Since>>,
        max_rate: Option<f64>,
    ) -> (Vec<(OpCode, Vec<u8>)>, u32) {
        let text = |value: serde_json::Value| (OpCode::Text, value.to_string().into_bytes());
        let count = u32::try_from(topics.len()).unwrap_or(u32::MAX);
        match self {
            Self::Plain => {
                let mut command = json!({"op": "subscribe", "id": 1, "args": topics});
                if let Some(members) = command.as_object_mut() {
                    if let Some(since) = since {
                        let position = |(topic, s): (&String, Since)| {
                            (topic.clone(), json!({"offset": s.offset, "epoch": s.epoch}))
                        };
                        // A subscription that was never confirmed has no position.
                        let known = topics.iter().zip(since).filter(|(_, s)| !s.epoch.is_empty());
                        let since: serde_json::Map<_, _> = known.map(position).collect();
                        members.insert("since".into(), since.into());
                    }
                    if let Some(rate) = max_rate {
                        members.insert("max_rate".into(), rate.into());
                    }
                }
                (vec![text(command)], 1)
            }
            Self::Centrifuge => {
                let mut lines = vec![json!({"id": 1, "connect": {}}).to_string()];
                let mut since = since.map(Vec::into_iter);
                for (topic, id) in topics.iter().zip(2..) {
                    let mut request = json!({"channel": topic});
                    if let Some(members) = request.as_object_mut() {
                        if let Some(since) = since.as_mut().and_then(Iterator::next) {
                            members.insert("recover".into(), true.into());
                            members.insert("offset".into(), since.offset.into());
                            members.insert("epoch".into(), since.epoch.into());
                        }
                        if let Some(rate) = max_rate {
                            members.insert("data".into(), json!({"max_rate": rate}));
                        }
                    }
                    lines.push(json!({"id": id, "subscribe": request}).to_string());
                }
                (vec![(OpCode::Text, lines.join("\n").into_bytes())], count)
            }
            // Subscribed as soon as the connection is upgraded.
            Self::Nchan => (Vec::new(), 0),
            Self::Nats => {
                let mut text = String::from("CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n");
                for (topic, sid) in topics.iter().zip(1..) {
                    text.push_str(&format!("SUB {topic} {sid}\r\n"));
                }
                text.push_str("PING\r\n");
                (vec![(OpCode::Binary, text.into_bytes())], 1)
            }
            Self::Pusher => {
                let subscribe = |topic: &String| {
                    text(json!({"event": "pusher:subscribe", "data": {"channel": pusher_channel(topic)}}))
                };
                (topics.iter().map(subscribe).collect(), count)
            }
        }
    }

    /// Reads a message. `partial` is the unfinished rest of an earlier one.
    ///
    /// # Errors
    /// The message is not valid in this protocol.
    pub(crate) fn hear(
        self,
        message: &[u8],
        partial: &mut Vec<u8>,
        hear: &mut dyn FnMut(Heard<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            // A list has the deliveries of one write.
            Self::Plain if message.starts_with(b"[") => {
                let list: Vec<&serde_json::value::RawValue> =
                    serde_json::from_slice(message).context("a list is not JSON")?;
                list.into_iter().try_for_each(|one| hear(Heard::Envelope(one.get().as_bytes())))
            }
            Self::Plain | Self::Nchan => hear(Heard::Envelope(message)),
            Self::Centrifuge => {
                for line in message.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                    match line {
                        b"{}" => hear(Heard::Answer(OpCode::Text, b"{}"))?,
                        line => hear(Heard::Envelope(line))?,
                    }
                }
                Ok(())
            }
            Self::Nats => {
                partial.extend_from_slice(message);
                let mut at = 0;
                while let Some((used, what)) = nats(partial.get(at..).unwrap_or_default())? {
                    at += used;
                    hear(what)?;
                }
                partial.drain(..at);
                Ok(())
            }
            Self::Pusher => pusher(message, hear),
        }
    }
}

/// The operation at the front: its bytes and its meaning. `None` if it is incomplete.
fn nats(bytes: &[u8]) -> anyhow::Result<Option<(usize, Heard<'_>)>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = std::str::from_utf8(bytes.get(..end).unwrap_or_default()).context("a NATS operation is not text")?;
    let after = end + 2;
    let mut words = line.split_ascii_whitespace();
    Ok(Some(match words.next() {
        Some("MSG") => {
            let size: usize = words.next_back().and_then(|n| n.parse().ok()).context("a MSG without a size")?;
            let Some(payload) = bytes.get(after..after + size) else { return Ok(None) };
            if bytes.len() < after + size + 2 {
                return Ok(None);
            }
            (after + size + 2, Heard::Envelope(payload))
        }
        Some("PING") => (after, Heard::Answer(OpCode::Binary, b"PONG\r\n")),
        Some("PONG") => (after, Heard::Subscribed(1)),
        Some("-ERR") => anyhow::bail!("NATS says {line}"),
        _ => (after, Heard::Subscribed(0)),
    }))
}

fn pusher(message: &[u8], hear: &mut dyn FnMut(Heard<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Event {
        event: String,
        #[serde(default)]
        data: serde_json::Value,
    }
    let event: Event = serde_json::from_slice(message).context("a Pusher event is not JSON")?;
    match event.event.as_str() {
        "pusher:ping" => hear(Heard::Answer(OpCode::Text, b"{\"event\":\"pusher:pong\",\"data\":\"{}\"}")),
        "pusher_internal:subscription_succeeded" => hear(Heard::Subscribed(1)),
        "pusher:error" => anyhow::bail!("Pusher says {}", event.data),
        "delta" => hear(Heard::Envelope(event.data.as_str().unwrap_or_default().as_bytes())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(protocol: Protocol, messages: &[&[u8]]) -> Vec<String> {
        let (mut partial, mut all) = (Vec::new(), Vec::new());
        for message in messages {
            protocol
                .hear(message, &mut partial, &mut |what| {
                    all.push(match what {
                        Heard::Envelope(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                        Heard::Answer(_, bytes) => format!("answer {}", String::from_utf8_lossy(bytes)),
                        Heard::Subscribed(n) => format!("subscribed {n}"),
                    });
                    Ok(())
                })
                .unwrap();
        }
        all
    }

    #[test]
    fn nats_operations_are_found_wherever_frames_cut_them() {
        let text: &[u8] = b"INFO {}\r\nPONG\r\nMSG stream:t0 1 3\r\nabc\r\nPING\r\nMSG stream:t0 1 4\r\n\r\nxy\r\n";
        let want = ["subscribed 0", "subscribed 1", "abc", "answer PONG\r\n", "\r\nxy"];
        assert_eq!(heard(Protocol::Nats, &[text]), want);
        for cut in 0..text.len() {
            assert_eq!(heard(Protocol::Nats, &[&text[..cut], &text[cut..]]), want, "cut at {cut}");
        }
    }

    #[test]
    fn centrifuge_replies_come_several_to_a_message() {
        assert_eq!(
            heard(Protocol::Centrifuge, &[b"{\"a\":1}\n{}\n{\"b\":2}"]),
            ["{\"a\":1}", "answer {}", "{\"b\":2}"]
        );
    }

    #[test]
    fn pusher_events_are_distinguished() {
        let messages: [&[u8]; 4] = [
            b"{\"event\":\"pusher:connection_established\",\"data\":\"{}\"}",
            b"{\"event\":\"pusher_internal:subscription_succeeded\",\"channel\":\"stream-t0\",\"data\":\"{}\"}",
            b"{\"event\":\"delta\",\"channel\":\"stream-t0\",\"data\":\"{\\\"n\\\":1}\"}",
            b"{\"event\":\"pusher:ping\"}",
        ];
        let want = ["subscribed 1", "{\"n\":1}", "answer {\"event\":\"pusher:pong\",\"data\":\"{}\"}"];
        assert_eq!(heard(Protocol::Pusher, &messages), want);
    }
}
