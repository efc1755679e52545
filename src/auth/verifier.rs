//! Verifies tokens on threads of its own. A signature takes 50 to 400 µs to check and nothing to
//! forge. So no other work waits for signatures, callers take turns, and a caller with too many
//! failed tokens is refused without verification.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;

use super::verified::Verified;
use super::{Grant, Identity, TokenError, Tokens, Verdict};
use crate::config::Limits;
use crate::limits::{
    KEY_WAITERS_MAX, SESSION_KEY_WAITERS_MAX, TOKEN_ADDRESSES_MAX, TOKEN_BYTES_MAX, TOKEN_FAILURES_BURST,
    TOKENS_WAITING_BYTES, TOKENS_WAITING_BYTES_MAX, TOKENS_WAITING_OF_ADDRESS,
};
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::rate::{Rate, Sweep};

/// The caller that shows a token. Each has a queue of its own; queues take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A session, by its shard and a number that is unique in that shard. Its tokens are verified
    /// one by one, in order.
    Session(u16, u64),
    /// An HTTP request, by its client's address.
    Address(IpAddr),
}

/// Verifies tokens, bounded and fair.
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    tokens: Arc<Tokens>,
    metrics: Arc<Metrics>,
    verified: Verified,
    lines: Mutex<Lines>,
    /// Notified when a queue has a job that a thread may begin.
    ready: Condvar,
    started: Instant,
    /// Failures after which the rest of a session's queue is refused; 0 means no limit.
    session_failures: usize,
    /// Failures of an address.
    address_failures: Option<Rate>,
    /// When addresses without debts are forgotten, so that a failure does not search them all.
    sweep: Sweep,
    /// Jobs of one session that may wait.
    session_jobs: usize,
    /// Jobs of one address that may run at once.
    address_busy: usize,
    /// Without one, the caller does its jobs itself, at once.
    runtime: Option<Handle>,
}

#[derive(Default)]
struct Lines {
    by_caller: HashMap<Caller, Line>,
    /// Queues with a job that may begin, each once.
    turns: VecDeque<Caller>,
    bytes: usize,
    /// Jobs of sessions that wait for the key set.
    sessions_for_keys: usize,
    /// Jobs of requests that wait for it: each keeps a place among the connections.
    requests_for_keys: usize,
    /// For the rate of failures, by address, in ns since the start.
    spent: HashMap<IpAddr, u64>,
    stopped: bool,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    bytes: usize,
    busy: usize,
    queued: bool,
    failures: usize,
}

impl Lines {
    /// The number of jobs of sessions, or of requests, that wait for the key set, and the limit.
    fn for_keys(&mut self, of_sessions: bool) -> (&mut usize, usize) {
        match of_sessions {
            true => (&mut self.sessions_for_keys, SESSION_KEY_WAITERS_MAX),
            false => (&mut self.requests_for_keys, KEY_WAITERS_MAX),
        }
    }
}

/// Result of one attempt at a job.
enum Step {
    Good,
    Failed,
    KeyNeeded,
}

/// How a job is done.
enum Way {
    /// An unknown key may be fetched first.
    Verify,
    /// With the keys that are already here.
    VerifyNow,
    Refuse(TokenError),
}

/// Does a job, or says that it cannot be done yet.
type Run = dyn FnMut(&Inner, Way) -> Step + Send;

struct Job {
    bytes: usize,
    fetched: bool,
    run: Box<Run>,
}

/// The answer that a caller waits for. It is always given: a job that dies answers with a fault of
/// this server.
struct Owed<T, F: FnOnce(Result<T, TokenError>)> {
    done: Option<F>,
    metrics: Arc<Metrics>,
    answer: PhantomData<fn(T)>,
}

