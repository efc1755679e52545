//! What operators rely on: limits, memory, metrics, the command line, starting and stopping.

mod accounts;
mod command_line;
#[cfg(all(feature = "nats", feature = "replay"))]
mod fuzz_corpus;
mod layering;
mod limits;
mod memory;
mod metrics;
mod operator_listener;
mod shutdown;
mod systemd;
#[cfg(feature = "top")]
mod top;
mod trace;
mod within_memory;
