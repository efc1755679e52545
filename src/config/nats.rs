//! `[source.nats]`: a JetStream stream.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[source.nats]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nats {
    /// Servers of one cluster: `nats://host:port`, or `tls://…`. The user and password of the first
    /// are used for all.
    #[serde(skip_serializing)]
    pub urls: Vec<String>,
    /// The stream's name.
    pub stream: String,
    /// Its subjects, each `….>`; the part in place of `>` names the topic. The publish API writes
    /// under the first.
    pub subjects: Vec<String>,
    /// Create the stream, and the bucket beside it, if they are missing. Existing ones are never
    /// changed.
    pub create: bool,
    /// Most messages in a stream that is created here.
    pub max_messages: u64,
    /// Most bytes in it; 0 means no limit.
    pub max_bytes: u64,
    /// Longest age of its messages; `"0s"` means no limit.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Number of its replicas.
    pub replicas: usize,
    /// Key-value bucket for the epoch and saved states; by default the stream's name followed by
    /// `_STATE`.
    pub bucket: Option<String>,
    /// Time between two saves of topic states to the bucket, by one of the nodes; `"0s"` means
    /// never.
    #[serde(with = "humantime_serde")]
    pub snapshot_every: Duration,
    /// The node is not ready while the last message that it read is older than this and more are
    /// waiting.
    #[serde(with = "humantime_serde")]
    pub max_lag: Duration,
    /// File of a user's JWT and key (`.creds`).
    pub credentials_file: Option<PathBuf>,
    /// File of an NKey's seed.
    pub nkey_file: Option<PathBuf>,
    /// A token.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// File of a token.
    pub token_file: Option<PathBuf>,
    /// A user name.
    pub user: Option<String>,
    /// Its password.
    #[serde(skip_serializing)]
    pub password: Option<String>,
    /// File of its password.
    pub password_file: Option<PathBuf>,
    /// Use TLS, whatever the URLs say.
    pub tls: bool,
    /// PEM: authorities that may vouch for the servers, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM: this server's own certificate.
    pub client_certificate_file: Option<PathBuf>,
    /// PEM: the key of that certificate.
    pub client_key_file: Option<PathBuf>,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".into()],
            stream: "NEXUS".into(),
            subjects: vec!["nexus.deltas.>".into()],
            create: true,
            max_messages: 1_000_000,
            max_bytes: 0,
            max_age: Duration::ZERO,
            replicas: 1,
            bucket: None,
            snapshot_every: Duration::from_secs(30),
            max_lag: Duration::from_secs(5),
            credentials_file: None,
            nkey_file: None,
            token: None,
            token_file: None,
            user: None,
            password: None,
            password_file: None,
            tls: false,
            ca_file: None,
            client_certificate_file: None,
            client_key_file: None,
        }
    }
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("servers", &self.servers()).field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Nats {
    /// The servers' addresses, for people and logs.
    pub fn servers(&self) -> String {
        let servers: Vec<String> = self.urls.iter().map(|url| super::secrets::redacted(url)).collect();
        servers.join(", ")
    }

    /// The bucket beside the stream.
    pub fn bucket(&self) -> String {
        self.bucket.clone().unwrap_or_else(|| format!("{}_STATE", self.stream))
    }

    /// Replaces the addresses with those of the command line:
    /// `nats://[user:password@]host:port,host:port`, or `tls://…`, servers of one cluster.
    pub fn set_address(&mut self, address: &str) {
        let scheme = address.split_once("://").map_or("nats", |(scheme, _)| scheme);
        // A password may contain a comma; the hosts follow the `@`.
        let (login, hosts) = address.rsplit_once('@').map_or(("", address), |(login, hosts)| (login, hosts));
        let full = |(at, host): (usize, &str)| match at {
            0 if login.is_empty() => host.to_owned(),
            0 => format!("{login}@{host}"),
            _ if host.contains("://") => host.to_owned(),
            _ => format!("{scheme}://{host}"),
        };
        self.urls = hosts.split(',').enumerate().map(full).collect();
    }

    /// The fault of the addresses, if there is one.
    pub fn address_fault(&self) -> Option<String> {
        let mut first = None;
        let alone = Self { urls: self.urls.clone(), ..Self::default() };
        alone.faults(&mut |_, reason| {
            first.get_or_insert(reason);
        });
        first
    }

    /// Checks addresses, stream and subjects if no file was checked.
    ///
    /// # Errors
    /// Each fault: its key, and the remedy.
    pub fn check(&self) -> Result<(), String> {
        super::faults::joined(|fault| self.faults(fault))
    }

    /// Passes each fault to `fault`: its key, and the remedy.
    pub(super) fn faults(&self, fault: &mut dyn FnMut(&str, String)) {
        if self.urls.is_empty() {
            fault("source.nats.urls", "names no server".into());
        }
        for (i, url) in self.urls.iter().enumerate() {
            if !["nats://", "tls://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
            {
                fault(&format!("source.nats.urls[{i}]"), "must be nats://host:port (or tls://)".into());
            } else if let Some(why) = super::places::unreadable(url, false) {
                let reason = format!("`{}` cannot be read: {why}", super::secrets::redacted(url));
                fault(&format!("source.nats.urls[{i}]"), reason);
            }
        }
        if !is_name(&self.stream) {
            fault("source.nats.stream", "a stream's name is letters, digits, `-` and `_`".into());
        }
        if self.bucket.as_ref().is_some_and(|bucket| !is_name(bucket)) {
            fault("source.nats.bucket", "a bucket's name is letters, digits, `-` and `_`".into());
        }
        if self.subjects.is_empty() {
            fault("source.nats.subjects", "is empty; name a subject".into());
        }
        for (i, subject) in self.subjects.iter().enumerate() {
            let at = format!("source.nats.subjects[{i}]");
            let Some(prefix) = subject.strip_suffix(".>") else {
                fault(&at, format!("`{subject}` must end in `.>`: what stands for it names the topic"));
                continue;
            };
            let bad = |c: char| matches!(c, '*' | '>') || c.is_whitespace() || c.is_control();
            if prefix.split('.').any(str::is_empty) || prefix.contains(bad) {
                fault(&at, format!("`{subject}` may have no wildcard but the last, and no empty token"));
            }
            let overlaps = |other: &String| format!("{prefix}.").starts_with(other.trim_end_matches('>'));
            if self.subjects.iter().enumerate().any(|(k, other)| k != i && overlaps(other)) {
                fault(&at, format!("`{subject}` lies within another one"));
            }
        }
        if !(1..=5).contains(&self.replicas) {
            fault("source.nats.replicas", format!("{} is outside 1 to 5", self.replicas));
        }
        for (key, value) in [("max_messages", self.max_messages), ("max_bytes", self.max_bytes)] {
            if i64::try_from(value).is_err() {
                fault(&format!("source.nats.{key}"), format!("{value} is too large"));
            }
        }
        if self.max_messages == 0 && self.max_bytes == 0 && self.max_age.is_zero() {
            fault(
                "source.nats.max_messages",
                "is 0, and so are max_bytes and max_age: the stream would only grow".into(),
            );
        }
        let every = self.snapshot_every;
        if !every.is_zero() && every.as_millis() < 100 {
            fault(
                "source.nats.snapshot_every",
                format!("{every:?} is too short, the least is 100ms (or 0s for never)"),
            );
        }
        let ways = [
            ("credentials_file", self.credentials_file.is_some()),
            ("nkey_file", self.nkey_file.is_some()),
            ("token", self.token.is_some()),
            ("token_file", self.token_file.is_some()),
            ("user", self.user.is_some()),
        ];
        let given: Vec<&str> = ways.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
        if let [_, second, ..] = given.as_slice() {
            fault(&format!("source.nats.{second}"), format!("give one way to log in, not {}", given.join(" and ")));
        }
        let passwords = usize::from(self.password.is_some()) + usize::from(self.password_file.is_some());
        if passwords != usize::from(self.user.is_some()) {
            fault("source.nats.user", "goes with one of password and password_file".into());
        }
        if self.client_certificate_file.is_some() != self.client_key_file.is_some() {
            fault("source.nats.client_certificate_file", "goes with client_key_file".into());
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_on_the_command_line() {
        for (text, urls) in [
            ("nats://a:4222", &["nats://a:4222"][..]),
            ("nats://u:p,w@a:1,b:2", &["nats://u:p,w@a:1", "nats://b:2"]),
            ("tls://a:1,tls://b:2,c", &["tls://a:1", "tls://b:2", "tls://c"]),
            ("nats://a:1,", &["nats://a:1", "nats://"]),
        ] {
            let mut nats = Nats::default();
            nats.set_address(text);
            assert_eq!(nats.urls, urls, "{text}");
        }
    }

    #[test]
    fn faults_are_named() {
        let faults = |change: fn(&mut Nats)| {
            let mut nats = Nats::default();
            change(&mut nats);
            let mut found = Vec::new();
            nats.faults(&mut |key, reason| found.push(format!("{key}: {reason}")));
            found.join("\n")
        };
        assert_eq!(faults(|_| ()), "");
        type Change = fn(&mut Nats);
        let table: &[(Change, &str)] = &[
            (|n| n.urls.clear(), "urls: names no server"),
            (|n| n.urls = vec!["http://x".into()], "urls[0]: must be nats://"),
            (|n| n.stream = "a.b".into(), "stream: a stream's name"),
            (|n| n.bucket = Some("a b".into()), "bucket: a bucket's name"),
            (|n| n.subjects = vec!["a.b".into()], "subjects[0]: `a.b` must end in `.>`"),
            (|n| n.subjects = vec!["a.*.>".into()], "no wildcard but the last"),
            (|n| n.subjects = vec!["a..>".into()], "no empty token"),
            (|n| n.subjects = vec!["a.>".into(), "a.b.>".into()], "subjects[1]: `a.b.>` lies within another one"),
            (|n| n.subjects = vec!["a.>".into(), "a.>".into()], "lies within another one"),
            (|n| n.replicas = 0, "replicas: 0 is outside"),
            (|n| n.max_bytes = u64::MAX, "max_bytes: 18446744073709551615 is too large"),
            (|n| n.max_messages = 0, "would only grow"),
            (|n| n.snapshot_every = Duration::from_millis(1), "snapshot_every: 1ms is too short"),
            (|n| n.user = Some("u".into()), "user: goes with one of password"),
            (|n| n.password = Some("p".into()), "user: goes with one of password"),
            (
                |n| (n.token, n.nkey_file) = (Some("secret".into()), Some("f".into())),
                "token: give one way to log in, not nkey_file and token",
            ),
            (|n| n.client_key_file = Some("k".into()), "client_certificate_file: goes with client_key_file"),
        ];
        for (change, needle) in table {
            let found = faults(*change);
            assert!(found.contains(needle) && !found.contains("secret"), "{needle} missing in {found}");
        }
        assert_eq!(faults(|n| n.subjects = vec!["a.b.>".into(), "a.bc.>".into()]), "", "beside each other");
    }
}
