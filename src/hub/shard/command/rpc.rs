//! `rpc`: a call of something behind this server.

use crate::hub::event::Request;
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::protocol::{CommandId, Op, Refusal};
use bytes::Bytes;

impl Shard {
    /// A client calls something behind this server.
    pub(in crate::hub::shard) fn call(&mut self, index: SessionIndex, id: CommandId, method: String, data: Bytes) {
        if self.config.rpc.endpoint.is_none() {
            self.refuse(index, &id, Op::Rpc, &Refusal::new(501, "no calls are configured (rpc.endpoint)"));
            return;
        }
        if let Some(refusal) = self.take_turn(index, method.len() + data.len()) {
            self.refuse(index, &id, Op::Rpc, &refusal);
            return;
        }
        let shard = self.id;
        let Some(asked) = self.allowance(index) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let client = session.client.as_ref().map(|c| c.id.to_string()).unwrap_or_default();
        let user = session.identity.as_ref().map(|i| i.user.clone()).unwrap_or_default();
        let (session, dialect) = (session.key(index), session.output.dialect.centrifuge());
        debug_assert!(dialect.is_some(), "`plain` has no such command");
        let Some(dialect) = dialect else { return };
        self.requests.send(Request::Call { shard, session, dialect, id, client, user, method, data, asked });
    }
}
