# egress: one command a job. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench chaos lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-7s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## install what is missing: Debian packages (as root) and .venv with pinned, hashed requirements
	@:

demo: setup ## (root) a small real network: what gets out, what is refused; about a minute
	@packaging/root.sh demo
	@$(BIN)/python -m demo

# Side by side, for the lab waits more than it works; a file's tests share what its fixtures set up. Container images
# often forbid Python to keep what it compiled: each worker, and each command under test, would compile all of it anew.
test: setup ## every test (the lab as root only); FAST=1: without the lab and long properties, within 90 seconds
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(if $(FAST),$$(($$(nproc) + 1)),auto) --maxprocesses 4 \
		--dist loadfile \
		$(if $(FAST),-m 'not lab and not slow' --hypothesis-profile fast)

lint: setup ## ruff, mypy --strict, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## (root) throughput and cost a packet, as ratios to plain forwarding
	@packaging/root.sh bench
	@$(BIN)/python -m bench

chaos: setup ## (root) faults injected into a real gateway under load; writes docs/reliability.md; up to half an hour
	@packaging/root.sh chaos
	@$(BIN)/python -m bench.chaos

# Pins every package of the closure with the hashes of all its files. Needs pip-tools in .venv.
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
lock: ## pin the requirements anew (maintainers; add ARGS=--upgrade)
	@test -x $(BIN)/pip-compile || { echo "lock: run '$(BIN)/pip install pip-tools' first" >&2; exit 1; }
	@CUSTOM_COMPILE_COMMAND='make lock' $(LOCK) $(ARGS) -o requirements/build.txt requirements/build.in
	@CUSTOM_COMPILE_COMMAND='make lock' $(LOCK) $(ARGS) -o requirements/base.txt pyproject.toml
	@CUSTOM_COMPILE_COMMAND='make lock' $(LOCK) $(ARGS) --extra dev -c requirements/base.txt -o requirements/dev.txt pyproject.toml

clean: ## remove what setup, tests and builds left in this directory
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is older than what it was made from: install again. pip leaves alone what is already right.
$(STAMP): requirements/build.txt requirements/dev.txt pyproject.toml packaging/prerequisites.sh
	@packaging/prerequisites.sh "$(PYTHON)"
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "setup: $$("$(PYTHON)" -V) is too old: run 'make setup PYTHON=/path/to/python3.11' or later" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/build.txt
	@$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
