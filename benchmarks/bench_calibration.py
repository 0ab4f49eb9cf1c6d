"""Time and memory of one full-size visit: (a) only reading, (b) the hosts' recipe done plainly, and ours, in the same run.

    python benchmarks/bench_calibration.py [--tree DIR] [--rounds 5] [--plain-rounds 1] [--out FILE.json]

Each measurement is a child process of its own, so that its peak memory is its own; the kinds take turns.
(a) and ours are timed from opening the two signal files; imports and compiled code are warm in both.
(b) is our own writing of the published recipe: pandas and numpy, double precision, with linearity.
"""
import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARS = dict(time_vs_read=3., speedup_vs_plain=10., peak_gb=1.5, memory_vs_plain=.25)
GOALS = dict(time_vs_read=2., speedup_vs_plain=15.)
NAMES = ('AIRS-CH0', 'FGS1')


def first_visit(root):
    "A (split, planet, visit) of the tree."
    from spectramind.challenge.layout import list_planets, list_visits
    for split in ('train', 'test'):
        if (Path(root)/split).is_dir():
            for planet_id in list_planets(root, split): return split, planet_id, list_visits(root, split, planet_id)[0]
    raise SystemExit(f'{Path(root).name}: no planet in it')


def paths_of(root, split, planet_id, visit):
    from spectramind.challenge.layout import signal_path
    return {name: signal_path(root, split, planet_id, name, visit) for name in NAMES}


# ---------------------------------------------------------------- (a) only reading
def read_columns(root, visit):
    "polars, every column as a numpy view: no copy at all."
    import polars as pl
    kept = []
    paths = paths_of(root, *visit)
    start = time.perf_counter()
    for path in paths.values(): kept.append([column.to_numpy() for column in pl.read_parquet(path).get_columns()])
    return time.perf_counter() - start


def read_array(root, visit):
    "polars, one (time, pixel) array for each file."
    import polars as pl
    paths, kept = paths_of(root, *visit), []
    start = time.perf_counter()
    for path in paths.values(): kept.append(pl.read_parquet(path).to_numpy())
    return time.perf_counter() - start


# ---------------------------------------------------------------- (b) the hosts' recipe, plainly
def sigma_clip(values, sigma=5., rounds=5):
    import numpy as np
    masked = np.zeros(values.shape, bool)
    for _ in range(rounds):
        left = values[~masked]
        masked = np.abs(values - np.median(left)) > sigma*left.std()
    return masked


