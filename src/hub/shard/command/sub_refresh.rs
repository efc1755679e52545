//! `sub_refresh`: another token of a single subscription.

use super::token_texts::{retry, ttl_s};
use crate::auth::{Grant, TokenError, has_ended};
use crate::hub::event::{Request, Shown};
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::session::Special;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, SUBSCRIPTION_EXPIRED};
use crate::topic::Slot;

/// Carries the command out.
pub(super) fn run(shard: &mut Shard, index: SessionIndex, id: CommandId, topic: TopicName, token: String) {
    match check(shard, index, &topic, &token) {
        Ok(slot) => apply(shard, index, id, slot, topic, token),
        Err(refusal) => shard.refuse(index, &id, Op::SubRefresh, &refusal.about(topic.as_str())),
    }
}

fn check(shard: &Shard, index: SessionIndex, topic: &TopicName, token: &str) -> Result<Slot, Refusal> {
    if let Some(refusal) = shard.no_room_under_way(token.len()) {
        return Err(refusal);
    }
    let slot = shard.fanout.topics.find(topic).filter(|slot| shard.is_subscribed(index, *slot));
    slot.ok_or_else(|| Refusal::new(403, "not subscribed"))
}

/// Asks the control plane to check the token.
fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, slot: Slot, topic: TopicName, token: String) {
    let Some(session) = shard.sessions.get(index) else { return };
    let session_id = session.key(index);
    let user = session.identity.as_ref().map(|i| i.user.clone()).unwrap_or_default();
    let shown = Shown { token, user, session: session_id };
    shard.requests.send(Request::SubRefresh { shard: shard.id, session: session_id, id, slot, topic, shown });
}

/// Replies once the token is checked.
pub(in crate::hub::shard) fn reply(
    shard: &mut Shard,
    key: SessionId,
    id: &CommandId,
    slot: Slot,
    result: Result<Grant, TokenError>,
) {
    let now_ms = shard.clock.unix_ms;
    let Some(session) = shard.sessions.by_id(key).filter(|s| s.is_live()) else { return };
    let dialect = session.output.dialect;
    match result {
        Ok(grant) => {
            let special = session.client.as_mut().and_then(|c| c.specials.iter_mut().find(|s| s.slot == slot));
            if let Some(special) = special {
                special.expires_s = grant.expires_s;
            }
            let ttl_s = ttl_s(grant.expires_s, now_ms);
            if let Some(centrifuge) = dialect.centrifuge() {
                shard.send(key.index, centrifuge.sub_refreshed(id, ttl_s));
            }
        }
        Err(error) => {
            let refusal = match error == TokenError::Expired || error.is_temporary() {
                true => retry(&error),
                false => Refusal::new(403, error.to_string()),
            };
            shard.refuse(key.index, id, Op::SubRefresh, &refusal);
            shard.token_failed(key.index, &error);
        }
    }
}

impl Shard {
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
