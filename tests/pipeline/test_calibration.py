"Corrections of error bars: each judged by what it is there for, all in step with each other, and what is said of single planets."
import csv
import json

import numpy as np
import pytest

from spectramind.core.errors import DataError, QualityGateError, SchemaError
from spectramind.core.nouns import Spectra
from spectramind.core.store import read_json, write_json
from spectramind.pipeline import calibration as room
from spectramind.pipeline.config import load_config
from spectramind.pipeline.products import Made, Workplace
from spectramind.pipeline.settings import CorelSettings, OutlierSettings, TemperatureSettings, Uncertainty
from spectramind.uncertainty.coverage import planet_nll

SETTINGS = Uncertainty()


def pretend(n=100, factor=1., seed=0, draw=None, fits=False, away=0.):
    "Held-out predictions whose errors are `factor` times their error bars."
    rng = np.random.default_rng(seed)
    e = (draw or (lambda r, k: r.standard_normal(k)))(rng, (n, 1))*.8 + .6*rng.standard_normal((n, 283))
    label = .012 + 1e-4*rng.standard_normal((n, 283))
    sigma = 5e-5*np.exp(.2*rng.standard_normal((n, 1)))*np.ones(283)
    mu = label + factor*sigma*e
    found = dict(planet_id=np.arange(n), fold=np.arange(n) % 5, label=label, mu=mu, sigma=sigma, physics_mu=mu, physics_sigma=sigma,
                 network_mu=mu, network_sigma=sigma, latent=rng.standard_normal((3, n, 5)) + away)
    return found | (dict(chi2=300*rng.lognormal(0, .08, (n, 4)), dof=np.full((n, 4), 300.)) if fits else {})


@pytest.fixture
def bench(tmp_path):
    "A folder with held-out predictions, and settings for it."
    def make(oof, *more):
        config = load_config([f"paths.work={tmp_path}", *more])
        Made({}, "settings").keep(Workplace(tmp_path).checkpoints/"oof.npz", oof)
        return config
    return make


def read(config, settings=None):
    return room.read_calibration(Workplace(config.paths.work).calibration, room.read_oof(config)[1], settings or config.uncertainty)


def ratio(found, oof, *rows):
    return float(np.median(found.apply(oof["sigma"], oof["latent"])/oof["sigma"]))


# ------------------------------------------------------------------------------------------------ the insurance

@pytest.mark.parametrize("seed", range(6))
def test_widening_is_in_use_though_planets_that_are_all_usual_have_nothing_from_it(seed):
    step = room.judge_outliers(pretend(120, seed=seed), SETTINGS, pretend(120, seed=seed)["sigma"])
    assert step.used and step.document["gain"][1] > -room.PREMIUM and step.document["premium"] == room.PREMIUM
    assert step.document["flagged"] < .06


def test_a_premium_that_is_too_high_is_not_paid(monkeypatch):
    oof = pretend(120)
    oof["latent"][:, ::4] *= 40                                       # every fourth planet is far away, and none of them any worse
    monkeypatch.setattr(room, "PREMIUM", 1e-4)
    step = room.judge_outliers(oof, SETTINGS, oof["sigma"])
    assert not step.used and "planets that were held out would pay" in step.document["reason"] and step.document["gain"][1] < -1e-4
    np.testing.assert_array_equal(step.sigma, oof["sigma"])


