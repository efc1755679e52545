//! The document of a comparison: targets, tables with ratios, charts.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Context as _;

use crate::report::chart::{Bar, number, svg};
use crate::report::row::Row;
use crate::report::summary::Report;
use crate::servers::peer::Peer;

/// The text between these marks is replaced; the rest of the document stays.
pub(crate) struct Marks {
    pub(crate) begin: &'static str,
    pub(crate) end: &'static str,
}

const MARKS: Marks = Marks { begin: "<!-- measured: begin -->", end: "<!-- measured: end -->" };

/// Prints a report's text and its checks, and writes the text into the document `out`, unless that is `-`. Returns whether the
/// report passed.
pub(crate) fn publish(report: &Report, text: &str, out: &std::path::Path, marks: &Marks) -> anyhow::Result<bool> {
    println!("{text}");
    for check in &report.checks {
        println!("  {check}");
    }
    if out.as_os_str() != "-" {
        rewrite(out, marks, text)?;
    }
    Ok(report.passed())
}

/// Writes `text` between the marks of a document, which is created if needed.
pub(crate) fn rewrite(path: &std::path::Path, marks: &Marks, text: &str) -> anyhow::Result<()> {
    let Marks { begin, end } = marks;
    let old = match std::fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("# Benchmarks\n\n{begin}\n{end}\n"),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let lost = || format!("{}: the mark {begin} or {end} is missing; put it where the figures belong", path.display());
    let (before, rest) = old.split_once(begin).with_context(lost)?;
    let (_, after) = rest.split_once(end).with_context(lost)?;
    std::fs::write(path, format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
        .with_context(|| path.display().to_string())
}

pub(crate) fn median(values: Vec<f64>) -> Option<f64> {
    spread(values).map(|spread| spread.median)
}

/// Median, lowest and highest of the measured values.
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values.get(middle - 1)? + values.get(middle)?) / 2.0,
        _ => *values.get(middle)?,
    };
    Some(Spread { median, low, high })
}

struct Results<'a>(&'a [Row]);

impl Results<'_> {
    fn of(&self, workload: &str, server: &str, value: &str) -> Option<Spread> {
        let rows = self.0.iter().filter(|r| r.workload == workload && r.server == server);
        spread(rows.filter_map(|r| r.values.get(value).copied()).collect())
    }

    /// Median over the rounds of one server's value divided by another's in the same round.
    fn ratio(&self, workload: &str, a: &str, b: &str, value: &str) -> Option<Spread> {
        let one = |server: &str, round: u32| {
            let row = self.0.iter().find(|r| r.workload == workload && r.server == server && r.round == round)?;
            row.values.get(value).copied().filter(|v| *v > 0.0)
        };
        let rounds: BTreeSet<u32> = self.0.iter().map(|r| r.round).collect();
        spread(rounds.into_iter().filter_map(|round| Some(one(a, round)? / one(b, round)?)).collect())
    }

    /// Memory per slow session: the difference in growth to the run of the same round without any.
    fn slow_session_bytes(&self) -> Option<f64> {
        let rows = |server: &'static str| self.0.iter().filter(move |r| r.workload == "w6" && r.server == server);
        let one = |slow: &Row| {
            let none = rows("us, none slow").find(|r| r.round == slow.round)?;
            let more = slow.values.get("growth_mb")? - none.values.get("growth_mb")?;
            Some(more.max(0.0) * 1e6 / slow.values.get("slow_sessions")?)
        };
        median(rows("us").filter_map(one).collect())
    }

    fn servers(&self, workload: &str) -> Vec<&str> {
        let mut all = Vec::new();
        for row in self.0.iter().filter(|r| r.workload == workload) {
            if !all.contains(&row.server.as_str()) {
                all.push(row.server.as_str());
            }
        }
        all
    }
}

/// A column: value, heading, whether it is compared with ours.
type Column = (&'static str, &'static str, bool);

const LATENCY: [Column; 2] = [("p50_ms", "p50, ms", false), ("p99_ms", "p99, ms", false)];
const CPU: Column = ("cpu_us", "server CPU per delivery, µs", true);
const BYTES: Column = ("bytes_per_delivery", "bytes per delivery", false);
const CLOSED: Column = ("closed", "sessions closed", false);

