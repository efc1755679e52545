//! Names of published topics in order, so that listing some of them does not look at all of them. Names with access
//! marks are kept apart, and also under each of their users: a client's listing visits no name that it may not see.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use crate::config::{ChannelSyntax, NameKind};
use crate::name::TopicName;

/// The index. Its lock is taken when a topic is first published or forgotten, and for one [page](Names::page) at a
/// time.
#[derive(Debug)]
pub(super) struct Names {
    index: Mutex<Index>,
    syntax: ChannelSyntax,
}

/// Most names that wait to be sorted, unless the index is larger; beyond that they are sorted at once.
const ADDED_MAX: usize = 4_096;

#[derive(Debug, Default)]
struct Index {
    /// Names that are not sorted yet, and whether their users may have them. A load adds very many before a client
    /// lists any.
    added: Vec<(TopicName, bool)>,
    ordinary: BTreeSet<TopicName>,
    private: BTreeSet<TopicName>,
    user_limited: BTreeSet<TopicName>,
    of_users: BTreeSet<OfUser>,
}

/// Names that are listed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section<'a> {
    /// Names without access marks.
    Ordinary,
    /// `$…`
    Private,
    /// `…#1,2`
    UserLimited,
    /// Those of [`Section::UserLimited`] that list this user, where their namespaces let listed users have them.
    OfUser(&'a str),
}

impl Names {
    /// No names yet, with the meanings that this syntax gives them.
    pub(super) fn new(syntax: ChannelSyntax) -> Self {
        Self { index: Mutex::default(), syntax }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Index) -> R) -> R {
        f(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a name; under its users too, where they may have it (`for_users`).
    pub(super) fn insert(&self, name: &TopicName, for_users: bool) {
        self.with(|index| {
            index.added.push((name.clone(), for_users));
            if index.added.len() > ADDED_MAX.max(index.len()) {
                index.settle(self.syntax);
            }
        });
    }

    /// Puts what was added in order, so that a look does not have to.
    pub(super) fn settle(&self) {
        self.with(|index| index.settle(self.syntax));
    }

    /// Removes a name, also from under its users.
    pub(super) fn remove(&self, name: &TopicName) {
        let kind = self.syntax.kind(name.as_str());
        self.with(|index| {
            index.settle(self.syntax);
            for of_user in OfUser::all(name, kind) {
                index.of_users.remove(&of_user);
            }
            index.of_kind(kind).remove(name)
        });
    }

    /// The first `max` names of a section that are in a range.
    pub(super) fn page(&self, section: Section<'_>, range: &NameRange, max: usize) -> Vec<TopicName> {
        self.with(|index| {
            index.settle(self.syntax);
            let names = match section {
                Section::Ordinary => &index.ordinary,
                Section::Private => &index.private,
                Section::UserLimited => &index.user_limited,
                Section::OfUser(user) => return index.of_user(user, range).take(max).cloned().collect(),
            };
            let to = range.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            names.range::<str, _>((Bound::Included(range.from.as_str()), to)).take(max).cloned().collect()
        })
    }
}

impl Index {
    fn len(&self) -> usize {
        self.ordinary.len() + self.private.len() + self.user_limited.len()
    }

    /// Puts in order what was added; at once, where that is much of all.
    fn settle(&mut self, syntax: ChannelSyntax) {
        let mut ordinary = Vec::new();
        for (name, for_users) in std::mem::take(&mut self.added) {
            let kind = syntax.kind(name.as_str());
            if for_users {
                self.of_users.extend(OfUser::all(&name, kind));
            }
            match kind {
                NameKind::Ordinary => ordinary.push(name),
                kind => drop(self.of_kind(kind).insert(name)),
            }
        }
        if ordinary.len() < self.ordinary.len() / 8 {
            self.ordinary.extend(ordinary);
        } else {
            self.ordinary.append(&mut ordinary.into_iter().collect());
        }
    }

    fn of_kind(&mut self, kind: NameKind<'_>) -> &mut BTreeSet<TopicName> {
        match kind {
            NameKind::Ordinary => &mut self.ordinary,
            NameKind::Private => &mut self.private,
            NameKind::UserLimited(_) => &mut self.user_limited,
        }
    }

    fn of_user<'a>(&'a self, user: &'a str, range: &'a NameRange) -> impl Iterator<Item = &'a TopicName> {
        let from: &dyn UserKey = &(user, range.from.as_str());
        let names = self.of_users.range::<dyn UserKey + '_, _>((Bound::Included(from), Bound::Unbounded));
        let inside =
            move |of: &&OfUser| of.user() == user && range.to.as_ref().is_none_or(|to| of.name.as_str() < to.as_str());
        names.take_while(inside).map(|of| &of.name)
    }
}

