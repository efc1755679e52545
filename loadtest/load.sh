#!/usr/bin/env bash
# Runs all workloads at full size; W8 only if the recordings exist. The harness must be built: target/release.
set -euo pipefail
cd "$(dirname "$0")/.."
for workload in w1 w2 w3 w4 w5; do target/release/nexus-loadtest run "$workload"; done
if [ -d ../shared/data ]; then
  for speed in 1 20; do target/release/nexus-loadtest run w8 --speed "$speed"; done
else
  echo "W8 left out: ../shared/data is not there"
fi
