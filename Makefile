# Two commands are enough: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# These fork and kill themselves, which a process among others must not do.
FORKING := tests/test_files.py tests/experiment/test_resume.py tests/experiment/test_state.py \
	tests/experiment/test_watching.py tests/experiment/bench/test_store.py tests/experiment/bench/test_engine.py

# Ratios, both sides measured in one run; about half an hour, on a quiet machine.
BENCHMARKS := federation federation_start federation_rounds federation_messages federation_memory \
	federation_scaling federation_images journal inmerge bench_engine

# Bytecode is kept, whatever the shell says: without it every process that a test starts compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow lint coverage bench lowest audit clean

demo: $(VENV)/.installed
	$(BIN)/fedmerge run configs/quickstart.yaml

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(FORKING))
	$(BIN)/python -m pytest $(FORKING)

# Minutes of real processes: deployments (the same bits as here, revocation and renewal in the middle of a run, apps with
# code, strangers, a cut link), Flower's own runtime, whole runs on Ray.
test-slow: $(VENV)/.installed-dev
	FEDMERGE_SLOW=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What some rooms' own tests reach of them, branches too; it fails below FLOOR. All tests under coverage take too long
# for every change, so this is no part of `make test`. Another room: make coverage COVERED="merging testtime" FLOOR=0
COVERED ?= analysis
FLOOR   ?= 98
coverage: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(addprefix tests/,$(COVERED)) \
		$(addprefix --cov=fedmerge/,$(COVERED)) --cov-report=term-missing --cov-fail-under=$(FLOOR)

bench: $(VENV)/.installed-dev
	set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python benchmarks/$$script.py; done

# The lowest versions that pyproject.toml allows, in an environment of their own, and some tests with them.
lowest:
	$(PYTHON) scripts/lowest.py

# Known weaknesses of what is installed; it needs an index with advisories, and says so where there is none.
audit: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python scripts/audit.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# Without compiling what is never imported: that takes longer than the rest of it. What is, is compiled when it is.
$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev,pretrained]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-lowest .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
