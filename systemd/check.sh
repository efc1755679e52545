#!/usr/bin/env bash
# Checks the units with systemd's own programs, which need no running systemd: `verify`, and the exposure by `security`.
# The server must be built: target/debug, target/release, or NEXUS_PUSH=path.
set -euo pipefail
cd "$(dirname "$0")"

# Of 100. The rest comes from serving a network (PrivateNetwork, AF_INET) and from the host's files.
exposure_max=11

command -v systemd-analyze >/dev/null || { echo "systemd: systemd-analyze is missing: make tools"; exit 1; }
server=${NEXUS_PUSH:-}
for built in ../target/debug/nexus-push ../target/release/nexus-push; do
  [ -n "$server" ] || { [ -x "$built" ] && server=$(realpath "$built"); } || true
done
[ -x "$server" ] || { echo "systemd: no built nexus-push"; exit 1; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp nexus-push.service nexus-push*.socket "$tmp"
# `verify` looks for the program at the path in the unit: use the built one.
sed -i "s#/usr/local/bin/nexus-push#$server#" "$tmp/nexus-push.service"
said=$(systemd-analyze verify --man=no "$tmp"/nexus-push* 2>&1) || { echo "systemd: verify FAILED"; echo "$said"; exit 1; }
# It also prints warnings, for which it does not fail.
[ -z "$said" ] || { echo "systemd: verify has warnings"; echo "$said"; exit 1; }

scored=$(systemd-analyze security --no-pager --offline=true --threshold=$exposure_max nexus-push.service 2>&1) || {
  echo "systemd: exposure above $exposure_max of 100"
  grep -E "^✗|Overall" <<<"$scored"
  exit 1
}

grep -q '^MemoryMax=' nexus-push.service || { echo "systemd: the unit has no MemoryMax"; exit 1; }

for call in io_uring_setup io_uring_enter io_uring_register; do
  systemd-analyze syscall-filter @aio | grep -qw "$call" || { echo "systemd: @aio has no $call"; exit 1; }
done
systemd-analyze syscall-filter @system-service | grep -qw @aio || { echo "systemd: @system-service has no @aio"; exit 1; }

echo "systemd: units verified; $(grep -o 'Overall exposure level.*: [0-9.]* [A-Z]*' <<<"$scored")"
