# Two commands for a fresh machine: `make demo` and `make test`. Each builds its own virtual environment.
PYTHON ?= python3
EDGE := .venv-demo
DEV := .venv-test
# -qq: one line for each step, and what fails.
PIP := -m pip install -qq --disable-pip-version-check

.PHONY: demo test lint types check starter clean

## The edge install (no PyTorch), then the sample crops of three cameras matched.
demo: $(EDGE)/installed
	$(EDGE)/bin/san demo -o demo --force

## Everything, then the tests.
test: $(DEV)/installed
	$(DEV)/bin/python -m pytest -n 2

## Style and types, as CI runs them.
lint: $(DEV)/installed
	$(DEV)/bin/ruff check .
types: $(DEV)/installed
	$(DEV)/bin/mypy
check: lint types test

## Draws the training people, trains the starter model and exports it: see san_deploy/data/starter.md.
starter: $(DEV)/installed
	$(DEV)/bin/python tools/starter/make_starter.py --ward ../shared/ward

$(EDGE)/installed: pyproject.toml $(wildcard san_deploy/*.* san_deploy/*/*.*)
	$(PYTHON) -m venv $(EDGE)
	$(EDGE)/bin/python $(PIP) --upgrade pip
	$(EDGE)/bin/python $(PIP) .
	touch $@

$(DEV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python $(PIP) --upgrade pip
	$(DEV)/bin/python $(PIP) -e '.[train,export,dev]'
	touch $@

clean:
	rm -rf $(EDGE) $(DEV) demo build dist *.egg-info
