"The document that says why: whole and held by its schema where a network was trained, outspoken where something is missing, the same bytes twice, never shown for other predictions."
import json
import re
import shutil
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from spectramind.core.errors import ConfigError, DataError, SchemaError
from spectramind.core.nouns import Spectra
from spectramind.core.store import read_csv_rows, read_json, read_npz, write_json
from spectramind.pipeline import explaining, learning, stages, units
from spectramind.pipeline.products import Made, Workplace, read_predictions, write_predictions
from spectramind.scoring.submission import check_document

FAST = ("model=v50_fast", "model.network.airs.kind=gat", "train=trainer_smoke", "model.ensemble.folds=2", "train.epochs_supervised=2")
FILES = ("explain.json", "explain.npz", "attribution.csv", "embedding.csv", "violation.csv")


@pytest.fixture(scope="module")
def learnt(wide, settings, tmp_path_factory):
    "A network of two members on the wider sky, applied. Nobody may write to it."
    work = shutil.copytree(wide[1], tmp_path_factory.mktemp("explained")/"work")
    config = settings(wide[0], work, *FAST)
    for stage in (stages.features, stages.fit, learning.train, learning.predict): stage(config)
    return work


@pytest.fixture(scope="module")
def explained(wide, learnt, settings, tmp_path_factory):
    "The same, explained: its folder, figures and lines."
    work, said = shutil.copytree(learnt, tmp_path_factory.mktemp("explained")/"work"), []
    return work, explaining.explain(settings(wide[0], work, *FAST), said.append), said


@pytest.fixture
def own(learnt, tmp_path): return shutil.copytree(learnt, tmp_path/"work")


def written(work): return {name: (work/"artifacts"/"reports"/name).read_bytes() for name in FILES if (work/"artifacts"/"reports"/name).is_file()}
def document_of(work): return read_json(work/"artifacts"/"reports"/"explain.json")


def test_a_run_with_a_network_is_explained_in_all_its_parts(wide, explained):
    work, figures, said = explained
    document = check_document(document_of(work), "explain")
    assert {name for name in document if isinstance(document[name], dict) and document[name].get("made") is False} == {"umap"} and "diag.embedding=umap" in document["umap"]["reason"]
    ids = [int(p) for p in read_predictions(work/"artifacts"/"predictions").planet_id]
    assert document["planets"]["planet_id"] == ids == document["attribution"]["planets"] == document["shap"]["planets"]
    assert document["network"]["members"] == 2 and document["embedding"]["space"] == "latents of the network" and document["embedding"]["fitted_on"] == "train"
    assert document["embedding"]["points"]["split"].count("train") == 10 and document["embedding"]["points"]["planet_id"][-2:] == ids
    names = [out["name"] for out in document["attribution"]["outputs"]]
    assert names == [out["name"] for out in document["shap"]["outputs"]] and {"mu, FGS1", "mu, H2O", "sigma, FGS1", "sigma, AIRS"} <= set(names)
    assert document["attribution"]["completeness"] < .02 and document["shap"]["completeness"] < 1e-3
    np.testing.assert_allclose(np.sum(document["attention"]["share"], 1), 1, atol=1e-4)
    assert (work/"artifacts"/"reports"/"explain.json").stat().st_size < 300_000
    assert figures["explained"] == 2 and figures["residuals_unknown"] == 0 and all(isinstance(v, (int, float)) for v in figures.values())
    assert any("shares add up" in line for line in said) and not any("no attribution" in line for line in said)


