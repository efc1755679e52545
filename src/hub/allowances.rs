//! The allowances of a shard's sessions, and which sessions wait for room in theirs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::allowance::{Allowance, Answers, Exhausted};
use super::index::{SHRINK_FROM, SessionId};
use super::session::Session;
use crate::limits::DELAYED_BYTES;
use crate::rate::Shared;

/// Bytes of memory of a counter that several sessions share.
const SHARED_BYTES: usize = size_of::<Shared>() + 2 * size_of::<usize>();

/// Room in its allowance that a session waits for. It is charged in advance, so that waiting sessions take turns.
#[derive(Debug)]
struct Reserved {
    allowance: Allowance,
    bytes: usize,
    /// In the shard's time.
    due_ms: u64,
}

/// When a session gets a state or missed deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Now.
    Now,
    /// Now, and this uses up its reservation: the next state must be requested again.
    Last,
    /// Not yet: check again at this time of the shard's clock.
    At(u64),
    /// Not yet, and the session begins to wait: for its own allowance or for that of its address.
    Waits { at_ms: u64, by_address: bool },
}

/// The allowances of a shard's sessions.
#[derive(Debug)]
pub(super) struct Allowances {
    answers: Answers,
    /// Of sessions without a user.
    own: HashMap<SessionId, Arc<Shared>>,
    reserved: HashMap<SessionId, Reserved>,
}

impl Allowances {
    pub(super) fn new(answers: Answers) -> Self {
        Self { answers, own: HashMap::new(), reserved: HashMap::new() }
    }

    /// The allowance that a session shares with other sessions of its user or address.
    pub(super) fn of(&mut self, id: SessionId, session: &Session) -> Allowance {
        if let Some(identity) = session.identity.as_ref().filter(|identity| !identity.user.is_empty()) {
            return Allowance { own: identity.asked.clone(), address: None };
        }
        let address = session.permit.as_ref().and_then(|permit| permit.asked());
        Allowance { own: self.own.entry(id).or_default().clone(), address }
    }

    /// Why a session may request nothing more for now.
    pub(super) fn exhausted(&mut self, id: SessionId, session: &Session) -> Option<Exhausted> {
        let answers = self.answers;
        self.of(id, session).exhausted(answers)
    }

    /// Charges a session for bytes that it requested.
    pub(super) fn charge(&mut self, id: SessionId, session: &Session, bytes: usize) {
        if bytes > 0 {
            let answers = self.answers;
            self.of(id, session).charge(answers, bytes);
        }
    }

    /// Returns bytes that a session was charged for and did not get.
    pub(super) fn give_back(&mut self, id: SessionId, session: &Session, bytes: usize) {
        if bytes > 0 {
            let answers = self.answers;
            self.of(id, session).give_back(answers, bytes);
        }
    }

    /// Charges a session for about `bytes` of state or missed deltas, if its allowance has room. Sessions that wait for
    /// the allowance of one user or address take turns.
    pub(super) fn turn(&mut self, id: SessionId, session: &Session, bytes: usize, now_ms: u64) -> Turn {
        if bytes == 0 {
            return Turn::Now;
        }
        let answers = self.answers;
        if let Entry::Occupied(mut entry) = self.reserved.entry(id) {
            let reserved = entry.get_mut();
            if reserved.due_ms > now_ms {
                return Turn::At(reserved.due_ms);
            }
            if reserved.bytes > bytes {
                reserved.bytes -= bytes;
                return Turn::Now;
            }
            let Reserved { allowance, bytes: reserved, .. } = entry.remove();
            allowance.charge(answers, bytes.saturating_sub(reserved));
            return Turn::Last;
        }
        let allowance = self.of(id, session);
        let Some(Exhausted { by_address, .. }) = allowance.exhausted(answers) else {
            allowance.charge(answers, bytes);
            return Turn::Now;
        };
        // Small states are sent together.
        let lagging = session.subscriptions.lagging.len();
        let bytes = bytes.saturating_mul(lagging).min(DELAYED_BYTES).max(bytes);
        let due_ms = now_ms + allowance.reserve(answers, bytes).div_ceil(1_000_000);
        self.reserved.insert(id, Reserved { allowance, bytes, due_ms });
        Turn::Waits { at_ms: due_ms, by_address }
    }

    /// Whether a session waits for room in its allowance.
    pub(super) fn waits(&self, id: SessionId) -> bool {
        !self.reserved.is_empty() && self.reserved.contains_key(&id)
    }

    /// The session no longer waits: returns what was reserved for it.
    pub(super) fn waits_no_more(&mut self, id: SessionId) {
        if let Some(Reserved { allowance, bytes, .. }) = self.reserved.remove(&id) {
            allowance.give_back(self.answers, bytes);
        }
    }

    /// The session is closed.
    pub(super) fn forget(&mut self, id: SessionId) {
        self.waits_no_more(id);
        self.own.remove(&id);
    }

    /// Removes counters that no longer hold a debt. Called periodically.
    pub(super) fn sweep(&mut self) {
        self.own.retain(|_, own| Arc::strong_count(own) > 1 || !own.is_unused());
        self.own.shrink_to(SHRINK_FROM);
        self.reserved.shrink_to(SHRINK_FROM);
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let own = self.own.capacity() * size_of::<(SessionId, Arc<Shared>)>() + self.own.len() * SHARED_BYTES;
        own + self.reserved.capacity() * size_of::<(SessionId, Reserved)>()
    }
}
