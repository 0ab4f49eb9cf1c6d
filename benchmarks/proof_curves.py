"""The slow proofs that need hundreds of planets, from light curves to score.

    python benchmarks/proof_curves.py [--parts coverage,oracle,injection,robustness,learning] [--train 300] [--test 1200] [--workers N]
    python benchmarks/proof_curves.py --selftest

coverage    are the error bars right? The truth's place in the posterior, for FGS1, the AIRS bins, their mean and all bins together
oracle      how far from the best possible? A posterior that is told orbit, limb darkening, drift and noise, under the same kind of prior
injection   is a weak band found, at its size, and none where there is none?
robustness  other limb darkening, stronger drift and jitter, wrong star tables, damaged visits
learning    how many labelled planets are enough?

Posteriors are kept in --work, under a hash of the code and the planet they depend on: interrupted, the script resumes where it stopped,
and what other code has made is never used. Prints tables; writes proof_curves.json and PROOF.md. Exit code 6 when a bar is missed.
"""
import argparse
import ast
import hashlib
import inspect
import os
import platform
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

import numpy as np
from scipy import stats
from scipy.linalg import block_diag, cho_factor, cho_solve, eigh

from spectramind.challenge.folds import assert_no_leakage, group_kfold
from spectramind.challenge.wavelength import AIRS_COLUMNS, default_wavelengths, flip_columns
from spectramind.core.determinism import rng_for, single_threaded_blas
from spectramind.core.errors import DataError, InternalError, QualityGateError, SpectraMindError, UsageError
from spectramind.core.logs import progress
from spectramind.core.nouns import DepthPosterior, LightCurves, Spectra
from spectramind.core.store import read_json, read_npz, write_json, write_npz, write_text
from spectramind.lightcurve import prior as prior_room
from spectramind.lightcurve.drift import legendre_basis, unit_interval
from spectramind.lightcurve.fit import FitConfig
from spectramind.lightcurve.model import distance_and_slopes
from spectramind.lightcurve.prior import apply_prior, learn_prior, predict_spectra, prior_row
from spectramind.physics.transit import duration_h, quadratic_flux_grad
from spectramind.pipeline.executor import choose_workers, run_units
from spectramind.pipeline.products import posterior_arrays, posterior_from
from spectramind.pipeline.units import fit_sound
from spectramind.scoring.oracle import ORACLE_STEPS, oracle_drift, oracle_planets, oracle_posterior, oracle_prior, oracle_transit, oracle_weight
from spectramind.scoring.score import SIGMA_CLIP, naive_statistics, score, score_cells
from spectramind.scoring.shares import wilson
from spectramind.scoring.submission import clamp
from spectramind.simulate.curves import simulate_light_curves
from spectramind.simulate.population import WINDOW_H, Planet, draw_mid_times, draw_population
from spectramind.simulate.scene import draw_drift
from spectramind.simulate.visit import PROFILES, Conditions, ProfileSpec, pair_times, star_factor

HERE = Path(__file__).resolve().parent
PARTS = ("coverage", "oracle", "injection", "robustness", "learning")
TIME_BINS = 282                          # of a simulated visit, at most
LEVELS = (.50, .6827, .90, .95)          # nominal coverages
UM = default_wavelengths()


# ---------------------------------------------------------------------------------------------------------- what a part reports

@dataclass
class Report:
    "One part of the proof: tables to look at, bars to hold."
    title: str
    text: list    # sentences about how it was done
    tables: list  # dicts: caption, header, rows
    bars: list    # dicts: name, found, wanted, met
    numbers: dict # what else is worth keeping, JSON-able


def bar(name: str, found: float, low: float = -np.inf, high: float = np.inf, digits: int = 3) -> dict:
    "One bar: the value has to lie between two limits."
    wanted = f"{low:.{digits}f} to {high:.{digits}f}" if np.isfinite([low, high]).all() else f"at most {high:.{digits}f}" if np.isfinite(high) else f"at least {low:.{digits}f}"
    return dict(name=name, found=f"{found:.{digits}f}", wanted=wanted, met=bool(low <= found <= high))


def markdown(caption: str, header: list, rows: list) -> str:
    "A table with aligned columns, readable as text and as markdown."
    cells = [[" ".join(str(c).split()).replace("|", "/") for c in row] for row in [header, *rows]]
    width = [max(len(row[j]) for row in cells) for j in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) if j == 0 else c.rjust(w) for j, (c, w) in enumerate(zip(row, width))) + " |" for row in cells]
    rule = "|" + "|".join("-"*(w + 2) if j == 0 else "-"*(w + 1) + ":" for j, w in enumerate(width)) + "|"
    return "\n".join([f"**{caption}**", "", lines[0], rule, *lines[1:], ""])


def render(report: dict) -> str:
    "One part in markdown."
    out = [f"## {report['title']}", "", " ".join(report["text"]), ""] + [markdown(**t) for t in report["tables"]]
    if report["bars"]: out.append(markdown("Bars", ["", "found", "wanted", ""], [[b["name"], b["found"], b["wanted"], "met" if b["met"] else "MISSED"] for b in report["bars"]]))
    return "\n".join(out)


def percent(x: float, digits: int = 1) -> str:
    return "" if x is None or not np.isfinite(x) else f"{100*x:.{digits}f}"


# ---------------------------------------------------------------------------------------------------------- planets

BLOCK = 100 # planets are drawn in blocks of so many, so that more of them begin with the same ones


