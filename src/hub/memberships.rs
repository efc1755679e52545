//! Joins and leaves of topics, sent to the sessions that watch them. They are limited by a minimum interval per topic
//! and by bytes per topic and user. Waiting changes are merged: a session that joined and left again is not mentioned,
//! and watchers always end with the true list.

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

/// Interval at which the charges of users are cleaned up, in ms.
const SWEEP_EVERY_MS: u64 = 1_000;

/// Limits on the bytes of joins and leaves that a shard may send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    /// Per topic.
    topic: Rate,
    /// Per user, or session without a user, over all topics.
    user: Rate,
}

impl Rates {
    /// The share of one shard out of `shards`.
    pub(super) fn new(limits: &Limits, shards: usize) -> Self {
        let topic = u64::from(limits.membership_bytes_per_second) / shards.max(1) as u64;
        let rate = |per_second: u64| Rate::new(per_second, per_second * MEMBERSHIP_BURST_S);
        Self { topic: rate(topic), user: rate(topic / MEMBERSHIP_USER_PART) }
    }
}

/// Changes that wait to be sent, by topic.
#[derive(Debug)]
pub(super) struct Memberships {
    pub(super) rates: Rates,
    topics: HashMap<Slot, Waiting>,
    /// The charge of each user ([`Rate`]), in ns of the shard's clock.
    charges: HashMap<Whose, u64>,
    /// When the next topic is due, ms of the shard's clock.
    next_ms: Option<u64>,
    next_sweep_ms: u64,
    /// Bytes of memory of the waiting changes.
    bytes: usize,
}

/// A user, or the id of a session without a user.
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
    /// No change is sent before this time.
    quiet_ms: u64,
    /// The charge of the topic ([`Rate`]), in ns of the shard's clock.
    used_ns: u64,
    /// In order. `None` where a join and a leave of one member cancelled each other out.
    changes: Vec<Option<Arc<MembershipChange>>>,
    holes: usize,
    by_member: HashMap<Member, usize>,
}

/// The session of a change, with the user and `info` that it shows. With another user or `info` it counts as another
/// member.
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
        // User and info seldom differ for one session, so they are not hashed.
        self.0.client.hash(state);
    }
}

/// Bytes of memory of a waiting change, without its texts.
const CHANGE_BYTES: usize = size_of::<MembershipChange>()
    + size_of::<MemberInfo>()
    + size_of::<(Member, usize)>()
    + size_of::<Option<Arc<MembershipChange>>>()
    + 4 * size_of::<usize>();

fn bytes_of(change: &MembershipChange) -> usize {
    let info = &change.info;
    CHANGE_BYTES + info.client.len() + info.user.len() + info.conn_info.len() + info.chan_info.len()
}

