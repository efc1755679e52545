//! The PROXY protocol, versions 1 and 2: a header that a proxy sends before a connection, TLS or
//! not. The caller makes sure that the peer is a trusted proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The beginning of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The beginning of version 1.
const PREFIX: &[u8; 6] = b"PROXY ";

/// Longest header of version 1, line end included.
const LINE_BYTES_MAX: usize = 107;

/// Bytes of a header of version 2 before its addresses.
const FIXED_BYTES: usize = 16;

/// The meaning of the first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A complete header.
    Header {
        /// Its length.
        bytes: usize,
        /// The client's address; `None` if the proxy does not give one, or speaks for itself (as
        /// its health checks do).
        source: Option<IpAddr>,
    },
    /// The beginning of a header: all of these bytes belong to it.
    Begun,
    /// Too few bytes to decide.
    Unclear,
    /// No header.
    Other,
    /// A header that breaks the protocol, with the reason.
    Broken(&'static str),
}

/// Reads the first bytes of a connection. `bytes_max` limits a header of version 2.
pub fn parse(bytes: &[u8], bytes_max: usize) -> Parsed {
    if bytes.starts_with(SIGNATURE) {
        return binary(bytes, bytes_max);
    }
    if bytes.starts_with(PREFIX) {
        return text(bytes);
    }
    match SIGNATURE.starts_with(bytes) || PREFIX.starts_with(bytes) {
        true => Parsed::Unclear,
        false => Parsed::Other,
    }
}

fn text(bytes: &[u8]) -> Parsed {
    let line = bytes.get(..LINE_BYTES_MAX.min(bytes.len())).unwrap_or_default();
    let end = line.iter().position(|byte| *byte == b'\r').filter(|end| end + 1 < line.len());
    let Some(end) = end else {
        return match bytes.len() < LINE_BYTES_MAX {
            true => Parsed::Begun,
            false => Parsed::Broken("a line of version 1 without an end"),
        };
    };
    if line.get(end + 1) != Some(&b'\n') {
        return Parsed::Broken("version 1 with a line that ends within");
    }
    let words = line.get(PREFIX.len()..end).and_then(|words| std::str::from_utf8(words).ok());
    let Some(words) = words else { return Parsed::Broken("version 1 that is no text") };
    let header = |source| Parsed::Header { bytes: end + 2, source };
    // The rest of the line after this word is ignored.
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return header(None);
    }
    let words: Vec<&str> = words.split(' ').collect();
    let &[family, source, destination, source_port, destination_port] = words.as_slice() else {
        return Parsed::Broken("version 1 without two addresses and two ports");
    };
    let addresses = match family {
        "TCP4" => both::<Ipv4Addr>(source, destination),
        "TCP6" => both::<Ipv6Addr>(source, destination),
        _ => return Parsed::Broken("version 1 of another protocol than TCP4, TCP6 and UNKNOWN"),
    };
    match addresses {
        Some(source) if is_port(source_port) && is_port(destination_port) => header(Some(source)),
        _ => Parsed::Broken("version 1 with an invalid address or port"),
    }
}

/// The first of two addresses, if both are valid.
fn both<A: std::str::FromStr + Into<IpAddr>>(source: &str, destination: &str) -> Option<IpAddr> {
    destination.parse::<A>().ok()?;
    source.parse::<A>().ok().map(Into::into)
}

fn is_port(text: &str) -> bool {
    (text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first))) && text.parse::<u16>().is_ok()
}

