# `make` lists the targets. Each does its own set-up, in .venv of this checkout. For another Python:
# make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_LOCK := install --quiet --no-compile --no-deps --require-hashes -r

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-postgres test-neon check fmt openapi bench bench-quick bench-guard build lock clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A worker runs whole files, whose fixtures start services: worksteal starts them twice and takes a quarter longer.
# The slow files come first, so that the workers end together. There are few workers: each has a PostgreSQL.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

run: $(VENV)/run ## Run the service: embedded PostgreSQL, development tokens, docs
	@exec $(BIN)/todo-api dev

test: $(VENV)/dev ## Run the unit and in-process integration tests (4 minutes)
	@echo "==> Without tests/integration/end_to_end, which runs the real program: see make test-all"
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

test-all: $(VENV)/dev ## Run every test that this machine can run (15 minutes)
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS) tests

test-postgres: .test-database-url $(VENV)/dev ## Run the repository's tests on the server of TEST_DATABASE_URL
	$(BIN)/pytest $(PYTEST_ARGS) tests/integration/in_process/test_postgres_tasks.py -k server

test-neon: .neon-variables $(VENV)/dev ## Run the repository's tests on a branch of your Neon project
	$(BIN)/pytest tests/integration/in_process/test_postgres_tasks.py -k neon

check: $(VENV)/dev ## Lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/dev ## Format, and fix what can be fixed
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

lock: check_lock := true # pyproject.toml has changed, the locks have not
lock: $(VENV)/dev ## Lock the newest versions that pyproject.toml allows
	@$(LOCK) requirements-pip.lock --upgrade --group pip
	@$(LOCK) requirements-dev.lock --upgrade pyproject.toml --all-extras --group dev
	@$(LOCK) requirements.lock -c requirements-dev.lock pyproject.toml --extra embedded --group build
	@$(LOCK) requirements-serve.lock -c requirements-dev.lock pyproject.toml --extra tracing

LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-header --no-emit-index-url --no-emit-find-links -o

clean: ## Remove the virtual environment and the caches; .todo with its data stays
	rm -rf .venv* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage* dist

.PHONY: .test-database-url .neon-variables
.test-database-url:
	@[ -n "$$TEST_DATABASE_URL" ] || { \
		echo "These tests run on a PostgreSQL-compatible server of yours: set TEST_DATABASE_URL, for example to" >&2; \
		echo "postgresql://postgres:password@localhost/postgres. They create a database there and drop it at the end." >&2; exit 1; }

.neon-variables:
	@[ -n "$$NEON_API_KEY" ] && [ -n "$$NEON_PROJECT_ID" ] || { \
		echo "These tests run on a branch of a Neon project of yours, for which two variables are needed:" >&2; \
		echo "NEON_API_KEY, from Neon's console (Account settings, API keys), and NEON_PROJECT_ID, from the" >&2; \
		echo "project's Settings. Set both and run make test-neon again; make test needs neither." >&2; exit 1; }

# The virtual environment is created again if its set-up was interrupted, the checkout was moved, its Python was
# removed or is another version now, or a lock has changed. The file `created` contains the path of the checkout. It
# has another name while pip works: an interrupted pip leaves half of a package, and the next pip takes the package
# for installed. `run` and `dev` are the stamps of the two locks.
ifneq ($(shell $(BIN)/python -c 'import pip' 2>/dev/null && cat $(VENV)/created 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/created
endif
ifeq ($(filter .venv%,$(VENV)),)
$(error Creating VENV empties it, so its name must begin with .venv: $(VENV))
endif

# The locked pip is installed first: pip 26 takes half the time of pip 23, which comes with Python 3.11.
$(VENV)/created: requirements-pip.lock requirements.lock requirements-dev.lock
	@$(PYTHON) -c "" 2>/dev/null || { \
		echo "$(PYTHON) does not run: install Python 3.11 or later, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@echo "==> Creating the virtual environment $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) $(PIP_LOCK) $<
	@echo "$(CURDIR)" > $@

define CHECK_PYTHON
import sys
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    sys.exit("$(PYTHON) is Python %s: install 3.11 or later, or name one: make PYTHON=python3.12 ..." % version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("$(PYTHON) has no ensurepip: on Debian and Ubuntu, install the package python%s-venv." % version)
endef
export CHECK_PYTHON

$(VENV)/run: requirements.lock pyproject.toml $(VENV)/created
	@echo "==> Installing the service's dependencies (the first time takes half a minute)"
	$(install)
	@touch $@

$(VENV)/dev: requirements-dev.lock pyproject.toml $(VENV)/created
	@echo "==> Installing the development dependencies (the first time takes a minute)"
	$(install)
	@touch $@ $(VENV)/run

# --no-deps: pip looks at no release that is not in the lock. compileall uses every core, pip uses one; like pip it
# ignores files that do not compile.
define install
@mv $(VENV)/created $(VENV)/unfinished
@$(PIP) $(PIP_LOCK) $<
@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
@$(check_lock)
@mv $(VENV)/unfinished $(VENV)/created
endef

check_lock = problems=$$($(PIP) check) || { \
	echo "$$problems" >&2; echo "The locks do not fit pyproject.toml: run make lock." >&2; exit 1; }
