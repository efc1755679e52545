//! The command line.

mod address;
mod argv;
mod authorities;
mod check_config;
mod command;
mod drain;
mod environment;
mod healthcheck;
mod output;
mod partition;
mod publish;
#[cfg(feature = "replay")]
mod replay;
mod reshard;
mod serve;
mod target;
#[cfg(feature = "top")]
mod top;

pub use command::run;
