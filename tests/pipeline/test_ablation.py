"Sweeps: what they mean, what they share, what they survive, and that nothing is judged by a test's truth."
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spectramind.core.errors import ConfigError, InternalError, RuntimeLimitError
from spectramind.core import store
from spectramind.core.store import read_json, read_npz, sha256_file, sha256_json
from spectramind.pipeline import ablation, stages
from spectramind.pipeline.ablation import Products, plan, run_ablation, sweep, zip_folder
from spectramind.pipeline.cli_ablate import app
from spectramind.pipeline.config import load_config
from spectramind.pipeline.executor import Failure
from spectramind.pipeline.grid import MOST, Sweep, expand, expand_search, read_search, separate, split_choices
from spectramind.pipeline.leaderboard import read_leaderboard
from spectramind.pipeline.trial import prints_of
from spectramind.scoring.score import ideal_sigma, naive_statistics, score_cells
from spectramind.scoring.submission import check_document

FAST = ("model=v50_fast", "train=trainer_smoke", "model.ensemble.folds=2", "train.epochs_supervised=1")


# ---- lists ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, parts", [("a", ["a"]), ("a,b", ["a", "b"]), ("1, 2 ,3", ["1", "2", "3"]), ("[1,2],[3,4]", ["[1,2]", "[3,4]"]), ("{a:1,b:2},c", ["{a:1,b:2}", "c"]),
                                         ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']), ("'it\\'s, so',b", ["'it\\'s, so'", "b"]), ("a\\,b", ["a\\,b"]), ("f(1,2),3", ["f(1,2)", "3"]), ("", [""])])
def test_lists_are_cut_at_commas_outside_of_brackets_and_quotes(text, parts):
    assert split_choices(text) == parts


def test_the_command_line_of_the_seeds_is_four_runs():
    p = plan(["model=v50,gru", "optimizer.lr=0.001,0.01", "training.epochs_supervised=10"])
    assert [(r.config.model.network.fgs1.kind, r.config.train.lr, r.config.train.epochs_supervised) for r in p.runs] == [(m, lr, 10) for m in ("mamba", "gru") for lr in (.001, .01)]
    assert [v.name for v in p.variants] == ["baseline", "train.lr=0.01", "model=gru", "model=gru, train.lr=0.01"] and p.mode == "grid"
    assert plan(["loss.ratio.ch4_h2o=[0.7,1.4],[0.5,2]"]).runs[1].config.loss.ratio.ch4_h2o == (.5, 2.)


def test_modes_on_one_grid():
    s = Sweep(grid=dict(a=["0", "1", "2"], b=["x", "y"]))
    assert len(expand(s)) == 6 and expand(s)[0].name == "baseline" and expand(s)[-1].values == (("a", "2"), ("b", "y"))
    assert [v.name for v in expand(s, "one_at_a_time")] == ["baseline", "a=1", "a=2", "b=y"]
    assert all(v.overrides[0] == "a=0" for v in expand(s, "one_at_a_time")[3:])
    drawn = expand(s, "random", runs=3, seed=5)
    assert len({v.overrides for v in drawn}) == 4 and drawn[0].name == "baseline" and drawn == expand(s, "random", runs=3, seed=5) != expand(s, "random", runs=3, seed=6)
    assert {v.overrides for v in expand(s, "random", runs=99)} == {v.overrides for v in expand(s)}
    huge = Sweep(grid={f"k{i}": list(map(str, range(10))) for i in range(30)})       # 10^30 points
    assert len({v.overrides for v in expand(huge, "random", runs=20)}) == 21


@pytest.fixture(scope="module")
def standard_plan(): return plan()


