"The rehearsal's own honesty: it sees what is wrong, and leaves the user's tree alone."
import json
import shutil
from pathlib import Path

import pytest

from spectramind.challenge.layout import list_planets
from spectramind.core.errors import DataError, QualityGateError, UsageError
from spectramind.core.store import read_csv_rows, read_json, sha256_file, write_json, write_text
from spectramind.pipeline import kaggle_rehearsal as rehearsal
from spectramind.pipeline.isolation import Ran, why_no_namespaces
from spectramind.pipeline.kaggle_kernels import cell, notebook


def state(tree): return {str(p.relative_to(tree)): sha256_file(p) for p in sorted(Path(tree).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def many(sky, tmp_path_factory):
    "The tiny sky with six more test planets (links), one of them seen twice."
    tree = shutil.copytree(sky, tmp_path_factory.mktemp("many")/"tree", copy_function=shutil.copy2)
    first = list_planets(tree, "test")[0]
    for table in ("test_star_info.csv", "sample_submission.csv"):
        header, rows = read_csv_rows(tree/table)
        own = next(row for row in rows if int(float(row[0])) == first)
        write_text(tree/table, "\n".join([",".join(header), *(",".join(r) for r in rows), *(",".join([str(first + k), *own[1:]]) for k in range(1, 7))]) + "\n")
    for k in range(1, 7): shutil.copytree(tree/"test"/str(first), tree/"test"/str(first + k), copy_function=shutil.copy2)
    twice = tree/"test"/str(first + 1)
    for path in sorted(twice.iterdir()):
        other = path.with_name(path.name.replace("_0", "_1"))
        if not other.exists(): (shutil.copytree if path.is_dir() else shutil.copy2)(path, other)
    return tree


def test_views_and_damage_leave_the_tree_alone(many, tmp_path):
    before, planets = state(many), list_planets(many, "test")
    public = rehearsal.view(many, tmp_path/"public", planets[:1])
    assert list_planets(public, "test") == planets[:1] and len(read_csv_rows(public/"sample_submission.csv")[1]) == 1 and len(read_csv_rows(public/"test_star_info.csv")[1]) == 1
    hidden = rehearsal.view(many, tmp_path/"hidden", planets)
    assert state(hidden) == before
    done = rehearsal.plant(hidden, 6)
    assert sorted(done.values()) == sorted(rehearsal.FAULTS) and len(set(done)) == 6
    assert state(many) == before != state(hidden)
    at = {what: planet for planet, what in done.items()}
    assert not list((hidden/"test"/str(at["empty folder"])).iterdir()) and at["unknown star"] not in {int(float(r[0])) for r in read_csv_rows(hidden/"test_star_info.csv")[1]}
    assert not list((hidden/"test"/str(at["missing calibration file"])).glob("FGS1_calibration_*/dark.parquet"))
    import polars as pl
    flat = pl.read_parquet(next((hidden/"test"/str(at["NaN flat"])).glob("AIRS-CH0_calibration_*/flat.parquet")))
    assert flat.height and flat.select(pl.all().is_nan().all()).row(0) == (True,)*flat.width
    assert sorted(len(p.read_bytes()) for p in (hidden/"test"/str(at["one visit lost"])).glob("AIRS-CH0_signal_*"))[0] < sorted(len(p.read_bytes()) for p in (many/"test"/str(at["one visit lost"])).glob("AIRS-CH0_signal_*"))[0]


def test_at_least_one_planet_stays_sound(sky, tmp_path):
    hidden = rehearsal.view(sky, tmp_path/"hidden", list_planets(sky, "test"))
    assert len(rehearsal.plant(hidden, 6)) == 1


@pytest.fixture
def built(tmp_path):
    "What looks like a build; its kernels do what a test wants."
    def make(code, model=True):
        folder = tmp_path/"kaggle"
        for kind in ("submit", "train"):
            write_text(folder/kind/f"{kind}.ipynb", notebook([cell("code", "kaggle = '/kaggle'\noverrides = []\nfast_kaggle = False", "parameters", "parameters"), cell("code", code, "call")]))
        write_json(folder/"dataset"/"spectramind.json", {})
        if model: write_json(folder/"dataset"/"model"/"checkpoints"/"prior.json", {})
        return folder
    return make


COPY = """
import json, shutil, glob
tree = glob.glob(f'{kaggle}/input/ariel*')[0]
work = f'{kaggle}/working'
header, *rows = open(f'{tree}/sample_submission.csv').read().split()
n = len(header.split(','))//2
with open(f'{work}/submission.csv', 'w') as out:
    out.write(header + '\\n')
    for row in rows[CUT:]: out.write(row.split(',')[0] + ',0.01'*n + ',0.001'*n + '\\n')
json.dump(dict(bad=BAD, lost=[], origins={}, tries=[dict(exit=0)]), open(f'{work}/kaggle_report.json', 'w'))
json.dump([], open(f'{work}/x.json', 'w'))
"""


def run(built, sky, tmp_path, code, **more):
    "A training rehearsal of a kernel made up: one run, the checks of every run."
    lines = []
    try: return rehearsal.rehearse(sky, built(code), tmp_path/"work", "train", tell=lines.append, **more), lines
    except QualityGateError as error: return error, lines


@pytest.mark.parametrize("code,said", [
    (COPY.replace("CUT", "1").replace("BAD", "[]"), "submission complete"),
    (COPY.replace("CUT", "0").replace("BAD", "[[int(float(rows[0].split(',')[0])), 'test', 'fit', '', '']]"), "no other test planet was degraded"),
    (COPY.replace("CUT", "0").replace("BAD", "[]") + "\nimport socket\ntry: socket.create_connection(('192.0.2.1', 80), 2)\nexcept OSError: pass", "no connection was tried"),
    ("raise SystemError('no')", "the notebook came to its end")], ids=["row missing", "degraded", "connection", "exception"])
def test_what_is_wrong_is_seen(code, said, built, sky, tmp_path):
    error, lines = run(built, sky, tmp_path, code)
    assert isinstance(error, QualityGateError) and error.exit_code == 6
    report = read_json(tmp_path/"work"/"artifacts"/"reports"/"kaggle_rehearsal_train.json")
    failed = {c["name"] for c in report["checks"] if not c["ok"]} - {"a model is left"}
    assert any(said in name for name in failed), failed
    if said not in ("submission complete", "the notebook came to its end"): assert len(failed) == 1
    assert any(line.startswith("FAIL") for line in lines) and (tmp_path/"work"/"artifacts"/"kaggle"/"train.ipynb").is_file() and not (tmp_path/"work"/"artifacts"/"kaggle"/"box").exists()


@pytest.mark.parametrize("kind", ["auto", "blocked"])
def test_a_sound_kernel_passes_and_a_model_is_kept(kind, built, sky, tmp_path):
    code = COPY.replace("CUT", "0").replace("BAD", "[]") + "\nimport os\nos.makedirs(f'{work}/model/checkpoints')\nshutil.copy(f'{work}/x.json', f'{work}/model/checkpoints/prior.json')"
    before = state(sky)
    found, lines = run(built, sky, tmp_path, code, kind=kind)
    assert not isinstance(found, QualityGateError), lines
    assert state(sky) == before and ("no namespaces" in found.isolation) == (kind == "blocked" or bool(why_no_namespaces()))
    assert (found.kept/"checkpoints"/"prior.json").is_file() and found.peak_mb > 20 and found.runs["train"]["exit"] == 0
    assert json.loads((tmp_path/"work"/"artifacts"/"reports"/"kaggle_rehearsal_train.json").read_text())["isolation"] == found.isolation


def test_without_namespaces_a_write_does_not_reach_the_tree(sky, tmp_path):
    from spectramind.pipeline.isolation import Box
    box, before = Box(tmp_path, Path("/none"), [], False, "test"), state(sky)
    (tmp_path/"set").mkdir()
    rehearsal.set_stage(box, tmp_path/"set", sky)
    table = tmp_path/"kaggle"/"input"/"ariel-data-challenge-2025"/"train.csv"
    assert table.stat().st_mode & 0o222 == 0 and table.parent.stat().st_mode & 0o222 == 0
    table.chmod(0o644)
    table.write_text("spoilt")
    assert state(sky) == before
    rehearsal.set_stage(box, tmp_path/"set", sky)
    assert table.read_bytes() == (sky/"train.csv").read_bytes()


def test_hours_shrink_with_the_planets():
    assert rehearsal.budget_s(1100) == 9*3600 and rehearsal.budget_s(1) == rehearsal.LEAST_S


def test_a_run_killed_for_memory_fails_its_check(many, tmp_path):
    from spectramind.pipeline.isolation import Box
    box = Box(tmp_path, Path("/none"), [], True)
    (tmp_path/"kaggle"/"input").mkdir(parents=True)
    found = {c.name: c.ok for c in rehearsal.checks_of("rerun", box, Ran(-9, 10., 9000., "memory"), {}, 8000., 300., {})}
    assert found["memory"] is False and found["the notebook came to its end"] is False and found["submission complete, finite, sigma > 0"] is False


@pytest.mark.parametrize("kernel,model,error", [("other", True, UsageError), ("submit", False, DataError)])
def test_refused_at_once(kernel, model, error, built, sky, tmp_path):
    with pytest.raises(error): rehearsal.rehearse(sky, built("", model), tmp_path, kernel)
