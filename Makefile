PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := configs/demo/mask_rcnn_swin_nano_w8a8.py

.PHONY: setup demo test test-full lint format tables clean

setup:
	@$(PYTHON) tools/bootstrap.py --venv $(VENV)

demo: setup
	@$(BIN)/python tools/dfq.py $(DEMO)

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test: setup
	@$(BIN)/python -m pytest -m "not full"

test-full: setup
	@$(BIN)/python -m pytest

tables: setup
	@$(BIN)/python tools/tables.py
	@$(BIN)/python tools/config_table.py

clean:
	rm -rf work_dirs data build dist *.egg-info