def test_the_standard_set_changes_one_thing_at_a_time(standard_plan):
    p = standard_plan
    differ = {v.name: sorted(k for k in ("model", "loss", "uncertainty") if getattr(p.runs[row[0]].config, k) != getattr(p.runs[0].config, k)) for v, row in zip(p.variants, p.rows)}
    assert differ.pop("baseline") == [] and all(len(sections) == 1 for sections in differ.values())
    wanted = {"physics_only", "fgs1_only", "airs_only", "fusion_cross_attend", "fusion_gated", "gru", "tcn", "cnn", "no_symbolic", "no_temperature", "no_corel", "no_outliers", "no_smoothness", "no_nonneg",
              "no_molecular", "no_seam", "no_ratio", "no_quantiles", "no_rules"}
    assert set(differ) == wanted and p.mode == "one_at_a_time"
    assert any("fusion_concat is left out" in line for line in p.notes)              # the baseline has it already
    symbolic = next(p.runs[row[0]] for v, row in zip(p.variants, p.rows) if v.name == "no_symbolic").config.loss
    assert not any(getattr(symbolic, term).enabled for term in ("smoothness", "nonneg", "molecular", "seam", "ratio", "quantiles", "symbolic"))


@pytest.mark.parametrize("name", sorted(p.stem for p in (Path(__file__).parents[2]/"configs"/"search").glob("*.yaml")))
def test_every_sweep_that_is_shipped_can_be_planned(name, standard_plan):
    p = plan([f"+search={name}"]) if name != "standard" else standard_plan
    assert len(p.runs) > 1 and p.variants[0].name == "baseline"
    assert p.runs[0].prints == standard_plan.runs[0].prints                          # the first values are the defaults


def test_of_another_model_other_things_are_changes():
    fast = expand(read_search("standard"))
    assert {"mamba", "gat", "tcn", "cnn", "fusion_concat"} <= {v.name for v in fast}
    config = load_config(["model=v50_fast"], "ablate")
    same = {v.name for v in fast if v.name in ("mamba", "gat", "tcn", "cnn") and prints_of(load_config(["model=v50_fast", *v.overrides], "ablate")) == prints_of(config)}
    assert same == {"tcn", "cnn"}


def test_sweeps_can_be_put_together():
    both = expand_search(["encoder_depth,bins"])
    assert list(both.grid) == ["model.network.fgs1.depth", "model.network.airs.depth", "model.network.heads.coarse"]
    assert len(plan(["+search=encoder_depth,bins"]).runs) == 8 and separate(["search=encoder_depth", "+search=bins"]).grid == both.grid
    assert separate(["+search=bins", "train.lr=1e-3,1e-2"]).grid.keys() == {"train.lr", "model.network.heads.coarse"}


def test_odd_files_of_sweeps_are_refused(tmp_path):
    (tmp_path/"search").mkdir()
    for text, wanted in (("a: 3", "wanted a list"), ("a: []", "wanted a list"), ("", "found nothing"), ("variants: {a: [1]}", "key=value"), ("variants: 3", "wanted name"), ("a: [1, 2]\nvariants: {b: [x=1]}", "both"),
                         ("a: [{b: 1}]", "wanted numbers"), ("a: ['${oc.env:HOME}']", "resolver"), ("- 1", "wanted sections")):
        (tmp_path/"search"/"odd.yaml").write_text(text)
        with pytest.raises(ConfigError, match=wanted): read_search("odd", tmp_path)
    (tmp_path/"search"/"odd.yaml").write_text("training.lr: [1.0e-3, 2]\nb: [true, null, 'two words', \"it's\", [1, 2], gru]\nc: ['']\n")
    found = read_search("odd", tmp_path).grid
    assert found == {"train.lr": ["0.001", "2"], "b": ["true", "null", "'two words'", "'it\\'s'", "[1,2]", "gru"], "c": ["''"]}


