"""The crash proof: processes killed at random moments, and writes that fail at each of their steps.

    python benchmarks/proof_crash.py [--kills 200] [--seed 1] [--lanes 2] [--stages simulate,features,fit,train,predict] [--no-faults] [--work DIR] [--out FILE.json]

(i)  Kills. A tiny tree is simulated and taken through all stages once, undisturbed: the reference. Then each stage is done again and again in a folder
     of its own by the program itself (`python -m spectramind STAGE ...`), which is sent SIGKILL at random moments (seeded) after its first sign of work: the whole process group,
     the parent alone, or one worker alone. The same command is then run again until the stage is done; then it is wiped and the next round begins, until there have been
     enough kills. Only kills of a process that was alive and had begun to write are counted. After each of them:
       - every product with an `ok` record can be read and has the recorded SHA-256 (otherwise: unreadable), which is that of the reference (otherwise: mixed);
       - every product without such a record is whole all the same, being old or new (otherwise: unreadable), and is not taken for done by the package;
       - what was done before is done still (otherwise: lost), and its files have not been written again (otherwise: redone);
       - no process of the killed command is left (otherwise: orphans), and temporaries it left are gone once the next start has begun to write (otherwise: litter).
     After each round the checksums of the stage are those of the reference.
(ii) Faults. Each writer of core.store, and a product with its record, in a child process that fails at each step of an atomic write: a full disk
     (the temporary's name leads to /dev/full), a file that may not grow (RLIMIT_FSIZE), errors of fsync, of the rename and of the folder's fsync, and crashes (SIGXFSZ in the
     middle of the write, `os._exit` before fsync, before the rename, after it). With and without an older file: afterwards there is the old content or the new one, whole.

Prints tables, writes the figures as JSON; exit code 1 on any violation.
"""
import argparse
import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
STAGES = ("simulate", "features", "fit", "train", "predict")
SHARE = dict(simulate=.20, features=.25, fit=.20, train=.20, predict=.15)   # of the kills
TINY = "import spectramind.simulate.visit as v; v.PROFILES['smoke'] = v.ProfileSpec(140, 1350, {'FGS1': 100, 'AIRS-CH0': 80}); " \
       "import runpy, sys; sys.argv[0] = 'spectramind'; from spectramind.__main__ import main; main()"
ENVIRONMENT = os.environ | dict(SPECTRAMIND_QUIET="1", PYTHONPATH=os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
                                **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")})
AIMS = {True: (("group", .4), ("parent", .35), ("worker", .25)), False: (("group", 1.),)}   # with workers, without


# ---------------------------------------------------------------- processes
def session_of(pid):
    "Session and parent of a process that lives; None for others."
    try: fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError): return None
    return None if fields[0] in "ZX" else (int(fields[3]), int(fields[1]))


def members(session):
    "The living processes of a session: the command, and whatever it started."
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and (session_of(p.name) or (0,))[0] == session]


def workers_of(pid):
    "The worker processes of a command."
    found = []
    for other in members(pid):
        if (session_of(other) or (0, 0))[1] != pid: continue
        try: words = Path(f"/proc/{other}/cmdline").read_bytes()
        except OSError: continue
        if b"spawn_main" in words: found.append(other)
    return sorted(found)


def gone(session, patience=10.):
    "Wait until nothing of a session is left; what is left then is ended, and returned."
    until = time.monotonic() + patience
    while (left := members(session)) and time.monotonic() < until: time.sleep(.02)
    for pid in left: os.kill(pid, signal.SIGKILL)
    return left


# ---------------------------------------------------------------- files
HASHES, LOCK = {}, threading.Lock()


def sha(path):
    "SHA-256 of a file, remembered as long as it is the same file; None when it is not there."
    try:
        stat = os.stat(path)
        key = (str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if key not in HASHES:
            found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            with LOCK: HASHES[key] = found
        return HASHES[key]
    except FileNotFoundError: return None


def stamp(path):
    "What changes when a file is written again."
    try: return (os.stat(path).st_ino, os.stat(path).st_mtime_ns)
    except FileNotFoundError: return None


def litter(folder):
    "Temporaries below a folder, half-built planets included."
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.name.endswith(".tmp") or p.parent.name == ".building")


