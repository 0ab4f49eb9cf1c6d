"The determinism gate: two whole runs agree to the bit, and one changed byte is found."
import json

import pytest
from typer.testing import CliRunner

from spectramind.__main__ import app
from spectramind.core.errors import QualityGateError
from spectramind.pipeline import gate


def test_one_and_two_workers_agree(wide, tmp_path):
    "With a network, strict: frames, curves, posteriors, weights, predictions, submission and page."
    said = CliRunner().invoke(app, ["diagnose", "determinism", "data=kaggle", f"data.root={wide[0]}", f"paths.work={tmp_path}", "env=ci", "model=v50_fast", "train=trainer_smoke",
                                    "train.epochs_supervised=2", "model.ensemble.folds=2", "calib.persist=binned"])
    assert said.exit_code == 0, said.output
    event = json.loads((tmp_path/"events.jsonl").read_text().splitlines()[-1])
    assert event["metrics"]["differ"] == 0 and event["metrics"]["files"] > 60
    names = gate.checksums(tmp_path/"artifacts"/"determinism"/"first")
    for wanted in ("dist/submission.csv", "artifacts/checkpoints/oof.npz", "artifacts/checkpoints/model.safetensors", "artifacts/reports/diagnostics_dashboard.html", "artifacts/predictions/sigma.csv"):
        assert wanted in names
    assert any(name.startswith("data/posterior/") for name in names) and any(name.startswith("data/calibrated/airs/") for name in names)
    (tmp_path/"artifacts"/"determinism"/"second"/"dist"/"submission.csv").write_text("other")
    assert gate.compare(names, gate.checksums(tmp_path/"artifacts"/"determinism"/"second")) == ["dist/submission.csv: other bytes"]


def test_a_difference_ends_with_6(sky, tmp_path, monkeypatch):
    from spectramind.pipeline import actions
    def careless(config, tell):
        from pathlib import Path
        path = Path(config.paths.work)/"dist"/"submission.csv"
        path.parent.mkdir(parents=True)
        path.write_text(str(config.executor.workers))
        return {}
    monkeypatch.setitem(actions.ACTIONS, "run", careless)
    with pytest.raises(QualityGateError, match="dist/submission.csv: other bytes") as caught:
        gate.judge_determinism(["data=kaggle", f"data.root={sky}"], tmp_path, tell=lambda line: None)
    assert caught.value.exit_code == 6
    with pytest.raises(QualityGateError): gate.judge_determinism(["data=kaggle", f"data.root={sky}"], tmp_path, tell=lambda line: None)   # the second time as well