# ---- refusals ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, wanted", [
    (["model=resnet50,vit"], "wanted one of airs_only, cnn"), (["model=v50,grru"], "did you mean model=gru?"), (["+search=encoder_dept"], "did you mean search=encoder_depth?"),
    (["train.lr=1e-3,,1e-2"], "nothing between two commas"), (["train.lr=1e-3,"], "nothing between two commas"), (["loss.ratio.ch4_h2o=[0.7,1.4"], "left open"), (["train.lr=1e-3,fast"], "wanted a number"),
    (["train.lrr=1,2"], "did you mean train.lr?"), (["paths.work=a,b"], "same data"), (["data=smoke,science"], "same data"), (["executor.workers=1,2"], "same data"), (["seed=-1,2"], "seed"),
    (["train.lr=1e-3,1e-2", "train.lr=1e-4"], "found one value and a list"), (["train.lr=1e-3,1e-2", "optimizer.lr=1,2"], "found two lists"), (["+search=standard", "train.lr=1,2"], "found variants"),
    (["+search=standard,bins"], "alone"), (["train.lr=1e-3,1e-2", "--mode", "best"], "ablate.mode"), (["train.lr=1e-3,1e-2", "--runs", "3"], "wanted mode random"),
    (["train.lr=1e-3,1e-2", "--mode", "random"], "how many to draw"), (["--mode", "random", "--runs", "2"], "found random for variants"), (["--metric", "wins"], "wanted one of score"),
    (["train.phase=mae"], "wanted supervised"), (["predict.checkpoint=x"], "found a checkpoint"), (["--jobs", "0"], "jobs"), (["--seeds", "0"], "seeds"), (["--name", "../up"], "name"), (["--top-n", "-1"], "top_k"),
    (["model.network.fgs1.kind=none", "model.network.airs.kind=gat,none"], "one encoder at least"), (["train.lr=range(1,3)"], "lr"), (["--config-name", "ablat"], "did you mean ablate?"),
    ([f"seed={','.join(map(str, range(MOST + 1)))}"], f"at most {MOST}")])
def test_what_cannot_be_done_is_refused_before_anything_is_written(words, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["ablate", "run", "data=kaggle", "data.root=nowhere", *words] if not any(w.startswith("data=") for w in words) else ["ablate", *words])
    assert said.exit_code == 3 and wanted in said.output, said.output
    assert not list(tmp_path.iterdir())


# ---- with invented results -----------------------------------------------------------------------------------------------------

def invented(order):
    "A result that depends on settings and seed alone; a line in a file for each call."
    c = order.config
    with open(order.folder.parent.parent.parent.parent.parent/"calls.txt", "a") as stream: stream.write(f"{order.folder.name} {c.train.lr:g}\n")
    if c.train.lr == 1.: raise InternalError("the loss went to infinity")
    if c.train.lr == .5: os._exit(9)
    if c.train.lr == .25 and not (Path(c.paths.products)/"spared").exists(): os.kill(os.getpid(), signal.SIGKILL)
    rng = np.random.default_rng([c.seed, int(1e6*c.train.lr)])
    score = np.random.default_rng(0).normal(.5, .2, 60) + rng.normal(0, .01, 60) + c.train.lr
    per = dict(score=score, score_fgs1=score, score_airs=score, gll=score, nll=-score)
    return dict(per, planet_id=np.arange(60), per_bin=np.full(283, score.mean())), dict(metrics={k: float(v.mean()) for k, v in per.items()}, cost=dict(train_s=1.))


def no_products(p, tell): return {run.prints.products: Products(p.config.paths.work, sha256_json("data")) for run in p.runs}


def go(work, *words, **more):
    return run_ablation(plan([f"paths.work={work}", "data=kaggle", "data.root=nowhere", "model=v50_fast", *words]), function=invented, ready=more.pop("ready", no_products), **more)


def calls(work): return (Path(work)/"calls.txt").read_text().splitlines() if (Path(work)/"calls.txt").exists() else []


def rows(work, name="default"): return {row["name"]: row for row in read_leaderboard(Path(work)/"artifacts"/"ablations"/name)["rows"]}


