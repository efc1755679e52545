//! Certificates of the TLS port: read at start, and again when their files change. Open connections
//! keep the certificate that they began with.

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

use crate::config::{Config, TlsOptions, TlsVersion};
use crate::http::api::audience::Audience;
use crate::http::failure::failure;
use crate::http::state::Of;
use crate::metrics::{Metrics, PublishRefusal};

/// Whether a connection's client showed a certificate signed by `tls.client_ca_file`; an extension
/// of its requests.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Certified(pub(in crate::http) bool);

/// The current TLS configuration, for new handshakes.
pub struct Certificates {
    options: TlsOptions,
    current: RwLock<Loaded>,
    metrics: Arc<Metrics>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// The contents of the files when they were read last.
    files: Vec<Vec<u8>>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, does not hold PEM of the right kind, or does not match the others.
    pub fn load(options: &TlsOptions, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let loaded = read(options, &metrics.tls_certificate_ends)?;
        Ok(Self { options: options.clone(), current: RwLock::new(loaded), metrics: metrics.clone() })
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Reads the files again if they have changed. If that fails, the old certificates stay; the
    /// failure is logged and counted.
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
            // The key may be written after the certificate: the next read finds both.
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        self.metrics.tls_reloads_failed.inc();
        tracing::warn!(error = format!("{error:#}"), "certificates could not be reloaded; the old ones stay in use");
    }

    /// Reads the files again if they have changed, on a blocking thread, because it takes time.
    pub async fn read_again(self: Arc<Self>) {
        let _ = tokio::task::spawn_blocking(move || self.reload()).await;
    }

    /// Checks the files once per `tls.reload_interval` until `stop`.
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

/// Requires a client certificate of publishers and operators, if `publish.client_certificate` is
/// set.
pub(in crate::http) async fn publishers(
    config: Of<Config>,
    metrics: Of<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let audience = request.extensions().get::<Audience>();
    let path = request.uri().path();
    // The operators' own port has no TLS. It accepts orders with a key alone, but no deltas.
    let publishes = ["/api", "/api/publish", "/api/broadcast", "/api/batch"].contains(&path);
    let asked = config.publish.client_certificate
        && crate::http::api::key::is_command(&request)
        && (publishes || audience != Some(&Audience::Operators));
    let shown = request.extensions().get::<Certified>().is_some_and(|certified| certified.0);
    if asked && !shown {
        metrics.refused_publish(PublishRefusal::Certificate);
        return failure(
            StatusCode::FORBIDDEN,
            "a client certificate is required (publish.client_certificate), on the TLS port (tls.listen)",
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
                // Clients that only subscribe need no certificate.
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
    // Clients resume from a sealed ticket that they hold; the server stores nothing for it.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    if let Some(not_after) = not_after {
        ends.set(not_after);
    }
    Ok(Loaded { config: Arc::new(config), files })
}
