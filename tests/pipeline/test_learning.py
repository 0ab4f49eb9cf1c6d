"The network in the pipeline: it stands when it is done, falls back planet by planet, gives the same bytes, and is not touched where it was not asked for."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spectramind.core.errors import ConfigError, DataError, QualityGateError, SchemaError
from spectramind.core.store import read_npz, write_json
from spectramind.pipeline import calibration, learning, stages
from spectramind.pipeline import run as front
from spectramind.pipeline.cli import _fast, _unless, app
from spectramind.pipeline.products import Workplace, read_predictions
from spectramind.scoring.submission import check_document, validate_submission
from spectramind.training.ensemble import Gate
from spectramind.training import ensemble as ensembles

FAST = ("model=v50_fast", "train=trainer_smoke", "model.ensemble.folds=2", "train.epochs_supervised=2")


@pytest.fixture(scope="module", autouse=True)
def open_gate():
    "Tiny skies rarely let a network in; these tests are about what happens when it is."
    patch = pytest.MonkeyPatch()
    patch.setattr(ensembles, "fit_gate", lambda truth, *more: Gate(1., .5, .01, .001, .01, .001, len(truth)))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def wide_sky(wide): return wide[0]


@pytest.fixture(scope="module")
def learnt(wide, wide_sky, settings, tmp_path_factory):
    "A run with a network on the wider sky: its work folder, summary and what it said."
    work, said = shutil.copytree(wide[1], tmp_path_factory.mktemp("learnt")/"work"), []
    return work, front.run(settings(wide_sky, work, *FAST), said.append), said


@pytest.fixture
def own(learnt, tmp_path): return shutil.copytree(learnt[0], tmp_path/"work")


def learnt_files(work):
    "Everything whose bytes must not depend on how training went."
    names = [*Path(work).glob("artifacts/checkpoints/members/*/model.*"), *Path(work).glob("artifacts/checkpoints/*.*"), *Path(work).glob("artifacts/predictions/**/*.csv"),
             *Path(work).glob("artifacts/calibration/*.csv"), *Path(work).glob("artifacts/calibration/*.json"), *Path(work).glob("dist/*")]
    return {p.relative_to(work).as_posix(): p.read_bytes() for p in names if p.is_file() and not p.name.endswith((".npz.json", ".json.json", "history.json"))}


def test_a_run_trains_calibrates_and_predicts_every_planet(wide_sky, learnt):
    work, summary, said = learnt
    assert not summary.bad and summary.origins == {"network": 2} and summary.trained.made
    assert any("judged on" in line for line in said) and any(line.startswith("temperature: ") for line in said)
    spectra, _ = validate_submission(work/"dist"/"submission.csv", stages.expected_planets(wide_sky))
    alone = read_predictions(work/"artifacts"/"predictions"/"physics")
    final = read_predictions(work/"artifacts"/"predictions")
    assert alone.origin == ("physics",)*2 and final.origin == ("network",)*2 and not np.array_equal(final.mu, alone.mu)
    assert abs(final.mu - alone.mu).max() < 4*alone.sigma.max()
    oof = read_npz(work/"artifacts"/"checkpoints"/"oof.npz")
    assert oof["latent"].shape == (2, 10, 12) and np.bincount(oof["fold"]).tolist() == [5, 5] and np.isfinite(oof["mu"]).all()
    np.testing.assert_allclose(oof["mu"][:, 0], oof["network_mu"][:, 0])                              # the gate: FGS1 whole, AIRS half
    np.testing.assert_allclose(oof["mu"][:, 1:], .5*(oof["physics_mu"] + oof["network_mu"])[:, 1:])
    record = json.loads((work/"artifacts"/"checkpoints"/"oof.npz.json").read_text())
    check_document(record, "product_record")
    assert "members/fold0_seed0/model.safetensors" in record["quality"]["files"] and (work/"artifacts"/"checkpoints"/"model.safetensors").is_file()
    for name in ("temperature", "corel", "outliers"):
        told = json.loads((work/"artifacts"/"calibration"/f"{name}.json").read_text())
        assert told["oof"] == record["sha256"] and (told["used"] or told["reason"])
        assert told["gain"] is None or name != "temperature" or told["used"] == (told["gain"][0] >= 0)
    page = summary.page.read_text()
    assert "share of AIRS" in page and "What network and calibration changed" in page and "How each network of the ensemble learnt" in page


