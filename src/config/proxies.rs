//! What proxies in front of this server say, and which of them are believed.

use serde::{Deserialize, Serialize};

/// Whether a proxy says where a connection comes from before that begins (the PROXY protocol, versions 1 and 2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// No header is looked for.
    #[default]
    Off,
    /// A connection of a trusted proxy may begin with one.
    Optional,
    /// Every connection of a trusted proxy must, or it is closed.
    Required,
}

/// The header that proxies write a client's address into. One of them: what a proxy does not write itself it passes on as
/// the client sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// None is read.
    None,
}