def document(path):
    "A JSON file, or what is wrong with it."
    try: return json.loads(Path(path).read_text())
    except FileNotFoundError: return None
    except (ValueError, UnicodeDecodeError): return "damaged"


# ---------------------------------------------------------------- stages
@dataclass
class Case:
    "One stage, in a folder of its own."
    stage: str
    work: Path
    tree: Path
    reference: Path                  # the work folder of the undisturbed run
    words: list                      # settings
    config: object = None            # the same as the package has them
    quota: int = 0
    total: int = 1                   # pieces: planets, or members of the ensemble
    seconds: float = 1.              # of work, undisturbed, from the first sign of it
    count: Counter = field(default_factory=Counter)
    violations: list = field(default_factory=list)

    def command(self, kind):
        start = ["-c", TINY] if self.stage == "simulate" else ["-m", "spectramind"]
        return [sys.executable, *start, self.stage, *self.words, f"paths.work={self.work}", f"data.root={self.tree}", f"executor={kind}",
                *(["executor.workers=2"] if kind == "processes" else [])]

    # -- what there is
    def products(self):
        "Files that must be whole, by their names below the stage's root."
        root, globs = self.roots()[self.stage]
        return sorted(str(p.relative_to(root)) for g in globs for p in root.glob(g) if p.is_file() and not p.name.endswith(".tmp") and ".building" not in p.parts)

    def roots(self, of=None):
        work, tree = (self.work, self.tree) if of is None else of
        return dict(simulate=(tree, ("*", "*/*/*", "*/*/*/*")), features=(work, ("data/features/*/*.npz",)), fit=(work, ("data/posterior/*.npz",)),
                    train=(work, ("artifacts/checkpoints/*", "artifacts/checkpoints/members/*", "artifacts/checkpoints/members/*/*", "artifacts/checkpoints/members/*/top/*")),
                    predict=(work, ("artifacts/predictions/*.csv", "artifacts/predictions/physics/*.csv", "artifacts/checkpoints/prior.json", "data/splits/*.json")))

    def root(self): return self.roots()[self.stage][0]
    def model(self): return self.roots((self.reference, self.reference/"tree"))[self.stage][0]

    def watched(self):
        "Folders whose change is a sign of work."
        work = self.work
        return dict(simulate=[self.tree, self.tree/".building", self.tree/"train", self.tree/"test"], features=[work/"data/features/fgs1_white", work/"data/features/airs_bins"],
                    fit=[work/"data/posterior"], train=[work/"artifacts/checkpoints", work/"artifacts/checkpoints/members", *(work/"artifacts/checkpoints/members").glob("fold*")],
                    predict=[work/"artifacts/checkpoints", work/"data/splits", work/"artifacts/predictions", work/"artifacts/predictions/physics"])[self.stage]

    def sign(self):
        found = []
        for folder in self.watched():
            try: found.append(os.stat(folder).st_mtime_ns)
            except FileNotFoundError: found.append(None)
        return found

    def wipe(self):
        "As before the stage."
        gone_too = dict(simulate=[self.tree, self.work/"truth"], features=[self.work/"data/features"], fit=[self.work/"data/posterior"], train=[self.work/"artifacts/checkpoints"],
                        predict=[self.work/"artifacts/predictions", self.work/"artifacts/checkpoints/prior.json", self.work/"data/splits"])[self.stage]
        for path in gone_too:
            if path.is_dir(): shutil.rmtree(path)
            else: path.unlink(missing_ok=True)

    # -- what is done
    def done(self):
        "Finished pieces and the files they are made of, judged without the package: planet or member -> files."
        root = self.root()
        if self.stage == "simulate": return {p.parent.name + "/" + p.name: sorted(q for q in p.rglob("*") if q.is_file()) for s in ("train", "test") for p in (root/s).glob("*")}
        if self.stage == "train": return {p.name: [p/"model.safetensors", p/"model.json", p/"last.ckpt"] for p in (root/"artifacts/checkpoints/members").glob("fold*") if finished(p)}
        if self.stage == "predict": return {}
        found = {}
        for name in self.products():
            planet = Path(name).name.removesuffix(".npz").split("_")[1]
            found.setdefault(planet, []).append((root/name, root/(name + ".json")))
        whole = lambda product, record: (d := document(record)) not in (None, "damaged") and d.get("status") == "ok" and d.get("sha256") == sha(product)
        wanted = Counter(p.name.removesuffix(".npz").split("_")[1] for g in self.roots()[self.stage][1] for p in self.model().glob(g))
        return {planet: [f for pair in pairs for f in pair] for planet, pairs in found.items() if len(pairs) == wanted[planet] and all(whole(*pair) for pair in pairs)}

    def package_says_done(self):
        "The planets that the package would not do again."
        from spectramind.pipeline import stages, units
        if self.stage not in ("features", "fit"): return None
        orders, look = (stages.observe_orders(self.config, frames=False), units.stands) if self.stage == "features" else (stages.fit_orders(self.config), units.fitted)
        return {str(planet) for (_, planet), order in orders if look(order) is not None}

    # -- checks
    def fault(self, kind, what):
        self.count[kind] += 1
        self.violations.append(f"{self.stage}: {kind}: {what}")

    def check(self, before):
        "Hold what a killed process left to the promises."
        root, model, done = self.root(), self.model(), self.done()
        for name in self.products():
            if name.endswith(".json") and document(root/name) == "damaged": self.fault("unreadable", name)
            if self.stage == "train": continue
            record, found = document(root/(name + ".json")), sha(root/name)
            if found != sha(model/name): self.fault("mixed" if record and record != "damaged" and record.get("sha256") == found else "unreadable", name)
            if self.stage in ("features", "fit") and not (record and record != "damaged" and record.get("sha256") == found): self.count["product without its record"] += 1
        if self.stage == "train": self.check_training()
        for piece, stamps in before.items():
            if piece not in done: self.fault("lost", piece)
            elif {f: stamp(f) for f in done[piece]} != stamps: self.fault("redone", piece)
        said = self.package_says_done()
        if said is not None:
            for planet in said - set(done): self.fault("taken for done", planet)
            for planet in set(done) - said: self.fault("lost", f"{planet}, which the package would do again")
        for name in ("events.jsonl",):
            for line in (self.work/name).read_bytes().splitlines(keepends=True) if (self.work/name).is_file() else ():
                if not line.endswith(b"\n"): continue                     # being written; the next line begins after it
                try: json.loads(line)
                except ValueError: self.count["torn line in events.jsonl"] += 1
        for path in (self.work/"artifacts/runs").glob("*/*/*.json"):
            if document(path) == "damaged": self.fault("unreadable", path.relative_to(self.work))

    def check_training(self):
        "Checkpoints and weights: whole, and what belongs together together."
        from spectramind.core.errors import DataError
        from spectramind.training.checkpoints import read_checkpoint, read_weights
        for path in (self.work/"artifacts/checkpoints").rglob("last.ckpt"):
            try: read_checkpoint(path)
            except DataError as error: self.fault("unreadable", error)
        for path in (self.work/"artifacts/checkpoints").rglob("model.safetensors"):
            try: read_weights(path.parent)
            except DataError as error:
                if finished(path.parent) or path.parent.name == "checkpoints" and (path.parent/"oof.npz.json").is_file(): self.fault("mixed", error)
                else: self.count["weights without their description"] += 1           # of a member that is trained on from its checkpoint
        for path in (self.work/"artifacts/checkpoints").rglob("*.safetensors"):
            data = path.read_bytes()
            if len(data) < 8 or 8 + int.from_bytes(data[:8], "little") > len(data): self.fault("unreadable", path.relative_to(self.work))

    def check_end(self):
        "After a round: everything as in the undisturbed run."
        root, model = self.root(), self.model()
        ours, theirs = self.products(), sorted(str(p.relative_to(model)) for g in self.roots()[self.stage][1] for p in model.glob(g) if p.is_file())
        kept = lambda names: {n for n in names if not n.endswith(("last.ckpt", "prior.json.json", "oof.npz.json", "started.json"))}   # those know times of day, or paths
        for name in kept(ours) ^ kept(theirs): self.fault("checksum", f"{name} is there in one of the two only")
        for name in kept(ours) & kept(theirs):
            if sha(root/name) != sha(model/name): self.fault("checksum", name)
        for path in sorted({*litter(self.work), *litter(root)}): self.fault("litter", path)
        self.count["rounds"] += 1


