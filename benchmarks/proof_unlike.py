"""The proof of the insurance: planets of other worlds, judged by networks, fits and calibration that know one world only.

    python benchmarks/proof_unlike.py [--labels 300] [--planets 100] [--wild 40] [--seed 9100] [--work DIR] [--out FILE.json]

A small ensemble is trained on planets of the ablation's world `mismatch` (light curves simulated, fitted one by one and kept under --work), and its calibration is judged on held-out
planets of that world, which are all usual. Then it meets planets that it was not trained on:

    same   the same world
    calm   nothing is wrong with the instrument, so what the network has learnt to undo is not there
    many   each planet has an instrument of its own
    wild   pointing, drifts and calibration files far worse than any that were seen

For each: how many are flagged, and by which witness; errors over error bars before the widening; what the widening gains (nats per cell); what the conformal intervals hold; and whether
the planets as a whole look like those that were trained on. Bars: the widening is in use; of `same` at most 3 % are flagged, they pay less than the premium and count as alike; of `wild`
at least 90 % are flagged, and they gain; `calm`, `many` and `wild` are told apart as a whole. That single planets of `calm` and `many` are hardly ever flagged is shown, and is no bar.

Prints a table, writes the figures as JSON; exit code 6 when a bar is missed.
"""
import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

for _name in ("OMP", "OPENBLAS", "MKL", "NUMBA"): os.environ.setdefault(f"{_name}_NUM_THREADS", "1")

import numpy as np

import ablation
from proof_curves import population
from spectramind.challenge.folds import group_kfold
from spectramind.core.determinism import single_threaded_blas
from spectramind.core.store import write_json
from spectramind.lightcurve.prior import cross_fit, predict_spectra
from spectramind.network.features import stack_examples
from spectramind.pipeline.calibration import PREMIUM, judge, read_calibration
from spectramind.pipeline.config import load_config
from spectramind.pipeline.learning import fold_of, network_config, shape_spread, supervised_phase, train_config
from spectramind.simulate.curves import Leftovers
from spectramind.simulate.visit import Conditions
from spectramind.training.ensemble import EnsembleConfig, train_ensemble
from spectramind.uncertainty.coverage import planet_nll, z_scores
from spectramind.uncertainty.outliers import fit_chi2, widen_sigma

WILD = (Conditions(law="claret4", jitter_scale=12., drift_scale=6.), Leftovers(jitter=1., linearity=5., dark=40.))


def planets(orders: list) -> list:
    "(posterior, look, depths) of each, fitted where that has not been done; those whose fit is not trusted are left out."
    for order in orders: ablation.do_order(order)
    found = [(*ablation.read_order(o), o.planet.depth) for o in orders]
    return [x for x in found if not x[0].quality.get("flag", False)]


def worlds(args) -> dict:
    "Name -> planets; `train` is what is learnt from."
    ablation.WORLDS["wild"] = WILD
    usual = ablation.orders("mismatch", "train", 1000, args)
    wild = [ablation.Order(p, "wild", args.seed, str(args.work), ablation.fit_code()) for p in population("wild", args.wild, args.seed, "claret4")]
    chosen = dict(train=usual[:args.labels], same=usual[args.labels:args.labels + args.planets], calm=ablation.orders("calm", "train", 250, args)[:args.planets],
                  many=ablation.orders("many", "pretrain", 800, args)[:args.planets], wild=wild)
    return {name: planets(orders) for name, orders in chosen.items()}


def examples(found: list, mu: np.ndarray, sigma: np.ndarray):
    return stack_examples([p for p, _, _ in found], [look for _, look, _ in found], mu, sigma, np.array([d for *_, d in found]))


