//! What REST tells of topics' states counts in the same allowances as what sessions ask for: of a user, or else of an address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;

use super::{State, failure_for};
use crate::auth::Identity;
use crate::hub::Answers;
use crate::rate::{Rate, Shared};

/// An allowance of bytes, and what was used of it.
pub(super) struct Budget {
    asked: Arc<Shared>,
    rate: Rate,
    is_users: bool,
}

impl Budget {
    /// That of a reader; nothing where none is limited.
    pub(super) fn of(state: &State, reader: Option<&Identity>, client: Option<IpAddr>) -> Option<Self> {
        let answers = Answers::new(&state.config.limits);
        if let Some(user) = reader.map(|identity| identity.user.as_str()).filter(|user| !user.is_empty()) {
            return Some(Self { asked: state.users.asked(user), rate: answers.own, is_users: true });
        }
        let asked = state.addresses.asked(client?)?;
        Some(Self { asked, rate: answers.address, is_users: false })
    }

    /// Why nothing more is answered now: 429, with the time after which something is.
    pub(super) fn refusal(&self, state: &State) -> Option<Response> {
        let wait = Duration::from_nanos(self.asked.wait_ns(self.rate));
        if wait.is_zero() {
            return None;
        }
        let (refused, reason) = match self.is_users {
            true => (&state.metrics.replies_refused, "this user asked for more than limits.reply_bytes_per_second"),
            false => (
                &state.metrics.replies_refused_by_address,
                "the clients of this address asked for more than limits.reply_bytes_per_address",
            ),
        };
        refused.inc();
        Some(failure_for(wait, StatusCode::TOO_MANY_REQUESTS, format!("{reason} allows; see Retry-After")))
    }

    /// So many bytes are answered.
    pub(super) fn charge(&self, bytes: usize) {
        self.asked.charge(self.rate, bytes as u64);
    }
}
