# Rung: everything a person runs, by name. `make` alone prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
UV := $(shell command -v uv || echo .venv-uv/bin/uv)
BIN := .venv/bin

.PHONY: help
help: ## Print the targets
	@awk -F':.*## ' '/^[a-zA-Z_-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- the two commands
.PHONY: demo
demo: setup setup-porting ## The main job: cluster, versions, operator, a climbing trace, a report (ARGS="--compare --keep ...")
	$(BIN)/python -m rung_demo $(ARGS)

.PHONY: test
test: setup setup-triton setup-porting ## All tests: unit, real servers, end to end through the chart (ARGS="tests/unit -k ...")
	tests/run $(ARGS)

# ---------------------------------------------------------------- checks
.PHONY: check
check: setup ## Lint, format, types, import contracts, generated files, Helm lint and golden templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m rung.api crds crds --check
	charts/check

.PHONY: format
format: setup ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: generate
generate: setup ## Write the generated files again: CRDs, chart goldens
	$(BIN)/python -m rung.api crds crds
	charts/check --update

.PHONY: lock
lock: $(UV) ## Pin every requirement again, with hashes
	requirements/compile.sh $(UV)

# ---------------------------------------------------------------- the cluster on this machine
.PHONY: cluster-up cluster-down images
cluster-up: setup ## A real Kubernetes on this machine, inside namespaces of its own (needs root)
	$(BIN)/python -m rung_devcluster up $(ARGS)

cluster-down: setup ## Remove it, without a trace
	$(BIN)/python -m rung_devcluster down $(ARGS)

images: setup ## Build the container images (with buildah) and load them into the cluster if one is up
	$(BIN)/python -m rung_devcluster images $(ARGS)

# ---------------------------------------------------------------- benchmarks
.PHONY: bench-swap bench-operator bench-profiler bench-porting bench-policies bench-live bench-reflex bench-growth bench-fleet bench-faults
bench-swap: setup setup-triton ## 200 swaps under load: failed requests, swap times, worst latency
	$(BIN)/python bench/bench_swap.py $(ARGS)

bench-operator: setup ## The operator's CPU and memory with 2 and with 200 tasks
	$(BIN)/python bench/bench_operator.py $(ARGS)

bench-profiler: setup setup-triton ## The profiler against perf_analyzer and against itself: agreement, repeatability
	$(BIN)/python bench/bench_profiler.py $(ARGS)

bench-porting: setup-porting ## What INT8, distillation, the search and the knob are each worth (20 minutes)
	.venv-porting/bin/python bench/bench_porting.py $(ARGS)

bench-policies: setup ## What a decision of Frontier takes by tasks and servers, and the simulator by requests
	$(BIN)/python bench/bench_policies.py $(ARGS)

bench-reflex: setup setup-triton ## What the gate adds to a request, beside Envoy: time and CPU
	$(BIN)/python bench/bench_reflex.py $(ARGS)

bench-live: setup ## Policies in turn on a real Triton, with a real trace (root; 38 minutes; ARGS="--data FOLDER")
	$(BIN)/python bench/bench_live.py $(ARGS)

bench-growth: setup ## One operator with 1 to 100 simulated servers: its loop, CPU, memory, calls
	$(BIN)/python bench/bench_growth.py $(ARGS)

bench-fleet: setup ## Three servers behind the balancer, with a real trace (root; 40 minutes; ARGS="--data FOLDER")
	$(BIN)/python bench/bench_fleet.py $(ARGS)

bench-faults: setup ## What a server killed, hung, slow, cut off, ... costs its clients (root; 30 minutes; ARGS="--data FOLDER")
	$(BIN)/python bench/bench_faults.py $(ARGS)

# ---------------------------------------------------------------- experiments
.PHONY: experiment
experiment: setup ## Policies side by side in the simulator: NAME=colocation, or all; writes docs/experiments
	$(BIN)/python -m rung_sim.experiments $(or $(NAME),--help) $(ARGS)

# ---------------------------------------------------------------- environments, pinned with hashes
.PHONY: setup setup-triton setup-porting
setup: .venv/.done ## The environment for the operator, the tools and the tests
setup-triton: .venv-triton/.done ## The real Triton server, from its wheel
setup-porting: .venv-porting/.done ## torch and NNI, for making versions (about 5 GB)

.venv-uv/bin/uv: requirements/uv.txt
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet --require-hashes --requirement requirements/uv.txt
	@touch $@

.venv/.done: requirements/dev.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv
	$(UV) pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv-triton/.done: requirements/triton.txt requirements/need_libpython.py | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-triton
	$(UV) pip sync --quiet --compile-bytecode --python .venv-triton/bin/python --require-hashes requirements/triton.txt
	.venv-triton/bin/python requirements/need_libpython.py
	@touch $@

.venv-porting/.done: requirements/porting.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python 3.11 .venv-porting
	$(UV) pip sync --quiet --compile-bytecode --python .venv-porting/bin/python --require-hashes requirements/porting.txt
	$(UV) pip install --quiet --python .venv-porting/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
