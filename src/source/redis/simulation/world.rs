//! Some nodes, their Redis, publishers and clients, and all that befalls them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::continuity::Progress;
use super::super::id::EntryId;
use super::super::masters::Masters;
use super::super::reader::RedisSource;
use super::client::{Client, Heard};
use super::data::{Lacks, Log};
use super::moves::Moves;
use super::oracle::{Oracle, Seen, class_of};
use super::server::{Door, Server};
use super::weather::{self, Weather};
use crate::clock;
use crate::config::{self, Class, Config, Namespace};
use crate::metrics::Metrics;
use crate::source::{Feed, Source as _, SourceStatus};
use crate::topic::{Nowhere, SourceId, TopicName, Topics};

/// 2027-01-15T08:00:00Z, Unix ms.
pub(super) const START_MS: u64 = 1_800_000_000_000;

/// Things that happen in one world.
const EVENTS: usize = 50;

/// Nodes that run at once at most.
const NODES_MAX: usize = 3;

/// Seconds for everything to become good again, once nothing happens any more.
const PEACE_S: u64 = 35;

/// Time for nodes to notice that a backup was put back.
const PUT_BACK_TIME: Duration = Duration::from_secs(6);

/// Topics, by the class that their names begin with.
pub(super) const TOPICS: [&str; 6] = ["m:a", "m:b", "m:c", "l:a", "l:b", "s:a"];

/// Keys beside a stream. A world deletes them one at a time.
const BESIDE: [&str; 8] = ["epoch", "epoch", "snapshots", "position", "count", "ended", "expired", "strays"];

/// What was looked at.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) whole: usize,
    pub(super) incomplete: usize,
    pub(super) none: usize,
    pub(super) moves: usize,
    pub(super) recovered: usize,
    pub(super) told: usize,
    /// Left incomplete at the end.
    pub(super) left: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.whole += other.whole;
        self.incomplete += other.incomplete;
        self.none += other.none;
        self.moves += other.moves;
        self.recovered += other.recovered;
        self.told += other.told;
        self.left += other.left;
    }
}

pub(super) struct Node {
    pub(super) number: usize,
    pub(super) topics: Arc<Topics>,
    pub(super) heard: Arc<Heard>,
    progress: Vec<Arc<Mutex<Progress>>>,
    /// Entries that it took in, by its own order of streams.
    taken: Vec<Arc<Mutex<BTreeMap<EntryId, bool>>>>,
    /// The streams, in its own order.
    streams: Vec<String>,
    pub(super) statuses: Vec<Arc<SourceStatus>>,
    stop: CancellationToken,
    began_ms: u64,
    /// How far it had read by the end of each past, by stream.
    pasts: Vec<Vec<EntryId>>,
}

impl Node {
    fn start(number: usize, config: &Arc<Config>, server: &Arc<Server>) -> Self {
        let redis = config.source.redis.clone().unwrap_or_default();
        let (metrics, heard, stop) =
            (Arc::new(Metrics::default()), Arc::new(Heard::default()), CancellationToken::new());
        let streams: Vec<String> = redis.all_streams().cloned().collect();
        let topics = Arc::new(Topics::new(config.clone(), streams.len(), heard.clone(), metrics.clone()));
        let feed = Feed::new(topics.clone(), Arc::new(Nowhere));
        let (mut progress, mut statuses, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for partition in 0..streams.len() {
            let masters = Masters::simulated(Door::new(server.clone(), number));
            let partition = u16::try_from(partition).unwrap_or_default();
            let source = RedisSource::new(config, &redis, masters, partition, metrics.clone());
            progress.push(source.progress_of());
            taken.push(source.taken.clone());
            statuses.push(source.status());
            tokio::spawn(Box::new(source).run(feed.clone(), stop.clone()));
        }
        let (sweeping, stopped) = (topics.clone(), stop.clone());
        tokio::spawn(async move {
            while !stopped.is_cancelled() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                sweeping.sweep();
            }
        });
        let began_ms = clock::unix_ms();
        Self { number, topics, heard, progress, taken, streams, statuses, stop, began_ms, pasts: Vec::new() }
    }

    pub(super) fn is_loaded(&self, source: SourceId) -> bool {
        self.statuses.get(usize::from(source.0)).is_some_and(|status| status.is_loaded()) && {
            let progress = self.progress.get(usize::from(source.0));
            progress.is_some_and(|progress| progress.lock().unwrap_or_else(PoisonError::into_inner).loaded)
        }
    }

