"Every wrong setting ends with exit code 3 and a message that says which setting, what was found and what to do."
import time

import pytest
from typer.testing import CliRunner

from spectramind.core.errors import ConfigError
from spectramind.core.paths import resource_dir
from spectramind.pipeline.cli import app
from spectramind.pipeline.config import config_hash, load_config

BAD = [  # overrides, what the message has to name, what the hint has to name
    (["data=smok"], "data=smok", "data=smoke"),
    (["dta=smoke"], "unknown key dta", "data"),
    (["data.rot=x"], "unknown key data.rot", "data.root"),
    (["calib=nominel"], "calib=nominel", "calib=nominal"),
    (["+env=lokal"], "env=lokal", "env=local"),
    (["executor=daks"], "dask, processes, serial", "executor=dask"),
    (["calib.persist=bined"], "calib.persist: found 'bined'", "binned"),
    (["calib.steps.cosmic_sgima=4"], "calib.steps.cosmic_sgima", "calib.steps.cosmic_sigma"),
    (["calib.cosmic_sigma=4"], "calib.cosmic_sigma", "calib.steps.cosmic_sigma"),
    (["calib.steps.hot=1"], "calib.steps.hot: found 1 (int), wanted true or false", ""),
    (["calib.steps.cosmic_sigma=high"], "wanted a number", ""),
    (["calib.steps.cosmic_sigma=inf"], "finite", ""),
    (["calib.steps.coadds=4"], "coadds.json", ""),
    (["calib.frame_bins=0"], "frame_bins", ""),
    (["photometry.background=magic"], "photometry", ""),
    (["photometry.time_bins=1e3"], "photometry.time_bins", ""),
    (["fit.time_bins=null"], "fit.time_bins", ""),
    (["seed=two"], "seed: found 'two'", ""),
    (["seed=-1"], "seed", ""),
    (["seed=1.5"], "seed: found 1.5", ""),
    (["seed="], "seed", ""),
    (["data=kaggle"], "data.root: found no value", "data.root=..."),
    (["data.n_train=-3"], "n_train", ""),
    (["paths.work=2025"], "paths.work: found 2025", "quote"),
    (["executor.workers=two"], "executor.workers", ""),
    (["executor.workers=-2"], "workers: found -2", ""),
    (["executor.timeout_s=-1"], "timeout_s: found -1", ""),
    (["executor.chunk=two"], "executor.chunk", ""),
    (["train.lr=-1"], "lr: found -1.0, wanted 1e-08 to 10", ""),
    (["model.network.dropout=3"], "dropout", ""),
    (["model.network.width=0"], "width", ""),
    (["model.ensemble.folds=1"], "folds: found 1", ""),
    (["loss.smoothness.lam=-0.1"], "lam: found -0.1", ""),
    (["limits.hours=-9"], "hours", ""),
    (["limits.hour=9"], "unknown key limits.hour", "limits.hours"),
    (["limits.margin=2"], "margin", ""),
    (["records.keep=0"], "keep", ""),
    (["ablate.name=../up"], "letters, digits", ""),
    (["ablate.mode=greed"], "ablate.mode", "grid"),
    (["diag.dataset=tset"], "diag.dataset", "test"),
    (["diag=ful"], "diag=ful", "diag=full"),
    (["logger=wandb"], "logger=wandb", "wandb_off"),
    (["search=bins"], "search=bins", "--multirun"),
    (["config_name=trian"], "'trian'", "train"),
    (["config_name=no/such/snapshot.yaml"], "no/such/snapshot.yaml", ""),
    (["submit.layout=kagle"], "submit.layout", "kaggle"),
    (["env.determinism=maybe"], "env.determinism", ""),
    (["data.root=${oc.env:HOME}"], "resolver", ""),
    (["data.root=${oc.decode:1}"], "resolver", ""),
    (["data.root=${nowhere.at_all}"], "nowhere", ""),
    (["data=kaggle", "submit.out=env", "data.root='\\${oc.${submit.out}:HOME}'"], "resolver", ""),
    (["data=kaggle", "submit.out=oc.env", "data.root='${${submit.out}:HOME}'"], "resolver", ""),
    (["fast"], "'fast', wanted key=value", "data=kaggle"),
    (["=3"], "'=3'", ""),
    (["~data"], "'~data'", ""),
    (["calib=[nominal,dev]"], "calib=[nominal,dev]", ""),
    (["data.root=a,b"], "configuration", "quotes"),
    (["optimizer.lrr=0.1"], "unknown key train.lrr", "train.lr"),
    (["model=v51"], "model=v51", "model=v50"),
    (["train=smoke"], "train=smoke", ""),
    (["loss=composit"], "loss=composit", "loss=composite"),
    (["model.network.fgs1.kind=gru2"], "mamba, gru, tcn, none", "gru"),
    (["model.fgs1.kind=gru"], "unknown key model.fgs1", "model.network.fgs1"),
    (["loss.smoothness.lambda=1"], "unknown key loss.smoothness.lambda", "lam"),
    (["loss.scale=0"], "loss: scale", ""),
    (["loss.band_priors.bands=3"], "loss.band_priors.bands", ""),
    (["train.phase=warm"], "train.phase", ""),
    (["train.phase=mae", "train.epochs_mae=0"], "at least one epoch", ""),
    (["uncertainty.corel.alpha=2"], "alpha", ""),
    (["calib.temp.mod=global"], "unknown key uncertainty.temperature.mod", "mode"),
    (["uncertainty.outliers.widest=0.5"], "widest", ""),
    (["fit=3"], "fit: found 3", ""),
]


