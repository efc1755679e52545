//! Topics leave one stream: cuts, states, and what comes after them.

use std::str::FromStr;
use std::time::Duration;

use ::redis::{Value, cmd, pipe};
use bytes::Bytes;
use tokio::time::Instant;

use super::super::away::{AT_FIELD, Away, CUT_FIELD, Cut, FROM_FIELD, PARTIAL_FIELD, SLICES_MAX, slice_of};
use super::super::continuity::{self, Facts, Progress};
use super::super::entries::{Entry, decode_entry, entries, fields_of, topic_of};
use super::super::id::EntryId;
use super::super::keys::Keys;
use super::super::link::Link;
use super::node::Node;
use super::plan::{ReshardError, Resharding, Say, lost_writes};
use super::scripts::{CUT, DONE, END, HAND_ON};

use crate::clock::unix_ms;
use crate::config::{self, Class};
use crate::source::draft::Draft;
use crate::source::refusal::Refusal;
use crate::topic::{Kind, Known, SourceId, TopicName, home_in};

/// Topics of a slice, about.
pub(super) const SLICE_TOPICS: usize = 50;

/// Entries that are read at once.
const BATCH: usize = 1_000;

/// Entries, and bytes of them, that are appended in one script.
const WRITE_ENTRIES: usize = 250;
const WRITE_BYTES: usize = 1 << 20;

/// Time after which the next slice is cut though entries wait to be handed on.
const CUT_AT_LEAST_EVERY: Duration = Duration::from_secs(2);

/// Time between two looks at whether entries are gone, while none comes, and between two notes on how far it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time for the own reader to come to a cut.
const CUT_WAIT: Duration = Duration::from_secs(60);

/// Attempts to do what failed because a connection broke, and the wait between them.
const ATTEMPTS: u32 = 60;
const ATTEMPT_WAIT: Duration = Duration::from_millis(500);

/// How far topics and entries have come from one stream to another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    run: String,
    /// Entries up to here were handed on.
    upto: EntryId,
    /// How many the stream had been given up to there.
    count: Option<u64>,
    /// Slices that were moved whole.
    slices: u16,
    /// The last topic of the next one that was.
    name: String,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.count.map_or("-".to_owned(), |count| count.to_string());
        write!(f, "{} {} {count} {} {}", self.run, self.upto, self.slices, self.name)
    }
}

impl FromStr for State {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(5, ' ');
        let mut word = || words.next().ok_or(());
        Ok(Self {
            run: word()?.to_owned(),
            upto: word()?.parse().map_err(drop)?,
            count: word()?.parse().ok(),
            slices: word()?.parse().map_err(drop)?,
            name: word()?.to_owned(),
        })
    }
}

/// A stream that topics go to.
struct Target {
    stream: String,
    relay: String,
    link: Option<Link>,
    /// As it is written, which may be of another run.
    written: String,
    state: State,
}

/// Names and values of an entry.
type Fields = Vec<(String, Vec<u8>)>;

/// An entry to be appended, and how far it is with it.
struct Out {
    state: State,
    fields: Fields,
}