def learn(found: list) -> tuple:
    "Ensemble, prior and judged steps of the calibration."
    config = load_config(["data=smoke", "model=v50_fast", "train.epochs_supervised=12", "train.patience=4"])
    folds = group_kfold(sorted(p.planet_id for p, _, _ in found), 5, config.seed)
    prior, mu, sigma = cross_fit([p for p, _, _ in found], np.array([d for *_, d in found]), folds)
    train = examples(found, mu, sigma)
    fold = fold_of(train.planet_id, config.model.ensemble.folds, config.seed)
    with tempfile.TemporaryDirectory() as folder:
        ensemble, held, _ = train_ensemble(train, fold, network_config(config.model.network), train_config(config), folder, EnsembleConfig(**asdict(config.model.ensemble)),
                                           supervised=supervised_phase(config.loss, shape_spread(train.label)), tell=lambda told: None)
        chi2, dof = fit_chi2([p for p, _, _ in found])
        oof = dict(label=train.label, fold=fold, mu=held["mu"], sigma=held["sigma"], latent=ensemble.predict(train)["latent"], chi2=chi2, dof=dof)
        steps = judge(oof, config.uncertainty, config.seed)
        for step in steps: write_json(Path(folder)/f"{step.name}.json", step.document | dict(oof=None))
        return ensemble, prior, steps, read_calibration(folder)


def meet(found: list, ensemble, prior, calibration) -> dict:
    "What becomes of planets of a world."
    rows = predict_spectra([p for p, _, _ in found], prior)
    new = examples(found, rows.mu, rows.sigma)
    out = ensemble.predict(new)
    asked = out["latent"], *fit_chi2([p for p, _, _ in found])
    said, final = calibration.verdict(*asked), calibration.apply(out["sigma"], *asked)
    plain = final/said["widen"][:, None]
    z, inside = z_scores(new.label, out["mu"], plain), np.abs(new.label - out["mu"]) <= calibration.half_width(out["sigma"], *asked)
    gain = planet_nll(new.label, out["mu"], plain) - planet_nll(new.label, out["mu"], widen_sigma(plain, said["widen"]))
    return dict(planets=len(found), flagged=float(said["flag"].mean()), by_latents=float((said["p_latent"] < .01).mean()), by_fit=float((said["p_predictive"] < .01).mean()),
                widen=float(said["widen"].mean()), rms_z_fgs1=float(np.sqrt((z[:, 0]**2).mean())), rms_z_airs=float(np.sqrt((z[:, 1:]**2).mean())), gain=float(gain.mean()),
                intervals_fgs1=float(inside[:, 0].mean()), intervals_airs=float(inside[:, 1:].mean()), population=calibration.population(*asked[1:]))


def main(argv: list | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("labels", 300), ("planets", 100), ("wild", 40), ("seed", 9100)): p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--work", type=Path, default=Path(tempfile.gettempdir())/"unlike")
    p.add_argument("--out", type=Path)
    args = p.parse_args(argv)
    import torch
    torch.set_num_threads(1)
    with single_threaded_blas():
        found = worlds(args)
        ensemble, prior, steps, calibration = learn(found.pop("train"))
        met = {name: meet(rows, ensemble, prior, calibration) for name, rows in found.items()}
    for step in steps: print(step.line())
    print(f"{'world':6} planets flagged latents  fit  widen  z FGS1  z AIRS    gain  90 % FGS1  AIRS  alike")
    for name, m in met.items():
        print(f"{name:6} {m['planets']:7} {m['flagged']:7.3f} {m['by_latents']:7.3f} {m['by_fit']:5.3f} {m['widen']:5.2f} {m['rms_z_fgs1']:7.2f} {m['rms_z_airs']:7.2f} {m['gain']:+8.4f} "
              f"{m['intervals_fgs1']:9.3f} {m['intervals_airs']:6.3f}  {m['population']['alike']}")
    bars = {"the widening is in use": steps[2].used, "usual planets are left alone": met["same"]["flagged"] <= .03 and met["same"]["gain"] > -PREMIUM and met["same"]["population"]["alike"],
            "wild planets are flagged, and gain": met["wild"]["flagged"] >= .9 and met["wild"]["gain"] > 0,
            "other worlds are told apart as a whole": not any(met[name]["population"]["alike"] for name in ("calm", "many", "wild"))}
    for name, ok in bars.items(): print("ok  " if ok else "MISS", name)
    if args.out: write_json(args.out, dict(seed=args.seed, labels=args.labels, fits=ablation.fit_code(), steps={s.name: dict(used=s.used, gain=s.document["gain"]) for s in steps}, worlds=met, bars=bars))
    return 0 if all(bars.values()) else 6


if __name__ == "__main__": sys.exit(main())
