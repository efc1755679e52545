//! Columns of the list of nodes, and the list as text.

use super::model::{Board, Node, Rates};

/// A column.
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) width: u16,
    /// Smallest width of a terminal that shows it.
    pub(super) from: u16,
    pub(super) cell: fn(&Node) -> Option<String>,
}

/// All columns after the node's name.
pub(super) const COLUMNS: &[Column] = &[
    Column { head: "STATE", width: 11, from: 0, cell: |n| Some(n.health().name().to_owned()) },
    Column { head: "SESSIONS", width: 8, from: 0, cell: |n| Some(count(n.status()?.sessions.now as f64)) },
    Column { head: "MAX", width: 7, from: 120, cell: |n| Some(count(n.status()?.sessions.max as f64)) },
    Column { head: "TOPICS", width: 7, from: 120, cell: |n| Some(count(n.status()?.topics as f64)) },
    Column { head: "DELTAS/S", width: 8, from: 100, cell: |n| rate(n, |r| r.deltas) },
    Column { head: "DELIV/S", width: 7, from: 0, cell: |n| rate(n, |r| r.deliveries) },
    Column { head: "WRITES/S", width: 8, from: 76, cell: |n| rate(n, |r| r.writes) },
    Column { head: "BYTES/S", width: 7, from: 66, cell: |n| Some(bytes(n.rates.as_ref()?.bytes)) },
    Column { head: "P50", width: 5, from: 100, cell: |n| age(n, 0) },
    Column { head: "P95", width: 5, from: 0, cell: |n| age(n, 1) },
    Column { head: "P99", width: 5, from: 100, cell: |n| age(n, 2) },
    Column { head: "BUSY", width: 4, from: 0, cell: |n| Some(share(n.rates.as_ref()?.busiest())) },
    Column { head: "QUEUE", width: 6, from: 72, cell: |n| Some(count(n.status()?.queue_depth as f64)) },
    Column { head: "BACKLOG", width: 7, from: 140, cell: |n| Some(bytes(n.status()?.backlog_bytes as f64)) },
    Column { head: "SLOW", width: 5, from: 140, cell: |n| Some(count(n.status()?.sessions.slow as f64)) },
    Column { head: "MEMORY", width: 7, from: 120, cell: |n| Some(bytes(n.status()?.memory.rss_bytes as f64)) },
];

fn rate(node: &Node, read: fn(&Rates) -> f64) -> Option<String> {
    Some(count(read(node.rates.as_ref()?)))
}

fn age(node: &Node, which: usize) -> Option<String> {
    node.rates.as_ref()?.age_ms?.get(which).map(|ms| millis(*ms))
}

/// A number that fits seven columns.
pub(super) fn count(n: f64) -> String {
    match n {
        n if n >= 9_999_500.0 => format!("{:.1}M", n / 1e6),
        n if n >= 99_999.5 => format!("{:.0}k", n / 1e3),
        n if n >= 999.5 => {
            let text = format!("{n:.0}");
            let (thousands, rest) = text.split_at_checked(text.len().saturating_sub(3)).unwrap_or(("", &text));
            format!("{thousands},{rest}")
        }
        n if n >= 9.95 || n == 0.0 || n.fract() == 0.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    }
}

/// Bytes, in the unit that leaves at most four digits.
pub(super) fn bytes(n: f64) -> String {
    let (mut n, mut unit) = (n, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if n < 999.5 {
            break;
        }
        (n, unit) = (n / 1e3, larger);
    }
    if unit == "B" || n >= 99.95 { format!("{n:.0}{unit}") } else { format!("{n:.1}{unit}") }
}

pub(super) fn share(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms.is_infinite() => ">10s".to_owned(),
        ms if ms >= 999.5 => format!("{:.1}s", ms / 1e3),
        ms if ms >= 9.95 => format!("{ms:.0}ms"),
        ms => format!("{ms:.1}ms"),
    }
}

/// All columns of all nodes as lines of text; the reason why a node is unreachable follows its
/// state.
pub(super) fn of(board: &Board) -> String {
    let width = board.nodes.iter().map(|node| node.label.chars().count()).max().unwrap_or_default().max(4);
    let mut text = format!("{:width$}", "NODE");
    for column in COLUMNS {
        text += &padded(column.head, column);
    }
    text.push('\n');
    for (_, node) in board.sorted() {
        let mut line = format!("{:width$}", node.label);
        for column in COLUMNS {
            line += &padded(&(column.cell)(node).unwrap_or_else(|| "-".to_owned()), column);
        }
        if let Some(fault) = &node.fault {
            line = format!("{:width$} {}: {fault}", node.label, node.health().name());
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Names to the left, numbers to the right.
fn padded(cell: &str, column: &Column) -> String {
    let width = usize::from(column.width);
    if column.head == "STATE" { format!(" {cell:width$}") } else { format!(" {cell:>width$}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::model::tests::board;

    #[test]
    fn numbers_are_short() {
        for (n, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (3.0, "3"),
            (9.97, "10"),
            (999.0, "999"),
            (999.7, "1,000"),
            (65_024.0, "65,024"),
            (123_456.0, "123k"),
            (12_345_678.0, "12.3M"),
        ] {
            assert_eq!(count(n), text);
        }
        for (n, text) in [(0.0, "0B"), (1_230.0, "1.2kB"), (999_700.0, "1.0MB"), (82e6, "82.0MB"), (250e9, "250GB")] {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in [(0.42, "0.4ms"), (12.0, "12ms"), (2_500.0, "2.5s"), (f64::INFINITY, ">10s")] {
            assert_eq!(millis(ms), text);
        }
        assert_eq!(share(0.337), "34%");
    }

    #[test]
    fn the_table() {
        let expected = "\
NODE          STATE       SESSIONS     MAX  TOPICS DELTAS/S DELIV/S WRITES/S BYTES/S   P50   P95   P99 BUSY  QUEUE BACKLOG  SLOW  MEMORY
10.0.0.1:8000 ready          5,000  65,024     500      500  12,300    8,100   3.4MB 2.0ms 5.0ms  10ms  34%     12   2.0kB     3  82.0MB
10.0.0.2:8000 draining       5,010  65,024     500      500  12,300    8,100   3.4MB 2.0ms 5.0ms  10ms  34%     12   2.0kB     3  82.0MB
10.0.0.3:8000 unreachable: Connection refused (os error 111)
";
        assert_eq!(of(&board(3)), expected);
    }
}
