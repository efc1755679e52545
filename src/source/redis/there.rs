//! Whether a stream is there.

use ::redis::{Cmd, RedisResult, cmd};

use super::keys::Keys;
use super::shared_link::SharedLink;

/// Asks how many there are of a stream and the epoch beside it. A stream that nodes read has an epoch before it has entries.
pub(super) fn question(stream: &str) -> Cmd {
    let mut question = cmd("EXISTS");
    question.arg(stream).arg(Keys::new(stream).epoch);
    question
}

/// Whether a publisher finds the stream there. One that may not ask finds every stream: writing to it will tell.
pub(super) async fn for_publisher(link: &SharedLink, stream: &str) -> RedisResult<bool> {
    let mut answer = link.query::<u64>(stream, &question(stream)).await;
    if is_forbidden(&answer) {
        // It may have rights on the streams alone, not on what nodes keep beside them.
        answer = link.query(stream, cmd("EXISTS").arg(stream)).await;
    }
    if is_forbidden(&answer) { Ok(true) } else { answer.map(|count| count > 0) }
}

fn is_forbidden(answer: &RedisResult<u64>) -> bool {
    answer.as_ref().is_err_and(|error| error.code() == Some("NOPERM"))
}
