# Every target sets up by itself what it needs; see `make help` and docs/dependencies.md.
# ARGS are passed on:  make demo ARGS="--mib 4"   make test ARGS="--test tidy"

CARGO ?= cargo
ARGS ?=
CASES ?= 20000
# One set for every command, so that nothing is compiled twice.
FEATURES = conformance,openraft
LIBCLANG = scripts/with-libclang
D_ENGINE = compat/d-engine/Cargo.toml

.DEFAULT_GOAL := help
.PHONY: help demo test test-prost test-plain test-d-engine soak bench compare compare-journaled dot lint deny

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

demo: ## run the example cluster; ARGS go to it
	$(LIBCLANG) $(CARGO) run --example cluster -- $(ARGS)

test: ## every test with RocksDB; ARGS go to cargo test
	$(LIBCLANG) $(CARGO) test --features $(FEATURES) $(ARGS)

test-prost: ## every test with raft-rs's other codec
	$(LIBCLANG) scripts/with-protoc $(CARGO) test \
		--no-default-features --features rocksdb,prost-codec,tls,$(FEATURES) $(ARGS)

test-plain: ## every test that needs no RocksDB; builds in two minutes, without libclang
	$(CARGO) test --no-default-features --features protobuf-codec,tls,$(FEATURES) $(ARGS)

# The same target directory, so that RocksDB is not compiled a second time.
test-d-engine: ## d-engine's own suites of storage engines and state machines on peerstore
	target=$$($(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/') && \
	$(LIBCLANG) scripts/with-protoc --optional $(D_ENGINE) \
		$(CARGO) test --manifest-path $(D_ENGINE) --target-dir "$$target" $(ARGS)

soak: ## the tests with CASES (20000) random cases each: hours
	PROPTEST_CASES=$(CASES) $(LIBCLANG) $(CARGO) test --features $(FEATURES) $(ARGS)

# The two share a folder, so that RocksDB is compiled once for both.
TARGET = $(or $(CARGO_TARGET_DIR),target)

bench: ## the benchmarks, optimised, and the comparison; ARGS go to cargo bench
	$(LIBCLANG) $(CARGO) bench --features $(FEATURES) --target-dir $(TARGET) $(ARGS)
	$(MAKE) compare ARGS=

compare: ## the append-only log beside raft-engine, RocksDB and the bare disk; ARGS as "--runs 5 sync"
	$(LIBCLANG) $(CARGO) run --release --manifest-path benches/compare/Cargo.toml \
		--target-dir $(TARGET) -- --plot $(TARGET)/compare.svg $(ARGS)

compare-journaled: ## the same on an ext4 with a journal in a loop device of its own; needs root
	$(LIBCLANG) $(CARGO) build --release --manifest-path benches/compare/Cargo.toml --target-dir $(TARGET)
	scripts/with-ext4 5120 $(TARGET)/release/peerstore-compare --dir {} $(ARGS)

dot: ## draw dot/*.dot and dot/*.svg again from the code
	$(LIBCLANG) $(CARGO) run --features $(FEATURES) --example dot

lint: ## formatting, clippy and documentation, warnings denied
	$(CARGO) fmt --check
	$(LIBCLANG) $(CARGO) clippy --all-targets --features $(FEATURES) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(LIBCLANG) $(CARGO) doc --no-deps --features $(FEATURES)

deny: ## licences and advisories of the dependencies, if cargo-deny is installed
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "cargo-deny is not installed: cargo install --locked cargo-deny"; fi
