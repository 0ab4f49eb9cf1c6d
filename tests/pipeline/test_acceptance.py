"The acceptance lines look at what is there: each turns when the thing it speaks of is damaged, and says so when it cannot look."
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from spectramind.core.errors import QualityGateError
from spectramind.core.provenance import code_hash
from spectramind.core.store import read_npz, sha256_file, write_json, write_npz
from spectramind.pipeline import acceptance as room
from spectramind.pipeline.acceptance import Place, acceptance, look_at, require_acceptance, seen, unseen
from spectramind.pipeline.actions import action
from spectramind.pipeline.config import config_hash, load_config
from spectramind.pipeline.session import perform

LOOKS = {name: look for name, _, look in room.table_of_promises()}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(sky, reference, tmp_path_factory):
    "A run with its records, on the products of the reference: it resumes, so it takes seconds."
    work = shutil.copytree(reference[0], tmp_path_factory.mktemp("accepted")/"work", copy_function=shutil.copy2)
    words = ["data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={work}", "executor=serial", "calib.persist=binned"]
    perform("run", words, "config_v50", lambda config, record, tell: action("run")(config, tell), lambda line: None)
    return work


@pytest.fixture
def work(finished, tmp_path): return shutil.copytree(finished, tmp_path/"work", copy_function=shutil.copy2)


def state(name, place, root=None):
    found = look_at(name, "", lambda: LOOKS[name](Place(Path(place), root)))
    return found.state, found.detail


def test_a_finished_run_keeps_what_a_run_promises(finished):
    found = {c.name: c for c in acceptance(finished, root=None, only=("go 2", "go 3", "go 4", "go 5", "go 6", "lineage 4", "lineage 5", "again"))}
    assert {name for name, c in found.items() if c.state == "ok"} == {"go 2", "go 5", "go 6", "lineage 4", "lineage 5", "again 1", "again 2"}, [c.line() for c in found.values() if c.state != "ok"]
    assert all(c.state == "note" and "cannot be seen here" in c.detail for name, c in found.items() if name in ("go 3", "go 4", "again 3", "again 4", "again 5"))
    told = require_acceptance(list(found.values()))
    assert "7 of 12 hold, 5 cannot be wholly seen here, 0 do not hold" in told


def only(folder, pattern): return sorted(folder.glob(pattern))[0]


def clip(work):
    path = only(work, "data/calibrated/airs/*.npz")
    arrays = read_npz(path)
    write_npz(path, **arrays | dict(frames=np.maximum(arrays["frames"], 0)))


def no_variance(work):
    path = only(work, "data/features/airs_bins/*.npz")
    arrays = read_npz(path)
    write_npz(path, **arrays | dict(variance=np.zeros_like(arrays["variance"])))


def lose_row(work):
    path = work/"dist"/"submission.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def change(pattern, before, after):
    def damage(work):
        path = only(work, pattern)
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))
    return damage


def remove(pattern): return lambda work: only(work, pattern).unlink()


def drop_step(work):
    path = only(work, "artifacts/runs/run/*/events.jsonl")
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"event":"fit"' not in line))


@pytest.mark.parametrize("name, damage, word", [
    ("go 2", clip, "clipped"), ("go 2", no_variance, "without a sound variance"), ("go 5", lose_row, "planet"), ("go 5", remove("dist/submission.csv"), "no submission.csv"),
    ("go 5", change("dist/submission_manifest.json", '"sha256": "', '"sha256": "0'), "document"), ("go 5", remove("dist/submission_manifest.json"), "submission_manifest.json"),
    ("lineage 5", lose_row, "planet"), ("go 6", remove("artifacts/reports/diagnostics_dashboard.html"), "no diagnostics_dashboard.html"),
    ("go 6", change("artifacts/reports/diagnostics_dashboard.html", "</body>", '<script src="https://example.org/x.js"></script></body>'), "addresses to fetch from"),
    ("go 6", change("artifacts/reports/diagnostics_dashboard.html", 'id="planets"', 'id="planet"'), "no spectra"), ("go 6", remove("artifacts/reports/run_card.json"), "run_card.json"), ("lineage 4", remove("artifacts/runs/run/*/manifest.json"), "manifest.json"),
    ("lineage 4", change("artifacts/runs/run/*/config.snapshot.yaml", "seed: 2025", "seed: 2026"), "another hash"), ("again 2", change("artifacts/runs/run/*/config.snapshot.yaml", "seed: 2025", "seed: 2026"), "another snapshot"),
    ("again 1", change("artifacts/runs/run/*/events.jsonl", "{", "["), "damaged"), ("again 1", drop_step, "no event fit"), ("again 1", remove("artifacts/runs/run/*/status.json"), "no finished run")],
    ids=["clipped", "no variance", "lost row", "no table", "other hash", "no manifest", "lost row again", "no page", "page fetches", "no overlays", "no card", "no run manifest", "other settings", "other snapshot", "torn event", "no step", "not finished"])
