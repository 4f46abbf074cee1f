# Each target makes the virtual environment it needs on first use. Stamp files remember
# what is installed, so that a second call installs nothing until the metadata changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
METADATA := setup.cfg pyproject.toml constraints.txt
INSTALL = $(BIN)/python -m pip install -c constraints.txt -e

export HF_HUB_OFFLINE = 1

.PHONY: help demo test lint clean

help:
	@echo "make demo   distil a tiny model offline and show what came of it"
	@echo "make test   run the default tests"
	@echo "make lint   flake8, isort, mypy"
	@echo "make clean  remove the virtual environment and build products"

demo: $(VENV)/.has-demo
	$(BIN)/hf-kd demo

test: $(VENV)/.has-test
	$(BIN)/python -m pytest

lint: $(VENV)/.has-dev
	$(BIN)/flake8 hf_kd tests .ci
	$(BIN)/isort --check --diff hf_kd tests .ci
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.has-demo: $(METADATA) | $(BIN)/python
	$(INSTALL) .
	touch $@

$(VENV)/.has-test $(VENV)/.has-dev: $(VENV)/.has-%: $(METADATA) | $(BIN)/python
	$(INSTALL) ".[$*]"
	touch $@
