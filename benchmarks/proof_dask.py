"""The dask proof: a scheduler and workers as processes of their own, one worker killed and one hung in mid-run; and what dask costs.

    python benchmarks/proof_dask.py [--visits 40] [--full] [--rounds 2] [--workers 2] [--seed 7] [--work DIR] [--out FILE.json]

One planet is simulated and linked under as many names as there are visits, so that every unit costs the same: with `--full` at the challenge's cadence
(11,250 AIRS-CH0 and 135,000 FGS1 reads), else a twentieth of it. Then, each with fresh products and fresh workers:
  serial      the reference; its products are what all others must equal byte for byte
  processes   `executor=processes`
  dask        a scheduler and the same number of workers, started by hand as separate processes on loopback
  local       `executor=dask` without an address: the cluster is started and stopped within the measured time
  chaos       scheduler and three workers; a quarter into the run one is sent SIGKILL, half-way another SIGSTOP: every planet must be done
`processes`, `dask` and `local` take turns, so that a busy machine is as busy for all; best of the rounds counts. What is measured is the whole call of
run_units, calibration and light curves first, then the fits. Bar: dask takes at most 15 % longer than processes. Memory is the peak (VmHWM) of each worker.

Prints tables, writes the figures as JSON; exit code 1 when a planet is missing or different, 6 when the bar is missed.
"""
import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from proof_crash import freeze

HERE = Path(__file__).resolve().parent
BAR = 1.15
ENVIRONMENT = os.environ | dict(PYTHONPATH=os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
                                **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}, POLARS_MAX_THREADS="1")
FIRST_ID = 4_000_000_000


# ---------------------------------------------------------------- data
def make_tree(root, truth, visits, full, seed):
    "One simulated planet under many names; its files are links, so that forty take the room of one."
    from spectramind.simulate.observatory import simulate_tree
    simulate_tree(root, truth, profile="science" if full else "smoke", n_train=1, n_test=0, seed=seed)
    (planet,) = (root/"train").iterdir()
    for other in (root/"test").iterdir(): shutil.rmtree(other)
    for extra in range(1, 100):                                          # a planet with several visits lends its first only
        for path in planet.glob(f"*_{extra}*"): shutil.rmtree(path) if path.is_dir() else path.unlink()
    for n in range(visits): shutil.copytree(planet, root/"test"/str(FIRST_ID + n), copy_function=os.link)
    header, row = (root/"train_star_info.csv").read_text().splitlines()[:2]
    rows = [f"{FIRST_ID + n},{row.partition(',')[2]}" for n in range(visits)]
    (root/"test_star_info.csv").write_text("\n".join([header, *rows]) + "\n")
    shutil.rmtree(planet)


def orders(root, work):
    "The two passes: function and tasks."
    from spectramind.pipeline import stages, units
    from spectramind.pipeline.config import load_config
    config = load_config(["data=kaggle", f"data.root={root}", f"paths.work={work}", "model=physics_only", "calib.persist=none"])
    return [(units.observe, stages.observe_orders(config)), (units.fit, stages.fit_orders(config))]


def products(work):
    "Bytes of every product, by name."
    return {str(p.relative_to(work)): p.read_bytes() for p in sorted((work/"data").rglob("planet_*.npz"))}


# ---------------------------------------------------------------- a cluster started by hand
class Cluster:
    "Scheduler and workers, each a process of its own in a session of its own."
    def __init__(self, folder, workers):
        self.folder, self.processes = folder, []
        folder.mkdir(parents=True)
        self.file = folder/"scheduler.json"
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
        for _ in range(workers): self.start("worker", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(folder))
        self.pids = self.workers(workers)

    def start(self, part, *options):
        with open(self.folder/f"{part}.log", "ab") as log:
            self.processes.append(subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{part}", "--scheduler-file", str(self.file), *options], stdout=log, stderr=log,
                                                   env=ENVIRONMENT, cwd=self.folder, start_new_session=True))
        until = time.monotonic() + 60
        while not self.file.is_file() and time.monotonic() < until: time.sleep(.05)

    def workers(self, wanted):
        "Process ids of the workers."
        from distributed import Client
        with Client(scheduler_file=str(self.file), set_as_default=False) as client:
            client.wait_for_workers(wanted, timeout=120)
            return sorted(client.run(os.getpid).values())

    def close(self):
        for process in self.processes:
            try: os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError: pass
            process.wait()


