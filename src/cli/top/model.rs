//! The nodes' answers, evaluated: rates, quantiles, history, and the operator's choices.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::fetch::{Ages, Answer, Status};

/// Answers that are kept for the curves: as many as the widest terminal shows.
const HISTORY: usize = 512;

/// A node.
pub(super) struct Node {
    pub(super) label: String,
    /// The last answer and its time.
    last: Option<(Instant, Box<Status>)>,
    /// Why the last request failed.
    pub(super) fault: Option<String>,
    /// Rates of the last interval, if both requests succeeded.
    pub(super) rates: Option<Rates>,
    /// Rates of the last intervals, newest first; `None` if the node was not reached.
    pub(super) history: VecDeque<Option<Rates>>,
    looks: usize,
}

/// Rates per second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) deltas: f64,
    pub(super) deliveries: f64,
    pub(super) conflated: f64,
    pub(super) writes: f64,
    pub(super) bytes: f64,
    /// Median, 95th and 99th percentile of the ages of deliveries, in ms; `None` without
    /// deliveries.
    pub(super) age_ms: Option<[f64; 3]>,
    /// Busy share of each shard.
    pub(super) busy: Vec<f64>,
    /// Sessions that the server closed, by reason.
    pub(super) closes: Vec<(String, f64)>,
}

impl Rates {
    /// Share of the busiest shard.
    pub(super) fn busiest(&self) -> f64 {
        self.busy.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn age_p95_ms(&self) -> Option<f64> {
        self.age_ms.map(|[_, p95, _]| p95)
    }
}

/// State of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Asked,
    Ready,
    NotReady,
    Draining,
    Unreachable,
}

impl Health {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::Draining => "draining",
            Self::Unreachable => "unreachable",
        }
    }
}

impl Node {
    fn new(label: String) -> Self {
        Self { label, last: None, fault: None, rates: None, history: VecDeque::new(), looks: 0 }
    }

    /// The last answer, if the node is reachable.
    pub(super) fn status(&self) -> Option<&Status> {
        match self.fault {
            None => self.last.as_ref().map(|(_, status)| &**status),
            Some(_) => None,
        }
    }

    pub(super) fn health(&self) -> Health {
        match (&self.fault, self.status()) {
            (Some(_), _) => Health::Unreachable,
            (None, None) => Health::Asked,
            (None, Some(status)) if status.draining => Health::Draining,
            (None, Some(status)) if status.ready => Health::Ready,
            (None, Some(_)) => Health::NotReady,
        }
    }

    fn take(&mut self, at: Instant, status: Result<Box<Status>, String>) {
        self.looks += 1;
        match status {
            Ok(status) => {
                let before = self.last.take().filter(|_| self.fault.is_none());
                self.rates = before.and_then(|(then, before)| rates(&before, &status, at - then));
                self.fault = None;
                self.last = Some((at, status));
            }
            Err(fault) => {
                self.rates = None;
                self.fault = Some(fault);
            }
        }
        self.history.push_front(self.rates.clone());
        self.history.truncate(HISTORY);
    }
}

/// Differences between two answers; `None` if the process was restarted in between.
fn rates(before: &Status, now: &Status, over: Duration) -> Option<Rates> {
    let seconds = over.as_secs_f64();
    if seconds <= 0.0 || now.uptime_s < before.uptime_s || now.deliveries < before.deliveries {
        return None;
    }
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    let closed = |reason: &String| before.closes.get(reason).copied().unwrap_or_default();
    Some(Rates {
        deltas: rate(before.deltas, now.deltas),
        deliveries: rate(before.deliveries, now.deliveries),
        conflated: rate(before.conflated, now.conflated),
        writes: rate(before.writes, now.writes),
        bytes: rate(before.sent_bytes, now.sent_bytes),
        age_ms: ages(&before.age_ms, &now.age_ms),
        busy: now.shards.iter().zip(&before.shards).map(|(n, b)| rate(b.busy_us, n.busy_us) / 1e6).collect(),
        closes: now
            .closes
            .iter()
            .map(|(reason, count)| (reason.clone(), rate(closed(reason), *count)))
            .filter(|(_, rate)| *rate > 0.0)
            .collect(),
    })
}

/// Quantiles of the deliveries between two answers.
fn ages(before: &Ages, now: &Ages) -> Option<[f64; 3]> {
    let earlier = before.counts.iter().copied().chain(std::iter::repeat(0));
    let counts: Vec<u64> = now.counts.iter().zip(earlier).map(|(now, before)| now.saturating_sub(before)).collect();
    let total: u64 = counts.iter().sum();
    (total > 0).then(|| [0.50, 0.95, 0.99].map(|share| quantile(&now.bounds, &counts, total as f64 * share)))
}

