//! Publishing line by line: batches, progress, and the line at which it stops.

use std::collections::HashSet;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};

use super::args::PublishArgs;
use super::input::{self, shown};
use super::interrupts::Interrupts;
use super::lines::{Line, Lines};
use crate::cli::output::say;
use crate::cli::target::{Fault, Placed, Target, Warning};
use crate::source::draft::Draft;
use crate::source::precheck::Checked;

/// Deltas that are sent together when many are waiting.
const TOGETHER: usize = 500;

/// Bytes of such a batch.
const TOGETHER_BYTES: usize = 1024 * 1024;

/// Time to wait for another line before the available ones are sent.
const WAIT: Duration = Duration::from_millis(2);

/// Bytes of a line besides its data.
const AROUND_DATA: usize = 4_096;

/// Refused lines that are reported one by one. Further ones are counted.
const TOLD_MAX: u64 = 100;

/// Different warnings that are reported. Further ones are not.
const SUSPICIONS_MAX: usize = 100;

/// Time between two progress lines if there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The end of the input or a failure.
enum End {
    /// All lines were read.
    Over,
    /// A line was refused, or the target failed.
    Stopped(String),
    Interrupted,
}

/// Result of one look at the input.
enum Step {
    Taken,
    /// No further line came for a while.
    Idle,
    End(End),
}

struct Run<'a> {
    args: &'a PublishArgs,
    target: Target,
    progress: Progress,
    /// Checked deltas, with their line numbers.
    waiting: Vec<(u64, Checked)>,
    waiting_bytes: usize,
    published: u64,
    refused: u64,
    /// The last line, and its position.
    last: Option<(u64, String)>,
    suspicions: HashSet<String>,
    has_said_notes: bool,
}

pub(super) async fn run(args: &PublishArgs, interrupts: &mut Interrupts) -> anyhow::Result<()> {
    let path = args.lines.as_deref().unwrap_or(Path::new("-"));
    let (reader, bytes) = input::open(path).await?;
    let ready = async {
        let mut target = Target::connect(&args.target).await?;
        target.look_for_streams().await?;
        anyhow::Ok(target)
    };
    let target = tokio::select! {
        ready = ready => ready?,
        () = interrupts.next() => bail!("interrupted before anything was published"),
    };
    // Data in base64, and text with escapes, is longer than the published delta.
    let line_max = target.bytes_max().saturating_mul(2).saturating_add(AROUND_DATA);
    let mut lines = Lines::new(reader, line_max);
    let mut run = Run {
        args,
        target,
        progress: Progress::new(args.quiet, bytes)?,
        waiting: Vec::new(),
        waiting_bytes: 0,
        published: 0,
        refused: 0,
        last: None,
        suspicions: HashSet::new(),
        has_said_notes: false,
    };
    let end = run.all(&mut lines, interrupts).await.with_context(|| shown(path))?;
    run.report(end, lines.number())
}

