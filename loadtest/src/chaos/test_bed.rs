//! Runs a scenario: sessions that check everything, a publisher that knows which deltas were acknowledged, and the
//! clock of the fault.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index;

use crate::chaos::args::ChaosArgs;
use crate::chaos::interrupt;
use crate::chaos::programs::PING;
use crate::chaos::publish_log::{Book, PublishLog};
use crate::chaos::publisher::{Load, Publisher};
use crate::chaos::store::{Location, Store};
use crate::chaos::timeline::Timeline;
use crate::chaos::verdict::{Seen, Verdict, check, nothing_lost};
use crate::client::class::Class;
use crate::client::shared::{Endurance, monotonic_ns};
use crate::publish::stream_entry::STREAM;
use crate::report::summary::Check;
use crate::worker::message::{Order, Outcome, Progress, Spec};
use crate::worker::pool::WorkerPool;

/// Processes that must live until the final states are compared.
pub(super) type Props = Box<dyn std::any::Any>;

/// Clients leave after 5 s of silence, which is longer than a ping interval, and wait 3 s for a connection.
const CLIENTS: Endurance = Endurance { silence: Duration::from_secs(5), connect: Duration::from_secs(3) };

/// Time for which all sessions must be whole to count as whole again.
const STEADY: Duration = Duration::from_millis(1_500);

/// Time between two looks at the sessions' reports.
const LOOK: Duration = Duration::from_millis(20);

/// Time in which all sessions must get the last delta at the end.
const FINISH: Duration = Duration::from_secs(60);

/// Number of topics of each class, without the pulse, and timing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) streams: usize,
    pub(crate) latest: usize,
    pub(crate) merge: usize,
    /// Subscriptions of each session, with the pulse.
    pub(crate) subscriptions: usize,
    /// Time between two pulses.
    pub(crate) pulse: Duration,
    /// A session whose data is not older than this is whole.
    pub(crate) whole: Duration,
    /// Time-outs of clients.
    pub(crate) clients: Endurance,
}

impl Default for Plan {
    fn default() -> Self {
        let (pulse, whole) = (Duration::from_millis(100), Duration::from_secs(1));
        Self { streams: 6, latest: 4, merge: 6, subscriptions: 8, pulse, whole, clients: CLIENTS }
    }
}

impl Plan {
    fn topics(self) -> Vec<(String, Class)> {
        let of = |class: Class, count: usize| (0..count).map(move |n| (format!("{}:t{n}", class.name()), class));
        let pulse = [("stream:pulse".to_owned(), Class::Stream)];
        let rest = of(Class::Stream, self.streams).chain(of(Class::Latest, self.latest));
        pulse.into_iter().chain(rest).chain(of(Class::Merge, self.merge)).collect()
    }
}

/// Sessions that use the same servers.
pub(crate) struct Group {
    pool: WorkerPool,
    pub(crate) timeline: Timeline,
    pub(crate) last: Progress,
    sessions: usize,
}

/// Differences of a group's sessions from the ordinary ones.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Habits<'a> {
    /// Their network namespace.
    pub(crate) namespace: Option<&'a str>,
    /// One in this many never reads.
    pub(crate) slow_every: usize,
    /// All connect to the first of the servers first.
    pub(crate) one_home: bool,
    /// Whether the scenario continues before they are subscribed.
    pub(crate) unawaited: bool,
}

/// The parts of one scenario.
pub(crate) struct TestBed<'a> {
    pub(crate) args: &'a ChaosArgs,
    pub(crate) plan: Plan,
    directory: tempfile::TempDir,
    topics: Vec<(String, Class)>,
    pub(crate) groups: Vec<Group>,
    /// Sessions without checks.
    idle: Vec<WorkerPool>,
    publisher: Option<Publisher>,
    bar: ProgressBar,
    began: Instant,
    fault_ns: u64,
    healed_ns: u64,
    checks: Vec<Check>,
    notes: Vec<String>,
    /// The store will lose data, so that positions may become invalid.
    pub(crate) may_lose_positions: bool,
}

