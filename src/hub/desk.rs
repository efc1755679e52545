//! Where shards' requests are answered, on the control plane: it may look up topics and check signatures, which a
//! shard must not wait for. One task, in the order of the requests; what has to wait itself goes on beside it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;

use super::allowance;
use super::backend::{Answer, Backend};
use super::event::{Ask, Attach, Attached, Event, Request, SessionKey, Shown};
use super::places::{Holder, Place, Places};
use super::queue::QueueSender;
use crate::auth::{Caller, Grant, TokenError, Users, Verifier};
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::protocol::{CommandId, Dialect, Op, Refusal};
use crate::rate::{Rate, Shared};
use crate::topic::{Payload, PublishError, ShardId, Topics};

/// A client that comes from a node that is ahead waits for this one to get there: looks at it are made after these times,
/// 2.5 s in all. Past it, it is told what its position is worth here.
const CATCH_UP_LOOKS_MS: [u64; 8] = [10, 20, 40, 80, 160, 320, 640, 1_230];

/// The requests of all shards.
pub struct Desk {
    requests: flume::Receiver<Vec<Request>>,
    queues: Arc<[QueueSender]>,
    /// Bytes of answers that a session may ask for.
    answers: Rate,
}

/// What requests are answered with.
struct Clerk {
    queues: Arc<[QueueSender]>,
    topics: Arc<Topics>,
    verifier: Arc<Verifier>,
    users: Arc<Users>,
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    catching_up: Arc<Places>,
    answers: Rate,
    publishes: Mutex<Publishes>,
}

/// Publishes that wait for the one before them, of each session that has one under way: they are stored in the order in
/// which they were sent. At most [`PENDING_COMMANDS_MAX`](crate::limits::PENDING_COMMANDS_MAX) of each session.
type Publishes = HashMap<(ShardId, SessionKey), VecDeque<Publish>>;

/// Whom to answer, and what is to be stored where.
type Publish = (To, TopicName, Payload);

impl Desk {
    pub(super) fn new(requests: flume::Receiver<Vec<Request>>, queues: Arc<[QueueSender]>, answers: Rate) -> Self {
        Self { requests, queues, answers }
    }

    /// The requests, and what answers them.
    fn staffed(
        self,
        topics: Arc<Topics>,
        verifier: Arc<Verifier>,
        users: Arc<Users>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) -> (flume::Receiver<Vec<Request>>, Arc<Clerk>) {
        let Self { requests, queues, answers } = self;
        let (catching_up, publishes) = (Arc::default(), Mutex::default());
        let clerk = Clerk { queues, topics, verifier, users, backend, metrics, catching_up, answers, publishes };
        (requests, Arc::new(clerk))
    }

