//! Where shards' requests are answered, on the control plane: it may look up topics and check signatures, which a
//! shard must not wait for. One task, in the order of the requests; what has to wait itself goes on beside it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::allowance::Answers;
use super::backend::{Answer, Backend};
use super::debt::{Debt, Owed, To};
use super::event::{Ask, Asked, Attach, Attached, Batch, Event, OnItsWay, Request, SessionKey, Shown};
use super::places::{Holder, Place, Places};
use super::putting_off::{LOOK_EVERY, PutOff, Wanted};
use super::queue::QueueSender;
use crate::accounts::Held;
use crate::auth::{Caller, Grant, TokenError, Users, Verifier};
use crate::limits::{ANSWER_RESERVED_BYTES, ANSWER_TIMEOUT, PUBLISH_WAIT};
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal};
use crate::topic::{Payload, PublishError, ShardId, Topics};

/// A client that comes from a node that is ahead waits for this one to get there: looks at it are made after these times,
/// 2.5 s in all. Past it, it is told what its position is worth here.
const CATCH_UP_LOOKS_MS: [u64; 8] = [10, 20, 40, 80, 160, 320, 640, 1_230];

/// The requests of all shards.
pub struct Desk {
    requests: flume::Receiver<Batch>,
    queues: Arc<[QueueSender]>,
    /// Bytes of answers that a session may ask for.
    answers: Answers,
    /// Bytes of states on their way to shards.
    snapshots_max: usize,
}

/// What requests are answered with.
pub(super) struct Clerk {
    queues: Arc<[QueueSender]>,
    pub(super) topics: Arc<Topics>,
    verifier: Arc<Verifier>,
    users: Arc<Users>,
    backend: Arc<dyn Backend>,
    pub(super) metrics: Arc<Metrics>,
    catching_up: Arc<Places>,
    answers: Answers,
    publishes: Mutex<Publishes>,
    put_off: Mutex<PutOff>,
}

/// Publishes that wait for the one before them, of each session that has one under way: they are stored in the order in
/// which they were sent. At most [`PENDING_COMMANDS_MAX`](crate::limits::PENDING_COMMANDS_MAX) of each session.
type Publishes = HashMap<(ShardId, SessionKey), VecDeque<Publish>>;

/// A publish that waits.
struct Publish {
    to: Debt,
    topic: TopicName,
    payload: Payload,
    since: Instant,
    _held: Held,
}

/// A subscribe that is being answered.
struct Attaching {
    attach: Attach,
    grant: Option<Grant>,
    debt: Debt,
    _held: Held,
}

impl Desk {
    pub(super) fn new(
        requests: flume::Receiver<Batch>,
        queues: Arc<[QueueSender]>,
        answers: Answers,
        snapshots_max: usize,
    ) -> Self {
        Self { requests, queues, answers, snapshots_max }
    }

