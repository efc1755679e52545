//! Answers the requests of shards. It may look up topics and check signatures, which a shard must not wait for.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::catch_up_slots::{CatchUpSlot, CatchUpSlots, Holder};
use super::promise::{Promise, Promised};
use super::replies::{Asker, Replies};
use super::snapshot_queue::{SnapshotQueue, Wanted};
use crate::accounts::Held;
use crate::auth::{Caller, Grant, TokenError, Users, Verifier};
use crate::hub::backend::{Answer, Backend};
use crate::hub::event::{Ask, Asked, Attach, Attached, Event, OnItsWay, Request, Shown};
use crate::hub::index::SessionId;
use crate::limits::{ANSWER_RESERVED_BYTES, ANSWER_TIMEOUT, PUBLISH_WAIT};
use crate::metrics::{Metrics, SubscribeAhead};
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal};
use crate::topic::{Payload, PublishError, ShardId};

/// A client may come from a node that has read further. Its subscribe then waits for this node to get there: the
/// position is compared after these times, 2.5 s in all. After that it is answered with what this node has.
const CATCH_UP_LOOKS_MS: [u64; 8] = [10, 20, 40, 80, 160, 320, 640, 1_230];

/// Everything that is needed to answer requests.
pub(in crate::hub) struct Responder {
    replies: Arc<Replies>,
    verifier: Arc<Verifier>,
    users: Arc<Users>,
    backend: Arc<dyn Backend>,
    catching_up: Arc<CatchUpSlots>,
    publishes: Mutex<Publishes>,
    snapshot_queue: Mutex<SnapshotQueue>,
}

/// Publishes that wait for an earlier one of their session, so that they are stored in the order in which they were
/// sent. At most [`PENDING_COMMANDS_MAX`](crate::limits::PENDING_COMMANDS_MAX) per session.
type Publishes = HashMap<(ShardId, SessionId), VecDeque<Publish>>;

/// A publish that waits.
struct Publish {
    to: Promise,
    topic: TopicName,
    payload: Payload,
    since: Instant,
    _held: Held,
}

/// A subscribe that is being answered.
struct Attaching {
    attach: Attach,
    grant: Option<Grant>,
    promise: Promise,
    _held: Held,
}

/// A token's error as it is sent to clients.
fn token_refusal(error: &TokenError) -> Refusal {
    match error {
        TokenError::Expired => Refusal::new(Refusal::TOKEN_EXPIRED, error.to_string()),
        error if error.is_temporary() => Refusal::new(503, error.to_string()),
        _ => Refusal::new(403, error.to_string()),
    }
}

/// A session, as a caller of the token verifier.
fn caller(shard: ShardId, session: SessionId) -> Caller {
    Caller::Session(shard.0, u64::from(session.generation) << 32 | session.index.at() as u64)
}

/// A place among the waiting subscribes, counted until it is dropped.
struct Waiting {
    _place: CatchUpSlot,
    count: Gauge,
}

