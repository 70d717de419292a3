PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := configs/demo/mask_rcnn_swin_nano_w8a8.py

.PHONY: setup demo test test-cpus test-full lint format tables docs clean

setup:
	@$(PYTHON) dev/bootstrap.py --venv $(VENV)

demo: setup
	@$(BIN)/python tools/dfq.py $(DEMO)

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# A process per core, each with one thread; a file's tests share its fixtures, so they stay together.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test: setup
	@$(PARALLEL) -m "not full"

# Kernels of other CPUs, as far as this one has them, where bits depend on them.
CPU_TESTS := tests/quantization tests/generation tests/deployment tests/engine/test_resume.py
test-cpus: setup
	@ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(PARALLEL) -m "not full" $(CPU_TESTS)
	@ATEN_CPU_CAPABILITY=avx2 $(PARALLEL) -m "not full" tests/quantization tests/engine/test_resume.py

test-full: setup
	@$(PARALLEL)

tables: setup
	@$(BIN)/python -m dev.tables
	@$(BIN)/python -m dev.config_table

docs: setup
	@$(BIN)/sphinx-build -q -W -b html docs docs/_build/html

clean:
	rm -rf work_dirs data build dist docs/_build *.egg-info
