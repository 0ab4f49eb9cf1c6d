"Without numba: everything imports, the same bytes come out, and it is said."
import importlib
import json
import os
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest

from spectramind.challenge.layout import INSTRUMENTS
from spectramind.core import accelerators as A
from spectramind.core.determinism import rng_for
from spectramind.core.store import sha256_file
from spectramind.detector import kernel
from spectramind.detector.cosmic_rays import noise_stamps
from spectramind.diagnostics import signals
from spectramind.photometry import binning, jitter, sums
from spectramind.physics import transit
from spectramind.simulate import detector
from spectramind.simulate.observatory import ProfileSpec, simulate_tree


def child(code, *args, **variables):
    "Run a program in a process of its own; what it printed."
    found = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=os.environ | variables, timeout=280)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


@pytest.fixture
def twins():
    "Kernel and twin, by name."
    def both(module, name):
        fast, slow = getattr(module, name), A.TWINS[f"{module.__name__.removeprefix('spectramind.')}.{name}"]
        assert fast is not slow and hasattr(fast, "py_func")
        return fast, slow
    return both


# the machinery

def test_a_package_that_will_not_load_is_told(monkeypatch):
    said = []
    monkeypatch.setattr(A, "_on_disk", lambda name: True)
    monkeypatch.setattr(A, "fall_back", lambda *words: said.append(words))
    A._numba.cache_clear()
    try:
        with patch.object(importlib, "import_module", side_effect=ImportError("Numba needs NumPy 2.2 or less")):
            assert A._numba() == (None, "cannot be imported (Numba needs NumPy 2.2 or less)")
        assert said == [("numba", "cannot be imported (Numba needs NumPy 2.2 or less)", "numpy")]
        assert A.missing("numba")[0]["reason"].startswith("cannot be imported") and A.kernels() == "numpy"
    finally: A._numba.cache_clear()


