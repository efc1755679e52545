//! Objectives on the command line.

use anyhow::{Context as _, bail};

/// One objective.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Objective {
    /// A latency quantile (`max` is 1.0) and its bound in ms.
    Quantile { name: String, quantile: f64, bound_ms: f64 },
    /// Largest share of failed sessions or deliveries.
    Errors { bound: f64 },
}

/// Reads `p99=50ms,errors=0.1%`.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Objective>> {
    text.split(',').map(|part| one(part.trim())).collect()
}

fn one(part: &str) -> anyhow::Result<Objective> {
    let (name, bound) = part.split_once('=').with_context(|| format!("--slo {part:?}: write name=bound"))?;
    if name == "errors" {
        let percent =
            bound.strip_suffix('%').with_context(|| format!("--slo {part:?}: write a percentage, as 0.1%"))?;
        return Ok(Objective::Errors {
            bound: percent.parse::<f64>().with_context(|| format!("--slo {part:?}"))? / 100.0,
        });
    }
    let bound_ms = if let Some(ms) = bound.strip_suffix("ms") {
        ms.parse::<f64>()
    } else if let Some(s) = bound.strip_suffix('s') {
        s.parse::<f64>().map(|s| s * 1_000.0)
    } else {
        bail!("--slo {part:?}: write a time, as 50ms or 1s");
    };
    let bound_ms = bound_ms.with_context(|| format!("--slo {part:?}"))?;
    let quantile = match name {
        "max" => 1.0,
        _ => match name.strip_prefix('p').and_then(|p| p.parse::<f64>().ok()) {
            Some(p) if (0.0..=100.0).contains(&p) => p / 100.0,
            _ => bail!("--slo {part:?}: the names are p50, p95, p99, p99.9, max and errors"),
        },
    };
    Ok(Objective::Quantile { name: name.to_owned(), quantile, bound_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives() {
        let quantile = |name: &str, quantile, bound_ms| Objective::Quantile { name: name.into(), quantile, bound_ms };
        assert_eq!(
            parse("p99=50ms,max=2s,errors=0.1%").unwrap(),
            [quantile("p99", 0.99, 50.0), quantile("max", 1.0, 2_000.0), Objective::Errors { bound: 0.001 }]
        );
        assert_eq!(parse("p99.9=1ms").unwrap(), [quantile("p99.9", 0.9990000000000001, 1.0)]);
        for bad in ["", "p99", "p99=50", "x=1ms", "errors=1", "p101=1ms"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
