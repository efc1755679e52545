//! The whole configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::access::{Access, UnknownNamespace};
use super::dashboard::Dashboard;
use super::debug::Debug;
use super::limits::Limits;
use super::namespace::{Class, Namespace, OPS};
use super::operator::Operator;
use super::ops::Ops;
use super::publish::Publish;
use super::rpc::Rpc;
use super::secrets::secret;
use super::server::Server;
use super::sources::{Simulator, Sources};
use super::tls::TlsOptions;
use super::trace::TraceOptions;
use crate::form::PayloadForm;

/// The whole configuration file. Every section and every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where and how the process serves.
    pub server: Server,
    /// The TLS port, if there is one.
    pub tls: Option<TlsOptions>,
    /// Which clients may connect, and with which tokens.
    pub access: Access,
    /// Which publishers may publish.
    pub publish: Publish,
    /// How operators connect.
    pub operator: Operator,
    /// Limits; see `docs/limits.md`.
    pub limits: Limits,
    /// Where deltas come from.
    pub source: Sources,
    /// Reports of the server about itself.
    pub ops: Ops,
    /// Calls (RPC) of Centrifuge clients.
    pub rpc: Rpc,
    /// Which deltas are followed through the log.
    pub trace: TraceOptions,
    /// Options for tests alone.
    pub debug: Debug,
    /// Options of topics whose namespace is not configured.
    pub default: Namespace,
    /// Options by namespace.
    pub namespace: BTreeMap<String, Namespace>,
}

impl Config {
    /// The configuration of `nexus-push serve` without a file: the simulator, loopback only,
    /// anonymous clients from any Origin, publishing without a key.
    pub fn embedded() -> Self {
        let namespace = BTreeMap::from([
            (
                "quotes".to_owned(),
                Namespace { class: Class::Merge, stale_after: Some(Duration::from_secs(30)), ..Namespace::default() },
            ),
            ("book".to_owned(), Namespace { class: Class::Merge, max_rate: Some(20.0), ..Namespace::default() }),
            ("trades".to_owned(), Namespace::default()),
            ("signals".to_owned(), Namespace { history_ttl: Duration::from_secs(3600), ..Namespace::default() }),
            (OPS.to_owned(), Namespace::ops(true)),
        ]);
        Self {
            access: Access { anonymous: true, origins: vec!["*".into()], ..Access::default() },
            publish: Publish { open: true, ..Publish::default() },
            source: Sources { simulator: Some(Simulator::default()), ..Sources::default() },
            namespace,
            ..Self::default()
        }
    }

    /// Whether the dashboard is served on the operators' port (`operators`) or on the other ports.
    pub fn has_dashboard(&self, operators: bool) -> bool {
        match self.server.dashboard {
            _ if cfg!(not(feature = "dashboard")) => false,
            Dashboard::On => true,
            Dashboard::Off => false,
            Dashboard::Auto => operators || !self.access.asks_for_tokens(),
        }
    }

    /// Whether `/metrics` and `/status` are closed because clients need tokens and no access for
    /// operators is configured.
    pub fn closes_operators_pages(&self) -> bool {
        let operator = &self.operator;
        self.access.asks_for_tokens() && !operator.open && !operator.has_key() && operator.listen.is_none()
    }

    /// Whether anyone may publish, without a key and without a certificate.
    pub fn publishes_openly(&self) -> bool {
        self.publish.open && !self.publish.client_certificate
    }

    /// Adds the namespace of the server's own topics, unless it is configured. Only clients whose
    /// token names it may subscribe there, except where everything is open.
    pub fn add_ops(&mut self, open: bool) {
        let ops = self.namespace.entry(OPS.to_owned()).or_insert_with(|| Namespace::ops(open));
        // Its deltas are patches.
        ops.class = Class::Merge;
        ops.payload = PayloadForm::Json;
    }

    /// Whether every topic needs a token.
    pub fn needs_token(&self) -> bool {
        let mut namespaces = self.namespace.values().chain([&self.default]);
        !(self.access.anonymous && namespaces.any(|n| n.allow_subscribe_for_anonymous))
    }

    /// Whether topics of `namespace` (the part before the first `:`, if any) may exist.
    pub fn knows_namespace(&self, namespace: Option<&str>) -> bool {
        self.access.unknown_namespace == UnknownNamespace::Default
            || namespace.is_none_or(|name| self.namespace.contains_key(name))
    }

    /// Options of topics of `namespace` (the part before the first `:`, if any).
    pub fn namespace(&self, namespace: Option<&str>) -> &Namespace {
        namespace.and_then(|name| self.namespace.get(name)).unwrap_or(&self.default)
    }

    /// Reads secrets from their files into the values.
    ///
    /// # Errors
    /// The key of a file that cannot be read.
    pub fn read_secrets(&mut self) -> anyhow::Result<()> {
        self.read_source_secrets()?;
        let rpc = &mut self.rpc;
        if let Some(path) = &rpc.authorization_file {
            rpc.authorization = secret(None, Some(path), None).context("rpc.authorization_file")?;
        }
        Ok(())
    }

    /// Reads the secrets of sources alone: publishers have no others.
    ///
    /// # Errors
    /// The key of a file that cannot be read.
    pub fn read_source_secrets(&mut self) -> anyhow::Result<()> {
        if let Some(redis) = &mut self.source.redis
            && let Some(path) = &redis.password_file
            && let Some(password) = secret(None, Some(path), None).context("source.redis.password_file")?
        {
            redis.set_password(&password);
        }
        Ok(())
    }
}
