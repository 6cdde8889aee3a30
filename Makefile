# make demo and make test each set up what they need: a fresh machine runs either at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.tamis-ready
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test lint bench gpu-check clean

setup: $(STAMP)

# uv when present, else pip. uv does not look where pip is told to find local wheels, so pass it on.
$(STAMP): pyproject.toml constraints/ci.txt
	@if command -v uv >/dev/null 2>&1; then \
	  links="$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || true)"; \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$$links}}" \
	    uv pip install --quiet --python $(BIN)/python -c constraints/ci.txt -e '.[dev,cpu]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet -c constraints/ci.txt 'torch==2.13.0' && \
	  $(BIN)/python -m pip install --quiet -c constraints/ci.txt -e '.[dev,cpu]'; \
	fi
	@touch $@

demo: setup
	$(BIN)/tamis demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process a core and one thread each: on few cores torch is slower in several threads than alone.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

# The rivals are measured in the same run, so they are installed first.
bench: setup
	$(BIN)/python -m pip install --quiet -c constraints/ci.txt -e '.[bench]'
	$(BIN)/python -m benchmarks

# Everything that has a path on a GPU: values, then figures. It needs neither prefect nor faiss;
# GPU_PYTHON names the Python of a machine that has what it needs already.
gpu-check: $(if $(GPU_PYTHON),,setup)
	$(or $(GPU_PYTHON),$(BIN)/python) -m pytest -q -m gpu $$(grep -rl --include=*.py mark.gpu tests)
	$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks --gpu

clean:
	rm -rf $(VENV) tamis-demo tamis-store .pytest_cache .mypy_cache .ruff_cache
