//! RFC 6455 as a server speaks it: frames out, messages in, close codes; and RFC 7692, which compresses both.
//!
//! Knows no topics and no sessions.

pub mod close;
pub mod deflate;
pub mod frame;
pub mod inbox;
pub mod inflate;
pub mod negotiate;
pub mod proxy;
pub mod reader;
pub mod tls;