def test_training_stands_and_gives_the_same_bytes_twice(wide_sky, settings, learnt, own, tmp_path):
    config = settings(wide_sky, own, *FAST)
    before = learnt_files(own)
    assert len(before) > 12
    again = front.run(config)
    assert not again.trained.made and again.trained.report.made == 0 and learnt_files(own) == before
    for name in ("oof.npz", "oof.npz.json", "model.json", "model.safetensors", "prior.json"): (own/"artifacts"/"checkpoints"/name).unlink()
    for name in ("members",): shutil.rmtree(own/"artifacts"/"checkpoints"/name)
    for name in ("predictions", "calibration"): shutil.rmtree(own/"artifacts"/name)
    torch.set_num_threads(2)
    try: fresh = front.run(settings(wide_sky, own, *FAST, "executor=processes", "executor.workers=2"))
    finally: torch.set_num_threads(1)
    assert fresh.trained.made and learnt_files(own) == before


def test_a_damaged_member_is_trained_again_and_other_settings_begin_in_a_clean_folder(wide_sky, settings, own):
    config, members = settings(wide_sky, own, *FAST), own/"artifacts"/"checkpoints"/"members"
    before = learnt_files(own)
    (members/"fold0_seed0"/"model.safetensors").write_bytes(b"no weights")
    (members/"fold0_seed0"/"last.ckpt").write_bytes(b"no checkpoint")
    assert learning.train(config).made
    assert {k: v for k, v in learnt_files(own).items() if "members" in k} == {k: v for k, v in before.items() if "members" in k}
    (members/"stray.txt").write_text("of the run before")
    changed = learning.train(settings(wide_sky, own, *FAST, "train.lr=0.0005"))
    assert changed.made and not (members/"stray.txt").exists()
    notes = calibration.read_calibration(Workplace(own).calibration, calibration.read_oof(config)[1]).notes
    assert sum("other predictions" in note for note in notes) == 3


@pytest.mark.parametrize("trouble", ["it cannot be looked at", "what it looks like is not finite"])
def test_one_planet_in_trouble_keeps_the_row_of_the_physics(wide_sky, settings, learnt, own, monkeypatch, trouble):
    config, real = settings(wide_sky, own, *FAST), learning.look_at_planet
    poor, good = (int(p) for p in learnt[1].spectra.planet_id)
    def look(posterior, *more):
        found = real(posterior, *more)
        if posterior.planet_id != poor: return found
        if trouble == "it cannot be looked at": raise DataError("planet", "trouble", "none")
        return found | dict(series=found["series"]*np.nan)
    monkeypatch.setattr(learning, "look_at_planet", look)
    spectra, report = learning.predict(config)
    alone = read_predictions(own/"artifacts"/"predictions"/"physics")
    assert spectra.origin == ("physics", "network")
    np.testing.assert_array_equal(spectra.mu[0], alone.mu[0])
    np.testing.assert_array_equal(spectra.sigma[0], alone.sigma[0])
    assert {o.key[1] for o in report.bad} == {poor} and all("physics alone" in o.failure.message for o in report.bad)
    np.testing.assert_allclose(spectra.mu[1], learnt[1].spectra.mu[1], rtol=1e-6)


def test_a_shut_gate_leaves_the_depths_alone_and_says_physics(wide_sky, settings, own):
    config, path = settings(wide_sky, own, *FAST, "uncertainty=off"), own/"artifacts"/"checkpoints"/"members"/"ensemble.json"
    write_json(path, json.loads(path.read_text()) | dict(gate=dict(fgs1=0., airs=0.)))
    spectra, _ = learning.predict(config)
    alone = read_predictions(own/"artifacts"/"predictions"/"physics")
    np.testing.assert_array_equal(spectra.mu, alone.mu)
    np.testing.assert_allclose(spectra.sigma, alone.sigma, rtol=1e-12)
    assert spectra.origin == ("physics",)*2


def test_a_folder_of_checkpoints_can_be_given(wide_sky, settings, learnt, tmp_path):
    given = learnt[0]/"artifacts"/"checkpoints"
    work = shutil.copytree(learnt[0], tmp_path/"work", ignore=lambda folder, names: {"artifacts", "dist"} & set(names))
    summary = front.run(settings(wide_sky, work, *FAST, f"predict.checkpoint={given}"))
    np.testing.assert_array_equal(summary.spectra.mu, learnt[1].spectra.mu)
    np.testing.assert_array_equal(summary.spectra.sigma, learnt[1].spectra.sigma)
    assert summary.trained is None and not (work/"artifacts"/"checkpoints"/"members").exists()
    only_prior = front.run(settings(wide_sky, work, *FAST, f"predict.checkpoint={given/'prior.json'}"))
    assert only_prior.origins == {"physics": 2}