def test_books_are_kept(tmp_path):
    said = []
    found = go(tmp_path, "train.lr=0.001,0.01,1", "ablate.seeds=2", tell=said.append)
    place = tmp_path/"artifacts"/"ablations"/"default"
    assert found["runs"] == 6 and found["runs_failed"] == 2 and found["best"] == "train.lr=0.01" and abs(found["best_gain"] - .009) < .005
    assert {p.name for p in place.iterdir()} == {"leaderboard.md", "leaderboard.csv", "leaderboard.html", "leaderboard.json", "configs_resolved", "runs", "events.jsonl"}
    assert sorted(p.name for p in (place/"configs_resolved").iterdir()) == [f"{i:03d}.yaml" for i in range(1, 7)]
    for i, run in enumerate(plan([f"paths.work={tmp_path}", "data=kaggle", "data.root=nowhere", "model=v50_fast", "train.lr=0.001,0.01,1", "ablate.seeds=2"]).runs, 1):
        again = load_config((), str(place/"configs_resolved"/f"{i:03d}.yaml"))       # a resolved file is a whole configuration
        assert (again.train.lr, again.seed) == (run.config.train.lr, run.config.seed) and prints_of(again) == run.prints
        assert Path(again.paths.work).parent == place/"runs" and again.paths.products == str(tmp_path)
    events = [json.loads(line) for line in (place/"events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("run_done") == 4 and [e["event"] for e in events].count("run_failed") == 2 and events[-1]["event"] == "ablation_done"
    for record in (place/"runs").glob("*/scores.npz.json"): check_document(read_json(record), "product_record")
    assert any("run 3 of 6, train.lr=0.01, seed 2025: score" in line for line in said) and any("InternalError (code 5): the loss went to infinity" in line for line in said)
    bad = rows(tmp_path)["train.lr=1"]
    assert bad["status"] == "failed" and bad["rank"] is None and bad["runs"][0]["error"] == dict(kind="InternalError", message="the loss went to infinity", code=5)
    good = rows(tmp_path)["train.lr=0.01"]["runs"][0]
    assert len(good["config_sha256"]) == 64 and good["data_sha256"] == sha256_json("data")


def test_finished_runs_are_not_repeated_and_a_longer_list_costs_only_what_is_new(tmp_path):
    go(tmp_path, "train.lr=0.001,0.01,1")
    assert len(calls(tmp_path)) == 3
    before = {p: p.stat().st_mtime_ns for p in (tmp_path/"artifacts"/"ablations"/"default"/"runs").glob("*/scores.npz")}
    go(tmp_path, "train.lr=0.001,0.01,1")
    assert len(calls(tmp_path)) == 4                                                 # the one that failed
    go(tmp_path, "train.lr=0.02,0.001,0.01")                                         # other numbers, another baseline
    assert len(calls(tmp_path)) == 5 and rows(tmp_path)["baseline"]["values"] == {"train.lr": "0.02"} and set(rows(tmp_path)) == {"baseline", "train.lr=0.001", "train.lr=0.01"}
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    go(tmp_path, "train.lr=0.001,0.01", "ablate.resume=false")
    assert len(calls(tmp_path)) == 7
    go(tmp_path, "train.lr=0.001,0.01", ready=lambda p, tell: {k: replace(v, data=sha256_json("other data")) for k, v in no_products(p, tell).items()})
    assert len(calls(tmp_path)) == 9
    next((tmp_path/"artifacts"/"ablations"/"default"/"runs").glob("002_*/scores.npz")).write_bytes(b"damaged")   # that of train.lr=0.01, the only second one
    go(tmp_path, "train.lr=0.001,0.01", ready=lambda p, tell: {k: replace(v, data=sha256_json("other data")) for k, v in no_products(p, tell).items()})
    assert len(calls(tmp_path)) == 10


KILLED = """
import sys; sys.path.insert(0, {here!r})
import test_ablation
test_ablation.go({work!r}, "train.lr=0.001,0.01,0.25,0.02")
"""


def test_a_killed_ablation_loses_the_run_in_flight_alone(tmp_path):
    script = KILLED.format(here=str(Path(__file__).parent), work=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | dict(SPECTRAMIND_QUIET="1"), capture_output=True)
    assert done.returncode == -signal.SIGKILL and len(calls(tmp_path)) == 3
    board = rows(tmp_path)                                                           # there is one, of what had ended
    assert [board[name]["status"] for name in ("baseline", "train.lr=0.01", "train.lr=0.25", "train.lr=0.02")] == ["ok", "ok", "failed", "failed"]
    (tmp_path/"spared").touch()
    orphan = next((tmp_path/"artifacts").rglob("scores.npz")).with_name(f".scores.npz.{store._host()}.999999999.0123abcd.tmp")
    orphan.touch()
    found = go(tmp_path, "train.lr=0.001,0.01,0.25,0.02")
    assert found["runs_stood"] == 2 and found["runs_failed"] == 0 and [line.split()[1] for line in calls(tmp_path)] == ["0.001", "0.01", "0.25", "0.25", "0.02"]
    assert all(row["status"] == "ok" for row in rows(tmp_path).values()) and not orphan.exists()


def test_side_by_side_gives_the_same_and_a_dead_worker_is_one_failed_run(tmp_path):
    go(tmp_path/"one", "train.lr=0.001,0.01,0.02,1", "ablate.seeds=2")
    said = []
    found = go(tmp_path/"two", "train.lr=0.001,0.01,0.02,1,0.5", "ablate.seeds=2", "ablate.jobs=2", tell=said.append)
    one, two = rows(tmp_path/"one"), rows(tmp_path/"two")
    for name in one: assert (one[name]["metrics"], one[name]["delta"], one[name]["status"]) == (two[name]["metrics"], two[name]["delta"], two[name]["status"])
    dead = two["train.lr=0.5"]
    assert dead["status"] == "failed" and dead["runs"][0]["error"]["kind"] == "WorkerDied" and found["runs_failed"] == 4 and found["runs"] == 10
    assert sum("WorkerDied" in line for line in said) == 2


def test_when_nothing_succeeds_the_exit_code_is_that_of_the_run(tmp_path):
    alone = plan([f"paths.work={tmp_path}", "data=kaggle", "data.root=nowhere", "model=v50_fast", "train.lr=1"], standard="")
    with pytest.raises(InternalError, match="none of 1 runs succeeded .*infinity"): run_ablation(alone, function=invented, ready=no_products)
    assert rows(tmp_path)["baseline"]["status"] == "failed"


def test_products_that_cannot_be_made_fail_their_runs(tmp_path):
    def some(p, tell):
        keys = list(dict.fromkeys(run.prints.products for run in p.runs))
        return {k: Products(p.config.paths.work, sha256_json("data"), Failure("DataError", "no light curve", 3) if i else None) for i, k in enumerate(keys)}
    found = go(tmp_path, "fit.time_bins=375,200", ready=some)
    assert found["runs_failed"] == 1 and rows(tmp_path)["fit.time_bins=200"]["runs"][0]["error"]["message"] == "no light curve"


def test_an_early_end_leaves_a_table_and_code_4(tmp_path):
    asked = iter([None, None, "an hour is over"])
    with pytest.raises(RuntimeLimitError, match="1 of 3 runs not started .an hour is over") as caught: go(tmp_path, "train.lr=0.001,0.01,0.02", stop=lambda: next(asked))
    assert caught.value.exit_code == 4 and rows(tmp_path)["train.lr=0.02"]["runs"][0]["error"]["kind"] == "TimeLimit"
    assert go(tmp_path, "train.lr=0.001,0.01,0.02")["runs_stood"] == 2 and len(calls(tmp_path)) == 3
    with pytest.raises(RuntimeLimitError, match="2 of 2 runs not started .ablation: the time is up"): go(tmp_path, "train.lr=0.001,0.01", "ablate.name=late", "limits.hours=1e-9")


def test_the_best_are_packed_with_the_same_bytes_each_time(tmp_path):
    go(tmp_path, "train.lr=0.001,0.01,0.02", "ablate.top_k=2", "ablate.seeds=2")
    place = tmp_path/"artifacts"/"ablation_results"/"default"
    assert sorted(p.name for p in place.iterdir()) == ["01_train.lr_0.02", "01_train.lr_0.02.zip", "02_train.lr_0.01", "02_train.lr_0.01.zip"]
    told = read_json(place/"01_train.lr_0.02"/"result.json")
    assert all(sha256_file(place/"01_train.lr_0.02"/name) == digest for name, digest in told["files"].items()) and set(told["files"]) == {"config.snapshot.yaml", "scores.npz"}
    best = max((r for r in rows(tmp_path)["train.lr=0.02"]["runs"]), key=lambda r: r["metrics"]["score"])
    assert told["run"]["folder"] == best["folder"] and load_config((), str(place/"01_train.lr_0.02"/"config.snapshot.yaml")).seed == best["seed"]
    before = {p.name: p.read_bytes() for p in place.glob("*.zip")}
    go(tmp_path, "train.lr=0.001,0.01,0.02", "ablate.top_k=2", "ablate.seeds=2")
    assert {p.name: p.read_bytes() for p in place.glob("*.zip")} == before
    with zipfile.ZipFile(place/"01_train.lr_0.02.zip") as archive: assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)} and "01_train.lr_0.02/result.json" in archive.namelist()
    go(tmp_path, "train.lr=0.001,0.01,0.02", "ablate.top_k=0", "ablate.seeds=2")
    assert not place.exists()


