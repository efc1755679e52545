"""Checks compose.yml without Docker: it is YAML, and the files, services and variables that it names exist."""
import re
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
compose = yaml.safe_load((HERE / "compose.yml").read_text())
services, volumes = compose["services"], compose["volumes"]
defaults = (HERE.parent / "config/default.toml").read_text()
faults = []

for name, service in services.items():
    for needed in service.get("depends_on", []):
        if needed not in services:
            faults.append(f"{name}: depends on {needed}, which is not there")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if not ((HERE / source).exists() if source.startswith(".") else source in volumes):
            faults.append(f"{name}: {source} does not exist")
    for port in service.get("ports", []):
        if not port.startswith("127.0.0.1:"):
            faults.append(f"{name}: {port} is reachable from outside, and everything here is open")
    for key in service.get("environment", {}):
        if key.startswith("NEXUS_") and not re.search(rf"(?m)^#? ?{key.split('__')[-1].lower()} = ", defaults):
            faults.append(f"{name}: {key} sets nothing that config/default.toml knows")

# Services that are addressed by name: HAProxy's servers, Prometheus' targets, Grafana's data source.
named = {
    "haproxy/haproxy.cfg": r"(?m)^\s*server \S+ ([\w-]+):\d+",
    "prometheus/prometheus.yml": r"([\w-]+):\d+[,\]]",
    "grafana/provisioning/datasources/prometheus.yml": r"url: http://([\w-]+):",
}
for file, pattern in named.items():
    hosts = set(re.findall(pattern, (HERE / file).read_text()))
    if not hosts or hosts - services.keys():
        faults.append(f"{file}: {', '.join(hosts - services.keys()) or 'nobody'} is no service of compose.yml")

print("\n".join(faults) or f"{len(services)} services: what they name exists")
sys.exit(bool(faults))
