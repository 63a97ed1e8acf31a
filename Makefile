# Everything a developer does with Coda, and what CI runs. `make` alone lists the targets.
#
# A fresh clone needs Rust, Python 3.11 and make; `make test` or `make demo` typed alone do the rest. The first build
# compiles RocksDB (12 to 25 minutes on two cores) into a cache outside the checkout: see scripts/rocksdb.sh.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := $(CURDIR)/.venv
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps

# Absolute, because some recipes change the folder.
override CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
export CARGO_TARGET_DIR
WHEELS := $(CARGO_TARGET_DIR)/wheels
CODA_BIN := $(CARGO_TARGET_DIR)/release/coda
CODA_JEPSEN := $(CARGO_TARGET_DIR)/release/coda-jepsen
JEPSEN_OUT := $(CARGO_TARGET_DIR)/jepsen

# Goes before every cargo that may link RocksDB. The script runs when a recipe reaches this, never for `make help`.
WITH_ROCKSDB = ROCKSDB_LIB_DIR="$$(scripts/rocksdb.sh)"; export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1;
LOCKED := $(if $(CI),--locked)
KEEP_GOING := $(if $(CI),--no-fail-fast)

# A change in one of these makes the Python wheel stale. The native module contains protocol, client and engine.
SDK_SOURCES = $(shell find sdk/python crates/protocol crates/client crates/engine Cargo.toml Cargo.lock -type f \
	\( -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name '*.toml' -o -name py.typed -o -name Cargo.lock \) \
	-not -path 'sdk/python/tests/*' -not -path '*/target/*' 2>/dev/null)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##—— Set-up ——

.PHONY: setup
setup: deps nextest rocksdb ## Install what is missing: system packages, cargo-nextest, the RocksDB archive

