//! The topics that a client may have, by its token, the namespace, and restrictions in the topic's
//! name.

use super::Identity;
use crate::config::{Config, NameKind, OPS};
use crate::name::{PRIVATE_PREFIX, TopicName, USER_BOUNDARY};

/// Why a client may not have a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It has shown no token. The error says nothing about the topic.
    #[error("a token is needed")]
    NoToken,
    /// The topic's namespace must be configured, and is not.
    #[error("unknown topic: its namespace is not configured (access.unknown_namespace)")]
    UnknownNamespace,
    /// The name is private: a token must name it.
    #[error("topic not allowed: for a name that begins with `$` a token must say so itself, not only by `*`")]
    Private,
    /// It is the server's own topic.
    #[error("topic not allowed: a token must name the server's own namespace `ops` itself, not only by `*`")]
    Own,
    /// The name lists other users.
    #[error("topic not allowed: it is for the users named behind its `#`")]
    UserLimited,
    /// The token does not give the topic.
    #[error("topic not allowed")]
    NotAllowed,
}

/// Whether a name restricts its own subscribers. Rights that a namespace gives to all clients then
/// do not apply.
pub fn names_its_users(config: &Config, topic: &TopicName) -> bool {
    config.access.channel_syntax.kind(topic.as_str()) != NameKind::Ordinary
}

