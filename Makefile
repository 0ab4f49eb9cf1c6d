# SpectraMind V50. `make demo` and `make test` need Python 3.11, git and a package index, nothing else.
SHELL  := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
WORK   ?= .
export PATH := $(BIN):$(PATH)
export PYTHONHASHSEED := 0

.PHONY: help dev demo test check bench proof proof-curves ablation fuzz docs readme lock clean
help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

dev: $(VENV)/.installed    ## set everything up inside .venv
$(VENV)/.installed: requirements.lock scripts/install.sh setup.py settings.ini pyproject.toml
	@PYTHON="$(PYTHON)" bash scripts/install.sh $(VENV)
	@touch $@

demo: dev        ## simulate -> calibrate -> features -> fit -> predict -> submit -> score, and one page to look at
	spectramind demo paths.work=$(WORK)

test: dev        ## the test suite
	pytest

check: dev       ## clean, export, lint, layers, README, notebooks, wheel
	bash scripts/check.sh

bench: dev       ## speed and memory, as ratios against references in the same run
	@missed=0; for part in calibration transit fit scan graph; do echo "== bench_$$part"; python benchmarks/bench_$$part.py || missed=1; done; exit $$missed

proof: dev       ## slow: full-cadence planets from raw frames to score
	python benchmarks/proof.py

proof-curves: dev   ## slow: coverage, oracle, injection, robustness, learning curve, from light curves
	python benchmarks/proof_curves.py

ablation: dev    ## slow: does the network earn its place? physics against every variant, from light curves
	python benchmarks/ablation.py

fuzz: dev        ## 100,000 expressions thrown at the rules' language
	python benchmarks/fuzz_rules.py

docs: dev        ## the site, from the same notebooks (needs Quarto)
	@command -v quarto >/dev/null || { echo "make docs: Quarto is not on the PATH; get it from https://quarto.org/docs/get-started/ and run make docs again" >&2; exit 3; }
	quarto render

readme: dev      ## README.md from nbs/index.ipynb
	python scripts/readme.py

lock: dev        ## resolve settings.ini into the lock files
	UV=$(BIN)/uv bash scripts/lock.sh

clean:           ## remove what runs and builds have made (never the environment)
	rm -rf data artifacts dist logs truth events.jsonl v50_debug_log.md build *.egg-info _docs _proc .pytest_cache .ruff_cache .hypothesis
