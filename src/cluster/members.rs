//! This node's subscriptions to topics that count their members.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

use crate::hub::Member;
use crate::name::TopicName;
use crate::protocol::MemberInfo;

/// Sessions that left, remembered until other nodes' records of them are surely gone too.
const LEFT_MAX: usize = 4_096;

#[derive(Default)]
pub(super) struct Members {
    topics: DashMap<TopicName, HashMap<String, Member>>,
    left: Mutex<VecDeque<String>>,
}

impl Members {
    pub(super) fn insert(&self, topic: &TopicName, member: &Member) {
        if member.presence {
            self.topics.entry(topic.clone()).or_default().insert(member.info.client.clone(), member.clone());
        }
    }

    pub(super) fn remove(&self, topic: &TopicName, client: &str) {
        if let Some(mut members) = self.topics.get_mut(topic.as_str()) {
            members.remove(client);
        }
        self.topics.remove_if(topic.as_str(), |_, members| members.is_empty());
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() >= LEFT_MAX {
            left.pop_front();
        }
        left.push_back(client.to_owned());
    }

    /// Whether a session unsubscribed recently, which others may not know yet.
    pub(super) fn left_lately(&self, client: &str) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|left| left == client)
    }

    pub(super) fn of(&self, topic: &TopicName) -> Vec<Arc<MemberInfo>> {
        self.topics
            .get(topic.as_str())
            .map_or_else(Vec::new, |members| members.values().map(|member| member.info.clone()).collect())
    }

    /// All members, to be written again.
    pub(super) fn present(&self) -> Vec<(TopicName, Arc<MemberInfo>)> {
        let all = self.topics.iter();
        all.flat_map(|topic| {
            let name = topic.key().clone();
            topic.values().map(|member| (name.clone(), member.info.clone())).collect::<Vec<_>>()
        })
        .collect()
    }
}
