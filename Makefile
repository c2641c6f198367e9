# Every command a person runs here. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
GO = $(shell $(BIN)/python scripts/go-toolchain)
WRENN_DATA_DIR ?= /var/lib/wrenn
export WRENN_DATA_DIR

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: bootstrap
bootstrap: ## host tools from apt, .venv with locked dependencies (done by every other command)
	@scripts/bootstrap

# ---------------------------------------------------------------- running

.PHONY: demo
demo: bootstrap build-envd ## from a bare machine to sandboxes that compute, pause, resume, fork; nothing is left behind
	@$(BIN)/wrenn demo

.PHONY: up
up: bootstrap build-envd ## start everything on this machine in the background (wrenn up --detach)
	@$(BIN)/wrenn up --detach

.PHONY: down
down: ## stop what `make up` started; sandboxes are paused
	@$(BIN)/wrenn down

.PHONY: dev
dev: bootstrap ## PostgreSQL, migrations and the control plane in the foreground
	@mkdir -p $(WRENN_DATA_DIR)
	@$(BIN)/wrenn-cp migrate up && exec $(BIN)/wrenn-cp

.PHONY: dev-agent
dev-agent: bootstrap build-envd ## host agent in the foreground (another terminal, root); ARGS="--register TOKEN --address HOST:PORT"
	@$(BIN)/python -m wrenn_server.images.build && exec $(BIN)/wrenn-agent $(ARGS)

.PHONY: migrate-up
migrate-up: bootstrap ## apply database migrations
	@$(BIN)/wrenn-cp migrate up

.PHONY: migrate-down
migrate-down: bootstrap ## take back the last database migration
	@$(BIN)/wrenn-cp migrate down

# ---------------------------------------------------------------- building

.PHONY: build
build: bootstrap build-envd ## wrenn-cp, wrenn-agent and envd as single files under builds/
	@scripts/build-python

.PHONY: build-envd
build-envd: bootstrap ## the guest agent, static, as builds/envd
	@mkdir -p builds
	@cd envd && CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "-s -w" -o ../builds/envd .

# ---------------------------------------------------------------- checking

.PHONY: test
test: bootstrap build-envd ## every test; says what was skipped and why
	@scripts/bootstrap --test
	@cd envd && $(GO) test -race ./...
	@$(BIN)/pytest $(ARGS)

.PHONY: faults
faults: bootstrap build-envd ## kill each program at every step of everything it does, FAULT_ROUNDS=5 times; writes docs/durability.md
	@FAULT_ROUNDS=$${FAULT_ROUNDS:-5} $(BIN)/pytest tests/faults $(ARGS)

.PHONY: check
check: lint test ## fmt + vet + lint + types + import rules + tests

.PHONY: fmt
fmt: bootstrap ## format Python and Go
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix . && cd envd && $(GO) fmt ./...

.PHONY: generate
generate: bootstrap ## api/openapi.json from the API's types, the SDK's sync half from its async half
	@$(BIN)/python -m wrenn_server.controlplane.api.openapi api/openapi.json
	@$(BIN)/python sdk/python/scripts/generate_sync.py

.PHONY: lint
lint: bootstrap ## formatting, ruff, types, import rules, go vet, staticcheck, shellcheck
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@cd envd && test -z "$$(gofmt -l .)" && $(GO) vet ./... && $(GO) tool staticcheck ./...
	@scripts/lint-shell

.PHONY: bench
bench: bootstrap build-envd ## measure the platform beside its floor; writes bench/results.json
	@$(BIN)/python -m bench $(ARGS)

.PHONY: bench-sdk
bench-sdk: bootstrap build-envd ## E2B's SDK through the edge beside the same straight to envd; writes bench/sdk.json
	@PYTHONPATH=tests $(BIN)/python -m bench.sdk $(ARGS)

.PHONY: clean
clean: ## remove what was built in this checkout
	@rm -rf builds .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache
