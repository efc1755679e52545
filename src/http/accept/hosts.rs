//! The names that a request's `Host` may have. If a foreign page's own name is pointed at this
//! server (DNS rebinding), its browser treats the server as the same origin; only the name shows
//! the difference.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, header};

use crate::config::Config;

/// The accepted names of a listener.
#[derive(Debug, Clone)]
pub(in crate::http) enum Hosts {
    /// Any name.
    Any,
    /// These names, `localhost`, and addresses.
    Named(Vec<String>),
    /// The same, and names without a dot, which no foreign name server resolves.
    Local,
}

impl Hosts {
    /// The names of a listener at `address`: those of `server.hosts`. If that is empty, a loopback
    /// listener that serves anything without a token or key accepts `localhost`, and one on which
    /// anyone may publish accepts addresses and local names.
    pub(in crate::http) fn of(config: &Config, address: SocketAddr, for_operators: bool) -> Self {
        let names = &config.server.hosts;
        if names.iter().any(|name| name == "*") {
            return Self::Any;
        }
        let is_open = !config.access.asks_for_tokens() || config.publish.open || config.operator.open;
        let is_open = is_open || for_operators || config.debug.echo;
        if !names.is_empty() || is_open && address.ip().to_canonical().is_loopback() {
            return Self::Named(names.iter().map(|name| plain(name).to_ascii_lowercase()).collect());
        }
        if config.publishes_openly() { Self::Local } else { Self::Any }
    }

    /// The name in `Host`, if it is not one of this server's. HTTP/1.0 may leave `Host` out, which
    /// no browser does.
    pub(in crate::http) fn foreign<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        if matches!(self, Self::Any) {
            return None;
        }
        let host = headers.get(header::HOST)?.to_str().unwrap_or("?");
        (!self.has(host)).then_some(host)
    }

    /// Whether `host[:port]` names this server.
    fn has(&self, host: &str) -> bool {
        let name = plain(host).to_ascii_lowercase();
        if name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost") {
            return true;
        }
        match self {
            Self::Any => true,
            Self::Named(names) => names.contains(&name),
            Self::Local => !name.is_empty() && !name.contains('.'),
        }
    }
}

/// A host without its port, brackets, and the trailing dot of a fully qualified name.
fn plain(host: &str) -> &str {
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return host;
    }
    let name = host.split(':').next().unwrap_or_default();
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn hosts(config: &str, address: &str) -> Hosts {
        Hosts::of(&Config::read("c.toml", config).unwrap(), address.parse().unwrap(), false)
    }

    fn taken(hosts: &Hosts, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        hosts.foreign(&headers).is_none()
    }

    const OPEN: &str = "[access]\nanonymous = true\n[publish]\nopen = true\n";
    const TOKENS: &str = "[[access.keys]]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n";

    #[test]
    fn a_listener_on_loopback_is_localhost() {
        for at in ["127.0.0.1:8000", "[::1]:8000", "[::ffff:127.0.0.1]:8000"] {
            let hosts = hosts(OPEN, at);
            for host in ["localhost", "LOCALHOST:8000", "localhost.", "app.localhost:1", "127.0.0.1:8000", "[::1]:8000"]
            {
                assert!(taken(&hosts, host), "{host} at {at}");
            }
            for host in ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "x"] {
                assert!(!taken(&hosts, host), "{host} at {at}");
            }
        }
    }

    #[test]
    fn where_anyone_may_publish_a_name_with_a_dot_must_be_configured() {
        let hosts = hosts(OPEN, "0.0.0.0:8000");
        for host in ["push-1:8000", "10.0.0.7", "localhost:8000", "[2001:db8::1]:8000"] {
            assert!(taken(&hosts, host), "{host}");
        }
        assert!(!taken(&hosts, "evil.example") && !taken(&hosts, "evil.example.:8000"));
    }

    #[test]
    fn names_that_are_configured_and_no_others() {
        let hosts = hosts(&format!("[server]\nhosts = [\"Push.example.com\"]\n{TOKENS}"), "0.0.0.0:8000");
        for host in ["push.example.com", "push.example.com:443", "PUSH.EXAMPLE.COM.", "192.0.2.7:8000", "localhost"] {
            assert!(taken(&hosts, host), "{host}");
        }
        assert!(!taken(&hosts, "push") && !taken(&hosts, "a.push.example.com"));
        let any = Config::read("c.toml", &format!("[server]\nhosts = [\"*\"]\n{OPEN}")).unwrap();
        assert!(taken(&Hosts::of(&any, "127.0.0.1:1".parse().unwrap(), false), "evil.example"));
    }

    #[test]
    fn where_nothing_is_open_any_name_will_do() {
        assert!(taken(&hosts(TOKENS, "127.0.0.1:8000"), "push.example.com"));
        let config = Config::read("c.toml", TOKENS).unwrap();
        let operators = Hosts::of(&config, "127.0.0.1:9000".parse().unwrap(), true);
        assert!(!taken(&operators, "evil.example"));
        let embedded = crate::config::load(None, std::iter::empty(), &Overrides::default()).unwrap();
        assert!(!taken(&Hosts::of(&embedded, embedded.server.listen, false), "evil.example"));
    }
}
