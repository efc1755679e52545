//! The names that a client may see, as ranges of the index's sections. They agree with
//! [`may_have`](crate::auth::may_have).

use crate::auth::Identity;
use crate::config::{ChannelSyntax, Config, Namespace, OPS};
use crate::name::{PRIVATE_PREFIX, USER_BOUNDARY, namespace_of};
use crate::topic::{NameRange, NameRanges, Section};

/// Ranges of one section all of whose names a client may see.
#[derive(Debug)]
pub(in crate::http) struct Visible<'a> {
    pub(in crate::http) section: Section<'a>,
    pub(in crate::http) ranges: NameRanges,
}

/// The visible names in a range.
pub(in crate::http) fn within<'a>(
    config: &Config,
    reader: Option<&'a Identity>,
    asked: &NameRange,
) -> Vec<Visible<'a>> {
    let named = |mark: char| NameRanges::union(rules(reader, |rule| rule.contains(mark)));
    let open = open(config, reader.is_some());
    let ordinary = open.into_iter().chain(rules_beside_own(reader)).chain(rules(reader, is_about_own));
    let mut all = vec![(Section::Ordinary, NameRanges::union(ordinary))];
    if let (ChannelSyntax::Centrifugo, Some(reader)) = (config.access.channel_syntax, reader) {
        all.push((Section::Private, named(PRIVATE_PREFIX)));
        all.push((Section::UserLimited, named(USER_BOUNDARY)));
        if !reader.user.is_empty() {
            all.push((Section::OfUser(&reader.user), NameRanges::union([NameRange::prefix("")])));
        }
    }
    all.into_iter().map(|(section, ranges)| Visible { section, ranges: ranges.within(asked) }).collect()
}

/// Namespaces open to all clients, or to all with a token.
fn open(config: &Config, with_token: bool) -> Vec<NameRange> {
    let open = |namespace: &Namespace| {
        (config.access.anonymous && namespace.allow_subscribe_for_anonymous)
            || (with_token && namespace.allow_subscribe_for_client)
    };
    let mut ranges = Vec::new();
    if open(&config.default) {
        let configured = NameRanges::union(config.namespace.keys().flat_map(|name| of_namespace(name)));
        ranges.extend(configured.complement().iter().cloned());
    }
    let namespaces = config.namespace.iter().filter(|(_, namespace)| open(namespace));
    ranges.extend(namespaces.flat_map(|(name, _)| of_namespace(name)));
    ranges
}

/// Names granted by the matching rules of a token.
fn rules(reader: Option<&Identity>, meant: impl Fn(&str) -> bool) -> impl Iterator<Item = NameRange> {
    let rules = reader.into_iter().flat_map(|identity| identity.topics.rules());
    rules.filter(move |rule| meant(rule)).map(|rule| match rule.strip_suffix('*') {
        Some(prefix) => NameRange::prefix(prefix),
        None => NameRange::exact(rule),
    })
}

/// Whether a rule names the server's own namespace itself.
fn is_about_own(rule: &str) -> bool {
    namespace_of(rule) == Some(OPS)
}

/// Names granted by a token's other rules, without the server's own namespace.
fn rules_beside_own(reader: Option<&Identity>) -> Vec<NameRange> {
    let given = NameRanges::union(rules(reader, |rule| !is_about_own(rule)));
    let own = NameRanges::union(of_namespace(OPS));
    own.complement().iter().flat_map(|beside| given.within(beside).iter().cloned().collect::<Vec<_>>()).collect()
}

/// The names of a namespace. A name with a leading `$` has that namespace's options, whatever else
/// the `$` means.
fn of_namespace(name: &str) -> [NameRange; 2] {
    [format!("{name}:"), format!("{PRIVATE_PREFIX}{name}:")].map(|prefix| NameRange::prefix(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{TopicRules, may_have};
    use crate::config::UnknownNamespace;
    use crate::name::TopicName;
    use proptest::prelude::*;

    fn namespace() -> impl Strategy<Value = Namespace> {
        any::<[bool; 3]>().prop_map(|[anonymous, client, users]| Namespace {
            allow_subscribe_for_anonymous: anonymous,
            allow_subscribe_for_client: client,
            allow_user_limited_channels: users,
            ..Namespace::default()
        })
    }

    fn identity() -> impl Strategy<Value = Identity> {
        let rules = prop::collection::vec("([$]?(o|op|ops):?|[$ab:#12,]{0,3})[$ab:#12,]{0,1}\\*?", 0..5);
        ("[12]{0,2}", rules).prop_map(|(user, rules)| Identity {
            user,
            topics: TopicRules::new(rules),
            ..Identity::default()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// A listing shows exactly the topics that the client may have.
        #[test]
        fn the_sections_say_what_the_rule_says(
            default in namespace(),
            a in namespace(),
            reader in prop::option::of(identity()),
            anonymous in any::<bool>(),
            plain in any::<bool>(),
            refuse in any::<bool>(),
            ops in any::<bool>(),
            name in "[$]{0,2}([ab]{0,2}|ops|op):?[ab]{0,1}(#[12,]{0,3})?",
            asked in "[$ab]{0,1}",
        ) {
            let mut config = Config { default, ..Config::default() };
            config.namespace.insert("a".into(), a.clone());
            if ops {
                config.namespace.insert(OPS.into(), a);
            }
            config.access.anonymous = anonymous;
            config.access.channel_syntax = if plain { ChannelSyntax::Plain } else { ChannelSyntax::Centrifugo };
            if refuse {
                config.access.unknown_namespace = UnknownNamespace::Refuse;
            }
            // No topic of a refused namespace is ever in the index.
            let topic = TopicName::new(&name).ok().filter(|topic| config.knows_namespace(topic.namespace()));
            let Some(topic) = topic else { return Ok(()) };
            let kind = config.access.channel_syntax.kind(&name);
            let in_section = |section: Section<'_>| match section {
                Section::Ordinary => kind == crate::config::NameKind::Ordinary,
                Section::Private => kind == crate::config::NameKind::Private,
                Section::UserLimited => matches!(kind, crate::config::NameKind::UserLimited(_)),
                Section::OfUser(user) => {
                    config.namespace(topic.namespace()).allow_user_limited_channels && kind.users().any(|u| u == user)
                }
            };
            let sections = within(&config, reader.as_ref(), &NameRange::prefix(&asked));
            let seen = sections.iter().any(|visible| in_section(visible.section) && visible.ranges.has(&name));
            let may = may_have(&config, reader.as_ref(), &topic).is_ok();
            prop_assert_eq!(seen, may && name.starts_with(&asked), "{:?}", sections);
        }
    }
}
