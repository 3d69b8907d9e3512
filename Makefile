# `make demo` and `make test` set up everything that they need in .venv; nothing else is touched.
PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip

.PHONY: demo quick test slow long combinations shapes plugins docs lint wheels clean

demo: .venv/demo
	$(BIN)/attribkit demo --output figures

quick: .venv/test
	$(BIN)/pytest -n 2 --quick

test: .venv/test
	$(BIN)/pytest -n 2

# The cases that `make test` leaves out.
slow: long combinations shapes

long: .venv/test
	$(BIN)/pytest -n 2 --dist loadgroup -m slow -rP

combinations: .venv/test
	$(BIN)/pytest -n 2 -m combination

# The first case of each test, with the shapes of tensors checked.
shapes: .venv/test
	$(BIN)/pytest -n 2 --quick --jaxtyping-packages=attribkit,beartype.beartype

# The tests of each plugin, with the plugin importable.
plugins: .venv/test
	for plugin in plugins/*/tests; do \
	  PYTHONPATH=$$(dirname $$plugin) $(BIN)/pytest -n 2 $$plugin || exit 1; \
	done

# The site, with the examples of the gallery; warnings, such as a broken link, are errors.
docs: .venv/docs
	$(BIN)/sphinx-build -b html -W --keep-going --quiet docs docs/_build/html

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheels: .venv/test
	.ci/wheels

clean:
	rm -rf .venv figures docs/_build docs/api/generated docs/gallery_output

.venv/pip:
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade "pip>=25.1"
	touch $@

.venv/demo: .venv/pip pyproject.toml
	$(PIP) install --quiet --editable .
	touch $@

.venv/test: .venv/demo
	$(PIP) install --quiet --group test
	touch $@

.venv/dev: .venv/test
	$(PIP) install --quiet --group dev
	touch $@

.venv/docs: .venv/demo
	$(PIP) install --quiet --group docs
	touch $@
