//! Checks of a well-formed configuration.

use std::path::PathBuf;

use super::secrets::KEY_BYTES_MIN;
use super::{Class, Config, Limits, MemoryLimit, Namespace, PayloadForm, ProxyProtocol, TokenAlgorithm};
use crate::limits;
use crate::name::{NameError, PRIVATE_PREFIX, no_rule, unprintable};

/// One fault: its dotted key, and the remedy.
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) reason: String,
}

/// All faults of `config`.
pub(super) fn faults(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, reason: String| faults.push(Fault { key: key.to_owned(), reason });

    let l = &config.limits;
    let at_least = [
        ("limits.message_bytes", l.message_bytes, 1_024),
        ("limits.message_bytes_before_auth", l.message_bytes_before_auth, 1_024),
        ("limits.backlog_bytes", l.backlog_bytes, 64 * 1024),
        ("limits.delta_bytes", l.delta_bytes, 1_024),
        ("limits.subscriptions", l.subscriptions, 1),
        ("limits.topics", l.topics, 1),
        ("limits.commands_per_second", l.commands_per_second as usize, 1),
        ("limits.commands_burst", l.commands_burst as usize, 1),
        ("limits.reply_bytes_per_second", l.reply_bytes_per_second as usize, 1_024),
        ("limits.reply_bytes_burst", l.reply_bytes_burst as usize, 64 * 1024),
        ("limits.membership_bytes_per_second", l.membership_bytes_per_second as usize, 1_024),
        ("limits.fd_reserve", l.fd_reserve, 64),
    ];
    for (key, value, least) in at_least {
        if value < least {
            fault(key, format!("{value} is too small, the least is {least}"));
        }
    }
    let largest_message = limits::READ_BUFFER_BYTES - 14;
    if l.message_bytes > largest_message {
        fault("limits.message_bytes", format!("{} is too large, the most is {largest_message}", l.message_bytes));
    }
    if l.delta_bytes > 16 * 1024 * 1024 {
        fault("limits.delta_bytes", format!("{} is too large, the most is 16 MiB", l.delta_bytes));
    }
    if l.delta_bytes > l.backlog_bytes.max(limits::DELTA_BYTES_MAX) {
        let reason = format!(
            "{} is more than limits.backlog_bytes, which is {}: two such deltas at once would make any client of a `stream` a \
             slow one; raise limits.backlog_bytes, or lower this",
            l.delta_bytes, l.backlog_bytes
        );
        fault("limits.delta_bytes", reason);
    }
    if l.subscriptions > 16_384 {
        fault("limits.subscriptions", format!("{} is too many, the most is 16384", l.subscriptions));
    }
    if !(l.tokenless_share > 0.0 && l.tokenless_share <= 1.0) {
        let reason = "is not above 0 and at most 1, the share of all sessions that may be without a token";
        fault("limits.tokenless_share", format!("{} {reason}", l.tokenless_share));
    }
    memory(l, &mut fault);
    let durations = [
        ("limits.handshake_timeout", l.handshake_timeout),
        ("limits.keep_alive_timeout", l.keep_alive_timeout),
        ("limits.request_timeout", l.request_timeout),
        ("limits.first_command_timeout", l.first_command_timeout),
        ("limits.token_timeout", l.token_timeout),
        ("limits.ping_interval", l.ping_interval),
        ("limits.pong_timeout", l.pong_timeout),
        ("limits.stall_timeout", l.stall_timeout),
    ];
    for (key, value) in durations {
        if value.as_millis() < 100 || value.as_secs() > 86_400 {
            fault(key, format!("{value:?} is outside 100ms to 1day"));
        }
    }
    if config.server.shards > 64 {
        fault("server.shards", format!("{} is too many, the most is 64", config.server.shards));
    }
    if config.server.drain_window.as_secs() > 3_600 {
        fault("server.drain_window", format!("{:?} is too long, the most is 1h", config.server.drain_window));
    }

    namespace(&config.default, "default", &mut fault);
    for (name, options) in &config.namespace {
        if name.contains(':') || name.is_empty() || name.starts_with(PRIVATE_PREFIX) {
            fault(
                &format!("namespace.{name}"),
                "a namespace's name is the part before the first `:`, not empty, and does not begin with `$`".into(),
            );
        }
        visible(&format!("namespace.{name}"), name, &mut fault);
        namespace(options, &format!("namespace.{name}"), &mut fault);
    }

    for (i, key) in config.access.keys.iter().enumerate() {
        let at = format!("access.keys[{i}]");
        match key.algorithm {
            TokenAlgorithm::HS256 => {
                one_secret(&at, "HS256", &key.secret, &key.secret_file, &key.secret_env, &mut fault);
                if let Some(secret) = key.secret.as_ref().filter(|secret| secret.len() < 32) {
                    fault(&format!("{at}.secret"), format!("is {} bytes, the least is 32", secret.len()));
                }
            }
            _ if key.public_key_file.is_none() => fault(&at, format!("{:?} needs `public_key_file`", key.algorithm)),
            _ => {}
        }
    }
    if let Some(jwks) = &config.access.jwks {
        if !jwks.url.starts_with("https://") && !jwks.url.starts_with("http://") {
            fault("access.jwks.url", "must start with https:// (or http://, on a network that is trusted)".into());
        }
        if jwks.algorithms.contains(&TokenAlgorithm::HS256) {
            fault("access.jwks.algorithms", "HS256 has no public key; put its secret into access.keys".into());
        }
        if jwks.algorithms.is_empty() {
            fault("access.jwks.algorithms", "is empty; name an algorithm".into());
        }
        if jwks.min_interval.as_millis() < 100 {
            fault("access.jwks.min_interval", format!("{:?} is too short, the least is 100ms", jwks.min_interval));
        }
    }
    if let Some(endpoint) = &config.rpc.endpoint
        && !endpoint.starts_with("https://")
        && !endpoint.starts_with("http://")
    {
        fault("rpc.endpoint", "must start with https:// or http://".into());
    }
    if config.rpc.timeout.as_millis() < 10 || config.rpc.timeout.as_secs() > 60 {
        fault("rpc.timeout", format!("{:?} is outside 10ms to 1m", config.rpc.timeout));
    }
    if !(0.0..=1.0).contains(&config.trace.sample) {
        fault(
            "trace.sample",
            format!("{} is outside 0 to 1, the share of deltas that are followed", config.trace.sample),
        );
    }
    if !config.ops.interval.is_zero() && config.ops.interval.as_millis() < 100 {
        fault("ops.interval", format!("{:?} is too short, the least is 100ms (or 0s for never)", config.ops.interval));
    }
    if let Some(tls) = &config.tls {
        if tls.listen == config.server.listen && tls.listen.port() != 0 {
            fault("tls.listen", format!("{} is already server.listen; TLS needs a port of its own", tls.listen));
        }
        if !tls.reload_interval.is_zero() && tls.reload_interval.as_millis() < 100 {
            let interval = tls.reload_interval;
            fault("tls.reload_interval", format!("{interval:?} is too short, the least is 100ms (or 0s for never)"));
        }
    }
    if config.publish.client_certificate && config.tls.as_ref().is_none_or(|tls| tls.client_ca_file.is_none()) {
        fault("publish.client_certificate", "no authority for clients is set; set tls.client_ca_file".into());
    }
    for (i, key) in config.publish.keys.iter().enumerate() {
        if key.len() < KEY_BYTES_MIN {
            fault(&format!("publish.keys[{i}]"), format!("is {} bytes, the least is {KEY_BYTES_MIN}", key.len()));
        }
    }
    for (i, key) in config.publish.key.iter().enumerate() {
        let at = format!("publish.key[{i}]");
        one_secret(&at, "a key", &key.secret, &key.secret_file, &key.secret_env, &mut fault);
        if let Some(secret) = key.secret.as_ref().filter(|secret| secret.len() < KEY_BYTES_MIN) {
            fault(&format!("{at}.secret"), format!("is {} bytes, the least is {KEY_BYTES_MIN}", secret.len()));
        }
        let name_fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if key.name.is_empty() || key.name.len() > 64 || !key.name.chars().all(name_fits) {
            let reason = "is not a valid name: write 1 to 64 letters, digits, `-`, `_` and `.`";
            fault(&format!("{at}.name"), reason.into());
        }
        if config.publish.key.iter().take(i).any(|other| other.name == key.name) {
            fault(&format!("{at}.name"), format!("`{}` is another key's name already", key.name));
        }
        if key.topics.is_empty() {
            let reason = "write topics, or prefixes that end in `*`; `[\"*\"]` is all of them";
            fault(&format!("{at}.topics"), reason.into());
        }
        for (j, rule) in key.topics.iter().enumerate() {
            if let Some(reason) = no_rule(rule) {
                fault(&format!("{at}.topics[{j}]"), reason);
            }
        }
        if key.scopes.is_empty() {
            fault(&format!("{at}.scopes"), "is empty; write `publish`, `operate` or both".into());
        }
    }
    for (i, host) in config.server.hosts.iter().enumerate() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        let has_port = host.parse::<std::net::IpAddr>().is_err() && !host.ends_with(']') && host.contains(':');
        if host != "*" && (host.is_empty() || has_port || !host.chars().all(plain)) {
            let reason =
                format!("`{host}` is not a host; write a name such as `push.example.com`, without a port, or `*`");
            fault(&format!("server.hosts[{i}]"), reason);
        }
    }
    let operator = &config.operator;
    if operator.key.is_some() && operator.key_file.is_some() {
        fault("operator.key", "give `key` or `key_file`, not both".into());
    }
    if let Some(key) = operator.key.as_ref().filter(|key| key.len() < KEY_BYTES_MIN) {
        fault("operator.key", format!("is {} bytes, the least is {KEY_BYTES_MIN}", key.len()));
    }
    if let Some(listen) = operator.listen.filter(|listen| listen.port() != 0) {
        let others =
            [("server.listen", Some(config.server.listen)), ("tls.listen", config.tls.as_ref().map(|t| t.listen))];
        for (key, _) in others.iter().filter(|(_, other)| *other == Some(listen)) {
            fault("operator.listen", format!("{listen} is already {key}; operators need a port of their own"));
        }
    }
    if let Some(listen) = config.server.health_listen.filter(|listen| listen.port() != 0) {
        let others = [
            ("server.listen", Some(config.server.listen)),
            ("tls.listen", config.tls.as_ref().map(|t| t.listen)),
            ("operator.listen", operator.listen),
        ];
        for (key, _) in others.iter().filter(|(_, other)| *other == Some(listen)) {
            fault("server.health_listen", format!("{listen} is already {key}; health needs a port of its own"));
        }
    }
    if config.tls.as_ref().is_some_and(|tls| tls.hsts.as_secs() > 10 * 366 * 86_400) {
        fault("tls.hsts", "is longer than ten years; write `365days`, or `0s` to send no such header".into());
    }
    if config.server.proxy_protocol != ProxyProtocol::Off && config.server.trusted_proxies.is_empty() {
        fault("server.proxy_protocol", "no proxy is trusted; set server.trusted_proxies".into());
    }
    let authorized = config.rpc.authorization.is_some() || config.rpc.authorization_file.is_some();
    if authorized && config.rpc.endpoint.as_ref().is_some_and(|endpoint| endpoint.contains('@')) {
        fault("rpc.authorization", "rpc.endpoint already has a user; keep one of the two".into());
    }
    if config.rpc.authorization.is_some() && config.rpc.authorization_file.is_some() {
        fault("rpc.authorization", "give `authorization` or `authorization_file`, not both".into());
    }
    for (i, origin) in config.access.origins.iter().enumerate() {
        let good = origin == "*"
            || origin.split_once("://").is_some_and(|(scheme, host)| {
                (scheme == "http" || scheme == "https") && !host.is_empty() && !host.contains('/')
            });
        if !good {
            fault(
                &format!("access.origins[{i}]"),
                format!("`{origin}` is not an origin; write `https://host[:port]` without a path, or `*`"),
            );
        }
    }
    for (i, rule) in config.access.default_topics.iter().enumerate() {
        if let Some(reason) = no_rule(rule) {
            fault(&format!("access.default_topics[{i}]"), reason);
        }
    }

    super::features::faults(config, &mut fault);
    if let Some(redis) = &config.source.redis {
        super::redis::faults(redis, &mut fault);
    }
    if let Some(nats) = &config.source.nats {
        nats.faults(&mut fault);
        if config.source.redis.is_some() {
            fault(
                "source.nats",
                "a topic's offsets come from one place: configure source.redis or source.nats, not both".into(),
            );
        }
    }
    if let Some(simulator) = &config.source.simulator {
        if !(1..=10_000).contains(&simulator.instruments) {
            fault("source.simulator.instruments", format!("{} is outside 1 to 10000", simulator.instruments));
        }
        if !(0.1..=1_000_000.0).contains(&simulator.rate) {
            fault("source.simulator.rate", format!("{} is outside 0.1 to 1000000 a second", simulator.rate));
        }
    }
    if let Some(replay) = &config.source.replay {
        if replay.files.is_empty() {
            fault("source.replay.files", "is empty; name a file".into());
        }
        if !(0.01..=1_000.0).contains(&replay.speed) {
            fault("source.replay.speed", format!("{} is outside 0.01 to 1000", replay.speed));
        }
    }
    faults
}

