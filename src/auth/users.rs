//! Sessions by user, and how many each user may have.

use std::sync::Arc;

use dashmap::DashMap;

use super::seats::Seats;
use super::{Identity, TokenError};
use crate::rate::{Shared, Sweep};

/// Counts sessions by the `sub` of their tokens.
#[derive(Debug)]
pub struct Users {
    /// Places of sessions; `None` without a limit.
    seats: Option<Arc<Seats>>,
    /// Bytes that the sessions of each user have requested. The debt outlives the sessions.
    asked: DashMap<Arc<str>, Arc<Shared>>,
    sweep: Sweep,
}

/// Number of users from which on those without sessions and debts are forgotten.
const SWEEP_AT: usize = 16_384;

impl Users {
    /// Each user may have this many; 0 means no limit.
    pub fn new(sessions_max: usize) -> Arc<Self> {
        let seats = (sessions_max > 0).then(|| Seats::new(sessions_max));
        Arc::new(Self { seats, asked: DashMap::new(), sweep: Sweep::new(SWEEP_AT) })
    }

    /// Gives a session a place among its user's: the one that it holds, if the user is the same.
    /// Without a limit, and for tokens without a user, none is needed.
    ///
    /// # Errors
    /// The user has as many sessions as allowed.
    pub fn seat(&self, identity: &mut Identity, held: Option<&Identity>) -> Result<(), TokenError> {
        if identity.user.is_empty() {
            return Ok(());
        }
        identity.asked = self.asked(&identity.user);
        let Some(seats) = &self.seats else { return Ok(()) };
        let kept = held.and_then(|held| held.seat.as_ref()).filter(|seat| seat.is_of(&identity.user));
        identity.seat = Some(match kept {
            Some(seat) => seat.clone(),
            None => seats.take(&identity.user).ok_or(TokenError::TooManySessions(seats.max()))?,
        });
        Ok(())
    }

    /// Bytes that the user's sessions have requested together.
    pub fn asked(&self, user: &str) -> Arc<Shared> {
        if self.sweep.is_due(self.asked.len()) {
            self.asked.retain(|_, asked| Arc::strong_count(asked) > 1 || !asked.is_unused());
        }
        self.asked.entry(user.into()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(user: &str) -> Identity {
        Identity { user: user.into(), ..Identity::default() }
    }

    #[test]
    fn the_sessions_of_a_user_ask_together() {
        let users = Users::new(0);
        let seated = |user: &str| {
            let mut identity = identity(user);
            users.seat(&mut identity, None).unwrap();
            identity.asked
        };
        let (first, second, other) = (seated("ann"), seated("ann"), seated("bob"));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        let rate = crate::rate::Rate::new(1_000, 1_000);
        first.charge(rate, 1_000_000);
        drop((first, second));
        assert!(seated("ann").wait_ns(rate) > 0, "a user that comes back owes what it owed");
        assert!(!Arc::ptr_eq(&seated(""), &seated("")));
    }

    #[test]
    fn seats_are_counted_by_user_and_given_back() {
        let users = Users::new(2);
        let seated = |user: &str, held: Option<&Identity>| {
            let mut identity = identity(user);
            users.seat(&mut identity, held).map(|()| identity)
        };
        let (first, second) = (seated("ann", None).unwrap(), seated("ann", None).unwrap());
        assert_eq!(seated("ann", None), Err(TokenError::TooManySessions(2)));
        assert!(seated("bob", None).is_ok() && seated("", None).is_ok());
        // A new token of the same session takes no other place, and keeps it when the old one is
        // gone.
        let renewed = seated("ann", Some(&first)).unwrap();
        drop(first);
        assert!(seated("ann", None).is_err());
        // A token of another user does not.
        let other = seated("bob", Some(&second)).unwrap();
        drop(second);
        assert!(seated("ann", None).is_ok());
        drop((renewed, other));
        assert!(users.seats.as_ref().unwrap().are_free());
    }
}