/// The change without its `info`, if that is too large for joins and leaves.
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

    /// Removes a change from the middle of the list.
    fn take(&mut self, at: usize) -> Option<Arc<MembershipChange>> {
        let change = self.changes.get_mut(at)?.take()?;
        self.by_member.remove(&Member(change.info.clone()));
        self.holes += 1;
        Some(change)
    }

    /// Compacts the list once it has more empty places than changes.
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
        let (topics, charges) = (HashMap::new(), HashMap::new());
        Self { rates, topics, charges, next_ms: None, next_sweep_ms: 0, bytes: 0 }
    }

    /// When the next change may be due.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
            + self.topics.capacity() * size_of::<(Slot, Waiting)>()
            + self.charges.capacity() * (size_of::<(Whose, u64)>() + 32)
    }

    /// Adds a change. `Err` if too many wait. The first join after a quiet interval is due immediately. A leave waits,
    /// because a session that resubscribes is back in a moment: then neither is sent.
    pub(super) fn take(&mut self, slot: Slot, change: &Arc<MembershipChange>, now_ms: u64) -> Result<(), ()> {
        let due_ms = if change.joined { now_ms } else { now_ms + MEMBERSHIP_EVERY_MS };
        let waiting = self.topics.entry(slot).or_insert_with(|| Waiting::new(due_ms));
        let member = Member(change.info.clone());
        if let Some(at) = waiting.by_member.get(&member).copied() {
            // The waiting one is the opposite change, or a repetition.
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

    /// Drops the changes of a topic. Its slot will be reused, and the next topic's subscribers must not see them.
    pub(super) fn forget(&mut self, slot: Slot) {
        if let Some(waiting) = self.topics.remove(&slot) {
            self.bytes -= waiting.changes.iter().flatten().map(|change| bytes_of(change)).sum::<usize>();
        }
    }

    /// Sends the changes that are due and within the rates. `send` sends one and returns its bytes. Returns the number
    /// of topics that had to wait for a rate.
    pub(super) fn send_due(&mut self, now_ms: u64, mut send: impl FnMut(Slot, &MembershipChange) -> usize) -> u64 {
        if self.next_ms.is_none_or(|next_ms| next_ms > now_ms) {
            return 0;
        }
        let (now_ns, rates, mut held_back) = (now_ms * 1_000_000, self.rates, 0);
        let (charges, bytes) = (&mut self.charges, &mut self.bytes);
        self.topics.retain(|slot, waiting| {
            if waiting.due_ms > now_ms {
                return true;
            }
            if waiting.len() == 0 {
                // Kept while its charge or interval still limits the next change.
                waiting.due_ms = (waiting.used_ns / 1_000_000 + 1).max(waiting.quiet_ms);
                return waiting.due_ms > now_ms;
            }
            // The changes of one session are sent in order: its old `info` leaves before the new one joins.
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
                let used_ns = charges.entry(Whose::of(&change.info)).or_default();
                let user_ns = rates.user.wait_ns(*used_ns, now_ns);
                if user_ns > 0 {
                    wait_ns = Some(wait_ns.map_or(user_ns, |wait_ns| wait_ns.min(user_ns)));
                    passed_over.insert(change.info.client.clone());
                    continue;
                }
                waiting.take(at);
                *bytes -= bytes_of(&change);
                let sent = send(*slot, &change) as u64;
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
            self.charges.retain(|_, used_ns| !Rate::is_unused(*used_ns, now_ns));
            self.charges.shrink_to(64);
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

    /// The changes sent at this time.
    fn sent(memberships: &mut Memberships, now_ms: u64) -> Vec<(Slot, usize, bool)> {
        let mut sent = Vec::new();
        memberships.send_due(now_ms, |slot, change| {
            sent.push((slot, change.info.client.parse().unwrap(), change.joined));
            1
        });
        sent
    }

    proptest! {
        /// Clients join and leave at random: watchers end with the true list, see each client at most once per
        /// interval, and get no more bytes than the limit.
        #[test]
        fn watchers_end_with_the_true_list(
            steps in prop::collection::vec((0usize..6, 0u64..150), 1..200),
            bytes in prop::sample::select(vec![1u64, 1_000]),
        ) {
            const PER_SECOND: u64 = 2_000;
            const BURST: u64 = 3_000;
            let mut memberships =
                Memberships::new(Rates { topic: Rate::new(PER_SECOND, BURST), user: Rate::new(PER_SECOND / 2, BURST / 2) });
            let (mut now_ms, mut sent) = (0, 0);
            let (mut there, mut seen, mut times) = ([false; 6], [false; 6], [0u64; 6]);
            let mut receive = |change: &MembershipChange, seen: &mut [bool; 6]| {
                let client: usize = change.info.client.parse().unwrap();
                assert_ne!(seen[client], change.joined, "a join was sent twice");
                seen[client] = change.joined;
                times[client] += 1;
                sent += bytes;
                usize::try_from(bytes).unwrap()
            };
            // Two of the clients share one user.
            let user = |client: usize| if client < 2 { "ann" } else { "" };
            for (client, ms) in steps {
                now_ms += ms;
                memberships.send_due(now_ms, |_, change| receive(change, &mut seen));
                there[client] = !there[client];
                memberships.take(Slot(1), &shown(client, user(client), "", there[client]), now_ms).unwrap();
                memberships.send_due(now_ms, |_, change| receive(change, &mut seen));
            }
            while let Some(next_ms) = memberships.next_ms() {
                now_ms = next_ms;
                memberships.send_due(now_ms, |_, change| receive(change, &mut seen));
            }
            prop_assert_eq!(there, seen);
            prop_assert!(times.iter().all(|n| *n <= now_ms / MEMBERSHIP_EVERY_MS + 1));
            prop_assert!(sent <= BURST + PER_SECOND * now_ms / 1_000 + bytes);
            prop_assert_eq!((memberships.bytes, memberships.topics.len()), (0, 0));
        }
    }

    /// The changes of a user with many sessions are limited; another user's join is sent immediately.
    #[test]
    fn one_users_changes_leave_the_others_their_rate() {
        let rates = Rates { topic: Rate::new(10_000, 40_000), user: Rate::new(1_000, 2_000) };
        let mut memberships = Memberships::new(rates);
        let (mut sent, mut now_ms) = (Vec::new(), 0);
        for n in 0..400 {
            now_ms += 25;
            let (client, joined) = (n % 40, n / 40 % 2 == 0);
            memberships.take(Slot(1), &shown(client, "eve", "", joined), now_ms).unwrap();
            if n == 300 {
                memberships.take(Slot(1), &shown(99, "ann", "", true), now_ms).unwrap();
            }
            memberships.send_due(now_ms, |_, change| {
                sent.push((now_ms, change.info.user.clone()));
                100
            });
        }
        let of = |user: &str| sent.iter().filter(|(_, of)| of == user).collect::<Vec<_>>();
        assert!(of("eve").len() <= 20 + usize::try_from(now_ms / 100).unwrap() + 1, "{}", of("eve").len());
        assert_eq!(of("ann").len(), 1);
        assert!(of("ann")[0].0 <= 301 * 25 + 2 * MEMBERSHIP_EVERY_MS, "{:?}", of("ann"));
    }

    /// A session whose `info` changes leaves with the old one and joins with the new one, in this order, even if the
    /// user changes and the new user's rate has room.
    #[test]
    fn a_sessions_new_user_is_shown_by_a_leave_and_a_join() {
        let mut memberships = unlimited();
        memberships.take(Slot(1), &shown(1, "", "1", true), 0).unwrap();
        assert_eq!(sent(&mut memberships, 0), [(Slot(1), 1, true)]);
        for next in [shown(1, "", "1", false), change(2, true), shown(1, "", "2", true), change(2, false)] {
            memberships.take(Slot(1), &next, 10).unwrap();
        }
        assert_eq!(sent(&mut memberships, 10 + MEMBERSHIP_EVERY_MS), [(Slot(1), 1, false), (Slot(1), 1, true)]);
        let mut memberships = Memberships::new(Rates { topic: Rate::new(1_000, 1_000), user: Rate::new(1, 1) });
        memberships.take(Slot(1), &shown(1, "ann", "", true), 0).unwrap();
        assert_eq!(sent(&mut memberships, 0).len(), 1);
        memberships.take(Slot(1), &shown(1, "ann", "", false), 300).unwrap();
        memberships.take(Slot(1), &shown(1, "bob", "", true), 300).unwrap();
        assert_eq!(sent(&mut memberships, 600), [], "the rate of ann is used up for a second");
        assert_eq!(sent(&mut memberships, 1_100), [(Slot(1), 1, false), (Slot(1), 1, true)]);
    }

    /// A session that unsubscribes and resubscribes immediately is not reported as gone.
    #[test]
    fn a_member_that_is_back_in_a_moment_has_not_left() {
        let mut memberships = unlimited();
        for (joined, ms) in [(false, 0), (true, 20), (false, 50), (true, 100)] {
            memberships.take(Slot(1), &change(1, joined), ms).unwrap();
            assert_eq!(sent(&mut memberships, ms), []);
        }
        assert_eq!(sent(&mut memberships, MEMBERSHIP_EVERY_MS), []);
        memberships.take(Slot(1), &change(1, false), 1_000).unwrap();
        assert_eq!(sent(&mut memberships, 1_000), []);
        assert_eq!(sent(&mut memberships, 1_000 + MEMBERSHIP_EVERY_MS), [(Slot(1), 1, false)], "the leave is sent");
    }

    #[test]
    fn a_topic_gets_no_changes_of_the_earlier_one_in_its_slot() {
        let mut memberships = unlimited();
        memberships.take(Slot(1), &change(0, true), 0).unwrap();
        assert_eq!(sent(&mut memberships, 0).len(), 1);
        memberships.take(Slot(1), &change(1, true), 10).unwrap();
        memberships.forget(Slot(1));
        memberships.take(Slot(1), &change(2, true), 20).unwrap();
        assert_eq!(sent(&mut memberships, 20), [(Slot(1), 2, true)], "another topic, and quiet");
        assert_eq!(sent(&mut memberships, 20 + MEMBERSHIP_EVERY_MS), []);
    }

    #[test]
    fn waiting_changes_are_limited() {
        let mut memberships = unlimited();
        let kept = (0..2 * MEMBERSHIP_WAITING_MAX).filter(|n| memberships.take(Slot(1), &change(*n, true), 0).is_ok());
        assert_eq!(kept.count(), MEMBERSHIP_WAITING_MAX);
        assert!(memberships.bytes > MEMBERSHIP_WAITING_MAX * CHANGE_BYTES);
        memberships.forget(Slot(1));
        assert_eq!(memberships.bytes, 0);
        // The total of all topics is limited, too; a change that cancels another is always accepted.
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
