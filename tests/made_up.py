"Documents of injection and explanation as a run leaves them, made up: for pages with everything on them."
import numpy as np

from spectramind.core.determinism import rng_for
from spectramind.diagnostics.injection import DOUBTED, EVERY, InjectSettings, injection_table
from spectramind.diagnostics.signals import kept_signals

N = 283


def injection_document(planets: int = 12, seed: int = 5) -> dict:
    "All three levels, with every kind of verdict."
    rng, shapes, sizes, probes = np.random.default_rng(seed), kept_signals(np.full(N, .01)), np.r_[0., InjectSettings().sizes], []
    def kept(names, spread, final=False):
        found = {}
        for name in names:
            back = (.3 if name in DOUBTED else .93) if final else 1.
            leak = dict(leak=(.6*final + .01, (1.4 if name in DOUBTED else .9)*final + .02)) if name != "whole depth" else {}
            more = dict(expected=back, off=.05*rng.standard_normal()) if final else {}
            found[name] = dict(ratio=back + spread*rng.standard_normal(), response=back*shapes[name]) | leak | more
        return found
    for k in range(planets):
        gone = {name: dict(depth=list(.1*rng.standard_normal(9)), flux={i: .01*rng.standard_normal() for i in ("FGS1", "AIRS-CH0")}) for name in ("uneven pixels", "cosmic rays", "jitter step")}
        paired = dict(counts=kept(("whole depth", "H2O", "line"), .005), curves=kept(EVERY, .003)) if k < 4 else {}
        removed = dict(counts=gone, curves={"drift": dict(depth=list(rng.lognormal(-2.2, 1., 9)*rng.choice([-1., 1.], 9)), flux={})}) if k < 4 else {}
        probes.append(dict(planet_id=1000 + k, kept=paired | dict(spectra=kept(EVERY, .1, True)), removed=removed, zero=dict(counts=list(rng.standard_normal(9)), curves=rng.standard_normal((3, 4)).tolist()),
                           found=(rng.standard_normal((3, 1)) + sizes).tolist()))
    table = injection_table(probes, InjectSettings(), rng_for(seed, "made up"))
    response = {level: {name: list(map(float, probes[0]["kept"][level][name]["response"])) for name in ("H2O", "line")} for level in ("counts", "curves", "spectra")}
    return dict(table, planets=[p["planet_id"] for p in probes], split="test", settings=dict(detect=3.), response=response)


def explain_parts(ids, seed: int = 6) -> tuple:
    "Parts of the tabs `model` and `rules`."
    from spectramind.diagnostics import model_views as views
    rng, n = np.random.default_rng(seed), len(ids)
    def features(count, name): return [dict(name=name.format(k), value=v, low=.7*v, high=1.3*v) for k, v in enumerate(rng.random(count))]
    bands = ("FGS1", "continuum", "CO2", "CH4", "CH4 + CO", "H2O", "CO2 + H2O")
    outputs = [dict(quantity=q, band=b, unit="sigma of the physics", groups=features(9, "group {}"), features=features(20, "ring AIRS {}")) for q, b in (*(("mu", b) for b in bands), ("sigma", "FGS1"), ("sigma", "AIRS"))]
    part = dict(made=True, method="integrated gradients", baseline="the mean planet", completeness=1e-4, planets=[int(i) for i in ids], outputs=outputs, background=12)
    at = rng.integers(0, N, (2, 900))
    attention = dict(made=True, planets=n, layers=2, heads=2, edges=dict(target=at[0].tolist(), source=at[1].tolist(), weight=rng.random(900).tolist()))
    planets = dict(planet_id=[int(i) for i in ids], score=rng.random(n).tolist(), violation=rng.random(n).tolist(), fft_class=rng.choice(["white", "red"], n).tolist(), entropy=rng.random(n).tolist())
    points = dict(planet_id=planets["planet_id"], split=["test"]*n, x=rng.normal(size=n).tolist(), y=rng.normal(size=n).tolist())
    embedding = dict(made=True, points=points, axes=["component 1 (28 % of the variance)", "component 2 (18 % of the variance)"], space="latents of the network", kept=.66)
    rules = [dict(name=name, kind="term", weight=1e-3, trained=k % 2 == 0, mean=float(rng.random()), planets=5, worst_planet=int(ids[0])) for k, name in enumerate(("sm", "nn", "coh", "seam", "ratio", "qm"))]
    violation = dict(made=True, unit="penalty", rules=rules)
    model = [*views.embedding_parts(embedding, planets), *views.attribution_parts(part), *views.shapley_parts(part), *views.attention_parts(attention)]
    return model, [*views.rule_parts(violation, rng.random((n, N))**8, np.asarray(ids)), *views.rule_table(violation)]
