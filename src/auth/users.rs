//! Sessions by user, and how many each user may have.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::{Identity, TokenError};
use crate::rate::{Shared, Sweep};

/// Counts sessions by the `sub` of their tokens.
#[derive(Debug)]
pub struct Users {
    sessions: DashMap<Arc<str>, usize>,
    sessions_max: usize,
    /// Bytes that the sessions of each user have requested. The debt outlives the sessions.
    asked: DashMap<Arc<str>, Arc<Shared>>,
    sweep: Sweep,
}

/// Number of users from which on those without sessions and debts are forgotten.
const SWEEP_AT: usize = 16_384;

/// A session's place among its user's. Dropping the last reference frees it.
pub struct Seat {
    users: Arc<Users>,
    user: Arc<str>,
}

impl Users {
    /// Each user may have this many; 0 means no limit.
    pub fn new(sessions_max: usize) -> Arc<Self> {
        Arc::new(Self { sessions: DashMap::new(), sessions_max, asked: DashMap::new(), sweep: Sweep::new(SWEEP_AT) })
    }

    /// Gives a session a place among its user's: the one that it holds, if the user is the same.
    /// Without a limit, and for tokens without a user, none is needed.
    ///
    /// # Errors
    /// The user has as many sessions as allowed.
    pub fn seat(self: &Arc<Self>, identity: &mut Identity, held: Option<&Identity>) -> Result<(), TokenError> {
        if identity.user.is_empty() {
            return Ok(());
        }
        identity.asked = self.asked(&identity.user);
        if self.sessions_max == 0 {
            return Ok(());
        }
        let kept = held.and_then(|held| held.seat.as_ref()).filter(|seat| *seat.user == *identity.user);
        identity.seat = Some(match kept {
            Some(seat) => seat.clone(),
            None => self.admit(&identity.user)?,
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

    fn admit(self: &Arc<Self>, user: &str) -> Result<Arc<Seat>, TokenError> {
        let user: Arc<str> = user.into();
        let mut sessions = self.sessions.entry(user.clone()).or_insert(0);
        if *sessions >= self.sessions_max {
            return Err(TokenError::TooManySessions(self.sessions_max));
        }
        *sessions += 1;
        Ok(Arc::new(Seat { users: self.clone(), user }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut sessions) = self.users.sessions.entry(self.user.clone()) {
            *sessions.get_mut() = sessions.get().saturating_sub(1);
            if *sessions.get() == 0 {
                sessions.remove();
            }
        }
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Seat").field(&self.user).finish()
    }
}

/// The place does not matter when identities are compared.
impl PartialEq for Seat {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Seat {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TopicRules;

    fn identity(user: &str) -> Identity {
        Identity {
            user: user.into(),
            expires_s: None,
            topics: TopicRules::default(),
            info: bytes::Bytes::new(),
            subscribed: Vec::new(),
            asked: Arc::default(),
            seat: None,
        }
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
        assert!(users.sessions.is_empty());
    }
}