impl<'a> TestBed<'a> {
    pub(crate) fn new(args: &'a ChaosArgs, plan: Plan, bar: ProgressBar) -> anyhow::Result<Self> {
        Ok(Self {
            args,
            plan,
            directory: tempfile::Builder::new().prefix("nexus-chaos").tempdir()?,
            topics: plan.topics(),
            groups: Vec::new(),
            idle: Vec::new(),
            publisher: None,
            bar,
            began: Instant::now(),
            fault_ns: 0,
            healed_ns: 0,
            checks: Vec::new(),
            notes: Vec::new(),
            may_lose_positions: false,
        })
    }

    /// Folder for the files of this scenario; removed at its end.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn topic_names(&self) -> Vec<String> {
        self.topics.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Duration of a fault: from the command line, or `usual`.
    pub(crate) fn fault_time(&self, usual: Duration) -> Duration {
        self.args.seconds.map_or(usual, Duration::from_secs_f64)
    }

    /// Adds a note to the report.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub(crate) fn check(&mut self, name: &str, passed: bool, detail: String) {
        self.checks.push(check(name, passed, detail));
    }

    pub(crate) fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// The first message to all workers.
    fn spec(&self, servers: &[SocketAddr], homes: usize) -> Spec {
        let classes = self.topics.iter().map(|(_, class)| *class).collect();
        Spec { homes, endurance: Some(self.plan.clients), ..Spec::of(servers.to_vec(), self.topic_names(), classes) }
    }

    /// Starts sessions, which use the servers in turn. Returns when they are subscribed.
    pub(crate) fn sessions(&mut self, servers: &[SocketAddr], count: usize, habits: Habits<'_>) -> anyhow::Result<()> {
        self.say("connecting");
        let mut rng = StdRng::seed_from_u64(self.args.seed ^ self.groups.len() as u64);
        let subscriptions = self.plan.subscriptions.min(self.topics.len());
        let mut pick = || -> Vec<u32> {
            // The first topic is the pulse, which all sessions have.
            let others = index::sample(&mut rng, self.topics.len() - 1, subscriptions.saturating_sub(1));
            [0].into_iter().chain(others.into_iter().filter_map(|at| u32::try_from(at + 1).ok())).collect()
        };
        let homes = if habits.one_home { 1 } else { servers.len() };
        let sessions = (0..count).map(|_| pick()).collect();
        let spec = Spec { sessions, slow_every: habits.slow_every, ..self.spec(servers, homes) };
        let mut pool = WorkerPool::start(&[spec], habits.namespace)?;
        pool.order(&Order::Connect { rate: 2_000.0 })?;
        let timeline = Timeline::new(u64::try_from(self.plan.whole.as_millis())?);
        self.groups.push(Group { pool, timeline, last: Progress::default(), sessions: count });
        let at = self.groups.len() - 1;
        if habits.unawaited {
            return Ok(());
        }
        let limit = Duration::from_secs(60 + count as u64 / 1_000);
        self.until("all sessions stand", limit, |test_bed| {
            test_bed.groups.get(at).is_some_and(|group| group.last.subscribed >= count as u64)
        })
    }

    /// Ends the last group, and returns its last report.
    pub(crate) fn dismiss(&mut self) -> anyhow::Result<Progress> {
        self.listen()?;
        Ok(self.groups.pop().context("no such group")?.last)
    }

    /// Starts sessions that subscribe and never read. They are not checked at the end.
    pub(crate) fn slow_readers(&mut self, server: SocketAddr, topics: &[String], count: usize) -> anyhow::Result<()> {
        let all = (0..topics.len()).filter_map(|at| u32::try_from(at).ok()).collect::<Vec<_>>();
        let spec = Spec {
            topics: topics.to_vec(),
            classes: vec![Class::Stream; topics.len()],
            slow_every: 1,
            sessions: vec![all; count],
            ..self.spec(&[server], 1)
        };
        let mut pool = WorkerPool::start(&[spec], None)?;
        pool.order(&Order::Connect { rate: 2_000.0 })?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while pool.listen().subscribed < count as u64 {
            self.listen()?;
            if Instant::now() > deadline {
                bail!("sessions that do not read cannot be opened");
            }
            std::thread::sleep(LOOK);
        }
        self.idle.push(pool);
        Ok(())
    }

    /// Stops a group's processes, like a machine that hangs, or continues them.
    pub(crate) fn pause_group(&self, group: usize, pause: bool) -> anyhow::Result<()> {
        self.groups.get(group).context("no such group")?.pool.pause(pause)
    }

    /// Sends an order to a group.
    pub(crate) fn order(&mut self, group: usize, order: &Order) -> anyhow::Result<()> {
        self.groups.get_mut(group).context("no such group")?.pool.order(order)
    }

    /// The store on a single Redis with one stream.
    pub(crate) fn store(&self, port: u16) -> Store {
        Store::new(self.topic_names(), Location::Fixed(port), vec![STREAM.to_owned()])
    }

    /// Begins to publish, and waits until all sessions have new deltas.
    pub(crate) fn publish(&mut self, store: Store) -> anyhow::Result<()> {
        let books = self.topics.iter().map(|(name, class)| Book::new(name.clone(), *class)).collect();
        let publish_log = PublishLog { books, ..PublishLog::default() };
        let ChaosArgs { rate, payload, seed, .. } = *self.args;
        let load = Load { rate, payload, seed, pulse: self.plan.pulse };
        self.publisher = Some(Publisher::start(store, publish_log, load));
        self.say("warming up");
        let began_ns = monotonic_ns();
        self.until("all sessions hold what is new", Duration::from_secs(60), |test_bed| {
            test_bed.is_whole(began_ns.max(monotonic_ns().saturating_sub(1_500_000_000)))
                && monotonic_ns() > began_ns + 2_000_000_000
        })
    }

    pub(crate) fn publish_log(&self) -> anyhow::Result<MutexGuard<'_, PublishLog>> {
        Ok(self.publisher.as_ref().context("the scenario has no publisher")?.publish_log())
    }

    pub(crate) fn set_rate(&self, rate: u64) {
        if let Some(publisher) = &self.publisher {
            publisher.set_rate(rate);
        }
    }

    /// Takes the sessions' reports.
    pub(crate) fn listen(&mut self) -> anyhow::Result<()> {
        if interrupt::came() {
            bail!("interrupted");
        }
        if let Some(publisher) = &mut self.publisher
            && publisher.has_ended()
        {
            // Its result says why it ended.
            publisher.finish()?;
            bail!("the publisher has ended");
        }
        let publish_log = self.publisher.as_ref().map(Publisher::publish_log);
        let pulses = publish_log.as_ref().map_or(&[][..], |publish_log| &publish_log.pulses);
        for Group { pool, timeline, last, .. } in &mut self.groups {
            *last = pool.listen_closely(|progress| timeline.take(progress.at_ns, progress.pulse, pulses));
        }
        Ok(())
    }

    /// Waits for this time.
    pub(crate) fn wait(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.listen()?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until the condition holds.
    pub(crate) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut so: impl FnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            self.listen()?;
            if so(self) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let states: Vec<String> = self.groups.iter().map(|g| format!("{:?}", g.last)).collect();
                let failure = self.publisher.as_ref().map(|p| p.publish_log().last_failure.clone()).unwrap_or_default();
                bail!("time-out after {limit:?}: {what} ({}; {failure})", states.join(", "));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn is_whole(&self, since_ns: u64) -> bool {
        self.groups.iter().all(|group| group.timeline.is_whole_since(since_ns))
    }

    /// Marks the beginning of the fault.
    pub(crate) fn fault(&mut self, what: &str) {
        self.say(what);
        self.fault_ns = monotonic_ns();
        self.healed_ns = self.fault_ns;
    }

    /// Marks the end of the fault.
    pub(crate) fn healed(&mut self) {
        self.say("until all sessions are up to date");
        self.healed_ns = monotonic_ns();
    }

    /// Seconds from the end of the fault until the last look at which a session was behind.
    pub(crate) fn whole_after_s(&self) -> f64 {
        self.groups.iter().map(|g| g.timeline.whole_after_s(self.healed_ns)).fold(0.0, f64::max)
    }

    /// Age of the oldest state of a session now, in ms.
    pub(crate) fn age_ms(&self) -> u64 {
        self.groups.iter().filter_map(|g| g.timeline.last()).map(|s| s.age_ms).max().unwrap_or(0)
    }

    /// Number of errors that sessions have found so far.
    pub(crate) fn faults(&self) -> u64 {
        self.groups.iter().map(|group| group.last.faults).sum()
    }

    /// Whether the publisher has given up.
    pub(crate) fn has_ended(&self) -> bool {
        self.publisher.as_ref().is_none_or(Publisher::has_ended)
    }

    /// Forgets the time before the last fault.
    pub(crate) fn forget_timeline(&mut self) {
        let before = self.fault_ns;
        self.groups.iter_mut().for_each(|group| group.timeline.forget_before(before));
    }

    /// Waits until all sessions have new deltas.
    pub(crate) fn whole(&mut self, limit: Duration) -> anyhow::Result<()> {
        let steady = u64::try_from(STEADY.as_nanos())?;
        let from = self.healed_ns;
        self.until("all sessions hold what is new again", limit, |test_bed| {
            let now = monotonic_ns();
            now > from + steady && test_bed.is_whole(now - steady)
        })
    }

    /// The final reports of the workers.
    fn outcomes(&mut self) -> anyhow::Result<Vec<Outcome>> {
        self.say("comparing final states");
        let publisher = self.publisher.as_mut().context("the scenario has no publisher")?;
        publisher.finish()?;
        let (offsets, numbers) = {
            let publish_log = publisher.publish_log();
            let of = |what: fn(&Book) -> u64| publish_log.books.iter().map(what).collect::<Vec<_>>();
            (of(|book| book.offset), of(|book| book.number))
        };
        let order = Order::Finish { offsets, numbers, timeout_s: FINISH.as_secs_f64() };
        self.groups.iter_mut().try_for_each(|group| group.pool.order(&order))?;
        let deadline = Instant::now() + FINISH + PING;
        loop {
            self.groups.iter_mut().for_each(|group| {
                group.pool.listen();
            });
            let all = self.groups.iter().flat_map(|group| &group.pool.outcomes);
            if all.clone().all(Option::is_some) {
                return Ok(all.flatten().cloned().collect());
            }
            if Instant::now() > deadline {
                bail!("a worker does not report");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends the scenario: every session must have the publisher's final state.
    pub(crate) fn finish(mut self, scenario: &str, fault: &str) -> anyhow::Result<Verdict> {
        let outcomes = self.outcomes()?;
        let mut seen = Seen { sessions: self.groups.iter().map(|g| g.sessions).sum(), ..Seen::default() };
        outcomes.iter().for_each(|outcome| seen.add(outcome));
        let from = self.fault_ns;
        let oldest_ms = self.groups.iter().map(|g| g.timeline.oldest_ms(from)).max().unwrap_or(0);
        let whole_s = self.whole_after_s();
        let publish_log = self.publisher.as_ref().context("the scenario has no publisher")?.publish_log();
        let mut checks = nothing_lost(&seen, &outcomes, &publish_log);
        if !self.may_lose_positions {
            let told = format!("{} recovered, {} not", seen.recovered, seen.not_recovered);
            checks.push(check("every subscription that came back was recovered", seen.not_recovered == 0, told));
            let times = format!("it lost some {} times", publish_log.store_lost);
            checks.push(check("the store kept what it acknowledged", publish_log.store_lost == 0, times));
        }
        checks.append(&mut self.checks);
        Ok(Verdict {
            scenario: scenario.to_owned(),
            fault: fault.to_owned(),
            saw: seen.text(oldest_ms),
            notes: std::mem::take(&mut self.notes),
            lasted_s: self.healed_ns.saturating_sub(self.fault_ns) as f64 / 1e9,
            whole_s,
            disturbed_s: self.groups.iter().map(|g| g.timeline.whole_after_s(from)).fold(0.0, f64::max),
            oldest_ms,
            acknowledged: publish_log.acknowledged,
            uncertain: publish_log.uncertain,
            arrived: publish_log.arrived,
            sent_again: publish_log.sent_again,
            seconds: self.began.elapsed().as_secs_f64(),
            checks,
            seen,
            error: None,
        })
    }
}