@lru_cache(maxsize=64)
def population(role: str, n: int, seed: int, law: str = "quadratic", partial: bool = False) -> tuple:
    "Planets of one role; roles share no planet, and a larger number begins with the smaller one's planets."
    blocks = [draw_population(BLOCK, int(rng_for(seed, "proof", role, i).integers(1 << 31)), law=law, partial=partial) for i in range(-(-n//BLOCK))]
    return tuple(p for block in blocks for p in block)[:n]


@dataclass(frozen=True)
class Condition:
    "A way in which planets are observed."
    name: str
    conditions: Conditions = Conditions()
    spoil: str = ""             # a key of SPOILS: what is done to the light curves
    wrong_star: bool = False    # the star table lists another orbit
    twice: bool = False         # every planet has two visits
    own_prior: bool = False     # also with a prior learnt from planets observed like this
    @property
    def honest(self) -> bool: return not self.spoil and self.conditions.jitter_scale == 1 # the noise is what it is said to be: the oracle can be asked


CONDITIONS = {c.name: c for c in (
    Condition("nominal"),
    Condition("law power2", Conditions(law="power2"), own_prior=True),
    Condition("law linear", Conditions(law="linear"), own_prior=True),
    Condition("law claret4", Conditions(law="claret4"), own_prior=True),
    Condition("drift x 3", Conditions(drift_scale=3.)),
    Condition("jitter x 3, 3 bursts", Conditions(jitter_scale=3., jitter_bursts=3)),
    Condition("partial transits", Conditions(partial=True), own_prior=True),
    Condition("2 % dead pixels", Conditions(dead_fraction=.02)),
    Condition("wrong orbit listed", wrong_star=True),
    Condition("two visits", twice=True),
    Condition("two, one with a 2 % ramp", spoil="one ramp", twice=True),
    Condition("two, one glitched", spoil="one glitch", twice=True),
    Condition("two, one is garbage", spoil="one garbage", twice=True),
    Condition("glitch: 5 % of time x 0.97", spoil="glitch"),
    Condition("5 % of time clipped", spoil="clip"),
    Condition("1 % exponential ramp", spoil="hook"),
    Condition("last 10 % missing", spoil="cut"))}


def observed(condition: Condition, role: str, n: int, seed: int) -> list:
    "The planets of a condition: the same ones as nominal, but for what the condition changes."
    planets = population(role, n, seed, condition.conditions.law, condition.conditions.partial)
    if condition.twice: planets = [with_two_visits(p, seed) for p in planets]
    if condition.wrong_star: planets = [with_wrong_star(p, seed) for p in planets]
    return list(planets)


def with_two_visits(planet: Planet, seed: int) -> Planet:
    "The same planet, seen twice."
    t14_h = duration_h(planet.period_d, planet.a_rs, planet.inc_deg, planet.depth.mean()**.5)
    return replace(planet, t0_h=draw_mid_times(rng_for(seed, "proof", "twice", planet.planet_id), 2, t14_h))


def with_wrong_star(planet: Planet, seed: int) -> Planet:
    "The same planet; the listed a/Rs is 25 % too large and the listed inclination off by 1.5 degrees, to either side."
    inc = planet.star.inc_deg + 1.5*rng_for(seed, "proof", "star", planet.planet_id).choice([-1, 1])
    return replace(planet, star=replace(planet.star, a_rs=1.25*planet.star.a_rs, inc_deg=min(inc, 180 - inc)))


# ---------------------------------------------------------------------------------------------------------- spoilt light curves

def times_gain(curves: LightCurves, gain) -> LightCurves:
    "Flux of both instruments times a function of time in h."
    return replace(curves, flux=curves.flux*gain(curves.time_h)[:, None], fgs1_flux=curves.fgs1_flux*gain(curves.fgs1_time_h))


def stretch(rng: np.random.Generator, share: float = .05) -> tuple:
    "Begin and end of a stretch of the visit, h."
    start = rng.uniform(0, WINDOW_H*(1 - share))
    return start, start + share*WINDOW_H


def glitch(curves: LightCurves, rng: np.random.Generator) -> LightCurves:
    "5 % of the time at 0.97 of the flux."
    a, b = stretch(rng)
    return times_gain(curves, lambda t: np.where((t > a) & (t < b), .97, 1.))


def clip_flux(curves: LightCurves, rng: np.random.Generator) -> LightCurves:
    "5 % of the time saturated at 0.98 of each wavelength's median."
    a, b = stretch(rng)
    def saturate(flux, t): return np.where(((t > a) & (t < b)).reshape(-1, *[1]*(flux.ndim - 1)), np.minimum(flux, .98*np.median(flux, axis=0)), flux)
    return replace(curves, flux=saturate(curves.flux, curves.time_h), fgs1_flux=saturate(curves.fgs1_flux, curves.fgs1_time_h))


def hook(curves: LightCurves, rng: np.random.Generator) -> LightCurves:
    "A 1 % exponential ramp that is over after 45 minutes."
    return times_gain(curves, lambda t: 1 - .01*np.exp(-t/.25))


def ramp(curves: LightCurves, rng: np.random.Generator) -> LightCurves:
    "A straight ramp of 2 % through the visit."
    return times_gain(curves, lambda t: 1 + .02*(t/WINDOW_H - .5))


def garbage(curves: LightCurves, rng: np.random.Generator) -> LightCurves:
    "Random walks of 5 % instead of a star."
    def walk(flux):
        w = np.cumsum(rng.standard_normal(flux.shape), axis=0)
        return np.median(flux, axis=0)*(1 + .05*(w - w.mean(0))/w.std(0))
    return replace(curves, flux=walk(curves.flux), fgs1_flux=walk(curves.fgs1_flux))


def cut_off(curves: LightCurves, rng: np.random.Generator) -> LightCurves:
    "The last 10 % of the frames do not count."
    seen = curves.time_h < .9*WINDOW_H
    return replace(curves, valid=curves.valid & seen[:, None], fgs1_valid=curves.fgs1_valid & (curves.fgs1_time_h < .9*WINDOW_H))


SPOILS = {"glitch": glitch, "clip": clip_flux, "hook": hook, "cut": cut_off, "one ramp": ramp, "one glitch": glitch, "one garbage": garbage}


def spoilt(curves: list, spoil: str, rng: np.random.Generator) -> list:
    "Light curves after a mishap: in every visit, or for 'one ...' in one of them."
    chosen = int(rng.integers(len(curves))) if spoil.startswith("one ") else None
    return [SPOILS[spoil](c, rng) if spoil and chosen in (None, v) else c for v, c in enumerate(curves)]


# ---------------------------------------------------------------------------------------------------------- fits, kept on disk

@lru_cache(maxsize=8)
def source_hash(*modules: str) -> str:
    "A hash of modules and everything of this package that they import; comments and line breaks do not count."
    seen, todo = {}, list(modules)
    while todo:
        name = todo.pop()
        if name in seen: continue
        spec = find_spec(name)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        seen[name] = ast.dump(tree)
        package = name if spec.submodule_search_locations else name.rpartition(".")[0]
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom): continue
            base = resolve_name("."*node.level + (node.module or ""), package) if node.level else node.module
            if base.partition(".")[0] == "spectramind": todo += [base] + [f"{base}.{a.name}" for a in node.names if find_spec(base).submodule_search_locations and find_spec(f"{base}.{a.name}")]
    return hashlib.sha256("".join(f"{k}\n{seen[k]}\n" for k in sorted(seen)).encode()).hexdigest()


@lru_cache(maxsize=1)
def fit_key() -> str:
    "What a fit depends on besides its planet."
    code = source_hash("spectramind.lightcurve.fit", "spectramind.simulate.curves", "spectramind.simulate.population") + inspect.getsource(fit_sound)
    return hashlib.sha256(f"{code} {FitConfig()} {TIME_BINS}".encode()).hexdigest()[:12]


@lru_cache(maxsize=1)
def oracle_key() -> str:
    "What an oracle's answer depends on besides its planet."
    code = "".join(inspect.getsource(f) for f in (oracle_drift, oracle_transit, oracle_weight, oracle_posterior))
    return hashlib.sha256(f"{fit_key()} {code} {ORACLE_STEPS}".encode()).hexdigest()[:12]


@lru_cache(maxsize=1)
def informed_key() -> str:
    "What an informed oracle's covariance depends on besides its planet."
    return hashlib.sha256((oracle_key() + "".join(inspect.getsource(f) for f in (drift_population, slopes_of, informed_posterior, do_informed))).encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Order:
    "Simulate the light curves of a planet and fit them, unless that has been done."
    planet: Planet
    condition: str  # a key of CONDITIONS
    seed: int       # of instrument and noise
    work: str       # where posteriors are kept
    key: str        # `fit_key()` of the process that gives the order
    oracle: bool = False # also ask the oracle
    @property
    def tag(self) -> str:
        "Names this planet as it is observed."
        p, condition = self.planet, CONDITIONS[self.condition]
        facts = (p.star, p.period_d, p.a_rs, p.inc_deg, p.t0_h, p.law, p.brightness, self.seed, condition.conditions, "".join(map(inspect.getsource, (spoilt, times_gain, stretch, SPOILS[condition.spoil]))) if condition.spoil else "")
        return hashlib.sha256(repr(facts).encode() + p.depth.tobytes() + p.coeffs.tobytes()).hexdigest()[:12]
    @property
    def path(self) -> Path: return Path(self.work)/self.key/self.condition.replace(" ", "_").replace("%", "pc")/f"{self.planet.planet_id}_{self.tag}.npz"
    @property
    def oracle_path(self) -> Path: return Path(self.work)/f"oracle_{oracle_key()}"/self.path.parent.name/self.path.name
    @property
    def informed_path(self) -> Path: return Path(self.work)/f"informed_{informed_key()}"/self.path.name
    @property
    def todo(self) -> bool: return not self.path.exists() or (self.oracle and not self.oracle_path.exists())


def do_order(order: Order) -> str:
    "Simulate, fit, keep; returns what became of it: fitted, refused or crashed."
    if fit_key() != order.key: raise InternalError("the source changed while this was running", hint="start again: fits of the new source are kept apart")
    warnings.simplefilter("ignore", RuntimeWarning) # as the pipeline's workers do
    condition = CONDITIONS[order.condition]
    with single_threaded_blas():
        curves = simulate_light_curves(order.planet, order.seed, time_bins=TIME_BINS, conditions=condition.conditions)
        if order.oracle and not order.oracle_path.exists():
            found = oracle_posterior(curves, order.planet, order.seed, condition.conditions)
            write_npz(order.oracle_path, mean=found.mean, variance=np.diag(found.cov))
        if order.path.exists(): return "kept"
        curves = spoilt(curves, condition.spoil, rng_for(order.seed, "proof", "spoil", order.planet.planet_id))
        try: posterior, _ = fit_sound(curves, order.planet.star, FitConfig())
        except Exception as error:
            kind = "refused" if isinstance(error, SpectraMindError) else "crashed"
            write_npz(order.path, fault=np.array([kind, getattr(error, "message", repr(error)), traceback.format_exc()])) # the traceback is for whoever looks into the file
            return kind
        arrays = posterior_arrays(replace(posterior, curves={}))
        write_npz(order.path, **{k: v for k, v in arrays.items() if k != "cov"}, cov=arrays["cov"][np.tril_indices(283)])
    return "fitted"


def square(lower: np.ndarray) -> np.ndarray:
    "A symmetric (283, 283) matrix from its lower triangle."
    out = np.zeros((283, 283))
    out[np.tril_indices(283)] = lower
    return out + np.tril(out, -1).T


def read_fit(order: Order) -> tuple:
    "The posterior, or None with (kind, reason)."
    arrays = read_npz(order.path)
    if "fault" in arrays: return None, tuple(map(str, arrays["fault"][:2]))
    return posterior_from(order.planet.planet_id, arrays | dict(cov=square(arrays["cov"]))), None


def read_oracle(order: Order) -> DepthPosterior:
    "The oracle's posterior."
    found = read_npz(order.oracle_path, "mean", "variance")
    return DepthPosterior(order.planet.planet_id, found["mean"], np.diag(found["variance"]), quality=dict(flag=False))


@dataclass(frozen=True)
class Setting:
    "What is asked for on the command line."
    seed: int
    train: int
    test: int
    condition_train: int
    condition_test: int
    injection: int
    oracle_labels: int
    learning_test: int
    workers: int
    work: str

    def orders(self, condition: str, role: str, n: int, oracle: bool = False) -> list:
        "Orders for the planets of a condition."
        return [Order(p, condition, self.seed, self.work, fit_key(), oracle) for p in observed(CONDITIONS[condition], role, n, self.seed)]

    def carry_out(self, orders: list, description: str) -> None:
        "Do what has not been done yet; what goes wrong outside of a fit stops the proof."
        todo = {str(o.path): o for o in orders if o.todo}
        run(do_order, list(todo.items()), self.workers, description)


def run(function, tasks: list, workers: int, description: str) -> list:
    "Results of all tasks, in order, on several processes; the first failure is raised."
    kind = "processes" if choose_workers(workers, max(len(tasks), 1)) > 1 else "serial"
    outcomes = run_units(function, tasks, kind=kind, workers=workers, warm=True, description=description)
    for o in outcomes:
        if not o.ok: raise InternalError(f"{o.key}: {o.failure.message}\n{o.failure.detail}")
    return [o.value for o in outcomes]


# ---------------------------------------------------------------------------------------------------------- from posteriors to judgements

def final_spectrum(posterior: DepthPosterior, prior) -> tuple:
    "Mean and covariance after every correction and the prior."
    if hasattr(prior_room, "posterior_spectrum"): return prior_room.posterior_spectrum(posterior, prior)
    return apply_prior(prior_room.correct_foreground(posterior, prior.foreground), prior)


@dataclass(frozen=True, eq=False)
class Judged:
    "Planets, what is said of them, and how far from the truth that is."
    planets: list
    truth: np.ndarray    # (planet, 283)
    spectra: Spectra     # as submitted
    sound: np.ndarray    # (planet,) True where the fit is trusted
    faults: list         # (planet id, kind, reason) of all others
    z: dict              # 'final', 'likelihood' -> (planet, 283) errors over sigma; nan where not sound
    z_mean: dict         # the same for the AIRS mean (planet,)
    d2: dict             # squared Mahalanobis distance of all bins (planet,)
    d2_wide: dict        # the same along the WIDE widest directions of the covariance (planet,)
    inflate: np.ndarray  # (planet, 2) factors on the covariance
    def score(self, naive: tuple): return score((self.spectra.planet_id, self.truth), clamp(self.spectra)[0], *naive)


WIDE = 10 # directions


def distances(mean: np.ndarray, cov: np.ndarray, truth: np.ndarray) -> tuple:
    "Errors over sigma (283,), the same of the AIRS mean, and squared Mahalanobis distances: of all bins, and along the widest directions."
    error = mean - truth
    value, vector = eigh(cov, subset_by_index=[283 - WIDE, 282])
    d2 = float(error@cho_solve(cho_factor(cov + 1e-18*np.eye(283) + 1e-13*np.diag(np.diag(cov))), error))
    return error/np.sqrt(np.diag(cov)), error[1:].mean()/np.sqrt(cov[1:, 1:].mean()), d2, float(((error@vector)**2/value).sum())


def judge(orders: list, prior, description: str, oracle: bool = False, silent: bool | None = None) -> Judged:
    "Apply the prior to fits that have been made, or to the oracle's answers, and compare with the truth."
    n = len(orders)
    mu, sigma, sound, inflate, faults = np.zeros((n, 283)), np.zeros((n, 283)), np.zeros(n, bool), np.full((n, 2), np.nan), []
    z, z_mean, d2, d2_wide = ({k: np.full(shape, np.nan) for k in ("final", "likelihood")} for shape in ((n, 283), n, n, n))
    for i, order in enumerate(progress(orders, description, silent=silent)):
        posterior, fault = (read_oracle(order), None) if oracle else read_fit(order)
        if posterior is not None and posterior.quality.get("flag", False): fault = ("flagged", posterior.quality.get("reason", ""))
        if fault:
            faults.append((order.planet.planet_id, *fault))
            mu[i], sigma[i] = prior_row(prior)
            continue
        found = apply_prior(posterior, prior) if oracle else final_spectrum(posterior, prior)
        if not (np.isfinite(found[0]).all() and (np.diag(found[1]) > 0).all()): # `predict_spectra` gives it the prior's row, too
            faults.append((order.planet.planet_id, "flagged", "the final covariance is not positive"))
            mu[i], sigma[i] = prior_row(prior)
            continue
        mu[i], sigma[i], sound[i] = found[0], np.sqrt(np.diag(found[1])), True
        inflate[i] = [posterior.quality.get(f"inflate_{k}", np.nan) for k in ("fgs1", "airs")]
        if not i and not oracle: same_as_pipeline(posterior, prior, mu[i], sigma[i])
        for kind, (m, c) in dict(final=found, likelihood=(posterior.mean, posterior.cov)).items():
            z[kind][i], z_mean[kind][i], d2[kind][i], d2_wide[kind][i] = distances(m, c, order.planet.depth)
    planets = [o.planet for o in orders]
    spectra = Spectra(np.array([p.planet_id for p in planets]), mu, sigma, tuple(np.where(sound, "physics", "prior").tolist()))
    return Judged(planets, np.array([p.depth for p in planets]), spectra, sound, faults, z, z_mean, d2, d2_wide, inflate)


def same_as_pipeline(posterior: DepthPosterior, prior, mu: np.ndarray, sigma: np.ndarray) -> None:
    "Make sure that what is judged here is what `predict` writes."
    found = predict_spectra([posterior], prior)
    if not (np.allclose(found.mu[0], mu, rtol=1e-9) and np.allclose(found.sigma[0], sigma, rtol=1e-6)):
        raise InternalError("predict_spectra says something else than posterior_spectrum", hint="the proof has to judge what is submitted")


def naive_of(setting: Setting) -> tuple:
    "The host's naive mean and sigma, from the training labels."
    return naive_statistics(np.array([p.depth for p in population("train", setting.train, setting.seed)]))


def learnt_prior(orders: list, seed: int):
    "The prior from training fits that have been made, without those that were refused."
    pairs = [(read_fit(o)[0], o.planet.depth) for o in orders]
    posteriors, labels = zip(*[(p, d) for p, d in pairs if p is not None])
    folds = group_kfold([p.planet_id for p in posteriors], min(5, len(posteriors)), seed)
    with single_threaded_blas(): return learn_prior(list(posteriors), np.array(labels), folds)


@lru_cache(maxsize=2)
def nominal_prior(setting: Setting):
    "The prior from the nominal training planets."
    orders = setting.orders("nominal", "train", setting.train)
    setting.carry_out(orders, "training planets")
    print("learning the prior ...", file=sys.stderr, flush=True)
    return learnt_prior(orders, setting.seed)


def test_orders(setting: Setting) -> list:
    "The test planets, fitted, with the oracle's answers; none of them is a training planet."
    orders = setting.orders("nominal", "test", setting.test, oracle=True)
    others = population("train", setting.train, setting.seed) + oracle_planets(setting.oracle_labels, setting.seed)
    assert_no_leakage([o.planet.planet_id for o in orders], [p.planet_id for p in others])
    setting.carry_out(orders, "test planets")
    return orders


@lru_cache(maxsize=2)
def judged_test(setting: Setting) -> Judged:
    "The test planets under the nominal prior."
    return judge(test_orders(setting), nominal_prior(setting), "judging test planets")


@lru_cache(maxsize=2)
def judged_oracle(setting: Setting) -> Judged:
    "The test planets as the oracle sees them."
    return judge(test_orders(setting), oracle_prior(setting.oracle_labels, setting.seed), "asking the oracle", oracle=True)


# ---------------------------------------------------------------------------------------------------------- A: coverage

TARGETS = ("FGS1", "AIRS bins", "AIRS mean", "all 283 bins", f"{WIDE} widest directions")
BARRED = TARGETS[:4]


def shares_inside(judged: Judged, kind: str, rows: np.ndarray) -> dict:
    "Target -> observed coverage at each of LEVELS."
    reach = stats.norm.ppf(.5 + np.array(LEVELS)/2)
    inside = lambda z: (np.abs(z)[..., None] <= reach).mean(tuple(range(np.ndim(z))))
    below = lambda d2, n: (d2[rows, None] <= stats.chi2.ppf(LEVELS, n)).mean(0)
    z = judged.z[kind][rows]
    return dict(zip(TARGETS, (inside(z[:, 0]), inside(z[:, 1:]), inside(judged.z_mean[kind][rows]), below(judged.d2[kind], 283), below(judged.d2_wide[kind], WIDE))))


def random_bin(judged: Judged, kind: str, seed: int) -> np.ndarray:
    "Error over sigma of one AIRS bin of each planet, always the same one."
    picks = [int(rng_for(seed, "proof", "bin", p.planet_id).integers(1, 283)) for p in judged.planets]
    return judged.z[kind][np.arange(len(picks)), picks]


def scalar_errors(judged: Judged, kind: str, seed: int) -> dict:
    "The errors over sigma whose distribution is tested: one number per planet each."
    return {"FGS1": judged.z[kind][:, 0], "AIRS mean": judged.z_mean[kind], "one AIRS bin": random_bin(judged, kind, seed)}


def pit_p_value(z: np.ndarray) -> float:
    "Kolmogorov-Smirnov p-value of the probability integral transform being uniform."
    return float(stats.kstest(stats.norm.cdf(z), "uniform").pvalue) if len(z) else float("nan")


def coverage_rows(judged: Judged, kind: str, rows: np.ndarray, label: str) -> list:
    "Table rows: observed coverage in percent with its interval, one trial per planet."
    n, out = int(rows.sum()), []
    for target, shares in shares_inside(judged, kind, rows).items():
        cells = [f"{100*s:.1f} ({100*low:.0f} to {100*high:.0f})" for s, (low, high) in ((s, map(float, wilson(s, n))) for s in shares)]
        out.append([label, target, n, *cells])
    return out


def spread_rows(judged: Judged, kind: str, rows: np.ndarray, label: str, seed: int) -> list:
    "Table rows: mean, rms and robust width of errors over sigma, and the p-value."
    out = []
    for target, z in scalar_errors(judged, kind, seed).items():
        z = z[rows]
        out.append([label, target, len(z), f"{z.mean():+.2f}", f"{np.sqrt((z**2).mean()):.2f}", f"{1.4826*np.median(np.abs(z)):.2f}", f"{pit_p_value(z):.3g}"])
    for name, d2 in (("all bins: d²/283, mean and median", judged.d2[kind][rows]/283), (f"widest: d²/{WIDE}, mean and median", judged.d2_wide[kind][rows]/WIDE)):
        out.append([label, name, len(d2), "", f"{d2.mean():.2f}", f"{np.median(d2):.2f}", ""])
    return out


def third_rows(judged: Judged, kind: str, rows: np.ndarray, label: str, seed: int) -> list:
    "Table rows of one group of planets: coverages and errors over sigma beside each other."
    errors, d2 = scalar_errors(judged, kind, seed), {TARGETS[3]: judged.d2[kind][rows]/283, TARGETS[4]: judged.d2_wide[kind][rows]/WIDE}
    of = {"FGS1": "FGS1", "AIRS bins": "one AIRS bin", "AIRS mean": "AIRS mean"}
    out = []
    for target, shares in shares_inside(judged, kind, rows).items():
        z = errors[of[target]][rows] if target in of else None
        spread = ["", f"d²/n {d2[target].mean():.2f}", f"{np.median(d2[target]):.2f}", ""] if z is None else [f"{z.mean():+.2f}", f"{np.sqrt((z**2).mean()):.2f}", f"{1.4826*np.median(np.abs(z)):.2f}", f"{pit_p_value(z):.2g}"]
        out.append([label, target, int(rows.sum()), *map(percent, shares), *spread])
    return out


def groups(judged: Judged) -> dict:
    "Thirds of the sound planets by depth, brightness and duration."
    values = dict(depth=judged.truth[:, 1:].mean(1), brightness=np.array([p.brightness for p in judged.planets]),
                  duration=np.array([duration_h(p.period_d, p.a_rs, p.inc_deg, p.depth.mean()**.5) for p in judged.planets]))
    out = {}
    for name, v in values.items():
        low, high = np.quantile(v[judged.sound], [1/3, 2/3])
        for word, rows in (("low", v <= low), ("middle", (v > low) & (v <= high)), ("high", v > high)): out[f"{name}: {word} third"] = rows & judged.sound
    return out


def prove_coverage(setting: Setting) -> Report:
    "Part A."
    judged, naive = judged_test(setting), naive_of(setting)
    report, first = judged.score(naive), judged.sound & (np.arange(len(judged.sound)) < 300)
    thirds, kinds = groups(judged), ("final", "likelihood")
    everyone = {"all": judged.sound} | ({"first 300": first} if len(first) > 300 else {})
    bars = [bar(f"{target}: coverage at {100*level:g} %, points off", 100*(share - level), -3, 3, 2)
            for target, shares in shares_inside(judged, "final", judged.sound).items() if target in BARRED for level, share in zip(LEVELS, shares)]
    bars += [bar(f"{target}: KS p-value, {name}", pit_p_value(z[rows]), .01, digits=4) for name, rows in everyone.items()
             for target, z in scalar_errors(judged, "final", setting.seed).items()]
    header = ["", "", "planets", *(f"{100*level:g} %" for level in LEVELS)]
    spread = ["", "", "planets", "mean z", "rms z", "robust", "KS p"]
    scores = [["score", f"{report.total:.4f}"], ["FGS1 part", f"{report.fgs1:.4f}"], ["AIRS part", f"{report.airs:.4f}"], ["sound planets", f"{judged.sound.sum()} of {len(judged.sound)}"],
              ["rmse FGS1, AIRS (ppm)", "{:.0f}, {:.0f}".format(*np.sqrt((report.rmse_ppm**2).mean(0)))], ["median rmse FGS1, AIRS (ppm)", "{:.0f}, {:.0f}".format(*np.median(report.rmse_ppm, 0))],
              ["median inflation of variance FGS1, AIRS", "{:.2f}, {:.2f}".format(*np.nanmedian(judged.inflate, 0))]]
    tables = [dict(caption="Score", header=["", "found"], rows=scores)]
    for kind in kinds:
        rows = [r for label, pick in everyone.items() for r in coverage_rows(judged, kind, pick, label)]
        tables.append(dict(caption=f"Coverage, {kind} (percent of planets, 95 % interval)", header=header, rows=rows))
        rows = [r for label, pick in everyone.items() for r in spread_rows(judged, kind, pick, label, setting.seed)]
        tables.append(dict(caption=f"Errors over sigma, {kind}", header=spread, rows=rows))
    for kind in kinds:
        rows = [r for label, pick in thirds.items() for r in third_rows(judged, kind, pick, label, setting.seed)]
        tables.append(dict(caption=f"Thirds of the planets, {kind}: coverage in percent, errors over sigma", header=[*header, *spread[3:]], rows=rows))
    if judged.faults: tables.append(dict(caption="Not trusted", header=["planet", "", "reason"], rows=[list(f) for f in judged.faults[:40]]))
    keep_planets(setting, judged)
    text = [f"{setting.train} training and {setting.test} test planets, simulated light curves, nominal conditions.", "Intervals count one trial per planet.",
            "'final' is what is submitted; 'likelihood' is the fit without prior or corrections.",
            "The distance of all 283 bins is ruled by directions far below 1 ppm, where the prior alone speaks: a prior that does not know the size of a planet's features, but marginalises it, is no Gaussian there,"
            f" and cannot follow chi² with 283 degrees of freedom; the {WIDE} widest directions of the covariance say what matters.", "Planets whose fit is not trusted count in the score, not in the coverage."]
    return Report("Coverage", text, tables, bars, report.metrics() | dict(sound=int(judged.sound.sum())))


def keep_planets(setting: Setting, judged: Judged) -> None:
    "A table of all test planets, for whoever wants to look closer."
    write_npz(Path(setting.work)/"coverage_planets.npz", planet_id=judged.spectra.planet_id, sound=judged.sound, truth=judged.truth, mu=judged.spectra.mu, sigma=judged.spectra.sigma,
              brightness=np.array([p.brightness for p in judged.planets]), a_rs=np.array([p.a_rs for p in judged.planets]), inc_deg=np.array([p.inc_deg for p in judged.planets]),
              **{f"{name}_{kind}": values[kind] for name, values in (("z", judged.z), ("z_mean", judged.z_mean), ("d2", judged.d2), ("d2_wide", judged.d2_wide)) for kind in values})


# ---------------------------------------------------------------------------------------------------------- what not knowing costs

UNKNOWN = {"nothing": (), "orbit": ("orbit",), "limb darkening": ("limb",), "drift": ("drift",), "all three": ("orbit", "limb", "drift")}


@lru_cache(maxsize=2)
def drift_population(width: int, order: int = 4, draws: int = 4000) -> np.ndarray:
    "Covariance (4, 4) of the Legendre coefficients 1 to 4 in time of the simulator's drifts; for AIRS of their rms over wavelength."
    x, out = np.linspace(0, 1, 281), []
    solve = np.linalg.pinv(legendre_basis(unit_interval(x), order))
    for i in range(draws):
        rng = rng_for(0, "proof", "drift", width, i)
        f, g = draw_drift(rng, x, np.linspace(0, 1, width), rng.uniform(.2e-3, 2.5e-3))
        out.append((solve@f)[1:]*(g[0] if width == 1 else np.sqrt((flip_columns(g)**2).mean())))
    return np.array(out).T@np.array(out)/draws


def slopes_of(curves: list, planet: Planet, drift: list, unknown: str) -> tuple:
    """How the light curves change with what is not known, at the truth: (parameter, visit, time, 283), and the population's covariance of it.

    orbit: mid-times free, a/Rs and inclination as uncertain as the star table's. limb: the simulator's own scatter. drift: four orders in time, shape in wavelength known."""
    if planet.law != "quadratic": raise UsageError(f"law: found {planet.law!r}, wanted quadratic", hint="slopes are only known for this law")
    V, airs, k = len(curves), np.arange(283) > 0, np.sqrt(planet.depth)
    b, b_listed, tilt = planet.a_rs*np.cos(np.radians(planet.inc_deg)), planet.star.a_rs*np.cos(np.radians(planet.star.inc_deg)), planet.star.a_rs*np.radians(.55)
    found = []
    for v, c in enumerate(curves):
        zeta, dz = distance_and_slopes(c.time_h, planet.t0_h[c.visit], np.log(planet.a_rs), b*b, planet.period_d)
        transit, _, by_z, by_u1, by_u2 = quadratic_flux_grad(zeta, k, planet.coeffs[:, 0], planet.coeffs[:, 1])
        if unknown == "orbit": slopes = [by_z*dz[:, :1]*(u == v) for u in range(V)] + [by_z*dz[:, j:j + 1] for j in (1, 2)]
        elif unknown == "limb":
            u1, u2, tone = planet.coeffs[:, 0]*airs, planet.coeffs[:, 1]*airs, np.log(UM/2.9)
            slopes = [by_u1*~airs, by_u2*~airs, by_u1*u1, by_u1*u1*tone, by_u2*u2, by_u2*u2*tone]
        else:
            shape = drift[v] - drift[v].mean(0)                          # rank one: its largest singular vector is the shape in wavelength
            g = np.linalg.svd(shape[:, 1:], full_matrices=False)[2][0]
            time = legendre_basis(unit_interval(c.time_h), 4, 1).T[:, :, None]
            slopes = [part*transit/drift[v]*(u == v) for u in range(V) for part in (*(time*~airs), *(time*np.r_[0, g/np.sqrt((g**2).mean())]))]
        found.append(np.array(slopes)*drift[v])
    if unknown == "orbit": cov = np.diag([4.]*V + [.0563**2, (2*b_listed*tilt)**2 + 2*tilt**4 + 1e-4])
    elif unknown == "limb": cov = np.diag([.04, .03, .015/.12, .087, .02/.105, .173])**2
    else: cov = block_diag(*[drift_population(1), drift_population(AIRS_COLUMNS)]*V)
    return np.array(found).transpose(1, 0, 2, 3), cov


def informed_posterior(curves: list, planet: Planet, seed: int, unknown: tuple) -> tuple:
    "The oracle's covariance when it knows of some things only what their population is: variances (283,) and a factor (283, parameter) of the rest."
    V = len(curves)
    drift = [oracle_drift(c, planet, seed, 1., PROFILES["science"]) for c in curves]
    weight = [oracle_weight(c, "given")*np.median(c.flux, axis=0)**2 for c in curves]
    own = np.zeros((V + 1, V, len(curves[0].time_h), 283))               # slopes with levels and depth
    for v, c in enumerate(curves):
        transit, slope = oracle_transit(c, planet, planet.depth)
        own[v, v], own[V, v] = drift[v]*transit, drift[v]*slope
    H = np.einsum("avtw,vtw,bvtw->wab", own, weight, own, optimize=True) + 1e-2*np.eye(V + 1)
    variance = np.linalg.inv(H)[:, V, V]
    if not unknown: return variance, np.zeros((283, 0))
    parts = [slopes_of(curves, planet, drift, name) for name in unknown]
    slopes, cov = np.concatenate([p[0] for p in parts]), block_diag(*[p[1] for p in parts])
    weighted = slopes*np.array(weight)
    C = np.einsum("pvtw,avtw->wap", weighted, own, optimize=True)
    HC = np.linalg.solve(H, C)
    schur = np.linalg.inv(cov) + weighted.reshape(len(slopes), -1)@slopes.reshape(len(slopes), -1).T - np.einsum("wap,waq->pq", C, HC, optimize=True)
    return variance, np.linalg.solve(np.linalg.cholesky(schur), HC[:, V].T).T


def do_informed(order: Order) -> None:
    "Keep the covariances of every case of UNKNOWN."
    if order.informed_path.exists(): return
    with single_threaded_blas():
        curves, kept = simulate_light_curves(order.planet, order.seed, time_bins=TIME_BINS), {}
        for i, unknown in enumerate(UNKNOWN.values()): kept[f"variance_{i}"], kept[f"factor_{i}"] = informed_posterior(curves, order.planet, order.seed, unknown)
        write_npz(order.informed_path, **kept)


def cost_rows(setting: Setting, n: int) -> tuple:
    "Expected scores when things are known only as a population, for the first test planets: table rows and numbers."
    orders, naive, prior = setting.orders("nominal", "test", n), naive_of(setting), oracle_prior(setting.oracle_labels, setting.seed)
    run(do_informed, [(str(o.path), o) for o in orders if not o.informed_path.exists()], setting.workers, "what not knowing costs")
    truth, ids = np.array([o.planet.depth for o in orders]), np.array([o.planet.planet_id for o in orders])
    found = {name: np.zeros((2, n, 283)) for name in UNKNOWN}
    for i, o in enumerate(progress(orders, "judging what is known")):
        kept, told, noise = read_npz(o.informed_path), read_oracle(o).mean, rng_for(o.seed, "proof", "informed", o.planet.planet_id).standard_normal(100)
        for j, name in enumerate(UNKNOWN):
            variance, factor = kept[f"variance_{j}"], kept[f"factor_{j}"]
            mean = told + factor@noise[:factor.shape[1]]     # the oracle's own error, and a draw of what it is not told
            mu, cov = apply_prior(DepthPosterior(int(ids[i]), mean, np.diag(variance) + factor@factor.T), prior)
            found[name][:, i] = mu, np.sqrt(np.diag(cov))
    reports = {name: score((ids, truth), clamp(Spectra(ids, *pair))[0], *naive) for name, pair in found.items()}
    best = reports["nothing"].total
    rows = [[name, f"{r.total:.4f}", f"{r.fgs1:.4f}", f"{r.airs:.4f}", f"{best - r.total:.4f}"] for name, r in reports.items()]
    return rows, {name: [r.total, r.fgs1, r.airs] for name, r in reports.items()}


# ---------------------------------------------------------------------------------------------------------- B: oracle

def bootstrap(difference: np.ndarray, seed: int, draws: int = 4000) -> list:
    "95 % interval of a mean over planets."
    rng = rng_for(seed, "proof", "bootstrap")
    means = difference[rng.integers(len(difference), size=(draws, len(difference)))].mean(1)
    return np.quantile(means, [.025, .975]).tolist()


def cell_parts(judged: Judged, naive: tuple) -> np.ndarray:
    "Score of each planet: weighted, FGS1 and AIRS (planet, 3)."
    found, report = clamp(judged.spectra)[0], judged.score(naive)
    cells = score_cells(judged.truth, found.mu, np.clip(found.sigma, SIGMA_CLIP, None), *naive)
    return np.column_stack([report.per_planet, cells[:, 0], cells[:, 1:].mean(1)])


def prove_oracle(setting: Setting) -> Report:
    "Part B."
    ours, best, naive = judged_test(setting), judged_oracle(setting), naive_of(setting)
    a, b = cell_parts(ours, naive), cell_parts(best, naive)
    rows, numbers = [], {}
    for j, name in enumerate(("score", "FGS1 part", "AIRS part")):
        low, high = bootstrap((b - a)[:, j], setting.seed)
        rows.append([name, f"{a[:, j].mean():.4f}", f"{b[:, j].mean():.4f}", f"{(b - a)[:, j].mean():.4f}", f"{low:.4f} to {high:.4f}"])
        numbers[name] = dict(ours=float(a[:, j].mean()), oracle=float(b[:, j].mean()), gap=float((b - a)[:, j].mean()), interval=[low, high])
    thirds = [[label, int(pick.sum()), *(f"{v:.4f}" for j in range(3) for v in (a[pick, j].mean(), (b - a)[pick, j].mean()))] for label, pick in groups(ours).items()]
    worst = np.argsort((a - b)[:, 0])[:10]
    look = [[int(ours.spectra.planet_id[i]), f"{a[i, 0]:.3f}", f"{b[i, 0]:.3f}", f"{1e6*ours.truth[i, 1:].mean():.0f}", f"{ours.planets[i].brightness:.2f}", "" if ours.sound[i] else "not trusted"] for i in worst]
    inside = [[target, *map(percent, shares)] for target, shares in shares_inside(best, "final", best.sound).items()]
    n = min(setting.learning_test, setting.test)
    costs, numbers["cost"] = cost_rows(setting, n)
    tables = [dict(caption="Score against the oracle's", header=["", "ours", "oracle", "gap", "95 % interval of the gap"], rows=rows),
              dict(caption="The gap in thirds", header=["", "planets", "score", "gap", "FGS1", "gap", "AIRS", "gap"], rows=thirds),
              dict(caption="Planets that lose most", header=["planet", "ours", "oracle", "depth (ppm)", "brightness", ""], rows=look),
              dict(caption=f"What not knowing costs: expected score of the first {n} planets when all else is known", header=["known only as a population", "score", "FGS1", "AIRS", "cost"],
                   rows=[*costs, ["ours, the same planets", *(f"{v:.4f}" for v in a[:n].mean(0)), f"{b[:n, 0].mean() - a[:n, 0].mean():.4f}"]]),
              dict(caption="The oracle's own coverage (percent)", header=["", *(f"{100*level:g} %" for level in LEVELS)], rows=inside)]
    text = [f"{setting.test} test planets.", "The oracle knows orbit, limb darkening, drift and noise of every planet; only star levels and depths are free.",
            f"Its prior is learnt from the true spectra of {setting.oracle_labels} other planets and applied by the same code.",
            "No analysis can know all this. 'What not knowing costs' gives the expected score of the oracle when it is told only the simulator's own population of orbit errors, limb darkening or drift",
            "(whose shape in wavelength it still knows): what is left of the gap is ours to close."]
    return Report("Distance from the oracle", text, tables, [bar("score lost to the oracle", numbers["score"]["gap"], high=.02, digits=4)], numbers)


# ---------------------------------------------------------------------------------------------------------- C: injection

AMPLITUDES_PPM = (20, 50, 100, 200, 500)
BAND_UM = .1


def band(shape: str, centre_um: float) -> np.ndarray:
    "A spectral band (283,) of unit height; FGS1 does not see it."
    x = (UM - centre_um)/BAND_UM
    out = np.exp(-4*np.log(2)*x*x) if shape == "gauss" else (np.abs(x) <= .5).astype(float)
    out[0] = 0
    return out


def amplitude(deviation: np.ndarray, cov: np.ndarray, template: np.ndarray) -> tuple:
    "Generalised least squares on the AIRS bins: height of the template beside a free mean level, and its sigma."
    design = np.column_stack([template[1:], np.ones(282)])
    white = cho_solve(cho_factor(cov[1:, 1:]), design)
    found = np.linalg.inv(design.T@white)
    return float((found@(white.T@deviation[1:]))[0]), float(np.sqrt(found[0, 0]))


def injected_planets(setting: Setting) -> list:
    "Flat spectra with their bands: (flat planet, template) of planets that span depth and brightness."
    out = []
    for i, p in enumerate(population("injection", setting.injection, setting.seed)):
        rng = rng_for(setting.seed, "proof", "band", p.planet_id)
        out.append((replace(p, depth=np.full(283, p.depth[1:].mean())), band("gauss" if i % 2 else "box", float(rng.uniform(2.05, 3.8)))))
    return out


@dataclass(frozen=True, eq=False)
class Injected:
    "One injected band: what was put in and what came out, depth."
    amplitude: float
    paired: float  # from the difference to the fit without the band
    single: float  # from the injected fit alone
    sigma: float   # of `single`
    final: float   # after the prior, from the difference
    box: bool


def prove_injection(setting: Setting) -> Report:
    "Part C."
    prior, planets = nominal_prior(setting), injected_planets(setting)
    def order(p, depth): return Order(replace(p, depth=depth), "nominal", setting.seed, setting.work, fit_key())
    plain = [order(p, p.depth) for p, _ in planets]
    loaded = [[order(p, p.depth + 1e-6*ppm*t) for ppm in AMPLITUDES_PPM] for p, t in planets]
    setting.carry_out(plain + sum(loaded, []), "injected planets")
    found, lost = [], 0
    for i, (p, t) in enumerate(progress(planets, "recovering bands")):
        base = read_fit(plain[i])[0]
        for ppm, o in zip(AMPLITUDES_PPM, loaded[i]):
            fit = read_fit(o)[0]
            if any(f is None or f.quality["flag"] for f in (base, fit)): lost += 1; continue
            single, sigma = amplitude(fit.mean - p.depth, fit.cov, t)
            paired = amplitude(fit.mean - base.mean, fit.cov, t)[0]
            final = amplitude(final_spectrum(fit, prior)[0] - final_spectrum(base, prior)[0], fit.cov, t)[0]
            found.append(Injected(1e-6*ppm, paired, single, sigma, final, t.max() == 1 and len(np.unique(t)) == 2))
    rows, bars = recovery_rows(found)
    false_rows, false_numbers = false_detections(setting, plain, planets, prior)
    tables = [dict(caption="Recovered over injected, likelihood (weighted over planets, ± its error)", header=["ppm", "bands", "pairs of fits", "single fits", "z rms of single", "after the prior (no bar)"], rows=rows),
              dict(caption="False detections: share of bands found beyond a threshold where there is none (percent, 95 % interval)", header=["", "bands", "> 1.96 (5.0)", "> 2.58 (1.0)", "rms z"], rows=false_rows)]
    text = [f"{setting.injection} planets with flat spectra of different depth and star, to which a {BAND_UM} um wide band (box or Gaussian, centre varied between 2.05 and 3.8 um) is added; same noise with and without.",
            f"{lost} fits were not trusted." if lost else "Every fit was trusted.", "The height is found by generalised least squares beside a free mean level. A bar is held where the error of the ratio is below 0.05 (pairs) or 0.025 (single fits, so that a bar is two of their errors wide); fits of one planet share their noise, so the single fits' excess is the same number of ppm in every line."]
    return Report("Injection and recovery", text, tables, bars, dict(false=false_numbers, lost=lost))


def weighted_ratio(values: np.ndarray, truth: float, sigma: np.ndarray) -> tuple:
    "Weighted mean of recovered over injected, and its error from the scatter."
    w = sigma**-2/np.sum(sigma**-2)
    mean = float(w@values/truth)
    return mean, float(np.sqrt((w**2*(values/truth - mean)**2).sum()*len(w)/max(len(w) - 1, 1)))


def recovery_rows(found: list) -> tuple:
    "Table rows and bars of the injected bands, by amplitude."
    rows, bars = [], []
    for ppm in AMPLITUDES_PPM:
        some = [f for f in found if round(1e6*f.amplitude) == ppm]
        if not some: continue
        sigma, single = np.array([f.sigma for f in some]), np.array([f.single for f in some])
        pair, pair_error = weighted_ratio(np.array([f.paired for f in some]), 1e-6*ppm, sigma)
        alone, alone_error = weighted_ratio(single, 1e-6*ppm, sigma)[0], float(1e6/ppm/np.sqrt((sigma**-2).sum()))
        after, after_error = weighted_ratio(np.array([f.final for f in some]), 1e-6*ppm, sigma)
        rms = np.sqrt((((single - 1e-6*ppm)/sigma)**2).mean())
        rows.append([ppm, len(some), f"{pair:.3f} ± {pair_error:.3f}", f"{alone:.3f} ± {alone_error:.3f}", f"{rms:.2f}", f"{after:.3f} ± {after_error:.3f}"])
        bars += [bar(f"{ppm} ppm, {name} (± {error:.3f})", value, .95, 1.05) for name, value, error, most in (("pairs", pair, pair_error, .05), ("single fits", alone, alone_error, .025)) if error < most]
    for name, box in (("box", True), ("Gaussian", False)):
        some = [f for f in found if f.box == box and f.amplitude > 9e-5]
        if not some: continue
        ratio = np.array([f.paired/f.amplitude for f in some])
        rows.append([f"{name}, 100 and more", len(some), f"{ratio.mean():.3f} ± {ratio.std()/len(ratio)**.5:.3f}", "", "", ""])
    return rows, bars


def false_row(name: str, z: np.ndarray) -> tuple:
    "Table row and numbers: how often a band is found where there is none."
    cells, numbers = [], dict(bands=len(z), rms=float(np.sqrt((z**2).mean())))
    for threshold in (1.96, 2.58):
        share = float((np.abs(z) > threshold).mean())
        low, high = map(float, wilson(share, len(z)))
        cells.append(f"{100*share:.1f} ({100*low:.1f} to {100*high:.1f})")
        numbers[str(threshold)] = [share, low, high]
    return [name, len(z), *cells, f"{numbers['rms']:.2f}"], numbers


def false_detections(setting: Setting, plain: list, planets: list, prior) -> tuple:
    "Heights of bands in fits of flat spectra, and in the errors of the test planets: what is found there is noise."
    flat = []
    for order, (p, _) in zip(plain, planets):
        fit = read_fit(order)[0]
        if fit is None or fit.quality["flag"]: continue
        flat += [np.divide(*amplitude(fit.mean - p.depth, fit.cov, band("gauss", c))) for c in np.linspace(2.05, 3.8, 12)]
    errors = {"likelihood": [], "final": []}
    for order in progress(test_orders(setting), "false detections"):
        fit, centre = read_fit(order)[0], float(rng_for(setting.seed, "proof", "false", order.planet.planet_id).uniform(2.05, 3.8))
        if fit is None or fit.quality["flag"]: continue
        for kind, (mean, cov) in dict(likelihood=(fit.mean, fit.cov), final=final_spectrum(fit, prior)).items():
            errors[kind].append(np.divide(*amplitude(mean - order.planet.depth, cov, band("gauss", centre))))
    found = {"flat spectra, 12 bands each, likelihood": flat} | {f"test planets' errors, one band each, {kind}": z for kind, z in errors.items()}
    rows = {name: false_row(name, np.array(z)) for name, z in found.items() if len(z)}
    return [r for r, _ in rows.values()], {name: n for name, (_, n) in rows.items()}


# ---------------------------------------------------------------------------------------------------------- D: robustness

def robustness_row(name: str, which: str, judged: Judged, naive: tuple, oracle: str) -> tuple:
    "Table row and numbers of one condition under one prior."
    report, sound = judged.score(naive), judged.sound
    kinds = [kind for _, kind, _ in judged.faults]
    z = np.abs(judged.z["final"][sound])
    worst, planet = (float(z.max()), int(judged.spectra.planet_id[sound][z.max(1).argmax()])) if len(z) else (0., 0)
    shares = shares_inside(judged, "final", sound) if len(z) else {t: np.full(4, np.nan) for t in TARGETS}
    numbers = dict(score=report.total, fgs1=report.fgs1, airs=report.airs, worst_z=worst, worst_planet=planet, worst_bin=int(z.max(0).argmax()) if len(z) else 0,
                   flagged=kinds.count("flagged"), refused=kinds.count("refused"), crashed=kinds.count("crashed"), reasons=sorted({r for _, _, r in judged.faults})[:8])
    numbers["beyond_3"] = int(((z[:, 0] > 3) | (np.abs(judged.z_mean["final"][sound]) > 3)).sum())
    row = [name, which, f"{report.total:.3f}", f"{report.fgs1:.3f}", f"{report.airs:.3f}", oracle, *(percent(shares[t][1], 0) for t in TARGETS[:3]), numbers["beyond_3"],
           numbers["flagged"], numbers["refused"], numbers["crashed"], f"{worst:.1f}"]
    return row, numbers


def prove_robustness(setting: Setting) -> Report:
    "Part D."
    prior, naive, rows, bars, numbers = nominal_prior(setting), naive_of(setting), [], [], {}
    tests = {name: setting.orders(name, "test", setting.condition_test, oracle=c.honest) for name, c in CONDITIONS.items()}
    trains = {name: setting.orders(name, "train", setting.condition_train) for name, c in CONDITIONS.items() if c.own_prior}
    setting.carry_out([o for orders in (*tests.values(), *trains.values()) for o in orders], "conditions")
    for name, condition in CONDITIONS.items():
        best = f"{judge(tests[name], oracle_prior(setting.oracle_labels, setting.seed), name + ', oracle', oracle=True).score(naive).total:.3f}" if condition.honest else ""
        priors = {"nominal": prior} | ({"own": learnt_prior(trains[name], setting.seed)} if condition.own_prior else {})
        for which, p in priors.items():
            row, found = robustness_row(name, which, judge(tests[name], p, name), naive, best if which == "nominal" else "")
            rows.append(row)
            numbers[f"{name}, {which} prior"] = found
            bars.append(bar(f"{name}, {which} prior: largest error over sigma", found["worst_z"], high=8., digits=1))
        bars.append(bar(f"{name}: crashes", found["crashed"], high=0, digits=0))
    header = ["condition", "prior", "score", "FGS1", "AIRS", "oracle", "68 % FGS1", "68 % AIRS bins", "68 % AIRS mean", "beyond 3", "flagged", "refused", "crashed", "max z"]
    text = [f"{setting.condition_test} test planets for each condition; the prior is learnt from {setting.train} nominal training planets, or from {setting.condition_train} of the same condition ('own').",
            "Planets that are flagged or refused get the population's mean and count in the score. 'max z' is the largest error over sigma in any bin of a trusted planet;",
            "'beyond 3' counts trusted planets whose FGS1 depth or AIRS mean is off by more than three sigma: failures that nothing announces. The oracle is asked where the noise is what it is said to be."]
    return Report("Robustness", text, [dict(caption="Conditions", header=header, rows=rows)], bars, numbers)


# ---------------------------------------------------------------------------------------------------------- E: learning curve

LEARNING = {10: 6, 20: 6, 50: 4, 100: 3} # labels -> random subsets


@dataclass(frozen=True, eq=False)
class Lesson:
    "Learn a prior from some training planets and judge it on test planets."
    train: list     # Orders
    test: list      # Orders
    naive: tuple
    seed: int
    code: str       # `code_name()` of the process that asks
    path: str       # where the scores are kept


def do_lesson(lesson: Lesson) -> dict:
    "Scores with a prior from few labels."
    if Path(lesson.path).exists(): return read_json(lesson.path)
    if code_name() != lesson.code: raise InternalError("the source changed while this was running", hint="start again")
    with single_threaded_blas(): judged = judge(lesson.test, learnt_prior(lesson.train, lesson.seed), "", silent=True)
    report, inside = judged.score(lesson.naive), shares_inside(judged, "final", judged.sound)
    found = dict(score=report.total, fgs1=report.fgs1, airs=report.airs, inside={t: inside[t][1] for t in TARGETS})
    write_json(lesson.path, found)
    return found


def lessons(setting: Setting) -> dict:
    "Number of labels -> its Lessons."
    train, test, naive = setting.orders("nominal", "train", setting.train), setting.orders("nominal", "test", min(setting.learning_test, setting.test)), naive_of(setting)
    out = {}
    for n, repeats in ({k: v for k, v in LEARNING.items() if k < setting.train} | {setting.train: 1}).items():
        out[n] = []
        for i in range(repeats):
            pick = np.sort(rng_for(setting.seed, "proof", "labels", n, i).permutation(setting.train)[:n])
            some = [train[j] for j in pick]
            facts = repr(([o.tag for o in some], [o.tag for o in test], naive, code_name()))
            path = Path(setting.work)/"learning"/f"{n}_{i}_{hashlib.sha256(facts.encode()).hexdigest()[:12]}.json"
            out[n].append(Lesson(some, test, naive, setting.seed, code_name(), str(path)))
    return out


def prove_learning(setting: Setting) -> Report:
    "Part E."
    test_orders(setting), nominal_prior(setting)
    todo = lessons(setting)
    found = run(do_lesson, [(lesson.path, lesson) for some in todo.values() for lesson in some], setting.workers, "learning curve")
    found, rows, numbers = iter(found), [], {}
    for n, some in todo.items():
        mine = [next(found) for _ in some]
        scores = np.array([[m["score"], m["fgs1"], m["airs"]] for m in mine])
        spread = [f" ± {s:.3f}" for s in scores.std(0, ddof=1)] if len(mine) > 1 else [""]*3
        inside = [percent(np.mean([m["inside"][t] for m in mine]), 0) for t in BARRED]
        rows.append([n, len(mine), *(f"{v:.3f}{s}" for v, s in zip(scores.mean(0), spread)), *inside])
        numbers[str(n)] = scores.tolist()
    best = judge(next(iter(todo.values()))[0].test, oracle_prior(setting.oracle_labels, setting.seed), "oracle", oracle=True)
    report, inside = best.score(naive_of(setting)), shares_inside(best, "final", best.sound)
    rows.append(["oracle", "", f"{report.total:.3f}", f"{report.fgs1:.3f}", f"{report.airs:.3f}", *(percent(inside[t][1], 0) for t in BARRED)])
    numbers["oracle"] = [report.total, report.fgs1, report.airs]
    text = [f"Priors learnt from random subsets of the training planets, judged on the first {len(best.planets)} test planets; ± is the scatter between subsets."]
    header = ["labels", "subsets", "score", "FGS1", "AIRS", *(f"68 % {t}" for t in BARRED)]
    return Report("Learning curve", text, [dict(caption="Score against the number of labelled planets", header=header, rows=rows)], [], numbers)


# ---------------------------------------------------------------------------------------------------------- self-test

def noise_free(planet: Planet, seed: int, conditions: Conditions, frames: bool) -> list:
    "Light curves without noise, straight from the simulator's own `star_factor`: at the cadence of light curves, or averaged from that of frames."
    curves, out = simulate_light_curves(planet, seed, time_bins=TIME_BINS, conditions=conditions), []
    size = -(-5625//TIME_BINS)
    n = 5625//size
    spec = PROFILES["science"] if frames else ProfileSpec(2*n, 6*n, {"FGS1": 4*size, "AIRS-CH0": size})
    for v, c in enumerate(curves):
        star = {k: star_factor(planet, v, k, pair_times(spec, k)[1], seed, conditions.drift_scale) for k in ("FGS1", "AIRS-CH0")}
        if frames: star = {k: s[:, :n*size*m].reshape(len(s), n, -1).mean(2) for (k, s), m in zip(star.items(), (12, 1))}
        columns = np.concatenate([star["FGS1"].reshape(n, -1).mean(1)[:, None], flip_columns(star["AIRS-CH0"], axis=0).T], axis=1)
        out.append(replace(c, flux=columns*np.median(c.flux, axis=0), meta={} if frames else c.meta))
    return out


def selftest(seed: int) -> int:
    "Prove the tools of the proof; returns an exit code."
    failed = []
    def check(name, value, limit):
        print(f"{name:74}{value:12.4g}   below {limit:g}   {'ok' if value < limit else 'FAILED'}", flush=True)
        if not value < limit: failed.append(name)
    cases = [(law, dict(), False) for law in ("quadratic", "power2", "linear", "claret4")] + [("quadratic", dict(drift_scale=3.), True), ("quadratic", dict(partial=True), False)]
    for law, more, frames in cases:
        conditions = Conditions(law=law, **more)
        planet = with_two_visits(population("test", 1, seed, law)[0], seed) if not conditions.partial else population("test", 1, seed, partial=True)[0]
        found = oracle_posterior(noise_free(planet, seed, conditions, frames), planet, seed, conditions)
        name = f"oracle without noise, {law}, {len(planet.t0_h)} visits{', from frames' if frames else ''}{', drift x 3' if conditions.drift_scale > 1 else ''}{', partial' if conditions.partial else ''}: worst error, ppm"
        check(name, 1e6*np.abs(found.mean - planet.depth).max(), 1.)
    planets, z = population("test", 40, seed), []
    for p in planets:
        curves = simulate_light_curves(p, seed, time_bins=TIME_BINS)
        found = oracle_posterior(curves, p, seed)
        z.append((found.mean - p.depth)/np.sqrt(np.diag(found.cov)))
    z = np.array(z)
    check("oracle with noise, 40 planets: |mean of z^2 - 1| of all bins", abs((z**2).mean() - 1), .05)
    check("oracle with noise, 40 planets: |mean of z^2 - 1| of FGS1", abs((z[:, 0]**2).mean() - 1), .7)
    check("oracle with noise, 40 planets: largest |z|", np.abs(z).max(), 5.5)
    measured = oracle_posterior(curves, p, seed, noise="measured")
    check("oracle, measured over given noise, last planet: |median ratio of variances - 1|", abs(np.median(np.diag(measured.cov)/np.diag(found.cov)) - 1), .2)
    variance, factor = informed_posterior(curves, p, seed, ())
    check("informed oracle that knows all, last planet: largest |variance over the oracle's - 1|", np.abs(variance/np.diag(found.cov) - 1).max(), .05)
    wide = [np.sqrt((informed_posterior(curves, p, seed, u)[1]**2).sum(1) + variance).mean() for u in UNKNOWN.values()]
    check("informed oracle, last planet: sigma of knowing more over sigma of knowing less", max(wide[0]/min(wide[1:4]), max(wide[1:4])/wide[4]), 1.)
    t, cov = band("gauss", 3.3), np.diag(np.full(283, 1e-10)) + 1e-9
    check("band of 100 ppm on a level of 50 ppm: |found - 100|, ppm", abs(1e6*amplitude(1e-4*t + 5e-5, cov, t)[0] - 100), 1e-6)
    order = Order(planets[0], "nominal", seed, "x", fit_key())
    other = replace(order, planet=replace(planets[0], depth=planets[0].depth + 1e-9))
    check("names of posteriors shared by different planets", float(order.tag == other.tag), .5)
    check("training planets among test planets", len({p.planet_id for p in population("train", 300, seed)} & {p.planet_id for p in population("test", 300, seed)}), 1)
    first = [p.planet_id for p in population("test", 150, seed)[:40]]
    check("planets that change when more are drawn", sum(a != p.planet_id for a, p in zip(first, planets)), 1)
    print("self-test " + ("FAILED: " + ", ".join(failed) if failed else "passed"))
    return 6 if failed else 0


# ---------------------------------------------------------------------------------------------------------- main

PROOFS = dict(coverage=prove_coverage, oracle=prove_oracle, injection=prove_injection, robustness=prove_robustness, learning=prove_learning)


def arguments() -> argparse.Namespace:
    "The command line."
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--parts", default=",".join(PARTS), help="which, separated by commas")
    ap.add_argument("--selftest", action="store_true", help="only check the tools of the proof")
    ap.add_argument("--seed", type=int, default=7001)
    for name, default, text in (("train", 300, "training planets"), ("test", 1200, "test planets"), ("condition-train", 60, "training planets of a condition"),
                                ("condition-test", 60, "test planets of a condition"), ("injection", 24, "planets with injected bands"),
                                ("oracle-labels", 2000, "spectra that the oracle's prior is learnt from"), ("learning-test", 300, "test planets of the learning curve")):
        ap.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    ap.add_argument("--workers", type=int, default=0, help="processes; 0: one for each core")
    ap.add_argument("--work", type=Path, default=HERE.parent/"proof"/"curves", help="where posteriors are kept")
    ap.add_argument("--out", type=Path, default=HERE, help="folder of proof_curves.json and PROOF.md")
    return ap.parse_args()


def write_report(folder: Path, reports: dict) -> None:
    "proof_curves.json and PROOF.md, parts in their order; parts that were not run now stay as they are."
    path = folder/"proof_curves.json"
    try: kept = read_json(path)
    except DataError: kept = {}
    kept = {k: v for k, v in (kept | reports).items() if k in PARTS}
    write_json(path, kept)
    head = ["# The proof, from light curves", "", "Written by `make proof-curves` (`proof_curves.py`); simulated light curves, no frames. Do not edit.", ""]
    for name in PARTS:
        if name not in kept: continue
        made = kept[name]["made"]
        head += [render(kept[name]), f"Seed {made['seed']}; {made['minutes']:.1f} minutes (less where fits were there already) on {made['machine']}; code {made['code']}.", ""]
    write_text(folder/"PROOF.md", "\n".join(head))


def code_name() -> str:
    "Short hash of the fit's and the prior's code."
    return f"{fit_key()[:8]}-{source_hash('spectramind.lightcurve.prior')[:8]}"


def main() -> int:
    args = arguments()
    if args.selftest: return selftest(args.seed)
    parts = [p.strip() for p in args.parts.split(",") if p.strip()]
    if not parts or set(parts) - set(PARTS): raise UsageError(f"--parts: found {args.parts!r}, wanted some of {', '.join(PARTS)}")
    setting = Setting(args.seed, args.train, args.test, args.condition_train, args.condition_test, args.injection, args.oracle_labels, args.learning_test, args.workers, str(args.work.resolve()))
    if min(setting.train, setting.test, setting.condition_train, setting.condition_test, setting.injection, setting.oracle_labels, setting.learning_test) < 4: raise UsageError("found a size below 4, wanted at least 4 planets of each kind")
    missed = []
    for name in [p for p in PARTS if p in parts]:
        print(f"\n{name}: code {code_name()}, posteriors in {args.work}", file=sys.stderr, flush=True)
        start, code = time.perf_counter(), code_name()
        report = PROOFS[name](setting)
        made = dict(seed=setting.seed, minutes=round((time.perf_counter() - start)/60, 2), code=code, machine=f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
                    sizes={f.name: getattr(setting, f.name) for f in fields(setting) if f.name not in ("work", "workers", "seed")})
        shown = dict(title=report.title, text=report.text, tables=report.tables, bars=report.bars, numbers=report.numbers, made=made)
        print(render(shown), flush=True)
        write_report(args.out, {name: shown})
        missed += [f"{name}: {b['name']} is {b['found']}" for b in report.bars if not b["met"]]
    if missed: raise QualityGateError(f"{len(missed)} bars missed:\n  " + "\n  ".join(missed))
    print("every bar met")
    return 0


if __name__ == "__main__":
    try: sys.exit(main())
    except SpectraMindError as error:
        print(error.message + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)
