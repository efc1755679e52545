//! How much memory there is, and how much of it backlogs, history and state may take.
//!
//! One figure, `limits.memory`, is shared out: an eighth for backlogs, a quarter for history, a quarter for state, an eighth
//! for deltas that shards keep, 1/32 each for messages that come, states on their way, HTTP requests and HTTP answers, 1/64
//! each for what sessions asked for and for what is written to them, 1/16 for topics that only subscribers named. The rest is
//! for the program and its sessions.

use std::path::{Path, PathBuf};

use crate::config::{Limits, MemoryLimit};
use crate::limits::{ASKED_BYTES_MAX, ASKED_BYTES_MIN, UNPUBLISHED_TOPIC_BYTES, UNPUBLISHED_TOPICS_MAX};

/// Share of the memory that was found, with `limits.memory = "auto"`, in quarters.
const AUTO_QUARTERS: u64 = 3;

/// Ceilings in bytes; 0 is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceilings {
    /// All backlogs.
    pub backlog: usize,
    /// All topics' history.
    pub history: usize,
    /// All topics' state.
    pub state: usize,
    /// Deltas that no topic keeps.
    pub deltas: usize,
    /// Messages of clients that are not whole, or wait.
    pub incoming: usize,
    /// Requests of sessions under way.
    pub asked: usize,
    /// Frames that wait for a write.
    pub outgoing: usize,
    /// States on their way to shards.
    pub snapshots: usize,
    /// Bodies of HTTP requests.
    pub requests: usize,
    /// HTTP answers.
    pub answers: usize,
    /// Topics that only subscribers named: how many.
    pub unpublished: usize,
    /// What they follow from: what may be resident above what a start takes.
    pub memory: Option<u64>,
    /// Where they come from, for people.
    pub why: String,
}

impl Ceilings {
    /// What is configured, and what follows from it on this machine.
    pub fn of(limits: &Limits) -> Self {
        Self::with(limits, || found(Path::new("/proc"), Path::new("/sys/fs/cgroup")))
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
                None => (None, "the kernel does not tell how much memory there is".to_owned()),
            },
        };
        let part = |set: usize, share: u64| match (set, memory) {
            (0, Some(memory)) => usize::try_from(memory / share).unwrap_or(usize::MAX).max(1),
            (set, _) => set,
        };
        Self {
            backlog: part(limits.backlog_total_bytes, 8),
            history: part(limits.history_total_bytes, 4),
            state: part(limits.state_total_bytes, 4),
            deltas: part(limits.deltas_total_bytes, 8),
            incoming: part(limits.incoming_total_bytes, 32),
            asked: match (limits.asked_total_bytes, part(0, 64)) {
                (0, 0) => ASKED_BYTES_MAX,
                (0, bytes) => bytes.max(ASKED_BYTES_MIN),
                (set, _) => set,
            },
            outgoing: part(limits.outgoing_total_bytes, 64),
            snapshots: part(limits.snapshots_total_bytes, 32),
            requests: part(limits.requests_total_bytes, 32),
            answers: part(limits.answers_total_bytes, 32),
            unpublished: match (limits.unpublished_topics, part(0, 16)) {
                (0, 0) => UNPUBLISHED_TOPICS_MAX,
                (0, bytes) => (bytes / UNPUBLISHED_TOPIC_BYTES).min(UNPUBLISHED_TOPICS_MAX),
                (set, _) => set,
            },
            memory,
            why: match memory {
                Some(memory) => format!("of {}: {why}", Size(memory)),
                None => why,
            },
        }
    }

    /// Puts them where shards and topics look.
    pub fn put_into(&self, limits: &mut Limits) {
        limits.backlog_total_bytes = self.backlog;
        limits.history_total_bytes = self.history;
        limits.state_total_bytes = self.state;
        limits.deltas_total_bytes = self.deltas;
        limits.incoming_total_bytes = self.incoming;
        limits.asked_total_bytes = self.asked;
        limits.outgoing_total_bytes = self.outgoing;
        limits.snapshots_total_bytes = self.snapshots;
        limits.requests_total_bytes = self.requests;
        limits.answers_total_bytes = self.answers;
        limits.unpublished_topics = self.unpublished;
    }
}

impl std::fmt::Display for Ceilings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("backlogs", self.backlog),
            (", history", self.history),
            (", state", self.state),
            (", deltas", self.deltas),
            (", incoming messages", self.incoming),
            (", requests of sessions", self.asked),
            (", outgoing frames", self.outgoing),
            (", states on their way", self.snapshots),
            (", HTTP requests", self.requests),
            (", HTTP answers", self.answers),
        ];
        for (what, bytes) in parts {
            match bytes {
                0 => write!(f, "{what} without a ceiling")?,
                bytes => write!(f, "{what} up to {}", Size(bytes as u64))?,
            }
        }
        write!(f, " ({})", self.why)
    }
}

/// Bytes for people.
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

/// The least limit of this process's control group and those around it (cgroup v2, or v1's memory controller).
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
        // Inside a container the path may be the host's and not be there: the root is the container's own then.
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
            let Ceilings { backlog, history, state, why, .. } = Ceilings::with(&limits, found);
            ([backlog, history, state].map(|b| b >> 20), why)
        };
        let mib = 1 << 20;
        for (memory, set, parts, why) in [
            (MemoryLimit::Auto, [0; 3], [1_536, 3_072, 3_072], "of 12.0 GiB: 3/4 of 16.0 GiB of physical memory"),
            (MemoryLimit::Bytes(2 * GIB), [0; 3], [256, 512, 512], "of 2.0 GiB: limits.memory"),
            (MemoryLimit::Bytes(2 * GIB), [mib, 0, 5 * mib], [1, 512, 5], "of 2.0 GiB: limits.memory"),
            (MemoryLimit::Off, [0; 3], [0; 3], "limits.memory is off"),
            (MemoryLimit::Off, [0, 3 * mib, 0], [0, 3, 0], "limits.memory is off"),
        ] {
            assert_eq!(of(memory, set), (parts, why.to_owned()));
        }
        let of = |memory| Ceilings::with(&Limits { memory, ..Limits::default() }, found);
        let small = of(MemoryLimit::Bytes(256 << 20));
        assert_eq!(
            (small.deltas, small.incoming, small.snapshots, small.requests, small.answers),
            (32 << 20, 8 << 20, 8 << 20, 8 << 20, 8 << 20)
        );
        assert_eq!((small.asked >> 20, small.outgoing >> 20), (4, 4));
        // However little there is, one session's subscribes fit; and without a limit on memory there is one on these.
        assert_eq!(of(MemoryLimit::Bytes(16 << 20)).asked >> 20, 1);
        assert_eq!((of(MemoryLimit::Off).asked >> 20, of(MemoryLimit::Off).outgoing), (64, 0));
        assert_eq!(small.unpublished, 16_384);
        assert_eq!((of(MemoryLimit::Off).deltas, of(MemoryLimit::Off).unpublished), (0, 262_144));
        let limits = Limits { memory: MemoryLimit::Auto, ..Limits::default() };
        assert_eq!(Ceilings::with(&limits, || None).history, 0);
        let text = Ceilings::with(&limits, found).to_string();
        assert!(
            text.starts_with(
                "backlogs up to 1.5 GiB, history up to 3.0 GiB, state up to 3.0 GiB, deltas up to 1.5 GiB"
            ),
            "{text}"
        );
    }

    type Files = &'static [(&'static str, &'static str)];

    /// (`/proc/self/cgroup`, files below the control groups' root, what is found in MiB)
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
