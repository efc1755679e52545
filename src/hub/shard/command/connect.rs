//! `connect`: the first command of a Centrifuge session.

use super::token_texts::ttl_s;
use crate::hub::event::{Purpose, Request};
use crate::hub::index::SessionIndex;
use crate::hub::pending::Wanted;
use crate::hub::session::{Client, Deferred};
use crate::hub::shard::shard::Shard;
use crate::hub::stage::Stage;
use crate::name::TopicName;
use crate::protocol::{CommandId, Connected, Op, Refusal, Refused, SubscribeItem, SubscribeTerms, Subscribed};
use crate::wire::close::CloseReason;
use std::collections::HashMap;

impl Shard {
    /// The first command of a Centrifuge session.
    pub(in crate::hub::shard) fn connect(
        &mut self,
        index: SessionIndex,
        id: CommandId,
        token: Option<String>,
        mut items: Vec<SubscribeItem>,
    ) {
        let (now_ms, shard, anonymous) = (self.clock.now_ms, self.id, self.config.access.anonymous);
        let full = token.as_ref().and_then(|token| self.no_room_under_way(token.len()));
        let Some(session) = self.sessions.get_mut(index) else { return };
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
                self.requests.send(Request::Authenticate { shard, session: key, id, purpose, token, held });
            }
            None if known || anonymous => self.begin_session(index, id, items),
            None => self.close_for_token(index, "a token is needed"),
        }
    }

    /// The session is identified: topics that the server subscribes it to come first, with the reply.
    pub(super) fn begin_session(&mut self, index: SessionIndex, id: CommandId, items: Vec<SubscribeItem>) {
        self.valid(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
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
            let deferred = self.sessions.get_mut(index).and_then(|s| s.deferred.take());
            self.replay(key, deferred);
        }
    }

    /// The session has not begun: its client may connect again.
    pub(in crate::hub::shard) fn refuse_connect(&mut self, index: SessionIndex, id: &CommandId, refusal: &Refusal) {
        let Some(session) = self.sessions.get_mut(index).filter(|s| s.is_live()) else { return };
        session.deferred = None;
        if let Some(client) = &mut session.client {
            client.connecting = false;
        }
        session.output.stage = Stage::New;
        let key = session.key(index);
        self.refuse(index, id, Op::Connect, refusal);
        self.replay(key, None);
    }

    /// The reply to a connect.
    pub(in crate::hub::shard) fn say_connected(
        &mut self,
        index: SessionIndex,
        id: &CommandId,
        subs: &[Subscribed<'_>],
    ) {
        let (time_ms, node) = (self.clock.unix_ms, self.node.clone());
        let ping_s = u32::try_from(self.config.limits.ping_interval.as_secs().max(1)).unwrap_or(u32::MAX);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let ttl_s = ttl_s(session.identity.as_ref().and_then(|i| i.expires_s), time_ms);
        let (Some(dialect), Some(client)) = (session.output.dialect.centrifuge(), &session.client) else { return };
        let client = client.id.to_string();
        let connected = Connected { client: &client, node: &node, ping_s, ttl_s, time_ms, subs };
        self.send(index, dialect.connected(id, &connected));
    }
}
