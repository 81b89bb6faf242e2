# Two commands to begin with:  make demo   and   make test.  Each makes its own virtual environment first.
#   make PYTHON=python3.12 test     takes another interpreter (remove .venv first if there is one)
#   make bench BENCH="--only sync"  hands options to the benchmarks

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: help demo lab test lint types contracts unit stateful integration notebooks bench bench-docs format clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo "make demo         run the quickstart notebook and show what it prints"
	@echo "make lab          open JupyterLab on the lessons"
	@echo "make test         everything below, in this order"
	@echo "     lint types contracts unit stateful integration notebooks"
	@echo "make format       let ruff repair layout and imports"
	@echo "make bench        measure nbray beside its peers, about twenty minutes (docs/benchmarks.md)"
	@echo "     bench-docs   the same, and write the figures into docs/"
	@echo "make clean        remove what these commands made"

# The stamps: the environment is made once, and again when the dependencies change.
$(VENV)/.installed: pyproject.toml .ci/prepare
	@.ci/prepare "$(PYTHON)" $(VENV) test,notebook
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@.ci/prepare "$(PYTHON)" $(VENV) test,notebook,bench
	@# The contenders come compiled, too.
	@$(BIN)/python -m compileall -q nbray benchmarks
	@touch $@

demo: $(VENV)/.installed
	NBRAY_RENDERER=text $(BIN)/python notebooks/run.py notebooks/00_quickstart.ipynb

lab: $(VENV)/.installed
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

test: lint types contracts unit stateful integration notebooks
	@echo "== all passed"

lint: $(VENV)/.installed
	@echo "== lint"
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/python notebooks/run.py --check $(NOTEBOOKS)

types: $(VENV)/.installed
	@echo "== types"
	$(BIN)/mypy

contracts: $(VENV)/.installed
	@echo "== contracts"
	$(BIN)/lint-imports

unit: $(VENV)/.installed
	@echo "== unit"
	$(BIN)/python -m pytest -q tests/unit

stateful: $(VENV)/.installed
	@echo "== stateful"
	$(BIN)/python -m pytest -q tests/stateful

integration: $(VENV)/.installed
	@echo "== integration"
	$(BIN)/python -m pytest -q tests/integration

notebooks: $(VENV)/.installed
	@echo "== notebooks"
	NBRAY_RENDERER=text $(BIN)/python -m pytest -q --nbval --nbval-current-env $(NOTEBOOKS)

bench: $(VENV)/.installed-bench
	@echo "== bench"
	$(BIN)/python -m benchmarks --json build/benchmarks.json $(BENCH)

bench-docs: $(VENV)/.installed-bench
	@echo "== bench"
	$(BIN)/python -m benchmarks --docs docs $(BENCH)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
