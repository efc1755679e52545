//! Publishes at a steady rate through all faults, on a thread of its own. Deltas that were due while the store was away
//! are sent when it is back, in order. Within a topic, a delta is sent only when the one before it is settled.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chaos::publish_log::{Entry, PublishLog};
use crate::chaos::store::{Settled, Store};
use crate::client::shared::monotonic_ns;

/// Most deltas per batch.
const TOGETHER: usize = 500;

/// Time between two attempts while the store is away.
const AGAIN: Duration = Duration::from_millis(100);

/// Time for the last deltas at the end.
const FINISH: Duration = Duration::from_secs(60);

struct Control {
    stop: AtomicBool,
    /// Deltas per second.
    rate: AtomicU64,
}

/// The deltas that are published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Deltas per second.
    pub(crate) rate: u64,
    /// Bytes of each.
    pub(crate) payload: usize,
    /// Time between two pulses: deltas on the first topic, which every session has, to see which are behind.
    pub(crate) pulse: Duration,
    pub(crate) seed: u64,
}

/// The publisher's thread and its log.
pub(crate) struct Publisher {
    control: Arc<Control>,
    publish_log: Arc<Mutex<PublishLog>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

fn locked(publish_log: &Mutex<PublishLog>) -> MutexGuard<'_, PublishLog> {
    publish_log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Begins to publish on the topics of the log.
    pub(crate) fn start(store: Store, publish_log: PublishLog, load: Load) -> Self {
        let control = Arc::new(Control { stop: AtomicBool::new(false), rate: AtomicU64::new(load.rate) });
        let publish_log = Arc::new(Mutex::new(publish_log));
        let work = Work {
            control: control.clone(),
            publish_log: publish_log.clone(),
            store,
            load,
            rng: StdRng::seed_from_u64(load.seed),
            due: VecDeque::new(),
            send: VecDeque::new(),
        };
        Self { control, publish_log, thread: Some(std::thread::spawn(move || work.run())) }
    }

    pub(crate) fn publish_log(&self) -> MutexGuard<'_, PublishLog> {
        locked(&self.publish_log)
    }

    /// Changes the rate, in deltas per second.
    pub(crate) fn set_rate(&self, rate: u64) {
        self.control.rate.store(rate, Ordering::Relaxed);
    }

    /// Whether it has given up.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Sends the deltas that are due, and ends.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        self.control.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
    }
}

struct Work {
    control: Arc<Control>,
    publish_log: Arc<Mutex<PublishLog>>,
    store: Store,
    load: Load,
    rng: StdRng,
    /// Topics on which a delta is due.
    due: VecDeque<usize>,
    /// Deltas that must be sent before them.
    send: VecDeque<Entry>,
}

impl Work {
    fn run(mut self) -> anyhow::Result<()> {
        let (began, began_ns) = (Instant::now(), monotonic_ns());
        let pulse = self.load.pulse;
        let (mut pulses, mut owed, mut before) = (0u32, 0.0, Instant::now());
        let mut deadline = None;
        loop {
            let stopping = self.control.stop.load(Ordering::Relaxed);
            if !stopping {
                while pulse * pulses <= began.elapsed() {
                    let at = u64::try_from((pulse * pulses).as_nanos())?;
                    locked(&self.publish_log).pulses.push(began_ns + at);
                    self.due.push_back(0);
                    pulses += 1;
                }
                let now = Instant::now();
                owed += (now - before).as_secs_f64() * self.control.rate.load(Ordering::Relaxed) as f64;
                before = now;
                let topics = locked(&self.publish_log).books.len();
                while owed >= 1.0 && topics > 1 {
                    owed -= 1.0;
                    self.due.push_back(self.rng.random_range(1..topics));
                }
            }
            if self.due.is_empty() && self.send.is_empty() {
                if stopping {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let batch = self.batch();
            self.publish(batch)?;
            if stopping && Instant::now() > *deadline.get_or_insert(Instant::now() + FINISH) {
                bail!("{} deltas could not be published: {}", self.due.len(), locked(&self.publish_log).last_failure);
            }
        }
    }

    /// The next batch, in which no topic comes twice.
    fn batch(&mut self) -> Vec<Entry> {
        let mut batch: Vec<Entry> = Vec::new();
        while batch.len() < TOGETHER {
            let topic = match (self.send.front(), self.due.front()) {
                (Some(entry), _) => entry.topic,
                (None, Some(topic)) => *topic,
                (None, None) => break,
            };
            if batch.iter().any(|entry| entry.topic == topic) {
                break;
            }
            match self.send.pop_front() {
                Some(entry) => batch.push(entry),
                None => {
                    self.due.pop_front();
                    let number = locked(&self.publish_log).books.get(topic).map_or(0, |book| book.number) + 1;
                    batch.push(self.delta(topic, number));
                }
            }
        }
        batch
    }

    /// `{"t":…,"n":…,"pK":"xxx…"}`, sometimes with a member that is removed.
    fn delta(&mut self, topic: usize, number: u64) -> Entry {
        let member = self.rng.random_range(0..8u8);
        let gone =
            if self.rng.random_range(0..8u8) == 0 { format!("\"p{}\":null,", (member + 1) % 8) } else { String::new() };
        let head = format!("{{\"t\":{},\"n\":{number},{gone}\"p{member}\":\"", monotonic_ns());
        let fill = self.load.payload.saturating_sub(head.len() + 2);
        let filler: String =
            std::iter::repeat_with(|| char::from(b'a' + self.rng.random_range(0..26u8))).take(fill).collect();
        Entry { topic, number, snapshot: false, data: format!("{head}{filler}\"}}") }
    }

    /// Publishes until all of the batch is settled. Deltas that must be sent again go first.
    fn publish(&mut self, mut batch: Vec<Entry>) -> anyhow::Result<()> {
        // The log is locked only once the outcome is known, because other threads read it meanwhile.
        let mut taken = Vec::new();
        let outcome = self.store.send(&mut batch, &mut taken);
        self.acknowledge(&taken)?;
        let Err(error) = outcome else { return Ok(()) };
        {
            let mut publish_log = locked(&self.publish_log);
            publish_log.failures += 1;
            publish_log.uncertain += batch.len() as u64;
            publish_log.last_failure = format!("{error:#}");
        }
        let began = Instant::now();
        let mut settled = Settled::default();
        loop {
            std::thread::sleep(AGAIN);
            let Err(error) = self.store.settle(&mut batch, &mut settled) else { break };
            let stopping = self.control.stop.load(Ordering::Relaxed);
            locked(&self.publish_log).last_failure = format!("{error:#}");
            if stopping && began.elapsed() > FINISH {
                return Err(error).context("the store did not come back");
            }
        }
        let Settled { taken, missing, lost } = settled;
        self.acknowledge(&taken)?;
        let mut publish_log = locked(&self.publish_log);
        publish_log.arrived += taken.len() as u64;
        let mut send = VecDeque::new();
        for partition in lost {
            send.extend(publish_log.all_again(|topic| self.store.partition(topic) == partition));
        }
        for entry in missing {
            publish_log.sends_again(&entry);
            send.push_back(entry);
        }
        send.append(&mut self.send);
        self.send = send;
        Ok(())
    }

    fn acknowledge(&self, taken: &[(Entry, u64)]) -> anyhow::Result<()> {
        let mut publish_log = locked(&self.publish_log);
        taken.iter().try_for_each(|(entry, offset)| publish_log.acknowledge(entry, *offset))
    }
}
