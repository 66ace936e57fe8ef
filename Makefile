# Everything one does with a checkout. `make help` lists it.
#
# One profile, release, serves the product, the tests and the lints: wasmtime and its compiler take minutes to
# build and are unbearably slow unoptimised, so they are compiled once and every target shares them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

TARGET   := target
TIDEMARK := $(TARGET)/release/tidemark
PLUGINS  := $(notdir $(patsubst %/plugin.toml,%,$(wildcard plugins/*/plugin.toml)))
GUESTS   := $(notdir $(patsubst %/Cargo.toml,%,$(wildcard tests/guests/*/Cargo.toml)))
# Everything that is written for the sandbox and tested natively; the templates where they lie.
GUEST_CODE := $(wildcard plugins/Cargo.toml sdk/rust/Cargo.toml sdk/templates/*/Cargo.toml)
COMPONENTS      := $(PLUGINS:%=$(TARGET)/plugins/%.wasm)
GUEST_COMPONENTS := $(GUESTS:%=$(TARGET)/guests/%.wasm)

# The paths above are fixed: another target folder would be looked for in vain. Components are built elsewhere, as
# they may need another compiler (see `tidemark plugin build`).
export CARGO_TARGET_DIR := $(CURDIR)/$(TARGET)
unexport CARGO_BUILD_TARGET

# What a component is made of, beside its own folder.
CONTRACT := $(shell find sdk/wit sdk/rust -type f \( -name '*.wit' -o -name '*.rs' -o -name Cargo.toml \) -not -path '*/target/*')
sources   = $(shell find $(1) -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.json' -o -name '*.lock' \) -not -path '*/target/*')

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: demo
demo: ## Back up, change, back up again, verify and restore a simulated VM, with a report
	@scripts/setup demo
	@$(MAKE) --no-print-directory build
	@$(TARGET)/release/tidemark-demo

.PHONY: demo-stop
demo-stop: ## Stop what the demo left running
	@$(TARGET)/release/tidemark-demo stop

.PHONY: build
build: host components ## The product (target/release) and its plugins (target/plugins)

.PHONY: host
# Always the whole workspace: which packages are chosen decides the features of what they share, and another choice
# would compile wasmtime again.
host:
	@cargo build --release --locked --workspace --bins

.PHONY: components
components: host $(COMPONENTS)

.PHONY: guests
guests: host $(GUEST_COMPONENTS)

# The builder is no prerequisite by time: a new host does not change what a component is made of.
define component
$(TARGET)/$(1)/$(2).wasm: $$(call sources,$(3)) $$(CONTRACT) | host
	@mkdir -p $$(@D)
	@CARGO_TARGET_DIR=$(CURDIR)/$(TARGET)/components $$(TIDEMARK) plugin build $(3) --out $$@
endef
$(foreach plugin,$(PLUGINS),$(eval $(call component,plugins,$(plugin),plugins/$(plugin))))
$(foreach guest,$(GUESTS),$(eval $(call component,guests,$(guest),tests/guests/$(guest))))

# Tests wait for processes and disks most of the time: one more than there are cores keeps these busy.
export RUST_TEST_THREADS ?= $(shell echo $$(($$(nproc) + 1)))

.PHONY: test
test: ## Everything that CI checks
	@scripts/setup test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory build guests
	cargo test --release --locked --workspace
	@$(MAKE) --no-print-directory test-plugins

# Components are tested natively: what they compute does not depend on the sandbox. Being small is no aim there, and to be
# built in one piece takes minutes.
.PHONY: test-plugins
test-plugins: export CARGO_PROFILE_RELEASE_LTO := off
test-plugins: export CARGO_PROFILE_RELEASE_CODEGEN_UNITS := 16
test-plugins: export CARGO_PROFILE_RELEASE_OPT_LEVEL := 2
test-plugins:
	@for manifest in $(GUEST_CODE); do \
		cargo test --release --manifest-path $$manifest; \
	done

.PHONY: fmt
fmt: ## Format all sources
	@for manifest in Cargo.toml $(GUEST_CODE) $(wildcard tests/guests/Cargo.toml); do \
		cargo fmt --all --manifest-path $$manifest; \
	done

.PHONY: lint
lint: ## Formatting and clippy, warnings are errors
	@for manifest in Cargo.toml $(GUEST_CODE) $(wildcard tests/guests/Cargo.toml); do \
		cargo fmt --all --check --manifest-path $$manifest; \
	done
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	@for manifest in $(GUEST_CODE); do \
		cargo clippy --release --all-targets --manifest-path $$manifest -- -D warnings; \
	done

.PHONY: soak
soak: ## One long random history of backups, deletions, merges and deaths against a model (SEED=7 STEPS=500)
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	TIDEMARK_HISTORY_SEED=$${SEED:-$$RANDOM} TIDEMARK_HISTORY_STEPS=$${STEPS:-500} \
		cargo test --release --locked --workspace --test e2e histories -- --nocapture

.PHONY: soak-fleet
soak-fleet: ## A year of a fleet on three hosts that are killed a hundred times (DAYS=365 VMS=5 DEATHS=100)
	@scripts/setup test
	@$(MAKE) --no-print-directory build
	TIDEMARK_FLEET_DAYS=$${DAYS:-365} TIDEMARK_FLEET_VMS=$${VMS:-5} TIDEMARK_FLEET_DEATHS=$${DEATHS:-100} \
		cargo test --release --locked --workspace --test e2e year:: -- --nocapture

.PHONY: bench-retention
bench-retention: ## Let retention decide about a million backups of 2,000 VMs: time and memory (VMS=2000 BACKUPS=500)
	@$(MAKE) --no-print-directory build
	@scripts/bench-retention $(TIDEMARK) $${VMS:-2000} $${BACKUPS:-500}

.PHONY: bench
# As root it also mounts file systems of its own; without, those works are left out with a word.
bench: ## Time the engine beside the tools people use (BENCH="--rounds 9 --only sparse" for other settings)
	@scripts/setup bench
	@$(MAKE) --no-print-directory host
	@$(TARGET)/release/tidemark-bench $(BENCH)

.PHONY: bench-files
bench-files: ## Time files out of backups beside the kernel and ntfs-3g, as root (BENCH="--rounds 3 --depth 10")
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@$(TARGET)/release/tidemark-bench files $(BENCH)

.PHONY: bench-record
bench-record: ## The same, and put the figures into docs/performance.md
	@$(MAKE) --no-print-directory bench BENCH="$(BENCH) --write docs/performance.md"
