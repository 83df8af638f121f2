# Every target does its own set-up in .venv, once. `make` alone lists the targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup audit smoke check test test-slow lab format export bench parity fuzz mutants readme clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "UTI is tested with Python 3.11: set PYTHON to it, as in make PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/nbdev_install_hooks; fi
	@touch $@

setup: $(STAMP)  ## make .venv and install everything into it

audit: $(STAMP)  ## audit the embedded codecs; the report is reports/audit/index.html
	$(BIN)/uti report --name audit --thorough

smoke: $(STAMP)  ## smoke-test a language model on the ids; the report is reports/smoke/index.html
	$(BIN)/uti smoke --name smoke

# Two processes share the machine: a thread each, and threads that wait do not keep a core busy.
check test test-slow: export OMP_NUM_THREADS ?= 1
check test test-slow: export OMP_WAIT_POLICY ?= PASSIVE
LINT := $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy --no-error-summary
PYTEST := $(BIN)/python -m pytest -q tests -n 2 --dist loadfile --no-loadscope-reorder

check: $(STAMP)  ## style, what is generated is in sync, and the tests that neither run a whole audit nor load models
	$(LINT)
	$(BIN)/python tests/check_sync.py
	$(PYTEST) -m "not run"

test: $(STAMP)  ## style, notebooks in sync, the notebooks but for those that make models, and the tests
	$(LINT)
	$(BIN)/python tests/check_sync.py
	$(PYTEST)

test-slow: $(STAMP)  ## the tests that take long and that test leaves out
	$(BIN)/python -m pytest -q -s tests --slow -m slow

lab: $(STAMP)  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir nbs

format: $(STAMP)  ## lint and format notebooks and tests, as check wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

export: $(STAMP)  ## write uti/ and README.md from the notebooks
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/check_sync.py --write-readme

bench: $(STAMP)  ## measure quality and speed against peers
	$(BIN)/python -m tests.bench

parity: $(STAMP)  ## count where the codecs of transformers differ from the library's own calls: nowhere
	$(BIN)/python tests/parity.py

fuzz: $(STAMP)  ## read 37,000 damaged files, metas, configs, token spaces and checkpoints: none may escape its error
	$(BIN)/python tests/fuzz.py

# What changed since it began makes it begin anew: mutmut would look for the lines that tests reach in the wrong files.
mutants: $(STAMP)  ## change the code that decides about ids and numbers in 4,100 places, for hours: do tests notice?
	@[ -z "$$(find uti -name '*.py' -newer mutants/.begun 2>&1)" ] || rm -rf mutants
	@mkdir -p mutants && { test -e mutants/.begun || touch mutants/.begun; }
	$(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

clean:  ## remove what can be made again; .venv stays
	rm -rf build dist _docs _proc *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache mutants reports/audit reports/smoke
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
