//! Paths and queries, percent-decoded (RFC 3986 §2.1). A decoder that ignored invalid escapes would
//! look up a name that the client did not mean; here an invalid escape is an error that shows it.

use crate::http::api::members::shown;

/// Decodes percent-escapes.
///
/// # Errors
/// The invalid escape, or that the bytes are not UTF-8.
pub(in crate::http) fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| behind.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            let shown = String::from_utf8_lossy(behind.get(..behind.len().min(2)).unwrap_or_default());
            return Err(format!(
                "`%{shown}` is not an escape: two hexadecimal digits follow a `%`, and `%` itself is written %25"
            ));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        rest = behind.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| format!("`{}` is not UTF-8 after decoding", shown(text)))
}

/// The parameters of a query that its reader knows.
#[derive(Debug)]
pub(in crate::http) struct Query {
    values: Vec<(&'static str, String)>,
}

impl Query {
    /// Reads a query. A parameter that is not `known` is an error if `exact` is set, and otherwise
    /// ignored.
    ///
    /// # Errors
    /// The invalid escape, or a parameter that is unknown or repeated.
    pub(in crate::http) fn read(query: Option<&str>, known: &[&'static str], exact: bool) -> Result<Self, String> {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As in form encoding, `+` is a space.
            let read = |text: &str| decoded(&text.replace('+', " ")).map_err(|error| format!("the query: {error}"));
            let name = read(name)?;
            let Some(name) = known.iter().find(|known| **known == name) else {
                if exact {
                    let name = shown(&name);
                    return Err(format!("`{name}` is not known in this query; known are {}", known.join(", ")));
                }
                continue;
            };
            if values.iter().any(|(given, _)| given == name) {
                return Err(format!("`{name}` is there twice in the query"));
            }
            values.push((name, read(value)?));
        }
        Ok(Self { values })
    }

    /// The value of a parameter, if present.
    pub(in crate::http) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.values.iter().position(|(given, _)| *given == name)?;
        Some(self.values.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_escape_is_refused_and_shown() {
        for (text, read) in [("", ""), ("a%20b", "a b"), ("%c3%A9", "é"), ("%25zz", "%zz"), ("a+b", "a+b")] {
            assert_eq!(decoded(text).as_deref(), Ok(read), "{text}");
        }
        for (text, shown) in
            [("%zz", "`%zz`"), ("a%", "`%`"), ("%2", "`%2`"), ("%2g", "`%2g`"), ("%+1", "`%+1`"), ("%ff", "not UTF-8")]
        {
            let error = decoded(text).unwrap_err();
            assert!(error.contains(shown), "{text}: {error}");
        }
    }

    #[test]
    fn parameters_are_read_once_each() {
        let read = |query: &str, exact| Query::read(Some(query), &["prefix", "limit"], exact);
        let mut query = read("prefix=a%3A+b&other=1&&limit", false).unwrap();
        assert_eq!(query.take("prefix").as_deref(), Some("a: b"));
        assert_eq!((query.take("limit").as_deref(), query.take("prefix")), (Some(""), None));
        assert!(read("prefix=a&prefix=b", false).unwrap_err().contains("`prefix` is there twice"));
        assert!(
            read("limt=1", true).unwrap_err().contains("`limt` is not known in this query; known are prefix, limit")
        );
        assert!(read("x=%zz&limit=%zz", false).unwrap_err().contains("`%zz`"));
        assert!(Query::read(None, &[], true).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_read_as_it_was(text in "\\PC{0,40}") {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decoded(&escaped), Ok(text));
        }

        #[test]
        fn any_text_is_read_or_refused_in_few_words(text in "[%0-9a-fz&=+é]{0,300}") {
            if let Err(error) = Query::read(Some(&text), &["a"], true) {
                prop_assert!(error.len() < 300, "{}", error);
            }
        }
    }
}
