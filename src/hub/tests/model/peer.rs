//! A client of the model. It speaks either dialect, with or without TLS, reads when the test says so, and checks that
//! its deliveries join up.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use flate2::{Decompress, FlushDecompress};
use proptest::prelude::*;
use rustls::ClientConnection;
use serde_json::{Value, json};

use super::sizes::{ClientKind, FLOOR_MAX, TOPICS};
use crate::limits::{DRAIN_CHUNK_BYTES, JOINED_BYTES_MAX};
use crate::wire::frame::{Opcode, header_bytes};
use crate::wire::tls::tests::written;

/// A client's knowledge of a topic that it is subscribed to.
#[derive(Debug, Clone, Default)]
pub(super) struct Followed {
    pub(super) epoch: String,
    pub(super) offset: u64,
    pub(super) state: Value,
}

/// The result of a recovery.
pub(super) struct Recovery {
    pub(super) topic: String,
    pub(super) from: Followed,
    /// The topic's epoch at that time, if the answer contains it.
    pub(super) epoch: Option<String>,
    pub(super) recovered: bool,
}

/// A client: what it has read, and the state that follows from it.
pub(super) struct Peer {
    pub(super) socket: TcpStream,
    pub(super) tls: Option<ClientConnection>,
    pub(super) kind: ClientKind,
    /// Number of bytes read from the socket.
    pub(super) heard_bytes: usize,
    pub(super) unread: Vec<u8>,
    pub(super) followed: HashMap<String, Followed>,
    /// Commands without an answer so far.
    pub(super) unanswered: HashSet<u64>,
    pub(super) sent: u64,
    /// The topic to subscribe to, by command, for answers that do not name it.
    pub(super) joining: HashMap<u64, &'static str>,
    /// The positions to recover from, by command, and whether the client wants an error if that is impossible.
    pub(super) recovering: HashMap<u64, (HashMap<String, Followed>, bool)>,
    /// Results of recoveries that were not checked yet.
    pub(super) recoveries: Vec<Recovery>,
    /// The topic to unsubscribe from, by command.
    pub(super) leaving: HashMap<u64, &'static str>,
    /// The server closed it: its state is not checked any more.
    pub(super) closed: bool,
}

impl Peer {
    /// Sends a command of `plain`, translated to the client's dialect. Commands that only `plain` has are left out.
    pub(super) fn send(&mut self, command: &Value) {
        let commands: Vec<Value> = match (self.kind.centrifuge, command["op"].as_str()) {
            (false, _) => vec![command.clone()],
            (true, Some("connect")) => vec![json!({"connect": {}})],
            (true, Some(op @ ("subscribe" | "unsubscribe"))) => {
                let topics = command["args"].as_array().into_iter().flatten();
                topics
                    .map(|topic| match command["max_rate"].as_u64() {
                        Some(rate) => json!({op: {"channel": topic, "data": {"max_rate": rate}}}),
                        None => json!({op: {"channel": topic}}),
                    })
                    .collect()
            }
            _ => Vec::new(),
        };
        for command in commands {
            self.send_one(command);
        }
    }

    /// Subscribes to topics from the client's positions, as far as it has any.
    pub(super) fn recover(&mut self, topics: &[&str], from: &HashMap<String, Followed>, reject: bool) {
        if !self.kind.centrifuge {
            let since: HashMap<_, _> =
                from.iter().map(|(topic, f)| (topic, json!({"offset": f.offset, "epoch": f.epoch}))).collect();
            self.recovering.insert(self.sent + 1, (from.clone(), false));
            self.send_one(json!({"op": "subscribe", "args": topics, "since": since}));
            return;
        }
        for topic in topics {
            // It must unsubscribe first, and does not wait for the answer.
            if self.followed.contains_key(*topic) {
                self.send_one(json!({"unsubscribe": {"channel": topic}}));
            }
            let mut command = json!({"channel": topic, "flag": if reject { 3 } else { 1 }});
            if let Some(Followed { epoch, offset, .. }) = from.get(*topic) {
                (command["recover"], command["epoch"], command["offset"]) = (json!(true), json!(epoch), json!(offset));
            }
            let from = from.iter().filter(|(name, _)| name == topic).map(|(name, f)| (name.clone(), f.clone()));
            self.recovering.insert(self.sent + 1, (from.collect(), reject));
            self.send_one(json!({"subscribe": command}));
        }
    }

