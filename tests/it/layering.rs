//! The layers of ARCHITECTURE.md: an arrow never points up.

use std::path::{Path, PathBuf};

/// Each module and what it may use, ground floor first.
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
    ("topic", &["accounts", "clock", "config", "limits", "metrics", "name", "position", "protocol"]),
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
            "clock", "config", "hub", "limits", "metrics", "name", "position", "protocol", "random", "rate",
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
            "accounts", "auth", "client", "clock", "cluster", "config", "hub", "limits", "metrics", "name", "position",
            "protocol", "rate", "server", "source", "spelling", "topic", "wire",
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

fn files(of: &Path) -> Vec<PathBuf> {
    if of.is_file() {
        return vec![of.to_owned()];
    }
    std::fs::read_dir(of).unwrap().flat_map(|e| files(&e.unwrap().path())).collect()
}

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

/// What is absent on purpose.
#[test]
fn the_data_plane_has_no_async_no_locks_no_http_and_no_redis() {
    // The control plane's ends, and the models that the data plane is tested against.
    let others = ["mod.rs", "desk.rs", "model.rs", "queue_model.rs"];
    for file in sources("hub").into_iter().filter(|f| !others.contains(&f.file_name().unwrap().to_str().unwrap())) {
        let text = std::fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for word in
            ["async ", ".await;", ".await\n", ".await?", "Mutex", "RwLock", "tokio", "redis", "nats", "hyper", "axum"]
        {
            assert!(!code.iter().any(|l| l.contains(word)), "{} has {word}", file.display());
        }
    }
}

#[test]
fn fan_out_knows_no_sockets_and_sockets_know_no_topics() {
    let hub = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hub");
    for (file, words) in [
        ("subscribers.rs", &["TcpStream", "mio"][..]),
        ("conflate.rs", &["TcpStream", "mio", "Session"]),
        ("flush/epoll.rs", &["topic", "Delta", "Session"]),
        ("backlog.rs", &["topic", "Delta", "TcpStream"]),
    ] {
        let text = std::fs::read_to_string(hub.join(file)).unwrap();
        for word in words {
            assert!(
                !text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains(word)),
                "{file} knows {word}"
            );
        }
    }
}
