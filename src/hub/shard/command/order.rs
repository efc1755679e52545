//! Operators' orders.

use crate::hub::event::{Order, Who};
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::pending::Wanted;
use crate::hub::session::Session;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::position::Position;
use crate::protocol::{CommandId, Op, Refused, SubscribeTerms, UNSUBSCRIBED_BY_SERVER};
use crate::wire::close::CloseReason;

impl Shard {
    /// Carries out an operator's order.
    pub(in crate::hub::shard) fn obey(&mut self, who: &Who, order: &Order) {
        let meant = |session: &Session| {
            let id = session.client.as_ref().map(|c| c.id.to_string());
            session.is_live()
                && session.identity.as_ref().map_or("", |i| i.user.as_str()) == who.user
                && who.client.as_ref().is_none_or(|client| id.as_ref() == Some(client))
                && !id.as_ref().is_some_and(|id| who.except.contains(id))
        };
        for SessionId { index, .. } in self.sessions.ids(meant) {
            match order {
                Order::Disconnect { code, reason } => {
                    self.close_with(index, CloseReason::Forced, *code, reason.clone());
                }
                Order::Unsubscribe { topic } => {
                    if let Some(slot) = self.fanout.topics.find(topic) {
                        self.revoke(index, slot, UNSUBSCRIBED_BY_SERVER, "server unsubscribe");
                    }
                }
                Order::Subscribe { topic, since } => self.subscribe_by_server(index, topic, since.as_ref()),
                Order::Refresh { expired: true, .. } => self.close(index, CloseReason::Expired),
                Order::Refresh { expires_s, .. } => {
                    if let Some(identity) = self.sessions.get_mut(index).and_then(|session| session.identity.as_mut()) {
                        std::sync::Arc::make_mut(identity).expires_s = *expires_s;
                    }
                }
            }
        }
    }

    /// Subscribes a session by order of the server, unless it is subscribed.
    fn subscribe_by_server(&mut self, index: SessionIndex, topic: &TopicName, since: Option<&Position>) {
        let subscribed = self.fanout.topics.find(topic).is_some_and(|slot| self.is_subscribed(index, slot));
        // A Centrifuge session has no subscriptions before `connect`.
        if subscribed || self.is_unconnected(index) {
            return;
        }
        let wanted = Wanted { topic: topic.clone(), since: since.cloned(), options: None };
        let (id, terms, refused) = (CommandId::default(), SubscribeTerms::default(), Refused::default());
        self.subscribe(index, id, Op::ServerSubscribe, vec![wanted], terms, refused);
    }
}
