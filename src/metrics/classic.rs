//! The older of the two text formats, for clients that do not ask for OpenMetrics: `curl`,
//! `promtool check metrics`.

/// Converts an OpenMetrics text to Prometheus' text format 0.0.4: counters are named like their
/// samples, and units appear only in names.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Its name depends on the kind, which follows.
            help = rest.split_once(' ');
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                out.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            continue;
        }
        if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_counters_change_and_samples_stay() {
        let open = "# HELP a Deltas.\n# TYPE a counter\na_total 3\n# HELP b_seconds Age.\n# TYPE b_seconds histogram\n\
                    # UNIT b_seconds seconds\nb_seconds_sum 0.5\nb_seconds_bucket{le=\"+Inf\"} 1\n# HELP c Now.\n\
                    # TYPE c gauge\nc{of=\"# HELP x\"} 1\n# EOF\n";
        let classic = "# HELP a_total Deltas.\n# TYPE a_total counter\na_total 3\n# HELP b_seconds Age.\n\
                       # TYPE b_seconds histogram\nb_seconds_sum 0.5\nb_seconds_bucket{le=\"+Inf\"} 1\n# HELP c Now.\n\
                       # TYPE c gauge\nc{of=\"# HELP x\"} 1\n";
        assert_eq!(super::from_open_metrics(open), classic);
    }
}
