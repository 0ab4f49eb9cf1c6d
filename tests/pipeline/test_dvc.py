"dvc.yaml says the truth: its commands exist, its settings exist, and a changed setting reruns what depends on it and nothing else."
import configparser
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from omegaconf import OmegaConf

from spectramind.pipeline import cli_tools           # its commands join the others when it is imported
from spectramind.pipeline.cli import app
from spectramind.pipeline.config import compose_params, config_yaml, flat, load_config

ROOT = Path(__file__).resolve().parents[2]
PARAMS = "artifacts/configs/params.yaml"
ORDER = ["params", "data", "calibrate", "features", "fit", "train", "uncertainty", "predict", "diagnose", "submit"]
load = lambda name: OmegaConf.to_container(OmegaConf.load(ROOT/name))
STAGES = load("dvc.yaml")["stages"]


def outs_of(stage): return [next(iter(out)) if isinstance(out, dict) else out for out in (*stage.get("outs", ()), *stage.get("metrics", ()))]


def settings_of(stage): return [key for part in stage["params"] if PARAMS in part for key in part[PARAMS]]


def reruns(changed):
    "The stages that DVC would run again after a change of these settings, if every stage's products changed."
    again, dirty = [], set()
    for name in ORDER:
        stage = STAGES[name]
        hit = name == "params" or any(key == c or c.startswith(key + ".") for key in settings_of(stage) for c in changed) or any(dep in dirty for dep in stage["deps"])
        if hit and name != "params": dirty |= set(outs_of(stage))
        again += [name] if hit else []
    return again


def test_one_stage_for_each_command_in_order_and_each_with_its_notebook():
    assert list(STAGES) == ORDER
    for name, stage in STAGES.items():
        words = stage["cmd"].split()
        assert words[0] == "spectramind" and name in (words[1], "params") and ("--engine papermill" in stage["cmd"]) == (name not in ("params", "data"))
        command, rest = typer.main.get_command(app), words[1:]
        while rest and hasattr(command, "commands") and rest[0] in command.commands: command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert not hasattr(command, "commands") and {word for word in rest if word.startswith("--")} <= options, stage["cmd"]
        assert name == "params" or f"--config-name {PARAMS}" in stage["cmd"]
        if "papermill" in stage["cmd"]: assert (ROOT/"nbs"/"runs"/f"{name}.ipynb").is_file()
    assert {"compose", "show", "diff"} <= set(typer.main.get_command(cli_tools.app).commands["config"].commands)


def test_every_setting_and_every_file_that_is_named_exists():
    keys = list(flat(load_config()))
    for name, stage in STAGES.items():
        for key in settings_of(stage): assert any(k == key or k.startswith(key + ".") for k in keys), (name, key)
        made = [out for earlier in ORDER[:ORDER.index(name)] for out in outs_of(STAGES[earlier])]
        for dep in stage["deps"]: assert dep in made or (ROOT/dep).exists(), (name, dep)
    everything = [out for stage in STAGES.values() for out in outs_of(stage)]
    assert len(set(everything)) == len(everything) and not any(out.startswith(("data/smoke", "data/science", "truth")) for out in everything)      # raw frames are never added


def test_a_changed_setting_reruns_what_depends_on_it_and_nothing_before():
    follow = ["train", "uncertainty", "predict", "diagnose", "submit"]
    assert reruns(["loss.smoothness.lam"]) == ["params", *follow] == reruns(["train.lr"])
    assert reruns(["fit.starts"]) == ["params", "fit", *follow] and reruns(["photometry.clip_sigma"]) == ["params", "features", "fit", *follow]
    assert reruns(["calib.frame_bins"]) == ["params", "calibrate"] and reruns(["calib.steps.hot"]) == ["params", "calibrate", "features", "fit", *follow]
    assert reruns(["uncertainty.corel.alpha"]) == ["params", "uncertainty", "predict", "diagnose", "submit"] and reruns(["submit.layout"]) == ["params", "diagnose", "submit"]
    assert reruns(["data.n_train"]) == ORDER and reruns(["executor.workers", "records.keep", "limits.hours"]) == ["params"]


