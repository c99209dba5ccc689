# Needs GNU make and Python 3.11 or newer; everything else is installed into .venv from PyPI.

PYTHON ?= python3
VENV := .venv
IN := $(VENV)/bin/python
LOG := $(VENV)/install.log
# Runs `pip install` with its output in a file; shows the end of that file when pip fails.
pip_install = @$(IN) -m pip install --disable-pip-version-check $(1) >>$(LOG) 2>&1 || { \
	  echo "pip failed. The end of $(LOG):" >&2; tail -n 8 $(LOG) >&2; exit 1; }
# 0 runs all tests in one process. Each of several processes has an embedded PostgreSQL of its own; a database of
# TEST_DATABASE_URL is for one process.
TEST_PROCESSES ?= 0
# A .venv whose Python was removed is created again.
GONE := $(shell test ! -e $(VENV)/made || $(IN) -c '' 2>/dev/null || rm -f $(VENV)/made $(VENV)/installed*)
OLD := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help setup run test check migrate worker screenshots bench attack soak deploy-check clean

help: ## Show this
	@echo "Signalbox. make …"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/installed ## Create .venv with all packages (PYTHON=python3.12 chooses a Python)
	@:

run: setup ## Start everything on this machine; PORT (8000), DATABASE_URL (default: an embedded PostgreSQL in .data)
	@exec $(IN) -m app.cli.devserver.up

test: $(VENV)/installed-dev ## Run the tests; needs no server, no root (ARGS="tests/cli -x" goes to pytest; TEST_PROCESSES=2 runs two processes)
	@$(IN) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/installed-dev ## Run what CI runs: lint, format, types and all tests
	$(IN) -m ruff check .
	$(IN) -m ruff format --check .
	$(IN) -m mypy --strict app
	@$(MAKE) --no-print-directory test

migrate: setup ## Migrate the database
	@$(VENV)/bin/signalbox migrate

worker: setup ## Start one more worker (ARGS="--concurrency 100")
	@exec $(VENV)/bin/signalbox worker $(ARGS)

screenshots: $(VENV)/installed-dev ## Make the pictures of the README again (docs/images); needs Chromium
	@SIGNALBOX_PICTURES=docs/images $(IN) -m pytest -q tests/console/test_pictures.py

bench: setup ## Run the benchmarks; needs wrk, Redis, nginx (ONLY=single,batch selects some)
	@exec $(IN) -m bench $(ONLY)

attack: setup ## Attack the product on this machine, show how long others wait; needs Redis (ONLY=unknown_keys selects)
	@exec $(IN) -m bench.attack $(ONLY)

soak: setup ## Half an hour of steady load with retention at work; needs Redis (SOAK_SECONDS=60 is a short one)
	@exec $(IN) -m bench.soak

deploy-check: setup ## Follow docs/deploying.md word by word in a new Debian; as root, with debootstrap and systemd-container
	@exec $(IN) -m tests.deploy.follow_page $(ARGS)

clean: ## Remove .venv, caches and build results; keeps the data in .data
	rm -rf $(VENV) build dist signalbox.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name .git -prune -o -name .data -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
	@echo "Kept the data in .data; remove that folder yourself to delete them."

$(VENV)/made:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) not found: install Python 3.11 or newer, or choose one: make setup PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c '$(OLD)' || { \
	  echo "Python 3.11 or newer is required, $(PYTHON) is `"$(PYTHON)" -V 2>&1`: choose one: make setup PYTHON=python3.12" >&2; \
	  exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "The Python module venv is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Creating $(VENV) with `"$(PYTHON)" -V 2>&1`"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made requirements.txt requirements-dev.txt setup.cfg setup.py
	@echo "Installing packages from PyPI into $(VENV), which takes about a minute (log: $(LOG))"
	@: >$(LOG)
	$(call pip_install,-c requirements-dev.txt -r requirements.txt setuptools)
	$(call pip_install,-c requirements-dev.txt --no-build-isolation --use-pep517 -e '.[run]')
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing the packages for tests (log: $(LOG))"
	$(call pip_install,-r requirements-dev.txt)
	@touch $@
