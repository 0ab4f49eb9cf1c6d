"No number of planets and no damage to them loses a row: what can be said is said, the rest is the prior's and is counted."
import csv
import json
import os
import shutil

import numpy as np
import pytest

from spectramind.challenge.layout import Challenge
from spectramind.challenge.planets import read_stars
from spectramind.core.errors import DataError, SchemaError
from spectramind.lightcurve.prior import SpectralPrior
from spectramind.pipeline.run import run
from spectramind.pipeline.stages import read_prior
from spectramind.scoring.submission import validate_submission


@pytest.fixture
def work(reference, tmp_path):
    "Products, prior and checkpoint of the healthy run; no submission."
    for part in ("data", "artifacts/checkpoints"): shutil.copytree(reference[0]/part, tmp_path/"work"/part)
    return tmp_path/"work"


def rows_of(work):
    lines = (work/"dist"/"submission.csv").read_text().splitlines()[1:]
    return {int(float(line.partition(",")[0])): line.partition(",")[2] for line in lines}


def listed(work): return {int(row["planet_id"]): row for row in csv.DictReader((work/"artifacts"/"reports"/"bad_planets.csv").read_text().splitlines())}


def crowd(tree, work, n, sound):
    "n test planets: some are the first one under another name, products and all, the others damaged, each in one of six ways."
    like, *others = Challenge(tree).planets("test")
    folder, ids = tree/"test"/str(like), [4_000_000_000 + 3*i for i in range(n)]
    for planet in others: shutil.rmtree(tree/"test"/str(planet))
    for i, planet in enumerate(ids):
        there = tree/"test"/str(planet)
        if i in sound:
            shutil.copytree(folder, there, copy_function=os.link)
            for path in [*(work/"data").glob(f"*/*/planet_{like}.npz*"), *(work/"data").glob(f"*/planet_{like}.npz*")]: os.link(path, path.with_name(path.name.replace(str(like), str(planet))))
        elif i % 6 == 0: there.mkdir()
        elif i % 6 == 1: there.symlink_to(there.name)
        elif i % 6 == 2: there.write_text("a file")
        elif i % 6 == 3:
            shutil.copytree(folder, there, copy_function=os.link)
            (there/"FGS1_signal_0.parquet").unlink()
            (there/"FGS1_signal_0.parquet").write_bytes(b"PAR1")
        elif i % 6 == 4:
            shutil.copytree(folder, there, copy_function=os.link)
            (there/"AIRS-CH0_calibration_0"/"flat.parquet").unlink()
    shutil.rmtree(folder)                                            # and of every sixth there is no folder at all
    for name in ("sample_submission.csv", "test_star_info.csv"):
        header, *rows = (tree/name).read_text().splitlines()
        row = next(r for r in rows if int(float(r.partition(",")[0])) == like).partition(",")[2]
        (tree/name).write_text("\n".join([header, *(f"{p}.0,{row}" for p in ids)]) + "\n")
    return like, ids


@pytest.mark.parametrize("n, sound", [(1, {0}), (60, {0, 20, 59})])
def test_every_planet_of_a_crowd_has_its_row(own_sky, settings, reference, work, n, sound):
    like, ids = crowd(own_sky, work, n, sound)
    summary = run(settings(own_sky, work, f"predict.checkpoint={reference[0]}/artifacts/checkpoints/prior.json"))
    spectra, _ = validate_submission(work/"dist"/"submission.csv", ids)
    rows, healthy = rows_of(work), rows_of(reference[0])[like]
    damaged = {p for i, p in enumerate(ids) if i not in sound}
    assert len(spectra) == n and {p for p, row in rows.items() if row == healthy} == set(ids) - damaged        # byte for byte
    assert len({rows[p] for p in damaged}) == (1 if damaged else 0) and set(listed(work)) == damaged
    assert all(row["message"] for row in listed(work).values()) and summary.origins == {k: v for k, v in (("physics", len(sound)), ("prior", len(damaged))) if v}
    assert summary.metrics()["planets_bad"] == len(damaged) and [r.made for r in summary.reports[:2]] == [0, len(sound)]   # light curves stand; a fit is signed with its planet


def test_where_nothing_is_left_the_rows_are_there_and_the_run_says_so(own_sky, settings, reference, work):
    _, ids = crowd(own_sky, work, 12, set())
    with pytest.raises(DataError, match="no planet that could be observed"): run(settings(own_sky, work, f"predict.checkpoint={reference[0]}/artifacts/checkpoints/prior.json"))
    assert len(validate_submission(work/"dist"/"submission.csv", ids)[0]) == 12 and set(listed(work)) == set(ids)


def test_no_planet_at_all_is_refused_at_once(own_sky, settings, work):
    shutil.rmtree(own_sky/"test")
    (own_sky/"sample_submission.csv").unlink()
    with pytest.raises(DataError, match="no test planet"): run(settings(own_sky, work))
    assert not (work/"dist").exists()


