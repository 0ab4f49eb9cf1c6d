# SpectraMind V50. `make demo` and `make test` need Python 3.11, git and a package index, nothing else.
SHELL  := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
WORK   ?= .
export PATH := $(BIN):$(PATH)
export PYTHONHASHSEED := 0

.PHONY: help dev demo test check bench proof proof-faults proof-curves proof-run proof-page proof-unlike kaggle-rehearsal determinism repro gate ablation fuzz sbom docs readme contract lock clean
help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

dev: $(VENV)/.installed    ## set everything up inside .venv
$(VENV)/.installed: requirements.lock scripts/install.sh setup.py settings.ini pyproject.toml
	@PYTHON="$(PYTHON)" bash scripts/install.sh $(VENV)
	@touch $@

demo: dev        ## simulate -> calibrate -> features -> fit -> predict -> submit -> score, and one page to look at
	spectramind demo --engine papermill "paths.work='$(WORK)'"

test: dev        ## the test suite, on as many cores as there are, four at most
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 pytest -n logical --maxprocesses 4 --dist loadfile --junitxml=proof/tests.xml

check: dev       ## clean, export, lint, layers, README, notebooks, wheel
	bash scripts/check.sh

bench: dev       ## speed and memory, as ratios against references in the same run
	@missed=0; for part in calibration transit fit scan graph; do echo "== bench_$$part"; python benchmarks/bench_$$part.py || missed=1; done; exit $$missed

proof: proof-faults  ## slow: everything that can be broken, then full-cadence planets from raw frames to score
	python benchmarks/proof.py

proof-faults: dev  ## ten minutes: files, settings and checkpoints broken in every way, and what becomes of each
	python benchmarks/proof_faults.py

kaggle-rehearsal: dev  ## slow: build for Kaggle, then run it as Kaggle would: no network, read-only inputs, a hidden test set, a kill, five faults
	python benchmarks/kaggle_rehearsal.py

proof-run: dev   ## slow: 200 kills, a lost worker, equal bytes, 10,000 planets
	@missed=0; for part in proof_crash.py "proof_dask.py --full" proof_scale.py; do echo "== $$part"; python benchmarks/$$part || missed=1; done; exit $$missed

proof-page: dev   ## slow: a dashboard of 1,100 planets in a real browser
	python benchmarks/proof_dashboard.py

proof-unlike: dev ## slow: planets of other worlds, and whether calibration notices them
	python benchmarks/proof_unlike.py

determinism: export PYTHONHASHSEED := random
determinism: dev ## the smoke pipeline twice, with one worker and with two; code 6 when a byte differs
	spectramind diagnose determinism data=smoke env=ci model=v50_fast train=trainer_smoke "paths.work='$(WORK)/proof/determinism'"

repro: dev       ## the smoke pipeline by DVC: only what changed is done again
	dvc repro

gate: dev        ## the smoke demo keeps its score and its error bars cover; code 6 otherwise
	spectramind demo "paths.work='$(WORK)/proof/gate'"
	spectramind diagnose calibration --config-name '$(WORK)/proof/gate/artifacts/configs/run.yaml' --dataset test --gate
	python scripts/keep_score.py '$(WORK)/proof/gate'

proof-curves: dev   ## slow: coverage, oracle, injection, robustness, learning curve, from light curves
	python benchmarks/proof_curves.py

ablation: dev    ## slow: does the network earn its place? physics against every variant, from light curves
	python benchmarks/ablation.py

fuzz: dev        ## 100,000 expressions thrown at the rules' language
	python benchmarks/fuzz_rules.py

docs: dev        ## the site, from the same notebooks: by Quarto, or by nbconvert where it is missing
	python scripts/site_build.py --work '$(WORK)'

sbom: dev        ## what it is made of: sbom.cdx.json, sbom.spdx.json, validated; licences; known vulnerabilities
	python scripts/sbom.py --audit

contract:        ## after a change of ARCHITECTURE.md: its hash into tests/governance/contract.sha256
	sha256sum ARCHITECTURE.md > tests/governance/contract.sha256

readme: dev      ## README.md from nbs/index.ipynb
	python scripts/readme.py

lock: dev        ## resolve settings.ini into the lock files
	UV=$(BIN)/uv bash scripts/lock.sh

clean:           ## remove what runs and builds have made (never the environment)
	rm -rf data artifacts dist logs truth proof events.jsonl v50_debug_log.md v50_debug_log.*.md build *.egg-info _docs _proc .pytest_cache .ruff_cache .hypothesis