    /// Answers until the last shard has ended.
    pub async fn run(
        self,
        topics: Arc<Topics>,
        verifier: Arc<Verifier>,
        users: Arc<Users>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) {
        let (requests, clerk) = self.staffed(topics, verifier, users, backend, metrics);
        while let Ok(batch) = requests.recv_async().await {
            for request in batch {
                clerk.answer(request);
            }
            // A storm's batches are long; others on this thread get their turn.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
impl Desk {
    /// The desk as something that answers what waits, and returns.
    pub(super) fn at_hand(
        self,
        topics: Arc<Topics>,
        tokens: Arc<crate::auth::Tokens>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) -> impl FnMut() {
        let users = Users::new(0);
        let verifier = Verifier::at_hand(tokens, &crate::config::Limits::default(), metrics.clone());
        let (requests, clerk) = self.staffed(topics, verifier, users, backend, metrics);
        move || {
            for request in requests.try_iter().flatten() {
                clerk.answer(request);
            }
        }
    }
}

/// As a client is told.
fn token_refusal(error: &TokenError) -> Refusal {
    match error {
        TokenError::Expired => Refusal::new(Refusal::TOKEN_EXPIRED, error.to_string()),
        error if error.is_temporary() => Refusal::new(503, error.to_string()),
        _ => Refusal::new(403, error.to_string()),
    }
}

/// A session, as one who shows tokens.
fn caller(shard: ShardId, session: SessionKey) -> Caller {
    Caller::Session(shard.0, u64::from(session.generation) << 32 | u64::from(session.index))
}

/// A place among those that wait, counted while it is held.
struct Waiting {
    _place: Place,
    count: Gauge,
}

impl Waiting {
    fn new(place: Place, metrics: &Metrics) -> Self {
        let count = metrics.subscribes_waiting.clone();
        count.inc();
        Self { _place: place, count }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.count.dec();
    }
}

impl Clerk {
    fn attach(&self, attach: Attach, grant: Option<Grant>) {
        let Attach { shard, ask, slot, topic, encoding, since, history, maker, .. } = attach;
        let outcome = self.topics.attach(&topic, shard, slot, encoding, since.as_ref(), history, maker, |attachment| {
            let attached = Box::new(Attached { attachment, grant });
            self.send(shard, Event::Attached { ask, result: Ok(attached) });
        });
        if let Err(error) = outcome {
            let code = if error == PublishError::UnknownNamespace { Refusal::UNKNOWN_TOPIC } else { 503 };
            let refusal = Refusal::new(code, error.to_string()).about(topic.as_str());
            self.send(shard, Event::Attached { ask, result: Err(refusal) });
        }
    }

    /// A place to wait in, if this node has not read as far as the client has.
    fn has_to_catch_up(&self, attach: &Attach) -> Option<Waiting> {
        if !self.topics.is_behind(&attach.topic, attach.since.as_ref()?) || Handle::try_current().is_err() {
            return None;
        }
        let user = attach.identity.as_ref().map(|i| i.user.clone()).filter(|user| !user.is_empty());
        let holder = user.map_or_else(|| Holder::Session(attach.shard, attach.session), Holder::User);
        match self.catching_up.take(holder) {
            Some(place) => Some(Waiting::new(place, &self.metrics)),
            None => {
                self.metrics.subscribe_was_ahead("too_many");
                None
            }
        }
    }

    async fn catch_up(&self, attach: &Attach) {
        for ms in CATCH_UP_LOOKS_MS {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            if attach.since.as_ref().is_none_or(|since| !self.topics.is_behind(&attach.topic, since)) {
                self.metrics.subscribe_was_ahead("caught_up");
                return;
            }
        }
        self.metrics.subscribe_was_ahead("timed_out");
    }

    fn send(&self, shard: ShardId, event: Event) {
        if let Some(queue) = self.queues.get(usize::from(shard.0)) {
            queue.send(event);
        }
    }

    /// Subscribes, now or once this node has read as far as the client has.
    fn subscribe(self: &Arc<Self>, attach: Attach, grant: Option<Grant>) {
        match self.has_to_catch_up(&attach) {
            None => self.attach(attach, grant),
            Some(place) => {
                let clerk = self.clone();
                tokio::spawn(async move {
                    clerk.catch_up(&attach).await;
                    clerk.attach(attach, grant);
                    drop(place);
                });
            }
        }
    }

    /// Nothing here waits for a signature: what a token is for goes on when it has been verified. A session's tokens are
    /// verified one after the other, and what it sent behind an `auth`, a `connect` or a `refresh` waits, so no order is lost.
    fn answer(self: &Arc<Self>, request: Request) {
        match request {
            Request::Attach(attach, None) => self.subscribe(attach, None),
            Request::Attach(attach, Some(shown)) => {
                let Shown { token, user, session } = *shown;
                let (clerk, topic) = (self.clone(), attach.topic.clone());
                self.verifier.grant(caller(attach.shard, session), token, user, topic, move |result| match result {
                    Ok(grant) => clerk.subscribe(attach, Some(grant)),
                    Err(error) => {
                        let refusal = token_refusal(&error).about(attach.topic.as_str());
                        clerk.send(attach.shard, Event::Attached { ask: attach.ask, result: Err(refusal) });
                    }
                });
            }
            Request::Snapshot { shard, ask, topic } => {
                self.topics.snapshot_for(&topic, |snapshot| self.send(shard, Event::Snapshot { ask, snapshot }));
            }
            Request::Replay { shard, ask, topic, encoding, after } => {
                self.topics.replay_for(&topic, encoding, after, |replay| {
                    self.send(shard, Event::Replayed { ask, replay: replay.map(Box::new) });
                });
            }
            Request::Detach { shard, slot, topic } => {
                self.topics.detach(&topic, shard, slot, || self.send(shard, Event::Detached { slot }));
            }
            Request::Authenticate { shard, session, id, purpose, token, held } => {
                let clerk = self.clone();
                self.verifier.identity(caller(shard, session), token, move |result| {
                    let result = result.and_then(|mut identity| {
                        clerk.users.seat(&mut identity, held.as_deref())?;
                        Ok(identity)
                    });
                    clerk.send(shard, Event::Authenticated { session, id, purpose, result: result.map(Box::new) });
                });
            }
            Request::SubRefresh { shard, session, id, slot, topic, shown } => {
                let clerk = self.clone();
                let Shown { token, user, .. } = shown;
                self.verifier.grant(caller(shard, session), token, user, topic, move |result| {
                    clerk.send(shard, Event::SubRefreshed { session, id, slot, result });
                });
            }
            Request::Topic { shard, session, dialect, id, topic, ask, asked } => {
                let to = To { shard, session, dialect, id, asked };
                let op = match &ask {
                    Ask::History(_) => Op::History,
                    Ask::Presence => Op::Presence,
                    Ask::PresenceStats => Op::PresenceStats,
                    Ask::Publish(_) => Op::Publish,
                };
                let Some(to) = self.may_ask(to, op) else { return };
                match ask {
                    Ask::History(query) => {
                        let reply = self.topics.history(&topic, &query).map(|page| dialect.history(&to.id, &page));
                        self.reply(to, op, reply);
                    }
                    Ask::Presence => {
                        let reply = move |id: &CommandId, members: Vec<_>| dialect.presence(id, &members);
                        self.later(to, op, self.backend.presence(topic), reply);
                    }
                    Ask::PresenceStats => {
                        let reply = move |id: &CommandId, count: super::backend::MemberCount| {
                            dialect.presence_stats(id, count.clients, count.users)
                        };
                        self.later(to, op, self.backend.presence_stats(topic), reply);
                    }
                    Ask::Publish(payload) => {
                        self.publish(to, topic, payload);
                    }
                }
            }
            Request::Call { shard, session, dialect, id, client, user, method, data, asked } => {
                let to = To { shard, session, dialect, id, asked };
                let Some(to) = self.may_ask(to, Op::Rpc) else { return };
                let reply = move |id: &CommandId, data: Bytes| dialect.rpc(id, &data);
                self.later(to, Op::Rpc, self.backend.call(client, user, method, data), reply);
            }
            Request::Joined { topic, member } => self.backend.joined(&topic, &member),
            Request::Left { topic, member } => self.backend.left(&topic, &member),
        }
    }

    /// Whom to answer, unless it asked for too much already: then it is told so.
    fn may_ask(&self, to: To, op: Op) -> Option<To> {
        // What a publish brings is a few bytes: it is for the rate of commands.
        let refusal = allowance::refusal(&to.asked, self.answers).filter(|_| op != Op::Publish);
        let Some(refusal) = refusal else { return Some(to) };
        self.metrics.replies_refused.inc();
        self.reply(to, op, Err(refusal));
        None
    }

    fn reply(&self, to: To, op: Op, reply: Result<Bytes, Refusal>) {
        let To { shard, session, dialect, id, asked } = to;
        let reply = reply.unwrap_or_else(|refusal| dialect.refusal(&id, op, &refusal));
        asked.charge(self.answers, reply.len() as u64);
        self.send(shard, Event::Answered { session, reply });
    }

    fn publish(self: &Arc<Self>, to: To, topic: TopicName, payload: Payload) {
        let key = (to.shard, to.session);
        match self.publishes().entry(key) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back((to, topic, payload));
                return;
            }
            Entry::Vacant(none) => {
                none.insert(VecDeque::new());
            }
        }
        let clerk = self.clone();
        tokio::spawn(async move {
            let mut next = Some((to, topic, payload));
            while let Some((to, topic, payload)) = next {
                let result = clerk.backend.publish(topic, payload).await;
                let reply = result.map(|()| to.dialect.done(&to.id, Op::Publish));
                clerk.reply(to, Op::Publish, reply);
                next = clerk.next_publish(key);
            }
        });
    }

    fn publishes(&self) -> MutexGuard<'_, Publishes> {
        self.publishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session's next one; with none, its queue goes.
    fn next_publish(&self, key: (ShardId, SessionKey)) -> Option<Publish> {
        let mut publishes = self.publishes();
        let next = publishes.get_mut(&key).and_then(VecDeque::pop_front);
        if next.is_none() {
            publishes.remove(&key);
        }
        next
    }

    /// Answers when the answer is there.
    fn later<T: Send + 'static>(
        self: &Arc<Self>,
        to: To,
        op: Op,
        answer: Answer<T>,
        reply: impl FnOnce(&CommandId, T) -> Bytes + Send + 'static,
    ) {
        let clerk = self.clone();
        tokio::spawn(async move {
            let answer = answer.await;
            // Many may have been asked for at once. What was only read need not be said; what was done must be.
            let Some(to) = (if op == Op::Presence { clerk.may_ask(to, op) } else { Some(to) }) else { return };
            let result = answer.map(|value| reply(&to.id, value));
            clerk.reply(to, op, result);
        });
    }
}

/// Whom an answer goes to.
struct To {
    shard: ShardId,
    session: SessionKey,
    dialect: Dialect,
    id: CommandId,
    /// What it has asked for so far.
    asked: Arc<Shared>,
}