def test_what_is_damaged_does_not_hold(work, name, damage, word):
    assert state(name, work)[0] == "ok"
    damage(work)
    found = state(name, work)
    assert found[0] == "FAIL" and word in found[1], found


def calibration(work, used=True, gain=.01, share=(.9, .85, .94), corel=True):
    write_json(work/"artifacts"/"calibration"/"temperature.json", dict(used=used, reason="" if used else "would have harmed", gain=[gain, gain - .01, gain + .01]))
    parts = {part: dict(before=list(share), after=list(share)) for part in ("fgs1", "airs")}
    write_json(work/"artifacts"/"calibration"/"corel.json", dict(used=True, reason="", factors=dict(alpha=.1), parts=parts) if corel else dict(used=False, reason="too few"))


@pytest.mark.parametrize("more, wanted", [({}, "ok"), (dict(gain=-.01), "FAIL"), (dict(used=False), "note"), (dict(share=(.6, .5, .7)), "FAIL"), (dict(share=(.83, .6, .95)), "note"), (dict(corel=False), "note")],
                         ids=["good", "harms", "left out", "too narrow", "perhaps", "no corel"])
def test_error_bars(tmp_path, more, wanted):
    calibration(tmp_path, **more)
    assert state("go 4", tmp_path)[0] == wanted


def report(root, **counts):
    given = dict(tests=3, failures=0, errors=0, skipped=0) | counts
    for name in ("spectramind", "tests"): (root/name).mkdir(parents=True)
    (root/"spectramind"/"a.py").write_text("")
    (root/"proof").mkdir()
    (root/"proof"/"tests.xml").write_text("<testsuites><testsuite " + " ".join(f'{k}="{v}"' for k, v in given.items()) + "/></testsuites>")


def test_every_light_curve_is_looked_at(tmp_path):
    curves = dict(flux=np.ones((3, 3)), variance=np.ones((3, 3)))
    for n in range(50): write_npz(tmp_path/"data"/"features"/"airs_bins"/f"planet_{n:04d}.npz", **curves)
    assert room.light_curves(Place(tmp_path, None))[0] == ("ok", "50 light curves, each with a variance for each sample")
    for n in range(1, 50, 2): write_npz(tmp_path/"data"/"features"/"airs_bins"/f"planet_{n:04d}.npz", **curves | dict(variance=np.zeros((3, 3))))
    assert room.light_curves(Place(tmp_path, None))[0] == ("FAIL", "25 of 50 without a sound variance: planet_0001.npz, planet_0003.npz, planet_0005.npz")


@pytest.mark.parametrize("counts, wanted", [({}, "ok"), (dict(failures=1), "FAIL"), (dict(errors=2), "FAIL"), (dict(tests=0), "FAIL"), (dict(skipped=3), "FAIL"), (dict(skipped=1), "note")],
                         ids=["passed", "failed", "errors", "none ran", "all skipped", "one skipped"])
def test_the_report_of_the_tests(tmp_path, counts, wanted):
    report(tmp_path, **counts)
    assert look_at("x", "", lambda: room.tests(Place(tmp_path, tmp_path))).state == wanted


def test_a_report_older_than_the_code_says_nothing(tmp_path):
    report(tmp_path)
    os.utime(tmp_path/"proof"/"tests.xml", (1, 1))
    assert look_at("x", "", lambda: room.tests(Place(tmp_path, tmp_path))).state == "note"


def test_two_runs_are_hashed_again(finished, tmp_path):
    for name in ("first", "second"):
        for part in ("dist", "artifacts/predictions"): shutil.copytree(finished/part, tmp_path/"artifacts"/"determinism"/name/part)
    assert state("again 5", tmp_path)[0] == "ok"
    there = tmp_path/"artifacts"/"determinism"/"second"/"dist"/"submission.csv"
    os.utime(there, (1, 1))
    assert state("again 5", tmp_path)[0] == "note" and "older than the code" in state("again 5", tmp_path)[1]
    lose_row(tmp_path/"artifacts"/"determinism"/"second")
    assert state("again 5", tmp_path)[0] == "FAIL" and "dist/submission.csv" in state("again 5", tmp_path)[1]


