# Every target prepares what it needs first; `make demo` and `make test` work on a bare Debian machine.

BIN := .venv/bin
VENV := .venv/.synced
READY := .venv/.ready
QUICK_TESTS := -m 'not cluster and not guest and not tools and not e2e'

.PHONY: help demo test test-quick e2e e2e-all coverage mutate fuzz lint docs format generate hooks binary dashboard screens bench cluster cluster-down clean
help: ## List what make can do here
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV): pyproject.toml uv.lock hack/bootstrap.sh
	@hack/bootstrap.sh --quick
	@touch $@

$(READY): $(VENV) hack/testbed/lab/packages.txt
	@hack/bootstrap.sh
	@touch $@

SCENE ?= memory
demo: $(READY) ## Watch real guests give memory back; SCENE=processors|unplug|guest-agent|cluster
	@$(if $(filter cluster,$(SCENE)),hack/bootstrap.sh hack/testbed/kubevirt/packages.txt)
	@$(if $(filter cluster,$(SCENE)),$(BIN)/python -m hack.testbed.kubevirt ensure)
	@$(BIN)/python -m hack.demo $(SCENE)

test: $(READY) ## Run all tests that need no KubeVirt, on a real API server and real guests
	@$(BIN)/python -m hack.testbed.prepare
	@$(BIN)/pytest --numprocesses=2 --dist=loadfile

test-quick: $(VENV) ## Run the tests that need no root, no guests and no API server
	@$(BIN)/pytest --numprocesses=auto $(QUICK_TESTS)

ALL := $(filter all,$(TESTS))
coverage: $(if $(ALL),$(READY),$(VENV)) ## Measure how much code the tests of test-quick run; TESTS=all: all tests
	@$(if $(ALL),$(BIN)/python -m hack.testbed.prepare)
	@$(BIN)/python -m hack.measure_coverage $(if $(ALL),,$(QUICK_TESTS))

SEED ?=
MUTANTS ?= 60
MINUTES ?= 10
mutate: $(VENV) ## Test the core's tests by random changes; MUTANTS=60 MINUTES=10 SEED=n
	@$(BIN)/python -m hack.mutate --mutants=$(MUTANTS) --minutes=$(MINUTES) $(if $(SEED),--seed=$(SEED))

fuzz: $(VENV) ## Feed parsers 10,000 hostile inputs each, but end after MINUTES=10
	@timeout $(MINUTES)m $(BIN)/pytest tests/hostile/test_fuzz*.py --hypothesis-profile=fuzz --timeout=0 \
	  --numprocesses=auto --exitfirst || { [ $$? = 124 ] && echo "time is up, and nothing has failed"; }

lint: $(VENV) ## Check style, types, layers, links, and that generated files are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m hack.generate_crds --check
	$(BIN)/hadolint images/Containerfile
	$$($(BIN)/python -m hack.testbed.tools actionlint)
	$(BIN)/python -m hack.generate_docs --check
	$(BIN)/python -m hack.draw_docs --check
	$(BIN)/python -m hack.generate_testbed --check
	@$(MAKE) --no-print-directory docs

docs: $(VENV) ## Build the docs as a website in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build

format: $(VENV) ## Format the Python code, and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(VENV) ## Write the files made from code: crds/, parts of the docs, testbed manifests
	$(BIN)/python -m hack.generate_crds
	$(BIN)/python -m hack.generate_docs
	$(BIN)/python -m hack.draw_docs
	$(BIN)/python -m hack.generate_testbed

hooks: $(VENV) ## Make git run the quick checks before each commit
	@$(BIN)/pre-commit install

binary: $(VENV) ## Build kubectl-balloon without need of Python, in build/binary
	@$(BIN)/python -m hack.binary

dashboard: $(READY) ## Draw docs/dashboard.png: the chart's Grafana dashboard, for a simulated cluster
	@hack/bootstrap.sh hack/dashboard/packages.txt
	@$(BIN)/python -m hack.dashboard

screens: $(VENV) ## Draw docs/cli-*.svg: what kubectl balloon prints, for a simulated cluster
	@$(BIN)/python -m hack.screens

bench: $(READY) ## Run the benchmarks into build/bench.json, and fail above a limit
	@$(BIN)/python -m hack.bench

cluster: $(READY) ## Start a KubeVirt cluster of two nodes here, with kubeballoon in it; needs root
	@hack/bootstrap.sh hack/testbed/kubevirt/packages.txt
	@$(BIN)/python -m hack.testbed.kubevirt up

cluster-down: $(READY) ## Remove the cluster that make cluster started
	@$(BIN)/python -m hack.testbed.kubevirt down

ROUNDS ?= 1
ONLY ?=
e2e: $(READY) ## Run stable tests on the KubeVirt cluster, started if needed; ROUNDS=n ONLY=name
	@hack/bootstrap.sh hack/testbed/kubevirt/packages.txt
	@$(BIN)/python -m hack.testbed.kubevirt ensure
	@$(BIN)/pytest tests/e2e -m 'e2e and not e2e_all' --numprocesses=0 --rounds=$(ROUNDS) $(if $(ONLY),-k '$(ONLY)')

e2e-all: $(READY) ## Run all tests on the KubeVirt cluster, started if needed; ROUNDS=n ONLY=name
	@hack/bootstrap.sh hack/testbed/kubevirt/packages.txt
	@$(BIN)/python -m hack.testbed.kubevirt ensure
	@$(BIN)/pytest tests/e2e -m e2e --numprocesses=0 --rounds=$(ROUNDS) $(if $(ONLY),-k '$(ONLY)')

clean: ## Remove .venv and what was built here; downloads in ~/.cache stay
	rm -rf .venv build dist
