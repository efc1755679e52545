//! `sub_refresh`: tokens of single subscriptions.

use super::token_texts::{retry, ttl_s};
use crate::auth::{Grant, TokenError, has_ended};
use crate::hub::event::{Request, Shown};
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::session::Special;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, SUBSCRIPTION_EXPIRED};
use crate::topic::Slot;

impl Shard {
    /// Prolongs a subscription.
    pub(in crate::hub::shard) fn sub_refresh(
        &mut self,
        index: SessionIndex,
        id: CommandId,
        topic: TopicName,
        token: String,
    ) {
        if let Some(refusal) = self.no_room_under_way(token.len()) {
            self.refuse(index, &id, Op::SubRefresh, &refusal.about(topic.as_str()));
            return;
        }
        let shard = self.id;
        let slot = self.fanout.topics.find(&topic).filter(|slot| self.is_subscribed(index, *slot));
        let Some(session) = self.sessions.get_mut(index) else { return };
        let key = session.key(index);
        let user = session.identity.as_ref().map(|i| i.user.clone()).unwrap_or_default();
        match slot {
            Some(slot) => {
                let shown = Shown { token, user, session: key };
                self.requests.send(Request::SubRefresh { shard, session: key, id, slot, topic, shown });
            }
            None => self.refuse(index, &id, Op::SubRefresh, &Refusal::new(403, "not subscribed").about(topic.as_str())),
        }
    }

    /// A subscription's new token was checked.
    pub(in crate::hub::shard) fn sub_refreshed(
        &mut self,
        key: SessionId,
        id: &CommandId,
        slot: Slot,
        result: Result<Grant, TokenError>,
    ) {
        let now_ms = self.clock.unix_ms;
        let Some(session) = self.sessions.by_id(key).filter(|s| s.is_live()) else { return };
        let dialect = session.output.dialect;
        match result {
            Ok(grant) => {
                let special = session.client.as_mut().and_then(|c| c.specials.iter_mut().find(|s| s.slot == slot));
                if let Some(special) = special {
                    special.expires_s = grant.expires_s;
                }
                let ttl_s = ttl_s(grant.expires_s, now_ms);
                if let Some(centrifuge) = dialect.centrifuge() {
                    self.send(key.index, centrifuge.sub_refreshed(id, ttl_s));
                }
            }
            Err(error) => {
                let refusal = match error == TokenError::Expired || error.is_temporary() {
                    true => retry(&error),
                    false => Refusal::new(403, error.to_string()),
                };
                self.refuse(key.index, id, Op::SubRefresh, &refusal);
                self.token_failed(key.index, &error);
            }
        }
    }

    /// Subscriptions whose tokens had ended at `until_s` are over; their clients subscribe again with new ones.
    pub(in crate::hub::shard) fn expire_subscriptions(&mut self, index: SessionIndex, until_s: u64) {
        let Some(client) = self.sessions.get_mut(index).and_then(|s| s.client.as_ref()) else { return };
        let over = |s: &&Special| has_ended(s.expires_s, until_s);
        let over: Vec<Slot> = client.specials.iter().filter(over).map(|s| s.slot).collect();
        for slot in over {
            self.revoke(index, slot, SUBSCRIPTION_EXPIRED, "subscription expired");
        }
    }
}