/// Rules about topics may not contain characters that no topic name has: such a rule would look
/// right and never match.
fn visible(at: &str, text: &str, fault: &mut impl FnMut(&str, String)) {
    if let Some(c) = unprintable(text) {
        fault(at, NameError::NotPrintable(c).to_string());
    }
}

/// A secret is given in one way only.
fn one_secret(
    at: &str,
    whose: &str,
    value: &Option<String>,
    file: &Option<PathBuf>,
    variable: &Option<String>,
    fault: &mut impl FnMut(&str, String),
) {
    let places = [value.is_some(), file.is_some(), variable.is_some()];
    match places.into_iter().filter(|given| *given).count() {
        0 => fault(at, format!("{whose} needs `secret`, `secret_file` or `secret_env`")),
        1 => {}
        _ => fault(at, "give one of `secret`, `secret_file` and `secret_env`".into()),
    }
}

fn memory(l: &Limits, fault: &mut impl FnMut(&str, String)) {
    let parts = [
        ("limits.backlog_total_bytes", l.backlog_total_bytes),
        ("limits.history_total_bytes", l.history_total_bytes),
        ("limits.state_total_bytes", l.state_total_bytes),
        ("limits.deltas_total_bytes", l.deltas_total_bytes),
        ("limits.incoming_total_bytes", l.incoming_total_bytes),
        ("limits.asked_total_bytes", l.asked_total_bytes),
        ("limits.outgoing_total_bytes", l.outgoing_total_bytes),
        ("limits.snapshots_total_bytes", l.snapshots_total_bytes),
        ("limits.requests_total_bytes", l.requests_total_bytes),
        ("limits.answers_total_bytes", l.answers_total_bytes),
    ];
    let least = limits::MEMORY_PART_BYTES_MIN;
    for (key, bytes) in parts.into_iter().filter(|(_, bytes)| (1..least).contains(bytes)) {
        fault(key, format!("{bytes} is too small, the least is {least} (or 0: a share of limits.memory)"));
    }
    let MemoryLimit::Bytes(memory) = l.memory else { return };
    if memory < limits::MEMORY_BYTES_MIN {
        let least = MemoryLimit::Bytes(limits::MEMORY_BYTES_MIN);
        fault("limits.memory", format!("{} is too small, the least is {least}", l.memory));
    }
    let sum = parts.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes as u64));
    if sum > memory {
        let reason = format!("{} is less than its parts, which are set to {sum} bytes together", l.memory);
        fault("limits.memory", reason);
    }
}

