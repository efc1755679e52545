//! W8: recordings through Redis, at a multiple of their pace, and the state in which every session must end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nexus_push::source::normalize::Counts;
use nexus_push::source::replay::{Pace, Recordings};
use nexus_push::topic::Kind;
use redis::streams::StreamRangeReply;

use crate::client::class::Class;
use crate::publish::publisher::{Expected, ExpectedByName, offset_of};
use crate::publish::stream_entry::{STREAM, StreamEntry};

/// Most deltas per batch.
const TOGETHER: usize = 500;

/// Entries read back at a time.
const PAGE: usize = 10_000;

/// Recordings in `folder`.
pub(crate) fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("{}: W8 needs the recordings (--data)", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| {
            p.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.ends_with(".gz") && (n.starts_with("binance-") || n.starts_with("bybit-")))
        })
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("{}: no recordings (binance-*.gz, bybit-*.gz)", folder.display());
    }
    Ok(files)
}

/// Class of a normalized topic.
pub(crate) fn class_of(topic: &str) -> Class {
    if topic.starts_with("trades:") { Class::Stream } else { Class::Merge }
}

/// Names of all topics in the recordings, and the recordings' length.
pub(crate) fn topics(files: &[PathBuf], until: Option<f64>) -> anyhow::Result<(Vec<String>, Duration)> {
    let mut recordings = Recordings::open(files)?;
    let mut names = std::collections::BTreeSet::new();
    let mut last = Duration::ZERO;
    while let Some(moment) = recordings.next_moment()? {
        if until.is_some_and(|until| moment.at.as_secs_f64() > until) {
            break;
        }
        last = moment.at;
        names.extend(moment.deltas.into_iter().map(|d| d.topic));
    }
    Ok((names.into_iter().collect(), last))
}

/// Plays the recordings into the stream.
pub(crate) async fn play(
    url: &str,
    files: &[PathBuf],
    speed: f64,
    until: Option<f64>,
    mut progress: impl FnMut(Duration, u64),
) -> anyhow::Result<(u64, Counts)> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let mut pace = Pace::open(files, speed)?;
    let mut waiting = Vec::new();
    let mut sent = 0;
    loop {
        let next = if waiting.is_empty() { pace.next().await? } else { pace.due().await? };
        let idle = next.is_none();
        let over = next.as_ref().is_some_and(|m| until.is_some_and(|until| m.at.as_secs_f64() > until));
        if idle && waiting.is_empty() || over && waiting.is_empty() {
            return Ok((sent, pace.counts()));
        }
        if let Some(moment) = next.filter(|_| !over) {
            progress(moment.at, sent);
            waiting.extend(moment.deltas);
        }
        if waiting.len() >= TOGETHER || idle || over {
            let mut pipe = redis::pipe();
            for delta in &waiting {
                let data = delta.data.to_string();
                let is_snapshot = delta.kind == Kind::Snapshot;
                let entry = StreamEntry { is_snapshot, ..StreamEntry::new(&delta.topic, &data) };
                pipe.add_command(entry.append()).ignore();
            }
            pipe.query_async::<()>(&mut connection).await?;
            sent += waiting.len() as u64;
            waiting.clear();
            if over {
                return Ok((sent, pace.counts()));
            }
        }
    }
}

/// Reads the whole stream back and computes its result, with an implementation of merge patch that is not the server's.
pub(crate) async fn expected(url: &str) -> anyhow::Result<ExpectedByName> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let mut by_name = ExpectedByName::new();
    let mut from = "-".to_owned();
    loop {
        let page: StreamRangeReply = redis::cmd("XRANGE")
            .arg(STREAM)
            .arg(&from)
            .arg("+")
            .arg("COUNT")
            .arg(PAGE)
            .query_async(&mut connection)
            .await?;
        let Some(last) = page.ids.last() else { return Ok(by_name) };
        from = format!("({}", last.id);
        for entry in &page.ids {
            let field = |name: &str| entry.get::<String>(name);
            let (Some(topic), Some(data)) = (field("topic"), field("data")) else {
                bail!("an entry without topic or data")
            };
            let class = class_of(&topic);
            let (_, expected) = by_name.entry(topic).or_insert_with(|| (class, Expected::default()));
            expected.take(class, field("kind").as_deref() == Some("snapshot"), &data)?;
            expected.offset = offset_of(&entry.id)?;
        }
    }
}
