//! Redis streams that do not exist: a misspelt name would create a stream that no server reads.

use crate::source::direct::Streams;

/// The origin of the list of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListedBy {
    /// `--stream`.
    Option,
    /// The servers' configuration.
    File,
    /// The default.
    Default,
}

/// Whether deltas may be sent although streams are missing: a note to print first, or the error. A
/// single stream that was not named by hand cannot be misspelt: the first delta in a new Redis
/// creates it.
pub(super) fn judge(
    Streams { there, missing, place }: &Streams<'_>,
    by: ListedBy,
    may_create: bool,
) -> Result<Option<String>, String> {
    let may_be_new = by != ListedBy::Option && there.is_empty() && missing.len() == 1;
    match missing.as_slice() {
        [] => Ok(None),
        [stream] if may_create || may_be_new => {
            Ok(Some(format!("the stream {stream} is not in Redis at {place}: its first entry creates it")))
        }
        streams if may_create => Ok(Some(format!(
            "the streams {} are not in Redis at {place}: their first entries create them",
            streams.join(", ")
        ))),
        streams => {
            let list = if by == ListedBy::Option { "--stream" } else { "source.redis.streams" };
            let known = match there.as_slice() {
                [] if streams.len() == 1 => String::new(),
                [] => format!("; none of {list} is"),
                there => format!("; of {list} there are {}", there.join(", ")),
            };
            Err(format!(
                "{list} {}: not in Redis at {place}{known}. Nothing was published. A stream is there once it has an entry or a \
                 server reads it; if the name is right, --create-stream publishes to it all the same",
                streams.join(",")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_stream_that_was_not_named_may_be_new() {
        use ListedBy::{Default, File, Option};
        for (there, missing, by, may_create, expected) in [
            (&["a"][..], &[][..], Option, false, Ok("")),
            (&[], &["a"], Default, false, Ok("the stream a is not in Redis at here")),
            (&[], &["a"], File, false, Ok("the stream a is not in Redis at here")),
            (&[], &["a"], Option, false, Err("--stream a: not in Redis at here. Nothing")),
            (&[], &["a"], Option, true, Ok("the stream a is not")),
            (&[], &["a", "b"], File, false, Err("source.redis.streams a,b: not in Redis at here; none of source")),
            (&["a"], &["b", "c"], Option, false, Err("--stream b,c: not in Redis at here; of --stream there are a.")),
            (&["a"], &["b"], File, false, Err("source.redis.streams b: not in Redis")),
            (&["a"], &["b", "c"], File, true, Ok("the streams b, c are not")),
        ] {
            let streams = Streams { there: there.to_vec(), missing: missing.to_vec(), place: "here".into() };
            let told = judge(&streams, by, may_create);
            let (told, expected, is_same) = match (&told, expected) {
                (Ok(told), Ok(expected)) => (told.as_deref().unwrap_or_default(), expected, true),
                (Err(told), Err(expected)) => (told.as_str(), expected, true),
                (Ok(_), Err(expected)) | (Err(_), Ok(expected)) => ("the other outcome", expected, false),
            };
            assert!(is_same && told.starts_with(expected), "{streams:?} {by:?} {may_create}: {told}");
            assert!(!expected.is_empty() || told.is_empty(), "{told}");
        }
    }
}
