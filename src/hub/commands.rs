//! What the commands of a client do. Each gets one answer, whose length is bounded by that of the command.

use std::collections::HashSet;

use super::attaching::Wanted;
use super::event::{Ask, Purpose, Request, SessionKey};
use super::reading::COMMAND_PARTS;
use super::session::{Deferred, Stage};
use super::shard::Shard;
use super::turns::Reading;
use crate::auth::{Denied, may_have};
use crate::config::Action;
use crate::name::TopicName;
use crate::protocol::{BadCommand, Command, CommandId, Op, Refusal, Refused, Standing, SubscribeItem};
use crate::topic::Slot;
use crate::wire::close::CloseReason;

/// Whether a command must wait for the subscribes before it: it is about them, or changes whose they are.
fn is_about_subscribes(command: &Result<Command, BadCommand>) -> bool {
    matches!(
        command,
        Ok(Command::Unsubscribe { .. } | Command::Rate { .. } | Command::Auth { .. } | Command::Refresh { .. })
    )
}

impl Shard {
    /// The commands of one message.
    pub(super) fn commands(&mut self, index: u32, message: &[u8]) {
        let Some(session) = self.session(index) else { return };
        let (dialect, generation) = (session.dialect, session.generation);
        let mut rest = message;
        loop {
            let behind = rest;
            let one = match dialect.is_centrifuge() {
                // In `plain` a message is a command, even an empty one.
                false => rest,
                true => match dialect.split(&mut rest) {
                    Some(one) => one,
                    None => return,
                },
            };
            if !self.session(index).is_some_and(|s| s.generation == generation && s.is_live()) {
                return;
            }
            if self.text(index, one) {
                if let Some(deferred) = self.session(index).and_then(|s| s.deferred.as_mut()) {
                    deferred.keep(behind);
                }
                return;
            }
            if !dialect.is_centrifuge() {
                return;
            }
        }
    }

    /// One command; `true` if it has to wait for an earlier one's answer.
    fn text(&mut self, index: u32, text: &[u8]) -> bool {
        let (topics_max, now_ms) = (self.config.limits.subscriptions, self.now_ms);
        let Some(session) = self.session(index) else { return false };
        if session.deferred.is_some() {
            return true;
        }
        let dialect = session.dialect;
        let command = dialect.command(text, topics_max);
        // One that may be about a subscribe that is under way takes its turn after that.
        let full = usize::from(session.attaching) >= topics_max && matches!(command, Ok(Command::Subscribe { .. }));
        if full || session.attaching > 0 && is_about_subscribes(&command) {
            session.deferred = Some(Box::new(Deferred::new(false, now_ms)));
            return true;
        }
        let part = match &command {
            // One a topic, where `plain` has one for all of them.
            Ok(Command::Subscribe { .. } | Command::Unsubscribe { .. }) if dialect.is_centrifuge() => COMMAND_PARTS,
            _ => 1,
        };
        if !self.spend(index, part) {
            return false;
        }
        match command {
            Ok(command) => self.command(index, command),
            Err(bad) if bad.fatal => {
                self.stats.commands_refused.add(1);
                tracing::debug!(reason = bad.refusal.reason, "a command that cannot be read");
                self.close(index, CloseReason::BadRequest);
            }
            Err(bad) => self.refuse(index, &bad.id, bad.op, &bad.refusal),
        }
        false
    }

    pub(super) fn refuse(&mut self, index: u32, id: &CommandId, op: Op, refusal: &Refusal) {
        self.stats.commands_refused.add(1);
        if let Some(session) = self.session(index).filter(|s| s.is_live()) {
            let reply = session.dialect.refusal(id, op, refusal);
            self.send(index, reply);
        }
    }

