//! `history`, `presence` and `publish`: what is asked about a topic beyond deliveries, and answered beyond the hub.

use crate::auth::names_its_users;
use crate::config::{Action, PayloadForm};
use crate::hub::event::{Ask, Request};
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::shard::shard::Shard;
use crate::limits::PENDING_COMMANDS_MAX;
use crate::name::TopicName;
use crate::protocol::{CommandId, Dialect, Op, Refusal};
use crate::topic::{Payload, PayloadError};
use bytes::Bytes;
use std::borrow::Cow;

impl Shard {
    /// Asks for something about a topic beyond deliveries, if the session may have it.
    pub(in crate::hub::shard) fn ask_about(
        &mut self,
        index: SessionIndex,
        id: CommandId,
        op: Op,
        topic: TopicName,
        action: Action,
        ask: Ask,
    ) {
        let subscribed = self.fanout.topics.find(&topic).is_some_and(|slot| self.is_subscribed(index, slot));
        let shard = self.id;
        let denied = self.not_allowed(index, &topic);
        let named = names_its_users(&self.config, &topic);
        let options = self.config.namespace(topic.namespace());
        let off = match action {
            Action::Presence if !options.presence => Some("the namespace has no presence"),
            Action::History if options.history_size == 0 => Some("the namespace has no history"),
            _ => None,
        };
        let with_token = self.sessions.get(index).is_some_and(|s| s.identity.is_some());
        let allowed = options.allows(action, with_token, subscribed);
        let refusal = match denied {
            Some(denied) if denied.code == Refusal::UNKNOWN_TOPIC => Some(denied),
            _ if off.is_some() => off.map(|reason| Refusal::new(501, reason)),
            // What a namespace opens to all does not open what is for some by its name.
            Some(denied) if named && !subscribed => Some(denied),
            _ if !allowed || !(with_token || self.config.access.anonymous) => {
                Some(Refusal::new(403, "the namespace does not allow it"))
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.refuse(index, &id, op, &refusal.about(topic.as_str()));
            return;
        }
        let bytes = if let Ask::Publish(payload) = &ask { payload.bytes().len() } else { 0 };
        if let Some(refusal) = self.take_turn(index, bytes) {
            self.refuse(index, &id, op, &refusal);
            return;
        }
        let Some(asked) = self.allowance(index) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let (session, dialect) = (session.key(index), session.output.dialect.centrifuge());
        debug_assert!(dialect.is_some(), "`plain` has no such command");
        let Some(dialect) = dialect else { return };
        self.requests.send(Request::Topic { shard, session, dialect, id, topic, ask, asked });
    }

    /// A client hands in a delta.
    pub(in crate::hub::shard) fn publish(&mut self, index: SessionIndex, id: CommandId, topic: TopicName, data: Bytes) {
        let Some(dialect) = self.sessions.get_mut(index).map(|session| session.output.dialect) else { return };
        let (form, most) = (self.config.namespace(topic.namespace()).payload, self.config.limits.delta_bytes);
        let payload = if form == PayloadForm::Bytes && dialect != Dialect::CentrifugeProtobuf {
            // As such a client is sent them.
            serde_json::from_slice::<Cow<'_, str>>(&data)
                .map_err(|_| PayloadError::NotBase64)
                .and_then(|text| Payload::from_base64(&text, most, form))
        } else {
            Payload::read(data, most, form)
        };
        match payload {
            Ok(payload) => self.ask_about(index, id, Op::Publish, topic, Action::Publish, Ask::Publish(payload)),
            Err(error) => {
                let refusal = Refusal::new(400, error.to_string()).about(topic.as_str());
                self.refuse(index, &id, Op::Publish, &refusal);
            }
        }
    }

    /// Counts a command with so many bytes of its own that is answered beyond the hub; why not, if it cannot be.
    pub(super) fn take_turn(&mut self, index: SessionIndex, bytes: usize) -> Option<Refusal> {
        let full = self.no_room_under_way(bytes);
        let too_many = || Refusal::new(429, "too many commands are waiting for answers");
        let Some(client) = self.sessions.get_mut(index).and_then(|s| s.client.as_mut()) else {
            return Some(too_many());
        };
        if full.is_none() && client.pending >= PENDING_COMMANDS_MAX {
            return Some(too_many());
        }
        client.pending += u16::from(full.is_none());
        full
    }

    /// The answer of something beyond the hub.
    pub(in crate::hub::shard) fn answered(&mut self, key: SessionId, reply: Bytes) {
        let Some(session) = self.sessions.by_id(key) else { return };
        if let Some(client) = &mut session.client {
            client.pending = client.pending.saturating_sub(1);
        }
        if session.is_live() {
            self.send(key.index, reply);
        }
    }
}
