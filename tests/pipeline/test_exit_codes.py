"Wrong paths, planet ids, files and options: the exit code, and what the one message has to name. Wrong settings have a table of their own in test_config.py."
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from spectramind.__main__ import app
from spectramind.core.nouns import Spectra
from spectramind.scoring.submission import write_package

TABLE = [  # words, code, what the message has to name
    # options and commands
    (["fti"], 3, "fti"),
    (["run", "--engine", "magic"], 3, "direct or papermill"),
    (["fit", "--phase", "mae"], 3, "--phase"),
    (["config"], 3, "Missing command"),
    (["config", "shwo"], 3, "shwo"),
    (["config", "show", "--section", "trian"], 3, "train"),
    (["config", "diff", "a", "b", "c"], 3, "two at most"),
    (["config", "diff", "nowhere.yaml"], 3, "nowhere.yaml"),
    (["config", "compose", "--params", "nowhere.yaml"], 3, "nowhere.yaml"),
    (["config", "compose", "--params", "list.yaml"], 3, "list.yaml"),
    (["diagnose", "determinism", "--workers", "two"], 3, "--workers"),
    (["diagnose", "determinism", "--workers", "1,2,3"], 3, "--workers"),
    (["submit", "one", "two"], 3, "one at most"),
    (["train", "--multirun", "train.lr=1e-3,high"], 3, "train.lr"),
    (["ablate", "run", "modl=gru,tcn"], 3, "modl"),
    # paths
    (["run", "paths.work=/proc/nobody/may/write"], 3, "paths.work"),
    (["run", "paths.work=a_file"], 3, "paths.work"),
    (["run", "data=kaggle", "data.root=no_such_tree"], 3, "no_such_tree"),
    (["run", "data=kaggle", "data.root=empty"], 3, "empty"),
    (["fit", "data=kaggle", "data.root=a_file"], 3, "a_file"),
    (["data", "data=kaggle", "data.root=no_such_tree"], 3, "no_such_tree"),
    (["predict", "data=kaggle", "data.root=empty", "ckpt=no/where"], 3, "empty"),
    (["diagnose", "calibration", "--ckpt", "no/where"], 3, "no/where"),
    (["train", "--multirun", "--engine", "papermill", "train.lr=1e-3,2e-3"], 3, "--multirun"),
    (["doctor", "paths.work=a_file"], 3, "paths.work"),
    (["run", "--config-name", "../config_v50"], 3, "config_v50"),
    (["run", "--config-name", "no/such.snapshot.yaml"], 3, "no/such.snapshot.yaml"),
    (["run", "--config-name", "list.yaml"], 3, "list.yaml"),
    (["analyze-log", "paths.work=empty"], 3, "events.jsonl"),
    (["diagnose", "dashboard", "data=kaggle", "data.root=empty"], 3, "found"),
    (["calibrate-temp", "paths.work=empty"], 3, "oof.npz"),
    # planet ids
    (["export", "12x"], 3, "12x"),
    (["export", "../../etc"], 3, "etc"),
    (["export", "1e99"], 3, "1e99"),
    (["export", "-5"], 3, "5"),
    (["export", "7", "--format", "fits"], 3, "fits"),
    # files
    (["validate", "no.csv"], 3, "no.csv"),
    (["validate", "empty"], 3, "folder"),
    (["validate", "nothing.csv"], 2, "empty file"),
    (["validate", "text.csv"], 2, "text.csv"),
    (["validate", "short_row.csv"], 2, "row 2"),
    (["validate", "negative.csv"], 2, "sigma"),
    (["validate", "nan.csv"], 2, "nan"),
    (["validate", "twice.csv"], 2, "twice"),
    (["validate", "list.json"], 2, "list.json"),
    (["validate", "broken.json"], 2, "broken.json"),
    (["validate", "no.zip"], 3, "no.zip"),
    (["score", "good.csv", "no.csv"], 3, "no.csv"),
    (["score", "good.csv", "text.csv"], 3, "text.csv"),
    (["submit", "no/folder"], 3, "no/folder"),
    (["submit", "inputs.pred_path=mu_only.csv"], 3, "sigma.csv"),
    # what is right
    (["validate", "good.csv"], 0, "valid: 3 planets"),
    (["validate", "good.json"], 0, "valid: 3 planets"),
    (["config", "diff"], 0, "0 settings differ"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with files of many faults."
    folder = tmp_path_factory.mktemp("faults")
    rng = np.random.default_rng(1)
    write_package(folder/"made", Spectra(np.array([11, 12, 13]), .01 + 1e-4*rng.random((3, 283)), np.full((3, 283), 1e-4), ("physics",)*3), "wide")
    good = (folder/"made"/"submission.csv").read_text()
    header, *rows = good.splitlines()
    cells = rows[1].split(",")
    def variant(column, value): return "\n".join([header, rows[0], ",".join([*cells[:column], value, *cells[column + 1:]]), rows[2]]) + "\n"
    files = {"good.csv": good, "good.json": (folder/"made"/"submission.json").read_text(), "a_file": "x", "nothing.csv": "", "text.csv": "some words\nand more\n", "list.yaml": "- 1\n",
             "short_row.csv": "\n".join([header, rows[0], ",".join(cells[:-3]), rows[2]]) + "\n", "negative.csv": variant(300, "-0.0001"), "nan.csv": variant(300, "nan"),
             "twice.csv": "\n".join([header, rows[0], rows[0], rows[2]]) + "\n", "list.json": "[1, 2]", "broken.json": "{", "mu_only.csv": good}
    for name, text in files.items(): (folder/name).write_text(text)
    (folder/"empty").mkdir()
    return folder


@pytest.mark.parametrize("words,code,named", TABLE, ids=[" ".join(row[0]) for row in TABLE])
def test_exit_code(words, code, named, place, monkeypatch):
    monkeypatch.chdir(place)
    said = CliRunner().invoke(app, words)
    assert said.exit_code == code, said.output
    assert named in said.output and "Traceback" not in said.output
    if code: assert said.output.startswith("spectramind: ") or "\nspectramind: " in said.output


def test_a_refused_command_leaves_its_line(place, monkeypatch):
    monkeypatch.chdir(place)
    CliRunner().invoke(app, ["fit", "data=kaggle", "data.root=no_such_tree"])
    last = json.loads((place/"events.jsonl").read_text().splitlines()[-1])
    assert last["exit"] == 3 and last["run_id"].startswith("fit/")
    status = json.loads((place/"artifacts"/"runs"/last["run_id"]/"status.json").read_text())
    assert status["state"] == "failed" and status["exit"] == 3
