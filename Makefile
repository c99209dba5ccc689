# Needs GNU make and Python 3.11 or newer; everything else comes into .venv from PyPI.

PYTHON ?= python3
VENV := .venv
IN := $(VENV)/bin/python
PIP := $(IN) -m pip install --disable-pip-version-check
# A .venv whose Python has gone since is made anew.
GONE := $(shell test ! -e $(VENV)/made || $(IN) -c '' 2>/dev/null || rm -f $(VENV)/made $(VENV)/installed*)
OLD := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help setup run test check migrate worker bench clean

help: ## Show this
	@echo "Signalbox. make …"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/installed ## Make .venv with everything in it (PYTHON=python3.12 chooses which Python)
	@:

run: setup ## Start everything on this machine: PORT (8000), DATABASE_URL (default: an embedded PostgreSQL under .data)
	@exec $(IN) -m app.cli.devserver.up

test: $(VENV)/installed-dev ## Run the tests; needs no server, no root, no settings (ARGS="tests/match -x" passes arguments to pytest)
	@$(IN) -m pytest $(ARGS)

check: $(VENV)/installed-dev ## Run all that CI runs: lint, format, types, tests with the house rules and the migrations
	$(IN) -m ruff check .
	$(IN) -m ruff format --check .
	$(IN) -m mypy --strict app
	@$(MAKE) --no-print-directory test

migrate: setup ## Bring the database up to date
	@$(IN) -m flask --app wsgi migrate

worker: setup ## Start one more worker (ARGS="--concurrency 100")
	@exec $(IN) -m flask --app wsgi worker $(ARGS)

bench: setup ## Measure it against references on this machine; needs wrk, Redis, nginx (ONLY=single,batch runs some)
	@exec $(IN) -m bench $(ONLY)

clean: ## Remove .venv, caches and what was built; the data in .data stay
	rm -rf $(VENV) build dist signalbox.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name .git -prune -o -name .data -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
	@echo "The data in .data stay; remove that folder yourself if you want them gone."

$(VENV)/made:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) is not there: install Python 3.11 or newer, or say which: make setup PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c '$(OLD)' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is `"$(PYTHON)" -V 2>&1`: say which, make setup PYTHON=python3.12" >&2; \
	  exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's module venv is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with `"$(PYTHON)" -V 2>&1`"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made requirements.txt setup.cfg setup.py
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation --use-pep517 -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@
