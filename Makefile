# `make demo` and `make test` set up everything that they need in .venv; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint clean

demo: .venv/demo
	$(BIN)/attribkit demo --output figures

test: .venv/test
	$(BIN)/pytest -n 2

slow: .venv/test
	$(BIN)/pytest -m slow -n 2 --dist loadfile -rP

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv figures

.venv/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	touch $@

.venv/demo: .venv/pip pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet --group test
	touch $@

.venv/dev: .venv/test
	$(BIN)/pip install --quiet --group dev
	touch $@
