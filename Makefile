# Every target does its own set-up: the virtual environment is made from the hashed locks when it is missing or old.
# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
BUILD ?= build
DEMO := $(BUILD)/demo
BIN := $(VENV)/bin
# Where the packages of the project and of its tests lie.
SOURCES := operator:workloads:workloads/ring:sdk:tests:.
ACTIONLINT := v1.7.12
# The stamp carries the checksum of what the environment was made from, so a changed lock makes it anew.
LOCKS := requirements.lock requirements-cuda.lock requirements-crypten.lock pyproject.toml images/keep_own_package.py
RING := workloads/ring
RING_SOURCES := $(RING)/pyproject.toml $(RING)/hatch_build.py $(wildcard $(RING)/native/*.[ch])
SUM := $(shell cat $(LOCKS) $(RING_SOURCES) | sha256sum | cut -c1-16)
STAMP := $(VENV)/.installed-$(SUM)
# SHA-256 of torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl; `make lock` adds it to the default index's hashes.
TORCH := 2.13.0
TORCH_CPU_SHA256 := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
# The version that workloads/foedus_workloads/mpc/crypten/shims.py is written for.
CRYPTEN := 0.4.1
# Threads of a test process: two cores are assumed, and a result must not depend on how many there are.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
# Test processes at a time. Each begins with one stretch of the tests in their order, so what a module's tests share is
# made once, and takes over from the others when it is done.
WORKERS ?= $(shell nproc)
PARALLEL := --numprocesses $(WORKERS) --dist worksteal

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(STAMP) ## make the virtual environment from the hashed locks

# A CPU wheel of torch in the folder that PIP_FIND_LINKS names comes first: from the lock alone pip would prefer the
# index's wheel, whose hash it knows before it has the file. What pip says is no target's output: `make -s cluster-env`.
# CrypTen comes last: what it says that it needs is neither to be had (its `sklearn` is a stub that no longer builds) nor
# used, so the check is of all the rest, and for CrypTen that what is run of it can be imported. What its wheel
# and that of Opacus, an oracle of the tests, have beside their packages goes: `benchmarks`, `test` and more.
$(STAMP): | $(VENV)/bin/python
	$(BIN)/pip uninstall -qq --yes crypten >&2
	if [[ -n "$${PIP_FIND_LINKS:-}" ]]; then \
		$(BIN)/pip install --quiet --no-index --no-deps --require-hashes \
			-r <(echo 'torch==$(TORCH) --hash=sha256:$(TORCH_CPU_SHA256)') || echo 'no CPU build of torch there' >&2; fi
	$(BIN)/pip install --require-hashes --no-deps -r requirements.lock >&2
	if [[ "$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("torch"))')" != *+cpu ]]; then \
		$(BIN)/pip install --require-hashes --no-deps -r requirements-cuda.lock >&2; fi
	$(BIN)/pip install --no-deps --no-build-isolation -e . -e $(RING) >&2
	$(BIN)/pip check >&2
	$(BIN)/pip install --require-hashes --no-deps -r requirements-crypten.lock >&2
	$(BIN)/python images/keep_own_package.py crypten opacus >&2
	$(BIN)/python -c 'import foedus_workloads.mpc.crypten.shims'
	rm -f $(VENV)/.installed-*
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Foedus is locked for Python 3.11; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

.PHONY: verify
verify: $(STAMP) ## what can be seen in a quarter of an hour: format, lint, types, arrows between packages, CRDs, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m foedus_engine.crdgen --check
	$(BIN)/python -m pytest $(PARALLEL)

.PHONY: test
test: $(STAMP) ## the tests, over all cores (WORKERS=1 for one)
	$(BIN)/python -m pytest $(PARALLEL)

.PHONY: mutants
mutants: $(STAMP) ## builds with a check off, one a row of the security model and more: a test must catch each
	$(BIN)/python -m pytest -m mutants tests/attacks

# 100,000 rounds took 371 s of processor time; they are split over all cores.
ROUNDS ?= 100000
.PHONY: simulation
simulation: $(STAMP) ## whole jobs in virtual time under faults: ROUNDS=100000; replay one: SEED=17
	PYTHONPATH=$(SOURCES) $(BIN)/python -m simulation.run \
		$(if $(SEED),--seed $(SEED),--rounds $(ROUNDS))

# A cluster of this folder's name; CLUSTER_FLAGS=--control-plane-only starts one without nodes.
CLUSTER ?= $(BUILD)/e2e/cluster
.PHONY: cluster-build
cluster-build: $(STAMP) ## build the programs and images of the cluster for the tests into the cache
	$(BIN)/python -m e2e.cluster build $(CLUSTER_FLAGS)

.PHONY: cluster-up
cluster-up: $(STAMP) ## start a three-node Kubernetes on this machine (as root)
	$(BIN)/python -m e2e.cluster up --folder $(CLUSTER) $(CLUSTER_FLAGS)

.PHONY: cluster-down
cluster-down: $(STAMP) ## remove it, or what a crash left of it
	$(BIN)/python -m e2e.cluster down --folder $(CLUSTER)

.PHONY: cluster-env
cluster-env: $(STAMP) ## print what makes kubectl and helm use it: eval "$(make -s cluster-env)"
	@$(BIN)/python -m e2e.cluster env --folder $(CLUSTER)

.PHONY: cluster-images
cluster-images: $(STAMP) ## build the project's images, give them to its nodes and print their names
	$(BIN)/python -m e2e.cluster images --folder $(CLUSTER)

# Builds, starts and many tests take their time: each says at once what it does.
.PHONY: e2e
e2e: $(STAMP) ## the tests on a whole Kubernetes: E2E_CLUSTER=local (default), kind or existing; some: FILES=…
	$(BIN)/python -m pytest -vv --capture=no --durations=0 --durations-min=5 -m e2e $(or $(FILES),e2e)

.PHONY: e2e-operator
e2e-operator: $(STAMP) ## the operator's tests, each file on a real API server of its own; some: FILES=…
	$(BIN)/python -m e2e.operator_tests $(FILES)

.PHONY: demo
demo: $(STAMP) ## ten silos train one adapter on BBC news under ε = 1 (fresh state folder each time)
	rm -rf $(DEMO)
	$(BIN)/foedus data split bbc-news --silos 10 --seed 7 --out $(DEMO)/volumes
	$(BIN)/foedus budget create --state $(DEMO)/state --epsilon 1 --delta 1e-5 \
		$$(printf -- '--data %s ' $(DEMO)/volumes/silo-*/train.jsonl)
	$(BIN)/foedus run -f examples/bbc-news.yaml --state $(DEMO)/state --volumes $(DEMO)/volumes --out $(DEMO)/result