def finished(folder):
    "Whether a member of the ensemble has been trained to its end."
    from spectramind.core.errors import DataError
    from spectramind.training.checkpoints import read_checkpoint
    try: return bool(read_checkpoint(folder/"last.ckpt")["state"]["stopped"])
    except (DataError, KeyError): return False


# ---------------------------------------------------------------- kills
def trial(case, rng, log):
    "Start the stage once and kill it, if it lives long enough; then look at what there is. Returns False when it came to its end."
    kind = rng.choice(("processes", "processes", "serial")) if case.stage in ("simulate", "features", "fit") else "serial"
    names, weights = zip(*AIMS[kind == "processes"])
    aim, delay = rng.choices(names, weights)[0], rng.random()
    before, left = {piece: {f: stamp(f) for f in files} for piece, files in case.done().items()}, {*litter(case.work), *litter(case.root())}
    quiet, share = case.sign(), 1 - len(before)/max(1, case.total)
    process = subprocess.Popen(case.command(kind), stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True)
    while process.poll() is None and case.sign() == quiet: time.sleep(.004)
    until = time.monotonic() + delay*(case.seconds*share*(1. if kind == "processes" or case.stage in ("train", "predict") else 1.5) + .05)
    while process.poll() is None and time.monotonic() < until: time.sleep(.004)
    victims = [] if process.poll() is not None else workers_of(process.pid) if aim == "worker" else [process.pid]
    if aim == "worker": victims = [rng.choice(victims)] if victims else []
    if not victims: return end(case, process, "came to its end first")
    stale = left & {*litter(case.work), *litter(case.root())}
    try: (os.killpg if aim == "group" else os.kill)(victims[0], signal.SIGKILL)
    except ProcessLookupError: return end(case, process, "came to its end first")
    if aim != "worker" and process.wait() != -signal.SIGKILL: return end(case, process, "came to its end first")
    case.count["kills"] += 1
    case.count[f"kills: {aim}"] += 1
    for path in stale: case.fault("litter", f"{path}, after the next start")
    if aim == "worker": return end(case, process, "lived on without a worker", before)
    for pid in gone(process.pid): case.fault("orphans", pid)
    now = {*litter(case.work), *litter(case.root())} - left
    case.count["left a temporary"] += bool(now)
    case.check(before)
    return True


