//! From the messages of a client to its commands: which are carried out now, and which wait for an earlier answer.

use super::{
    auth, connect, history, ping, presence, publish, rate, rpc, settings, snapshot, sub_refresh, subscribe, unsubscribe,
};
use crate::hub::index::{SessionId, SessionIndex};
use crate::hub::session::{Deferred, Reading};
use crate::hub::shard::input::COMMAND_PARTS;
use crate::hub::shard::shard::Shard;
use crate::protocol::{BadCommand, Command};
use crate::wire::close::CloseReason;

/// Whether a command must wait for the subscribes before it: it changes them, or the session's user.
fn is_about_subscribes(command: &Result<Command, BadCommand>) -> bool {
    matches!(
        command,
        Ok(Command::Unsubscribe { .. } | Command::Rate { .. } | Command::Auth { .. } | Command::Refresh { .. })
    )
}

impl Shard {
    /// Carries out the commands of one message.
    pub(in crate::hub::shard) fn commands(&mut self, index: SessionIndex, message: &[u8]) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let dialect = session.output.dialect;
        let mut rest = message;
        loop {
            let behind = rest;
            let one = match dialect.is_centrifuge() {
                // In `plain`, every message is one command, even an empty one.
                false => rest,
                true => match dialect.split(&mut rest) {
                    Some(one) => one,
                    None => return,
                },
            };
            if !self.sessions.get_mut(index).is_some_and(|s| s.is_live()) {
                return;
            }
            if self.text(index, one) {
                if let Some(deferred) = self.sessions.get_mut(index).and_then(|s| s.deferred.as_mut()) {
                    deferred.keep(behind);
                }
                return;
            }
            if !dialect.is_centrifuge() {
                return;
            }
        }
    }

    /// Carries out one command. Returns `true` if it must wait for an earlier answer.
    fn text(&mut self, index: SessionIndex, text: &[u8]) -> bool {
        let (topics_max, now_ms) = (self.config.limits.subscriptions, self.clock.now_ms);
        let Some(session) = self.sessions.get_mut(index) else { return false };
        if session.deferred.is_some() {
            return true;
        }
        let dialect = session.output.dialect;
        let command = dialect.command(text, topics_max);
        // A command that may depend on a subscribe in progress waits for it.
        let full = usize::from(session.attaching) >= topics_max && matches!(command, Ok(Command::Subscribe { .. }));
        if full || session.attaching > 0 && is_about_subscribes(&command) {
            session.deferred = Some(Box::new(Deferred::new(false, now_ms)));
            return true;
        }
        let part = match &command {
            // One per topic, while `plain` has one for many.
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
                tracing::debug!(reason = bad.refusal.reason, "a command could not be read");
                self.close(index, CloseReason::BadRequest);
            }
            Err(bad) => self.refuse(index, &bad.id, bad.op, &bad.refusal),
        }
        false
    }

    fn command(&mut self, index: SessionIndex, command: Command) {
        if self.is_unconnected(index) && !matches!(command, Command::Connect { .. } | Command::Pong) {
            self.close(index, CloseReason::BadRequest);
            return;
        }
        match command {
            Command::Connect { id, token, items } => connect::run(self, index, id, token, items),
            Command::Pong | Command::Send => {}
            Command::Ping { id } => ping::run(self, index, &id),
            Command::Auth { id, token } => auth::run(self, index, id, token),
            Command::Refresh { id, token } => auth::run_refresh(self, index, id, token),
            Command::SubRefresh { id, topic, token } => sub_refresh::run(self, index, id, topic, token),
            Command::Subscribe { id, items, refused, terms } => {
                subscribe::run(self, index, id, items, refused, terms);
            }
            Command::Unsubscribe { id, topics, refused } => unsubscribe::run(self, index, &id, &topics, &refused),
            Command::Rate { id, topics, refused, max_rate } => rate::run(self, index, &id, &topics, refused, max_rate),
            Command::Session { id, wishes } => settings::run(self, index, &id, wishes),
            Command::Snapshot { id, topics, refused } => snapshot::run(self, index, id, topics, refused),
            Command::Publish { id, topic, data } => publish::run(self, index, id, topic, data),
            Command::History { id, topic, query } => history::run(self, index, id, topic, query),
            Command::Presence { id, topic, stats } => presence::run(self, index, id, topic, stats),
            Command::Rpc { id, method, data } => rpc::run(self, index, id, method, data),
        }
    }

    /// After an answer: commands that waited for it are carried out when it is the session's turn.
    pub(in crate::hub::shard) fn replay(&mut self, key: SessionId, deferred: Option<Box<Deferred>>) {
        let Some(session) = self.sessions.by_id(key) else { return };
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
        if self.sessions.by_id(key).is_some_and(|s| s.deferred.as_ref().is_none_or(|deferred| deferred.ready)) {
            self.resume(key.index, Reading::Answer);
        }
    }

    /// Carries out commands whose answer has come. Returns `false` if that ended the session's turn.
    pub(in crate::hub::shard) fn hear_deferred(&mut self, index: SessionIndex) -> bool {
        let deferred = self.sessions.get_mut(index).and_then(|s| s.deferred.take_if(|deferred| deferred.ready));
        let Some(deferred) = deferred else { return true };
        self.input.turns.heard(deferred.rest.len());
        // Some of them may have to wait again, and later ones with them.
        self.commands(index, &deferred.rest);
        match self.must_wait(index) {
            Some(reading) => {
                self.wait_for(index, reading);
                false
            }
            None => true,
        }
    }
}
