"""The dashboard for 1,100 planets: is it small, quick to open, quick to use, and usable by everybody?

    python benchmarks/proof_dashboard.py [--planets 1100] [--labels 100] [--workers N] [--seed 7] [--work DIR] [--out FILE.json] [--level curves|spectra]

Light curves of simulated planets (94 time bins a visit, no pixels) are fitted by the pipeline's own fit, a prior is learnt from the labelled ones, and spectra are predicted
for the others. Every planet that was done is kept in --work, so that the proof goes on where it stopped. `--level spectra` leaves light curves out: spectra are drawn
from a population with known error bars, which takes seconds and makes a page of the same shape without light curves; its figures are not written unless --out says where.
The page is then written by `diagnostics.dashboard` with every tab full: catalogue, injection, map of planets, attribution, attention, rules, provenance. Injection, attribution and attention
are made up (`tests/made_up.py`), since only their shape matters here. No raw frames and no images: these planets have none.

Then a headless Chromium opens it from disk, offline, once for each measurement that starts from nothing:

size                MB of the file                                                       at most 15
first paint         s from navigation to the first contentful paint, worst of three      at most 3
figures ready       s until plotly runs, worst of three                                  at most 6
sort, filter        s for one click or word, until the browser has painted, worst of ten at most 0.5
planet opened       s from the address to all its figures, first time                    at most 3
page turned         s from the click to all figures, worst of twenty                       at most 1
scrolling           s between frames while the table is scrolled, 19 of 20 are quicker   at most 0.1
tabs                s until every figure of the catalogue near the screen is drawn       at most 5
memory              MB of JavaScript after all that                                      at most 400
axe, console        serious faults of accessibility at 1440 and 390 px; errors           none

Times are of a machine that is told in the table; prints a table, writes benchmarks/proof_dashboard.json; exit code 6 when a bar is missed.
"""
import argparse
import os
import platform
import sys
import time
from pathlib import Path

