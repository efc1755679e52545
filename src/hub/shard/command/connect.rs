//! `connect`: the first command of a Centrifuge session.

use std::collections::HashMap;

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

/// Why a connect does not begin.
enum Fault {
    /// The session is connecting or connected already.
    Again,
    Refused(Refusal),
}

/// Carries the command out.
pub(super) fn run(
    shard: &mut Shard,
    index: SessionIndex,
    id: CommandId,
    token: Option<String>,
    items: Vec<SubscribeItem>,
) {
    match check(shard, index, token.as_deref()) {
        Ok(()) => apply(shard, index, id, token, items),
        Err(Fault::Again) => shard.close(index, CloseReason::BadRequest),
        Err(Fault::Refused(refusal)) => shard.refuse_connect(index, &id, &refusal),
    }
}

fn check(shard: &Shard, index: SessionIndex, token: Option<&str>) -> Result<(), Fault> {
    let full = token.and_then(|token| shard.no_room_under_way(token.len()));
    let client = shard.sessions.get(index).and_then(|session| session.client.as_ref());
    if client.is_some_and(|client| client.connecting) {
        return Err(Fault::Again);
    }
    full.map_or(Ok(()), |refusal| Err(Fault::Refused(refusal)))
}

/// Begins the session, or asks the control plane to check its token first. Commands behind it wait.
fn apply(shard: &mut Shard, index: SessionIndex, id: CommandId, token: Option<String>, items: Vec<SubscribeItem>) {
    let (now_ms, id_of_shard, anonymous) = (shard.clock.now_ms, shard.id, shard.config.access.anonymous);
    let Some(session) = shard.sessions.get_mut(index) else { return };
    session.client.get_or_insert_with(|| Client::new(now_ms)).connecting = true;
    let deferred = session.deferred.insert(Box::new(Deferred::new(true, now_ms)));
    match token {
        Some(token) => {
            deferred.keep_items(items);
            let (key, purpose, held) = (session.key(index), Purpose::Connect, session.identity.clone());
            shard.requests.send(Request::Authenticate { shard: id_of_shard, session: key, id, purpose, token, held });
        }
        None if session.identity.is_some() || anonymous => shard.begin_session(index, id, items),
        None => shard.close_for_token(index, "a token is needed"),
    }
}

/// Replies once the session has begun, with its subscriptions.
pub(in crate::hub::shard) fn reply(shard: &mut Shard, index: SessionIndex, id: &CommandId, subs: &[Subscribed<'_>]) {
    let (time_ms, node) = (shard.clock.unix_ms, shard.node.clone());
    let ping_s = u32::try_from(shard.config.limits.ping_interval.as_secs().max(1)).unwrap_or(u32::MAX);
    let Some(session) = shard.sessions.get_mut(index) else { return };
    let ttl_s = ttl_s(session.identity.as_ref().and_then(|i| i.expires_s), time_ms);
    let (Some(dialect), Some(client)) = (session.output.dialect.centrifuge(), &session.client) else { return };
    let client = client.id.to_string();
    let connected = Connected { client: &client, node: &node, ping_s, ttl_s, time_ms, subs };
    shard.send(index, dialect.connected(id, &connected));
}

impl Shard {
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
            reply(self, index, &id, &[]);
            let deferred = self.sessions.get_mut(index).and_then(|s| s.deferred.take());
            self.replay(key, deferred);
        }
    }

    /// Refuses a `connect`; the client may connect again.
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
}
