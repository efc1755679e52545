//! Negotiation of permessage-deflate: `Sec-WebSocket-Extensions` of the opening handshake (RFC 6455
//! §9.1, RFC 7692 §7).

/// The server's answer: both sides forget each message, so that compressed messages can be shared
/// and no session keeps a window.
const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The answer to an offer that names the server's window. RFC 7692 §7.1.2.1: accepting such an
/// offer means repeating the parameter.
const ACCEPTED_WITH_WINDOW: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";

/// The answer to the first acceptable offer of permessage-deflate, in the client's order of
/// preference; `None` if there is none, or if a header is malformed before one was found.
///
/// `offers` are the values of all `Sec-WebSocket-Extensions` headers. An offer that limits the
/// server's window to less than 32 KiB is declined: frames are compressed once for all sessions,
/// with the full window. Unknown, repeated and invalid parameters make an offer unacceptable (RFC
/// 7692 §7).
pub fn negotiate<'a>(offers: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    for value in offers {
        let mut scanner = Scanner { rest: value };
        loop {
            let offer = scanner.offer()?;
            let is_last = scanner.ends()?;
            if let Some(answer) = answer(&offer) {
                return Some(answer);
            }
            if is_last {
                break;
            }
        }
    }
    None
}

fn answer(offer: &Offer) -> Option<&'static str> {
    if !offer.name.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut answer = ACCEPTED;
    for (name, value) in &offer.parameters {
        if seen.contains(name) {
            return None;
        }
        seen.push(name);
        match (*name, value.as_deref()) {
            ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(bits)) if window_bits(bits).is_some() => {}
            ("server_max_window_bits", Some(bits)) if window_bits(bits) == Some(15) => answer = ACCEPTED_WITH_WINDOW,
            _ => return None,
        }
    }
    Some(answer)
}

/// RFC 7692 §7.1.2.1: 8 to 15, without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let bits: u8 = value.parse().ok()?;
    let is_plain = value.len() == if bits < 10 { 1 } else { 2 };
    ((8..=15).contains(&bits) && is_plain).then_some(bits)
}

/// `extension-token *( ";" extension-param )` (RFC 6455 §9.1).
struct Offer<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<String>)>,
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    /// Consumes the next character, if it is this one.
    fn eat(&mut self, wanted: char) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Whether the header ends after an offer, or another one follows.
    fn ends(&mut self) -> Option<bool> {
        self.space();
        match self.next() {
            None => Some(true),
            Some(',') => Some(false),
            Some(_) => None,
        }
    }

    fn offer(&mut self) -> Option<Offer<'a>> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.eat(';') {
            let name = self.token()?;
            let value = if self.eat('=') { Some(self.value()?) } else { None };
            parameters.push((name, value));
        }
        Some(Offer { name, parameters })
    }

    /// `token` (RFC 2616 §2.2): neither a control character, a space nor a separator.
    fn token(&mut self) -> Option<&'a str> {
        self.space();
        let is_token = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(c);
        let end = self.rest.find(|c| !is_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A token, plain or quoted; the content of quotes must be a token too (RFC 6455 §9.1).
    fn value(&mut self) -> Option<String> {
        if !self.eat('"') {
            return self.token().map(str::to_owned);
        }
        let mut value = String::new();
        loop {
            match self.next()? {
                '"' => return (!value.is_empty()).then_some(value),
                '\\' => value.push(self.next()?),
                other => value.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_and_answers() {
        let (yes, window) = (Some(ACCEPTED), Some(ACCEPTED_WITH_WINDOW));
        let table: &[(&str, &[&str], Option<&str>)] = &[
            ("none", &[], None),
            ("empty", &[""], None),
            ("the simplest (RFC 7692 §7.1)", &["permessage-deflate"], yes),
            ("names are compared without case", &["Permessage-Deflate"], yes),
            ("browsers", &["permessage-deflate; client_max_window_bits"], yes),
            ("a client's own limit", &["permessage-deflate; client_max_window_bits=10"], yes),
            (
                "both ask for no takeover",
                &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
                yes,
            ),
            ("quoted (RFC 7692 §5.2)", &["permessage-deflate; client_max_window_bits=\"10\""], yes),
            ("quoted with an escape", &["permessage-deflate; client_max_window_bits=\"1\\0\""], yes),
            ("white space", &["  permessage-deflate ;\tclient_max_window_bits = 10  "], yes),
            ("another extension first", &["x-webkit-deflate-frame, permessage-deflate"], yes),
            ("in another's quoted string", &["foo; bar=\"a, permessage-deflate\""], None),
            ("behind another's quoted string", &["foo; bar=\"a, b\\\"; c\", permessage-deflate"], yes),
            ("in a second header", &["foo", "permessage-deflate"], yes),
            ("our own window", &["permessage-deflate; server_max_window_bits=15"], window),
            ("a smaller window", &["permessage-deflate; server_max_window_bits=10"], None),
            (
                "a fallback (RFC 7692 §7.1.3)",
                &[
                    "permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate; client_max_window_bits",
                ],
                yes,
            ),
            (
                "the first that can be accepted",
                &["permessage-deflate; unknown", "permessage-deflate; server_max_window_bits=15, permessage-deflate"],
                window,
            ),
            ("a window without a value", &["permessage-deflate; server_max_window_bits"], None),
            ("a window of 7", &["permessage-deflate; client_max_window_bits=7"], None),
            ("a window of 16", &["permessage-deflate; client_max_window_bits=16"], None),
            ("a window of 010", &["permessage-deflate; client_max_window_bits=010"], None),
            ("a window of +9", &["permessage-deflate; client_max_window_bits=+9"], None),
            ("an empty value", &["permessage-deflate; client_max_window_bits=\"\""], None),
            ("a value where there is none", &["permessage-deflate; server_no_context_takeover=true"], None),
            ("a value where there is none", &["permessage-deflate; client_no_context_takeover=1"], None),
            ("doubled", &["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], None),
            ("doubled with values", &["permessage-deflate; client_max_window_bits=9; client_max_window_bits=10"], None),
            ("unknown", &["permessage-deflate; foo"], None),
            ("unknown with a value", &["permessage-deflate; foo=bar"], None),
            ("another name", &["permessage-bzip2"], None),
            ("no name", &["; client_max_window_bits"], None),
            ("an open quote", &["permessage-deflate; client_max_window_bits=\"10"], None),
            ("something behind a value", &["permessage-deflate; client_max_window_bits=\"10\"x"], None),
            ("an empty parameter", &["permessage-deflate;"], None),
            ("not ASCII", &["permessage-deflate; ä"], None),
        ];
        for (what, offers, answer) in table {
            assert_eq!(negotiate(offers.iter().copied()), *answer, "{what}");
        }
    }
}
