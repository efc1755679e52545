//! Bars with ranges, as SVG for light and dark pages.

use std::fmt::Write as _;

/// One bar: median, lowest and highest.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) ours: bool,
}

const WIDTH: f64 = 720.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;

/// A chart of `bars`; less is better unless the title says otherwise.
pub(crate) fn svg(title: &str, unit: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|b| b.high).fold(0.0_f64, f64::max).max(f64::MIN_POSITIVE);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / most;
    let height = TOP + ROW * bars.len() as f64 + 12.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n\
         <style>text{{font:13px system-ui,sans-serif;fill:#24292f}}.t{{font-weight:600}}.u{{fill:#6e7781}}.o{{fill:#0b7a75}}\
         .p{{fill:#afb8c1}}.w{{stroke:#57606a;stroke-width:1.5}}@media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}\
         .u{{fill:#9da7b3}}.o{{fill:#2dd4bf}}.p{{fill:#484f58}}.w{{stroke:#9da7b3}}}}</style>\n\
         <text class=\"t\" x=\"8\" y=\"18\">{}</text><text class=\"u\" x=\"8\" y=\"35\">{}</text>\n",
        escaped(title),
        escaped(title),
        escaped(unit)
    );
    for (bar, row) in bars.iter().zip(0u16..) {
        let y = TOP + ROW * f64::from(row);
        let middle = y + ROW / 2.0 - 2.0;
        let class = if bar.ours { "o" } else { "p" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" rx=\"2\"/>\
             <path class=\"w\" d=\"M{:.1} {middle:.1}H{:.1}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LEFT - 8.0,
            middle + 4.5,
            escaped(&bar.name),
            y + 3.0,
            (x(bar.median) - LEFT).max(1.0),
            ROW - 10.0,
            x(bar.low),
            x(bar.high),
            x(bar.high) + 8.0,
            middle + 4.5,
            number(bar.median),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// One quantity over time.
pub(crate) struct Panel<'a> {
    pub(crate) title: &'a str,
    /// (minute, value)
    pub(crate) points: &'a [(f64, f64)],
}

const PANEL: f64 = 110.0;

/// Several quantities over the same minutes, one below the other, each from zero; `shaded` are windows, in minutes.
pub(crate) fn lines(title: &str, panels: &[Panel<'_>], shaded: &[(f64, f64)]) -> String {
    let minutes = panels.iter().flat_map(|p| p.points).map(|(m, _)| *m).fold(0.1_f64, f64::max);
    let x = |minute: f64| 60.0 + (WIDTH - 72.0) * minute / minutes;
    let height = TOP + (PANEL + 30.0) * panels.len() as f64 + 12.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}\">\n\
         <style>text{{font:13px system-ui,sans-serif;fill:#24292f}}.t{{font-weight:600}}.u{{fill:#6e7781}}\
         .l{{fill:none;stroke:#0b7a75;stroke-width:1.5}}.s{{fill:#afb8c1;opacity:.35}}.a{{stroke:#afb8c1}}\
         @media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.u{{fill:#9da7b3}}.l{{stroke:#2dd4bf}}.s{{fill:#484f58}}\
         .a{{stroke:#484f58}}}}</style>\n<text class=\"t\" x=\"8\" y=\"18\">{0}</text>\n",
        escaped(title)
    );
    for (panel, row) in panels.iter().zip(0u16..) {
        let top = TOP + (PANEL + 30.0) * f64::from(row);
        let most = panel.points.iter().map(|(_, v)| *v).fold(0.0_f64, f64::max).max(f64::MIN_POSITIVE) * 1.1;
        let y = |value: f64| top + PANEL * (1.0 - value / most);
        for (from, to) in shaded {
            let (from, width) = (x(*from), x(*to) - x(*from));
            let _ = writeln!(
                out,
                "<rect class=\"s\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{PANEL}\"/>"
            );
        }
        let points: Vec<String> = panel.points.iter().map(|(m, v)| format!("{:.1},{:.1}", x(*m), y(*v))).collect();
        let bottom = top + PANEL;
        let _ = writeln!(
            out,
            "<text class=\"u\" x=\"60\" y=\"{}\">{}</text><text class=\"u\" x=\"52\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <text class=\"u\" x=\"52\" y=\"{bottom}\" text-anchor=\"end\">0</text>\
             <path class=\"a\" d=\"M60 {bottom}H{}\"/><polyline class=\"l\" points=\"{}\"/>\
             <text class=\"u\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{} min</text>",
            top - 6.0,
            escaped(panel.title),
            top + 10.0,
            number(most),
            WIDTH - 12.0,
            points.join(" "),
            WIDTH - 12.0,
            bottom + 14.0,
            number(minutes)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// With as many digits as are meaningful.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => {
            let digits = format!("{value:.0}");
            let mut out = String::new();
            for (i, c) in digits.chars().enumerate() {
                if i > 0 && (digits.len() - i).is_multiple_of(3) {
                    out.push(',');
                }
                out.push(c);
            }
            out
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (value, text) in [(0.456, "0.46"), (12.34, "12.3"), (123.4, "123"), (1234567.0, "1,234,567"), (0.0, "0.00")]
        {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_chart_has_a_bar_for_each() {
        let bar = |name: &str, ours| Bar { name: name.into(), median: 2.0, low: 1.0, high: 3.0, ours };
        let svg = svg("W1 & more", "µs", &[bar("us", true), bar("<them>", false)]);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("&lt;them&gt;") || svg.contains("&lt;them>"));
        assert!(svg.contains("W1 &amp; more"));
    }
}
