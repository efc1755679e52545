//! Describes the fault in a text that is not JSON, for publishers.

/// The parser's message, and the words for publishers.
const WORDS: [(&str, &str); 19] = [
    ("EOF while parsing a list", "ends in the middle of a list"),
    ("EOF while parsing an object", "ends in the middle of an object"),
    ("EOF while parsing a string", "ends in the middle of a text"),
    ("EOF while parsing a value", "ends where a value should stand"),
    ("expected value", "has something that begins no value: texts and names need double quotes"),
    ("expected `:`", "lacks a `:` behind a name"),
    ("expected `,` or `]`", "lacks a `,` or `]`"),
    ("expected `,` or `}`", "lacks a `,` or `}`"),
    ("expected ident", "has a word that is none of true, false and null"),
    ("invalid escape", "has a `\\` with something behind it that it does not go with"),
    ("invalid number", "has a number that is not written as JSON writes them"),
    ("number out of range", "has a number that is too large"),
    ("invalid unicode code point", "has a `\\u` of no character"),
    ("control character", "has a line break or another control character in a text: write `\\n`"),
    ("key must be a string", "has a name without double quotes"),
    ("trailing comma", "has a `,` with nothing behind it"),
    ("trailing characters", "goes on behind the value"),
    ("unexpected end of hex escape", "has half a character (a `\\u` that goes with a second one)"),
    ("lone leading surrogate", "has half a character (a `\\u` that goes with a second one)"),
];

/// The fault in `text`, with its place. Begins with a verb.
pub(super) fn told(text: &str, error: &serde_json::Error) -> String {
    if text.trim_matches([' ', '\t', '\n', '\r']).is_empty() {
        return "is empty".into();
    }
    let said = error.to_string();
    let words = WORDS.iter().find(|(head, _)| said.starts_with(head));
    let words = words.map_or("has something that JSON does not have", |(_, words)| words);
    let lines: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let at = (lines + error.column()).min(text.len());
    let words = match text.as_bytes().get(at.saturating_sub(1)) {
        Some(b'}') if said.starts_with("key must be a string") => "has a `,` with nothing behind it",
        _ => words,
    };
    format!("{words}, at byte {at}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> Option<String> {
        serde_json::from_str::<serde::de::IgnoredAny>(text).err().map(|error| told(text, &error))
    }

    #[test]
    fn faults_are_told_in_plain_words_with_their_place() {
        for (text, expected) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("{", "ends in the middle of an object, at byte 1"),
            ("[1", "ends in the middle of a list, at byte 2"),
            ("\"abc", "ends in the middle of a text, at byte 4"),
            ("{\"a\":", "ends where a value should stand, at byte 5"),
            ("{bid:1}", "has a name without double quotes, at byte 2"),
            ("{'bid':1}", "has a name without double quotes, at byte 2"),
            ("NaN", "has something that begins no value: texts and names need double quotes, at byte 1"),
            ("{\"a\":1,\n\"b\":nul}", "has a word that is none of true, false and null, at byte 16"),
            ("{\"a\":1}{", "goes on behind the value, at byte 8"),
            ("{\"a\":1,}", "has a `,` with nothing behind it, at byte 8"),
            ("{\"a\" 1}", "lacks a `:` behind a name, at byte 6"),
            ("[1 2]", "lacks a `,` or `]`, at byte 4"),
            ("01", "has a number that is not written as JSON writes them, at byte 2"),
            ("\"a\nb\"", "has a line break or another control character in a text: write `\\n`, at byte 2"),
            ("\"\\x\"", "has a `\\` with something behind it that it does not go with, at byte 3"),
        ] {
            assert_eq!(fault(text).as_deref(), Some(expected), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_fault_has_words_of_its_own(text in r#"[\[\]{}:, "\\u0-9a-fA-Fnrtex.+\-\n\x01]{0,24}"#) {
            if let Some(told) = fault(&text) {
                prop_assert!(!told.contains("does not have"), "{:?}: {}", text, told);
            }
        }
    }
}
