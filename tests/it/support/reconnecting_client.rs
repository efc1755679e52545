//! Clients that connect to any node that accepts them: each follows one `stream` topic over all of its connections,
//! recovers by offset, waits as the server asks, and records every error.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The topic that all of them follow. Its deltas are 1, 2, 3, …
pub(crate) const TOPIC: &str = "stream:roam";

/// Sessions per client address; balancers limit them.
const PER_ADDRESS: usize = 10;

/// The record of all clients.
#[derive(Default)]
pub(crate) struct Diary {
    /// Number of sessions that are subscribed now.
    pub(crate) standing: AtomicUsize,
    /// When sessions were closed, and with which code (1006: without a close frame).
    pub(crate) closes: Mutex<Vec<(Instant, u16)>>,
    /// When sessions were subscribed again.
    pub(crate) returns: Mutex<Vec<Instant>>,
    /// How long they were asked to wait before reconnecting, in ms.
    pub(crate) hints: Mutex<Vec<u64>>,
    /// Errors.
    pub(crate) faults: Mutex<Vec<String>>,
}

impl Diary {
    fn fault(&self, text: String) {
        self.faults.lock().unwrap().push(text);
    }

    /// Number of closes by code.
    pub(crate) fn codes(&self) -> BTreeMap<u16, usize> {
        let mut codes = BTreeMap::new();
        for (_, code) in self.closes.lock().unwrap().iter() {
            *codes.entry(*code).or_default() += 1;
        }
        codes
    }

    /// Forgets closes, returns and hints.
    pub(crate) fn clear(&self) {
        self.closes.lock().unwrap().clear();
        self.returns.lock().unwrap().clear();
        self.hints.lock().unwrap().clear();
    }
}

/// One client.
pub(crate) struct ReconnectingClient {
    /// Its last delta.
    pub(crate) seen: Arc<AtomicU64>,
    /// How often it was closed.
    pub(crate) closed: Arc<AtomicUsize>,
}

/// Many clients, every second of which uses Centrifuge. Each begins with the first of `fronts`, and moves to the next
/// when it is closed.
pub(crate) fn reconnecting_clients(count: usize, fronts: &[SocketAddr], diary: &Arc<Diary>) -> Vec<ReconnectingClient> {
    let one = |n: usize| {
        let reconnecting = ReconnectingClient { seen: Arc::default(), closed: Arc::default() };
        let [_, _, a, b] = u32::try_from(n / PER_ADDRESS + 1).unwrap().to_be_bytes();
        let life = Life {
            number: n,
            centrifuge: n % 2 == 1,
            source: Ipv4Addr::new(127, 77, a, b),
            diary: diary.clone(),
            seen: reconnecting.seen.clone(),
            closed: reconnecting.closed.clone(),
            position: None,
        };
        tokio::spawn(life.live(fronts.to_vec()));
        reconnecting
    };
    (0..count).map(one).collect()
}

struct Life {
    number: usize,
    centrifuge: bool,
    source: Ipv4Addr,
    diary: Arc<Diary>,
    seen: Arc<AtomicU64>,
    closed: Arc<AtomicUsize>,
    /// Offset and epoch.
    position: Option<(u64, String)>,
}

/// How a connection ended.
struct End {
    code: u16,
    hint: Option<Duration>,
}

impl Life {
    async fn live(mut self, fronts: Vec<SocketAddr>) {
        let mut at = 0;
        loop {
            let front = fronts[at % fronts.len()];
            let Ok(mut socket) = self.connect(front).await else {
                // Full, stopping, or down: the same or the next one is tried.
                tokio::time::sleep(Duration::from_millis(rand::random_range(50..250))).await;
                at += 1;
                continue;
            };
            let mut stands = false;
            let end = self.follow(&mut socket, &mut stands).await;
            if stands {
                self.diary.standing.fetch_sub(1, Ordering::SeqCst);
                self.closed.fetch_add(1, Ordering::SeqCst);
                self.diary.closes.lock().unwrap().push((Instant::now(), end.code));
            }
            at += 1;
            let away = end.hint.unwrap_or_else(|| Duration::from_millis(rand::random_range(0..1_000)));
            tokio::time::sleep(away).await;
        }
    }

