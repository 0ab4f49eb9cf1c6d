#!/usr/bin/env bash
# Every gate of `make check`, in the order in which a failure is cheapest to understand.
set -euo pipefail
cd "$(dirname "$0")/.."
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1   # two notebooks run side by side
say() { printf '\n== %s\n' "$*"; }
say "clean and export are no-ops";       python scripts/check_noop.py
say "README.md is nbs/index.ipynb";      python scripts/readme.py --check
say "ruff (F) on the exported package";  ruff check spectramind setup.py scripts tests benchmarks
say "imports point down";                lint-imports
say "workflows";                         bash scripts/workflows.sh
say "licences and bill of materials";    python scripts/sbom.py --check
say "notebooks run";                     nbdev_test --n_workers 2 --do_print
say "the wheel works alone";             bash scripts/check_wheel.sh
say "all checks passed"
