# Each target sets up what it needs, on a machine with nothing but python3 (3.11 or newer) and make.
#
#   make demo      one tuning run on the digits data, on a CPU, in under a minute
#   make test      check, then every test and example
#   make coverage  every test and example, and which lines they ran, at least 95 % of them: half as long again; before a release
#   make check     lint, types, floors: no training
#   make bench     the benchmarks in their quick form
#   make mutants   mutation testing of what decides (long; see tests/mutants.py)
#   make clean     removes what the others made

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
PY := $(BIN)/python
# Stamps: what is installed with each extra is as new as setup.cfg.
READY := $(VENV)/.ready-test
BENCH_READY := $(VENV)/.ready-bench
MUTANTS_READY := $(VENV)/.ready-mutants
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

# Bytecode is kept, whatever the environment says: compiling the tests takes each worker most of the time in which it collects them.
export PYTHONDONTWRITEBYTECODE :=

.DELETE_ON_ERROR:
.PHONY: demo test coverage check bench mutants clean

demo: $(READY)
	$(PY) examples/digits_demo.py

# One math thread for each worker: the tests run side by side, and their matrices are small.
SUITE := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

test: check
	$(SUITE)

coverage: $(READY)
	$(SUITE) --cov --cov-report=term

check: $(READY)
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(PY) -m pytest --durations=0 -p no:cacheprovider tests/test_floors.py

bench: $(BENCH_READY)
	@set -e; for file in $$(grep -l -e --quick benchmarks/*.py); do echo "$(PY) $$file --quick"; $(PY) $$file --quick; done

mutants: $(MUTANTS_READY)
	OMP_NUM_THREADS=1 $(PY) tests/mutants.py --workers $(WORKERS)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml | $(PY)
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.ready-%: setup.cfg pyproject.toml | $(READY)
	$(PIP) --editable '.[test,$*]'
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) -V 2>&1). Say which: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