    /// The requests, and what answers them.
    fn staffed(
        self,
        topics: Arc<Topics>,
        verifier: Arc<Verifier>,
        users: Arc<Users>,
        backend: Arc<dyn Backend>,
        metrics: Arc<Metrics>,
    ) -> (flume::Receiver<Batch>, Arc<Clerk>) {
        let Self { requests, queues, answers, snapshots_max } = self;
        let (catching_up, publishes) = (Arc::default(), Mutex::default());
        let put_off = Mutex::new(PutOff::new(snapshots_max));
        let clerk =
            Clerk { queues, topics, verifier, users, backend, metrics, catching_up, answers, publishes, put_off };
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
        loop {
            let nothing_waits = clerk.put_off().is_empty();
            let next = match nothing_waits {
                true => requests.recv_async().await,
                // Shards make room for what was put off, and tell nobody.
                false => match tokio::time::timeout(LOOK_EVERY, requests.recv_async()).await {
                    Ok(next) => next,
                    Err(_) => {
                        clerk.send_put_off();
                        continue;
                    }
                },
            };
            let Ok(mut batch) = next else { return };
            clerk.send_put_off();
            for asked in std::mem::take(&mut batch.requests) {
                // A panic in one request must not end the task that answers all others. Where it has a `Debt`, that
                // answers.
                let answer = AssertUnwindSafe(|| clerk.answer(asked));
                if std::panic::catch_unwind(answer).is_err() {
                    tracing::error!("answering a request of a session panicked");
                }
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
            clerk.send_put_off();
            for mut batch in requests.try_iter() {
                std::mem::take(&mut batch.requests).into_iter().for_each(|asked| clerk.answer(asked));
            }
        }
    }
}

/// A token's error as clients are told of it.
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
    fn attach(&self, attaching: Attaching) {
        let Attaching { attach, grant, mut debt, _held } = attaching;
        let Attach { shard, slot, topic, encoding, since, history, maker, .. } = attach;
        let outcome = self.topics.attach(&topic, shard, slot, encoding, since.as_ref(), history, maker, |attachment| {
            debt.attach(Ok(Box::new(Attached { attachment, grant })));
        });
        if let Err(error) = outcome {
            let code = if error == PublishError::UnknownNamespace { Refusal::UNKNOWN_TOPIC } else { 503 };
            debt.attach(Err(Refusal::new(code, error.to_string()).about(topic.as_str())));
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

    pub(super) fn send(&self, shard: ShardId, event: Event) {
        if let Some(queue) = self.queues.get(usize::from(shard.0)) {
            queue.send(event);
        }
    }

    /// Subscribes, now or once this node has read as far as the client has.
    fn subscribe(self: &Arc<Self>, attaching: Attaching) {
        match self.has_to_catch_up(&attaching.attach) {
            None => self.attach(attaching),
            Some(place) => {
                let clerk = self.clone();
                tokio::spawn(async move {
                    clerk.catch_up(&attaching.attach).await;
                    clerk.attach(attaching);
                    drop(place);
                });
            }
        }
    }

    /// Nothing here waits for a signature: what a token is for goes on when it has been verified. A session's tokens are
    /// verified one after the other, and what it sent behind an `auth`, a `connect` or a `refresh` waits, so no order is lost.
    fn answer(self: &Arc<Self>, asked: Asked) {
        let Asked { request, held } = asked;
        match request {
            Request::Attach(attach, shown) => {
                let debt = Debt::attached(self, &attach);
                let mut attaching = Attaching { attach, grant: None, debt, _held: held };
                let Some(shown) = shown else { return self.subscribe(attaching) };
                let Shown { token, user, session } = *shown;
                let (clerk, topic) = (self.clone(), attaching.attach.topic.clone());
                let caller = caller(attaching.attach.shard, session);
                self.verifier.grant(caller, token, user, topic, move |result| match result {
                    Ok(grant) => clerk.subscribe(Attaching { grant: Some(grant), ..attaching }),
                    Err(error) => {
                        let refusal = token_refusal(&error).about(attaching.attach.topic.as_str());
                        attaching.debt.attach(Err(refusal));
                    }
                });
            }
            Request::Snapshot { shard, ask, topic, lagging } => {
                let admitted = self.put_off().admit(Wanted { shard, ask, topic }, lagging);
                match admitted {
                    Some(wanted) => self.snapshot(wanted),
                    None => {
                        self.metrics.snapshots_put_off.inc();
                    }
                }
            }
            Request::Replay { shard, ask, topic, encoding, after } => {
                let mut debt = Debt::new(self, Owed::Topic(shard, ask, topic.clone()));
                #[cfg(test)]
                tests::fault(&topic);
                self.topics.replay_for(&topic, encoding, after, |replay| {
                    debt.pay(Event::Replayed { ask, replay: replay.map(Box::new) });
                });
            }
            Request::Detach { shard, slot, topic } => {
                let mut debt = Debt::new(self, Owed::Detached(shard, slot, topic.clone()));
                #[cfg(test)]
                tests::fault(&topic);
                self.topics.detach(&topic, shard, slot, || debt.pay(Event::Detached { slot }));
            }
            Request::Authenticate { shard, session, id, purpose, token, held: before } => {
                let clerk = self.clone();
                self.verifier.identity(caller(shard, session), token, move |result| {
                    drop(held);
                    let result = result.and_then(|mut identity| {
                        clerk.users.seat(&mut identity, before.as_deref())?;
                        Ok(identity)
                    });
                    clerk.send(shard, Event::Authenticated { session, id, purpose, result: result.map(Box::new) });
                });
            }
            Request::SubRefresh { shard, session, id, slot, topic, shown } => {
                let Shown { token, user, .. } = shown;
                let mut debt = Debt::new(self, Owed::SubRefreshed(shard, session, id.clone(), slot));
                #[cfg(test)]
                tests::fault(&topic);
                self.verifier.grant(caller(shard, session), token, user, topic, move |result| {
                    drop(held);
                    debt.pay(Event::SubRefreshed { session, id, slot, result });
                });
            }
            Request::Topic { shard, session, dialect, id, topic, ask, asked } => {
                let to = To { shard, session, dialect, id, asked, reserved: 0 };
                let op = match &ask {
                    Ask::History(_) => Op::History,
                    Ask::Presence => Op::Presence,
                    Ask::PresenceStats => Op::PresenceStats,
                    Ask::Publish(_) => Op::Publish,
                };
                let Some(to) = self.may_ask(to, op) else { return };
                match ask {
                    Ask::History(query) => {
                        let mut debt = Debt::reply(self, to, op);
                        #[cfg(test)]
                        tests::fault(&topic);
                        let page = self.topics.history(&topic, &query);
                        let reply = debt.to().map(|to| page.map(|page| dialect.history(&to.id, &page)));
                        debt.settle(reply.unwrap_or_else(|| Ok(Bytes::new())));
                    }
                    Ask::Presence => {
                        let reply = move |id: &CommandId, members: Vec<_>| dialect.presence(id, &members);
                        let debt = Debt::reply(self, to, op);
                        self.later(debt, self.backend.presence(topic), held, reply);
                    }
                    Ask::PresenceStats => {
                        let reply = move |id: &CommandId, count: super::backend::MemberCount| {
                            dialect.presence_stats(id, count.clients, count.users)
                        };
                        let debt = Debt::reply(self, to, op);
                        self.later(debt, self.backend.presence_stats(topic), held, reply);
                    }
                    Ask::Publish(payload) => {
                        let to = Debt::reply(self, to, op);
                        self.publish(Publish { to, topic, payload, since: Instant::now(), _held: held });
                    }
                }
            }
            Request::Call { shard, session, dialect, id, client, user, method, data, asked } => {
                let to = To { shard, session, dialect, id, asked, reserved: 0 };
                let Some(to) = self.may_ask(to, Op::Rpc) else { return };
                let reply = move |id: &CommandId, data: Bytes| dialect.rpc(id, &data);
                let debt = Debt::reply(self, to, Op::Rpc);
                self.later(debt, self.backend.call(client, user, method, data), held, reply);
            }
            Request::Joined { topic, member } => self.backend.joined(&topic, &member),
            Request::Left { topic, member } => self.backend.left(&topic, &member),
        }
    }

    fn put_off(&self) -> MutexGuard<'_, PutOff> {
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(self: &Arc<Self>, Wanted { shard, ask, topic }: Wanted) {
        let mut debt = Debt::new(self, Owed::Topic(shard, ask, topic.clone()));
        #[cfg(test)]
        tests::fault(&topic);
        self.topics.snapshot_for(&topic, |snapshot| {
            debt.pay(Event::Snapshot { ask, snapshot: OnItsWay::new(snapshot) });
        });
    }

    /// Sends what was put off, as far as there is room.
    fn send_put_off(self: &Arc<Self>) {
        loop {
            let Some(wanted) = self.put_off().next() else { return };
            let answer = AssertUnwindSafe(|| self.snapshot(wanted));
            if std::panic::catch_unwind(answer).is_err() {
                tracing::error!("sending the state of a topic panicked");
            }
        }
    }

    /// Whom to answer, unless it asked for too much already: then it is told so. What is answered later counts for something
    /// until then, so that no more of it is under way than the allowance has room for.
    fn may_ask(&self, to: To, op: Op) -> Option<To> {
        // What a publish brings is a few bytes: it is for the rate of commands.
        let refusal = if op == Op::Publish { None } else { self.asked_too_much(&to) };
        let Some(refusal) = refusal else {
            let reserved = if matches!(op, Op::Publish | Op::History) { 0 } else { ANSWER_RESERVED_BYTES };
            to.asked.charge(self.answers, reserved);
            return Some(To { reserved, ..to });
        };
        self.reply(to, op, Err(refusal));
        None
    }

    fn asked_too_much(&self, to: &To) -> Option<Refusal> {
        let exhausted = to.asked.exhausted(self.answers)?;
        let counter = match exhausted.by_address {
            false => &self.metrics.replies_refused,
            true => &self.metrics.replies_refused_by_address,
        };
        counter.inc();
        Some(exhausted.refusal)
    }

    pub(super) fn reply(&self, to: To, op: Op, reply: Result<Bytes, Refusal>) {
        let To { shard, session, dialect, id, asked, reserved } = to;
        asked.give_back(self.answers, reserved);
        let reply = match reply {
            Ok(reply) => {
                asked.charge(self.answers, reply.len());
                reply
            }
            Err(refusal) => {
                let reply = dialect.refusal(&id, op, &refusal);
                asked.charge_refused(self.answers, reply.len());
                reply
            }
        };
        self.send(shard, Event::Answered { session, reply });
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
        let mut line = Line { clerk: self.clone(), key, ended: false };
        tokio::spawn(async move {
            let mut next = Some(publish);
            while let Some(Publish { mut to, topic, payload, since, _held }) = next {
                let result = if since.elapsed() > PUBLISH_WAIT {
                    let reason = "it waited too long for the publishes before it, and was not stored; try again";
                    Err(Refusal::new(503, reason).about(topic.as_str()))
                } else {
                    in_time(line.clerk.backend.publish(topic, payload)).await
                };
                let done = to.to().map(|to| to.dialect.done(&to.id, Op::Publish));
                to.settle(result.map(|()| done.unwrap_or_default()));
                next = line.next();
            }
        });
    }

    fn publishes(&self) -> MutexGuard<'_, Publishes> {
        self.publishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers when the answer is there.
    fn later<T: Send + 'static>(
        &self,
        mut debt: Debt,
        answer: Answer<T>,
        held: Held,
        reply: impl FnOnce(&CommandId, T) -> Bytes + Send + 'static,
    ) {
        tokio::spawn(async move {
            let _held = held;
            let answer = in_time(answer).await;
            let Some(Owed::Reply(to, op)) = &mut debt.owed else { return };
            to.asked.give_back(debt.clerk.answers, std::mem::take(&mut to.reserved));
            // Many may have been asked for at once. What was only read need not be said; what was done must be.
            let refusal = if *op == Op::Presence { debt.clerk.asked_too_much(to) } else { None };
            let result = answer.map(|value| reply(&to.id, value));
            debt.settle(refusal.map_or(result, Err));
        });
    }
}

/// The publishes of a session. If the task dies that stores them, those that wait are answered, and the next begin again.
struct Line {
    clerk: Arc<Clerk>,
    key: (ShardId, SessionKey),
    ended: bool,
}

impl Line {
    /// The next one; with none, the line goes.
    fn next(&mut self) -> Option<Publish> {
        let mut publishes = self.clerk.publishes();
        let next = publishes.get_mut(&self.key).and_then(VecDeque::pop_front);
        if next.is_none() {
            publishes.remove(&self.key);
            self.ended = true;
        }
        next
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.ended {
            let left = self.clerk.publishes().remove(&self.key);
            // Answered without the lock.
            drop(left);
        }
    }
}

/// The answer, if it comes in time: what gives it has a time-out of its own, and this is for one that does not keep it.
async fn in_time<T>(answer: Answer<T>) -> Result<T, Refusal> {
    let late = |_| Err(Refusal::new(503, "there was no answer in time; try again"));
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::allowance::Allowance;
    use super::super::backend::{Member, MemberCount};
    use super::super::{Hub, Parked};
    use super::*;
    use crate::auth::Tokens;
    use crate::config::Config;
    use crate::config::PayloadForm;
    use crate::protocol::{Dialect, MemberInfo};
    use crate::topic::Slot;

    /// What is behind the hub, when it fails: what it does is in the topic's name.
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

    /// Where the desk fails by itself: so does what is asked of such a topic.
    pub(super) fn fault(topic: &TopicName) {
        assert!(!topic.as_str().starts_with("fault:"), "injected");
    }

    /// A desk whose backend fails, and a shard's end that a test has in hand.
    struct Shard {
        requests: flume::Sender<Batch>,
        part: super::super::Part,
        unseen: Arc<AtomicUsize>,
        asked: Allowance,
        metrics: Arc<Metrics>,
    }

    impl Shard {
        fn start() -> Self {
            let (config, metrics) = (Arc::new(Config::default()), Arc::new(Metrics::default()));
            let (hub, parked, desk) = Hub::new(1, 100, "test".into(), config.clone(), &metrics).unwrap();
            let Parked { mut parts, requests, .. } = parked;
            let topics = Arc::new(Topics::new(config.clone(), 1, hub, metrics.clone()));
            let tokens = Arc::new(Tokens::load(&config.access, &metrics).unwrap());
            let verifier = Verifier::at_hand(tokens, &config.limits, metrics.clone());
            tokio::spawn(desk.run(topics, verifier, Users::new(0), Arc::new(Fails), metrics.clone()));
            Self { requests, part: parts.remove(0), unseen: Arc::default(), asked: Allowance::default(), metrics }
        }

        fn ask(&self, id: u64, topic: &str, ask: Ask) {
            let (shard, session) = (ShardId(0), SessionKey { index: 0, generation: 1 });
            let (dialect, id, topic) = (Dialect::CentrifugeJson, command_id(id), TopicName::new(topic).unwrap());
            let asked = self.asked.clone();
            self.send(Request::Topic { shard, session, dialect, id, topic, ask, asked });
        }

        fn send(&self, request: Request) {
            self.requests.send(Batch::new(vec![Asked::new(request)], 100, &self.unseen)).unwrap();
        }

        fn call(&self, id: u64, method: &str) {
            self.send(Request::Call {
                shard: ShardId(0),
                session: SessionKey { index: 0, generation: 1 },
                dialect: Dialect::CentrifugeJson,
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
            panic!("nothing came")
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
        match Dialect::CentrifugeJson.command(command.as_bytes(), 1) {
            Ok(crate::protocol::Command::Presence { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Whatever dies behind the hub, its session has an answer, what it asks next is done, and nothing stays counted.
    #[tokio::test]
    async fn what_dies_is_answered_and_the_next_goes_on() {
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
        assert_eq!(shard.metrics.answers_died.get(), 6);
    }

    /// Answers that may be long are under way only as far as the allowance of their user has room for them.
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
        // While they are asked for, a little comes back.
        assert!(refused > 0 && hung >= room, "{refused} refused, {hung} given up");
        shard.call(1_000, "hangs");
        assert_eq!(shard.reply().await, (1_000, 100), "there is room again");
    }

    /// What fails at the desk itself is answered, too: a state, a replay, a topic that is let go of, a new token of a
    /// subscription, history.
    #[tokio::test]
    async fn what_fails_at_the_desk_is_answered() {
        let shard = Shard::start();
        let (id, session) = (ShardId(0), SessionKey { index: 0, generation: 1 });
        let topic = || TopicName::new("fault:a").unwrap();
        shard.send(Request::Snapshot { shard: id, ask: 1, topic: topic(), lagging: true });
        let (encoding, after) = (crate::protocol::Encoding::Plain, crate::position::Offset::ZERO);
        shard.send(Request::Replay { shard: id, ask: 2, topic: topic(), encoding, after });
        for ask in [1, 2] {
            let Event::Unanswered { ask: answered, topic } = shard.event().await else { panic!("{ask}") };
            assert_eq!((answered, topic.as_str()), (ask, "fault:a"));
        }
        shard.send(Request::Detach { shard: id, slot: Slot(7), topic: topic() });
        let Event::Detached { slot } = shard.event().await else { panic!("it is still wanted") };
        assert_eq!(slot, Slot(7));
        let shown = Shown { token: String::new(), user: String::new(), session };
        let command = command_id(3);
        shard.send(Request::SubRefresh { shard: id, session, id: command, slot: Slot(8), topic: topic(), shown });
        let Event::SubRefreshed { slot, result, .. } = shard.event().await else { panic!("no answer to a token") };
        assert_eq!((slot, result), (Slot(8), Err(TokenError::Fault)));
        let query = crate::protocol::HistoryQuery { limit: 1, since: None, reverse: false };
        shard.ask(4, "fault:a", Ask::History(query));
        assert_eq!(shard.reply().await, (4, 100));
        assert_eq!(shard.metrics.answers_died.get(), 5);
        shard.publish(5, "good");
        assert_eq!(shard.reply().await, (5, 0));
    }

    /// What does not answer is given up, and what waited behind it is refused, not stored after its time.
    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_given_up() {
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
