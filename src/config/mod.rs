//! The configuration: a file for each section has its types and defaults, `load` reads it, and
//! `check` checks it.

mod access;
mod check;
mod dashboard;
mod debug;
mod faults;
mod features;
mod limits;
mod load;
mod memory;
mod namespace;
mod nats;
mod operator;
mod ops;
mod places;
mod plain;
mod proxies;
mod publish;
mod publish_key;
mod redis;
mod root;
mod rpc;
pub mod secrets;
mod server;
mod sources;
mod tls;
mod trace;

pub use access::{Access, ChannelSyntax, Jwks, NameKind, TokenAlgorithm, TokenKey, UnknownNamespace};
pub use dashboard::Dashboard;
pub use debug::Debug;
pub use features::not_built;
pub use limits::Limits;
pub use load::{ConfigError, Overrides, load};
pub use memory::MemoryLimit;
pub use namespace::{Action, Class, DeltaType, Namespace, OPS};
pub use nats::Nats;
pub use operator::Operator;
pub use ops::Ops;
pub use places::{NATS_FORMS, REDIS_FORMS};
pub use proxies::{ForwardedHeader, ProxyProtocol};
pub use publish::{ErrorStyle, Publish};
pub use publish_key::{PublishKey, Scope};
pub use redis::{Redis, RedisAddress};
pub use root::Config;
pub use rpc::Rpc;
pub use secrets::redacted;
pub use server::{FlushBackend, LogFormat, Server};
pub use sources::{Replay, Simulator, Sources};
pub use tls::{TlsOptions, TlsVersion};
pub use trace::TraceOptions;

pub use crate::form::PayloadForm;