fn tables() -> Vec<(&'static str, &'static str, Vec<Column>)> {
    let cost = || [vec![CPU], LATENCY.to_vec(), vec![BYTES, CLOSED]].concat();
    vec![
        ("w1", "W1 broadcast: 10,000 sessions, 1 topic, 5 deltas/s of 150 B", cost()),
        ("w2", "W2 watchlist: 5,000 sessions × 20 of 500 topics, 500 deltas/s", cost()),
        ("w3", "W3 firehose: 500 sessions, 1 topic, 1,000 deltas/s", cost()),
        (
            "w4",
            "W4 idle: 15,000 sessions, 1 topic",
            vec![
                ("memory_b", "user memory per session, B", true),
                ("connects_per_s", "connects/s (paced at 5,000)", false),
            ],
        ),
        (
            "w4, 20 topics",
            "W4 idle: 15,000 sessions, 20 topics",
            vec![("memory_b", "user memory per session, B", true)],
        ),
        (
            "w5",
            "W5 storm: 10,000 sessions drop and come back at once",
            vec![("storm_per_s", "connects/s", true), ("whole_s", "all back after, s", false)],
        ),
        (
            "w6",
            "W6 slow: W2 with 1 % of the sockets never reading (latency of the others)",
            [LATENCY.to_vec(), vec![("growth_mb", "memory growth, MB", false), CLOSED]].concat(),
        ),
        (
            "w7",
            "W7 overload: W3 at three times what the machine delivers",
            [
                LATENCY.to_vec(),
                vec![
                    ("max_ms", "max, ms", false),
                    ("conflated_share", "share conflated", false),
                    ("growth_mb", "memory growth, MB", false),
                    CLOSED,
                ],
            ]
            .concat(),
        ),
        (
            "ingest",
            "Ingest: Redis to 500 topics without subscribers",
            vec![("per_s", "deltas/s", false), ("cpu_us", "server CPU per delta, µs", false)],
        ),
    ]
}

pub(crate) fn write(out: &std::path::Path, rows: &[Row]) -> anyhow::Result<()> {
    let results = Results(rows);
    let charts = out.with_extension("");
    std::fs::create_dir_all(&charts)?;
    let folder = charts.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut text = heading(rows);
    text.push_str(&targets(&results));
    for (workload, title, columns) in tables() {
        let servers = results.servers(workload);
        if servers.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n## {title}\n");
        let (value, heading, _) = columns.first().copied().context("a table without columns")?;
        let bar = |server: &&str| {
            let Spread { median, low, high, .. } = results.of(workload, server, value)?;
            Some(Bar { name: (*server).to_owned(), median, low, high, ours: server.starts_with("us") })
        };
        let bars: Vec<Bar> = servers.iter().filter_map(bar).collect();
        if bars.len() > 1 {
            let file = format!("{}.svg", workload.replace(", ", "-").replace(' ', "-"));
            std::fs::write(charts.join(&file), svg(title, heading, &bars))?;
            let _ = writeln!(text, "![{title}]({folder}/{file})\n");
        }
        text.push_str(&table(&results, workload, &servers, &columns));
    }
    rewrite(out, &MARKS, &text)
}

fn table(results: &Results<'_>, workload: &str, servers: &[&str], columns: &[Column]) -> String {
    let mut text = String::from("| server |");
    for (_, heading, ratio) in columns {
        let _ = write!(text, " {heading} |{}", if *ratio { " ratio to us |" } else { "" });
    }
    text.push_str("\n|---|");
    for (_, _, ratio) in columns {
        text.push_str(if *ratio { "---|---|" } else { "---|" });
    }
    text.push('\n');
    for server in servers {
        let _ = write!(text, "| {server} |");
        if results.of(workload, server, "failed").is_some() && results.of(workload, server, "memory_b").is_none() {
            let _ = write!(text, " did not complete the workload |");
        }
        for (value, _, ratio) in columns {
            match results.of(workload, server, value) {
                Some(s) => {
                    let _ = write!(text, " {} ({}–{}) |", number(s.median), number(s.low), number(s.high));
                }
                None => text.push_str(" |"),
            }
            if *ratio {
                match results.ratio(workload, server, "us", value) {
                    Some(s) => {
                        let _ = write!(text, " {:.2} |", s.median);
                    }
                    None => text.push_str(" |"),
                }
            }
        }
        text.push('\n');
    }
    text
}

/// The machine and today's date, for tables.
pub(crate) fn machine() -> (String, String) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map_or("?", |l| l.trim_start_matches([' ', '\t', ':']));
    let memory = read("/proc/meminfo");
    let kb: u64 = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = std::process::Command::new("date")
        .arg("+%Y-%m-%d")
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default();
    let memory_gib = kb as f64 / 1024.0 / 1024.0;
    (format!("{model}, {cores} cores (virtual), {memory_gib:.0} GiB, Linux {kernel}"), date)
}

/// Today's date and the machine.
pub(crate) fn taken() -> String {
    let (machine, date) = machine();
    format!("{date}, {machine}")
}

