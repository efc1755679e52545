//! The worker processes of a run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;

use anyhow::Context as _;
use rustix::process::Signal;

use crate::servers::process::Process;
use crate::worker::message::{Message, Order, Outcome, Progress, Spec};

/// A worker process, and the pipes to it.
pub(crate) struct Worker {
    pub(crate) process: Process,
    stdin: ChildStdin,
    pub(crate) messages: mpsc::Receiver<Message>,
}

impl Worker {
    /// Starts a worker, in a network namespace if one is named.
    pub(crate) fn start(spec: &Spec, namespace: Option<&str>) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let mut command = match namespace {
            None => Command::new(own),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(own);
                command
            }
        };
        // The run ends its workers; Ctrl-C at a terminal must not.
        let mut child = command
            .arg("worker")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a worker cannot be started")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(message) => {
                        if sender.send(message).is_err() {
                            return;
                        }
                    }
                    Err(error) => eprintln!("worker: {error}: {line}"),
                }
            }
        });
        serde_json::to_writer(&mut stdin, spec)?;
        stdin.write_all(b"\n")?;
        stdin.flush()?;
        Ok(Self { process: Process(child), stdin, messages })
    }

    pub(crate) fn order(&mut self, order: &Order) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.stdin, order)?;
        self.stdin.write_all(b"\n")?;
        self.stdin.flush().context("a worker has ended")
    }
}

/// The workers, and the last message of each.
pub(crate) struct WorkerPool {
    workers: Vec<Worker>,
    last: Vec<Progress>,
    pub(crate) outcomes: Vec<Option<Outcome>>,
}

impl WorkerPool {
    /// Starts them, in a network namespace if one is given.
    pub(crate) fn start(specs: &[Spec], namespace: Option<&str>) -> anyhow::Result<Self> {
        let workers = specs.iter().map(|spec| Worker::start(spec, namespace)).collect::<anyhow::Result<Vec<_>>>()?;
        let count = workers.len();
        Ok(Self { workers, last: vec![Progress::default(); count], outcomes: vec![None; count] })
    }

    pub(crate) fn order(&mut self, order: &Order) -> anyhow::Result<()> {
        self.workers.iter_mut().try_for_each(|w| w.order(order))
    }

    /// Sends SIGSTOP or SIGCONT to all of them.
    pub(crate) fn pause(&self, pause: bool) -> anyhow::Result<()> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        self.workers.iter().try_for_each(|worker| worker.process.signal(signal))
    }

    /// Takes the messages of the workers, and returns their sum.
    pub(crate) fn listen(&mut self) -> Progress {
        self.listen_closely(|_| {})
    }

    /// As `listen`; also calls `tell` with the combined progress after each report.
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
