"Damage in one place stays there, is named, listed and counted; damage to what all share is told before the long part."
import csv
import json
import os
import shutil

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from spectramind.challenge.layout import Challenge, list_visits, scan_visits
from spectramind.challenge.planets import read_labels, read_stars, scan_labels, scan_stars
from spectramind.core.errors import ConfigError, DataError, SchemaError
from spectramind.pipeline import stages, units
from spectramind.pipeline.cli import app
from spectramind.pipeline.executor import run_units
from spectramind.pipeline.products import read_predictions
from spectramind.pipeline.run import run
from spectramind.pipeline.session import perform


def table(path): return list(csv.reader(path.read_text().splitlines()))


def write(path, rows): path.write_text("".join(",".join(row) + "\n" for row in rows))


def second_visit(folder):
    "Let a planet be seen a second time, the same way."
    for path in list(folder.iterdir()):
        if "_0" in path.name: (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder/path.name.replace("_0", "_1"))


def rewrite(path, change): change(pl.read_parquet(path)).write_parquet(path)


def blank(df, value): return df.with_columns(pl.lit(value, dtype=pl.UInt16).alias(c) for c in df.columns)


def truncate(folder): (folder/"AIRS-CH0_signal_1.parquet").write_bytes((folder/"AIRS-CH0_signal_0.parquet").read_bytes()[:5000])


def no_flat(folder): (folder/"FGS1_calibration_1"/"flat.parquet").unlink()


def saturate(folder): rewrite(folder/"AIRS-CH0_signal_1.parquet", lambda df: blank(df, 65535))


def nan_flat(folder): rewrite(folder/"FGS1_calibration_1"/"flat.parquet", lambda df: df*float("nan"))


