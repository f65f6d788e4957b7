# Two commands do all the set-up: `make example` runs the guess, `make test` runs the tests; `make wheel` builds what is
# shipped. All install into .venv from pinned versions (constraints.txt). `pip install torch` takes the build of the machine's
# package index: the CPU build is all that is needed, one with CUDA works as well.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OLDEST := .venv-oldest/bin/python
# What a user's calculation needs: all but the tests of training and data, whose packages are not installed there.
SERVING := $(addprefix tests/test_,$(addsuffix .py,anderson calculation cheapfock checkpoint chosen_starts density domain \
  functional gate gridxc guess init_guess_report laststep layers models o3 orbitals reaction reference refine register \
  robust scf serving singlek states threads transfer versions workers))

.PHONY: example test test-slow test-oldest lint wheel clean

example: .venv/installed
	$(BIN)/python examples/00-water.py
	$(BIN)/python examples/01-cycles.py

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow and not gpu and not benchmark"

test-slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow

# The guess with the oldest versions that pyproject.toml claims, in an environment of its own.
test-oldest: .venv-oldest/installed
	$(OLDEST) -m pytest -m "not slow and not gpu and not benchmark" $(SERVING) tests/contract

wheel: .venv/installed-test
	$(BIN)/python -m build --outdir dist

lint: .venv/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; give one with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-test: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable '.[test]'
	touch $@ .venv/installed

.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST) -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt \
	  --editable . pytest hypothesis h5py tqdm
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
