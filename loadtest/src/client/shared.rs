//! Shared by the sessions of a worker: their options, their counts, and their clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsConnector;

use crate::client::check::{Repeats, States};
use crate::client::class::Class;
use crate::client::decode::Decoder;
use crate::client::inflate::Inflated;
use crate::client::protocol::Protocol;

/// Highest latency in the histogram, in µs.
pub(crate) const LATENCY_US_MAX: u64 = 600_000_000;

/// Number of error texts that are kept.
const FAULTS_KEPT: usize = 5;

/// The start of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// From the time inside our own payloads, ns of the monotonic clock.
    Payload,
    /// It is not measured.
    None,
}

/// How sessions survive faults: they connect to the next server if one does not answer or falls silent, and never give
/// up. Their deltas carry numbers that rise by one within a topic.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Endurance {
    /// Silence, even without pings, after which a connection counts as dead.
    pub(crate) silence: Duration,
    /// Time to connect, upgrade and subscribe.
    pub(crate) connect: Duration,
}

/// The data that all sessions of a worker share.
pub(crate) struct Shared {
    /// Sessions begin with one of the first `homes` servers, by their number, and move to the next after a failure.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) homes: usize,
    pub(crate) endurance: Option<Endurance>,
    /// Set if deltas are numbered.
    pub(crate) repeats: Option<RefCell<Repeats>>,
    /// Set if sessions use TLS.
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) topics: Vec<String>,
    pub(crate) classes: Vec<Class>,
    pub(crate) protocol: Protocol,
    /// Whether several deliveries are requested in one message.
    pub(crate) batch: bool,
    /// Set if permessage-deflate is offered.
    pub(crate) inflated: Option<RefCell<Inflated>>,
    pub(crate) max_rate: Option<f64>,
    pub(crate) receive_buffer: u32,
    pub(crate) clock: Clock,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) decoder: RefCell<Decoder>,
    pub(crate) states: RefCell<States>,
    pub(crate) latency_us: RefCell<Histogram<u64>>,
    pub(crate) counts: Counts,
    pub(crate) faults: RefCell<Vec<String>>,
    pub(crate) closes: RefCell<BTreeMap<String, u64>>,
    /// Why connections failed, if sessions survive faults.
    pub(crate) refusals: RefCell<BTreeMap<String, u64>>,
    /// The buffer that sockets are read into.
    pub(crate) buffer: RefCell<Vec<u8>>,
    /// When the last read returned.
    pub(crate) now_ns: Cell<u64>,
    /// Whether sessions reconnect as the SDKs do: after the time that the server asks for, or with backoff and jitter.
    pub(crate) polite: bool,
    /// Sessions do not reconnect any more.
    pub(crate) ending: Cell<bool>,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connected: Cell<u64>,
    /// Total number of connections that got all of their subscriptions.
    pub(crate) subscribed: Cell<u64>,
    /// Number of those that are open now.
    pub(crate) standing: Cell<u64>,
    pub(crate) connect_failures: Cell<u64>,
    pub(crate) deliveries: Cell<u64>,
    pub(crate) represented: Cell<u64>,
    pub(crate) snapshots: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
    pub(crate) faults: Cell<u64>,
    pub(crate) recovered: Cell<u64>,
    pub(crate) not_recovered: Cell<u64>,
    /// Snapshots of a new epoch.
    pub(crate) epochs: Cell<u64>,
    pub(crate) stale: Cell<u64>,
    pub(crate) fresh: Cell<u64>,
    /// Times that a session left by its own choice, or changed a subscription.
    pub(crate) turns: Cell<u64>,
}

pub(crate) fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

/// Nanoseconds of the clock that all processes of this machine share.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl Shared {
    pub(crate) fn fault(&self, text: String) {
        add(&self.counts.faults, 1);
        let mut faults = self.faults.borrow_mut();
        if faults.len() < FAULTS_KEPT {
            faults.push(text);
        }
    }
}

/// Counts a connection as long as it lasts, however it ends.
pub(crate) struct Connected<'a>(&'a Shared, &'a Cell<bool>);

impl<'a> Connected<'a> {
    pub(crate) fn new(shared: &'a Shared, standing: &'a Cell<bool>) -> Self {
        add(&shared.counts.connected, 1);
        Self(shared, standing)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let connected = &self.0.counts.connected;
        connected.set(connected.get().saturating_sub(1));
        if self.1.take() {
            let standing = &self.0.counts.standing;
            standing.set(standing.get().saturating_sub(1));
        }
    }
}