    /// Whether it has read all that there is.
    fn has_all(&self, server: &Server) -> bool {
        let inner = server.inner();
        let last = |stream: &String| inner.data.streams.get(stream).map_or(EntryId::default(), |stream| stream.last);
        let read = |progress: &Mutex<Progress>| *progress.lock().unwrap_or_else(PoisonError::into_inner);
        let is_read =
            |(stream, read): (&String, Progress)| read.loaded && read.seen.is_some() && read.last == last(stream);
        self.streams.iter().zip(self.progress.iter().map(|progress| read(progress))).all(is_read)
    }

    /// The epochs of streams, as the node has them.
    pub(super) fn epochs(&self, streams: &[String]) -> Vec<String> {
        let epoch = |at: usize| self.topics.epoch(SourceId(u16::try_from(at).unwrap_or_default())).to_string();
        streams.iter().map(|stream| self.place_of(stream).map(epoch).unwrap_or_default()).collect()
    }

    fn place_of(&self, stream: &str) -> Option<usize> {
        self.streams.iter().position(|own| own == stream)
    }

    pub(super) fn seen(&self, streams: &[String]) -> Seen {
        let last = |progress: &Mutex<Progress>| progress.lock().unwrap_or_else(PoisonError::into_inner).last;
        let is_read = |at: &usize| !u16::try_from(*at).is_ok_and(|at| self.topics.needs_reload(SourceId(at)));
        let read = |stream: &String| {
            self.place_of(stream).filter(is_read).map(|at| last(&self.progress[at])).unwrap_or_default()
        };
        Seen {
            began_ms: self.began_ms,
            read: streams.iter().map(read).collect(),
            pasts: self.pasts.clone(),
            delivered: None,
        }
    }
}

/// See above.
pub(super) struct World {
    pub(super) weather: Weather,
    numbers: StdRng,
    /// Of nodes that are started now.
    pub(super) config: Arc<Config>,
    /// All streams that there are.
    pub(super) streams: Vec<String>,
    pub(super) moves: Option<Moves>,
    pub(super) server: Arc<Server>,
    pub(super) nodes: Vec<Node>,
    nodes_ever: usize,
    pub(super) clients: Vec<Client>,
    pub(super) oracle: Oracle,
    /// Values are never the same twice.
    next: u64,
    pub(super) tally: Tally,
    lines: Option<Vec<String>>,
    /// What was wrong with what a client was told.
    pub(super) fault: Option<String>,
    /// A publisher gave an ID after which none has an offset.
    pub(super) is_ruined: bool,
}

impl World {
    /// Lives through it.
    pub(super) async fn live(seed: u64, weather: Weather, is_told: bool) -> Result<Tally, String> {
        clock::simulated::set(Some(START_MS));
        let mut world = Self::new(seed, weather);
        world.lines = is_told.then(Vec::new);
        let told = format!("{:?} lacks {:?}", world.config.namespace["m"].expire_after, world.server.inner().lacks);
        world.say(|| told);
        let outcome = world.pass().await;
        for node in &world.nodes {
            node.stop.cancel();
        }
        world.moves.iter_mut().for_each(Moves::kill);
        clock::simulated::set(None);
        let tally = world.tally;
        outcome.map(|()| tally).map_err(|fault| {
            let lines = world.lines.unwrap_or_default();
            let from = lines.len().saturating_sub(weather::lines());
            format!("{}{fault}", lines[from..].iter().map(|line| format!("{line}\n")).collect::<String>())
        })
    }

    /// Redis' clock is an hour ahead for some seconds: nodes that look at it then, and one that is started then, go on to tell of
    /// all topics, as a node does that was cut off.
    pub(super) async fn live_through_a_jump_of_the_clock() -> Result<(), String> {
        clock::simulated::set(Some(START_MS));
        let outcome = Self::new(1, Weather::Fair).jump().await;
        clock::simulated::set(None);
        outcome
    }

