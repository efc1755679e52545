//! Connection tokens that were good a moment ago, by the SHA-256 of their text: clients that poll, or reconnect, show
//! the same one again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::{Identity, TokenError, Tokens};
use crate::limits::{VERIFIED_TOKEN_BYTES_MAX, VERIFIED_TOKENS_MAX};

/// Holds no token, only what it said.
#[derive(Default)]
pub(super) struct Verified {
    known: Mutex<HashMap<[u8; 32], Known>>,
}

struct Known {
    identity: Identity,
    /// Of the keys it was verified with: a key that was withdrawn counts no more.
    generation: u64,
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Verified {
    /// What a token says, if it was verified with the present keys and has not expired since.
    pub(super) fn find(&self, tokens: &Tokens, token: &str) -> Option<Result<Identity, TokenError>> {
        if token.len() > VERIFIED_TOKEN_BYTES_MAX {
            return None;
        }
        let digest = digest(token);
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&digest)?;
        let identity = match known.generation == tokens.generation() && !super::claims::has_expired(&known.identity) {
            true => known.identity.clone(),
            false => {
                all.remove(&digest);
                return None;
            }
        };
        drop(all);
        tokens.refresh_if_old();
        Some(Ok(identity))
    }

    /// Keeps what a good token says. One of those kept before goes, if there are too many.
    pub(super) fn keep(&self, token: &str, identity: &Identity, generation: u64) {
        if token.len() > VERIFIED_TOKEN_BYTES_MAX {
            return;
        }
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= VERIFIED_TOKENS_MAX {
            all.retain(|_, known| known.generation == generation && !super::claims::has_expired(&known.identity));
        }
        if all.len() >= VERIFIED_TOKENS_MAX
            && let Some(one) = all.keys().next().copied()
        {
            all.remove(&one);
        }
        all.insert(digest(token), Known { identity: identity.clone(), generation });
    }
}