.PHONY: bench
bench: $(STAMP) ## run one benchmark: make bench NAME=bbc
	@test -n "$(NAME)" || { echo "say which: make bench NAME=…; make bench-list lists them" >&2; exit 2; }
	$(BIN)/python -m benchmarks.run $(NAME)

.PHONY: bench-list
bench-list: $(STAMP) ## list the benchmarks with what each shows
	@$(BIN)/python -m benchmarks.run --list

.PHONY: format
format: $(STAMP) ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: crds
crds: $(STAMP) ## write crds/*.yaml, and the chart's copies, from the models
	$(BIN)/python -m foedus_engine.crdgen

.PHONY: chart
chart: $(STAMP) ## write what follows from the chart's schema and templates; the golden files need helm
	PYTHONPATH=$(SOURCES) $(BIN)/python -m chart.documents
	PYTHONPATH=$(SOURCES) $(BIN)/python -m chart.golden

.PHONY: workflows
workflows: ## check .github/workflows with actionlint (needs Go)
	go run github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT) -color=false

.PHONY: bad-input
bad-input: $(STAMP) ## write docs/bad-input.md from the cases of bad input that the tests run
	PYTHONPATH=$(SOURCES) $(BIN)/python -m bad_input.table

# One part does not keep the next from running: make says at the end what failed.
NIGHTLY_ROUNDS ?= 10000000
.PHONY: nightly
nightly: ## what takes too long for every change: tests marked so, all of e2e, 10⁷ simulated rounds (NIGHTLY_ROUNDS), benchmarks
	$(MAKE) --keep-going nightly-tests nightly-cluster nightly-simulation nightly-benchmarks

.PHONY: nightly-tests nightly-cluster nightly-simulation nightly-benchmarks
nightly-tests: $(STAMP)
	$(BIN)/python -m pytest -m 'nightly and not e2e'
nightly-cluster: $(STAMP)
	cannot=0; $(BIN)/python -m e2e.cluster check || cannot=$$?; \
	if [ $$cannot = 3 ]; then echo "left out here: make e2e"; else $(MAKE) e2e; fi
nightly-simulation: $(STAMP)
	$(MAKE) simulation ROUNDS=$(NIGHTLY_ROUNDS)
nightly-benchmarks: $(STAMP)
	OPS=1000000 RUNS=50 $(BIN)/python -m benchmarks.run --all

# The names of what an image gets; versions and hashes stay in the lock.
names = env -u PIP_FIND_LINKS $(BIN)/uv pip compile --quiet $(1) --constraint $(BUILD)/pins.txt --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --no-annotate --no-header \
	| sed 's/==.*//' | grep -vE '^(torch|triton|(cuda|nvidia)-.*)$$'

# Resolves for Linux x86-64 and Python 3.11; keeps the present pins unless UPGRADE=--upgrade is given.
.PHONY: lock
lock: $(STAMP) ## write the locks again from pyproject.toml (UPGRADE=--upgrade takes newer versions)
	mkdir -p $(BUILD)
	sed '/$(TORCH_CPU_SHA256)/d' requirements.lock requirements-cuda.lock > $(BUILD)/all.lock
	env -u PIP_FIND_LINKS $(BIN)/uv pip compile --quiet $(UPGRADE) pyproject.toml --all-extras --generate-hashes \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header -o $(BUILD)/all.lock
	grep -q '^torch==$(TORCH) ' $(BUILD)/all.lock || { echo "torch moved: mend TORCH and TORCH_CPU_SHA256" >&2; exit 1; }
	awk '/^[^ ]/ {cuda = /^(cuda|nvidia)-/ || /^triton==/} !cuda \
		{print} /^torch==/ {print "    --hash=sha256:$(TORCH_CPU_SHA256) \\"}' $(BUILD)/all.lock > requirements.lock
	awk '/^[^ ]/ {cuda = /^(cuda|nvidia)-/ || /^triton==/} cuda' $(BUILD)/all.lock > requirements-cuda.lock
	grep -hoE '^[a-z0-9.-]+==[^ ]+' requirements.lock requirements-cuda.lock > $(BUILD)/pins.txt
	echo 'crypten==$(CRYPTEN)' | env -u PIP_FIND_LINKS $(BIN)/uv pip compile --quiet --no-deps --generate-hashes \
		--python-version 3.11 --no-annotate --no-header -o requirements-crypten.lock -
	$(call names,pyproject.toml --extra operator) > images/operator.txt
	$(call names,pyproject.toml --extra training) > images/workloads.txt
	$(call names,pyproject.toml --extra training --extra examples) | grep -vxFf images/workloads.txt > images/examples.txt
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' \
		| $(call names,-) > images/build.txt

.PHONY: clean
clean: ## remove what was built (the virtual environment and .foedus stay)
	rm -rf $(BUILD) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
