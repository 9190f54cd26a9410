# Every target prepares what it needs first; `make demo` and `make test` work on a bare Debian machine.

BIN := .venv/bin
VENV := .venv/.synced
READY := .venv/.ready
QUICK_TESTS := -m 'not cluster and not guest and not tools and not e2e'

.PHONY: help demo test test-quick e2e e2e-all coverage mutate fuzz lint docs format generate hooks binary dashboard screens bench cluster cluster-down clean
help: ## Say what there is to make
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV): pyproject.toml uv.lock hack/bootstrap.sh
	@hack/bootstrap.sh --quick
	@touch $@

$(READY): $(VENV) hack/testbed/lab/packages.txt
	@hack/bootstrap.sh
	@touch $@

SCENE ?= memory
demo: $(READY) ## Watch real guests give memory back; SCENE=processors, unplug, guest-agent or cluster show the rest
	@$(if $(filter cluster,$(SCENE)),hack/bootstrap.sh hack/testbed/kubevirt/packages.txt)
	@$(if $(filter cluster,$(SCENE)),$(BIN)/python -m hack.testbed.kubevirt ensure)
	@$(BIN)/python -m hack.demo $(SCENE)

test: $(READY) ## Run all tests, on a real control plane and real guests
	@$(BIN)/python -m hack.testbed.prepare
	@$(BIN)/pytest --numprocesses=2 --dist=loadfile

test-quick: $(VENV) ## Run the tests that need no root, no guests and no control plane
	@$(BIN)/pytest --numprocesses=auto $(QUICK_TESTS)

ALL := $(filter all,$(TESTS))
coverage: $(if $(ALL),$(READY),$(VENV)) ## Measure what test-quick runs of the code, or with TESTS=all what test does
	@$(if $(ALL),$(BIN)/python -m hack.testbed.prepare)
	@$(BIN)/python -m hack.measure_coverage $(if $(ALL),,$(QUICK_TESTS))

SEED ?=
MUTANTS ?= 60
MINUTES ?= 10
mutate: $(VENV) ## Change the core at random, and fail if tests notice too little; MUTANTS, MINUTES and SEED choose
	@$(BIN)/python -m hack.mutate --mutants=$(MUTANTS) --minutes=$(MINUTES) $(if $(SEED),--seed=$(SEED))

fuzz: $(VENV) ## Give parsers what guests, launchers, tenants and nodes could write, ten thousand of each; MINUTES bounds it
	@timeout $(MINUTES)m $(BIN)/pytest tests/hostile/test_fuzz*.py --hypothesis-profile=fuzz --timeout=0 \
	  --numprocesses=auto --exitfirst || { [ $$? = 124 ] && echo "time is up, and nothing has failed"; }

lint: $(VENV) ## Check style, types, layers, and that generated files are fresh
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

docs: $(VENV) ## Build the docs as a site in build/site; a link that leads nowhere fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build

format: $(VENV) ## Put the code into the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(VENV) ## Write what is made from other files: crds/, the docs' fields, what the testbed ships
	$(BIN)/python -m hack.generate_crds
	$(BIN)/python -m hack.generate_docs
	$(BIN)/python -m hack.draw_docs
	$(BIN)/python -m hack.generate_testbed

hooks: $(VENV) ## Have git run the quick checks before each commit
	@$(BIN)/pre-commit install

binary: $(VENV) ## Make kubectl-balloon for this platform, as a folder that needs no Python, in build/binary
	@$(BIN)/python -m hack.binary

dashboard: $(READY) ## Draw docs/dashboard.png, the chart's dashboard, of a model cluster
	@hack/bootstrap.sh hack/dashboard/packages.txt
	@$(BIN)/python -m hack.dashboard

screens: $(VENV) ## Draw docs/cli-*.svg, the screens of kubectl-balloon, of a fake cluster
	@$(BIN)/python -m hack.screens

bench: $(READY) ## Measure, and fail above a limit; results in build/bench.json
	@$(BIN)/python -m hack.bench

cluster: $(READY) ## Make a real KubeVirt cluster of two nodes on this machine, with kubeballoon in it; needs root
	@hack/bootstrap.sh hack/testbed/kubevirt/packages.txt
	@$(BIN)/python -m hack.testbed.kubevirt up

cluster-down: $(READY) ## Take it down; nothing of it is left
	@$(BIN)/python -m hack.testbed.kubevirt down

ROUNDS ?= 1
ONLY ?=
e2e: $(READY) ## Run those tests on that cluster that pass each time; makes it first; ROUNDS repeats them, ONLY chooses as -k does
	@hack/bootstrap.sh hack/testbed/kubevirt/packages.txt
	@$(BIN)/python -m hack.testbed.kubevirt ensure
	@$(BIN)/pytest tests/e2e -m 'e2e and not e2e_all' --numprocesses=0 --rounds=$(ROUNDS) $(if $(ONLY),-k '$(ONLY)')

e2e-all: $(READY) ## Run all tests on that cluster
	@hack/bootstrap.sh hack/testbed/kubevirt/packages.txt
	@$(BIN)/python -m hack.testbed.kubevirt ensure
	@$(BIN)/pytest tests/e2e -m e2e --numprocesses=0 --rounds=$(ROUNDS) $(if $(ONLY),-k '$(ONLY)')

clean: ## Remove what was built here; caches of the user stay
	rm -rf .venv build dist
