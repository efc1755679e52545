//! What commands have in common: refusals, and whether a session may have a topic.

use crate::auth::{Denied, may_have};
use crate::hub::index::SessionIndex;
use crate::hub::shard::shard::Shard;
use crate::hub::stage::Stage;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, Refused, Standing};
use crate::topic::Slot;

impl Shard {
    /// Replies that a command is refused, and counts it.
    pub(in crate::hub::shard) fn refuse(&mut self, index: SessionIndex, id: &CommandId, op: Op, refusal: &Refusal) {
        self.stats.commands_refused.add(1);
        if let Some(session) = self.sessions.get_mut(index).filter(|s| s.is_live()) {
            let reply = session.output.dialect.refusal(id, op, refusal);
            self.send(index, reply);
        }
    }

    /// Replies that a command was carried out.
    pub(in crate::hub::shard) fn done(&mut self, index: SessionIndex, id: &CommandId, op: Op) {
        if let Some(session) = self.sessions.get(index) {
            let reply = session.output.dialect.done(id, op);
            self.send(index, reply);
        }
    }

    /// Replies to a command about topics: for which it was carried out, and which were refused.
    pub(in crate::hub::shard) fn answer_topics(
        &mut self,
        index: SessionIndex,
        id: &CommandId,
        op: Op,
        any: bool,
        standings: Option<&[Standing]>,
        refused: &Refused,
    ) {
        self.stats.commands_refused.add(u64::from(!refused.is_empty()));
        if let Some(session) = self.sessions.get_mut(index).filter(|s| s.is_live()) {
            let reply = session.output.dialect.outcome(id, op, any, standings, refused);
            self.send(index, reply);
        }
    }

    /// The client has sent a valid command.
    pub(in crate::hub::shard) fn valid(&mut self, index: SessionIndex) {
        if let Some(session) = self.sessions.get_mut(index)
            && session.output.stage == Stage::New
        {
            session.output.stage = Stage::Open;
        }
    }

    /// Why a session may not subscribe to a topic.
    pub(in crate::hub::shard) fn not_allowed(&mut self, index: SessionIndex, topic: &TopicName) -> Option<Refusal> {
        let identity = self.sessions.get(index)?.identity.as_deref();
        let denied = may_have(&self.config, identity, topic).err()?;
        let refusal = match denied {
            Denied::NoToken => Refusal::new(401, "a token is needed: send {\"op\":\"auth\",\"token\":…} first"),
            Denied::UnknownNamespace => Refusal::new(Refusal::UNKNOWN_TOPIC, denied.to_string()),
            _ => Refusal::new(403, denied.to_string()),
        };
        Some(refusal.about(topic.as_str()))
    }

    /// Whether a Centrifuge session has not sent `connect` yet.
    pub(in crate::hub::shard) fn is_unconnected(&self, index: SessionIndex) -> bool {
        self.sessions.get(index).is_some_and(|s| s.output.dialect.is_centrifuge() && s.output.stage == Stage::New)
    }

    /// Whether a session is subscribed to a topic.
    pub(in crate::hub::shard) fn is_subscribed(&self, index: SessionIndex, slot: Slot) -> bool {
        self.sessions.get(index).is_some_and(|s| s.subscriptions.place_in(&self.fanout.topics, slot).is_some())
    }
}
