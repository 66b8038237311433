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

# What an editable install does not follow by itself: dependencies and the compiled codec.
BUILT := pyproject.toml setup.py gateway/core/_http1.c

$(VENV)/installed: $(BUILT) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(BUILT) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[test,load,simulate]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info
	rm -f gateway/core/*.so