impl Waiting {
    fn new(place: CatchUpSlot, metrics: &Metrics) -> Self {
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

impl Responder {
    pub(super) fn new(
        replies: Arc<Replies>,
        verifier: Arc<Verifier>,
        users: Arc<Users>,
        backend: Arc<dyn Backend>,
        snapshots_max: Option<usize>,
    ) -> Self {
        let snapshot_queue = Mutex::new(SnapshotQueue::new(snapshots_max));
        let (catching_up, publishes) = (Arc::default(), Mutex::default());
        Self { replies, verifier, users, backend, catching_up, publishes, snapshot_queue }
    }

    fn attach(&self, attaching: Attaching) {
        let Attaching { attach, grant, mut promise, _held } = attaching;
        let Attach { shard, slot, topic, encoding, since, history, maker, .. } = attach;
        let outcome =
            self.replies.topics.attach(&topic, shard, slot, encoding, since.as_ref(), history, maker, |attachment| {
                promise.attach(Ok(Box::new(Attached { attachment, grant })));
            });
        if let Err(error) = outcome {
            let code = if error == PublishError::UnknownNamespace { Refusal::UNKNOWN_TOPIC } else { 503 };
            promise.attach(Err(Refusal::new(code, error.to_string()).about(topic.as_str())));
        }
    }

    /// A place to wait in, if this node has not read as far as the client's position.
    fn has_to_catch_up(&self, attach: &Attach) -> Option<Waiting> {
        if !self.replies.topics.is_behind(&attach.topic, attach.since.as_ref()?) || Handle::try_current().is_err() {
            return None;
        }
        let user = attach.identity.as_ref().map(|i| i.user.clone()).filter(|user| !user.is_empty());
        let holder = user.map_or_else(|| Holder::Session(attach.shard, attach.session), Holder::User);
        match self.catching_up.take(holder) {
            Some(place) => Some(Waiting::new(place, &self.replies.metrics)),
            None => {
                self.replies.metrics.subscribe_was_ahead(SubscribeAhead::TooMany);
                None
            }
        }
    }

    async fn catch_up(&self, attach: &Attach) {
        for ms in CATCH_UP_LOOKS_MS {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            if attach.since.as_ref().is_none_or(|since| !self.replies.topics.is_behind(&attach.topic, since)) {
                self.replies.metrics.subscribe_was_ahead(SubscribeAhead::CaughtUp);
                return;
            }
        }
        self.replies.metrics.subscribe_was_ahead(SubscribeAhead::TimedOut);
    }

    /// Subscribes now, or once this node has read as far as the client's position.
    fn subscribe(self: &Arc<Self>, attaching: Attaching) {
        match self.has_to_catch_up(&attaching.attach) {
            None => self.attach(attaching),
            Some(place) => {
                let responder = self.clone();
                tokio::spawn(async move {
                    responder.catch_up(&attaching.attach).await;
                    responder.attach(attaching);
                    drop(place);
                });
            }
        }
    }

    /// Answers a request. It never waits for a signature: the work goes on once the token is verified. The tokens of a
    /// session are verified one after the other, and commands behind an `auth`, a `connect` or a `refresh` wait, so
    /// their order is kept.
    pub(super) fn answer(self: &Arc<Self>, asked: Asked) {
        let Asked { request, held } = asked;
        match request {
            Request::Attach(attach, shown) => {
                let promise = Promise::attached(&self.replies, &attach);
                let mut attaching = Attaching { attach, grant: None, promise, _held: held };
                let Some(shown) = shown else { return self.subscribe(attaching) };
                let Shown { token, user, session } = *shown;
                let (responder, topic) = (self.clone(), attaching.attach.topic.clone());
                let caller = caller(attaching.attach.shard, session);
                self.verifier.grant(caller, token, user, topic, move |result| match result {
                    Ok(grant) => responder.subscribe(Attaching { grant: Some(grant), ..attaching }),
                    Err(error) => {
                        let refusal = token_refusal(&error).about(attaching.attach.topic.as_str());
                        attaching.promise.attach(Err(refusal));
                    }
                });
            }
            Request::Snapshot { shard, ask, topic, lagging } => {
                let admitted = self.snapshot_queue().admit(Wanted { shard, ask, topic }, lagging);
                match admitted {
                    Some(wanted) => self.snapshot(wanted),
                    None => {
                        self.replies.metrics.snapshots_delayed.inc();
                    }
                }
            }
            Request::Replay { shard, ask, topic, encoding, after } => {
                let mut promise = Promise::new(&self.replies, Promised::Topic(shard, ask, topic.clone()));
                #[cfg(test)]
                tests::fault(&topic);
                self.replies.topics.replay_for(&topic, encoding, after, |replay| {
                    promise.keep(Event::Replayed { ask, replay: replay.map(Box::new) });
                });
            }
            Request::Detach { shard, slot, topic } => {
                let mut promise = Promise::new(&self.replies, Promised::Detached(shard, slot, topic.clone()));
                #[cfg(test)]
                tests::fault(&topic);
                self.replies.topics.detach(&topic, shard, slot, || promise.keep(Event::Detached { slot }));
            }
            Request::Authenticate { shard, session, id, purpose, token, held: before } => {
                let responder = self.clone();
                self.verifier.identity(caller(shard, session), token, move |result| {
                    drop(held);
                    let result = result.and_then(|mut identity| {
                        responder.users.seat(&mut identity, before.as_deref())?;
                        Ok(identity)
                    });
                    responder
                        .replies
                        .send(shard, Event::Authenticated { session, id, purpose, result: result.map(Box::new) });
                });
            }
            Request::SubRefresh { shard, session, id, slot, topic, shown } => {
                let Shown { token, user, .. } = shown;
                let mut promise = Promise::new(&self.replies, Promised::SubRefreshed(shard, session, id.clone(), slot));
                #[cfg(test)]
                tests::fault(&topic);
                self.verifier.grant(caller(shard, session), token, user, topic, move |result| {
                    drop(held);
                    promise.keep(Event::SubRefreshed { session, id, slot, result });
                });
            }
            Request::Topic { shard, session, dialect, id, topic, ask, asked } => {
                let to = Asker { shard, session, dialect, id, asked, reserved: 0 };
                let op = match &ask {
                    Ask::History(_) => Op::History,
                    Ask::Presence => Op::Presence,
                    Ask::PresenceStats => Op::PresenceStats,
                    Ask::Publish(_) => Op::Publish,
                };
                let Some(to) = self.may_ask(to, op) else { return };
                match ask {
                    Ask::History(query) => {
                        let mut promise = Promise::reply(&self.replies, to, op);
                        #[cfg(test)]
                        tests::fault(&topic);
                        let page = self.replies.topics.history(&topic, &query);
                        let reply = promise.to().map(|to| page.map(|page| dialect.history(&to.id, &page)));
                        promise.settle(reply.unwrap_or_else(|| Ok(Bytes::new())));
                    }
                    Ask::Presence => {
                        let reply = move |id: &CommandId, members: Vec<_>| dialect.presence(id, &members);
                        let promise = Promise::reply(&self.replies, to, op);
                        self.later(promise, self.backend.presence(topic), held, reply);
                    }
                    Ask::PresenceStats => {
                        let reply = move |id: &CommandId, count: crate::hub::backend::MemberCount| {
                            dialect.presence_stats(id, count.clients, count.users)
                        };
                        let promise = Promise::reply(&self.replies, to, op);
                        self.later(promise, self.backend.presence_stats(topic), held, reply);
                    }
                    Ask::Publish(payload) => {
                        let to = Promise::reply(&self.replies, to, op);
                        self.publish(Publish { to, topic, payload, since: Instant::now(), _held: held });
                    }
                }
            }
            Request::Call { shard, session, dialect, id, client, user, method, data, asked } => {
                let to = Asker { shard, session, dialect, id, asked, reserved: 0 };
                let Some(to) = self.may_ask(to, Op::Rpc) else { return };
                let reply = move |id: &CommandId, data: Bytes| dialect.rpc(id, &data);
                let promise = Promise::reply(&self.replies, to, Op::Rpc);
                self.later(promise, self.backend.call(client, user, method, data), held, reply);
            }
            Request::Joined { topic, member } => self.backend.joined(&topic, &member),
            Request::Left { topic, member } => self.backend.left(&topic, &member),
        }
    }

    pub(super) fn snapshot_queue(&self) -> MutexGuard<'_, SnapshotQueue> {
        self.snapshot_queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(self: &Arc<Self>, Wanted { shard, ask, topic }: Wanted) {
        let mut promise = Promise::new(&self.replies, Promised::Topic(shard, ask, topic.clone()));
        #[cfg(test)]
        tests::fault(&topic);
        self.replies.topics.snapshot_for(&topic, |snapshot| {
            promise.keep(Event::Snapshot { ask, snapshot: OnItsWay::new(snapshot) });
        });
    }

    /// Sends waiting states, as far as there is room.
    pub(super) fn send_waiting_snapshots(self: &Arc<Self>) {
        loop {
            let Some(wanted) = self.snapshot_queue().next() else { return };
            let answer = AssertUnwindSafe(|| self.snapshot(wanted));
            if std::panic::catch_unwind(answer).is_err() {
                tracing::error!("sending the state of a topic panicked");
            }
        }
    }

    /// The session to answer, or `None` after refusing it because its allowance is used up. An answer that takes time
    /// is charged in advance, so that the answers in progress stay within the allowance.
    fn may_ask(&self, to: Asker, op: Op) -> Option<Asker> {
        // The answer to a publish is a few bytes; the command rate limits it.
        let refusal = if op == Op::Publish { None } else { self.replies.asked_too_much(&to) };
        let Some(refusal) = refusal else {
            let reserved = if matches!(op, Op::Publish | Op::History) { 0 } else { ANSWER_RESERVED_BYTES };
            to.asked.charge(self.replies.answers, reserved);
            return Some(Asker { reserved, ..to });
        };
        self.replies.reply(to, op, Err(refusal));
        None
    }

    fn publish(self: &Arc<Self>, publish: Publish) {
        let Some(to) = publish.to.to() else { return };
        let key = (to.shard, to.session);
        match self.publishes().entry(key) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(publish);
                return;
            }
            Entry::Vacant(none) => {
                none.insert(VecDeque::new());
            }
        }
        let mut queue = PublishQueue { responder: self.clone(), key, ended: false };
        tokio::spawn(async move {
            let mut next = Some(publish);
            while let Some(Publish { mut to, topic, payload, since, _held }) = next {
                let result = if since.elapsed() > PUBLISH_WAIT {
                    let reason = "the publish waited too long for earlier ones and was not stored; try again";
                    Err(Refusal::new(503, reason).about(topic.as_str()))
                } else {
                    in_time(queue.responder.backend.publish(topic, payload)).await
                };
                let done = to.to().map(|to| to.dialect.dialect().done(&to.id, Op::Publish));
                to.settle(result.map(|()| done.unwrap_or_default()));
                next = queue.next();
            }
        });
    }

