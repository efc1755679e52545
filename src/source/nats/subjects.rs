//! Subjects and the topics they name.
//!
//! What follows the configured prefix is the topic, its first dot standing for the colon: `nexus.deltas.quotes.BTCUSDT` is
//! `quotes:BTCUSDT`, `nexus.deltas.fx.EUR.USD` is `fx:EUR.USD`. Where the first token has a colon already, it is the topic
//! as it stands: `nexus.deltas.quotes:BRK.B` is `quotes:BRK.B`. One token without a colon is a topic without a namespace.

/// Token behind which topics follow that no subject can say; their messages name them in a header.
const ESCAPED: &str = "_topic.";

/// The configured subjects.
#[derive(Debug, Clone)]
pub struct Subjects {
    /// Each ends in a dot.
    prefixes: Vec<String>,
}

impl Subjects {
    /// Of patterns that end in `.>`.
    pub fn new(patterns: &[String]) -> Self {
        Self { prefixes: patterns.iter().map(|pattern| pattern.trim_end_matches('>').to_owned()).collect() }
    }

    /// The topic that a subject names, if it is one of these.
    pub fn topic(&self, subject: &str) -> Option<String> {
        self.prefixes.iter().find_map(|prefix| subject.strip_prefix(prefix.as_str())).map(topic_of)
    }

    /// Where deltas of a topic are published, and whether a header has to name it.
    pub fn subject(&self, topic: &str) -> (String, bool) {
        let prefix = self.prefixes.first().map_or("", String::as_str);
        let rest = topic.replacen(':', ".", 1);
        if is_subject(&rest) && topic_of(&rest) == topic && !rest.starts_with(ESCAPED) {
            return (format!("{prefix}{rest}"), false);
        }
        (format!("{prefix}{ESCAPED}{}", token(topic)), true)
    }
}

fn topic_of(rest: &str) -> String {
    match rest.split_once('.') {
        Some((namespace, name)) if !namespace.contains(':') => format!("{namespace}:{name}"),
        _ => rest.to_owned(),
    }
}

/// Whether every token has something in it, and nothing that stands for something else.
fn is_subject(text: &str) -> bool {
    text.split('.').all(|token| !token.is_empty())
        && !text.chars().any(|c| matches!(c, '*' | '>') || c.is_whitespace() || c.is_control())
}

/// Any text as one token of a subject, or of a bucket's key: what is not a letter, a digit, `-` or `_` is written `=2A`.
pub(super) fn token(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            _ => out.push_str(&format!("={byte:02X}")),
        }
    }
    out
}

/// The text of which this is the token.
pub(super) fn text_of(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut parts = token.split('=');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subjects() -> Subjects {
        Subjects::new(&["nexus.deltas.>".to_owned(), "md.>".to_owned()])
    }

    #[test]
    fn subjects_name_topics() {
        for (subject, topic) in [
            ("nexus.deltas.quotes.BTCUSDT", Some("quotes:BTCUSDT")),
            ("nexus.deltas.fx.EUR.USD", Some("fx:EUR.USD")),
            ("nexus.deltas.quotes:BRK.B", Some("quotes:BRK.B")),
            ("nexus.deltas.quotes.a:b", Some("quotes:a:b")),
            ("nexus.deltas.alerts", Some("alerts")),
            ("md.quotes.X", Some("quotes:X")),
            ("nexus.deltas", None),
            ("nexus.other.quotes.X", None),
        ] {
            assert_eq!(subjects().topic(subject).as_deref(), topic, "{subject}");
        }
    }

    #[test]
    fn topics_have_subjects_and_those_that_cannot_be_said_a_header() {
        for (topic, subject, header) in [
            ("quotes:BTCUSDT", "nexus.deltas.quotes.BTCUSDT", false),
            ("fx:EUR.USD", "nexus.deltas.fx.EUR.USD", false),
            ("alerts", "nexus.deltas.alerts", false),
            ("a:b:c", "nexus.deltas.a.b:c", false),
            ("a.b", "nexus.deltas._topic.a=2Eb", true),
            ("a.b:c", "nexus.deltas._topic.a=2Eb=3Ac", true),
            ("a:", "nexus.deltas._topic.a=3A", true),
            (":a", "nexus.deltas._topic.=3Aa", true),
            ("a:b..c", "nexus.deltas._topic.a=3Ab=2E=2Ec", true),
            ("a:*", "nexus.deltas._topic.a=3A=2A", true),
            ("a:b.>", "nexus.deltas._topic.a=3Ab=2E=3E", true),
            ("_topic:x", "nexus.deltas._topic._topic=3Ax", true),
            ("a:é", "nexus.deltas.a.é", false),
        ] {
            assert_eq!(subjects().subject(topic), (subject.to_owned(), header), "{topic}");
        }
    }

    proptest! {
        /// Whatever a topic is called, its subject leads back to it, or a header says it; and no two topics share one.
        #[test]
        fn there_and_back(one in "[a-c.:*>_é=]{1,8}", other in "[a-c.:*>_é=]{1,8}") {
            let (subject, header) = subjects().subject(&one);
            prop_assert!(is_subject(&subject), "{}", subject);
            if !header {
                prop_assert_eq!(subjects().topic(&subject), Some(one.clone()));
            }
            prop_assert_eq!(one == other, subject == subjects().subject(&other).0);
        }
    }
}
