//! Sources of deltas: Redis, NATS, recordings, publishers.

mod lifetimes;
mod lost_keys;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nats")]
mod nats_classes;
#[cfg(feature = "nats")]
mod nats_holes;
#[cfg(feature = "nats")]
mod nats_lost_states;
mod nats_replaced;
#[cfg(feature = "nats")]
mod nats_saves;
#[cfg(feature = "nats")]
mod nats_slow;
#[cfg(feature = "nats")]
mod nats_states;
mod partition;
mod publish_checks;
mod publish_lines;
mod publish_targets;
#[cfg(feature = "replay")]
mod recordings;
mod redis;
mod redis_edge;
mod redis_faults;
mod redis_ha;
mod redis_slow;
mod refused_entries;
mod reshard;
mod reshard_edges;
mod saved_states;
mod tiny_parts;
