"""The names of GET /metrics, read from docs/metrics.md; a test compares that page with the server."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The alerts and the dashboard may use these besides the server's own.
PROMETHEUS = {"up"}


def exported():
    page = (ROOT / "docs/metrics.md").read_text()
    names = set()
    for name, kind in re.findall(r"^\| `(\w+)(?:\{[\w,]*\})?` \| (\w+) \|", page, re.MULTILINE):
        suffixes = ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]
        names |= {f"nexus_push_{name}{suffix}" for suffix in suffixes}
    return names


def unknown(expression):
    """Metric names of a PromQL expression that do not exist."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    used = set(re.findall(r"\bnexus_push\w*\b", text)) | set(re.findall(r"(?<![\w.])(\w+)\s*[{\[]", text))
    return sorted(used - exported() - PROMETHEUS)


if __name__ == "__main__":
    print("\n".join(sorted(exported())))
