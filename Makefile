# Every target makes the virtual environment that it needs, in .venv/ of this checkout.

PYTHON ?= python3
# Pinned because a plain `torch` may take a build with gigabytes of CUDA; the package itself accepts a range.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := $(wildcard csrc/*) CMakeLists.txt pyproject.toml
CXX_SOURCES := csrc/*.cpp csrc/*.hpp tests/native/*.cpp

.PHONY: help demo test test-all lint format bench clean

help:
	@echo "make demo      fetch a real chat model, quantize, compress, answer a question, print a table"
	@echo "make test      the tests (a few minutes)"
	@echo "make test-all  the tests and the slow ones"
	@echo "make lint      ruff, mypy, clang-format"
	@echo "make format    let ruff and clang-format rewrite the sources"
	@echo "make bench     the benchmarks behind docs/performance.md (an hour, on an idle machine)"

$(READY): $(NATIVE) requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "$(TORCH)"
	$(BIN)/python -m pip install -q -c requirements-dev.txt -e ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/python demo/demo.py

test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(READY)
	$(BIN)/python benchmarks/codec.py
	$(BIN)/python benchmarks/kernel_speed.py
	$(BIN)/python benchmarks/end_to_end.py

clean:
	rm -rf $(VENV) build .demo .bench
