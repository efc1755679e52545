//! Plain words for the errors of the TOML libraries: the expected value with an example, and the
//! value that was given.

use crate::spelling::nearest;

/// The libraries' names of what is expected, and the plain ones.
const KINDS: [(&[&str], &str); 9] = [
    (&["a duration", "duration"], "a time in quotes, such as \"30s\", \"500ms\" or \"5m\""),
    (&["socket address"], ADDRESS),
    (&["a boolean"], "true or false, without quotes"),
    (&["a string", "str", "string"], "a text in quotes"),
    (&["path string"], "a path in quotes"),
    (&["u8", "u16", "u32", "u64", "usize", "i32", "i64", "isize"], "a whole number without quotes, such as 1000"),
    (&["f32", "f64"], "a number without quotes, such as 0.5"),
    (&["a sequence"], "a list, such as [\"a\", \"b\"]"),
    (&["a map"], "a section or a table, such as [section] or { key = 1 }"),
];

const ADDRESS: &str = "an address with its port in quotes, such as \"127.0.0.1:8000\" or \"[::1]:8000\"";

const NETWORK: &str = "an address or a network in quotes, such as \"10.0.0.1\" or \"10.0.0.0/8\"";

/// A message in plain words; an unknown message is returned unchanged.
pub(super) fn plain(message: &str) -> String {
    let message = message.trim();
    // The caller reports the place.
    let (message, _) = message.rsplit_once(" in `").filter(|(_, rest)| rest.ends_with('`')).unwrap_or((message, ""));
    if let Some((name, known)) = about(message, "unknown field `") {
        return unknown(name, "not a key here", &known);
    }
    if let Some((name, known)) = about(message, "unknown variant `") {
        return unknown(name, "not a value of this key", &known);
    }
    if let Some((name, _)) = about(message, "missing field `") {
        return format!("`{name}` is missing here; add it");
    }
    match message {
        "invalid socket address syntax" => return format!("this must be {ADDRESS}"),
        "invalid IP address syntax" | "invalid IP network" => return format!("this must be {NETWORK}"),
        _ => {}
    }
    let rest = ["invalid type: ", "invalid value: "].into_iter().find_map(|head| message.strip_prefix(head));
    match rest.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((given, expected)) => format!("this must be {}, not {}", kind(expected), shown(given)),
        None => message.to_owned(),
    }
}

/// The name that such a message is about, and the known names.
fn about<'a>(message: &'a str, head: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let (name, rest) = message.strip_prefix(head)?.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

fn unknown(name: &str, what: &str, known: &[&str]) -> String {
    let meant = nearest(name, known.iter().copied());
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
    match known {
        [] => format!("`{name}` is {what}{meant}"),
        _ => format!("`{name}` is {what}{meant} (known are {})", known.join(", ")),
    }
}

fn kind(expected: &str) -> &str {
    if expected.starts_with("struct ") || expected.starts_with("map") {
        return "a section or a table, such as [section] or { key = 1 }";
    }
    KINDS.iter().find(|(names, _)| names.contains(&expected)).map_or(expected, |(_, plain)| plain)
}

/// The given value, without the library's name of its type.
fn shown(given: &str) -> &str {
    let value = given
        .split_once(' ')
        .filter(|(kind, _)| ["string", "integer", "boolean", "floating", "character", "datetime"].contains(kind));
    match (given, value) {
        ("sequence", _) => "a list",
        ("map", _) => "a section or a table",
        (_, Some((_, value))) => value.strip_prefix("point ").unwrap_or(value).trim_matches('`'),
        _ => given,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn faults_are_told_in_plain_words_with_an_example() {
        for (text, told) in [
            (
                "[server]\nlisten = 5\n",
                "c.toml:2: `listen = 5`: this must be an address with its port in quotes, such as \"127.0.0.1:8000\" or \"[::1]:8000\", not 5",
            ),
            ("[server]\nlisten = \"8000\"\n", "c.toml:2: `listen = \"8000\"`: this must be an address with its port"),
            ("[server]\nlisten = \"localhost:8000\"\n", "this must be an address with its port"),
            ("[server]\ntrusted_proxies = [\"proxy\"]\n", "such as \"10.0.0.1\" or \"10.0.0.0/8\""),
            (
                "[server]\ndrain_window = 30\n",
                "`drain_window = 30`: this must be a time in quotes, such as \"30s\", \"500ms\" or \"5m\", not 30",
            ),
            ("[server]\ndrain_window = \"soon\"\n", "\"5m\", not \"soon\""),
            ("[limits]\nping_interval = true\n", "\"5m\", not true"),
            (
                "[limits]\ntopics = \"many\"\n",
                "`topics = \"many\"`: this must be a whole number without quotes, such as 1000, not \"many\"",
            ),
            ("[limits]\ntopics = 1.5\n", "such as 1000, not 1.5"),
            ("[limits]\ntopics = -1\n", "such as 1000, not -1"),
            ("[limits]\ntopics = [1]\n", "such as 1000, not a list"),
            ("[limits]\nmemory = true\n", "a size: \"2GiB\", \"1500MB\", or bytes, not true"),
            ("[limits]\nmemory = \"2G\"\n", "`2G` is not \"auto\", \"off\", or a size: \"2GiB\""),
            ("[access]\nanonymous = \"yes\"\n", "this must be true or false, without quotes, not \"yes\""),
            ("[access]\norigins = \"*\"\n", "this must be a list, such as [\"a\", \"b\"], not \"*\""),
            ("[default]\nmax_rate = \"5\"\n", "this must be a number without quotes, such as 0.5, not \"5\""),
            ("[namespace]\nquotes = \"merge\"\n", "this must be a section or a table, such as [section]"),
            ("access = 1\n", "this must be a section or a table"),
            ("[server]\nlsten = 1\n", "`lsten = 1`: `lsten` is not a key here; did you mean `listen`? (known are "),
            ("[servr]\n", "`servr` is not a key here; did you mean `server`?"),
            ("[server]\nfrobnicate = 1\n", "`frobnicate` is not a key here (known are "),
            (
                "[namespace.x]\nclass = \"steam\"\n",
                "`steam` is not a value of this key; did you mean `stream`? (known are ",
            ),
            ("[[publish.key]]\nname = \"a\"\n", "`topics` is missing here; add it"),
            ("[dashboard]\n", "not a key here"),
            ("[server]\ndashboard = \"maybe\"\n", "this must be true, false or \"auto\", not \"maybe\""),
        ] {
            let error = Config::read("c.toml", text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
            for word in ["invalid type", "invalid value", "expected", "struct ", "usize", "variant", "field"] {
                assert!(!error.contains(word), "{text}: {error}");
            }
        }
    }
}
