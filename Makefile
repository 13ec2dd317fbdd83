# Needs nothing but make and Python 3.11 or newer; environments are made beside this file.
#     make PYTHON=python3.12 test            another interpreter
#     make PIP_ARGS="--index-url URL" demo   options for every pip install
#     make test PYTEST_ARGS="-k spectrum"    options for pytest
#     make readme README_ARGS=--skip-memory  options for docs/regenerate.py
#     make bench BENCH_ARGS="--only NAME"    options for benchmarks/results.py
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
README_ARGS ?=
BENCH_ARGS ?=
# One torch thread in each of two processes beats two threads in one on tensors as small as the tests'.
WORKERS ?= 2

VENV := .venv
VENV_TL4 := .venv-tl4

# -qq: errors only
PIP_INSTALL = -m pip install -qq --disable-pip-version-check $(PIP_ARGS)
PYTEST = -m pytest -n $(WORKERS) --dist worksteal
TEST_ENV = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-tl4 lint format types docs wheel readme bench clean

help: ## what there is to make
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf 'make %-10s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.stamp-core ## profile the bundled model on made-up word problems
	$(VENV)/bin/mcr-lens demo --overwrite

test: $(VENV)/.stamp-test ## the test suite
	$(TEST_ENV) $(VENV)/bin/python $(PYTEST) $(PYTEST_ARGS)

test-slow: $(VENV)/.stamp-test ## the tests marked slow, which make test leaves out
	$(TEST_ENV) $(VENV)/bin/python $(PYTEST) -m slow $(PYTEST_ARGS)

test-tl4: $(VENV_TL4)/.stamp-test ## the test suite with transformer-lens 4.x, in an environment of its own
	$(TEST_ENV) $(VENV_TL4)/bin/python $(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.stamp-test ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.stamp-test ## let ruff mend what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.stamp-test ## pyright
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

wheel: $(VENV)/.stamp-test ## build sdist and wheel; run the demo from the wheel, in a fresh environment, in an empty folder
	rm -rf dist
	$(VENV)/bin/python -m build -q
	$(VENV)/bin/python .ci/check_dist.py dist
	@set -eu; here=$$PWD; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	echo "Installing $$(basename dist/*.whl) into a fresh environment ..."; \
	$(PYTHON) -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" $(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)" -c constraints.txt; \
	"$$folder/venv/bin/python" $(PIP_INSTALL) dist/*.whl -c constraints.txt; \
	mkdir "$$folder/empty"; cd "$$folder/empty"; \
	"$$folder/venv/bin/python" -c 'import mcr_lens, sys; sys.exit(not mcr_lens.__file__.startswith(sys.prefix))'; \
	"$$folder/venv/bin/mcr-lens" --help > /dev/null; \
	HF_HUB_OFFLINE=1 "$$folder/venv/bin/mcr-lens" demo

docs: $(VENV)/.stamp-test ## the documentation site, into site/: open site/index.html
	$(VENV)/bin/python $(PIP_INSTALL) -e '.[docs]' -c constraints.txt
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=docs/building $(VENV)/bin/mkdocs build --strict --quiet

readme: $(VENV)/.stamp-test ## renew the numbers and the picture of README.md and the notebooks (needs Chromium or Chrome)
	$(VENV)/bin/python docs/regenerate.py $(README_ARGS)

bench: $(VENV)/.stamp-test ## run the benchmarks and renew benchmarks/RESULTS.md (leave the machine alone meanwhile)
	$(VENV)/bin/python benchmarks/results.py $(BENCH_ARGS)

clean: ## remove environments, builds and caches
	rm -rf $(VENV) $(VENV_TL4) build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. A stamp is older than what it was made from only when something has to be installed again.
# $(call environment,FOLDER,CONSTRAINTS): the environment with torch, which has a step of its own so that
# a CPU build of it is kept when the rest is installed.
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mcr_lens needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(1), a few minutes the first time ..."
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python $(PIP_INSTALL) "$$(grep '^torch==' $(2))" -c $(2)
	@touch $@
endef

$(VENV)/.stamp-torch: constraints.txt
	$(call environment,$(VENV),constraints.txt)

$(VENV_TL4)/.stamp-torch: constraints-tl4.txt
	$(call environment,$(VENV_TL4),constraints-tl4.txt)

$(VENV)/.stamp-core: $(VENV)/.stamp-torch pyproject.toml
	@$(VENV)/bin/python $(PIP_INSTALL) -e . -c constraints.txt
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-torch pyproject.toml
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[test,tasks,ray]' -c constraints.txt
	@touch $(VENV)/.stamp-core $@

$(VENV_TL4)/.stamp-test: $(VENV_TL4)/.stamp-torch pyproject.toml
	@$(VENV_TL4)/bin/python $(PIP_INSTALL) -e '.[test,tasks,ray]' -c constraints-tl4.txt
	@touch $@
