//! Clients' commands, one in a file. Each file reads the same: `run` carries the command out, in the
//! order `check` (may the session have it?), `apply` (do it, or ask the control plane to), `reply`. A
//! command gets one reply, whose length is bounded by that of the command. A command without `check`
//! is open to all; one without a `reply` of its own uses one of `common`, or is replied to by the part
//! that carries it out.

pub(super) mod auth;
pub(super) mod backend_request;
mod common;
pub(super) mod connect;
mod dispatch;
mod history;
mod identity;
mod members;
mod order;
mod ping;
mod presence;
mod publish;
mod rate;
mod rpc;
mod settings;
mod snapshot;
pub(super) mod sub_refresh;
mod subscribe;
mod token_texts;
mod unsubscribe;

pub(super) use token_texts::ttl_s;
