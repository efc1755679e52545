//! The worker processes of a run.

use rustix::process::Signal;

use crate::process::Worker;
use crate::worker::{Message, Order, Outcome, Progress, Spec};

/// Workers and what was last heard of each.
pub(crate) struct Crew {
    workers: Vec<Worker>,
    last: Vec<Progress>,
    pub(crate) outcomes: Vec<Option<Outcome>>,
}

impl Crew {
    /// Starts them, in a network namespace if one is named.
    pub(crate) fn start(specs: &[Spec], namespace: Option<&str>) -> anyhow::Result<Self> {
        let workers = specs.iter().map(|spec| Worker::start(spec, namespace)).collect::<anyhow::Result<Vec<_>>>()?;
        let count = workers.len();
        Ok(Self { workers, last: vec![Progress::default(); count], outcomes: vec![None; count] })
    }

    pub(crate) fn order(&mut self, order: &Order) -> anyhow::Result<()> {
        self.workers.iter_mut().try_for_each(|w| w.order(order))
    }

    /// SIGSTOP or SIGCONT to all of them.
    pub(crate) fn pause(&self, pause: bool) -> anyhow::Result<()> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        self.workers.iter().try_for_each(|worker| worker.process.signal(signal))
    }

    /// Takes in what the workers said.
    pub(crate) fn listen(&mut self) -> Progress {
        self.listen_closely(|_| {})
    }

    /// The same, and tells what all together were at after each thing that one of them said.
    pub(crate) fn listen_closely(&mut self, mut tell: impl FnMut(&Progress)) -> Progress {
        for at in 0..self.workers.len() {
            let Some(messages) = self.workers.get(at).map(|w| w.messages.try_iter().collect::<Vec<_>>()) else {
                continue;
            };
            for message in messages {
                match message {
                    Message::Progress(progress) => {
                        let at_ns = progress.at_ns;
                        if let Some(last) = self.last.get_mut(at) {
                            *last = progress;
                        }
                        tell(&Progress { at_ns, ..self.sum() });
                    }
                    Message::Outcome(told) => {
                        if let Some(outcome) = self.outcomes.get_mut(at) {
                            *outcome = Some(*told);
                        }
                    }
                }
            }
        }
        self.sum()
    }

    fn sum(&self) -> Progress {
        let lowest = self.last.iter().map(|p| p.pulse).min().unwrap_or(0);
        self.last.iter().fold(Progress { pulse: lowest, ..Progress::default() }, |sum, p| Progress {
            connected: sum.connected + p.connected,
            subscribed: sum.subscribed + p.subscribed,
            standing: sum.standing + p.standing,
            deliveries: sum.deliveries + p.deliveries,
            connect_failures: sum.connect_failures + p.connect_failures,
            at_ns: sum.at_ns.max(p.at_ns),
            pulse: sum.pulse,
            faults: sum.faults + p.faults,
            stale: sum.stale + p.stale,
            fresh: sum.fresh + p.fresh,
            recovered: sum.recovered + p.recovered,
            not_recovered: sum.not_recovered + p.not_recovered,
        })
    }
}
