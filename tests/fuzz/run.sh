#!/usr/bin/env bash
# Runs fuzz targets, each for FUZZ_SECONDS, beginning with the inputs in corpus and those that earlier runs found
# interesting (target/fuzz/corpus). Ends with an error at the first finding, whose input is in target/fuzz/artifacts. After
# the fix, put the input into corpus, which `make test` runs.
set -euo pipefail
# Rust's runtime ignores SIGPIPE, but a fuzzer's main function is not Rust's.
trap '' PIPE
cd "$(dirname "$0")/../.."
[ -x target/tools/bin/cargo-fuzz ] || cargo install --quiet --locked --root target/tools cargo-fuzz
export PATH="$PWD/target/tools/bin:$PATH" CARGO_TARGET_DIR="$PWD/target/fuzz"
cargo +nightly fuzz build --fuzz-dir tests/fuzz >&2
for target in "$@"; do
  mkdir -p "target/fuzz/corpus/$target" "target/fuzz/artifacts/$target"
  echo "$target"
  # A leak check at the end would cost a tenth of the time.
  cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" -- \
    -max_total_time="${FUZZ_SECONDS:-60}" -max_len=8192 -timeout=10 -rss_limit_mb=3000 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="$PWD/target/fuzz/artifacts/$target/" 2>&1 \
    | grep -E 'stat::(number_of_executed_units|average_exec|peak_rss)|SUMMARY|panicked|ERROR' || true
  if [ -n "$(ls -A "target/fuzz/artifacts/$target")" ]; then
    echo "finding: target/fuzz/artifacts/$target" >&2
    exit 1
  fi
done
