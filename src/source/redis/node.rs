//! One node: connecting to it, and what its answers say of it and of others.

use ::redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, Value};

use super::wire::Wire;

/// An error of a connection to a node, with its address; user and password are no part of that.
pub(super) fn told_of(place: &ConnectionAddr, error: &RedisError) -> RedisError {
    RedisError::from((error.kind(), "no connection to Redis", format!("{place}: {error}")))
}

/// A connection whose every answer has a time-out. An error names the node.
pub(super) async fn open(info: &ConnectionInfo) -> RedisResult<Wire> {
    Wire::open(info).await.map_err(|error| told_of(info.addr(), &error))
}

/// `info` for another host.
pub(super) fn at(info: &ConnectionInfo, host: String, port: u16) -> ConnectionAddr {
    match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// Whether an answer to `ROLE` is a master's.
pub(super) fn is_master(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    match parts.first() {
        Some(Value::BulkString(role)) => role == b"master",
        Some(Value::SimpleString(role)) => role == "master",
        _ => false,
    }
}

pub(super) fn not_master(place: &ConnectionAddr) -> RedisError {
    RedisError::from((ErrorKind::Io, "is no master (any more)", place.to_string()))
}

pub(super) fn no_answer() -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer in time"))
}

/// Where `host:port` of a redirection from `from` is. A node that does not know its own host leaves it out.
pub(super) fn redirected(to: &str, from: &ConnectionAddr) -> Option<ConnectionAddr> {
    let (host, port) = to.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host.trim_matches(['[', ']']);
    let same = match from {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => return None,
    };
    let host = if host.is_empty() || host == "?" { same.clone() } else { host.to_owned() };
    Some(match from {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ConnectionAddr {
        ConnectionAddr::Tcp(host.into(), port)
    }

    #[test]
    fn redirections() {
        for (to, expected) in [
            ("10.0.0.7:7001", Some(tcp("10.0.0.7", 7001))),
            (":7001", Some(tcp("asked", 7001))),
            ("?:7001", Some(tcp("asked", 7001))),
            ("fe80::1:7001", Some(tcp("fe80::1", 7001))),
            ("[fe80::1]:7001", Some(tcp("fe80::1", 7001))),
            ("host", None),
            ("host:port", None),
        ] {
            assert_eq!(redirected(to, &tcp("asked", 7000)), expected, "{to}");
        }
    }

    #[test]
    fn roles() {
        let role = |name: &str| Value::Array(vec![Value::BulkString(name.into()), Value::Int(1)]);
        assert!(is_master(&role("master")));
        assert!(!is_master(&role("slave")) && !is_master(&role("sentinel")) && !is_master(&Value::Nil));
    }
}
