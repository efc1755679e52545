//! The life of a Centrifuge session beside its deliveries: connect, refresh, tokens of subscriptions, who can see it;
//! and what operators order.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::attaching::{Item, Wanted};
use super::backend::Member;
use super::client::{Client, Special};
use super::event::{Ask, Order, Purpose, Request, SessionKey, Shown, Who};
use super::session::{Deferred, Stage};
use super::shard::Shard;
use crate::auth::{Grant, Identity, TokenError, has_ended, may_have, names_its_users};
use crate::config::{Action, PayloadForm};
use crate::limits::{ANNOUNCED_PER_SECOND, PENDING_COMMANDS_MAX, TOKEN_FAILURE_FORGOTTEN};
use crate::name::TopicName;
use crate::position::Position;
use crate::protocol::{
    CommandId, Connected, Dialect, MemberInfo, NOT_ALLOWED_ANY_MORE, Op, Refusal, Refused, SUBSCRIPTION_EXPIRED,
    SubscribeItem, SubscribeTerms, Subscribed, UNSUBSCRIBED_BY_SERVER,
};
use crate::rate::Rate;
use crate::topic::{Payload, PayloadError, Slot};
use crate::wire::close::CloseReason;

/// Seconds after which one failed token more is forgotten.
const FAILURE_FORGOTTEN_S: u64 = TOKEN_FAILURE_FORGOTTEN.as_secs();

impl Shard {
    /// The first command of a Centrifuge session.
    pub(super) fn connect(&mut self, index: u32, id: CommandId, token: Option<String>, mut items: Vec<SubscribeItem>) {
        let (now_ms, shard, anonymous) = (self.now_ms, self.id, self.config.access.anonymous);
        let full = token.as_ref().and_then(|token| self.nothing_more_under_way(token.len()));
        let Some(session) = self.session(index) else { return };
        let client = session.client.get_or_insert_with(|| Client::new(now_ms));
        if std::mem::replace(&mut client.connecting, true) {
            self.close(index, CloseReason::BadRequest);
            return;
        }
        // What comes behind it waits until it has been answered.
        let deferred = session.deferred.insert(Box::new(Deferred::new(true, now_ms)));
        if let Some(refusal) = full {
            self.refuse_connect(index, &id, &refusal);
            return;
        }
        if token.is_some() {
            deferred.keep_items(std::mem::take(&mut items));
        }
        let (key, known) = (session.key(index), session.identity.is_some());
        match token {
            Some(token) => {
                let purpose = Purpose::Connect;
                let held = session.identity.clone();
                self.request(Request::Authenticate { shard, session: key, id, purpose, token, held });
            }
            None if known || anonymous => self.begin_session(index, id, items),
            None => self.close_for_token(index, "a token is needed"),
        }
    }

    /// The session is identified: topics that the server subscribes it to come first, with the reply.
    fn begin_session(&mut self, index: u32, id: CommandId, items: Vec<SubscribeItem>) {
        self.valid(index);
        let Some(session) = self.session(index) else { return };
        let key = session.key(index);
        let topics = session.identity.as_ref().map(|i| i.subscribed.clone()).unwrap_or_default();
        let mut items: HashMap<TopicName, SubscribeItem> =
            items.into_iter().map(|item| (item.topic.clone(), item)).collect();
        let wanted: Vec<Wanted> = topics
            .into_iter()
            .map(|topic| {
                let known = items.remove(&topic);
                let since = known.as_ref().and_then(|item| item.since.clone());
                let options = known.and_then(|item| item.options).map(|mut options| {
                    options.token = None;
                    options
                });
                Wanted { topic, since, options }
            })
            .collect();
        let (terms, refused) = (SubscribeTerms::default(), Refused::default());
        if !self.subscribe(index, id.clone(), Op::Connect, wanted, terms, refused) {
            self.say_connected(index, &id, &[]);
            let deferred = self.session(index).and_then(|s| s.deferred.take());
            self.replay(key, deferred);
        }
    }

    /// The session has not begun: its client may connect again.
    pub(super) fn refuse_connect(&mut self, index: u32, id: &CommandId, refusal: &Refusal) {
        let Some(session) = self.session(index).filter(|s| s.is_live()) else { return };
        session.deferred = None;
        if let Some(client) = &mut session.client {
            client.connecting = false;
        }
        session.stage = Stage::New;
        let key = session.key(index);
        self.refuse(index, id, Op::Connect, refusal);
        self.replay(key, None);
    }

