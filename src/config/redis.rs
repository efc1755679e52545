//! `[source.redis]`: the streams, and the Redis that holds them.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::places::{REDIS_FORMS, unreadable};
use super::secrets::{redacted, with_password};

/// `[source.redis]`. The address is one of `url`, `sentinels` (with `master`) and `cluster`; the
/// default is `redis://127.0.0.1:6379`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// One Redis: `redis://[user:password@]host:port[/db]`; `rediss://` uses TLS.
    #[serde(skip_serializing)]
    pub url: Option<String>,
    /// Sentinels that know the master: `redis://[user:password@]host:26379`, with the sentinels'
    /// own credentials.
    #[serde(skip_serializing)]
    pub sentinels: Vec<String>,
    /// The sentinels' name of the master. If Redis needs a password, TLS or a database other than
    /// 0, a URL whose host is that name: `rediss://user:password@mymaster/0`.
    #[serde(skip_serializing)]
    pub master: Option<String>,
    /// Some nodes of a Redis Cluster: `redis://[user:password@]host:port`. They name the others.
    /// The first node's user, password and TLS apply to nodes that are not listed.
    #[serde(skip_serializing)]
    pub cluster: Vec<String>,
    /// File that holds the password of Redis, instead of one in those URLs. Sentinels have their
    /// own.
    pub password_file: Option<PathBuf>,
    /// Stream keys; several streams are partitions that are read in parallel.
    pub streams: Vec<String>,
    /// Streams that are also read while topics move between them and `streams`. This server
    /// publishes nothing to them.
    pub read_also: Vec<String>,
    /// Entry field that holds the topic's name.
    pub topic_field: String,
    /// Entry field that holds the delta.
    pub data_field: String,
    /// Entry field that holds the kind (`delta` or `snapshot`).
    pub kind_field: String,
    /// Entry field that holds the source's time in ms.
    pub ts_field: String,
    /// `MAXLEN ~` of entries that the publish API appends.
    pub max_len: u64,
    /// Whether refused entries are copied, with the reason, to `<stream>:refused`.
    pub refused: bool,
    /// `MAXLEN ~` of these copies, per stream.
    pub refused_max_len: u64,
    /// Time between two saves of topic states to Redis, by one of the nodes, so that a starting
    /// node need not read the whole stream; `"0s"` means never.
    #[serde(with = "humantime_serde")]
    pub snapshot_every: Duration,
    /// The node is not ready while the last entry that it read is older than this and more are
    /// waiting.
    #[serde(with = "humantime_serde")]
    pub max_lag: Duration,
}

