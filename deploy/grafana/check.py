"""Checks the dashboard, and the alerts beside it: every PromQL expression is parsed by promtool (as a recording rule in a
temporary file), every metric name is one that the server exports."""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from metric_names import unknown

dashboard = json.loads((HERE / "nexus-push.json").read_text())
variables = {v["name"] for v in dashboard["templating"]["list"]}
panels = [p for p in dashboard["panels"] if p["type"] != "row"]
faults = []


def expand(expression):
    """Replaces Grafana's variables by values of the same form."""
    return re.sub(r"\$\{?\w+\}?", "x", expression.replace("$__rate_interval", "5m").replace("$__interval", "1m"))


if not any(v["type"] == "datasource" for v in dashboard["templating"]["list"]):
    faults.append("there is no variable for the data source")
if len({p["id"] for p in dashboard["panels"]}) != len(dashboard["panels"]):
    faults.append("two panels have one id")
expressions = []
for panel in panels:
    if panel["datasource"]["uid"] != "${datasource}":
        faults.append(f"{panel['title']}: a fixed data source")
    for target in panel["targets"]:
        expressions.append((panel["title"], target["expr"]))
        for variable in set(re.findall(r"\$\{?(\w+)", target["expr"])) - variables - {"__rate_interval", "__interval"}:
            faults.append(f"{panel['title']}: there is no variable {variable}")

rules = [{"record": f"check:{n}", "expr": expand(e)} for n, (_, e) in enumerate(expressions)]
with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
    yaml.safe_dump({"groups": [{"name": "check", "rules": rules}]}, file)
    file.flush()
    outcome = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
if outcome.returncode:
    faults.append(outcome.stdout + outcome.stderr)

alerts = yaml.safe_load((HERE.parent / "prometheus/alerts.yml").read_text())["groups"]
for group in alerts:
    for rule in group["rules"]:
        expressions.append((rule["alert"], rule["expr"]))
        if rule["annotations"]["runbook_url"] != f"docs/operations.md#{rule['alert'].lower()}":
            faults.append(f"{rule['alert']}: runbook_url")
for title, expression in expressions:
    if names := unknown(expression):
        faults.append(f"{title}: the server does not export {', '.join(names)}")

print("\n".join(faults) or f"{len(panels)} panels, {len(rules)} expressions, {len(expressions) - len(rules)} alerts: names and PromQL are good")
sys.exit(bool(faults))
