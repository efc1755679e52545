//! `server.dashboard`: whether `/` and `/ops` are served.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which ports serve the dashboard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dashboard {
    /// `operator.listen`, and the other ports if clients need no token.
    #[default]
    Auto,
    /// Every port that can.
    On,
    /// No port.
    Off,
}

impl Serialize for Dashboard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Dashboard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Dashboard;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or \"auto\"")
            }
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Dashboard, E> {
                Ok(if on { Dashboard::On } else { Dashboard::Off })
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Dashboard, E> {
                match text {
                    "auto" => Ok(Dashboard::Auto),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