def test_bills_of_materials_are_validated_again(tmp_path, monkeypatch):
    assert state("again 4", tmp_path, tmp_path)[0] == "note"
    bill = dict(metadata=dict(component=dict(version=room.__version__)), components=[dict(name="numpy", version="2.0.0"), dict(name="torch", version="2.13.0+cpu")])
    (tmp_path/"sbom.cdx.json").write_text(json.dumps(bill))
    (tmp_path/"requirements.lock").write_text("numpy==2.0.0 \\\n    --hash=sha256:0\n")
    (tmp_path/"sbom.spdx.json").write_text("{}")
    assert state("again 4", tmp_path, tmp_path)[0] == "FAIL"
    monkeypatch.setattr(room, "invalid", lambda cdx, spdx: [])
    assert state("again 4", tmp_path, tmp_path) == ("note", "cannot be seen here: vulnerabilities were not looked up (make sbom); (ok) CycloneDX and SPDX are valid; (ok) of version " + room.__version__ + ", wanted " + room.__version__)
    for unknown, bugs, wanted in (([], [], "ok"), (["no data"], [], "note"), ([], ["x 1: CVE"], "FAIL")):
        (tmp_path/"sbom.audit.json").write_text(json.dumps(dict(unknown=unknown, vulnerabilities=bugs)))
        assert state("again 4", tmp_path, tmp_path)[0] == wanted
    (tmp_path/"sbom.audit.json").write_text(json.dumps(dict(unknown=[], vulnerabilities=[])))
    (tmp_path/"requirements.lock").write_text("numpy==2.0.1 \\\n    --hash=sha256:0\n")
    assert state("again 4", tmp_path, tmp_path)[0] == "note" and "another lock (numpy)" in state("again 4", tmp_path, tmp_path)[1]


def test_a_lock_may_have_a_version_for_each_python(tmp_path):
    from spectramind.pipeline.acceptance import of_other_lock
    (tmp_path/"requirements.lock").write_text("celery==5.6.3 ; python_full_version < '3.12' \\\ncelery==5.7.0 ; python_full_version >= '3.12' \\\n")
    def other(version): return of_other_lock(json.dumps(dict(components=[dict(name="celery", version=version), dict(name="of-nobody", version="1")])), tmp_path)
    assert [other(v) for v in ("5.6.3", "5.7.0", "5.5")] == [[], [], ["celery"]]


def rehearsed(root, hours=1.5, memory=4e3, without=None, **more):
    "A record as the rehearsal leaves it."
    (root/"benchmarks").mkdir()
    (root/"benchmarks"/"kaggle_rehearsal.py").write_text("print(1)\n")
    words = ["model=v50_fast"]
    bars = [dict(name=name, found={"hours": hours, "peak": memory}.get(name.split()[0], .1), limit={"hours": 3., "peak": 8e3}.get(name.split()[0], .5)) for name in room.BARS if name != without]
    record = dict(bars=bars, made=dict(settings=words), checks=44, failed=[], isolation="own user, mount, network and process namespaces: inputs read-only", code_sha256=code_hash(),
                  script_sha256=sha256_file(root/"benchmarks"/"kaggle_rehearsal.py"), config_hash=config_hash(load_config(words))) | more
    write_json(root/"benchmarks"/"kaggle_rehearsal.json", {key: value for key, value in record.items() if key != without})


@pytest.mark.parametrize("more, wanted, word", [({}, "ok", "1.50 h"), (dict(hours=9.5), "FAIL", "9.50 h"), (dict(memory=9e3), "FAIL", "peak memory"), (dict(failed=["all"]), "FAIL", "failed: all"), (dict(checks=0), "FAIL", "0 checks"),
    *((dict(without=name), "FAIL", name) for name in (*room.BARS, "failed", "isolation", "made")),
    (dict(isolation="no namespaces: sockets are shut in Python"), "note", "no namespaces"), (dict(code_sha256="0"*64), "note", "of other code: make kaggle-rehearsal"), (dict(without="code_sha256"), "note", "of other code: make kaggle-rehearsal"),
    (dict(script_sha256="0"*64), "note", "of other script"), (dict(config_hash="0"*64), "note", "of other settings"), (dict(made=dict(settings=["model=gone"])), "note", "of other settings")],
    ids=["in time", "too long", "too much memory", "failed", "no checks", "no hours", "no rehearsed memory", "no worker memory", "no dataset", "no checks bar", "no failed", "no isolation", "no made",
         "shut sockets", "other code", "older record", "other script", "other settings", "settings gone"])
def test_the_wall_clock_of_the_rehearsal(tmp_path, more, wanted, word):
    assert state("go 8", tmp_path, tmp_path)[0] == "note"
    rehearsed(tmp_path, **more)
    found = state("go 8", tmp_path, tmp_path)
    assert found[0] == wanted and word in found[1], found


