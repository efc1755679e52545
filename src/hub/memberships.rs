//! Joins and leaves of topics, told to the sessions that watch: for each topic at most every so often, and no more bytes than a
//! topic, and a user of it, may make the server send. What waits is merged: of a session that came and went again nothing is
//! told, and whoever watches ends up with those that are there.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use crate::config::Limits;
use crate::limits::{
    MEMBER_INFO_BYTES_MAX, MEMBERSHIP_BURST_S, MEMBERSHIP_EVERY_MS, MEMBERSHIP_USER_PART, MEMBERSHIP_WAITING_BYTES_MAX,
    MEMBERSHIP_WAITING_MAX,
};
use crate::protocol::{MemberInfo, MembershipChange};
use crate::rate::Rate;
use crate::topic::Slot;

/// Time between two looks at what was told of users, in ms.
const SWEEP_EVERY_MS: u64 = 1_000;

/// Bytes of joins and leaves that a shard may send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// Of one topic.
    topic: Rate,
    /// Of one user, or session that names none, in all topics.
    user: Rate,
}

impl Rates {
    /// Of one of so many shards.
    pub(super) fn new(limits: &Limits, shards: usize) -> Self {
        let topic = u64::from(limits.membership_bytes_per_second) / shards.max(1) as u64;
        let rate = |per_second: u64| Rate::new(per_second, per_second * MEMBERSHIP_BURST_S);
        Self { topic: rate(topic), user: rate(topic / MEMBERSHIP_USER_PART) }
    }
}

/// What waits to be told, by topic.
#[derive(Debug)]
pub(super) struct Memberships {
    pub(super) rates: Rates,
    topics: HashMap<Slot, Waiting>,
    /// What was told of each ([`Rate`]), in ns of the shard's clock.
    told_of: HashMap<Whose, u64>,
    /// When the first topic is to be looked at, ms of the shard's clock.
    next_ms: Option<u64>,
    next_sweep_ms: u64,
    /// Bytes of memory of the changes that wait.
    bytes: usize,
}

/// A user; of a session that names none, its own id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    User(String),
    Session(String),
}

impl Whose {
    fn of(info: &MemberInfo) -> Self {
        if info.user.is_empty() { Self::Session(info.client.clone()) } else { Self::User(info.user.clone()) }
    }
}

#[derive(Debug)]
struct Waiting {
    due_ms: u64,
    /// Until when nothing more is told after the last time.
    quiet_ms: u64,
    /// What was told ([`Rate`]), in ns of the shard's clock.
    used_ns: u64,
    /// In order. A member that came and went meanwhile, or the other way round, has left holes.
    changes: Vec<Option<Arc<MembershipChange>>>,
    holes: usize,
    by_member: HashMap<Member, usize>,
}

/// The session that a change is about, together with what it shows: with another user or `info` it counts as another.
#[derive(Debug, Clone)]
struct Member(Arc<MemberInfo>);

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl Eq for Member {}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What it shows seldom differs.
        self.0.client.hash(state);
    }
}

/// Bytes of memory of a change that waits, beside its texts.
const CHANGE_BYTES: usize = size_of::<MembershipChange>()
    + size_of::<MemberInfo>()
    + size_of::<(Member, usize)>()
    + size_of::<Option<Arc<MembershipChange>>>()
    + 4 * size_of::<usize>();

fn bytes_of(change: &MembershipChange) -> usize {
    let info = &change.info;
    CHANGE_BYTES + info.client.len() + info.user.len() + info.conn_info.len() + info.chan_info.len()
}

/// The change without `info` that is larger than joins and leaves may show.
pub(super) fn bounded(change: &Arc<MembershipChange>) -> Option<Arc<MembershipChange>> {
    let info = &change.info;
    let fits = |bytes: &Bytes| bytes.len() <= MEMBER_INFO_BYTES_MAX;
    if fits(&info.conn_info) && fits(&info.chan_info) {
        return None;
    }
    let shown = |bytes: &Bytes| if fits(bytes) { bytes.clone() } else { Bytes::new() };
    let (conn_info, chan_info) = (shown(&info.conn_info), shown(&info.chan_info));
    let info = MemberInfo { user: info.user.clone(), client: info.client.clone(), conn_info, chan_info };
    Some(Arc::new(MembershipChange { joined: change.joined, info: Arc::new(info) }))
}

