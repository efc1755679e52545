#!/usr/bin/env bash
# Runs the suite, server program and all, under AddressSanitizer with LeakSanitizer (`address`) or ThreadSanitizer
# (`thread`), with the nightly toolchain. More arguments go to nextest. docs/testing.md says what was run, and what this
# cannot see.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=$1
shift
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Zsanitizer=$kind --cfg sanitized" NEXUS_TEST_SANITIZED=1
# Built with a target given, so that build scripts and macros, which the compiler loads, are left as they are.
arguments=(--locked --package nexus-push --target "$host" --no-fail-fast)
case $kind in
address)
  arguments+=(--target-dir target/asan)
  # Memory that was freed is kept apart for a while: little, as some tests look at how much a server has.
  export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:quarantine_size_mb=16:abort_on_error=0}"
  ;;
thread)
  # The standard library is built anew (component rust-src): its own locks and channels are then seen for what they are.
  rustup component list --toolchain nightly --installed | grep -q rust-src || rustup component add rust-src --toolchain nightly
  arguments+=(--target-dir target/tsan -Zbuild-std)
  export TSAN_OPTIONS="${TSAN_OPTIONS:-suppressions=$PWD/tests/tsan.supp:history_size=4:second_deadlock_stack=1}"
  ;;
*)
  echo "usage: $0 address|thread [nextest's arguments]" >&2
  exit 2
  ;;
esac
# The models run on stacks of their own making, which sanitizers take for corruption; they are about orders of events, not
# about memory.
if [ $# -eq 0 ]; then
  set -- -E 'not test(/(mailbox|registry)_model::/)'
fi
cargo +nightly nextest run "${arguments[@]}" "$@"
