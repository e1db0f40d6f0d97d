# Two commands for a newcomer: `make quickstart` trains a small reasoning model, `make test` runs every check.
.DEFAULT_GOAL := help
.PHONY: help setup dev quickstart test lint types imports bench manifests clean

python := .venv/bin/python
export PYTHONUNBUFFERED := 1
export TOKENIZERS_PARALLELISM := false
# Every actor is a process that imports torch and transformers: compiled anew each time, they cost three seconds more.
unexport PYTHONDONTWRITEBYTECODE

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
	.venv/bin/hadolint deploy/Dockerfile deploy/Dockerfile.cpu

types: dev
	$(python) -m mypy

imports: dev
	.venv/bin/lint-imports

bench: dev ## Run one benchmark: make bench NAME=peers
	$(python) -m tests.benchmarks.$(NAME) $(ARGS)

manifests: setup ## Render the bases of deploy/kuberay anew, after a setting was added or a recipe changed
	.venv/bin/paceline render quickstart device=cpu trainer.checkpoint_every=10 --out deploy/kuberay/base
	.venv/bin/paceline render gsm8k device=gpu topology.rollout.workers=2 topology.rollout.most=4 \
	  trainer.checkpoint_every=10 --out deploy/kuberay/base-gpu

clean: ## Remove the environment and caches (runs/ stays)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
