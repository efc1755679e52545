//! Topic names: `namespace:name`.

use std::fmt;
use std::sync::Arc;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

use crate::limits::TOPIC_NAME_BYTES_MAX;

/// Marks a private name, if names list their users.
pub const PRIVATE_PREFIX: char = '$';

/// The users who may have a name follow its last one of these.
pub const USER_BOUNDARY: char = '#';

/// Separates two users.
pub const USER_SEPARATOR: char = ',';

/// A valid topic name: 1 to 255 bytes of visible characters. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// Why a text is not a topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("topic name is empty")]
    Empty,
    /// It is too long.
    #[error("topic name has {0} bytes, the most is {TOPIC_NAME_BYTES_MAX}")]
    TooLong(usize),
    /// It has an invisible character.
    #[error("topic name has U+{:04X} ({}), which is not printable; leave it out", u32::from(*.0), kind(*.0))]
    NotPrintable(char),
}

/// The first character that no name may have: two names must not look alike, and each must be
/// readable in a log. By general category (UAX #44): white space, control, format, private-use and
/// unassigned characters, and others that leave no visible trace.
pub fn unprintable(text: &str) -> Option<char> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let mut before = None;
    text.chars().find(|c| {
        // A variation selector changes the look of a symbol; after ASCII, or as the first
        // character, it is invisible.
        let bare = before.replace(*c).is_none_or(|before: char| before.is_ascii());
        is_blank(*c)
            || (bare && is_selector(*c))
            || matches!(
                c.general_category(),
                GeneralCategory::Control
                    | GeneralCategory::Format
                    | GeneralCategory::Surrogate
                    | GeneralCategory::PrivateUse
                    | GeneralCategory::Unassigned
                    | GeneralCategory::LineSeparator
                    | GeneralCategory::ParagraphSeparator
                    | GeneralCategory::SpaceSeparator
            )
    })
}

