//! A healthy session that runs beside a test: its deltas must arrive, and not much later than before.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, PATIENCE, Server};

/// Least number of deliveries for a median.
const SAMPLES: usize = 40;

/// Interval between two of them.
const APART: Duration = Duration::from_millis(3);

/// How many times as long as before a delivery may take during an attack, and how much more than that: attackers and
/// server share the machine's cores, also with other tests.
const RATIO: u32 = 10;
const FLOOR: Duration = Duration::from_millis(100);

/// A subscribed session, and a publisher for it.
pub(crate) struct Healthy {
    client: Client,
    publisher: Publisher,
    sent: u64,
    /// The median before the attack.
    calm: Duration,
}

impl Healthy {
    pub(crate) async fn beside(server: &Server) -> Self {
        Self::beside_with(server, &[]).await
    }

    /// With more headers, if the server requires a token.
    pub(crate) async fn beside_with(server: &Server, headers: &[(&'static str, &str)]) -> Self {
        let mut client = Client::connect_with(server.address, headers).await.unwrap();
        let reply = client.subscribe(&["stream:healthy"]).await;
        assert_eq!(reply["ok"], true, "{reply}");
        let publisher = Publisher { address: server.address, line: None };
        let mut healthy = Self { client, publisher, sent: 0, calm: Duration::ZERO };
        let mut samples = Vec::new();
        while samples.len() < SAMPLES {
            samples.push(healthy.delivery().await);
            tokio::time::sleep(APART).await;
        }
        healthy.calm = median(&mut samples);
        healthy
    }

    /// Checks that published deltas arrive.
    pub(crate) async fn is_well(&mut self, _: &Server) {
        for _ in 0..5 {
            self.delivery().await;
        }
    }

    /// Attacks at least this many times, and as long as it takes to measure the session's deliveries: their median must
    /// not be much longer than before. Returns the result of each round.
    pub(crate) async fn during<R: Send + 'static>(
        &mut self,
        rounds: usize,
        mut round: impl FnMut(usize) -> R + Send + 'static,
    ) -> Vec<R> {
        let enough = Arc::new(AtomicBool::new(false));
        let seen = enough.clone();
        let attacker = std::thread::spawn(move || {
            let mut outcomes = Vec::new();
            while outcomes.len() < rounds || !seen.load(Ordering::Relaxed) {
                outcomes.push(round(outcomes.len()));
                // Bounded, or the test would measure how many threads share two cores.
                std::thread::sleep(APART);
            }
            outcomes
        });
        let mut samples = Vec::new();
        while samples.len() < SAMPLES || !attacker.is_finished() {
            samples.push(self.delivery().await);
            enough.store(samples.len() >= SAMPLES, Ordering::Relaxed);
            tokio::time::sleep(APART).await;
        }
        let outcomes = attacker.join().expect("the attack failed");
        let (median, most) = (median(&mut samples), self.calm * RATIO + FLOOR);
        println!("{} deliveries in {median:?}, before the attack {:?}", samples.len(), self.calm);
        assert!(median <= most, "deliveries take {median:?} during the attack, before it {:?}", self.calm);
        outcomes
    }

    /// Publishes a delta and waits for it. Returns how long that took.
    async fn delivery(&mut self) -> Duration {
        self.sent += 1;
        let began = Instant::now();
        self.publisher.publish("stream:healthy", &json!(self.sent));
        assert_eq!(self.client.next().await["data"], self.sent);
        began.elapsed()
    }
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Publishes over one kept-alive connection, which attacks on accepting do not affect.
struct Publisher {
    address: SocketAddr,
    line: Option<BufReader<TcpStream>>,
}

impl Publisher {
    fn publish(&mut self, topic: &str, data: &Value) {
        let body = json!({"channel": topic, "data": data}).to_string();
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // The server closes a connection that was idle for too long.
        if self.line.as_mut().and_then(|line| asked(line, &request)) != Some(200) {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let line = self.line.insert(BufReader::new(stream));
            assert_eq!(asked(line, &request), Some(200), "a publish");
        }
    }
}

/// The status of the answer, whose body is read to its end; `None` if the connection has ended.
fn asked(line: &mut BufReader<TcpStream>, request: &str) -> Option<u16> {
    line.get_mut().write_all(request.as_bytes()).ok()?;
    let (mut text, mut status, mut length) = (String::new(), None, 0);
    loop {
        text.clear();
        if line.read_line(&mut text).ok()? == 0 {
            return None;
        }
        let text = text.trim_end().to_ascii_lowercase();
        if status.is_none() {
            status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        }
        if let Some(value) = text.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        if text.is_empty() {
            break;
        }
    }
    line.read_exact(&mut vec![0; length]).ok()?;
    status
}
