//! Topics that `nexus-push reshard` moves to other streams, while all else goes on: the real command, killed and run again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use super::super::masters::Masters;
use super::super::reshard::{ReshardFailed, Resharding, reshard_at};
use super::server::{Door, Server};
use crate::config::Config;

/// The command's place among the nodes, as far as the network goes.
const COMMAND: usize = usize::MAX;

/// What the command says when publishers may use the new list.
const SWITCH: &str = "switch the publishers now";

/// Streams before and after, and how far it is.
pub(super) struct Moves {
    pub(super) from: Vec<String>,
    pub(super) to: Vec<String>,
    quiet: Duration,
    lines: Arc<Mutex<Vec<String>>>,
    task: Option<JoinHandle<Result<(), ReshardFailed>>>,
    /// Publishers may use the new list.
    pub(super) is_switching: bool,
    pub(super) is_done: bool,
    pub(super) began_in_peace: bool,
    /// Entries are gone that the command had not handed on, or may be.
    pub(super) may_lack: bool,
}

impl Moves {
    pub(super) fn new(numbers: &mut StdRng) -> Self {
        let lists = [("a", "ab"), ("ab", "a"), ("ab", "ba"), ("a", "b"), ("ab", "bc"), ("a", "abc")];
        let (from, to) = lists[numbers.random_range(0..lists.len())];
        let list = |list: &str| list.chars().map(String::from).collect();
        Self {
            from: list(from),
            to: list(to),
            quiet: Duration::from_millis(numbers.random_range(0..4_000)),
            lines: Arc::default(),
            task: None,
            is_switching: false,
            is_done: false,
            began_in_peace: false,
            may_lack: false,
        }
    }

    /// All streams, those that topics are in first.
    pub(super) fn streams(&self) -> Vec<String> {
        let new = self.to.iter().filter(|stream| !self.from.contains(stream));
        self.from.iter().chain(new).cloned().collect()
    }

    /// Back to where topics were.
    pub(super) fn turn_round(&mut self) {
        std::mem::swap(&mut self.from, &mut self.to);
        (self.is_switching, self.is_done) = (false, false);
    }

    pub(super) fn is_running(&self) -> bool {
        self.task.is_some()
    }

    /// Runs the command.
    pub(super) fn start(&mut self, config: &Config, server: &Arc<Server>) {
        let plan = Resharding {
            from: self.from.clone(),
            to: self.to.clone(),
            dry_run: false,
            quiet: self.quiet,
            skip_lost: self.may_lack,
        };
        let (config, lines) = (config.clone(), self.lines.clone());
        let masters = Masters::simulated(Door::new(server.clone(), COMMAND));
        self.task = Some(tokio::spawn(async move {
            let say = move |line| lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            let redis = config.source.redis.clone().unwrap_or_default();
            reshard_at(masters, &config, &redis, &plan, &say).await
        }));
    }

    /// Ends the command wherever it is.
    pub(super) fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// What the command has said since, and how it ended if it has.
    pub(super) async fn hear(&mut self) -> (Vec<String>, Option<Result<(), String>>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).split_off(0);
        self.is_switching |= lines.iter().any(|line| line.contains(SWITCH));
        let Some(task) = self.task.take_if(|task| task.is_finished()) else { return (lines, None) };
        let outcome = match task.await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.is_done |= outcome.is_ok();
        (lines, Some(outcome))
    }
}