    /// Subscribes, unsubscribes, and subscribes again, with `pad` in each command.
    pub(super) fn breathe(&mut self, topics: &[&str], pad: &str) {
        for op in ["subscribe", "unsubscribe", "subscribe"] {
            for topic in topics {
                let command = match self.kind.centrifuge {
                    true => json!({op: {"channel": topic}}),
                    false => json!({"op": op, "args": [topic]}),
                };
                self.send_padded(command, pad);
            }
        }
    }

    pub(super) fn send_one(&mut self, command: Value) {
        self.send_padded(command, "");
    }

    fn send_padded(&mut self, mut command: Value, pad: &str) {
        self.sent += 1;
        self.unanswered.insert(self.sent);
        command["id"] = json!(self.sent);
        let known = |channel: &Value| TOPICS.into_iter().find(|topic| channel == topic);
        if let Some(topic) = known(&command["subscribe"]["channel"]) {
            self.joining.insert(self.sent, topic);
        }
        // Deliveries on their way are checked until the answer comes; after that none may come.
        let left = known(&command["unsubscribe"]["channel"]);
        if let Some(topic) = left.or_else(|| known(&command["args"][0]).filter(|_| command["op"] == "unsubscribe")) {
            self.leaving.insert(self.sent, topic);
        }
        self.send_frame(0x81, format!("{command}{pad}").into_bytes());
    }

    pub(super) fn send_frame(&mut self, opcode: u8, payload: Vec<u8>) {
        let mut frame = vec![opcode];
        match u8::try_from(payload.len()) {
            Ok(n @ 0..126) => frame.push(0x80 | n),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        // Commands are small, and the shard reads. If one does not fit, the connection is as good as closed.
        let sealed = match &mut self.tls {
            None => frame,
            Some(tls) => {
                tls.writer().write_all(&frame).unwrap();
                written(tls)
            }
        };
        if self.socket.write_all(&sealed).is_err() {
            self.closed = true;
        }
    }

    /// Reads bytes from the shard.
    pub(super) fn heard(&mut self, mut bytes: &[u8]) -> Result<(), TestCaseError> {
        let Some(tls) = &mut self.tls else {
            self.unread.extend_from_slice(bytes);
            return Ok(());
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).unwrap();
            tls.process_new_packets().map_err(|e| TestCaseError::fail(e.to_string()))?;
            match tls.reader().read_to_end(&mut self.unread) {
                Ok(_) => self.closed = true,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(TestCaseError::fail(e.to_string())),
            }
        }
        Ok(())
    }

    pub(super) fn read(&mut self, most: usize) -> Result<(), TestCaseError> {
        let mut buffer = vec![0; most];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.closed = true,
            Ok(n) => {
                self.heard_bytes += n;
                self.heard(&buffer[..n])?;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.closed = true,
        }
        while let Some(frame_bytes) = whole_frame(&self.unread) {
            let frame: Vec<u8> = self.unread.drain(..frame_bytes).collect();
            let mut payload = frame[header_bytes(&frame)..].to_vec();
            if frame[0] & 0x40 != 0 {
                prop_assert!(self.kind.deflate, "compressed, but not negotiated");
                payload = inflated(payload)?;
            }
            let broken = |e: serde_json::Error| TestCaseError::fail(e.to_string());
            match Opcode::from_bits(frame[0]) {
                Some(Opcode::Text) if self.kind.centrifuge => {
                    let several = payload.contains(&b'\n');
                    prop_assert!(!several || payload.len() <= JOINED_BYTES_MAX, "{} bytes", payload.len());
                    for line in payload.split(|&b| b == b'\n') {
                        self.hear(&serde_json::from_slice(line).map_err(broken)?)?;
                    }
                }
                Some(Opcode::Text) => match serde_json::from_slice(&payload).map_err(broken)? {
                    Value::Array(list) => {
                        let bytes = payload.len();
                        prop_assert!(list.len() < 2 || bytes <= DRAIN_CHUNK_BYTES, "a list of {bytes} bytes");
                        list.iter().try_for_each(|one| self.take(one))?;
                    }
                    one => self.take(&one)?,
                },
                Some(Opcode::Ping) => self.send_frame(0x8a, payload),
                Some(Opcode::Close) => self.closed = true,
                other => return Err(TestCaseError::fail(format!("an unexpected frame: {other:?}"))),
            }
        }
        Ok(())
    }