impl Run<'_> {
    async fn all<R: tokio::io::AsyncRead + Unpin>(
        &mut self,
        lines: &mut Lines<R>,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<End> {
        loop {
            // Lines that are already available go together; a line that arrives alone goes at once.
            let is_empty = self.waiting.is_empty();
            let wait = async { if is_empty { std::future::pending().await } else { tokio::time::sleep(WAIT).await } };
            let step = tokio::select! {
                biased;
                () = interrupts.next() => Step::End(End::Interrupted),
                line = lines.next() => match line? {
                    Some(line) => self.take(lines.number(), line).map_or_else(Step::End, |()| Step::Taken),
                    None => Step::End(End::Over),
                },
                () = wait => Step::Idle,
            };
            let is_full = self.waiting.len() >= TOGETHER || self.waiting_bytes >= TOGETHER_BYTES;
            if matches!(step, Step::Taken) && !is_full {
                continue;
            }
            let mut is_over = matches!(step, Step::End(End::Interrupted));
            let sent = {
                let mut send = std::pin::pin!(self.send());
                loop {
                    tokio::select! {
                        biased;
                        sent = &mut send => break sent,
                        // The first interrupt is handled after the outcome of sent deltas is known.
                        () = interrupts.next() => {
                            if std::mem::replace(&mut is_over, true) {
                                return Ok(End::Stopped("interrupted; what was sent last is not known".into()));
                            }
                        }
                    }
                }
            };
            self.progress.tell(self.published, self.refused, lines.bytes());
            match (sent, step) {
                (Err(why), _) => return Ok(End::Stopped(why)),
                (Ok(()), Step::End(end)) => return Ok(end),
                (Ok(()), Step::Taken | Step::Idle) if is_over => return Ok(End::Interrupted),
                (Ok(()), Step::Taken | Step::Idle) => {}
            }
        }
    }

    /// Takes a line in, or returns the end that it causes.
    fn take(&mut self, number: u64, line: Line) -> Result<(), End> {
        let outcome = match line {
            Line::Text(text) => self.check(text),
            Line::TooLong => Err(format!("it has more bytes than a delta may, {}", self.target.bytes_max())),
        };
        match outcome {
            Ok(delta) => {
                self.waiting_bytes += delta.payload.bytes().len();
                self.waiting.push((number, delta));
                Ok(())
            }
            Err(why) => self.refuse(number, &why),
        }
    }

    fn check(&mut self, text: Bytes) -> Result<Checked, String> {
        let draft = Draft::of_line(text).map_err(|fault| fault.to_string())?;
        let delta = self.target.check(draft).map_err(|refusal| refusal.told(true))?;
        if let Some(suspicion) = &delta.suspicion {
            self.suspect(&suspicion.text, || suspicion.told(false));
        }
        Ok(delta)
    }

    /// Reports each warning once.
    fn suspect(&mut self, text: &str, told: impl FnOnce() -> String) {
        if self.suspicions.len() < SUSPICIONS_MAX && self.suspicions.insert(text.to_owned()) {
            self.progress.say(&told());
        }
    }

    /// Counts a line that is not published. It ends the command, unless `--keep-going` is given.
    fn refuse(&mut self, number: u64, why: &str) -> Result<(), End> {
        self.refused += 1;
        if self.refused <= TOLD_MAX {
            self.progress.say(&format!("line {number}: {why}"));
        }
        if self.args.keep_going {
            return Ok(());
        }
        Err(End::Stopped(format!("stopped at line {number}; --keep-going goes on after refused lines")))
    }

    /// Sends the waiting deltas, or returns why the command ends.
    async fn send(&mut self) -> Result<(), String> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.has_said_notes, true) {
            self.target.notes().iter().filter(|_| !self.args.quiet).for_each(|note| self.progress.say(note));
        }
        let deltas: Vec<&Checked> = self.waiting.iter().map(|(_, delta)| delta).collect();
        let results = self.target.send(&deltas).await;
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let (mut failed, mut stopped) = (None, None);
        for ((number, delta), result) in waiting.into_iter().zip(results) {
            match result {
                Ok(Placed { place, warnings }) => {
                    for Warning { text, told } in warnings {
                        self.suspect(&text, || told);
                    }
                    self.published += 1;
                    let told = format!("{}\t{place}", delta.topic);
                    if self.args.ids {
                        say(&told).map_err(|error| error.to_string())?;
                    }
                    self.last = Some((number, told));
                }
                Err(fault @ Fault::Refused(..)) => {
                    if let Err(End::Stopped(why)) = self.refuse(number, &format!("`{}`: {fault}", delta.topic)) {
                        stopped.get_or_insert(why);
                    }
                }
                Err(Fault::Failed(why)) => {
                    failed.get_or_insert((number, why));
                }
            }
        }
        if let Some((number, why)) = failed {
            return Err(format!(
                "line {number}: {why}. The lines before it are published; those from it on are not confirmed, and some may have \
                 been taken"
            ));
        }
        // A server accepts the valid lines of a batch.
        stopped.map_or(Ok(()), |why| Err(format!("{why} (lines sent together with it were published)")))
    }

    fn report(self, end: End, number: u64) -> anyhow::Result<()> {
        let Self { published, refused, last, progress, .. } = self;
        progress.finish();
        if refused > TOLD_MAX {
            eprintln!("and {} more refused lines", refused - TOLD_MAX);
        }
        let last = last.map(|(number, told)| format!("; the last, line {number}: {}", told.replace('\t', " ")));
        eprintln!("{published} published, {refused} refused{}", last.unwrap_or_default());
        match end {
            End::Over if refused > 0 => bail!("{refused} of {number} lines were refused"),
            End::Over => Ok(()),
            End::Stopped(why) => bail!("{why}"),
            End::Interrupted => bail!("interrupted after line {number}"),
        }
    }
}

/// Progress: updated all the time on a terminal, printed now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    bytes: Option<u64>,
    began: Instant,
    /// When the next progress line is due, if lines are printed.
    due: Option<Instant>,
}

impl Progress {
    fn new(quiet: bool, bytes: Option<u64>) -> anyhow::Result<Self> {
        let (began, is_terminal) = (Instant::now(), std::io::stderr().is_terminal());
        let bar = if quiet || !is_terminal { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}")?);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let due = (!quiet && !is_terminal).then(|| began + TELL_EVERY);
        Ok(Self { bar, bytes, began, due })
    }

    fn tell(&mut self, published: u64, refused: u64, read: u64) {
        let now = Instant::now();
        let is_due = self.due.is_some_and(|due| due <= now);
        if self.bar.is_hidden() && !is_due {
            return;
        }
        let of = self.bytes.filter(|bytes| *bytes > 0).map(|bytes| format!(", {} % of the file", read * 100 / bytes));
        let rate = published as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let text = format!("{published} published, {refused} refused, {rate:.0}/s{}", of.unwrap_or_default());
        if is_due {
            self.due = Some(now + TELL_EVERY);
            eprintln!("{text}");
        }
        self.bar.set_message(text);
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("nexus-push: {text}"));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
