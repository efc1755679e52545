//! Certificates of the TLS port: read at start, and again when their files change. Connections that are open go on with what
//! they began with.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use tokio_util::sync::CancellationToken;

use super::operator::Door;
use super::{Shared, failure};
use crate::config::{TlsOptions, TlsVersion};
use crate::metrics::Metrics;

/// Whether a connection's client showed a certificate that `tls.client_ca_file` vouches for; among the extensions of its
/// requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Certified(pub(super) bool);

/// What handshakes are made with.
pub struct Certificates {
    options: TlsOptions,
    current: RwLock<Loaded>,
    metrics: Arc<Metrics>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// What the files held.
    files: Vec<Vec<u8>>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read, holds something else, or does not fit the others.
    pub fn load(options: &TlsOptions, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let loaded = read(options, &metrics.tls_certificate_ends)?;
        Ok(Self { options: options.clone(), current: RwLock::new(loaded), metrics: metrics.clone() })
    }

    /// What the next handshake is made with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Reads the files again if they have changed. What cannot be read changes nothing but the log and a metric.
    fn reload(&self) {
        let files = match files(&self.options) {
            Ok(files) => files,
            Err(error) => return self.failed(&error),
        };
        if files == self.current.read().unwrap_or_else(PoisonError::into_inner).files {
            return;
        }
        match build(&self.options, files, &self.metrics.tls_certificate_ends) {
            Ok(loaded) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                self.metrics.tls_reloads.inc();
                tracing::info!(certificate = %self.options.certificate_file.display(), "new certificate, for new connections");
            }
            // The key may be written after the certificate: next time both fit.
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        self.metrics.tls_reloads_failed.inc();
        tracing::warn!(error = format!("{error:#}"), "certificates were not read again; those at hand stay");
    }

    /// Reads the files again if they have changed; beside the control plane's tasks, for it takes its time.
    pub async fn read_again(self: Arc<Self>) {
        let _ = tokio::task::spawn_blocking(move || self.reload()).await;
    }

    /// Looks at the files once in `tls.reload_interval`, until told to stop.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let every = self.options.reload_interval;
        if every.is_zero() {
            return;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => self.clone().read_again().await,
            }
        }
    }
}

/// Lets publishers and operators through who show a certificate, where `publish.client_certificate` asks for one.
pub(super) async fn publishers(state: Shared, request: Request, next: Next) -> Response {
    let door = request.extensions().get::<Door>();
    let path = request.uri().path();
    // Operators' own port has no TLS to show one in; orders are taken there for a key alone, deltas are not.
    let publishes = ["/api", "/api/publish", "/api/broadcast", "/api/batch"].contains(&path);
    let asked = state.config.publish.client_certificate
        && super::publish::is_command(&request)
        && (publishes || door != Some(&Door::Operators));
    let shown = request.extensions().get::<Certified>().is_some_and(|certified| certified.0);
    if asked && !shown {
        state.metrics.refused_publish("certificate");
        return failure(
            StatusCode::FORBIDDEN,
            "a client certificate is wanted (publish.client_certificate), on the TLS port (tls.listen)",
        );
    }
    next.run(request).await
}

fn read(options: &TlsOptions, ends: &Gauge) -> anyhow::Result<Loaded> {
    build(options, files(options)?, ends)
}

fn files(options: &TlsOptions) -> anyhow::Result<Vec<Vec<u8>>> {
    let read = |key: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("tls.{key}: {} cannot be read", path.display()))
    };
    let mut files = vec![read("certificate_file", &options.certificate_file)?, read("key_file", &options.key_file)?];
    if let Some(path) = &options.client_ca_file {
        files.push(read("client_ca_file", path)?);
    }
    Ok(files)
}

fn build(options: &TlsOptions, files: Vec<Vec<u8>>, ends: &Gauge) -> anyhow::Result<Loaded> {
    let text = |at: usize| files.get(at).map_or(&[][..], Vec::as_slice);
    let certificates = |key: &str, path: &Path, pem: &[u8]| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let said = || format!("tls.{key}: {}", path.display());
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().with_context(said)?;
        if chain.is_empty() {
            anyhow::bail!("{}: holds no certificate (a PEM block that begins with BEGIN CERTIFICATE)", said());
        }
        Ok(chain)
    };
    let chain = certificates("certificate_file", &options.certificate_file, text(0))?;
    let not_after = chain.first().and_then(|leaf| {
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
        Some(leaf.validity().not_after.timestamp())
    });
    let key = PrivateKeyDer::from_pem_slice(text(1)).with_context(|| {
        format!("tls.key_file: {}: holds no private key (PKCS#8, PKCS#1 or SEC1, in PEM)", options.key_file.display())
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = match options.min_version {
        TlsVersion::V1_2 => &[&version::TLS12, &version::TLS13],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match &options.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates("client_ca_file", path, text(2))? {
                roots.add(root).with_context(|| format!("tls.client_ca_file: {}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // Those who only subscribe need none.
                .allow_unauthenticated()
                .build()
                .with_context(|| format!("tls.client_ca_file: {}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .with_context(|| format!("tls.key_file: {}: does not fit the certificate", options.key_file.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Clients that reconnect resume from a ticket that they hold, sealed; the server keeps nothing for it.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    if let Some(not_after) = not_after {
        ends.set(not_after);
    }
    Ok(Loaded { config: Arc::new(config), files })
}
