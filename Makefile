# Two commands do all the set-up on a fresh machine: `make quickstart` and `make test`.
# PYTHON names the interpreter to build the environment with (3.11, 3.12 or 3.13). TORCH is the build of torch: auto looks
# for a GPU, cpu and such as cu130 name one, and pypi is the one that the package index has.
PYTHON ?= python3
TORCH ?= auto
# the optional packages of `make setup`; the tests' environment has all
EXTRAS ?= foolbox,art,autoattack
VENV ?= .venv
UV_VERSION = 0.13.8
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DEV_READY = $(VENV)/.dev-ready

.PHONY: help setup quickstart test smoke unit fuzz lint docs digests vendor clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 14

setup: $(READY)  ## make the environment in .venv

quickstart: $(READY)  ## train, attack and rank two defenses on bundled data; tables in runs/tables
	$(BIN)/robench quickstart

# a process per core, which takes over tests of another that has more left
test: lint  ## lint, type-check and run every test
	$(BIN)/python -m pytest -n auto --dist worksteal

smoke: $(READY)  ## make every table small, on data that come along; tables in runs/smoke
	$(BIN)/robench reproduce --all --scale smoke --runs runs/smoke --out runs/smoke/tables

unit: $(DEV_READY)  ## run the unit tests only
	$(BIN)/python -m pytest -n auto --dist worksteal tests/unit

fuzz: $(DEV_READY)  ## try thousands of random examples, artifacts and names; ROBENCH_FUZZ=N of them
	ROBENCH_FUZZ=$${ROBENCH_FUZZ:-20000} $(BIN)/python -m pytest -m fuzz

lint: $(DEV_READY)  ## check style, types and the layering of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# all links are checked; nothing is fetched, then or when the pages are read
docs: $(DEV_READY)  ## make the documentation's site in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# SAME="module:Class ..." names those whose code was changed and whose figures were not
digests: $(DEV_READY)  ## record what the code says that figures come out of, plugins and robench's own
	$(BIN)/python -m robench.testing.digests robench robench_attacks robench_defenses $(addprefix --same ,$(SAME))

vendor: $(DEV_READY)  ## fetch the parts of the page from npm, as robench/page/vendor/pins.toml has them
	$(BIN)/python -m robench.page.vendored

clean:  ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# uv installs in seconds what pip installs in minutes; where uv cannot, pip does it
UV = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is not Python 3.11 to 3.13; name one that is: make PYTHON=python3.13 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv==$(UV_VERSION) || true
	touch $@

# torch comes first, since its build depends on the machine: without a GPU it is smaller by gigabytes. Where the index of
# such builds cannot be reached, the next step takes the one that the package index has
$(VENV)/.torch: $(VENV)/.made constraints.txt
	@test "$(TORCH)" = pypi || { \
	  echo "installing torch, build $(TORCH)"; \
	  UV_HTTP_RETRIES=1 $(UV) --torch-backend=$(TORCH) torch torchvision 2>$(VENV)/torch.log \
	  || echo "The build $(TORCH) of torch cannot be had (see $(VENV)/torch.log); taking that of the package index."; }
	touch $@

$(READY): $(VENV)/.torch pyproject.toml constraints.txt
	$(UV) -e '.[$(EXTRAS)]' || $(PIP) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

$(DEV_READY): $(READY)
	$(UV) -e '.[dev]' || $(PIP) -c constraints.txt -e '.[dev]'
	touch $@