def test_nll_is_sorted_the_other_way_round(tmp_path):
    go(tmp_path, "train.lr=0.001,0.01,0.02", "ablate.metric=nll")
    board = read_leaderboard(tmp_path/"artifacts"/"ablations"/"default")
    assert [row["name"] for row in board["rows"]] == ["train.lr=0.02", "train.lr=0.01", "baseline"] and board["direction"] == "down"
    assert board["rows"][0]["delta"]["differs"] == "better" and board["rows"][0]["delta"]["mean"] < 0


def test_multirun_is_a_grid_under_another_name(tmp_path):
    found = sweep([f"paths.work={tmp_path}", "data=kaggle", "data.root=nowhere", "model=v50_fast", "+search=learning_rate"], "train", lambda line: None, function=invented, ready=no_products)
    assert found["variants"] == 4 and rows(tmp_path, "multirun")["baseline"]["values"] == {"train.lr": "0.002"}
    assert load_config((), str(tmp_path/"artifacts"/"ablations"/"multirun"/"configs_resolved"/"001.yaml")).train.epochs_supervised == 30    # the settings of `train`, not of `ablate`
    with pytest.raises(ConfigError, match="found no list"): sweep([f"paths.work={tmp_path}"], "train")
    sweep([f"paths.work={tmp_path}", "data=kaggle", "data.root=nowhere", "train.lr=1e-3,2e-3", "ablate.name=own"], "train", lambda line: None, function=invented, ready=no_products)
    assert len(rows(tmp_path, "own")) == 2


