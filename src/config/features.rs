//! What this program may have been built without: cargo features, all on by default.

use super::{Config, Dashboard};

/// Why a key or an option cannot be used whose feature is not built in.
pub fn not_built(feature: &str) -> String {
    format!("this nexus-push was built without `{feature}`: build it with `cargo build --release --features {feature}`")
}

/// Hands each key to `fault` that asks for a feature that is not built in.
pub(super) fn faults(config: &Config, fault: &mut impl FnMut(&str, String)) {
    let asked = [
        ("source.nats", config.source.nats.is_some(), "nats", cfg!(feature = "nats")),
        ("source.replay", config.source.replay.is_some(), "replay", cfg!(feature = "replay")),
        ("server.dashboard", config.server.dashboard == Dashboard::On, "dashboard", cfg!(feature = "dashboard")),
    ];
    for (key, is_asked, feature, is_built) in asked {
        if is_asked && !is_built {
            fault(key, not_built(feature));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_feature_is_not_built_in_is_refused_by_name() {
        for (text, key, feature, is_built) in [
            ("[source.nats]\n", "source.nats", "nats", cfg!(feature = "nats")),
            ("[source.replay]\nfiles = [\"a\"]\n", "source.replay", "replay", cfg!(feature = "replay")),
            ("[server]\ndashboard = true\n", "server.dashboard", "dashboard", cfg!(feature = "dashboard")),
            ("[server]\ndashboard = \"auto\"\n", "", "", true),
        ] {
            let read = Config::read("c.toml", text).map_err(|error| error.to_string());
            match is_built {
                true => assert!(read.is_ok(), "{read:?}"),
                false => {
                    let error = read.unwrap_err();
                    assert!(error.contains(key) && error.contains(&format!("--features {feature}")), "{error}");
                }
            }
        }
    }
}
