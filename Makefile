# Two commands do all: `make demo` and `make test`. Both set up what they need, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIPELINE := pipelines/flight_delay
BENCH := build/bench

# The tests start hundreds of processes: without its bytecode, each of them would compile every import anew.
unexport PYTHONDONTWRITEBYTECODE

# A test of these may take minutes where others work too: it is given up for hung later than others.
TORTURE = BATCHINFER_TORTURE=all $(BIN)/python -m pytest -o faulthandler_timeout=3000

.DEFAULT_GOAL := help
POSTGRES_ABSENT := ! command -v postgres >/dev/null && ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1

.PHONY: help setup postgresql demo test coverage torture stream-torture airflow-test check lint-ops format bench bench-peers constraints pyfiles clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "batchinfer needs Python 3.11 or newer: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[cpu,dev,convert,quality,drift,spark,dask,airflow,postgres,metrics,lineage,kafka]'
	@touch $@

setup: $(INSTALLED) ## Set up .venv with all that demo, test and check need

postgresql: ## Install a PostgreSQL server for the tests, where root can have it from Debian
	@if $(POSTGRES_ABSENT); then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql; \
		else echo "no PostgreSQL, and not root on Debian: the tests that need one are skipped"; fi; fi

demo: $(INSTALLED) ## Score the sample flights and show what came out
	@$(BIN)/batchinfer demo

test: $(INSTALLED) ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

coverage: $(INSTALLED) ## Run the tests and hold their coverage against the floor
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term $(ARGS)

torture: $(INSTALLED) ## Run the seeded fault tests of batch whole (20 minutes)
	$(TORTURE) -n 2 --dist loadgroup tests/faults tests/conformance/test_stores.py tests/integration/test_sensitive.py \
		--ignore-glob 'tests/faults/test_stream*' $(ARGS)

stream-torture: $(INSTALLED) ## Kill members of a stream and its broker a hundred times, for each client and sink (half an hour; Java and Maven)
	$(TORTURE) tests/faults/test_stream.py tests/faults/test_stream_zombies.py \
		tests/conformance/test_clients.py tests/integration/stream $(ARGS)

airflow-test: $(INSTALLED) ## Run the DAGs under Airflow's scheduler, and train anew (minutes)
	BATCHINFER_AIRFLOW=1 $(BIN)/python -m pytest tests/integration/airflow $(ARGS)

check: $(INSTALLED) ## Lint, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-ops: $(INSTALLED) ## Lint images, compose stack, rules, dashboards and manifests; says which tools are absent
	@$(BIN)/python docker/lint.py

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

bench: $(INSTALLED) ## Measure runs of 10 M rows: against the floor of the hardware, and checked (minutes)
	$(BIN)/python -m benchmarks.data --folder $(BENCH)
	$(BIN)/python -m benchmarks.core --folder $(BENCH)
	$(BIN)/python -m benchmarks.quality --folder $(BENCH)
	$(BIN)/python -m benchmarks.startup

pyfiles: $(INSTALLED) ## Build the archive that takes batchinfer itself to Spark's workers
	@mkdir -p build
	@$(BIN)/python -c 'import pathlib, zipfile; root = pathlib.Path("src"); \
		archive = zipfile.ZipFile("build/batchinfer-pyfiles.zip", "w", zipfile.ZIP_DEFLATED); \
		[archive.write(file, file.relative_to(root)) for file in sorted(root.rglob("*.*")) \
		if file.is_file() and file.suffix != ".pyc"]; archive.close()'
	@echo build/batchinfer-pyfiles.zip

constraints: $(INSTALLED) ## Pin the versions anew
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --all-extras --universal --python-version 3.11 \
		--no-annotate --custom-compile-command 'make constraints' -o constraints.txt

clean: ## Remove what demo, tests and benchmarks made
	rm -rf build results runs .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