def test_the_command_passes_its_options_on(tmp_path, monkeypatch):
    seen, real = [], plan
    monkeypatch.setattr(ablation, "run_ablation", lambda p, tell: seen.append(p) or {})
    base = [f"paths.work={tmp_path}", "data=kaggle", "data.root=nowhere", "model=v50_fast", "train.lr=1e-3,1e-2,1e-1"]
    said = CliRunner().invoke(app, ["ablate", *base, "--mode", "one-at-a-time", "--jobs", "2", "--seeds", "3", "--top-n", "4", "--name", "mine", "--no-resume", "--metric", "gll"])
    assert said.exit_code == 0, said.output
    a = seen[0].config.ablate
    assert (a.mode, a.jobs, a.seeds, a.top_k, a.name, a.resume, a.metric) == ("one_at_a_time", 2, 3, 4, "mine", False, "gll") and len(seen[0].runs) == 9
    assert seen[0].config.train.epochs_supervised == 15
    monkeypatch.setattr(ablation, "plan", lambda words, name: seen.append(words) or real(["train.lr=1e-3,1e-2", *base[:3]], name))
    for words in (["ablate", "--top-n", "2"], ["ablate", "run", "--top-n", "2"]): assert CliRunner().invoke(app, [*words, *base[:3]]).exit_code == 0
    assert [w for w in seen if isinstance(w, list)] == [[*base[:3], "ablate.top_k=2"]]*2          # no lists: the standard set
    assert json.loads((tmp_path/"events.jsonl").read_text().splitlines()[0])["exit"] == 0
    monkeypatch.undo()
    go(tmp_path, "train.lr=0.001,0.01")
    said = CliRunner().invoke(app, ["ablate", "show", f"paths.work={tmp_path}", "data=kaggle", "data.root=nowhere"])
    assert said.exit_code == 0 and "1. score" in said.output and "train.lr=0.01" in said.output