def test_the_shares_told_are_those_of_the_network(wide, explained, settings):
    "The change that is divided up, taken from the ensemble itself."
    config, document = settings(wide[0], explained[0], *FAST), document_of(explained[0])
    scene = explaining.read_scene(config)
    examples = explaining.network_examples(config, scene)
    shares = explaining.attribute(learning.read_ensemble(explained[0]/"artifacts"/"checkpoints"/"members")[0], examples, explaining.STEPS)
    for k, out in enumerate(document["attribution"]["outputs"]):
        assert out["change"] == pytest.approx(np.abs(shares.change[k]).mean(), rel=1e-3, abs=1e-6)
        assert [row["value"] for row in out["features"]] == sorted((row["value"] for row in out["features"]), reverse=True)
        np.testing.assert_allclose(out["by_wavelength"], np.abs(shares.by_bin[k]).mean(0), rtol=1e-3, atol=1e-7)


def test_tables_and_arrays_say_the_same_as_the_document(explained):
    document, place = document_of(explained[0]), explained[0]/"artifacts"/"reports"
    arrays, (header, rows) = read_npz(place/"explain.npz"), read_csv_rows(place/"violation.csv")
    np.testing.assert_allclose(arrays["violation"].sum(1), document["planets"]["violation"], rtol=1e-4, atol=1e-9)
    assert arrays["violation"].shape == (2, 283) and sorted(header[1:]) == sorted(rule["name"] for rule in document["violation"]["rules"])
    np.testing.assert_allclose([sum(map(float, row[1:])) for row in rows], document["planets"]["violation"], rtol=1e-4, atol=1e-9)
    means = {name: np.mean([float(row[i]) for row in rows]) for i, name in enumerate(header) if i}
    for rule in document["violation"]["rules"]: assert rule["mean"] == pytest.approx(means[rule["name"]], rel=1e-4, abs=1e-12)
    header, rows = read_csv_rows(place/"embedding.csv")
    assert len(rows) == 12 and [float(row[2]) for row in rows] == document["embedding"]["points"]["x"]
    assert [row[header.index("fft_class")] for row in rows[-2:]] == document["planets"]["fft_class"] and rows[0][header.index("fft_class")] == ""
    header, rows = read_csv_rows(place/"attribution.csv")
    out = document["attribution"]["outputs"][0]
    told = [row for row in rows if row[0] == "integrated gradients" and row[1] == out["name"]]
    assert len(told) == len(out["groups"]) + len(out["features"]) and float(told[0][header.index("value")]) == out["groups"][0]["value"]


def test_an_explanation_that_stands_is_not_made_again_and_a_damaged_one_is(wide, settings, explained, tmp_path, monkeypatch):
    work = shutil.copytree(explained[0], tmp_path/"work")
    config, before, real = settings(wide[0], work, *FAST), written(work), explaining.make_document
    monkeypatch.setattr(explaining, "make_document", lambda *_: pytest.fail("made again"))
    assert explaining.explain(config) == explained[1] and written(work) == before
    monkeypatch.setattr(explaining, "make_document", real)
    for name, damage in (("embedding.csv", b"planet_id\n"), ("explain.json", b"{}"), ("explain.npz", None)):
        path = work/"artifacts"/"reports"/name
        path.unlink() if damage is None else path.write_bytes(damage)
        assert explaining.explain(config) == explained[1] and written(work) == before, name


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads(wide, settings, explained, own):
    torch.set_num_threads(2)
    try: explaining.explain(settings(wide[0], own, *FAST, "executor=processes", "executor.workers=2"))
    finally: torch.set_num_threads(1)
    assert written(own) == written(explained[0])


