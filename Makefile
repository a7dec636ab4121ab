# make demo   a virtual environment, install, and three sample photos explained into out/
# make test   the tests that find most faults for their time, those with the pretrained weights included
# make test-all  all tests: after those of `make test`, the slow ones
# make check  format, lint, types
# make bench  speed and memory beside the plain forward
# make messages  the message catalogues, from the sources
# make bundle    the viewer's scripts, from their modules (needs Node)

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# code is compiled once, not in each of the processes that tests start
KEPT := PYTHONDONTWRITEBYTECODE=
PYTEST := $(KEPT) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all check bench messages bundle clean

demo: .venv/demo
	$(BIN)/python examples/demo.py

test: .venv/test
	@tests/helpers/browsers.sh
	@tests/helpers/beside.sh $(BIN)/python
	-@$(KEPT) $(BIN)/vitscope inspect embedded:dinov2-small >/dev/null  # fetches the weights that tests want
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow

check: .venv/check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/demo
	$(BIN)/python benchmarks/extraction.py

messages: .venv/check
	$(BIN)/python tools/messages.py

bundle:
	$(PYTHON) tools/bundle.py

clean:
	rm -rf .venv .cache out

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade 'pip>=25.1'

.venv/demo .venv/test .venv/check: .venv/%: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet --editable . --group $*
	@touch $@
