"""Time of the transit curves of one visit, 283 wavelengths at once: batman and ours, on one core, in the same run.

    python benchmarks/bench_transit.py [--rounds 5] [--out FILE.json]

(a) batman: one TransitModel for the times of the visit, then light_curve(params) for each wavelength; it finds the distances once and keeps them.
(b) ours: distances and flux. (c) ours: flux and its derivatives by t0, radius, u1 and u2.
(d) batman: the same four derivatives as difference quotients, forward (5 curves) and central (9 curves).
Each measurement is a child process of its own, bound to one core, and the kinds take turns. Times are processor time: one thread, nothing read or
written, so that a neighbour on the core counts for little. Another child compares values and derivatives with adaptive integration, at the places
where the two codes differ most and at others.
"""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

BARS = dict(value=1., derivatives=1., error=1.)   # (b)/(a), (c)/(d) with the cheaper quotients, error of ours / of batman's: each in its worst regime
THREADS = {f'{name}_NUM_THREADS': '1' for name in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA')}
WAVES, T0_H, PERIOD_D, A_RS = 283, 3.75, 4.2, 11.
GEOMETRIES = dict(central=0., b06=.6, grazing=1.) # impact parameters; at 1 the centre of the planet never enters the disc
RADII, TIMES = (.05, .10, .15), (375, 5625)
STEPS = dict(t0=1e-4, k=3e-5, u=1e-3)             # h and plain numbers: near the best that batman's rounding allows a forward quotient
REPEATS = 5


def regimes():
    "Name -> (impact parameter, radius, number of times)."
    return {f'{name} k={k:.2f} n={n}': (b, k, n) for n in TIMES for name, b in GEOMETRIES.items() for k in RADII}


def visit_of(b, k, n):
    "Times in h, inclination, and radius and limb darkening of each wavelength."
    import numpy as np
    return np.linspace(0, 7.5, n), math.degrees(math.acos(b/A_RS)), k*np.linspace(.97, 1.03, WAVES), np.linspace(.40, .08, WAVES), np.linspace(.16, .08, WAVES)


# ---------------------------------------------------------------- batman
def batman_params(b, k, n):
    import batman
    time_h, inc_deg, radius, u1, u2 = visit_of(b, k, n)
    p = batman.TransitParams()
    p.t0, p.per, p.a, p.inc, p.ecc, p.w, p.limb_dark, p.rp, p.u = T0_H, 24*PERIOD_D, A_RS, inc_deg, 0., 90., 'quadratic', k, [.3, .1]
    return p, time_h, list(zip(radius.tolist(), u1.tolist(), u2.tolist()))


def batman_curves(p, model, columns):
    "One call for each wavelength."
    out = []
    for p.rp, u1, u2 in columns:
        p.u = [u1, u2]
        out.append(model.light_curve(p))
    return out


def batman_value(b, k, n):
    import batman
    p, time_h, columns = batman_params(b, k, n)
    def run(): return batman_curves(p, batman.TransitModel(p, time_h, nthreads=1), columns)
    return run


def shifted(p, columns, name, step):
    "Parameters with one of them moved."
    p.t0 = T0_H + (step if name == 't0' else 0.)
    if name == 't0': return columns
    at = dict(k=0, u1=1, u2=2).get(name)
    return [tuple(value + (step if i == at else 0.) for i, value in enumerate(column)) for column in columns]


def batman_quotients(b, k, n, central):
    "Value and derivatives by t0, k, u1, u2; all wavelengths for each shift, so that the distances change five (or nine) times only."
    import batman
    p, time_h, columns = batman_params(b, k, n)
    factor = 3 if central else 1     # a central quotient allows larger steps
    steps = {name: factor*STEPS[name[0] if name[0] == 'u' else name] for name in ('t0', 'k', 'u1', 'u2')}
    def curves(model, name, step): return batman_curves(p, model, shifted(p, columns, name, step))
    def run():
        p.t0 = T0_H
        model = batman.TransitModel(p, time_h, nthreads=1)
        value, slopes = curves(model, '', 0.), []
        for name, h in steps.items():
            above = curves(model, name, h)
            below, width = (curves(model, name, -h), 2*h) if central else (value, h)
            slopes.append([(x - y)/width for x, y in zip(above, below)])
        return value, *slopes
    return run


# ---------------------------------------------------------------- ours
def ours_value(b, k, n):
    from spectramind.physics.transit import projected_distance, quadratic_flux
    time_h, inc_deg, radius, u1, u2 = visit_of(b, k, n)
    def run(): return quadratic_flux(projected_distance(time_h, T0_H, PERIOD_D, A_RS, inc_deg), radius, u1, u2)
    return run


def ours_slopes(b, k, n):
    from spectramind.physics.transit import projected_distance_grad, quadratic_flux_grad
    time_h, inc_deg, radius, u1, u2 = visit_of(b, k, n)
    def run():
        z, by_orbit = projected_distance_grad(time_h, T0_H, PERIOD_D, A_RS, inc_deg)
        flux, d_k, d_z, d_u1, d_u2 = quadratic_flux_grad(z, radius, u1, u2)
        d_z *= by_orbit[:, :1]
        return flux, d_z, d_k, d_u1, d_u2
    return run


KINDS = dict(batman_value=batman_value, ours_value=ours_value, ours_slopes=ours_slopes,
             batman_forward=lambda *regime: batman_quotients(*regime, False), batman_central=lambda *regime: batman_quotients(*regime, True))


def time_kind(kind):
    "Seconds of processor time per light curve in every regime: the best of a few repeats."
    found = {}
    for name, regime in regimes().items():
        run, best = KINDS[kind](*regime), math.inf
        run()
        for _ in range(REPEATS):
            start = time.process_time()
            kept = run()
            best = min(best, time.process_time() - start)
            del kept
        found[name] = best/WAVES
    return dict(kind=kind, seconds=found)


# ---------------------------------------------------------------- the judge
def rim_ref(z, k, u1, u2):
    "Light under the rim of the planet, plain and along the direction of motion: the growth of what is hidden with radius and distance."
    from scipy.integrate import quad
    if z >= 1 + k: return 0., 0.
    first = 0. if z + k <= 1 else math.acos(max(-1., min(1., (1 - z*z - k*k)/(2*z*k))))   # where the rim enters the disc
    def brightness(angle):
        mu = math.sqrt(max(1 - z*z - k*k - 2*z*k*math.cos(angle), 0.))
        return 1 - u1*(1 - mu) - u2*(1 - mu)**2
    def slice_(t, direction):                                                            # t**2 takes the square root out of the limb
        angle = first + (math.pi - first)*t*t
        return 2*t*(math.pi - first)*brightness(angle)*(math.cos(angle) if direction else 1.)
    plain, along = (2*k*quad(slice_, 0, 1, args=(d,), epsabs=1e-14, epsrel=1e-12, limit=400)[0] for d in (False, True))
    return plain, along


def judge_point(z, slope_t0, k, u1, u2):
    "Flux and its derivatives by t0, k, u1, u2, by adaptive integration."
    from spectramind.physics.transit import occulted_ref
    norm = math.pi*(1 - u1/3 - u2/6)
    j0, j1, j2 = (occulted_ref(z, k, lambda mu, p=p: mu**p) if z < 1 + k else 0. for p in range(3))
    lost = ((1 - u1 - u2)*j0 + (u1 + 2*u2)*j1 - u2*j2)/norm
    plain, along = rim_ref(z, k, u1, u2)
    return 1 - lost, -along/norm*slope_t0, -plain/norm, -(j1 - j0 + lost*math.pi/3)/norm, -(2*j1 - j0 - j2 + lost*math.pi/6)/norm


def judge():
    "Largest error of every kind in every geometry; of derivatives, as a share of the largest slope in that light curve."
    import numpy as np
    from spectramind.physics.transit import projected_distance_grad
    found = {}
    for name, (b, k, n) in regimes().items():
        if n != max(TIMES): continue
        time_h, inc_deg, radius, u1, u2 = visit_of(b, k, n)
        z, by_orbit = projected_distance_grad(time_h, T0_H, PERIOD_D, A_RS, inc_deg)
        made = {kind: KINDS[kind](b, k, n)() for kind in ('batman_value', 'ours_value', 'ours_slopes', 'batman_forward', 'batman_central')}
        made = {kind: [np.array(x).reshape(WAVES, n).T if kind.startswith('batman') else x for x in ([m] if kind.endswith('value') else m)] for kind, m in made.items()}
        most = np.abs(made['batman_value'][0] - made['ours_value'][0])
        points = {kind: [] for kind in made}
        for j in (0, WAVES//2, WAVES - 1):
            inside = np.flatnonzero(z < 1 + radius[j])
            rim = np.argsort(np.abs(z - 1 + radius[j]))[:4]                               # near the inner contacts
            where = np.unique(np.concatenate([inside[::max(1, len(inside)//24)], np.argsort(most[:, j])[-8:], rim]))
            for i in where:
                true = judge_point(float(z[i]), float(by_orbit[i, 0]), float(radius[j]), float(u1[j]), float(u2[j]))
                for kind, parts in made.items():
                    points[kind].append([abs(parts[q][i, j] - true[q])/(1. if q == 0 else np.abs(made['ours_slopes'][q][:, j]).max()) for q in range(len(parts))])
        geometry = name.rsplit(' ', 1)[0]
        found[geometry] = {kind: dict(value=float(np.max(np.array(e)[:, 0])), slopes=float(np.max(np.array(e)[:, 1:])) if len(e[0]) > 1 else None,
                                      slopes_median=float(np.median(np.array(e)[:, 1:])) if len(e[0]) > 1 else None) for kind, e in points.items()}
        found[geometry]['difference'] = float(most.max())
    return dict(kind='judge', errors=found)


# ---------------------------------------------------------------- one child, all children
def child(kind):
    "One measurement, printed as JSON."
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')              # batman's own source has an invalid escape sequence
        import batman  # noqa: F401
    print(json.dumps(judge() if kind == 'judge' else time_kind(kind)))


def measure(kind):
    "Run one child."
    done = subprocess.run([sys.executable, __file__, '--child', kind], capture_output=True, text=True, env=os.environ | THREADS)
    if done.returncode: raise SystemExit(f'{kind} failed:\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarise(runs, errors):
    "Best and median of each kind and regime in microseconds, ratios, and the worst of them against the bars."
    best, median, ratios = {}, {}, {}
    for name in regimes():
        for table, choose in ((best, min), (median, statistics.median)):
            table[name] = {kind: 1e6*choose([run['seconds'][name] for run in runs if run['kind'] == kind]) for kind in KINDS}
        t = best[name]
        ratios[name] = dict(value=t['ours_value']/t['batman_value'], slopes_vs_value=t['ours_slopes']/t['batman_value'],
                            derivatives=t['ours_slopes']/t['batman_forward'], derivatives_central=t['ours_slopes']/t['batman_central'])
    worst = {key: max(r[key] for r in ratios.values()) for key in ('value', 'slopes_vs_value', 'derivatives', 'derivatives_central')}
    typical = {key: statistics.median(r[key] for r in ratios.values()) for key in worst}
    worst['error'] = max(e['ours_value']['value']/e['batman_value']['value'] for e in errors.values())
    met = {key: bool(worst[key] < bar) for key, bar in BARS.items()}
    return dict(best_us=best, median_us=median, ratios=ratios, worst=worst, typical=typical, errors=errors, bars=BARS, met=met)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5, help='measurements of each kind')
    parser.add_argument('--out', default='', help='also write everything measured to this JSON file')
    parser.add_argument('--child', choices=[*KINDS, 'judge'], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return child(args.child)
    runs = []
    for i in range(args.rounds + 1):
        for kind in KINDS:
            run = measure(kind)
            if i: runs.append(run)                   # the first round fills numba's cache
    report = summarise(runs, measure('judge')['errors'])
    report |= dict(runs=runs, steps=STEPS, cores=os.cpu_count(), processor=platform.machine(), python=platform.python_version())
    print(f'{"us per light curve, best":28s}{"(a)":>8s}{"(b)":>8s}{"(c)":>8s}{"(d) 5":>8s}{"(d) 9":>8s}{"b/a":>7s}{"c/a":>7s}{"c/d5":>7s}{"c/d9":>7s}')
    for name, t in report['best_us'].items():
        r = report['ratios'][name]
        print(f'{name:28s}' + ''.join(f'{t[kind]:8.1f}' for kind in KINDS) + ''.join(f'{r[key]:7.2f}' for key in ('value', 'slopes_vs_value', 'derivatives', 'derivatives_central')))
    print(f'\n{"largest error":28s}{"(a)":>10s}{"(b)":>10s}{"slopes (c)":>12s}{"(d) 5":>10s}{"(d) 9":>10s}')
    for name, e in report['errors'].items():
        print(f'{name:28s}{e["batman_value"]["value"]:10.0e}{e["ours_value"]["value"]:10.0e}' + f'{e["ours_slopes"]["slopes"]:12.0e}' + ''.join(f'{e[k]["slopes"]:10.0e}' for k in ('batman_forward', 'batman_central')))
    print()
    for key, value in report['worst'].items():
        bar = f'  bar {BARS[key]:g}: {"met" if report["met"][key] else "MISSED"}' if key in BARS else ''
        middle = f'   median {report["typical"][key]:.3g}' if key in report['typical'] else ''
        print(f'{"worst " + key:28s}{value:10.3g}{middle}{bar}')
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(report, indent=1))
    return 0 if all(report['met'].values()) else 1


if __name__ == '__main__': sys.exit(main())
