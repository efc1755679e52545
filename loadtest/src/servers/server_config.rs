//! The configuration file of a server under load.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::client::class::Class;

/// Limits of a server that is to hold as many sessions of one machine as it can.
pub(crate) const MANY_SESSIONS: &str = "fd_reserve = 400\nconnections_per_address = 0\n";

/// History that no run fills.
pub(crate) const HISTORY: &str = "history_size = 65536\nhistory_bytes = 33554432\n";

/// Everything is open, and answers per client address are unlimited: all sessions come from one
/// machine. Keys are TOML lines, each with its end of line.
#[derive(Debug)]
pub(crate) struct ServerConfig {
    server: String,
    limits: String,
    sections: String,
    namespaces: String,
}

impl ServerConfig {
    /// A server that listens on this address.
    pub(crate) fn new(listen: SocketAddr) -> Self {
        Self {
            server: format!("listen = \"{listen}\"\n"),
            limits: "reply_bytes_per_address = 0\n".to_owned(),
            sections: String::new(),
            namespaces: String::new(),
        }
    }

    /// Adds keys of `[server]`.
    pub(crate) fn server(mut self, keys: &str) -> Self {
        self.server.push_str(keys);
        self
    }

    /// Adds keys of `[limits]`.
    pub(crate) fn limits(mut self, keys: &str) -> Self {
        self.limits.push_str(keys);
        self
    }

    /// Adds whole sections.
    pub(crate) fn sections(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self
    }

    /// Adds a namespace.
    pub(crate) fn namespace(mut self, name: &str, class: Class, keys: &str) -> Self {
        let _ = write!(self.namespaces, "[namespace.{name}]\nclass = \"{}\"\n{keys}", class.name());
        self
    }

    /// Adds the namespaces `stream`, `latest` and `merge`, each of the class of its name.
    pub(crate) fn namespace_of_each_class(self, keys: impl Fn(Class) -> String) -> Self {
        [Class::Stream, Class::Latest, Class::Merge]
            .into_iter()
            .fold(self, |config, class| config.namespace(class.name(), class, &keys(class)))
    }

    /// The file's text.
    pub(crate) fn text(&self) -> String {
        let Self { server, limits, sections, namespaces } = self;
        format!(
            "[server]\n{server}[access]\nanonymous = true\norigins = [\"*\"]\n[publish]\nopen = true\n\
             [limits]\n{limits}{sections}{namespaces}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_reads_what_is_written() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 8000));
        let text = ServerConfig::new(listen)
            .server("shards = 2\n")
            .limits(MANY_SESSIONS)
            .sections("[source.redis]\nurl = \"redis://127.0.0.1\"\n")
            .namespace_of_each_class(
                |class| if class == Class::Stream { "history_size = 7\n".into() } else { String::new() },
            )
            .text();
        let config = nexus_push::config::Config::read("server.toml", &text).unwrap();
        assert_eq!((config.server.listen, config.server.shards, config.limits.fd_reserve), (listen, 2, 400));
        assert_eq!(config.namespace(Some("stream")).history_size, 7);
        assert_eq!(config.namespace(Some("merge")).class, nexus_push::config::Class::Merge);
        assert!(config.access.anonymous && config.publish.open && config.source.redis.is_some());
    }
}
