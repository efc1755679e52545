//! Entries that a server refuses, and the command that would publish them.

use crate::support::OPEN;
use crate::support::program::{fed, run};

/// Namespaces of each class; others are refused.
pub(crate) fn strict(source: &str) -> String {
    let open = OPEN.replace("[access]", "[access]\nunknown_namespace = \"refuse\"");
    format!("{open}\n[namespace.raw]\nclass = \"latest\"\npayload = \"bytes\"\n{source}")
}

pub(crate) struct Case {
    pub(crate) topic: String,
    pub(crate) kind: Option<&'static str>,
    pub(crate) data: Option<Vec<u8>>,
    pub(crate) reason: &'static str,
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |topic: &str, kind, data: Option<&[u8]>, reason| Case {
        topic: topic.to_owned(),
        kind,
        data: data.map(<[u8]>::to_vec),
        reason,
    };
    let object: Option<&[u8]> = Some(b"{}");
    vec![
        case("bad name", None, object, "name"),
        case("", None, object, "name"),
        case(&"x".repeat(300), None, object, "name"),
        case("mereg:a", None, object, "unknown_namespace"),
        case("elsewhere:a", None, object, "unknown_namespace"),
        case("ops:nodes", None, object, "reserved"),
        case("merge:a", Some("full"), object, "kind"),
        case("merge:b", Some("Snapshot"), object, "kind"),
        case("merge:c", Some("delta"), None, "no_data"),
        case("merge:d", None, Some(b""), "no_data"),
        case("merge:e", None, Some(b" \n"), "no_data"),
        case("merge:f", None, Some(b"{bid:1}"), "not_json"),
        case("latest:f", Some("snapshot"), Some(b"[1,2"), "not_json"),
        case("merge:g", None, Some(b"{\"a\":\"\xff\"}"), "not_utf8"),
        case("stream:h", None, Some(format!("\"{}\"", "x".repeat(300_000)).as_bytes()), "too_large"),
        case("raw:h", None, Some(&[0xff; 300_000]), "too_large"),
        case("merge:i", None, Some(("[".repeat(70) + &"]".repeat(70)).as_bytes()), "too_deep"),
        case("merge:j", None, Some(b"[1,2]"), "not_an_object"),
        case("merge:k", Some("snapshot"), Some(b"null"), "not_an_object"),
        case("stream:l", Some("snapshot"), Some(b"1"), "stream_snapshot"),
    ]
}

/// Runs `publish` for a case, with a file for data that cannot be an argument.
pub(crate) fn publish(config: &str, case: &Case) -> std::process::Output {
    let mut args = vec!["publish", "--config", config];
    args.extend(case.kind.iter().flat_map(|kind| ["--kind", kind]));
    args.push(&case.topic);
    match &case.data {
        None => run(&args),
        Some(data) => {
            args.push("-");
            fed(&args, data)
        }
    }
}
