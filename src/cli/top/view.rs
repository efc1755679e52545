//! A frame: the list of nodes, and details of the chosen one. Knows no terminal.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Sparkline, SparklineBar, Table, TableState};

use super::fetch::Status;
use super::model::{Board, Health, Node, Rates};
use super::table::{COLUMNS, bytes, count, millis, share};

/// Width of the text before a curve.
const CURVE_LABEL: u16 = 22;

/// Fewest lines for the chosen node, if the terminal has 24.
const DETAIL_MIN: u16 = 13;

/// Busy shares from which on a shard is yellow, and red.
const BUSY: [f64; 2] = [0.6, 0.8];

/// Ages from which on they are yellow, and red, as in the alerts.
const AGE_MS: [f64; 2] = [50.0, 100.0];

/// Colours, or none.
pub(super) struct Palette {
    colours: bool,
}

impl Palette {
    /// No colours if `NO_COLOR` is set, or the terminal has none.
    pub(super) fn of_environment() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self { colours: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb") }
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn good(&self) -> Style {
        self.colour(Color::Green)
    }

    fn warn(&self) -> Style {
        self.colour(Color::Yellow)
    }

    fn bad(&self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn curve(&self) -> Style {
        self.colour(Color::Cyan)
    }

    fn faint(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn head(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn health(&self, health: Health) -> Style {
        match health {
            Health::Ready => self.good(),
            Health::NotReady | Health::Draining => self.warn(),
            Health::Unreachable => self.bad(),
            Health::Asked => self.faint(),
        }
    }

    fn level(&self, value: f64, [warn, bad]: [f64; 2]) -> Style {
        match value {
            value if value >= bad => self.bad(),
            value if value >= warn => self.warn(),
            _ => Style::new(),
        }
    }
}

/// Draws the whole frame.
pub(super) fn draw(frame: &mut Frame<'_>, board: &Board, palette: &Palette) {
    let area = frame.area();
    let nodes = u16::try_from(board.nodes.len()).unwrap_or(u16::MAX).saturating_add(1);
    let list = nodes.min(area.height.saturating_sub(DETAIL_MIN + 3).max(3));
    let [title, list, gap, detail, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(list),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(headline(board, palette)), title);
    draw_list(frame, list, board, palette);
    if let Some(node) = board.chosen() {
        let rule = format!("── {} {}", node.label, "─".repeat(usize::from(gap.width)));
        frame.render_widget(Paragraph::new(rule).style(palette.faint()), gap);
        draw_node(frame, detail, node, palette);
    }
    let said = format!("q quit  ↑↓ node  s sort: {}  p pause  h help", board.sort.name());
    frame.render_widget(Paragraph::new(said).style(palette.faint()), keys);
    let right = if board.paused { "PAUSED".to_owned() } else { format!("every {:?}", board.interval) };
    frame.render_widget(Paragraph::new(right).alignment(Alignment::Right).style(palette.warn()), keys);
    if board.help {
        draw_help(frame, area);
    }
}

fn headline(board: &Board, palette: &Palette) -> Line<'static> {
    let ready = board.nodes.iter().filter(|node| node.health() == Health::Ready).count();
    let statuses = || board.nodes.iter().filter_map(Node::status);
    let sessions: u64 = statuses().map(|status| status.sessions.now).sum();
    let max: u64 = statuses().map(|status| status.sessions.max).sum();
    let deliveries: f64 =
        board.nodes.iter().filter_map(|node| node.rates.as_ref()).fold(0.0, |sum, r| sum + r.deliveries);
    let all = board.nodes.len();
    let style = if ready == all { palette.good() } else { palette.bad() };
    Line::from(vec![
        Span::styled("nexus-push top  ", palette.head()),
        Span::styled(format!("{ready} of {all} ready"), style),
        Span::raw(format!(
            "  {} of {} sessions  {} deliveries/s",
            count(sessions as f64),
            count(max as f64),
            count(deliveries)
        )),
    ])
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, board: &Board, palette: &Palette) {
    let columns: Vec<_> = COLUMNS.iter().filter(|column| column.from <= area.width).collect();
    let label = board.nodes.iter().map(|node| node.label.chars().count()).max().unwrap_or_default();
    let numbers: u16 = columns.iter().map(|column| column.width + 1).sum();
    let room = area.width.saturating_sub(numbers + 2).max(8);
    let label = u16::try_from(label).unwrap_or(u16::MAX).clamp(4, room);
    let mut widths = vec![Constraint::Length(label)];
    widths.extend(columns.iter().map(|column| Constraint::Length(column.width)));
    let right = |text: String| Cell::from(Line::from(text).alignment(Alignment::Right));
    let mut head = vec![Cell::from("NODE")];
    for column in &columns {
        head.push(if column.head == "STATE" { Cell::from(column.head) } else { right(column.head.to_owned()) });
    }
    let sorted = board.sorted();
    let rows = sorted.iter().map(|(_, node)| {
        let mut cells = vec![Cell::from(tail(&node.label, label))];
        for column in &columns {
            let text = (column.cell)(node).unwrap_or_default();
            let cell = match column.head {
                "STATE" => Cell::from(text).style(palette.health(node.health())),
                "P95" => right(text).style(palette.level(p95(node), AGE_MS)),
                "BUSY" => right(text).style(palette.level(node.rates.as_ref().map_or(0.0, Rates::busiest), BUSY)),
                _ => right(text),
            };
            cells.push(cell);
        }
        Row::new(cells)
    });
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(palette.faint()))
        .row_highlight_style(Style::new().add_modifier(Modifier::BOLD))
        .highlight_symbol("> ");
    let chosen = sorted.iter().position(|(index, _)| *index == board.chosen);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(chosen));
}

fn p95(node: &Node) -> f64 {
    node.rates.as_ref().and_then(Rates::age_p95_ms).unwrap_or_default()
}

/// The end of a name that is too long, because nodes mostly differ there.
fn tail(label: &str, width: u16) -> String {
    let (chars, width) = (label.chars().count(), usize::from(width));
    if chars <= width {
        return label.to_owned();
    }
    let rest: String = label.chars().skip(chars - width.saturating_sub(1)).collect();
    format!("…{rest}")
}

fn draw_node(frame: &mut Frame<'_>, area: Rect, node: &Node, palette: &Palette) {
    let Some(status) = node.status() else {
        let text = match &node.fault {
            Some(fault) => Line::styled(format!("unreachable: {fault}"), palette.bad()),
            None => Line::styled("asked, no answer yet", palette.faint()),
        };
        return frame.render_widget(Paragraph::new(text), area);
    };
    let lines = facts(node, status, palette);
    let curves = curves(node);
    let facts_height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    // The remaining lines go to the curves, at most three for each.
    let each = (area.height.saturating_sub(facts_height) / u16::try_from(curves.len()).unwrap_or(1).max(1)).clamp(1, 3);
    let mut heights: Vec<Constraint> = curves.iter().map(|_| Constraint::Length(each)).collect();
    heights.push(Constraint::Min(0));
    let areas = Layout::vertical(heights).split(area);
    for ((name, text, values), area) in curves.into_iter().zip(areas.iter()) {
        let [label, curve] = Layout::horizontal([Constraint::Length(CURVE_LABEL), Constraint::Min(0)]).areas(*area);
        let padding = usize::from(CURVE_LABEL).saturating_sub(name.len() + 2);
        frame.render_widget(Paragraph::new(format!("{name} {text:>padding$}")), label);
        let bars = values.into_iter().map(|value| SparklineBar::from(value.map(|value| whole(value.max(0.0)))));
        let newest_first = ratatui::widgets::RenderDirection::RightToLeft;
        let curve_of = Sparkline::default().data(bars).style(palette.curve()).direction(newest_first);
        frame.render_widget(curve_of.absent_value_symbol(" "), curve);
    }
    if let Some(area) = areas.last() {
        frame.render_widget(Paragraph::new(lines), *area);
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float's conversion saturates")]
fn whole(n: f64) -> u64 {
    n as u64
}

/// Name, current value, and values, newest first. Ages are in tenths of ms.
fn curves(node: &Node) -> Vec<(&'static str, String, Vec<Option<f64>>)> {
    let known = |read: fn(&Rates) -> f64| node.history.iter().map(|rates| rates.as_ref().map(read)).collect();
    let now = |text: fn(&Rates) -> String| node.rates.as_ref().map(text).unwrap_or_default();
    let age = |rates: &Option<Rates>| rates.as_ref().and_then(Rates::age_p95_ms).map(|ms| ms.min(60_000.0) * 10.0);
    vec![
        ("deliveries/s", now(|r| count(r.deliveries)), known(|r| r.deliveries)),
        ("bytes/s", now(|r| bytes(r.bytes)), known(|r| r.bytes)),
        ("writes/s", now(|r| count(r.writes)), known(|r| r.writes)),
        ("deltas/s in", now(|r| count(r.deltas)), known(|r| r.deltas)),
        ("age p95", now(|r| r.age_p95_ms().map(millis).unwrap_or_default()), node.history.iter().map(age).collect()),
        ("busiest shard", now(|r| share(r.busiest())), known(|r| r.busiest() * 1_000.0)),
    ]
}

fn facts(node: &Node, status: &Status, palette: &Palette) -> Vec<Line<'static>> {
    let sessions = &status.sessions;
    let named = |name: &'static str| Span::styled(format!("{name:<9}"), palette.faint());
    let line = |name, text: String| Line::from(vec![named(name), Span::raw(text)]);
    let health = node.health();
    let mut state = vec![named("state"), Span::styled(health.name(), palette.health(health))];
    if !status.reasons.is_empty() {
        state.push(Span::styled(format!(": {}", status.reasons.join("; ")), palette.warn()));
    }
    let flush = if status.shards.iter().all(|shard| shard.io_uring) { "io_uring" } else { "epoll" };
    let name = status.name.as_ref().map(|name| format!("{name}, ")).unwrap_or_default();
    state.push(Span::raw(format!("   {name}version {}, up {}, {flush}", status.version, uptime(status.uptime_s))));
    let full = sessions.now as f64 / (sessions.max.max(1)) as f64;
    let a_session = status.memory.bytes_per_session.map(|n| format!(", {} a session", bytes(n as f64)));
    let mut lines = vec![
        Line::from(state),
        line(
            "sessions",
            format!(
                "{} of {} ({}), {} slow; {} subscriptions of {} topics",
                count(sessions.now as f64),
                count(sessions.max as f64),
                share(full),
                count(sessions.slow as f64),
                count(status.subscriptions as f64),
                count(status.topics as f64)
            ),
        ),
        line("memory", format!("{}{}", bytes(status.memory.rss_bytes as f64), a_session.unwrap_or_default())),
    ];
    let conflated = node.rates.as_ref().map(|r| format!(", {} conflated/s", count(r.conflated))).unwrap_or_default();
    lines.push(line(
        "waiting",
        format!(
            "{} in the longest queue, {} of backlog{conflated}",
            count(status.queue_depth as f64),
            bytes(status.backlog_bytes as f64)
        ),
    ));
    let ages = node.rates.as_ref().and_then(|r| r.age_ms);
    lines.push(match ages {
        Some([p50, p95, p99]) => Line::from(vec![
            named("age"),
            Span::raw(format!("p50 {}, p95 ", millis(p50))),
            Span::styled(millis(p95), palette.level(p95, AGE_MS)),
            Span::raw(format!(", p99 {}", millis(p99))),
        ]),
        None => line("age", "no deliveries".to_owned()),
    });
    let mut shards = vec![named("shards")];
    for (at, shard) in status.shards.iter().enumerate() {
        let busy = node.rates.as_ref().and_then(|rates| rates.busy.get(at).copied());
        let text = busy.map_or_else(|| "-".to_owned(), share);
        shards.push(Span::styled(format!("{text} busy"), palette.level(busy.unwrap_or_default(), BUSY)));
        shards.push(Span::raw(format!(" with {}   ", count(shard.sessions as f64))));
    }
    lines.push(Line::from(shards));
    let closes = node.rates.as_ref().map(|rates| &rates.closes).filter(|closes| !closes.is_empty());
    let closes = closes.map(|closes| {
        let each: Vec<String> = closes.iter().map(|(reason, rate)| format!("{reason} {}/s", count(*rate))).collect();
        each.join(", ")
    });
    lines.push(line("closes", closes.unwrap_or_else(|| "none".to_owned())));
    for source in &status.sources {
        let how = if source.connected { "connected" } else { "NOT CONNECTED" };
        let style = if source.connected { Style::new() } else { palette.bad() };
        lines.push(Line::from(vec![
            named("source"),
            Span::styled(format!("{} {how}", source.name), style),
            Span::raw(format!(", {} behind", millis(source.lag_ms as f64))),
            Span::styled(
                if source.note.is_empty() { String::new() } else { format!("  {}", source.note) },
                palette.warn(),
            ),
        ]));
    }
    lines
}

fn uptime(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

const HELP: &[&str] = &[
    " q, Ctrl-C   quit",
    " ↑ ↓, k j    choose a node",
    " s           sort: as given, sessions, deliveries, age, busy",
    " p, space    pause, continue",
    " h, ?        this help",
    "",
    " Ages are from source to socket, quantiles over the interval.",
    " Busy: share of its time that a shard works; 80 % is too much.",
];

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = (area.width.min(66), area.height.min(10));
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    let block = ratatui::widgets::Block::bordered().title(" help ");
    frame.render_widget(Clear, area);
    frame
        .render_widget(Paragraph::new(HELP.iter().map(|line| Line::raw(*line)).collect::<Vec<_>>()).block(block), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::top::model::tests::board;
    use crate::cli::top::model::{Sort, Wish};

    fn drawn(board: &Board, width: u16, height: u16, colours: bool) -> TestBackend {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, board, &Palette { colours })).unwrap();
        terminal.backend().clone()
    }

    fn lines(board: &Board, width: u16, height: u16) -> Vec<String> {
        let backend = drawn(board, width, height, true);
        let cells: Vec<&str> = backend.buffer().content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    #[test]
    fn three_nodes_on_the_smallest_terminal() {
        let expected = "\
nexus-push top  1 of 3 ready  10,010 of 130k sessions  24,600 deliveries/s
  NODE          STATE       SESSIONS DELIV/S WRITES/S BYTES/S   P95 BUSY  QUEUE
> 10.0.0.1:8000 ready          5,000  12,300    8,100   3.4MB 5.0ms  34%     12
  10.0.0.2:8000 draining       5,010  12,300    8,100   3.4MB 5.0ms  34%     12
  10.0.0.3:8000 unreachable
── 10.0.0.1:8000 ───────────────────────────────────────────────────────────────
deliveries/s   12,300                                                        ███
bytes/s         3.4MB                                                        ███
writes/s        8,100                                                        ███
deltas/s in       500                                                        ███
age p95         5.0ms                                                        ███
busiest shard     34%                                                        ███
state    ready   version 0.1.0, up 2h 3m, io_uring
sessions 5,000 of 65,024 (8%), 3 slow; 100k subscriptions of 500 topics
memory   82.0MB, 1.2kB a session
waiting  12 in the longest queue, 2.0kB of backlog, 40 conflated/s
age      p50 2.0ms, p95 5.0ms, p99 10ms
shards   34% busy with 2,500   20% busy with 2,500
closes   slow 2/s
source   redis nexus:deltas connected, 4.0ms behind



q quit  ↑↓ node  s sort: as given  p pause  h help                      every 1s";
        assert_eq!(lines(&board(3), 80, 24).join("\n"), expected);
    }

    #[test]
    fn wider_terminals_show_more() {
        for (width, heads) in [
            (60, "NODE STATE SESSIONS DELIV/S P95 BUSY"),
            (80, "NODE STATE SESSIONS DELIV/S WRITES/S BYTES/S P95 BUSY QUEUE"),
            (100, "NODE STATE SESSIONS DELTAS/S DELIV/S WRITES/S BYTES/S P50 P95 P99 BUSY QUEUE"),
            (
                160,
                "NODE STATE SESSIONS MAX TOPICS DELTAS/S DELIV/S WRITES/S BYTES/S P50 P95 P99 BUSY QUEUE BACKLOG SLOW MEMORY",
            ),
        ] {
            let lines = lines(&board(2), width, 30);
            assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>().join(" "), heads, "{width}");
        }
    }

    /// Whatever the terminal's size, and with more nodes than lines, the chosen node is visible.
    #[test]
    fn no_size_is_too_small_or_too_large() {
        let mut many = board(40);
        many.chosen = 37;
        for (width, height) in [(1, 1), (5, 3), (20, 8), (40, 12), (80, 24), (81, 25), (250, 80)] {
            for board in [&board(1), &board(3), &many] {
                drawn(board, width, height, true);
            }
        }
        assert!(lines(&many, 80, 24).iter().any(|line| line.starts_with("> 10.0.0.38:8000")));
    }

    #[test]
    fn without_colours_there_are_none() {
        for (colours, expected) in [(true, true), (false, false)] {
            let backend = drawn(&board(3), 80, 24, colours);
            let coloured = |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
            assert_eq!(backend.buffer().content().iter().any(coloured), expected);
        }
    }

    #[test]
    fn states_of_the_screen() {
        for (wish, needle) in [
            (Wish::Pause, "PAUSED"),
            (Wish::Help, "Ages are from source to socket"),
            (Wish::Sort, "sort: sessions"),
            (Wish::Down, "── 10.0.0.2:8000 ─"),
        ] {
            let mut board = board(3);
            assert!(!lines(&board, 80, 24).join("\n").contains(needle), "{wish:?}");
            board.obey(wish);
            assert!(lines(&board, 80, 24).join("\n").contains(needle), "{wish:?}");
        }
        let mut gone = board(3);
        gone.chosen = 2;
        assert!(lines(&gone, 80, 24).contains(&"unreachable: Connection refused (os error 111)".to_owned()));
        assert_eq!(gone.sort, Sort::AsGiven);
    }

    #[test]
    fn times_and_names_are_short() {
        for (seconds, text) in [(59, "59s"), (61, "1m 1s"), (7_380, "2h 3m"), (200_000, "2d 7h")] {
            assert_eq!(uptime(seconds), text);
        }
        assert_eq!(tail("push-1.eu-west.example.com:8000", 12), "…le.com:8000");
        assert_eq!(tail("push-1:8000", 12), "push-1:8000");
    }
}
