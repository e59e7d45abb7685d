# `make` lists the targets. Each does its own set-up, in .venv of this checkout. For another Python:
# make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-neon check fmt openapi bench bench-quick bench-guard build lock clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run ## Run the service: embedded PostgreSQL, development tokens, docs
	@exec $(BIN)/todo-api dev

test: $(VENV)/dev ## Run every test that this machine can run
	$(BIN)/pytest $(PYTEST_ARGS)

test-neon: .neon-variables $(VENV)/dev ## Run the repository's tests on a branch of your Neon project
	$(BIN)/pytest tests/integration/in_process/test_postgres_tasks.py -k neon

check: $(VENV)/dev ## Lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/dev ## Format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: $(VENV)/dev ## Write docs/openapi.json from the app
	@$(BIN)/python -c "$$WRITE_OPENAPI" > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

define WRITE_OPENAPI
import json
from contextlib import nullcontext
from todo_api.app import create_app
print(json.dumps(create_app(nullcontext).openapi(), indent=2, ensure_ascii=False))
endef
export WRITE_OPENAPI

bench: $(VENV)/dev ## Measure the service against a hand-written baseline (6 minutes; needs wrk)
	$(BIN)/python -m bench run

bench-quick: $(VENV)/dev ## The same in two short rounds (1 minute)
	$(BIN)/python -m bench run --rounds 2 --seconds 1

bench-guard: $(VENV)/dev ## Compare exact counts with bench/guard.json (1 minute; needs valgrind)
	$(BIN)/python -m bench guard

build: $(VENV)/dev ## Build the wheel and the source distribution into dist/
	@$(BIN)/python -m hatchling build

lock: $(VENV)/dev ## Lock the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		--no-emit-index-url --no-emit-find-links pyproject.toml --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml --group build -c requirements-dev.lock -o requirements.lock

clean: ## Remove the virtual environment and the caches; .todo with its data stays
	rm -rf .venv* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage* dist

.PHONY: .neon-variables
.neon-variables:
	@[ -n "$$NEON_API_KEY" ] && [ -n "$$NEON_PROJECT_ID" ] || { \
		echo "These tests run on a branch of a Neon project of yours, for which two variables are needed:" >&2; \
		echo "NEON_API_KEY, from Neon's console (Account settings, API keys), and NEON_PROJECT_ID, from the" >&2; \
		echo "project's Settings. Set both and run make test-neon again; make test needs neither." >&2; exit 1; }

# The stamps $(VENV)/run and $(VENV)/dev say which lock is installed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or later is needed; point PYTHON at one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "==> Creating the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run: requirements.lock pyproject.toml | $(BIN)/python
	@echo "==> Installing the service's dependencies (the first time takes a minute)"
	@$(BIN)/pip install --quiet --progress-bar on --require-hashes -r requirements.lock
	@$(MAKE) -s $(VENV)/package
	@touch $@

$(VENV)/dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "==> Installing the development dependencies (the first time takes a minute)"
	@$(BIN)/pip install --quiet --progress-bar on --require-hashes -r requirements-dev.lock
	@$(MAKE) -s $(VENV)/package
	@touch $@ $(VENV)/run

.PHONY: $(VENV)/package
$(VENV)/package:
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