# ---- in earnest ----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def earnest(wide, tmp_path_factory):
    "Two trainings, one of them used twice, and the physics; nobody may ask for the truth of test planets."
    patch = pytest.MonkeyPatch()
    def asked(config): raise AssertionError("the truth of test planets was looked at")
    patch.setattr(stages, "truth_of", asked)
    work = shutil.copytree(wide[1], tmp_path_factory.mktemp("earnest")/"work")
    words = ["data=kaggle", f"data.root={wide[0]}", f"paths.work={work}", "executor=serial", *FAST, "+search=mine"]
    configs = shutil.copytree(Path(__file__).parents[2]/"configs", work.parent/"configs")
    (configs/"search"/"mine.yaml").write_text("variants:\n  physics: [model.kind=physics]\n  bare: [uncertainty=off]\n  fast: [train.lr=1e-2]\n")
    p, said = plan(words, configs=configs), []
    found = run_ablation(p, said.append)
    yield work, p, found, said
    patch.undo()


def test_runs_share_products_and_networks(earnest, wide):
    work, p, found, said = earnest
    assert found["runs"] == 4 and found["runs_failed"] == 0, said
    board = {row["name"]: row for row in read_leaderboard(p.folder)["rows"]}
    folder = {name: p.folder/row["runs"][0]["folder"] for name, row in board.items()}
    assert {p_.name for p_ in (folder["baseline"]/"data").iterdir()} == {"splits"} and not (p.folder/"products").exists()
    for path in (wide[1]/"data").rglob("*.npz"): assert (work/path.relative_to(wide[1])).read_bytes() == path.read_bytes()      # nothing was made again
    weights = lambda name: {q.relative_to(folder[name]).as_posix(): q.read_bytes() for q in folder[name].rglob("model.safetensors")}
    assert weights("bare") == weights("baseline") != weights("fast") and len(weights("bare")) == 3
    assert board["bare"]["runs"][0]["reused"] == folder["baseline"].name and not board["fast"]["runs"][0]["reused"]
    assert board["bare"]["cost"]["train_s"] == board["baseline"]["cost"]["train_s"] > 0 and board["baseline"]["cost"]["parameters"] > 1000 and board["baseline"]["cost"]["members"] == 2
    assert {"share_fgs1", "share_airs"} <= set(board["baseline"]["metrics"]) and "share_airs" not in board["physics"]["metrics"]
    assert not list(folder["bare"].rglob("last.ckpt")) and list(folder["fast"].rglob("last.ckpt"))
    for name, where in folder.items():
        assert (where/"artifacts"/"predictions"/"mu.csv").is_file() and (where/"dist"/"submission.csv").is_file() and (where/"config.snapshot.yaml").is_file()
    assert board["baseline"]["runs"][0]["data_sha256"] == board["physics"]["runs"][0]["data_sha256"]


def test_every_run_is_judged_on_the_same_planets(earnest):
    work, p, found, said = earnest
    arrays = [read_npz(path) for path in sorted((p.folder/"runs").glob("*/scores.npz"))]
    assert len(arrays) == 4 and all(np.array_equal(a["planet_id"], arrays[0]["planet_id"]) and len(a["planet_id"]) == 10 for a in arrays)
    board = {row["name"]: row for row in read_leaderboard(p.folder)["rows"]}
    physics = read_npz(p.folder/board["physics"]["runs"][0]["folder"]/"scores.npz")
    for a in arrays: np.testing.assert_array_equal(a["physics"], physics["score"])    # out of fold, whatever the run
    np.testing.assert_array_equal(physics["physics"], physics["score"])
    np.testing.assert_array_equal(physics["score_network"], physics["score"])
    baseline = p.folder/board["baseline"]["runs"][0]["folder"]
    oof, scores = read_npz(baseline/"artifacts"/"checkpoints"/"oof.npz"), read_npz(baseline/"scores.npz")
    labels = np.array(list(stages.training_labels(p.config)[0].values()))
    place = {int(i): k for k, i in enumerate(scores["planet_id"])}
    for name, kind in (("physics", "physics"), ("score_network", "network")):
        cells = score_cells(oof["label"], np.maximum(oof[f"{kind}_mu"], 0), np.maximum(oof[f"{kind}_sigma"], ideal_sigma()), *naive_statistics(labels))
        again = np.average(cells, axis=1, weights=np.r_[57.846, np.ones(282)])
        np.testing.assert_allclose(scores[name][[place[int(i)] for i in oof["planet_id"]]], again, rtol=1e-12)


