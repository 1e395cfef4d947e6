# Every target sets up .venv by itself. PYTHON names the interpreter to make it with (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-gpu lint type bench bench-policies clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python tests/benchmarks/bench_default_pipeline.py
	$(BIN)/python tests/benchmarks/bench_prediction.py
	$(BIN)/python tests/benchmarks/bench_session.py

bench-policies: $(READY)
	$(BIN)/python tests/benchmarks/bench_policies.py

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("joulec needs Python 3.11 or newer; this is " + sys.version.split()[0] + \
		"; name another: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
