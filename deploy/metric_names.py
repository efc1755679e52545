"""The names that GET /metrics has, read from the sources that register them."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The alerts and the dashboard may use these beside the server's own.
PROMETHEUS = {"up"}


def exported():
    metrics = (ROOT / "src/metrics.rs").read_text()
    server = (ROOT / "src/server.rs").read_text()
    kinds = {name: "Counter" for name in re.findall(r'\br\.register\(\s*"(\w+)"', metrics)}
    kinds |= dict(re.findall(r'\(\s*"(\w+)",\s*"[^"]*",\s*MetricType::(\w+)', metrics))
    kinds |= dict(re.findall(r'put\(\s*&mut encoder,\s*"(\w+)",\s*"[^"]*",\s*MetricType::(\w+)', metrics))
    units = {}
    for name, unit, kind in re.findall(
        r'encode_descriptor\(\s*"(\w+)",\s*"[^"]*",\s*(?:None|Some\(&Unit::(\w+)\)),\s*MetricType::(\w+)', metrics
    ):
        kinds[name] = kind
        units[name] = unit.lower()
    kinds |= {name: "Gauge" for name in re.findall(r'\bput\(\s*"(\w+)"', server)}
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