def test_a_package_predicts_what_its_run_predicted(earnest, wide, tmp_path):
    work, p, found, said = earnest
    place = work/"artifacts"/"ablation_results"/"default"
    told = {f.name.partition("_")[2]: f for f in place.iterdir() if f.is_dir()}
    name = next(n for n in told if n in ("baseline", "fast", "bare"))
    from spectramind.pipeline import learning
    run = p.folder/read_json(told[name]/"result.json")["run"]["folder"]
    own = shutil.copytree(wide[1], tmp_path/"work")
    config = load_config([f"paths.work={own}", f"predict.checkpoint={told[name]/'checkpoints'}"], str(told[name]/"config.snapshot.yaml"))
    spectra, _ = learning.predict(replace(config, paths=replace(config.paths, products=str(own))))
    assert (own/"artifacts"/"predictions"/"mu.csv").read_bytes() == (run/"artifacts"/"predictions"/"mu.csv").read_bytes()
    assert (own/"artifacts"/"predictions"/"sigma.csv").read_bytes() == (run/"artifacts"/"predictions"/"sigma.csv").read_bytes()


def test_a_stopped_training_is_taken_up_and_a_second_ablation_trains_nothing(earnest, monkeypatch):
    work, p, found, said = earnest
    board = {row["name"]: row for row in read_leaderboard(p.folder)["rows"]}
    run = p.folder/board["fast"]["runs"][0]["folder"]
    before = (run/"scores.npz").read_bytes()
    for name in ("scores.npz", "scores.npz.json"): (run/name).unlink()                # killed after training
    from spectramind.pipeline import learning
    real, trained = learning.train_ensemble, []
    monkeypatch.setattr(learning, "train_ensemble", lambda *a, **k: trained.append(1) or real(*a, **k))
    again = run_ablation(p)
    assert again["runs_stood"] == 3 and not trained and (run/"scores.npz").read_bytes() == before


def test_a_swept_fit_has_posteriors_of_its_own_and_shares_light_curves(wide, tmp_path):
    work = shutil.copytree(wide[1], tmp_path/"work")
    before = {path: sha256_file(path) for path in (work/"data").rglob("*.npz")}
    p = plan(["data=kaggle", f"data.root={wide[0]}", f"paths.work={work}", "executor=serial", "model=physics_only", "fit.limb_sd_scale=1,3"])
    found = run_ablation(p)
    assert found["runs_failed"] == 0 and {path: sha256_file(path) for path in before} == before
    (own,) = (p.folder/"products").iterdir()
    curves = sorted((own/"data"/"features").rglob("*.npz"))
    assert len(curves) == len(list((work/"data"/"features").rglob("*.npz"))) > 0 and all(path.stat().st_ino == (work/path.relative_to(own)).stat().st_ino for path in curves)
    posteriors = sorted((own/"data"/"posterior").glob("*.npz"))
    assert len(posteriors) == 12 and sum(path.read_bytes() != (work/path.relative_to(own)).read_bytes() for path in posteriors) > 6
    a, b = (row["runs"][0]["data_sha256"] for row in read_leaderboard(p.folder)["rows"])
    assert a != b and run_ablation(p)["runs_stood"] == 2


def test_zip_of_the_same_folder_is_the_same(tmp_path):
    (tmp_path/"f"/"sub").mkdir(parents=True)
    (tmp_path/"f"/"sub"/"x").write_text("1")
    one = zip_folder(tmp_path/"f", tmp_path/"one.zip").read_bytes()
    os.utime(tmp_path/"f"/"sub"/"x", (1, 1))
    assert zip_folder(tmp_path/"f", tmp_path/"two.zip").read_bytes() == one