@pytest.mark.parametrize("overrides,named,hint", BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_settings(overrides, named, hint):
    with pytest.raises(ConfigError) as caught: load_config(overrides)
    assert named in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("words", [
    ["run", "calib.stps.hot=true"], ["fit", "data=kagle"], ["predict", "--layout", "kagle"], ["run", "--config-name", "config_v51"],
    ["run", "--config-name", "../config_v50"], ["run", "--quick"], ["runn"], ["score", "only_one.csv"], ["validate"], ["submit", "a", "b"],
    ["run", "data=kaggle", "data.root=no_such_folder"], ["simulate", "data=kaggle", "data.root=no_such_folder"], ["calibrate", "data=science"],
    ["predict", "data=kaggle", "data.root=no_such_folder"], ["submit"], ["train", "data=kaggle", "data.root=no_such_folder", "model=physics_only"], ["train", "--phase", "warm"],
    ["calibrate-temp"], ["calibrate-corel"], ["diagnose", "calibration"], ["diagnose", "calibration", "--dataset", "tset"], ["diagnose"], ["run", "--fast-kaggle"],
    ["demo", "data=science"], ["score", "no.csv", "no.csv"], ["run", "paths.work=/proc/nobody/may/write"],
], ids=" ".join)
def test_command_line_refuses_with_3(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 3
    assert "Traceback" not in said.output and said.output.startswith("spectramind: ")
    assert "what to do" in said.output or "found" in said.output


def test_entry_files_compose_to_the_root_config():
    names = sorted(p.stem for p in resource_dir("configs").glob("*.yaml"))
    assert "config_v50" in names
    assert {config_hash(load_config(["+env=local", "data=science"], name)) for name in names if name != "ablate"} == {config_hash(load_config(["env=local", "+data=science"]))}


def test_hash_sees_every_setting_and_no_spelling():
    base = config_hash(load_config())
    assert base == config_hash(load_config(["global.seed=2025", "+data=smoke", "calib.steps.cosmic_sigma=8"]))
    changed = ["seed=1", "paths.work=x", "data=science", "calib=dev", "env=ci", "executor=serial", "calib.steps.hot=true", "photometry.clip_sigma=5.5",
               "fit.starts=5", "predict.checkpoint=x", "model=physics_only", "model=gru", "train=trainer_smoke", "train.lr=0.01", "loss=none", "loss.smoothness.lam=0.1",
               "uncertainty=off", "uncertainty.corel.alpha=0.2", "submit.layout=wide", "data.law=linear", "data.verify=full"]
    assert len({base, *(config_hash(load_config([one])) for one in changed)}) == len(changed) + 1


def test_kaggle_environment_and_profiles():
    config = load_config(["+env=kaggle", "+data=kaggle", "data.root=/mnt/ariel"])
    assert config.paths.work == "/kaggle/working" and config.calib.persist == "none" and not config.data.simulated
    science = load_config(["data=science"])
    assert (science.data.n_train, science.data.n_test, science.calib.persist) == (30, 24, "none")
    assert load_config(["calib=dev"]).calib.persist == load_config(["calib=dev", "data=science"]).calib.persist == "full"   # an explicit choice wins
    assert load_config().calib.persist == "binned" and load_config(["data=science", "calib.persist=full"]).calib.persist == "full"


MODELS = {"v50": {}, "v50_fast": dict(width=12), "fgs1_only": dict(airs="none"), "airs_only": dict(fgs1="none"), "fusion_cross_attend": dict(fusion="cross_attend"),
          "fusion_gated": dict(fusion="gated"), "gru": dict(fgs1="gru"), "tcn": dict(fgs1="tcn"), "cnn": dict(airs="cnn")}


def test_every_member_of_the_learning_groups_composes():
    folder = resource_dir("configs")
    members = {group: {p.stem for p in (folder/group).glob("*.yaml")} for group in ("model", "train", "loss", "uncertainty")}
    assert members["model"] == {*MODELS, "physics_only"} and members["loss"] == {"composite", "none", "smoothness", "nonneg", "molecular", "constraints"}
    for name, wanted in MODELS.items():
        found = load_config([f"model={name}"]).model
        told = dict(width=found.network.width, fusion=found.network.fusion, fgs1=found.network.fgs1.kind, airs=found.network.airs.kind)
        assert found.kind == "network" and all(told[k] == v for k, v in wanted.items())
    assert load_config(["model=physics_only"]).model.kind == "physics"
    terms = ("smoothness", "nonneg", "molecular", "seam", "ratio", "quantiles", "symbolic")
    on = {name: {t for t in terms if getattr(load_config([f"loss={name}"]).loss, t).enabled} for name in members["loss"]}
    assert on["none"] == set() and on["composite"] == set(terms) == on["smoothness"] | on["nonneg"] | on["molecular"] | on["constraints"]
    off = load_config(["uncertainty=off"]).uncertainty
    assert not (off.temperature.enabled or off.corel.enabled or off.outliers.enabled)
    assert load_config(["train=fast_kaggle"]).train.epochs()["supervised"] < load_config().train.epochs()["supervised"]
    assert load_config(["train.phase=all"]).train.epochs() == dict(mae=20, contrastive=20, supervised=30)


def test_older_spellings_reach_the_same_settings():
    one = load_config(["training=trainer_smoke", "optimizer.lr=0.002", "loss.smoothness.weight=0.2", "loss.band_priors.lam=3", "calib.temp.mode=global", "calib.corel.alpha=0.2", "+loss.nonneg.weight=2"])
    two = load_config(["train=trainer_smoke", "train.lr=0.002", "loss.smoothness.lam=0.2", "loss.band_priors.weight=3", "uncertainty.temperature.mode=global", "uncertainty.corel.alpha=0.2", "loss.nonneg.lam=2"])
    assert config_hash(one) == config_hash(two) != config_hash(load_config())


def test_the_light_sections_mirror_the_settings_of_the_floors_below():
    import dataclasses
    from spectramind.network.spectramind import NetworkConfig
    from spectramind.pipeline import settings as light
    from spectramind.symbolic.pack import SymbolicOptions, SymbolicWeights
    from spectramind.training.curriculum import Supervised
    from spectramind.training.ensemble import EnsembleConfig
    from spectramind.training.settings import TrainConfig
    plain = lambda d: {k: (plain(v) if isinstance(v, dict) else v) for k, v in d.items()}
    assert plain(dataclasses.asdict(light.Network())) == plain(dataclasses.asdict(NetworkConfig()))
    assert dataclasses.asdict(light.Members()) == dataclasses.asdict(EnsembleConfig())
    train, real = dataclasses.asdict(light.Train()), dataclasses.asdict(TrainConfig())
    assert set(train) - set(real) == {"phase", "pretrained", "pretrained_lr", "trust_pretrained", "mae", "contrastive"} and set(real) - set(train) == {"seed"}
    assert {k: v for k, v in train.items() if k in real and not k.startswith("epochs")} == {k: v for k, v in real.items() if k in train and not k.startswith("epochs")}
    loss, weights, options = light.Loss(), SymbolicWeights(), SymbolicOptions()
    lams = dict(sm=loss.smoothness, nn=loss.nonneg, coh=loss.molecular, seam=loss.seam, ratio=loss.ratio, qm=loss.quantiles)
    assert {k: v.lam for k, v in lams.items()} == dataclasses.asdict(weights)
    assert (loss.smoothness.relax, loss.molecular.share, loss.molecular.eps, loss.ratio.ch4_h2o, loss.ratio.co2_h2o) == (options.relax, options.coh_share, options.coh_eps, options.ch4_h2o, options.co2_h2o)
    assert loss.gll.mode == Supervised().mode and abs(loss.gll.fgs_weight - Supervised().fgs_weight) < 1e-3


def test_composition_is_quick():
    load_config()
    began = time.process_time()
    load_config(["data=science"])
    assert time.process_time() - began < 1.0


def test_a_snapshot_is_the_whole_configuration(tmp_path):
    from spectramind.pipeline.config import config_yaml
    config = load_config(["data=science", "model=gru", "loss.band_priors.bands=[[1,17]]", "loss.ratio.ch4_h2o=[0.5,1.5]", "seed=7"])
    path = tmp_path/"config.snapshot.yaml"
    path.write_text(config_yaml(config))
    assert config_hash(load_config((), str(path))) == config_hash(config) == config_hash(load_config([f"config_name={path}"]))
    changed = load_config(["optimizer.lr=5e-4", "submit.layout=wide", "predict.out_csv='a b,c.csv'"], str(path))
    assert (changed.train.lr, changed.submit.layout, changed.predict.out_csv, changed.seed) == (5e-4, "wide", "a b,c.csv", 7)


@pytest.mark.parametrize("text,named", [("!!python/object/apply:os.system ['true']", "plain YAML"), ("seed: ${oc.env:HOME}", "resolver"), ('paths: {work: "\\x24{oc.env:HOME}"}', "resolver"), ("paths: {work: '${oc.${submit.layout}:HOME}'}", "resolver"), ("- 1", "sections"), ("seed: [", "plain YAML"),
                                        ("seeds: 3", "unknown key seeds"), ("seed: 3", "data: found no value"), ("data: 3", "data: found 3"), ("", "data: found no value")])
def test_a_file_that_is_no_snapshot_is_refused(text, named, tmp_path):
    path = tmp_path/"snapshot.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught: load_config((), str(path))
    assert named in caught.value.message


def test_parameters_compose_and_lint_finds_faults(tmp_path):
    import shutil
    from spectramind.pipeline.config import compose_params, differences, lint
    file = tmp_path/"params.yaml"
    file.write_text("choices: {model: gru, training: trainer_smoke}\nseed: 9\nloss: {smoothness: {weight: 0.5}}\n")
    config = compose_params(file)
    assert config_hash(config) == config_hash(load_config(["model=gru", "train=trainer_smoke", "seed=9", "loss.smoothness.lam=0.5"]))
    assert [key for key, *_ in differences(load_config(["model=gru", "train=trainer_smoke"]), config)] == ["seed", "loss.smoothness.lam"]
    file.write_text("choices: {model: gru}\nloss: {smothness: {lam: 1}}\n")
    with pytest.raises(ConfigError, match="smothness"): compose_params(file)
    own = shutil.copytree(resource_dir("configs"), tmp_path/"configs")
    assert lint(own) == []
    (own/"train"/"trainer_smoke.yaml").write_text("defaults: [trainer, _self_]\nepoch: 3\n")
    (own/"diag"/"odd.yaml").write_text("profile: ${oc.env:HOME}\n")
    found = lint(own)
    assert any("train=trainer_smoke" in p and "epoch" in p for p in found) and any("diag/odd.yaml" in p and "resolver" in p for p in found)
