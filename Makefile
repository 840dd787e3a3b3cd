# The project's commands; `make` alone lists them. Needs GNU make 3.81+, sh, Python 3.10 to 3.13.
# Another Python:  make setup PYTHON=/path/to/python3.12

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
EXTRAS := .venv/.installed-extras
PLOTS := .dvc/plots.html
# a module compiles at its first import: most never are; setuptools warns of any package found here
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --no-compile -c constraints.txt
NAME ?= lr
WORKERS ?= 2
REMOTE ?= $(abspath ..)/tracegpt-remote

# the stages' `python` is the one of .venv
export PATH := $(CURDIR)/$(BIN):$(PATH)
# containers often set it: each of a run's many processes would compile all of torch's source again
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup repro report sweep bench test test-all lint demo remote clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

setup: $(READY) $(PLOTS) ## Install everything into .venv, at the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "make: $(PYTHON) is not Python 3.10 to 3.13; name one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing, this takes some minutes the first time"
	$(INSTALL) pip
	$(INSTALL) -e '.[dev]'
	@touch $@

$(PLOTS): | $(READY)
	@$(BIN)/python -m pipeline plots

$(EXTRAS): $(READY)
	$(INSTALL) -e '.[dev,demo,eval,s3,ssh,cluster]'
	@touch $@

repro: $(READY) $(PLOTS) ## Run every stage that is due: raw text to README
	$(BIN)/python -m dvc repro

report: $(READY) ## Rewrite report.html, figures, results, the README's sections from the last run
	$(BIN)/python -m dvc repro --single-item --force report

sweep: $(READY) ## Run a sweep and write its table: make sweep NAME=width WORKERS=2
	$(BIN)/python -m pipeline sweep run $(NAME) --workers $(WORKERS)
	$(BIN)/python -m pipeline sweep table $(NAME)
	@if [ -d data/checkpoints ] && $(BIN)/python -m dvc status --quiet --with-deps evaluate; \
	  then $(BIN)/python -m dvc repro --single-item report; \
	  else echo "report.html is due: make repro"; fi

bench: $(READY) ## Measure speed, beside nanoGPT's too: make bench PEER=../nanoGPT
	$(BIN)/python -m pipeline bench $(if $(PEER),--peer $(PEER))

test: lint ## Check style and types, run the fast tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-all: $(EXTRAS) lint ## Check style and types, run all tests, the slow proofs too
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY) ## Check style and types alone
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

demo: $(EXTRAS) ## Serve a page on this machine to try the best checkpoint
	$(BIN)/python -m pipeline demo

remote: $(READY) ## Share results through a folder, s3:// or ssh://: make remote REMOTE=...
	@[ -n '$(strip $(REMOTE))' ] || { \
	  echo "make: REMOTE: found nothing; allowed: a folder, s3://... or ssh://..." >&2; exit 1; }
	@$(BIN)/python -m dvc remote add --quiet --local --default --force shared '$(REMOTE)'
	@echo "dvc push and dvc pull now go to $(REMOTE)"

clean: ## Remove .venv and the tools' caches; results, data and unfinished runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find pipeline tests -name __pycache__ -type d -prune -exec rm -rf {} +
