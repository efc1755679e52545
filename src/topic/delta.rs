//! A delta and a snapshot, each with its frames: made at most once for each encoding and shared by all sessions that
//! get them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::payload::Payload;
use super::trace::Trace;
use crate::accounts::{self, Account, allocated};
use crate::config::PayloadForm;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::{Delivery, Encoding, Known, SnapshotDelivery};

/// Bytes of memory of shared bytes beside the bytes themselves: their counts.
const SHARED_BYTES: usize = 32;

/// Bytes of memory of a frame of so many. It was written into some more room than it needed.
fn frame_bytes(bytes: usize) -> usize {
    allocated(bytes + 64) + SHARED_BYTES
}

/// The frames that were made. Boxed, because most kept deltas have none, or one encoding.
#[derive(Debug, Default)]
struct Frames(OnceLock<Box<[OnceLock<Bytes>; Encoding::COUNT]>>);

impl Frames {
    /// The frame in `encoding`, and whether it was made now.
    fn get(&self, encoding: Encoding, make: impl FnOnce() -> Bytes) -> (Bytes, bool) {
        let mut made = false;
        let make = || {
            made = true;
            make()
        };
        let frame = match self.0.get_or_init(Box::default).get(encoding.index()) {
            Some(slot) => slot.get_or_init(make).clone(),
            None => make(),
        };
        (frame, made)
    }

    /// Bytes of memory of the frames that were made.
    fn bytes(&self) -> usize {
        let Some(made) = self.0.get() else { return 0 };
        let frames = made.iter().filter_map(OnceLock::get).map(|frame| frame_bytes(frame.len()));
        allocated(size_of_val(&**made)) + frames.sum::<usize>()
    }
}

/// The account of a delta or a snapshot that no topic keeps. While a topic keeps it, it counts in the topic's account.
#[derive(Debug)]
struct Loose {
    account: &'static Account,
    /// Places of its topic that hold it.
    kept: AtomicU32,
    counted: AtomicUsize,
}

impl Loose {
    fn new(account: &'static Account, kept: u32) -> Self {
        Self { account, kept: AtomicU32::new(kept), counted: AtomicUsize::new(0) }
    }

    /// Brings the account up to date. Whatever the order of two that do so at once: in the end it has what was counted
    /// last.
    fn recount(&self, weight: impl FnOnce() -> usize) {
        let now = if self.kept.load(Ordering::Acquire) > 0 { 0 } else { weight() };
        self.account.change(self.counted.swap(now, Ordering::AcqRel), now);
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        self.account.change(*self.counted.get_mut(), 0);
    }
}

/// A delta or a snapshot, which a topic may keep.
pub(super) trait Keepable {
    /// How many places of its topic hold it.
    fn places(&self) -> &AtomicU32;
    /// Brings the account of those that no topic keeps up to date.
    fn recount(&self);
}

impl Keepable for Delta {
    fn places(&self) -> &AtomicU32 {
        &self.loose.kept
    }

    fn recount(&self) {
        self.loose.recount(|| self.weight());
    }
}

impl Keepable for Snapshot {
    fn places(&self) -> &AtomicU32 {
        &self.loose.kept
    }

    fn recount(&self) {
        let answers = self.answers.load(Ordering::Acquire) > 0;
        let answered = answers && self.loose.kept.load(Ordering::Acquire) == 0;
        self.loose.recount(|| if answers { 0 } else { self.true_weight() });
        self.answered.recount(|| if answered { self.true_weight() } else { 0 });
    }
}

/// A reference of a topic to a delta or a snapshot: it counts in the topic's account as long as this lives, and
/// afterwards in its own, if others refer to it.
#[derive(Debug)]
pub(super) struct Keep<T: Keepable>(Arc<T>);

impl<T: Keepable> Keep<T> {
    pub(super) fn new(item: Arc<T>) -> Self {
        item.places().fetch_add(1, Ordering::AcqRel);
        item.recount();
        Self(item)
    }
}