    fn publishes(&self) -> MutexGuard<'_, Publishes> {
        self.publishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the answer once it is there.
    fn later<T: Send + 'static>(
        &self,
        mut promise: Promise,
        answer: Answer<T>,
        held: Held,
        reply: impl FnOnce(&CommandId, T) -> Bytes + Send + 'static,
    ) {
        tokio::spawn(async move {
            let _held = held;
            let answer = in_time(answer).await;
            let Some(Promised::Reply(to, op)) = &mut promise.promised else { return };
            to.asked.give_back(promise.replies.answers, std::mem::take(&mut to.reserved));
            // Other answers may have used up the allowance meanwhile. The result of a read may be refused then; the
            // result of a write must be sent.
            let refusal = if *op == Op::Presence { promise.replies.asked_too_much(to) } else { None };
            let result = answer.map(|value| reply(&to.id, value));
            promise.settle(refusal.map_or(result, Err));
        });
    }
}

/// The publishes of a session. If the task that stores them panics, the waiting ones are answered, and a new task
/// starts for later ones.
struct PublishQueue {
    responder: Arc<Responder>,
    key: (ShardId, SessionId),
    ended: bool,
}

impl PublishQueue {
    /// The next publish. The queue is removed after the last.
    fn next(&mut self) -> Option<Publish> {
        let mut publishes = self.responder.publishes();
        let next = publishes.get_mut(&self.key).and_then(VecDeque::pop_front);
        if next.is_none() {
            publishes.remove(&self.key);
            self.ended = true;
        }
        next
    }
}

