//! The server side of RFC 6455 (frames out, messages in, close codes) and of RFC 7692 (compression
//! of both).
//!
//! It knows no topics and no sessions.

pub mod close;
pub mod deflate;
pub mod frame;
pub mod inbox;
pub mod inflate;
pub mod negotiate;
pub mod proxy;
pub mod reader;
pub mod tls;