def test_the_physics_alone_says_what_it_cannot_say(sky, settings, reference, tmp_path):
    work, said = shutil.copytree(reference[0], tmp_path/"work"), []
    config = settings(sky, work)
    figures = explaining.explain(config, said.append)
    document = check_document(document_of(work), "explain")
    for part in ("attribution", "shap", "attention", "violation"): assert document[part]["made"] is False and "model.kind=physics" in document[part]["reason"]
    assert document["network"] == dict(applied=False, reason="model.kind=physics: no network was asked for", members=0, share_fgs1=None, share_airs=None)
    assert "found shape (2, 283)" in document["embedding"]["reason"]                                # two planets have no axes
    assert set(document["planets"]["fft_class"]) <= {"white", "red", "periodic"} and figures["residuals_unknown"] == 0
    assert document["files"].keys() == {"attribution.csv", "embedding.csv", "violation.csv"} and not (work/"artifacts"/"reports"/"explain.npz").exists()
    assert sum("model.kind=physics" in line for line in said) == 4
    spectra = read_predictions(work/"artifacts"/"predictions")
    rng = np.random.default_rng(0)
    first, second = explaining.map_of_planets(config, (np.arange(6), spectra.mu[[0]]*(1 + .01*rng.normal(size=(6, 283)))), None, "shapes of the posteriors", False)
    assert first["made"] and first["fitted_on"] == "test" and first["dimensions"] == 283 and not second["made"]


