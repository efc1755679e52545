//! What a source may hand in: one JSON value, bounded in size and depth.

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::limits::JSON_DEPTH_MAX;

/// A valid JSON value in UTF-8 without line breaks, ready to be placed inside a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

/// Why bytes were refused as a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Over the bound.
    #[error("delta has {bytes} bytes, the most is {max} (limits.delta_bytes)")]
    TooLarge {
        /// What came.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// Not UTF-8.
    #[error("delta is not UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// Not JSON.
    #[error("delta is not JSON: {0}")]
    NotJson(String),
    /// Nested too deep.
    #[error("delta is nested deeper than {JSON_DEPTH_MAX}")]
    TooDeep,
}

impl Payload {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(bytes: Bytes, bytes_max: usize) -> Result<Self, PayloadError> {
        if bytes.len() > bytes_max {
            return Err(PayloadError::TooLarge { bytes: bytes.len(), max: bytes_max });
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| PayloadError::NotUtf8(e.valid_up_to()))?;
        let shape = shape(&bytes);
        if shape.depth > JSON_DEPTH_MAX {
            return Err(PayloadError::TooDeep);
        }
        serde_json::from_str::<IgnoredAny>(text).map_err(|e| PayloadError::NotJson(e.to_string()))?;
        if !shape.line_breaks {
            return Ok(Self(bytes));
        }
        // In valid JSON a raw line break can only be white space between tokens.
        let flat: Vec<u8> = bytes.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect();
        Ok(Self(Bytes::from(flat)))
    }

    /// The JSON text.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether it is a JSON object.
    pub fn is_object(&self) -> bool {
        self.0.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
    }
}

struct Shape {
    depth: usize,
    line_breaks: bool,
}

fn shape(bytes: &[u8]) -> Shape {
    let (mut depth, mut deepest, mut line_breaks) = (0usize, 0usize, false);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'\n' | b'\r' => line_breaks = true,
            _ => {}
        }
    }
    Shape { depth: deepest, line_breaks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, PayloadError> {
        Payload::new(Bytes::copy_from_slice(text.as_bytes()), 1000).map(|p| p.as_str().to_owned())
    }

    #[test]
    fn valid_json_passes_and_line_breaks_become_spaces() {
        for text in ["1", "\"a\\n\"", "{\"a\":[1,2,{}]}", "null", " {} "] {
            assert_eq!(check(text).as_deref(), Ok(text));
        }
        assert_eq!(check("{\n\"a\":\r\n1}").as_deref(), Ok("{ \"a\":  1}"));
    }

    #[test]
    fn what_is_not_json_is_refused_with_a_reason() {
        for text in ["", "{", "{a:1}", "1 2", "\"\n\"", "01", "nul"] {
            assert!(matches!(check(text), Err(PayloadError::NotJson(_))), "{text}");
        }
        assert_eq!(check(&format!("\"{}\"", "x".repeat(999))), Err(PayloadError::TooLarge { bytes: 1001, max: 1000 }));
        assert_eq!(check(&"[".repeat(100)), Err(PayloadError::TooDeep));
        assert_eq!(check(&format!("\"{}\"", "[".repeat(100))).map(|_| ()), Ok(()));
        assert_eq!(Payload::new(Bytes::from_static(b"\"\xff\""), 1000), Err(PayloadError::NotUtf8(1)));
    }
}