/// The address of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisAddress<'a> {
    /// One Redis, at this URL.
    One(&'a str),
    /// The master that these sentinels name.
    Sentinels {
        /// Their URLs.
        sentinels: &'a [String],
        /// Their name of the master.
        name: &'a str,
        /// URL with the master's user, password and database; its host has no meaning. `None` if it
        /// needs none of these.
        credentials: Option<&'a str>,
    },
    /// The cluster of these nodes.
    Cluster(&'a [String]),
}

const DEFAULT_URL: &str = "redis://127.0.0.1:6379";

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            sentinels: Vec::new(),
            master: None,
            cluster: Vec::new(),
            password_file: None,
            streams: vec!["nexus:deltas".into()],
            read_also: Vec::new(),
            topic_field: "topic".into(),
            data_field: "data".into(),
            kind_field: "kind".into(),
            ts_field: "ts".into(),
            max_len: 1_000_000,
            refused: false,
            refused_max_len: 1_000,
            snapshot_every: Duration::from_secs(30),
            max_lag: Duration::from_secs(5),
        }
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis")
            .field("address", &self.described())
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// The address.
    pub fn address(&self) -> RedisAddress<'_> {
        if !self.cluster.is_empty() {
            return RedisAddress::Cluster(&self.cluster);
        }
        match &self.master {
            Some(master) if !self.sentinels.is_empty() => {
                let credentials = master.contains("://").then_some(master.as_str());
                RedisAddress::Sentinels { sentinels: &self.sentinels, name: master_name(master), credentials }
            }
            _ => RedisAddress::One(self.url.as_deref().unwrap_or(DEFAULT_URL)),
        }
    }

    /// The key of the address in the configuration.
    pub fn address_key(&self) -> &'static str {
        match self.address() {
            RedisAddress::One(_) => "source.redis.url",
            RedisAddress::Sentinels { .. } => "source.redis.sentinels",
            RedisAddress::Cluster(_) => "source.redis.cluster",
        }
    }

    /// All streams that are read, first those in which topics belong.
    pub fn all_streams(&self) -> impl Iterator<Item = &String> {
        self.streams.iter().chain(&self.read_also)
    }

    /// Replaces the address with that of the command line: a URL, or
    /// `redis+sentinel://[user:password@]host:port,host:port/mymaster`, or
    /// `redis+cluster://[user:password@]host:port,host:port` (`rediss+…` over TLS). User and
    /// password are those of Redis.
    pub fn set_address(&mut self, address: &str) {
        (self.url, self.sentinels, self.master, self.cluster) = (None, Vec::new(), None, Vec::new());
        let Some((scheme, rest)) = address.split_once("://") else {
            self.url = Some(address.to_owned());
            return;
        };
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), rest),
        };
        match scheme.split_once('+') {
            Some((plain @ ("redis" | "rediss"), "cluster")) => {
                let hosts = hosts.trim_end_matches('/').split(',');
                self.cluster = hosts.map(|host| format!("{plain}://{user}{host}")).collect();
            }
            Some((plain @ ("redis" | "rediss"), "sentinel")) => {
                let (hosts, master) = hosts.split_once('/').unwrap_or((hosts, ""));
                self.sentinels = hosts.split(',').map(|host| format!("{plain}://{host}")).collect();
                self.master = Some(format!("{plain}://{user}{master}"));
            }
            _ => self.url = Some(address.to_owned()),
        }
    }

    /// Checks the address and the streams if no file was checked.
    ///
    /// # Errors
    /// Each fault: its key, and the remedy.
    pub fn check(&self) -> Result<(), String> {
        super::faults::joined(|fault| faults(self, fault))
    }

    /// The fault of the address, if there is one.
    pub fn address_fault(&self) -> Option<String> {
        let mut first = None;
        let alone = Self { streams: vec!["any".into()], read_also: Vec::new(), ..self.clone() };
        faults(&alone, &mut |_, reason| {
            first.get_or_insert(reason);
        });
        first
    }

    /// Puts a password into the address.
    pub(super) fn set_password(&mut self, password: &str) {
        if !self.cluster.is_empty() {
            for url in &mut self.cluster {
                *url = with_password(url, password);
            }
        } else if let Some(master) = &mut self.master {
            let url = if master.contains("://") { master.clone() } else { format!("redis://{master}") };
            *master = with_password(&url, password);
        } else {
            self.url = Some(with_password(self.url.as_deref().unwrap_or(DEFAULT_URL), password));
        }
    }

    /// The address without secrets, for people and logs.
    pub fn described(&self) -> String {
        let list = |urls: &[String]| urls.iter().map(|url| redacted(url)).collect::<Vec<_>>().join(", ");
        match self.address() {
            RedisAddress::One(url) => redacted(url),
            RedisAddress::Sentinels { sentinels, name, .. } => {
                format!("master {name} by sentinels {}", list(sentinels))
            }
            RedisAddress::Cluster(nodes) => format!("Cluster by {}", list(nodes)),
        }
    }
}