def end(case, process, how, before=None):
    "The process may finish: it must do so in order, and the stage is done."
    code = process.wait()
    for pid in gone(process.pid): case.fault("orphans", pid)
    case.count[how] += 1
    if code != 0: case.fault("exit code", f"{code} ({how})")
    if before: case.check(before)
    return code != 0


def campaign(case, seed, folder):
    "Kill until there have been enough."
    rng, began, failed = random.Random(f"{seed} {case.stage}"), time.monotonic(), 0
    with open(folder/f"{case.stage}.log", "ab") as log:
        case.wipe()
        while case.count["kills"] < case.quota and failed < 5:
            faults = case.count["exit code"]
            again = trial(case, rng, log)
            failed += case.count["exit code"] > faults
            if not again:
                case.check_end()
                case.wipe()
        finish(case, log)
    case.count["minutes"] = round((time.monotonic() - began)/60, 1)
    print(f"  {case.stage}: {case.count['kills']} kills in {case.count['minutes']} min, {len(case.violations)} violations", flush=True)
    return case


def finish(case, log):
    "To the end without a disturbance, from wherever the last kill left it."
    left = {*litter(case.work), *litter(case.root())}
    code = subprocess.run(case.command("serial"), stdout=log, stderr=log, env=ENVIRONMENT).returncode
    if code: case.fault("exit code", f"{code} at the end")
    for path in left & {*litter(case.work), *litter(case.root())}: case.fault("litter", f"{path}, after the end")
    case.check_end()


def freeze(folder):
    "A copy of the program, so that work on it does not disturb the proof."
    folder.mkdir(parents=True)
    for name in ("spectramind", "configs", "schemas"): shutil.copytree(HERE.parent/name, folder/name, copy_function=shutil.copy2)
    shutil.copy2(HERE.parent/"settings.ini", folder)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"] = str(folder)
    return folder


