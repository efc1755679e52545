//! Commands that the backend answers: `history`, `presence` and `publish` about a topic, and `rpc`.

use bytes::Bytes;

use crate::auth::names_its_users;
use crate::config::Action;
use crate::hub::event::{Ask, Request};
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::shard::shard::Shard;
use crate::limits::PENDING_COMMANDS_MAX;
use crate::name::TopicName;
use crate::protocol::{CommandId, Refusal};

/// Whether a session may have this action on a topic, with so many bytes of its own.
///
/// # Errors
/// Why not.
pub(super) fn check(
    shard: &mut Shard,
    index: SessionIndex,
    topic: &TopicName,
    action: Action,
    bytes: usize,
) -> Result<(), Refusal> {
    let subscribed = shard.fanout.topics.find(topic).is_some_and(|slot| shard.is_subscribed(index, slot));
    let denied = shard.not_allowed(index, topic);
    let named = names_its_users(&shard.config, topic);
    let options = shard.config.namespace(topic.namespace());
    let off = match action {
        Action::Presence if !options.presence => Some("the namespace has no presence"),
        Action::History if options.history_size == 0 => Some("the namespace has no history"),
        _ => None,
    };
    let with_token = shard.sessions.get(index).is_some_and(|s| s.identity.is_some());
    let allowed = options.allows(action, with_token, subscribed);
    let refusal = match denied {
        Some(denied) if denied.code == Refusal::UNKNOWN_TOPIC => Some(denied),
        _ if off.is_some() => off.map(|reason| Refusal::new(501, reason)),
        // Rights that a namespace gives to all do not open a topic whose name lists its users.
        Some(denied) if named && !subscribed => Some(denied),
        _ if !allowed || !(with_token || shard.config.access.anonymous) => {
            Some(Refusal::new(403, "the namespace does not allow it"))
        }
        _ => None,
    };
    match refusal {
        Some(refusal) => Err(refusal.about(topic.as_str())),
        None => check_room(shard, index, bytes),
    }
}

/// Whether one more command of a session, with so many bytes of its own, may wait for an answer.
///
/// # Errors
/// Why not.
pub(super) fn check_room(shard: &Shard, index: SessionIndex, bytes: usize) -> Result<(), Refusal> {
    let full = shard.no_room_under_way(bytes);
    let pending = shard.sessions.get(index).and_then(|s| s.client.as_ref()).map(|client| client.pending);
    match full {
        None if pending.is_some_and(|pending| pending < PENDING_COMMANDS_MAX) => Ok(()),
        Some(full) if pending.is_some() => Err(full),
        _ => Err(Refusal::new(429, "too many commands are waiting for answers")),
    }
}

/// Asks the backend about a topic.
pub(super) fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, ask: Ask) {
    await_answer(shard, index);
    let id_of_shard = shard.id;
    let Some(asked) = shard.allowance(index) else { return };
    let Some(session) = shard.sessions.get_mut(index) else { return };
    let (session, dialect) = (session.key(index), session.output.dialect.centrifuge());
    debug_assert!(dialect.is_some(), "`plain` has no such command");
    let Some(dialect) = dialect else { return };
    shard.requests.send(Request::Topic { shard: id_of_shard, session, dialect, id, topic, ask, asked });
}

/// Counts a command that waits for an answer.
pub(super) fn await_answer(shard: &mut Shard, index: SessionIndex) {
    if let Some(client) = shard.sessions.get_mut(index).and_then(|s| s.client.as_mut()) {
        client.pending += 1;
    }
}

/// The backend's answer, already in the form of the session's dialect.
pub(in crate::hub::shard) fn reply(shard: &mut Shard, key: SessionId, reply: Bytes) {
    let Some(session) = shard.sessions.by_id(key) else { return };
    if let Some(client) = &mut session.client {
        client.pending = client.pending.saturating_sub(1);
    }
    if session.is_live() {
        shard.send(key.index, reply);
    }
}
