//! A client of the Centrifuge protocol without an SDK, for messages that SDKs do not send.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{PATIENCE, Server};

/// A session of the Centrifuge protocol in JSON, message by message.
pub(crate) struct Centrifuge {
    socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    pending: Vec<Value>,
}

impl Centrifuge {
    /// Connects with a token.
    pub(crate) async fn connect(server: &Server, token: &str) -> Self {
        let mut client = Self::open(server).await;
        let reply = client.ask(json!({"id": 1, "connect": {"token": token}})).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        client
    }

    /// Opens the socket, without `connect`.
    pub(crate) async fn open(server: &Server) -> Self {
        let url = format!("ws://{}/connection/websocket", server.address);
        let socket = tokio_tungstenite::connect_async(url).await.unwrap().0;
        Self { socket, pending: Vec::new() }
    }

    pub(crate) async fn send(&mut self, command: Value) {
        self.send_text(&command.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next message other than a ping; a close is `{"close": code}`.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            if !self.pending.is_empty() {
                return self.pending.remove(0);
            }
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Text(text) => {
                    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
                    self.pending.extend(lines.filter(|v| v != &json!({})));
                }
                Message::Close(frame) => return json!({"close": u16::from(frame.unwrap().code)}),
                _ => {}
            }
        }
    }

    /// Sends a command, and returns the next message.
    pub(crate) async fn ask(&mut self, command: Value) -> Value {
        self.send(command).await;
        self.next().await
    }
}
