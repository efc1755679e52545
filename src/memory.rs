//! The memory of this machine and of this process, and the limits derived from it.
//!
//! One figure, `limits.memory`, is divided: 1/8 for backlogs, 1/4 for history, 1/4 for state, 1/8
//! for deltas kept by shards, 1/32 each for incoming messages, states on their way, HTTP requests
//! and HTTP answers, 1/64 each for requests of sessions and for frames to be written, 1/16 for
//! topics that only subscribers named. The rest is for the program and its sessions.

use std::path::{Path, PathBuf};

use crate::config::{Limits, MemoryLimit};
use crate::limits::{ASKED_BYTES_MAX, ASKED_BYTES_MIN, UNPUBLISHED_TOPIC_BYTES, UNPUBLISHED_TOPICS_MAX};

/// Share of the detected memory that `limits.memory = "auto"` uses, in quarters.
const AUTO_QUARTERS: u64 = 3;

/// The limits on memory that are in force: those that are configured, and those derived from
/// `limits.memory`. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedLimits {
    /// All backlogs.
    pub backlog_total_bytes: Option<usize>,
    /// All topics' history.
    pub history_total_bytes: Option<usize>,
    /// All topics' state.
    pub state_total_bytes: Option<usize>,
    /// Deltas that no topic keeps.
    pub deltas_total_bytes: Option<usize>,
    /// Messages of clients that are incomplete or wait.
    pub incoming_total_bytes: Option<usize>,
    /// Requests of sessions in progress, which always have a limit.
    pub asked_total_bytes: usize,
    /// Frames that wait for a write.
    pub outgoing_total_bytes: Option<usize>,
    /// States on their way to shards.
    pub snapshots_total_bytes: Option<usize>,
    /// Bodies of HTTP requests.
    pub requests_total_bytes: Option<usize>,
    /// HTTP answers.
    pub answers_total_bytes: Option<usize>,
    /// The number of topics that only subscribers named.
    pub unpublished_topics: usize,
    /// The memory that they derive from: resident size above that of a start.
    pub memory: Option<u64>,
    /// Their origin, for people.
    pub why: String,
}

impl ResolvedLimits {
    /// The configured limits, and those derived from them on this machine.
    pub fn of(limits: &Limits) -> Self {
        Self::with(limits, || found(Path::new("/proc"), Path::new("/sys/fs/cgroup")))
    }

    /// The configured limits alone, for programs that leave `limits.memory` to the server.
    pub fn configured(limits: &Limits) -> Self {
        Self::with(&Limits { memory: MemoryLimit::Off, ..limits.clone() }, || None)
    }

    fn with(limits: &Limits, found: impl FnOnce() -> Option<Found>) -> Self {
        let (memory, why) = match limits.memory {
            MemoryLimit::Off => (None, "limits.memory is off".to_owned()),
            MemoryLimit::Bytes(bytes) => (Some(bytes), "limits.memory".to_owned()),
            MemoryLimit::Auto => match found() {
                Some(Found { bytes, of }) => {
                    let share = bytes / 4 * AUTO_QUARTERS;
                    (Some(share), format!("{AUTO_QUARTERS}/4 of {} of {of}", Size(bytes)))
                }
                None => (None, "the kernel does not report the memory size".to_owned()),
            },
        };
        let share = |part: u64| Some(usize::try_from(memory? / part).unwrap_or(usize::MAX).max(1));
        // In the file, 0 asks for a share.
        let set = |bytes: usize| (bytes > 0).then_some(bytes);
        let part = |bytes: usize, of: u64| set(bytes).or_else(|| share(of));
        let asked = || share(64).map_or(ASKED_BYTES_MAX, |bytes| bytes.max(ASKED_BYTES_MIN));
        let unpublished = || {
            let fit = share(16).map_or(UNPUBLISHED_TOPICS_MAX, |bytes| bytes / UNPUBLISHED_TOPIC_BYTES);
            fit.min(UNPUBLISHED_TOPICS_MAX)
        };
        Self {
            backlog_total_bytes: part(limits.backlog_total_bytes, 8),
            history_total_bytes: part(limits.history_total_bytes, 4),
            state_total_bytes: part(limits.state_total_bytes, 4),
            deltas_total_bytes: part(limits.deltas_total_bytes, 8),
            incoming_total_bytes: part(limits.incoming_total_bytes, 32),
            asked_total_bytes: set(limits.asked_total_bytes).unwrap_or_else(asked),
            outgoing_total_bytes: part(limits.outgoing_total_bytes, 64),
            snapshots_total_bytes: part(limits.snapshots_total_bytes, 32),
            requests_total_bytes: part(limits.requests_total_bytes, 32),
            answers_total_bytes: part(limits.answers_total_bytes, 32),
            unpublished_topics: set(limits.unpublished_topics).unwrap_or_else(unpublished),
            memory,
            why: match memory {
                Some(memory) => format!("of {}: {why}", Size(memory)),
                None => why,
            },
        }
    }
}

