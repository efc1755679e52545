//! URLs of Redis and NATS: faults are reported before the server connects.

use reqwest::Url;

/// Valid forms of a Redis address.
pub const REDIS_FORMS: &str = "redis://[user:password@]host:port[/db], rediss://… (TLS), unix:///path";

/// Valid forms of a NATS address.
pub const NATS_FORMS: &str = "nats://[user:password@]host:port or tls://…";

/// Why a URL cannot be read, if it cannot. `has_database` says that its path is a database number.
pub(super) fn unreadable(url: &str, has_database: bool) -> Option<String> {
    let parsed = match Url::parse(url) {
        Ok(parsed) => parsed,
        Err(error) if url.contains('@') => {
            return Some(format!(
                "{error} (of a user and a password, `/`, `#`, `?` and `@` are written %2F, %23, %3F, %40)"
            ));
        }
        Err(error) => return Some(error.to_string()),
    };
    let path = parsed.path().trim_start_matches('/');
    if parsed.scheme().ends_with("unix") {
        return path.is_empty().then(|| "it names no path".to_owned());
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Some("it names no host".to_owned());
    }
    let is_number = path.is_empty() || path.parse::<u32>().is_ok();
    (has_database && !is_number).then(|| format!("`{path}` is not a database number"))
}

#[cfg(test)]
mod tests {
    use super::unreadable;

    #[test]
    fn what_cannot_be_read_of_a_url_is_said() {
        for (url, told) in [
            ("redis://h", ""),
            ("redis://:pw@h:6379/3", ""),
            ("redis://[::1]:6379", ""),
            ("unix:///run/redis.sock?db=2", ""),
            ("nats://token@h:4222", ""),
            ("redis://h:port", "port"),
            ("redis://h:99999", "port"),
            ("redis://u:a/b@h", "%2F"),
            ("redis:///3", "host"),
            ("redis://h/three", "`three` is not a database number"),
            ("unix://", "no path"),
        ] {
            let found = unreadable(url, true).unwrap_or_default();
            assert!(found.contains(told) && found.is_empty() == told.is_empty(), "{url}: {found}");
        }
    }
}
