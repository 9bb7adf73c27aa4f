# Every target does its own set-up in .venv, from an empty clone: only Python >= 3.11 and make are needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OLDEST := $(VENV)-oldest
PYTEST_FLAGS ?= -n auto
SECONDS ?= 1800

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-processors test-oldest soak lint audit format docs bench bench-quick clean

help:           ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## virtual environment with fdfa and the development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## train bp, dfa and fdfa on bundled real digits, and print one table
	@for rule in bp dfa fdfa; do \
	  $(BIN)/fdfa train digits/mlp rule=$$rule --quiet --results results/demo > /dev/null || exit 1; \
	done
	@$(BIN)/fdfa report results/demo

test: $(STAMP)  ## all tests; those on MNIST and CIFAR-10 are skipped where the data is not on disk
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-processors: $(STAMP) ## tests under other processors' kernels; one line for each setting
	PYTEST_FLAGS='$(PYTEST_FLAGS)' $(BIN)/python tests/processors.py

test-oldest: ## tests with the oldest packages that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint $(OLDEST)/constraints.txt --editable '.[test]'
	$(OLDEST)/bin/python -m pytest $(PYTEST_FLAGS) -W ignore::DeprecationWarning

soak: $(STAMP)  ## kills, full disks, hostile folders, generated recipes and a long training; SECONDS=1800
	$(BIN)/python tests/soak.py --seconds $(SECONDS) --out docs/soak.json

lint: $(STAMP)  ## ruff, format check, strict mypy, and the order of the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

audit: $(STAMP) ## known vulnerabilities of what this is installed with, by pip-audit
	$(BIN)/python .ci/audit.py

format: $(STAMP) ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## docs/rules.md, from the registry
	$(BIN)/fdfa rules --format markdown > docs/rules.md

bench: $(STAMP) ## time and memory of a step, every network and rule, against plain PyTorch
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/commands.py

bench-quick: $(STAMP) ## the same for mlp and cnn; fails where a target is missed
	$(BIN)/python benchmarks/steps.py --quick

clean:          ## remove the virtual environment and caches
	rm -rf $(VENV) $(OLDEST) .mypy_cache .pytest_cache .ruff_cache
