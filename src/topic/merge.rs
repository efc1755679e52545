//! JSON Merge Patch (RFC 7396): objects, applying a patch, and composing patches.
//!
//! Only what a merge patch can reach into is taken apart: objects. Everything else (numbers, strings, arrays) is
//! a leaf and keeps the very text that the source sent, so that `61800.20` never becomes `61800.2` and no
//! number loses digits.

use std::collections::BTreeMap;
use std::fmt;

use compact_str::CompactString;
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::json_fault;
use crate::limits::JSON_DEPTH_MAX;

/// A JSON value as merge patches see it. Members are kept in the order of their names, so that equal objects
/// have equal texts on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// JSON text of anything but an object.
    Leaf(CompactString),
    /// An object.
    Object(Members),
}

/// Members of an object.
pub type Members = BTreeMap<CompactString, Node>;

/// Why a text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON.
    #[error("not JSON: it {0}")]
    NotJson(String),
    /// Nested too deep.
    #[error("nested deeper than {JSON_DEPTH_MAX}")]
    TooDeep,
    /// A merge patch on a `merge` topic is an object.
    #[error("not a JSON object")]
    NotObject,
}

const NULL: &str = "null";

impl Node {
    /// Reads a JSON text.
    ///
    /// # Errors
    /// If it is not JSON, or nested too deep.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse(text, 0)
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Leaf(text) if text == NULL)
    }

    /// Appends its JSON text.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Leaf(text) => out.extend_from_slice(text.as_bytes()),
            Self::Object(members) => write_members(members, out),
        }
    }

    /// Members in it, those of inner objects too.
    fn members(&self) -> usize {
        match self {
            Self::Leaf(_) => 0,
            Self::Object(members) => count_members(members),
        }
    }

    /// Bytes of its JSON text.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Leaf(text) => text.len(),
            Self::Object(members) => members_bytes(members),
        }
    }
}

/// Appends an object's JSON text.
pub fn write_members(members: &Members, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (key, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let _ = serde_json::to_writer(&mut *out, key.as_str());
        out.push(b':');
        value.write(out);
    }
    out.push(b'}');
}

/// Bytes of an object's JSON text.
pub fn members_bytes(members: &Members) -> usize {
    let inner: usize = members.iter().map(|(key, value)| member_bytes(key, value)).sum();
    2 + inner + members.len().saturating_sub(1)
}

/// `"key":value`, without a comma.
fn member_bytes(key: &str, value: &Node) -> usize {
    key_bytes(key) + 1 + value.text_bytes()
}

fn key_bytes(key: &str) -> usize {
    let escapes: usize = key
        .bytes()
        .map(|b| match b {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
            0..0x20 => 5,
            _ => 0,
        })
        .sum();
    key.len() + 2 + escapes
}

/// Reads an object.
///
/// # Errors
/// If the text is not an object, or nested too deep.
pub fn parse_object(text: &str) -> Result<Members, ParseError> {
    match Node::parse(text)? {
        Node::Object(members) => Ok(members),
        Node::Leaf(_) => Err(ParseError::NotObject),
    }
}

/// Members that are read without an allocation: a delta seldom has more.
const MEMBERS_AT_HAND: usize = 4;

/// Members of one object, their values unread.
type Shallow<'a> = SmallVec<[(CompactString, &'a RawValue); MEMBERS_AT_HAND]>;

/// Reads them where they are to be: they are not moved.
struct Reader<'s, 'a>(&'s mut Shallow<'a>);

impl<'de> Visitor<'de> for Reader<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(member) = map.next_entry::<CompactString, &'de RawValue>()? {
            self.0.push(member);
        }
        Ok(())
    }
}

fn read_members<'a>(text: &'a str, members: &mut Shallow<'a>) -> Result<(), serde_json::Error> {
    let mut text = serde_json::Deserializer::from_str(text);
    text.deserialize_map(Reader(members))?;
    text.end()
}

/// Without JSON's white space around it, which there seldom is.
fn trimmed(text: &str) -> &str {
    let is_visible = |byte: Option<&u8>| byte.is_some_and(|byte| *byte > b' ');
    if is_visible(text.as_bytes().first()) && is_visible(text.as_bytes().last()) {
        return text;
    }
    text.trim_matches([' ', '\t', '\n', '\r'])
}