/// The age below which `wanted` deliveries lie, if those of a bucket were spread evenly over it;
/// infinite above the last bound.
fn quantile(bounds: &[u64], counts: &[u64], wanted: f64) -> f64 {
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, upper) in counts.iter().zip(bounds) {
        let (count, upper) = (*count as f64, *upper as f64);
        if count > 0.0 && below + count >= wanted {
            return lower + (upper - lower) * ((wanted - below) / count).clamp(0.0, 1.0);
        }
        below += count;
        lower = upper;
    }
    f64::INFINITY
}

/// Order of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    AsGiven,
    Sessions,
    Deliveries,
    Age,
    Busy,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AsGiven => "as given",
            Self::Sessions => "sessions",
            Self::Deliveries => "deliveries/s",
            Self::Age => "age p95",
            Self::Busy => "busy",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::AsGiven => Self::Sessions,
            Self::Sessions => Self::Deliveries,
            Self::Deliveries => Self::Age,
            Self::Age => Self::Busy,
            Self::Busy => Self::AsGiven,
        }
    }

    /// The value to sort by, largest first.
    fn of(self, node: &Node) -> f64 {
        let rate = |read: fn(&Rates) -> f64| node.rates.as_ref().map_or(-1.0, read);
        match self {
            Self::AsGiven => 0.0,
            Self::Sessions => node.status().map_or(-1.0, |status| status.sessions.now as f64),
            Self::Deliveries => rate(|r| r.deliveries),
            Self::Age => rate(|r| r.age_p95_ms().unwrap_or(-1.0)),
            Self::Busy => rate(Rates::busiest),
        }
    }
}

/// A wish of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Up,
    Down,
    Sort,
    Pause,
    Help,
}

/// Everything on the screen.
pub(super) struct Board {
    /// In the order given.
    pub(super) nodes: Vec<Node>,
    pub(super) interval: Duration,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    pub(super) help: bool,
    /// Index of the chosen node.
    pub(super) chosen: usize,
}

impl Board {
    pub(super) fn new(labels: Vec<String>, interval: Duration) -> Self {
        let nodes = labels.into_iter().map(Node::new).collect();
        Self { nodes, interval, sort: Sort::AsGiven, paused: false, help: false, chosen: 0 }
    }

    /// Takes in an answer. During a pause it is dropped, and the first rates afterwards cover the
    /// whole pause.
    pub(super) fn take(&mut self, answer: Answer) {
        if let Some(node) = self.nodes.get_mut(answer.node).filter(|_| !self.paused) {
            node.take(answer.at, answer.status);
        }
    }

    /// Number of times that all nodes have been asked.
    pub(super) fn looks(&self) -> usize {
        self.nodes.iter().map(|node| node.looks).min().unwrap_or_default()
    }

    /// The nodes in the order of the screen, with their indices.
    pub(super) fn sorted(&self) -> Vec<(usize, &Node)> {
        let mut nodes: Vec<(usize, &Node)> = self.nodes.iter().enumerate().collect();
        nodes.sort_by(|(_, a), (_, b)| self.sort.of(b).total_cmp(&self.sort.of(a)));
        nodes
    }

    pub(super) fn chosen(&self) -> Option<&Node> {
        self.nodes.get(self.chosen)
    }

    /// Labels of the nodes that could not be reached, with the reasons.
    pub(super) fn down(&self) -> Vec<String> {
        let fault = |node: &Node| Some(format!("{} ({})", node.label, node.fault.as_ref()?));
        self.nodes.iter().filter_map(fault).collect()
    }

    pub(super) fn obey(&mut self, wish: Wish) {
        match wish {
            Wish::Up => self.choose(usize::wrapping_sub),
            Wish::Down => self.choose(usize::wrapping_add),
            Wish::Sort => self.sort = self.sort.next(),
            Wish::Pause => self.paused = !self.paused,
            Wish::Help => self.help = !self.help,
        }
    }

    fn choose(&mut self, step: fn(usize, usize) -> usize) {
        let sorted = self.sorted();
        let at = sorted.iter().position(|(index, _)| *index == self.chosen).unwrap_or_default();
        if let Some((index, _)) = sorted.get(step(at, 1)) {
            self.chosen = *index;
        }
    }

