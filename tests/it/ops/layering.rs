//! The layers of ARCHITECTURE.md: an import never points up.

use std::path::{Path, PathBuf};

use crate::support::imports::{Imports, files};

/// Each module and the modules that it may use, lowest first.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("allocator", &[]),
    ("accounts", &[]),
    ("client", &[]),
    ("clock", &[]),
    ("form", &[]),
    ("name", &["limits"]),
    ("random", &[]),
    ("position", &["limits", "random"]),
    ("rate", &[]),
    ("spelling", &[]),
    ("systemd", &[]),
    ("wire", &["accounts"]),
    ("config", &["form", "limits", "name", "spelling"]),
    ("memory", &["config", "limits"]),
    ("metrics", &["wire"]),
    ("protocol", &["form", "limits", "name", "position", "spelling", "wire"]),
    ("topic", &["accounts", "clock", "config", "limits", "memory", "metrics", "name", "position", "protocol"]),
    ("auth", &["client", "clock", "config", "limits", "metrics", "name", "rate"]),
    (
        "hub",
        &[
            "allocator",
            "accounts",
            "auth",
            "clock",
            "config",
            "limits",
            "memory",
            "metrics",
            "name",
            "position",
            "protocol",
            "rate",
            "topic",
            "wire",
        ],
    ),
    (
        "source",
        &[
            "clock", "config", "hub", "limits", "memory", "metrics", "name", "position", "protocol", "random", "rate",
            "spelling", "topic",
        ],
    ),
    ("cluster", &["clock", "config", "hub", "metrics", "name", "protocol", "source", "topic"]),
    (
        "backend",
        &["client", "clock", "cluster", "config", "hub", "limits", "metrics", "name", "protocol", "source", "topic"],
    ),
    (
        "http",
        &[
            "accounts", "auth", "client", "clock", "cluster", "config", "hub", "limits", "memory", "metrics", "name",
            "position", "protocol", "rate", "source", "spelling", "topic", "wire",
        ],
    ),
    (
        "server",
        &[
            "accounts",
            "allocator",
            "auth",
            "backend",
            "clock",
            "cluster",
            "config",
            "http",
            "hub",
            "limits",
            "memory",
            "metrics",
            "position",
            "source",
            "systemd",
            "topic",
        ],
    ),
    ("cli", &["cli", "client", "config", "limits", "server", "source", "topic"]),
];

fn sources(module: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (file, folder) = (src.join(format!("{module}.rs")), src.join(module));
    [file, folder].iter().filter(|p| p.exists()).flat_map(|p| files(p)).collect()
}

#[test]
fn no_arrow_points_up() {
    for (module, allowed) in LAYERS {
        let files = sources(module);
        assert!(!files.is_empty(), "{module} is listed here but not there");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
                for used in line.split("crate::").skip(1) {
                    let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                    let fine = used == *module || allowed.contains(&used.as_str());
                    assert!(fine, "{}:{}: {module} may not use {used}", file.display(), number + 1);
                }
            }
        }
    }
}

#[test]
fn every_module_has_its_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(src).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(["main", "lib"].contains(&name.as_str()) || LAYERS.iter().any(|(m, _)| *m == name), "{name}");
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "loadtest/src"] {
        let circles = Imports::of(&root.join(folder)).circles();
        assert!(circles.is_empty(), "{folder}: files import each other in a circle:\n{}", circles.join("\n"));
    }
}

/// Code that must not exist in the data plane.
#[test]
fn the_data_plane_has_no_async_no_locks_no_http_and_no_redis() {
    // The control plane's ends, and the models that test the data plane.
    let others = ["hub/control/", "hub/handle.rs", "hub/tests/"];
    let is_other = |file: &Path| others.iter().any(|other| file.to_string_lossy().contains(other));
    for file in sources("hub").into_iter().filter(|file| !is_other(file)) {
        let text = std::fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for word in
            ["async ", ".await;", ".await\n", ".await?", "Mutex", "RwLock", "tokio", "redis", "nats", "hyper", "axum"]
        {
            assert!(!code.iter().any(|l| l.contains(word)), "{} has {word}", file.display());
        }
    }
}