def link(source, target):
    "A copy of a folder that keeps the times of its files."
    if source.is_dir(): shutil.copytree(source, target, copy_function=shutil.copy2)


def prepare(folder, stages, planets, quota):
    "The undisturbed run, and a folder for each stage with what comes before it."
    from spectramind.pipeline.config import load_config
    model = folder/"reference"
    base = ["data=smoke", f"data.n_train={planets[0]}", f"data.n_test={planets[1]}", "model=v50_fast", "model.ensemble.folds=2", "train=trainer_smoke", "train.epochs_supervised=4",
            "records.sample_s=0", "records.keep=5"]
    cases = {}
    for stage in STAGES:
        case = Case(stage, model, model/"tree", model, base)
        watching, began, quiet = dict(), time.monotonic(), case.sign()
        with open(folder/"reference.log", "ab") as log: process = subprocess.Popen(case.command("serial"), stdout=log, stderr=log, env=ENVIRONMENT)
        while process.poll() is None:
            if "sign" not in watching and case.sign() != quiet: watching["sign"] = time.monotonic()
            time.sleep(.004)
        if process.returncode: raise SystemExit(f"the undisturbed {stage} ended with {process.returncode}: see {folder/'reference.log'}")
        cases[stage] = time.monotonic() - watching.get("sign", began)
        print(f"  undisturbed {stage}: {time.monotonic() - began:.1f} s, {cases[stage]:.1f} of them at work", flush=True)
    found = []
    for stage in (s for s in STAGES if s in stages):
        work = folder/stage
        work.mkdir()
        tree = work/"tree" if stage == "simulate" else model/"tree"
        if stage != "simulate": link(model/"truth", work/"truth"); link(model/"data/features", work/"data/features")
        if stage in ("train", "predict"): link(model/"data/posterior", work/"data/posterior")
        if stage == "predict": link(model/"artifacts/checkpoints", work/"artifacts/checkpoints")
        config = load_config([*base, f"paths.work={work}", f"data.root={tree}"])
        case = Case(stage, work, tree, model, base, config, quota[stage], cases[stage])
        case.total = dict(train=2, predict=1).get(stage, sum(planets))
        found.append(case)
    return found


# ---------------------------------------------------------------- faults of a single write
WRITERS = ("bytes", "text", "json", "csv", "npz", "parquet", "product")
FAULTS = {"disk full": 1, "file may not grow": 1, "fsync fails": 1, "rename fails": 1, "folder's fsync fails": 1,     # 1: an error; 0: a crash
          "crash in the write": 0, "crash before fsync": 0, "crash before the rename": 0, "crash after the rename": 0, "crash before the record": 0}
MARK = 77   # exit code of an `os._exit` that was asked for


def contents(kind, new):
    "What is written: arguments that differ between old and new."
    import numpy as np
    n = 3 if new else 2
    if kind == "bytes": return bytes([n])*30_000
    if kind == "text": return f"{n} ångström\n"*3000
    if kind == "json": return dict(n=n, values=list(range(9000)))
    if kind == "csv": return (["a", "b"], [[n, i/7] for i in range(3000)])
    return np.random.default_rng(n).integers(0, 1 << 60, 9000)


def write_one(kind, path, new):
    "The writer itself."
    from spectramind.core import store
    value = contents(kind, new)
    if kind == "bytes": store.write_bytes(path, value)
    if kind == "text": store.write_text(path, value)
    if kind == "json": store.write_json(path, value)
    if kind == "csv": store.write_csv_rows(path, *value)
    if kind == "npz": store.write_npz(path, values=value)
    if kind == "parquet":
        import polars as pl
        store.write_parquet(path, pl.DataFrame(dict(values=value)), compression="uncompressed")
    if kind == "product":
        from spectramind.pipeline.products import Made
        Made(dict(i="1"), "new" if new else "old").keep(path, dict(values=value))


def read_one(kind, path):
    "The reader: raises when the file is not whole."
    from spectramind.core import store
    reader = dict(bytes=lambda p: p.read_bytes(), text=lambda p: p.read_bytes().decode(), json=store.read_json, csv=store.read_csv_rows, npz=store.read_npz,
                  product=store.read_npz, parquet=store.read_parquet)[kind]
    return reader(path)


