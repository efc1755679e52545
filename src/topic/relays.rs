//! Topics that leave one source for another while they are published: how far their deltas have followed them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::exchange::SourceId;
use crate::position::Offset;

/// Tells where a topic goes that leaves a source; `None` for one that stays.
pub type Goes = Arc<dyn Fn(&str) -> Option<SourceId> + Send + Sync>;

/// Where a topic belongs that was in a source, by the last move of topics out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// In that source.
    Here,
    /// In another one.
    In(SourceId),
    /// In a stream that this node does not read.
    Unread,
}

/// Tells where a topic belongs.
pub type Rule = Arc<dyn Fn(&str) -> Belongs + Send + Sync>;

/// Deltas of one source that are relayed to another.
#[derive(Debug, Default)]
struct Relay {
    /// The newest that was read in the old source.
    left: Offset,
    /// The newest that was read in the new source, by its offset in the old one, and its time there, Unix ms.
    relayed: (Offset, u64),
}

/// All sources that topics leave.
#[derive(Default)]
pub(super) struct Relays {
    goes: BTreeMap<SourceId, Goes>,
    /// By the source that topics left.
    rules: BTreeMap<SourceId, Rule>,
    /// By old and new source.
    relays: BTreeMap<(SourceId, SourceId), Relay>,
}

impl Relays {
    /// Sets where topics of `from` go that leave it; `None` if none leaves it.
    pub(super) fn set(&mut self, from: SourceId, goes: Option<Goes>) {
        match goes {
            Some(goes) => drop(self.goes.insert(from, goes)),
            None => {
                self.goes.remove(&from);
                self.relays.retain(|(old, _), _| *old != from);
            }
        }
    }

    /// Sets where topics of `from` belong.
    pub(super) fn set_rule(&mut self, from: SourceId, rule: Option<Rule>) {
        match rule {
            Some(rule) => drop(self.rules.insert(from, rule)),
            None => drop(self.rules.remove(&from)),
        }
    }

    /// The sources in which a topic may be that is expected in `home`, and whether it may be in a stream that is not
    /// read.
    pub(super) fn trail(&self, home: SourceId, name: &str) -> (Vec<SourceId>, bool) {
        let (mut trail, mut at) = (Vec::new(), home);
        while let Some(rule) = self.rules.get(&at) {
            match rule(name) {
                Belongs::In(to) if to != home && !trail.contains(&to) => {
                    trail.push(to);
                    at = to;
                }
                Belongs::Unread => return (trail, true),
                _ => break,
            }
        }
        (trail, false)
    }

    pub(super) fn left(&mut self, from: SourceId, to: SourceId, offset: Offset) {
        let relay = self.relays.entry((from, to)).or_default();
        relay.left = relay.left.max(offset);
    }

    pub(super) fn relayed(&mut self, from: SourceId, to: SourceId, upto: (Offset, u64)) {
        let relay = self.relays.entry((from, to)).or_default();
        relay.relayed = relay.relayed.max(upto);
    }

    /// Whether no delta up to `offset` waits to be relayed.
    pub(super) fn has_relayed(&self, from: SourceId, to: SourceId, offset: Offset) -> bool {
        let relay = self.relays.get(&(from, to));
        relay.is_none_or(|relay| relay.relayed.0 >= offset || relay.relayed.0 >= relay.left)
    }

    /// Up to when all deltas of a topic have come to it, where sources that it leaves were read up to `read_ms`.
    pub(super) fn complete_upto_ms(&self, name: &str, read_ms: impl Fn(SourceId) -> u64) -> u64 {
        let of = |(from, goes): (&SourceId, &Goes)| {
            let relay = self.relays.get(&(*from, goes(name)?));
            let waits = relay.filter(|relay| relay.left > relay.relayed.0);
            Some(waits.map_or_else(|| read_ms(*from), |relay| relay.relayed.1))
        };
        self.goes.iter().filter_map(of).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_looked_for_where_it_belongs() {
        let (one, two, three) = (SourceId(0), SourceId(1), SourceId(2));
        let mut relays = Relays::default();
        assert_eq!(relays.trail(one, "a"), (vec![], false));
        relays.set_rule(one, Some(Arc::new(|name| if name == "a" { Belongs::In(SourceId(1)) } else { Belongs::Here })));
        assert_eq!((relays.trail(one, "a"), relays.trail(one, "b")), ((vec![two], false), (vec![], false)));
        relays.set_rule(two, Some(Arc::new(|_| Belongs::In(SourceId(2)))));
        assert_eq!(relays.trail(one, "a"), (vec![two, three], false));
        relays.set_rule(three, Some(Arc::new(|_| Belongs::Unread)));
        assert_eq!(relays.trail(one, "a"), (vec![two, three], true));
        relays.set_rule(three, Some(Arc::new(|_| Belongs::In(SourceId(1)))));
        assert_eq!(relays.trail(one, "a"), (vec![two, three], false), "not for ever");
        relays.set_rule(one, None);
        assert_eq!(relays.trail(one, "a"), (vec![], false));
    }

    #[test]
    fn a_topic_is_complete_up_to_what_was_relayed_while_deltas_wait() {
        let at = |offset| Offset::new(offset).unwrap();
        let (old, new, third) = (SourceId(0), SourceId(1), SourceId(2));
        let mut relays = Relays::default();
        let upto = |relays: &Relays, name: &str| relays.complete_upto_ms(name, |_| 900);
        assert_eq!(upto(&relays, "a"), u64::MAX, "nothing leaves");
        // The new source may be read ahead of the old one.
        relays.relayed(old, new, (at(10), 100));
        relays.set(old, Some(Arc::new(|name| (name == "a").then_some(SourceId(1)))));
        assert_eq!((upto(&relays, "a"), upto(&relays, "b")), (900, u64::MAX));
        for (left, complete_ms, waits) in [(10, 900, false), (20, 100, true), (15, 100, true)] {
            relays.left(old, new, at(left));
            assert_eq!((upto(&relays, "a"), relays.has_relayed(old, new, at(20))), (complete_ms, !waits), "{left}");
        }
        assert!(relays.has_relayed(old, new, at(10)) && relays.has_relayed(old, third, at(20)));
        relays.relayed(old, new, (at(20), 200));
        assert!(upto(&relays, "a") == 900 && relays.has_relayed(old, new, at(99)));
        relays.left(old, new, at(30));
        relays.set(old, None);
        assert!(upto(&relays, "a") == u64::MAX && relays.has_relayed(old, new, at(30)));
    }
}
