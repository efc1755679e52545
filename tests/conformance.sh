#!/usr/bin/env bash
# All cases of the Autobahn suite, by PyPI `kosoku`, against the echo of the release server. Fails if a case fails.
# Reports go to target/conformance.
set -euo pipefail
cd "$(dirname "$0")/.."

# Left out: 13.3 and 13.5 offer only `server_max_window_bits=9`. This server declines that (RFC 7692 §7.1.2.1: its
# compressed frames are shared by all sessions, and have one window), and the suite counts "unimplemented" as a failure.
# 13.7 offers the same with a fallback, and is run.
LEFT_OUT=(-x '13.3.*' -x '13.5.*')

# With permessage-deflate negotiated, kosoku 0.1.0 reads a message that comes uncompressed as text and then cannot hash it
# ("Strings must be encoded before hashing"), though RFC 7692 §6 allows such messages. The echo compresses every message
# of such a session, so that no case has to be left out for it.

log=$(mktemp)
NEXUS_DEBUG__ECHO=true NEXUS_SOURCE__SIMULATOR__RATE=1 target/release/nexus-push serve --listen 127.0.0.1:0 >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
  address=$(sed -n 's|.*listens on http://\([^ ]*\).*|\1|p' "$log")
  [ -n "$address" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$log"; exit 1; }
  sleep 0.1
done
[ -n "$address" ] || { echo "the server does not start"; cat "$log"; exit 1; }

rm -rf target/conformance
target/sdk-venv/bin/kosoku -m fuzzingclient -o target/conformance "${LEFT_OUT[@]}" "$@" "$address"