impl<T: Keepable> Deref for Keep<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T: Keepable> Drop for Keep<T> {
    fn drop(&mut self) {
        self.0.places().fetch_sub(1, Ordering::AcqRel);
        // Most that are dropped have no other reference, and need not be counted for a moment.
        if Arc::strong_count(&self.0) > 1 {
            self.0.recount();
        }
    }
}

/// The effect of a delta on the state of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes it, as the topic's class says.
    Delta,
    /// Replaces it.
    Snapshot,
    /// Removes the history before it, and changes nothing else. No subscriber sees it.
    HistoryRemoval,
    /// Ends the topic: no state, no history. A later delta begins a new life.
    Deletion,
    /// Replaces the state, as a snapshot does, and moves the topic to this partition: later entries in another
    /// partition are refused.
    Move,
}

impl Kind {
    /// The name of it in a stream's entry. A delta has none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Delta => None,
            Self::Snapshot => Some("snapshot"),
            Self::HistoryRemoval => Some("history_remove"),
            Self::Deletion => Some("delete"),
            Self::Move => Some("move"),
        }
    }

    /// The kind with this name in a stream's entry.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "delta" | "" => Some(Self::Delta),
            "snapshot" => Some(Self::Snapshot),
            "history_remove" => Some(Self::HistoryRemoval),
            "delete" => Some(Self::Deletion),
            "move" => Some(Self::Move),
            _ => None,
        }
    }
}

/// One delta of a topic as published.
#[derive(Debug)]
pub struct Delta {
    /// Topic.
    pub topic: TopicName,
    /// Position.
    pub offset: Offset,
    /// Position of the delta before it.
    pub prev: Offset,
    /// Epoch of both.
    pub epoch: Epoch,
    /// The effect.
    pub kind: Kind,
    /// Time the source saw it, Unix ms.
    pub ts: Option<u64>,
    /// Time this server took it in, Unix ms.
    pub taken_ms: u64,
    /// The published data.
    pub payload: Payload,
    /// Bytes of the topic's whole state after it (`merge`), to judge whether a snapshot is shorter than a patch.
    pub state_bytes: usize,
    /// Set where it is followed through the log.
    pub trace: Option<Box<Trace>>,
    /// Data of the delta before it, where the namespace has delta compression and there is one.
    pub(super) before: Option<Bytes>,
    frames: Frames,
    loose: Loose,
}

/// Bytes of memory of a delta without its payload and frames, with its reference counts.
const DELTA_BYTES: usize = allocated(size_of::<Delta>() + 2 * size_of::<usize>());

/// The same for a snapshot.
const SNAPSHOT_BYTES: usize = allocated(size_of::<Snapshot>() + 2 * size_of::<usize>());

/// The position of a delta, and what is known of it beside its data.
pub(super) struct Place {
    pub(super) topic: TopicName,
    pub(super) offset: Offset,
    pub(super) prev: Offset,
    pub(super) epoch: Epoch,
    pub(super) taken_ms: u64,
    pub(super) state_bytes: usize,
    pub(super) before: Option<Bytes>,
    pub(super) trace: Option<Box<Trace>>,
}

impl Delta {
    /// A delta whose frames are not made yet, and its topic's reference to it: there is no other yet, so nothing is
    /// counted.
    pub(super) fn new(kind: Kind, ts: Option<u64>, payload: Payload, place: Place) -> Keep<Self> {
        let Place { topic, offset, prev, epoch, taken_ms, state_bytes, before, trace } = place;
        let (frames, loose) = (Frames::default(), Loose::new(&accounts::DELTAS, 1));
        Keep(Arc::new(Self {
            topic,
            offset,
            prev,
            epoch,
            kind,
            ts,
            taken_ms,
            payload,
            state_bytes,
            trace,
            before,
            frames,
            loose,
        }))
    }

    /// Bytes that it takes of memory, with the frames that were made so far.
    pub(super) fn weight(&self) -> usize {
        DELTA_BYTES + allocated(self.payload.bytes().len()) + self.frames.bytes()
    }

    /// Encodes it once, before it goes to several shards: each of them finds the frame made.
    pub(super) fn encode(&self, encoding: Encoding) {
        drop(self.frame(encoding));
    }

