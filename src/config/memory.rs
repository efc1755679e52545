//! `limits.memory`: the figure from which the limits on backlogs, history and state follow.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Memory that the server may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// A share of the memory of the machine, or of the control group.
    #[default]
    Auto,
    /// No limit, except those that are set one by one.
    Off,
    /// This many bytes.
    Bytes(u64),
}

/// Units of sizes, the largest first.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const EXPECTED: &str = "\"auto\", \"off\", or a size: \"2GiB\", \"1500MB\", or bytes";

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let (number, unit) = UNITS
            .iter()
            .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim_end(), *bytes)))
            .unwrap_or((text, 1));
        let number: u64 = number.parse().map_err(|_| format!("`{text}` is not {EXPECTED}"))?;
        number.checked_mul(unit).map(Self::Bytes).ok_or_else(|| format!("`{text}` is more than any machine has"))
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Bytes(bytes) => {
                let whole = UNITS.iter().find(|(_, unit)| bytes > 0 && bytes % unit == 0);
                let (unit, size) = whole.unwrap_or(&("B", 1));
                write!(f, "{}{unit}", bytes / size)
            }
        }
    }
}

impl Serialize for MemoryLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = MemoryLimit;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MemoryLimit, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<MemoryLimit, E> {
                Ok(MemoryLimit::Bytes(bytes))
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<MemoryLimit, E> {
                let negative = || E::invalid_value(Unexpected::Signed(bytes), &self);
                u64::try_from(bytes).map(MemoryLimit::Bytes).map_err(|_| negative())
            }
        }
        deserializer.deserialize_any(Reader).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        use MemoryLimit::{Auto, Bytes, Off};
        for (text, limit, written) in [
            ("auto", Auto, "auto"),
            ("off", Off, "off"),
            ("2GiB", Bytes(2 << 30), "2GiB"),
            ("1536 MiB", Bytes(1536 << 20), "1536MiB"),
            ("1500MB", Bytes(1_500_000_000), "1500MB"),
            ("1000000", Bytes(1_000_000), "1MB"),
            ("1025B", Bytes(1025), "1025B"),
            ("0", Bytes(0), "0B"),
        ] {
            assert_eq!(text.parse::<MemoryLimit>(), Ok(limit), "{text}");
            assert_eq!(limit.to_string(), written);
            assert_eq!(written.parse::<MemoryLimit>(), Ok(limit), "{written}");
        }
        for text in ["GiB", "2G", "-1GiB", "1.5GiB", "2gib", "99999999999TiB", "lots"] {
            let error = text.parse::<MemoryLimit>().unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
