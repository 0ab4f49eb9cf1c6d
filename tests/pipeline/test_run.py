"Killed, shared out, damaged: the same bytes, the same rows."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spectramind.challenge.layout import Challenge
from spectramind.core.errors import DataError
from spectramind.pipeline import stages
from spectramind.pipeline.cli import app
from spectramind.pipeline.run import run
from spectramind.scoring.submission import check_document, validate_submission


def products(work):
    "Everything whose bytes must not depend on how the run went: no records (they hold times), no page, no logs."
    keep = ("data", "artifacts/predictions", "artifacts/checkpoints/prior.json", "dist")
    files = [p for part in keep for p in ([Path(work)/part] if (Path(work)/part).is_file() else (Path(work)/part).rglob("*")) if p.is_file()]
    return {p.relative_to(work).as_posix(): p.read_bytes() for p in files if not p.name.endswith(".npz.json")}


def test_kill_minus_nine_then_resume_gives_the_same_bytes(sky, settings, reference, tmp_path):
    command = [sys.executable, "-m", "spectramind", "run", "data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={tmp_path}", "executor=serial"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    records = tmp_path/"data"/"features"/"airs_bins"
    while len(list(records.glob("*.npz.json"))) < 3 and process.poll() is None and time.monotonic() < until: time.sleep(.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(records.glob("*.npz.json")))
    assert process.returncode == -signal.SIGKILL and done >= 3 and not (tmp_path/"dist").exists()
    (records/".planet_1.npz.host.1.00000000.tmp").write_bytes(b"half")      # of another machine: not ours to remove
    summary = run(settings(sky, tmp_path))
    assert 1 <= summary.reports[0].made < len(summary.reports[0].outcomes)     # it went on, and did not begin again
    (records/".planet_1.npz.host.1.00000000.tmp").unlink()
    assert products(tmp_path) == products(reference[0])
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_leave_the_same_bytes_as_one(sky, settings, reference, tmp_path):
    summary = run(settings(sky, tmp_path, "executor=processes", "executor.workers=2"))
    assert not summary.bad and products(tmp_path) == products(reference[0])


def test_reference_is_complete_and_its_records_follow_their_schema(sky, reference):
    work, summary = reference
    spectra, layout = validate_submission(work/"dist"/"submission.csv", Challenge(sky).sample().planet_ids)
    assert layout == "kaggle" and not summary.bad and summary.origins == {"physics": 2}
    assert summary.score is None                                                # data=kaggle: nobody knows the truth
    records = list((work/"data").rglob("*.npz.json"))
    assert len(records) >= 3*7
    for path in records: check_document(json.loads(path.read_text()), "product_record")
    assert summary.page.read_text().count("<html") == 1


def test_nothing_is_done_twice_and_a_changed_setting_redoes_what_depends_on_it(sky, settings, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work")
    again = run(settings(sky, work))
    assert [r.made for r in again.reports[:2]] == [0, 0]
    assert products(work) == products(reference[0])
    fitted = run(settings(sky, work, "fit.starts=5"))
    assert fitted.reports[0].made == 0 and fitted.reports[1].made == 7          # other fits, the same light curves
    orders = stages.observe_orders(settings(sky, work, "photometry.clip_sigma=5.5"), frames=False)
    assert all(stages.units.stands(order) is None for _, order in orders)       # other light curves
    with pytest.raises(DataError, match="at least 2"): stages.obtain_prior(settings(sky, work, "photometry.clip_sigma=5.5"))


def test_touching_one_raw_file_redoes_one_planet(own_sky, settings, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work")
    planet = Challenge(own_sky).planets("train")[2]
    os.utime(own_sky/"train"/str(planet)/"FGS1_calibration_0"/"dark.parquet")
    summary = run(settings(own_sky, work))
    assert [o.key[1] for o in summary.reports[0].outcomes if o.value["made"]] == [planet]
    assert summary.reports[1].made == 0                                         # the light curves came out the same, so the fit stands
    assert products(work) == products(reference[0])


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_corrupt_planets_are_counted_listed_and_keep_their_rows(own_sky, settings, reference, tmp_path, executor):
    challenge = Challenge(own_sky)
    work = shutil.copytree(reference[0], tmp_path/"work")
    test, train = challenge.planets("test"), challenge.planets("train")
    signal_file = own_sky/"test"/str(test[0])/"FGS1_signal_0.parquet"
    signal_file.write_bytes(signal_file.read_bytes()[:5000])                     # truncated
    for flat in (own_sky/"train"/str(train[1])).glob("AIRS-CH0_calibration_*/flat.parquet"): flat.unlink()   # half of every visit
    said = CliRunner().invoke(app, ["run", "data=kaggle", "model=physics_only", f"data.root={own_sky}", f"paths.work={work}", f"executor={executor}", "executor.workers=2"])
    assert said.exit_code == 0 and "2 bad planets" in said.output and "Traceback" not in said.output
    spectra, _ = validate_submission(work/"dist"/"submission.csv", challenge.sample().planet_ids)
    before, _ = validate_submission(reference[0]/"dist"/"submission.csv")
    bad, good = (list(spectra.planet_id).index(p) for p in test)
    labels = np.delete(challenge.labels()[1], list(challenge.labels()[0]).index(train[1]), axis=0)   # of the planets the prior could be learnt from
    assert (spectra.sigma[bad] > labels.std()).all() and np.ptp(spectra.mu[bad]) == 0    # as wide as the population, and wider
    assert (spectra.sigma[good] < .3*labels.std()).all() and abs(spectra.mu[good] - before.mu[good]).max() < 3*before.sigma[good].max()
    rows = (work/"artifacts"/"reports"/"bad_planets.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in rows[1:]} == {str(test[0]), str(train[1])}
    assert all("calibrate + features" in line for line in rows[1:])
    event = json.loads((work/"events.jsonl").read_text().splitlines()[-1])
    check_document(event, "event")
    assert event["exit"] == 0 and event["metrics"]["planets_bad"] == 2 and event["metrics"]["rows_prior"] == 1


def test_only_test_planets_and_a_given_prior(own_sky, settings, reference, tmp_path):
    checkpoint = shutil.copy(reference[0]/"artifacts"/"checkpoints"/"prior.json", tmp_path/"prior.json")
    for name in ("train", "train.csv", "train_star_info.csv"):
        (shutil.rmtree if (own_sky/name).is_dir() else os.unlink)(own_sky/name)
    with pytest.raises(DataError, match="no training labels"): run(settings(own_sky, tmp_path/"work"))
    summary = run(settings(own_sky, tmp_path/"work", f"predict.checkpoint={checkpoint}"))
    assert (tmp_path/"work"/"dist"/"submission.csv").read_bytes() == (reference[0]/"dist"/"submission.csv").read_bytes()
    assert summary.origins == {"physics": 2}


def test_every_test_planet_bad_still_gives_every_row_and_says_so(own_sky, settings, reference, tmp_path):
    checkpoint = shutil.copy(reference[0]/"artifacts"/"checkpoints"/"prior.json", tmp_path/"prior.json")
    shutil.rmtree(own_sky/"train")
    for planet in Challenge(own_sky).planets("test"): (own_sky/"test"/str(planet)/"AIRS-CH0_signal_0.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="no planet that could be observed"): run(settings(own_sky, tmp_path/"work", f"predict.checkpoint={checkpoint}"))
    spectra, _ = validate_submission(tmp_path/"work"/"dist"/"submission.csv", Challenge(own_sky).sample().planet_ids)
    assert len(spectra) == 2


def test_stage_commands_one_by_one_give_the_same_bytes(sky, settings, reference, tmp_path):
    base = ["data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={tmp_path}", "executor=serial"]
    shell = lambda *words: CliRunner().invoke(app, [*words, *base])
    assert "7 of 7 visits to do" in (said := shell("calibrate", "--dry-run").output) or " visits to do" in said
    assert not (tmp_path/"data").exists()
    for words in (["features"], ["fit"], ["predict", "--layout", "wide", "--out-csv", str(tmp_path/"elsewhere"/"table.csv")], ["submit"]):
        said = shell(*words)
        assert said.exit_code == 0, said.output
    assert products(tmp_path) == products(reference[0])
    assert validate_submission(tmp_path/"elsewhere"/"table.csv")[1] == "wide"
    assert (tmp_path/"elsewhere"/"submission_manifest.json").is_file()
    lines = [json.loads(line) for line in (tmp_path/"events.jsonl").read_text().splitlines()]
    assert [line["run_id"].split("/")[0] for line in lines] == ["calibrate", "features", "fit", "predict", "submit"]
    for line in lines: check_document(line, "event")
    truth = tmp_path/"truth.csv"
    shutil.copy(sky.parent/"truth"/"test_truth.csv", truth)
    said = shell("score", str(tmp_path/"dist"/"submission.csv"), str(truth))
    assert said.exit_code == 0 and said.output.startswith("score 0.") and "1-sigma coverage" in said.output


def test_unexpected_errors_end_with_5_and_a_file(sky, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "features", lambda config: {}["no such key"])
    said = CliRunner().invoke(app, ["features", "data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={tmp_path}"])
    assert said.exit_code == 5 and "Traceback" not in said.output
    assert "no such key" in next((tmp_path/"logs").glob("error_*.log")).read_text()


def test_interruption_ends_with_130(sky, tmp_path, monkeypatch):
    def stop(config): raise KeyboardInterrupt
    monkeypatch.setattr(stages, "features", stop)
    said = CliRunner().invoke(app, ["features", "data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={tmp_path}"])
    assert said.exit_code == 130
    assert json.loads((tmp_path/"events.jsonl").read_text())["exit"] == 130


def test_module_and_help_start_without_anything_heavy():
    code = "import sys; import spectramind.pipeline.cli, spectramind.__main__; print(sorted({'numpy', 'numba', 'polars', 'hydra', 'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    said = subprocess.run([sys.executable, "-m", "spectramind", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("spectramind ")