/// A name under one of its users.
#[derive(Debug)]
struct OfUser {
    name: TopicName,
    /// Where in the name the user begins; a name has 255 bytes at most.
    from: u8,
    to: u8,
}

impl OfUser {
    fn all<'a>(name: &'a TopicName, kind: NameKind<'a>) -> impl Iterator<Item = Self> + 'a {
        kind.users().filter_map(|user| {
            let from = user.as_ptr() as usize - name.as_str().as_ptr() as usize;
            let at = |byte: usize| u8::try_from(byte).ok();
            Some(Self { name: name.clone(), from: at(from)?, to: at(from + user.len())? })
        })
    }

    fn user(&self) -> &str {
        self.name.as_str().get(usize::from(self.from)..usize::from(self.to)).unwrap_or_default()
    }
}

/// Entries are in order of their users, then of their names; a look-up brings a user and a name of its own.
trait UserKey {
    fn key(&self) -> (&str, &str);
}

impl UserKey for OfUser {
    fn key(&self) -> (&str, &str) {
        (self.user(), self.name.as_str())
    }
}

impl UserKey for (&str, &str) {
    fn key(&self) -> (&str, &str) {
        *self
    }
}

impl<'a> Borrow<dyn UserKey + 'a> for OfUser {
    fn borrow(&self) -> &(dyn UserKey + 'a) {
        self
    }
}

impl PartialEq for dyn UserKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn UserKey + '_ {}

impl PartialOrd for dyn UserKey + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn UserKey + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialEq for OfUser {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for OfUser {}

impl PartialOrd for OfUser {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OfUser {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Names from one on, up to another; never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameRange {
    /// The first name that may be in it.
    from: String,
    /// The first name behind it; `None` where it has no end.
    to: Option<String>,
}

impl NameRange {
    /// `None` if nothing is between the two.
    fn new(from: String, to: Option<String>) -> Option<Self> {
        to.as_ref().is_none_or(|to| from < *to).then_some(Self { from, to })
    }

    /// Names that begin with this.
    pub fn prefix(prefix: &str) -> Self {
        Self { from: prefix.to_owned(), to: behind_prefix(prefix) }
    }

    /// This name alone.
    pub fn exact(name: &str) -> Self {
        Self { from: name.to_owned(), to: Some(behind(name)) }
    }

    /// The part of it behind `name`.
    pub fn after(&self, name: &str) -> Option<Self> {
        Self::new(behind(name).max(self.from.clone()), self.to.clone())
    }

