//! The result of a scenario: what clients saw, what was lost, and the time until all was whole.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::chaos::publish_log::{Book, PublishLog};
use crate::client::class::Class;
use crate::report::summary::Check;
use crate::worker::message::Outcome;

/// The sum of the reports of a scenario's sessions.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Seen {
    pub(crate) sessions: usize,
    pub(crate) deliveries: u64,
    /// Connections that ended, by reason.
    pub(crate) closes: BTreeMap<String, u64>,
    /// Connections that failed, by reason.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Subscriptions that recovered, and those that could not.
    pub(crate) recovered: u64,
    pub(crate) not_recovered: u64,
    /// Snapshots of a new epoch.
    pub(crate) epochs: u64,
    pub(crate) stale: u64,
    pub(crate) fresh: u64,
    /// Times that a session came, left, or changed a subscription by its own choice.
    pub(crate) turns: u64,
    /// Deltas that were delivered again.
    pub(crate) repeats: u64,
    pub(crate) faults: u64,
    pub(crate) fault_texts: Vec<String>,
    pub(crate) incomplete: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.deliveries += outcome.deliveries;
        for (all, these) in [(&mut self.closes, &outcome.closes), (&mut self.refusals, &outcome.refusals)] {
            for (why, n) in these {
                *all.entry(why.clone()).or_default() += n;
            }
        }
        self.recovered += outcome.recovered;
        self.not_recovered += outcome.not_recovered;
        self.epochs += outcome.epochs;
        self.stale += outcome.stale;
        self.fresh += outcome.fresh;
        self.turns += outcome.turns;
        self.repeats += outcome.repeats.iter().map(|(_, _, times)| times).sum::<u64>();
        self.faults += outcome.faults;
        self.fault_texts.extend(outcome.fault_texts.iter().cloned());
        self.incomplete += outcome.incomplete;
    }

    /// Text for people.
    pub(crate) fn text(&self, oldest_ms: u64) -> String {
        let mut parts = Vec::new();
        let ended: u64 = self.closes.values().sum();
        parts.push(match ended {
            0 => "all connections stay".to_owned(),
            n => format!("{n} connections end ({})", most(&self.closes)),
        });
        if !self.refusals.is_empty() {
            let refused: u64 = self.refusals.values().sum();
            parts.push(format!("{refused} attempts fail ({})", most(&self.refusals)));
        }
        parts.push(match oldest_ms {
            0..=999 => format!("nothing is older than {oldest_ms} ms"),
            ms => format!("nothing new for up to {:.1} s", ms as f64 / 1e3),
        });
        if self.recovered > 0 {
            parts.push(format!("{} subscriptions recover", self.recovered));
        }
        if self.not_recovered > 0 {
            parts.push(format!("{} do not recover", self.not_recovered));
        }
        if self.epochs > 0 {
            parts.push(format!("{} snapshots of a new epoch", self.epochs));
        }
        if self.stale > 0 {
            parts.push(format!("{} notices of stale topics, {} of topics no longer stale", self.stale, self.fresh));
        }
        if self.repeats > 0 {
            parts.push(format!("{} repeated deliveries", self.repeats));
        }
        parts.join("; ")
    }
}

/// The most frequent reasons.
fn most(whys: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<(&String, &u64)> = whys.iter().collect();
    all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    all.iter().take(3).map(|(why, n)| format!("{why} ×{n}")).collect::<Vec<_>>().join(", ")
}

pub(crate) fn check(name: &str, passed: bool, detail: String) -> Check {
    Check { name: name.to_owned(), passed, detail }
}