    async fn connect(&self, front: SocketAddr) -> Result<WebSocketStream<TcpStream>, Error> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.source, 0)))?;
        let stream = socket.connect(front).await?;
        let path = if self.centrifuge { "connection/websocket" } else { "ws" };
        let request = format!("ws://{front}/{path}").into_client_request()?;
        let handshake = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = tokio::time::timeout(Duration::from_secs(10), handshake)
            .await
            .map_err(|_| Error::Io(std::io::ErrorKind::TimedOut.into()))??;
        Ok(socket)
    }

    async fn follow(&mut self, socket: &mut WebSocketStream<TcpStream>, stands: &mut bool) -> End {
        let mut hint = None;
        if socket.send(Message::text(self.subscribe())).await.is_err() {
            return End { code: 1006, hint };
        }
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    for line in text.as_str().lines() {
                        if line == "{}" {
                            if socket.send(Message::text("{}")).await.is_err() {
                                return End { code: 1006, hint };
                            }
                            continue;
                        }
                        let message: Value = serde_json::from_str(line).unwrap();
                        self.take(&message, stands, &mut hint);
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    return End { code: frame.map_or(1005, |frame| frame.code.into()), hint };
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return End { code: 1006, hint },
            }
        }
    }

    fn subscribe(&self) -> String {
        if self.centrifuge {
            let mut request = json!({"channel": TOPIC});
            if let Some((offset, epoch)) = &self.position {
                request["recover"] = json!(true);
                request["offset"] = json!(offset);
                request["epoch"] = json!(epoch);
            }
            return format!("{}\n{}", json!({"id": 1, "connect": {}}), json!({"id": 2, "subscribe": request}));
        }
        let mut command = json!({"op": "subscribe", "id": 1, "args": [TOPIC]});
        if let Some((offset, epoch)) = &self.position {
            command["since"] = json!({TOPIC: {"offset": offset, "epoch": epoch}});
        }
        command.to_string()
    }

    fn take(&mut self, message: &Value, stands: &mut bool, hint: &mut Option<Duration>) {
        let closing = match self.centrifuge {
            true => &message["push"]["message"]["data"]["retry_after_ms"],
            false => &message["retry_after_ms"],
        };
        if let Some(ms) = closing.as_u64() {
            *hint = Some(Duration::from_millis(ms));
            self.diary.hints.lock().unwrap().push(ms);
            return;
        }
        let error = &message["error"];
        if !error.is_null() {
            return self.diary.fault(format!("{}: {error}", self.number));
        }
        let reply = match self.centrifuge {
            true if message["id"] == 2 => &message["subscribe"],
            false if message["op"] == "subscribe" => &message["topics"][TOPIC],
            _ => &Value::Null,
        };
        if !reply.is_null() {
            self.stood(reply, stands);
            for publication in reply["publications"].as_array().unwrap_or(&Vec::new()) {
                self.delta(publication);
            }
        } else if self.centrifuge && message["push"]["pub"].is_object() {
            self.delta(&message["push"]["pub"]);
        } else if !self.centrifuge && message["type"] == "delta" {
            self.delta(message);
        }
    }

    fn stood(&mut self, reply: &Value, stands: &mut bool) {
        let epoch = reply["epoch"].as_str().unwrap_or_default().to_owned();
        match &self.position {
            None => self.position = Some((reply["offset"].as_u64().unwrap_or(0), epoch)),
            Some(_) => {
                if reply["recovered"] != true {
                    self.diary.fault(format!("{}: not recovered: {reply}", self.number));
                }
                self.diary.returns.lock().unwrap().push(Instant::now());
            }
        }
        *stands = true;
        self.diary.standing.fetch_add(1, Ordering::SeqCst);
    }

    fn delta(&mut self, delta: &Value) {
        let (n, seen) = (delta["data"].as_u64().unwrap_or(0), self.seen.load(Ordering::SeqCst));
        if n != seen + 1 {
            self.diary.fault(format!("{}: {n} after {seen}", self.number));
        }
        self.seen.store(n, Ordering::SeqCst);
        if let (Some(position), Some(offset)) = (&mut self.position, delta["offset"].as_u64()) {
            position.0 = offset;
        }
    }
}

/// Time between the first and the last.
pub(crate) fn span(times: impl IntoIterator<Item = Instant>) -> Duration {
    let times: Vec<Instant> = times.into_iter().collect();
    match (times.iter().min(), times.iter().max()) {
        (Some(first), Some(last)) => *last - *first,
        _ => Duration::ZERO,
    }
}