def test_planets_of_another_world_are_flagged_and_widened_in_what_is_predicted(bench):
    oof = pretend(150, fits=True)
    config = bench(oof)
    room.calibrate_corel(config)
    found = read(config)
    usual, strange = pretend(80, seed=1, fits=True), pretend(30, 3., seed=2, fits=True, away=5.)
    said = [found.verdict(w["latent"], w["chi2"], w["dof"]) for w in (usual, strange)]
    assert said[1]["flag"].all() and said[0]["flag"].mean() < .04 and said[1]["listed"].all()
    gain = [planet_nll(w["label"], w["mu"], w["sigma"]) - planet_nll(w["label"], w["mu"], found.apply(w["sigma"], w["latent"], w["chi2"], w["dof"])) for w in (usual, strange)]
    assert gain[1].mean() > .5 and gain[0].mean() > -room.PREMIUM
    spots = pretend(10, seed=3, fits=True)
    spots["chi2"][:, 3] *= 3                                           # white light that the physics does not describe; usual latents
    assert found.verdict(spots["latent"], spots["chi2"], spots["dof"])["flag"].all()
    assert not found.verdict(spots["latent"])["flag"].any()           # which only the second witness sees
    assert (found.apply(spots["sigma"], spots["latent"], spots["chi2"], spots["dof"]) > 1.1*found.apply(spots["sigma"], spots["latent"])).all()


def test_flags_are_raised_even_where_nothing_is_widened(bench, monkeypatch):
    config = bench(pretend(100))
    monkeypatch.setattr(room, "PREMIUM", -1.)
    room.calibrate_corel(config)
    found = read(config)
    assert found.outliers == () and len(found.witnesses) == 3
    said = found.verdict(pretend(5, seed=4, away=9.)["latent"])
    assert said["flag"].all() and (said["widen"] == 1).all()
    assert read(config, Uncertainty(outliers=OutlierSettings(enabled=False))).verdict(pretend(5)["latent"]) is None


# ------------------------------------------------------------------------------------------------ coverage decides about COREL

def test_intervals_that_hold_too_much_are_put_right_though_it_costs_likelihood():
    oof = pretend(500)
    oof["mu"] = oof["label"] + oof["sigma"]*np.sqrt(3)*np.random.default_rng(0).uniform(-1, 1, (500, 1))    # flat errors, sigma their rms
    c = room.judge_corel(oof, SETTINGS, oof["sigma"])
    before, after = (np.mean(np.abs(oof["label"] - oof["mu"])[:, 1:] <= 1.644854*s[:, 1:]) for s in (oof["sigma"], c.sigma))
    assert c.used and -.015 < c.document["gain"][0] < 0 and abs(after - .9) < abs(before - .9) - .01
    assert c.document["miss"]["after"] < c.document["miss"]["before"] and "held" in c.document["why"]


def test_intervals_are_those_of_the_conformal_factors_even_where_sigma_is_not_scaled(bench):
    oof = pretend(150, fits=True)
    config = bench(oof)
    step = room.calibrate_corel(config)[0]
    assert not step.used and step.half is not None                    # error bars that are right already
    found, new = read(config), pretend(40, seed=8, fits=True)
    asked = new["latent"], new["chi2"], new["dof"]
    half, sigma = found.half_width(new["sigma"], *asked), found.apply(new["sigma"], *asked)
    np.testing.assert_allclose(half/sigma, np.tile(found.intervals.q_raw, (40, 1)), rtol=1e-12)
    numbers = room.diagnose_calibration(config)
    told = read_json(Workplace(config.paths.work).reports/"calibration.json")["intervals"]
    assert told["level"] == pytest.approx(.9) and .86 < told["parts"]["airs"][0] < .95
    assert numbers["calibrated"]["metrics"]["interval_fgs1@0.9"] == told["parts"]["fgs1"][0]


def test_half_widths_that_are_submitted_are_still_judged_as_half_widths(bench):
    config = bench(pretend(200), "uncertainty.corel.submit=raw")
    room.calibrate_corel(config)
    metrics = room.diagnose_calibration(config)["calibrated"]["metrics"]
    assert metrics["coverage@0.9"] > .97 and abs(metrics["interval@0.9"] - .9) < .03


# ------------------------------------------------------------------------------------------------ in step

