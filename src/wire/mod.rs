//! RFC 6455 as a server speaks it: frames out, messages in, close codes.
//!
//! Knows no topics and no sessions.

pub mod close;
pub mod frame;
pub mod inbox;
pub mod reader;
