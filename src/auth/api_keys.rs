//! Keys of the publish API and of operators: a name, and the rights of each.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::TopicRules;
use crate::config::{Config, Scope, secrets};

/// A key's name and rights. The key itself is kept only as a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The name in logs and metrics.
    pub name: Arc<str>,
    topics: TopicRules,
    publishes: bool,
    operates: bool,
}

impl ApiKey {
    fn full(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), topics: TopicRules::new(["*".to_owned()]), publishes: true, operates: true }
    }

    /// Whether it has this scope.
    pub fn may(&self, scope: Scope) -> bool {
        match scope {
            Scope::Publish => self.publishes,
            Scope::Operate => self.operates,
        }
    }

    /// Whether it covers this topic.
    pub fn has_topic(&self, topic: &str) -> bool {
        self.topics.allow_str(topic)
    }

    /// Whether it covers all topics.
    pub fn has_all_topics(&self) -> bool {
        self.topics.rules().any(|rule| rule == "*")
    }
}

/// All keys.
pub struct ApiKeys {
    keys: Vec<(ApiKey, [u8; 32])>,
    /// The rights without a key (`publish.open`).
    anyone: Option<ApiKey>,
    has_operator_key: bool,
}

impl ApiKeys {
    /// Reads the keys that the configuration contains or names.
    ///
    /// # Errors
    /// The name of a key that cannot be read, is too short, or is used twice; never the key itself.
    pub fn load(config: &Config) -> anyhow::Result<Self> {
        let publish = &config.publish;
        let mut keys: Vec<(ApiKey, [u8; 32])> = Vec::new();
        let mut add = |key: ApiKey, secret: &str| {
            let digest = digest(secret.as_bytes());
            // One key with two names: no request could tell which is meant.
            if let Some((other, _)) = keys.iter().find(|(_, known)| *known == digest) {
                bail!("{}: is the same key as {}", key.name, other.name);
            }
            keys.push((key, digest));
            Ok(())
        };
        for (i, secret) in publish.keys.iter().enumerate() {
            add(ApiKey::full(format!("publish.keys[{i}]")), secret)?;
        }
        for (i, path) in publish.key_files.iter().enumerate() {
            let secret = secrets::key(None, Some(path), None)
                .with_context(|| format!("publish.key_files: {}", path.display()))?;
            add(ApiKey::full(format!("publish.key_files[{i}]")), &secret)?;
        }
        for key in &publish.key {
            let secret = secrets::key(key.secret.as_deref(), key.secret_file.as_deref(), key.secret_env.as_deref())
                .with_context(|| format!("publish.key `{}`", key.name))?;
            let known = ApiKey {
                name: key.name.as_str().into(),
                topics: TopicRules::new(key.topics.iter().cloned()),
                publishes: key.scopes.contains(&Scope::Publish),
                operates: key.scopes.contains(&Scope::Operate),
            };
            add(known, &secret)?;
        }
        let operator = &config.operator;
        if operator.has_key() {
            let secret = secrets::key(operator.key.as_deref(), operator.key_file.as_deref(), None)
                .context("operator.key_file")?;
            add(ApiKey { publishes: false, ..ApiKey::full("operator.key") }, &secret)?;
        }
        // Publishing without a key does not give operators' rights if operators have a key.
        let anyone = publish.open.then(|| ApiKey { operates: !operator.has_key(), ..ApiKey::full("publish.open") });
        Ok(Self { keys, anyone, has_operator_key: operator.has_key() })
    }

    /// Whether there are no keys, and publishing without one is refused.
    pub fn is_off(&self) -> bool {
        self.keys.is_empty() && self.anyone.is_none()
    }

    /// Whether operators have a key.
    pub fn has_operator_key(&self) -> bool {
        self.has_operator_key
    }

    /// Number of keys with this scope.
    pub fn count(&self, scope: Scope) -> usize {
        self.keys.iter().filter(|(key, _)| key.may(scope)).count()
    }

    /// The rights of the given key, or those without a key if none is needed.
    ///
    /// All keys are compared, by digests (which hide lengths) and in constant time. So the time
    /// depends neither on which key it is nor on how much of it is right.
    pub fn find(&self, given: &[u8]) -> Option<&ApiKey> {
        let given = digest(given);
        let mut found = u32::MAX;
        for ((_, known), at) in self.keys.iter().zip(0_u32..) {
            let same: Choice = known.ct_eq(&given);
            found.conditional_assign(&at, same);
        }
        let key = usize::try_from(found).ok().and_then(|at| self.keys.get(at)).map(|(key, _)| key);
        key.or(self.anyone.as_ref())
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_found_and_nothing_else() {
        let config = Config::read(
            "test",
            "[publish]\nkeys = [\"full-key-0123456789\"]\n\
             [[publish.key]]\nname = \"feed\"\nsecret = \"feed-key-0123456789\"\ntopics = [\"quotes:*\", \"signals:a\"]\n\
             [[publish.key]]\nname = \"support\"\nsecret = \"support-key-0123456789\"\ntopics = [\"*\"]\nscopes = [\"operate\"]\n\
             [operator]\nkey = \"operator-key-0123456789\"\n",
        )
        .unwrap();
        let keys = ApiKeys::load(&config).unwrap();
        let find = |given: &str| keys.find(given.as_bytes());
        let table = [
            ("full-key-0123456789", "publish.keys[0]", true, true, true),
            ("feed-key-0123456789", "feed", true, false, false),
            ("support-key-0123456789", "support", false, true, true),
            ("operator-key-0123456789", "operator.key", false, true, true),
        ];
        for (given, name, publishes, operates, anything) in table {
            let key = find(given).unwrap();
            assert_eq!(&*key.name, name);
            assert_eq!((key.may(Scope::Publish), key.may(Scope::Operate)), (publishes, operates), "{name}");
            assert!(key.has_topic("quotes:A") && key.has_topic("signals:a"), "{name}");
            assert_eq!(key.has_topic("signals:b"), anything, "{name}");
        }
        for wrong in ["", "feed-key-012345678", "feed-key-01234567890", "full-key-0123456789\0", "feed"] {
            assert_eq!(find(wrong), None, "{wrong}");
        }
        assert!(!format!("{config:?}").contains("0123456789"), "{config:?}");
    }

    #[test]
    fn where_no_key_is_needed_operators_may_have_one_all_the_same() {
        for (operator, operates) in [("", true), ("[operator]\nkey = \"operator-key-0123456789\"\n", false)] {
            let config = Config::read("test", &format!("[publish]\nopen = true\n{operator}")).unwrap();
            let keys = ApiKeys::load(&config).unwrap();
            let anyone = keys.find(b"").unwrap();
            assert_eq!((anyone.may(Scope::Publish), anyone.may(Scope::Operate)), (true, operates));
            assert_eq!(keys.find(b"operator-key-0123456789").unwrap().may(Scope::Publish), operates);
        }
    }

    #[test]
    fn one_key_under_two_names_is_refused() {
        let config = Config::read(
            "test",
            "[publish]\nkeys = [\"full-key-0123456789\"]\n\
             [[publish.key]]\nname = \"feed\"\nsecret = \"full-key-0123456789\"\ntopics = [\"*\"]\n",
        )
        .unwrap();
        let error = ApiKeys::load(&config).err().unwrap().to_string();
        assert!(
            error.contains("feed") && error.contains("publish.keys[0]") && !error.contains("0123456789"),
            "{error}"
        );
    }
}
