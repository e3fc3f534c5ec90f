# Every target sets up what it needs, in .venv, and is quick the second time: the stamp files in
# .venv/ are older than what they were made from only if that changed.
#
#   make up ARGS="--model path.gguf"     make test ARGS="tests/gateway -k stream"     make PYTHON=python3.12 up

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Where .ci/run leaves buf and grpcurl.
export PATH := $(CURDIR)/.cache/bin:$(PATH)
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV    := .venv
BIN     := $(VENV)/bin
PROTOS  := $(wildcard protos/geniehive/v1/*.proto)
LANE    := $(wildcard geniehive/relay/_lane.c)
RECIPE  := pyproject.toml hatch_build.py geniehive/__init__.py
SOURCES := geniehive controlplane gateway nodeagent simulator
PIP     := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Pip shows nothing of a build that went well, and one without the compiled lane did.
TELL_LANE := [[ "$${GENIEHIVE_PURE:-0}" != 0 ]] || $(BIN)/python -c 'import geniehive.relay._lane' 2>/dev/null || echo \
  "relay: runs in Python, streams cost the gateway more processor time; for the compiled one install a C compiler and" \
  "Python's headers (Debian: apt install gcc python3-dev), then: make compile"
# Tests start servers and mostly wait for them: more workers than this fight over small machines.
WORKERS ?= 4
ARGS    ?=

UP    := $(VENV)/.installed
DEV   := $(VENV)/.installed-dev
STUBS := $(VENV)/.stubs

.PHONY: help up test lint format types contracts buf proto compile bench bench-routing bench-decision wheel clean

help: ## Show this
	@echo "make TARGET [ARGS=...]"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 18

up: $(UP) ## Start everything on this machine: engines found, URL and a curl that works
	@exec $(BIN)/geniehive up $(ARGS)

test: $(STUBS) ## Run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(STUBS) ## Style, format, types, import contracts, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types contracts buf

format: $(DEV) ## Let ruff format the code and fix what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: $(STUBS)
	$(BIN)/mypy

contracts: $(STUBS)
	$(BIN)/lint-imports --cache-dir .cache/import_linter

# buf is a tool of its own (npm install @bufbuild/buf); CI always has it.
buf:
	@if ! command -v buf >/dev/null; then echo "buf: not installed, protos not linted (npm install --global @bufbuild/buf)"; \
	else set -x; buf lint; buf format --diff --exit-code; fi

proto: $(DEV) ## Build the gRPC stubs from protos/, and the relay's C
	@$(BIN)/python -m hatch_build
	@touch $(STUBS)

compile: ## Compile the relay's C, where a compiler came after the first make
	@rm -f $(UP)
	@$(MAKE) --no-print-directory $(UP)

bench: $(STUBS) ## Run the benchmarks
	@if [ -x bench/run ]; then exec bench/run $(ARGS); fi; \
	for script in bench/bench_*.py; do \
	  if [ -e "$$script" ]; then echo "== $$script"; $(BIN)/python "$$script" $(ARGS); \
	  else echo "no benchmarks: bench/bench_*.py matches nothing" >&2; exit 1; fi; done

bench-routing: $(STUBS) ## Compare routing policies on simulated fleets (some minutes)
	PYTHONPATH=bench:. $(BIN)/python bench/routing/policies.py $(ARGS)

bench-decision: $(STUBS) ## What one routing decision costs
	PYTHONPATH=bench:. $(BIN)/python bench/routing/decision.py $(ARGS)

wheel: $(DEV) ## Build into dist/: sdist, wheel for machines like this one, wheel for any machine
	$(BIN)/python -m build --no-isolation --outdir dist .
	GENIEHIVE_PURE=1 $(BIN)/python -m build --no-isolation --wheel --outdir dist .

clean: ## Remove what was built, .venv included
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f geniehive/v1/*_pb2* geniehive/relay/_lane.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up ---------------------------------------------------------------------------------------

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "GenieHive needs Python 3.11 or newer, and found none on PATH; install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; \
	fi; \
	echo "setting up .venv with $$($$found --version) ..."; \
	if ! $$found -m venv $(VENV) >$(VENV).log 2>&1; then \
	  { $$found -m venv --clear --without-pip $(VENV) && $$found -m pip --python $(BIN)/python install --quiet pip; } >>$(VENV).log 2>&1 \
	  || { cat $(VENV).log >&2; rm -rf $(VENV) $(VENV).log; \
	       echo "$$found cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi; \
	rm -f $(VENV).log

$(UP): $(BIN)/python $(RECIPE) $(PROTOS) $(LANE)
	@echo "installing GenieHive into .venv (the first time takes a minute) ..."
	@$(PIP) --editable '.[engine]'
	@$(TELL_LANE)
	@touch $@

$(DEV): $(BIN)/python $(RECIPE)
	@echo "installing GenieHive and its development tools into .venv (the first time takes a minute or two) ..."
	@$(PIP) --editable '.[engine,postgres,dev]'
	@$(TELL_LANE)
	@touch $@ $(UP) $(STUBS)

$(STUBS): $(DEV) $(PROTOS) $(LANE)
	@$(BIN)/python -m hatch_build
	@touch $@ $(UP)