impl Waiting {
    fn new(due_ms: u64) -> Self {
        Self { due_ms, quiet_ms: 0, used_ns: 0, changes: Vec::new(), holes: 0, by_member: HashMap::new() }
    }

    fn len(&self) -> usize {
        self.by_member.len()
    }

    fn add(&mut self, change: &Arc<MembershipChange>) {
        self.by_member.insert(Member(change.info.clone()), self.changes.len());
        self.changes.push(Some(change.clone()));
    }

    /// Takes a change out of the middle.
    fn take(&mut self, at: usize) -> Option<Arc<MembershipChange>> {
        let change = self.changes.get_mut(at)?.take()?;
        self.by_member.remove(&Member(change.info.clone()));
        self.holes += 1;
        Some(change)
    }

    /// Where there are more holes than changes, they go.
    fn compact(&mut self) {
        if self.holes * 2 <= self.changes.len() {
            return;
        }
        self.changes.retain(Option::is_some);
        self.changes.shrink_to(2 * self.changes.len());
        self.holes = 0;
        let members = self.changes.iter().flatten().enumerate();
        self.by_member = members.map(|(at, change)| (Member(change.info.clone()), at)).collect();
    }
}

impl Memberships {
    pub(super) fn new(rates: Rates) -> Self {
        let (topics, told_of) = (HashMap::new(), HashMap::new());
        Self { rates, topics, told_of, next_ms: None, next_sweep_ms: 0, bytes: 0 }
    }

