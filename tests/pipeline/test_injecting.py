"Signals through the whole pipeline: what is to be kept comes back, a sabotaged pipeline is caught, and nothing depends on the number of workers."
import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from spectramind.challenge.layout import Challenge
from spectramind.core.errors import ConfigError, DataError, QualityGateError
from spectramind.core.paths import resource_dir
from spectramind.core.store import read_csv_rows
from spectramind.diagnostics import signals
from spectramind.diagnostics.signals import Change
from spectramind.pipeline import injecting, stages

FAST = ("diag.inject.split=train", "diag.inject.planets=3", "diag.inject.paired=3", "diag.inject.draws=2", "diag.inject.resamples=100",
        "diag.inject.held_back=3", "diag.inject.systematic=1.")    # a prior that has learnt from five planets is hard to convince, and three planets with few frames make wide intervals
COUNTS = ("diag.inject.levels=[counts]", "diag.inject.planets=2", "diag.inject.paired=2")


@pytest.fixture(scope="module")
def prior(reference): return f"predict.checkpoint={reference[0]/'artifacts'/'checkpoints'/'prior.json'}"


@pytest.fixture
def healthy(sky, settings, prior, tmp_path):
    "A function: settings of an injection into the labelled planets of the tiny sky."
    return lambda *more: settings(sky, tmp_path, prior, *FAST, *more)


def table(config):
    return json.loads((Path(config.paths.work)/"artifacts"/"reports"/"injection.json").read_text(encoding="utf-8"))


def failed(config):
    return {(r["level"], r["signal"], r["measure"]) for r in table(config)["rows"] if not r["passed"]}


def caught(config):
    "The failing rows of a pipeline that is refused."
    with pytest.raises(QualityGateError, match="rows beyond their bounds") as refused: injecting.inject(config)
    assert refused.value.exit_code == 6
    return failed(config)


def test_a_healthy_pipeline_passes_and_its_document_is_held_by_the_schema(healthy):
    config, said = healthy("diag.inject.gate=false"), []
    figures = injecting.inject(config, said.append)
    document = table(config)
    Draft202012Validator(json.loads((resource_dir("schemas")/"injection.schema.json").read_text(encoding="utf-8"))).validate(document)
    assert failed(config) == set() and document["passed"] and figures == dict(planets=3, left_out=0, rows=len(document["rows"]), rows_failed=0, rows_reported=8)
    assert document["config_hash"] == stages.submission_info(config)["config_sha256"]
    leaks = [f"leak {where}{which}" for where in ("outside the band", "into neighbours") for which in ("", ", largest")]
    assert {(r["level"], r["measure"]) for r in document["rows"]} == {
        *((level, measure) for level in ("counts", "curves", "spectra") for measure in ("recovered", *leaks)), ("spectra", "recovered, less expected"),
        ("counts", "left in the depths"), ("counts", "left in the flux of FGS1"), ("counts", "left in the flux of AIRS-CH0"), ("curves", "left in the depths"), ("spectra", "half are found"),
        ("counts", "errors beyond two sigma"), ("counts", "error over sigma"), ("counts", "error over sigma, along CO2, CO, line"), ("curves", "errors beyond two sigma"), ("curves", "error over sigma")}
    reported = {(r["signal"], r["measure"]) for r in document["rows"] if r["verdict"] == "reported"}
    assert {name for name, _ in reported} == {"CO2", "CO", "line", "nothing"} and all(r["least"] is None and (r["level"] == "spectra" or "two sigma" in r["measure"]) for r in document["rows"] if r["verdict"] == "reported")
    final = {(r["signal"], r["measure"]): r for r in document["rows"] if r["level"] == "spectra"}
    for name in ("CO2", "line", "H2O"): assert final[name, "recovered"]["value"] == pytest.approx(final[name, "recovered"]["expected"], abs=.05) and final[name, "recovered, less expected"]["verdict"] == "holds"
    nuisances = {(r["level"], r["signal"]) for r in document["rows"] if r["measure"] == "left in the depths"}
    assert nuisances == {("curves", "drift"), *(("counts", name) for name in ("jitter step", "uneven pixels", "hot pixels", "cosmic rays"))}
    header, rows = read_csv_rows(Path(config.paths.work)/"artifacts"/"reports"/"injection.csv")
    assert header == list(injecting.COLUMNS) and [(r[1], float(r[3])) for r in rows] == [(r["signal"], r["value"]) for r in document["rows"]]
    assert said[0].startswith("injection: 3 planets") and np.array(document["response"]["curves"]["line"]).max() == pytest.approx(1, abs=.05)


def test_a_flat_that_is_skipped_is_caught(healthy):
    assert {("counts", "uneven pixels", f"left in the flux of {name}") for name in ("FGS1", "AIRS-CH0")} <= caught(healthy(*COUNTS, "calib.steps.flat=false"))