fn namespace(options: &Namespace, at: &str, fault: &mut impl FnMut(&str, String)) {
    if options.payload == PayloadForm::Bytes && options.class == Class::Merge {
        let reason =
            "\"bytes\" is not for class `merge`, whose deltas are JSON Merge Patches; use `latest` or `stream`";
        fault(&format!("{at}.payload"), reason.into());
    }
    if let Some(rate) = options.max_rate {
        if options.class == Class::Stream {
            fault(
                &format!("{at}.max_rate"),
                "a `stream` is never conflated; use class `latest` or `merge`, or leave it out".into(),
            );
        } else if !(0.1..=200.0).contains(&rate) {
            fault(&format!("{at}.max_rate"), format!("{rate} is outside 0.1 to 200 a second"));
        }
    }
    if options.flush_interval > limits::FLUSH_INTERVAL_MAX {
        let (is, max) = (options.flush_interval, limits::FLUSH_INTERVAL_MAX);
        fault(&format!("{at}.flush_interval"), format!("{is:?} is too long, the most is {max:?}"));
    }
    if options.stale_after.is_some_and(|after| after.as_secs() < 1) {
        fault(&format!("{at}.stale_after"), "the least is 1s".into());
    }
    if !options.expire_after.is_zero() && options.expire_after.as_secs() < 1 {
        fault(&format!("{at}.expire_after"), "the least is 1s; 0s is never".into());
    }
    if options.stale_after.is_some_and(|after| !options.expire_after.is_zero() && options.expire_after <= after) {
        fault(
            &format!("{at}.expire_after"),
            "topics would end before they are stale; it must be longer than stale_after".into(),
        );
    }
    if options.force_push_join_leave && !options.join_leave {
        fault(&format!("{at}.force_push_join_leave"), "pushes what `join_leave` makes; set that too".into());
    }
    if options.history_size > 65_536 {
        fault(&format!("{at}.history_size"), format!("{} is too many, the most is 65536", options.history_size));
    }
}
