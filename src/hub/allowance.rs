//! What a session may ask for: bytes of answers (not of deltas), of which the sessions of one user have one allowance. They
//! are charged once it is known how many they are; until the debt is paid back, the next is refused.

use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::shard::Shard;
use crate::config::Limits;
use crate::protocol::Refusal;
use crate::rate::{Rate, Shared};

/// Bytes of answers, as configured.
pub(super) fn answers(limits: &Limits) -> Rate {
    Rate::new(limits.reply_bytes_per_second.into(), limits.reply_bytes_burst.into())
}

/// The refusal of a session that has used up its allowance; `None` if it may ask.
pub(super) fn refusal(asked: &Shared, answers: Rate) -> Option<Refusal> {
    let wait = Duration::from_nanos(asked.wait_ns(answers));
    let ms = wait.as_millis().max(1);
    let reason = || format!("more was asked for than limits.reply_bytes_per_second allows: ask again in {ms} ms");
    (!wait.is_zero()).then(|| Refusal::new(429, reason()))
}

impl Shard {
    /// What a session has asked for, together with those of the same user.
    pub(super) fn asked(&mut self, index: u32) -> Option<Arc<Shared>> {
        let now_ms = self.now_ms;
        let session = self.session(index)?;
        match &session.identity {
            Some(identity) if !identity.user.is_empty() => Some(identity.asked.clone()),
            _ => Some(session.client.get_or_insert_with(|| Client::new(now_ms)).asked.clone()),
        }
    }

    /// Why a session may ask for nothing more for now.
    pub(super) fn asks_too_much(&mut self, index: u32) -> Option<Refusal> {
        let answers = answers(&self.config.limits);
        let refusal = refusal(&*self.asked(index)?, answers)?;
        self.stats.snapshots_refused.add(1);
        Some(refusal)
    }

    /// A session is sent so many bytes that it asked for.
    pub(super) fn asked_for(&mut self, index: u32, bytes: usize) {
        let answers = answers(&self.config.limits);
        if let Some(asked) = self.asked(index).filter(|_| bytes > 0) {
            asked.charge(answers, bytes as u64);
        }
    }
}