    pub(super) fn take(&mut self, message: &Value) -> Result<(), TestCaseError> {
        if self.closed {
            return Ok(());
        }
        let Some(topic) = message["topic"].as_str().filter(|_| message["type"].is_string()) else {
            return self.answered(message);
        };
        let offset = message["offset"].as_u64().unwrap();
        if message["type"] == "snapshot" {
            // A requested state comes even without a subscription.
            let epoch = message["epoch"].as_str().unwrap().to_owned();
            if let Some(followed) = self.followed.get_mut(topic) {
                *followed = Followed { epoch, offset, state: message["data"].clone() };
            }
            return Ok(());
        }
        let followed = self.followed.get_mut(topic);
        prop_assert!(followed.is_some(), "not subscribed to {topic}: {message}");
        let followed = followed.unwrap();
        let prev = message["prev"].as_u64().unwrap();
        let joins = prev <= followed.offset && followed.offset < offset;
        prop_assert!(joins, "{topic}: {} does not join up with {message}", followed.offset);
        if topic.starts_with("stream") {
            // It follows the client's position, or an earlier one with no delta between.
            prop_assert!(message["conflated"].is_null(), "{message}");
        }
        followed.offset = offset;
        match topic.starts_with("merge") {
            true => json_patch::merge(&mut followed.state, &message["data"]),
            false => followed.state = message["data"].clone(),
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, message: &Value) -> Result<(), TestCaseError> {
        let op = message["op"].as_str().unwrap_or_default();
        if matches!(op, "stale" | "fresh") {
            return Ok(());
        }
        prop_assert!(message["id"].is_u64(), "{message}");
        let id = message["id"].as_u64().unwrap();
        prop_assert!(self.unanswered.remove(&id), "a second answer: {message}");
        prop_assert!(!full(message), "refused for too many subscriptions, which it does not have: {message}");
        // Partial refusals come with the answer; a command that is refused as a whole gets only the refusal.
        if op == "subscribe" {
            let from = self.recovering.remove(&id).unwrap_or_default().0;
            for (topic, at) in message["topics"].as_object().into_iter().flatten() {
                let offset = at["have"].as_u64().unwrap();
                let epoch = at["epoch"].as_str().unwrap().to_owned();
                if let Some(from) = from.get(topic).cloned() {
                    let (topic, epoch, recovered) = (topic.clone(), Some(epoch.clone()), at["recovered"] == true);
                    self.recoveries.push(Recovery { topic, from, epoch, recovered });
                }
                // Deliveries before the answer do not count; the snapshot follows, if there is one.
                let followed = match from.get(topic).filter(|_| at["recovered"] == true) {
                    None => Followed { epoch, offset, state: json!({}) },
                    Some(known) => {
                        prop_assert!(offset == 0 || offset == known.offset, "recovered {topic} from {known:?}: {at}");
                        Followed { epoch, ..known.clone() }
                    }
                };
                self.followed.insert(topic.clone(), followed);
            }
        }
        if let Some(topic) = self.leaving.remove(&id) {
            self.followed.remove(topic);
        }
        Ok(())
    }
}

/// A client of the Centrifuge protocol.
impl Peer {
    pub(super) fn hear(&mut self, reply: &Value) -> Result<(), TestCaseError> {
        if self.closed {
            return Ok(());
        }
        if let Some(id) = reply["id"].as_u64() {
            prop_assert!(self.unanswered.remove(&id), "a second answer: {reply}");
            prop_assert!(!full(reply), "refused for too many subscriptions, which it does not have: {reply}");
            let (joined, left) = (self.joining.remove(&id), self.leaving.remove(&id));
            let (mut from, reject) = self.recovering.remove(&id).unwrap_or_default();
            if let (Some(topic), Some(result)) = (joined, reply.get("subscribe")) {
                let offset = result["offset"].as_u64().unwrap_or(0);
                let epoch = result["epoch"].as_str().unwrap_or_default().to_owned();
                let recovered = result["recovered"] == true;
                if let Some(from) = from.get(topic).cloned() {
                    let (topic, epoch) = (topic.to_owned(), Some(epoch.clone()));
                    self.recoveries.push(Recovery { topic, from, epoch, recovered });
                }
                prop_assert!(recovered || !reject || from.is_empty(), "neither recovered nor refused: {reply}");
                let known = from.remove(topic).filter(|_| recovered);
                let stream = topic.starts_with("stream");
                let state = known.as_ref().map_or_else(|| json!({}), |known| known.state.clone());
                if let Some(known) = known.filter(|_| stream) {
                    prop_assert_eq!(known.offset, offset, "recovered from another offset: {}", reply);
                }
                let mut followed = Followed { epoch, offset, state };
                for publication in result["publications"].as_array().into_iter().flatten() {
                    let at = publication["offset"].as_u64().unwrap_or(0);
                    prop_assert!(if stream { follows(followed.offset, at) } else { at <= offset }, "{reply}");
                    followed.apply(topic, publication);
                    followed.offset = followed.offset.max(at);
                }
                self.followed.insert(topic.to_owned(), followed);
            }
            if let (Some(topic), true) = (joined, reply["error"]["code"] == 112)
                && let Some(from) = from.remove(topic)
            {
                prop_assert!(reject, "refused, although it accepts any state: {reply}");
                self.recoveries.push(Recovery { topic: topic.to_owned(), from, epoch: None, recovered: false });
            }
            if let (Some(topic), None) = (left, reply.get("error")) {
                self.followed.remove(topic);
            }
            return Ok(());
        }
        if reply.as_object().is_some_and(serde_json::Map::is_empty) {
            self.send_frame(0x81, b"{}".to_vec());
            return Ok(());
        }
        let push = &reply["push"];
        let topic = push["channel"].as_str().unwrap_or_default();
        if !push["unsubscribe"].is_null() {
            // It must subscribe again: the protocol has no message for a list of events that do not follow those
            // before.
            prop_assert!(topic.starts_with("stream"), "{reply}");
            self.followed.remove(topic);
            return Ok(());
        }
        let publication = &push["pub"];
        if publication.is_null() {
            return Ok(());
        }
        let followed = self.followed.get_mut(topic);
        prop_assert!(followed.is_some(), "not subscribed to {topic}: {reply}");
        let followed = followed.unwrap();
        let offset = publication["offset"].as_u64().unwrap_or(0);
        if publication["tags"]["kind"] != "snapshot" {
            // Offsets here have no gaps, so the number of deltas that each publication replaces can be checked.
            let conflated: Option<u64> = publication["tags"]["conflated"].as_str().and_then(|n| n.parse().ok());
            let prev = offset.checked_sub(conflated.unwrap_or(1));
            let joins = follows(followed.offset, offset)
                || (followed.offset < offset && prev.is_some_and(|prev| prev <= followed.offset));
            prop_assert!(joins, "{topic}: {} does not join up with {reply}", followed.offset);
            if topic.starts_with("stream") {
                let follows = conflated.is_none() && follows(followed.offset, offset);
                prop_assert!(follows, "a gap in {topic}: {} and {reply}", followed.offset);
            }
        }
        followed.apply(topic, publication);
        followed.offset = offset;
        Ok(())
    }
}

impl Followed {
    pub(super) fn apply(&mut self, topic: &str, publication: &Value) {
        match topic.starts_with("merge") && publication["tags"]["kind"] != "snapshot" {
            true => json_patch::merge(&mut self.state, &publication["data"]),
            false => self.state = publication["data"].clone(),
        }
    }
}

/// Whether an event is the next one. Offsets have no gaps, except before the first of an epoch.
fn follows(have: u64, next: u64) -> bool {
    next == have + 1 || (have < next && next <= FLOOR_MAX + 1)
}

/// Whether a command was refused because the session has too many subscriptions.
fn full(answer: &Value) -> bool {
    answer.to_string().contains("limits.subscriptions")
}

/// The payload of a compressed message, which is independent of other messages (RFC 7692 §7.2.2).
pub(super) fn inflated(mut payload: Vec<u8>) -> Result<Vec<u8>, TestCaseError> {
    payload.extend([0, 0, 0xff, 0xff]);
    let mut out = Vec::with_capacity(4 << 20);
    let outcome = Decompress::new(false).decompress_vec(&payload, &mut out, FlushDecompress::Sync);
    outcome.map_err(|e| TestCaseError::fail(e.to_string()))?;
    Ok(out)
}

/// The length of the first frame, if it is complete.
pub(super) fn whole_frame(bytes: &[u8]) -> Option<usize> {
    let len = match bytes {
        [_, n @ 0..126, ..] => 2 + usize::from(*n),
        [_, 126, a, b, ..] => 4 + usize::from(u16::from_be_bytes([*a, *b])),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            10 + usize::try_from(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])).unwrap()
        }
        _ => return None,
    };
    (bytes.len() >= len).then_some(len)
}