/// The check that nothing was lost, repeated, or different at the end.
pub(crate) fn nothing_lost(seen: &Seen, outcomes: &[Outcome], publish_log: &PublishLog) -> Vec<Check> {
    let faults = seen.fault_texts.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    let mut checks = vec![
        check(
            "offsets rise, no delta is missing, no state is older than before",
            seen.faults == 0,
            format!("{} deliveries, {} faults {faults}", seen.deliveries, seen.faults),
        ),
        check(
            "every session got to the last delta that was acknowledged",
            seen.incomplete == 0,
            format!("{} acknowledged, {} sessions did not", publish_log.acknowledged, seen.incomplete),
        ),
    ];
    let mut wrong = Vec::new();
    let mut ends = 0;
    for (at, Book { name, .. }) in publish_log.books.iter().enumerate().filter(|(_, book)| book.class != Class::Stream)
    {
        let want = publish_log.books.get(at).map_or(0, Book::final_digest);
        for (digest, sessions) in outcomes.iter().filter_map(|o| o.finals.get(at)).flatten() {
            ends += sessions;
            if *digest != want {
                wrong.push(format!("{name}: {sessions} sessions"));
            }
        }
    }
    let differ = wrong.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    checks.push(check(
        "every session ended with the state of the publisher",
        wrong.is_empty(),
        format!("{ends} states compared, {} differ {differ}", wrong.len()),
    ));
    let all = outcomes.iter().flat_map(|o| &o.repeats);
    let unasked: Vec<String> = all
        .filter(|(topic, number, _)| !publish_log.may_repeat(*topic, *number))
        .map(|(topic, number, _)| {
            format!("{} of {}", number, publish_log.books.get(*topic as usize).map_or("?", |b| b.name.as_str()))
        })
        .collect();
    let detail = format!(
        "{} deliveries were repeated, {} deltas had been sent again; {} had not {}",
        seen.repeats,
        publish_log.sent_again,
        unasked.len(),
        unasked.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
    );
    checks.push(check("only deltas that the publisher sent again were repeated", unasked.is_empty(), detail));
    checks
}

/// The result of a scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) scenario: String,
    pub(crate) fault: String,
    pub(crate) saw: String,
    /// Events that clients did not see.
    pub(crate) notes: Vec<String>,
    /// Duration of the fault, if it lasts.
    pub(crate) lasted_s: f64,
    /// Time from its end (or from the fault, if it does not last) until all data of all sessions was at
    /// most a second old.
    pub(crate) whole_s: f64,
    /// The same, from the beginning of the fault.
    pub(crate) disturbed_s: f64,
    pub(crate) oldest_ms: u64,
    pub(crate) acknowledged: u64,
    /// Deltas whose acknowledgement was lost, those of them that had arrived, and those that were sent again.
    pub(crate) uncertain: u64,
    pub(crate) arrived: u64,
    pub(crate) sent_again: u64,
    pub(crate) seconds: f64,
    pub(crate) seen: Seen,
    pub(crate) checks: Vec<Check>,
    pub(crate) error: Option<String>,
}

impl Verdict {
    /// The verdict on a scenario that failed to run.
    pub(crate) fn failed(scenario: &str, fault: &str, error: &anyhow::Error) -> Self {
        Self {
            scenario: scenario.to_owned(),
            fault: fault.to_owned(),
            saw: String::new(),
            notes: Vec::new(),
            lasted_s: 0.0,
            whole_s: 0.0,
            disturbed_s: 0.0,
            oldest_ms: 0,
            acknowledged: 0,
            uncertain: 0,
            arrived: 0,
            sent_again: 0,
            seconds: 0.0,
            seen: Seen::default(),
            checks: Vec::new(),
            error: Some(format!("{error:#}")),
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.error.is_none() && self.checks.iter().all(|check| check.passed)
    }

    /// Cell of the table.
    pub(crate) fn lost(&self) -> String {
        if self.passed() {
            return "nothing".to_owned();
        }
        let failed: Vec<&str> = self.checks.iter().filter(|c| !c.passed).map(|c| c.name.as_str()).collect();
        match &self.error {
            Some(error) => format!("not completed: {error}"),
            None => format!("FAILED: {}", failed.join("; ")),
        }
    }

    /// Cell of the table.
    pub(crate) fn whole(&self) -> String {
        match (self.whole_s, self.lasted_s) {
            (0.0, _) if self.disturbed_s > 0.0 => format!("{:.1} s, during the fault", self.disturbed_s),
            (0.0, _) => "undisturbed".to_owned(),
            (whole, lasted) if lasted < 0.5 => format!("{whole:.1} s"),
            (whole, lasted) => format!("{whole:.1} s after a {lasted:.0} s fault"),
        }
    }
}
