//! Where shards' requests are answered, on the control plane: it may look up topics and check signatures, which a
//! shard must not wait for. One task, in the order of the requests; what has to wait itself goes on beside it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::backend::{Answer, Backend};
use super::event::{Ask, Attach, Attached, Event, Request, SessionKey};
use super::queue::QueueSender;
use crate::auth::{Grant, TokenError, Tokens, Users, Verdict};
use crate::metrics::Metrics;
use crate::protocol::{CommandId, Dialect, Op, Refusal};
use crate::topic::{ShardId, Topics};

/// A client that comes from a node that is ahead waits for this one to get there: looks at it are made after these times,
/// 2.5 s in all. Past it, it is told what its position is worth here.
const CATCH_UP_LOOKS_MS: [u64; 8] = [10, 20, 40, 80, 160, 320, 640, 1_230];

/// Clients that wait so at once. Past it, they are answered as after the wait.
const CATCHING_UP_MAX: usize = 16_384;

/// The requests of all shards.
pub struct Desk {
    requests: flume::Receiver<Vec<Request>>,
    queues: Arc<[QueueSender]>,
}

/// What requests are answered with.
struct Clerk {
    queues: Arc<[QueueSender]>,
    topics: Arc<Topics>,
    tokens: Arc<Tokens>,
    users: Arc<Users>,
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    catching_up: Arc<Semaphore>,
}

/// Whether a key that is not here may be fetched first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fetch {
    Allowed,
    Done,
}

impl Desk {
    pub(super) fn new(requests: flume::Receiver<Vec<Request>>, queues: Arc<[QueueSender]>) -> Self {
        Self { requests, queues }
    }

