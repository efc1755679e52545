//! The data of a delta: one JSON value, bounded in size and depth, or any bytes where the namespace takes them.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::json_fault;
use crate::config::PayloadForm;
use crate::limits::JSON_DEPTH_MAX;

/// A valid JSON value in UTF-8 without line breaks, ready to be placed inside a frame; or any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    form: PayloadForm,
}

/// Why bytes were refused as a payload; `words` describes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Over the bound.
    TooLarge {
        /// Bytes that came.
        bytes: usize,
        /// Bytes that are allowed.
        max: usize,
    },
    /// Not UTF-8 from this byte on.
    NotUtf8(usize),
    /// Not JSON.
    NotJson(String),
    /// Nested too deep.
    TooDeep,
    /// Bytes for a namespace that takes JSON.
    NotForBytes,
    /// A JSON client's publish to a namespace of bytes that is no text in base64.
    NotBase64,
}

impl Payload {
    /// Takes `bytes` as what a namespace's deltas are made of.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(bytes: Bytes, bytes_max: usize, form: PayloadForm) -> Result<Self, PayloadError> {
        match form {
            PayloadForm::Json => Self::new(bytes, bytes_max),
            PayloadForm::Bytes if bytes.len() > bytes_max => {
                Err(PayloadError::TooLarge { bytes: bytes.len(), max: bytes_max })
            }
            PayloadForm::Bytes => Ok(Self { bytes, form }),
        }
    }

    /// Bytes that are written in base64 (standard alphabet, with or without padding), for a namespace of either form.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_base64(text: &str, bytes_max: usize, form: PayloadForm) -> Result<Self, PayloadError> {
        // Three bytes of four characters: looked at first, so that nothing is decoded only to be refused.
        let least = (text.trim_end_matches('=').len() / 4).saturating_mul(3);
        if least > bytes_max {
            return Err(PayloadError::TooLarge { bytes: least, max: bytes_max });
        }
        let bytes = BASE64.decode(text).map_err(|_| PayloadError::NotBase64)?;
        Self::read(bytes.into(), bytes_max, form)
    }

    /// The same for a namespace: JSON is bytes too, but bytes need not be JSON.
    ///
    /// # Errors
    /// If it is bytes and the namespace takes JSON.
    pub(super) fn for_form(self, form: PayloadForm) -> Result<Self, PayloadError> {
        match (self.form, form) {
            (PayloadForm::Bytes, PayloadForm::Json) => Err(PayloadError::NotForBytes),
            _ => Ok(Self { form, ..self }),
        }
    }

    /// Checks `bytes`, which are to be JSON.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(bytes: Bytes, bytes_max: usize) -> Result<Self, PayloadError> {
        if bytes.len() > bytes_max {
            return Err(PayloadError::TooLarge { bytes: bytes.len(), max: bytes_max });
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| PayloadError::NotUtf8(e.valid_up_to()))?;
        if is_too_deep(&bytes) {
            return Err(PayloadError::TooDeep);
        }
        serde_json::from_str::<IgnoredAny>(text).map_err(|e| PayloadError::NotJson(json_fault::told(text, &e)))?;
        // In valid JSON a raw line break can only be white space between tokens.
        if count(&bytes, |byte| matches!(byte, b'\n' | b'\r')) == 0 {
            return Ok(Self { bytes, form: PayloadForm::Json });
        }
        let flat: Vec<u8> = bytes.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect();
        Ok(Self { bytes: Bytes::from(flat), form: PayloadForm::Json })
    }

    /// `null`.
    pub fn null() -> Self {
        Self { bytes: Bytes::from_static(b"null"), form: PayloadForm::Json }
    }

    /// The JSON text, or the bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it is.
    pub fn form(&self) -> PayloadForm {
        self.form
    }

    /// The JSON text; nothing of bytes that are no text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// Whether it is a JSON object.
    pub fn is_object(&self) -> bool {
        self.form == PayloadForm::Json && self.bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
    }
}