for _name in ("OMP", "OPENBLAS", "MKL", "NUMBA"): os.environ.setdefault(f"{_name}_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent/"tests"))
BARS = {"size (MB)": 15., "first paint (s)": 3., "figures ready (s)": 6., "sort (s)": .5, "filter (s)": .5, "planet opened (s)": 3., "page turned (s)": 1., "scrolling, 19 of 20 frames (s)": .1,
        "catalogue drawn (s)": 5., "memory (MB)": 400., "serious axe faults": 0, "console faults": 0, "wider than the screen": 0}


def fit_one(order):
    "Simulate and fit one planet; keep what the page and the prior need."
    from spectramind.core.store import read_npz, write_npz
    from spectramind.lightcurve.fit import fit_planet
    from spectramind.lightcurve.model import FitConfig
    from spectramind.pipeline.products import posterior_arrays, posterior_from
    from spectramind.simulate.curves import simulate_light_curves
    folder, planet, seed = order
    path = Path(folder)/f"{planet.planet_id}.npz"
    if path.is_file(): fitted = posterior_from(planet.planet_id, read_npz(path))
    else:
        fitted = fit_planet(simulate_light_curves(planet, seed, time_bins=94), planet.star, FitConfig(pointing=False))
        write_npz(path, compress=True, **posterior_arrays(fitted))
    return fitted


def predict_one(order):
    "A spectrum from a fit, and of the fit what the page draws."
    import numpy as np
    from spectramind.lightcurve.prior import predict_spectra
    fitted = fit_one(order[:3])
    row = predict_spectra([fitted], order[3])
    return row.mu[0], row.sigma[0], row.origin[0], (fitted.mean, np.sqrt(np.diag(fitted.cov)), fitted.curves, fitted.quality, fitted.nuisance)


def observed(planets: int, labels: int, seed: int, work: Path, workers: int) -> tuple:
    "Views and predictions of planets whose light curves were fitted."
    import numpy as np
    from spectramind.challenge.folds import group_kfold
    from spectramind.lightcurve.prior import learn_prior
    from spectramind.pipeline.executor import run_units
    from spectramind.simulate.population import draw_population
    everybody = draw_population(planets + labels, seed)
    train, test = everybody[:labels], everybody[labels:]
    (work/"fits").mkdir(parents=True, exist_ok=True)
    def run(function, tasks): return [o.value for o in run_units(function, tasks, kind="processes" if workers > 1 else "serial", workers=workers, warm=True, description=function.__name__) if o.ok]
    posteriors = run(fit_one, [(p.planet_id, (str(work/"fits"), p, seed)) for p in train])
    prior = learn_prior(posteriors, np.array([p.depth for p in train]), group_kfold(sorted(p.planet_id for p in train), 5, seed))
    done = run(predict_one, [(p.planet_id, (str(work/"fits"), p, seed, prior)) for p in test])
    return test, np.array([d[0] for d in done]), np.array([d[1] for d in done]), [d[2] for d in done], [d[3] for d in done], np.array([p.depth for p in train])


def drawn(planets: int, labels: int, seed: int) -> tuple:
    "Spectra of a population with error bars that are honest by construction; no light curves."
    import numpy as np
    from spectramind.simulate.population import draw_population
    everybody, rng = draw_population(planets + labels, seed), np.random.default_rng(seed)
    test = everybody[labels:]
    truth = np.array([p.depth for p in test])
    sigma = 3e-5*rng.lognormal(0, .3, (planets, 1))*np.ones(283)
    return test, truth + sigma*(rng.normal(size=(planets, 1)) + rng.normal(size=truth.shape))/2**.5, sigma, ["physics"]*planets, [None]*planets, np.array([p.depth for p in everybody[:labels]])


def write(planets: int, labels: int, seed: int, work: Path, workers: int, level: str) -> tuple:
    "The page of so many planets; its path, and what was done."
    from made_up import explain_parts, injection_document
    import numpy as np
    from spectramind.core.nouns import DepthPosterior, Spectra
    from spectramind.diagnostics.catalogue_views import catalogue_pictures
    from spectramind.diagnostics.dashboard import planet_rows, write_page
    from spectramind.diagnostics.figures import molecule_windows, show_embedding, show_score, show_violations
    from spectramind.diagnostics.model_views import injection_parts
    from spectramind.diagnostics.page import Picture
    from spectramind.diagnostics.planet_pages import PlanetView
    from spectramind.pipeline.report_parts import fit_facts, star_facts
    from spectramind.scoring.score import naive_statistics, score
    from spectramind.symbolic.pack import SymbolicPack
    import torch
    began = time.perf_counter()
    test, mu, sigma, origin, fits, known = observed(planets, labels, seed, work, workers) if level == "curves" else drawn(planets, labels, seed)
    spent = time.perf_counter() - began
    truth, ids = np.array([p.depth for p in test]), np.array([p.planet_id for p in test], np.int64)
    spectra = Spectra(ids, np.maximum(mu, 0), sigma, tuple(origin))
    report, began = score((ids, truth), spectra, *naive_statistics(known)), time.perf_counter()
    rows = planet_rows(spectra, report, {int(ids[k]): fit[3]["reason"] for k, fit in enumerate(fits) if fit and fit[3].get("flag")}, dict(zip(map(int, ids), truth)))
    views = []
    for k, (planet, row, fit) in enumerate(zip(test, rows, fits)):
        facts = {"Result": {name: v for name, v in row.items() if name not in ("planet", "origin", "note")}, "Star and planet, as listed": star_facts(planet.star, float(mu[k, 1:].mean()))}
        if fit: facts["Fit of the light curves"] = fit_facts(DepthPosterior(int(ids[k]), fit[0], np.zeros((0, 0)), fit[4], {}, fit[3]))
        views.append(PlanetView(int(ids[k]), mu[k], sigma[k], truth[k], fit=fit[:2] if fit else None, curves=fit[2] if fit else {}, origin=origin[k], note=row["note"], facts=facts, score=row["score"]))
    shape = mu[:, 1:] - mu[:, 1:].mean(1, keepdims=True)
    left, size, _ = np.linalg.svd(shape/np.sqrt((shape**2).mean(1, keepdims=True)), full_matrices=False)
    with torch.no_grad(): broken = sum(np.asarray(v) for v in SymbolicPack().violations(torch.as_tensor(mu), torch.as_tensor(sigma), 2.5e-4).values())
    order = np.argsort(-broken.sum(1), kind="stable")
    tabs = dict(overview=[Picture("The score and its parts", show_score(report), "Score, parts, planets.", full=True)], catalogue=catalogue_pictures(ids, truth, spectra.mu, sigma, report),
                injection=injection_parts(injection_document()),
                model=[Picture("Map of the planets", show_embedding((left*size)[:, :2], ids, report.per_planet, "score"), "Principal components of the spectra’s shapes."), *explain_parts(ids)[0]],
                rules=[Picture("Where each planet breaks them", show_violations(broken[order], ids[order]), "Planet × wavelength.", full=True)])
    subtitle = f"{planets:,} simulated planets, light curves fitted, seed {seed}." if level == "curves" else f"{planets:,} drawn spectra, seed {seed}."
    path = write_page(work/"dashboard.html", dict(seed=seed, planets=planets, subtitle=subtitle), views, spectra=spectra, report=report, notes={r["planet"]: r["note"] for r in rows},
                      compared=[dict(name="this run", what="as predicted", report=report)], tabs=tabs, provenance=[dict(what="light curves", path="fits", sha256=None, href=None)], machine=dict(times=dict(head=["stage", "time"], rows=[["fit", f"{spent:.0f} s"]], lefts=1)), windows=molecule_windows())
    return path, dict(planets=planets, labels=labels, level=level, seed=seed, score=report.total, seconds_observed=round(spent, 1), seconds_written=round(time.perf_counter() - began, 1))


def until_painted(page, script: str, done: str = "true") -> float:
    "Seconds from a script until what it has to reach is reached and two frames were painted."
    return page.evaluate(f"""async () => {{ const began = performance.now(); {script};
        while (!({done})) await new Promise(go => setTimeout(go, 4));
        await new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)));
        return (performance.now() - began)/1000; }}""")


SCROLL = """async () => { const box = document.querySelector('.scroll.tall'), gaps = []; let last = performance.now();
    for (let k = 0; k < 120; k++) { box.scrollTop += 180; await new Promise(go => requestAnimationFrame(go)); const now = performance.now(); gaps.push(now - last); last = now; }
    return gaps.sort((a, b) => a - b)[113]/1000; }"""


def measure(path: Path, widths: tuple = (1440, 390)) -> dict:
    "Open and use the page."
    from browser import launched, looked_at
    found, paints, ready = {"size (MB)": path.stat().st_size/1e6}, [], []
    with launched() as chromium:
        for _ in range(3):
            with looked_at(chromium) as look:
                look.open(path, wait="html[data-ready=all]")
                paints.append(look.page.evaluate("performance.getEntriesByType('paint').find(p => p.name === 'first-contentful-paint').startTime")/1000)
                ready.append(look.page.evaluate("performance.getEntriesByName('plotly')[0].startTime")/1000)
        with looked_at(chromium) as look:
            look.open(path, "#planets", "html[data-ready=all]")
            page = look.page
            page.wait_for_timeout(500)
            heads = page.evaluate("[...document.querySelectorAll('#planet-table thead th')].map(h => h.dataset.key)")
            found |= {"first paint (s)": max(paints), "figures ready (s)": max(ready)}
            found["sort (s)"] = max(until_painted(page, f"document.querySelector('th[data-key={heads[k % len(heads)]}] button').click()") for k in range(10))
            def typed(word): return until_painted(page, f"const f = document.getElementById('filter'); f.value = '{word}'; f.dispatchEvent(new Event('input'))")
            found["filter (s)"] = max(typed(word) for word in ("score<0.7", "1", "12", "123", "airs_rmse_ppm>40 score>0.5", "physics", "nothing", "score>0", "largest_z>3", ""))
            found["scrolling, 19 of 20 frames (s)"] = page.evaluate(SCROLL)
            ids = page.evaluate("[...document.querySelectorAll('#planet-table tbody tr')].map(r => r.cells[0].textContent)")
            drawn_ = "document.documentElement.dataset.drawn === '{}'"
            found["planet opened (s)"] = until_painted(page, f"location.hash = 'planet={ids[0]}'", drawn_.format(ids[0]))
            found["page turned (s)"] = max(until_painted(page, "document.getElementById('planet-next').click()", drawn_.format(p)) for p in ids[1:21])
            near = "[...document.querySelectorAll('#catalogue-panel .plot')].filter(p => p.getBoundingClientRect().top < innerHeight + 400).every(p => p.querySelector('.main-svg'))"
            found["catalogue drawn (s)"] = until_painted(page, "location.hash = 'catalogue'; await new Promise(go => setTimeout(go, 50))", near)
            found["memory (MB)"] = page.evaluate("performance.memory.usedJSHeapSize")/1e6
            faults = look.faults()
        axe, wide = [], []
        for width in widths:
            with looked_at(chromium, width) as look:
                look.open(path, wait="html[data-ready=all]")
                for place in ("overview", "planets", f"planet={ids[0]}", "catalogue", "injection", "model", "rules", "provenance"):
                    look.page.evaluate(f"location.hash = '{place}'")
                    look.page.wait_for_timeout(700)
                    axe += look.axe(f"{place} at {width} px:")
                    if look.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"): wide.append(f"{place} at {width} px")
                faults += look.faults()
    for line in [*axe, *faults, *wide]: print(line, file=sys.stderr)
    return found | {"serious axe faults": len(axe), "console faults": len(faults), "wider than the screen": len(wide)}


def main() -> int:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(planets=1100, labels=100, workers=0, seed=7).items(): parse.add_argument(f"--{name}", type=int, default=default)
    parse.add_argument("--work", type=Path, default=HERE.parent/"proof"/"dashboard")
    parse.add_argument("--level", choices=("curves", "spectra"), default="curves")
    parse.add_argument("--out", type=Path)
    args = parse.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    path, told = write(args.planets, args.labels, args.seed, args.work, args.workers or len(os.sched_getaffinity(0)), args.level)
    found = measure(path)
    missed = [name for name, bar in BARS.items() if found[name] > bar]
    print(f"{told['planets']:,} planets, level {told['level']}, score {told['score']:.4f}; {platform.machine()}, {os.cpu_count()} cores")
    for name, bar in BARS.items(): print(f"  {name:28}{found[name]:9.3g}   at most {bar:g}{'   MISSED' if name in missed else ''}")
    out = args.out or (HERE/"proof_dashboard.json" if args.level == "curves" else None)
    if out:
        from spectramind.core.store import write_json
        write_json(out, dict(about=told, machine=dict(architecture=platform.machine(), cores=os.cpu_count(), python=platform.python_version()), bars=BARS, found={k: float(f"{v:.4g}") for k, v in found.items()}, missed=missed))
    return 6 if missed else 0


if __name__ == "__main__": sys.exit(main())
