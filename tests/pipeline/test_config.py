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
    (["executor=dask"], "processes, serial", ""),
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
    (["executor.workers=-2"], "negative", ""),
    (["submit.layout=kagle"], "submit.layout", "kaggle"),
    (["env.determinism=maybe"], "env.determinism", ""),
    (["data.root=${oc.env:HOME}"], "resolver", ""),
    (["data.root=${oc.decode:1}"], "resolver", ""),
    (["data.root=${nowhere.at_all}"], "nowhere", ""),
    (["fast"], "'fast', wanted key=value", "data=kaggle"),
    (["=3"], "'=3'", ""),
    (["~data"], "'~data'", ""),
    (["calib=[nominal,dev]"], "calib=[nominal,dev]", ""),
    (["data.root=a,b"], "configuration", "quotes"),
    (["optimizer.lr=0.1"], "unknown key train", ""),
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
    ["predict", "data=kaggle", "data.root=no_such_folder"], ["submit"], ["demo", "data=science"], ["score", "no.csv", "no.csv"], ["run", "paths.work=/proc/nobody/may/write"],
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
    assert {config_hash(load_config(["+env=local", "data=science"], name)) for name in names} == {config_hash(load_config(["env=local", "+data=science"]))}


def test_hash_sees_every_setting_and_no_spelling():
    base = config_hash(load_config())
    assert base == config_hash(load_config(["global.seed=2025", "+data=smoke", "calib.steps.cosmic_sigma=8"]))
    changed = ["seed=1", "paths.work=x", "data=science", "calib=dev", "env=ci", "executor=serial", "calib.steps.hot=true", "photometry.clip_sigma=5.5",
               "fit.starts=5", "predict.checkpoint=x", "submit.layout=wide", "data.law=linear", "data.verify=full"]
    assert len({base, *(config_hash(load_config([one])) for one in changed)}) == len(changed) + 1


def test_kaggle_environment_and_profiles():
    config = load_config(["+env=kaggle", "+data=kaggle", "data.root=/mnt/ariel"])
    assert config.paths.work == "/kaggle/working" and config.calib.persist == "none" and not config.data.simulated
    science = load_config(["data=science"])
    assert (science.data.n_train, science.data.n_test, science.calib.persist) == (30, 24, "none")
    assert load_config(["calib=dev"]).calib.persist == load_config(["calib=dev", "data=science"]).calib.persist == "full"   # an explicit choice wins
    assert load_config().calib.persist == "binned" and load_config(["data=science", "calib.persist=full"]).calib.persist == "full"


def test_composition_is_quick():
    load_config()
    began = time.process_time()
    load_config(["data=science"])
    assert time.process_time() - began < 1.0