def test_steps_that_were_fitted_together_are_applied_once_and_others_are_refused(bench):
    oof = pretend(200, 2.)
    config = bench(oof)
    place = Workplace(config.paths.work).calibration
    room.calibrate_corel(config)                                       # alone: it writes the temperature it was built on
    assert ratio(read(config), oof) == pytest.approx(2, rel=.08)
    room.calibrate_temp(config)
    assert ratio(read(config), oof) == pytest.approx(2, rel=.08)
    cold = Uncertainty(temperature=TemperatureSettings(enabled=False))
    with pytest.raises(DataError, match="another temperature") as caught: read(config, cold)
    assert "calibrate-corel" in caught.value.hint and caught.value.exit_code == 3
    without = load_config([f"paths.work={config.paths.work}", "uncertainty.temperature.enabled=false"])
    room.calibrate_corel(without)
    assert ratio(read(without), oof) == pytest.approx(2, rel=.08)     # COREL has done it
    room.calibrate_temp(config)                                        # and now a temperature that came later: together they would make four
    with pytest.raises(DataError, match="another temperature"): read(config)
    with pytest.raises(DataError, match="another temperature"): room.diagnose_calibration(config)
    room.calibrate_corel(config)
    document = read_json(place/"outliers.json")
    write_json(place/"outliers.json", {k: v for k, v in document.items() if k != "on"})
    with pytest.raises(DataError, match="temperature and corel"): read(config)
    (place/"temperature.json").unlink()
    with pytest.raises(DataError, match="another temperature"): read(config)


def test_all_switched_off_is_no_contradiction(bench):
    oof = pretend(100, 2.)
    config = bench(oof)
    room.calibrate_corel(config)
    off = read(config, Uncertainty(TemperatureSettings(enabled=False), CorelSettings(enabled=False), OutlierSettings(enabled=False)))
    assert sum("switched off" in note for note in off.notes) == 3 and ratio(off, oof) == 1


def test_a_diagnosis_judges_what_stands(bench):
    oof = pretend(120, 2.)
    config = bench(oof)
    with pytest.raises(DataError, match="another temperature") as caught: room.diagnose_calibration(config)     # nothing was fitted yet
    assert "calibrate-corel" in caught.value.hint
    room.calibrate_corel(config)
    assert room.diagnose_calibration(config)["calibrated"]["metrics"]["z_rms_airs"] == pytest.approx(1, abs=.1)
    path = Workplace(config.paths.work).calibration/"temperature.json"
    document = read_json(path)
    write_json(path, document | dict(factors=document["factors"] | dict(airs=7.)))
    with pytest.raises(DataError, match="temperature"): room.diagnose_calibration(config)
    off = load_config([f"paths.work={config.paths.work}", "uncertainty=off"])
    assert room.diagnose_calibration(off)["calibrated"]["metrics"]["z_rms_airs"] > 1.8


def test_the_gate_hears_the_intervals_too(bench, monkeypatch):
    config = bench(pretend(200))
    room.calibrate_corel(config)
    room.diagnose_calibration(config, gate=True)
    real = room.half_widths
    monkeypatch.setattr(room, "half_widths", lambda *a: .5*real(*a))
    with pytest.raises(QualityGateError, match="inside the 90 % intervals"): room.diagnose_calibration(config, gate=True)


def test_damaged_steps_are_named(bench):
    config = bench(pretend(60))
    place = Workplace(config.paths.work).calibration
    for name, change in (("corel", dict(used=True, factors=None)), ("corel", dict(factors=dict(kind="corel"))), ("outliers", dict(members=["x"])), ("outliers", dict(used=True, members=3))):
        room.calibrate_corel(config)
        write_json(place/f"{name}.json", read_json(place/f"{name}.json") | change)
        with pytest.raises(SchemaError): read(config)


# ------------------------------------------------------------------------------------------------ tables

