//! The server as its users meet it: the real program on a real port, real sockets, a real Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod certificates;
#[path = "../../loadtest/src/front_config.rs"]
mod front_config;
mod giving_way;
mod healthy;
mod support;

mod access;
mod accounts;
mod algorithms;
mod bytes;
mod centrifuge;
mod channel_names;
mod command_line;
mod commands;
mod compression;
mod conflation;
mod conformance;
mod delivery;
mod forged_tokens;
mod front_door;
mod fuzz_corpus;
mod hostile_clients;
mod http;
mod http_backend;
mod http_conformance;
mod layering;
mod limits;
mod listing;
mod memory;
mod metrics;
mod nats;
mod operate;
mod operator_listener;
mod pacing;
mod pages;
mod present_token;
mod proxies;
mod publish_keys;
mod rebalancing;
mod recordings;
mod recovery;
mod redis;
mod redis_faults;
mod redis_groups;
mod redis_ha;
mod roamer;
mod scale_out;
mod sdk;
mod sdks;
mod secrets;
mod sessions;
mod shutdown;
mod supabase;
mod systemd;
mod tls;
mod token_claims;
mod tokens;
mod top;
mod trace;
mod two_nodes;
mod user_limits;
mod who_gets_in;
mod wrong_tokens;
