//! The server as its users meet it: the real program on a real port, real sockets, a real Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod certificates;
mod support;

mod access;
mod algorithms;
mod centrifuge;
mod command_line;
mod compression;
mod conflation;
mod conformance;
mod delivery;
mod fuzz_corpus;
mod hostile_clients;
mod http;
mod http_backend;
mod layering;
mod limits;
mod operate;
mod pacing;
mod recordings;
mod recovery;
mod redis;
mod redis_faults;
mod sdk;
mod sdks;
mod shutdown;
mod supabase;
mod systemd;
mod tls;
mod tokens;
mod top;
mod two_nodes;
