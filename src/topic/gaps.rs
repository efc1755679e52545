//! Deltas of a source that this node may have missed, and thus whether a delta of a topic that is not known here is its
//! first.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::lifetime::over;
use crate::config::Namespace;
use crate::limits::DELETED_TOPICS_MAX;
use crate::name::TopicName;

/// The missed deltas of one source.
#[derive(Debug)]
pub(super) struct Gaps {
    /// Nothing was missed: every topic that the source has is known.
    none: AtomicBool,
    /// All that may have been missed was taken in by the source up to then, Unix ms of its clock; the maximum if that
    /// is not known.
    until_ms: AtomicU64,
    /// Topics expired by then. A delta with an earlier time may belong to one of them.
    expired_ms: AtomicU64,
    /// By namespace: topics whose last delta came by then may have been ended by nodes with a shorter `expire_after`,
    /// Unix ms of the source's clock. Has all namespaces or none.
    ended_sooner: Mutex<HashMap<String, u64>>,
    /// Topics that were deleted since: their next delta is the first.
    deleted: Mutex<HashSet<TopicName>>,
}

impl Default for Gaps {
    fn default() -> Self {
        Self {
            none: AtomicBool::new(true),
            until_ms: AtomicU64::new(0),
            expired_ms: AtomicU64::new(0),
            ended_sooner: Mutex::default(),
            deleted: Mutex::default(),
        }
    }
}

impl Gaps {
    /// A load of the source begins. `none`: it will read everything that the source ever had.
    pub(super) fn reset(&self, none: bool) {
        self.expired_ms.store(0, Ordering::Release);
        self.set_ended_sooner(HashMap::new());
        if none { self.close() } else { self.open() }
    }

    /// Deltas of unknown topics were missed just now.
    pub(super) fn open(&self) {
        self.none.store(false, Ordering::Release);
        self.until_ms.store(u64::MAX, Ordering::Release);
        self.forget_deleted();
    }

    /// The newest missed delta was taken in by then.
    pub(super) fn ended_at(&self, until_ms: u64) {
        self.none.store(false, Ordering::Release);
        self.until_ms.store(until_ms, Ordering::Release);
    }

    /// Deltas of unknown topics were missed that were taken in by then.
    pub(super) fn widen(&self, until_ms: u64) {
        self.until_ms.fetch_max(until_ms, Ordering::AcqRel);
        self.none.store(false, Ordering::Release);
        self.forget_deleted();
    }

    /// One delta of a topic that is not there was missed.
    pub(super) fn miss(&self, name: &str, at_ms: u64) {
        self.until_ms.fetch_max(at_ms, Ordering::AcqRel);
        self.none.store(false, Ordering::Release);
        self.deleted().remove(name);
    }

    fn close(&self) {
        self.none.store(true, Ordering::Release);
        self.until_ms.store(0, Ordering::Release);
        self.forget_deleted();
    }

    /// Everything that the source took in up to `read_ms` has been read: closes gaps after which every topic would have
    /// ended that had no delta since. `longest_ms` is the longest that a topic may be quiet; `None` if some may for
    /// ever.
    pub(super) fn outlive(&self, read_ms: u64, longest_ms: Option<u64>) {
        let Some(longest_ms) = longest_ms.filter(|_| !self.is_none()) else { return };
        let over_ms = self.until_ms.load(Ordering::Acquire).saturating_add(longest_ms);
        if read_ms > over_ms {
            self.expire(over_ms);
            self.close();
        }
    }

    /// Whether nothing was missed.
    pub(super) fn is_none(&self) -> bool {
        self.none.load(Ordering::Acquire)
    }

    /// Whether something was missed and the end of the gap is not known.
    pub(super) fn is_open(&self) -> bool {
        !self.is_none() && self.until_ms.load(Ordering::Acquire) == u64::MAX
    }

    /// Up to when something may have been, Unix ms of the source's clock, if something was and that is known.
    pub(super) fn until_ms(&self) -> Option<u64> {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        (!self.is_none() && until_ms != u64::MAX).then_some(until_ms)
    }

