//! Whether what nodes and clients hold is true.

use std::time::Duration;

use serde_json::Value;

use super::Weather;
use super::client::{Came, Client};
use super::oracle::{Lineage, Point, Seen, class_of, shown};
use super::world::{Node, TOPICS, World};
use crate::clock::unix_ms;
use crate::config::Class;
use crate::topic::{Known, SourceId, TopicName};

/// Time past its end for which a topic may live on, as far as anybody can know, in ms.
const LINGERS_MS: u64 = 10_000;

impl World {
    /// At every moment: what is served as whole is true, of one tag there is one body, and clients miss nothing.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        self.look();
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let nodes = std::mem::take(&mut self.nodes);
        let outcome = nodes.iter().try_for_each(|node| {
            TOPICS.iter().try_for_each(|topic| {
                self.judge_topic(node, topic).map_err(|fault| format!("node {}: {topic} {fault}", node.number))
            })
        });
        self.nodes = nodes;
        outcome?;
        let mut clients = std::mem::take(&mut self.clients);
        let outcome = clients.iter_mut().try_for_each(|client| self.judge_client(client));
        self.clients = clients;
        outcome
    }

    fn latest_ms(&self) -> u64 {
        let inner = self.server.inner();
        inner.latest_ms.max(unix_ms().saturating_add_signed(inner.ahead_ms))
    }

    fn judge_topic(&mut self, node: &Node, topic: &str) -> Result<(), String> {
        let name = TopicName::new(topic).map_err(|error| error.to_string())?;
        let (seen, latest_ms) = (self.seen(node), self.latest_ms());
        let read = &seen.read;
        let Some(view) = node.topics.view(&name) else {
            if !(0..).zip(&node.statuses).all(|(at, _)| node.topics.has_loaded(SourceId(at))) {
                return Err("is said not to be there, by a node that has not loaded".into());
            }
            self.tally.none += 1;
            return match self.oracle.may_be_none(topic, &seen, latest_ms) {
                true => Ok(()),
                false => {
                    let (missed, expire_ms) = (node.topics.missed(node.topics.source_of(topic)), self.expire_ms());
                    Err(format!(
                        "is not there at {latest_ms}, though all was read up to {read:?} (missed {missed:?}, topics end after \
                         {expire_ms} ms): {}",
                        self.truth(topic)
                    ))
                }
            };
        };
        let snapshot = view.snapshot;
        if snapshot.known != Known::Whole {
            self.tally.incomplete += 1;
            return Ok(());
        }
        self.tally.whole += 1;
        let offset = snapshot.offset.get();
        if class_of(topic) == Class::Stream {
            return self.judge_kept(node, topic, offset, &snapshot.data);
        }
        let state: Value = serde_json::from_slice(&snapshot.data).map_err(|error| error.to_string())?;
        self.oracle.note_body(snapshot.epoch.as_str(), topic, offset, &snapshot.data)?;
        let is_loaded = node.is_loaded(node.topics.source_of(topic));
        match self.oracle.knows(topic, (offset, &state), &seen, is_loaded.then_some(latest_ms)) {
            Ok(()) => Ok(()),
            Err(Some(later)) => Err(format!("is at {offset}, though {later} was read too; {}", self.truth(topic))),
            Err(None) => Err(format!("is told as whole at {offset}, read is {read:?}: {state}; {}", self.truth(topic))),
        }
    }

    /// The offset of a `stream` topic is that of its newest delta, and those that are kept are the last ones up to there.
    fn judge_kept(&self, node: &Node, topic: &str, offset: u64, data: &[u8]) -> Result<(), String> {
        let (seen, latest_ms) = (self.seen(node), self.latest_ms());
        let is_loaded = node.is_loaded(node.topics.source_of(topic));
        let kept: Vec<Value> = serde_json::from_slice(data).map_err(|error| error.to_string())?;
        let offsets: Vec<u64> = kept.iter().filter_map(|delta| delta["offset"].as_u64()).collect();
        // They are of one stream.
        let of = |lineage: &Lineage, stream: usize| {
            let points = lineage.points(topic).iter().filter(|point| point.stream == stream && point.offset <= offset);
            let points: Vec<&Point> = points.collect();
            let Some(held) = points.last().filter(|point| point.offset == offset) else { return false };
            if is_loaded && self.oracle.later(lineage, topic, held, &seen, latest_ms).is_some() {
                return false;
            }
            let Some(from) = points.len().checked_sub(offsets.len()) else { return false };
            let same = |(point, delta): (&&Point, &Value)| {
                delta["offset"] == point.offset && point.state.as_ref() == Some(&delta["data"])
            };
            points[from..].iter().zip(&kept).all(same)
        };
        let streams = self.streams.len();
        let is_true = self.oracle.lineages().any(|lineage| (0..streams).any(|stream| of(lineage, stream)));
        if is_true { Ok(()) } else { Err(format!("keeps {} at {offset}; {}", shown(data), self.truth(topic))) }
    }

    fn truth(&self, topic: &str) -> String {
        let of = |lineage: &Lineage| {
            let points = lineage.points(topic).iter().rev().take(6);
            let told = points.map(|point| match &point.state {
                Some(state) => format!("{}/{}={state} since {}/{}", point.id, point.stream, point.base.0, point.base.1),
                None => format!("{}/{}=none", point.id, point.stream),
            });
            told.collect::<Vec<_>>().join(", ")
        };
        let all: Vec<String> = self.oracle.lineages().take(3).map(of).collect();
        format!("true is, newest first: {}", all.join("; before that: "))
    }

    fn judge_client(&mut self, client: &mut Client) -> Result<(), String> {
        let Some(node) = client.node.and_then(|number| self.nodes.iter().find(|node| node.number == number)) else {
            return Ok(());
        };
        let (heard, topics, seen) = (node.heard.clone(), node.topics.clone(), self.seen(node));
        let number = node.number;
        self.tally.told += client.hear(&heard).map_err(|fault| format!("node {number}: {fault}"))?;
        if client.is_sent_away {
            client.leave(&topics);
            return Ok(());
        }
        self.judge_state(client, &seen).map_err(|fault| format!("a client at node {number} {fault}"))
    }

    fn judge_state(&self, client: &Client, seen: &Seen) -> Result<(), String> {
        let topic = client.topic.as_str();
        if client.is_incomplete || class_of(topic) == Class::Stream {
            return Ok(());
        }
        let offset = client.position.as_ref().map_or(0, |position| position.offset.get());
        let is_true = match &client.state {
            Value::Null => self.oracle.may_be_none(topic, seen, self.latest_ms()),
            state => self.oracle.knows(topic, (offset, state), seen, None).is_ok(),
        };
        if is_true {
            return Ok(());
        }
        Err(format!("holds {topic} at {offset} as {}; {}", client.state, self.truth(topic)))
    }

    /// With `recovered` nothing is missing.
    pub(super) fn judge_coming(&mut self, client: &Client, came: &Came, seen: &Seen) -> Result<(), String> {
        let topic = client.topic.as_str();
        if came.recovered {
            self.tally.recovered += 1;
            if client.is_incomplete && class_of(topic) != Class::Stream {
                return Err(format!("a client of {topic} is told that it recovered, and is left incomplete"));
            }
        }
        self.judge_state(client, seen).map_err(|fault| format!("a client comes and {fault}"))?;
        let (Some(since), Some(position)) = (&came.since, &client.position) else { return Ok(()) };
        if !came.recovered || class_of(topic) != Class::Stream {
            return Ok(());
        }
        let (since, upto) = (since.offset.get(), position.offset.get());
        let of = |lineage: &Lineage, stream: usize| {
            let points = lineage.points(topic).iter();
            let missed = points
                .filter(|point| point.stream == stream && point.state.is_some())
                .map(|point| point.offset)
                .filter(|offset| *offset > since && *offset <= upto);
            let is_read = |point: &&Point| seen.read.get(point.stream).is_some_and(|read| point.id <= *read);
            let newest = lineage.points(topic).iter().rev().find(is_read).filter(|newest| newest.state.is_some());
            missed.eq(came.missed.iter().copied()) && newest.is_none_or(|newest| newest.offset <= upto)
        };
        let streams = self.streams.len();
        let is_true = self.oracle.lineages().any(|lineage| (0..streams).any(|stream| of(lineage, stream)));
        if is_true {
            return Ok(());
        }
        let missed = &came.missed;
        Err(format!(
            "a client of {topic} recovers from {since} to {upto} by {missed:?}, read is {:?}; {}",
            seen.read,
            self.truth(topic)
        ))
    }

    /// Nothing bad happens any more.
    pub(super) fn be_at_peace(&mut self) {
        self.server.change(|inner| {
            inner.cut.clear();
            (inner.held, inner.way_ms) = (0, 2);
            inner.lacks.memory = false;
        });
        self.say(|| "peace".into());
    }

    /// In the end all nodes have what is true now, or say that they may not.
    pub(super) fn judge_the_end(&mut self) -> Result<(), String> {
        let nodes = std::mem::take(&mut self.nodes);
        let outcome = nodes.iter().try_for_each(|node| {
            let epochs = [node, &nodes[0]].map(|node| node.epochs(&self.streams));
            if epochs[0] != epochs[1] {
                return Err(format!("epochs are {:?} and {:?}", epochs[0], epochs[1]));
            }
            if self.moves.as_ref().is_some_and(|moves| !moves.is_done) {
                return Err("topics have not been moved".into());
            }
            if self.is_ruined {
                // Nothing that is published can be read: the publish API and readiness say so.
                let is_told = node.statuses.iter().all(|status| !status.fault().is_empty());
                return if is_told { Ok(()) } else { Err(format!("node {} says nothing of it", node.number)) };
            }
            if let Some(reason) = node.statuses.iter().find_map(|status| status.not_ready()) {
                return Err(format!("node {} is not ready: {reason}; {:?}", node.number, node.statuses[0].last_note()));
            }
            TOPICS.iter().try_for_each(|topic| {
                self.judge_last(node, topic)
                    .map_err(|fault| format!("at the end, node {}: {topic} {fault}", node.number))
            })
        });
        self.nodes = nodes;
        outcome
    }

    fn judge_last(&mut self, node: &Node, topic: &str) -> Result<(), String> {
        let name = TopicName::new(topic).map_err(|error| error.to_string())?;
        let now_ms = self.latest_ms();
        let last = self.oracle.newest(topic, &self.seen(node));
        let expire_ms = self.expire_ms();
        let quiet_ms = last.as_ref().map_or(0, |last| now_ms.saturating_sub(last.at_ms));
        let may_end = expire_ms > 0 && quiet_ms > expire_ms;
        let must_end = expire_ms > 0 && quiet_ms > expire_ms + expire_ms / 10 + LINGERS_MS;
        let is_stream = class_of(topic) == Class::Stream;
        match node.topics.view(&name) {
            None => match last {
                Some(last) if last.state.is_some() && !may_end => Err(format!("is not there; {}", self.truth(topic))),
                _ => Ok(()),
            },
            Some(view) if view.snapshot.known != Known::Whole => {
                self.tally.left += 1;
                match self.weather {
                    Weather::Fair => Err(format!("is incomplete; {}", self.truth(topic))),
                    _ => Ok(()),
                }
            }
            Some(view) => {
                let offset = view.snapshot.offset.get();
                let is_there = |last: u64| if is_stream { last <= offset } else { last == offset };
                let is_last = last.as_ref().is_some_and(|last| is_there(last.offset) && last.state.is_some());
                if is_stream && self.weather == Weather::SeveralTrimmed {
                    // Where entries are trimmed unread, the other stream does not say how far the topic had come.
                    return Ok(());
                }
                let is_true = is_stream || {
                    let state = serde_json::from_slice::<Value>(&view.snapshot.data).ok();
                    last.is_some_and(|last| last.state == state)
                };
                if is_last && is_true && !must_end {
                    return Ok(());
                }
                let data = shown(&view.snapshot.data);
                Err(format!(
                    "is {data} at {offset}, {quiet_ms} ms old (here since {}); topics end after {expire_ms} ms, read is {:?} at \
                     {}; {}",
                    view.active_ms,
                    self.seen(node).read,
                    unix_ms(),
                    self.truth(topic)
                ))
            }
        }
    }

    fn expire_ms(&self) -> u64 {
        let after = self.config.namespace.values().map(|namespace| namespace.expire_after).max();
        u64::try_from(after.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
    }
}