    /// The one answer to a command about topics: of what it was carried out for, and what was refused.
    pub(super) fn answer_topics(
        &mut self,
        index: u32,
        id: &CommandId,
        op: Op,
        any: bool,
        standings: Option<&[Standing]>,
        refused: &Refused,
    ) {
        self.stats.commands_refused.add(u64::from(!refused.is_empty()));
        if let Some(session) = self.session(index).filter(|s| s.is_live()) {
            let reply = session.dialect.outcome(id, op, any, standings, refused);
            self.send(index, reply);
        }
    }

    fn command(&mut self, index: u32, command: Command) {
        if self.is_unconnected(index) && !matches!(command, Command::Connect { .. } | Command::Pong) {
            self.close(index, CloseReason::BadRequest);
            return;
        }
        let Some(session) = self.session(index) else { return };
        let dialect = session.dialect;
        match command {
            Command::Connect { id, token, items } => self.connect(index, id, token, items),
            Command::Pong | Command::Send => {}
            Command::Publish { id, topic, data } => self.publish(index, id, topic, data),
            Command::History { id, topic, query } => {
                self.ask_about(index, id, Op::History, topic, Action::History, Ask::History(query));
            }
            Command::Presence { id, topic, stats } => {
                let (op, ask) =
                    if stats { (Op::PresenceStats, Ask::PresenceStats) } else { (Op::Presence, Ask::Presence) };
                self.ask_about(index, id, op, topic, Action::Presence, ask);
            }
            Command::Refresh { id, token } => self.refresh(index, id, token),
            Command::SubRefresh { id, topic, token } => self.sub_refresh(index, id, topic, token),
            Command::Rpc { id, method, data } => self.call(index, id, method, data),
            Command::Ping { id } => {
                self.valid(index);
                self.send(index, dialect.done(&id, Op::Ping));
            }
            Command::Auth { id, token } => {
                if let Some(refusal) = self.nothing_more_under_way(token.len()) {
                    self.refuse(index, &id, Op::Auth, &refusal);
                    return;
                }
                let (shard, now_ms) = (self.id, self.now_ms);
                let Some(session) = self.session(index) else { return };
                let key = session.key(index);
                session.deferred = Some(Box::new(Deferred::new(true, now_ms)));
                let (purpose, held) = (Purpose::Auth, session.identity.clone());
                self.request(Request::Authenticate { shard, session: key, id, purpose, token, held });
            }
            Command::Subscribe { id, items, mut refused, terms } => {
                self.turns.named(items.len() + refused.len());
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
            Command::Unsubscribe { id, topics, refused } => {
                self.turns.named(topics.len() + refused.len());
                self.valid(index);
                for topic in &topics {
                    self.unsubscribe(index, topic);
                }
                self.answer_topics(index, &id, Op::Unsubscribe, !topics.is_empty(), None, &refused);
            }
            Command::Rate { id, topics, refused, max_rate } => {
                self.turns.named(topics.len() + refused.len());
                self.valid(index);
                self.change_rates(index, &id, &topics, refused, max_rate);
            }
            Command::Session { id, wishes } => {
                self.valid(index);
                self.tune(index, wishes);
                self.send(index, dialect.done(&id, Op::Session));
            }
            Command::Snapshot { id, topics, mut refused } => {
                self.turns.named(topics.len() + refused.len());
                let mut seen = HashSet::with_capacity(topics.len());
                let mut wanted = Vec::with_capacity(topics.len());
                for topic in topics {
                    if !seen.insert(topic.clone()) {
                        continue;
                    }
                    match self.not_allowed(index, &topic) {
                        Some(refusal) => refused.add(refusal),
                        None => wanted.push(Wanted { topic, since: None, options: None }),
                    }
                }
                if wanted.is_empty() {
                    self.answer_topics(index, &id, Op::Snapshot, false, None, &refused);
                    return;
                }
                self.valid(index);
                self.snapshots(index, id, wanted, refused);
            }
        }
    }

    /// The client has shown that it speaks our language.
    pub(super) fn valid(&mut self, index: u32) {
        if let Some(session) = self.session(index)
            && session.stage == Stage::New
        {
            session.stage = Stage::Open;
        }
    }

    /// Why a session may not have a topic.
    pub(super) fn not_allowed(&mut self, index: u32, topic: &TopicName) -> Option<Refusal> {
        let identity = self.sessions.get(index as usize)?.identity.as_deref();
        let denied = may_have(&self.config, identity, topic).err()?;
        let refusal = match denied {
            Denied::NoToken => Refusal::new(401, "a token is needed: send {\"op\":\"auth\",\"token\":…} first"),
            Denied::UnknownNamespace => Refusal::new(Refusal::UNKNOWN_TOPIC, denied.to_string()),
            _ => Refusal::new(403, denied.to_string()),
        };
        Some(refusal.about(topic.as_str()))
    }

    /// Why a Centrifuge session may not subscribe: it has the topic. In `plain` this begins it anew.
    fn already(&mut self, index: u32, topic: &TopicName) -> Option<Refusal> {
        let centrifuge = self.session(index).is_some_and(|s| s.dialect.is_centrifuge());
        let slot = self.subscribers.find(topic).filter(|_| centrifuge)?;
        let key = self.session(index)?.key(index);
        let under_way = self.joining.get(&key).is_some_and(|slots| slots.contains(&slot));
        (under_way || self.is_subscribed(index, slot)).then(|| Refusal::new(409, "").about(topic.as_str()))
    }

    /// What waited for an answer that has come is heard when the session has its turn, as anything that it sends.
    pub(super) fn replay(&mut self, key: SessionKey, deferred: Option<Box<Deferred>>) {
        let Some(session) = self.keyed(key) else { return };
        if let Some(mut deferred) = deferred.filter(|deferred| !deferred.rest.is_empty())
            && session.is_live()
        {
            (deferred.ready, deferred.authenticating) = (true, false);
            session.deferred = Some(deferred);
            if session.reading == Reading::Free {
                self.wait_for(key.index, Reading::Turn);
                return;
            }
        }
        if self.keyed(key).is_some_and(|s| s.deferred.as_ref().is_none_or(|deferred| deferred.ready)) {
            self.resume(key.index, Reading::Answer);
        }
    }

    /// Carries out what waited for an answer, if that has come. `false` if the session's turn is over by that.
    pub(super) fn hear_deferred(&mut self, index: u32) -> bool {
        let deferred = self.session(index).and_then(|s| s.deferred.take_if(|deferred| deferred.ready));
        let Some(deferred) = deferred else { return true };
        self.turns.heard(deferred.rest.len());
        // Some of it may have to wait again, and all that is behind with it.
        self.commands(index, &deferred.rest);
        match self.must_wait(index) {
            Some(reading) => {
                self.wait_for(index, reading);
                false
            }
            None => true,
        }
    }

    fn unsubscribe(&mut self, index: u32, topic: &TopicName) {
        let Some(slot) = self.subscribers.find(topic) else { return };
        self.end_subscription(index, slot);
    }

    /// Ends a session's subscription of a topic, if it has one.
    pub(super) fn end_subscription(&mut self, index: u32, slot: Slot) {
        let special = self.session(index).and_then(|s| s.client.as_mut()).and_then(|c| c.take_special(slot));
        if let Some(special) = special {
            self.depart(special);
        }
        self.take_subscription(index, slot);
    }

    /// Ends a session's subscription of a topic, but for what is special about it: others are not told. `false` if it has
    /// none.
    pub(super) fn take_subscription(&mut self, index: u32, slot: Slot) -> bool {
        let Some(session) = self.sessions.get_mut(index as usize) else { return false };
        let Some(at) = session.place_in(&self.subscribers, slot) else { return false };
        let subscription = session.subscriptions.remove(at);
        let hold = session.hold_of(subscription).map(|at| session.holds.remove(at));
        if !session.holds.is_empty() {
            // Others may have waited for this one's answer.
            self.owed.push(index);
        }
        if let Some(hold) = hold {
            self.hold_ended(slot, hold);
        }
        self.leave(subscription);
        true
    }
}
