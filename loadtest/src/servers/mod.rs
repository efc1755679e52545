//! The processes that a run starts: our server, others, Redis, a balancer.

pub(crate) mod balancer;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod server_config;