    /// The latest time that a topic whose state may lack deltas can have had its last one, if that which is known came
    /// at `active_ms`.
    pub(super) fn last_ms(&self, active_ms: u64) -> u64 {
        active_ms.max(self.until_ms.load(Ordering::Acquire))
    }

    /// A topic was deleted by its publisher at `at_ms`. Deltas missed after that may belong to a new life of it.
    pub(super) fn delete(&self, name: &TopicName, at_ms: u64) {
        let is_missed = !self.is_none() && at_ms >= self.until_ms.load(Ordering::Acquire);
        let ended_ms = self.ended_sooner_ms(name.namespace());
        if !is_missed && (ended_ms == 0 || at_ms < ended_ms) {
            return;
        }
        let mut deleted = self.deleted();
        if deleted.len() < DELETED_TOPICS_MAX {
            deleted.insert(name.clone());
        }
    }

    /// A topic whose last delta came before `at_ms` has expired, and is forgotten.
    pub(super) fn expire(&self, at_ms: u64) {
        self.expired_ms.fetch_max(at_ms, Ordering::AcqRel);
    }

    /// Up to when topics have expired, Unix ms of the source's clock.
    pub(super) fn expired_ms(&self) -> u64 {
        self.expired_ms.load(Ordering::Acquire)
    }

    /// Whether a delta that came at `at_ms` is the first of its topic, which is not known here.
    pub(super) fn is_first(&self, name: &TopicName, options: &Namespace, at_ms: u64) -> bool {
        at_ms > self.expired_ms() && self.has_missed_none(name, options, at_ms)
    }

    /// The same for a topic that cannot have expired.
    pub(super) fn has_missed_none(&self, name: &TopicName, options: &Namespace, at_ms: u64) -> bool {
        !self.may_have_before(name, options, at_ms, false) || self.deleted().remove(name.as_str())
    }

    /// Whether a topic of this name may have had deltas that are not known here, and not have ended by `at_ms`.
    fn may_have_before(&self, name: &TopicName, options: &Namespace, at_ms: u64, grace: bool) -> bool {
        let is_missed = !self.is_none() && !over(options, self.until_ms.load(Ordering::Acquire), at_ms, grace);
        is_missed || self.may_live_longer(name, options, at_ms, grace)
    }

    /// Whether a topic of this name may have been ended by nodes with a shorter `expire_after`, and not have expired
    /// here by `at_ms`.
    pub(super) fn may_live_longer(&self, name: &TopicName, options: &Namespace, at_ms: u64, grace: bool) -> bool {
        let ended_ms = self.ended_sooner_ms(name.namespace());
        ended_ms > 0 && !over(options, ended_ms, at_ms, grace)
    }

    /// Up to when the last delta came of topics of a namespace that other nodes may have ended; 0 if none may.
    pub(super) fn ended_sooner_ms(&self, namespace: Option<&str>) -> u64 {
        let ended = self.ended_sooner.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |namespace: &str| ended.get(namespace).copied();
        namespace.and_then(of).or_else(|| of("")).unwrap_or(0)
    }

    /// Sets the same for all namespaces; the default has an empty name.
    pub(super) fn set_ended_sooner(&self, ended: HashMap<String, u64>) {
        *self.ended_sooner.lock().unwrap_or_else(PoisonError::into_inner) = ended;
    }

    /// Whether there may be a topic of this name that is not known here; everything up to `read_ms` has been read.
    pub(super) fn may_have(&self, name: &TopicName, options: &Namespace, read_ms: u64) -> bool {
        self.may_have_before(name, options, read_ms, true) && !self.deleted().contains(name)
    }