# ---------------------------------------------------------------- memory
def peak_mb(pid):
    "Highest resident memory of a process."
    try: text = Path(f"/proc/{pid}/status").read_text()
    except OSError: return None
    return next((int(line.split()[1])/1024 for line in text.splitlines() if line.startswith("VmHWM")), None)


def descendants(pid):
    "A process's children, and theirs."
    parents = {}
    for p in Path("/proc").iterdir():
        if not p.name.isdigit(): continue
        try: parents.setdefault(int((p/"stat").read_text().rsplit(")", 1)[1].split()[1]), []).append(int(p.name))
        except (OSError, IndexError): continue
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


class Memory:
    "Watches the peak of processes while a block runs: those given, and whatever this process starts."
    def __init__(self, pids=()): self.pids, self.peaks, self.over = set(pids), {}, threading.Event()
    def look(self):
        while not self.over.wait(.3):
            for pid in self.pids | set(descendants(os.getpid())):
                if (peak := peak_mb(pid)) and is_worker(pid): self.peaks[pid] = max(peak, self.peaks.get(pid, 0.))
    def __enter__(self):
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()
        return self
    def __exit__(self, *exc):
        self.over.set()
        self.thread.join()


def is_worker(pid):
    try: return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError: return False


# ---------------------------------------------------------------- runs
def carry_out(root, work, pids=(), **engine):
    "Both passes on an engine; seconds, failures and memory."
    from spectramind.pipeline.executor import run_units
    began, bad, slowest = time.monotonic(), [], 0.
    with Memory(pids) as memory:
        for function, tasks in orders(root, work):
            outcomes = run_units(function, tasks, warm=True, description=f"{engine['kind']}: {function.__name__}", **engine)
            bad += [f"{o.key[1]}: {o.failure.message}" for o in outcomes if not o.ok]
            slowest = max(slowest, *(o.seconds for o in outcomes))
    return dict(seconds=time.monotonic() - began, bad=bad, slowest=slowest, worker_mb=sorted(round(v) for v in memory.peaks.values()))


