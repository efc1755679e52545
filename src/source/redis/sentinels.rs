//! Asks sentinels which Redis is the master.
//!
//! All are asked at once, and the one with the newest configuration is believed: a sentinel that is cut off with the old
//! master goes on naming it. What was heard is shared by all connections of the server, and asked again about once a
//! second while there are any.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::{ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult, pipe};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::node::{at, no_answer, open};
use super::wire::Wire;

/// Time that a sentinel has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// An answer younger than this is not asked for again.
const FRESH: Duration = Duration::from_millis(500);

/// Time between two looks at whether the master is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Sentinels {
    name: String,
    /// The master's credentials, database and TLS; its host means nothing.
    master: ConnectionInfo,
    sentinels: Vec<Sentinel>,
    latest: Mutex<Option<Answer>>,
    /// When they were asked last; held while they are.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

struct Sentinel {
    info: ConnectionInfo,
    connection: tokio::sync::Mutex<Option<Wire>>,
}

/// What a sentinel believes.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    /// Grows with each failover.
    epoch: u64,
    host: String,
    port: u16,
}

impl Sentinels {
    pub(super) fn new(urls: &[String], name: &str, master: ConnectionInfo) -> RedisResult<Self> {
        let sentinels: Vec<Sentinel> = urls
            .iter()
            .map(|url| Ok(Sentinel { info: url.as_str().into_connection_info()?, connection: Default::default() }))
            .collect::<RedisResult<_>>()?;
        let name = name.to_owned();
        Ok(Self { name, master, sentinels, latest: Mutex::default(), asked: tokio::sync::Mutex::default() })
    }

    /// How a Redis that they named is connected to.
    pub(super) fn info(&self, place: &ConnectionAddr) -> ConnectionInfo {
        self.master.clone().set_addr(place.clone())
    }

    /// The master, as it was heard last.
    pub(super) fn latest(&self) -> Option<ConnectionAddr> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().map(|answer| at(&self.master, answer.host.clone(), answer.port))
    }

    /// The master.
    pub(super) async fn master(&self) -> RedisResult<ConnectionAddr> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|when| when.elapsed() < FRESH)
            && let Some(latest) = self.latest()
        {
            return Ok(latest);
        }
        let answers = join_all(self.sentinels.iter().map(|sentinel| sentinel.ask(&self.name))).await;
        let (mut heard, mut reason) = (Vec::new(), no_answer());
        for answer in answers {
            match answer {
                Ok(answer) => heard.push(answer),
                Err(error) => reason = error,
            }
        }
        if heard.is_empty() {
            let detail = format!("{}: {reason}", self.name);
            return Err(RedisError::from((ErrorKind::Io, "no sentinel says where the master is", detail)));
        }
        *asked = Some(Instant::now());
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = believed(latest.take(), &heard, self.sentinels.len());
        let place = believed.as_ref().map(|answer| at(&self.master, answer.host.clone(), answer.port));
        *latest = believed;
        place.ok_or_else(no_answer)
    }

    /// Ends, with a reason, once the master is elsewhere. Sentinels that cannot be asked say nothing.
    pub(super) async fn moved(&self, place: ConnectionAddr) -> RedisError {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Ok(master) = self.master().await
                && master != place
            {
                let detail = format!("{master}, no longer {place}");
                return RedisError::from((ErrorKind::Io, "the sentinels name another master", detail));
            }
        }
    }
}

/// The newest of what was heard, and of what was known. Older news is believed only of most sentinels: then they were
/// set up anew, and count failovers from the beginning.
fn believed(known: Option<Answer>, heard: &[Answer], sentinels: usize) -> Option<Answer> {
    let newest = heard.iter().max_by_key(|answer| answer.epoch)?;
    match known {
        Some(known) if known.epoch > newest.epoch && heard.len() * 2 <= sentinels => Some(known),
        _ => Some(newest.clone()),
    }
}

impl Sentinel {
    async fn ask(&self, name: &str) -> RedisResult<Answer> {
        let mut slot = self.connection.lock().await;
        let asking = async {
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => open(&self.info).await?,
            };
            let answer = ask(&mut connection, name).await?;
            *slot = Some(connection);
            Ok(answer)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asking).await.unwrap_or_else(|_| Err(no_answer()))
    }
}

async fn ask(connection: &mut Wire, name: &str) -> RedisResult<Answer> {
    // The address by itself: during a failover it changes as soon as the new master has said that it is one.
    let (fields, address): (HashMap<String, String>, Option<(String, u16)>) = pipe()
        .cmd("SENTINEL")
        .arg("MASTER")
        .arg(name)
        .cmd("SENTINEL")
        .arg("GET-MASTER-ADDR-BY-NAME")
        .arg(name)
        .query_async(connection)
        .await?;
    let (host, port) = address.ok_or_else(no_answer)?;
    let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
    Ok(Answer { epoch, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_configuration_is_believed() {
        let answer = |epoch, port| Answer { epoch, host: "h".into(), port };
        let (old, new) = (answer(3, 1), answer(4, 2));
        for (known, heard, expected) in [
            (None, vec![old.clone(), new.clone(), old.clone()], new.clone()),
            (Some(old.clone()), vec![new.clone()], new.clone()),
            // One of three, cut off with the old master.
            (Some(new.clone()), vec![old.clone()], new.clone()),
            // Two of three that begin anew.
            (Some(new.clone()), vec![old.clone(), old.clone()], old.clone()),
        ] {
            assert_eq!(believed(known, &heard, 3), Some(expected));
        }
        assert_eq!(believed(Some(new), &[], 3), None);
    }
}
