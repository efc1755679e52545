//! Connection tokens that were valid a moment ago, by the SHA-256 of their text. Clients that poll
//! or reconnect show the same token again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::{Identity, TokenError, Tokens};
use crate::limits::{VERIFIED_TOKEN_BYTES_MAX, VERIFIED_TOKENS_MAX};

/// Holds identities, but no tokens.
#[derive(Default)]
pub(super) struct Verified {
    all: Mutex<All>,
}

type Digest = [u8; 32];

/// The tokens and their order: at the limit the oldest is removed, without a search.
#[derive(Default)]
struct All {
    known: HashMap<Digest, Known>,
    /// May still list tokens that were removed or replaced; at most [`VERIFIED_TOKENS_MAX`].
    order: VecDeque<(Digest, u64)>,
    /// Tokens kept so far.
    count: u64,
}

impl All {
    fn keep(&mut self, digest: Digest, identity: Identity, generation: u64) {
        while self.order.len() >= VERIFIED_TOKENS_MAX
            && let Some((oldest, number)) = self.order.pop_front()
        {
            if self.known.get(&oldest).is_some_and(|known| known.number == number) {
                self.known.remove(&oldest);
            }
        }
        self.count += 1;
        self.order.push_back((digest, self.count));
        self.known.insert(digest, Known { identity, generation, number: self.count });
    }
}

struct Known {
    /// Its number among all that were kept.
    number: u64,
    identity: Identity,
    /// Generation of the keys that verified it. After a key is withdrawn, it no longer counts.
    generation: u64,
}

fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

impl Verified {
    /// The identity in a token, if the current keys verified it and it has not expired since.
    pub(super) fn find(&self, tokens: &Tokens, token: &str) -> Option<Result<Identity, TokenError>> {
        if token.len() > VERIFIED_TOKEN_BYTES_MAX {
            return None;
        }
        let digest = digest(token);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.known.get(&digest)?;
        let identity = match known.generation == tokens.generation() && !super::claims::has_expired(&known.identity) {
            true => known.identity.clone(),
            false => {
                all.known.remove(&digest);
                return None;
            }
        };
        drop(all);
        tokens.refresh_if_old();
        Some(Ok(identity))
    }

    /// Keeps the identity in a valid token. At the limit, the oldest is removed.
    pub(super) fn keep(&self, token: &str, identity: &Identity, generation: u64) {
        if token.len() > VERIFIED_TOKEN_BYTES_MAX {
            return;
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.keep(digest(token), identity.clone(), generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(user: &str) -> Identity {
        Identity { user: user.into(), ..Identity::default() }
    }

    #[test]
    fn at_the_cap_the_oldest_goes_and_no_other_is_looked_at() {
        let mut all = All::default();
        let flood = 20 * VERIFIED_TOKENS_MAX;
        for n in 0..flood {
            // A token that its client keeps showing stays.
            let again = all.known.contains_key(&digest("mine"));
            if n % 500 == 0 {
                all.keep(digest("mine"), identity("mine"), 1);
            }
            assert!(n == 0 || again, "{n}");
            // The limit on the work of one call: the queue gives up as many as come in, and is
            // never walked.
            let before = all.order.len();
            all.keep(digest(&n.to_string()), identity("flood"), 1);
            assert!(all.order.len() >= before, "{n}: more than one was given up");
            assert!(all.order.len() <= VERIFIED_TOKENS_MAX && all.known.len() <= all.order.len(), "{n}");
        }
        assert!(all.known.contains_key(&digest(&(flood - 1).to_string())) && !all.known.contains_key(&digest("0")));
    }

    #[test]
    fn one_that_was_removed_and_came_again_is_not_given_up_for_its_first_time() {
        let mut all = All::default();
        all.keep(digest("a"), identity("a"), 1);
        all.known.remove(&digest("a"));
        for n in 0..VERIFIED_TOKENS_MAX - 2 {
            all.keep(digest(&n.to_string()), identity("b"), 1);
        }
        all.keep(digest("a"), identity("a"), 2);
        all.keep(digest("last"), identity("b"), 2);
        assert_eq!(all.known.get(&digest("a")).map(|known| known.generation), Some(2));
    }
}