/// Checks whether a client may subscribe to a topic, or read it, without a subscription token.
/// `identity` is that of its connection token; `None` if it has shown none.
///
/// # Errors
/// Why not.
pub fn may_have(config: &Config, identity: Option<&Identity>, topic: &TopicName) -> Result<(), Denied> {
    let anonymous = config.access.anonymous;
    if identity.is_none() && !anonymous {
        return Err(Denied::NoToken);
    }
    if !config.knows_namespace(topic.namespace()) {
        return Err(Denied::UnknownNamespace);
    }
    let options = config.namespace(topic.namespace());
    let kind = config.access.channel_syntax.kind(topic.as_str());
    match (kind, identity) {
        (NameKind::Ordinary, _) if anonymous && options.allow_subscribe_for_anonymous => Ok(()),
        (NameKind::Ordinary, Some(_)) if options.allow_subscribe_for_client => Ok(()),
        // `ops:…` has the nodes' reports. A token for "everything" is not meant to open them.
        (NameKind::Ordinary, Some(i)) if topic.namespace() == Some(OPS) => match i.topics.name_itself(topic) {
            true => Ok(()),
            false => Err(Denied::Own),
        },
        (NameKind::Ordinary, Some(i)) if i.topics.allow(topic) => Ok(()),
        (NameKind::Ordinary, Some(_)) => Err(Denied::NotAllowed),
        (_, None) => Err(Denied::NoToken),
        (NameKind::Private, Some(i)) if i.topics.name_with(topic, PRIVATE_PREFIX) => Ok(()),
        (NameKind::Private, Some(_)) => Err(Denied::Private),
        (NameKind::UserLimited(_), Some(i)) if i.topics.name_with(topic, USER_BOUNDARY) => Ok(()),
        (NameKind::UserLimited(_), Some(i))
            if options.allow_user_limited_channels && kind.users().any(|user| user == i.user) =>
        {
            Ok(())
        }
        (NameKind::UserLimited(_), Some(_)) => Err(Denied::UserLimited),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TopicRules;
    use crate::config::{ChannelSyntax, Namespace, UnknownNamespace};
    use proptest::prelude::*;

    fn config(limited: bool, open: bool, syntax: ChannelSyntax) -> Config {
        let mut config = Config::default();
        config.access.anonymous = open;
        config.access.channel_syntax = syntax;
        config.access.unknown_namespace = UnknownNamespace::Refuse;
        config.default.allow_subscribe_for_client = true;
        config.default.allow_user_limited_channels = limited;
        config.namespace.insert("news".into(), Namespace { ..config.default.clone() });
        config
    }

    fn identity(user: &str, rules: &[&str]) -> Identity {
        Identity {
            user: user.into(),
            topics: TopicRules::new(rules.iter().map(|rule| (*rule).to_owned())),
            ..Identity::default()
        }
    }

    #[test]
    fn names_mean_what_they_mean_to_centrifugo() {
        let config = config(true, true, ChannelSyntax::Centrifugo);
        let may = |user: &str, rules: &[&str], topic: &str| {
            may_have(&config, Some(&identity(user, rules)), &TopicName::new(topic).unwrap())
        };
        for (user, rules, topic, outcome) in [
            ("42", &[][..], "#42", Ok(())),
            ("43", &[], "#42", Err(Denied::UserLimited)),
            ("4", &[], "#42", Err(Denied::UserLimited)),
            ("2", &[], "dialog#1,2", Ok(())),
            ("1,2", &[], "dialog#1,2", Err(Denied::UserLimited)),
            ("3", &[], "dialog#1,2", Err(Denied::UserLimited)),
            ("3", &["*"], "dialog#1,2", Err(Denied::UserLimited)),
            ("3", &["dialog*"], "dialog#1,2", Err(Denied::UserLimited)),
            ("3", &["dialog#*"], "dialog#1,2", Ok(())),
            ("3", &["dialog#1,2"], "dialog#1,2", Ok(())),
            ("2", &[], "news:a#1#2", Ok(())),
            ("1", &[], "news:a#1#2", Err(Denied::UserLimited)),
            // An empty list admits no user, not even one without a name.
            ("", &[], "dialog#", Err(Denied::UserLimited)),
            ("", &[], "dialog#,", Err(Denied::UserLimited)),
            ("1", &[], "$private", Err(Denied::Private)),
            ("1", &["*"], "$private", Err(Denied::Private)),
            ("1", &["$*"], "$private", Ok(())),
            ("1", &["$private"], "$private", Ok(())),
            ("1", &[], "$dialog#1", Err(Denied::Private)),
            ("1", &["$*"], "$news:x", Ok(())),
            ("1", &["$*"], "$olds:x", Err(Denied::UnknownNamespace)),
            ("1", &[], "news:$x", Ok(())),
            ("1", &["*"], "olds:x", Err(Denied::UnknownNamespace)),
            ("1", &[], "no-namespace", Ok(())),
        ] {
            assert_eq!(may(user, rules, topic), outcome, "{user} {rules:?} {topic}");
        }
        for topic in ["#42", "$private", "dialog#1,2"] {
            assert_eq!(may_have(&config, None, &TopicName::new(topic).unwrap()), Err(Denied::NoToken), "{topic}");
        }
    }

    #[test]
    fn without_the_option_user_limited_names_need_a_token_that_names_them() {
        let config = config(false, false, ChannelSyntax::Centrifugo);
        let topic = TopicName::new("dialog#1,2").unwrap();
        assert_eq!(may_have(&config, Some(&identity("1", &["*"])), &topic), Err(Denied::UserLimited));
        assert_eq!(may_have(&config, Some(&identity("1", &["dialog#1,2"])), &topic), Ok(()));
    }

    proptest! {
        #[test]
        fn no_open_namespace_opens_a_name_that_names_its_users(head in "[a-z]{0,4}", users in "[0-9,]{0,6}", open in any::<bool>()) {
            let config = config(true, open, ChannelSyntax::Centrifugo);
            for name in [format!("{head}#{users}"), format!("${head}#{users}")] {
                let topic = TopicName::new(&name).unwrap();
                prop_assert!(may_have(&config, Some(&identity("x", &["*"])), &topic).is_err());
                prop_assert!(may_have(&config, None, &topic).is_err());
            }
        }

        #[test]
        fn where_names_mean_nothing_they_are_as_others(name in "[$#a-z0-9,]{1,8}") {
            let config = config(false, false, ChannelSyntax::Plain);
            prop_assert_eq!(may_have(&config, Some(&identity("x", &[])), &TopicName::new(&name).unwrap()), Ok(()));
        }
    }
}