    async fn jump(mut self) -> Result<(), String> {
        let mut config = Config::clone(&self.config);
        config.namespace.values_mut().for_each(|namespace| namespace.expire_after = Duration::from_secs(600));
        self.config = Arc::new(config);
        (0..2).for_each(|_| self.start_node());
        tokio::time::sleep(Duration::from_secs(1)).await;
        for topic in TOPICS {
            self.server.command(&["XADD", "a", "*", "topic", topic, "data", "{\"p\":1}"]);
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        self.server.change(|inner| inner.cut.insert(0));
        self.server.change(|inner| inner.ahead_ms = 3_600_000);
        self.start_node();
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.server.change(|inner| inner.ahead_ms = 0);
        self.server.change(|inner| inner.cut.clear());
        tokio::time::sleep(Duration::from_secs(30)).await;
        for node in &self.nodes {
            for topic in TOPICS {
                let name = TopicName::new(topic).map_err(|error| error.to_string())?;
                let view = node.topics.view(&name);
                if view.is_none_or(|view| view.snapshot.known.may_lack()) {
                    return Err(format!("node {} does not tell {topic} as whole", node.number));
                }
            }
            node.stop.cancel();
        }
        Ok(())
    }

    fn new(seed: u64, weather: Weather) -> Self {
        let mut numbers = StdRng::seed_from_u64(seed);
        let moves = matches!(weather, Weather::Moving).then(|| Moves::new(&mut numbers));
        let streams: Vec<String> = match (weather, &moves) {
            _ if weather.is_several() => vec!["a".into(), "b".into()],
            (_, Some(moves)) => moves.streams(),
            _ => vec!["a".into()],
        };
        let expire_s = match weather {
            // Where the source's clock jumps by more than a topic may be quiet, ends by time mean nothing.
            Weather::Odd => 0,
            _ => *[0, 15, 40].choose(&mut numbers).unwrap_or(&0),
        };
        let mut config = Config::default();
        for (name, class) in [("m", Class::Merge), ("l", Class::Latest), ("s", Class::Stream)] {
            let namespace = Namespace {
                class,
                expire_after: Duration::from_secs(expire_s),
                history_size: numbers.random_range(1..8),
                history_ttl: Duration::from_secs(numbers.random_range(1..30)),
                ..Namespace::default()
            };
            config.namespace.insert(name.into(), namespace);
        }
        config.limits.topic_idle = Duration::from_secs(numbers.random_range(1..10));
        config.source.redis = Some(config::Redis {
            streams: moves.as_ref().map_or_else(|| streams.clone(), |moves| moves.from.clone()),
            read_also: moves.as_ref().map_or_else(Vec::new, |moves| streams[moves.from.len()..].to_vec()),
            snapshot_every: Duration::from_secs(numbers.random_range(2..8)),
            ..config::Redis::default()
        });
        let mut sometimes = |of: u32| numbers.random_range(0..of) == 0;
        let lacks = match weather {
            Weather::Fair | Weather::Several | Weather::Moving => Lacks::default(),
            _ if weather.is_trimmed() || weather.is_lossy() => Lacks { info: sometimes(4), ..Lacks::default() },
            _ => Lacks { info: sometimes(6), time: sometimes(4), run: sometimes(4), memory: false },
        };
        let server = Server::new(seed, lacks);
        server.inner().way_ms = *[0, 2, 30, 400].choose(&mut numbers).unwrap_or(&2);
        if weather == Weather::Odd || weather.is_trimmed() {
            server.inner().held = 50;
        }
        let clients = TOPICS.iter().cycle().take(8).zip(0..).map(|(topic, number)| {
            Client::new(number, TopicName::new(topic).unwrap_or_else(|_| unreachable!("a topic's name")))
        });
        Self {
            weather,
            clients: clients.collect(),
            oracle: Oracle::new(&streams, expire_s * 1_000, weather.is_several()),
            config: Arc::new(config),
            streams,
            moves,
            server,
            nodes: Vec::new(),
            nodes_ever: 0,
            numbers,
            next: 0,
            tally: Tally::default(),
            lines: None,
            fault: None,
            is_ruined: false,
        }
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let now_ms = clock::unix_ms() - START_MS;
            let line = format!("{:>8}.{:03} {}", now_ms / 1_000, now_ms % 1_000, line());
            tracing::info!("{line}");
            lines.push(line);
        }
    }

    fn one_in(&mut self, of: u32) -> bool {
        self.numbers.random_range(0..of) == 0
    }