    fn deleted(&self) -> std::sync::MutexGuard<'_, HashSet<TopicName>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_deleted(&self) {
        *self.deleted() = HashSet::new();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_topic_begins_where_nothing_can_have_come_before() {
        let name = |text: &str| TopicName::new(text).unwrap();
        let quiet = |ms| Namespace { expire_after: Duration::from_millis(ms), ..Namespace::default() };
        let (short, long, never) = (quiet(10), quiet(1_000), quiet(0));
        let gaps = Gaps::default();
        assert!(gaps.is_first(&name("a"), &never, 1), "nothing was missed");
        gaps.open();
        assert!(!gaps.is_first(&name("a"), &short, u64::MAX), "until when is not known");
        gaps.ended_at(100);
        for (options, at_ms, expected) in [
            (&short, 110, false),
            (&short, 111, true),
            (&long, 1_100, false),
            (&long, 1_101, true),
            (&never, 9_999, false),
        ] {
            assert_eq!(gaps.is_first(&name("a"), options, at_ms), expected, "{at_ms}");
        }
        assert!(gaps.may_have(&name("a"), &short, 111) && !gaps.may_have(&name("a"), &short, 112));
        gaps.delete(&name("a"), 99);
        assert!(gaps.may_have(&name("a"), &never, 105), "what was missed may have come after it");
        gaps.delete(&name("a"), 100);
        assert!(!gaps.may_have(&name("a"), &never, 105) && gaps.may_have(&name("b"), &never, 105));
        assert!(gaps.is_first(&name("a"), &never, 105), "it was deleted");
        assert!(!gaps.is_first(&name("a"), &never, 106), "and lives again since");
        gaps.delete(&name("a"), 107);
        gaps.miss("a", 200);
        assert!(!gaps.is_first(&name("a"), &short, 205), "what came after the end was missed");
        gaps.expire(300);
        assert!(!gaps.is_first(&name("a"), &short, 300) && gaps.is_first(&name("a"), &short, 301));
        gaps.outlive(1_200, Some(1_000));
        assert_eq!(gaps.until_ms(), Some(200));
        gaps.outlive(1_201, None);
        assert!(!gaps.is_none(), "some topics never end");
        gaps.outlive(1_201, Some(1_000));
        assert!(gaps.is_none() && gaps.is_first(&name("a"), &never, 1_201));
        assert!(!gaps.is_first(&name("a"), &never, 1_200), "a late one may go on with what was ended");
    }

    #[test]
    fn topics_that_others_ended_sooner_may_live() {
        let name = |text: &str| TopicName::new(text).unwrap();
        let quiet = |ms| Namespace { expire_after: Duration::from_millis(ms), ..Namespace::default() };
        let gaps = Gaps::default();
        gaps.set_ended_sooner(HashMap::from([("n".to_owned(), 100), ("other".to_owned(), 0), (String::new(), 50)]));
        for (topic, expire_ms, at_ms, expected) in [
            ("n:a", 1_000, 1_100, true),
            ("n:a", 1_000, 1_101, false),
            ("n:a", 0, 99_999, true),
            ("other:a", 1_000, 101, false),
            ("unknown:a", 1_000, 1_050, true),
            ("plain", 1_000, 1_051, false),
        ] {
            let (name, options) = (name(topic), quiet(expire_ms));
            assert_eq!(!gaps.is_first(&name, &options, at_ms), expected, "{topic} at {at_ms}");
            assert_eq!(gaps.may_live_longer(&name, &options, at_ms, false), expected, "{topic} at {at_ms}");
        }
        assert!(gaps.is_none(), "that is of some topics alone");
        assert!(gaps.may_have(&name("n:a"), &quiet(1_000), 200));
        gaps.delete(&name("n:a"), 150);
        assert!(!gaps.may_have(&name("n:a"), &quiet(1_000), 200) && gaps.is_first(&name("n:a"), &quiet(1_000), 200));
        gaps.reset(true);
        assert!(gaps.is_first(&name("n:b"), &quiet(0), 200));
    }

    #[test]
    fn deleted_topics_that_are_remembered_have_a_bound() {
        let gaps = Gaps::default();
        gaps.ended_at(100);
        for n in 0..DELETED_TOPICS_MAX + 10 {
            gaps.delete(&TopicName::new(&format!("t:{n}")).unwrap(), 100);
        }
        assert_eq!(gaps.deleted().len(), DELETED_TOPICS_MAX);
    }
}
