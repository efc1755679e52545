//! Reading the configuration: a TOML file, overridden by `NEXUS_…` variables, overridden by the
//! command line. Errors name the file, the line and the key.

use std::path::Path;

use toml::{Table, Value};

use super::plain::plain;
use super::secrets::{is_sensitive, without_quotes};
use super::{Config, check};

/// Prefix of environment variables; `__` separates sections: `NEXUS_SERVER__LISTEN`.
const ENV_PREFIX: &str = "NEXUS_";

/// Why a configuration was refused: one line per fault.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Options of the command line that override the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<std::net::SocketAddr>,
    /// `--redis`
    pub redis: Option<String>,
    /// `--nats`
    pub nats: Option<String>,
    /// `--shards`
    pub shards: Option<usize>,
    /// `--insecure`
    pub insecure: bool,
}

/// Reads and checks the whole configuration. Without a file, the embedded default is the base.
///
/// # Errors
/// All faults, with file, line and key where they are known.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    match file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| ConfigError(vec![format!("{}: cannot be read: {e}", path.display())]))?;
            read(&path.display().to_string(), Some(&text), environment, overrides)
        }
        None => read("(built-in default)", None, environment, overrides),
    }
}

fn read(
    name: &str,
    text: Option<&str>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    let mut table = match text {
        Some(text) => {
            // The file alone is parsed into types first, because only this parse knows the lines of
            // errors.
            toml::from_str::<Config>(text).map_err(|e| ConfigError(vec![located(name, text, &e)]))?;
            toml::from_str::<Table>(text).map_err(|e| ConfigError(vec![located(name, text, &e)]))?
        }
        None => embedded_table()?,
    };
    let mut config: Config = decode(&table, name)?;
    let mut variables: Vec<(String, String)> = environment.filter(|(k, _)| k.starts_with(ENV_PREFIX)).collect();
    variables.sort();
    for (variable, value) in variables {
        let path: Vec<String> =
            variable.trim_start_matches(ENV_PREFIX).split("__").map(|part| part.to_ascii_lowercase()).collect();
        let error = |reason: String| ConfigError(vec![format!("environment variable {variable}: {reason}")]);
        // A value that is not TOML (`127.0.0.1:9000`, `5s`) is a string. One that is TOML of the
        // wrong type (`true` for a URL) is tried as a string too.
        let candidates = [toml_value(&value), Some(Value::String(value.clone()))];
        let mut outcome = Err(error("is empty".into()));
        for candidate in candidates.into_iter().flatten() {
            let mut changed = table.clone();
            put(&mut changed, &path, candidate).map_err(&error)?;
            match Config::deserialize_table(changed.clone()) {
                Ok(decoded) => {
                    table = changed;
                    outcome = Ok(decoded);
                    break;
                }
                Err(e) => {
                    let key = path.join(".");
                    let e = if is_sensitive(&key) { without_quotes(&e) } else { e };
                    outcome = Err(error(format!("key {key}: {}", plain(&e))));
                }
            }
        }
        config = outcome?;
    }
    overrides.apply(&mut config, text.is_some());
    config.add_ops(overrides.insecure);
    let faults = check::faults(&config);
    if faults.is_empty() {
        return Ok(config);
    }
    let lines = faults
        .into_iter()
        .map(|fault| {
            let line = text.and_then(|text| line_of(text, &fault.key));
            let at = line.map_or_else(String::new, |line| format!(":{line}"));
            format!("{name}{at}: {}: {}", fault.key, fault.reason)
        })
        .collect();
    Err(ConfigError(lines))
}

