//! What a user may make the server send: bytes of answers and of states (not of deltas), of which the sessions of one user
//! have one allowance, and those of one address that name no user one beside their own. Answers are charged once it is known
//! how many bytes they are; until the debt is paid back, the next is refused. States and missed deltas of subscribes are not
//! refused: they wait.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use super::event::SessionKey;
use super::shard::Shard;
use super::subscribers::{Cursor, SHRINK_FROM, TopicSlot};
use crate::config::Limits;
use crate::limits::{DELAYED_BYTES, REPLY_BYTES_PER_ADDRESS_BURST_S, STATE_BYTES_PER_MISSED};
use crate::protocol::Refusal;
use crate::rate::{Rate, Shared};

/// Bytes of answers, as configured.
#[derive(Debug, Clone, Copy)]
pub struct Answers {
    /// For a user, or a session that names none.
    pub own: Rate,
    /// For an address.
    pub address: Rate,
}

impl Answers {
    /// Of these limits.
    pub fn new(limits: &Limits) -> Self {
        let address = u64::from(limits.reply_bytes_per_address);
        Self {
            own: Rate::new(limits.reply_bytes_per_second.into(), limits.reply_bytes_burst.into()),
            address: Rate::new(address, address * REPLY_BYTES_PER_ADDRESS_BURST_S),
        }
    }
}

/// What was asked for already.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowance {
    /// By the session, or by all of its user's.
    own: Arc<Shared>,
    /// By all sessions of its address that name no user, where that is counted.
    address: Option<Arc<Shared>>,
}

/// Why whoever asked for so much gets nothing more for now.
#[derive(Debug)]
pub(super) struct Exhausted {
    pub(super) refusal: Refusal,
    /// It is its address that did.
    pub(super) by_address: bool,
}

impl Allowance {
    /// Whether nothing more may be asked for now.
    pub(super) fn exhausted(&self, answers: Answers) -> Option<Exhausted> {
        let own = self.own.wait_ns(answers.own);
        let address = self.address.as_ref().map_or(0, |address| address.wait_ns(answers.address));
        let ns = own.max(address);
        let by_address = own == 0;
        (ns > 0).then(|| {
            let ms = Duration::from_nanos(ns).as_millis().max(1);
            let reason = match by_address {
                false => "more was asked for than limits.reply_bytes_per_second allows".to_owned(),
                true => {
                    "the clients of this address asked for more than limits.reply_bytes_per_address allows".to_owned()
                }
            };
            Exhausted { refusal: Refusal::new(429, format!("{reason}: ask again in {ms} ms")), by_address }
        })
    }

    /// So many bytes were given.
    pub(super) fn charge(&self, answers: Answers, bytes: usize) {
        self.own.charge(answers.own, bytes as u64);
        if let Some(address) = &self.address {
            address.charge(answers.address, bytes as u64);
        }
    }

    /// Charges so many bytes. Returns for how long, in ns, whoever asks for them has to wait for them.
    fn reserve(&self, answers: Answers, bytes: usize) -> u64 {
        let own = self.own.reserve(answers.own, bytes as u64);
        self.address.as_ref().map_or(0, |address| address.reserve(answers.address, bytes as u64)).max(own)
    }

    /// So many bytes were charged and not given.
    pub(super) fn give_back(&self, answers: Answers, bytes: usize) {
        self.own.give_back(answers.own, bytes as u64);
        if let Some(address) = &self.address {
            address.give_back(answers.address, bytes as u64);
        }
    }

    /// So many bytes said why nothing was given: what one session is refused is no debt of the others.
    pub(super) fn charge_refused(&self, answers: Answers, bytes: usize) {
        self.own.charge(answers.own, bytes as u64);
    }
}

/// Room in its allowance that a session waits for: it is charged already, so that those that wait take turns.
#[derive(Debug)]
pub(super) struct Reserved {
    asked: Allowance,
    bytes: usize,
    /// By the shard's clock.
    due_ms: u64,
}

/// What sessions made a shard send, and what they wait for.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Of sessions that name no user.
    own: HashMap<SessionKey, Arc<Shared>>,
    /// Of sessions that wait for room in their allowance.
    reserved: HashMap<SessionKey, Reserved>,
}

impl Asking {
    /// Whether a session waits for room in its allowance.
    pub(super) fn waits(&self, key: SessionKey) -> bool {
        !self.reserved.is_empty() && self.reserved.contains_key(&key)
    }

    /// Forgets what was paid back.
    pub(super) fn sweep(&mut self) {
        self.own.retain(|_, own| Arc::strong_count(own) > 1 || !own.is_unused());
        self.own.shrink_to(SHRINK_FROM);
        self.reserved.shrink_to(SHRINK_FROM);
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let own = self.own.capacity() * size_of::<(SessionKey, Arc<Shared>)>() + self.own.len() * SHARED_BYTES;
        own + self.reserved.capacity() * size_of::<(SessionKey, Reserved)>()
    }
}

/// One that several may hold, with its counts.
const SHARED_BYTES: usize = size_of::<Shared>() + 2 * size_of::<usize>();

impl Shard {
    /// What a session has asked for, together with those of the same user or address.
    pub(super) fn asked(&mut self, index: u32) -> Option<Allowance> {
        let session = self.session(index)?;
        if let Some(identity) = session.identity.as_ref().filter(|identity| !identity.user.is_empty()) {
            return Some(Allowance { own: identity.asked.clone(), address: None });
        }
        let (key, address) = (session.key(index), session.permit.as_ref().and_then(|permit| permit.asked()));
        let own = self.asking.own.entry(key).or_default().clone();
        Some(Allowance { own, address })
    }

