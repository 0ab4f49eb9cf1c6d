"The call behind the notebook: a safe submission first, then better ones, whatever happens to them."
import json
import shutil
import sys
from pathlib import Path

import pytest

from spectramind.core.errors import DataError, InternalError, SchemaError
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


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    "The run that counts: nothing is raised while a valid submission stands."
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")


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


def handed_in_before(work, reference):
    "What a run leaves: predictions and the submission of them."
    for part in ("artifacts/predictions", "dist"): shutil.copytree(reference[0]/part, work/part, dirs_exist_ok=True)


@pytest.mark.parametrize("writes", [True, False])
def test_after_a_restart_a_try_that_dies_is_not_followed_by_a_lesser_one(writes, sent, sky, reference, tmp_path, monkeypatch):
    "The better rows stand from before; whether or not the try wrote them again before it died, no lesser ones come over them."
    work, calls = tmp_path/"work", []
    handed_in_before(work, reference)
    def dies(words, left_s, tell):
        calls.append(words)
        if writes: (work/"submission.csv").write_bytes((work/"submission.csv").read_bytes())
        return -9
    monkeypatch.setattr(kernels, "run_apart", dies)
    found = kernels.submit(sent, sky, work, tell=lambda line: None)
    assert found["safe"]["again"] and len(calls) == 1 and found["origins"] == {"physics": 2}


def test_the_prior_written_again_by_a_try_that_dies_is_no_result(sent, sky, tmp_path, monkeypatch):
    work, calls = tmp_path/"work", []
    def dies(words, left_s, tell):
        calls.append(words)
        (work/"submission.csv").write_bytes((work/"submission.csv").read_bytes())
        return -9
    monkeypatch.setattr(kernels, "run_apart", dies)
    assert kernels.submit(sent, sky, work, tell=lambda line: None)["origins"] == {"prior": 2} and len(calls) == 3


def test_in_the_run_that_somebody_reads_a_failure_is_an_exception(sent, sky, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "run_apart", lambda words, left_s, tell: 5)
    lines = []
    kernels.submit(sent, sky, tmp_path/"counts", tell=lines.append)
    assert "none of 3 tries handed in anything" in lines[-1]
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN")
    with pytest.raises(InternalError, match="none of 3 tries handed in anything"): kernels.submit(sent, sky, tmp_path/"commit", tell=lines.append)
    assert sound(tmp_path/"commit", sky) and (tmp_path/"commit"/"kaggle_report.json").is_file()


# ---------------------------------------------------------------- the sample's columns and order
@pytest.mark.parametrize("damage", ["wide", "sample_id", "reversed"])
def test_another_layout_or_order_than_the_samples_is_refused(damage, sky, reference, tmp_path):
    from spectramind.pipeline.submitting import sample_of
    from spectramind.scoring.submission import read_submission, write_submission
    spectra = read_submission(reference[0]/"dist"/"submission.csv")[0]
    write_submission(tmp_path/"submission.csv", spectra, "kaggle" if damage == "reversed" else damage, sample_of(sky) if damage == "reversed" else None)
    if damage == "reversed":
        header, *rows = (tmp_path/"submission.csv").read_text().splitlines()
        assert kernels.examine(tmp_path, sky)["rows"] == 2
        (tmp_path/"submission.csv").write_text("\n".join([header, *rows[::-1]]) + "\n")
    with pytest.raises(SchemaError, match="sample_submission.csv"): kernels.examine(tmp_path, sky)


def test_layout_and_places_cannot_be_set_by_mistake():
    from spectramind.pipeline.config import load_config
    config = load_config(kernels.run_words("/in/a", "/w", None, "submit.layout=wide", "+submit.out=/else", "data.root=/b", "paths.work=/c", "env=local"))
    assert (config.submit.layout, config.submit.out, config.data.root, config.paths.work, config.env.name) == ("kaggle", None, "/in/a", "/w", "kaggle")


# ---------------------------------------------------------------- folders that are not as expected
def in_both(tree): shutil.copytree(next((tree/"test").iterdir()), tree/"train"/next((tree/"test").iterdir()).name)
def no_train(tree): shutil.rmtree(tree/"train")
def link_for_test(tree): (tree/"test").rename(tree.parent/"elsewhere"), (tree/"test").symlink_to(tree.parent/"elsewhere")
def sample_is_link(tree): (tree/"sample_submission.csv").rename(tree.parent/"s.csv"), (tree/"sample_submission.csv").symlink_to(tree.parent/"s.csv")
def no_test(tree): shutil.rmtree(tree/"test")


@pytest.mark.parametrize("harm,said", [(in_both, False), (no_train, False), (no_test, False), (link_for_test, True), (sample_is_link, True)], ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_strange_tree_still_gets_its_rows(harm, said, sent, own_sky, tmp_path, monkeypatch):
    harm(own_sky)
    monkeypatch.setattr(kernels, "run_apart", lambda words, left_s, tell: 3)
    lines = []
    found = kernels.submit(sent, own_sky, tmp_path/"work", tell=lines.append)
    assert found["rows"] == 2 and found["origins"] == {"prior": 2}
    assert any("only the 2 rows that sample_submission.csv lists are safe" in line for line in lines) == said


def test_a_planet_in_both_splits_is_predicted(sent, own_sky, tmp_path):
    "With a checkpoint nobody looks into train."
    in_both(own_sky)
    found = kernels.submit(sent, own_sky, tmp_path/"work", tell=lambda line: None)
    assert found["origins"] == {"physics": 2} and found["tries"][0]["wrote"]


def test_settings_that_cannot_be_read_still_leave_rows(sent, sky, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "run_apart", lambda words, left_s, tell: 3)
    lines = []
    assert kernels.submit(sent, sky, tmp_path/"work", "model=nonsense", tell=lines.append)["origins"] == {"prior": 2}
    assert any("nonsense" in line and "are safe" in line for line in lines)


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


def test_a_calibration_that_is_left_out_is_said(settings, sky, tmp_path, monkeypatch, caplog):
    import logging
    import numpy as np
    from types import SimpleNamespace
    from spectramind.core.logs import get_logger
    from spectramind.pipeline import learning, stages
    monkeypatch.setattr(stages, "physics", lambda config, skip: ("rows", SimpleNamespace(outcomes=[]), []))
    monkeypatch.setattr(learning, "ensemble_folder", lambda config, skip: tmp_path)
    monkeypatch.setattr(learning, "refine", lambda *words: (SimpleNamespace(planet_id=np.array([], int)), {}, ("corel: none was fitted", "outliers: switched off"), {}))
    monkeypatch.setattr(learning, "write_predictions", lambda folder, spectra: None)
    logger = get_logger("learning")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    logger.setLevel(logging.INFO)
    try: learning.predict(settings(sky, tmp_path))
    finally: logger.setLevel(logging.NOTSET)
    said = {(r.levelname, r.getMessage()) for r in caplog.records if r.name == logger.name}
    assert said == {("WARNING", "calibration without corel: none was fitted"), ("INFO", "calibration without outliers: switched off")}


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