def freeze(folder): rewrite(folder/"AIRS-CH0_signal_1.parquet", lambda df: pl.concat([df[:2]]*(len(df)//2)))


@pytest.mark.parametrize("harm", [truncate, no_flat, saturate, nan_flat, freeze])
def test_a_planet_that_lost_one_visit_is_fitted_from_the_other(own_sky, settings, reference, tmp_path, harm):
    work = shutil.copytree(reference[0], tmp_path/"work")
    planet = next(p for p in Challenge(own_sky).planets("test") if len(list_visits(own_sky, "test", p)) == 1)
    second_visit(own_sky/"test"/str(planet))
    harm(own_sky/"test"/str(planet))
    summary = run(settings(own_sky, work))
    assert not summary.bad and summary.lost == [("test", planet, "1")] and summary.origins == {"physics": 2}
    assert (work/"dist"/"submission.csv").read_bytes() == (reference[0]/"dist"/"submission.csv").read_bytes()        # as if it had been seen once
    record = json.loads((work/"data"/"posterior"/f"planet_{planet}.npz.json").read_text())
    assert record["status"] == "ok" and list(record["quality"]["lost_visits"]) == ["1"]
    listed = table(work/"artifacts"/"reports"/"lost_visits.csv")
    assert len(listed) == 2 and listed[1][:3] == [str(planet), "test", "1"] and summary.metrics()["visits_lost"] == 1
    again = run(settings(own_sky, work))
    assert [r.made for r in again.reports[:2]] == [0, 0] and again.lost == summary.lost                          # known, counted again, nothing redone


def test_a_lost_visit_that_heals_is_used_and_one_that_falls_ill_is_dropped(own_sky, settings, reference, tmp_path):
    work, planet = shutil.copytree(reference[0], tmp_path/"work"), Challenge(own_sky).planets("test")[0]
    folder = own_sky/"test"/str(planet)
    second_visit(folder)
    both = run(settings(own_sky, work))
    assert not both.lost and units.read_posterior(work, planet).quality["n_visits"] == 2
    truncate(folder)
    one = run(settings(own_sky, work))
    assert one.lost == [("test", planet, "1")] and units.read_posterior(work, planet).quality["n_visits"] == 1
    (folder/"AIRS-CH0_signal_1.parquet").unlink()
    shutil.copy2(folder/"AIRS-CH0_signal_0.parquet", folder/"AIRS-CH0_signal_1.parquet")
    healed = run(settings(own_sky, work))
    assert not healed.lost and np.array_equal(healed.spectra.mu, both.spectra.mu)


def test_a_planet_without_any_visit_left_is_bad(own_sky, settings, reference, tmp_path):
    work, planet = shutil.copytree(reference[0], tmp_path/"work"), Challenge(own_sky).planets("test")[0]
    folder = own_sky/"test"/str(planet)
    second_visit(folder)
    truncate(folder)
    no = folder/"FGS1_calibration_0"/"dead.parquet"
    no.unlink()
    summary = run(settings(own_sky, work))
    assert summary.bad == [("test", planet)] and not summary.lost and summary.origins == {"physics": 1, "prior": 1}
    assert list(scan_visits(own_sky, "test", planet)[1]) == [0]
    said = CliRunner().invoke(app, ["calibrate", "--dry-run", "data=kaggle", "model=physics_only", f"data.root={own_sky}", f"paths.work={tmp_path/'w'}"])
    assert said.exit_code == 0 and "dead.parquet missing" in said.output       # one planet's damage does not end the listing


def test_frames_without_light_are_named_by_planet_and_visit(own_sky, settings, tmp_path):
    planet = Challenge(own_sky).planets("test")[0]
    rewrite(own_sky/"test"/str(planet)/"AIRS-CH0_signal_0.parquet", lambda df: blank(df, 0))
    order = dict(stages.observe_orders(settings(own_sky, tmp_path/"w")))[("test", planet)]
    with pytest.raises(DataError, match=f"{planet}.*visit 0"): units.observe(order)


def test_a_frozen_detector_is_flagged_listed_and_counted(own_sky, settings, reference, tmp_path):
    work, planet = shutil.copytree(reference[0], tmp_path/"work"), Challenge(own_sky).planets("test")[0]
    rewrite(own_sky/"test"/str(planet)/"AIRS-CH0_signal_0.parquet", lambda df: pl.concat([df[:2]]*(len(df)//2)))
    summary = run(settings(own_sky, work))
    assert summary.bad == [("test", planet)] and summary.origins == {"physics": 1, "prior": 1}
    assert table(work/"artifacts"/"reports"/"bad_planets.csv")[1][3] == "Flagged"


@pytest.mark.parametrize("column, text", [("Ts", "nan"), ("sma", "-1"), ("P", "soon")])
def test_one_spoilt_star_row_is_one_planets_trouble(own_sky, settings, reference, tmp_path, column, text):
    work, path = shutil.copytree(reference[0], tmp_path/"work"), own_sky/"test_star_info.csv"
    rows = table(path)
    rows[1][rows[0].index(column)] = text
    write(path, rows)
    summary = run(settings(own_sky, work))
    planet = int(float(rows[1][0]))
    assert summary.bad == [("test", planet)] and summary.origins == {"physics": 1, "prior": 1}
    assert "test_star_info.csv" in table(work/"artifacts"/"reports"/"bad_planets.csv")[1][4]
    with pytest.raises(DataError): read_stars(own_sky, "test")
    stars, faults = scan_stars(own_sky, "test")
    assert planet in faults and len(stars) == len(rows) - 2


def test_a_planet_listed_twice_has_no_star_and_a_spoilt_table_spoils_its_split_only(own_sky, settings):
    path = own_sky/"test_star_info.csv"
    rows = table(path)
    write(path, [*rows, rows[1], ["no id", *rows[1][1:]]])
    planet, other = int(float(rows[1][0])), int(float(rows[2][0]))
    assert Challenge(own_sky).star(other).planet_id == other
    with pytest.raises(DataError, match="twice"): Challenge(own_sky).star(planet)
    write(path, [["planet_id", "Rs"], *[row[:2] for row in rows[1:]]])
    assert Challenge(own_sky).star(Challenge(own_sky).planets("train")[0]).rs > 0
    with pytest.raises(DataError, match="test_star_info.csv.*missing"): Challenge(own_sky).star(planet)


@pytest.mark.parametrize("text", ["nan", "", "1e300", "-0.5"])
def test_one_spoilt_label_teaches_nothing_and_stops_nobody(own_sky, settings, reference, tmp_path, text):
    work, path = shutil.copytree(reference[0], tmp_path/"work"), own_sky/"train.csv"
    rows = table(path)
    rows[2][7] = text
    write(path, rows)
    summary = run(settings(own_sky, work))
    planet = int(float(rows[2][0]))
    assert summary.bad == [("train", planet)] and summary.origins == {"physics": 2}
    assert "row 2, column wl_7" in table(work/"artifacts"/"reports"/"bad_planets.csv")[1][4]
    assert planet not in json.loads((work/"data"/"splits"/"groupkfold.json").read_text())["folds"]
    assert planet in scan_labels(own_sky, limits=(0, 1))[2]
    if text in ("nan", ""):
        with pytest.raises(DataError, match="row 2, column wl_7"): read_labels(own_sky)


def drop_axis(tree): rewrite(tree/"axis_info.parquet", lambda df: df.drop("FGS1-axis0-h"))


def zero_gain(tree):
    rows = table(tree/"adc_info.csv")
    write(tree/"adc_info.csv", [rows[0], ["0"]*len(rows[0])])


def no_adc(tree): (tree/"adc_info.csv").unlink()


def one_label(tree): write(tree/"train.csv", table(tree/"train.csv")[:2])


def narrow_sample(tree): write(tree/"sample_submission.csv", [row[:-1] for row in table(tree/"sample_submission.csv")])


@pytest.mark.parametrize("harm, file", [(drop_axis, "axis_info.parquet"), (zero_gain, "adc_info.csv"), (no_adc, "adc_info.csv"), (one_label, "train.csv"),
                                        (narrow_sample, "sample_submission.csv")])
def test_what_all_planets_need_is_looked_at_before_the_long_part(own_sky, tmp_path, harm, file):
    harm(own_sky)
    said = CliRunner().invoke(app, ["run", "data=kaggle", "model=physics_only", f"data.root={own_sky}", f"paths.work={tmp_path/'w'}", "executor=serial"])
    assert said.exit_code == 3 and file in said.output and "wanted" in said.output and "Traceback" not in said.output
    assert "calibrate" not in said.output and not list((tmp_path/"w").rglob("*.npz"))


@pytest.mark.parametrize("harm, code", [(lambda d: {"a": 1}, 2), (lambda d: dict(d, bias=d["bias"][:1]), 2), (lambda d: dict(d, shapes=[[1.0]]), 2), (lambda d: [1], 2)])
def test_a_checkpoint_that_is_no_prior_is_named(sky, reference, tmp_path, harm, code):
    prior = tmp_path/"prior.json"
    prior.write_text(json.dumps(harm(json.loads((reference[0]/"artifacts"/"checkpoints"/"prior.json").read_text()))))
    said = CliRunner().invoke(app, ["run", "data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={tmp_path/'w'}", f"predict.checkpoint={prior}", "executor=serial"])
    assert said.exit_code == code and "prior.json" in said.output and "Traceback" not in said.output


def test_a_full_disk_stops_the_pass_and_is_no_planets_fault(tmp_path):
    def unit(n):
        if n == 1: raise OSError(28, "No space left on device", "planet_1.npz")
        return dict(made=1)
    with pytest.raises(ConfigError, match="no room"): run_units(unit, [(n, n) for n in range(3)])
    def action(config, record, tell): raise OSError(28, "No space left on device", "bad_planets.csv")
    with pytest.raises(ConfigError, match="bad_planets.csv"): perform("fit", [f"paths.work={tmp_path}"], "config_v50", action)
    assert json.loads((tmp_path/"events.jsonl").read_text())["exit"] == 3


def test_an_error_that_is_ours_is_not_taken_for_damage(own_sky, settings, tmp_path, monkeypatch):
    planet = Challenge(own_sky).planets("test")[0]
    second_visit(own_sky/"test"/str(planet))
    order = dict(stages.observe_orders(settings(own_sky, tmp_path/"w")))[("test", planet)]
    def fail(*args): raise MemoryError
    monkeypatch.setattr(units, "extract_visit", fail)
    with pytest.raises(MemoryError): units.observe(order)


@pytest.mark.parametrize("name, old, new, found", [("sigma.csv", ",0.", ",-0.", "above 0"), ("mu.csv", ",0.", ",x0.", "no number"), ("origin.csv", "origin", "from", "origin.csv")])
def test_damaged_predictions_are_refused(reference, tmp_path, name, old, new, found):
    folder = shutil.copytree(reference[0]/"artifacts"/"predictions", tmp_path/"p")
    (folder/name).write_text((folder/name).read_text().replace(old, new, 1))
    with pytest.raises(SchemaError, match=found): read_predictions(folder)


def test_nothing_is_written_into_the_tree(own_sky, settings, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in own_sky.rglob("*")}
    for path in before: os.chmod(path, 0o555 if path.is_dir() else 0o444)
    try: run(settings(own_sky, tmp_path/"w"))
    finally:
        for path in before: os.chmod(path, 0o755 if path.is_dir() else 0o644)
    assert {p: p.stat().st_mtime_ns for p in own_sky.rglob("*")} == before
