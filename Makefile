# make help lists the targets. Everything happens in a virtual environment of its own, made on first use.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0  # the one place that pins torch
TORCH := $(strip $(TORCH))
PYTEST_ARGS ?= -n auto  # one process per core; each with one thread

BIN := $(VENV)/bin
TORCH_STAMP := $(VENV)/.stamp-$(shell printf '%s' '$(TORCH)' | tr -c 'A-Za-z0-9._\n' '-')
STAMP := $(VENV)/.stamp-installed
KERNELS := $(wildcard csrc/*.h csrc/*/*)

.PHONY: help install demo test lint format wheel clean distclean print-torch
.DELETE_ON_ERROR:

help:
	@echo "make install   $(VENV) with $(TORCH), this package (editable) and the tools"
	@echo "make demo      preprocess, train, translate and score on the embedded corpus (minutes, two cores)"
	@echo "make test      linters, type checks and all tests"
	@echo "make lint      linters and type checks alone"
	@echo "make format    let ruff format and mend what it can"
	@echo "make wheel     a wheel in dist/"
	@echo "make clean     remove what was built (distclean: $(VENV) as well)"
	@echo "Variables: TORCH='torch==X.Y.Z --index-url URL' (another build; on every call, or exported), VENV=FOLDER,"
	@echo "PYTHON=python3.12, PYTEST_ARGS='-k beam'"

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# torch comes first: otherwise the package's own dependency would choose a build
$(TORCH_STAMP): | $(BIN)/python
	$(BIN)/python -m pip install --upgrade pip 'setuptools>=77' wheel
	$(BIN)/python -m pip install $(foreach word,$(TORCH),'$(word)')
	rm -f $(VENV)/.stamp-*
	touch $@

# pip hides what compiling the kernels says; without them the package works, slower
$(STAMP): pyproject.toml setup.py $(KERNELS) $(TORCH_STAMP)
	$(BIN)/python -m pip install --no-build-isolation --editable '.[dev]'
	-$(BIN)/python -m dynconv_mt.ops.build
	touch $@

demo: install
	PATH="$(abspath $(BIN)):$$PATH" scripts/demo.sh demo_out

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: install
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

print-torch:
	@echo '$(TORCH)'

clean:
	rm -rf dynconv_mt/ops/_C*.so dynconv_mt/ops/.build-*
	rm -f $(STAMP)
	rm -rf build dist demo_out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf $(VENV)