    /// Answers until the last shard has ended.
    pub async fn run(
        self,
        topics: Arc<Topics>,
        tokens: Arc<Tokens>,
        users: Arc<Users>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) {
        let catching_up = Arc::new(Semaphore::new(CATCHING_UP_MAX));
        let clerk = Arc::new(Clerk { queues: self.queues, topics, tokens, users, backend, metrics, catching_up });
        while let Ok(batch) = self.requests.recv_async().await {
            for request in batch {
                clerk.answer(request, Fetch::Allowed);
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
        tokens: Arc<Tokens>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) -> impl FnMut() {
        let users = Users::new(0);
        let catching_up = Arc::new(Semaphore::new(CATCHING_UP_MAX));
        let clerk = Arc::new(Clerk { queues: self.queues, topics, tokens, users, backend, metrics, catching_up });
        move || {
            for request in self.requests.try_iter().flatten() {
                clerk.answer(request, Fetch::Allowed);
            }
        }
    }
}

/// As a client is told.
fn token_refusal(error: &TokenError) -> Refusal {
    match error {
        TokenError::Expired => Refusal::new(Refusal::TOKEN_EXPIRED, error.to_string()),
        _ => Refusal::new(403, error.to_string()),
    }
}

/// A place among those that wait, counted while it is held.
struct Waiting {
    _place: OwnedSemaphorePermit,
    count: Gauge,
}

impl Waiting {
    fn new(place: OwnedSemaphorePermit, metrics: &Metrics) -> Self {
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
        let Attach { shard, ask, slot, topic, encoding, since, history } = attach;
        let outcome = self.topics.attach(&topic, shard, slot, encoding, since.as_ref(), history, |attachment| {
            let attached = Box::new(Attached { attachment, grant });
            self.send(shard, Event::Attached { ask, result: Ok(attached) });
        });
        if let Err(error) = outcome {
            let refusal = Refusal::new(503, error.to_string()).about(topic.as_str());
            self.send(shard, Event::Attached { ask, result: Err(refusal) });
        }
    }

    /// A place to wait in, if this node has not read as far as the client has.
    fn has_to_catch_up(&self, attach: &Attach) -> Option<Waiting> {
        if !self.topics.is_behind(&attach.topic, attach.since.as_ref()?) || Handle::try_current().is_err() {
            return None;
        }
        match self.catching_up.clone().try_acquire_owned() {
            Ok(place) => Some(Waiting::new(place, &self.metrics)),
            Err(_) => {
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

    /// A verdict that can be acted upon, or `None`: then the request is answered again once keys were fetched.
    fn settled<T>(
        self: &Arc<Self>,
        verdict: Verdict<T>,
        fetch: Fetch,
        again: impl FnOnce() -> Request,
    ) -> Option<Result<T, TokenError>> {
        let result = match verdict {
            Verdict::Known(result) => result,
            Verdict::KeyNeeded(_) if fetch == Fetch::Allowed => {
                let (clerk, request) = (self.clone(), again());
                tokio::spawn(async move {
                    clerk.tokens.fetch().await;
                    clerk.answer(request, Fetch::Done);
                });
                return None;
            }
            Verdict::KeyNeeded(error) => Err(error),
        };
        if let Err(error) = &result {
            self.metrics.refused_token(error.label());
        }
        Some(result)
    }

    fn answer(self: &Arc<Self>, request: Request, fetch: Fetch) {
        match request {
            Request::Attach(attach, shown) => {
                let grant = match shown {
                    None => None,
                    Some(shown) => {
                        let verdict = self.tokens.grant(&shown.token, &shown.user, &attach.topic);
                        let same = attach.clone();
                        match self.settled(verdict, fetch, || Request::Attach(same, Some(shown))) {
                            None => return,
                            Some(Ok(grant)) => Some(grant),
                            Some(Err(error)) => {
                                let refusal = token_refusal(&error).about(attach.topic.as_str());
                                let refused = Event::Attached { ask: attach.ask, result: Err(refusal) };
                                self.send(attach.shard, refused);
                                return;
                            }
                        }
                    }
                };
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
            // A signature takes its time to check, and a storm brings thousands: beside the others, on all threads.
            // What the session sent after it waits for the answer, so no order is lost.
            Request::Authenticate { .. } => {
                let clerk = self.clone();
                tokio::spawn(async move { clerk.authenticate(request, fetch) });
            }
            Request::SubRefresh { shard, session, id, slot, topic, shown } => {
                let verdict = self.tokens.grant(&shown.token, &shown.user, &topic);
                let echo = id.clone();
                let again = || Request::SubRefresh { shard, session, id: echo, slot, topic, shown };
                let Some(result) = self.settled(verdict, fetch, again) else { return };
                self.send(shard, Event::SubRefreshed { session, id, slot, result });
            }
            Request::Topic { shard, session, dialect, id, topic, ask } => {
                let to = To { shard, session, dialect, id };
                match ask {
                    Ask::History(query) => {
                        let reply = self.topics.history(&topic, &query).map(|page| dialect.history(&to.id, &page));
                        self.reply(to, Op::History, reply);
                    }
                    Ask::Presence => {
                        let reply = move |id: &CommandId, members: Vec<_>| dialect.presence(id, &members);
                        self.later(to, Op::Presence, self.backend.presence(topic), reply);
                    }
                    Ask::PresenceStats => {
                        let reply = move |id: &CommandId, count: super::backend::MemberCount| {
                            dialect.presence_stats(id, count.clients, count.users)
                        };
                        self.later(to, Op::PresenceStats, self.backend.presence_stats(topic), reply);
                    }
                    Ask::Publish(payload) => {
                        let reply = move |id: &CommandId, ()| dialect.done(id, Op::Publish);
                        self.later(to, Op::Publish, self.backend.publish(topic, payload), reply);
                    }
                }
            }
            Request::Call { shard, session, dialect, id, client, user, method, data } => {
                let to = To { shard, session, dialect, id };
                let reply = move |id: &CommandId, data: Bytes| dialect.rpc(id, &data);
                self.later(to, Op::Rpc, self.backend.call(client, user, method, data), reply);
            }
            Request::Joined { topic, member } => self.backend.joined(&topic, &member),
            Request::Left { topic, member } => self.backend.left(&topic, &member),
        }
    }

    fn authenticate(self: &Arc<Self>, request: Request, fetch: Fetch) {
        let Request::Authenticate { shard, session, id, purpose, token, held } = request else { return };
        let result = match self.tokens.identity(&token) {
            Verdict::Known(result) => result,
            Verdict::KeyNeeded(_) if fetch == Fetch::Allowed => {
                let clerk = self.clone();
                tokio::spawn(async move {
                    clerk.tokens.fetch().await;
                    let again = Request::Authenticate { shard, session, id, purpose, token, held };
                    clerk.authenticate(again, Fetch::Done);
                });
                return;
            }
            Verdict::KeyNeeded(error) => Err(error),
        };
        if let Err(error) = &result {
            self.metrics.refused_token(error.label());
        }
        let result = result.and_then(|mut identity| {
            self.users.seat(&mut identity, held.as_deref())?;
            Ok(identity)
        });
        self.send(shard, Event::Authenticated { session, id, purpose, result: result.map(Box::new) });
    }

    fn reply(&self, to: To, op: Op, reply: Result<Bytes, Refusal>) {
        let To { shard, session, dialect, id } = to;
        let reply = reply.unwrap_or_else(|refusal| dialect.refusal(&id, op, &refusal));
        self.send(shard, Event::Answered { session, reply });
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
            let result = answer.await.map(|value| reply(&to.id, value));
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
}
