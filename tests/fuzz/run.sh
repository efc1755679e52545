#!/usr/bin/env bash
# Runs fuzz targets, each for FUZZ_SECONDS, beginning with what is kept in corpus and what earlier runs found of interest
# (target/fuzz/corpus). Ends with an error at the first finding: its input is in target/fuzz/artifacts; once it is mended,
# it belongs into corpus, which `make test` goes through.
set -euo pipefail
# Programs in Rust do not end by it, and a fuzzer's main function is not one.
trap '' PIPE
cd "$(dirname "$0")/../.."
[ -x target/tools/bin/cargo-fuzz ] || cargo install --quiet --locked --root target/tools cargo-fuzz
export PATH="$PWD/target/tools/bin:$PATH" CARGO_TARGET_DIR="$PWD/target/fuzz"
cargo +nightly fuzz build --fuzz-dir tests/fuzz >&2
for target in "$@"; do
  mkdir -p "target/fuzz/corpus/$target" "target/fuzz/artifacts/$target"
  echo "$target"
  # Whether anything leaks at its end is not worth a tenth of the time.
  cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" -- \
    -max_total_time="${FUZZ_SECONDS:-60}" -max_len=8192 -timeout=10 -rss_limit_mb=3000 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="$PWD/target/fuzz/artifacts/$target/" 2>&1 \
    | grep -E 'stat::(number_of_executed_units|average_exec|peak_rss)|SUMMARY|panicked|ERROR' || true
  if [ -n "$(ls -A "target/fuzz/artifacts/$target")" ]; then
    echo "finding: target/fuzz/artifacts/$target" >&2
    exit 1
  fi
done
