//! Topic states read over REST count against the same allowances as those that sessions ask for: of
//! the user, or else of the address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;

use crate::auth::Identity;
use crate::http::failure::failure_for;
use crate::http::state::State;
use crate::hub::Answers;
use crate::rate::{Rate, Shared};

/// An allowance of bytes, and the part that was used.
pub(in crate::http) struct Budget {
    asked: Arc<Shared>,
    rate: Rate,
    is_users: bool,
}

impl Budget {
    /// The allowance of a reader; empty if none is limited.
    pub(in crate::http) fn of(state: &State, reader: Option<&Identity>, client: Option<IpAddr>) -> Option<Self> {
        let answers = Answers::new(&state.config.limits);
        if let Some(user) = reader.map(|identity| identity.user.as_str()).filter(|user| !user.is_empty()) {
            return Some(Self { asked: state.clients.users.asked(user), rate: answers.own, is_users: true });
        }
        let asked = state.clients.addresses.asked(client?)?;
        Some(Self { asked, rate: answers.address, is_users: false })
    }

    /// The refusal if the allowance is used up: 429, with the time to retry after.
    pub(in crate::http) fn refusal(&self, state: &State) -> Option<Response> {
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

    /// Charges an answer of so many bytes.
    pub(in crate::http) fn charge(&self, bytes: usize) {
        self.asked.charge(self.rate, bytes as u64);
    }
}