impl<T, F: FnOnce(Result<T, TokenError>)> Owed<T, F> {
    fn settle(&mut self, result: Result<T, TokenError>) {
        if let Err(error) = &result {
            self.metrics.refused_token(error.refusal());
            tracing::debug!(%error, "a token was refused");
        }
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl<T, F: FnOnce(Result<T, TokenError>)> Drop for Owed<T, F> {
    fn drop(&mut self) {
        if self.done.is_some() {
            tracing::error!("the verification of a token failed; its caller is told to try again");
            self.settle(Err(TokenError::Fault));
        }
    }
}

/// A job that waits for the key set. However the wait ends, the job goes back to the front of its
/// queue.
struct KeyWait {
    inner: Arc<Inner>,
    caller: Caller,
    /// Its queue waits for it.
    holds: bool,
    job: Option<Job>,
}

impl Drop for KeyWait {
    fn drop(&mut self) {
        let Some(mut job) = self.job.take() else { return };
        let (inner, caller) = (&self.inner, self.caller);
        job.fetched = true;
        let mut lines = inner.lines();
        let (waiting, _) = lines.for_keys(self.holds);
        *waiting = waiting.saturating_sub(1);
        lines.bytes += job.bytes;
        let line = lines.by_caller.entry(caller).or_default();
        line.bytes += job.bytes;
        line.busy = line.busy.saturating_sub(usize::from(self.holds));
        line.jobs.push_front(job);
        inner.queue(&mut lines, caller);
    }
}

impl Verifier {
    /// Starts `threads` threads, which end with the process. Callbacks may use `runtime`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        tokens: Arc<Tokens>,
        limits: &Limits,
        metrics: Arc<Metrics>,
        threads: usize,
        runtime: Handle,
    ) -> std::io::Result<Arc<Self>> {
        let verifier = Self::new(tokens, limits, metrics, threads, Some(runtime.clone()));
        for n in 0..threads.max(1) {
            let (inner, runtime) = (verifier.inner.clone(), runtime.clone());
            std::thread::Builder::new().name(format!("tokens-{n}")).spawn(move || {
                let _entered = runtime.enter();
                while let Some((caller, job, way)) = inner.next() {
                    // A panic in a library of cryptography must not cost a thread, and with it all
                    // later tokens.
                    let done = AssertUnwindSafe(|| Inner::perform(&inner, caller, job, way));
                    if std::panic::catch_unwind(done).is_err() {
                        tracing::error!("the verification of a token panicked; it counts as failed");
                        inner.ended(caller, true);
                    }
                }
            })?;
        }
        Ok(verifier)
    }

    /// A verifier that answers at once, on the caller's thread.
    #[cfg(test)]
    pub(crate) fn at_hand(tokens: Arc<Tokens>, limits: &Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::new(tokens, limits, metrics, 1, None)
    }

    fn new(
        tokens: Arc<Tokens>,
        limits: &Limits,
        metrics: Arc<Metrics>,
        threads: usize,
        runtime: Option<Handle>,
    ) -> Arc<Self> {
        let rate = u64::from(limits.token_failures_per_address);
        let inner = Inner {
            tokens,
            metrics,
            verified: Verified::default(),
            lines: Mutex::default(),
            ready: Condvar::new(),
            started: Instant::now(),
            session_failures: limits.token_failures as usize,
            sweep: Sweep::new(TOKEN_ADDRESSES_MAX - 1),
            address_failures: (rate > 0).then(|| Rate::new(rate, rate.saturating_mul(TOKEN_FAILURES_BURST))),
            session_jobs: limits.subscriptions.saturating_add(limits.commands_burst as usize),
            address_busy: (threads / 2).max(1),
            runtime,
        };
        Arc::new(Self { inner: Arc::new(inner) })
    }

    /// Verifies a connection token and calls `done`, usually on another thread.
    pub fn identity(
        &self,
        caller: Caller,
        token: String,
        done: impl FnOnce(Result<Identity, TokenError>) + Send + 'static,
    ) {
        if token.len() > TOKEN_BYTES_MAX {
            done(Err(too_long(&token)));
            return;
        }
        // An address may be refused because of other clients behind it. A token that was valid a
        // moment ago is still accepted.
        if let Caller::Address(_) = caller
            && let Some(known) = self.inner.verified.find(&self.inner.tokens, &token)
        {
            done(known);
            return;
        }
        let bytes = token.len();
        let verify = move |inner: &Inner| match inner.verified.find(&inner.tokens, &token) {
            Some(known) => Verdict::Known(known),
            None => {
                let generation = inner.tokens.generation();
                let verdict = inner.tokens.identity(&token);
                if let Verdict::Known(Ok(identity)) = &verdict {
                    inner.verified.keep(&token, identity, generation);
                }
                verdict
            }
        };
        self.submit(caller, bytes, verify, done);
    }

    /// Verifies a subscription token of `user` for `topic` in the same way.
    pub fn grant(
        &self,
        caller: Caller,
        token: String,
        user: String,
        topic: TopicName,
        done: impl FnOnce(Result<Grant, TokenError>) + Send + 'static,
    ) {
        if token.len() > TOKEN_BYTES_MAX {
            done(Err(too_long(&token)));
            return;
        }
        let bytes = token.len() + user.len();
        self.submit(caller, bytes, move |inner| inner.tokens.grant(&token, &user, &topic), done);
    }

    /// Verifies the connection token of a request from `address`.
    ///
    /// # Errors
    /// Why it was not accepted.
    pub async fn verify(&self, address: IpAddr, token: &str) -> Result<Identity, TokenError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.identity(Caller::Address(address), token.to_owned(), move |result| {
            let _ = tell.send(result);
        });
        told.await.unwrap_or(Err(TokenError::Busy))
    }