def test_dark_current_and_cosmic_rays_that_stay_are_caught(healthy):
    found = caught(healthy(*COUNTS, "calib.steps.dark=false", "calib.steps.cosmic=false", "photometry.clip_sigma=1e6"))   # photometry would catch the rays, too
    assert {("counts", fault, "left in the flux of AIRS-CH0") for fault in ("hot pixels", "cosmic rays")} <= found
    assert ("counts", "uneven pixels", "left in the flux of AIRS-CH0") not in found


def test_a_drift_beyond_what_the_fit_allows_is_caught(healthy):
    assert ("curves", "drift", "left in the depths") in caught(healthy("diag.inject.levels=[curves]", "diag.inject.draws=1", "fit.drift_scale=2e-4", "diag.inject.drift=.05"))


def test_a_drift_that_is_not_fitted_at_all_leaves_no_planet_to_be_trusted(healthy):
    with pytest.raises(QualityGateError, match="3 of 3 planets whose fit is not trusted"): injecting.inject(healthy("diag.inject.levels=[curves]", "fit.drift_scale=1e-9"))


def test_error_bars_of_half_the_size_are_caught(healthy, monkeypatch):
    more = "diag.inject.levels=[spectra]", "diag.inject.planets=5"
    assert injecting.inject(healthy(*more))["rows_failed"] == 0
    honest = injecting.posterior_spectrum
    monkeypatch.setattr(injecting, "posterior_spectrum", lambda *a: (lambda mu, cov: (mu, cov/4))(*honest(*a)))
    assert ("counts", "nothing", "error over sigma") in caught(healthy(*more))           # five planets are too few to judge a share


def test_a_pipeline_that_takes_carbon_dioxide_away_is_caught(healthy, monkeypatch):
    "What the prior doubts has no lower bound; a mean that does not follow the prior's covariance is beyond its bounds all the same."
    gas = signals.kept_signals(np.full(283, .01))["CO2"]
    def blind(*a, honest=injecting.posterior_spectrum):
        mu, cov = honest(*a)
        shape = (gas - gas[1:].mean())*(np.arange(283) > 0)
        return mu - shape*(shape@mu)/(shape@shape), cov
    monkeypatch.setattr(injecting, "posterior_spectrum", blind)
    assert ("spectra", "CO2", "recovered, less expected") in caught(healthy("diag.inject.levels=[spectra]", "diag.inject.planets=5"))


def test_without_the_gate_the_table_alone_says_so(healthy, monkeypatch):
    monkeypatch.setattr(injecting, "posterior_spectrum", lambda *a, honest=injecting.posterior_spectrum: (lambda mu, cov: (mu, cov/100))(*honest(*a)))
    config = healthy("diag.inject.levels=[spectra]", "diag.inject.gate=false")
    assert injecting.inject(config)["rows_failed"] > 0 and not table(config)["passed"]


def test_workers_and_standing_products_change_no_byte(healthy, settings, sky, prior, tmp_path):
    few = (*COUNTS, "diag.inject.gate=false")
    injecting.inject(healthy(*few))
    two = settings(sky, tmp_path/"two", prior, *FAST, *few, "executor=processes", "executor.workers=2")
    stages.features(two)
    injecting.inject(two)
    for name in ("injection.json", "injection.csv"):
        assert (tmp_path/"artifacts"/"reports"/name).read_bytes() == (tmp_path/"two"/"artifacts"/"reports"/name).read_bytes()


def test_a_changed_tree_is_read_like_any_other(sky):
    planet = int(min((sky/"train").iterdir()).name)
    plain, size = Challenge(sky), 32*356
    changed = injecting.ChangedChallenge(sky, {("AIRS-CH0", 0): Change(response=np.full(size, .01), dark=np.full(size, 2.))})
    a, b = (c.calibration("train", planet, "AIRS-CH0", 0) for c in (plain, changed))
    assert np.allclose(b.flat, 1.01*a.flat) and np.allclose(b.dark, a.dark + 2) and np.array_equal(a.read, b.read)
    read = lambda c, name: np.concatenate([block.copy() for _, block in c.signal_blocks("train", planet, name, 0)])
    assert np.array_equal(read(plain, "FGS1"), read(changed, "FGS1")) and (read(plain, "AIRS-CH0") != read(changed, "AIRS-CH0")).mean() > .5


def test_what_cannot_be_injected_into_is_refused(healthy, settings, prior, tmp_path, own_sky):
    with pytest.raises(ConfigError, match="paired"): healthy("diag.inject.paired=1")
    with pytest.raises(ConfigError, match="levels"): healthy("diag.inject.levels=[pixels]")
    (own_sky/"test_star_info.csv").write_text("planet_id\n")
    with pytest.raises(DataError, match="0 planets with a star"): injecting.inject(settings(own_sky, tmp_path/"x", prior))
