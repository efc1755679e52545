# Every chore has a name. CI calls `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help run test lint fmt fmt-check bench tools load

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: ## Server with simulated instruments and its page, on http://127.0.0.1:8000
	cargo run --release --locked --package nexus-push -- serve

test: tools fmt-check lint ## Install what tests need, check formatting and lints, run every test
	cargo build --locked --workspace --bins
	cargo nextest run --locked --workspace --no-fail-fast
	cargo test --locked --workspace --doc --quiet

lint: ## Clippy and rustdoc, warnings are errors
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

fmt: ## Format
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

bench: ## Micro-benchmarks, then W1, W2 and W3 at full size
	cargo bench --locked --package nexus-push
	cargo build --release --locked --workspace
	for w in w1 w2 w3; do target/release/nexus-loadtest run $$w --quiet; done

load: ## All workloads at full size; W8 where the recordings are
	cargo build --release --locked --workspace
	for w in w1 w2 w3 w4 w5; do target/release/nexus-loadtest run $$w; done
	if [ -d ../shared/data ]; then for s in 1 20; do target/release/nexus-loadtest run w8 --speed $$s; done; \
	else echo "W8 left out: ../shared/data is not there"; fi

# What tests need beside Rust. Each is looked for first, so that a second run installs nothing.
tools:
	@command -v redis-server >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server; }
	@cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
	@rustup component list --installed 2>/dev/null | grep -q clippy || rustup component add clippy rustfmt
