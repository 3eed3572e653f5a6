# Everything runs in a virtual environment of its own, .venv, made on first use.
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?= --disable-pip-version-check --quiet
MINUTES ?= 10
# not on a package index; the commit that docs/scale.md tells of
AMD ?= git+https://github.com/AMD-AGI/TraceLens.git@171dd74721ca1ec45709e5805b68ae1f65e27811
DEMO ?= sample_traces/zero2_slow_fabric

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: audit scale fuzz help demo test lint format types check golden bench clean python

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install, and report on a sample run
	$(BIN)/tracelens analyze $(DEMO)

test: $(VENV)/.installed-dev ## install, and run all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev ## ruff: rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev ## mypy, strict (Python 3.11 or later: annotations are for numpy 2.3's types)
	$(BIN)/mypy

check: lint types test ## what has to pass before a commit

golden: $(VENV)/.installed-dev ## after an intended change: write golden reports and the README's excerpt
	$(BIN)/python -m pytest -q --update-golden tests/test_samples.py tests/test_docs.py

bench: $(VENV)/.installed $(VENV)-hta/.installed ## time and memory against HTA, which gets an environment of its own
	$(BIN)/python benchmarks/against_hta.py --hta-python $(VENV)-hta/bin/python

scale: $(VENV)/.installed $(VENV)-hta/.installed $(VENV)-amd/.installed ## growth of time and memory, HTA and AMD's TraceLens beside it; an hour; writes docs/scale.md
	$(BIN)/python benchmarks/scale.py --hta-python $(VENV)-hta/bin/python --amd-python $(VENV)-amd/bin/python --write

audit: $(VENV)/.installed-dev ## bandit over the code, pip-audit over what is installed
	$(BIN)/python -m pip install $(PIP_FLAGS) bandit pip-audit
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive tracelens collectors dashboards
	$(BIN)/pip-audit --skip-editable

fuzz: $(VENV)/.installed-dev ## wrong files by chance, MINUTES=10; writes docs/robustness.md
	$(BIN)/python benchmarks/fuzz.py --minutes $(MINUTES) --write

clean: ## remove the environment and all caches
	rm -rf $(VENV) $(VENV)-hta $(VENV)-amd build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: make ... PYTHON=<python 3.10 or later>" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("tracelens needs Python 3.10 or later; $(PYTHON) is %d.%d: make ... PYTHON=<a later one>" % sys.version_info[:2])'

$(BIN)/python: | python
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)-hta/.installed: | python
	$(PYTHON) -m venv $(VENV)-hta
	$(VENV)-hta/bin/python -m pip install $(PIP_FLAGS) traceinsight 'pandas<3'
	@touch $@

$(VENV)-amd/.installed: | python
	$(PYTHON) -m venv $(VENV)-amd
	$(VENV)-amd/bin/python -m pip install $(PIP_FLAGS) $(AMD)
	@touch $@