    /// Names that are in both.
    fn common(&self, other: &Self) -> Option<Self> {
        let to = match (&self.to, &other.to) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (one, None) | (None, one) => one.clone(),
        };
        Self::new(self.from.clone().max(other.from.clone()), to)
    }
}

/// The smallest text that is larger than `name`.
fn behind(name: &str) -> String {
    format!("{name}\0")
}

/// The smallest text that is larger than all that begin with `prefix`; `None` if there is none.
fn behind_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Bytes of UTF-8 are in the order of code points, of which some are no characters.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// Ranges in order, none of which touches another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameRanges(Vec<NameRange>);

impl NameRanges {
    /// All names of any of these.
    pub fn union(ranges: impl IntoIterator<Item = NameRange>) -> Self {
        let mut sorted: Vec<NameRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<NameRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if last.to.as_ref().is_none_or(|to| *to >= range.from) => {
                    last.to = match (last.to.take(), range.to) {
                        (Some(a), Some(b)) => Some(a.max(b)),
                        _ => None,
                    };
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// All names that are in none of these.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut from = Some(String::new());
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        for range in &self.0 {
            if let Some(from) = from.take() {
                gaps.extend(NameRange::new(from, Some(range.from.clone())));
            }
            from.clone_from(&range.to);
        }
        gaps.extend(from.map(|from| NameRange { from, to: None }));
        Self(gaps)
    }

    /// The part of `range` that is in them.
    #[must_use]
    pub fn within(&self, range: &NameRange) -> Self {
        Self(self.0.iter().filter_map(|one| one.common(range)).collect())
    }

    /// Whether a name is in one of them.
    #[cfg(test)]
    pub fn has(&self, name: &str) -> bool {
        self.iter().any(|r| r.from.as_str() <= name && r.to.as_ref().is_none_or(|to| name < to.as_str()))
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = &NameRange> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_end_where_no_name_begins_with_them() {
        for (prefix, behind) in [
            ("a", Some("b")),
            ("ns:", Some("ns;")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
            ("", None),
        ] {
            assert_eq!(behind_prefix(prefix).as_deref(), behind, "{prefix:?}");
        }
    }

    fn index(syntax: ChannelSyntax, all: &[&str]) -> Names {
        let names = Names::new(syntax);
        for name in all {
            names.insert(&TopicName::new(name).unwrap(), !name.starts_with("off:"));
        }
        names
    }

    fn page(names: &Names, section: Section<'_>, range: &NameRange, max: usize) -> Vec<String> {
        names.page(section, range, max).iter().map(|name| name.as_str().to_owned()).collect()
    }

    #[test]
    fn pages_are_of_one_range_and_in_order() {
        let names = index(ChannelSyntax::Centrifugo, &["b:1", "a:2", "a:1", "b:0", "c:9"]);
        names.remove(&TopicName::new("b:0").unwrap());
        let page = |range: &NameRange, max| page(&names, Section::Ordinary, range, max);
        assert_eq!(page(&NameRange::prefix(""), 9), ["a:1", "a:2", "b:1", "c:9"]);
        assert_eq!(page(&NameRange::prefix("a:"), 1), ["a:1"]);
        assert_eq!(page(&NameRange::prefix("a:").after("a:1").unwrap(), 9), ["a:2"]);
        assert_eq!(NameRange::prefix("a:").after("b:1"), None);
        assert_eq!(page(&NameRange::exact("b:1"), 9), ["b:1"]);
    }

    #[test]
    fn names_with_access_marks_are_in_sections_of_their_own() {
        let all = ["#42", "$a", "$a#1", "a", "b#1,2", "b#2,1,2,,", "c#12", "off:x#1", "z"];
        let names = index(ChannelSyntax::Centrifugo, &all);
        let whole = |names: &Names, section| page(names, section, &NameRange::prefix(""), 99);
        for (section, expected) in [
            (Section::Ordinary, &["a", "z"][..]),
            (Section::Private, &["$a", "$a#1"]),
            (Section::UserLimited, &["#42", "b#1,2", "b#2,1,2,,", "c#12", "off:x#1"]),
            (Section::OfUser("1"), &["b#1,2", "b#2,1,2,,"]),
            (Section::OfUser("2"), &["b#1,2", "b#2,1,2,,"]),
            (Section::OfUser("42"), &["#42"]),
            (Section::OfUser("4"), &[]),
            (Section::OfUser(""), &[]),
        ] {
            assert_eq!(whole(&names, section), expected, "{section:?}");
        }
        assert_eq!(page(&names, Section::OfUser("1"), &NameRange::exact("b#1,2"), 9), ["b#1,2"]);
        assert_eq!(page(&names, Section::OfUser("1"), &NameRange::prefix("a"), 9), [""; 0]);
        for name in all {
            names.remove(&TopicName::new(name).unwrap());
        }
        names.with(|index| {
            assert!(index.ordinary.is_empty() && index.private.is_empty());
            assert!(index.user_limited.is_empty() && index.of_users.is_empty());
        });
        assert_eq!(whole(&index(ChannelSyntax::Plain, &all), Section::Ordinary), all);
    }

    fn rule() -> impl Strategy<Value = (String, bool)> {
        ("[ab:\u{d7ff}\u{10ffff}]{0,3}", any::<bool>())
    }

    proptest! {
        /// Unions, complements and intersections of ranges contain the names that their rules describe.
        #[test]
        fn ranges_say_what_their_rules_say(
            rules in prop::collection::vec(rule(), 0..6),
            within in "[ab:]{0,2}",
            name in "[ab:\u{d7ff}\u{10ffff}]{1,4}",
        ) {
            let fits = |(rule, whole): &(String, bool)| if *whole { *rule == name } else { name.starts_with(rule.as_str()) };
            let range = |(rule, whole): &(String, bool)| if *whole { NameRange::exact(rule) } else { NameRange::prefix(rule) };
            let ranges = NameRanges::union(rules.iter().map(range));
            let expected = rules.iter().any(fits);
            prop_assert_eq!(ranges.has(&name), expected);
            prop_assert_eq!(ranges.complement().has(&name), !expected);
            let some = ranges.within(&NameRange::prefix(&within));
            prop_assert_eq!(some.has(&name), expected && name.starts_with(&within));
            for pair in ranges.0.windows(2) {
                prop_assert!(pair[0].to.as_ref().is_some_and(|to| *to < pair[1].from));
            }
        }
    }
}
