//! `auth` and `refresh`: whose a session is, and what its token gives it.

use super::token_texts::{retry, ttl_s};
use crate::auth::{Identity, TokenError, may_have};
use crate::hub::event::{Purpose, Request};
use crate::hub::index::{GroupId, SessionId, SessionIndex};
use crate::hub::session::Deferred;
use crate::hub::shard::shard::Shard;
use crate::limits::{ANNOUNCED_PER_SECOND, TOKEN_FAILURE_FORGOTTEN};
use crate::protocol::{CommandId, MemberInfo, NOT_ALLOWED_ANY_MORE, Op, Refusal};
use crate::rate::Rate;
use crate::topic::Slot;
use crate::wire::close::CloseReason;

/// Seconds after which one failed token more is forgotten.
const FAILURE_FORGOTTEN_S: u64 = TOKEN_FAILURE_FORGOTTEN.as_secs();

impl Shard {
    /// `auth`: another token. What comes behind it waits until the token has been checked.
    pub(super) fn auth(&mut self, index: SessionIndex, id: CommandId, token: String) {
        if let Some(refusal) = self.no_room_under_way(token.len()) {
            self.refuse(index, &id, Op::Auth, &refusal);
            return;
        }
        let (shard, now_ms) = (self.id, self.clock.now_ms);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let key = session.key(index);
        session.deferred = Some(Box::new(Deferred::new(true, now_ms)));
        let (purpose, held) = (Purpose::Auth, session.identity.clone());
        self.requests.send(Request::Authenticate { shard, session: key, id, purpose, token, held });
    }

    /// Prolongs a session. What comes behind it waits: it is for the new token to say whether it may be done.
    pub(in crate::hub::shard) fn refresh(&mut self, index: SessionIndex, id: CommandId, token: String) {
        if let Some(refusal) = self.no_room_under_way(token.len()) {
            self.refuse(index, &id, Op::Refresh, &refusal);
            return;
        }
        let (shard, now_ms) = (self.id, self.clock.now_ms);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let key = session.key(index);
        session.deferred = Some(Box::new(Deferred::new(true, now_ms)));
        let (purpose, held) = (Purpose::Refresh, session.identity.clone());
        self.requests.send(Request::Authenticate { shard, session: key, id, purpose, token, held });
    }

    /// A token was checked.
    pub(in crate::hub::shard) fn authenticated(
        &mut self,
        key: SessionId,
        id: CommandId,
        purpose: Purpose,
        result: Result<Box<Identity>, TokenError>,
    ) {
        let now_ms = self.clock.unix_ms;
        let Some(session) = self.sessions.by_id(key).filter(|s| s.is_live()) else { return };
        let (dialect, index) = (session.output.dialect, key.index);
        let same_user = match (&session.identity, &result) {
            (Some(old), Ok(new)) => old.user == new.user,
            _ => true,
        };
        match (purpose, result) {
            (Purpose::Auth, Ok(identity)) => {
                let deferred = session.deferred.take();
                self.valid(index);
                self.send(index, dialect.done(&id, Op::Auth));
                self.identify(index, *identity);
                self.replay(key, deferred);
            }
            // It may come back, with the same token.
            (Purpose::Auth | Purpose::Connect, Err(TokenError::TooManySessions(_))) => {
                self.close(index, CloseReason::TooManySessions)
            }
            // Nothing is wrong with the token as far as is known: the session stays what it was.
            (Purpose::Auth, Err(error)) if error.is_temporary() => {
                let deferred = session.deferred.take();
                self.refuse(index, &id, Op::Auth, &Refusal::new(503, error.to_string()));
                self.replay(key, deferred);
            }
            (Purpose::Auth, Err(error)) => {
                session.deferred = None;
                self.refuse(index, &id, Op::Auth, &Refusal::new(401, error.to_string()));
                self.close_for_token(index, &error.fault());
            }
            (Purpose::Connect, Ok(identity)) => {
                let items = session.deferred.as_mut().map(|d| d.take_items()).unwrap_or_default();
                self.identify(index, *identity);
                self.begin_session(index, id, items);
            }
            // Its client gets a new token and comes again, on this socket or another.
            (Purpose::Connect, Err(error)) if error == TokenError::Expired || error.is_temporary() => {
                if !self.token_failed(index, &error) {
                    self.refuse_connect(index, &id, &retry(&error));
                }
            }
            (Purpose::Refresh, Ok(identity)) if same_user => {
                let ttl_s = ttl_s(identity.expires_s, now_ms);
                let deferred = session.deferred.take();
                let client = session.client.as_ref().map(|c| c.id.to_string()).unwrap_or_default();
                if let Some(centrifuge) = dialect.centrifuge() {
                    self.send(index, centrifuge.refreshed(&id, &client, ttl_s));
                }
                self.identify(index, *identity);
                self.replay(key, deferred);
            }
            (Purpose::Refresh, Err(error)) if error == TokenError::Expired || error.is_temporary() => {
                let deferred = session.deferred.take();
                self.refuse(index, &id, Op::Refresh, &retry(&error));
                if !self.token_failed(index, &error) {
                    self.replay(key, deferred);
                }
            }
            (Purpose::Connect | Purpose::Refresh, Err(error)) => self.close_for_token(index, &error.fault()),
            (Purpose::Refresh, Ok(_)) => self.close_for_token(index, "it is another user's (sub) than the session"),
        }
    }

    /// Closes a session for its token, saying what is wrong with it: who has it can read that in it anyway.
    pub(super) fn close_for_token(&mut self, index: SessionIndex, fault: &str) {
        let reason = CloseReason::InvalidToken;
        self.close_with(index, reason, reason.code(), format!("{}: {fault}", reason.reason()));
    }

    /// From now on the session is what this token says: what it does not give ends, and others see its user.
    fn identify(&mut self, index: SessionIndex, identity: Identity) {
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