def test_every_setting_that_can_change_a_number_belongs_to_a_stage():
    named = {key for stage in STAGES.values() if stage is not STAGES["params"] for key in settings_of(stage)}
    apart = {"paths", "env", "executor", "limits", "records", "ablate", "pretrain"}      # where, how fast and how much is noted; env.determinism holds for all
    left = {key for key in flat(load_config()) if not any(key == n or key.startswith(n + ".") for n in named)}
    assert {key.partition(".")[0] for key in left} <= apart


def test_what_is_made_planet_by_planet_persists_and_the_raw_list_is_read_by_all():
    for name in ("calibrate", "features", "fit", "train"):
        assert all(isinstance(out, dict) and next(iter(out.values()))["persist"] for out in STAGES[name]["outs"])
        assert "data/raw_manifest.json" in STAGES[name]["deps"]
    assert "artifacts/reports/score.json" in STAGES["diagnose"]["metrics"]
    drawn = {path for plot in load("dvc.yaml")["plots"] for part in plot.values() for axis in ("x", "y") for path in part[axis]}
    assert all(path.startswith("artifacts/reports/plots/") for path in drawn) and "artifacts/reports/plots" in outs_of(STAGES["diagnose"])


def test_the_parameters_compose_and_one_of_them_changes_one_setting(tmp_path):
    config = compose_params(ROOT/"params.yaml")
    assert config.data.profile == "smoke" and config.env.determinism == "strict" and config.calib.persist == "binned" and (config.data.n_train, config.data.n_test) == (24, 12)
    (tmp_path/"snapshot.yaml").write_text(config_yaml(config))
    assert load_config([], str(tmp_path/"snapshot.yaml")) == config                   # what the stages read is what was composed
    params = load("params.yaml")
    params["loss"]["smoothness"]["lam"] = .02
    (tmp_path/"params.yaml").write_text(OmegaConf.to_yaml(params))
    before, after = flat(config), flat(compose_params(tmp_path/"params.yaml"))
    assert {key for key in after if after[key] != before[key]} == {"loss.smoothness.lam"}
    kaggle = params | dict(choices=params["choices"] | dict(data="kaggle"), data=dict(root="somewhere"))
    (tmp_path/"params.yaml").write_text(OmegaConf.to_yaml(kaggle))
    assert compose_params(tmp_path/"params.yaml").calib.persist == "binned"           # the stage `calibrate` has something to keep with real data, too


def test_nothing_is_sent_anywhere_and_the_remote_lies_here():
    found = configparser.ConfigParser()
    found.read(ROOT/".dvc"/"config")
    assert found["core"]["analytics"] == "false" and found["core"]["autostage"] == "false" and found["core"]["remote"] == "localcache"
    url = found["'remote \"localcache\"'"]["url"]
    assert url == "localcache" and f"/{url}" in (ROOT/".dvc"/".gitignore").read_text().split()
    ignored = subprocess.run(["git", "check-ignore", "data/raw_manifest.json", PARAMS, "dist/submission.csv", ".dvc/localcache", ".dvc/cache", ".dvc/tmp"], cwd=ROOT, capture_output=True, text=True)
    assert len(ignored.stdout.split()) == 6
    committed = subprocess.run(["git", "check-ignore", "dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore", ".dvc/config"], cwd=ROOT, capture_output=True, text=True)
    assert committed.stdout == ""


def test_dvc_itself_takes_the_file():
    said = subprocess.run([str(Path(sys.executable).parent/"dvc"), "stage", "list", "--name-only"], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.split() == ORDER, said.stderr


def test_the_lock_is_one_of_these_stages():
    lock = load("dvc.lock")["stages"]
    assert list(lock) == ORDER or set(lock) == set(ORDER)
    for name, entry in lock.items():
        assert entry["cmd"] == STAGES[name]["cmd"] and [out["path"] for out in entry["outs"]] == sorted(outs_of(STAGES[name]))
        assert set(entry["params"].get(PARAMS, {})) == set(settings_of(STAGES[name]))


@pytest.mark.parametrize("stage", ["calibrate", "features", "fit", "train"])
def test_a_stage_depends_on_the_code_its_products_are_signed_with(stage):
    from spectramind.pipeline.units import CODE
    deps = STAGES[stage]["deps"]
    for name in CODE[stage]:
        path = "spectramind/" + name.replace(".", "/")
        assert path in deps or path + ".py" in deps, (stage, name)