    async fn pass(&mut self) -> Result<(), String> {
        self.start_node();
        tokio::task::yield_now().await;
        for _ in 0..EVENTS {
            self.happen().await;
            let most = if self.one_in(5) { 1_500 } else { 40 };
            let ms = self.numbers.random_range(0..=most);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            self.hear_moves(false).await?;
            self.judge()?;
        }
        self.be_at_peace();
        if let Some(moves) = self.moves.as_mut().filter(|moves| !moves.is_running() && !moves.is_done) {
            moves.start(&self.config, &self.server);
            moves.began_in_peace = true;
        }
        for _ in 0..PEACE_S / 5 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.hear_moves(true).await?;
            self.judge()?;
        }
        self.judge_the_end()
    }

    async fn happen(&mut self) {
        match self.numbers.random_range(0..100) {
            0..55 => self.publish(),
            55..58 => {
                let s = self.numbers.random_range(1..25);
                tokio::time::sleep(Duration::from_secs(s)).await;
            }
            58..62 => {
                self.start_node();
                tokio::task::yield_now().await;
            }
            62..65 => self.stop_node(),
            65..78 => self.move_client(),
            78..83 => self.cut(),
            _ => match self.weather {
                Weather::Fair | Weather::Several => self.publish(),
                Weather::Trimmed | Weather::SeveralTrimmed => self.trim(),
                Weather::Lossy | Weather::SeveralLossy => self.lose().await,
                Weather::Odd => self.be_odd(),
                Weather::Moving => self.move_topics(),
            },
        }
    }

    fn publish(&mut self) {
        let count = if self.one_in(8) { self.numbers.random_range(5..30) } else { 1 };
        for _ in 0..count {
            let topic = *TOPICS.choose(&mut self.numbers).unwrap_or(&"m:a");
            let streams = self.publishers_streams();
            let mut stream = crate::topic::home_in(topic, &streams).to_owned();
            self.next += 1;
            let (kind, data) = self.delta(topic);
            // Some publishers do not know the rule.
            if self.weather.is_several() && self.one_in(12) {
                stream = streams.choose(&mut self.numbers).cloned().unwrap_or(stream);
            }
            let data = data.to_string();
            let mut words = vec!["XADD", &stream];
            let keep = self.numbers.random_range(0..12_u32).to_string();
            if self.weather.is_trimmed() && self.one_in(20) {
                words.extend(["MAXLEN", &keep]);
            }
            let field = if self.next.is_multiple_of(7) { "channel" } else { "topic" };
            words.extend(["*", field, topic, "data", &data]);
            if !kind.is_empty() {
                words.extend(["kind", kind]);
            }
            let answer = self.server.command(&words);
            self.say(|| format!("{} -> {answer:?}", words.join(" ")));
        }
        self.look();
    }

    fn delta(&mut self, topic: &str) -> (&'static str, Value) {
        let value = self.next;
        if self.one_in(25) {
            return ("delete", Value::Null);
        }
        if class_of(topic) != Class::Merge {
            return ("", json!(value));
        }
        let kind = if self.one_in(7) { "snapshot" } else { "" };
        let member = *["p", "q", "r", "t"].choose(&mut self.numbers).unwrap_or(&"p");
        match self.numbers.random_range(0..8) {
            0 => (kind, json!({ member: null })),
            1 => (kind, json!({ member: { "x": value } })),
            2 => (kind, json!({ member: value, "z": { "y": value } })),
            // To be refused.
            3 if self.one_in(4) => ("", json!([value])),
            _ => (kind, json!({ member: value })),
        }
    }

    /// The list that a publisher uses: while topics move, some have the old one yet.
    fn publishers_streams(&mut self) -> Vec<String> {
        let Some(moves) = &self.moves else { return self.streams.clone() };
        match (moves.is_switching, moves.is_done) {
            (false, _) => moves.from.clone(),
            // After its end nothing of moved topics is taken from an old stream.
            (true, false) if self.numbers.random_range(0..2) == 0 => moves.from.clone(),
            (true, true) if self.numbers.random_range(0..20) == 0 => moves.from.clone(),
            (true, _) => moves.to.clone(),
        }
    }

    /// The command is run, or killed; its nodes are given the new list once it has moved all.
    fn move_topics(&mut self) {
        let Some(mut moves) = self.moves.take() else { return };
        let line = match (moves.is_running(), moves.is_done) {
            (true, _) if self.one_in(3) => {
                moves.kill();
                "the command is killed"
            }
            (false, false) if self.one_in(2) => {
                moves.start(&self.config, &self.server);
                "the command is run"
            }
            (false, true) if self.one_in(3) => {
                moves.turn_round();
                "topics are to go back"
            }
            _ => "",
        };
        if moves.is_switching && self.one_in(4) {
            let mut config = Config::clone(&self.config);
            if let Some(redis) = config.source.redis.as_mut() {
                redis.streams.clone_from(&moves.to);
                redis.read_also = moves.from.iter().filter(|stream| !moves.to.contains(stream)).cloned().collect();
            }
            self.config = Arc::new(config);
        }
        self.moves = Some(moves);
        match line {
            "" => self.publish(),
            line => self.say(|| line.into()),
        }
    }

    /// What the command says, and whether it fails.
    async fn hear_moves(&mut self, is_peace: bool) -> Result<(), String> {
        let Some(moves) = &mut self.moves else { return Ok(()) };
        let (lines, outcome) = moves.hear().await;
        lines.into_iter().for_each(|line| self.say(|| format!("reshard: {line}")));
        match outcome {
            Some(ref outcome) => self.say(|| format!("the command ends: {outcome:?}")),
            None => return Ok(()),
        }
        match (outcome, &mut self.moves) {
            (Some(Err(error)), Some(moves)) if is_peace => {
                if moves.began_in_peace {
                    return Err(format!("topics cannot be moved: {error}"));
                }
                moves.start(&self.config, &self.server);
                moves.began_in_peace = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What a node has read of the streams as they are. Where it stands in another past of one, it has read nothing of this.
    pub(super) fn seen(&self, node: &Node) -> Seen {
        let mut seen = node.seen(&self.streams);
        let inner = self.server.inner();
        for (stream, read) in self.streams.iter().zip(&mut seen.read) {
            let log = inner.data.streams.get(stream).map(|stream| &stream.log);
            if self.weather == Weather::SeveralTrimmed {
                let taken =
                    node.place_of(stream).map(|at| node.taken[at].lock().unwrap_or_else(PoisonError::into_inner));
                seen.delivered.get_or_insert_default().push(taken.map(|taken| taken.clone()).unwrap_or_default());
            }
            if log.is_none_or(|log| log.binary_search_by_key(read, |(id, _)| *id).is_err()) {
                *read = EntryId::default();
            }
        }
        seen
    }

    pub(super) fn look(&mut self) {
        let (inner, none) = (self.server.inner(), Log::new());
        let log = |stream: &String| inner.data.streams.get(stream).map_or(&none, |stream| &stream.log);
        let logs: Vec<&Log> = self.streams.iter().map(log).collect();
        self.oracle.look(&logs);
    }

    fn start_node(&mut self) {
        if self.nodes.len() < NODES_MAX {
            let number = self.nodes_ever;
            self.nodes_ever += 1;
            self.nodes.push(Node::start(number, &self.config, &self.server));
            self.say(|| format!("node {number} starts"));
        }
    }

    /// Ends a node: as an operator does, or all of a sudden.
    fn stop_node(&mut self) {
        if self.nodes.len() < 2 {
            return;
        }
        let at = self.numbers.random_range(0..self.nodes.len());
        let node = self.nodes.swap_remove(at);
        let is_killed = self.one_in(2);
        self.say(|| format!("node {} {}", node.number, if is_killed { "is killed" } else { "stops" }));
        if is_killed {
            self.server.change(|inner| inner.cut.insert(node.number));
        }
        node.stop.cancel();
        for client in self.clients.iter_mut().filter(|client| client.node == Some(node.number)) {
            client.node = None;
        }
    }

    fn cut(&mut self) {
        let Some(number) = self.nodes.choose(&mut self.numbers).map(|node| node.number) else { return };
        let is_cut = self.server.inner().cut.contains(&number);
        match (is_cut, self.one_in(2)) {
            (true, _) => {
                self.server.change(|inner| inner.cut.remove(&number));
                self.say(|| format!("node {number} reaches Redis again"));
            }
            (false, true) => {
                self.server.change(|inner| inner.cut.insert(number));
                self.say(|| format!("node {number} is cut off"));
            }
            (false, false) => {
                self.server.change(super::server::Inner::break_connections);
                self.say(|| "all connections break".into());
            }
        }
    }

    fn trim(&mut self) {
        let keep = self.numbers.random_range(0..15);
        let stream = self.one_stream();
        if self.one_in(6) {
            return self.delete_one(&stream);
        }
        let trims = self.one_in(2);
        self.server.change(|inner| {
            if let Some(stream) = inner.data.streams.get_mut(&stream).filter(|_| trims) {
                stream.trim(keep);
            }
        });
        match trims {
            true => self.say(|| format!("{stream} is trimmed to {keep}")),
            false => self.publish(),
        }
    }

    /// An operator deletes an entry that all nodes have read. A server without `XINFO` does not show that, so there it is not
    /// tried.
    fn delete_one(&mut self, stream: &str) {
        if self.server.inner().lacks.info || !self.nodes.iter().all(|node| node.has_all(&self.server)) {
            return self.publish();
        }
        let at = self.numbers.random_range(0..8);
        let id = self.server.change(|inner| {
            let stream = inner.data.streams.get_mut(stream)?;
            let id = *stream.entries.keys().rev().nth(at)?;
            stream.delete(id);
            Some(id)
        });
        self.say(|| format!("XDEL {stream} -> {id:?}"));
    }

    /// An older backup is put back with all connections as they were, and publishers, who give IDs of their own, go on with the same
    /// ones and other values. Nodes notice that with their next reads.
    async fn put_back(&mut self) {
        let is_read = |node: &Node| !self.server.inner().cut.contains(&node.number) && node.has_all(&self.server);
        if !self.nodes.iter().any(is_read) {
            return self.publish();
        }
        let lost = self.server.change(|inner| {
            let before = std::mem::replace(&mut inner.data, inner.replica.clone());
            let new = |stream: &String| inner.data.streams.get(stream).map_or(EntryId::default(), |stream| stream.last);
            let log = |(name, stream): (&String, &super::data::Stream)| {
                let from = new(name);
                let ids = stream.log.iter().map(|(id, _)| *id).filter(|id| *id > from);
                ids.map(|id| (name.clone(), id)).collect::<Vec<_>>()
            };
            before.streams.iter().flat_map(log).collect::<Vec<_>>()
        });
        self.begin_anew();
        let given = if self.one_in(3) { lost.len().saturating_sub(1) } else { lost.len() };
        for (stream, id) in lost.iter().take(given) {
            let topic = *TOPICS.choose(&mut self.numbers).unwrap_or(&"m:a");
            self.next += 1;
            let data = json!({ "p": self.next }).to_string();
            let answer = self.server.command(&["XADD", stream, &id.to_string(), "topic", topic, "data", &data]);
            self.say(|| format!("XADD {stream} {id} {topic} {data} -> {answer:?}"));
        }
        self.say(|| format!("a backup is put back, and {given} of {} IDs given again", lost.len()));
        self.look();
        if self.one_in(2) {
            self.start_node();
        }
        tokio::time::sleep(PUT_BACK_TIME).await;
    }

    /// The streams are others from now on.
    fn begin_anew(&mut self) {
        let pasts = self.oracle.lineages().count();
        for node in &mut self.nodes {
            let read = node.seen(&self.streams).read;
            // Of what was before it was started it has read nothing.
            node.pasts.resize(pasts - 1, Vec::new());
            node.pasts.push(read);
        }
        self.oracle.begin_anew();
    }

    fn one_stream(&mut self) -> String {
        self.streams.choose(&mut self.numbers).cloned().unwrap_or_default()
    }

    async fn lose(&mut self) {
        let stream = self.one_stream();
        if self.one_in(16) {
            return self.put_back().await;
        }
        let what: String = match self.numbers.random_range(0..20) {
            0..8 => {
                self.server.change(|inner| inner.replica = inner.data.clone());
                "the replica has it all".into()
            }
            8..11 => {
                self.server.change(|inner| {
                    inner.data = inner.replica.clone();
                    inner.restart();
                });
                self.begin_anew();
                "a failover".into()
            }
            11 => {
                self.server.change(|inner| inner.data = super::data::Data::default());
                self.begin_anew();
                "everything is wiped".into()
            }
            12 => {
                self.server.change(|inner| inner.data.delete(&stream));
                self.begin_anew();
                format!("the stream {stream} is deleted")
            }
            13..16 => {
                let what = *BESIDE.choose(&mut self.numbers).unwrap_or(&"epoch");
                self.server.change(|inner| inner.data.delete(&format!("{{{stream}}}:{what}")));
                format!("the {what} of {stream} is deleted")
            }
            16 => {
                let name = *["snapshots", "strays"].choose(&mut self.numbers).unwrap_or(&"snapshots");
                let hash = format!("{{{stream}}}:{name}");
                let at = self.numbers.random_range(0..8);
                match self.server.change(|inner| inner.data.delete_field(&hash, at)) {
                    Some(field) => format!("{field:?} of {hash} is deleted"),
                    None => return self.publish(),
                }
            }
            17..19 => {
                self.server.change(super::server::Inner::restart);
                "Redis is restarted".into()
            }
            _ => return self.publish(),
        };
        self.say(|| what);
        self.look();
    }

    fn be_odd(&mut self) {
        if self.one_in(60) {
            // Microseconds, from a publisher who gives IDs.
            let id = format!("{}-0", clock::unix_ms() * 1_000);
            let answer = self.server.command(&["XADD", "a", &id, "topic", "m:a", "data", "{}"]);
            self.say(|| format!("XADD {id} -> {answer:?}"));
            self.is_ruined |= matches!(answer, ::redis::Value::BulkString(_));
        }
        match self.numbers.random_range(0..10) {
            0..3 => {
                let most = if self.one_in(3) { 60_000 } else { 500 };
                let by = self.numbers.random_range(-most..=most);
                self.server.change(|inner| inner.ahead_ms += by);
                self.say(|| format!("Redis' clock jumps by {by} ms"));
            }
            3..5 => {
                let is_full = self.server.change(|inner| {
                    inner.lacks.memory = !inner.lacks.memory;
                    inner.lacks.memory
                });
                self.say(|| format!("Redis has no memory: {is_full}"));
            }
            // An ID with a time of its own, as backfills have.
            5..7 => {
                let ahead_ms = self.server.inner().ahead_ms;
                let ms = clock::unix_ms().saturating_add_signed(ahead_ms) + self.numbers.random_range(0..3_000);
                let id = format!("{ms}-{}", self.numbers.random_range(0..9_000));
                self.next += 1;
                let data = json!({ "p": self.next }).to_string();
                let answer = self.server.command(&["XADD", "a", &id, "topic", "m:a", "data", &data]);
                self.say(|| format!("XADD {id} m:a {data} -> {answer:?}"));
                self.look();
            }
            _ => self.publish(),
        }
    }

    fn move_client(&mut self) {
        let at = self.numbers.random_range(0..self.clients.len());
        let Some(node) = self.nodes.choose(&mut self.numbers) else { return };
        let (number, topics, heard) = (node.number, node.topics.clone(), node.heard.clone());
        let seen = self.seen(node);
        let Some(mut client) = (at < self.clients.len()).then(|| self.clients.swap_remove(at)) else { return };
        if let Some(before) = client.node.take()
            && let Some(before) = self.nodes.iter().find(|node| node.number == before)
        {
            client.leave(&before.topics);
        }
        // As a server does: what the client has of it this node will have in a moment.
        let is_behind = client.position.as_ref().is_some_and(|position| topics.is_behind(&client.topic, position));
        let mut fault = None;
        if !is_behind {
            let topic = client.topic.clone();
            match client.come(number, &topics, &heard) {
                Ok(came) => {
                    self.tally.moves += 1;
                    self.say(|| {
                        format!(
                            "a client of {topic} comes to node {number} from {:?}: recovered {}, missed {:?}, at {:?} with {}{}",
                            came.since.as_ref().map(|since| (since.offset.get(), since.epoch.to_string())),
                            came.recovered,
                            came.missed,
                            client.position.as_ref().map(|at| (at.offset.get(), at.epoch.to_string())),
                            client.state,
                            if client.is_incomplete { " incomplete" } else { "" }
                        )
                    });
                    fault = self.judge_coming(&client, &came, &seen).err();
                }
                Err(error) => fault = Some(error),
            }
        }
        self.clients.push(client);
        if let Some(fault) = fault {
            self.say(|| format!("FAULT {fault}"));
            self.fault.get_or_insert(fault);
        }
    }
}
