//! `[tls]`: the TLS port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;

/// A port on which connections begin with a TLS handshake (RFC 8446, RFC 5246).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsOptions {
    /// Its address.
    pub listen: SocketAddr,
    /// PEM: this server's certificate, and the certificates up to its authority's.
    pub certificate_file: PathBuf,
    /// PEM: the private key of the certificate (PKCS#8, PKCS#1 or SEC1).
    pub key_file: PathBuf,
    /// PEM: authorities whose certificates clients may show; see `publish.client_certificate`.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Oldest accepted version.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Time between two checks of the files for changes; SIGHUP checks too. `"0s"` means only at
    /// SIGHUP.
    #[serde(default = "reload_interval", with = "humantime_serde")]
    pub reload_interval: Duration,
    /// Time for which browsers must use TLS for this host (RFC 6797); `"0s"` sends no such header.
    #[serde(default = "hsts", with = "humantime_serde")]
    pub hsts: Duration,
}

fn hsts() -> Duration {
    limits::HSTS
}

fn reload_interval() -> Duration {
    limits::TLS_RELOAD_INTERVAL
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// 1.2 and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// 1.3 alone.
    #[serde(rename = "1.3")]
    V1_3,
}
