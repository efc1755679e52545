//! Where deltas come from. Knows no sessions: what it hands over goes into topics.

pub mod direct;
pub mod draft;
pub(crate) mod entry;
pub mod event_time;
pub mod failure;
mod namespaces;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "replay")]
pub mod normalize;
mod once;
mod outgoing;
pub mod precheck;
pub mod publish;
pub mod redis;
pub mod refusal;
pub mod refusals;
#[cfg(feature = "replay")]
pub mod replay;
mod retry;
mod saving;
pub mod simulator;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize as _;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_ms;
use crate::config::Class;
use crate::hub::Hub;
use crate::limits::STATE_BYTES_MAX;
use crate::position::{Epoch, Offset};
use crate::topic::{Incoming, Kind, Payload, PublishError, Published, SourceId, Topics};
use refusal::Record;

/// Time between two looks at whether there is room for another delta.
const ROOM_LOOK_EVERY: Duration = Duration::from_millis(1);

/// A source has one job: hand over deltas until it is stopped, and keep its status true.
pub trait Source: Send {
    /// What is known of it.
    fn status(&self) -> Arc<SourceStatus>;

    /// Hands over deltas until `stop`. Recovers from what can be recovered from by itself.
    fn run(self: Box<Self>, feed: Feed, stop: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What takes deltas on from topics.
pub trait Room: Send + Sync {
    /// Whether it can take more now.
    fn has_room(&self) -> bool;
}

impl Room for Hub {
    fn has_room(&self) -> bool {
        Self::has_room(self)
    }
}

/// Where sources hand deltas in. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    /// All topics.
    pub topics: Arc<Topics>,
    room: Arc<dyn Room>,
    /// Held while saved states of topics that ended are removed: who finds none left can rely on that.
    ending: Arc<tokio::sync::Mutex<()>>,
}

impl Feed {
    /// Into these topics, no faster than there is room.
    pub fn new(topics: Arc<Topics>, room: Arc<dyn Room>) -> Self {
        Self { topics, room, ending: Arc::default() }
    }

    /// Hands one delta in, waiting while the shards are behind, or history cannot go because shards still hold it.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn publish(&self, incoming: Incoming<'_>) -> Result<Published, PublishError> {
        self.wait_for_room().await;
        self.topics.publish(incoming)
    }

    /// Whether one more delta may be handed in now.
    fn has_room(&self) -> bool {
        self.room.has_room() && self.topics.fits()
    }

    /// Waits until one more may.
    async fn wait_for_room(&self) {
        while !self.has_room() {
            tokio::time::sleep(ROOM_LOOK_EVERY).await;
        }
    }

    /// Puts a saved state back, and says whether it could be. One that is not what its
    /// namespace takes, or larger than both `bytes_max` and a
    /// state may be, is left out.
    fn restore(&self, source: SourceId, saved: SavedState<'_>, bytes_max: usize) -> bool {
        if !self.is_of_class(&saved) {
            let at_ms = saved.at_ms.unwrap_or_else(unix_ms);
            if self.topics.miss_class(source, saved.topic, at_ms) {
                let (topic, class) = (saved.topic, self.topics.class_of(saved.topic).name());
                tracing::warn!(
                    topic,
                    class,
                    "states were saved while the namespace had another class: they do not count"
                );
            }
            return false;
        }
        let SavedState { topic, offset, ts, at_ms, data, moved_at, base, incomplete, hole, .. } = saved;
        let Some(payload) = self.saved_payload(topic, data, bytes_max) else {
            self.leave_out(source, topic, at_ms, "it is not what its namespace takes");
            return false;
        };
        let incoming = Incoming {
            topic,
            kind: Kind::Snapshot,
            ts,
            at_ms,
            payload,
            offset: Some(offset),
            source,
            home: None,
            is_relayed: false,
        };
        let restored = self.topics.restore(incoming, (moved_at, base), (incomplete, hole.as_ref()));
        if let Err(error) = &restored {
            self.leave_out(source, topic, at_ms, &error.to_string());
        }
        restored.is_ok()
    }

    /// A saved state cannot be put back: its topic is there all the same, and its next delta is not its first.
    fn leave_out(&self, source: SourceId, topic: &str, at_ms: Option<u64>, why: &str) {
        tracing::warn!(topic, why, "a saved state was left out");
        self.topics.miss_saved(source, topic, at_ms.unwrap_or_else(unix_ms));
    }

