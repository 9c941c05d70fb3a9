# make demo and make test are all the set-up there is: both make their own virtual environment.
#
# PYTHON=... chooses the interpreter (default: the newest >= 3.11 that works on this machine),
# VENV=...   where the environment is made, ARGS=... adds arguments to what is run.

SHELL := /bin/bash
PYTHON ?=
VENV ?= .venv
# Most tests wait for processes: two at a time for each processor.
JOBS ?= $(shell echo $$((2 * $$(nproc))))
ARGS ?=
BIN := $(VENV)/bin

.PHONY: help demo test check format reference bench autobahn compatibility mutants chaos clean

help:
	@echo 'make demo       serve the demo application on four workers'
	@echo 'make test       run all tests'
	@echo 'make check      formatting, lint, types, architecture'
	@echo 'make format     put the formatting right'
	@echo 'make reference  write docs/settings.md, docs/asgi.md and deploy/asgi-supervise.toml anew'
	@echo 'make bench      measure against other servers'
	@echo 'make autobahn   run the Autobahn WebSocket tests'
	@echo 'make compatibility  run every system of the ASGI world, each in an environment of its own'
	@echo 'make mutants    change the policies in 2000 ways and see which the tests do not notice'
	@echo 'make chaos      reload, kill, hang and rotate at random for two minutes'
	@echo 'make clean      remove what the others made'

$(BIN)/python:
	python="$(PYTHON)"; python="$${python:-$$(.ci/find-python)}" && "$$python" -m venv --clear $(VENV)

$(VENV)/.installed: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/asgi-supervise -w 4 $(ARGS) asgi_supervise.demo:app

test: $(VENV)/.installed-tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: $(VENV)/.installed-tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(VENV)/.installed-tests
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

reference: $(VENV)/.installed
	$(BIN)/python -m asgi_supervise.settings.reference
	$(BIN)/python -m tests.specification.page

bench: $(VENV)/.installed-tests
	$(BIN)/python -m tests.benchmarks $(ARGS)

autobahn: $(VENV)/.installed-tests
	$(BIN)/python -m tests.autobahn $(ARGS)

# ARGS=... takes names of systems; ARGS=--write puts the table into docs/compatibility.md.
compatibility: $(VENV)/.installed-tests
	$(BIN)/python -m tests.compatibility $(ARGS)

# In a directory of its own, because mutmut names modules by their path and knows no source root but
# src/. ARGS=... takes patterns, as 'asgi_supervise.policy.stalls*'; what was tested is remembered.
mutants: $(VENV)/.installed-tests
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mutmut>=3.8'
	mkdir -p .mutants
	cp -Rp supervisor/asgi_supervise workers tests pyproject.toml .mutants/
	cd .mutants && $(abspath $(BIN))/mutmut run $(ARGS)
	cd .mutants && $(abspath $(BIN))/mutmut results

chaos: $(VENV)/.installed-tests
	$(BIN)/python -m tests.process.chaos $(ARGS)

clean:
	rm -rf $(VENV) .venv-ci-* .bench .autobahn .compatibility .mutants .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