/// The parts of the hub, lowest first: each with the parts that it may use, and the words that it must not contain.
const HUB: &[(&str, &[&str], &[&str])] = &[
    ("index", &[], &[]),
    ("cursor", &[], &[]),
    ("stage", &[], &[]),
    ("compression", &[], &[]),
    ("clock", &[], &[]),
    ("chunk", &["cursor"], &[]),
    ("backend", &[], &[]),
    ("allowance", &[], &[]),
    ("memberships", &[], &["mio", "Slab"]),
    ("new_session", &[], &[]),
    (
        "egress",
        &["chunk", "clock", "cursor", "index", "stage"],
        &["Shard", "Session", "Fanout", "Subscriptions", "Group", "Delta", "Snapshot"],
    ),
    (
        "fanout",
        &["chunk", "compression", "cursor", "index"],
        &["Shard", "Session", "Egress", "Output", "Outbox", "SendQueue", "TcpStream", "mio"],
    ),
    ("session", &["egress", "fanout", "backend", "index", "new_session"], &["Shard", "Fanout", "Egress", "TopicEntry"]),
    ("lifecycle", &["clock", "index", "session", "stage"], &["Shard", "Fanout", "Egress", "TopicTable"]),
    ("allowances", &["allowance", "index", "session"], &["Shard"]),
    ("close_queue", &["index", "session", "stage"], &["Shard"]),
    ("event", &["allowance", "backend", "index", "lifecycle", "new_session"], &["Shard"]),
    ("requests", &["event", "index"], &["Shard", "Session"]),
    ("pending", &["index"], &["Shard", "Session"]),
    ("atomics", &[], &[]),
    ("channel", &[], &[]),
    ("wakeup", &["atomics"], &["Event"]),
    ("mailbox", &["channel", "event", "wakeup"], &["Shard", "Session"]),
    ("part", &["mailbox"], &["Shard", "Session"]),
    ("control", &["allowance", "backend", "event", "index", "mailbox"], &["SessionTable", "mio"]),
    (
        "shard",
        &[
            "allowance",
            "allowances",
            "backend",
            "chunk",
            "clock",
            "close_queue",
            "compression",
            "cursor",
            "egress",
            "event",
            "fanout",
            "index",
            "lifecycle",
            "mailbox",
            "memberships",
            "new_session",
            "part",
            "pending",
            "requests",
            "session",
            "stage",
        ],
        &["tokio"],
    ),
    ("start", &["event", "part", "shard"], &[]),
    (
        "handle",
        &["allowance", "control", "event", "lifecycle", "mailbox", "new_session", "part", "shard", "start"],
        &[],
    ),
    ("bench", &["chunk", "cursor", "egress", "index"], &[]),
];

/// The other parts of the hub that a file imports.
fn parts_used(file: &Path, code: &[&str]) -> Vec<String> {
    let hub = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hub");
    let depth = file.strip_prefix(hub).unwrap().components().count() - usize::from(file.ends_with("mod.rs"));
    let up = "super::".repeat(depth.max(1));
    let after = |line: &str, prefix: &str| {
        let at = line.match_indices(prefix).filter(|(at, _)| !line[..*at].ends_with("super::"));
        let word = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        at.map(|(at, _)| word(&line[at + prefix.len()..])).collect::<Vec<_>>()
    };
    let used = code.iter().flat_map(|line| [after(line, "crate::hub::"), after(line, &up)].concat());
    used.filter(|part| !part.is_empty() && part != "super").collect()
}

/// Each part of the hub uses only allowed parts before it, and contains none of its forbidden words.
#[test]
fn parts_of_the_hub_use_only_allowed_parts() {
    for (at, (part, may, words)) in HUB.iter().enumerate() {
        for used in *may {
            assert!(
                HUB[..at].iter().any(|(before, ..)| before == used),
                "{part} may use {used}, which is not before it"
            );
        }
        for file in sources(&format!("hub/{part}")) {
            if file.file_name().is_some_and(|name| name == "tests.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code: Vec<&str> = code.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            let has = |line: &&str, word: &str| {
                line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
            };
            for word in *words {
                assert!(!code.iter().any(|line| has(line, word)), "{} knows {word}", file.display());
            }
            for used in parts_used(&file, &code) {
                assert!(used == *part || may.contains(&used.as_str()), "{}: {part} may not use {used}", file.display());
            }
        }
    }
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hub")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(["mod", "tests"].contains(&name.as_str()) || HUB.iter().any(|(part, ..)| *part == name), "{name}");
    }
}
