"""Slow proof: simulate full-cadence planets, run the whole pipeline from raw frames, and hold the result to the bars.

    python benchmarks/proof.py [--seed 2026] [--train 30] [--test 24] [--work proof] [--workers N] [--keep]

Prints a table and writes benchmarks/proof.json. Exit code 6 when a bar is missed. The seed is not one that was used in development,
and the bars are those of the README's table. Interrupted, it resumes where it stopped.
"""
import argparse, json, os, subprocess, sys, time
from pathlib import Path

import numpy as np

from spectramind.challenge.planets import read_labels
from spectramind.core.store import write_json
from spectramind.scoring.score import naive_statistics, score
from spectramind.scoring.submission import read_submission

BARS = {"score": (.45, 1.), "coverage_1sigma": (.60, .76), "white_noise_fgs1": (.90, 1.10), "white_noise_airs": (.90, 1.10)}
HERE = Path(__file__).resolve().parent
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--seed", type=int, default=2026)
ap.add_argument("--train", type=int, default=30)
ap.add_argument("--test", type=int, default=24)
ap.add_argument("--work", type=Path, default=HERE.parent/"proof")
ap.add_argument("--workers", type=int, default=os.cpu_count() or 1)
args = ap.parse_args()

start = time.perf_counter()
done = subprocess.run([sys.executable, "-m", "spectramind", "run", "data=science", f"seed={args.seed}", f"data.n_train={args.train}", f"data.n_test={args.test}",
                       f"paths.work={args.work}", "executor=processes", f"executor.workers={args.workers}"])
if done.returncode: sys.exit(done.returncode)
minutes = (time.perf_counter() - start)/60

from spectramind.pipeline.products import truth_path  # noqa: E402  (after the run: the pipeline is not needed to print --help)
