.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help:  ## List the verbs
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedskd_sim needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

.PHONY: install
install: $(VENV)/.installed  ## Make the environment in .venv

.PHONY: demo
demo: install  ## Train four hospitals around a ring, under two minutes after installation
	$(BIN)/fedskd-sim launch scenarios/quickstart.yaml

.PHONY: lint
lint: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: test
test: lint  ## Lint, types and all tests
	$(BIN)/python -m pytest

.PHONY: bench
bench: install  ## Benchmarks of speed and memory (minutes)
	$(BIN)/python -m tests.benchmarks
