#!/usr/bin/env bash
# Checks everything in deploy/ with the programs that will read it, and the Dockerfile. A program that is missing is a
# failure: `make tools` installs them. The server's own check needs a built binary: target/debug, target/release, or
# NEXUS_PUSH=path.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/target/deploy-venv/bin:$PATH:/usr/sbin"
export PYTHONDONTWRITEBYTECODE=1

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=()

# check NAME COMMAND…: prints the command's output only if it fails.
check() {
  local name=$1
  shift
  if "$@" >"$tmp/out" 2>&1; then
    passed=$((passed + 1))
  else
    failed+=("$name")
    echo "deploy: $name FAILED"
    sed 's/^/  /' "$tmp/out"
  fi
}

for program in haproxy nginx kubectl promtool hadolint kubernetes-validate python3; do
  check "program $program" command -v "$program"
done
check "python package yaml" python3 -c 'import yaml'

server=${NEXUS_PUSH:-}
for built in target/debug/nexus-push target/release/nexus-push; do
  [ -n "$server" ] || { [ -x "$built" ] && server=$built; } || true
done
check "a built nexus-push" test -x "$server"

# The server's configuration files, for the image, Kubernetes and Compose.
for config in config/*.toml deploy/kubernetes/base/nexus-push.toml; do
  check "$config" "$server" check-config "$config"
done

check haproxy.cfg haproxy -c -q -f deploy/haproxy/haproxy.cfg

cat >"$tmp/nginx.conf" <<CONF
worker_rlimit_nofile 100000;
worker_shutdown_timeout 30m;
pid $tmp/nginx.pid;
error_log stderr;
events { worker_connections 45000; }
http { access_log off; include $PWD/deploy/nginx/nexus-push.conf; }
CONF
check nginx nginx -t -q -p "$tmp" -c "$tmp/nginx.conf"

renderings=()
while read -r kustomization; do
  overlay=$(dirname "$kustomization")
  out=$tmp/$(basename "$overlay").yaml
  check "$overlay" sh -c 'kubectl kustomize "$1" >"$2" && [ -s "$2" ]' - "$overlay" "$out"
  renderings+=("$out")
done < <(find deploy/kubernetes/overlays -name kustomization.yaml | sort)
# It exits 0 for kinds without a schema: only the ServiceMonitor may be one of those.
check "Kubernetes schemas" sh -c '
  kubernetes-validate --strict --quiet "$@" >"$0" 2>&1 || { cat "$0"; exit 1; }
  ! grep -v "kind ServiceMonitor" "$0"' "$tmp/schemas" "${renderings[@]}"
check "Kubernetes cross-references" python3 deploy/kubernetes/check.py "${renderings[@]}"

check prometheus.yml promtool check config deploy/prometheus/prometheus.yml
check alerts.yml promtool check rules deploy/prometheus/alerts.yml
check alerts_test.yml promtool test rules deploy/prometheus/alerts_test.yml
check "dashboard and alerts" python3 deploy/grafana/check.py
check compose.yml python3 deploy/compose_check.py
check Dockerfile hadolint Dockerfile

if [ ${#failed[@]} -gt 0 ]; then
  echo "deploy: $passed checks passed, ${#failed[@]} failed: $(printf '%s; ' "${failed[@]}")"
  exit 1
fi
echo "deploy: $passed checks passed, 0 failed"
