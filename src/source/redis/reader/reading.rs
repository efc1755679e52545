//! One read: what is asked for with it, and what its answers say.

use std::time::Duration;

use ::redis::{FromRedisValue as _, RedisResult, Value, pipe};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::super::appetite::bytes_max;
use super::super::continuity::{self, Facts, Witness};
use super::super::entries::{Entry, Size, entries, streams};
use super::super::id::EntryId;
use super::super::link::Link;
use super::source::{LOOK_AGAIN_BYTES, RedisSource};
use super::time::time_ms;

/// Time a read waits for entries. Also how often the epoch is looked at when nothing comes.
const BLOCK_MS: usize = 1_000;

/// The same of larger ones, if that comes to no more than so much.
const LOOK_AGAIN_BYTES_PER_MS: u128 = 64;

/// Time after which it is looked again whether all entries up to the newest have been read, while there are new ones.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// What was asked for, and what was answered.
pub(super) struct Answer {
    /// How many entries were asked for.
    pub(super) asked: usize,
    /// The fingerprint that the entry which was read last had, if it was asked for again.
    pub(super) seen: Option<u64>,
    /// Whether it was asked what the stream is.
    pub(super) verifies: bool,
    /// Whether its oldest entry was asked for.
    pub(super) has_first: bool,
    pub(super) replies: Vec<Value>,
}

/// The entry that was read last.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastRead {
    pub(super) id: EntryId,
    /// Its fingerprint, if it was read.
    pub(super) seen: Option<u64>,
    pub(super) size: Size,
}

/// What a read gave.
pub(super) struct Read {
    pub(super) epoch: Option<String>,
    pub(super) batch: Vec<Entry>,
    /// The oldest entry of the stream, if it was asked for; or else one that is not older, if there is one.
    pub(super) first: Option<EntryId>,
    pub(super) has_first: bool,
    /// How many entries were asked for.
    pub(super) asked: usize,
    /// What time it was by Redis' clock, Unix ms.
    pub(super) time_ms: Option<u64>,
    /// Whether the entry that was read last was still what it had been.
    pub(super) witness: Witness,
    /// What the stream was just then, where that was asked for.
    pub(super) facts: Option<Facts>,
}

impl RedisSource {
    /// Says that entries after `last` are larger than was expected of them.
    pub(super) fn note_overfed(&self, last: EntryId) {
        tracing::info!(
            stream = self.keys.stream,
            after = %last,
            "entries or saved states are larger than those before: they are read one by one, over another connection"
        );
    }

    /// A read of what comes after an entry.
    pub(super) fn read(&mut self, link: &Link, last: LastRead) -> BoxFuture<'static, RedisResult<Answer>> {
        let mut read = pipe();
        read.cmd("GET").arg(&self.keys.epoch);
        let asked = self.appetite.count();
        let verifies = self.may_verify(asked, last.size.bytes);
        read.cmd("XREAD").arg("COUNT").arg(asked).arg("BLOCK").arg(BLOCK_MS);
        read.arg("STREAMS").arg(&self.keys.stream).arg(last.id.to_string());
        let seen = last.seen.filter(|_| self.may_look_again(last.size.bytes));
        // Where the stream began just then: later it may have lost more, which was read all the same. If the entry that was read
        // last is there, nothing after it was trimmed: a large oldest one is not fetched with each read for that.
        let has_first = self.first_size.bytes <= LOOK_AGAIN_BYTES || seen.is_none();
        if has_first {
            read.add_command(continuity::ask_first_entry(&self.keys));
        }
        let known = if has_first { self.first_size.cost } else { 0 } + if seen.is_some() { last.size.cost } else { 0 };
        let known = if verifies { 2 * known + LOOK_AGAIN_BYTES } else { known };
        let mut link = link.within(bytes_max(asked, known, self.one_bytes_max));
        if seen.is_some() {
            read.add_command(continuity::ask_entry(&self.keys, last.id));
        }
        // A stream that is not there, and a server that does not say, answer with an error.
        let facts_at = verifies.then(|| read.len());
        if verifies {
            read.add_command(continuity::ask_facts(&self.keys)).ignore_errors();
        }
        if self.has_time {
            read.cmd("TIME");
        }
        if link.has_role() {
            read.cmd("ROLE");
        }
        async move {
            let replies = match facts_at {
                None => read.query_async(&mut link).await?,
                Some(facts_at) => {
                    let replies: Vec<RedisResult<Value>> = read.query_async(&mut link).await?;
                    let reply = |(at, reply): (usize, RedisResult<Value>)| match reply {
                        Err(_) if at == facts_at => Ok(Value::Nil),
                        reply => reply,
                    };
                    replies.into_iter().enumerate().map(reply).collect::<RedisResult<_>>()?
                }
            };
            Ok(Answer { asked, seen, verifies, has_first, replies })
        }
        .boxed()
    }

    /// Whether a read also asks what the stream is, to know that none of its entries was deleted before it was read. The answer has
    /// the oldest and the newest entry once more.
    pub(super) fn may_verify(&self, asked: usize, last_bytes: usize) -> bool {
        let is_small = asked > 1 && self.first_size.bytes.max(last_bytes) <= LOOK_AGAIN_BYTES;
        is_small && self.progress().count.is_some() && self.verified.elapsed() >= VERIFY_EVERY
    }

    /// Whether an entry of so many bytes is asked for again.
    pub(super) fn may_look_again(&mut self, bytes: usize) -> bool {
        if bytes <= LOOK_AGAIN_BYTES {
            return true;
        }
        let since = self.looked_again.elapsed().as_millis();
        let is_time = since * LOOK_AGAIN_BYTES_PER_MS >= bytes as u128;
        if is_time {
            self.looked_again = Instant::now();
        }
        is_time
    }

    /// What a read's answers say, if they are a master's.
    pub(super) fn look_at(&mut self, link: &Link, answer: Answer) -> RedisResult<Read> {
        let Answer { asked, seen, verifies, has_first, mut replies } = answer;
        // A master that was made a replica may have what others wrote meanwhile, without what was read here.
        if link.has_role() {
            link.check_role(&replies.pop().unwrap_or(Value::Nil))?;
        }
        let time_ms = if self.has_time { replies.pop().as_ref().and_then(time_ms) } else { None };
        let facts = if verifies { replies.pop().and_then(Facts::in_reply) } else { None };
        let witness = match seen {
            Some(seen) => Witness::of(replies.pop().unwrap_or(Value::Nil), seen),
            None => Witness::Unasked,
        };
        let first = if has_first { self.note_first(replies.pop().unwrap_or(Value::Nil)) } else { None };
        let batch = streams(replies.pop().unwrap_or(Value::Nil));
        let epoch = Option::<String>::from_redis_value(replies.pop().unwrap_or(Value::Nil))?;
        Ok(Read { epoch, batch, first, has_first, asked, time_ms, witness, facts })
    }

    /// The ID of the oldest entry.
    pub(super) fn note_first(&mut self, reply: Value) -> Option<EntryId> {
        let first = entries(reply);
        self.first_size = first.first().map(Entry::size).unwrap_or_default();
        first.first().map(|entry| entry.id)
    }
}