    /// Makes a state that may lack deltas whole with one that another node saved.
    fn complete(&self, source: SourceId, saved: SavedState<'_>, reached: Offset, bytes_max: usize) -> bool {
        if !self.is_of_class(&saved) {
            return false;
        }
        let Some(payload) = self.saved_payload(saved.topic, saved.data, bytes_max) else { return false };
        let times = (saved.ts, saved.at_ms);
        let at = (saved.offset, saved.base, reached);
        let done = self.topics.complete(source, saved.topic, at, times, payload);
        if let Err(error) = &done {
            tracing::warn!(topic = saved.topic, %error, "a saved state was left out");
        }
        done.unwrap_or(false)
    }

    /// Whether a saved state is of the class that its namespace has now, as far as it says.
    fn is_of_class(&self, saved: &SavedState<'_>) -> bool {
        let class = self.topics.class_of(saved.topic);
        saved.is_stream != class.conflatable() && saved.class.is_none_or(|saved| saved == class)
    }

    fn saved_payload(&self, topic: &str, data: Bytes, bytes_max: usize) -> Option<Payload> {
        Payload::read(data, bytes_max.max(STATE_BYTES_MAX), self.topics.payload_form(topic)).ok()
    }
}

/// Does work that takes long on a thread that nothing else waits for.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    #[cfg(test)]
    if crate::clock::simulated::now_ms().is_some() {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

/// A state as it was saved.
struct SavedState<'a> {
    topic: &'a str,
    offset: Offset,
    ts: Option<u64>,
    /// When the source took its newest delta in, Unix ms.
    at_ms: Option<u64>,
    data: Bytes,
    /// It says how far a `stream` topic had come, and has no data.
    is_stream: bool,
    /// Of which class it is; older nodes do not say.
    class: Option<Class>,
    /// Offset of the move that brought the topic to its source; 0 if none did.
    moved_at: Offset,
    /// Offset of the snapshot that it rests on, where another source has entries of the topic too.
    base: Option<Offset>,
    /// The node that saved it knew that it may lack deltas.
    incomplete: bool,
    /// The hole after which the node that saved it knew it.
    hole: Option<Epoch>,
}

/// Offset of the move that brought a saved state's topic to its source. Older nodes do not say it: the offset of the state stands
/// for it, which is from before any later move.
fn moved_at(is_moved: bool, moved_at: Option<Offset>, offset: Offset) -> Offset {
    if is_moved { moved_at.unwrap_or(offset) } else { Offset::ZERO }
}

/// A member of a saved state that is there, `null` too.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Whether JSON has white space around it: where it is a member of another text, that would be lost.
fn has_outer_blanks(json: &[u8]) -> bool {
    json.trim_ascii().len() != json.len()
}

/// What is known of a source: for readiness, `/status` and `/metrics`.
#[derive(Debug)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Whether lag and connection count for readiness.
    pub live: bool,
    /// Not ready with more lag than this; 0 is no limit.
    pub lag_max_ms: u64,
    connected: AtomicBool,
    loaded: watch::Sender<bool>,
    deltas: AtomicU64,
    skipped: AtomicU64,
    read_ms: AtomicU64,
    lag_ms: AtomicU64,
    note: Mutex<String>,
    misplaced: AtomicU64,
    /// How far back it reaches, in ms; `u64::MAX` if to its beginning, or that is not known.
    reach_ms: AtomicU64,
    /// What keeps it from being read rightly, though it can be read; empty if nothing does.
    fault: Mutex<String>,
    refused: Mutex<Record>,
    suspicious: Mutex<Record>,
}

