# Two commands for a fresh machine: `make demo` and `make test`. Each builds its own virtual environment; what make does
# is in docs/install.md, too, for machines without it.
PYTHON ?= python3
# Name your own to keep what is installed there: make test DEV=~/my-venv
EDGE ?= .venv-demo
DEV ?= .venv-test
# The PyTorch that `make test` installs where $(DEV) has none. The index's build for Linux brings CUDA, over 5 GB, so
# without an NVIDIA driver it is PyTorch's own CPU build, 0.2 GB. Any other: make test TORCH=torch
ifeq ($(shell uname)$(shell command -v nvidia-smi),Linux)
TORCH ?= torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu
else
TORCH ?= torch
endif
# -qq: one line for each step, and what fails. The demo's compiles no file that it may never run: 20 MB less.
PIP := -m pip install -qq --disable-pip-version-check

.PHONY: triton-env demo test test-isa lint types check starter clean docs

## The edge install (no PyTorch), then the sample crops of three cameras matched.
demo: $(EDGE)/installed
	$(EDGE)/bin/san demo -o demo --force

## Everything, then the tests. Most of a file's tests go to one process: what they share is made once.
test: $(DEV)/installed
	$(DEV)/bin/python -m pytest -n 2 --dist worksteal

## The tests that compare floating-point results, as other processors compute them: PyTorch's and oneDNN's paths.
ISA ?= default:AVX2 avx2:AVX2 default:SSE41
test-isa: $(DEV)/installed
	for isa in $(ISA); do \
		ATEN_CPU_CAPABILITY=$${isa%:*} ONEDNN_MAX_CPU_ISA=$${isa#*:} $(DEV)/bin/python -m pytest -n 2 -q -m numeric \
			|| exit 1; \
	done

## A real tritonserver for one slow test: a wheel that wants NumPy below 2, so an environment of its own (0.5 GB).
triton-env: .venv-triton/installed
.venv-triton/installed: pyproject.toml
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python $(PIP) 'nvidia-pytriton==0.7.0' 'numpy<2' '.[cpu]'
	# The test runs the checkout's san_deploy, not a copy of it.
	.venv-triton/bin/pip uninstall -qq -y san-deploy
	touch $@

## Style and types, as CI runs them.
lint: $(DEV)/installed
	$(DEV)/bin/ruff check .
types: $(DEV)/installed
	$(DEV)/bin/mypy
check: lint types test

## The documents as a site, build/site, every link checked.
docs: $(DEV)/installed
	$(DEV)/bin/python $(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build -q

## Draws the training people, trains the starter model and exports it: see san_deploy/data/starter.md.
starter: $(DEV)/installed
	$(DEV)/bin/python tools/starter/make_starter.py --ward ../shared/ward

$(EDGE)/bin/python $(DEV)/bin/python:
	$(PYTHON) -m venv $(@:/bin/python=)
	$@ $(PIP) --upgrade pip

$(EDGE)/installed: $(EDGE)/bin/python pyproject.toml $(wildcard san_deploy/*.* san_deploy/*/*.*)
	$< $(PIP) --no-compile '.[cpu]'
	touch $@

$(DEV)/installed: $(DEV)/bin/python pyproject.toml
	$< -c 'import torch' 2> /dev/null || $< $(PIP) --retries 1 --no-deps $(TORCH) || \
		{ echo "No such PyTorch. The index's, with CUDA (5 GB): make test TORCH=torch" >&2; exit 1; }
	$< $(PIP) -e '.[train,export,dev]'
	touch $@

clean:
	rm -rf .venv-demo .venv-test .venv-triton demo build dist *.egg-info
