//! Exchange between nodes: presence, operators' orders, health. A single node keeps all of it to
//! itself. With Redis, nodes exchange messages on one pub/sub channel and keep presence in hashes.
//! Deltas never take this way: every node reads the streams itself.

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
use messages::ClusterMessage;
pub use nodes::{NodeReport, Nodes, Reporter, SourceReport};
use shared::Shared;

/// Topics in one node's channel counts.
const CHANNEL_COUNTS_TOPICS_MAX: usize = 10_000;

/// Time that other nodes have to answer a request.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(1);

/// This node as a member of the cluster.
pub struct Cluster {
    node: Arc<str>,
    topics: Arc<Topics>,
    hub: Arc<Hub>,
    members: Members,
    /// The health of all nodes.
    pub nodes: Nodes,
    shared: Option<Arc<Shared>>,
}

impl Cluster {
    /// A node called `node`; with `redis`, one of several. Call [run](Cluster::run) to start it.
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

    /// Exchanges messages with the other nodes until `stop`.
    pub async fn run(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        let Some(shared) = self.shared.clone() else { return };
        let on_message = {
            let cluster = self.clone();
            move |from: &str, message: ClusterMessage| cluster.on_message(from, message)
        };
        let present = {
            let cluster = self.clone();
            move || cluster.members.present()
        };
        shared.run(on_message, present, stop).await;
    }

    /// Handles a message of another node.
    fn on_message(self: &Arc<Self>, from: &str, message: ClusterMessage) {
        match message {
            ClusterMessage::Report { report } => self.nodes.on_report(from, *report),
            ClusterMessage::Leave => self.nodes.on_leave(from),
            ClusterMessage::Membership { topic, joined, info } => self.announce(&topic, joined, &info),
            ClusterMessage::Order { who, order } => self.hub.order(&who, &order),
            ClusterMessage::ChannelCounts { question, pattern } => {
                let (cluster, to) = (self.clone(), from.to_owned());
                tokio::spawn(async move {
                    let topics = cluster.hub.census(pattern, CHANNEL_COUNTS_TOPICS_MAX).await;
                    let topics = topics.into_iter().map(|(name, count)| (name.as_str().to_owned(), count)).collect();
                    cluster.broadcast(ClusterMessage::Counted { to, question, topics });
                });
            }
            ClusterMessage::Counted { to, question, topics } if *to == *self.node => {
                if let Some(shared) = &self.shared {
                    shared.counted(question, topics);
                }
            }
            ClusterMessage::Counted { .. } => {}
        }
    }

    fn broadcast(&self, message: ClusterMessage) {
        if let Some(shared) = &self.shared {
            shared.broadcast(&message);
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

    /// A subscription of this node ended.
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
            self.broadcast(ClusterMessage::Membership { topic: topic.clone(), joined, info: member.info.clone() });
        }
    }

    /// The members of a topic on all nodes.
    ///
    /// # Errors
    /// The other nodes' members cannot be read now.
    pub async fn presence(&self, topic: &TopicName) -> Result<BTreeMap<String, Arc<MemberInfo>>, Refusal> {
        let mut members = match &self.shared {
            None => BTreeMap::new(),
            Some(shared) => shared.presence(topic).await.map_err(|error| {
                tracing::warn!(%error, "presence of the other nodes could not be read from Redis");
                Refusal::new(503, "presence of the other nodes cannot be read now; try again")
            })?,
        };
        // This node's own list is newer than its last write.
        members.retain(|client, _| !self.members.left_lately(client));
        for info in self.members.of(topic) {
            members.insert(info.client.clone(), info);
        }
        Ok(members)
    }

    /// The number of members.
    ///
    /// # Errors
    /// As [`Cluster::presence`].
    pub async fn presence_stats(&self, topic: &TopicName) -> Result<MemberCount, Refusal> {
        let members = self.presence(topic).await?;
        let users: std::collections::BTreeSet<&str> = members.values().map(|m| m.user.as_str()).collect();
        Ok(MemberCount { clients: members.len(), users: users.len() })
    }

    /// Executes an order here and on all other nodes.
    pub fn order(&self, who: &Who, order: &Order) {
        self.hub.order(who, order);
        self.broadcast(ClusterMessage::Order { who: who.clone(), order: order.clone() });
    }

    /// Topics and their numbers of subscribers, on all nodes that answer in time.
    pub async fn channel_counts(&self, pattern: Option<String>) -> BTreeMap<String, u64> {
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
        let own = self.hub.census(pattern, CHANNEL_COUNTS_TOPICS_MAX).await;
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

    /// Records this node's health here and sends it to the others.
    pub fn report(&self, report: NodeReport) {
        self.broadcast(ClusterMessage::Report { report: Box::new(report.clone()) });
        self.nodes.own(report);
    }

    /// Announces that this node stops, if that is possible in time.
    pub async fn leave(&self) {
        self.broadcast(ClusterMessage::Leave);
        if let Some(shared) = &self.shared {
            let _ = tokio::time::timeout(SURVEY_TIMEOUT, shared.flush()).await;
        }
    }
}
