# make benchmark: the comparison on this machine, in some minutes.  make test: everything that CI checks.
# Both need python3 (3.11 or later) with venv, and nothing else: they install into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install benchmark test lint format docs clean

help:
	@echo "make benchmark   compare the optimizers on the stand-in, or on the photos in HGENV_DATA"
	@echo "make test        style, types and tests"
	@echo "make lint        style and types only;  make format: put the style right"
	@echo "make docs        the site, in site/; open site/index.html"
	@echo "make clean       delete .venv and caches; runs/ stays"

install: $(INSTALLED)

# The .pth file: beside a clone that is called hgenv, its folder would pass for the package otherwise.
# torch comes first, so that nothing else decides its version. Without a GPU, its CPU build saves gigabytes: point pip
# at it with PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installs hgenv and what its tests need into .venv: 2.5 GB, 2 to 4 minutes in which pip says nothing."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	echo $(CURDIR) >"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hgenv-first.pth"
	touch $@

benchmark: $(INSTALLED)
	$(BIN)/hgenv compare experiment=quick env=shapes_lit seed=0,1,2 workers=2 \
		optimizer=hybrid_gradient,credit_gradient,basic_random_search,evolution,fixed $(if $(HGENV_DATA),env.data=mbii)

# hgenv.optimizers and the like are folders beside hgenv; mypy looks for them inside.
TYPES := build/types
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPES) && mkdir -p $(TYPES)/hgenv
	ln -s $(CURDIR)/hgenv/* $(CURDIR)/optimizers $(CURDIR)/benchmarks $(CURDIR)/configs $(TYPES)/hgenv
	cd $(TYPES) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --package hgenv

# Two processes with a thread each: the machine that this is measured on has two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
