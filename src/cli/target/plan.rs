//! The options of a target: the target itself, and the configuration for checks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::args::TargetArgs;
use super::streams::ListedBy;
use crate::cli::authorities::{Authorities, WITHOUT_TLS};
use crate::cli::environment::environment;
use crate::cli::{address, argv};
use crate::config::{Config, Nats, Overrides, PayloadForm, Redis, load, not_built, redacted};
use crate::limits::PUBLISH_BODY_BYTES_MAX;
use crate::source::precheck;

/// The target.
pub(super) enum To {
    Api {
        url: String,
        key: Option<String>,
        authorities: Option<Authorities>,
    },
    /// The stream that the configuration names.
    Stream,
}

pub(super) struct Plan {
    pub(super) to: To,
    pub(super) config: Arc<Config>,
    /// The target in words, if no option names it.
    pub(super) led: Option<String>,
    /// Checks that are not possible, and how to enable them.
    pub(super) unchecked: Option<String>,
    /// Largest data, if `config` does not limit it.
    pub(super) bytes_max: Option<usize>,
    /// The origin of the list of streams.
    pub(super) listed_by: ListedBy,
}

/// The kind of a URL's scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Api,
    Redis,
    Nats,
}

/// The forms of `--to`.
pub(in crate::cli) const FORMS: &str =
    "  http://HOST:PORT, https://HOST:PORT      a server's publish API; --key where it wants one
  redis://[USER:PASSWORD@]HOST:PORT[/DB]   one Redis; rediss:// is over TLS; unix:///PATH
  redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/MASTER
                                           the master that sentinels name; rediss+sentinel://
  redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT
                                           a Redis Cluster, by some nodes; rediss+cluster://
  nats://[USER:PASSWORD@]HOST:PORT,HOST:PORT
                                           JetStream; tls:// is over TLS; USER alone is a token";

fn scheme(to: &str) -> anyhow::Result<Scheme> {
    let scheme = to.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        "http" | "https" => Ok(Scheme::Api),
        "nats" | "tls" => Ok(Scheme::Nats),
        "redis" | "rediss" | "unix" | "redis+unix" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster"
        | "rediss+cluster" => Ok(Scheme::Redis),
        "" if to.is_empty() => bail!("--to \"\": it names no target; it may be\n{FORMS}"),
        "" => bail!("--to {}: it has no scheme; it may be\n{FORMS}", redacted(to)),
        _ => bail!("--to {}: {scheme}:// is not a target's; it may be\n{FORMS}", redacted(to)),
    }
}

/// # Errors
/// Options that contradict each other; files that are wrong or cannot be read.
pub(super) fn plan(args: &TargetArgs) -> anyhow::Result<Plan> {
    let file = match &args.config {
        Some(file) => Some(load(Some(file), environment(), &Overrides::default())?),
        None => None,
    };
    if file.is_some() && args.bytes {
        bail!("--bytes is for use without --config, which has the payload of each namespace");
    }
    let streams = file.as_ref().map(|file| (file.source.redis.is_some(), file.source.nats.is_some()));
    let scheme = match (&args.to, streams) {
        (Some(to), _) => scheme(to)?,
        (None, Some((true, _))) => Scheme::Redis,
        (None, Some((false, true))) => Scheme::Nats,
        (None, Some((false, false)) | None) => Scheme::Api,
    };
    fits(args, scheme)?;
    let is_known = file.is_some();
    let form = if args.bytes { PayloadForm::Bytes } else { PayloadForm::Json };
    let own = file.as_ref().map(|file| (file.server.listen, file.tls.is_some()));
    let mut config = file.unwrap_or_else(|| precheck::unknown(form));
    let (redis, nats) = (config.source.redis.take(), config.source.nats.take());
    let (mut bytes_max, mut led) = (None, None);
    let listed_by = match (&redis, args.stream.as_slice()) {
        (_, [_, ..]) => ListedBy::Option,
        (Some(_), []) => ListedBy::File,
        (None, []) => ListedBy::Default,
    };
    let to = match scheme {
        Scheme::Api => {
            // The server decides its own limit.
            bytes_max = (!is_known).then_some(PUBLISH_BODY_BYTES_MAX / 2);
            let url = match (&args.to, own) {
                (Some(url), _) => address::server("--to", url)?.to_string(),
                (None, None) => "http://127.0.0.1:8000".to_owned(),
                (None, Some((listen, has_tls))) => {
                    let ip = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
                    let url = format!("http://{}", SocketAddr::new(ip, listen.port()));
                    led = Some(led_to_server(args, &url, has_tls));
                    url
                }
            };
            To::Api { url, key: key(args)?, authorities: args.ca.as_deref().map(Authorities::read).transpose()? }
        }
        Scheme::Redis => {
            config.source.redis = Some(redis_of(args, redis)?);
            config.read_source_secrets().context("--config")?;
            To::Stream
        }
        Scheme::Nats => {
            config.source.nats = Some(nats_of(args, nats)?);
            if cfg!(not(feature = "nats")) {
                bail!("{}", not_built("nats"));
            }
            To::Stream
        }
    };
    let unchecked = (!is_known && scheme != Scheme::Api).then(|| {
        let streams = config.source.redis.as_ref().filter(|_| args.stream.is_empty());
        let streams = streams.map(|redis| format!(", the only stream to be {}", redis.streams.join(",")));
        format!(
            "not checked without --config FILE (the servers' configuration): unknown_namespace, near_namespace, not_an_object, \
             stream_snapshot; limits.delta_bytes is assumed to be {}{}",
            config.limits.delta_bytes,
            streams.unwrap_or_default()
        )
    });
    Ok(Plan { to, config: Arc::new(config), led, unchecked, bytes_max, listed_by })
}

