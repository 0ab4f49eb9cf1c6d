"""Does the network earn its place? Physics alone against everything else, on planets observed by an instrument that is not quite what the fit assumes.

    python benchmarks/ablation.py [--parts headline,calm,rows,learning,pretraining] [--train 1000] [--test 250] [--labels 100] [--seed 9001] [--workers N]

headline   all labels, the default model: score, its gain over the physics, coverage, temperature (also on error bars that are made wrong on purpose)
calm       the same without any mismatch, with 20, 100 and all labels: no harm?
rows       each part exchanged or switched off, `--labels` labels, three seeds
learning   20 to all labels
pretraining  weights from planets of other worlds

The mismatches (all at once): stars whose limb darkening follows a four-parameter law, pointing noise three times as large of which photometry removes nothing, and calibration files
that miss as much of the detector's bend as they hold and three times the dark current. Each row of the table is a list of overrides of the configuration, as `spectramind` takes them.
Light curves are simulated and fitted once and kept in --work under a hash of the code, as is each trained row: interrupted, the script goes on where it stopped.
Writes ABLATION.md and ablation.json. Exit code 6 when a bar is missed.
"""
import argparse
import dataclasses
import hashlib
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from proof_curves import TIME_BINS, bar, markdown, population, run, source_hash
from spectramind.challenge.folds import group_kfold
from spectramind.core.determinism import rng_for, single_threaded_blas
from spectramind.core.errors import InternalError, QualityGateError, SpectraMindError
from spectramind.core.nouns import Spectra
from spectramind.core.store import read_json, read_npz, write_json, write_npz, write_text
from spectramind.lightcurve.prior import cross_fit, predict_spectra
from spectramind.network.features import Examples, stack_examples
from spectramind.pipeline.config import load_config
from spectramind.pipeline.worlds_fitted import fit_and_look, join_rows, look_arrays, look_from
from spectramind.scoring.score import FGS1_WEIGHT, naive_statistics, score
from spectramind.simulate.curves import Leftovers, simulate_light_curves
from spectramind.simulate.population import Planet
from spectramind.simulate.visit import Conditions
from spectramind.simulate.worlds import Worlds, draw_world

HERE = Path(__file__).resolve().parent
WORLDS = {"mismatch": (Conditions(law="claret4", jitter_scale=3.), Leftovers(jitter=1., linearity=1., dark=3.)), "calm": (Conditions(), Leftovers())}
MANY = Worlds(drift_scale=(1., 1.), contrast=(1., 1.))  # the world 'many': each planet draws its own
PRETRAIN = 2000                                 # planets of other worlds, for the phases before the labels
PRIOR = 1000                                    # of them, from which their spectral prior is learnt
SEEDS = (0, 1, 2)


# ---------------------------------------------------------------------------------------------------------- planets, kept on disk

@lru_cache(maxsize=1)
def fit_code() -> str:
    "A hash of everything that decides a fit and what is read off the light curves."
    return source_hash("spectramind.lightcurve.fit", "spectramind.simulate.curves", "spectramind.simulate.population", "spectramind.network.features")[:12]


@lru_cache(maxsize=1)
def learning_code() -> str:
    "The same with everything that is learnt."
    return source_hash("spectramind.lightcurve.fit", "spectramind.simulate.curves", "spectramind.pipeline.learning", "spectramind.pipeline.calibration")[:12]


@lru_cache(maxsize=1)
def pretraining_code() -> str:
    "The same of what makes weights to start from."
    return source_hash("spectramind.pipeline.pretraining")[:12]


@dataclass(frozen=True, eq=False)
class Order:
    "Simulate and fit one planet in one world, unless that has been done."
    planet: Planet
    world: str
    seed: int
    work: str
    code: str
    @property
    def path(self) -> Path: return Path(self.work)/self.code/f"{self.world}_{self.seed}"/f"{self.planet.planet_id}.npz"
    def conditions(self) -> tuple:
        "A world's conditions; in the world 'many' each planet draws its own."
        return draw_world(self.seed, self.planet, MANY) if self.world == "many" else WORLDS[self.world]


def do_order(order: Order) -> str:
    "Simulate, fit, look; keep posterior and look."
    if order.path.exists(): return "there"
    if fit_code() != order.code: raise InternalError("the source changed while this was running", hint="start again: what new source makes is kept apart")
    conditions, left = order.conditions()
    curves = simulate_light_curves(order.planet, order.seed, time_bins=TIME_BINS, conditions=conditions, left=left)
    write_npz(order.path, **look_arrays(*fit_and_look(curves, order.planet.star)))
    return "fitted"


def read_order(order: Order) -> tuple:
    "Posterior and look."
    return look_from(order.planet.planet_id, order.planet.star, read_npz(order.path))


