# Every target prepares what it needs first; `make demo` and `make test` work on a bare Debian machine.

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test lint format generate bench clean
help: ## Say what there is to make
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml uv.lock hack/bootstrap.sh hack/lab/packages.txt
	@hack/bootstrap.sh
	@touch $@

demo: $(READY) ## Watch real guests give memory back to a real node
	@$(BIN)/python -m hack.demo

test: $(READY) ## Run all tests, on a real control plane and real guests
	@$(BIN)/pytest

lint: $(READY) ## Check style, types, layers, and that generated files are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m hack.generate_crds --check

format: $(READY) ## Put the code into the one style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(READY) ## Write crds/ and the chart's copy from the API's models
	$(BIN)/python -m hack.generate_crds

bench: $(READY) ## Measure; results in build/bench.json
	@$(BIN)/python -m hack.bench

clean: ## Remove what was built here; caches of the user stay
	rm -rf .venv build dist