    /// All values, for scripts.
    pub(super) fn to_json(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "node": node.label, "state": node.health().name(), "error": node.fault,
                    "rates": node.rates, "status": node.status(),
                })
            })
            .collect();
        json!({"nodes": nodes})
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::top::fetch::{Memory, Sessions, Shard, Source};

    /// A possible answer after this many seconds.
    pub(in crate::cli::top) fn status(seconds: u64) -> Status {
        Status {
            version: "0.1.0".into(),
            uptime_s: 7_380 + seconds,
            ready: true,
            sessions: Sessions { now: 5_000, max: 65_024, slow: 3 },
            subscriptions: 100_000,
            topics: 500,
            deltas: 500 * seconds,
            deliveries: 12_300 * seconds,
            conflated: 40 * seconds,
            writes: 8_100 * seconds,
            sent_bytes: 3_400_000 * seconds,
            backlog_bytes: 2_048,
            queue_depth: 12,
            memory: Memory { rss_bytes: 82_000_000, bytes_per_session: Some(1_230) },
            sources: vec![Source {
                name: "redis nexus:deltas".into(),
                connected: true,
                lag_ms: 4,
                note: String::new(),
            }],
            shards: vec![
                Shard { sessions: 2_500, busy_us: 340_000 * seconds, io_uring: true },
                Shard { sessions: 2_500, busy_us: 200_000 * seconds, io_uring: true },
            ],
            age_ms: Ages {
                bounds: vec![1, 2, 5, 10, 20],
                counts: vec![10 * seconds, 40 * seconds, 45 * seconds, 4 * seconds, 0, seconds],
            },
            closes: [("slow".to_owned(), 2 * seconds), ("no_pong".to_owned(), 7)].into(),
            ..Status::default()
        }
    }

    /// A board of nodes that have been asked twice, except the last, which is unreachable.
    pub(in crate::cli::top) fn board(nodes: usize) -> Board {
        let labels = (0..nodes).map(|n| format!("10.0.0.{}:8000", n + 1)).collect();
        let mut board = Board::new(labels, Duration::from_secs(1));
        let began = Instant::now();
        for seconds in 0..4 {
            for node in 0..nodes {
                let status = if node > 0 && node == nodes - 1 {
                    Err("Connection refused (os error 111)".to_owned())
                } else {
                    let mut status = status(seconds);
                    status.sessions.now += 10 * node as u64;
                    status.draining = node == 1;
                    Ok(Box::new(status))
                };
                board.take(Answer { node, at: began + Duration::from_secs(seconds), status });
            }
        }
        board
    }

    #[test]
    fn rates_are_of_the_last_interval() {
        let rates = rates(&status(10), &status(12), Duration::from_secs(2)).unwrap();
        assert_eq!((rates.deltas, rates.deliveries, rates.writes, rates.bytes), (500.0, 12_300.0, 8_100.0, 3.4e6));
        assert_eq!(rates.busy, [0.34, 0.2]);
        assert_eq!(rates.closes, [("slow".to_owned(), 2.0)]);
        let [p50, p95, p99] = rates.age_ms.unwrap();
        assert_eq!((p50, p95, p99), (2.0, 5.0, 10.0));
    }

    #[test]
    fn of_a_process_that_is_another_nothing_is_said() {
        assert_eq!(rates(&status(100), &status(1), Duration::from_secs(1)), None);
        assert_eq!(rates(&status(1), &status(1), Duration::ZERO), None);
    }

    #[test]
    fn quantiles() {
        for (counts, share, expected) in [
            (&[100, 0, 0][..], 0.5, 0.5),
            (&[0, 100, 0], 0.5, 1.5),
            (&[50, 50, 0], 0.5, 1.0),
            (&[0, 0, 100], 0.01, f64::INFINITY),
            (&[1, 0, 1], 0.99, f64::INFINITY),
        ] {
            let total: u64 = counts.iter().sum();
            assert_eq!(quantile(&[1, 2], counts, total as f64 * share), expected, "{counts:?} at {share}");
        }
    }

    #[test]
    fn a_node_that_does_not_answer_is_unreachable_and_has_no_rates() {
        let mut board = board(3);
        let health: Vec<Health> = board.nodes.iter().map(Node::health).collect();
        assert_eq!(health, [Health::Ready, Health::Draining, Health::Unreachable]);
        assert_eq!(board.down(), ["10.0.0.3:8000 (Connection refused (os error 111))"]);
        // When it is back, it has rates from the second answer on.
        for (seconds, known) in [(100, false), (101, true)] {
            board.take(Answer {
                node: 2,
                at: Instant::now() + Duration::from_secs(seconds),
                status: Ok(Box::new(status(seconds))),
            });
            assert_eq!(board.nodes[2].rates.is_some(), known, "{seconds}");
        }
    }

    #[test]
    fn wishes() {
        let mut board = board(3);
        board.obey(Wish::Sort);
        let order: Vec<usize> = board.sorted().iter().map(|(index, _)| *index).collect();
        assert_eq!((board.sort, order), (Sort::Sessions, vec![1, 0, 2]));
        // The first node is now the second on the screen.
        board.obey(Wish::Up);
        assert_eq!(board.chosen, 1);
        board.obey(Wish::Up);
        assert_eq!(board.chosen, 1, "there is none above");
        board.obey(Wish::Down);
        board.obey(Wish::Down);
        board.obey(Wish::Down);
        assert_eq!(board.chosen, 2);
        board.obey(Wish::Pause);
        let before = board.looks();
        for node in 0..3 {
            board.take(Answer { node, at: Instant::now(), status: Err("gone".into()) });
        }
        assert_eq!(board.looks(), before);
        assert_eq!(board.nodes[0].health(), Health::Ready, "a pause keeps what is shown");
    }
}
