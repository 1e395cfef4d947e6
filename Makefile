# Every target sets up .venv by itself. PYTHON names the interpreter to make it with (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

RELAY_VENV := .venv-relay
RELAY_READY := $(RELAY_VENV)/ready

# One test process for each core, up to four; a kernel's threads that wait give their core to the other processes.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile
BESIDE := TVM_THREAD_POOL_SPIN_COUNT=0

.PHONY: demo test test-onnx test-relay test-gpu lint type bench bench-energy bench-peers bench-pairs bench-policies bench-relay browser docs clean

demo: $(READY)
	$(BIN)/python examples/demo.py

# What follows a pace (a power cap that changes while a session runs) is tested after all else, with the machine to itself.
test: $(READY)
	$(BESIDE) $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not gpu and not paced"
	$(BIN)/python -m pytest -m "paced and not gpu"

# The Relay back end needs TVM 0.19 in place of 0.27, and so an environment of its own.
test-relay: $(RELAY_READY)
	$(BESIDE) $(RELAY_VENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not gpu" tests/passes/relay tests/passes/replay/test_search.py
	$(RELAY_VENV)/bin/python tests/benchmarks/bench_relay.py --quick

# ONNX's own node tests (writes docs/onnx-coverage.md), broken files and generated graphs: an hour or so.
test-onnx: $(READY)
	$(BIN)/python tests/conformance/node_tests.py --engines joulec,onnxruntime,reference --write docs/onnx-coverage.md
	$(BIN)/python tests/conformance/broken_files.py --count 1000
	JOULEC_GRAPHS=2000 JOULEC_MOVEMENTS=2000 $(BIN)/python -m pytest -q tests/conformance/test_generated_graphs.py tests/conformance/test_generated_movements.py

# With this, and a Chromium on the path, `make test` opens the report's page in a browser.
browser: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[browser]'

# The documentation as a site, in site/; a broken link or an unknown name is an error.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python tests/benchmarks/bench_startup.py
	$(BIN)/python tests/benchmarks/bench_default_pipeline.py
	$(BIN)/python tests/benchmarks/bench_prediction.py
	$(BIN)/python tests/benchmarks/bench_session.py

# Options for a part of it: make bench-peers PEERS='--networks squeezenet,resnet50 --batch 1'
bench-peers: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python tests/benchmarks/bench_peers.py $(PEERS)

# Do predictions order assignments as the machine does? make bench-pairs PAIRS='--network resnet50'
bench-pairs: $(READY)
	$(BIN)/python tests/benchmarks/bench_pairs.py $(PAIRS)

bench-energy: $(READY)
	$(BIN)/python tests/benchmarks/bench_energy_accuracy.py

bench-policies: $(READY)
	$(BIN)/python tests/benchmarks/bench_policies.py

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("joulec needs Python 3.11 or newer; this is " + sys.version.split()[0] + \
		"; name another: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

bench-relay: $(RELAY_READY)
	$(RELAY_VENV)/bin/python tests/benchmarks/bench_relay.py

$(RELAY_READY): pyproject.toml
	$(PYTHON) -m venv $(RELAY_VENV)
	$(RELAY_VENV)/bin/python -m pip install --quiet --editable '.[relay-test]'
	touch $@

clean:
	rm -rf $(VENV) $(RELAY_VENV) demo site
