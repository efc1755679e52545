#!/usr/bin/env bash
# Runs the suite, server program and all, under AddressSanitizer with LeakSanitizer (`address`) or ThreadSanitizer
# (`thread`), with the nightly toolchain. Further arguments go to nextest. docs/testing.md has the results and the limits of
# these runs.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=$1
shift
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Zsanitizer=$kind --cfg sanitized" NEXUS_TEST_SANITIZED=1
# With an explicit target, so that build scripts and macros, which the compiler loads, are not instrumented.
arguments=(--locked --package nexus-push --target "$host" --no-fail-fast)
case $kind in
address)
  arguments+=(--target-dir target/asan)
  # The quarantine for freed memory is small, because some tests measure a server's memory.
  export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:quarantine_size_mb=16:abort_on_error=0}"
  ;;
thread)
  # The standard library is built too (component rust-src), so that its locks and channels are not reported as races.
  rustup component list --toolchain nightly --installed | grep -q rust-src || rustup component add rust-src --toolchain nightly
  arguments+=(--target-dir target/tsan -Zbuild-std)
  export TSAN_OPTIONS="${TSAN_OPTIONS:-suppressions=$PWD/tests/tsan.supp:history_size=4:second_deadlock_stack=1}"
  ;;
*)
  echo "usage: $0 address|thread [nextest's arguments]" >&2
  exit 2
  ;;
esac
# The loom models switch stacks, which sanitizers report as corruption. They test orders of events, not memory.
if [ $# -eq 0 ]; then
  set -- -E 'not test(/(mailbox|registry)_model::/)'
fi
cargo +nightly nextest run "${arguments[@]}" "$@"