    /// Its frame in `encoding`, which is made if no one has asked for it before.
    pub fn frame(&self, encoding: Encoding) -> Bytes {
        // Without the delta before it, what changed since is everything: one frame does for both.
        let encoding = if self.before.is_some() { encoding } else { encoding.whole() };
        let (frame, made) = self.frames.get(encoding, || match self.kind {
            Kind::Delta | Kind::HistoryRemoval | Kind::Deletion | Kind::Move => encoding.delivery(
                &Delivery {
                    topic: &self.topic,
                    offset: self.offset,
                    prev: self.prev,
                    count: 1,
                    ts: self.ts,
                    data: self.payload.bytes(),
                    form: self.payload.form(),
                },
                self.before.as_deref(),
            ),
            Kind::Snapshot => encoding.snapshot(&SnapshotDelivery {
                topic: &self.topic,
                offset: self.offset,
                epoch: &self.epoch,
                ts: self.ts,
                data: self.payload.bytes(),
                form: self.payload.form(),
                known: Known::Whole,
            }),
        });
        if made && self.loose.kept.load(Ordering::Acquire) == 0 {
            self.recount();
        }
        frame
    }
}

/// A topic's whole state at one offset.
#[derive(Debug)]
pub struct Snapshot {
    /// Topic.
    pub topic: TopicName,
    /// Position of the newest delta in it.
    pub offset: Offset,
    /// Epoch of that offset.
    pub epoch: Epoch,
    /// Time of that delta at its source, Unix ms.
    pub ts: Option<u64>,
    /// JSON: the value, the object, or (`stream`) the list of kept deltas. `null` where nothing is known.
    /// Of a `latest` topic of bytes: the bytes, none where nothing is known.
    pub data: Bytes,
    /// Whether `data` is JSON: a list of deltas always is, whatever is in them.
    pub form: PayloadForm,
    /// Whether the state is whole.
    pub known: Known,
    /// When the source took the newest delta in, Unix ms.
    pub at_ms: u64,
    /// Offset of the [`Kind::Move`] that brought the topic to its source; 0 if none did.
    pub moved_at: Offset,
    /// Offset of the snapshot that it rests on, where another source has entries of the topic; else 0.
    pub base: Offset,
    frames: Frames,
    digest: OnceLock<u64>,
    loose: Loose,
    /// HTTP answers that send it.
    answers: AtomicU32,
    /// The same while there are some.
    answered: Loose,
}

/// The reference of an HTTP answer to the snapshot that it sends.
#[derive(Debug)]
pub struct Answering(Arc<Snapshot>);

impl Answering {
    /// Counts `snapshot` among the answers as long as this lives, unless its topic keeps it.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        snapshot.answers.fetch_add(1, Ordering::AcqRel);
        snapshot.recount();
        Self(snapshot)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.fetch_sub(1, Ordering::AcqRel);
        self.0.recount();
    }
}

/// The contents of a snapshot.
pub(super) struct SnapshotData {
    pub(super) data: Bytes,
    pub(super) form: PayloadForm,
    pub(super) known: Known,
    pub(super) at_ms: u64,
    pub(super) moved_at: Offset,
    pub(super) base: Offset,
}

impl Snapshot {
    pub(super) fn new(topic: TopicName, at: (Offset, Epoch), ts: Option<u64>, data: SnapshotData) -> Self {
        let SnapshotData { data, form, known, at_ms, moved_at, base } = data;
        let (frames, digest, loose) = (Frames::default(), OnceLock::new(), Loose::new(&accounts::SNAPSHOTS, 0));
        let (answers, answered) = (AtomicU32::new(0), Loose::new(&accounts::ANSWERS, 0));
        let (offset, epoch) = at;
        Self {
            topic,
            offset,
            epoch,
            ts,
            data,
            form,
            known,
            at_ms,
            moved_at,
            base,
            frames,
            digest,
            loose,
            answers,
            answered,
        }
    }

