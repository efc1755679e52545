//! Bytes per user of the recorded market data: in each dialect, with and without compression, at the recorded pace and
//! throttled.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::client::protocol::Protocol;
use crate::commands::once::once;
use crate::commands::workload::{Name, RunArgs};
use crate::report::benchmarks::{Marks, median, rewrite};

/// Marks of the table in its document.
const MARKS: Marks = Marks { begin: "<!-- egress: begin -->", end: "<!-- egress: end -->" };

/// Seconds in a month of a dashboard that is open on working days: 8 hours on 22 days.
const MONTH_S: f64 = 8.0 * 22.0 * 3_600.0;

/// Number of users whose monthly price is computed.
const USERS: f64 = 10_000.0;

#[derive(Debug, Clone, Args)]
pub(crate) struct EgressArgs {
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Sessions, each on all topics
    #[arg(long, default_value_t = 400)]
    sessions: usize,
    /// Seconds of the recordings
    #[arg(long, default_value_t = 15.0)]
    recording_seconds: f64,
    /// Folder of the recordings
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Prices of egress, $ per GB
    #[arg(long, value_delimiter = ',', default_value = "0.09,0.01")]
    prices: Vec<f64>,
    /// The document
    #[arg(long, default_value = "docs/benchmarks.md")]
    out: PathBuf,
}

struct Form {
    name: &'static str,
    protocol: Protocol,
    deflate: bool,
    batch: bool,
}

const FORMS: [Form; 5] = [
    Form { name: "`plain`", protocol: Protocol::Plain, deflate: false, batch: false },
    Form { name: "`plain`, deflate", protocol: Protocol::Plain, deflate: true, batch: false },
    Form { name: "`plain`, deflate, one message per write", protocol: Protocol::Plain, deflate: true, batch: true },
    Form { name: "Centrifuge JSON", protocol: Protocol::Centrifuge, deflate: false, batch: false },
    Form { name: "Centrifuge JSON, deflate", protocol: Protocol::Centrifuge, deflate: true, batch: false },
];

const RATES: [Option<f64>; 3] = [None, Some(10.0), Some(2.0)];

/// The cost of one user.
#[derive(Clone, Copy)]
struct Cost {
    deliveries_per_s: f64,
    bytes_per_s: f64,
    cpu_us_per_s: f64,
}

pub(crate) fn run(args: &EgressArgs) -> anyhow::Result<bool> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); RATES.len() * FORMS.len()];
    for round in 1..=args.rounds {
        let mut all = costs.iter_mut();
        for max_rate in RATES {
            for form in &FORMS {
                println!("round {round}: {}, {}", form.name, rate_name(max_rate));
                let Some(place) = all.next() else { continue };
                place.push(measure(args, form, max_rate)?);
            }
        }
    }
    rewrite(&args.out, &MARKS, &table(args, &costs))?;
    println!("written to {}", args.out.display());
    Ok(true)
}

fn measure(args: &EgressArgs, form: &Form, max_rate: Option<f64>) -> anyhow::Result<Cost> {
    let report = once(&RunArgs {
        sessions: Some(args.sessions),
        recording_seconds: Some(args.recording_seconds),
        data: args.data.clone(),
        dialect: form.protocol,
        deflate: form.deflate,
        batch: form.batch,
        max_rate,
        quiet: true,
        ..RunArgs::of(Name::W8)
    })
    .with_context(|| format!("{}, {}", form.name, rate_name(max_rate)))?;
    let user_seconds = args.sessions as f64 * report.publish_s.max(0.001);
    Ok(Cost {
        deliveries_per_s: report.deliveries as f64 / user_seconds,
        bytes_per_s: report.bytes as f64 / user_seconds,
        cpu_us_per_s: report.cpu_s * 1e6 / user_seconds,
    })
}

fn rate_name(max_rate: Option<f64>) -> String {
    max_rate.map_or_else(|| "as recorded".to_owned(), |rate| format!("at most {rate}/s per topic"))
}

fn table(args: &EgressArgs, costs: &[Vec<Cost>]) -> String {
    let mut text = format!(
        "By `nexus-loadtest egress`: {} sessions, {} s of the recordings at their own pace, medians of {} rounds.\n\
         Each session is on all 13 topics: quotes, order books and trades of five instruments. Trades are a\n\
         `stream` and never throttled. Bytes are those of WebSocket frames; TCP and IP add 52 bytes per\n\
         packet. A month is 8 hours on 22 days.\n",
        args.sessions, args.recording_seconds, args.rounds
    );
    let of = |at: usize, read: fn(&Cost) -> f64| {
        costs.get(at).map_or(0.0, |rounds| median(rounds.iter().map(read).collect()).unwrap_or(0.0))
    };
    for (n, max_rate) in RATES.into_iter().enumerate() {
        let _ = write!(
            text,
            "\n### {}\n\n| protocol | deliveries/s per user | kB/s per user | bytes vs. `plain` | CPU vs. `plain` | \
             GB per month |",
            rate_name(max_rate)
        );
        for price in &args.prices {
            let _ = write!(text, " 10,000 users per month at ${price} per GB |");
        }
        let _ = writeln!(text, "\n|---|---|---|---|---|---|{}", "---|".repeat(args.prices.len()));
        let first = n * FORMS.len();
        for (i, form) in FORMS.iter().enumerate() {
            let at = first + i;
            let bytes = of(at, |c| c.bytes_per_s);
            let gb = bytes * MONTH_S / 1e9;
            let _ = write!(
                text,
                "| {} | {:.0} | {:.1} | {:.2} | {:.2} | {:.1} |",
                form.name,
                of(at, |c| c.deliveries_per_s),
                bytes / 1e3,
                bytes / of(first, |c| c.bytes_per_s).max(1.0),
                of(at, |c| c.cpu_us_per_s) / of(first, |c| c.cpu_us_per_s).max(0.001),
                gb
            );
            for price in &args.prices {
                let _ = write!(text, " ${:.0} |", gb * price * USERS);
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_a_price() {
        let args = EgressArgs {
            rounds: 1,
            sessions: 10,
            recording_seconds: 15.0,
            data: PathBuf::new(),
            prices: vec![0.09],
            out: PathBuf::new(),
        };
        let cost = |bytes_per_s| Cost { deliveries_per_s: 5.0, bytes_per_s, cpu_us_per_s: 10.0 };
        let mut costs = vec![vec![cost(1_000.0)]; RATES.len() * FORMS.len()];
        costs[1] = vec![cost(450.0)];
        // 1 kB/s for 176 hours is 0.63 GB.
        let text = table(&args, &costs);
        assert!(text.contains("| `plain` | 5 | 1.0 | 1.00 | 1.00 | 0.6 | $570 |"), "{text}");
        assert!(text.contains("| `plain`, deflate | 5 | 0.5 | 0.45 | 1.00 | 0.3 | $257 |"), "{text}");
    }
}
