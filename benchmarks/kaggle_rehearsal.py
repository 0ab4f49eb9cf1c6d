"""The Kaggle rehearsal: build, run as Kaggle would, and foretell 1,100 planets.

    python benchmarks/kaggle_rehearsal.py [--train 12] [--test 22] [--faults 5] [--full 2] [--seed 31] [--workers 0] [--work DIR] [--out FILE.json] [--isolation auto] [--python EXE]

(i)   A challenge tree in the full layout is simulated: every test planet seen twice, frames co-added so that it takes minutes, a few labelled planets.
(ii)  `kaggle build` without a model; its training kernel is rehearsed and leaves one; `kaggle build` again with that model.
(iii) The submission kernel is rehearsed: commit with one public planet, rerun on the hidden ones with planted faults, killed in the middle, resumed to the same bytes.
(iv)  Planets at the full cadence (a visit each: 135,000 and 11,250 frames) are calibrated, extracted and fitted in a process of their own that has one thread: seconds and peak memory.
      From that, 1,100 planets on 4 cores, a tenth of them with two visits (1,210 visits, as in the challenge's training set). Computed, not measured: stages over planets are divided by the cores;
      start, prediction and network are not; light curves cannot be faster than 264 GB can be read at 100 MB/s. In the same process, as the parent of 1,100 planets: as many copies of a
      posterior are held, and the rows of the physics computed, written and checked. Not in the figure: the default network (this is model=v50_fast), the page, a second try.
(v)   What a visit leaves in the working folder, times 1,210, against the 20 GB that Kaggle keeps there.

Bars: every check of the rehearsals; less than 3 hours; at most 8 GB (the rehearsals' kernels are killed past it, and four workers at full cadence with kernel and parent are added up); at most 500 MB of dataset; less than 20 GB in the working folder.
Prints tables, writes the figures as JSON; exit code 6 when a bar is missed.
"""
import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

