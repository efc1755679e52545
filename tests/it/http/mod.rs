//! Plain HTTP: connections, reads, and the publish API.

mod api_clients;
mod api_words;
mod connection_limits;
mod connections;
mod http_conformance;
mod http_errors;
mod listing;
#[cfg(feature = "dashboard")]
mod pages;
mod proxies;
mod publish_keys;
mod reads;
