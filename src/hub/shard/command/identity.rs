//! Identities of sessions: what a token changes in its session, and failed tokens.

use crate::auth::{Identity, TokenError, may_have};
use crate::hub::event::Request;
use crate::hub::index::{GroupId, SessionIndex};
use crate::hub::shard::shard::Shard;
use crate::limits::{ANNOUNCED_PER_SECOND, TOKEN_FAILURE_FORGOTTEN};
use crate::protocol::{MemberInfo, NOT_ALLOWED_ANY_MORE};
use crate::rate::Rate;
use crate::topic::Slot;
use crate::wire::close::CloseReason;

/// Seconds after which one failed token more is forgotten.
const FAILURE_FORGOTTEN_S: u64 = TOKEN_FAILURE_FORGOTTEN.as_secs();

impl Shard {
    /// Closes a session for its token, with the fault: its client can read the token anyway.
    pub(super) fn close_for_token(&mut self, index: SessionIndex, fault: &str) {
        let reason = CloseReason::InvalidToken;
        self.close_with(index, reason, reason.code(), format!("{}: {fault}", reason.reason()));
    }

    /// Gives a session this identity. Subscriptions that it does not allow end, and others see its user.
    pub(super) fn identify(&mut self, index: SessionIndex, identity: Identity) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let (identity, dialect) = (std::sync::Arc::new(identity), session.output.dialect);
        let before = session.identity.replace(identity.clone());
        if before.is_none() {
            self.sessions.has_token_now();
        }
        let user_before = before.as_ref().map_or("", |i| i.user.as_str());
        let other_user = user_before != identity.user;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let groups: Vec<GroupId> = session.subscriptions.list.iter().map(|s| s.group).collect();
        let slots: Vec<Slot> = groups.into_iter().filter_map(|l| self.fanout.topics.group(l).map(|l| l.slot)).collect();
        for slot in slots {
            let Some(topic) = self.fanout.topics.topic(slot).map(|t| t.name.clone()) else { continue };
            let special = self.sessions.get_mut(index).and_then(|s| s.client.as_ref()).and_then(|c| c.special(slot));
            let by_its_own_token = special.is_some_and(|s| s.expires_s.is_some());
            let kept = (by_its_own_token && !other_user)
                || (dialect.is_centrifuge() && identity.is_subscribed(&topic))
                || may_have(&self.config, Some(&identity), &topic).is_ok();
            if !kept {
                self.revoke(index, slot, NOT_ALLOWED_ANY_MORE, "the present token does not give it");
            }
        }
        let info_before = before.map(|i| i.info.clone()).unwrap_or_default();
        if other_user || info_before != identity.info {
            self.show_identity(index, &identity);
        }
    }

    /// Shows a session's present user to others: the old one leaves, the new one joins.
    fn show_identity(&mut self, index: SessionIndex, identity: &Identity) {
        let now_ns = self.clock.now_ns();
        let announced = Rate::new(ANNOUNCED_PER_SECOND, self.config.limits.subscriptions as u64);
        let Some(client) = self.sessions.get_mut(index).and_then(|s| s.client.as_mut()) else { return };
        let mut changes = Vec::new();
        for special in &mut client.specials {
            let Some(member) = &mut special.member else { continue };
            let left = member.clone();
            member.announce = member.announce && announced.spend(&mut client.announced_used_ns, now_ns, 1);
            let info = MemberInfo {
                user: identity.user.clone(),
                conn_info: identity.info.clone(),
                client: member.info.client.clone(),
                chan_info: member.info.chan_info.clone(),
            };
            member.info = std::sync::Arc::new(info);
            changes.push((special.slot, left, member.clone()));
        }
        for (slot, left, joined) in changes {
            let Some(topic) = self.fanout.topics.topic(slot).map(|topic| topic.name.clone()) else { continue };
            self.requests.send(Request::Left { topic: topic.clone(), member: left });
            self.requests.send(Request::Joined { topic, member: joined });
        }
    }

    /// A token that the session showed was not good. Too many of them, and it is closed: `true`.
    pub(in crate::hub::shard) fn token_failed(&mut self, index: SessionIndex, error: &TokenError) -> bool {
        let failures = u64::from(self.config.limits.token_failures);
        if failures == 0 || error.is_temporary() || *error == TokenError::Expired {
            return false;
        }
        // The last one is the one too many.
        let rate = Rate::new(1, (failures - 1) * FAILURE_FORGOTTEN_S);
        let now_ns = self.clock.now_ns();
        let Some(client) = self.sessions.get_mut(index).and_then(|s| s.client.as_mut()) else { return false };
        let over = failures == 1 || !rate.spend(&mut client.failures_used_ns, now_ns, FAILURE_FORGOTTEN_S);
        if over {
            self.close(index, CloseReason::TooManyTokens);
        }
        over
    }
}