impl Config {
    /// Reads and checks the text of a configuration file; errors call it `name`.
    ///
    /// ```
    /// use nexus_push::config::{Class, Config};
    ///
    /// let config = Config::read("push.toml", "[namespace.quotes]\nclass = \"merge\"\n")?;
    /// assert_eq!(config.namespace(Some("quotes")).class, Class::Merge);
    /// assert_eq!(config.namespace(Some("signals")).class, Class::Stream); // not configured: the default
    ///
    /// let error = Config::read("push.toml", "[limits]\ntopics = 0\n").unwrap_err();
    /// assert_eq!(error.to_string(), "push.toml:2: limits.topics: 0 is too small, the least is 1");
    /// # Ok::<(), nexus_push::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// See [`load`].
    pub fn read(name: &str, text: &str) -> Result<Self, ConfigError> {
        read(name, Some(text), std::iter::empty(), &Overrides::default())
    }

    fn deserialize_table(table: Table) -> Result<Self, String> {
        Value::Table(table).try_into::<Self>().map_err(|e| e.to_string().trim().replace('\n', " "))
    }
}

impl Overrides {
    fn apply(&self, config: &mut Config, has_file: bool) {
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if let Some(shards) = self.shards {
            config.server.shards = shards;
        }
        if let Some(url) = &self.redis {
            config.source.redis.get_or_insert_default().set_address(url);
            // Real and simulated deltas mix only if a file says so.
            if !has_file {
                config.source.simulator = None;
            }
        }
        if let Some(url) = &self.nats {
            config.source.nats.get_or_insert_default().set_address(url);
            if !has_file {
                config.source.simulator = None;
            }
        }
        if self.insecure {
            config.access.anonymous = true;
            config.access.origins = vec!["*".into()];
            config.publish.open = true;
        }
    }
}

fn embedded_table() -> Result<Table, ConfigError> {
    Table::try_from(Config::embedded()).map_err(|e| ConfigError(vec![format!("built-in default: {e}")]))
}

fn decode(table: &Table, name: &str) -> Result<Config, ConfigError> {
    Config::deserialize_table(table.clone()).map_err(|e| ConfigError(vec![format!("{name}: {}", plain(&e))]))
}

fn toml_value(text: &str) -> Option<Value> {
    let document: Table = toml::from_str(&format!("v = {text}")).ok()?;
    document.get("v").cloned()
}

fn put(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    match path {
        [] => Err("names no key".into()),
        [last] => {
            table.insert(last.clone(), value);
            Ok(())
        }
        [section, rest @ ..] => {
            let entry = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = entry else { return Err(format!("`{section}` is not a section")) };
            put(inner, rest, value)
        }
    }
}

/// `file:line: message`, with the wrong key as TOML's own error names it.
fn located(name: &str, text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    match error.span() {
        Some(span) => {
            let line = line_at(text, span.start);
            let source = text.lines().nth(line - 1).unwrap_or("").trim();
            // The text there may be a secret, or a misplaced one. Then the error shows only the
            // key.
            match may_hold_secret(text, line) {
                true => {
                    let key = source.split_once('=').map_or("", |(key, _)| key.trim());
                    format!("{name}:{line}: `{key} …`: {}", plain(&without_quotes(message)))
                }
                false => format!("{name}:{line}: `{source}`: {}", plain(message)),
            }
        }
        None => format!("{name}: {}", plain(&without_quotes(message))),
    }
}

