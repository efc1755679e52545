//! The pages that may open a socket. Browsers send `Origin` (RFC 6454) and do not let a page change
//! it. Other clients need not send it, and are checked by tokens instead.

/// Whether a request with this `Origin` may be upgraded.
pub(in crate::http) fn allowed(origin: &str, host: Option<&str>, origins: &[String]) -> bool {
    if origins.iter().any(|o| o == "*" || o.eq_ignore_ascii_case(origin)) {
        return true;
    }
    // A page served by this server.
    let own = origin.split_once("://").map(|(_, rest)| rest);
    matches!((own, host), (Some(own), Some(host)) if own.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use crate::http::upgrade::origin::allowed;

    #[test]
    fn origins() {
        let list = ["https://app.example.com".to_owned()];
        let any = ["*".to_owned()];
        for (origin, host, origins, expected) in [
            ("https://app.example.com", None, &list[..], true),
            ("https://APP.example.com", None, &list, true),
            ("https://evil.example.com", None, &list, false),
            ("https://app.example.com.evil.com", None, &list, false),
            ("null", None, &list, false),
            ("https://evil.example.com", None, &any, true),
            ("http://127.0.0.1:8000", Some("127.0.0.1:8000"), &list, true),
            ("http://127.0.0.1:8001", Some("127.0.0.1:8000"), &list, false),
        ] {
            assert_eq!(allowed(origin, host, origins), expected, "{origin:?} {host:?}");
        }
    }
}
