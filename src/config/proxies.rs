//! Statements of proxies in front of this server, and which proxies are trusted.

use serde::{Deserialize, Serialize};

/// Whether a proxy sends the client's address before the connection begins (the PROXY protocol,
/// versions 1 and 2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// No header is read.
    #[default]
    Off,
    /// A connection of a trusted proxy may begin with a header.
    Optional,
    /// Every connection of a trusted proxy must begin with one, or it is closed.
    Required,
}

/// The header in which proxies send a client's address. There is only one, because a proxy passes
/// on other headers as the client sent them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// No header is read.
    None,
}