def test_the_rehearsal_that_is_committed_is_understood():
    "It may be of an older code, and may have been made with less isolation; nothing in it may have failed."
    assert state("go 8", ROOT, ROOT)[0] in ("ok", "note")


def test_lineage_needs_every_stage_in_the_lock(tmp_path):
    for name in ("dvc.yaml", "dvc.lock"): shutil.copy2(ROOT/name, tmp_path/name)
    assert state("lineage 3", tmp_path, tmp_path)[0] == "note"
    (tmp_path/"dvc.lock").write_text(re.sub(r"^  fit:\n", "  fitting:\n", (tmp_path/"dvc.lock").read_text(), flags=re.M))
    assert state("lineage 3", tmp_path, tmp_path) [0] == "FAIL"
    (tmp_path/"dvc.lock").unlink()
    assert state("lineage 3", tmp_path, tmp_path) == ("FAIL", "no dvc.lock")


@pytest.mark.parametrize("said, code, wanted", [("{}", 0, "ok"), ('{"fit": [{"changed deps": {}}]}', 0, "FAIL"), ('{"data": "new", "x": "new"}', 0, "note"), ('{"data": "new", "x": "deleted"}', 0, "FAIL"), ("ERROR: broken", 1, "FAIL"), ("{nonsense", 0, "FAIL")], ids=["quiet", "changed", "not pushed", "lost", "error", "nonsense"])
def test_what_dvc_says(tmp_path, monkeypatch, said, code, wanted):
    write_json(tmp_path/"data"/"raw_manifest.json", {})
    monkeypatch.setattr(room, "tool", lambda place, *words, most_s=0.: (code, said))
    assert look_at("x", "", lambda: room.dvc_says(Place(tmp_path, tmp_path))).state == wanted


def test_a_tool_that_complains_is_quoted_and_a_missing_one_has_failed(tmp_path, monkeypatch):
    (tmp_path/"a.py").write_text("import os\n")
    found = room.clean(Place(tmp_path, tmp_path), "ruff", "check", "--no-cache", "--output-format", "concise", "a.py")
    assert found[0] == "FAIL" and "F401" in found[1]
    assert look_at("x", "", lambda: [room.clean(Place(tmp_path, tmp_path), "no-such-tool")]).state == "FAIL"


def test_a_line_has_the_worst_of_its_parts():
    assert look_at("a", "", lambda: [seen(True, "x"), unseen("y")]).state == "note"
    assert look_at("a", "", lambda: [unseen("y"), seen(False, "x", "z")]).detail == "z; (note) cannot be seen here: y"
    assert look_at("a", "", lambda: 1/0).state == "FAIL" and look_at("a", "", lambda: []).state == "FAIL"


def test_notes_do_not_pass_and_failures_end_with_code_6():
    ok, note, bad = (look_at(name, "", lambda part=part: [part]) for name, part in (("a", seen(True, "x")), ("b", unseen("x")), ("c", seen(False, "x"))))
    assert "1 of 2 hold, 1 cannot be wholly seen here" in require_acceptance([ok, note]) and not note.ok
    with pytest.raises(QualityGateError, match="c") as caught: require_acceptance([ok, note, bad])
    assert caught.value.exit_code == 6
    with pytest.raises(QualityGateError): require_acceptance([])


def test_eighteen_promises_and_their_decisions():
    names = [name for name, _, _ in room.table_of_promises()]
    assert names == [f"go {n}" for n in range(1, 9)] + [f"lineage {n}" for n in range(1, 6)] + [f"again {n}" for n in range(1, 6)]


def test_the_newest_run_that_predicted_gives_the_settings(finished):
    assert Place(finished, None).settings().model.kind == "physics" and load_config().seed == Place(finished, None).settings().seed


@pytest.mark.parametrize("part, code", [(seen(True, "x"), 0), (unseen("x"), 0), (seen(False, "x"), 6)], ids=["holds", "unseen", "broken"])
def test_the_command_says_each_line_and_ends_with_its_code(tmp_path, monkeypatch, part, code):
    from typer.testing import CliRunner
    from spectramind.pipeline.cli import app
    import spectramind.pipeline.cli_tools  # noqa: F401 (registers the command)
    asked = []
    def found(work, deep=False, tell=print):
        asked.append((str(work), deep))
        lines = [look_at("go 1", "an example", lambda: [part])]
        for line in lines: tell(line.line())
        return lines
    monkeypatch.setattr(room, "acceptance", found)
    answer = CliRunner().invoke(app, ["selftest", "--acceptance", f"paths.work={tmp_path}"])
    assert answer.exit_code == code and "go 1, an example" in answer.output and asked == [(str(tmp_path), False)]
