#!/usr/bin/env bash
# Flame graphs of the server under W1, W2 and W3, as docs/flame/*.svg, and the shares of threads and calls on standard
# output. Needs a harness, and a server with frame pointers: make flame builds them.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v perf >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq linux-perf; }
[ -x target/tools/bin/inferno-flamegraph ] || cargo install --quiet --locked --root target/tools inferno
mkdir -p docs/flame target/flame
export PATH="$PWD/target/tools/bin:$PATH"

for workload in ${*:-w1 w2 w3}; do
  target/release/nexus-loadtest run "$workload" --server target/flame/release/nexus-push --seconds 12 --quiet >"target/flame/$workload.txt" &
  run=$!
  # The run has only one child of this name, the server.
  until server=$(pgrep -P "$run" -x nexus-push); do sleep 0.2; done
  # 10,000 sessions at 3,000 per second.
  sleep 5
  perf record --quiet --call-graph fp --freq 499 --pid "$server" --output "target/flame/$workload.data" -- sleep 6
  wait "$run"
  perf script --input "target/flame/$workload.data" 2>/dev/null \
    | inferno-collapse-perf >"target/flame/$workload.folded"
  inferno-flamegraph --title "$workload: nexus-push" --minwidth 0.4 <"target/flame/$workload.folded" >"docs/flame/$workload.svg"
  echo "$workload: $(grep -o 'server CPU.*' "target/flame/$workload.txt" | tr -s ' ')"
  # Shares by thread, and shares of all samples below a call.
  awk -v calls='io_uring_enter|__x64_sys_sendto|tcp_sendmsg|net_rx_action|sock_def_readable|epoll_wait|futex|Shard>::prepare|Gathering|memmove|Outbox' '
    { n = $NF; total += n; split($0, f, ";"); thread[f[1]] += n
      m = split(calls, c, "|"); for (i = 1; i <= m; i++) if (index($0, c[i])) below[c[i]] += n }
    END { for (t in thread) printf "  %-28s %5.1f %%\n", t, 100 * thread[t] / total
          for (i = 1; i <= m; i++) if (below[c[i]]) printf "  below %-22s %5.1f %%\n", c[i], 100 * below[c[i]] / total }' \
    "target/flame/$workload.folded"
done