    /// When there may be something to tell.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
            + self.topics.capacity() * size_of::<(Slot, Waiting)>()
            + self.told_of.capacity() * (size_of::<(Whose, u64)>() + 32)
    }

    /// Takes a change. `Err` if too many wait. A join where it was quiet is due at once; one that leaves may be back in a
    /// moment, as when it subscribes again: that is told later, or not at all.
    pub(super) fn take(&mut self, slot: Slot, change: &Arc<MembershipChange>, now_ms: u64) -> Result<(), ()> {
        let due_ms = if change.joined { now_ms } else { now_ms + MEMBERSHIP_EVERY_MS };
        let waiting = self.topics.entry(slot).or_insert_with(|| Waiting::new(due_ms));
        let member = Member(change.info.clone());
        if let Some(at) = waiting.by_member.get(&member).copied() {
            // The one that waits says the contrary, or the same once more.
            let same = |other: &Arc<MembershipChange>| other.joined == change.joined;
            if !waiting.changes.get(at).and_then(Option::as_ref).is_some_and(same)
                && let Some(gone) = waiting.take(at)
            {
                self.bytes -= bytes_of(&gone);
                waiting.compact();
            }
            return Ok(());
        }
        if waiting.len() >= MEMBERSHIP_WAITING_MAX || self.bytes + bytes_of(change) > MEMBERSHIP_WAITING_BYTES_MAX {
            return Err(());
        }
        if waiting.len() == 0 {
            waiting.due_ms = due_ms.max(waiting.quiet_ms);
        }
        let due_ms = waiting.due_ms;
        self.bytes += bytes_of(change);
        waiting.add(change);
        self.next_ms = Some(self.next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
        Ok(())
    }

    /// Drops what waits: the number will be another topic's, whose subscribers must not learn of this one's.
    pub(super) fn forget(&mut self, slot: Slot) {
        if let Some(waiting) = self.topics.remove(&slot) {
            self.bytes -= waiting.changes.iter().flatten().map(|change| bytes_of(change)).sum::<usize>();
        }
    }

    /// Tells what is due, as far as the rates allow, by `tell`, which returns how many bytes that took. Returns of how many
    /// topics something had to wait for that.
    pub(super) fn tell(&mut self, now_ms: u64, mut tell: impl FnMut(Slot, &MembershipChange) -> usize) -> u64 {
        if self.next_ms.is_none_or(|next_ms| next_ms > now_ms) {
            return 0;
        }
        let (now_ns, rates, mut held_back) = (now_ms * 1_000_000, self.rates, 0);
        let (told_of, bytes) = (&mut self.told_of, &mut self.bytes);
        self.topics.retain(|slot, waiting| {
            if waiting.due_ms > now_ms {
                return true;
            }
            if waiting.len() == 0 {
                // Kept while it says something of the next one.
                waiting.due_ms = (waiting.used_ns / 1_000_000 + 1).max(waiting.quiet_ms);
                return waiting.due_ms > now_ms;
            }
            // Of one session everything is told in order: what it showed before it leaves first.
            let (mut passed_over, mut wait_ns) = (HashSet::new(), None::<u64>);
            for at in 0..waiting.changes.len() {
                let Some(change) = waiting.changes.get(at).and_then(Clone::clone) else { continue };
                let topic_ns = rates.topic.wait_ns(waiting.used_ns, now_ns);
                if topic_ns > 0 {
                    wait_ns = Some(wait_ns.map_or(topic_ns, |wait_ns| wait_ns.min(topic_ns)));
                    break;
                }
                if passed_over.contains(change.info.client.as_str()) {
                    continue;
                }
                let used_ns = told_of.entry(Whose::of(&change.info)).or_default();
                let user_ns = rates.user.wait_ns(*used_ns, now_ns);
                if user_ns > 0 {
                    wait_ns = Some(wait_ns.map_or(user_ns, |wait_ns| wait_ns.min(user_ns)));
                    passed_over.insert(change.info.client.clone());
                    continue;
                }
                waiting.take(at);
                *bytes -= bytes_of(&change);
                let sent = tell(*slot, &change) as u64;
                rates.topic.charge(&mut waiting.used_ns, now_ns, sent);
                rates.user.charge(used_ns, now_ns, sent);
            }
            waiting.compact();
            waiting.quiet_ms = now_ms + MEMBERSHIP_EVERY_MS;
            waiting.due_ms = now_ms + wait_ns.map_or(0, |ns| ns.div_ceil(1_000_000)).max(MEMBERSHIP_EVERY_MS);
            held_back += u64::from(wait_ns.is_some());
            true
        });
        if now_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now_ms + SWEEP_EVERY_MS;
            self.told_of.retain(|_, used_ns| !Rate::is_unused(*used_ns, now_ns));
            self.told_of.shrink_to(64);
            self.topics.shrink_to(64);
        }
        self.next_ms = self.topics.values().map(|waiting| waiting.due_ms).min();
        held_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(client: usize, user: &str, info: &'static str, joined: bool) -> Arc<MembershipChange> {
        let (user, conn_info, chan_info) = (user.to_owned(), Bytes::from_static(info.as_bytes()), Bytes::new());
        let info = Arc::new(MemberInfo { user, client: client.to_string(), conn_info, chan_info });
        Arc::new(MembershipChange { joined, info })
    }

    fn change(client: usize, joined: bool) -> Arc<MembershipChange> {
        shown(client, "", "", joined)
    }

    fn unlimited() -> Memberships {
        Memberships::new(Rates { topic: Rate::new(u64::MAX, u64::MAX), user: Rate::new(u64::MAX, u64::MAX) })
    }

    /// What is told at this time.
    fn told(memberships: &mut Memberships, now_ms: u64) -> Vec<(Slot, usize, bool)> {
        let mut told = Vec::new();
        memberships.tell(now_ms, |slot, change| {
            told.push((slot, change.info.client.parse().unwrap(), change.joined));
            1
        });
        told
    }

    proptest! {
        /// Clients that come and go: whoever watches ends up with those that are there, is told of a client at most once each
        /// interval, and of all of them no more bytes than there may be.
        #[test]
        fn watchers_end_up_with_who_is_there(
            steps in prop::collection::vec((0usize..6, 0u64..150), 1..200),
            bytes in prop::sample::select(vec![1u64, 1_000]),
        ) {
            const PER_SECOND: u64 = 2_000;
            const BURST: u64 = 3_000;
            let mut memberships =
                Memberships::new(Rates { topic: Rate::new(PER_SECOND, BURST), user: Rate::new(PER_SECOND / 2, BURST / 2) });
            let (mut now_ms, mut sent) = (0, 0);
            let (mut there, mut seen, mut times) = ([false; 6], [false; 6], [0u64; 6]);
            let mut tell = |change: &MembershipChange, seen: &mut [bool; 6]| {
                let client: usize = change.info.client.parse().unwrap();
                assert_ne!(seen[client], change.joined, "told twice of one coming");
                seen[client] = change.joined;
                times[client] += 1;
                sent += bytes;
                usize::try_from(bytes).unwrap()
            };
            // Two clients are of one user.
            let user = |client: usize| if client < 2 { "ann" } else { "" };
            for (client, ms) in steps {
                now_ms += ms;
                memberships.tell(now_ms, |_, change| tell(change, &mut seen));
                there[client] = !there[client];
                memberships.take(Slot(1), &shown(client, user(client), "", there[client]), now_ms).unwrap();
                memberships.tell(now_ms, |_, change| tell(change, &mut seen));
            }
            while let Some(next_ms) = memberships.next_ms() {
                now_ms = next_ms;
                memberships.tell(now_ms, |_, change| tell(change, &mut seen));
            }
            prop_assert_eq!(there, seen);
            prop_assert!(times.iter().all(|n| *n <= now_ms / MEMBERSHIP_EVERY_MS + 1));
            prop_assert!(sent <= BURST + PER_SECOND * now_ms / 1_000 + bytes);
            prop_assert_eq!((memberships.bytes, memberships.topics.len()), (0, 0));
        }
    }

    /// A user that comes and goes with many sessions is told of less often; another's coming is told at once.
    #[test]
    fn what_is_told_of_one_user_leaves_the_others_theirs() {
        let rates = Rates { topic: Rate::new(10_000, 40_000), user: Rate::new(1_000, 2_000) };
        let mut memberships = Memberships::new(rates);
        let (mut told, mut now_ms) = (Vec::new(), 0);
        for n in 0..400 {
            now_ms += 25;
            let (client, joined) = (n % 40, n / 40 % 2 == 0);
            memberships.take(Slot(1), &shown(client, "eve", "", joined), now_ms).unwrap();
            if n == 300 {
                memberships.take(Slot(1), &shown(99, "ann", "", true), now_ms).unwrap();
            }
            memberships.tell(now_ms, |_, change| {
                told.push((now_ms, change.info.user.clone()));
                100
            });
        }
        let of = |user: &str| told.iter().filter(|(_, of)| of == user).collect::<Vec<_>>();
        assert!(of("eve").len() <= 20 + usize::try_from(now_ms / 100).unwrap() + 1, "{}", of("eve").len());
        assert_eq!(of("ann").len(), 1);
        assert!(of("ann")[0].0 <= 301 * 25 + 2 * MEMBERSHIP_EVERY_MS, "{:?}", of("ann"));
    }

    /// A session that shows something else of its user leaves as what it was and joins as what it is, in this order, also
    /// where it shows another user, of whom more may be told.
    #[test]
    fn what_others_see_of_a_session_changes_by_a_leave_and_a_join() {
        let mut memberships = unlimited();
        memberships.take(Slot(1), &shown(1, "", "1", true), 0).unwrap();
        assert_eq!(told(&mut memberships, 0), [(Slot(1), 1, true)]);
        for next in [shown(1, "", "1", false), change(2, true), shown(1, "", "2", true), change(2, false)] {
            memberships.take(Slot(1), &next, 10).unwrap();
        }
        assert_eq!(told(&mut memberships, 10 + MEMBERSHIP_EVERY_MS), [(Slot(1), 1, false), (Slot(1), 1, true)]);
        let mut memberships = Memberships::new(Rates { topic: Rate::new(1_000, 1_000), user: Rate::new(1, 1) });
        memberships.take(Slot(1), &shown(1, "ann", "", true), 0).unwrap();
        assert_eq!(told(&mut memberships, 0).len(), 1);
        memberships.take(Slot(1), &shown(1, "ann", "", false), 300).unwrap();
        memberships.take(Slot(1), &shown(1, "bob", "", true), 300).unwrap();
        assert_eq!(told(&mut memberships, 600), [], "of ann nothing may be told for a second");
        assert_eq!(told(&mut memberships, 1_100), [(Slot(1), 1, false), (Slot(1), 1, true)]);
    }

    /// One that unsubscribes and subscribes at once was never away.
    #[test]
    fn a_member_that_is_back_in_a_moment_has_not_left() {
        let mut memberships = unlimited();
        for (joined, ms) in [(false, 0), (true, 20), (false, 50), (true, 100)] {
            memberships.take(Slot(1), &change(1, joined), ms).unwrap();
            assert_eq!(told(&mut memberships, ms), []);
        }
        assert_eq!(told(&mut memberships, MEMBERSHIP_EVERY_MS), []);
        memberships.take(Slot(1), &change(1, false), 1_000).unwrap();
        assert_eq!(told(&mut memberships, 1_000), []);
        assert_eq!(told(&mut memberships, 1_000 + MEMBERSHIP_EVERY_MS), [(Slot(1), 1, false)], "it is gone after all");
    }

    #[test]
    fn a_topic_is_told_nothing_of_the_one_that_had_its_number() {
        let mut memberships = unlimited();
        memberships.take(Slot(1), &change(0, true), 0).unwrap();
        assert_eq!(told(&mut memberships, 0).len(), 1);
        memberships.take(Slot(1), &change(1, true), 10).unwrap();
        memberships.forget(Slot(1));
        memberships.take(Slot(1), &change(2, true), 20).unwrap();
        assert_eq!(told(&mut memberships, 20), [(Slot(1), 2, true)], "another topic, and quiet");
        assert_eq!(told(&mut memberships, 20 + MEMBERSHIP_EVERY_MS), []);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut memberships = unlimited();
        let kept = (0..2 * MEMBERSHIP_WAITING_MAX).filter(|n| memberships.take(Slot(1), &change(*n, true), 0).is_ok());
        assert_eq!(kept.count(), MEMBERSHIP_WAITING_MAX);
        assert!(memberships.bytes > MEMBERSHIP_WAITING_MAX * CHANGE_BYTES);
        memberships.forget(Slot(1));
        assert_eq!(memberships.bytes, 0);
        // Of all topics together, too; what cancels something out is always taken.
        let topics = (0..).map(Slot).take_while(|slot| {
            (0..1_000).map(|n| memberships.take(*slot, &change(n, true), 0)).filter(Result::is_ok).count() == 1_000
        });
        let topics = topics.count();
        assert!(topics > 10 && memberships.bytes <= MEMBERSHIP_WAITING_BYTES_MAX, "{topics}");
        assert_eq!(memberships.take(Slot(0), &change(0, false), 0), Ok(()));
        assert_eq!(memberships.take(Slot(0), &change(0, true), 0), Ok(()));
    }

    #[test]
    fn large_infos_are_left_out() {
        let large = shown(1, "ann", "", true);
        assert!(bounded(&large).is_none());
        let fits = Bytes::from(vec![b'1'; MEMBER_INFO_BYTES_MAX]);
        let too_large = Bytes::from(vec![b'1'; MEMBER_INFO_BYTES_MAX + 1]);
        let info = MemberInfo { conn_info: too_large, chan_info: fits.clone(), ..(*large.info).clone() };
        let change = bounded(&Arc::new(MembershipChange { joined: true, info: Arc::new(info) })).unwrap();
        assert_eq!(
            (change.info.user.as_str(), &change.info.conn_info, &change.info.chan_info),
            ("ann", &Bytes::new(), &fits)
        );
    }
}