def child(kind, fault, path):
    "In a process of its own: fail at one step of writing `path`."
    import secrets
    from spectramind.core import provenance, store
    from spectramind.pipeline import products
    if kind == "parquet": import polars                                # noqa: F401  its own files first, before files may not grow
    real = dict(fsync=os.fsync, replace=os.replace, calls=0)

    def failing(*args, **kwargs): raise OSError(errno.EIO, "Input/output error", str(path))
    def leave(*args, **kwargs): os._exit(MARK)
    def nth(n, act):
        def fsync(handle):
            real["calls"] += 1
            return act() if real["calls"] == n else real["fsync"](handle)
        return fsync
    if fault == "disk full":
        secrets.token_hex = lambda n: "0"*2*n
        os.symlink("/dev/full", path.with_name(f".{path.name}.{store._host()}.{os.getpid()}.{'0'*8}.tmp"))
    if fault in ("file may not grow", "crash in the write"): resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if fault == "crash in the write" else signal.SIG_IGN)
    if fault == "fsync fails": os.fsync = nth(1, failing)
    if fault == "folder's fsync fails": os.fsync = nth(2, failing)
    if fault == "rename fails": os.replace = failing
    if fault == "crash before fsync": os.fsync = nth(1, leave)
    if fault == "crash after the rename": os.fsync = nth(2, leave)
    if fault == "crash before the rename": os.replace = leave
    if fault == "crash before the record": products.write_record = provenance.write_record = leave
    try: write_one(kind, path, True)
    except OSError as error: return 10 if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EIO) else 11
    except BaseException as error:                                     # noqa: BLE001  polars has errors of its own
        return 10 if kind == "parquet" and any(word in str(error).lower() for word in ("no space", "too large")) else (print(repr(error), file=sys.stderr), 12)[1]
    return 0


def fault_case(kind, fault, older, folder):
    "One writer, one fault; returns what is wrong."
    place = folder/f"{kind}-{fault.replace(' ', '_')}-{older}"
    place.mkdir(parents=True)
    path, wrong = place/f"file.{kind}", []
    for name, new in (("old", False), ("new", True)): write_one(kind, place/name/path.name, new)
    if older: write_one(kind, path, False)
    run = subprocess.run([sys.executable, str(HERE/"proof_crash.py"), "--child", kind, fault, str(path)], env=ENVIRONMENT, capture_output=True, text=True)
    wanted = 10 if FAULTS[fault] else -signal.SIGXFSZ if fault == "crash in the write" else MARK
    if run.returncode != wanted: wrong.append(f"the child ended with {run.returncode}, not {wanted}: {run.stderr.strip()[-300:]}")
    data = path.read_bytes() if path.is_file() else None
    old, new = ((place/name/path.name).read_bytes() for name in ("old", "new"))
    state = "new" if data == new else "old" if data == old and older else "absent" if data is None and not older else "neither"
    if state == "neither": wrong.append("neither the old nor the new content")
    if data is not None:
        try: read_one(kind, path)
        except Exception as error: wrong.append(f"unreadable: {error}")   # noqa: BLE001
    wrong += after_fault(kind, fault, path, state, older)
    return (kind, fault, older, state, wrong)


def after_fault(kind, fault, path, state, older):
    "Temporaries, and what counts as done."
    from spectramind.core.store import sweep_temporaries
    from spectramind.pipeline.products import Made
    wrong, rest = [], [p.name for p in path.parent.iterdir() if p.name.endswith(".tmp")]
    if FAULTS[fault] and rest: wrong.append(f"an error left {rest}")
    sweep_temporaries(path.parent)
    if rest := [p.name for p in path.parent.iterdir() if p.name.endswith(".tmp")]: wrong.append(f"after the next start there is {rest}")
    if kind == "product":
        stands = {name: Made(dict(i="1"), name).stands(path) for name in ("old", "new")}
        if stands["new"]: wrong.append("counts as done without its record")
        if stands["old"] != (older and state == "old"): wrong.append(f"the old product {'stands' if stands['old'] else 'is lost'}, its content is {state}")
    return wrong


