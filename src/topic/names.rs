//! Names of published topics in order, so that listing some of them does not look at all of them.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use crate::name::TopicName;

/// The index. Its lock is taken when a topic is first published or forgotten, and for one [page](Names::page) at a time.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeSet<TopicName>>);

impl Names {
    fn with<R>(&self, f: impl FnOnce(&mut BTreeSet<TopicName>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a name.
    pub(super) fn insert(&self, name: &TopicName) {
        self.with(|names| names.insert(name.clone()));
    }

    /// Removes a name.
    pub(super) fn remove(&self, name: &TopicName) {
        self.with(|names| names.remove(name));
    }

    /// The first `max` names of a range.
    pub(super) fn page(&self, range: &NameRange, max: usize) -> Vec<TopicName> {
        let to = range.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (Bound::Included(range.from.as_str()), to);
        self.with(|names| names.range::<str, _>(bounds).take(max).cloned().collect())
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

    /// What is left of it behind `name`.
    pub fn after(&self, name: &str) -> Option<Self> {
        Self::new(behind(name).max(self.from.clone()), self.to.clone())
    }

    /// What both have.
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

    /// What they have of `range`.
    #[must_use]
    pub fn within(&self, range: &NameRange) -> Self {
        Self(self.0.iter().filter_map(|one| one.common(range)).collect())
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

    fn has(ranges: &NameRanges, name: &str) -> bool {
        ranges.iter().any(|r| r.from.as_str() <= name && r.to.as_ref().is_none_or(|to| name < to.as_str()))
    }

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

    #[test]
    fn pages_are_of_one_range_and_in_order() {
        let names = Names::default();
        for name in ["b:1", "a:2", "a:1", "b:0", "c:9"] {
            names.insert(&TopicName::new(name).unwrap());
        }
        names.remove(&TopicName::new("b:0").unwrap());
        let page = |range: &NameRange, max| -> Vec<String> {
            names.page(range, max).iter().map(|name| name.as_str().to_owned()).collect()
        };
        assert_eq!(page(&NameRange::prefix(""), 9), ["a:1", "a:2", "b:1", "c:9"]);
        assert_eq!(page(&NameRange::prefix("a:"), 1), ["a:1"]);
        assert_eq!(page(&NameRange::prefix("a:").after("a:1").unwrap(), 9), ["a:2"]);
        assert_eq!(NameRange::prefix("a:").after("b:1"), None);
        assert_eq!(page(&NameRange::exact("b:1"), 9), ["b:1"]);
    }

    fn rule() -> impl Strategy<Value = (String, bool)> {
        ("[ab:\u{d7ff}\u{10ffff}]{0,3}", any::<bool>())
    }

    proptest! {
        /// Unions, complements and intersections of ranges hold what the rules that they were made of say.
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
            prop_assert_eq!(has(&ranges, &name), expected);
            prop_assert_eq!(has(&ranges.complement(), &name), !expected);
            let some = ranges.within(&NameRange::prefix(&within));
            prop_assert_eq!(has(&some, &name), expected && name.starts_with(&within));
            for pair in ranges.0.windows(2) {
                prop_assert!(pair[0].to.as_ref().is_some_and(|to| *to < pair[1].from));
            }
        }
    }
}