/// Machine, date and versions.
fn heading(rows: &[Row]) -> String {
    let (machine, date) = machine();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rounds = rows.iter().map(|r| r.round).max().unwrap_or(0);
    let peers = [Peer::Uws, Peer::Ws, Peer::Nchan, Peer::Nats, Peer::Sockudo];
    let versions: Vec<String> =
        peers.into_iter().filter(|p| p.is_installed()).map(|p| format!("{} ({})", p.name(), p.version())).collect();
    format!(
        "Taken on {date} by `make bench-peers`, in {rounds} interleaved rounds:\n\
         {machine}.\n\
         Server, load generator and publisher share the {cores} cores, over loopback. Loopback charges the\n\
         receiver's share of the kernel's work to the sender. A figure is the median of the rounds, with the\n\
         lowest and the highest; a ratio is the median of the rounds' ratios. Memory is the growth of\n\
         resident user memory. Peers:\n\n{}.\n",
        versions.iter().map(|peer| format!("- {peer}")).collect::<Vec<_>>().join(";\n")
    )
}

/// The targets, and whether each was reached.
fn targets(results: &Results<'_>) -> String {
    let uws = Peer::Uws.name();
    let median = |workload: &str, server: &str, value: &str| results.of(workload, server, value).map(|s| s.median);
    let ratio = |workload: &str, a: &str, b: &str, value: &str| results.ratio(workload, a, b, value).map(|s| s.median);
    let interval = |p99: Option<f64>| p99.map(|ms| ms - 100.0);
    let lines: Vec<(&str, Option<f64>, bool, f64, &str)> = vec![
        ("W1: CPU per delivery vs. uWebSockets", ratio("w1", "us", uws, "cpu_us"), true, 0.85, "×"),
        ("W1: CPU per delivery vs. the floor", ratio("w1", "us", Peer::Floor.name(), "cpu_us"), true, 1.15, "×"),
        ("W2: CPU per delivery vs. uWebSockets", ratio("w2", "us", uws, "cpu_us"), true, 0.85, "×"),
        ("W2 at 100 ms: CPU per delivery vs. uWebSockets", ratio("w2", "us, 100 ms", uws, "cpu_us"), true, 0.55, "×"),
        ("W2: p99", median("w2", "us", "p99_ms"), true, 50.0, "ms"),
        ("W2 at 100 ms: p99 beyond the interval", interval(median("w2", "us, 100 ms", "p99_ms")), true, 50.0, "ms"),
        ("W3: CPU per delivery vs. uWebSockets", ratio("w3", "us", uws, "cpu_us"), true, 0.40, "×"),
        ("W3: p99", median("w3", "us", "p99_ms"), true, 20.0, "ms"),
        ("W4: memory per session, 1 topic", median("w4", "us", "memory_b"), true, 600.0, "B"),
        ("W4: memory per session, 20 topics", median("w4, 20 topics", "us", "memory_b"), true, 1_200.0, "B"),
        ("W5: connects/s vs. uWebSockets", ratio("w5", "us", uws, "storm_per_s"), false, 1.0, "×"),
        ("W5: time until 10,000 have recovered", median("w5", "us", "whole_s"), true, 2.0, "s"),
        ("W6: p99 of the others vs. none slow", ratio("w6", "us", "us, none slow", "p99_ms"), true, 1.2, "×"),
        ("W6: memory per slow session", results.slow_session_bytes(), true, 65_536.0, "B"),
        ("W7: p99 age, latest", median("w7", "us, latest", "p99_ms"), true, 250.0, "ms"),
        ("W7: p99 age, merge", median("w7", "us, merge", "p99_ms"), true, 250.0, "ms"),
        ("Ingest", median("ingest", "us", "per_s"), false, 200_000.0, "deltas/s"),
    ];
    let mut text = String::from("\n## Targets\n\n| target | bound | measured | result |\n|---|---|---|---|\n");
    for (what, measured, at_most, bound, unit) in lines {
        let Some(measured) = measured else { continue };
        let good = if at_most { measured <= bound } else { measured >= bound };
        let _ = writeln!(
            text,
            "| {what} | {} {} {unit} | {} {unit} | {} |",
            if at_most { "≤" } else { "≥" },
            number(bound),
            number(measured),
            if good { "reached" } else { "**not reached**" }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn row(server: &str, round: u32, cpu: f64) -> Row {
        let values = BTreeMap::from([("cpu_us".to_owned(), cpu)]);
        Row { workload: "w1".into(), server: server.into(), round, values }
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The second round was twice as slow for both.
        let rows = [row("us", 1, 4.0), row("uWebSockets", 1, 8.0), row("us", 2, 8.0), row("uWebSockets", 2, 16.0)];
        let results = Results(&rows);
        assert!((results.ratio("w1", "us", "uWebSockets", "cpu_us").unwrap().median - 0.5).abs() < 1e-9);
        let spread = results.of("w1", "us", "cpu_us").unwrap();
        assert_eq!((spread.median, spread.low, spread.high), (6.0, 4.0, 8.0));
        assert!(targets(&results).contains("| W1: CPU per delivery vs. uWebSockets | ≤ 0.85 × | 0.50 × | reached |"));
    }
}