def faults(folder, lanes):
    "Every writer at every fault, with and without an older file."
    todo = [(kind, fault, older) for kind in WRITERS for fault in FAULTS for older in (False, True) if (fault == "crash before the record") <= (kind == "product")]
    with ThreadPoolExecutor(lanes) as pool: return list(pool.map(lambda one: fault_case(*one, folder), todo))


# ---------------------------------------------------------------- tables
FIGURES = ("kills", "kills: group", "kills: parent", "kills: worker", "left a temporary", "product without its record", "came to its end first", "rounds", "minutes")
WRONG = ("unreadable", "mixed", "taken for done", "lost", "redone", "orphans", "litter", "checksum", "exit code")


def table(cases):
    "Stages beside each other."
    print("| |" + "".join(f" {c.stage} |" for c in cases) + " all |\n|---|" + "---:|"*(len(cases) + 1))
    for name in FIGURES + WRONG:
        values = [c.count[name] for c in cases]
        print(f"| {name} |" + "".join(f" {v} |" for v in values) + f" {round(sum(values), 1)} |")


def fault_table(found):
    "Writers against faults: what was found afterwards."
    print("\n| |" + "".join(f" {fault} |" for fault in FAULTS) + "\n|---|" + "---|"*len(FAULTS))
    for kind in WRITERS:
        cells = {fault: sorted({("WRONG" if wrong else state) for k, f, _, state, wrong in found if (k, f) == (kind, fault)}) for fault in FAULTS}
        print(f"| {kind} |" + "".join(f" {', '.join(cells[fault]) or '-'} |" for fault in FAULTS))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--kills", type=int, default=200)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--lanes", type=int, default=2, help="stages that are worked on at a time")
    ap.add_argument("--stages", default=",".join(STAGES))
    ap.add_argument("--planets", default="10,3", help="with labels, without; at least 8 with")
    ap.add_argument("--no-faults", action="store_true")
    ap.add_argument("--work", type=Path, help="where to work, kept afterwards; a temporary folder when not given")
    ap.add_argument("--out", type=Path, default=HERE/"proof_crash.json")
    ap.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.child: return child(args.child[0], args.child[1], Path(args.child[2]))
    stages, began = args.stages.split(","), time.monotonic()
    if unknown := set(stages) - set(STAGES): ap.error(f"found stages {', '.join(unknown)}, wanted some of {', '.join(STAGES)}")
    whole = sum(SHARE[s] for s in stages)
    quota = {s: max(1, -(-args.kills*SHARE[s]//whole)) if args.kills else 0 for s in stages}
    quota = {s: int(n) for s, n in quota.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.work or temporary).resolve()
        if (folder/"code").exists(): ap.error(f"{folder} is used already")
        freeze(folder/"code")
        cases, found = [], []
        if args.kills:
            (folder/"reference").mkdir()
            cases = prepare(folder, stages, tuple(map(int, args.planets.split(","))), quota)
            order = sorted(cases, key=lambda c: -c.quota*(c.seconds + 4))
            with ThreadPoolExecutor(args.lanes) as pool: list(pool.map(lambda c: campaign(c, args.seed, folder), order))
        if not args.no_faults: found = faults(folder/"faults", args.lanes)
    violations = [v for c in cases for v in c.violations] + [f"{kind}, {fault}, {'an older file' if older else 'no older file'}: {w}" for kind, fault, older, _, wrong in found for w in wrong]
    if cases: table(cases)
    if found: fault_table(found)
    for line in violations[:60]: print("VIOLATION", line)
    kills, minutes = sum(c.count["kills"] for c in cases), round((time.monotonic() - began)/60, 1)
    print(f"\n{kills} kills, {len(found)} failing writes, {len(violations)} violations; {minutes} min, seed {args.seed}")
    args.out.write_text(json.dumps(dict(kills=kills, failing_writes=len(found), violations=violations, minutes=minutes, seed=args.seed, planets=args.planets,
                                        stages={c.stage: dict(c.count) for c in cases},
                                        faults=[dict(writer=k, fault=f, older=o, found=s, wrong=w) for k, f, o, s, w in found]), indent=1, sort_keys=True) + "\n")
    return 1 if violations or kills < args.kills else 0


if __name__ == "__main__": sys.exit(main())
