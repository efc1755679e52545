//! What a value of Redis holds.

use redis::Value;

/// Its bytes, if it is a string.
pub(super) fn raw(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// Its text, if it is a string of UTF-8.
pub(super) fn text(value: &Value) -> Option<&str> {
    raw(value).and_then(|bytes| std::str::from_utf8(bytes).ok())
}