    /// Why a session may ask for nothing more for now.
    pub(super) fn asks_too_much(&mut self, index: u32) -> Option<Refusal> {
        let answers = Answers::new(&self.config.limits);
        let exhausted = self.asked(index)?.exhausted(answers)?;
        let stat =
            if exhausted.by_address { &self.stats.snapshots_refused_by_address } else { &self.stats.snapshots_refused };
        stat.add(1);
        Some(exhausted.refusal)
    }

    /// A session is sent so many bytes that it asked for.
    pub(super) fn asked_for(&mut self, index: u32, bytes: usize) {
        let answers = Answers::new(&self.config.limits);
        if bytes > 0
            && let Some(asked) = self.asked(index)
        {
            asked.charge(answers, bytes);
        }
    }

    /// A session was charged for so many bytes and did not get them.
    pub(super) fn not_sent(&mut self, index: u32, bytes: usize) {
        let answers = Answers::new(&self.config.limits);
        if bytes > 0
            && let Some(asked) = self.asked(index)
        {
            asked.give_back(answers, bytes);
        }
    }

    /// Charges a session for about so many bytes of state or of missed deltas. `false` if its allowance has no room for them:
    /// it is looked at again when it has, each session of a user or address in its turn.
    pub(super) fn may_get(&mut self, index: u32, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let (answers, now_ms) = (Answers::new(&self.config.limits), self.now_ms);
        let Some(session) = self.session(index) else { return false };
        let (key, holds) = (session.key(index), session.holds.len());
        if let Entry::Occupied(mut reserved) = self.asking.reserved.entry(key) {
            if reserved.get().due_ms > now_ms {
                let due_ms = reserved.get().due_ms;
                self.set_timer(index, due_ms);
                return false;
            }
            let left = reserved.get().bytes.saturating_sub(bytes);
            if left > 0 {
                reserved.get_mut().bytes = left;
                return true;
            }
            let Reserved { asked, bytes: reserved, .. } = reserved.remove();
            asked.charge(answers, bytes.saturating_sub(reserved));
            // Perhaps not what the room was kept for: that asks again, or nothing would wake it.
            self.owed.push(index);
            return true;
        }
        let Some(asked) = self.asked(index) else { return false };
        let Some(exhausted) = asked.exhausted(answers) else {
            asked.charge(answers, bytes);
            return true;
        };
        // Small ones go out together.
        let bytes = bytes.saturating_mul(holds).min(DELAYED_BYTES).max(bytes);
        let due_ms = now_ms + asked.reserve(answers, bytes).div_ceil(1_000_000);
        let stat =
            if exhausted.by_address { &self.stats.states_delayed_by_address } else { &self.stats.states_delayed };
        stat.add(1);
        self.asking.reserved.insert(key, Reserved { asked, bytes, due_ms });
        self.set_timer(index, due_ms);
        false
    }

    /// A session waits for nothing more: what it was charged for that is given back.
    pub(super) fn needs_nothing(&mut self, key: SessionKey) {
        if let Some(Reserved { asked, bytes, .. }) = self.asking.reserved.remove(&key) {
            asked.give_back(Answers::new(&self.config.limits), bytes);
        }
    }

    /// A session is gone.
    pub(super) fn asks_no_more(&mut self, key: SessionKey) {
        self.needs_nothing(key);
        self.asking.own.remove(&key);
    }
}

/// Bytes that a state counts for in the allowance of a session that stands at `start` of a topic. A subscription that lags
/// gets it in place of deltas that it would have been sent anyway: what those take is not counted.
pub(super) fn counted(bytes: usize, start: Cursor, topic: &TopicSlot) -> usize {
    if start == Cursor::NOWHERE {
        return bytes;
    }
    let missed = usize::try_from(topic.last.seq.saturating_sub(start.seq)).unwrap_or(usize::MAX);
    let over = bytes.saturating_sub(missed.saturating_mul(STATE_BYTES_PER_MISSED));
    if over == 0 {
        return 0;
    }
    let from = topic.ring.partition_point(|delta| delta.offset <= start.offset);
    let kept = match topic.ring.len() - from == missed {
        true => topic.ring.range(from..).map(|delta| delta.payload.bytes().len()).sum(),
        // Some are gone: they were as many bytes as are kept, at least.
        false => topic.ring_bytes,
    };
    over.min(bytes.saturating_sub(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_an_address_share_what_is_left_of_its_allowance() {
        let limits = Limits {
            reply_bytes_per_second: 1_024,
            reply_bytes_burst: 10_000,
            reply_bytes_per_address: 1_024,
            ..Limits::default()
        };
        let (answers, address) = (Answers::new(&limits), Arc::new(Shared::default()));
        let session = || Allowance { own: Arc::default(), address: Some(address.clone()) };
        let (one, two) = (session(), session());
        one.charge(answers, 12_000);
        assert!(one.exhausted(answers).is_some_and(|exhausted| !exhausted.by_address));
        assert!(two.exhausted(answers).is_none());
        // What one is refused is its own debt.
        one.charge_refused(answers, 100_000);
        assert!(two.exhausted(answers).is_none());
        two.charge(answers, 6_000);
        let exhausted = session().exhausted(answers).unwrap();
        assert!(exhausted.by_address && exhausted.refusal.reason.contains("reply_bytes_per_address"));
        assert!(Allowance { own: Arc::default(), address: None }.exhausted(answers).is_none());
    }
}
