//! What must be so before topics are moved: Redis answers, and the streams that they are in are there.

use std::time::Duration;

use ::redis::{ErrorKind, RedisError, RedisResult};
use tokio::time::Instant;

use super::super::masters::Masters;
use super::super::there;
use super::plan::{ReshardError, Say};
use crate::config;

/// Time for which a Redis is tried that cannot be reached.
const REACH_WAIT: Duration = Duration::from_secs(10);

/// Wait between two attempts.
const ATTEMPT_WAIT: Duration = Duration::from_millis(500);

/// Waits until the masters of all streams answer. Reports the first failure at once, and the last one as the error.
pub(super) async fn reach(
    redis: &config::Redis,
    masters: &Masters,
    streams: &[&String],
    say: &Say,
) -> Result<(), ReshardError> {
    let until = Instant::now() + REACH_WAIT;
    let (place, key) = (redis.described(), redis.address_key());
    let mut is_said = false;
    for stream in streams {
        while let Err(error) = answers(masters, stream).await {
            let what = format!("Redis at {place} cannot be used: {error}");
            if is_for_good(&error) || Instant::now() > until {
                return Err(ReshardError(format!("{what}. Is that where it is ({key}, or --redis)?")));
            }
            if !std::mem::replace(&mut is_said, true) {
                say(format!("{what}; it is tried again for {REACH_WAIT:?} ({key}, or --redis, says where it is)"));
            }
            tokio::time::sleep(ATTEMPT_WAIT).await;
        }
    }
    Ok(())
}

async fn answers(masters: &Masters, stream: &str) -> RedisResult<()> {
    masters.connect(stream).await?.check(stream).await
}

/// Whether it would be the same the next time.
fn is_for_good(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
}

/// Looks whether the streams are there that topics are in. One that nodes read is, though nothing is in it yet: its epoch is.
pub(super) async fn look_for(redis: &config::Redis, masters: &Masters, from: &[String]) -> Result<(), ReshardError> {
    let (mut missing, mut there) = (Vec::new(), Vec::new());
    for stream in from {
        if !is_there(masters, stream).await? {
            missing.push(stream.as_str());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    for stream in &redis.streams {
        if is_there(masters, stream).await? {
            there.push(stream.as_str());
        }
    }
    let there = match there.as_slice() {
        [] => format!("and none of source.redis.streams ({}) is", redis.streams.join(", ")),
        there => format!("of source.redis.streams there are {}", there.join(", ")),
    };
    Err(ReshardError(format!(
        "--from {}: not in Redis at {}; {there}. Topics are moved out of streams that are there (--from, or \
         source.redis.streams)",
        missing.join(","),
        redis.described()
    )))
}

async fn is_there(masters: &Masters, stream: &str) -> Result<bool, ReshardError> {
    let mut link = masters.connect(stream).await?;
    Ok(there::question(stream).query_async::<u64>(&mut link).await? > 0)
}