def test_too_few_planets_train_no_network_and_that_is_no_error(sky, settings, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work")
    said = []
    summary = front.run(settings(sky, work, *FAST), said.append)
    assert any("no network (5 labelled planets" in line for line in said) and summary.origins == {"physics": 2}
    for name in ("mu.csv", "sigma.csv", "origin.csv"): assert (work/"artifacts"/"predictions"/name).read_bytes() == (reference[0]/"artifacts"/"predictions"/name).read_bytes()


def test_commands_say_what_they_did(wide_sky, learnt, own):
    base = ["data=kaggle", f"data.root={wide_sky}", f"paths.work={own}", "executor=serial", *FAST]
    shell = lambda *words: CliRunner().invoke(app, [*words, *base])
    for words, wanted in ((["train"], "stood already"), (["calibrate-temp"], "temperature: "), (["calibrate-corel"], "outliers: "), (["predict"], "2 network"),
                          (["diagnose", "calibration"], "calibrated: nll")):
        said = shell(*words)
        assert said.exit_code == 0 and wanted in said.output, said.output
    for line in (own/"events.jsonl").read_text().splitlines(): check_document(json.loads(line), "event")
    report = json.loads((own/"artifacts"/"reports"/"calibration.json").read_text())
    assert set(report["stages"]) == {"physics", "with the network", "calibrated"} and report["planets"] == 10
    assert "<html" in (own/"artifacts"/"reports"/"calibration.html").read_text()
    said = shell("diagnose", "calibration", "--dataset", "test")
    assert said.exit_code == 3 and "no truth" in said.output
    planet = int(learnt[1].spectra.planet_id[0])
    said = CliRunner().invoke(app, ["export", str(planet), "--format", "taurex", *base])
    assert said.exit_code == 0, said.output
    final = read_predictions(own/"artifacts"/"predictions")
    depth, error = np.loadtxt(said.stdout.strip())[::-1, 1:3].T
    np.testing.assert_array_equal(depth, final.mu[0])
    np.testing.assert_array_equal(error, final.sigma[0])


def test_each_planet_is_told_how_unlike_the_known_ones_it_is(wide_sky, settings, own, monkeypatch):
    "Ten labelled planets are too few for a verdict; with a lower bar the tables of a run say what its arrays say."
    from spectramind.uncertainty import outliers
    config, place = settings(wide_sky, own, *FAST, "uncertainty.corel.alpha=0.3"), own/"artifacts"/"predictions"
    oof = read_npz(own/"artifacts"/"checkpoints"/"oof.npz")
    assert oof["chi2"].shape == oof["dof"].shape == (10, 4) and (oof["dof"][:, 1] == 282*oof["dof"][:, 3]).all()
    assert np.all((.7 < oof["chi2"]/oof["dof"])[:, 1]) and np.all((oof["chi2"]/oof["dof"] < 1.3)[:, 1]) and (oof["chi2"] > 0).all()
    assert not (place/"outliers.csv").exists() and not (place/"half_width.csv").exists() and calibration.read_verdicts(place) == {}
    monkeypatch.setattr(outliers, "LEAST", 5)
    monkeypatch.setattr(calibration, "PREMIUM", 10.)
    calibration.calibrate_corel(config)
    found = calibration.read_calibration(own/"artifacts"/"calibration", calibration.read_oof(config)[1])
    assert len(found.outliers) == 2 and len(found.outliers[0].chi2_laws) == 4
    spectra, _ = learning.predict(config)
    told = calibration.read_verdicts(place)
    assert list(told) == spectra.planet_id.tolist() and all(0 <= v["p"] <= 1 and 0 <= v["p_predictive"] <= 1 and v["widen"] >= 1 for v in told.values())
    ids, half = calibration.read_half_widths(place/"half_width.csv")
    assert ids.tolist() == spectra.planet_id.tolist() and (half > 0).all()
    document = json.loads((place/"population.json").read_text())
    assert document["planets"] == 2 and document["known"] == 10 and set(document["columns"]) == set(outliers.CHI2) and document["alike"]
    learning.predict(settings(wide_sky, own, *FAST, "uncertainty=off"))
    assert not (place/"outliers.csv").exists() and not (place/"half_width.csv").exists() and not (place/"population.json").exists()


def test_phases_without_labels_leave_the_ensemble_alone(wide_sky, settings, own):
    before = learnt_files(own)
    done = learning.train(settings(wide_sky, own, *FAST, "train.phase=mae", "train.epochs_mae=1"))
    assert done.made and done.gate is None and "without labels" in done.lines()[0] and (own/"artifacts"/"checkpoints"/"pretraining_mae"/"members"/"fold0_seed0"/"model.safetensors").is_file()
    assert learnt_files(own) == before
    with pytest.raises(ConfigError, match="have seen 10 of the labelled planets"):
        learning.train(settings(wide_sky, own, *FAST, f"train.pretrained={own/'artifacts'/'checkpoints'/'pretraining_mae'}"))
    folder = own/"artifacts"/"checkpoints"/"pretraining_mae"
    (folder/"members"/"planets.json").unlink()                                              # the weights themselves still know
    with pytest.raises(ConfigError, match="have seen"): learning.train(settings(wide_sky, own, *FAST, f"train.pretrained={folder}"))
    with pytest.raises(ConfigError, match="have seen"): learning.train(settings(wide_sky, own, *FAST, f"train.pretrained={folder/'members'/'fold0_seed0'}"))
    told = json.loads((folder/"model.json").read_text())
    (folder/"model.json").write_text(json.dumps({k: v for k, v in told.items() if k not in ("train_ids", "valid_planets")}))   # as if they came from elsewhere
    with pytest.raises(ConfigError, match="do not say which planets"): learning.train(settings(wide_sky, own, *FAST, f"train.pretrained={folder}"))
    assert learning.train(settings(wide_sky, own, *FAST, f"train.pretrained={folder}", "train.trust_pretrained=true")).made


def test_an_ensemble_of_other_settings_is_refused_and_none_at_all_is_not(wide_sky, settings, own):
    with pytest.raises(DataError, match="other settings or data"): learning.predict(settings(wide_sky, own, *FAST, "train.lr=0.0005"))
    (own/"artifacts"/"checkpoints"/"oof.npz.json").unlink()
    assert learning.predict(settings(wide_sky, own, *FAST))[0].origin == ("physics",)*2
    with pytest.raises(DataError, match="spectramind fit"): learning.train(settings(wide_sky, own, *FAST, "fit.starts=5"))


def test_the_gate_of_coverage_ends_with_6(wide_sky, settings, own, monkeypatch):
    config = settings(wide_sky, own, *FAST, "uncertainty=off")
    real = calibration.read_oof
    def proud(config):
        oof, sha = real(config)
        return oof | dict(sigma=.1*oof["sigma"]), sha
    monkeypatch.setattr(calibration, "read_oof", proud)
    with pytest.raises(QualityGateError, match="coverage"): calibration.diagnose_calibration(config, gate=True)


def test_wrong_settings_of_the_network_are_refused_at_the_start(wide_sky, settings, tmp_path):
    for override, named in (("train.lr=3", "train.lr"), ("model.network.dropout=1", "dropout"), ("model.ensemble.folds=1", "folds"), ("loss.gll.quantile=1", "quantile"),
                            ("model.network.airs.kind=none", "none for both"), ("loss.symbolic.rules=[{name: a, expr: 'x >'}]", "rule")):
        more = [override, "model.network.fgs1.kind=none"] if "none" in override else [override]
        with pytest.raises(ConfigError, match=named) as caught: front.run(settings(wide_sky, tmp_path/"work", *FAST, *more))
        assert caught.value.exit_code == 3 and not list((tmp_path/"work").rglob("*.npz"))


def test_without_the_libraries_the_network_is_refused_and_the_physics_is_not(sky, settings, reference, monkeypatch, tmp_path):
    there = front.importlib.util.find_spec
    monkeypatch.setattr(front.importlib.util, "find_spec", lambda name, *more: None if name == "torch" else there(name, *more))
    with pytest.raises(ConfigError, match="torch is not installed") as caught: front.run(settings(sky, tmp_path, *FAST))
    assert "spectramind[network]" in caught.value.hint and "physics_only" in caught.value.hint
    work = shutil.copytree(reference[0], tmp_path/"work")
    assert front.run(settings(sky, work)).origins == {"physics": 2}


def test_a_physics_run_imports_no_torch(sky, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work")
    code = f"""import sys
from spectramind.pipeline.config import load_config
from spectramind.pipeline.run import run
summary = run(load_config(["data=kaggle", "model=physics_only", "data.root={sky}", "paths.work={work}", "executor=serial"]))
load_config(["model=v50"])
print(summary.origins, sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "torch_geometric", "lightning", "safetensors"}}))"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip().splitlines()[-1] == "{'physics': 2} []"


def test_defaults_of_the_demo_and_of_kaggle_give_way():
    assert _unless(["model=gru"], ("data=smoke", "model=v50_fast")) == ["data=smoke", "model=gru"]
    assert _fast(["+env=local", "training=trainer"], True) == ["data=kaggle", "model=v50_fast", "diag=light", "+env=local", "training=trainer"]
    assert _fast(["a=b"], False) == ["a=b"]


def test_a_broken_calibration_is_named(tmp_path):
    write_json(tmp_path/"temperature.json", [1])
    with pytest.raises(SchemaError, match="temperature.json"): calibration.read_calibration(tmp_path)
    write_json(tmp_path/"temperature.json", dict(used=True))
    with pytest.raises(SchemaError, match="without 'factors'"): calibration.read_calibration(tmp_path)
