//! The client's address: the peer's own, unless the peer is a trusted proxy and gives another, by
//! the PROXY protocol before the connection begins or in a header of each request. Other peers'
//! claims are ignored.

use std::io::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::config::{self, ForwardedHeader, ProxyProtocol};
use crate::limits::{FORWARDED_HOPS_MAX, PROXY_HEADER_BYTES_MAX};
use crate::wire::proxy::{Parsed, parse};

/// Time between two looks at a connection whose first bytes do not yet say what it is. They may be
/// a request's, so they are not taken off meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(10);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// IPv4 in IPv6, as a dual-stack listener sees it, becomes IPv4.
pub(in crate::http) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(in crate::http) fn is_trusted(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Whether a connection of this peer may begin with a PROXY header.
pub(in crate::http) fn may_announce(peer: SocketAddr, server: &config::Server) -> bool {
    server.proxy_protocol != ProxyProtocol::Off && is_trusted(peer.ip(), &server.trusted_proxies)
}

/// Why a connection is closed before it begins.
#[derive(Debug)]
pub(in crate::http) enum Unannounced {
    /// It lacks a required header.
    Missing,
    /// Its header is invalid.
    Broken(&'static str),
    /// It ended or failed.
    Gone,
}

impl From<Error> for Unannounced {
    fn from(_: Error) -> Self {
        Self::Gone
    }
}

/// The meaning of the first bytes of a connection that may begin with a PROXY header.
pub(in crate::http) enum Announced {
    /// The client, and the length of the header.
    As(SocketAddr, usize),
    /// More bytes are needed; these belong to the header and may be taken off.
    Begun,
    /// More bytes are needed; these must stay.
    Unclear,
}

/// Reads the first bytes of a connection of `peer`, which [`may_announce`].
pub(in crate::http) fn announced(
    bytes: &[u8],
    peer: SocketAddr,
    server: &config::Server,
) -> Result<Announced, Unannounced> {
    match parse(bytes, PROXY_HEADER_BYTES_MAX) {
        // Nothing here depends on a port; a peer that speaks for itself gives none.
        Parsed::Header { bytes, source } => {
            let client = source.map_or(peer, |source| plain(SocketAddr::new(source, 0)));
            Ok(Announced::As(client, bytes))
        }
        Parsed::Begun => Ok(Announced::Begun),
        Parsed::Unclear => Ok(Announced::Unclear),
        Parsed::Broken(reason) => Err(Unannounced::Broken(reason)),
        Parsed::Other if server.proxy_protocol == ProxyProtocol::Required => Err(Unannounced::Missing),
        Parsed::Other => Ok(Announced::As(peer, 0)),
    }
}

/// Takes the header, and nothing else, off a connection; returns its client. The caller bounds the
/// time.
pub(in crate::http) async fn take_header(
    socket: &mut TcpStream,
    peer: SocketAddr,
    server: &config::Server,
) -> Result<SocketAddr, Unannounced> {
    let mut header = [0; PROXY_HEADER_BYTES_MAX];
    let mut taken = 0;
    loop {
        let room = header.get_mut(taken..).filter(|room| !room.is_empty()).ok_or(Unannounced::Broken("too long"))?;
        let seen = socket.peek(room).await?;
        if seen == 0 {
            return Err(Unannounced::Gone);
        }
        let so_far = taken + seen;
        let end = match announced(header.get(..so_far).unwrap_or_default(), peer, server)? {
            Announced::As(client, bytes) => {
                let rest = header.get_mut(taken..bytes).unwrap_or_default();
                socket.read_exact(rest).await?;
                return Ok(client);
            }
            Announced::Begun => so_far,
            Announced::Unclear => taken,
        };
        match header.get_mut(taken..end) {
            Some(bytes @ [_, ..]) => {
                socket.read_exact(bytes).await?;
                taken = end;
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// The client of a request: from the right, the first address in the header that is not a trusted
/// proxy's. Without such an address: the peer, or the last trusted proxy that gave none.
pub(in crate::http) fn client(peer: IpAddr, headers: &HeaderMap, server: &config::Server) -> IpAddr {
    let networks = &server.trusted_proxies;
    if !is_trusted(peer, networks) {
        return peer;
    }
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = match server.forwarded_header {
        ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, address),
        ForwardedHeader::Forwarded => (header::FORWARDED, forwarded_for),
        ForwardedHeader::None => return peer,
    };
    // Several headers are one list (RFC 9110 §5.3).
    let mut client = peer;
    let lines = headers.get_all(name).iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for hop in hops.take(FORWARDED_HOPS_MAX) {
        let Some(address) = read(hop.trim()) else { break };
        client = address;
        if !is_trusted(address, networks) {
            break;
        }
    }
    client
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let address = address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok());
    Some(address?.to_canonical())
}

/// The `for` of an element of `Forwarded` (RFC 7239 §4). A comma within quotes, which no address
/// has, splits an element into two that are both invalid.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let value = value.trim();
    address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// For fuzzing: the client's address in a proxy header, `Forwarded` or the other.
pub fn forwarded_client(value: &[u8], forwarded: bool) -> Option<IpAddr> {
    let peer = IpAddr::from([10, 0, 0, 1]);
    let server = config::Server {
        trusted_proxies: vec![IpNet::from(peer)],
        forwarded_header: if forwarded { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor },
        ..config::Server::default()
    };
    let name = if forwarded { header::FORWARDED } else { X_FORWARDED_FOR };
    let headers = HeaderMap::from_iter([(name, axum::http::HeaderValue::from_bytes(value).ok()?)]);
    Some(client(peer, &headers, &server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(header: ForwardedHeader) -> config::Server {
        config::Server {
            trusted_proxies: ["10.0.0.0/8", "2001:db8:1::/48"].iter().map(|n| n.parse().unwrap()).collect(),
            forwarded_header: header,
            ..config::Server::default()
        }
    }

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect()
    }

    #[test]
    fn the_first_from_the_right_that_is_not_trusted() {
        let server = server(ForwardedHeader::XForwardedFor);
        for (peer, lines, expected) in [
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            // Addresses made up by the client are left of those that the proxy saw.
            ("10.0.0.1", &["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["10.9.9.9, 203.0.113.7, 10.0.0.2 ,10.0.0.3"], "203.0.113.7"),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.7,10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", &["10.0.0.5, 10.0.0.4"], "10.0.0.5"),
            ("10.0.0.1", &["203.0.113.7:51000"], "203.0.113.7"),
            ("10.0.0.1", &["2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]:51000"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &["::ffff:203.0.113.7"], "203.0.113.7"),
            ("2001:db8:1::1", &["203.0.113.7"], "203.0.113.7"),
            // An invalid address cannot be trusted; the proxy that wrote it can.
            ("10.0.0.1", &["203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.7, "], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7 10.0.0.2"], "10.0.0.1"),
        ] {
            let headers = headers(&X_FORWARDED_FOR, lines);
            let got = client(peer.parse().unwrap(), &headers, &server);
            assert_eq!(got, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_and_only_the_header_that_is_configured() {
        let peer = IpAddr::from([10, 0, 0, 1]);
        let server_reads = server(ForwardedHeader::Forwarded);
        for (line, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            ("proto=https;For=\"203.0.113.7:4711\";by=10.0.0.1", "203.0.113.7"),
            ("for=1.2.3.4, for=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=203.0.113.7, for=10.0.0.2", "203.0.113.7"),
            ("for=203.0.113.7, for=_hidden", "10.0.0.1"),
            ("for=203.0.113.7, proto=https", "10.0.0.1"),
        ] {
            let got = client(peer, &headers(&header::FORWARDED, &[line]), &server_reads);
            assert_eq!(got, expected.parse::<IpAddr>().unwrap(), "{line}");
        }
        let mut both = headers(&header::FORWARDED, &["for=1.2.3.4"]);
        both.extend(headers(&X_FORWARDED_FOR, &["203.0.113.7"]));
        for (reads, expected) in [
            (ForwardedHeader::XForwardedFor, "203.0.113.7"),
            (ForwardedHeader::Forwarded, "1.2.3.4"),
            (ForwardedHeader::None, "10.0.0.1"),
        ] {
            assert_eq!(client(peer, &both, &server(reads)), expected.parse::<IpAddr>().unwrap(), "{reads:?}");
        }
    }

    #[test]
    fn a_list_is_read_so_far_and_no_further() {
        let server = server(ForwardedHeader::XForwardedFor);
        let long = format!("203.0.113.7{}", ", 10.0.0.2".repeat(FORWARDED_HOPS_MAX));
        let got = client([10, 0, 0, 1].into(), &headers(&X_FORWARDED_FOR, &[&long]), &server);
        assert_eq!(got, IpAddr::from([10, 0, 0, 2]));
    }
}
