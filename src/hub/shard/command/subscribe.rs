//! `subscribe`: which topics of it begin. `shard/subscribe` does the rest.

use crate::hub::index::SessionIndex;
use crate::hub::pending::Wanted;
use crate::hub::shard::shard::Shard;
use crate::name::TopicName;
use crate::protocol::{CommandId, Op, Refusal, Refused, SubscribeItem, SubscribeTerms};
use std::collections::HashSet;

impl Shard {
    /// `subscribe`: topics that the session may have begin; the others are refused.
    pub(super) fn subscribe_command(
        &mut self,
        index: SessionIndex,
        id: CommandId,
        items: Vec<SubscribeItem>,
        mut refused: Refused,
        terms: SubscribeTerms,
    ) {
        self.input.turns.named(items.len() + refused.len());
        let mut seen = HashSet::with_capacity(items.len());
        let mut wanted = Vec::with_capacity(items.len());
        for SubscribeItem { topic, since, options } in items {
            if !seen.insert(topic.clone()) {
                continue;
            }
            // A subscription token says by itself what its bearer may have.
            let has_token = options.as_ref().is_some_and(|o| o.token.is_some());
            let refusal = self.not_allowed(index, &topic);
            let refusal = refusal.filter(|r| !has_token || r.code == Refusal::UNKNOWN_TOPIC);
            match refusal.or_else(|| self.already(index, &topic)) {
                Some(refusal) => refused.add(refusal),
                None => wanted.push(Wanted { topic, since, options }),
            }
        }
        if wanted.is_empty() {
            self.answer_topics(index, &id, Op::Subscribe, false, None, &refused);
            return;
        }
        self.valid(index);
        self.subscribe(index, id, Op::Subscribe, wanted, terms, refused);
    }

    /// Why a Centrifuge session may not subscribe: it has the topic. In `plain` the subscription begins again.
    fn already(&mut self, index: SessionIndex, topic: &TopicName) -> Option<Refusal> {
        let centrifuge = self.sessions.get_mut(index).is_some_and(|s| s.output.dialect.is_centrifuge());
        let slot = self.fanout.topics.find(topic).filter(|_| centrifuge)?;
        let key = self.sessions.get_mut(index)?.key(index);
        let under_way = self.pending.is_joining(key, slot);
        (under_way || self.is_subscribed(index, slot)).then(|| Refusal::new(409, "").about(topic.as_str()))
    }
}
