//! Addresses on the command line. An invalid one is reported with its option, its value without
//! secrets, and the valid forms.

use anyhow::anyhow;
use reqwest::Url;

use crate::config::{NATS_FORMS, Nats, REDIS_FORMS, Redis, redacted};

/// Valid forms of a server's address.
const SERVER_FORMS: &str = "HOST:PORT, http://HOST:PORT or https://HOST:PORT";

/// Further forms of a Redis address on the command line.
const REDIS_GROUPS: &str = "redis+sentinel://[user:password@]host:port,host:port/master, redis+cluster://[user:password@]host:port,host:port \
                            (rediss+… is over TLS)";

/// A server's URL; without a scheme it is HTTP.
pub(super) fn server(option: &str, text: &str) -> anyhow::Result<Url> {
    let wrong = |why: &str| anyhow!("{option} {}: {why}; it may be {SERVER_FORMS}", told(text));
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !["http", "https"].contains(&scheme) {
        return Err(wrong(&format!("{scheme}:// is not a server's")));
    }
    if rest.is_empty() || rest.starts_with(['/', ':']) {
        return Err(wrong("it names no host"));
    }
    Url::parse(&format!("{scheme}://{rest}")).map_err(|error| wrong(&error.to_string()))
}

/// Checks an address of Redis, before other faults of a file are reported.
pub(super) fn redis(option: &str, text: &str) -> anyhow::Result<()> {
    let mut redis = Redis::default();
    redis.set_address(text);
    redis
        .address_fault()
        .map_or(Ok(()), |why| Err(anyhow!("{option} {}: {why}; it may be {REDIS_FORMS}, {REDIS_GROUPS}", told(text))))
}

/// The same for NATS.
pub(super) fn nats(option: &str, text: &str) -> anyhow::Result<()> {
    let mut nats = Nats::default();
    nats.set_address(text);
    nats.address_fault().map_or(Ok(()), |why| Err(anyhow!("{option} {}: {why}; it may be {NATS_FORMS}", told(text))))
}

fn told(text: &str) -> String {
    if text.trim().is_empty() { format!("{text:?}") } else { redacted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_told_with_its_option_and_without_its_secrets() {
        for (text, needle) in [
            ("", "\"\": it names no host"),
            ("http://", "http://: it names no host"),
            ("http:///x", "it names no host"),
            (":80", "it names no host"),
            ("ftp://u:secret@a", "ftp://***@a: ftp:// is not a server's"),
            ("http://a:port", "http://a:port: invalid port number"),
            ("http://u:secret@a:port", "http://***@a:port"),
        ] {
            let error = server("--to", text).unwrap_err().to_string();
            assert!(error.starts_with("--to ") && error.contains(needle), "{error}");
            assert!(error.contains("https://HOST:PORT") && !error.contains("secret"), "{error}");
        }
        for (text, url) in
            [("a:1", "http://a:1/"), ("[::1]:8000", "http://[::1]:8000/"), ("https://a/x", "https://a/x")]
        {
            assert_eq!(server("URL", text).unwrap().as_str(), url);
        }
    }

    #[test]
    fn the_same_of_redis_and_nats() {
        for text in [
            "redis://u:secret@h:port",
            "redis://u:secret@",
            "redis+cluster://u:secret@h:x",
            "redis+sentinel://u:secret@a:1",
            "rediss+sentinel://u:secret@a:bad/m",
            "ftp://u:secret@h",
            "h:6379",
            "unix://",
        ] {
            let error = redis("--redis", text).unwrap_err().to_string();
            assert!(error.starts_with("--redis ") && error.contains("redis+sentinel://["), "{error}");
            assert!(!error.contains("secret") && !error.contains("InvalidClientConfig"), "{error}");
        }
        for text in ["nats://u:secret@h:port", "nats://", "http://u:secret@h", "h:4222"] {
            let error = nats("--nats", text).unwrap_err().to_string();
            assert!(error.starts_with("--nats ") && error.contains("tls://…"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for good in ["redis://:p@h:1/2", "unix:///a", "redis+sentinel://u:p@a:1,b:2/m", "rediss+cluster://a:1,b:2"] {
            assert!(redis("--redis", good).is_ok(), "{good}");
        }
        for good in ["nats://u:p@a:1,b:2", "tls://a"] {
            assert!(nats("--nats", good).is_ok(), "{good}");
        }
    }
}