def test_verdicts_come_back_as_they_were_written(tmp_path):
    found = dict(planet_id=np.array([3, 5]), p_latent=np.array([.5, 1e-9]), p_predictive=np.array([np.nan, .25]), p=np.array([1., 2e-9]),
                 flag=np.array([False, True]), listed=np.array([False, True]), widen=np.array([1., 2.5]))
    room.write_verdicts(tmp_path, np.array([5, 4, 3]), found)
    with (tmp_path/"outliers.csv").open(newline="") as lines: header, *rows = list(csv.reader(lines))
    assert header == ["planet_id", "p_latent", "p_predictive", "p", "flag", "listed", "widen"] and [r[0] for r in rows] == ["5", "4", "3"]
    back = room.read_verdicts(tmp_path)
    assert back[5] == dict(p_latent=1e-9, p_predictive=.25, p=2e-9, flag=True, listed=True, widen=2.5)
    assert back[3]["p_predictive"] is None and back[3]["flag"] is False and set(back[4].values()) == {None}
    room.write_verdicts(tmp_path, np.array([5]), None)
    assert room.read_verdicts(tmp_path) == {} and not (tmp_path/"outliers.csv").exists()
    for text in ("planet_id,p\n1,2\n", "planet_id,p_latent,p_predictive,p,flag,listed,widen\n1,x,,,,,\n", "planet_id,p_latent,p_predictive,p,flag,listed,widen\n1,,\n", ""):
        (tmp_path/"outliers.csv").write_text(text)
        with pytest.raises(SchemaError): room.read_verdicts(tmp_path)


def test_half_widths_of_planets_without_a_network_are_normal_ones(tmp_path):
    spectra = Spectra(np.array([1, 2]), np.full((2, 283), .01), np.full((2, 283), 1e-4), ("network", "prior"))
    room.write_half_widths(tmp_path, spectra, {1: np.full(283, 3e-4)}, .9)
    ids, half = room.read_half_widths(tmp_path/"half_width.csv")
    assert ids.tolist() == [1, 2] and (half[0] == 3e-4).all() and half[1, 0] == pytest.approx(1.644854e-4, rel=1e-6)
    (tmp_path/"half_width.csv").write_text("planet_id,half_width_0\n1,2\n")
    with pytest.raises(SchemaError): room.read_half_widths(tmp_path/"half_width.csv")
    room.write_half_widths(tmp_path, spectra, None, .9)
    assert not (tmp_path/"half_width.csv").exists()


def test_figures_for_the_log(bench):
    oof = pretend(100)
    config = bench(oof)
    step = room.calibrate_corel(config)[-1]
    found = room.held_out_figures(config, step)
    assert set(found) == {"gll_val", "coverage@0.9", "interval@0.9"} and .85 < found["coverage@0.9"] < .95
    assert found["gll_val"] == pytest.approx(-planet_nll(oof["label"], oof["mu"], step.sigma).mean())
    json.dumps(found, allow_nan=False)


def test_a_population_of_another_instrument_is_told_apart_though_no_planet_is_flagged(bench, tmp_path):
    config = bench(pretend(150, fits=True))
    room.calibrate_corel(config)
    found, same, quiet = read(config), pretend(100, seed=5, fits=True), pretend(100, seed=6, fits=True)
    quiet["chi2"][:, 2:] *= .9
    assert not found.verdict(quiet["latent"], quiet["chi2"], quiet["dof"])["flag"].mean() > .02
    told = [found.population(w["chi2"], w["dof"]) for w in (same, quiet)]
    assert told[0]["alike"] and not told[1]["alike"] and told[1]["columns"]["white_airs"]["z"] > 4 > abs(told[1]["columns"]["chi2_airs"]["z"])
    assert found.population(quiet["chi2"][:5], quiet["dof"][:5])["alike"]          # five planets are not enough to say so
    place = tmp_path/"predictions"
    room.write_verdicts(place, np.array([1]), None, told[1])
    assert read_json(place/"population.json") == told[1]
    room.write_verdicts(place, np.array([1]), None)
    assert not (place/"population.json").exists()


def test_a_fit_without_chi2_says_nothing_of_the_population(bench):
    config = bench(pretend(60))
    room.calibrate_corel(config)
    assert read(config).population(np.ones((3, 4)), np.ones((3, 4))) is None
