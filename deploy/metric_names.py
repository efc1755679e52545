"""The names that GET /metrics has, read from the sources that register them."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The alerts and the dashboard may use these beside the server's own.
PROMETHEUS = {"up"}


def exported():
    metrics = (ROOT / "src/metrics.rs").read_text()
    gauges = (ROOT / "src/server/gauges.rs").read_text()
    gauges_held = set(re.findall(r"pub (\w+): Gauge", metrics))
    registered = re.findall(r'\br\.register\(\s*"(\w+)",\s*"[^"]*",\s*self\.(\w+)\.clone', metrics)
    kinds = {name: "Gauge" if field in gauges_held else "Counter" for name, field in registered}
    kinds |= dict(re.findall(r'\(\s*"(\w+)",\s*"[^"]*",\s*MetricType::(\w+)', metrics))
    kinds |= dict(re.findall(r'put\(\s*&mut encoder,\s*"(\w+)",\s*"[^"]*",\s*MetricType::(\w+)', metrics))
    units = {}
    for name, unit, kind in re.findall(
        r'encode_descriptor\(\s*"(\w+)",\s*"[^"]*",\s*(?:None|Some\(&Unit::(\w+)\)),\s*MetricType::(\w+)', metrics
    ):
        kinds[name] = kind
        units[name] = unit.lower()
    # The kind of a reading is the last word of its call: a helper's, if it is not said there.
    readings = re.findall(r'\bput\(\s*"(\w+)",\s*"[^"]*",[^;]*?(Reading::Total|;)', gauges)
    kinds |= {name: "Counter" if kind == "Reading::Total" else "Gauge" for name, kind in readings}
    names = set()
    for name, kind in kinds.items():
        full = "_".join(part for part in ("nexus_push", name, units.get(name)) if part)
        suffixes = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}[kind]
        names |= {full + suffix for suffix in suffixes}
    return names


def unknown(expression):
    """Metric names of a PromQL expression that nothing exports."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    used = set(re.findall(r"\bnexus_push\w*\b", text)) | set(re.findall(r"(?<![\w.])(\w+)\s*[{\[]", text))
    return sorted(used - exported() - PROMETHEUS)


if __name__ == "__main__":
    print("\n".join(sorted(exported())))