/// The part of a publisher's text that an error or a log line repeats: at most `chars_max`
/// characters, each visible, and no backtick, because errors quote it with those.
pub fn shown(bytes: &[u8], chars_max: usize) -> String {
    // In UTF-8, no character has more than four bytes.
    let start = bytes.get(..bytes.len().min(chars_max.saturating_mul(4))).unwrap_or_default();
    let text = String::from_utf8_lossy(start);
    let mut chars = text.chars();
    let mut out = String::new();
    for c in chars.by_ref().take(chars_max) {
        match c {
            ' ' => out.push(' '),
            '`' => out.push('\''),
            c if unprintable(c.encode_utf8(&mut [0; 4])).is_some() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    if chars.next().is_some() || start.len() < bytes.len() {
        out.push('…');
    }
    out
}

/// Letters and marks without a visible form: `Default_Ignorable_Code_Point` of Unicode's
/// DerivedCoreProperties.txt, as far as general categories do not cover it, and the Braille pattern
/// without a dot.
fn is_blank(c: char) -> bool {
    matches!(
        c,
        '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{ffa0}'
    )
}

/// Variation selectors (chapter 23.4 of the Unicode standard).
fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// The general category of such a character, in words.
fn kind(c: char) -> &'static str {
    match c.general_category() {
        _ if is_blank(c) || is_selector(c) => "not shown",
        GeneralCategory::Control => "a control character",
        GeneralCategory::Format => "a format character",
        GeneralCategory::PrivateUse => "a private-use character",
        GeneralCategory::Unassigned => "no character in Unicode",
        _ => "white space",
    }
}

/// Why a text is not a rule about topics: an exact name, or a prefix followed by `*`; `*` alone
/// matches all. Such a rule would never match the topics that its author means.
pub fn no_rule(rule: &str) -> Option<String> {
    let prefix = rule.strip_suffix('*').unwrap_or(rule);
    if rule.is_empty() {
        return Some("is empty; write a topic's name, or a prefix that ends in `*`".into());
    }
    if let Some(c) = unprintable(rule) {
        return Some(NameError::NotPrintable(c).to_string());
    }
    if prefix.contains('*') {
        let shown = rule.get(..rule.floor_char_boundary(RULE_BYTES_SHOWN)).unwrap_or_default();
        return Some(format!(
            "`{shown}` never matches: a `*` may only be at the end, as in `quotes:*`, for all names that begin so"
        ));
    }
    if prefix.len() > TOPIC_NAME_BYTES_MAX {
        return Some(format!("has {} bytes, but no topic's name has more than {TOPIC_NAME_BYTES_MAX}", prefix.len()));
    }
    None
}

/// Bytes of a rule that an error shows.
const RULE_BYTES_SHOWN: usize = 64;

/// Whether the next character is this one.
pub fn is_in_namespace(name: &str, namespace: &str) -> bool {
    let bare = name.strip_prefix(PRIVATE_PREFIX).unwrap_or(name);
    bare.strip_prefix(namespace).is_some_and(|rest| rest.starts_with(':'))
}

/// The namespace of a text, taken as a topic name.
pub fn namespace_of(name: &str) -> Option<&str> {
    // Byte by byte: names are short, and this runs several times per delta.
    let namespace = name.get(..name.bytes().position(|byte| byte == b':')?)?;
    Some(namespace.strip_prefix(PRIVATE_PREFIX).unwrap_or(namespace))
}

impl TopicName {
    /// Checks `text`.
    ///
    /// # Errors
    /// The fault.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > TOPIC_NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        match unprintable(text) {
            Some(c) => Err(NameError::NotPrintable(c)),
            None => Ok(Self(Arc::from(text))),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first `:`, if there is one, without [`PRIVATE_PREFIX`].
    pub fn namespace(&self) -> Option<&str> {
        namespace_of(&self.0)
    }

    /// Whether the name begins with this and a `:`.
    pub fn is_in(&self, namespace: &str) -> bool {
        self.0.strip_prefix(namespace).is_some_and(|rest| rest.starts_with(':'))
    }
}

impl serde::Serialize for TopicName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TopicName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether `name` matches a pattern in which `*` matches any number of characters.
pub fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return true };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    // The last piece must match at the end; an earlier match of it does not matter.
    last.map_or(rest.is_empty(), |last| last.is_empty() || name.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(TopicName::new("quotes:BTCUSDT").unwrap().namespace(), Some("quotes"));
        assert_eq!(TopicName::new("a:b:c").unwrap().namespace(), Some("a"));
        assert_eq!(TopicName::new("plain").unwrap().namespace(), None);
        assert_eq!(TopicName::new("$a:b").unwrap().namespace(), Some("a"));
        assert!(TopicName::new("a:b").unwrap().is_in("a") && !TopicName::new("$a:b").unwrap().is_in("a"));
        assert_eq!(TopicName::new(""), Err(NameError::Empty));
        assert_eq!(TopicName::new("a b"), Err(NameError::NotPrintable(' ')));
        assert_eq!(TopicName::new("a\u{7}"), Err(NameError::NotPrintable('\u{7}')));
        assert!(TopicName::new(&"x".repeat(255)).is_ok());
        for name in ["größe:ß", "価格:東京", "e\u{301}", "🚀", "☁\u{fe0f}", "a#1,2", "$x"] {
            assert!(TopicName::new(name).is_ok(), "{name}");
        }
        assert_eq!(TopicName::new(&"x".repeat(256)), Err(NameError::TooLong(256)));
    }

    #[test]
    fn a_namespace_ends_at_a_stored_length() {
        let parts = ["", "a", "ab", "$", "$a", "$$a", "ops"];
        for (namespace, rest) in
            parts.iter().flat_map(|part| ["", ":", ":x", "x", "b:x", ":a:"].map(|rest| (part, rest)))
        {
            let name = format!("{namespace}{rest}");
            for part in parts {
                assert_eq!(is_in_namespace(&name, part), namespace_of(&name) == Some(part), "{name} in {part}");
            }
        }
    }

    #[test]
    fn what_cannot_be_seen_is_refused_with_its_code_point() {
        for (c, shown) in [
            ('\u{feff}', "U+FEFF (a format character)"),
            ('\u{200b}', "U+200B (a format character)"),
            ('\u{200d}', "U+200D"),
            ('\u{3164}', "U+3164 (not shown)"),
            ('\u{115f}', "U+115F"),
            ('\u{fe0f}', "U+FE0F"),
            ('\u{e0100}', "U+E0100"),
            ('\u{2800}', "U+2800"),
            ('\u{202e}', "U+202E"),
            ('\u{2066}', "U+2066"),
            ('\u{ad}', "U+00AD"),
            ('\u{e0041}', "U+E0041"),
            ('\u{a0}', "U+00A0 (white space)"),
            ('\u{3000}', "U+3000"),
            ('\u{2028}', "U+2028 (white space)"),
            ('\u{85}', "U+0085 (a control character)"),
            ('\u{e000}', "U+E000 (a private-use character)"),
            ('\u{ffff}', "U+FFFF (no character in Unicode)"),
        ] {
            for name in [format!("a:{c}b"), format!("{c}"), format!("quotes:X{c}")] {
                let error = TopicName::new(&name).unwrap_err().to_string();
                assert!(error.contains(shown), "{error}");
            }
        }
    }

    #[test]
    fn what_is_shown_of_a_text_is_visible_and_short() {
        for (bytes, expected) in [
            (&b"quotes:A"[..], "quotes:A"),
            (b"a b\n\x1b[31m`", "a b\\u000a\\u001b[31m'"),
            (b"\xff\xfeA", "\u{fffd}\u{fffd}A"),
            (b"12345678901234567890", "12345678901234567890"),
            (b"123456789012345678901", "12345678901234567890…"),
            ("😀".repeat(21).as_bytes(), &format!("{}…", "😀".repeat(20))),
            ("\u{202e}".as_bytes(), "\\u202e"),
            (b"", ""),
        ] {
            assert_eq!(shown(bytes, 20), expected);
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, fit) in [
            ("*", "a:b", true),
            ("a:*", "a:b", true),
            ("a:*", "b:a:", false),
            ("a:b", "a:b", true),
            ("a:b", "a:bc", false),
            ("*:b", "a:b", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("a*b", "abab", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }
}
