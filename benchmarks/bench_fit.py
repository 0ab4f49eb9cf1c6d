"""Time and memory of the light-curve fit, of the whole way from raw frames to the posterior, and where the time goes. One core throughout.

    python benchmarks/bench_fit.py [--tree DIR] [--planets 8] [--rounds 2] [--raw-planets 2] [--out FILE.json]

(i)   fit_planet on simulated light curves, planets with one visit and with two, each fit a child process of its own that only reads arrays:
      `products` as the pipeline keeps them (1,125 AIRS bins), `full` with every AIRS exposure (5,625), which the fit bins itself,
      and, for one planet and without a bar, `unbinned`: every exposure fitted. `walked` counts planets whose posterior is no Gaussian, which the fit
      then walks along: the slowest ones.
(ii)  raw frames to posterior for planets of a full-size tree, by the pipeline's own units, products written; then what 1,100 planets take.
(iii) the same once more with a clock around each step, and around the functions inside the fit.
Every child is bound to one core, and numba, BLAS and polars get one thread. Imports and compiled code are warm.
The bars are held against wall-clock time. The processor time of all threads of the child stands beside it: on an idle core the two are the same,
on a busy one the second is what the work itself takes. The tables of (iii) are processor time.
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

BARS = dict(one_visit_s=5., two_visits_s=5., fit_gb=1., raw_s=10., hours=1.5)
FLEET = dict(planets=1100, double=.1, cores=4)
THREADS = {f'{name}_NUM_THREADS': '1' for name in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA')} | dict(POLARS_MAX_THREADS='1')
CASES = dict(products=1125, full=5625, unbinned=5625)  # most AIRS bins of a visit
SEED = 20
TIMED = ('seconds', 'observe_s', 'fit_s', 'cpu_s', 'observe_cpu_s', 'fit_cpu_s', 'peak_gb')


def peak_gb():
    "Highest resident memory of this process."
    status = Path('/proc/self/status')
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith('VmHWM'): return int(line.split()[1])/1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1024**3 if sys.platform == 'darwin' else 1024**2)


# ---------------------------------------------------------------- clocks
def now():
    "Wall clock and processor time of this process, s."
    return time.perf_counter(), time.process_time()


class Clocks:
    "Processor time in functions, each counted without the clocked functions that it calls."
    def __init__(self): self.stack, self.names, self.seconds, self.calls = [], [], {}, {}
    def within(self, name): return name in self.names

    def timed(self, function, label):
        "The function with a clock; a label that is callable is asked with the arguments."
        def run(*args, **kwargs):
            name = label(*args) if callable(label) else label
            self.stack.append(0.)
            self.names.append(name)
            start = time.process_time()
            try: return function(*args, **kwargs)
            finally:
                took = time.process_time() - start
                self.names.pop()
                self.seconds[name] = self.seconds.get(name, 0.) + took - self.stack.pop()
                self.calls[name] = self.calls.get(name, 0) + 1
                if self.stack: self.stack[-1] += took
        return run

    def watch(self, name, label=None):
        "Put a clock on a function of the package wherever it has been imported; a name that is not there is passed over."
        modules = [m for key, m in list(sys.modules.items()) if key.startswith('spectramind.')]
        function = next((vars(m)[name] for m in modules if getattr(vars(m).get(name), '__module__', '') == m.__name__), None)
        if function is None: return
        clocked = self.timed(function, label or name)
        for module in modules:
            for attribute, value in list(vars(module).items()):
                if value is function: setattr(module, attribute, clocked)


def watch_steps(clocks):
    "The steps of the fit, and of the way to it; a step that is called by another counts there only once."
    def which(visits, shared, state, *_): return 'white fits' if len(state.depth) == 2 else 'full fit'
    steps = dict(calibrate='read and calibrate', extract_visit='extract', prepare_visit='prepare visits', starting_points='white starting points', gauss_newton=which,
                 clip_outliers='clip outliers', evidence='choice of the drift model', laplace_covariance='covariance', judge='judge', departure='judge',
                 walk='walk', measure_foreground='foreground', fit_planet='rest of the fit')
    inside = {'full fit', 'covariance', 'choice of the drift model'}
    for name, label in steps.items():
        def asked(*args, label=label):
            found = label(*args) if callable(label) else label
            return 'walk' if found in inside and clocks.within('walk') else found
        clocks.watch(name, asked)


def watch_functions(clocks):
    "The functions inside the fit."
    for name in ('assemble', 'solve_arrow', 'gauss_newton', 'starting_points', 'trust', 'clip_outliers', 'evidence', 'laplace_covariance', 'judge', 'departure', 'walk', 'mixture',
                 'prepare_visit', 'white_visit', 'distance_and_slopes', 'transit_terms', 'drift_field', 'drift_slopes', 'chi2', 'quadratic_flux', 'quadratic_flux_grad',
                 'fit_planet'): clocks.watch(name)


# ---------------------------------------------------------------- (i) light curves to posterior
def draw(planets):
    "The first planets of a population with one visit, and half as many with two."
    from spectramind.simulate.population import draw_population
    found = draw_population(20*planets, SEED)
    return {visits: [p for p in found if p.n_visits == visits][:max(1, planets//visits)] for visits in (1, 2)}


def write_curves(folder, planet, bins):
    "Light curves of one planet as a pickle, so that a child can have them without simulating."
    import pickle
    from spectramind.simulate.curves import simulate_light_curves
    path = Path(folder)/f'{planet.planet_id}_{bins}.pickle'
    path.write_bytes(pickle.dumps((simulate_light_curves(planet, SEED, time_bins=bins), planet.star)))
    return path


def warm_up(curves, star):
    "Load the compiled code with a coarse copy of the visits."
    from dataclasses import replace
    from spectramind.lightcurve.fit import fit_planet
    from spectramind.lightcurve.model import FitConfig
    step = len(curves[0].time_h)//60
    coarse = [replace(c, flux=c.flux[::step], variance=c.variance[::step], valid=c.valid[::step], time_h=c.time_h[::step]) for c in curves]
    fit_planet(coarse, star, FitConfig(time_bins=60, starts=1, max_iterations=1))


def fit_child(source, case, clocked):
    "One fit."
    import pickle
    from spectramind.lightcurve import fit
    from spectramind.lightcurve.model import FitConfig
    curves, star = pickle.loads(Path(source).read_bytes())
    config = FitConfig(time_bins=len(curves[0].time_h)) if case == 'unbinned' else FitConfig()
    warm_up(curves, star)
    clocks = Clocks()
    if clocked: watch_functions(clocks)
    start = now()
    posterior = fit.fit_planet(curves, star, config)
    end = now()
    return dict(seconds=end[0] - start[0], cpu_s=end[1] - start[1], peak_gb=peak_gb(), visits=len(curves), flag=posterior.quality['flag'], slices=len(posterior.quality.get('slices', [])),
                functions=clocks.seconds, calls=clocks.calls)


# ---------------------------------------------------------------- (ii) raw frames to posterior
def choose(root, planets):
    "Planets of the tree with one visit, and one with two where there is one: (split, planet_id, visits)."
    from spectramind.challenge.layout import list_planets, list_visits
    every = [(split, p) for split in ('train', 'test') if (Path(root)/split).is_dir() for p in list_planets(root, split)]
    every = [(split, p, len(list_visits(root, split, p))) for split, p in every]
    if not every: raise SystemExit(f'{Path(root).name}: no planet in it')
    return [e for e in every if e[2] == 1][:planets] + [e for e in every if e[2] == 2][:1]


def read_alone(challenge, order, visits):
    "Only read and decode what calibrate asks for."
    from spectramind.challenge.layout import INSTRUMENTS
    start = time.process_time()
    for visit in visits:
        for name, instrument in INSTRUMENTS.items():
            challenge.calibration(order.split, order.planet_id, name, visit)
            for _ in challenge.signal_blocks(order.split, order.planet_id, name, visit, instrument.pixels()): pass
    return time.process_time() - start


def raw_child(root, split, planet_id, clocked):
    "One planet from raw frames to its posterior on disk."
    from spectramind.challenge.layout import Axes, Challenge, list_visits
    from spectramind.detector.chain import CalibConfig
    from spectramind.lightcurve.model import FitConfig
    from spectramind.photometry.extract import PhotometryConfig
    from spectramind.pipeline import units
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from bench_calibration import warm_up as warm_detector
    challenge, visits = Challenge(Path(root)), list_visits(root, split, planet_id)
    warm_detector(Axes, challenge.adc, challenge)
    planet = draw(1)[1][0]
    with tempfile.TemporaryDirectory() as folder:
        import pickle
        warm_up(*pickle.loads(write_curves(folder, planet, 375).read_bytes()))
        order = units.Observe(str(root), folder, split, planet_id, CalibConfig(), PhotometryConfig())
        later = units.Fit(str(root), folder, split, planet_id, challenge.star(planet_id), FitConfig(), order.curves_settings)
        clocks = Clocks()
        if clocked: watch_steps(clocks)
        start = now()
        made = units.observe(order)
        middle = now()
        units.fit(later)
        end = now()
        assert made['visits'] == made['made'] == len(visits)
        posterior = units.read_posterior(folder, planet_id)
    wall, cpu = ([c - a, b - a, c - b] for a, b, c in zip(start, middle, end))
    found = dict(seconds=wall[0], observe_s=wall[1], fit_s=wall[2], cpu_s=cpu[0], observe_cpu_s=cpu[1], fit_cpu_s=cpu[2],
                 peak_gb=peak_gb(), visits=len(visits), flag=posterior.quality['flag'])
    if clocked:
        steps = dict(clocks.seconds)
        steps['files and records'] = found['cpu_s'] - sum(steps.values())
        reading = read_alone(challenge, order, visits)
        steps = {'read and decode': reading, 'calibrate': steps.pop('read and calibrate') - reading} | steps
        found |= dict(steps=steps, calls=clocks.calls)
    return found


def make_tree(folder):
    "One full-size planet."
    from spectramind.simulate.observatory import simulate_tree
    simulate_tree(Path(folder)/'tree', Path(folder)/'truth', profile='science', n_train=1, n_test=0, seed=SEED)
    return Path(folder)/'tree'


# ---------------------------------------------------------------- children, and what they say together
def child(order):
    "One measurement, printed as JSON."
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    kind, rest = order['kind'], {k: v for k, v in order.items() if k != 'kind'}
    print(json.dumps(order | (fit_child(**rest) if kind == 'fit' else raw_child(**rest))))


def measure(kind, **order):
    "Run one child."
    done = subprocess.run([sys.executable, __file__, '--child', json.dumps(dict(kind=kind, **order))], capture_output=True, text=True, env=os.environ | THREADS)
    if done.returncode: raise SystemExit(f'{kind} {order} failed:\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def bench_fits(folder, planets, rounds):
    "(i): all runs, and the runs with clocks."
    drawn = draw(planets)
    sources = [(case, write_curves(folder, p, CASES[case])) for n in drawn for i, p in enumerate(drawn[n]) for case in CASES if case != 'unbinned' or (n, i) == (1, 0)]
    runs = []
    measure('fit', source=str(sources[0][1]), case='products', clocked=False)   # fills numba's cache
    for _ in range(rounds):
        for case, path in sources:
            if case != 'unbinned' or not any(run['case'] == case for run in runs): runs.append(measure('fit', source=str(path), case=case, clocked=False))
    clocked = [measure('fit', source=str(path), case=case, clocked=True) for case, path in sources if case == 'products']
    return runs, clocked


def summarise_fits(runs):
    "Seconds (best round of each planet) and peak memory: median and maximum over planets."
    table = {}
    for case in CASES:
        for visits in (1, 2):
            of = {}
            for run in runs:
                if (run['case'], run['visits']) == (case, visits): of.setdefault(run['source'], []).append(run)
            if not of: continue
            seconds, cpu = ([min(r[key] for r in rs) for rs in of.values()] for key in ('seconds', 'cpu_s'))
            table[f'{case}, {visits} visit' + 's'*(visits > 1)] = dict(planets=len(of), median_s=statistics.median(seconds), max_s=max(seconds), median_cpu_s=statistics.median(cpu), mean_s=statistics.mean(seconds), mean_cpu_s=statistics.mean(cpu),
                                                                       max_cpu_s=max(cpu), walked=sum(rs[0]['slices'] > 0 for rs in of.values()), max_gb=max(r['peak_gb'] for rs in of.values() for r in rs))
    return table


def summarise_raw(runs, fits):
    "Medians over planets of each planet's best round, and what a fleet of planets takes: frames to light curves as measured here, fits as in (i) on average."
    of, seconds = {}, {}
    for run in runs: of.setdefault((run['visits'], run['planet_id']), []).append(run)
    for visits in (1, 2):
        best = [min(rs, key=lambda r: r['seconds']) for (n, _), rs in of.items() if n == visits]
        if best: seconds[visits] = {key: statistics.median(r[key] for r in best) for key in TIMED}
    single = seconds.get(1) or {key: value/2 for key, value in seconds[2].items()}
    double = seconds.get(2)
    def hours(observe, fit):
        once = single[observe] + fits['products, 1 visit'][fit]
        twice = (double[observe] if double else 2*single[observe]) + fits['products, 2 visits'][fit]
        return FLEET['planets']*((1 - FLEET['double'])*once + FLEET['double']*twice)/FLEET['cores']/3600
    return dict(one_visit=single, two_visits=double, hours=hours('observe_s', 'mean_s'), cpu_hours=hours('observe_cpu_s', 'mean_cpu_s'))


def share(tables):
    "Mean seconds of each entry over planets, largest first."
    names = {name for table in tables for name in table}
    mean = {name: sum(table.get(name, 0.) for table in tables)/len(tables) for name in names}
    return dict(sorted(mean.items(), key=lambda item: -item[1]))


def print_share(title, table):
    print(f'\n{title:36s}{"cpu s":>8s}{"share":>8s}')
    for name, seconds in table.items():
        if seconds > .002*sum(table.values()): print(f'{name:36s}{seconds:8.3f}{seconds/sum(table.values()):8.1%}')


def report_of(runs, clocked, raw, raw_clocked):
    "Everything measured, and the bars."
    fits = summarise_fits(runs)
    way = summarise_raw(raw, fits)
    barred = [row for name, row in fits.items() if not name.startswith('unbinned')]
    slow = [max(row['max_s'] for name, row in fits.items() if name.endswith(end) and not name.startswith('unbinned')) for end in ('1 visit', '2 visits')]
    found = dict(one_visit_s=slow[0], two_visits_s=slow[1], fit_gb=max(row['max_gb'] for row in barred), raw_s=way['one_visit']['seconds'], hours=way['hours'])
    steps = share([run['steps'] for run in raw_clocked if run['visits'] == 1] or [run['steps'] for run in raw_clocked])
    functions = share([run['functions'] for run in clocked if run['visits'] == 1])
    slowest = share([max(clocked, key=lambda run: run['cpu_s'])['functions']])
    return dict(fits=fits, raw=way, found=found, bars=BARS, met={name: bool(found[name] <= bar) for name, bar in BARS.items()}, steps_s=steps, functions_s=functions, slowest_s=slowest,
                flagged=sum(bool(run['flag']) for run in [*runs, *raw]), fleet=FLEET, runs=runs, raw_runs=raw, clocked=clocked, raw_clocked=raw_clocked)


def print_report(report):
    print(f'{"(i) fit":28s}{"planets":>8s}{"walked":>8s}{"median s":>10s}{"max s":>8s}{"median cpu":>12s}{"max cpu":>9s}{"max GB":>8s}')
    for name, row in report['fits'].items():
        print(f'{name:28s}{row["planets"]:8d}{row["walked"]:8d}{row["median_s"]:10.2f}{row["max_s"]:8.2f}{row["median_cpu_s"]:12.2f}{row["max_cpu_s"]:9.2f}{row["max_gb"]:8.2f}')
    way = report['raw']
    for name in ('one_visit', 'two_visits'):
        if row := way[name]: print(f'{"" if name == "two_visits" else chr(10)}(ii) raw frames to posterior, {name.replace("_", " ")}: {row["seconds"]:.2f} s, cpu {row["cpu_s"]:.2f} '
                                   f'(to light curves {row["observe_s"]:.2f}, fit {row["fit_s"]:.2f}), {row["peak_gb"]:.2f} GB')
    print(f'{FLEET["planets"]:,} planets, {FLEET["double"]:.0%} of them twice, on {FLEET["cores"]} cores that do {FLEET["cores"]} times as much: {way["hours"]:.2f} h, cpu {way["cpu_hours"]:.2f} h')
    print_share('(iii) steps, one visit', report['steps_s'])
    print_share('functions of the fit, one visit', report['functions_s'])
    print_share('functions of the slowest fit', report['slowest_s'])
    print()
    for name, value in report['found'].items(): print(f'{name:14s}{value:8.2f}  bar {BARS[name]:g}: {"met" if report["met"][name] else "MISSED"}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tree', help='a full-size challenge tree; one planet is simulated when left out')
    parser.add_argument('--planets', type=int, default=8, help='(i): simulated planets with one visit; half as many with two')
    parser.add_argument('--rounds', type=int, default=2, help='measurements of each')
    parser.add_argument('--raw-planets', type=int, default=2, help='(ii): planets of the tree with one visit; one more with two if there is one')
    parser.add_argument('--out', default='', help='also write everything measured to this JSON file')
    parser.add_argument('--child', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return child(args.child)
    with tempfile.TemporaryDirectory() as folder:
        runs, clocked = bench_fits(folder, args.planets, args.rounds)
        root = str(Path(args.tree or make_tree(folder)).resolve())
        raw, orders = [], [dict(root=root, split=split, planet_id=planet_id) for split, planet_id, _ in choose(root, args.raw_planets)]
        for i in range(args.rounds + 1):
            for order in orders:
                run = measure('raw', clocked=False, **order)
                if i: raw.append(run)                   # the first round fills the page cache
        raw_clocked = [measure('raw', clocked=True, **order) for order in orders]
    report = report_of(runs, clocked, raw, raw_clocked) | dict(cores=os.cpu_count(), processor=platform.machine(), python=platform.python_version())
    print_report(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(report, indent=1))
    return 0 if all(report['met'].values()) else 1


if __name__ == '__main__': sys.exit(main())