impl Out {
    fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Moves topics out of one stream.
pub(super) struct Mover {
    stream: String,
    source: SourceId,
    keys: Keys,
    link: Option<Link>,
    config: config::Redis,
    run: String,
    to: Vec<String>,
    slices: u16,
    away: Option<Away>,
    targets: Vec<Target>,
    /// Entries up to here were looked at.
    cursor: EntryId,
    count: Option<u64>,
    cut_at: Instant,
    /// When it was last looked whether entries are gone.
    looked_at: Instant,
    /// When it was last noted how far entries were looked at.
    noted_at: Instant,
    quiet: Duration,
    /// When the last entry was handed on, or it began, and its topic.
    active: (Instant, String),
    moved: usize,
    handed_on: u64,
    /// Entries of moved topics that every node refuses.
    refused: u64,
    behind_ms: u64,
    skip_lost: bool,
    is_done: bool,
}

impl Mover {
    pub(super) async fn new(
        node: &Node,
        plan: &Resharding,
        stream: &str,
        (run, away, topics): (String, Option<Away>, usize),
    ) -> Result<Self, ReshardError> {
        let redis = node.config.source.redis.clone().unwrap_or_default();
        let source = node.source(stream).ok_or_else(|| ReshardError(format!("{stream} is not read")))?;
        let mut targets = Vec::new();
        let first = away.as_ref().and_then(|away| away.cuts.first().copied()).unwrap_or_default();
        for to in plan.to.iter().filter(|to| *to != stream) {
            let relay = Keys::new(to).relay(stream);
            let mut link = node.masters.connect(to).await?;
            let written: Option<String> = cmd("GET").arg(&relay).query_async(&mut link).await?;
            let written = written.unwrap_or_default();
            let fresh = State { run: run.clone(), upto: first, count: None, slices: 0, name: String::new() };
            let state = written.parse::<State>().ok().filter(|state| state.run == run).unwrap_or(fresh);
            targets.push(Target { stream: to.clone(), relay, link: Some(link), written, state });
        }
        let slices = away.as_ref().map_or_else(|| slices_for(topics), |away| away.slices);
        // From where the one is that is the furthest behind.
        let last = targets.iter().map(|target| &target.state).min_by_key(|state| state.upto);
        let (cursor, count) = last.map_or((first, None), |state| (state.upto, state.count));
        Ok(Self {
            stream: stream.to_owned(),
            source,
            keys: Keys::new(stream),
            link: None,
            config: redis,
            run,
            to: plan.to.clone(),
            slices,
            away,
            targets,
            cursor,
            count,
            cut_at: Instant::now(),
            looked_at: Instant::now(),
            noted_at: Instant::now(),
            quiet: plan.quiet,
            active: (Instant::now(), String::new()),
            moved: 0,
            handed_on: 0,
            refused: 0,
            behind_ms: 0,
            skip_lost: plan.skip_lost,
            is_done: false,
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether topics are still to be moved.
    pub(super) fn is_moving(&self) -> bool {
        !self.is_done
            && (self.cuts() < self.slices || self.targets.iter().any(|target| target.state.slices < self.slices))
    }

    pub(super) fn moved(&self) -> usize {
        self.moved
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn progress(&self) -> String {
        let (since, topic) = &self.active;
        let last = match topic.as_str() {
            "" => "none yet".to_owned(),
            topic => format!("the last {} s ago, of {topic}", since.elapsed().as_secs()),
        };
        let refused = match self.refused {
            0 => String::new(),
            refused => format!(", {refused} refused"),
        };
        format!("{}: {} entries handed on ({last}){refused}, {} ms behind", self.stream, self.handed_on, self.behind_ms)
    }

    fn cuts(&self) -> u16 {
        self.away.as_ref().map_or(0, |away| u16::try_from(away.cuts.len()).unwrap_or(u16::MAX))
    }

    /// One step; whether there was something to do. A connection that broke is made again.
    pub(super) async fn step(&mut self, node: &Node, say: &Say) -> Result<bool, ReshardError> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(node, say).await {
                Ok(done) => return Ok(done),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Redis(error)) => error,
            };
            self.link = None;
            self.targets.iter_mut().for_each(|target| target.link = None);
            if attempt == ATTEMPTS {
                return Err(error.into());
            }
            if attempt == 1 {
                say(format!("{}: {error}; trying again", self.stream));
            }
            attempt += 1;
            tokio::time::sleep(ATTEMPT_WAIT).await;
        }
    }

    async fn attempt(&mut self, node: &Node, say: &Say) -> Result<bool, Trouble> {
        if self.link.is_none() {
            self.link = Some(node.masters.connect(&self.stream).await?);
        }
        for target in &mut self.targets {
            if target.link.is_none() {
                let mut link = node.masters.connect(&target.stream).await?;
                // What was under way when the connection broke may have been done.
                let written: Option<String> = cmd("GET").arg(&target.relay).query_async(&mut link).await?;
                target.written = written.unwrap_or_default();
                if let Some(state) = target.written.parse::<State>().ok().filter(|state| state.run == self.run) {
                    target.state = state;
                }
                target.link = Some(link);
                self.cursor = self.cursor.min(target.state.upto);
                self.count = None;
            }
        }
        if self.targets.iter().any(|target| target.state.slices < self.cuts()) {
            self.move_slice(node).await?;
            say(format!("{}: slice {} of {}, {} topics moved", self.stream, self.cuts(), self.slices, self.moved));
            return Ok(true);
        }
        let is_full = self.hand_on(node, say).await?;
        if self.cuts() < self.slices {
            if !is_full || self.cut_at.elapsed() > CUT_AT_LEAST_EVERY {
                self.cut().await?;
            }
            return Ok(true);
        }
        let Some(end) = self.away.as_ref().and_then(|away| away.end) else {
            if !is_full && self.active.0.elapsed() >= self.quiet {
                self.end().await?;
                return Ok(true);
            }
            return Ok(is_full);
        };
        if self.cursor >= end {
            self.finish().await?;
            say(format!("{}: quiet, {} entries were handed on", self.stream, self.handed_on));
        }
        Ok(true)
    }

    fn cut_value(&self, slice: Option<u16>) -> String {
        let (run, streams, stream) = (self.run.clone(), self.to.clone(), Some(self.stream.clone()));
        let cut = Cut { run, streams, slices: self.slices, slice, stream };
        serde_json::to_string(&cut).unwrap_or_default()
    }

    fn link(&mut self) -> Result<&mut Link, Trouble> {
        self.link.as_mut().ok_or_else(|| Trouble::Final(ReshardError("no connection".into())))
    }

    /// Cuts the next slice.
    async fn cut(&mut self) -> Result<(), Trouble> {
        let slice = self.cuts();
        let value = self.cut_value(Some(slice));
        let mut cut = cmd("EVAL");
        cut.arg(CUT).arg(2).arg(&self.stream).arg(&self.keys.away).arg(&self.run);
        cut.arg(serde_json::to_string(&self.to).unwrap_or_default()).arg(self.slices).arg(slice);
        cut.arg(CUT_FIELD).arg(&value);
        let id: Option<String> = cut.query_async(self.link()?).await?;
        let keys = self.keys.clone();
        let away = Away::read(self.link()?, &keys).await?;
        // One whose answer was lost is there all the same.
        let is_mine = away.as_ref().is_some_and(|away| away.run == self.run && away.cuts.len() > usize::from(slice));
        if id.is_none() && !is_mine {
            return Err(Trouble::Final(ReshardError(format!(
                "{}: another run is under way; let it come to its end",
                self.stream
            ))));
        }
        self.away = away;
        if slice == 0
            && let Some(first) = self.away.as_ref().and_then(|away| away.cuts.first().copied())
        {
            self.cursor = first;
            for target in &mut self.targets {
                target.state.upto = first;
            }
        }
        self.cut_at = Instant::now();
        self.active.0 = Instant::now();
        Ok(())
    }

    /// Appends the states of the slice that was cut last to where its topics go.
    async fn move_slice(&mut self, node: &Node) -> Result<(), Trouble> {
        let slice = self.cuts().saturating_sub(1);
        let Some(cut) = self.away.as_ref().and_then(|away| away.cuts.get(usize::from(slice)).copied()) else {
            return Ok(());
        };
        let until = Instant::now() + CUT_WAIT;
        while node.topics.reached(self.source) < cut.ceiling() {
            if Instant::now() > until {
                let error = format!("{}: its entries up to {cut} cannot be read", self.stream);
                return Err(Trouble::Final(ReshardError(error)));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (own, slices) = (self.source, self.slices);
        let names = node.topics.names_by(|name, source| source == own && is_in_slice(name, slice, slices));
        let mut names: Vec<TopicName> = names.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let Some(away) = self.away.clone() else { return Ok(()) };
        for at in 0..self.targets.len() {
            let Some(target) = self.targets.get(at) else { continue };
            if target.state.slices > slice {
                continue;
            }
            let (stream, mut state) = (target.stream.clone(), target.state.clone());
            let mut outs = Vec::new();
            let mine = names.iter().filter(|name| away.home(name.as_str()) == stream);
            for name in mine.filter(|name| name.as_str() > state.name.as_str()).cloned().collect::<Vec<_>>() {
                let Some(fields) = self.state_of(node, &name, cut) else { continue };
                state.name = name.as_str().to_owned();
                outs.push(Out { state: state.clone(), fields });
                if outs.len() >= WRITE_ENTRIES || outs.iter().map(Out::bytes).sum::<usize>() >= WRITE_BYTES {
                    self.moved += outs.len();
                    self.append(at, std::mem::take(&mut outs), state.clone(), cut.ms).await?;
                }
            }
            self.moved += outs.len();
            (state.slices, state.name) = (slice + 1, String::new());
            self.append(at, outs, state, cut.ms).await?;
        }
        Ok(())
    }

    /// A topic's state as an entry that moves it.
    fn state_of(&self, node: &Node, name: &TopicName, cut: EntryId) -> Option<Fields> {
        let view = node.topics.view(name)?;
        let class = node.config.namespace(name.namespace()).class;
        let data = if class == Class::Stream { Bytes::from_static(b"null") } else { view.snapshot.data.clone() };
        let draft = Draft {
            topic: name.as_str().into(),
            kind: Kind::Move.name().map(Into::into),
            ts: view.snapshot.ts.map(|ts| ts.to_string().into()),
            data: Some(data),
        };
        let is_partial = view.snapshot.known == Known::Incomplete;
        Some(self.handed((cut, Some(view.active_ms), is_partial), draft))
    }

    /// An entry that is handed on: the ID that it had, when that was taken in, and whether deltas may be lacking.
    fn handed(&self, (id, at_ms, is_partial): (EntryId, Option<u64>, bool), draft: Draft<'_>) -> Fields {
        let marks = [
            Some((FROM_FIELD, format!("{id} {}", self.stream).into_bytes())),
            at_ms.map(|at_ms| (AT_FIELD, at_ms.to_string().into_bytes())),
            is_partial.then(|| (PARTIAL_FIELD, b"1".to_vec())),
        ];
        let all = marks.into_iter().flatten().chain(fields_of(draft, &self.config));
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Appends entries to a target, and writes how far it is.
    async fn append(&mut self, at: usize, outs: Vec<Out>, state: State, least_ms: u64) -> Result<(), Trouble> {
        let max_len = self.config.max_len;
        let Some(target) = self.targets.get_mut(at) else { return Ok(()) };
        let Some(link) = target.link.as_mut() else { return Ok(()) };
        let becomes = state.to_string();
        if outs.is_empty() && becomes == target.written {
            return Ok(());
        }
        let mut append = cmd("EVAL");
        append.arg(HAND_ON).arg(2).arg(&target.stream).arg(&target.relay).arg(&target.written).arg(&becomes);
        append.arg(max_len).arg(least_ms);
        for out in &outs {
            append.arg(out.state.to_string()).arg(out.fields.len() * 2);
            for (name, value) in &out.fields {
                append.arg(name).arg(value);
            }
        }
        let (done, found): (u8, String) = append.query_async(link).await?;
        if done == 0 {
            return Err(Trouble::Final(ReshardError(format!(
                "{}: another run hands entries of {} on (it is at {found:?}); let it come to its end",
                target.stream, self.stream
            ))));
        }
        (target.written, target.state) = (becomes, state);
        Ok(())
    }

    /// Hands on what was appended to the stream since, some of it; whether there may be more.
    async fn hand_on(&mut self, node: &Node, say: &Say) -> Result<bool, Trouble> {
        let Some(away) = self.away.clone() else { return Ok(false) };
        let (keys, from) = (self.keys.clone(), format!("({}", self.cursor));
        let mut read = pipe();
        read.cmd("XRANGE").arg(&self.stream).arg(from).arg("+").arg("COUNT").arg(BATCH);
        read.add_command(continuity::ask_first_entry(&keys));
        let (batch, first): (Value, Value) = read.query_async(self.link()?).await?;
        let (batch, first) = (entries(batch), continuity::first_id(first));
        let progress = Progress { last: self.cursor, count: self.count, ..Progress::default() };
        let is_lost = match batch.is_empty() {
            true if self.looked_at.elapsed() < LOOK_EVERY => false,
            true => {
                self.looked_at = Instant::now();
                let facts = Facts::of(self.link()?, &keys).await?;
                self.count = self.count.or(facts.count_upto(self.cursor));
                if facts.newest < self.cursor {
                    return Err(Trouble::Final(lost_writes(&self.stream)));
                }
                facts.is_surely_gone_after(self.cursor, self.count)
            }
            false => continuity::broken_before(self.link()?, &keys, &progress, &batch, first).await?.is_some(),
        };
        if is_lost {
            self.lost(node, &away, say).await?;
            self.count = None;
        }
        let full = batch.len() == BATCH;
        let mut outs: Vec<Vec<Out>> = self.targets.iter().map(|_| Vec::new()).collect();
        let (mut last, mut count) = (self.cursor, self.count);
        for entry in batch {
            (last, count) = (entry.id, count.map(|count| count + 1));
            // Nodes take no delta from it, whatever else it has.
            if Cut::of(&entry.fields, &self.stream).is_some() {
                continue;
            }
            let id = entry.id;
            let (topic, fields) = match self.read(entry, node) {
                Ok(read) => read,
                Err(refusal) => {
                    if refusal.topic.as_deref().is_some_and(|topic| away.covers(&self.stream, topic, id)) {
                        self.refuse(id, &refusal, say);
                    }
                    continue;
                }
            };
            if !away.covers(&self.stream, &topic, id) {
                continue;
            }
            let home = away.home(&topic);
            let Some(at) = self.targets.iter().position(|target| target.stream == home) else { continue };
            let (Some(target), Some(outs)) = (self.targets.get(at), outs.get_mut(at)) else { continue };
            if id > target.state.upto {
                let state = State { upto: id, count, ..target.state.clone() };
                outs.push(Out { state, fields });
                self.behind_ms = unix_ms().saturating_sub(id.ms);
                self.active = (Instant::now(), topic);
            }
        }
        for (at, outs) in outs.into_iter().enumerate() {
            let mut outs = outs.into_iter().peekable();
            while outs.peek().is_some() {
                let (mut chunk, mut bytes) = (Vec::new(), 0);
                while chunk.len() < WRITE_ENTRIES && bytes < WRITE_BYTES {
                    let Some(out) = outs.next() else { break };
                    bytes += out.bytes();
                    chunk.push(out);
                }
                let Some(state) = chunk.last().map(|out| out.state.clone()) else { break };
                self.handed_on += chunk.len() as u64;
                self.append(at, chunk, state, 0).await?;
            }
        }
        // What is not of these topics need not be read again.
        if last != self.cursor {
            for target in self.targets.iter_mut().filter(|target| target.state.upto < last) {
                (target.state.upto, target.state.count) = (last, count);
            }
        }
        (self.cursor, self.count) = (last, count);
        // Nodes that start read the old stream from there on.
        if self.noted_at.elapsed() >= LOOK_EVERY {
            self.noted_at = Instant::now();
            for at in 0..self.targets.len() {
                let Some(state) = self.targets.get(at).map(|target| target.state.clone()) else { continue };
                self.append(at, Vec::new(), state, 0).await?;
            }
        }
        if !full {
            self.behind_ms = 0;
        }
        Ok(full)
    }

    /// The topic of an entry, and the fields with which it is handed on, as nodes read it; or why they refuse it.
    fn read(&self, entry: Entry, node: &Node) -> Result<(String, Fields), Refusal> {
        let Entry { id, fields } = entry;
        // With another ID it would be taken.
        if let Err(error) = id.offset() {
            return Err(error.refusal().of_topic_if_known(topic_of(&fields, &self.config)));
        }
        let form = |topic: &str| node.topics.payload_form(topic);
        let delta = decode_entry(fields, &self.config, node.config.limits.delta_bytes, id.ms, form)?;
        let draft = Draft {
            topic: delta.topic.as_str().into(),
            kind: delta.kind.name().map(Into::into),
            // Without one it is the time of the entry that clients are told.
            ts: Some(delta.ts.unwrap_or(id.ms).to_string().into()),
            data: Some(delta.payload.bytes().clone()),
        };
        // What a deletion ends may be read in other streams later than the time at which it was published.
        let at_ms = (delta.kind != Kind::Deletion).then_some(id.ms);
        let fields = self.handed((id, at_ms, false), draft);
        Ok((delta.topic, fields))
    }

    /// Counts an entry that nodes refuse in the old stream, so that it is not handed on. The first is said.
    fn refuse(&mut self, id: EntryId, refusal: &Refusal, say: &Say) {
        self.refused += 1;
        if self.refused == 1 {
            say(format!(
                "{}: the entry {id} is not handed on, as every node refuses it: {}",
                self.stream,
                refusal.told(true)
            ));
        }
    }

    /// Entries are gone that were not handed on.
    async fn lost(&mut self, node: &Node, away: &Away, say: &Say) -> Result<(), Trouble> {
        if !self.skip_lost {
            return Err(Trouble::Final(ReshardError(format!(
                "{}: entries after {} were trimmed before they were handed on, so that moved topics lack deltas. With \
                 --skip-lost it goes on, and their states are incomplete until they are published whole (kind=snapshot)",
                self.stream, self.cursor
            ))));
        }
        say(format!("{}: entries after {} are gone; states are incomplete", self.stream, self.cursor));
        for at in 0..self.targets.len() {
            let Some(target) = self.targets.get(at) else { continue };
            let (stream, state) = (target.stream.clone(), target.state.clone());
            let Some(source) = node.source(&stream) else { continue };
            let may_lack = |name: &str| {
                let slice = usize::from(slice_of(name, away.slices));
                let was_here =
                    home_in(name, &node.config.source.redis.as_ref().map(|r| r.streams.clone()).unwrap_or_default())
                        == self.stream;
                was_here && away.home(name) == stream && slice < away.cuts.len()
            };
            let names = node.topics.names_by(|name, found| found == source && may_lack(name));
            let mark = |name: &TopicName| Draft {
                topic: name.as_str().to_owned().into(),
                kind: Kind::HistoryRemoval.name().map(Into::into),
                ts: None,
                data: Some(Bytes::from_static(b"null")),
            };
            let fields = |name: &TopicName| self.handed((self.cursor, None, true), mark(name));
            let outs = names.iter().map(|(name, _)| Out { state: state.clone(), fields: fields(name) });
            let outs: Vec<Out> = outs.collect();
            let mut outs = outs.into_iter().peekable();
            while outs.peek().is_some() {
                let chunk: Vec<Out> = outs.by_ref().take(WRITE_ENTRIES).collect();
                self.append(at, chunk, state.clone(), 0).await?;
            }
        }
        Ok(())
    }

    /// From here on nothing more is handed on.
    async fn end(&mut self) -> Result<(), Trouble> {
        let value = self.cut_value(None);
        let mut end = cmd("EVAL");
        end.arg(END).arg(2).arg(&self.stream).arg(&self.keys.away).arg(&self.run).arg(CUT_FIELD).arg(&value);
        let id: Option<String> = end.query_async(self.link()?).await?;
        let keys = self.keys.clone();
        self.away = Away::read(self.link()?, &keys).await?.filter(|away| away.run == self.run);
        if id.is_none() || self.away.is_none() {
            return Err(Trouble::Final(ReshardError(format!("{}: another run has begun", self.stream))));
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Trouble> {
        let mut done = cmd("EVAL");
        done.arg(DONE).arg(2).arg(&self.stream).arg(&self.keys.away).arg(&self.run);
        done.query_async::<Value>(self.link()?).await?;
        for target in &mut self.targets {
            if let Some(link) = target.link.as_mut() {
                cmd("DEL").arg(&target.relay).query_async::<Value>(link).await?;
            }
        }
        self.is_done = true;
        Ok(())
    }
}

/// Why a step failed.
enum Trouble {
    /// It may be tried again.
    Redis(::redis::RedisError),
    Final(ReshardError),
}

impl From<::redis::RedisError> for Trouble {
    fn from(error: ::redis::RedisError) -> Self {
        Self::Redis(error)
    }
}

/// How many slices names are divided into.
fn slices_for(topics: usize) -> u16 {
    u16::try_from(topics / SLICE_TOPICS + 1).unwrap_or(u16::MAX).min(SLICES_MAX)
}

fn is_in_slice(name: &str, slice: u16, slices: u16) -> bool {
    slice_of(name, slices) == slice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_read_as_it_was_written() {
        for (count, name) in [(None, ""), (Some(7), "a:b"), (Some(0), "größe:€")] {
            let id = EntryId { ms: 5, seq: 1 };
            let state = State { run: "r".into(), upto: id, count, slices: 3, name: name.into() };
            assert_eq!(state.to_string().parse::<State>(), Ok(state));
        }
        assert!("r 5 1 3 x".parse::<State>().is_err() && "".parse::<State>().is_err());
    }
}