def test_threads_without_numba(monkeypatch):
    monkeypatch.setattr(A, "_numba", lambda: (None, "not installed"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    for variables, wanted in ((dict(), 6), (dict(NUMBA_NUM_THREADS="3"), 3), (dict(NUMBA_NUM_THREADS="1", OMP_NUM_THREADS="5"), 1), (dict(OMP_NUM_THREADS="2"), 6), (dict(NUMBA_NUM_THREADS="two"), 6), (dict(NUMBA_NUM_THREADS="64"), 6), (dict(NUMBA_NUM_THREADS="0"), 1)):
        for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"): monkeypatch.delenv(name, raising=False)
        for name, value in variables.items(): monkeypatch.setenv(name, value)
        assert A.kernel_threads() == wanted


def test_every_kernel_that_is_called_from_python_has_a_twin(twins):
    "The others are called from kernels only; this list is complete, or a machine without numba would crawl through Python loops."
    import ast, inspect
    modules = [kernel, transit, sums, jitter, binning, detector, signals]
    helpers = {"_difference", "_extremes", "_is_hit", "_suspects", "elliptic_trio", "occulted", "_rim_difference", "_add_rows", "_mean_row", "_median_distance", "draw_counts", "detected_charge"}
    found = {}
    for module in modules:
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list): found[node.name] = module
    assert helpers <= set(found) and len(found) >= 30
    for name, module in found.items():
        if name not in helpers: twins(module, name)


# twin by twin: the same bits

def same(fast, slow):
    return all(np.array_equal(a, b, equal_nan=True) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("n, sigma, ends", [(2, 8., (0, 65535)), (3, 8., (0, 65535)), (11, 3., (0, 65535)), (700, 4., (0, 65535)), (1500, np.inf, (-1, 65536))])
def test_detector(twins, n, sigma, ends):
    fast, slow = twins(kernel, "calibrate_rows")
    rng = rng_for(3, "twins", n)
    m = 40
    raw = rng.integers(400, 60000, (m, 1)) + rng.integers(-60, 60, (m, 2*n))
    raw[rng.random(raw.shape) < .002] = 65535
    raw[rng.random(raw.shape) < .002] = 0
    raw[5], raw[6, 1:] = 0, 65535
    raw = raw.clip(0, 65535).astype(np.uint16)
    poly = np.stack([0*np.ones(m), 2.3 + .01*rng.standard_normal(m), 1e-7*rng.standard_normal(m), *(10.**-k*rng.standard_normal(m) for k in (12, 17, 22))], 1)
    least, dest = np.where(rng.random(m) < .1, np.inf, 18.), np.where(rng.random(m) < .2, -1, rng.permutation(m))
    response = np.where(np.isfinite(least), 1 + .01*rng.standard_normal(m), np.nan)
    def call(work, cap):
        room = np.full((m, n), -7, np.float32), np.full((m, 2), -7, np.int64), np.full((cap, 3), -7, np.int64)
        return work(raw, poly, .01*rng_for(1).random(m), response, least, dest, noise_stamps(n), sigma, 5, *ends, *room), *room
    for cap in (m*n*2, 3):
        (k, *a), (j, *b) = call(fast, cap), call(slow, cap)
        assert k == j and same(a, b) and (k > 3 or sigma == np.inf)
    kernel_room = kernel.ROOM
    try:
        kernel.ROOM = 2*n                                   # two pixels at a time: the same
        assert same(call(slow, m*n*2)[1:], call(fast, m*n*2)[1:])
    finally: kernel.ROOM = kernel_room


def test_sums(twins):
    rng = rng_for(4, "twins")
    for times in (1, 7, 8, 1001, 3000):
        rows = rng.normal(1000, 30, (60, times)).astype(np.float32)
        rows[5, times//2] = np.nan
        fast, slow = twins(sums, "_row_sums")
        assert same([fast(rows)], [slow(rows)])
        index, weights = np.arange(60).reshape(6, 10), rng.random((6, 3, 10))
        index[3, 4], weights[:, 2, 3], weights[2, :, 1] = -1, 0, 0
        profile = rng.random((6, 10))/10
        fast, slow = twins(sums, "_weighted_sums")
        assert same([fast(rows, index, weights, sums.CHUNK)], [slow(rows, index, weights, sums.CHUNK)])
        where = np.unique(rng.integers(0, (60, times), (40, 2)), axis=0)
        group, place, time = where[:, 0]//10, where[:, 0] % 10, where[:, 1]
        order = np.lexsort((place, time, group))
        group, place, time = group[order], place[order], time[order]
        first = np.flatnonzero(np.r_[True, (np.diff(group) != 0) | (np.diff(time) != 0)])
        def refill(work):
            out, lost = twins(sums, "_weighted_sums")[0](rows, index, weights, sums.CHUNK), np.zeros((6, times))
            work(rows, index, weights, profile, first, np.append(first[1:], len(group)), group, place, time, out, lost)
            return out, lost
        assert same(*map(refill, twins(sums, "_refill")))
        flux, lost = rng.normal(0, 1, (6, times)), np.where(rng.random((6, times)) < .2, 1., .1)
        fast, slow = (work(rng_for(1).random(6), rng_for(2).random(6), flux, lost) for work in twins(sums, "_line_variance"))
        assert same([fast], [slow]) and np.isinf(fast).any() == (lost == 1).any()


def test_jitter_and_bins(twins):
    rng = rng_for(5, "twins")
    flux, valid = rng.normal(1e5, 300, (7, 999)), rng.random((7, 999)) > .1
    flux[3, 100:120] += 1e4
    flux[2, 7], flux[1, 3:9], valid[5], valid[4, :50] = np.nan, 0, False, False
    held, fast = jitter.hold_last(flux, valid), rng.normal(size=(4, 999))
    def pair(module, name, *args):
        found = [work(*args) for work in twins(module, name)]
        return [x if isinstance(x, tuple) else (x,) for x in found]
    for window in (1, 21, 5001): assert same(*pair(jitter, "_mean_rows", held, window)) and same(*pair(jitter, "_relative_fast", held, window))
    assert same(*pair(jitter, "_hold_rows", flux, valid))
    coefficients = 1e-3*rng.normal(size=(7, 4))
    assert same(*pair(jitter, "_close", jitter._relative_fast(held, 21), fast, coefficients, valid, 2.)) and same(*pair(jitter, "_without", flux, fast, coefficients))
    variance = np.where(rng.random(flux.shape) < .01, np.inf, 300.**2)
    found = pair(binning, "_outliers", flux, variance, valid & np.isfinite(flux), 3., 3)
    assert same(*found) and found[0][0].any()
    for size in (1, 7, 999): assert same(*pair(binning, "_bin_rows", flux, variance, valid, binning.bin_edges(999, size)))


def test_transit(twins):
    rng = rng_for(6, "twins")
    z = np.r_[np.inf, 0, .1, .9, 1.1, 1.3*rng.random(200)]
    for k, u in ((np.array([.1]), rng.random((2, 1))/2), (.1 + .02*rng.random(9), rng.random((2, 9))/2), (np.array([.1]), rng.random((2, 9))/2), (np.array([1.2]), rng.random((2, 1))/2), (np.zeros(1), rng.random((2, 1))/2)):
        weights, width = transit.quadratic_weights(*u), max(len(k), u.shape[1])
        def fields(name, count, *args):
            found = []
            for work in twins(transit, name):
                out = np.empty((count, len(z), width))
                work(z, k, *args, *out)
                found.append(out)
            return found
        assert same(*fields("_quadratic_fill", 1, weights))
        assert same(*fields("_quadratic_grad_fill", 5, weights, np.pi*(1 - u[0]/3 - u[1]/6)))
        for law, c in (("claret4", rng.random((width, 4))/4), ("power2", .2 + rng.random((width, 2))/2)):
            powers, weights_of = transit.law_powers(law, c)
            a, b = fields("_law_fill", 1, powers, weights_of, *transit._rim_nodes(16))
            assert np.abs(a - b).max() < 1e-13
        out = [np.empty((len(z), len(k), 9)) for _ in range(2)]
        for work, o in zip(twins(transit, "_fill_integrals"), out): work(z, k, o)
        assert same([out[0]], [out[1]])


@pytest.mark.parametrize("coadds", [1, 40])
def test_simulated_reads(twins, coadds, monkeypatch):
    monkeypatch.setattr(detector, "TWIN_ROOM", 50_000)      # several portions
    maps, rng = detector.draw_maps("FGS1", 3), rng_for(7, "twins")
    images = np.stack([np.exp(rng.uniform(-2, 10, (32, 32))), 50*rng.standard_normal((32, 32))])
    moments = np.stack([np.ones((2, 60)), .1*rng.standard_normal((2, 60))], 1)
    hits = detector.draw_hits(rng, 30, 60, (32, 32))
    made = []
    for work in twins(detector, "_read_pixels"):
        monkeypatch.setattr(detector, "_read_pixels", work)
        stream = rng_for(8, "reads")
        made.append((detector.read_ramps(stream, maps, images, moments, 1 - .01*rng_for(9).random((1, 60)), np.array([1.]), (.1, .3), coadds, hits), stream.random()))
    assert same(*made) and len(np.unique(made[0][0])) > 1000


def test_changed_counts(twins, monkeypatch):
    maps, rng = detector.draw_maps("AIRS-CH0", 3), rng_for(10, "twins")
    pixel, pairs = INSTRUMENTS["AIRS-CH0"].pixels()[:500], 30
    block = rng.integers(430, 30000, (500, 2*pairs)).astype(np.uint16)
    change = signals.Change(factor=1 - .01*rng.random((282, pairs)), sky=np.ones(282), response=.01*rng.standard_normal(32*356), moved=rng.standard_normal(32*356),
                            when=np.repeat([0., 1.], pairs//2), dark=np.where(rng.random(32*356) < .01, 12., 0.))
    made = []
    for work in twins(signals, "_change_pixels"):
        monkeypatch.setattr(signals, "_change_pixels", work)
        made.append([signals.change_counts(block, pixel, "AIRS-CH0", maps.stored, (.4369, -1000., (.1, 4.6), 1), change)])
    assert same(*made) and (made[0][0] != block).mean() > .5


# the whole way, in processes that know no numba

IMPORTS = """
import importlib, json, pkgutil, sys
sys.modules['numba'] = None
import spectramind
names = [m.name for m in pkgutil.walk_packages(spectramind.__path__, 'spectramind.')]
for name in names: importlib.import_module(name)
from spectramind.pipeline import checks
rows = [*checks.machine_rows(), *checks.accelerator_rows()]
print(json.dumps(dict(modules=len(names), llvm='llvmlite' in sys.modules, rows={r['name']: [r['ok'], r['needed'], r['detail']] for r in rows}, environment=checks.environment()['accelerators'])))
"""

def test_everything_imports_without_numba_and_the_doctor_says_so():
    found = json.loads(child(IMPORTS).splitlines()[-1])
    assert found["modules"] > 120 and not found["llvm"]
    assert found["rows"]["numba"] == [False, False, f"not installed; instead {A.INSTEAD['numba']}"] and found["rows"]["kernel cache"][2].startswith("no kernels to keep")
    assert dict(name="numba", reason="not installed", instead=A.INSTEAD["numba"]) in found["environment"]


def test_a_missing_accelerator_is_no_missing_package(monkeypatch):
    from spectramind.pipeline import checks
    true = checks.installed
    for gone, ok in (("numba", True), ("polars", False)):
        monkeypatch.setattr(checks, "installed", lambda name: None if name == gone else true(name))
        assert [row["ok"] for row in checks.package_rows() if row["name"] == "packages"] == [ok]


RUN = """
import sys
root, work, blocked = sys.argv[1:]
if blocked == 'yes': sys.modules['numba'] = None
sys.argv = ['spectramind', 'run', 'data=kaggle', 'model=physics_only', 'executor=serial', 'diag=light', f'data.root={root}', f'paths.work={work}']
from spectramind.__main__ import main
main()
"""

def test_the_same_bytes_from_raw_counts_to_the_submission(tmp_path):
    "Calibrated, extracted, fitted and handed in without numba: every product is that of the compiled kernels, byte for byte; log and record say what was missing."
    simulate_tree(tmp_path/"tree", tmp_path/"truth", profile=ProfileSpec(140, 1350, {"FGS1": 100, "AIRS-CH0": 80}), n_train=2, n_test=1, seed=12)
    made, told = {}, {}
    for blocked in ("no", "yes"):
        work = tmp_path/f"work_{blocked}"
        child(RUN, tmp_path/"tree", work, blocked)
        files = [p for p in sorted(work.rglob("*")) if p.suffix in (".npz", ".csv", ".zip") and "runs" not in p.parts]     # the page names its run
        made[blocked] = {str(p.relative_to(work)): sha256_file(p) for p in files}
        manifest, = (json.loads(p.read_text()) for p in work.glob("artifacts/runs/run/*/manifest.json"))
        log = "".join(p.read_text() for p in work.glob("logs/*"))        # no file where nothing was said
        told[blocked] = [entry["name"] for entry in manifest["environment"]["accelerators"]], log.count("numba: not installed; instead numpy")
    assert any("submission" in name for name in made["no"]) and sum(name.endswith(".npz") for name in made["no"]) > 8
    assert made["yes"] == made["no"]
    assert "numba" not in told["no"][0] and "numba" in told["yes"][0] and (told["no"][1], told["yes"][1]) == (0, 1)