def test_instruments_exchanged(own_sky, settings, reference, work):
    planet, other = Challenge(own_sky).planets("test")
    folder = own_sky/"test"/str(planet)
    a, b = folder/"FGS1_signal_0.parquet", folder/"AIRS-CH0_signal_0.parquet"
    a.rename(folder/"x"); b.rename(a); (folder/"x").rename(b)
    summary = run(settings(own_sky, work))
    assert summary.bad == [("test", planet)] and rows_of(work)[other] == rows_of(reference[0])[other]


def test_two_planets_exchanged_have_each_others_depths(own_sky, settings, reference, work):
    "It cannot be seen; but both rows are there, finite, and those of the frames that lie there."
    one, other = (own_sky/"test"/str(p) for p in Challenge(own_sky).planets("test"))
    one.rename(one.with_name("x")); other.rename(one); one.with_name("x").rename(other)
    summary = run(settings(own_sky, work))
    assert len(validate_submission(work/"dist"/"submission.csv")[0]) == 2 and np.isfinite(summary.spectra.mu).all()


def test_a_visit_that_is_a_link_out_of_the_tree_and_one_too_many(own_sky, settings, reference, work, tmp_path):
    "A stray folder of a third visit is a lost visit of its planet; the planet keeps its row."
    planet = Challenge(own_sky).planets("test")[0]
    (own_sky/"test"/str(planet)/"FGS1_calibration_7").mkdir()
    summary = run(settings(own_sky, work))
    assert summary.lost == [("test", planet, "7")] and not summary.bad and rows_of(work) == rows_of(reference[0])


def test_a_label_whose_planet_is_no_number_is_named(own_sky, settings, work):
    lines = (own_sky/"train.csv").read_text().splitlines()
    (own_sky/"train.csv").write_text("\n".join([*lines, ",".join(["../../etc/passwd", *lines[1].split(",")[1:]])]) + "\n")
    rows = (own_sky/"test_star_info.csv").read_text().splitlines()
    (own_sky/"test_star_info.csv").write_text("\n".join([rows[0], *rows[2:]]) + "\n")           # and a planet that is bad by its number
    summary = run(settings(own_sky, work))
    assert len(summary.bad) == 2 and ("train", "../../etc/passwd") in summary.bad
    assert "../../etc/passwd" in (work/"artifacts"/"reports"/"bad_planets.csv").read_text()


@pytest.mark.parametrize("column, value", [("Ts", "1e300"), ("i", "400"), ("e", "2"), ("Rs", "1e300"), ("P", "1e300"), ("Mp", "-7")])
def test_a_star_that_cannot_be_is_no_star(own_sky, column, value):
    header, first, *rest = [r.split(",") for r in (own_sky/"test_star_info.csv").read_text().splitlines()]
    first[header.index(column)] = value
    (own_sky/"test_star_info.csv").write_text("\n".join(",".join(r) for r in [header, first, *rest]) + "\n")
    with pytest.raises(DataError, match="wanted a number from"): read_stars(own_sky, "test")


@pytest.mark.parametrize("table", ["axis_info.parquet", "adc_info.csv"])
def test_with_hours_counted_the_priors_rows_come_before_the_error(own_sky, settings, reference, work, table):
    (own_sky/table).unlink()
    config = settings(own_sky, work, "limits.hours=1", f"predict.checkpoint={reference[0]}/artifacts/checkpoints/prior.json")
    with pytest.raises(DataError, match=table): run(config)
    spectra, _ = validate_submission(work/"dist"/"submission.csv", Challenge(own_sky).planets("test"))
    assert len(spectra) == 2 and len(np.unique(spectra.mu)) == 1
    shutil.copytree(reference[0]/"dist", work/"dist", dirs_exist_ok=True)
    with pytest.raises(DataError, match=table): run(config)
    assert (work/"dist"/"submission.csv").read_bytes() == (reference[0]/"dist"/"submission.csv").read_bytes()      # a better one is not replaced


PARTS = [("naive_sd", 0.), ("naive_sd", "wide"), ("level_sd", float("nan")), ("model_error", -1.), ("population", [1]), ("foreground", []), ("foreground", {}), ("spread", [[1e300]*3]*3), ("bias", [[1e300]*3]*2),
         ("scale_weight", [0.]*17), ("scale_weight", [-1.]*17), ("n_labels", "many"), ("population", {"shared": {"B": [[1]], "S": [[1]]}}), ("foreground", {"mean": [0, 0, 0], "cov": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]})]


@pytest.mark.parametrize("part, value", PARTS, ids=[f"{k}_{p}" for k, (p, _) in enumerate(PARTS)])
def test_a_prior_that_cannot_be_is_refused_before_a_planet_is_predicted(reference, tmp_path, part, value):
    document = json.loads((reference[0]/"artifacts"/"checkpoints"/"prior.json").read_text())
    assert isinstance(SpectralPrior.from_dict(document), SpectralPrior)
    with pytest.raises(SchemaError, match=part.split("_")[0]): SpectralPrior.from_dict(document | {part: value})
    if value != value: return                                        # JSON has no NaN
    (tmp_path/"prior.json").write_text(json.dumps(document | {part: value}))
    with pytest.raises(SchemaError, match="prior.json"): read_prior(tmp_path/"prior.json")