for _name in ("OMP", "OPENBLAS", "MKL", "NUMBA"): os.environ.setdefault(f"{_name}_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("SPECTRAMIND_QUIET", "1")
HERE = Path(__file__).resolve().parent
BARS = dict(hours=3., memory_mb=8000., dataset_mb=500., working_gb=20.)
FLEET = dict(planets=1100, visits=1210, raw_gb=264., cores=4, rate_mb=100.)
SETTINGS = ("model=v50_fast", "train=trainer_smoke", "diag.inject.enabled=false")


def simulate(root, truth, n_train, n_test, seed, workers):
    "A tree in the full layout; every test planet is seen twice."
    from spectramind.core.determinism import rng_for
    from spectramind.physics.transit import duration_h
    from spectramind.simulate import observatory as sky
    from spectramind.simulate.population import draw_mid_times, draw_population
    spec, conditions = sky.ProfileSpec(140, 1350, {"FGS1": 100, "AIRS-CH0": 80}), sky.Conditions()
    def twice(p): return replace(p, t0_h=draw_mid_times(rng_for(seed, "rehearsal", "twice", p.planet_id), 2, duration_h(p.period_d, p.a_rs, p.inc_deg, p.depth.mean()**.5)))
    planets = draw_population(n_train + n_test, seed)
    train, test = planets[:n_train], [twice(p) for p in planets[n_train:]]
    sky.write_metadata(root, truth, train, test, spec)
    tasks = [(root, split, p, spec, seed, conditions) for split, part in (("train", train), ("test", test)) for p in part]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool: list(pool.map(sky._run_task, tasks))
    return sum(len(p.t0_h) for p in test)


def full_planet(root, work):
    "In a process of its own: a full-cadence planet through light curves and fit, warm; prints seconds and peak memory."
    from proof_scale import settings, timed
    from spectramind.pipeline import stages, units
    config = settings(root, work, "calib.persist=none")
    orders, fits = stages.observe_orders(config), stages.fit_orders(config)
    cold = [timed(units.observe, orders[0][1])[0], timed(units.fit, fits[0][1])[0]]         # kernels are compiled
    observed, fitted = [timed(units.observe, o) for _, o in orders[1:]], [timed(units.fit, o) for _, o in fits[1:]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    left_mb = sum(p.stat().st_size for p in work.rglob("*") if p.is_file())/1e6/len(orders)     # light curves and posterior of a visit each
    shown = dict(features_s=[w for w, _ in observed], features_cpu_s=[c for _, c in observed], fit_s=[w for w, _ in fitted], fit_cpu_s=[c for _, c in fitted])
    print(json.dumps(dict(cold_s=cold, **shown, peak_mb=peak, left_mb=left_mb, **parent_of(fits[-1][1], work))))


def parent_of(order, work):
    "The parent of 1,100 planets, played with copies of one posterior and a prior of random depths: MB that the posteriors take, seconds for the rows and for the submission."
    import numpy as np
    from spectramind.lightcurve.prior import fit_prior, predict_spectra, prior_row
    from spectramind.pipeline.units import read_posterior
    from spectramind.scoring.submission import complete, validate_submission, write_package
    prior, ids = fit_prior(np.random.default_rng(0).uniform(.001, .02, (40, 1))*np.ones(283)), list(range(1, FLEET["planets"] + 1))
    def resident(): return int(Path("/proc/self/statm").read_text().split()[1])*resource.getpagesize()/1e6
    before, began = resident(), time.perf_counter()
    posteriors = [replace(read_posterior(order.work, order.planet_id, order.settings), planet_id=p) for p in ids]
    loaded, held = time.perf_counter() - began, resident() - before
    began = time.perf_counter()
    spectra = complete(predict_spectra(posteriors, prior), ids, *prior_row(prior))
    rows = time.perf_counter() - began
    began = time.perf_counter()
    write_package(work/"dist", spectra, "kaggle", None)
    validate_submission(work/"dist"/"submission.csv", ids)
    return dict(parent_mb=held, posteriors_s=loaded, physics_s=rows, submit_s=time.perf_counter() - began)


def measure_full(n, seed, folder):
    "Full-cadence planets, simulated and worked through."
    from spectramind.simulate.observatory import simulate_tree
    simulate_tree(folder/"tree", folder/"truth", profile="science", n_train=0, n_test=n, seed=seed)
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); from pathlib import Path; from kaggle_rehearsal import full_planet; full_planet(Path({str(folder/'tree')!r}), Path({str(folder/'work')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=""))
    if done.returncode: sys.exit(f"the full-cadence planets failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def foretell(full, timings):
    "Seconds of each stage for 1,100 planets; the prediction's own speed is that of the rehearsed kernel."
    from spectramind.pipeline.guard import START
    features, fit = (sum(full[k])/len(full[k]) for k in ("features_s", "fit_s"))
    predict = [t["seconds"]/t["units"] for t in timings if t["stage"] == "predict" and t["units"]]
    reading, parent = 1000*FLEET["raw_gb"]/FLEET["rate_mb"], dict(prior=full["posteriors_s"] + full["physics_s"], submit=full["submit_s"])
    return dict(start=START + sum(full["cold_s"]), features=max(FLEET["visits"]*features/FLEET["cores"], reading), fit=FLEET["planets"]*fit/FLEET["cores"],
                predict=FLEET["planets"]*max(predict, default=.2), **parent), dict(features_s=features, fit_s=fit, predict_s=max(predict, default=.2))


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (("train", 12, "labelled planets"), ("test", 22, "hidden test planets, two visits each"), ("faults", 5, "of them damaged"),
                                ("full", 2, "planets at the full cadence"), ("seed", 31, "of the simulations"), ("workers", 0, "processes; 0: one for each core")):
        ap.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    ap.add_argument("--isolation", default="auto", help="auto, namespaces or blocked")
    ap.add_argument("--python", default=None, help="another interpreter for the box")
    ap.add_argument("--work", type=Path, default=HERE.parent/"proof"/"kaggle", help="where everything is made; wheels that were fetched stay there")
    ap.add_argument("--out", type=Path, default=HERE/"kaggle_rehearsal.json")
    return ap.parse_args()


def main():
    args = arguments()
    from spectramind.core.errors import SpectraMindError
    from spectramind.core.provenance import code_hash
    from spectramind.core.store import make_folder, sha256_file, write_json
    from spectramind.pipeline.config import config_hash, load_config
    from spectramind.pipeline.kaggle_dataset import build
    from spectramind.pipeline.kaggle_rehearsal import rehearse
    made_by = dict(code_sha256=code_hash(), script_sha256=sha256_file(__file__), config_hash=config_hash(load_config(list(SETTINGS))))
    began, work, workers = time.perf_counter(), make_folder(args.work.resolve()), args.workers or os.cpu_count()
    def at(text): print(f"[{time.perf_counter() - began:5.0f} s] {text}", flush=True)
    shutil.rmtree(work/"artifacts", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=work) as place:
        place = Path(place)
        visits = simulate(place/"tree", place/"truth", args.train, args.test, args.seed, workers)
        at(f"simulated {args.train} labelled and {args.test} test planets, {visits} visits of the latter")
        common = dict(memory_gb=BARS["memory_mb"]/1000, kind=args.isolation, python=args.python, overrides=[f"executor.workers={workers}"], tell=at)
        try:
            first = build(work, SETTINGS, tell=at)
            learnt = rehearse(place/"tree", first.folder, work, "train", **common)
            built = build(work, SETTINGS, learnt.kept, tell=at)
            found = rehearse(place/"tree", built.folder, work, "submit", args.faults, **common)
        except SpectraMindError as error: _stop(error)
        at("full cadence")
        full = measure_full(args.full, args.seed, place/"full")
    seconds, each = foretell(full, found.timings)
    hours, kernel_mb = sum(seconds.values())/3600, found.runs["rerun"]["peak_mb"]
    memory = FLEET["cores"]*full["peak_mb"] + kernel_mb/2 + full["parent_mb"]
    left_gb = FLEET["visits"]*full["left_mb"]/1000
    at("done")
    print(f"\nA planet at the full cadence, one core: light curves {each['features_s']:.2f} s per visit, fit {each['fit_s']:.2f} s, prediction {each['predict_s']:.3f} s; peak {full['peak_mb']:.0f} MB")
    print(f"{FLEET['planets']} planets, {FLEET['visits']} visits, {FLEET['cores']} cores, no graphics card (computed): " + ", ".join(f"{k} {v/60:.1f} min" for k, v in seconds.items()))
    bars = [("hours for 1,100 planets on 4 cores", hours, BARS["hours"]), ("peak memory of the rehearsed kernels, MB", max(found.peak_mb, learnt.peak_mb), BARS["memory_mb"]),
            ("peak memory of four workers and 1,100 posteriors, MB (computed)", memory, BARS["memory_mb"]), ("left in the working folder by 1,210 visits, GB (computed)", left_gb, BARS["working_gb"]), ("dataset, MB", built.megabytes, BARS["dataset_mb"]),
            ("checks that failed", float(len(found.failed) + len(learnt.failed)), .5)]
    for name, value, limit in bars: print(f"{name:62}{value:10.2f}   below {limit:g}   {'ok' if value < limit else 'FAILED'}")
    missed = [name for name, value, limit in bars if not value < limit]
    write_json(args.out, dict(made_by, made=dict(seed=args.seed, train=args.train, test=args.test, visits=visits, faults=args.faults, full=args.full, settings=list(SETTINGS), minutes=round((time.perf_counter() - began)/60, 2),
                                        machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}", load=[round(x, 2) for x in os.getloadavg()]),
                              isolation=found.isolation, checks=len(found.checks) + len(learnt.checks), failed=[c.name for c in found.failed + learnt.failed], planted=sorted(found.planted.values()),
                              runs=dict(learnt.runs, **found.runs), model_files=len(built.model), dataset_mb=built.megabytes, wheels=list(built.wheels), full=full,
                              fleet=dict(FLEET, seconds=seconds, hours=hours, memory_mb=memory, left_gb=left_gb), bars=[dict(name=n, found=v, limit=limit) for n, v, limit in bars]))
    if missed:
        print("missed: " + "; ".join(missed), file=sys.stderr)
        sys.exit(6)
    print("every bar met")


def _stop(error):
    print(error.message + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__": main()
