#!/bin/bash
# tests/suites/python.sh DIRECTORY [PYTHON]: the suite of centrifuge-python against target/release/nexus-push (or SERVER=…).
# DIRECTORY is its unpacked source distribution (pip download --no-deps --no-binary :all: centrifuge-python==0.7.0); it is
# copied first. PYTHON is a Python with centrifuge-python: target/sdk-venv/bin/python, which `make tools` creates. Needs root:
# the suite uses port 8000, so both run in a network namespace of their own.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
suite=$(realpath "${1:?the unpacked source of centrifuge-python}")
export PYTHON=${2:-$root/target/sdk-venv/bin/python} SERVER=${SERVER:-$root/target/release/nexus-push} ROOT=$root
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$suite/." "$work"
cd "$work"
# The suite's secret has 6 bytes and its tokens do not expire; this server accepts neither. Centrifugo subscribes a user to
# `#42` by an option; here the token names that channel.
sed -i -e 's/hmac_secret = "secret"/hmac_secret = "secret-secret-secret-secret-secret"/' \
  -e 's/payload = {"sub": user}/payload = {"sub": user, "exp": 4000000000, **({} if channel else {"channels": ["#" + user]})}/' \
  tests/test_client.py
grep -q 4000000000 tests/test_client.py || { echo "tests/test_client.py is not as in 0.7.0: its tokens were not found"; exit 1; }
unshare -n bash -c '
  ip link set lo up
  "$SERVER" serve --config "$ROOT/tests/suites/python.toml" >server.log 2>&1 & server=$!
  trap "kill $server" EXIT
  for _ in $(seq 100); do curl -sf -o /dev/null 127.0.0.1:8000/readyz && break; sleep 0.1; done
  timeout 300 "$PYTHON" -m unittest discover -s tests 2>suite.log || { tail -50 suite.log; tail server.log; exit 1; }
  tail -4 suite.log'
