//! `[debug]`: options for tests alone.

use serde::{Deserialize, Serialize};

/// `[debug]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Debug {
    /// Sends every message back, for test suites of WebSocket servers: at `/debug/echo`, and at `/`
    /// for requests with an upgrade. Open to all clients, with limits of its own.
    pub echo: bool,
}
