//! Limit on the bytes that a user may make the server send in answers and states (not in deltas). All sessions of one
//! user share one allowance; a session without a user has its own and shares one with its address. An answer is charged
//! once its length is known, and the next one is refused until the debt is paid back. States and missed deltas of
//! subscribes are not refused: they wait.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Limits;
use crate::limits::REPLY_BYTES_PER_ADDRESS_BURST_S;
use crate::protocol::Refusal;
use crate::rate::{Rate, Shared};

/// Limits on the bytes of answers, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Answers {
    /// For one user, or for one session without a user.
    pub own: Rate,
    /// For one address.
    pub address: Rate,
}

impl Answers {
    /// Reads the limits from the configuration.
    pub fn new(limits: &Limits) -> Self {
        let address = u64::from(limits.reply_bytes_per_address);
        Self {
            own: Rate::new(limits.reply_bytes_per_second.into(), limits.reply_bytes_burst.into()),
            address: Rate::new(address, address * REPLY_BYTES_PER_ADDRESS_BURST_S),
        }
    }
}

/// What a session has already been charged.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowance {
    /// Of the session, or of all sessions of its user.
    pub(super) own: Arc<Shared>,
    /// Of all sessions of its address without a user, if sessions are counted by address.
    pub(super) address: Option<Arc<Shared>>,
}

/// Why a session gets no more answers for now.
#[derive(Debug)]
pub(super) struct Exhausted {
    pub(super) refusal: Refusal,
    /// The limit of its address was reached, not its own.
    pub(super) by_address: bool,
}

impl Allowance {
    /// Why no further answer may be requested now; `None` if one may.
    pub(super) fn exhausted(&self, answers: Answers) -> Option<Exhausted> {
        let own = self.own.wait_ns(answers.own);
        let address = self.address.as_ref().map_or(0, |address| address.wait_ns(answers.address));
        let ns = own.max(address);
        let by_address = own == 0;
        (ns > 0).then(|| {
            let ms = Duration::from_nanos(ns).as_millis().max(1);
            let reason = match by_address {
                false => "the answers exceed limits.reply_bytes_per_second".to_owned(),
                true => "the answers to clients of this address exceed limits.reply_bytes_per_address".to_owned(),
            };
            Exhausted { refusal: Refusal::new(429, format!("{reason}: try again in {ms} ms")), by_address }
        })
    }

    /// Charges the bytes of an answer that was sent.
    pub(super) fn charge(&self, answers: Answers, bytes: usize) {
        self.own.charge(answers.own, bytes as u64);
        if let Some(address) = &self.address {
            address.charge(answers.address, bytes as u64);
        }
    }

    /// Charges bytes in advance. Returns for how many ns the session must wait for them.
    pub(super) fn reserve(&self, answers: Answers, bytes: usize) -> u64 {
        let own = self.own.reserve(answers.own, bytes as u64);
        self.address.as_ref().map_or(0, |address| address.reserve(answers.address, bytes as u64)).max(own)
    }

    /// Returns bytes that were charged but not sent.
    pub(super) fn give_back(&self, answers: Answers, bytes: usize) {
        self.own.give_back(answers.own, bytes as u64);
        if let Some(address) = &self.address {
            address.give_back(answers.address, bytes as u64);
        }
    }

    /// Charges the bytes of a refusal to the session alone, not to its address: a refused session must not use up the
    /// allowance of others.
    pub(super) fn charge_refused(&self, answers: Answers, bytes: usize) {
        self.own.charge(answers.own, bytes as u64);
    }
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
        // A refusal is charged to its session alone.
        one.charge_refused(answers, 100_000);
        assert!(two.exhausted(answers).is_none());
        two.charge(answers, 6_000);
        let exhausted = session().exhausted(answers).unwrap();
        assert!(exhausted.by_address && exhausted.refusal.reason.contains("reply_bytes_per_address"));
        assert!(Allowance { own: Arc::default(), address: None }.exhausted(answers).is_none());
    }
}