impl SourceStatus {
    /// Of a source that has not begun.
    pub fn new(name: impl Into<String>, live: bool, lag_max_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            live,
            lag_max_ms,
            connected: AtomicBool::new(false),
            loaded: watch::Sender::new(false),
            deltas: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            read_ms: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            note: Mutex::default(),
            misplaced: AtomicU64::new(0),
            reach_ms: AtomicU64::new(u64::MAX),
            fault: Mutex::default(),
            refused: Mutex::new(Record::begun()),
            suspicious: Mutex::new(Record::begun()),
        })
    }

    /// It can be read now.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// What it held at the start has been read.
    pub fn set_loaded(&self, loaded: bool) {
        self.loaded.send_replace(loaded);
    }

    /// `deltas` were read now, the last of them `lag_ms` after it was written, or nothing was waiting (0).
    pub fn read(&self, deltas: u64, lag_ms: u64) {
        self.deltas.fetch_add(deltas, Ordering::Relaxed);
        self.read_ms.store(unix_ms(), Ordering::Relaxed);
        self.lag_ms.store(lag_ms, Ordering::Relaxed);
    }

    /// Whether what it held at the start has been read.
    pub fn is_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    /// Waits until what it held at the start has been read.
    pub async fn until_loaded(&self) {
        // The sender is here, so that this ends in no other way.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Something could not be read as a delta.
    pub fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// A word on where it is or what ails it.
    pub fn note(&self, note: impl Into<String>) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note.into();
    }

    /// That word; a fault goes first. Where there is neither, what was refused last, while that is not long ago.
    pub fn last_note(&self) -> String {
        let fault = self.fault();
        let note = || self.note.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = if fault.is_empty() { note() } else { fault };
        if said.is_empty() { self.refused().note().unwrap_or_default() } else { said }
    }

    /// Changes what is known of refused entries, or of suspicious ones.
    fn tell(&self, is_refused: bool, change: impl FnOnce(&mut Record)) {
        let record = if is_refused { &self.refused } else { &self.suspicious };
        change(&mut record.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Entries that were refused: the newest of each reason.
    pub fn refused(&self) -> Record {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Entries that were taken though something about them is wrong, likewise.
    pub fn suspicious(&self) -> Record {
        self.suspicious.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A topic was found in it that belongs in another partition.
    pub fn misplace(&self) {
        self.misplaced.fetch_add(1, Ordering::Relaxed);
    }

    /// How many of these were found.
    pub fn misplaced(&self) -> u64 {
        self.misplaced.load(Ordering::Relaxed)
    }

    /// How far back it reaches: what is older is gone from it. `None` if nothing is gone, or that is not known.
    pub fn reach(&self) -> Option<Duration> {
        let ms = self.reach_ms.load(Ordering::Relaxed);
        (ms != u64::MAX).then(|| Duration::from_millis(ms))
    }

    /// Notes that.
    pub fn set_reach(&self, reach: Option<Duration>) {
        let ms = reach.map_or(u64::MAX, |reach| u64::try_from(reach.as_millis()).unwrap_or(u64::MAX));
        self.reach_ms.store(ms, Ordering::Relaxed);
    }

    /// What is read cannot be served rightly, and why: the server is not ready until this is empty again.
    pub fn set_fault(&self, fault: impl Into<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault.into();
    }

    /// Nothing that is added to it can be read any more. The first that cannot is named, and said once.
    fn fail(&self, reason: &str) {
        if self.fault().is_empty() {
            self.set_fault(reason);
            tracing::error!(source = self.name, reason, "the stream cannot be read on: not ready until it is another");
        }
    }

    /// That reason; empty if there is none.
    pub fn fault(&self) -> String {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it can be read now.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Deltas handed over.
    pub fn deltas(&self) -> u64 {
        self.deltas.load(Ordering::Relaxed)
    }

    /// What could not be read as a delta.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// How far behind it is, in ms: the age of what was read last while more is waiting; without a connection, the
    /// time since the last read.
    pub fn lag_ms(&self) -> u64 {
        let read_ms = self.read_ms.load(Ordering::Relaxed);
        let since_read = if read_ms == 0 { 0 } else { unix_ms().saturating_sub(read_ms) };
        let lag = self.lag_ms.load(Ordering::Relaxed);
        if self.connected() { lag } else { lag.max(since_read) }
    }

    /// Why the server is not ready because of this source, if it is not.
    pub fn not_ready(&self) -> Option<String> {
        if !self.is_loaded() {
            return Some(format!("{}: not loaded yet", self.name));
        }
        if !self.live {
            return None;
        }
        if !self.connected() {
            return Some(format!("{}: not connected", self.name));
        }
        let fault = self.fault();
        if !fault.is_empty() {
            return Some(format!("{}: {fault}", self.name));
        }
        let lag_ms = self.lag_ms();
        (self.lag_max_ms > 0 && lag_ms > self.lag_max_ms).then(|| format!("{}: {lag_ms} ms behind", self.name))
    }
}