    /// Tells states at one position apart: what is kept of a `stream` goes with time. Made once.
    pub fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            (self.ts, &self.data).hash(&mut hasher);
            hasher.finish()
        })
    }

    /// Counts it from now on, if no topic keeps it.
    pub(super) fn count(&self) {
        Keepable::recount(self);
    }

    /// Bytes of memory that it takes with one frame: it is made to be sent.
    pub fn weight(&self) -> usize {
        SNAPSHOT_BYTES + 2 * frame_bytes(self.data.len())
    }

    /// Bytes that it takes of memory, with the frames that were made so far.
    fn true_weight(&self) -> usize {
        SNAPSHOT_BYTES + frame_bytes(self.data.len()) + self.frames.bytes()
    }

    /// Its frame in `encoding`.
    pub fn frame(&self, encoding: Encoding) -> Bytes {
        let encoding = encoding.whole();
        let (frame, made) = self.frames.get(encoding, || {
            encoding.snapshot(&SnapshotDelivery {
                topic: &self.topic,
                offset: self.offset,
                epoch: &self.epoch,
                ts: self.ts,
                data: &self.data,
                form: self.form,
                known: self.known,
            })
        });
        if made && self.loose.kept.load(Ordering::Acquire) == 0 {
            self.recount();
        }
        frame
    }
}

#[cfg(test)]
impl Delta {
    /// A delta of a topic as tests of other modules need one.
    pub(crate) fn of(
        topic: &TopicName,
        offset: Offset,
        prev: Offset,
        kind: Kind,
        json: &str,
        state_bytes: usize,
    ) -> Arc<Self> {
        let payload = Payload::new(Bytes::copy_from_slice(json.as_bytes()), 1 << 20).unwrap();
        let (epoch, taken_ms, before, trace) = (Epoch::from_text("e"), 0, None, None);
        let topic = topic.clone();
        Self::new(kind, None, payload, Place { topic, offset, prev, epoch, taken_ms, state_bytes, before, trace })
            .clone()
    }
}

#[cfg(test)]
impl Snapshot {
    /// A whole state as tests of other modules need one.
    pub(crate) fn of(topic: &TopicName, offset: Offset, json: &str) -> Arc<Self> {
        let data = SnapshotData {
            data: Bytes::copy_from_slice(json.as_bytes()),
            form: PayloadForm::Json,
            known: Known::Whole,
            at_ms: 0,
            moved_at: Offset::ZERO,
            base: Offset::ZERO,
        };
        Arc::new(Self::new(topic.clone(), (offset, Epoch::from_text("e")), None, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot counts as answers while HTTP answers refer to it, as snapshots on its way to sessions, and in its
    /// topic's account while that keeps it.
    #[test]
    fn a_snapshot_counts_where_it_is_kept() {
        let data = SnapshotData {
            data: Bytes::from(vec![b'1'; 1_000]),
            form: PayloadForm::Json,
            known: Known::Whole,
            at_ms: 0,
            moved_at: Offset::ZERO,
            base: Offset::ZERO,
        };
        let (topic, at) = (TopicName::new("t:x").unwrap(), (Offset::ZERO, Epoch::from_text("e")));
        let snapshot = Arc::new(Snapshot::new(topic, at, None, data));
        let before = [accounts::SNAPSHOTS.bytes(), accounts::ANSWERS.bytes()];
        let counted =
            || [accounts::SNAPSHOTS.bytes() - before[0] > 1_000, accounts::ANSWERS.bytes() - before[1] > 1_000];
        snapshot.count();
        assert_eq!(counted(), [true, false], "on its way");
        let (one, other) = (Answering::new(snapshot.clone()), Answering::new(snapshot.clone()));
        assert_eq!(counted(), [false, true], "sent by two answers");
        let kept = Keep::new(snapshot.clone());
        assert_eq!(counted(), [false, false], "kept by its topic");
        drop(one);
        drop(kept);
        assert_eq!(counted(), [false, true], "sent by one");
        drop(other);
        assert_eq!(counted(), [true, false]);
        drop(snapshot);
        assert_eq!([accounts::SNAPSHOTS.bytes(), accounts::ANSWERS.bytes()], before);
    }
}
