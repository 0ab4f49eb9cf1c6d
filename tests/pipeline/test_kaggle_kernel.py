"The call behind the notebook: a safe submission first, then better ones, whatever happens to them."
import json
import shutil
import sys
from pathlib import Path

import pytest

from spectramind.core.errors import DataError, InternalError
from spectramind.core.store import write_json
from spectramind.pipeline import kaggle_kernels as kernels
from spectramind.pipeline.kaggle_model import copy_model
from spectramind.pipeline.stages import expected_planets
from spectramind.scoring.submission import validate_submission


@pytest.fixture
def sent(reference, tmp_path):
    "A dataset with the physics' model."
    copy_model(reference[0]/"artifacts"/"checkpoints", tmp_path/"set"/"model")
    write_json(tmp_path/"set"/"spectramind.json", dict(settings=["model=physics_only", "executor=serial", "diag.explain=false"]))
    return tmp_path/"set"


def sound(work, tree): return len(validate_submission(work/"submission.csv", expected_planets(tree))[0]) == len(expected_planets(tree))


def test_a_dead_process_leaves_a_submission_and_is_tried_again(sent, sky, tmp_path, monkeypatch):
    seen, work, lines = [], tmp_path/"work", []
    def dies(words, left_s, tell):
        assert sound(work, sky), "the safe submission has to be there before anything else"
        seen.append(words)
        return (-9, -11, 5)[len(seen) - 1]
    monkeypatch.setattr(kernels, "run_apart", dies)
    found = kernels.submit(sent, sky, work, tell=lines.append)
    assert [t["exit"] for t in found["tries"]] == [-9, -11, 5] and found["rows"] == 2 and found["origins"] == {"prior": 2} and sound(work, sky)
    assert "executor.workers=2" in seen[1] and "model=physics_only" in seen[2] and "executor.workers=1" in seen[2]
    assert json.loads((work/"kaggle_report.json").read_text())["safe"] == dict(rows=2, again=False)


def test_a_spoilt_submission_is_replaced_by_the_safe_one(sent, sky, tmp_path, monkeypatch):
    work, lines = tmp_path/"work", []
    def spoils(words, left_s, tell):
        text = (work/"submission.csv").read_text().splitlines()
        (work/"submission.csv").write_text("\n".join(text[:-1]) + "\n")
        return 0
    monkeypatch.setattr(kernels, "run_apart", spoils)
    assert kernels.submit(sent, sky, work, tell=lines.append)["rows"] == 2 and sound(work, sky)
    assert any("the prior alone is handed in" in line for line in lines)


def test_a_better_submission_is_not_replaced_by_a_lesser_try(sent, sky, reference, tmp_path, monkeypatch):
    "Killed after it had handed in (by the page's memory, say): nothing is tried after that."
    work, calls = tmp_path/"work", []
    def dies_late(words, left_s, tell):
        calls.append(words)
        for part in ("artifacts/predictions", "dist"): shutil.copytree(reference[0]/part, work/part, dirs_exist_ok=True)
        shutil.copy2(reference[0]/"dist"/"submission.csv", work/"submission.csv")
        return -9
    monkeypatch.setattr(kernels, "run_apart", dies_late)
    found = kernels.submit(sent, sky, work, tell=lambda line: None)
    assert len(calls) == 1 and found["origins"] == {"physics": 2} and found["tries"][0]["wrote"]


def test_the_prior_is_called_the_prior(sent, sky, reference, tmp_path, monkeypatch):
    "Predictions that were made but never handed in are not what the report speaks of."
    work = tmp_path/"work"
    def predicts_only(words, left_s, tell):
        shutil.copytree(reference[0]/"artifacts"/"predictions", work/"artifacts"/"predictions", dirs_exist_ok=True)
        return 5
    monkeypatch.setattr(kernels, "run_apart", predicts_only)
    assert kernels.submit(sent, sky, work, tell=lambda line: None)["origins"] == {"prior": 2}


def test_the_run_is_ended_before_kaggle_would_end_the_notebook(sent, sky, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(kernels, "run_apart", lambda words, left_s, tell: given.append(left_s) or 5)
    kernels.submit(sent, sky, tmp_path/"work", tell=lambda line: None)
    assert len(given) == 3 and max(given) <= .951*9*3600


def test_a_word_of_complaint_after_the_work_stands(sent, sky, tmp_path, monkeypatch):
    "Code 3 with everything handed in (no planet could be observed) is not repeated; code 3 before is."
    work, calls = tmp_path/"work", []
    def complains(words, left_s, tell):
        calls.append(words)
        if len(calls) == 2: (work/"submission.csv").write_bytes((work/"submission.csv").read_bytes())
        return 3
    monkeypatch.setattr(kernels, "run_apart", complains)
    assert [t["wrote"] for t in kernels.submit(sent, sky, work, tell=lambda line: None)["tries"]] == [False, True] and len(calls) == 2


def test_the_real_thing_and_its_restart(sent, sky, reference, tmp_path):
    "One run to its end; started again it finds everything and gives the same bytes."
    work, lines = tmp_path/"work", []
    found = kernels.submit(sent, sky, work, tell=lines.append)
    assert found["tries"][0]["exit"] == 0 and len(found["tries"]) == 1 and found["origins"] == {"physics": 2} and sound(work, sky)
    assert {t["stage"] for t in found["timings"]} >= {"features", "fit", "predict"}
    again = kernels.submit(sent, sky, work, tell=lines.append)
    assert again["sha256"] == found["sha256"] and again["safe"]["again"] and any("2 stood already" in line for line in lines)


def test_without_a_competition_it_stops(sent, tmp_path):
    (tmp_path/"nothing").mkdir()
    with pytest.raises(DataError): kernels.submit(sent, tmp_path/"nothing", tmp_path/"work", tell=print)


def test_learning_fails_aloud(sent, sky, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "run_apart", lambda words, left_s, tell: 5)
    with pytest.raises(InternalError, match="exit code 5"): kernels.learn(sent, sky, tmp_path/"work", tell=print)


def test_learning_leaves_a_model_and_clears_up(sent, sky, reference, tmp_path):
    work = tmp_path/"work"
    shutil.copytree(reference[0], work, copy_function=shutil.copy2)
    found = kernels.learn(sent, sky, work, tell=print)
    assert found["model"] == ["checkpoints/prior.json"] and not found["network"] and not (work/"data").exists()
    assert (work/"model"/"checkpoints"/"prior.json").read_bytes() == (reference[0]/"artifacts"/"checkpoints"/"prior.json").read_bytes()


def test_a_process_that_does_not_end_is_ended(monkeypatch, tmp_path):
    write = tmp_path/"spectramind"
    write.mkdir()
    (write/"__main__.py").write_text("import time\nprint('at work', flush=True)\ntime.sleep(60)\n")
    (write/"__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = []
    assert kernels.run_apart([], 2., lines.append) == -9 and lines == ["at work"]
    assert Path(sys.executable).exists()