fn binary(bytes: &[u8], bytes_max: usize) -> Parsed {
    let Some(&[version_command, family_transport, high, low]) = bytes.get(SIGNATURE.len()..FIXED_BYTES) else {
        return Parsed::Begun;
    };
    let total = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return Parsed::Broken("neither version 1 nor 2");
    }
    let address_bytes = match family_transport >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Parsed::Broken("version 2 with an unknown family of addresses"),
    };
    if family_transport & 0x0f > 2 {
        return Parsed::Broken("version 2 with an unknown transport");
    }
    if total < FIXED_BYTES + address_bytes {
        return Parsed::Broken("version 2 that is too short for its addresses");
    }
    if total > bytes_max {
        return Parsed::Broken("version 2 that is too long");
    }
    let source = match version_command & 0x0f {
        // It is the proxy's own connection, whatever its header contains.
        0 => None,
        1 => Some(family_transport >> 4),
        _ => return Parsed::Broken("version 2 with an unknown command"),
    };
    let Some(addresses) = bytes.get(FIXED_BYTES..total) else { return Parsed::Begun };
    let source = match source {
        Some(1) => addresses.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        Some(2) => addresses.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    };
    Parsed::Header { bytes: total, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 512;

    fn parse_all(bytes: &[u8]) -> Parsed {
        super::parse(bytes, BYTES_MAX)
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, addresses].concat()
    }

    #[test]
    fn headers() {
        let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let (v4, v6): (IpAddr, IpAddr) = ([203, 0, 113, 7].into(), six.into());
        let four = [203, 0, 113, 7, 10, 0, 0, 1, 0, 80, 1, 187];
        let addresses6 = [&six[..], &six, &[0, 80, 1, 187]].concat();
        for (what, header, source) in [
            ("v1, IPv4", b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n".to_vec(), Some(v4)),
            ("v1, IPv6", b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(), Some(v6)),
            ("v1, unknown", b"PROXY UNKNOWN\r\n".to_vec(), None),
            ("v1, unknown and more", b"PROXY UNKNOWN ffff::1 x y z\r\n".to_vec(), None),
            ("v2, IPv4", v2(0x21, 0x11, &four), Some(v4)),
            ("v2, IPv4 and more", v2(0x21, 0x11, &[&four[..], &[3, 0, 1, 9]].concat()), Some(v4)),
            ("v2, IPv6", v2(0x21, 0x21, &addresses6), Some(v6)),
            ("v2, unix", v2(0x21, 0x31, &[0; 216]), None),
            ("v2, unspecified", v2(0x21, 0, &[]), None),
            ("v2, local", v2(0x20, 0x11, &four), None),
        ] {
            let with_more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse_all(&with_more), Parsed::Header { bytes: header.len(), source }, "{what}");
            for cut in 0..header.len() {
                assert!(
                    matches!(parse_all(&header[..cut]), Parsed::Begun | Parsed::Unclear),
                    "{what}, {cut} bytes of it"
                );
            }
        }
    }

    #[test]
    fn what_is_none() {
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0", b"POST / HTTP/1.1", &[22, 3, 1, 2, 0], b"\r\n\r\nGET"]
        {
            assert_eq!(parse_all(other), Parsed::Other, "{other:?}");
        }
        assert_eq!(parse_all(b"P"), Parsed::Unclear);
        let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
        for (what, header) in [
            ("no end", long.into_bytes()),
            ("another protocol", b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec()),
            ("IPv6 in TCP4", b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec()),
            ("no port", b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n".to_vec()),
            ("a large port", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n".to_vec()),
            ("a port with a sign", b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n".to_vec()),
            ("half an end", b"PROXY UNKNOWN\r\r\n".to_vec()),
            ("no text", b"PROXY \xff\xff\r\n".to_vec()),
            ("version 3", v2(0x31, 0x11, &[0; 12])),
            ("another command", v2(0x22, 0x11, &[0; 12])),
            ("another family", v2(0x21, 0x41, &[0; 12])),
            ("another transport", v2(0x21, 0x13, &[0; 12])),
            ("short", v2(0x21, 0x11, &[0; 11])),
            ("long", v2(0x21, 0x11, &vec![0; BYTES_MAX])),
        ] {
            assert!(matches!(parse_all(&header), Parsed::Broken(_)), "{what}: {:?}", parse_all(&header));
        }
    }
}
