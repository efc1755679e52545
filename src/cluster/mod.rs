//! What nodes know of each other: who is subscribed where, what operators order, how each node fares. One node alone
//! needs no one for it; with Redis, nodes talk through one pub/sub channel and keep presence in hashes. Deltas never
//! go this way: every node reads the streams for itself.

mod members;
mod messages;
mod nodes;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::{Hub, Member, MemberCount, Order, Who};
use crate::metrics::Metrics;
use crate::name::TopicName;
use crate::protocol::{MemberInfo, MembershipChange, Refusal};
use crate::source::redis::Masters;
use crate::topic::Topics;

use members::Members;
use messages::Said;
pub use nodes::{NodeReport, Nodes, Reporter, SourceReport};
use shared::Shared;

/// Topics that one node names in a census.
const CENSUS_TOPICS_MAX: usize = 10_000;

/// Time that other nodes have to answer a question.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(1);

/// This node among the others.
pub struct Cluster {
    node: Arc<str>,
    topics: Arc<Topics>,
    hub: Arc<Hub>,
    members: Members,
    /// How the nodes fare.
    pub nodes: Nodes,
    shared: Option<Arc<Shared>>,
}

impl Cluster {
    /// A node called `node`; with `redis`, one among others. To be [run](Cluster::run).
    pub fn new(
        node: Arc<str>,
        redis: Option<(&crate::config::Redis, Masters)>,
        topics: Arc<Topics>,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let shared = redis.map(|(redis, masters)| Arc::new(Shared::new(redis, masters, node.clone(), metrics)));
        let members = Members::default();
        Arc::new(Self { nodes: Nodes::new(node.clone()), node, topics, hub, members, shared })
    }

    /// Talks to the other nodes until told to stop.
    pub async fn run(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        let Some(shared) = self.shared.clone() else { return };
        let hear = {
            let cluster = self.clone();
            move |from: &str, said: Said| cluster.hear(from, said)
        };
        let present = {
            let cluster = self.clone();
            move || cluster.members.present()
        };
        shared.run(hear, present, stop).await;
    }

    /// Another node said something.
    fn hear(self: &Arc<Self>, from: &str, said: Said) {
        match said {
            Said::Report { report } => self.nodes.heard(from, *report),
            Said::Bye => self.nodes.gone(from),
            Said::Membership { topic, joined, info } => self.announce(&topic, joined, &info),
            Said::Order { who, order } => self.hub.order(&who, &order),
            Said::Census { question, pattern } => {
                let (cluster, to) = (self.clone(), from.to_owned());
                tokio::spawn(async move {
                    let topics = cluster.hub.census(pattern, CENSUS_TOPICS_MAX).await;
                    let topics = topics.into_iter().map(|(name, count)| (name.as_str().to_owned(), count)).collect();
                    cluster.say(Said::Counted { to, question, topics });
                });
            }
            Said::Counted { to, question, topics } if *to == *self.node => {
                if let Some(shared) = &self.shared {
                    shared.counted(question, topics);
                }
            }
            Said::Counted { .. } => {}
        }
    }

    fn say(&self, said: Said) {
        if let Some(shared) = &self.shared {
            shared.say(&said);
        }
    }

    fn announce(&self, topic: &TopicName, joined: bool, info: &Arc<MemberInfo>) {
        self.topics.announce(topic, &Arc::new(MembershipChange { joined, info: info.clone() }));
    }

    /// A session of this node subscribed.
    pub fn joined(&self, topic: &TopicName, member: &Member) {
        self.members.insert(topic, member);
        self.changed(topic, member, true);
    }

    /// A session of this node that subscribed is gone.
    pub fn left(&self, topic: &TopicName, member: &Member) {
        self.members.remove(topic, &member.info.client);
        self.changed(topic, member, false);
    }

    fn changed(&self, topic: &TopicName, member: &Member, joined: bool) {
        if let (true, Some(shared)) = (member.presence, &self.shared) {
            shared.presence_changed(topic, &member.info, joined);
        }
        if member.announce {
            self.announce(topic, joined, &member.info);
            self.say(Said::Membership { topic: topic.clone(), joined, info: member.info.clone() });
        }
    }

    /// Who is subscribed to a topic that counts its members, on any node.
    ///
    /// # Errors
    /// If the other nodes' members cannot be had now.
    pub async fn presence(&self, topic: &TopicName) -> Result<BTreeMap<String, Arc<MemberInfo>>, Refusal> {
        let mut members = match &self.shared {
            None => BTreeMap::new(),
            Some(shared) => shared.presence(topic).await.map_err(|error| {
                tracing::warn!(%error, "presence cannot be read");
                Refusal::new(503, "presence of the other nodes cannot be had now, try again")
            })?,
        };
        // What this node knows of its own sessions is newer than what it wrote.
        members.retain(|client, _| !self.members.left_lately(client));
        for info in self.members.of(topic) {
            members.insert(info.client.clone(), info);
        }
        Ok(members)
    }

    /// How many.
    ///
    /// # Errors
    /// As [`Cluster::presence`].
    pub async fn presence_stats(&self, topic: &TopicName) -> Result<MemberCount, Refusal> {
        let members = self.presence(topic).await?;
        let users: std::collections::BTreeSet<&str> = members.values().map(|m| m.user.as_str()).collect();
        Ok(MemberCount { clients: members.len(), users: users.len() })
    }

    /// Carries out an order here and on all other nodes.
    pub fn order(&self, who: &Who, order: &Order) {
        self.hub.order(who, order);
        self.say(Said::Order { who: who.clone(), order: order.clone() });
    }

    /// Topics with subscribers, and how many, on all nodes that answer in time.
    pub async fn census(&self, pattern: Option<String>) -> BTreeMap<String, u64> {
        let mut all: BTreeMap<String, u64> = BTreeMap::new();
        let mut add = |topics: Vec<(String, u64)>| {
            for (name, count) in topics {
                *all.entry(name).or_default() += count;
            }
        };
        let others = self.nodes.others();
        let answers = match &self.shared {
            Some(shared) if others > 0 => Some(shared.ask(pattern.clone())),
            _ => None,
        };
        let own = self.hub.census(pattern, CENSUS_TOPICS_MAX).await;
        add(own.into_iter().map(|(name, count)| (name.as_str().to_owned(), count)).collect());
        if let Some(answers) = answers {
            let until = tokio::time::Instant::now() + SURVEY_TIMEOUT;
            for _ in 0..others {
                match tokio::time::timeout_at(until, answers.next()).await {
                    Ok(Some(topics)) => add(topics),
                    _ => break,
                }
            }
        }
        all
    }

    /// This node's id.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Says how this node fares, here and to the others.
    pub fn report(&self, report: NodeReport) {
        self.say(Said::Report { report: Box::new(report.clone()) });
        self.nodes.own(report);
    }

    /// This node is about to stop: the others are told, if they can be in time.
    pub async fn bye(&self) {
        self.say(Said::Bye);
        if let Some(shared) = &self.shared {
            let _ = tokio::time::timeout(SURVEY_TIMEOUT, shared.flush()).await;
        }
    }
}
