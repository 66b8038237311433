# Two commands carry everything: `make up` runs a service on this machine, `make test` runs all tests.
PYTHON ?= python3
VENV := .venv
FILES ?= deploy/examples/hello.yaml

.PHONY: up test check clean

up: $(VENV)/installed
	$(VENV)/bin/zerogate up -f $(FILES)

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest

check: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[test,load]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist
