//! What a user may make the server send: bytes of answers and of states (not of deltas), of which the sessions of one user
//! have one allowance, and those of one address that name no user one beside their own. Answers are charged once it is known
//! how many bytes they are; until the debt is paid back, the next is refused. States and missed deltas of subscribes are not
//! refused: they wait.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Limits;
use crate::limits::REPLY_BYTES_PER_ADDRESS_BURST_S;
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
    pub(super) own: Arc<Shared>,
    /// By all sessions of its address that name no user, where that is counted.
    pub(super) address: Option<Arc<Shared>>,
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
    pub(super) fn reserve(&self, answers: Answers, bytes: usize) -> u64 {
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
