# The targets that people type. Each makes .venv first, with what it needs and no more.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
REQUIREMENTS := setup.cfg pyproject.toml
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Most tests wait for real servers, so more processes than cores share out the files; WORKERS= for one. The
# order is that of tests/fast.py, which begins with the slowest files.
WORKERS ?= -n 5 --dist loadfile --no-loadscope-reorder
# Tests start hundreds of processes, and each worker reads all tests: without bytecode, each compiles them anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast check luacheck bench accuracy survive repeat attacks fuzz lua docs venv lock audit \
  release clean help

help:
	@echo "make demo       a cluster, two Flask instances, two decision services, and Traefik on"
	@echo "                port 9000, until Ctrl-C;"
	@echo "                options as in: make demo DEMO=\"--port 9001\""
	@echo "make test       everything; test-fast leaves out what is slow or starts servers;"
	@echo "                COVERAGE=1 measures it"
	@echo "make check      ruff, mypy, luacheck, and the words of pages, comments and messages"
	@echo "make bench      ab through Traefik and the library's own measurements, with plots;"
	@echo "                BENCH=\"--against main --only hit\" compares with a git revision"
	@echo "make accuracy   how exact each algorithm is, and those of other libraries beside it"
	@echo "make survive    faults of network, servers, clocks, names and TLS under load, in ten minutes;"
	@echo "                SURVIVE=\"--minutes 60 --only soak\" for a longer soak"
	@echo "make repeat     the concurrency, transport and demo tests again and again"
	@echo "make attacks    attacks on the limiter, behind each proxy and in front of several frameworks"
	@echo "make fuzz       inputs at random, guided by coverage, for limit strings, policy files, paths, header"
	@echo "                fields, bodies and replies; FUZZ=\"--minutes 10 --only paths\""
	@echo "make lua        join lua/src into lua/v1"
	@echo "make docs       docs/ as a site with an API reference, in docs/_build"
	@echo "make venv       .venv with what all of these need"
	@echo "make lock       write the lock files anew from setup.cfg; LOCK=--upgrade takes newer versions"
	@echo "make audit      look for known vulnerabilities of the locked packages"
	@echo "make release    a source distribution, a wheel and an SBOM, in dist/;"
	@echo "                REPOSITORY=https://... for links, if it is not the git remote \"origin\""
	@echo "LOCKED=1        beside a target: install the versions of requirements.lock, as CI does;"
	@echo "                from Python 3.11 on"

# Some packages of the lock file need Python 3.11.
MINOR := $(if $(LOCKED),11,10)
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, $(MINOR)))
# One stamp for each set of extras: a demo needs no test tools.
$(VENV)/.%: $(REQUIREMENTS) $(if $(LOCKED),requirements.lock)
	@$(PYTHON) -c '$(IS_NEW_ENOUGH)' || { echo "$(if $(LOCKED),LOCKED=1,slotgate) needs Python 3.$(MINOR) or later:" \
	  "make $*$(if $(LOCKED), LOCKED=1) PYTHON=python3.12, say" >&2; exit 1; }
	@$(BIN)/python -c 'import pip; $(IS_NEW_ENOUGH)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing what 'make $*' needs into $(VENV), once; this takes a minute or more ..."
ifdef LOCKED
	@$(PIP) install --require-hashes --no-deps --only-binary :all: -r requirements.lock
	@$(PIP) install --no-index --no-deps --no-build-isolation -e .
else
	@$(PIP) install -e '.[$*]'
endif
	@touch $@

demo: $(VENV)/.demo
	@exec $(BIN)/python -m service.demo $(DEMO)

# COVERAGE=1 measures the branches taken, subprocesses included, and fails below what setup.cfg says.
test: $(VENV)/.test
ifdef COVERAGE
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(WORKERS) $(TESTS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report
else
	$(BIN)/python -m pytest $(WORKERS) $(TESTS)
endif

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest --fast -r fE $(WORKERS:5=2) $(TESTS)

luacheck:
	@command -v luacheck >/dev/null || \
	  { echo "make check needs luacheck: apt install lua-check (Debian's package), or luarocks" >&2; exit 1; }

check: luacheck $(VENV)/.check $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	luacheck --quiet lua/v1
	$(BIN)/python -m tests.prose

bench: $(VENV)/.bench
	$(BIN)/python -m bench $(BENCH)

accuracy: $(VENV)/.bench
	$(BIN)/python -m bench.accuracy $(ACCURACY)

survive: $(VENV)/.bench
	$(BIN)/python -m bench.survive $(SURVIVE)

repeat: $(VENV)/.test
	$(BIN)/python -m tests.repeat $(REPEAT)

attacks: $(VENV)/.test
	$(BIN)/python -m tests.attacks $(ATTACKS)

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz $(FUZZ)

lua:
	$(PYTHON) lua/src/join.py
	$(PYTHON) lua/src/vectors.py

# -E: pages that did not change, too, since each shows the list of all pages.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build
	@echo "open docs/_build/index.html"

venv: $(VENV)/.check $(VENV)/.test $(VENV)/.bench $(VENV)/.demo

# uv resolves for every Python and platform at once, so that one file has the versions of all. (Some tools need
# Python 3.11.) The image's file has the same versions of fewer packages.
lock: $(VENV)/.release
	echo setuptools | $(COMPILE) --all-extras --universal --python-version 3.11 -o requirements.lock
	echo setuptools | $(COMPILE) --extra server --constraint requirements.lock --python-version 3.13 \
	  --python-platform linux -o deploy/requirements.lock

COMPILE = $(BIN)/uv pip compile setup.cfg - --quiet --generate-hashes $(LOCK) \
  --custom-compile-command "make lock"

audit: $(VENV)/.release
	$(BIN)/python -m pip_audit --strict --disable-pip --require-hashes -r requirements.lock || \
	  { echo "make audit: a package above is vulnerable, or the database of PyPI did not answer" >&2; exit 1; }

# The address of the repository, for links: REPOSITORY=https://..., or the git remote "origin".
release: $(VENV)/.release
	$(BIN)/python deploy/release.py dist

clean:
	rm -rf build dist docs/_build *.egg-info .fuzz .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
