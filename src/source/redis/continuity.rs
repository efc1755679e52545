//! Whether what a node has read joins up with what the stream holds.
//!
//! Replication keeps the order, so a master that has the entry that was read last has all before it too. One that lacks
//! it was promoted before it had got it: what was read here is in no other node's state, and never will be.

use ::redis::{Cmd, RedisResult, Value, cmd};

use super::entries::{entries, text};
use super::id::EntryId;
use super::keys::Keys;
use super::link::Link;
use crate::position::Offset;

/// How far a partition was read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Last entry taken in.
    pub(super) last: EntryId,
    /// Its fingerprint; `None` where it was not read but is only known to have been.
    pub(super) seen: Option<u64>,
    /// Its offset.
    pub(super) offset: Offset,
    /// Whether what the partition held has been read.
    pub(super) loaded: bool,
}

/// Why what this node knows does not join up with what the stream holds, if it does not.
pub(super) async fn broken(link: &mut Link, keys: &Keys, progress: &Progress) -> RedisResult<Option<String>> {
    let last = progress.last;
    if last.is_zero() {
        return Ok(None);
    }
    let newest = last_generated(link, keys).await?;
    if newest < last {
        return Ok(Some(format!("the stream's last ID is {newest}, but {last} was read from it")));
    }
    let first = first_entry(link, keys).await?;
    let trimmed = match first {
        Some(first) => first > last && newest > last,
        None => newest > last,
    };
    if trimmed {
        return Ok(Some(format!("entries after {last} were trimmed before they were read")));
    }
    let (Some(seen), Some(first)) = (progress.seen, first) else { return Ok(None) };
    if first > last {
        return Ok(None);
    }
    let reply: Value =
        cmd("XRANGE").arg(&keys.stream).arg(last.to_string()).arg(last.to_string()).query_async(link).await?;
    Ok(match entries(reply).first() {
        Some(entry) if entry.fingerprint() == seen => None,
        Some(_) => Some(format!("{last} is another entry than the one that was read")),
        None => Some(format!("{last} was read from the stream, but is not in it")),
    })
}

/// The last ID that the stream ever gave.
pub(super) async fn last_generated(link: &mut Link, keys: &Keys) -> RedisResult<EntryId> {
    let found = field(&info(link, keys).await?, "last-generated-id").and_then(|id| text(id)?.parse().ok());
    Ok(found.unwrap_or_default())
}

/// Whether the stream still holds every entry that was ever added to it. Servers before Redis 7 do not say.
pub(super) async fn is_untrimmed(link: &mut Link, keys: &Keys) -> RedisResult<bool> {
    let info = info(link, keys).await?;
    let number = |name: &str| match field(&info, name) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    };
    Ok(number("entries-added").is_some_and(|added| number("length") == Some(added)))
}

/// What Redis says of the stream; nothing where there is none.
async fn info(link: &mut Link, keys: &Keys) -> RedisResult<Vec<Value>> {
    let reply: RedisResult<Value> = cmd("XINFO").arg("STREAM").arg(&keys.stream).query_async(link).await;
    match reply {
        Ok(Value::Array(fields)) => Ok(fields),
        Ok(_) => Ok(Vec::new()),
        Err(error) if error.code() == Some("ERR") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn field<'a>(info: &'a [Value], name: &str) -> Option<&'a Value> {
    info.chunks(2).find_map(|pair| match pair {
        [key, value] if text(key) == Some(name) => Some(value),
        _ => None,
    })
}

/// Asks for the oldest entry that the stream holds.
pub(super) fn ask_first_entry(keys: &Keys) -> Cmd {
    cmd("XRANGE").arg(&keys.stream).arg("-").arg("+").arg("COUNT").arg(1).to_owned()
}

/// The ID in the answer to that.
pub(super) fn first_id(reply: Value) -> Option<EntryId> {
    entries(reply).first().map(|entry| entry.id)
}

/// The oldest entry that the stream holds.
pub(super) async fn first_entry(link: &mut Link, keys: &Keys) -> RedisResult<Option<EntryId>> {
    Ok(first_id(ask_first_entry(keys).query_async(link).await?))
}