/// Whether a line may hold a secret: its key may have one, or is unknown.
fn may_hold_secret(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().take(line).collect();
    for (back, line) in lines.iter().rev().enumerate() {
        let line = line.trim();
        if let Some((key, _)) = line.split_once('=') {
            // The whole line counts, because an inline table has keys of its own.
            return is_sensitive(if back == 0 { line } else { key });
        }
        if line.starts_with('[') && line.ends_with(']') && !line.contains(['"', '\'', ',']) {
            return false;
        }
    }
    lines.last().is_some_and(|line| is_sensitive(line) || line.contains(['"', '\'']))
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// The line of `key` (dotted), or of the nearest section around it.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = toml_edit::Document::parse(text).ok()?;
    let mut line = None;
    let mut item = document.as_item();
    for part in key.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some(next) = item.get(name) else { break };
        item = next;
        if let Some(next) = index.and_then(|i| item.get(i)) {
            item = next;
        }
        if let Some(span) = item.span() {
            line = Some(line_at(text, span.start));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(Some(&path), env.into_iter(), &Overrides::default())
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let table: &[(&str, &str, &[&str])] = &[
            ("[server]\nlisten = 5\n", "wrong type", &["c.toml:2", "listen"]),
            ("[server]\nlsten = \"127.0.0.1:1\"\n", "unknown key", &["c.toml:2", "lsten", "listen"]),
            ("[server\n", "syntax", &["c.toml:1"]),
            ("\n\n[limits]\nbacklog_bytes = 10\n", "too small", &["c.toml:4", "limits.backlog_bytes", "10"]),
            (
                "[namespace.trades]\nclass = \"stream\"\nmax_rate = 5\n",
                "rate on stream",
                &["c.toml:3", "namespace.trades.max_rate"],
            ),
            ("[namespace.x]\nclass = \"quick\"\n", "unknown class", &["c.toml:2", "quick"]),
            (
                "[namespace.x]\nclass = \"merge\"\npayload = \"bytes\"\n",
                "bytes to merge",
                &["c.toml:3", "namespace.x.payload", "latest"],
            ),
            ("[source.redis]\nurl = \"http://x\"\n", "scheme", &["c.toml:2", "source.redis.url"]),
            ("[source.nats]\nsubjects = [\"a\"]\n", "subject", &["c.toml:2", "source.nats.subjects[0]", "`a`"]),
            ("[source.redis]\n[source.nats]\n", "two streams", &["c.toml:2", "source.nats", "not both"]),
            (
                "[source.redis]\nurl = \"redis://x\"\ncluster = [\"redis://y\"]\n",
                "two forms",
                &["c.toml:3", "source.redis.cluster", "source.redis.url"],
            ),
            (
                "[[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"short\"\n",
                "short secret",
                &["access.keys[0].secret", "32"],
            ),
        ];
        for (text, what, needles) in table {
            let error = load_text(text, &[]).expect_err(what).to_string();
            for needle in *needles {
                assert!(error.contains(needle), "{what}: `{needle}` missing in: {error}");
            }
            assert!(!error.contains("short\""), "secrets are not echoed: {error}");
        }
    }

    #[test]
    fn rules_about_topics_that_never_match_are_refused_where_they_stand() {
        let key = "[[publish.key]]\nname = \"a\"\nsecret = \"0123456789abcdef\"\ntopics = [\"quotes:*\", \"RULE\"]\n";
        let access = "[access]\ndefault_topics = [\n  \"quotes:*\",\n  \"RULE\",\n]\n";
        for rule in ["*quotes", "a*b", "a**", "**", "quotes:*:x", "", "a b", &format!("{}*", "x".repeat(256))] {
            for (text, at) in
                [(key, "c.toml:4: publish.key[0].topics[1]: "), (access, "c.toml:4: access.default_topics[1]: ")]
            {
                let error = load_text(&text.replace("RULE", rule), &[]).unwrap_err().to_string();
                assert!(error.contains(at), "{rule}: {error}");
                assert!(!rule.contains('*') || rule.len() > 64 || error.contains("`quotes:*`"), "{rule}: {error}");
            }
        }
        for rule in ["*", "quotes:*", "quotes:BTC", "$news:*", "dialog#1,2", &format!("{}*", "x".repeat(255))] {
            for text in [key, access] {
                assert!(load_text(&text.replace("RULE", rule), &[]).is_ok(), "{rule}");
            }
        }
    }

    #[test]
    fn errors_do_not_show_secrets() {
        for text in [
            "[publish]\nkeys = \"s3cr3t-value\"\n",
            "[publish]\nkeys = [\n  \"s3cr3t-value\", 5,\n]\n",
            "[publish]\nkeyz = [\"s3cr3t-value\"]\n",
            "[publish]\nkeys = [\"s3cr3t-value]\n",
            "[[access.keys]]\nalgorithm = \"HS256\"\nsecrt = \"s3cr3t-value\"\n",
            "[[access.keys]]\nalgorithm = \"HS256\"\nkid = {secret = \"s3cr3t-value\"}\n",
            "[source.redis]\nurl = [\"redis://:s3cr3t-value@h\"]\n",
            "[source.redis]\npasword = \"s3cr3t-value\"\n",
            "[rpc]\nauthorization = [\"s3cr3t-value\"]\n",
            "[operator]\nkey = [\"s3cr3t-value\"]\n",
        ] {
            let error = load_text(text, &[]).unwrap_err().to_string();
            assert!(!error.contains("s3cr3t") && error.contains("c.toml:"), "{error}");
        }
        for variable in ["NEXUS_PUBLISH__KEYS", "NEXUS_SOURCE__REDIS__STREAMS__URL", "NEXUS_OPERATOR__KEY__X"] {
            let error = load_text("", &[(variable, "s3cr3t-value")]).unwrap_err().to_string();
            assert!(!error.contains("s3cr3t") && error.contains(variable), "{error}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error = load_text("[limits]\nbacklog_bytes = 1\nmessage_bytes = 1\n", &[]).unwrap_err();
        assert_eq!(error.0.len(), 2, "{error}");
    }

    #[test]
    fn environment_overrides_the_file() {
        let config = load_text(
            "[server]\nshards = 3\n",
            &[
                ("NEXUS_SERVER__LISTEN", "127.0.0.1:9000"),
                ("NEXUS_SERVER__DRAIN_WINDOW", "7s"),
                ("NEXUS_SERVER__SHARDS", "5"),
                ("NEXUS_ACCESS__ORIGINS", "[\"https://a.example\"]"),
                ("NEXUS_NAMESPACE__QUOTES__CLASS", "merge"),
                ("UNRELATED", "x"),
            ],
        )
        .unwrap();
        assert_eq!(config.server.listen.port(), 9000);
        assert_eq!(config.server.drain_window.as_secs(), 7);
        assert_eq!(config.server.shards, 5);
        assert_eq!(config.access.origins, ["https://a.example"]);
        assert_eq!(config.namespace(Some("quotes")).class, super::super::Class::Merge);
    }

    #[test]
    fn environment_errors_name_the_variable_and_key() {
        let error = load_text("", &[("NEXUS_SERVER__SHARDS", "many")]).unwrap_err().to_string();
        assert!(error.contains("NEXUS_SERVER__SHARDS") && error.contains("server.shards"), "{error}");
        let error = load_text("", &[("NEXUS_SERVR__SHARDS", "1")]).unwrap_err().to_string();
        assert!(error.contains("NEXUS_SERVR__SHARDS"), "{error}");
    }

    #[test]
    fn the_embedded_default_survives_its_own_round_trip() {
        let config = load(None, std::iter::empty(), &Overrides::default()).unwrap();
        assert_eq!(config, Config::embedded());
    }

    #[test]
    fn a_source_on_the_command_line_replaces_the_simulator() {
        let overrides = Overrides { redis: Some("redis://127.0.0.1:7".into()), ..Overrides::default() };
        let config = load(None, std::iter::empty(), &overrides).unwrap();
        assert!(config.source.simulator.is_none());
        assert_eq!(config.source.redis.unwrap().url.as_deref(), Some("redis://127.0.0.1:7"));
        if cfg!(not(feature = "nats")) {
            return;
        }
        let overrides = Overrides { nats: Some("nats://127.0.0.1:7".into()), ..Overrides::default() };
        let config = load(None, std::iter::empty(), &overrides).unwrap();
        assert!(config.source.simulator.is_none());
        assert_eq!(config.source.nats.unwrap().urls, ["nats://127.0.0.1:7"]);
    }
}