    /// Number of tokens that wait to be verified.
    pub fn waiting(&self) -> usize {
        self.inner.lines().by_caller.values().map(|line| line.jobs.len()).sum()
    }

    fn submit<T: 'static>(
        &self,
        caller: Caller,
        bytes: usize,
        verify: impl Fn(&Inner) -> Verdict<T> + Send + 'static,
        done: impl FnOnce(Result<T, TokenError>) + Send + 'static,
    ) {
        let mut owed = Owed { done: Some(done), metrics: self.inner.metrics.clone(), answer: PhantomData };
        let run = move |inner: &Inner, way: Way| {
            let result = match way {
                Way::Refuse(error) => Err(error),
                Way::Verify => match verify(inner) {
                    Verdict::Known(result) => result,
                    Verdict::KeyNeeded(_) => return Step::KeyNeeded,
                },
                Way::VerifyNow => verify(inner).without_fetch(),
            };
            let step = match &result {
                Err(error) if error.is_the_tokens_fault() => Step::Failed,
                _ => Step::Good,
            };
            owed.settle(result);
            step
        };
        Inner::hand_in(&self.inner, caller, Job { bytes, fetched: false, run: Box::new(run) });
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.inner.lines().stopped = true;
        self.inner.ready.notify_all();
    }
}