def test_the_physics_alone_loads_no_torch(sky, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work")
    script = (f"import sys; from spectramind.pipeline.config import load_config; from spectramind.pipeline.explaining import explain\n"
              f"explain(load_config(['data=kaggle', 'model=physics_only', 'data.root={sky}', 'paths.work={work}', 'executor=serial']))\n"
              "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'captum', 'umap', 'shap', 'sklearn'}))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split("\n")[-2] == "[]", done.stderr


def test_the_light_profile_asks_the_network_nothing(wide, settings, own, monkeypatch):
    monkeypatch.setattr(explaining, "network_examples", lambda *_: pytest.fail("light curves were read"))
    explaining.explain(settings(wide[0], own, *FAST, "diag.profile=light"))
    document = document_of(own)
    assert {document[part]["reason"] for part in ("attribution", "shap", "attention")} == {"diag.profile=light"}
    assert document["network"]["applied"] is ("network" in read_predictions(own/"artifacts"/"predictions").origin) and document["network"]["members"] == 2
    assert document["violation"]["made"] and document["profile"] == "light"


@pytest.mark.parametrize("missing", ["captum", "lightning"])
def test_a_missing_library_is_said_aloud(wide, settings, own, monkeypatch, missing):
    if missing == "captum": monkeypatch.setitem(sys.modules, "captum.attr", None)
    else: monkeypatch.setattr(explaining.importlib.util, "find_spec", lambda name, real=explaining.importlib.util.find_spec: None if name == "lightning" else real(name))
    explaining.explain(settings(wide[0], own, *FAST))
    document = check_document(document_of(own), "explain")
    assert re.search(f"no {missing}|{missing} not installed", document["attribution"]["reason"])
    assert document["shap"]["made"] is document["attention"]["made"] is document["violation"]["made"] is (missing == "captum")


def test_no_ensemble_and_one_planet(wide, settings, own):
    explaining.explain(settings(wide[0], own, *FAST, "diag.explain_planets=1"))
    document = document_of(own)
    assert "found 1 planet" in document["attribution"]["reason"] and len(document["shap"]["planets"]) == 1 and document["shap"]["agreement"] is None
    shutil.rmtree(own/"artifacts"/"checkpoints"/"members")
    explaining.explain(settings(wide[0], own, *FAST))
    assert "no ensemble was trained" in document_of(own)["attribution"]["reason"]


def test_umap_is_drawn_when_asked_for(wide, settings, own, monkeypatch):
    monkeypatch.setattr(explaining, "umap_points", lambda vectors, seed: vectors[:, :2] + seed)
    explaining.explain(settings(wide[0], own, *FAST, "diag.embedding=umap"))
    document = check_document(document_of(own), "explain")
    assert document["umap"]["made"] and document["umap"]["points"]["split"] == document["embedding"]["points"]["split"]
    header, rows = read_csv_rows(own/"artifacts"/"reports"/"embedding.csv")
    assert [float(row[header.index("umap1")]) for row in rows] == document["umap"]["points"]["x"]
    def absent(*_): raise ConfigError("umap-learn is not installed")
    monkeypatch.setattr(explaining, "umap_points", absent)
    (own/"artifacts"/"reports"/"explain.json").unlink()
    explaining.explain(settings(wide[0], own, *FAST, "diag.embedding=umap"))
    assert document_of(own)["umap"] == dict(made=False, reason="umap-learn is not installed")


def test_a_planet_without_a_fit_keeps_its_row(wide, settings, own):
    config = settings(wide[0], own, *FAST)
    lost, other = (int(p) for p in read_predictions(own/"artifacts"/"predictions").planet_id)
    place = Workplace(own)
    for path in (place.posterior(lost), place.posterior(lost).with_name(place.posterior(lost).name + ".json")): path.unlink()
    assert explaining.explain(config)["residuals_unknown"] == 1
    document = document_of(own)
    assert document["planets"]["planet_id"] == [lost, other] and document["planets"]["fft_class"][0] is None and document["planets"]["fft_class"][1]
    assert "found 1 planet" in document["attribution"]["reason"] and document["shap"]["planets"] == [other]


def test_what_the_residuals_hold_is_seen(wide, settings, own, monkeypatch):
    "A wave put into a fit's residuals makes the planet periodic."
    real, shaken = units.read_posterior, int(read_predictions(own/"artifacts"/"predictions").planet_id[1])
    def read(work, planet, *more):
        posterior = real(work, planet, *more)
        for curves in posterior.curves.values() if planet == shaken else ():
            part, spread = curves["airs"], (curves["airs"]["flux"] - curves["airs"]["model"]).std()
            part["flux"] = part["flux"] + 2*spread*np.sin(2*np.pi*part["time_h"]/(np.ptp(part["time_h"])/11))
        return posterior
    monkeypatch.setattr(units, "read_posterior", read)
    explaining.explain(settings(wide[0], own, *FAST))
    told = document_of(own)["planets"]
    assert told["fft_class"][1] == "periodic" and told["fft_class"][0] != "periodic" and told["fft_p_period"][1] < 1e-3


def test_spectra_that_break_rules_are_named(wide, settings, own):
    config, place = settings(wide[0], own, *FAST), Workplace(own)
    spectra = read_predictions(place.predictions)
    spectra.mu[1, 40:50] *= -1                                                                     # nobody has a negative depth
    write_predictions(place.predictions, spectra)
    explaining.explain(config)
    document, arrays = document_of(own), read_npz(place.reports/"explain.npz")
    told = {rule["name"]: rule for rule in document["violation"]["rules"]}
    assert told["nonneg_mu"]["worst_planet"] == told["nn"]["worst_planet"] == int(spectra.planet_id[1]) and told["nonneg_mu"]["planets"] == 1
    assert document["planets"]["violation"][1] > 10*document["planets"]["violation"][0]
    assert 38 <= arrays["violation"][1].argmax() <= 51 and told["nn"]["trained"] and told["nonneg_mu"]["trained"]
    explaining.explain(settings(wide[0], own, *FAST, "loss=none"))                                  # held against all the same, and said to be the better test
    assert {(rule["name"], rule["mean"]): rule["trained"] for rule in document_of(own)["violation"]["rules"]} == {(name, rule["mean"]): False for name, rule in told.items()}


def test_only_the_explanation_of_these_predictions_is_read(wide, settings, explained, tmp_path):
    work = shutil.copytree(explained[0], tmp_path/"work")
    config, place = settings(wide[0], work, *FAST), Workplace(work)
    document, why = explaining.read_explain(config)
    assert document == document_of(work) and why == ""
    assert "other predictions" in explaining.read_explain(settings(wide[0], work, *FAST, "train.lr=0.5"))[1]
    write_json(place.reports/"explain.json", document | dict(seed="seven"))
    with pytest.raises(SchemaError, match="seed"): explaining.read_explain(config)
    (place.reports/"explain.json").unlink()
    assert "no explain.json" in explaining.read_explain(config)[1]
    shutil.rmtree(place.predictions)
    with pytest.raises(DataError, match="mu.csv"): explaining.explain(config)


def test_an_ensemble_of_other_features_is_refused(wide, settings, own):
    path = own/"artifacts"/"checkpoints"/"members"/"ensemble.json"
    told = json.loads(path.read_text())
    write_json(path, told | dict(features=told["features"][::-1]))
    with pytest.raises(SchemaError, match="planet features"): explaining.explain(settings(wide[0], own, *FAST))


def test_other_labels_and_another_training_make_another_document(wide, settings, explained, tmp_path, monkeypatch):
    work, tree = shutil.copytree(explained[0], tmp_path/"work"), shutil.copytree(wide[0], tmp_path/"tree", copy_function=shutil.copy2)
    config, calls, real = settings(tree, work, *FAST), [], explaining.make_document
    monkeypatch.setattr(explaining, "make_document", lambda *a: calls.append(1) or real(*a))
    explaining.explain(config)
    assert not calls and explaining.read_explain(config)[1] == ""                                   # of another folder, with the same labels
    first = document_of(work)
    header, *rows = (tree/"train.csv").read_text().splitlines()
    planet, *depths = rows[0].split(",")
    rows[0] = ",".join([planet, *(repr(1.5*float(d)) for d in depths)])
    (tree/"train.csv").write_text("\n".join([header, *rows]) + "\n")
    assert "other labels" in explaining.read_explain(config)[1]
    explaining.explain(config)
    second = document_of(work)
    assert len(calls) == 1 and first["inputs"]["labels"] != second["inputs"]["labels"] and first["violation"]["scale"] != second["violation"]["scale"]   # the labels set the rules' scale
    oof = work/"artifacts"/"checkpoints"/"oof.npz"
    arrays, record = read_npz(oof), read_json(f"{oof}.json")
    Made(record["inputs"], record["config_hash"]).keep(oof, arrays | dict(latent=arrays["latent"][:, ::-1].copy()))
    assert "another training" in explaining.read_explain(config)[1]
    explaining.explain(config)
    assert len(calls) == 2 and document_of(work)["inputs"]["oof"] != second["inputs"]["oof"]
    assert document_of(work)["embedding"]["points"]["x"][0] != second["embedding"]["points"]["x"][0]


def test_one_covariance_is_held_at_a_time(wide, settings, own, monkeypatch):
    "Twelve planets, taken for test planets: never more than two posteriors alive, one being let go when the next has been read."
    config, alive, most, real = settings(wide[0], own, *FAST), weakref.WeakSet(), [], units.read_posterior
    orders = stages.fit_orders(config)
    def read(*a):
        posterior = real(*a)
        alive.add(posterior)
        most.append(len(alive))
        return posterior
    ids = [p for (_, p), _ in orders]
    rows = read_predictions(Workplace(own).predictions)
    table = Spectra(np.array(ids), np.repeat(rows.mu[:1], len(ids), 0), np.repeat(rows.sigma[:1], len(ids), 0), ("physics",)*len(ids))
    scene = explaining.Scene(table, table, config.products, tuple(ids), "")
    apart = [explaining.network_examples(config, explaining.Scene(table, table, config.products, (p,), "")) for split, p in (key for key, _ in orders) if split == "test"]
    monkeypatch.setattr(units, "read_posterior", read)
    monkeypatch.setattr(stages, "fit_orders", lambda _: [(("test", p), order) for (_, p), order in orders])
    assert None not in explaining.noise_classes(scene).values()
    examples = explaining.network_examples(config, scene)
    assert len(ids) == len(examples) == 12 and len(most) == 24 and max(most) <= 2
    for one in apart:                                                                               # the same numbers, whoever stands beside it
        row = list(examples.planet_id).index(one.planet_id[0])
        for name in ("series", "nodes", "planet", "mu"): np.testing.assert_array_equal(getattr(examples, name)[row], getattr(one, name)[0])
