# Everything a newcomer needs: make train, make test. Both set up what is missing first.
comma := ,
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# RAPIDS has wheels for Linux x86-64 alone; elsewhere the CPU engine is installed.
EXTRAS := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),[cuda13$(comma)dev],[dev])
# Extras whose versions constraints.txt holds. cuda12 needs other versions of what cuda13 needs.
PINNED := cuda13 approximate export timm cluster examples rivals docs dev
RUN ?= runs/quickstart-$(shell date +%Y%m%d-%H%M%S)

.PHONY: venv constraints train test test-simulator test-gpu gpu-day check docs dist clean

venv: $(VENV)/.installed

# uv, because pip settles for a torch without its operators where a local CPU wheel is on offer.
$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt \
		--editable '.$(EXTRAS)'
	touch $@

# The versions that are tested, here and in the image: adds what pyproject.toml newly asks for and keeps what still fits.
# `rm constraints.txt` first takes the newest of everything.
constraints:
	touch constraints.txt
	$(MAKE) $(BIN)/uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 $(PINNED:%=--extra %) --no-annotate \
		--custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

train: venv
	$(BIN)/rapids-slr train --out $(RUN)

# Files of tests side by side, as many as there are cores, up to 4: each takes two GB.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

test: venv
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)
	$(MAKE) test-simulator

# CUDA code in Numba's simulator, which must be switched on before Numba is imported. In one process: in the end every kernel
# has to have been launched in it.
test-simulator: venv
	NUMBA_ENABLE_CUDASIM=1 $(BIN)/python -m pytest tests/cuda

# On a machine with a GPU; torch, CuPy and numba-cuda are enough, cuML and cuDF are tested where they are installed.
test-gpu:
	$(PYTHON) -m pytest -m gpu tests/cuda tests/gpu

# All that a GPU has to show, in the order of what decides most, for a machine that is there for half an hour. Goes on
# where it was left; make gpu-day ARGS=--list, ARGS="--from STEP", and without a GPU ARGS=--rehearse.
gpu-day:
	$(PYTHON) benchmarks/gpu_day.py $(ARGS)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

# The site; a warning, such as a link that leads nowhere, fails. Start at build/site/index.html.
docs: venv
	$(BIN)/python -m sphinx --quiet --nitpicky --fail-on-warning --keep-going --fresh-env -c docs . build/site

# An sdist, and a wheel built from it.
dist: venv
	$(BIN)/uv build --out-dir dist

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