fn too_long(token: &str) -> TokenError {
    TokenError::Invalid(format!("it has {} bytes, the most is {TOKEN_BYTES_MAX}", token.len()))
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Puts a job into its caller's queue, or refuses it.
    fn hand_in(inner: &Arc<Self>, caller: Caller, mut job: Job) {
        if inner.runtime.is_none() {
            (job.run)(inner, Way::VerifyNow);
            return;
        }
        let mut lines = inner.lines();
        let jobs_max = match caller {
            Caller::Session(..) => inner.session_jobs,
            Caller::Address(_) => TOKENS_WAITING_OF_ADDRESS,
        };
        let total = lines.bytes;
        let line = lines.by_caller.entry(caller).or_default();
        // A queue's first job always has room, otherwise long queues would keep short ones out.
        let full = !line.jobs.is_empty()
            && (line.jobs.len() >= jobs_max
                || line.bytes + job.bytes > TOKENS_WAITING_BYTES
                || total + job.bytes > TOKENS_WAITING_BYTES_MAX);
        if full {
            drop(lines);
            (job.run)(inner, Way::Refuse(TokenError::Busy));
            return;
        }
        line.bytes += job.bytes;
        let bytes = job.bytes;
        line.jobs.push_back(job);
        lines.bytes += bytes;
        inner.queue(&mut lines, caller);
    }

    /// Gives a queue its turn, if it has a job that may begin.
    fn queue(&self, lines: &mut Lines, caller: Caller) {
        let busy_max = match caller {
            Caller::Session(..) => 1,
            Caller::Address(_) => self.address_busy,
        };
        let Some(line) = lines.by_caller.get_mut(&caller) else { return };
        if !line.queued && line.busy < busy_max && !line.jobs.is_empty() {
            line.queued = true;
            lines.turns.push_back(caller);
            self.ready.notify_one();
        }
    }

    /// The next job, once there is one; `None` when the verifier ends.
    fn next(&self) -> Option<(Caller, Job, Way)> {
        let mut lines = self.lines();
        loop {
            if lines.stopped {
                return None;
            }
            let Some(caller) = lines.turns.pop_front() else {
                lines = self.ready.wait(lines).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let spent = match caller {
                Caller::Address(address) => lines.spent.get(&address).copied().unwrap_or(0),
                Caller::Session(..) => 0,
            };
            let Some(line) = lines.by_caller.get_mut(&caller) else { continue };
            line.queued = false;
            let Some(job) = line.jobs.pop_front() else { continue };
            line.bytes -= job.bytes;
            line.busy += 1;
            let too_many = match (caller, self.address_failures) {
                (Caller::Session(..), _) => self.session_failures > 0 && line.failures >= self.session_failures,
                (Caller::Address(_), Some(rate)) => !rate.has_room(spent, self.now_ns()),
                (Caller::Address(_), None) => false,
            };
            let way = match (too_many, job.fetched) {
                (true, _) => Way::Refuse(TokenError::TooManyFailures),
                (false, true) => Way::VerifyNow,
                (false, false) => Way::Verify,
            };
            lines.bytes -= job.bytes;
            self.queue(&mut lines, caller);
            return Some((caller, job, way));
        }
    }

    fn perform(inner: &Arc<Self>, caller: Caller, mut job: Job, way: Way) {
        let failed = match ((job.run)(inner, way), &inner.runtime) {
            (Step::KeyNeeded, Some(runtime)) => {
                Self::wait_for_keys(inner, caller, job, runtime);
                return;
            }
            (step, _) => matches!(step, Step::Failed),
        };
        inner.ended(caller, failed);
    }

    /// Does a job once the key set has been fetched, unless too many already wait for that.
    fn wait_for_keys(inner: &Arc<Self>, caller: Caller, mut job: Job, runtime: &Handle) {
        // A session's later tokens wait for this one; other requests from the same address do not.
        let holds = matches!(caller, Caller::Session(..));
        let waits = {
            let mut lines = inner.lines();
            let (waiting, waiting_max) = lines.for_keys(holds);
            let waits = *waiting < waiting_max;
            *waiting += usize::from(waits);
            waits
        };
        if !waits {
            inner.metrics.key_waits_refused.inc();
            (job.run)(inner, Way::Refuse(TokenError::KeysAwaited));
            inner.ended(caller, false);
            return;
        }
        if !holds {
            inner.ended(caller, false);
        }
        let wait = KeyWait { inner: inner.clone(), caller, holds, job: Some(job) };
        runtime.spawn(async move {
            wait.inner.tokens.fetch().await;
            drop(wait);
        });
    }

    /// A job has ended.
    fn ended(&self, caller: Caller, failed: bool) {
        let now_ns = self.now_ns();
        let mut lines = self.lines();
        if let (true, Caller::Address(address), Some(rate)) = (failed, caller, self.address_failures) {
            if self.sweep.is_due(lines.spent.len()) {
                lines.spent.retain(|_, used| !Rate::is_unused(*used, now_ns));
            }
            if lines.spent.len() < TOKEN_ADDRESSES_MAX || lines.spent.contains_key(&address) {
                rate.charge(lines.spent.entry(address).or_insert(0), now_ns, 1);
            }
        }
        let Some(line) = lines.by_caller.get_mut(&caller) else { return };
        line.busy = line.busy.saturating_sub(1);
        line.failures += usize::from(failed);
        if line.jobs.is_empty() && line.busy == 0 {
            lines.by_caller.remove(&caller);
            return;
        }
        self.queue(&mut lines, caller);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

    use super::*;
    use crate::config::Access;

    const PATIENCE: Duration = Duration::from_secs(20);
    const SESSION: Caller = Caller::Session(0, 1);

    fn started(access: &Access, runtime: &tokio::runtime::Runtime) -> (Arc<Verifier>, Arc<Metrics>) {
        let metrics: Arc<Metrics> = Arc::default();
        let tokens = Arc::new(Tokens::load(access, &metrics).unwrap());
        let verifier = Verifier::start(tokens, &Limits::default(), metrics.clone(), 1, runtime.handle().clone());
        (verifier.unwrap(), metrics)
    }

    fn refused(metrics: &Metrics, reason: &'static str) -> u64 {
        metrics.tokens_refused.get(&crate::metrics::Reason { reason }).map_or(0, |count| count.get())
    }

    /// No token is known that makes the verification panic. If there is one, its session gets an
    /// error, and no later token waits forever.
    #[test]
    fn a_verification_that_dies_is_answered_and_the_next_goes_on() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (verifier, metrics) = started(&Access::default(), &runtime);
        let (tell, told) = mpsc::channel();
        for caller in [SESSION, Caller::Address([127, 0, 0, 1].into())] {
            for n in 0..5 {
                let tell = tell.clone();
                let dies = |_: &Inner| -> Verdict<()> { panic!("injected") };
                verifier.submit(caller, 10, dies, move |result| tell.send((n, result)).unwrap());
                assert_eq!(told.recv_timeout(PATIENCE), Ok((n, Err(TokenError::Fault))));
            }
            let tell = tell.clone();
            verifier.submit(caller, 10, |_| Verdict::Known(Ok(())), move |result| tell.send((9, result)).unwrap());
            assert_eq!(told.recv_timeout(PATIENCE), Ok((9, Ok(()))));
        }
        assert!(TokenError::Fault.is_temporary());
        assert_eq!(refused(&metrics, "fault"), 10);
        assert_eq!(verifier.waiting(), 0);
    }

    /// If the task that waits for the key set dies, its jobs are answered with the keys that are
    /// here, and its places are free.
    #[test]
    fn a_wait_for_keys_that_dies_is_answered_and_gives_its_place_back() {
        let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", hanging.local_addr().unwrap());
        let jwks = serde_json::from_value(serde_json::json!({"url": url})).unwrap();
        let access = Access { jwks: Some(jwks), ..Access::default() };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (verifier, metrics) = started(&access, &runtime);
        let key = EncodingKey::from_rsa_pem(include_bytes!("../../tests/keys/rsa.pem")).unwrap();
        let token = encode(&Header::new(Algorithm::RS256), &serde_json::json!({"exp": 1}), &key).unwrap();
        let (tell, told) = mpsc::channel();
        let also = tell.clone();
        verifier.identity(SESSION, token.clone(), move |result| tell.send(result).unwrap());
        // After it, from the same session.
        verifier.identity(SESSION, token, move |result| also.send(result).unwrap());
        // The fetch has begun: the task waits.
        drop(hanging.accept().unwrap());
        runtime.shutdown_background();
        for _ in 0..2 {
            assert_eq!(told.recv_timeout(PATIENCE), Ok(Err(TokenError::NoKeySet)));
        }
        assert_eq!(refused(&metrics, "no_key_set"), 2);
        let lines = verifier.inner.lines();
        assert_eq!((lines.sessions_for_keys, lines.bytes), (0, 0));
    }
}