impl std::fmt::Display for ResolvedLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("backlogs", self.backlog_total_bytes),
            (", history", self.history_total_bytes),
            (", state", self.state_total_bytes),
            (", deltas", self.deltas_total_bytes),
            (", incoming messages", self.incoming_total_bytes),
            (", requests of sessions", Some(self.asked_total_bytes)),
            (", outgoing frames", self.outgoing_total_bytes),
            (", states on their way", self.snapshots_total_bytes),
            (", HTTP requests", self.requests_total_bytes),
            (", HTTP answers", self.answers_total_bytes),
        ];
        for (what, bytes) in parts {
            match bytes {
                None => write!(f, "{what} without a ceiling")?,
                Some(bytes) => write!(f, "{what} up to {}", Size(bytes as u64))?,
            }
        }
        write!(f, " ({})", self.why)
    }
}

/// Bytes in a readable form.
struct Size(u64);

impl std::fmt::Display for Size {
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => write!(f, "{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            bytes if bytes >= 1 << 20 => write!(f, "{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            bytes => write!(f, "{:.1} KiB", bytes as f64 / f64::from(1 << 10)),
        }
    }
}

/// Memory of the machine or of the control group, whichever is less.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    bytes: u64,
    of: &'static str,
}

fn found(proc: &Path, cgroups: &Path) -> Option<Found> {
    let physical = std::fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let line = physical.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kb = line.and_then(|l| l.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok());
    let physical = kb.map(|kb| Found { bytes: kb.saturating_mul(1024), of: "physical memory" });
    let group = group_limit(proc, cgroups).map(|bytes| Found { bytes, of: "the control group's memory" });
    [physical, group].into_iter().flatten().min_by_key(|found| found.bytes)
}

/// The lowest limit of this process's control group and its parents (cgroup v2, or v1's memory
/// controller).
fn group_limit(proc: &Path, cgroups: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let mut least = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (cgroups.to_owned(), "memory.max"),
            list if list.split(',').any(|c| c == "memory") => (cgroups.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // Inside a container the path may be the host's and not exist: the root is then the
        // container's own.
        let inner = root.join(path.trim_start_matches('/'));
        let around = inner.ancestors().take_while(|dir| dir.starts_with(&root)).map(Path::to_owned);
        let limits = around.collect::<Vec<PathBuf>>().into_iter().filter_map(|dir| {
            // `max` is no limit.
            std::fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok()
        });
        least = limits.chain(least).min();
    }
    least
}

