# Needs Python 3.11 (or PYTHON=python3.12, python3.13) and make, nothing else.
#
#   make install the environment in .venv, as every other target does where it is missing
#   make demo    a synthetic hospital, three policies on a local Ray, one report
#                (again, elsewhere: make demo ARGS="--output_dir demo-run-2")
#   make test    linters, types and every test but those of survival
#   make survival  workers, drivers and nodes are lost, ten million rows are read, the data
#                suite is run on Ray, rules are tried on hundreds of cases
#   make quick   the tests that need neither Ray nor minutes
#   make lint    linters and types
#   make audit   known vulnerabilities of the lock file, licences of what is installed
#   make format  write what the linters can mend
#
# Without a GPU, the first time: make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
# (the default torch brings gigabytes of CUDA 13, for NVIDIA's driver 580 or later); the environment
# keeps it from then on.

PYTHON ?= python3.11
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
AUDIT := $(VENV)/audit

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0

# Three lanes side by side, of about the same length on two cores: all that starts Ray is in one of
# them, which often waits, and so do ranks of training and storage that fails in another. All are
# run to their ends, and each closes with a line of its own.
LANES := --no-print-directory --jobs 3 lane-with-ray lane-of-training lane-without-ray

.PHONY: install demo test survival lane-with-ray lane-of-training lane-without-ray quick lint audit format \
    clean

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python jobs/demo.py $(ARGS)

test: lint
	$(MAKE) $(LANES) TESTS="not survival"

survival: $(INSTALLED)
	$(MAKE) $(LANES) TESTS="survival"

# `-m` takes the place of the markers that plain pytest leaves out.
lane-with-ray:
	$(BIN)/pytest -m "ray and $(TESTS)" --durations=10

lane-of-training:
	$(BIN)/pytest -m "not ray and $(TESTS)" --durations=10 tests/train tests/benchmarks

lane-without-ray:
	$(BIN)/pytest -m "not ray and $(TESTS)" --durations=10 --ignore=tests/train --ignore=tests/benchmarks

quick: $(INSTALLED)
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

audit: $(INSTALLED) $(AUDIT)/.installed
	$(AUDIT)/bin/python cluster/audit.py $(BIN)/python

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info

$(INSTALLED): pyproject.toml cluster/constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo "$(PYTHON) is not on the PATH: install Python 3.11, or name another: make PYTHON=python3.12"; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	$(BIN)/pip install --no-deps --index-url $(TORCH_INDEX) "$$(grep '^torch==' cluster/constraints.txt)"
endif
	$(BIN)/pip install -c cluster/constraints.txt -e '.[dev]'
	@touch $@

$(AUDIT)/.installed: cluster/audit.txt | $(INSTALLED)
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install -r cluster/audit.txt
	@touch $@
