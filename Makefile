# Each goal makes what it needs, from python3 and pip alone. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
OUT ?= demo

.PHONY: demo test check lint types bench clean

demo: $(VENV)/.runs
	$(BIN)/exo2ego demo $(OUT)

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n auto --dist loadfile

check: lint types test

lint: $(VENV)/.checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.checks $(VENV)/.tests
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.tests
	$(PIP) install -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks

$(VENV)/.runs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

# projectaria-tools brings a viewer and notebooks that its lens maths does not need, and has no
# wheel for Python 3.13: without it the tests against it skip and say so.
$(VENV)/.tests: $(VENV)/.runs
	$(PIP) install -c constraints.txt -e '.[test]'
	$(PIP) install -c constraints.txt --no-deps projectaria-tools || echo "no projectaria-tools for this Python: its tests will skip"
	touch $@

$(VENV)/.checks: $(VENV)/.runs
	$(PIP) install -c constraints.txt -e '.[check]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