def one_run(name, root, folder, workers):
    "A timed run with fresh workers and products."
    work, engine, cluster = folder/"work", dict(kind="processes" if name == "processes" else "dask", workers=workers), None
    try:
        if name == "dask":
            cluster = Cluster(folder/"cluster", workers)
            engine["scheduler"] = str(cluster.file)
        return carry_out(root, work, cluster.pids if cluster else (), **engine) | dict(products=products(work))
    finally:
        if cluster: cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def chaos(root, folder, visits, timeout_s):
    "Three workers, of which one is killed and one stopped; what was hurt, and when."
    work, cluster, hurt = folder/"work", Cluster(folder/"cluster", 3), []
    def hurt_two():
        made = lambda: len(list((work/"data/features/airs_bins").glob("*.npz.json")))
        for pid, what, at in zip(cluster.pids, (signal.SIGKILL, signal.SIGSTOP), (visits//4, visits//2)):
            while made() < at: time.sleep(.05)
            os.kill(pid, what)
            hurt.append(dict(pid=pid, signal=what.name, planets_done=made()))
    thread = threading.Thread(target=hurt_two, daemon=True)
    thread.start()
    try: found = carry_out(root, work, cluster.pids, kind="dask", scheduler=str(cluster.file), timeout_s=timeout_s) | dict(products=products(work), hurt=hurt)
    finally: cluster.close()
    shutil.rmtree(folder, ignore_errors=True)
    return found


def differences(found, reference):
    "Products that are missing, superfluous or different."
    return sorted(name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--visits", type=int, default=40)
    ap.add_argument("--full", action="store_true", help="visits at the challenge's cadence")
    ap.add_argument("--rounds", type=int, default=2)
    ap.add_argument("--workers", type=int, default=2)
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--work", type=Path)
    ap.add_argument("--out", type=Path, default=HERE/"proof_dask.json")
    args = ap.parse_args()
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k.endswith("THREADS")})
    os.environ.setdefault("SPECTRAMIND_QUIET", "1")
    began, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        folder = Path(temporary)
        ENVIRONMENT["PYTHONPATH"] = str(freeze(folder/"code"))
        root = folder/"tree"
        make_tree(root, folder/"truth", args.visits, args.full, args.seed)
        print(f"{args.visits} visits made in {time.monotonic() - began:.0f} s", flush=True)
        serial = carry_out(root, folder/"serial", kind="serial")
        reference = products(folder/"serial")
        print(f"  serial: {serial['seconds']:.1f} s, {len(reference)} products, the slowest unit {serial['slowest']:.1f} s", flush=True)
        runs = {name: [] for name in ("processes", "dask", "local")}
        for turn in range(args.rounds):
            for name in list(runs)[turn % 3:] + list(runs)[:turn % 3]:
                found = one_run(name, root, folder/f"{name}{turn}", args.workers)
                wrong += [f"{name}: {line}" for line in found["bad"]] + [f"{name}: {p} is not that of the serial run" for p in differences(found.pop("products"), reference)]
                runs[name].append(found)
                print(f"  {name}: {found['seconds']:.1f} s, workers {found['worker_mb']} MB", flush=True)
        timeout_s = max(10., 6*serial["slowest"])
        hurt = chaos(root, folder/"chaos", args.visits, timeout_s)
        wrong += [f"chaos: {line}" for line in hurt["bad"]] + [f"chaos: {p} is not that of the serial run" for p in differences(hurt.pop("products"), reference)]
        wrong += [f"chaos: {len(hurt['hurt'])} workers were hurt, wanted 2"]*(len(hurt["hurt"]) != 2)
        print(f"  chaos: {hurt['seconds']:.1f} s, {hurt['hurt']}", flush=True)
    best = {name: min(r["seconds"] for r in found) for name, found in runs.items()}
    ratio = {name: best[name]/best["processes"] for name in ("dask", "local")}
    print(f"\n| engine | workers | best s | all rounds | over processes | peak memory of each worker, MB |\n|---|---:|---:|---|---:|---|\n| serial | 0 | {serial['seconds']:.1f} | | | |")
    for name, found in runs.items():
        rounds = ", ".join(f"{r['seconds']:.1f}" for r in found)
        print(f"| {name} | {args.workers} | {best[name]:.1f} | {rounds} | {f'{100*(ratio[name] - 1):+.1f} %' if name in ratio else ''} | "
              f"{', '.join(map(str, max((r['worker_mb'] for r in found), key=len)))} |")
    print(f"| chaos | 3, one killed, one stopped | {hurt['seconds']:.1f} | | | {', '.join(map(str, hurt['worker_mb']))} |")
    for line in wrong[:40]: print("WRONG", line)
    met = ratio["dask"] <= BAR
    print(f"\n{args.visits} {'full-size ' if args.full else ''}visits, {len(wrong)} planets or products wrong; dask over processes {100*(ratio['dask'] - 1):+.1f} % (bar {100*(BAR - 1):.0f} %: {'met' if met else 'MISSED'}); "
          f"{(time.monotonic() - began)/60:.1f} min")
    args.out.write_text(json.dumps(dict(visits=args.visits, full=args.full, workers=args.workers, serial_s=serial["seconds"], runs=runs, best_s=best, over_processes=ratio, chaos=hurt, timeout_s=timeout_s,
                                        wrong=wrong, bar=BAR, machine=platform.machine(), cores=os.cpu_count(), load=os.getloadavg()), indent=1, sort_keys=True) + "\n")
    return 1 if wrong else 0 if met else 6


if __name__ == "__main__": sys.exit(main())