def orders(world: str, role: str, n: int, args) -> list:
    "The first planets of a role."
    law = "quadratic" if world == "calm" else "claret4"
    if world == "many":
        laws = ("quadratic", "power2", "claret4", "linear")
        found = [p for i, name in enumerate(laws) for p in population(f"{role} {name}", -(-n//4), args.seed + 7, name)][:n]
    else: found = population(role, n, args.seed, law)
    return [Order(p, world, args.seed, str(args.work), fit_code()) for p in found]


# ---------------------------------------------------------------------------------------------------------- physics, out of fold

def pack(e: Examples) -> dict:
    "Arrays of Examples."
    return {k: (np.array(v) if k == "names" else v) for k, v in vars(e).items()}


def physics(world: str, n_train: int, args) -> tuple:
    "Training Examples (out of fold) with their folds, test Examples, and naive statistics; physics rows of flagged test planets are left out of both sides of each comparison."
    path = Path(args.work)/learning_code()/f"physics_{world}_{args.seed}_{n_train}_{args.test}.npz"
    if not path.exists():
        train, test = ([(*read_order(o), o.planet.depth) for o in orders(world, role, n, args)] for role, n in (("train", n_train), ("test", args.test)))
        ids, labels = [p.planet_id for p, _, _ in train], np.array([d for _, _, d in train])
        folds = group_kfold(sorted(ids), 5, 2025)
        with single_threaded_blas():
            prior, mu, sigma = cross_fit([p for p, _, _ in train], labels, folds)
            rows = predict_spectra([p for p, _, _ in test], prior)
        out = {}
        for name, planets, m, s in (("train", train, mu, sigma), ("test", test, rows.mu, rows.sigma)):
            ok = np.array([not p.quality.get("flag", False) for p, _, _ in planets])
            use = [x for x, good in zip(planets, ok) if good]
            e = stack_examples([p for p, _, _ in use], [l for _, l, _ in use], m[ok], s[ok], np.array([d for _, _, d in use]))
            out |= {f"{name}.{k}": v for k, v in pack(e).items()}
        write_npz(path, **out | dict(fold=np.array([folds[int(p)] for p in out["train.planet_id"]]), naive=np.array(naive_statistics(labels)), flagged=np.array(args.test - len(out["test.planet_id"]))))
    data = read_npz(path)
    train, test = (Examples(**{k.split(".", 1)[1]: (tuple(map(str, v)) if k.endswith(".names") else v) for k, v in data.items() if k.startswith(f"{name}.")}) for name in ("train", "test"))
    return train, data["fold"], test, tuple(map(float, data["naive"])), int(data["flagged"])


# ---------------------------------------------------------------------------------------------------------- one row

@dataclass(frozen=True)
class Row:
    "A configuration to try."
    name: str
    overrides: tuple = ()
    pretrained: bool = False
    against: str = ""       # the row it is compared with; the first one when empty
    derived: bool = False   # the full system's networks with other calibration: nothing is trained
    source: str = ""        # 'network' or 'linear': only this correction of the full system's two; derived as well
    strength: float = 1.    # weights of all symbolic terms and rules are this many times the shipped ones


FEWER = ("model.ensemble.folds=3", "train.epochs_supervised=15", "train.patience=4")   # for all rows of the table
TERMS = ("smoothness", "nonneg", "molecular", "seam", "ratio", "quantiles")
QUANTILES = ("model.network.heads.sigma=quantiles", "loss.gll.quantile=0.1")
FAST = "small model (TCN, CNN)"     # terms are left out of this one: it trains in a quarter of the time
ALONE = ("model.ensemble.linear=false",)       # rows that compare networks have no linear correction beside them
FULL, LINEAR, NETWORKS = Row("full system: networks (Mamba, graph attention, concat) and linear correction"), Row("linear correction alone", derived=True, source="linear"), Row("networks alone (no linear correction)", derived=True, source="network")
def of_networks(name, *overrides, against=NETWORKS.name, **more): return Row(name, (*ALONE, *overrides), against=against, **more)
def of_small(name, *overrides, against=FAST, **more): return of_networks(name, "model=v50_fast", *overrides, against=against, **more)
ROWS = (FULL, LINEAR, NETWORKS, *(Row(name, (f"uncertainty.{key}.enabled=false",), derived=True) for name, key in (("no temperature", "temperature"), ("no COREL", "corel"), ("no outlier widening", "outliers"))),
        of_networks("networks: FGS1 encoder only", "model=fgs1_only"), of_networks("networks: AIRS encoder only", "model=airs_only"),
        of_networks("networks: fusion by cross attention", "model=fusion_cross_attend"), of_networks("networks: gated fusion", "model=fusion_gated"),
        of_networks("networks: GRU in place of Mamba", "model=gru"), of_networks("networks: TCN in place of Mamba", "model=tcn"), of_networks("networks: CNN in place of graph attention", "model=cnn"),
        of_networks("networks: symbolic losses and rules off", "loss=none"),
        of_small(FAST, against=NETWORKS.name), of_small("small, symbolic losses and rules off", "loss=none"),
        *(of_small(f"small, without the term: {t}", f"loss.{t}.enabled=false") for t in TERMS[:-1]),
        *(of_small(f"small, symbolic terms and rules x {n:g}", strength=n) for n in (10., 100.)),
        of_small("small, quantile head", *QUANTILES),
        of_small("small, quantile head, without the term: quantiles", *QUANTILES, "loss.quantiles.enabled=false", against="small, quantile head"))


@dataclass(frozen=True)
class Task:
    "Train one row with one seed and judge it on the test planets."
    world: str
    n_train: int
    labels: int        # how many of them are used
    row: Row
    seed: int
    args: argparse.Namespace
    more: tuple = ()   # overrides for all rows of a table
    @property
    def path(self) -> Path:
        c = config_of(self.row, self.seed, self.more)
        facts = (self.world, self.n_train, self.labels, self.row.source, self.row.pretrained and (self.args.pretrain, c.pretrain, pretraining_code()), c.model, c.train, c.loss, c.uncertainty, c.seed, self.args.test, self.args.seed)
        return Path(self.args.work)/learning_code()/"rows"/f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.npz"


def some(train: Examples, fold: np.ndarray, n: int, seed: int) -> tuple:
    "The first planets, or another choice of them for another seed."
    if n >= len(train): return train, fold
    pick = np.sort(rng_for(seed, "ablation", "labels", n).permutation(len(train))[:n]) if seed else np.arange(n)
    return train.take(pick), fold[pick]


def config_of(row: Row, seed: int, more: tuple = ()):
    "The configuration of a row."
    start = ["train.pretrained=weights"] if row.pretrained else []              # for the learning rate; the folder is another one for each seed
    config = load_config(["data=smoke", *row.overrides, *more, *start, f"seed={2025 + 10007*seed}"])
    return config if row.strength == 1 else replace(config, loss=louder(config.loss, row.strength))


def louder(loss, strength: float):
    "The same loss with all symbolic weights multiplied."
    from spectramind.symbolic.rules import RULES
    terms = {t: replace(getattr(loss, t), lam=strength*getattr(loss, t).lam) for t in TERMS}
    rules = [asdict(r) | dict(weight=strength*r.weight) for r in RULES]
    return replace(loss, **terms, symbolic=replace(loss.symbolic, rules=rules))


def do_task(task: Task) -> str:
    "Train, calibrate on held-out planets, predict; keep everything."
    if task.path.exists(): return "there"
    import tempfile
    import torch
    from spectramind.pipeline.calibration import judge
    if task.row.derived: return do_derived(task)
    from spectramind.pipeline.learning import fold_of, network_config, shape_spread, supervised_phase, train_config
    from spectramind.training.ensemble import EnsembleConfig, train_ensemble
    torch.set_num_threads(1)
    config = config_of(task.row, task.seed, task.more)
    train, fold, test, _, _ = physics(task.world, task.n_train, task.args)
    train, fold = some(train, fold, task.labels, task.seed)
    if config.model.ensemble.folds != 5: fold = fold_of(train.planet_id, config.model.ensemble.folds, config.seed)
    start, scaling = pretrained_weights(task.args, task.seed) if task.row.pretrained else (None, None)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder, single_threaded_blas():
        ensemble, held, reports = train_ensemble(train, fold, network_config(config.model.network), train_config(config), folder, EnsembleConfig(**asdict(config.model.ensemble)),
                                                 supervised=supervised_phase(config.loss, shape_spread(train.label)), pretrained=start, scaling=scaling, tell=lambda told: None)
        trained_s = time.process_time() - began
        own = ensemble.predict(train)
        oof = held | dict(label=train.label, fold=fold, latent=own["latent"])
        steps = judge(oof, config.uncertainty, config.seed)
        began = time.process_time()
        found, line = ensemble.predict(test), ensemble.linear.predict(test) if ensemble.linear else None
        predict_s = (time.process_time() - began)/len(test)
        sigma, half = apply_steps(steps, found, Path(folder))
    write_npz(task.path, **dict(mu=found["mu"], sigma=sigma, half=half, before=found["sigma"], oof_mu=held["mu"], oof_sigma=steps[-1].sigma, oof_before=held["sigma"], gate=np.array([ensemble.gate.fgs1, ensemble.gate.airs]),
                              used=np.array([s.used for s in steps]), gain=np.array([s.document.get("gain") or [np.nan]*3 for s in steps], float), trained_s=np.array(trained_s), predict_s=np.array(predict_s),
                              epochs=np.array([len(r.history) for r in reports]), fold=fold, label=train.label, physics_mu=train.mu, physics_sigma=train.sigma, oof_latent=own["latent"], latent=found["latent"]),
              **{f"oof_{k}": v for k, v in held.items() if k.startswith(("network_", "linear_"))}, network_mu=found["network_mu"], network_sigma=found["network_sigma"],
              **({} if line is None else dict(linear_mu=line[0], linear_sigma=line[1])))
    return "trained"


def do_derived(task: Task) -> str:
    "Judge the full system's networks again, with other settings of the calibration, or with only one of the two corrections let in."
    import tempfile
    from spectramind.pipeline.calibration import judge
    from spectramind.training.ensemble import fit_gate, let_in
    parent = dataclasses.replace(task, row=dataclasses.replace(FULL, pretrained=task.row.pretrained))
    do_task(parent)
    r, config, k = read_npz(parent.path), config_of(task.row, task.seed, task.more), task.row.source
    if k and f"{k}_mu" not in r: raise InternalError(f"{task.row.name}: found no {k} correction with {len(r['label'])} labels, wanted one")
    if k:
        test = physics(task.world, task.n_train, task.args)[2]
        gate = fit_gate(r["label"], r["physics_mu"], r["physics_sigma"], r[f"oof_{k}_mu"], r[f"oof_{k}_sigma"])
        r["oof_mu"], r["oof_before"] = let_in(gate.shares, r["physics_mu"], r["physics_sigma"], r[f"oof_{k}_mu"], r[f"oof_{k}_sigma"])
        r["mu"], r["before"] = let_in(gate.shares, test.mu, test.sigma, r[f"{k}_mu"], r[f"{k}_sigma"])
        r["gate"] = np.array([gate.fgs1, gate.airs])
    with tempfile.TemporaryDirectory() as folder:
        steps = judge(dict(label=r["label"], mu=r["oof_mu"], sigma=r["oof_before"], fold=r["fold"], latent=r["oof_latent"]), config.uncertainty, config.seed)
        sigma, half = apply_steps(steps, dict(sigma=r["before"], latent=r["latent"]), Path(folder))
    write_npz(task.path, **r | dict(sigma=sigma, half=half, oof_sigma=steps[-1].sigma, used=np.array([s.used for s in steps]), gain=np.array([s.document.get("gain") or [np.nan]*3 for s in steps], float)))
    return "judged"


def apply_steps(steps: list, found: dict, folder: Path) -> tuple:
    "Temperature, COREL and outliers on new planets, as the pipeline writes, reads and applies them: submitted sigma, and half-widths of the 90 % intervals."
    from spectramind.pipeline.calibration import read_calibration
    for step in steps: write_json(folder/f"{step.name}.json", step.document | dict(oof=None))
    calibration = read_calibration(folder)
    sigma, half = calibration.apply(found["sigma"], found["latent"]), calibration.half_width(found["sigma"], found["latent"])
    return sigma, 1.644854*sigma if half is None else half


def weights_folder(args, seed: int) -> Path: return Path(args.work)/pretraining_code()/f"pretrained_{args.seed}_{args.pretrain}_{seed}"


def make_weights(task: tuple) -> str:
    "Train on planets of many worlds (masked bins, then labels), with what `spectramind pretrain` does, unless that has been done."
    import torch
    from spectramind.pipeline.pretraining import fit_network
    from spectramind.symbolic.pack import StarTable
    args, seed = task
    folder = weights_folder(args, seed)
    if (folder/"done.json").exists(): return "there"
    torch.set_num_threads(1)
    stars = StarTable(o.planet.star for o in orders("many", "pretrain", args.pretrain, args))
    report, scores = fit_network(config_of(Row("pretraining"), seed), many_worlds(args), stars, folder)
    write_json(folder/"done.json", dict(scores=scores, epochs=len(report.history)))
    return "trained"


def pretrained_weights(args, seed: int) -> tuple:
    "Weights, and the scaling they were trained with."
    from spectramind.training.checkpoints import read_weights
    from spectramind.training.dataset import Scaling
    make_weights((args, seed))
    weights, info = read_weights(weights_folder(args, seed))
    return weights, Scaling.from_dict(info["scaling"])


def many_worlds(args) -> Examples:
    "Examples of the planets that are pre-trained on; made once for all seeds."
    from spectramind.pipeline.pretraining import learn_world_prior
    from spectramind.pipeline.worlds_fitted import row_of
    path = Path(args.work)/pretraining_code()/f"many_{args.seed}_{args.pretrain}.npz"
    if not path.exists():
        todo, read = orders("many", "pretrain", args.pretrain, args), lambda o: (*read_order(o), o.planet.depth)
        prior, rows = learn_world_prior(map(read, todo[:PRIOR]), 2025)
        for o in todo[PRIOR:]:
            posterior, look, label = read(o)
            with single_threaded_blas(): spectra = predict_spectra([posterior], prior)
            if spectra.origin[0] == "physics": rows.append(row_of(posterior, look, label, spectra.mu[0], spectra.sigma[0]))
        write_npz(path, **pack(join_rows(rows)))
    return Examples(**{k: tuple(map(str, v)) if k == "names" else v for k, v in read_npz(path).items()})


# ---------------------------------------------------------------------------------------------------------- judging

def planet_scores(truth: np.ndarray, mu: np.ndarray, sigma: np.ndarray, naive: tuple) -> np.ndarray:
    "(planet, 3): the official score of each planet, and its FGS1 and AIRS parts, before clipping."
    from spectramind.training.ensemble import cell_gll
    cells = cell_gll(truth, mu, sigma, naive)
    fgs1, airs = cells[:, 0], cells[:, 1:].mean(1)
    return np.stack([(FGS1_WEIGHT*fgs1 + 282*airs)/(FGS1_WEIGHT + 282), fgs1, airs], 1)


def official(test: Examples, mu: np.ndarray, sigma: np.ndarray, naive: tuple):
    "The official score."
    return score((test.planet_id, test.label), Spectra(test.planet_id, np.maximum(mu, 0), sigma, ("network",)*len(test)), *naive)


def interval(x: np.ndarray, seed: int = 0, n: int = 4000) -> tuple:
    "Mean and 95 % interval over planets; (seed, planet) means over seeds first, so that planets are the units."
    x = np.atleast_2d(x).mean(0)
    draws = x[np.random.default_rng(seed).integers(0, len(x), (n, len(x)))].mean(1)
    return float(x.mean()), float(np.quantile(draws, .025)), float(np.quantile(draws, .975))


def coverage(test: Examples, mu: np.ndarray, half: np.ndarray) -> dict:
    "Share inside central intervals of half-width `half`: FGS1, AIRS bins, both (bins alike), and AIRS bins by thirds of the width and of depth."
    inside = np.abs(test.label - mu) <= half
    thirds = lambda v: np.argsort(np.argsort(v))*3//len(v)
    out = dict(fgs1=float(inside[:, 0].mean()), airs=float(inside[:, 1:].mean()), all=float(inside.mean()))
    for name, v in (("sigma", np.median(half[:, 1:], 1)), ("depth", np.median(mu[:, 1:], 1))): out |= {f"{name} third {k + 1}": float(inside[thirds(v) == k].mean()) for k in range(3)}
    return out


def summary(tasks: list) -> dict:
    "What one row did, over its seeds."
    train, fold, test, naive, _ = physics(tasks[0].world, tasks[0].n_train, tasks[0].args)
    results = [read_npz(t.path) for t in tasks]
    base = planet_scores(test.label, test.mu, test.sigma, naive)
    each = np.array([planet_scores(test.label, r["mu"], r["sigma"], naive) for r in results])
    reports = [official(test, r["mu"], r["sigma"], naive) for r in results]
    return dict(score=[r.total for r in reports], fgs1=[r.fgs1 for r in reports], airs=[r.airs for r in reports], gain=interval(each[..., 0] - base[:, 0]), gain_fgs1=interval(each[..., 1] - base[:, 1]),
                gain_airs=interval(each[..., 2] - base[:, 2]), gates=[r["gate"].tolist() for r in results], used=[r["used"].tolist() for r in results],
                train_s=[float(r["trained_s"]) for r in results], predict_s=[float(r["predict_s"]) for r in results], epochs=[int(r["epochs"].sum()) for r in results], each=each[..., 0])


def signed(x: tuple, digits: int = 4) -> str: return f"{x[0]:+.{digits}f} ({x[1]:+.{digits}f} to {x[2]:+.{digits}f})"


def table_row(name: str, s: dict, reference=None) -> list:
    "One line of the table."
    spread = f" ± {np.std(s['score'], ddof=1):.4f}" if len(s["score"]) > 1 else ""
    against = signed(interval(s["each"] - reference)) if reference is not None else ""
    return [name, f"{np.mean(s['score']):.4f}{spread}", f"{np.mean(s['fgs1']):.3f}", f"{np.mean(s['airs']):.3f}", signed(s["gain"]), against, f"{np.mean(s['train_s'])/60:.1f}"]


HEADER = ["row", "score", "FGS1", "AIRS", "gain over the physics (95 %)", "against the full system, the networks alone, or the small model (95 %)", "training, core minutes"]


def physics_row(world, n, args) -> list:
    _, _, test, naive, _ = physics(world, n, args)
    r = official(test, test.mu, test.sigma, naive)
    return ["physics only", f"{r.total:.4f}", f"{r.fgs1:.3f}", f"{r.airs:.3f}", "", "", ""]


STEPS = ("temperature", "COREL", "outliers")


def in_use(results: list) -> str:
    "How often each step of the calibration was let in."
    used = np.array([r["used"] for r in results])
    return "Steps of the calibration in use: " + ", ".join(f"{name} in {int(k)} of {len(used)}" for name, k in zip(STEPS, used.sum(0))) + "."


def wrong_sigma(results: list, factor: float) -> list:
    "What temperature does, on other folds, to held-out error bars that are wrong by a known factor: (gain, lower limit, upper limit), and the factors on sigma that it finds, for each row."
    from spectramind.pipeline.calibration import judge_temperature
    config, found = load_config(["data=smoke"]), []
    for r in results:
        step = judge_temperature(dict(label=r["label"], mu=r["oof_mu"], sigma=factor*r["oof_before"], fold=r["fold"]), config.uncertainty, config.seed)
        found.append((tuple(step.document["gain"]), np.median(step.sigma/(factor*r["oof_before"]), 0) if step.used else np.ones(283)))
    return found


def prove_temperature(results: list) -> tuple:
    "Text, table and bars about temperature: where it is in use, and where it must be."
    gains = [tuple(r["gain"][0]) for r in results]
    text = ["Held-out gain of temperature, nats per cell: " + "; ".join(signed(g) for g in gains) + "."]
    bars, rows = [], []
    if any(r["used"][0] for r in results): bars.append(bar("temperature, where it is in use: lower limit of the held-out gain, nats per cell", min(g[1] for g, r in zip(gains, results) if r["used"][0]), low=1e-6, digits=5))
    else: text.append("It is not in use: these error bars do not need a factor (bars below: they get one when they do).")
    for factor in (.8, 1.25):
        found = wrong_sigma(results, factor)
        rows.append([f"x {factor:g}", "; ".join(signed(g) for g, _ in found), *(f"{np.mean([f[bins].mean() for _, f in found]):.3f}" for bins in (slice(0, 1), slice(1, None))), f"{1/factor:.3f}"])
        bars.append(bar(f"temperature, held-out sigma x {factor:g}: lower limit of the gain on other folds, nats per cell", min(g[1] for g, _ in found), low=1e-6, digits=5))
    table = dict(caption="Temperature on error bars that are made wrong on purpose (held-out planets, judged on other folds)",
                 header=["sigma", "gain, nats per cell", "factor found, FGS1", "factor found, AIRS", "factor that undoes it"], rows=rows)
    return text, table, bars


def prove_coverage(test: Examples, results: list) -> tuple:
    "Numbers, table and bars about central intervals: those of the submitted sigma, and the conformal ones, which are judged."
    from scipy.stats import norm
    rows, numbers, bars = [], {}, []
    widths = {f"{100*level:.0f} %, sigma": lambda r, level=level: norm.ppf(.5 + level/2)*r["sigma"] for level in (.5, .6827, .9, .95)} | {"90 %, conformal": lambda r: r["half"]}
    for name, width in widths.items():
        found = [coverage(test, r["mu"], width(r)) for r in results]
        mean = numbers[f"coverage {name}"] = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
        rows.append([name, *(f"{100*v:.1f}" for v in mean.values())])
    chance = 100*np.sqrt(.09/len(test))                           # one FGS1 cell a planet: this much is chance
    for k in ("all", "airs", "fgs1"): bars.append(bar(f"90 % intervals, {k}: percentage points off" + (f" (binomial error {chance:.1f})" if k == "fgs1" else ""), 100*abs(mean[k] - .9), high=2., digits=1))
    bars += [bar(f"90 % intervals, {k}: percentage points off", 100*abs(v - .9), high=4., digits=1) for k, v in mean.items() if "third" in k]
    return numbers, dict(caption="Share of true values inside central intervals (%), mean over seeds; the conformal ones are judged", header=["interval", *mean], rows=rows), bars


def prove_headline(args) -> dict:
    "The default model with all labels."
    n = args.train
    tasks = [Task("mismatch", n, n, ROWS[0], s, args) for s in SEEDS]
    carry_out(tasks, args, f"mismatch, {n} labels")
    s, results = summary(tasks), [read_npz(t.path) for t in tasks]
    _, _, test, _, flagged = physics("mismatch", n, args)
    bars = [bar("mismatch: gain over the physics", s["gain"][0], low=.02, digits=4), bar("mismatch: lower limit of the gain", s["gain"][1], low=0., digits=4)]
    numbers, covered, more = prove_coverage(test, results)
    about, table, other = prove_temperature(results)
    bars += more + other + [bar("training, minutes on one core", float(np.mean(s["train_s"]))/60, high=20., digits=1), bar("inference, s per planet", float(np.mean(s["predict_s"])), high=.1)]
    text = [f"{n} training planets, {len(test)} test planets ({flagged} more were flagged and count in neither), seed {args.seed}, {len(tasks)} seeds of the network. Intervals: bootstrap over test planets.", *about, in_use(results)]
    tables = [dict(caption="World: mismatch", header=HEADER, rows=[physics_row("mismatch", n, args), table_row("full system", s)]), covered, table]
    return dict(title="Headline, mismatch", text=text, tables=tables, bars=bars, numbers={k: v for k, v in s.items() if k != "each"} | numbers | dict(flagged=flagged, n_test=len(test), temperature=[r["gain"][0].tolist() for r in results]))


def prove_calm(args) -> dict:
    "The default model where there is nothing to learn, with few labels and with all."
    rows, bars, numbers, results = [], [], {}, []
    for n in [k for k in (20, 100) if k < args.calm_train] + [args.calm_train]:
        tasks = [Task("calm", n, n, ROWS[0], s, args) for s in SEEDS]
        carry_out(tasks, args, f"calm, {n} labels")
        s = summary(tasks)
        results += [read_npz(t.path) for t in tasks]
        rows += [[f"physics only, {n} labels", *physics_row("calm", n, args)[1:]], table_row(f"full system, {n} labels", s)]
        bars.append(bar(f"calm, {n} labels: gain over the physics", s["gain"][0], low=-.003, digits=4))
        numbers[str(n)] = {k: v for k, v in s.items() if k != "each"}
    _, _, test, _, flagged = physics("calm", args.calm_train, args)
    text = [f"{len(test)} test planets ({flagged} more were flagged and count in neither), seed {args.seed}, {len(SEEDS)} seeds of the network. Prior and network are learnt from the same labels. Intervals: bootstrap over test planets.", in_use(results)]
    return dict(title="Headline, calm", text=text, tables=[dict(caption="World: calm", header=HEADER, rows=rows)], bars=bars, numbers=numbers)


def prove_rows(args) -> dict:
    "Each part exchanged or left out."
    todo = {row.name: [Task("mismatch", args.train, args.labels, row, s, args, FEWER) for s in SEEDS] for row in ROWS}
    if not args.only_done: carry_out([t for tasks in todo.values() for t in tasks], args, "rows")
    found = {name: summary(tasks) for name, tasks in todo.items() if not args.only_done or all(t.path.exists() for t in tasks)}
    missing = [name for name in todo if name not in found]
    results = [read_npz(t.path) for name in found for t in todo[name] if not t.row.derived]
    compared = {row.name: row.against or ROWS[0].name for row in ROWS}
    rows = [table_row(name, s, None if name == ROWS[0].name else found[compared[name]]["each"]) for name, s in found.items()]
    text = [f"{args.labels} labelled planets (of the {args.train} that the physics' prior was learnt from), {args.test} test planets; three seeds, which change initial weights and which planets have labels; three folds, 15 epochs at most.",
            "Rows that compare networks have no linear correction beside them, and are compared with the default networks alone; those that begin with 'small' with the small model, the last one with the quantile head."] + ([in_use(results)] if results else []) + ([f"Not run yet: {'; '.join(missing)}."] if missing else [])
    return dict(title="Rows", text=text, tables=[dict(caption="Ablations", header=HEADER, rows=[physics_row("mismatch", args.train, args), *rows])], bars=[], numbers={k: {a: b for a, b in v.items() if a != "each"} for k, v in found.items()})


def prove_learning(args) -> dict:
    "How many labels it takes; the physics has its own from the same planets."
    rows, numbers = [], {}
    for n in [k for k in map(int, args.curve.split(",")) if k < args.train] + [args.train]:
        rows.append([str(n), *physics_row("mismatch", n, args)[:4], "", "", ""])
        for row, name in ((FULL, "full system"), (NETWORKS, "networks alone"), (LINEAR, "linear correction alone")):
            tasks = [Task("mismatch", n, n, row, s, args) for s in SEEDS]
            carry_out(tasks, args, f"{n} labels, {name}")
            s = summary(tasks)
            rows.append([str(n), *table_row(name, s)[:5], " ".join(f"{a:g}/{b:g}" for a, b in s["gates"]), "" if row.derived else f"{np.mean(s['train_s'])/60:.1f}"])
            numbers[f"{n} {name}"] = {k: v for k, v in s.items() if k != "each"}
    return dict(title="Learning curve", text=["Prior, networks and linear correction are learnt from the same labels; gates are the shares let in, in FGS1/AIRS, for each seed."],
                tables=[dict(caption="Score against labels", header=["labels", "row", "score", "FGS1", "AIRS", "gain over the physics (95 %)", "gates", "training, core minutes"], rows=[[*r][:8] for r in rows])], bars=[], numbers=numbers)


def carry_out(tasks: list, args, what: str) -> None:
    "Simulate and fit what is missing, then train what is missing, on all cores."
    worlds = {(t.world, t.n_train) for t in tasks}
    todo = [o for world, n in worlds for role, k in (("train", n), ("test", args.test)) for o in orders(world, role, k, args)]
    if any(t.row.pretrained for t in tasks): todo += orders("many", "pretrain", args.pretrain, args)
    todo = [o for o in todo if not o.path.exists()]
    if todo: run(do_order, [(str(o.path), o) for o in todo], args.workers, f"{what}: light curves")
    for world, n in sorted(worlds): physics(world, n, args)
    if any(t.row.pretrained and not t.path.exists() for t in tasks):
        many_worlds(args)
        run(make_weights, [(f"weights {s}", (args, s)) for s in SEEDS], args.workers, f"{what}: weights to start from")
    todo = [t for t in tasks if not t.path.exists()]
    parents = {str(t.path): t for t in (dataclasses.replace(t, row=dataclasses.replace(FULL, pretrained=t.row.pretrained)) for t in todo if t.row.derived)}   # once, before those that judge them again
    if first := [t for t in parents.values() if not t.path.exists()]: run(do_task, [(str(t.path), t) for t in first], args.workers, f"{what}: full systems")
    todo = [t for t in todo if not t.path.exists()]
    if todo: run(do_task, [(str(t.path), t) for t in todo], args.workers, f"{what}: networks")


def prove_pretraining(args) -> dict:
    "Does it help to have seen other worlds before?"
    def other(row): return dataclasses.replace(row, name=f"pre-trained: {row.name}", pretrained=True)
    rows, numbers, counts = [], {}, sorted({20, args.labels})
    for n in counts:
        todo = {row.name: [Task("mismatch", args.train, n, row, s, args, FEWER) for s in SEEDS] for row in (FULL, NETWORKS, other(FULL), other(NETWORKS))}
        carry_out([t for tasks in todo.values() for t in tasks], args, f"pre-training, {n} labels")
        found = {name: summary(tasks) for name, tasks in todo.items()}
        rows += [table_row(f"{n} labels, {name}", s, found[name.removeprefix("pre-trained: ")]["each"] if name.startswith("pre-trained") else None) for name, s in found.items()]
        numbers |= {f"{n} {k}": {a: b for a, b in v.items() if a != "each"} for k, v in found.items()}
    text = [f"As the rows; pre-training on {args.pretrain} planets of other worlds (laws, pointing and calibration errors drawn at random), with `spectramind pretrain`'s settings: masked phase, then their labels. The scaling of the inputs is that of pre-training, the learning rate 0.3 of what it is otherwise."]
    judged = [read_json(weights_folder(args, s)/"done.json")["scores"] for s in SEEDS]
    text.append(f"On planets of those worlds that were held out the official score is {np.mean([j['physics'] for j in judged]):.4f} by the physics and {np.mean([j['network'] for j in judged]):.4f} by the network.")
    header = [*HEADER[:5], "against the same without pre-training (95 %)", HEADER[6]]
    return dict(title="Pre-training", text=text, tables=[dict(caption="Pre-training", header=header, rows=rows)], bars=[], numbers=numbers)


PARTS = dict(headline=prove_headline, calm=prove_calm, rows=prove_rows, learning=prove_learning, pretraining=prove_pretraining)


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--parts", default=",".join(PARTS))
    for name, default, text in (("train", 1000, "training planets"), ("test", 250, "test planets"), ("labels", 100, "labels in the rows"), ("calm-train", 250, "training planets without mismatch"),
                                ("pretrain", PRETRAIN, "planets to pre-train on"), ("seed", 9001, "of planets, instrument and noise"), ("workers", 0, "processes; 0: one for each core")):
        ap.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    ap.add_argument("--curve", default="20,100,300", help="labels of the learning curve, beside all of them (20,100,300)")
    ap.add_argument("--only-done", action="store_true", help="rows: tabulate what is there, train nothing")
    ap.add_argument("--work", type=Path, default=HERE.parent/"proof"/"ablation", help="where everything is kept")
    ap.add_argument("--out", type=Path, default=HERE, help="folder of ablation.json and ABLATION.md")
    args = ap.parse_args()
    args.work = args.work.resolve()
    missed, path = [], args.out/"ablation.json"
    kept = read_json(path) if path.exists() else {}
    for name in [p for p in PARTS if p in args.parts.split(",")]:
        began = time.perf_counter()
        part = PARTS[name](args)
        kept[name] = part | dict(made=dict(minutes=round((time.perf_counter() - began)/60, 1), code=learning_code(), seed=args.seed, test=args.test))
        lines = ["# Ablations", "", "Written by `make ablation` (`ablation.py`). Simulated light curves of unseen seeds, with the mismatches described there. Do not edit.", ""]
        for p in PARTS:
            if p not in kept: continue
            k = kept[p]
            lines += [f"## {k['title']}", "", " ".join(k["text"]), "", *(markdown(**t) for t in k["tables"])]
            if k["bars"]: lines.append(markdown("Bars", ["", "found", "wanted", ""], [[b["name"], b["found"], b["wanted"], "met" if b["met"] else "MISSED"] for b in k["bars"]]))
            lines += [f"Seed {k['made']['seed']}; {k['made']['minutes']} minutes (less where parts were there already); code {k['made']['code']}.", ""]
        write_json(path, kept)
        write_text(args.out/"ABLATION.md", "\n".join(lines))
        print("\n".join(lines[-40:]), flush=True)
        missed += [f"{name}: {b['name']} is {b['found']}" for b in part["bars"] if not b["met"]]
    if missed: raise QualityGateError(f"{len(missed)} bars missed:\n  " + "\n  ".join(missed))
    print("every bar met")
    return 0


if __name__ == "__main__":
    try: sys.exit(main())
    except SpectraMindError as error:
        print(error.message + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)
