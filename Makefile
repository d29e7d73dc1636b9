# Two commands for a newcomer: `make demo` and `make test`. The rest is for developers.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With the repository root on sys.path, another package's `import datasets` would meet our folder.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check docs compare-attention bench bench-gpu lint wheel clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q $(PIP_OPTIONS) -e '.[$*]'
	@touch $@

# Bytecode is written when a module is first imported; compiling all of it takes half a minute.
$(VENV)/installed-demo: PIP_OPTIONS = --no-compile

demo: $(VENV)/installed-demo  ## fit brain encoders to a simulated subject and write a report, offline
	$(BIN)/neuroattn fit-encoder --demo --out demo --resume

test: $(VENV)/installed-dev  ## install what tests need and run them all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

check: $(VENV)/installed-dev  ## ruff, format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-docs  ## build the documentation, warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

compare-attention: $(VENV)/installed-dev  ## train every attention layer on the same questions; about 20 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m neuroattn.analyses.attention_layers --out build/attention-layers --workers 2 --resume
	cp build/attention-layers/table.md docs/_static/attention-layers.txt
	cp build/attention-layers/figure.png docs/_static/attention-layers.png

bench: $(VENV)/installed-demo  ## time primitives and whole steps on the CPU beside their alternatives, and measure memory
	$(BIN)/python kernels/benchmarks/run.py --device cpu
	$(BIN)/python kernels/benchmarks/encoder_memory.py

bench-gpu: $(VENV)/installed-demo  ## the same on a CUDA device
	$(BIN)/python kernels/benchmarks/run.py --device cuda

lint: $(VENV)/installed-demo  ## compile every kernel for sm_90 and sm_80, no GPU needed; TRITON=x.y.z picks the compiler
ifdef TRITON
	$(BIN)/python -m pip install -q --no-deps --target build/triton-$(TRITON) triton==$(TRITON)
	PYTHONPATH=build/triton-$(TRITON) $(BIN)/python -m neuroattn.kernels.lint
else
	$(BIN)/python -m neuroattn.kernels.lint
endif

wheel: $(VENV)/installed-dev  ## build sdist and wheel into dist/
	$(BIN)/python -m build

clean:  ## remove what was built, the environment included
	rm -rf $(VENV) build dist demo docs/_build docs/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache
