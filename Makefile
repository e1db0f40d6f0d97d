# Two commands for a newcomer: `make quickstart` trains a small reasoning model, `make test` runs every check.
.DEFAULT_GOAL := help
.PHONY: help setup dev quickstart test lint types imports bench clean

python := .venv/bin/python
export PYTHONUNBUFFERED := 1
export TOKENIZERS_PARALLELISM := false

help: ## Show the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## Make .venv and install the locked packages for this machine (CPU or NVIDIA GPU)
	@deploy/setup.sh run

dev: ## The same, with the tools for tests and benchmarks
	@deploy/setup.sh dev

quickstart: setup ## Train a small model by GRPO on this machine, and show what it learned
	@.venv/bin/paceline train quickstart $(ARGS)

test: dev lint types imports ## Lint, types, import rules and all tests
	$(python) -m pytest -n 2 --dist loadfile $(ARGS)

lint: dev
	$(python) -m ruff check .
	$(python) -m ruff format --check .

types: dev
	$(python) -m mypy

imports: dev
	.venv/bin/lint-imports

bench: dev ## Run one benchmark: make bench NAME=peers
	$(python) -m tests.benchmarks.$(NAME) $(ARGS)

clean: ## Remove the environment and caches (runs/ stays)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
