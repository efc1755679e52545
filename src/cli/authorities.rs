//! The authorities that may vouch for a server over TLS, from `--ca FILE`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::client;

/// Why they have no meaning for an `http://` address.
pub(super) const WITHOUT_TLS: &str = "without TLS there is no certificate: https://";

/// The authorities of a file, in PEM.
pub(super) struct Authorities {
    path: PathBuf,
    pem: Vec<u8>,
}

impl Authorities {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let pem = std::fs::read(path).with_context(|| option(path))?;
        Ok(Self { path: path.to_owned(), pem })
    }
}

fn option(path: &Path) -> String {
    format!("--ca {}", path.display())
}

/// A client that accepts certificates of these authorities, or of the system's if none are given.
pub(super) fn http(timeout: Duration, authorities: Option<&Authorities>) -> anyhow::Result<reqwest::Client> {
    let client = client::http_direct(timeout, authorities.map(|authorities| authorities.pem.as_slice()));
    client
        .map_err(anyhow::Error::msg)
        .with_context(|| authorities.map_or_else(|| "TLS".to_owned(), |authorities| option(&authorities.path)))
}

/// Advice on an error of the connection.
pub(super) fn hint(why: &str) -> &'static str {
    if why.contains("certificate") {
        "; give the certificate of its authority with --ca FILE, and the host by the name that the certificate has"
    } else {
        ""
    }
}
