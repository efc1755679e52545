//! `auth` and `refresh`: another token. Commands behind it wait until the token is checked, because it
//! decides whether they are allowed.

use super::token_texts::{retry, ttl_s};
use crate::auth::{Identity, TokenError};
use crate::hub::event::{Purpose, Request};
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::session::Deferred;
use crate::hub::shard::shard::Shard;
use crate::protocol::{CommandId, Op, Refusal};
use crate::wire::close::CloseReason;

/// Carries out `auth`.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: CommandId, token: String) {
    match check(shard, &token) {
        Ok(()) => apply(shard, index, id, Purpose::Auth, token),
        Err(refusal) => shard.refuse(index, &id, Op::Auth, &refusal),
    }
}

/// Carries out `refresh`, which prolongs a session.
pub(super) fn run_refresh(shard: &mut Shard, index: SessionIndex, id: CommandId, token: String) {
    match check(shard, &token) {
        Ok(()) => apply(shard, index, id, Purpose::Refresh, token),
        Err(refusal) => shard.refuse(index, &id, Op::Refresh, &refusal),
    }
}

fn check(shard: &Shard, token: &str) -> Result<(), Refusal> {
    shard.no_room_under_way(token.len()).map_or(Ok(()), Err)
}

/// Asks the control plane to check the token.
fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, purpose: Purpose, token: String) {
    let (id_of_shard, now_ms) = (shard.id, shard.clock.now_ms);
    let Some(session) = shard.sessions.get_mut(index) else { return };
    let key = session.key(index);
    session.deferred = Some(Box::new(Deferred::new(true, now_ms)));
    let held = session.identity.clone();
    shard.requests.send(Request::Authenticate { shard: id_of_shard, session: key, id, purpose, token, held });
}

/// Replies to `auth`, `refresh` or `connect` once the token is checked.
pub(in crate::hub::shard) fn reply(
    shard: &mut Shard,
    key: SessionId,
    id: CommandId,
    purpose: Purpose,
    result: Result<Box<Identity>, TokenError>,
) {
    let now_ms = shard.clock.unix_ms;
    let Some(session) = shard.sessions.by_id(key).filter(|s| s.is_live()) else { return };
    let (dialect, index) = (session.output.dialect, key.index);
    let same_user = match (&session.identity, &result) {
        (Some(old), Ok(new)) => old.user == new.user,
        _ => true,
    };
    match (purpose, result) {
        (Purpose::Auth, Ok(identity)) => {
            let deferred = session.deferred.take();
            shard.valid(index);
            shard.send(index, dialect.done(&id, Op::Auth));
            shard.identify(index, *identity);
            shard.replay(key, deferred);
        }
        // It may come back, with the same token.
        (Purpose::Auth | Purpose::Connect, Err(TokenError::TooManySessions(_))) => {
            shard.close(index, CloseReason::TooManySessions)
        }
        // Nothing is wrong with the token as far as is known: the session stays what it was.
        (Purpose::Auth, Err(error)) if error.is_temporary() => {
            let deferred = session.deferred.take();
            shard.refuse(index, &id, Op::Auth, &Refusal::new(503, error.to_string()));
            shard.replay(key, deferred);
        }
        (Purpose::Auth, Err(error)) => {
            session.deferred = None;
            shard.refuse(index, &id, Op::Auth, &Refusal::new(401, error.to_string()));
            shard.close_for_token(index, &error.fault());
        }
        (Purpose::Connect, Ok(identity)) => {
            let items = session.deferred.as_mut().map(|d| d.take_items()).unwrap_or_default();
            shard.identify(index, *identity);
            shard.begin_session(index, id, items);
        }
        // Its client gets a new token and comes again, on this socket or another.
        (Purpose::Connect, Err(error)) if error == TokenError::Expired || error.is_temporary() => {
            if !shard.token_failed(index, &error) {
                shard.refuse_connect(index, &id, &retry(&error));
            }
        }
        (Purpose::Refresh, Ok(identity)) if same_user => {
            let ttl_s = ttl_s(identity.expires_s, now_ms);
            let deferred = session.deferred.take();
            let client = session.client.as_ref().map(|c| c.id.to_string()).unwrap_or_default();
            if let Some(centrifuge) = dialect.centrifuge() {
                shard.send(index, centrifuge.refreshed(&id, &client, ttl_s));
            }
            shard.identify(index, *identity);
            shard.replay(key, deferred);
        }
        (Purpose::Refresh, Err(error)) if error == TokenError::Expired || error.is_temporary() => {
            let deferred = session.deferred.take();
            shard.refuse(index, &id, Op::Refresh, &retry(&error));
            if !shard.token_failed(index, &error) {
                shard.replay(key, deferred);
            }
        }
        (Purpose::Connect | Purpose::Refresh, Err(error)) => shard.close_for_token(index, &error.fault()),
        (Purpose::Refresh, Ok(_)) => shard.close_for_token(index, "it is another user's (sub) than the session"),
    }
}
