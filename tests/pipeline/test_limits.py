"The wall clock: refused before the start, or complete and honest at the end, and better the next time."
import numpy as np
import pytest
from typer.testing import CliRunner

from spectramind.__main__ import app
from spectramind.core.errors import RuntimeLimitError
from spectramind.pipeline import run as front
from spectramind.pipeline.guard import SPEED, Clock, Work, by_urgency, check_before, estimate
from spectramind.scoring.submission import validate_submission


def test_an_estimate_grows_with_the_work_and_shrinks_with_workers():
    few, many = estimate(Work(100, 100, test=50)), estimate(Work(1000, 1000, test=500))
    assert all(many[k] == pytest.approx(10*few[k]) for k in ("features", "fit", "predict"))
    half = estimate(Work(1000, 1000, test=500, frames=.5, workers=4))
    assert half["features"] == pytest.approx(many["features"]/8) and half["fit"] == pytest.approx(many["fit"]/4)
    assert estimate(Work(10, 10, labelled=1000, epochs=30, members=5))["train"] == pytest.approx(1000*(SPEED["prior"] + SPEED["look"] + 150*SPEED["train"]))
    assert "estimate" in check_before(few, float("inf")) and "estimate" in check_before(many, 1., force=True)
    with pytest.raises(RuntimeLimitError, match="limits.hours"): check_before(many, 1.)


def test_urgent_planets_come_first_and_none_is_lost():
    orders = [((split, n), n) for split, first, last in (("train", 0, 90), ("test", 90, 100)) for n in range(first, last)]
    assert sorted(n for _, n in by_urgency(orders)) == list(range(100))
    assert by_urgency(orders[:5]) == orders[:5] and by_urgency([]) == []


def test_no_time_is_refused_before_anything_is_written(sky, settings, tmp_path):
    with pytest.raises(RuntimeLimitError, match="estimate") as caught: front.run(settings(sky, tmp_path, "limits.hours=0.0001"))
    assert caught.value.exit_code == 4 and not (tmp_path/"data").exists() and not (tmp_path/"dist").exists()


def test_a_run_cut_short_hands_everything_in_and_the_next_goes_on(sky, settings, reference, tmp_path, monkeypatch):
    "The clock is stopped after four planets were observed; a second run finishes, with the bytes of an undisturbed one."
    class Short(Clock):
        def watch(self, stage, reserve_s, workers=1):
            super().watch(stage, reserve_s, workers)
            asked = iter(range(100))
            def stop():
                if next(asked) < (4 if stage == "features" else 100): return None
                self.stopped.append((stage, f"{stage}: the time is up"))
                return f"{stage}: the time is up"
            return stop
    monkeypatch.setattr(front, "Clock", Short)
    config = settings(sky, tmp_path, "limits.hours=1")
    with pytest.raises(RuntimeLimitError, match="time is up") as caught: front.run(config)
    assert caught.value.exit_code == 4
    spectra, _ = validate_submission(tmp_path/"dist"/"submission.csv")
    assert len(spectra) == 2 and np.isfinite(spectra.mu).all()
    rows = (tmp_path/"artifacts"/"reports"/"bad_planets.csv").read_text()
    assert rows.count("TimeLimit") >= 3
    monkeypatch.undo()
    summary = front.run(config)
    assert not summary.bad
    for name in ("dist/submission.csv", "artifacts/predictions/mu.csv", "artifacts/predictions/sigma.csv"):
        assert (tmp_path/name).read_bytes() == (reference[0]/name).read_bytes()


def test_a_safe_submission_stands_before_the_work(sky, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(front, "observed_and_fitted", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): front.run(settings(sky, tmp_path, "limits.hours=1"))
    spectra, layout = validate_submission(tmp_path/"dist"/"submission.csv")
    assert layout == "kaggle" and len(spectra) == 2 and np.ptp(spectra.mu) == 0


def test_the_command_ends_with_4(sky, tmp_path):
    said = CliRunner().invoke(app, ["run", "data=kaggle", f"data.root={sky}", f"paths.work={tmp_path}", "model=physics_only", "executor=serial", "limits.hours=0.0001"])
    assert said.exit_code == 4 and "limits.force=true" in said.output


def test_a_better_submission_is_not_replaced_by_the_first(sky, settings, reference, tmp_path, monkeypatch):
    "A second session that is killed at once leaves what the first had handed in."
    import shutil
    from spectramind.pipeline import submitting
    shutil.copytree(reference[0]/"dist", tmp_path/"dist")
    config = settings(sky, tmp_path, "limits.hours=1")
    assert submitting.handed_in(config)
    monkeypatch.setattr(front, "observed_and_fitted", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): front.run(config)
    assert (tmp_path/"dist"/"submission.csv").read_bytes() == (reference[0]/"dist"/"submission.csv").read_bytes()
    (tmp_path/"dist"/"submission.csv").write_text("half a f")
    assert not submitting.handed_in(config)


def test_kaggle_finds_the_submission_in_its_working_folder(sky, settings, reference, tmp_path):
    import shutil
    from spectramind.pipeline import submitting
    shutil.copytree(reference[0]/"artifacts"/"predictions", tmp_path/"artifacts"/"predictions")
    submitting.submit(settings(sky, tmp_path, "env.name=kaggle"))
    assert (tmp_path/"submission.csv").read_bytes() == (tmp_path/"dist"/"submission.csv").read_bytes() == (reference[0]/"dist"/"submission.csv").read_bytes()