fn parse(text: &str, depth: usize) -> Result<Node, ParseError> {
    if depth > JSON_DEPTH_MAX {
        return Err(ParseError::TooDeep);
    }
    let text = trimmed(text);
    if !text.starts_with('{') {
        if depth == 0 {
            serde_json::from_str::<&RawValue>(text).map_err(|e| ParseError::NotJson(json_fault::told(text, &e)))?;
        }
        return Ok(Node::Leaf(CompactString::from(text)));
    }
    let mut shallow = Shallow::new();
    read_members(text, &mut shallow).map_err(|e| ParseError::NotJson(json_fault::told(text, &e)))?;
    let mut members = Members::new();
    for (key, raw) in shallow {
        // Of members with one name the last counts, as in every JavaScript engine.
        members.insert(key, parse(raw.get(), depth + 1)?);
    }
    Ok(Node::Object(members))
}

/// How much larger an object becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    /// In bytes of its JSON text.
    pub bytes: isize,
    /// In members, those of inner objects too.
    pub members: isize,
}

impl Growth {
    fn of(key: &str, value: &Node) -> Self {
        Self { bytes: member_bytes(key, value).cast_signed(), members: 1 + value.members().cast_signed() }
    }
}

impl std::ops::AddAssign for Growth {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.members += more.members;
    }
}

impl std::ops::SubAssign for Growth {
    fn sub_assign(&mut self, less: Self) {
        self.bytes -= less.bytes;
        self.members -= less.members;
    }
}

/// Members of an object, those of inner objects too.
pub fn count_members(members: &Members) -> usize {
    members.values().map(|value| 1 + value.members()).sum()
}

/// RFC 7396 §2: applies `patch` to `target`, which takes over its values. Returns by how much the target grew, so that
/// the size of a state is known without looking through it.
pub fn apply(target: &mut Members, patch: Members) -> Growth {
    let mut growth = Growth::default();
    let commas_before = target.len().saturating_sub(1);
    for (key, value) in patch {
        if value.is_null() {
            if let Some(old) = target.remove(&key) {
                growth -= Growth::of(&key, &old);
            }
            continue;
        }
        match (target.get_mut(&key), value) {
            (Some(Node::Object(inner)), Node::Object(inner_patch)) => growth += apply(inner, inner_patch),
            (Some(old), value) => {
                let new = fresh(value);
                growth += Growth::of(&key, &new);
                growth -= Growth::of(&key, old);
                *old = new;
            }
            (None, value) => {
                let new = fresh(value);
                growth += Growth::of(&key, &new);
                target.insert(key, new);
            }
        }
    }
    growth.bytes += target.len().saturating_sub(1).cast_signed() - commas_before.cast_signed();
    growth
}

/// What [`apply`] would return, without doing it.
pub fn growth(target: &Members, patch: &Members) -> Growth {
    let mut growth = Growth::default();
    let mut len = target.len();
    for (key, value) in patch {
        match (target.get(key), value) {
            (Some(old), value) if value.is_null() => {
                growth -= Growth::of(key, old);
                len -= 1;
            }
            (None, value) if value.is_null() => {}
            (Some(Node::Object(inner)), Node::Object(inner_patch)) => growth += self::growth(inner, inner_patch),
            (old, value) => {
                growth += Growth::of(key, &fresh(value.clone()));
                match old {
                    Some(old) => growth -= Growth::of(key, old),
                    None => len += 1,
                }
            }
        }
    }
    growth.bytes += len.saturating_sub(1).cast_signed() - target.len().saturating_sub(1).cast_signed();
    growth
}

/// The value that a patch gives to a member where there was no object: nulls are dropped (RFC 7396 §2).
fn fresh(mut value: Node) -> Node {
    if let Node::Object(members) = &mut value {
        drop_nulls(members);
    }
    value
}

fn drop_nulls(members: &mut Members) {
    members.retain(|_, member| {
        if let Node::Object(inner) = member {
            drop_nulls(inner);
        }
        !member.is_null()
    });
}