/// As publishers write it, whether or not they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How many of `bytes` are such, looked at in blocks whose count fits a byte: compilers make vector instructions of it.
fn count(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> usize {
    let of_block = |block: &[u8]| usize::from(block.iter().map(|byte| u8::from(is_such(*byte))).sum::<u8>());
    bytes.chunks(usize::from(u8::MAX)).map(of_block).sum()
}

/// Whether a JSON text is nested too deep. As a rule it has too few brackets for that, wherever they are.
fn is_too_deep(bytes: &[u8]) -> bool {
    count(bytes, |byte| matches!(byte, b'{' | b'[')) > JSON_DEPTH_MAX && depth(bytes) > JSON_DEPTH_MAX
}

fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
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
            _ => {}
        }
    }
    deepest
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
    fn bytes_pass_as_they_are_where_the_namespace_takes_them() {
        let all: Bytes = (0..=255).collect::<Vec<u8>>().into();
        for bytes in [all, Bytes::new(), Bytes::from_static(b"{\n}"), Bytes::from(vec![0xff; 1000])] {
            let payload = Payload::read(bytes.clone(), 1000, PayloadForm::Bytes).unwrap();
            assert_eq!((payload.bytes(), payload.form()), (&bytes, PayloadForm::Bytes));
            assert!(!payload.is_object());
            assert_eq!(payload.clone().for_form(PayloadForm::Bytes), Ok(payload.clone()));
            assert_eq!(payload.for_form(PayloadForm::Json), Err(PayloadError::NotForBytes));
        }
        let large = Payload::read(Bytes::from(vec![0; 1001]), 1000, PayloadForm::Bytes);
        assert_eq!(large, Err(PayloadError::TooLarge { bytes: 1001, max: 1000 }));
    }

    #[test]
    fn base64_is_read_padded_or_not_and_bounded_before_it_is_decoded() {
        let read = |text: &str| Payload::from_base64(text, 4, PayloadForm::Bytes).map(|p| p.bytes().to_vec());
        assert_eq!(read("/wD/"), Ok(vec![255, 0, 255]));
        for text in ["/wA=", "/wA"] {
            assert_eq!(read(text), Ok(vec![255, 0]), "{text}");
        }
        assert_eq!(read(""), Ok(vec![]));
        for text in ["_w", "a", "/wA=x", "a b=", "ü"] {
            assert!(matches!(read(text), Err(PayloadError::NotBase64)), "{text}");
        }
        assert_eq!(read("AAAAAAA="), Err(PayloadError::TooLarge { bytes: 5, max: 4 }));
        assert_eq!(read(&"!".repeat(4000)), Err(PayloadError::TooLarge { bytes: 3000, max: 4 }));
        let json = |text| Payload::from_base64(text, 99, PayloadForm::Json);
        assert_eq!(json("eyJhIjoxfQ==").unwrap().as_str(), "{\"a\":1}");
        assert!(matches!(json("/wA="), Err(PayloadError::NotUtf8(0))));
    }

    #[test]
    fn what_is_not_json_is_refused_with_a_reason() {
        for text in ["", "{", "{a:1}", "1 2", "\"\n\"", "01", "nul"] {
            assert!(matches!(check(text), Err(PayloadError::NotJson(_))), "{text}");
        }
        assert_eq!(check(&format!("\"{}\"", "x".repeat(999))), Err(PayloadError::TooLarge { bytes: 1001, max: 1000 }));
        assert_eq!(check(&"[".repeat(100)), Err(PayloadError::TooDeep));
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested(JSON_DEPTH_MAX)), Ok(nested(JSON_DEPTH_MAX)));
        assert_eq!(check(&nested(JSON_DEPTH_MAX + 1)), Err(PayloadError::TooDeep));
        // Many brackets, of which few are open at once, and those in strings are none.
        for flat in [format!("[{}1]", "[],{},".repeat(100)), format!("[\"{}\"]", "\\\"[{".repeat(200))] {
            assert_eq!(check(&flat), Ok(flat));
        }
        assert_eq!(check(&format!("\"{}\"", "[".repeat(100))).map(|_| ()), Ok(()));
        assert_eq!(Payload::new(Bytes::from_static(b"\"\xff\""), 1000), Err(PayloadError::NotUtf8(1)));
    }
}
