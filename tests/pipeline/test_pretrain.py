"Pre-training on simulated planets of many worlds: what is drawn, what is kept, what stands, what is refused."
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from spectramind.core.determinism import rng_for
from spectramind.core.errors import ConfigError, DataError, InternalError
from spectramind.core.store import read_json, write_json
from spectramind.pipeline import learning, pretraining, worlds_fitted
from spectramind.pipeline.config import load_config
from spectramind.pipeline.products import Made
from spectramind.simulate.worlds import FIRST_ID, LAWS, Worlds, draw_one, draw_world
from spectramind.symbolic.pack import StarTable
from spectramind.training.checkpoints import read_weights

torch.set_num_threads(1)
TINY = ("data=smoke", "model=v50_fast", "executor=serial", "train=trainer_smoke", "pretrain.planets=22", "pretrain.prior_planets=20", "pretrain.time_bins=47",
        "pretrain.epochs_mae=1", "pretrain.epochs_supervised=2", "train.mae.share=.25", "train.mae.run=5", "train.mae.predict_sigma=false", "train.contrastive.temperature=.3")


def settings(work, *more): return load_config([*TINY, f"paths.work={work}", *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A finished pre-training: its work folder, its figures and what it told. Nobody may write to it."
    work, told = tmp_path_factory.mktemp("pretrained"), []
    return work, pretraining.pretrain(settings(work), told.append), told


@pytest.fixture
def own(made, tmp_path):
    "A copy of the finished folder."
    return shutil.copytree(made[0], tmp_path/"work", copy_function=shutil.copy2)


def test_a_planet_is_a_function_of_seed_and_number():
    first = [draw_one(7, i) for i in range(30)]
    again = draw_one(7, 29)
    assert again.planet_id == FIRST_ID + 29 and np.array_equal(again.depth, first[29].depth) and again.star == first[29].star
    assert not np.array_equal(draw_one(8, 29).depth, again.depth)
    assert {p.law for p in first} == set(LAWS) and {p.n_visits for p in first} == {1, 2} and all((p.depth > 0).all() for p in first)
    assert len({p.star.period_d for p in first}) == 30


def test_a_world_is_drawn_as_the_ablation_has_drawn_it():
    "Fits are kept for months under the seed alone: the same seed has to give the same world for ever."
    planet = draw_one(7, 3)
    rng = rng_for(9100, "ablation", "many", planet.planet_id)
    scale, jitter, linearity, dark = rng.uniform(.5, 4), rng.uniform(0, 1), rng.uniform(-1, 2), rng.uniform(-2, 5)
    conditions, left = draw_world(9100, planet, Worlds(drift_scale=(1., 1.)))
    assert (conditions.jitter_scale, conditions.drift_scale, conditions.law) == (scale, 1., planet.law)
    assert (left.jitter, left.linearity, left.dark) == (jitter, linearity, dark)
    assert draw_world(9100, planet)[1] == left and .5 <= draw_world(9100, planet)[0].drift_scale <= 3


def test_contrast_stretches_a_spectrum_about_its_mean():
    flat, plain = draw_one(7, 5, Worlds(contrast=(0., 0.))), draw_one(7, 5, Worlds(contrast=(1., 1.)))
    assert np.ptp(flat.depth) < 1e-15 and np.isclose(flat.depth[1:].mean(), plain.depth[1:].mean()) and np.ptp(plain.depth) > 1e-6


@pytest.mark.parametrize("wrong", ["pretrain.planets=19", "pretrain.worlds.jitter=[1,.5]", "pretrain.worlds.contrast=[0,3]", "pretrain.time_bins=7", "pretrain.holdout=.9", "train.mae.share=0",
                                   "train.mae.run=283", "train.contrastive.temperature=0", "train.mae.predict_sigma=often", "pretrain.world.jitter=[0,1]"])
def test_settings_out_of_their_limits_are_refused(wrong):
    with pytest.raises(ConfigError): load_config([wrong])


def test_no_phase_at_all_is_refused():
    with pytest.raises(ConfigError, match="at least one epoch"): load_config(["pretrain.epochs_mae=0", "pretrain.epochs_supervised=0"])


def test_light_curves_are_cut_as_the_data_will_be():
    bins = lambda *more: pretraining.bins_of(load_config(more))
    assert bins("data=smoke") == 281 and bins("data=science") == 1125 and bins("data=kaggle", "data.root=x") == 1125
    assert bins("data=smoke", "pretrain.time_bins=99") == 99 and bins("data=science", "photometry.time_bins=500") == 500


def test_what_is_left_behind(made):
    work, figures, told = made
    folder = work/"artifacts"/"pretrained"
    seen, info, record = read_json(folder/"members"/"planets.json")["train"], read_json(folder/"model.json"), read_json(folder/"model.safetensors.json")
    assert figures["planets"] == figures["planets_made"] == 22 and figures["planets_bad"] == 0 and 16 <= figures["sound"] <= 22
    assert len(seen) == figures["sound"] and min(seen) >= FIRST_ID and set(info["train_ids"]) | set(info["valid_planets"]) == set(seen)
    assert record["status"] == "ok" and record["quality"]["planets"] == len(seen) and set(record["quality"]["scores"]) == {"physics", "network"}
    assert info["meta"]["worlds"]["jitter"] == [0., 1.] and len(info["meta"]["features"]) == len(info["scaling"]["centre"]["planet"])
    assert "train.pretrained=" in told[-1] and "trained now" in told[-2]
    weights, _ = read_weights(folder)
    assert all(v.isfinite().all() for v in weights.values())


def test_options_of_the_phases_reach_them(made):
    phases = {p["phase"]: p for p in read_json(made[0]/"artifacts"/"pretrained"/"model.json")["phases"]}
    assert (phases["mae"]["share"], phases["mae"]["run"], phases["mae"]["predict_sigma"], phases["mae"]["epochs"]) == (.25, 5, False, 1)
    assert phases["supervised"]["epochs"] == 2
    mae, contrastive = learning.unlabelled_phases(settings("."))
    assert (mae.share, mae.run, mae.predict_sigma, contrastive.temperature) == (.25, 5, False, .3)


def test_what_stands_is_not_made_again(own):
    before = {p: p.read_bytes() for p in own.rglob("*") if p.is_file()}
    figures = pretraining.pretrain(settings(own), lambda line: None)
    assert figures["planets_made"] == 0 and {p: p.read_bytes() for p in own.rglob("*") if p.is_file()} == before


def test_a_lost_planet_is_made_again_to_the_same_bytes(own, made):
    product = own/"data"/"pretrain"/"planet_0000021.npz"
    data = product.read_bytes()
    product.write_bytes(data[:-100])
    told = []
    assert pretraining.pretrain(settings(own), told.append)["planets_made"] == 1
    assert product.read_bytes() == data and "stood already" in told[-2]


def test_other_settings_of_training_leave_the_planets_alone(own, made):
    figures = pretraining.pretrain(settings(own, "pretrain.epochs_supervised=1"), lambda line: None)
    assert figures["planets_made"] == 0
    assert (own/"artifacts"/"pretrained"/"model.safetensors").read_bytes() != (made[0]/"artifacts"/"pretrained"/"model.safetensors").read_bytes()


def test_the_number_of_workers_changes_no_byte(own, made):
    shutil.rmtree(own/"artifacts")
    for name in ("planet_0000004.npz", "planet_0000021.npz"): (own/"data"/"pretrain"/name).unlink()
    pretraining.pretrain(settings(own, "executor=processes", "executor.workers=2"), lambda line: None)
    for name in ("model.safetensors", "prior.json", "members/planets.json"):
        assert (own/"artifacts"/"pretrained"/name).read_bytes() == (made[0]/"artifacts"/"pretrained"/name).read_bytes()


def test_one_bad_planet_does_not_stop_the_others(own, monkeypatch):
    def observe(seed, planet, *more):
        if planet.planet_id == FIRST_ID + 3: raise DataError("a simulation", "no light", "some")
        return worlds_fitted_observe(seed, planet, *more)
    worlds_fitted_observe = worlds_fitted.observe_one
    monkeypatch.setattr(worlds_fitted, "observe_one", observe)
    (own/"data"/"pretrain"/"planet_0000003.npz").unlink()
    told = []
    figures = pretraining.pretrain(settings(own), told.append)
    assert figures["planets_bad"] == 1 and any("simulated planet 3" in line and "no light" in line for line in told)
    assert read_json(own/"data"/"pretrain"/"planet_0000003.npz.json")["status"] == "failed"
    assert FIRST_ID + 3 not in read_json(own/"artifacts"/"pretrained"/"members"/"planets.json")["train"]


def test_too_few_sound_planets_are_an_error(tmp_path, monkeypatch):
    def observe(*args): raise DataError("a simulation", "no light", "some")
    monkeypatch.setattr(worlds_fitted, "observe_one", observe)
    with pytest.raises(InternalError, match="found 0 sound planets"): pretraining.pretrain(settings(tmp_path), lambda line: None)


def test_rows_beyond_the_prior_are_those_of_the_whole_prior(own):
    "The first planets are predicted out of fold, the others by the prior in prior.json."
    from spectramind.lightcurve.prior import SpectralPrior, predict_spectra
    config = settings(own)
    worlds = [w for _, w in pretraining.world_orders(config)]
    examples, prior = pretraining.examples_of_worlds(config, worlds, own/"rows")
    posterior, _, label = worlds_fitted.read_world(worlds[21])
    spectra = predict_spectra([posterior], SpectralPrior.from_dict(read_json(own/"rows"/"prior.json")))
    row = list(examples.planet_id).index(FIRST_ID + 21)
    assert np.array_equal(examples.mu[row], spectra.mu[0]) and np.array_equal(examples.label[row], label)
    first, _, _ = worlds_fitted.read_world(worlds[0])
    assert not np.array_equal(examples.mu[0], predict_spectra([first], prior).mu[0])


# ---------------------------------------------------------------------------------------------------------- starting from the weights

@pytest.fixture(scope="module")
def labelled(made):
    "Planets that pass for labelled ones: other ids, so that nobody has seen them; and their stars."
    config = settings(made[0])
    worlds = [w for _, w in pretraining.world_orders(config)]
    folder = made[0].parent/"labelled"
    examples, _ = pretraining.examples_of_worlds(config, worlds, folder)
    stars = {w.planet().planet_id: w.planet().star for w in worlds}
    ids = examples.planet_id - FIRST_ID + 1000
    return dataclasses.replace(examples, planet_id=ids), StarTable(dataclasses.replace(stars[int(p) + FIRST_ID - 1000], planet_id=int(p)) for p in ids)


def test_members_start_from_the_weights_and_keep_their_scaling(made, labelled, tmp_path):
    pretrained = made[0]/"artifacts"/"pretrained"
    config = settings(tmp_path, f"train.pretrained={pretrained}", "train.epochs_supervised=1", "train.lr=1e-7", "model.ensemble.folds=2")
    examples, stars = labelled
    shutil.copy2(pretrained/"prior.json", write_json(tmp_path/"c"/"prior.json", {}))
    learning._train_members(config, examples, stars, (np.ones(len(examples)), np.ones(len(examples))), tmp_path/"c", Made({}, "x"))
    weights, info = read_weights(pretrained)
    for fold in (0, 1):
        own, told = read_weights(tmp_path/"c"/"members"/f"fold{fold}_seed0")
        assert told["scaling"] == info["scaling"]
        assert max(float((own[k] - weights[k]).abs().max()) for k in weights if weights[k].is_floating_point()) < 1e-5


def test_steps_are_gentler_from_weights_that_know_something():
    assert learning.train_config(load_config(["train.lr=.002"])).lr == .002
    assert np.isclose(learning.train_config(load_config(["train.lr=.002", "train.pretrained=x"])).lr, .0006)
    assert np.isclose(learning.train_config(load_config(["train.lr=.002", "train.pretrained=x", "train.pretrained_lr=1"])).lr, .002)


def start(folder, ids, *more):
    return learning._start(settings(".", f"train.pretrained={folder}", *more), np.asarray(ids), tuple(read_json(Path(folder)/"model.json")["meta"].get("features", ())))


def test_weights_that_know_a_planet_are_refused(made, own):
    folder = own/"artifacts"/"pretrained"
    weights, scaling = start(folder, [12, 13])
    assert weights and scaling.to_dict() == read_json(folder/"model.json")["scaling"]
    seen = read_json(folder/"model.json")
    for planet in (seen["train_ids"][0], seen["valid_planets"][0]):
        with pytest.raises(ConfigError, match="have seen 1 of"): start(folder, [12, planet])
    shutil.rmtree(folder/"members")                                   # the list beside the weights is not the only one
    with pytest.raises(ConfigError, match="have seen 2 of"): start(folder, seen["train_ids"][:2])


def test_weights_of_unknown_origin_are_refused_unless_trusted(own):
    folder = own/"artifacts"/"pretrained"
    shutil.rmtree(folder/"members")
    info = json.loads((folder/"model.json").read_text())
    write_json(folder/"model.json", {k: v for k, v in info.items() if k not in ("train_ids", "valid_planets")})
    with pytest.raises(ConfigError, match="do not say which planets"): start(folder, [12])
    assert start(folder, [12], "train.trust_pretrained=true")[0]


def test_weights_for_other_features_are_refused(made):
    folder = made[0]/"artifacts"/"pretrained"
    with pytest.raises(ConfigError, match="other features"): learning._start(settings(".", f"train.pretrained={folder}"), np.array([12]), ("one", "two"))


def test_a_network_that_cannot_be_built_is_refused_at_once():
    for words in (["model.network.width=25"], ["model.network.airs.heads=5"]):
        with pytest.raises(ConfigError): learning.check_learning(load_config(words))


def test_small_print_of_the_settings():
    assert load_config(["train.amp=16"]).train.amp == "16" and load_config(["train.patience=0"]).train.patience == 0
    with pytest.raises(ConfigError, match="band_priors"): load_config(["loss.band_priors.enabled=true"])


def test_the_command(tmp_path, made):
    from typer.testing import CliRunner
    from spectramind.pipeline import cli_pretrain
    call = lambda *words: CliRunner().invoke(cli_pretrain.app, ["pretrain", *words])
    work = shutil.copytree(made[0], tmp_path/"work", copy_function=shutil.copy2)
    done = call(*TINY, f"paths.work={work}", "--planets", "22")
    assert done.exit_code == 0 and "22 stood already" in done.output and "weights stood already" in done.output
    line = json.loads((work/"events.jsonl").read_text().splitlines()[-1])
    assert line["exit"] == 0 and line["metrics"]["sound"] == read_json(work/"artifacts"/"pretrained"/"model.safetensors.json")["quality"]["planets"]
    assert call(*TINY, f"paths.work={work}", "--planets", "3").exit_code == 3 and call(*TINY, f"paths.work={work}", "model=physics_only").exit_code == 3
    assert "--planets" in call("--help").output