impl Drop for PublishQueue {
    fn drop(&mut self) {
        if !self.ended {
            let left = self.responder.publishes().remove(&self.key);
            // Answered outside the lock.
            drop(left);
        }
    }
}

/// Limits the time of an answer. The backend has a time-out of its own; this is for one that does not keep it.
async fn in_time<T>(answer: Answer<T>) -> Result<T, Refusal> {
    let late = |_| Err(Refusal::new(503, "the backend did not answer in time; try again"));
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::auth::Tokens;
    use crate::config::Config;
    use crate::config::PayloadForm;
    use crate::hub::allowance::Allowance;
    use crate::hub::backend::{Member, MemberCount};
    use crate::hub::event::RequestBatch;
    use crate::hub::index::{RequestId, SessionId, SessionIndex};
    use crate::hub::{Hub, Prepared};
    use crate::memory::ResolvedLimits;
    use crate::protocol::{Centrifuge, MemberInfo};
    use crate::topic::{Slot, Topics};

    /// A backend that fails in the way that the topic's name says.
    struct Fails;

    impl Backend for Fails {
        fn publish(&self, topic: TopicName, _: Payload) -> Answer<()> {
            match topic.as_str() {
                "panics" => Box::pin(async { panic!("injected") }),
                "panics:at:once" => panic!("injected"),
                "hangs" => Box::pin(std::future::pending()),
                _ => Box::pin(async { Ok(()) }),
            }
        }
        fn joined(&self, _: &TopicName, _: &Member) {}
        fn left(&self, _: &TopicName, _: &Member) {}
        fn presence(&self, _: TopicName) -> Answer<Vec<Arc<MemberInfo>>> {
            Box::pin(async { panic!("injected") })
        }
        fn presence_stats(&self, _: TopicName) -> Answer<MemberCount> {
            Box::pin(std::future::pending())
        }
        fn call(&self, _: String, _: String, method: String, _: Bytes) -> Answer<Bytes> {
            assert_eq!(method, "hangs", "injected");
            Box::pin(std::future::pending())
        }
    }

    /// A fault in the control plane itself, for topics with a certain name.
    pub(in crate::hub) fn fault(topic: &TopicName) {
        assert!(!topic.as_str().starts_with("fault:"), "injected");
    }

    /// A control plane whose backend fails, with the shard's end of its queues.
    struct Shard {
        requests: flume::Sender<RequestBatch>,
        part: crate::hub::part::Part,
        unseen: Arc<AtomicUsize>,
        asked: Allowance,
        metrics: Arc<Metrics>,
    }

    impl Shard {
        fn start() -> Self {
            let (config, metrics) = (Arc::new(Config::default()), Arc::new(Metrics::default()));
            let limits = Arc::new(ResolvedLimits::configured(&config.limits));
            let (hub, prepared, control) = Hub::new(1, 100, "test".into(), config.clone(), &limits, &metrics).unwrap();
            let Prepared { mut parts, requests, .. } = prepared;
            let topics = Arc::new(Topics::new(config.clone(), 1, hub, metrics.clone()));
            let tokens = Arc::new(Tokens::load(&config.access, &metrics).unwrap());
            let verifier = Verifier::at_hand(tokens, &config.limits, metrics.clone());
            tokio::spawn(control.run(topics, verifier, Users::new(0), Arc::new(Fails), metrics.clone()));
            Self { requests, part: parts.remove(0), unseen: Arc::default(), asked: Allowance::default(), metrics }
        }

        fn ask(&self, id: u64, topic: &str, ask: Ask) {
            let (shard, session) = (ShardId(0), SessionId { index: SessionIndex::new(0), generation: 1 });
            let (dialect, id, topic) = (Centrifuge::JSON, command_id(id), TopicName::new(topic).unwrap());
            let asked = self.asked.clone();
            self.send(Request::Topic { shard, session, dialect, id, topic, ask, asked });
        }

        fn send(&self, request: Request) {
            self.requests.send(RequestBatch::new(vec![Asked::new(request)], 100, &self.unseen)).unwrap();
        }

        fn call(&self, id: u64, method: &str) {
            self.send(Request::Call {
                shard: ShardId(0),
                session: SessionId { index: SessionIndex::new(0), generation: 1 },
                dialect: Centrifuge::JSON,
                id: command_id(id),
                client: String::new(),
                user: String::new(),
                method: method.to_owned(),
                data: Bytes::new(),
                asked: self.asked.clone(),
            });
        }

        fn publish(&self, id: u64, topic: &str) {
            let payload = Payload::read(Bytes::from_static(b"1"), 100, PayloadForm::Json).unwrap();
            self.ask(id, topic, Ask::Publish(payload));
        }

        async fn event(&self) -> Event {
            for _ in 0..20_000 {
                if let Some(event) = self.part.queue.take() {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            panic!("no event came")
        }

        /// The next reply: its id, and its error's code.
        async fn reply(&self) -> (u64, u64) {
            loop {
                if let Some(Event::Answered { reply, .. }) = self.part.queue.take() {
                    let text = String::from_utf8_lossy(&reply);
                    let reply: serde_json::Value = serde_json::from_str(&text[text.find("{\"").unwrap()..]).unwrap();
                    return (reply["id"].as_u64().unwrap(), reply["error"]["code"].as_u64().unwrap_or(0));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    fn command_id(id: u64) -> CommandId {
        let command = format!(r#"{{"id":{id},"presence":{{"channel":"a"}}}}"#);
        match Centrifuge::JSON.dialect().command(command.as_bytes(), 1) {
            Ok(crate::protocol::Command::Presence { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    /// After any fault behind the hub, the session gets an answer, its next request is carried out, and no counter
    /// leaks.
    #[tokio::test]
    async fn a_panic_is_answered_and_the_next_request_works() {
        let shard = Shard::start();
        for topic in ["panics", "panics:at:once"] {
            shard.publish(1, topic);
            shard.publish(2, topic);
            assert_eq!([shard.reply().await, shard.reply().await], [(1, 100), (2, 100)], "{topic}");
            shard.publish(3, "good");
            assert_eq!(shard.reply().await, (3, 0), "{topic}");
        }
        shard.ask(4, "good", Ask::Presence);
        assert_eq!(shard.reply().await, (4, 100));
        shard.call(5, "");
        assert_eq!(shard.reply().await, (5, 100));
        shard.publish(6, "good");
        assert_eq!(shard.reply().await, (6, 0));
        assert_eq!(shard.metrics.requests_unanswered.get(), 6);
    }

    /// Long answers are only in progress as far as the user's allowance has room.
    #[tokio::test(start_paused = true)]
    async fn no_more_calls_are_under_way_than_may_be_answered() {
        let shard = Shard::start();
        let room = u64::from(crate::limits::REPLY_BYTES_BURST) / ANSWER_RESERVED_BYTES as u64;
        (1..=room + 100).for_each(|id| shard.call(id, "hangs"));
        let (mut refused, mut hung) = (0, 0);
        for _ in 0..room + 100 {
            match shard.reply().await.1 {
                106 => refused += 1,
                _ => hung += 1,
            }
        }
        // The allowance recovers a little meanwhile.
        assert!(refused > 0 && hung >= room, "{refused} refused, {hung} timed out");
        shard.call(1_000, "hangs");
        assert_eq!(shard.reply().await, (1_000, 100), "there is room again");
    }

    /// Faults in the control plane itself are answered too: for a state, a replay, a topic that is detached, a new
    /// subscription token, and history.
    #[tokio::test]
    async fn faults_of_the_control_plane_are_answered() {
        let shard = Shard::start();
        let (id, session) = (ShardId(0), SessionId { index: SessionIndex::new(0), generation: 1 });
        let topic = || TopicName::new("fault:a").unwrap();
        shard.send(Request::Snapshot { shard: id, ask: RequestId::new(1), topic: topic(), lagging: true });
        let (encoding, after) = (crate::protocol::Encoding::Plain, crate::position::Offset::ZERO);
        shard.send(Request::Replay { shard: id, ask: RequestId::new(2), topic: topic(), encoding, after });
        for ask in [1, 2].map(RequestId::new) {
            let Event::Unanswered { ask: answered, topic } = shard.event().await else { panic!("{ask:?}") };
            assert_eq!((answered, topic.as_str()), (ask, "fault:a"));
        }
        shard.send(Request::Detach { shard: id, slot: Slot(7), topic: topic() });
        let Event::Detached { slot } = shard.event().await else { panic!("not detached") };
        assert_eq!(slot, Slot(7));
        let shown = Shown { token: String::new(), user: String::new(), session };
        let command = command_id(3);
        shard.send(Request::SubRefresh { shard: id, session, id: command, slot: Slot(8), topic: topic(), shown });
        let Event::SubRefreshed { slot, result, .. } = shard.event().await else { panic!("no answer to a token") };
        assert_eq!((slot, result), (Slot(8), Err(TokenError::Fault)));
        let query = crate::protocol::HistoryQuery { limit: 1, since: None, reverse: false };
        shard.ask(4, "fault:a", Ask::History(query));
        assert_eq!(shard.reply().await, (4, 100));
        assert_eq!(shard.metrics.requests_unanswered.get(), 5);
        shard.publish(5, "good");
        assert_eq!(shard.reply().await, (5, 0));
    }

    /// A backend that does not answer times out; publishes that waited behind it are refused, not stored late.
    #[tokio::test(start_paused = true)]
    async fn a_hanging_backend_times_out() {
        let shard = Shard::start();
        shard.publish(1, "hangs");
        shard.publish(2, "good");
        assert_eq!([shard.reply().await, shard.reply().await], [(1, 100), (2, 100)]);
        shard.publish(3, "good");
        assert_eq!(shard.reply().await, (3, 0));
        shard.ask(4, "good", Ask::PresenceStats);
        assert_eq!(shard.reply().await, (4, 100));
        assert_eq!(shard.unseen.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}
