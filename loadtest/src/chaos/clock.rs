//! Clocks that step: of Redis, which makes the IDs, and of the server. The kernel's clock is everybody's, so both run
//! under libfaketime, which reads from a file what to add.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Props;
use super::programs::{Node, NodeOptions, Redis};
use super::redis_faults::{LIMIT, options};
use super::stage::{Habits, Stage};

const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// (what, Redis' clock, the server's)
const STEPS: [(&str, &str, &str); 5] = [
    ("both clocks 60 s back", "-60", "-60"),
    ("both clocks 60 s ahead", "+60", "+60"),
    ("Redis' clock right, the server's 60 s ahead", "+0", "+60"),
    ("Redis' clock right, the server's 60 s back", "+0", "-60"),
    ("both clocks right", "+0", "+0"),
];

struct Clock {
    file: PathBuf,
    library: &'static str,
}

impl Clock {
    fn new(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let library = LIBRARIES
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("libfaketime is not there: make tools installs it")?;
        let clock = Self { file: directory.join(name), library };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Written whole, since it is read at every look at the time.
    fn set(&self, offset: &str) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset}\n"))?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    fn environment(&self) -> Vec<(String, String)> {
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            own("LD_PRELOAD", self.library),
            own("FAKETIME_TIMESTAMP_FILE", &self.file.to_string_lossy()),
            own("FAKETIME_CACHE_DURATION", "1"),
            // Steps are of the wall clock alone.
            own("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}

pub(super) fn stepped(stage: &mut Stage<'_>) -> anyhow::Result<Props> {
    let (of_redis, of_server) =
        (Clock::new(stage.directory(), "redis-time")?, Clock::new(stage.directory(), "server-time")?);
    let environment = of_redis.environment();
    let pairs: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let redis = Redis::start(stage.directory(), &["--appendonly", "yes", "--save", ""], &pairs)?;
    let options = NodeOptions { environment: of_server.environment(), ..options(stage, redis.port) };
    let node = Node::start(stage.directory(), "node-1", &options)?;
    stage.sessions(&[node.address], stage.args.sessions, Habits::default())?;
    let store = stage.store(redis.port);
    stage.publish(store)?;
    let time = stage.fault_time(Duration::from_secs(5));
    stage.fault("clocks step");
    for (what, redis_offset, server_offset) in STEPS {
        stage.say(what);
        of_redis.set(redis_offset)?;
        of_server.set(server_offset)?;
        stage.wait(time)?;
        if redis_offset == "-60" {
            // The step arrived: otherwise this would show nothing.
            let now: (u64, u64) = redis::from_redis_value(redis.ask(&["TIME"])?)?;
            let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
            ensure!(here.abs_diff(now.0).abs_diff(60) < 10, "Redis' clock says {}, ours {here}", now.0);
        }
    }
    stage.healed();
    stage.whole(LIMIT)?;
    let carries = node.metric("offset_carries_total")?;
    stage.note(format!("{carries} offsets were raised above their ID's"));
    Ok(Box::new((redis, node, of_redis.file, of_server.file)))
}