/// Resident memory of this process, in bytes; 0 if the kernel does not report it.
pub fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_parts_follow_from_one_figure_unless_they_are_set() {
        let found = || Some(Found { bytes: 16 * GIB, of: "physical memory" });
        let of = |memory, set: [usize; 3]| {
            let [backlog_total_bytes, history_total_bytes, state_total_bytes] = set;
            let limits =
                Limits { memory, backlog_total_bytes, history_total_bytes, state_total_bytes, ..Limits::default() };
            let resolved = ResolvedLimits::with(&limits, found);
            let parts = [resolved.backlog_total_bytes, resolved.history_total_bytes, resolved.state_total_bytes];
            (parts.map(|bytes| bytes.map(|bytes| bytes >> 20)), resolved.why)
        };
        let mib = 1 << 20;
        for (memory, set, parts, why) in [
            (
                MemoryLimit::Auto,
                [0; 3],
                [1_536, 3_072, 3_072].map(Some),
                "of 12.0 GiB: 3/4 of 16.0 GiB of physical memory",
            ),
            (MemoryLimit::Bytes(2 * GIB), [0; 3], [256, 512, 512].map(Some), "of 2.0 GiB: limits.memory"),
            (MemoryLimit::Bytes(2 * GIB), [mib, 0, 5 * mib], [1, 512, 5].map(Some), "of 2.0 GiB: limits.memory"),
            (MemoryLimit::Off, [0; 3], [None; 3], "limits.memory is off"),
            (MemoryLimit::Off, [0, 3 * mib, 0], [None, Some(3), None], "limits.memory is off"),
        ] {
            assert_eq!(of(memory, set), (parts, why.to_owned()));
        }
        let of = |memory| ResolvedLimits::with(&Limits { memory, ..Limits::default() }, found);
        let small = of(MemoryLimit::Bytes(256 << 20));
        assert_eq!(
            [
                small.deltas_total_bytes,
                small.incoming_total_bytes,
                small.snapshots_total_bytes,
                small.requests_total_bytes,
                small.answers_total_bytes
            ],
            [32, 8, 8, 8, 8].map(|mib| Some(mib << 20))
        );
        assert_eq!((small.asked_total_bytes, small.outgoing_total_bytes), (4 << 20, Some(4 << 20)));
        // With any memory limit, one session's subscribes fit; and without a memory limit,
        // subscribes still have one.
        assert_eq!(of(MemoryLimit::Bytes(16 << 20)).asked_total_bytes >> 20, 1);
        let off = of(MemoryLimit::Off);
        assert_eq!((off.asked_total_bytes >> 20, off.outgoing_total_bytes), (64, None));
        assert_eq!(small.unpublished_topics, 16_384);
        assert_eq!((off.deltas_total_bytes, off.unpublished_topics), (None, 262_144));
        assert_eq!(ResolvedLimits::configured(&Limits::default()), off);
        let limits = Limits { memory: MemoryLimit::Auto, ..Limits::default() };
        assert_eq!(ResolvedLimits::with(&limits, || None).history_total_bytes, None);
        let text = ResolvedLimits::with(&limits, found).to_string();
        assert!(
            text.starts_with(
                "backlogs up to 1.5 GiB, history up to 3.0 GiB, state up to 3.0 GiB, deltas up to 1.5 GiB"
            ),
            "{text}"
        );
    }

    type Files = &'static [(&'static str, &'static str)];

    /// (`/proc/self/cgroup`, files below the control groups' root, the limit found in MiB)
    #[test]
    fn the_least_of_machine_and_control_groups_counts() {
        let table: &[(&str, Files, u64)] = &[
            ("", &[], 8_192),
            ("0::/\n", &[("memory.max", "max\n")], 8_192),
            ("0::/\n", &[("memory.max", "1073741824\n")], 1_024),
            ("0::/a/b\n", &[("a/memory.max", "2147483648"), ("a/b/memory.max", "max")], 2_048),
            ("0::/../host/path\n", &[("memory.max", "536870912")], 512),
            ("4:cpu,memory:/x\n0::/\n", &[("memory/x/memory.limit_in_bytes", "268435456")], 256),
            ("4:memory:/x\n", &[("memory/x/memory.limit_in_bytes", "9223372036854771712")], 8_192),
            ("nonsense\n7:cpu:/\n", &[("memory.max", "1")], 8_192),
        ];
        for (groups, files, mib) in table {
            let dir = tempfile::tempdir().unwrap();
            let (proc, cgroups) = (dir.path().join("proc"), dir.path().join("cgroup"));
            std::fs::create_dir_all(proc.join("self")).unwrap();
            std::fs::write(proc.join("meminfo"), "MemFree: 1 kB\nMemTotal:        8388608 kB\n").unwrap();
            std::fs::write(proc.join("self/cgroup"), groups).unwrap();
            for (path, text) in *files {
                let path = cgroups.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            assert_eq!(found(&proc, &cgroups).map(|f| f.bytes >> 20), Some(*mib), "{groups:?}");
        }
        assert_eq!(found(Path::new("/nowhere"), Path::new("/nowhere")), None);
    }
}
