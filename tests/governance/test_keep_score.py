"The score that may not be lost: scripts/keep_score.py."
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOOD = dict(score=.75, score_fgs1=.55, score_airs=.79)


def keep(tmp_path, found):
    "Run the script on a run with these figures, against a copy of the repository's record."
    reports = tmp_path/"artifacts"/"reports"
    reports.mkdir(parents=True, exist_ok=True)
    if found is not None: (reports/"score.json").write_text(json.dumps(found))
    return subprocess.run([sys.executable, str(ROOT/"scripts"/"keep_score.py"), str(tmp_path)], capture_output=True, text=True)


def kept(): return json.loads((ROOT/"benchmarks"/"smoke.json").read_text())


def test_the_recorded_score_passes_and_says_what_it_is():
    assert set(kept()) == {*GOOD, "tolerance", "data"} and 0 < kept()["tolerance"] <= .01 and "simulated" in kept()["data"]


@pytest.mark.parametrize("part", GOOD)
def test_a_part_that_fell_is_found(tmp_path, part):
    same = {k: kept()[k] for k in GOOD}
    assert keep(tmp_path, same).returncode == 0
    said = keep(tmp_path, same | {part: same[part] - 2*kept()["tolerance"]})
    assert said.returncode == 6 and part in said.stdout and "wanted at least" in said.stdout
    assert keep(tmp_path, same | {part: same[part] + .1}).returncode == 0


def test_no_score_is_no_pass(tmp_path):
    assert keep(tmp_path, None).returncode == 3
    assert keep(tmp_path, {"score": None}).returncode == 3
    assert keep(tmp_path, GOOD | dict(score=float("nan"))).returncode != 0