    /// The reply to a connect.
    pub(super) fn say_connected(&mut self, index: u32, id: &CommandId, subs: &[Subscribed<'_>]) {
        let (time_ms, node) = (self.unix_ms, self.node.clone());
        let ping_s = u32::try_from(self.config.limits.ping_interval.as_secs().max(1)).unwrap_or(u32::MAX);
        let Some(session) = self.session(index) else { return };
        let (dialect, ttl_s) = (session.dialect, ttl_s(session.identity.as_ref().and_then(|i| i.expires_s), time_ms));
        let Some(client) = &session.client else { return };
        let client = client.id.to_string();
        let connected = Connected { client: &client, node: &node, ping_s, ttl_s, time_ms, subs };
        self.send(index, dialect.connected(id, &connected));
    }

    /// A token was checked.
    pub(super) fn authenticated(
        &mut self,
        key: SessionKey,
        id: CommandId,
        purpose: Purpose,
        result: Result<Box<Identity>, TokenError>,
    ) {
        let now_ms = self.unix_ms;
        let Some(session) = self.keyed(key).filter(|s| s.is_live()) else { return };
        let (dialect, index) = (session.dialect, key.index);
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
                self.send(index, dialect.refreshed(&id, &client, ttl_s));
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
    fn close_for_token(&mut self, index: u32, fault: &str) {
        let reason = CloseReason::InvalidToken;
        self.close_with(index, reason, reason.code(), &format!("{}: {fault}", reason.reason()));
    }

    /// From now on the session is what this token says: what it does not give ends, and others see its user.
    fn identify(&mut self, index: u32, identity: Identity) {
        let Some(session) = self.session(index) else { return };
        let (identity, dialect) = (std::sync::Arc::new(identity), session.dialect);
        let before = session.identity.replace(identity.clone());
        if before.is_none() {
            self.tokenless.fetch_sub(1, Ordering::Relaxed);
        }
        let user_before = before.as_ref().map_or("", |i| i.user.as_str());
        let other_user = user_before != identity.user;
        let Some(session) = self.session(index) else { return };
        let lanes: Vec<u32> = session.subscriptions.iter().map(|s| s.lane).collect();
        let slots: Vec<Slot> = lanes.into_iter().filter_map(|l| self.subscribers.lane(l).map(|l| l.slot)).collect();
        for slot in slots {
            let Some(topic) = self.subscribers.topic(slot).map(|t| t.name.clone()) else { continue };
            let special = self.session(index).and_then(|s| s.client.as_ref()).and_then(|c| c.special(slot));
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
    fn show_identity(&mut self, index: u32, identity: &Identity) {
        let now_ns = self.now_ns();
        let announced = Rate::new(ANNOUNCED_PER_SECOND, self.config.limits.subscriptions as u64);
        let Some(client) = self.session(index).and_then(|s| s.client.as_mut()) else { return };
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
            let Some(topic) = self.subscribers.topic(slot).map(|topic| topic.name.clone()) else { continue };
            self.request(Request::Left { topic: topic.clone(), member: left });
            self.request(Request::Joined { topic, member: joined });
        }
    }

    /// A token that the session showed was not good. Too many of them, and it is closed: `true`.
    pub(super) fn token_failed(&mut self, index: u32, error: &TokenError) -> bool {
        let failures = u64::from(self.config.limits.token_failures);
        if failures == 0 || error.is_temporary() || *error == TokenError::Expired {
            return false;
        }
        // The last one is the one too many.
        let rate = Rate::new(1, (failures - 1) * FAILURE_FORGOTTEN_S);
        let now_ns = self.now_ns();
        let Some(client) = self.session(index).and_then(|s| s.client.as_mut()) else { return false };
        let over = failures == 1 || !rate.spend(&mut client.failures_used_ns, now_ns, FAILURE_FORGOTTEN_S);
        if over {
            self.close(index, CloseReason::TooManyTokens);
        }
        over
    }

    /// Prolongs a session. What comes behind it waits: it is for the new token to say whether it may be done.
    pub(super) fn refresh(&mut self, index: u32, id: CommandId, token: String) {
        if let Some(refusal) = self.nothing_more_under_way(token.len()) {
            self.refuse(index, &id, Op::Refresh, &refusal);
            return;
        }
        let (shard, now_ms) = (self.id, self.now_ms);
        let Some(session) = self.session(index) else { return };
        let key = session.key(index);
        session.deferred = Some(Box::new(Deferred::new(true, now_ms)));
        let (purpose, held) = (Purpose::Refresh, session.identity.clone());
        self.request(Request::Authenticate { shard, session: key, id, purpose, token, held });
    }

    /// Prolongs a subscription.
    pub(super) fn sub_refresh(&mut self, index: u32, id: CommandId, topic: TopicName, token: String) {
        if let Some(refusal) = self.nothing_more_under_way(token.len()) {
            self.refuse(index, &id, Op::SubRefresh, &refusal.about(topic.as_str()));
            return;
        }
        let shard = self.id;
        let slot = self.subscribers.find(&topic).filter(|slot| self.is_subscribed(index, *slot));
        let Some(session) = self.session(index) else { return };
        let key = session.key(index);
        let user = session.identity.as_ref().map(|i| i.user.clone()).unwrap_or_default();
        match slot {
            Some(slot) => {
                let shown = Shown { token, user, session: key };
                self.request(Request::SubRefresh { shard, session: key, id, slot, topic, shown });
            }
            None => self.refuse(index, &id, Op::SubRefresh, &Refusal::new(403, "not subscribed").about(topic.as_str())),
        }
    }

    /// A subscription's new token was checked.
    pub(super) fn sub_refreshed(
        &mut self,
        key: SessionKey,
        id: &CommandId,
        slot: Slot,
        result: Result<Grant, TokenError>,
    ) {
        let now_ms = self.unix_ms;
        let Some(session) = self.keyed(key).filter(|s| s.is_live()) else { return };
        let dialect = session.dialect;
        match result {
            Ok(grant) => {
                let special = session.client.as_mut().and_then(|c| c.specials.iter_mut().find(|s| s.slot == slot));
                if let Some(special) = special {
                    special.expires_s = grant.expires_s;
                }
                let ttl_s = ttl_s(grant.expires_s, now_ms);
                self.send(key.index, dialect.sub_refreshed(id, ttl_s));
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

    /// Whether a session has a topic.
    pub(super) fn is_subscribed(&self, index: u32, slot: Slot) -> bool {
        self.sessions.get(index as usize).is_some_and(|s| s.place_in(&self.subscribers, slot).is_some())
    }

    /// Keeps what is special about a subscription that begins, and lets it be seen.
    ///
    /// Where the subscription begins again, others are told only of what they see of it that is not the same.
    pub(super) fn note_special(&mut self, index: u32, item: &Item, grant: Option<Grant>) {
        let before = self.session(index).and_then(|s| s.client.as_mut()).and_then(|c| c.take_special(item.slot));
        let before = before.and_then(|special| special.member);
        let with_token = self.session(index).is_some_and(|s| s.identity.is_some());
        let options = self.config.namespace(item.topic.namespace());
        let (presence, announce) = (options.presence, options.join_leave);
        let may_see = options.force_push_join_leave || options.allows(Action::Presence, with_token, true);
        let wants = item.options.as_ref().is_some_and(|o| o.join_leave) && announce && may_see;
        let expires_s = grant.as_ref().and_then(|g| g.expires_s);
        if !presence && !announce && expires_s.is_none() && before.is_none() {
            return;
        }
        let (now_ms, now_ns) = (self.now_ms, self.now_ns());
        let announced = Rate::new(ANNOUNCED_PER_SECOND, self.config.limits.subscriptions as u64);
        let Some(session) = self.session(index) else { return };
        let client = session.client.get_or_insert_with(|| Client::new(now_ms));
        let identity = session.identity.as_deref();
        let info = MemberInfo {
            user: identity.map(|i| i.user.clone()).unwrap_or_default(),
            client: client.id.to_string(),
            conn_info: identity.map(|i| i.info.clone()).unwrap_or_default(),
            chan_info: grant.map(|g| g.info).unwrap_or_default(),
        };
        let unchanged = before.as_ref().filter(|m| *m.info == info);
        // Watchers are told of a session's coming and of its going, or of neither.
        let may_announce = !announce
            || unchanged.is_some_and(|m| m.announce)
            || announced.spend(&mut client.announced_used_ns, now_ns, 1);
        let announce = announce && may_announce;
        let same = unchanged.is_some_and(|m| m.presence == presence && m.announce == announce);
        let shown = || Box::new(Member { info: std::sync::Arc::new(info), presence, announce });
        let member = (presence || announce).then(shown);
        let special = Special { slot: item.slot, expires_s, member: member.clone(), join_leave: wants };
        client.add_special(special);
        self.stats.announcements_withheld.add(u64::from(!may_announce));
        if same {
            return;
        }
        if let Some(member) = before {
            self.request(Request::Left { topic: item.topic.clone(), member });
        }
        if let Some(member) = member {
            self.request(Request::Joined { topic: item.topic.clone(), member });
        }
    }

    /// A subscription that was special has ended.
    pub(super) fn depart(&mut self, special: Special) {
        let Some(member) = special.member else { return };
        let Some(topic) = self.subscribers.topic(special.slot).map(|topic| topic.name.clone()) else { return };
        self.request(Request::Left { topic, member });
    }

    /// Subscriptions whose tokens had ended at `until_s` are over; their clients subscribe again with new ones.
    pub(super) fn expire_subscriptions(&mut self, index: u32, until_s: u64) {
        let Some(client) = self.session(index).and_then(|s| s.client.as_ref()) else { return };
        let over = |s: &&Special| has_ended(s.expires_s, until_s);
        let over: Vec<Slot> = client.specials.iter().filter(over).map(|s| s.slot).collect();
        for slot in over {
            self.revoke(index, slot, SUBSCRIPTION_EXPIRED, "subscription expired");
        }
    }

    /// The server ends a subscription.
    pub(super) fn revoke(&mut self, index: u32, slot: Slot, code: u16, reason: &str) {
        if !self.is_subscribed(index, slot) {
            return;
        }
        let Some(topic) = self.subscribers.topic(slot).map(|t| t.name.clone()) else { return };
        self.seal_topic(slot);
        self.end_subscription(index, slot);
        if let Some(session) = self.session(index).filter(|s| s.is_live()) {
            let frame = session.dialect.unsubscribed(&topic, code, reason);
            self.send(index, frame);
        }
    }

    /// Asks for something about a topic beyond deliveries, if the session may have it.
    pub(super) fn ask_about(&mut self, index: u32, id: CommandId, op: Op, topic: TopicName, action: Action, ask: Ask) {
        let subscribed = self.subscribers.find(&topic).is_some_and(|slot| self.is_subscribed(index, slot));
        let shard = self.id;
        let denied = self.not_allowed(index, &topic);
        let named = names_its_users(&self.config, &topic);
        let options = self.config.namespace(topic.namespace());
        let off = match action {
            Action::Presence if !options.presence => Some("the namespace has no presence"),
            Action::History if options.history_size == 0 => Some("the namespace has no history"),
            _ => None,
        };
        let with_token = self.sessions.get(index as usize).is_some_and(|s| s.identity.is_some());
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
        let Some(asked) = self.asked(index) else { return };
        let Some(session) = self.session(index) else { return };
        let (session, dialect) = (session.key(index), session.dialect);
        self.request(Request::Topic { shard, session, dialect, id, topic, ask, asked });
    }

    /// A client hands in a delta.
    pub(super) fn publish(&mut self, index: u32, id: CommandId, topic: TopicName, data: Bytes) {
        let Some(dialect) = self.session(index).map(|session| session.dialect) else { return };
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

    /// A client calls something behind this server.
    pub(super) fn call(&mut self, index: u32, id: CommandId, method: String, data: Bytes) {
        if self.config.rpc.endpoint.is_none() {
            self.refuse(index, &id, Op::Rpc, &Refusal::new(501, "no calls are configured (rpc.endpoint)"));
            return;
        }
        if let Some(refusal) = self.take_turn(index, method.len() + data.len()) {
            self.refuse(index, &id, Op::Rpc, &refusal);
            return;
        }
        let shard = self.id;
        let Some(asked) = self.asked(index) else { return };
        let Some(session) = self.session(index) else { return };
        let client = session.client.as_ref().map(|c| c.id.to_string()).unwrap_or_default();
        let user = session.identity.as_ref().map(|i| i.user.clone()).unwrap_or_default();
        let (session, dialect) = (session.key(index), session.dialect);
        self.request(Request::Call { shard, session, dialect, id, client, user, method, data, asked });
    }

    /// Counts a command with so many bytes of its own that is answered beyond the hub; why not, if it cannot be.
    fn take_turn(&mut self, index: u32, bytes: usize) -> Option<Refusal> {
        let full = self.nothing_more_under_way(bytes);
        let too_many = || Refusal::new(429, "too many commands are waiting for answers");
        let Some(client) = self.session(index).and_then(|s| s.client.as_mut()) else { return Some(too_many()) };
        if full.is_none() && client.pending >= PENDING_COMMANDS_MAX {
            return Some(too_many());
        }
        client.pending += u16::from(full.is_none());
        full
    }

    /// The answer of something beyond the hub.
    pub(super) fn answered(&mut self, key: SessionKey, reply: Bytes) {
        let Some(session) = self.keyed(key) else { return };
        if let Some(client) = &mut session.client {
            client.pending = client.pending.saturating_sub(1);
        }
        if session.is_live() {
            self.send(key.index, reply);
        }
    }

    /// Carries out what an operator orders.
    pub(super) fn obey(&mut self, who: &Who, order: &Order) {
        let meant = |session: &super::session::Session| {
            let id = session.client.as_ref().map(|c| c.id.to_string());
            session.is_live()
                && session.identity.as_ref().map_or("", |i| i.user.as_str()) == who.user
                && who.client.as_ref().is_none_or(|client| id.as_ref() == Some(client))
                && !id.as_ref().is_some_and(|id| who.except.contains(id))
        };
        let meant = self.sessions.iter().filter(|(_, s)| meant(s));
        let meant: Vec<u32> = meant.map(|(index, _)| u32::try_from(index).unwrap_or(u32::MAX)).collect();
        for index in meant {
            match order {
                Order::Disconnect { code, reason } => self.close_with(index, CloseReason::Forced, *code, reason),
                Order::Unsubscribe { topic } => {
                    if let Some(slot) = self.subscribers.find(topic) {
                        self.revoke(index, slot, UNSUBSCRIBED_BY_SERVER, "server unsubscribe");
                    }
                }
                Order::Subscribe { topic, since } => self.subscribe_by_server(index, topic, since.as_ref()),
                Order::Refresh { expired: true, .. } => self.close(index, CloseReason::Expired),
                Order::Refresh { expires_s, .. } => {
                    if let Some(identity) = self.session(index).and_then(|session| session.identity.as_mut()) {
                        std::sync::Arc::make_mut(identity).expires_s = *expires_s;
                    }
                }
            }
        }
    }

    /// Subscribes a session that did not ask for it, unless it has the topic.
    fn subscribe_by_server(&mut self, index: u32, topic: &TopicName, since: Option<&Position>) {
        let subscribed = self.subscribers.find(topic).is_some_and(|slot| self.is_subscribed(index, slot));
        // A Centrifuge session has no subscriptions before it is connected.
        if subscribed || self.is_unconnected(index) {
            return;
        }
        let wanted = Wanted { topic: topic.clone(), since: since.cloned(), options: None };
        let (id, terms, refused) = (CommandId::default(), SubscribeTerms::default(), Refused::default());
        self.subscribe(index, id, Op::ServerSubscribe, vec![wanted], terms, refused);
    }

    /// Whether a Centrifuge session has not been connected yet.
    pub(super) fn is_unconnected(&self, index: u32) -> bool {
        self.sessions.get(index as usize).is_some_and(|s| s.dialect.is_centrifuge() && s.stage == Stage::New)
    }
}

/// The refusal of a token whose client may do better.
fn retry(error: &TokenError) -> Refusal {
    let code = if error.is_temporary() { 503 } else { Refusal::TOKEN_EXPIRED };
    Refusal::new(code, error.to_string())
}

/// Time after which a client is to bring a new token, in s: that until `exp`, but 1 at least, as 0 is left out of Protobuf.
pub(super) fn ttl_s(expires_s: Option<u64>, now_ms: u64) -> Option<u64> {
    expires_s.map(|at| at.saturating_sub(now_ms / 1_000).max(1))
}