/// Says that a file without a source leads to its own server; a section may be missing by mistake.
fn led_to_server(args: &TargetArgs, url: &str, has_tls: bool) -> String {
    let file = args.config.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    let sealed = if has_tls { ", or --to https://HOST:PORT for its [tls]" } else { "" };
    format!(
        "{file} names no stream ([source.redis], [source.nats]): published to its server's API at {url} (server.listen); give \
         --to URL for another{sealed}"
    )
}

/// Refuses options that do not fit the target.
fn fits(args: &TargetArgs, scheme: Scheme) -> anyhow::Result<()> {
    let given_key = args.key_file.is_some() || argv::moved().is_some_and(|moved| moved.contains("NEXUS_API_KEY"));
    let sealed = args.to.as_ref().is_none_or(|to| to.starts_with("https://"));
    let table = [
        (
            "--stream",
            !args.stream.is_empty(),
            scheme != Scheme::Api,
            "a server's publish API knows its stream by itself",
        ),
        ("--create-stream", args.create_stream, scheme == Scheme::Redis, "it is for Redis alone"),
        ("--max-len", args.max_len.is_some(), scheme == Scheme::Redis, "it is for Redis alone"),
        ("--subject", args.subject.is_some(), scheme == Scheme::Nats, "it is for NATS alone"),
        ("--key, --key-file", given_key, scheme == Scheme::Api, "it is for a server's publish API (http://, https://)"),
        (
            "--ca",
            args.ca.is_some(),
            scheme == Scheme::Nats || (scheme == Scheme::Api && sealed),
            match scheme {
                Scheme::Redis => "for Redis the system's authorities count, or those of SSL_CERT_FILE=FILE",
                _ => WITHOUT_TLS,
            },
        ),
    ];
    match table.into_iter().find(|(_, given, fits, _)| *given && !fits) {
        Some((option, _, _, why)) => bail!("{option} does not go with this target: {why}"),
        None => Ok(()),
    }
}

/// The file's Redis, with the options that override it.
fn redis_of(args: &TargetArgs, file: Option<Redis>) -> anyhow::Result<Redis> {
    if file.is_some() && !args.stream.is_empty() {
        bail!("--stream: --config has the streams (source.redis.streams); leave one of them out");
    }
    let mut redis = file.unwrap_or_default();
    if let Some(to) = &args.to {
        address::redis("--to", to)?;
        redis.set_address(to);
    }
    if !args.stream.is_empty() {
        redis.streams.clone_from(&args.stream);
    }
    redis.max_len = args.max_len.unwrap_or(redis.max_len);
    redis.check().map_err(|why| anyhow::anyhow!("wrong options for Redis: {why}"))?;
    Ok(redis)
}

/// The file's NATS, with the options that override it.
fn nats_of(args: &TargetArgs, file: Option<Nats>) -> anyhow::Result<Nats> {
    if file.is_some() && !(args.stream.is_empty() && args.subject.is_none()) {
        bail!("--stream, --subject: --config has them (source.nats); leave one of them out");
    }
    let mut nats = file.unwrap_or_default();
    if let Some(to) = &args.to {
        address::nats("--to", to)?;
        nats.set_address(to);
    }
    match args.stream.as_slice() {
        [] => {}
        [stream] => nats.stream.clone_from(stream),
        _ => bail!("--stream {}: NATS has one stream", args.stream.join(",")),
    }
    if let Some(subject) = &args.subject {
        nats.subjects = vec![subject.clone()];
    }
    if let Some(ca) = &args.ca {
        // The library reads it again; this check has a clearer error.
        Authorities::read(ca)?;
        nats.ca_file = Some(ca.clone());
    }
    nats.check().map_err(|why| anyhow::anyhow!("wrong options for NATS: {why}"))?;
    Ok(nats)
}

fn key(args: &TargetArgs) -> anyhow::Result<Option<String>> {
    let Some(path) = &args.key_file else { return Ok(args.key.clone()) };
    let key = std::fs::read_to_string(path).with_context(|| format!("--key-file {}", path.display()))?;
    Ok(Some(key.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        for (to, expected) in [
            ("http://a", Some(Scheme::Api)),
            ("https://a:1", Some(Scheme::Api)),
            ("rediss+cluster://u:p@a:1,b:2", Some(Scheme::Redis)),
            ("redis+sentinel://a:1/m", Some(Scheme::Redis)),
            ("unix:///run/redis.sock", Some(Scheme::Redis)),
            ("tls://a", Some(Scheme::Nats)),
            ("ftp://u:secret@a", None),
            ("localhost:8000", None),
        ] {
            let found = scheme(to);
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{to}");
            let told = found.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(!told.contains("secret"), "{told}");
            assert_eq!(told.contains("redis+sentinel://"), expected.is_none(), "{told}");
        }
    }
}