/// The one patch that does what `first` and then `second` do, put into `first`. `false` if no patch can say it,
/// and then `first` is spoilt.
///
/// It fails in one case: `first` makes a member something other than an object (or removes it) and `second` makes it an
/// object again. A patch that gives the object would merge it into the object that was there before; RFC 7396 has no
/// way to replace one.
#[must_use]
pub fn compose(first: &mut Members, second: &Members) -> bool {
    for (key, value) in second {
        match (first.get_mut(key), value) {
            (Some(Node::Object(inner)), Node::Object(inner_second)) => {
                if !compose(inner, inner_second) {
                    return false;
                }
            }
            (Some(Node::Leaf(_)), Node::Object(_)) => return false,
            (Some(old), Node::Leaf(text)) => *old = Node::Leaf(text.clone()),
            (None, value) => {
                first.insert(key.clone(), value.clone());
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(node: &Node) -> String {
        let mut out = Vec::new();
        node.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// RFC 7396's `MergePatch` on any value, through the functions under test.
    fn merge_patch(target: &str, patch: &str) -> String {
        match (Node::parse(target).unwrap(), Node::parse(patch).unwrap()) {
            (Node::Object(mut target), Node::Object(patch)) => {
                let before = members_bytes(&target).cast_signed();
                let growth = apply(&mut target, patch);
                assert_eq!(before + growth.bytes, members_bytes(&target).cast_signed(), "size is kept right");
                text(&Node::Object(target))
            }
            (Node::Leaf(_), patch @ Node::Object(_)) => text(&fresh(patch)),
            (_, patch) => text(&patch),
        }
    }

    #[test]
    fn rfc_7396_appendix_a() {
        let table = [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r"{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ];
        for (target, patch, result) in table {
            assert_eq!(merge_patch(target, patch), result, "{target} + {patch}");
        }
    }

    #[test]
    fn numbers_keep_their_text() {
        assert_eq!(
            merge_patch(r#"{"p":61800.20,"n":12345678901234567890123}"#, r#"{"q":1E+2}"#),
            r#"{"n":12345678901234567890123,"p":61800.20,"q":1E+2}"#
        );
    }

    #[test]
    fn a_composition_that_no_patch_expresses_is_recognised() {
        let compose_text = |first: &str, second: &str| {
            let mut first = parse_object(first).unwrap();
            compose(&mut first, &parse_object(second).unwrap()).then(|| text(&Node::Object(first)))
        };
        assert_eq!(compose_text(r#"{"a":null}"#, r#"{"a":{"b":1}}"#), None);
        assert_eq!(compose_text(r#"{"a":[1]}"#, r#"{"a":{}}"#), None);
        assert_eq!(compose_text(r#"{"x":{"a":1}}"#, r#"{"x":{"a":{"b":1}}}"#), None);
        assert_eq!(compose_text(r#"{"a":1,"b":2}"#, r#"{"b":null,"c":3}"#).unwrap(), r#"{"a":1,"b":null,"c":3}"#);
        assert_eq!(
            compose_text(r#"{"b":{"1":"x","2":null}}"#, r#"{"b":{"2":"y","1":null}}"#).unwrap(),
            r#"{"b":{"1":null,"2":"y"}}"#
        );
    }

    fn json(depth: u32) -> BoxedStrategy<serde_json::Value> {
        let leaf = prop_oneof![
            2 => Just(serde_json::Value::Null),
            3 => any::<i8>().prop_map(serde_json::Value::from),
            2 => "[a-c\"\\\\\u{1}é\n]{0,3}".prop_map(serde_json::Value::from),
            1 => prop::collection::vec(any::<u8>().prop_map(serde_json::Value::from), 0..3).prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(depth, 40, 4, |inner| {
            prop::collection::btree_map("[a-d\"\n]", inner, 0..4)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect()))
        })
        .boxed()
    }

    fn object(depth: u32) -> impl Strategy<Value = serde_json::Value> {
        prop::collection::btree_map("[a-d\"\n]", json(depth), 0..4)
            .prop_map(|m| serde_json::Value::Object(m.into_iter().collect()))
    }

    fn without_nulls(value: serde_json::Value) -> serde_json::Value {
        let mut target = serde_json::json!({});
        json_patch::merge(&mut target, &value);
        target
    }

    fn value_of(members: &Members) -> serde_json::Value {
        serde_json::from_str(&text(&Node::Object(members.clone()))).unwrap()
    }

    proptest! {
        #[test]
        fn applying_agrees_with_an_independent_implementation(target in object(3), patch in object(3)) {
            let mut mine = parse_object(&target.to_string()).unwrap();
            let before = [members_bytes(&mine), count_members(&mine)].map(usize::cast_signed);
            let parsed = parse_object(&patch.to_string()).unwrap();
            let foretold = growth(&mine, &parsed);
            let growth = apply(&mut mine, parsed);
            prop_assert_eq!(foretold, growth);
            let after = [members_bytes(&mine), count_members(&mine)].map(usize::cast_signed);
            prop_assert_eq!([before[0] + growth.bytes, before[1] + growth.members], after);
            let mut theirs = target;
            json_patch::merge(&mut theirs, &patch);
            prop_assert_eq!(value_of(&mine), theirs);
        }

        #[test]
        fn a_composed_patch_does_what_each_in_turn_did(
            state in object(3).prop_map(without_nulls),
            patches in prop::collection::vec(object(3), 1..5),
        ) {
            let patches: Vec<Members> = patches.iter().map(|p| parse_object(&p.to_string()).unwrap()).collect();
            let mut each = parse_object(&state.to_string()).unwrap();
            let mut at_once = each.clone();
            let mut composed = Members::new();
            let mut possible = true;
            for patch in &patches {
                apply(&mut each, patch.clone());
                possible = possible && compose(&mut composed, patch);
            }
            if possible {
                apply(&mut at_once, composed.clone());
                prop_assert_eq!(&at_once, &each);
                // A client that has seen some of them already ends up in the same state.
                let mut ahead = parse_object(&state.to_string()).unwrap();
                apply(&mut ahead, patches[0].clone());
                apply(&mut ahead, composed);
                prop_assert_eq!(&ahead, &each);
            }
        }

        #[test]
        fn composition_gives_up_only_where_no_patch_can_say_it(first in object(2), second in object(2)) {
            let (first, second) = (parse_object(&first.to_string()).unwrap(), parse_object(&second.to_string()).unwrap());
            let mut composed = first.clone();
            if !compose(&mut composed, &second) {
                // Two states that the pair of patches makes equal, but that no single patch can: one holds an
                // object with a member of its own wherever the first patch wrote a leaf.
                let mut plain = Members::new();
                let mut rich = rich(&first);
                for state in [&mut plain, &mut rich] {
                    apply(state, first.clone());
                    apply(state, second.clone());
                }
                prop_assert_eq!(plain_without(&plain), plain_without(&rich));
            }
        }

        #[test]
        fn written_and_read_back(value in json(3)) {
            let node = Node::parse(&value.to_string()).unwrap();
            let written = text(&node);
            prop_assert_eq!(written.len(), node.text_bytes());
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
        }
    }

    fn rich(patch: &Members) -> Members {
        patch
            .iter()
            .map(|(key, value)| {
                let inner = match value {
                    Node::Object(inner) => rich(inner),
                    Node::Leaf(_) => Members::from([("zz".into(), Node::Leaf("1".into()))]),
                };
                (key.clone(), Node::Object(inner))
            })
            .collect()
    }

    /// Empty objects that a patch leaves behind differ by the previous value; other values do not.
    fn plain_without(members: &Members) -> Vec<String> {
        fn walk(prefix: &str, members: &Members, out: &mut Vec<String>) {
            for (key, value) in members {
                match value {
                    Node::Leaf(text) if key != "zz" => out.push(format!("{prefix}/{key}={text}")),
                    Node::Leaf(_) => {}
                    Node::Object(inner) => walk(&format!("{prefix}/{key}"), inner, out),
                }
            }
        }
        let mut out = Vec::new();
        walk("", members, &mut out);
        out
    }
}
