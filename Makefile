# Two commands do all the set-up on a fresh machine: `make quickstart` and `make test`.
# PYTHON names the interpreter to build the environment with (3.11 or 3.12).
PYTHON ?= python3
VENV ?= .venv
UV_VERSION = 0.13.8
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DEV_READY = $(VENV)/.dev-ready

.PHONY: help setup quickstart test unit fuzz lint digests clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 14

setup: $(READY)  ## make the environment in .venv

quickstart: $(READY)  ## train, attack and rank two defenses on bundled data; tables in runs/tables
	$(BIN)/robench quickstart

# a process per core, which takes over tests of another that has more left
test: lint  ## lint, type-check and run every test
	$(BIN)/python -m pytest -n auto --dist worksteal

unit: $(DEV_READY)  ## run the unit tests only
	$(BIN)/python -m pytest tests/unit

fuzz: $(DEV_READY)  ## try thousands of random examples, artifacts and names; ROBENCH_FUZZ=N of them
	ROBENCH_FUZZ=$${ROBENCH_FUZZ:-20000} $(BIN)/python -m pytest -m fuzz

lint: $(DEV_READY)  ## check style, types and the layering of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# SAME="module:Class ..." names those whose code was changed and whose figures were not
digests: $(DEV_READY)  ## record what the code of the plugins says, each under its version
	$(BIN)/python -m robench.testing.digests robench_attacks robench_defenses $(addprefix --same ,$(SAME))

clean:  ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# uv installs in seconds what pip installs in minutes; where uv cannot, pip does it
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11 or 3.12; name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || true
	touch $@

$(READY): $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e . \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEV_READY): $(READY)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]' \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
