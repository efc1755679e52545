//! `rpc`: a call of something behind this server. The backend answers.

use bytes::Bytes;

use super::backend_request;
use crate::hub::event::Request;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::protocol::{CommandId, Op, Refusal};

/// Carries the command out.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: CommandId, method: String, data: Bytes) {
    match check(shard, index, method.len() + data.len()) {
        Ok(()) => apply(shard, index, id, method, data),
        Err(refusal) => shard.refuse(index, &id, Op::Rpc, &refusal),
    }
}

fn check(shard: &Shard, index: SessionIndex, bytes: usize) -> Result<(), Refusal> {
    if shard.config.rpc.endpoint.is_none() {
        return Err(Refusal::new(501, "no calls are configured (rpc.endpoint)"));
    }
    backend_request::check_room(shard, index, bytes)
}

fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, method: String, data: Bytes) {
    backend_request::await_answer(shard, index);
    let id_of_shard = shard.id;
    let Some(asked) = shard.allowance(index) else { return };
    let Some(session) = shard.sessions.get_mut(index) else { return };
    let client = session.client.as_ref().map(|c| c.id.to_string()).unwrap_or_default();
    let user = session.identity.as_ref().map(|i| i.user.clone()).unwrap_or_default();
    let (session, dialect) = (session.key(index), session.output.dialect.centrifuge());
    debug_assert!(dialect.is_some(), "`plain` has no such command");
    let Some(dialect) = dialect else { return };
    shard.requests.send(Request::Call { shard: id_of_shard, session, dialect, id, client, user, method, data, asked });
}
