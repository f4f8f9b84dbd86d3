# Lanemark's front door. Every target sets up what it needs: on a fresh machine `make bench` and `make test` just work.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup system check test bench benchmarks format lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv and install everything at the versions of constraints.txt
	@scripts/setup

system: ## Install the system programs that tests use (as root on Debian), or say what will skip
	@scripts/system

check: setup ## Lint, format, types and import rule
	@scripts/check

test: setup system ## Check the source and run every test
	@scripts/aside
	@scripts/test

bench: setup ## The main job: a two-rank training run on real tokens, its record and its HTML report
	@scripts/bench

benchmarks: setup system ## Measure our own figures and write benchmarks/results.json and docs/BENCHMARKS.md
	@.venv/bin/python benchmarks/run.py $(if $(ONLY),--only $(ONLY))

format: setup ## Rewrite the source as ruff formats it
	@.venv/bin/ruff format
	@.venv/bin/ruff check --fix

lock: ## Regenerate constraints.txt from a clean environment
	@scripts/lock

clean: ## Remove everything generated, .venv included; records under LANEMARK_HOME stay
	rm -rf .venv .cache build dist bench-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