# Debian's names. Each is asked for only if what it brings is absent, so that another way to install it is fine too.
# clang-14 halves the time that RocksDB takes to compile, and serves nothing else.
.PHONY: deps
deps:
	@need=(); \
	command -v g++ >/dev/null || need+=(g++); \
	command -v pkg-config >/dev/null || need+=(pkg-config); \
	[[ -n "$${LIBCLANG_PATH:-}" ]] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || need+=(libclang1-14); \
	compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null || need+=(libclang-common-14-dev); \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv); \
	scripts/rocksdb.sh --ready 2>/dev/null || compgen -c clang++ >/dev/null || need+=(clang-14); \
	if (( $${#need[@]} == 0 )); then exit 0; fi; \
	install="apt-get install -y --no-install-recommends $${need[*]}"; \
	if [[ $$EUID -eq 0 ]] && command -v apt-get >/dev/null; then \
		echo "installing $${need[*]}"; \
		export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && $$install; \
	else \
		echo "Missing: $${need[*]}. Please run this, then try again:"; echo "    sudo $$install"; exit 1; \
	fi >&2

.PHONY: nextest
nextest:
	@command -v cargo-nextest >/dev/null || { \
		echo "installing cargo-nextest (some minutes, once)"; \
		cargo install cargo-nextest --locked || echo "cargo-nextest does not install here: tests run with 'cargo test'"; \
	}

.PHONY: rocksdb
rocksdb: deps ## Build the RocksDB archive into the cache, unless it is there
	@scripts/rocksdb.sh

.PHONY: env
env: deps ## Print the variables for cargo typed by hand: eval "$(make -s env)"
	@dir="$$(scripts/rocksdb.sh)"; printf 'export ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR=%q\n' "$$dir"

##—— Build ——

.PHONY: build
build: deps ## Build the release binaries coda and coda-admin
	$(WITH_ROCKSDB) cargo build $(LOCKED) --release --package coda-cli --bin coda --bin coda-admin

.PHONY: sdk
sdk: deps $(STAMPS)/sdk ## Build the Python SDK and install it into .venv

$(STAMPS)/venv:
	$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/requirements: sdk/python/requirements-dev.txt $(STAMPS)/venv
	$(PY) -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# The wheel is installed twice: once for its dependencies, once by force because its version does not change.
$(STAMPS)/sdk: $(STAMPS)/requirements $(SDK_SOURCES)
	rm -rf $(WHEELS)
	cd sdk/python && $(VENV)/bin/maturin build $(LOCKED) --release --interpreter $(PY) --out $(WHEELS)
	$(PY) -m pip install --quiet --disable-pip-version-check $(WHEELS)/*.whl
	$(PY) -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps $(WHEELS)/*.whl
	@touch $@

##—— Test ——

.PHONY: test
test: test-rust test-python test-e2e ## Run every test

.PHONY: test-rust
test-rust: deps nextest ## Run the Rust tests, doc tests included
	$(WITH_ROCKSDB) if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run $(LOCKED) --workspace $(KEEP_GOING); \
		cargo test $(LOCKED) --workspace --doc $(KEEP_GOING); \
	else \
		cargo test $(LOCKED) --workspace $(KEEP_GOING); \
	fi

.PHONY: test-python
test-python: sdk ## Test the Python SDK and the examples, and check the SDK's types with mypy and pyright
	cd sdk/python && $(PY) -m pytest tests
	$(PY) -m pytest examples
	cd sdk/python && $(PY) -m mypy --strict
	cd sdk/python && $(VENV)/bin/basedpyright --pythonpath $(PY)

.PHONY: test-e2e
test-e2e: build sdk ## Test real nodes and real workers, end to end
	CODA_BIN=$(CODA_BIN) $(PY) -m pytest tests/e2e

# Seeds of the simulation: so many, or from..to.
SEEDS ?= 500

.PHONY: sim
sim: deps ## Run SEEDS (500) simulated clusters, each from a seed; see tests/sim/README.md
	$(WITH_ROCKSDB) cargo build $(LOCKED) --profile sim --package coda-sim
	$(CARGO_TARGET_DIR)/sim/coda-sim run --seeds $(SEEDS) $(ARGS)

.PHONY: sim-seed
sim-seed: deps ## Run one simulated cluster, SEED=17 ARGS="--only=3,7 --trace", as a failed run prints it
	$(WITH_ROCKSDB) cargo build $(LOCKED) --profile sim --package coda-sim
	$(CARGO_TARGET_DIR)/sim/coda-sim seed $(SEED) $(ARGS)

##—— Look at it ——

# Installs what is missing of PROGRAM:PACKAGE pairs, by Debian's names. Without root, or where something cannot be installed,
# the suite says what it skips. Packages that bring a daemon must not start it.
define install
@need=(); \
for pair in $(1); do command -v "$${pair%%:*}" >/dev/null || need+=("$${pair#*:}"); done; \
if (( $${#need[@]} > 0 )) && [[ $$EUID -eq 0 ]] && command -v apt-get >/dev/null; then \
	echo "installing $${need[*]}"; \
	export DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1; \
	{ apt-get update -qq && apt-get install -y --no-install-recommends "$${need[@]}"; } \
		|| echo "not installed: what needs them is skipped"; \
fi >&2
endef

.PHONY: deps-jepsen
deps-jepsen: deps
	$(call install,ip:iproute2 xfs_io:xfsprogs strace:strace)

.PHONY: deps-jepsen-controls
deps-jepsen-controls: deps-jepsen
	$(call install,etcd:etcd-server etcdctl:etcd-client nats-server:nats-server)

.PHONY: build-jepsen
build-jepsen: deps-jepsen
	$(WITH_ROCKSDB) cargo build $(LOCKED) --release --package coda-jepsen

.PHONY: jepsen
jepsen: build sdk build-jepsen ## Everything that can go wrong, under all workloads, for TIME (15m); ARGS=--resume goes on
	$(if $(filter --resume,$(ARGS)),,rm -rf $(JEPSEN_OUT))
	$(CODA_JEPSEN) suite --time $(or $(TIME),15m) --python $(PY) --out $(JEPSEN_OUT) $(ARGS)

.PHONY: jepsen-smoke
jepsen-smoke: build build-jepsen ## A few faults of real nodes under load, within three minutes, and check
	rm -rf $(JEPSEN_OUT)-smoke
	$(CODA_JEPSEN) run --nemesis kill,partition-minority,power-all,packets,disk-hung --rounds 1 \
		--rate 30 --out $(JEPSEN_OUT)-smoke $(ARGS)

.PHONY: jepsen-controls
jepsen-controls: deps-jepsen-controls build-jepsen ## Show that the power cut is real: etcd must lose nothing by it, NATS must lose messages
	rm -rf $(JEPSEN_OUT)-controls
	for system in etcd nats; do \
		$(CODA_JEPSEN) control $$system --out $(JEPSEN_OUT)-controls/$$system || [[ $$? -eq 77 ]]; \
	done

.PHONY: demo
demo: build sdk ## Send a thousand real errors through a durable workflow while things are killed
	CODA_BIN=$(CODA_BIN) $(PY) -m examples.events.demo

.PHONY: demo-cluster
demo-cluster: build sdk ## The same on three nodes, while each of them is killed in turn
	CODA_BIN=$(CODA_BIN) $(PY) -m examples.events.demo --nodes 3 --dir .demo-cluster

.PHONY: cluster
cluster: build sdk ## Start three nodes on this machine that are one cluster, and leave them running
	CODA_BIN=$(CODA_BIN) $(PY) -m examples.events.cluster

.PHONY: fuzz
fuzz: deps ## Fuzz everything that reads bytes for FUZZ_SECONDS (60) each: see tests/fuzz for what
	$(WITH_ROCKSDB) fuzz/run.sh $(or $(FUZZ_SECONDS),60) $(ARGS)

.PHONY: bench
bench: build sdk ## Run the load generator against a real node; ARGS="..." goes to bench/run.py
	CODA_BIN=$(CODA_BIN) $(PY) bench/run.py $(ARGS)

##—— Tidy ——

.PHONY: lint
lint: deps $(STAMPS)/requirements ## Check format and lints, of Rust and Python; licences too if cargo-deny is installed
	cargo fmt --all --check
	$(WITH_ROCKSDB) cargo clippy $(LOCKED) --workspace -- --deny warnings
	$(WITH_ROCKSDB) cargo clippy $(LOCKED) --workspace --all-targets -- --deny warnings --allow clippy::unwrap_used
	$(VENV)/bin/ruff check sdk/python examples tests jepsen/python
	$(VENV)/bin/ruff format --check sdk/python examples tests jepsen/python
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences were not checked"; fi

.PHONY: advisories
advisories: ## Look for known faults of the crates that we use (needs cargo-deny, and fetches its database)
	cargo deny check advisories

.PHONY: fmt
fmt: $(STAMPS)/requirements ## Format Rust and Python
	cargo fmt --all
	$(VENV)/bin/ruff check --fix --select I sdk/python examples tests jepsen/python
	$(VENV)/bin/ruff format sdk/python examples tests jepsen/python

.PHONY: clean
clean: ## Remove build outputs and .venv; the RocksDB cache stays
	rm -rf target .venv .demo .demo-cluster .cluster .coda
	find . -name target -prune -o \( -name __pycache__ -o -name .pytest_cache -o -name .mypy_cache -o -name .ruff_cache \) -prune -exec rm -rf {} +