def plain_instrument(path, maps, shape, gain, offset, read_time_s, cut, bin_size):
    "Steps 1 to 8 of the recipe for one instrument."
    import numpy as np
    import pandas as pd
    signal = pd.read_parquet(path).to_numpy().astype(np.float64).reshape(-1, *shape)
    signal = signal/gain + offset
    dark, dead, flat, coeffs = (pd.read_parquet(maps/f'{name}.parquet').to_numpy() for name in ('dark', 'dead', 'flat', 'linear_corr'))
    coeffs = coeffs.astype(np.float64).reshape(6, *shape)
    if cut: signal, dark, dead, flat, coeffs = (a[..., cut[0]:cut[1]] for a in (signal, dark, dead, flat, coeffs))
    bad = dead | sigma_clip(dark)
    signal = np.ma.masked_where(np.tile(bad, (len(signal), 1, 1)), signal)
    for y in range(signal.shape[1]):
        for x in range(signal.shape[2]): signal[:, y, x] = np.polyval(coeffs[::-1, y, x], signal[:, y, x])
    times = np.tile(read_time_s, len(signal)//2)
    signal -= dark*times[:, None, None]
    cds = signal[1::2] - signal[::2]
    if bin_size > len(cds): bin_size = len(cds)
    bins = len(cds)//bin_size
    binned = np.ma.stack([cds[i*bin_size:(i + 1)*bin_size].sum(axis=0) for i in range(bins)])
    return binned/np.ma.masked_where(dead, flat)


def plain(root, visit):
    "The hosts' recipe for both instruments."
    from spectramind.challenge.layout import INSTRUMENTS, calibration_path, read_adc, read_axes
    adc, axes, paths = read_adc(root), read_axes(root), paths_of(root, *visit)
    start = time.perf_counter()
    for name, path in paths.items():
        split, planet_id, number = visit
        result = plain_instrument(path, calibration_path(root, split, planet_id, name, number), INSTRUMENTS[name].shape, adc.gain[name], adc.offset[name],
                                  axes.read_times_s(name), INSTRUMENTS[name].cut, 30 if name == 'AIRS-CH0' else 360)
        assert result.ndim == 3
    return time.perf_counter() - start


# ---------------------------------------------------------------- ours
def warm_up(axes_type, adc, challenge):
    "Load the compiled code, as a run over many visits would have."
    import numpy as np
    from spectramind.challenge.layout import INSTRUMENTS, CalibrationFiles
    from spectramind.detector.chain import CalibConfig, calibrate_visit
    from spectramind.photometry.extract import PhotometryConfig, extract_visit
    n, full, rng = 512, challenge.axes, np.random.default_rng(0)
    small = axes_type(full.airs_stamp_h[:n], full.airs_integration_s[:n], full.airs_um, full.fgs1_stamp_h[:12*n])
    raw, maps = {}, {}
    for name in NAMES:
        h, w = INSTRUMENTS[name].shape
        y, x = np.mgrid[:h, :w]
        image = 4000*np.exp(-.5*((y - 15.5)/2)**2)*(np.exp(-.5*((x - 15.5)/2)**2) if name == 'FGS1' else .5)
        counts = np.full((h*w, small.n_frames(name)), 440.) + rng.normal(0, 4, (1, small.n_frames(name)))
        counts[:, 1::2] += image.reshape(-1, 1) + rng.normal(0, 9, (h*w, 1))
        raw[name] = np.clip(counts, 1, 6e4).astype(np.uint16)
        unit = np.zeros((6, h, w)); unit[1] = 1
        maps[name] = CalibrationFiles(np.full((h, w), .006), np.zeros((h, w), bool), np.ones((h, w)), np.full((h, w), 13.), unit)
    frames = {name: calibrate_visit(raw[name], name, adc, maps[name], small, CalibConfig()) for name in NAMES}
    extract_visit(frames['FGS1'], frames['AIRS-CH0'], 1, 0, PhotometryConfig())


def ours(root, visit):
    "Read, calibrate and extract, by the pipeline's own functions."
    from spectramind.challenge.layout import Axes, Challenge
    from spectramind.detector.chain import CalibConfig
    from spectramind.photometry.extract import PhotometryConfig, extract_visit
    from spectramind.pipeline.units import Observe, calibrate
    split, planet_id, number = visit
    challenge = Challenge(root)
    warm_up(Axes, challenge.adc, challenge)
    order = Observe(str(root), '', split, planet_id, CalibConfig(), PhotometryConfig())
    start = time.perf_counter()
    frames = calibrate(challenge, order, number)
    middle = time.perf_counter()
    curves = extract_visit(frames['FGS1'], frames['AIRS-CH0'], planet_id, number, order.photometry)
    end = time.perf_counter()
    assert curves.flux.shape[1] == 283
    ours.parts = dict(calibrate_s=round(middle - start, 3), extract_s=round(end - middle, 3))
    return end - start


KINDS = dict(read_columns=read_columns, read_array=read_array, plain=plain, ours=ours)


def peak_mb():
    "Highest resident memory of this process."
    status = Path('/proc/self/status')
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith('VmHWM'): return int(line.split()[1])/1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1024**2 if sys.platform == 'darwin' else 1024)


