# Every target prepares what it needs first; `make demo` and `make test` work on a bare Debian machine.

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test lint format generate dashboard bench cluster cluster-down e2e clean
help: ## Say what there is to make
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml uv.lock hack/bootstrap.sh hack/testbed/lab/packages.txt
	@hack/bootstrap.sh
	@touch $@

SCENE ?= memory
demo: $(READY) ## Watch real guests give memory back; SCENE=processors, unplug or guest-agent show the rest
	@$(BIN)/python -m hack.demo $(SCENE)

test: $(READY) ## Run all tests, on a real control plane and real guests
	@$(BIN)/python -m hack.testbed.prepare
	@$(BIN)/pytest --numprocesses=2 --dist=loadfile

lint: $(READY) ## Check style, types, layers, and that generated files are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m hack.generate_crds --check
	$(BIN)/hadolint images/Containerfile
	$$($(BIN)/python -m hack.testbed.tools actionlint)
	$(BIN)/python -m hack.generate_docs --check

format: $(READY) ## Put the code into the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(READY) ## Write crds/, the chart's copy and the docs' fields from the API's models
	$(BIN)/python -m hack.generate_crds
	$(BIN)/python -m hack.generate_docs

dashboard: $(READY) ## Draw docs/dashboard.png, the chart's dashboard, of a real run
	@hack/bootstrap.sh hack/dashboard/packages.txt
	@$(BIN)/python -m hack.dashboard

bench: $(READY) ## Measure, and fail above a limit; results in build/bench.json
	@$(BIN)/python -m hack.bench

cluster: $(READY) ## Make a real KubeVirt cluster of two nodes on this machine, with kubeballoon in it; needs root
	@hack/bootstrap.sh hack/testbed/kubevirt/packages.txt
	@$(BIN)/python -m hack.testbed.kubevirt up

cluster-down: $(READY) ## Take it down; nothing of it is left
	@$(BIN)/python -m hack.testbed.kubevirt down

e2e: $(READY) ## Run the tests that need it, on the cluster of `make cluster`
	@$(BIN)/python -m hack.testbed.kubevirt ensure
	@$(BIN)/pytest tests/e2e -m e2e --numprocesses=0

clean: ## Remove what was built here; caches of the user stay
	rm -rf .venv build dist
