//! What REST tells of topics' states counts in the same allowances as what sessions ask for: of a user, or else of an address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::{State, failure};
use crate::auth::Identity;
use crate::config::Limits;
use crate::limits::REPLY_BYTES_PER_ADDRESS_BURST_S;
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
        let limits = &state.config.limits;
        if let Some(user) = reader.map(|identity| identity.user.as_str()).filter(|user| !user.is_empty()) {
            return Some(Self { asked: state.users.asked(user), rate: of_user(limits), is_users: true });
        }
        let asked = state.addresses.asked(client?)?;
        Some(Self { asked, rate: of_address(limits), is_users: false })
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
        let mut response = failure(StatusCode::TOO_MANY_REQUESTS, format!("{reason} allows; see Retry-After"));
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
        Some(response)
    }

    /// So many bytes are answered.
    pub(super) fn charge(&self, bytes: usize) {
        self.asked.charge(self.rate, bytes as u64);
    }
}

fn of_user(limits: &Limits) -> Rate {
    Rate::new(limits.reply_bytes_per_second.into(), limits.reply_bytes_burst.into())
}

fn of_address(limits: &Limits) -> Rate {
    let address = u64::from(limits.reply_bytes_per_address);
    Rate::new(address, address * REPLY_BYTES_PER_ADDRESS_BURST_S)
}