def child(kind, root):
    "One measurement, printed as JSON."
    import numpy  # noqa: F401
    import polars as pl
    visit = first_visit(root)
    with tempfile.TemporaryDirectory() as folder:      # start polars' threads
        pl.DataFrame(dict(a=[1, 2])).write_parquet(Path(folder)/'a.parquet')
        pl.read_parquet(Path(folder)/'a.parquet')
    if kind == 'plain': import pandas  # noqa: F401
    seconds = KINDS[kind](root, visit)
    print(json.dumps(dict(kind=kind, seconds=seconds, peak_mb=peak_mb(), **getattr(ours, 'parts', {}))))


def measure(kind, root):
    "Run one child."
    done = subprocess.run([sys.executable, __file__, '--child', kind, '--tree', str(root)], capture_output=True, text=True)
    if done.returncode: raise SystemExit(f'{kind} failed:\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def make_tree(folder):
    "One full-size planet."
    from spectramind.simulate.observatory import simulate_tree
    simulate_tree(Path(folder)/'tree', Path(folder)/'truth', profile='science', n_train=1, n_test=1, seed=20)
    return Path(folder)/'tree'


def summarise(runs):
    "Best of each kind, and the ratios against the bars."
    kinds = sorted({run['kind'] for run in runs}, key=list(KINDS).index)
    best = {kind: min(run['seconds'] for run in runs if run['kind'] == kind) for kind in kinds}
    median = {kind: statistics.median(run['seconds'] for run in runs if run['kind'] == kind) for kind in kinds}
    peak = {kind: max(run['peak_mb'] for run in runs if run['kind'] == kind)/1024 for kind in kinds}
    read = min((k for k in kinds if k.startswith('read')), key=best.get)
    ratios = dict(time_vs_read=best['ours']/best[read], median_time_vs_read=median['ours']/median[read],
                  time_vs_read_array=best['ours']/best['read_array'], peak_gb=peak['ours'])
    if 'plain' in kinds: ratios |= dict(speedup_vs_plain=best['plain']/best['ours'], memory_vs_plain=peak['ours']/peak['plain'])
    met = {name: bool(ratios[name] >= bar if name == 'speedup_vs_plain' else ratios[name] <= bar) for name, bar in BARS.items() if name in ratios}
    return dict(best_s=best, median_s=median, peak_gb=peak, fastest_reader=read, ratios=ratios, bars=BARS, goals=GOALS, met=met)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tree', help='a full-size challenge tree; simulated when left out')
    parser.add_argument('--rounds', type=int, default=5, help='measurements of each fast kind')
    parser.add_argument('--plain-rounds', type=int, default=1, help='measurements of (b): half a minute and several GB each')
    parser.add_argument('--out', default='', help='also write everything measured to this JSON file')
    parser.add_argument('--child', choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return child(args.child, args.tree)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(args.tree) if args.tree else make_tree(folder)
        runs = []
        for i in range(args.rounds + 1):
            for kind in ('read_columns', 'read_array', 'ours'):
                run = measure(kind, root)
                if i: runs.append(run)                   # the first round fills the page cache and numba's cache
            if i and i <= args.plain_rounds: runs.append(measure('plain', root))
    report = summarise(runs) | dict(runs=runs, cores=os.cpu_count(), processor=platform.machine(), python=platform.python_version())
    print(f'{"":22s}{"best s":>9s}{"median s":>10s}{"peak GB":>9s}')
    for kind in report['best_s']: print(f'{kind:22s}{report["best_s"][kind]:9.3f}{report["median_s"][kind]:10.3f}{report["peak_gb"][kind]:9.2f}')
    for name, value in report['ratios'].items():
        bar = f'  bar {BARS[name]:g}: {"met" if report["met"][name] else "MISSED"}' if name in BARS else ''
        print(f'{name:22s}{value:9.2f}{bar}')
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(report, indent=1))
    return 0 if all(report['met'].values()) else 1


if __name__ == '__main__': sys.exit(main())
