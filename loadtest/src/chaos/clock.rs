//! Clocks that step: that of Redis, which makes the IDs, and that of the server. All processes share the
//! kernel's clock, so both run with a small library that adds an offset from a file (libfaketime does the
//! same, but does not work with the allocator of Redis).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};

use crate::chaos::programs::{Node, NodeOptions, Redis};
use crate::chaos::redis_faults::{LIMIT, options};
use crate::chaos::test_bed::Props;
use crate::chaos::test_bed::{Habits, TestBed};

const LIBRARY: &str = include_str!("clock.c");

/// (name, step of Redis' clock, step of the server's)
const STEPS: [(&str, i64, i64); 5] = [
    ("both clocks 60 s back", -60, -60),
    ("both clocks 60 s ahead", 60, 60),
    ("Redis' clock right, the server's 60 s ahead", 0, 60),
    ("Redis' clock right, the server's 60 s back", 0, -60),
    ("both clocks right", 0, 0),
];

/// The wall clock of some processes.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let library = directory.join("clock.so");
        if !library.exists() {
            let source = directory.join("clock.c");
            std::fs::write(&source, LIBRARY)?;
            let mut compiler = Command::new("cc");
            let status = compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
            let status = status.context("cc could not be run; this scenario needs a C compiler")?;
            ensure!(status.success(), "cc ended with {status}");
        }
        let clock = Self { file: directory.join(name), library };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets the seconds that are added. The file is mapped by its readers, so it is changed in place.
    fn set(&self, seconds: i64) -> anyhow::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(&self.file)?;
        Ok(file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }

    fn environment(&self) -> Vec<(String, String)> {
        let of = |name: &str, path: &Path| (name.to_owned(), path.to_string_lossy().into_owned());
        vec![of("LD_PRELOAD", &self.library), of("CLOCK_OFFSET_FILE", &self.file)]
    }
}

pub(super) fn stepped(test_bed: &mut TestBed<'_>) -> anyhow::Result<Props> {
    let (of_redis, of_server) =
        (Clock::new(test_bed.directory(), "redis-time")?, Clock::new(test_bed.directory(), "server-time")?);
    let environment = of_redis.environment();
    let pairs: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let redis = Redis::start(test_bed.directory(), &["--appendonly", "no", "--save", ""], &pairs)?;
    let options = NodeOptions { environment: of_server.environment(), ..options(test_bed, redis.port) };
    let node = Node::start(test_bed.directory(), "node-1", &options)?;
    test_bed.sessions(&[node.address], test_bed.args.sessions, Habits::default())?;
    let store = test_bed.store(redis.port);
    test_bed.publish(store)?;
    let time = test_bed.fault_time(Duration::from_secs(5));
    test_bed.fault("clocks step");
    for (what, redis_offset, server_offset) in STEPS {
        test_bed.say(what);
        of_redis.set(redis_offset)?;
        of_server.set(server_offset)?;
        test_bed.wait(time)?;
        // Without a step that arrived, the scenario would show nothing.
        let (now, _): (i64, i64) = redis::from_redis_value(redis.ask(&["TIME"])?)?;
        let here = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
        ensure!((now - here - redis_offset).abs() < 10, "Redis' clock says {now}, ours {here}");
    }
    test_bed.healed();
    test_bed.whole(LIMIT)?;
    let refused = node.metric("source_skipped_total")?;
    ensure!(refused == 0.0, "{refused} entries were refused");
    Ok(Box::new((redis, node, of_redis.file, of_server.file)))
}