/// The name in `mymaster` or `redis://user:password@mymaster/0`.
fn master_name(master: &str) -> &str {
    let Some((_, rest)) = master.split_once("://") else { return master };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

fn is_tcp(url: &str) -> bool {
    ["redis://", "rediss://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// Faults of a well-formed section.
pub(super) fn faults(redis: &Redis, fault: &mut dyn FnMut(&str, String)) {
    let forms = [
        ("source.redis.url", redis.url.is_some()),
        ("source.redis.sentinels", !redis.sentinels.is_empty() || redis.master.is_some()),
        ("source.redis.cluster", !redis.cluster.is_empty()),
    ];
    let given: Vec<&str> = forms.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
    if let [first, others @ ..] = given.as_slice() {
        for other in others {
            fault(other, format!("says where Redis is, and so does {first}; keep one of them"));
        }
    }
    if let Some(url) = &redis.url
        && !is_tcp(url)
        && !["unix://", "redis+unix://"].iter().any(|scheme| url.starts_with(scheme))
    {
        fault("source.redis.url", "must start with redis://, rediss:// (TLS) or unix://".into());
    } else if let Some(url) = &redis.url
        && let Some(why) = unreadable(url, true)
    {
        fault("source.redis.url", format!("`{}` cannot be read: {why}; it may be {REDIS_FORMS}", redacted(url)));
    }
    for (key, urls) in [("source.redis.sentinels", &redis.sentinels), ("source.redis.cluster", &redis.cluster)] {
        for (i, url) in urls.iter().enumerate() {
            if !is_tcp(url) {
                let reason = format!("`{}` must be redis://host:port or rediss://host:port (TLS)", redacted(url));
                fault(&format!("{key}[{i}]"), reason);
            } else if let Some(why) = unreadable(url, false) {
                fault(&format!("{key}[{i}]"), format!("`{}` cannot be read: {why}", redacted(url)));
            }
        }
    }
    match &redis.master {
        None if !redis.sentinels.is_empty() => {
            fault("source.redis.master", "is missing: the sentinels' name of the master, often `mymaster`".into());
        }
        Some(_) if redis.sentinels.is_empty() => {
            fault("source.redis.sentinels", "is empty; name the sentinels that know the master".into());
        }
        Some(master) if master_name(master).is_empty() || (master.contains("://") && !is_tcp(master)) => {
            let reason = "must be the master's name, or redis[s]://[user:password@]name[/db]";
            fault("source.redis.master", reason.into());
        }
        Some(master) if master.contains("://") => {
            if let Some(why) = unreadable(master, true) {
                fault("source.redis.master", format!("`{}` cannot be read: {why}", redacted(master)));
            }
        }
        _ => {}
    }
    for (i, url) in redis.cluster.iter().enumerate().filter(|(_, url)| is_tcp(url)) {
        let database = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        if !["", "0"].contains(&database.split(['?', '#']).next().unwrap_or("")) {
            fault(&format!("source.redis.cluster[{i}]"), "names a database; a cluster has only number 0".into());
        }
    }
    if redis.streams.is_empty() || redis.streams.iter().any(String::is_empty) {
        fault("source.redis.streams", "needs at least one key, and none may be empty".into());
    }
    let mut seen = std::collections::HashSet::new();
    for (key, streams) in [("source.redis.streams", &redis.streams), ("source.redis.read_also", &redis.read_also)] {
        if key.ends_with("read_also") && streams.iter().any(String::is_empty) {
            fault(key, "has an empty key".into());
        }
        if let Some(twice) = streams.iter().find(|stream| !seen.insert(*stream)) {
            fault(key, format!("names the stream {twice:?} again; each is read once"));
        }
    }
    if redis.max_len == 0 {
        fault("source.redis.max_len", "0 would keep nothing".into());
    }
    if redis.refused && redis.refused_max_len == 0 {
        fault(
            "source.redis.refused_max_len",
            "0 would keep nothing; source.redis.refused = false copies nothing".into(),
        );
    }
    let is_read = |key: &str| redis.all_streams().any(|stream| stream == key);
    if let Some(stream) = redis.all_streams().find(|stream| is_read(&format!("{{{stream}}}"))) {
        let reason = format!("`{stream}` and `{{{stream}}}` would have the same keys beside them: rename one of them");
        fault("source.redis.streams", reason);
    }
    let copies = redis.all_streams().find(|stream| is_read(&format!("{stream}:refused")));
    if let Some(stream) = copies.filter(|_| redis.refused) {
        let reason =
            format!("`{stream}:refused` is where refused entries of `{stream}` are copied to (source.redis.refused)");
        fault("source.redis.streams", reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(redis: &Redis) -> Vec<(String, String)> {
        let mut found = Vec::new();
        faults(redis, &mut |key, reason| found.push((key.to_owned(), reason)));
        found
    }

    fn from(text: &str) -> Redis {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn no_two_streams_share_the_keys_beside_them() {
        assert!(faults_of(&from(r#"streams = ["x", "y", "{a}x"]"#)).is_empty());
        let found = faults_of(&from(r#"streams = ["x", "{x}"]"#));
        assert!(found.iter().any(|(_, fault)| fault.contains("the same keys")), "{found:?}");
    }

    #[test]
    fn one_form_and_what_it_says() {
        assert_eq!(Redis::default().address(), RedisAddress::One("redis://127.0.0.1:6379"));
        let redis = from("sentinels = [\"redis://:s3@a:1\"]\nmaster = \"redis://u:p@main/2\"");
        let RedisAddress::Sentinels { name, credentials, .. } = redis.address() else { panic!("{redis:?}") };
        assert_eq!((name, credentials), ("main", Some("redis://u:p@main/2")));
        assert!(!format!("{redis:?}{}", redis.described()).contains("s3"), "{redis:?}");
        let redis = from("cluster = [\"redis://a:1\", \"redis://:p@b:2\"]");
        assert_eq!(redis.described(), "Cluster by redis://a:1, redis://***@b:2");
    }

    #[test]
    fn a_password_goes_where_the_address_is() {
        for (text, expected) in [
            ("", "url = \"redis://:p%40@127.0.0.1:6379\""),
            (
                "cluster = [\"redis://a:1\", \"redis://u@b:2\"]",
                "cluster = [\"redis://:p%40@a:1\", \"redis://u:p%40@b:2\"]",
            ),
            (
                "sentinels = [\"redis://a:1\"]\nmaster = \"main\"",
                "sentinels = [\"redis://a:1\"]\nmaster = \"redis://:p%40@main\"",
            ),
        ] {
            let mut redis = from(text);
            redis.set_password("p@");
            assert!(redis == from(expected), "{text}: {redis:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, key, needle) in [
            ("url = \"http://x\"", "source.redis.url", "redis://"),
            ("url = \"redis://\"", "source.redis.url", "redis://"),
            ("url = \"redis://a\"\ncluster = [\"redis://a\"]", "source.redis.cluster", "source.redis.url"),
            ("url = \"redis://a\"\nsentinels = [\"redis://a\"]\nmaster = \"m\"", "source.redis.sentinels", "keep one"),
            ("sentinels = [\"redis://a\"]", "source.redis.master", "mymaster"),
            ("master = \"m\"", "source.redis.sentinels", "name the sentinels"),
            ("sentinels = [\"a:26379\"]\nmaster = \"m\"", "source.redis.sentinels[0]", "a:26379"),
            ("sentinels = [\"redis://a\"]\nmaster = \"redis://u:p@/0\"", "source.redis.master", "name"),
            ("cluster = [\"redis://a\", \"unix:///x\"]", "source.redis.cluster[1]", "unix:///x"),
            ("cluster = [\"redis://a/3\"]", "source.redis.cluster[0]", "database"),
            ("streams = []", "source.redis.streams", "at least one"),
            ("streams = [\"a\", \"a\"]", "source.redis.streams", "again"),
            ("streams = [\"a\"]\nread_also = [\"b\", \"a\"]", "source.redis.read_also", "\"a\""),
            ("read_also = [\"\"]", "source.redis.read_also", "empty"),
            ("max_len = 0", "source.redis.max_len", "nothing"),
            ("refused = true\nrefused_max_len = 0", "source.redis.refused_max_len", "nothing"),
            ("refused = true\nstreams = [\"a:refused\", \"a\"]", "source.redis.streams", "copied"),
        ] {
            let found = faults_of(&from(text));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].0 == key && found[0].1.contains(needle), "{text}: {found:?}");
        }
    }

    #[test]
    fn an_address_on_the_command_line() {
        for (text, expected) in [
            ("redis://a:1", "url = \"redis://a:1\""),
            ("redis+cluster://u:p@a:1,b:2", "cluster = [\"redis://u:p@a:1\", \"redis://u:p@b:2\"]"),
            (
                "rediss+sentinel://u:p@a:1,b:2/main",
                "sentinels = [\"rediss://a:1\", \"rediss://b:2\"]\nmaster = \"rediss://u:p@main\"",
            ),
        ] {
            let mut redis = from("url = \"redis://other\"");
            redis.set_address(text);
            assert!(redis == from(expected), "{text}: {redis:?}");
            assert_eq!(faults_of(&redis), []);
        }
        let mut redis = Redis::default();
        redis.set_address("redis+sentinel://a:1");
        assert_eq!(faults_of(&redis).len(), 1, "{redis:?}");
    }
}
