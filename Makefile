# Two commands: `make up` and `make test`. The rest: `make help`.
# All builds share one folder and one profile, so that heavy crates are built once.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/rockpool/target
BIN := $(CARGO_TARGET_DIR)/debug
JSON_FLAG = $(if $(JSON),--json $(abspath $(JSON)))

CHAOS := $(BIN)/rockpool-chaos

.DEFAULT_GOAL := help
.PHONY: help up train test chaos chaos-planted bench bench-doors bench-peers bench-raft cache-suite evaluate fmt lint fuzz release clean data clients bins chaos-bins

help: ## List what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  JSON=FILE with up, bench, bench-doors, bench-peers, bench-raft and evaluate writes the figures; ARGS=... passes further options on."

up: data bins ## Start a cloud and three edge nodes with real data, and see them at work
	@test -x $(BIN)/rockpool-train || echo "not built yet: what trains your own data; \`make train\` builds it when it is needed (some four minutes)"
	$(BIN)/rockpool up $(JSON_FLAG) $(ARGS)

train: data ## Train the models; your own data: ARGS="--data FOLDER --out FOLDER" (which files: ARGS=--help)
	cargo build -p rockpool --bins
	$(BIN)/rockpool train $(ARGS)

test: data clients ## Build and run every test
	cargo build --workspace --all-targets
	cargo test --workspace

chaos: chaos-bins ## Break everything for long: SEEDS (10000) simulations, RUNS (100) of processes, CUTS (1000) power cuts
	$(CHAOS) all --seed $(or $(SEED),1) --seeds $(or $(SEEDS),10000) --runs $(or $(RUNS),100) --cuts $(or $(CUTS),1000) \
	  $(if $(PREVIOUS),--previous $(PREVIOUS)) $(JSON_FLAG) $(ARGS)

chaos-planted: chaos-bins ## Switch on planted bugs, one after the other, and see that each is caught
	$(CHAOS) planted

bench: data bins ## Measure latency: 2,000 clients, 2,000 recommendations a second, everything on this machine
	$(BIN)/rockpool bench $(JSON_FLAG) $(ARGS)

bench-peers: data bins ## Measure beside FastAPI, bare ONNX Runtime, quinn, nginx and Varnish (installed where they are missing, as root)
	tests/bench/peers.sh $(JSON_FLAG) $(ARGS)

bench-doors: data bins ## Measure a node under five times the load that it bears, and under 10,000 hostile connections
	tests/bench/doors.sh $(JSON_FLAG) $(ARGS)

bench-raft: bins ## Measure durable writes of three nodes beside Debian's etcd (installed where it is missing, as root)
	tests/bench/run.sh $(JSON_FLAG) $(ARGS)

cache-suite: data chaos-bins ## Run the public suite for HTTP caches against a node's cache (from npm, which is installed where it is missing, as root)
	ROCKPOOL_CACHE_SUITE=$$(tests/chaos/clients/cache_suite.sh) cargo test -p chaos --test processes -- --ignored --nocapture suite

evaluate: data bins ## Train on published splits and measure the models (takes a while)
	$(BIN)/rockpool evaluate $(JSON_FLAG) $(ARGS)

fmt: ## Format the code
	cargo fmt --all

lint: ## Check format, lints and, where cargo-deny is installed, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check $(DENY); \
	else echo "dependencies were not checked: cargo install cargo-deny --locked"; fi

fuzz: ## Fuzz the decoders, and what a node reads of strangers, for SECONDS (60) each
	cd proto/fuzz && ./run.sh $(or $(SECONDS),60)
	cd edge-node/fuzz && ./run.sh $(or $(SECONDS),60)

release: ## Build with link-time optimisation
	cargo build -p rockpool -p edge-node -p cloud -p training --bins --release

clean: ## Remove what was built (fetched data stays in ~/.cache/rockpool)
	cargo clean

data:
	@python3 deploy/fetch.py

clients: ## Install the clients that nobody here wrote, for the tests (from Debian as root, from PyPI)
	@tests/chaos/clients/install.sh

bins:
	cargo build -p rockpool -p edge-node -p cloud --bins

chaos-bins:
	cargo build -p chaos -p faulty-disk -p edge-node -p cloud -p rockpool --bins --lib
