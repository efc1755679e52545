//! `[source]`: where deltas come from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::nats::Nats;
use super::redis::Redis;

/// `[source]`: any of these, or none. Without one, deltas come by the publish API alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// Redis streams.
    pub redis: Option<Redis>,
    /// A NATS JetStream stream.
    pub nats: Option<Nats>,
    /// The embedded simulation.
    pub simulator: Option<Simulator>,
    /// A recording.
    pub replay: Option<Replay>,
}

/// `[source.simulator]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulator {
    /// Number of instruments.
    pub instruments: usize,
    /// Deltas per second of all instruments together.
    pub rate: f64,
    /// The same seed gives the same prices.
    pub seed: u64,
}

impl Default for Simulator {
    fn default() -> Self {
        Self { instruments: 300, rate: 600.0, seed: 20_240_808 }
    }
}

/// `[source.replay]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Recordings, plain or gzip, merged by time.
    pub files: Vec<PathBuf>,
    /// Speed, as a multiple of the recorded pace.
    #[serde(default = "one")]
    pub speed: f64,
    /// Start again at the end.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
}

fn one() -> f64 {
    1.0
}
