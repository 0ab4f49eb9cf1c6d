"A run notebook ends as the command would, says so itself, and leaves a copy that holds nothing of the machine."
import ast
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from typer.testing import CliRunner

from spectramind.diagnostics.page import comparable
from spectramind.challenge.layout import Challenge
from spectramind.core.errors import ConfigError, DataError, InternalError, UsageError
from spectramind.pipeline import notebook_copy, notebook_run
from spectramind.pipeline.cli import app
from spectramind.pipeline.config import config_hash, load_config
from spectramind.pipeline.notebook_run import check_notebook, execute, notebook_of, read_notebook, runs_dir

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = sorted((REPOSITORY/"nbs"/"runs").glob("*.ipynb"))
BEGIN = "from spectramind.pipeline.notebook_run import opened\nrun = opened('trial', overrides, run_dir)"
DONE = "run.do(lambda config, tell: dict(seed=config.seed))"


def code_of(book): return [cell for cell in book.cells if cell.cell_type == "code"]


# the notebooks that are shipped

def test_there_is_a_notebook_for_every_stage_and_nbdev_leaves_them_alone():
    assert {path.stem for path in RUNS} == {"run", "simulate", "calibrate", "features", "fit", "train", "uncertainty", "predict", "diagnose", "submit", "ablate"}
    assert runs_dir() == REPOSITORY/"nbs"/"runs" and (runs_dir()/".notest").is_file() and notebook_of("demo").stem == "run"


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_notebook_only_calls(path):
    book = read_notebook(path)
    check_notebook(book, path.name)                              # exactly one cell of parameters, which sets overrides and run_dir
    cells = code_of(book)
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    tree = ast.parse("\n".join(cell.source for cell in cells))
    assert len(lines) <= 40 and max(map(len, lines)) < 220
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]
    assert not any(cell.outputs or cell.execution_count for cell in cells) and not any("default_exp" in line for line in lines)
    assert cells[-1].source == "run.close()" and f"opened('{path.stem}', " in path.read_text().replace('\\"', '"')
    assert sum(line.startswith("run.do(") for line in lines) == 1
    opened = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "opened")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom): assert all(hasattr(importlib.import_module(node.module), alias.name) for alias in node.names), ast.unparse(node)
    assert ast.unparse(opened.args[2]) == "run_dir" and {node.id for node in ast.walk(opened.args[1]) if isinstance(node, ast.Name)} <= {"overrides", "wanted"}


def test_cleaning_the_notebooks_changes_nothing_and_keeps_the_tag(tmp_path):
    for path in RUNS: (tmp_path/path.name).write_bytes(path.read_bytes())
    subprocess.run([str(Path(sys.executable).parent/"nbdev_clean"), "--fname", str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True)
    assert [path.name for path in RUNS if (tmp_path/path.name).read_bytes() != path.read_bytes()] == []


# notebooks that are wrong

def written(folder, *cells, tags=("parameters",), first="overrides = []\nrun_dir = None", name="trial"):
    "A small run notebook."
    book = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")))
    book.cells = [nbformat.v4.new_code_cell(first, metadata=dict(tags=list(tags))), *map(nbformat.v4.new_code_cell, cells)]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, folder/f"{name}.ipynb")
    return folder


def tried(tmp_path, *cells, words=(), lines=None, **more):
    "Execute a small notebook; its figures and the run's folder."
    folder, words = tmp_path/"work"/"artifacts"/"runs"/"trial"/"now", [f"paths.work={tmp_path}/work", *words]
    folder.mkdir(parents=True)
    wanted = config_hash(load_config([word for word in words if not word.startswith("sed=")]))
    tell = (lambda line: None) if lines is None else lines.append
    return execute("trial", words, SimpleNamespace(folder=folder), wanted, tell, runs=written(tmp_path/"runs", *cells, **more)), folder


@pytest.mark.parametrize("more, found", [(dict(tags=()), "found 0 cells"), (dict(first="overrides = []"), "found overrides set"),
                                         (dict(first="overrides = []\nrun_dir = None\nepochs: int = 3"), r"found \?, overrides, run_dir"),
                                         (dict(first="overrides, run_dir = [], None"), r"found \? set"), (dict(first="def"), r"found \? set")])
def test_a_cell_of_parameters_that_papermill_would_misread_is_refused_before_a_kernel_starts(tmp_path, monkeypatch, more, found):
    monkeypatch.setattr(notebook_run, "_run_papermill", lambda *args: pytest.fail("it was started"))
    with pytest.raises(ConfigError, match=found): tried(tmp_path, BEGIN, DONE, "run.close()", **more)


def test_no_notebook_no_libraries_and_no_kernel_are_for_the_user_to_mend(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no notebook for 'calibrate-temp'") as caught: notebook_of("calibrate-temp")
    assert "--engine" in caught.value.hint
    with pytest.raises(ConfigError, match="no run notebooks"): runs_dir(tmp_path/"spectramind")
    (tmp_path/"broken.ipynb").write_text("{}")
    with pytest.raises(ConfigError, match="no notebook"): read_notebook(tmp_path/"broken.ipynb")
    from jupyter_client.kernelspec import NoSuchKernel
    def refuse(*args): raise NoSuchKernel("python3")
    monkeypatch.setattr(notebook_run, "_run_papermill", refuse)
    with pytest.raises(ConfigError, match="no kernel python3"): tried(tmp_path, BEGIN, DONE, "run.close()")
    monkeypatch.setattr(notebook_run, "_missing", lambda: ["papermill"])
    with pytest.raises(ConfigError, match="papermill is not installed") as caught: execute("fit", [], None, "")
    assert "--engine direct" in caught.value.hint


# ways to end

def test_a_good_end_and_what_the_copy_keeps(tmp_path):
    said = []
    figures, folder = tried(tmp_path, BEGIN, "import plotly.graph_objects as go\nprint(run.folder)\nrun.do(lambda config, tell: tell('at work') or dict(seed=config.seed, deep=dict(a=1)))",
                            "go.Figure(go.Scatter(y=[1, 3, 2]))", "run.table([dict(planet=7, score=.5), dict(planet=8, score=None)])", "run.close()", words=["seed=11"], lines=said)
    assert figures == dict(seed=11) and said[-1] == "at work"
    assert (folder/"numbers.csv").read_text() == "planet,score\n7,0.5\n8,\n"
    book = read_notebook(folder/"executed.ipynb")
    assert [cell.id for cell in book.cells] == [f"cell-{k:02d}" for k in range(7)] and not any(cell.execution_count for cell in code_of(book))
    text, page = (folder/"executed.ipynb").read_text(), (folder/"executed.html").read_text()
    assert str(tmp_path) not in text and str(Path.home()) not in text and str(REPOSITORY) not in text and "papermill" not in json.dumps(book.metadata)
    assert "RUN\nat work" in code_of(book)[3].outputs[0].text and "application/vnd.plotly.v1+json" in code_of(book)[4].outputs[0].data
    assert page.count('data-figure="figure-1"') == 1 and "default-src 'none'" in page and page == notebook_copy.render_nbconvert(book, "trial, now")
    assert json.loads((folder/"effective.json").read_text())["config_hash"] == config_hash(load_config([f"paths.work={tmp_path}/work", "seed=11"]))


@pytest.mark.parametrize("cells, kind, found", [
    ((BEGIN, "from spectramind.core.errors import DataError\ndef refuse(config, tell): raise DataError('train.csv', 'no file', 'the labels', hint='fetch it')\nrun.do(refuse)", "run.close()"), DataError, "train.csv: found no file, wanted the labels"),
    ((BEGIN, "run.do(lambda config, tell: {}['mass'])", "run.close()"), InternalError, "unexpected KeyError: 'mass'"),
    ((BEGIN, DONE, "[][1]", "run.close()"), InternalError, "cell 5 raised IndexError: list index out of range"),
    ((BEGIN, DONE, "import sys\nsys.exit(0)", "run.close()"), InternalError, r"ended before its last word \(a cell left the notebook with sys.exit\(\)\)"),
    ((BEGIN, "import os\nos.kill(os.getpid(), 9)", "run.close()"), InternalError, "its kernel died"),
    ((BEGIN, DONE), InternalError, "ended before its last word")],
    ids=["refused", "unexpected", "picture", "sys.exit", "killed", "no close"])
def test_every_bad_end_has_its_class_and_a_clear_word(tmp_path, cells, kind, found):
    with pytest.raises(kind, match=found) as caught: tried(tmp_path, *cells)
    folder = tmp_path/"work"/"artifacts"/"runs"/"trial"/"now"
    assert type(caught.value) is kind and (folder/"executed.ipynb").is_file() and (folder/"executed.html").is_file()
    if kind is DataError: assert caught.value.hint == "fetch it" and caught.value.found == "no file" and caught.value.exit_code == 3
    if "unexpected" in found: assert "KeyError" in next((tmp_path/"work"/"logs").glob("error_*.log")).read_text()


def test_other_settings_another_stage_and_an_early_last_word_are_refused_in_the_kernel(tmp_path):
    words = [f"paths.work={tmp_path}"]
    wanted = config_hash(load_config(words))
    (tmp_path/"request.json").write_text(json.dumps(dict(command="fit", config_hash=wanted)))
    outcome = lambda: json.loads((tmp_path/"outcome.json").read_text())
    with pytest.raises(InternalError, match="in the kernel, wanted"): notebook_run.opened("fit", [*words, "seed=8"], str(tmp_path))
    assert outcome()["exit_code"] == 5 and outcome()["error"]["kind"] == "InternalError"
    with pytest.raises(ConfigError, match="named after"): notebook_run.opened("train", words, str(tmp_path))
    with pytest.raises(ConfigError, match="did you mean seed"): notebook_run.opened("fit", ["sed=8"], str(tmp_path))
    assert outcome()["exit_code"] == 3
    run = notebook_run.opened("fit", words, str(tmp_path))
    with pytest.raises(UsageError, match="before the work was done"): run.close()
    with pytest.raises(KeyboardInterrupt): run.do(lambda config, tell: (_ for _ in ()).throw(KeyboardInterrupt))
    assert outcome()["exit_code"] == 130 and isinstance(notebook_run.error_again(outcome()["error"]), KeyboardInterrupt)


def test_the_word_of_a_kernel_is_compared_with_what_was_asked():
    same = dict(config_hash="a"*64, package=str(notebook_run._package()))
    assert notebook_run._compared(same, same, "a"*64, "fit.ipynb") is None
    assert isinstance(notebook_run._compared(same, dict(config_hash="b"*64), "a"*64, "fit.ipynb"), InternalError)
    assert isinstance(notebook_run._compared(None, same, "a"*64, "fit.ipynb"), InternalError)
    other = notebook_run._compared(same | dict(package="/elsewhere/spectramind"), same, "a"*64, "fit.ipynb")
    assert isinstance(other, ConfigError) and "another environment" in other.hint


def test_an_interruption_ends_kernel_and_workers_and_is_passed_on(tmp_path):
    written(tmp_path/"runs", BEGIN, "import os, multiprocessing, time\nchild = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(300,))\nchild.daemon = True\nchild.start()\n"
            "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\ntime.sleep(300)", "run.close()")
    script = f"""
from types import SimpleNamespace
from pathlib import Path
from spectramind.pipeline.config import config_hash, load_config
from spectramind.pipeline.notebook_run import execute
folder = Path('artifacts/runs/trial/now'); folder.mkdir(parents=True)
try: execute('trial', [], SimpleNamespace(folder=folder), config_hash(load_config()), runs={str(tmp_path/'runs')!r})
except KeyboardInterrupt: raise SystemExit(130)"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while not (tmp_path/"pids").is_file() or not (tmp_path/"pids").read_text(): time.sleep(.1) if time.monotonic() < until and process.poll() is None else pytest.fail("the kernel never began")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    pids, until = list(map(int, (tmp_path/"pids").read_text().split())), time.monotonic() + 20
    alive = lambda pid: Path(f"/proc/{pid}/stat").is_file() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    while any(map(alive, pids)) and time.monotonic() < until: time.sleep(.1)
    assert not any(map(alive, pids))
    assert (tmp_path/"artifacts/runs/trial/now/executed.ipynb").is_file()


def test_quarto_is_asked_first_and_its_failure_is_not_ours(tmp_path, monkeypatch):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    quarto = tmp_path/"quarto"
    quarto.write_text("#!/bin/sh\necho \"$@\" > asked\necho '<p>by quarto</p>' > executed.html\n")
    quarto.chmod(0o755)
    assert notebook_copy.render(book, "a title") == "<p>by quarto</p>\n"
    quarto.write_text("#!/bin/sh\necho 'no such format' >&2\nexit 1\n")
    assert "default-src 'none'" in notebook_copy.render(book, "a title")


# the stages themselves

def products(work):
    "Every product; no records (they hold times), no logs."
    keep = ("data", "artifacts/checkpoints/prior.json", "artifacts/predictions", "artifacts/reports", "dist")
    files = [p for part in keep for p in ([Path(work)/part] if (Path(work)/part).is_file() else (Path(work)/part).rglob("*")) if p.is_file()]
    def data(path):
        raw = path.read_bytes().replace(str(work).encode(), b"WORK")
        return comparable(raw.decode()).encode() if path.suffix == ".html" else raw          # without times and folders of runs
    return {p.relative_to(work).as_posix(): data(p) for p in files if not p.name.endswith((".npz.json", ".json.json")) and p.name != "run_card.json"}


@pytest.fixture
def damaged(own_sky):
    "The tiny sky with one damaged test planet."
    victim = own_sky/"test"/str(Challenge(own_sky).planets("test")[0])/"FGS1_signal_0.parquet"
    victim.write_bytes(victim.read_bytes()[:5000])
    return own_sky


def test_the_notebook_of_a_whole_run_gives_the_bytes_of_direct_with_a_bad_planet_among_them(damaged, tmp_path):
    found = {}
    for engine in ("direct", "papermill"):
        said = CliRunner().invoke(app, ["run", "data=kaggle", "model=physics_only", f"data.root={damaged}", f"paths.work={tmp_path/engine}", "executor=serial", "--engine", engine])
        assert said.exit_code == 0 and "1 bad planets" in said.output, said.output
        found[engine] = products(tmp_path/engine)
    assert list(found["direct"]) == list(found["papermill"]) and [name for name in found["direct"] if found["direct"][name] != found["papermill"][name]] == []
    folder = next((tmp_path/"papermill"/"artifacts"/"runs"/"run").iterdir())
    assert json.loads((folder/"status.json").read_text())["state"] == "done" and "planets_failed,1" in (folder/"figures.csv").read_text()
    text, page = (folder/"executed.ipynb").read_text(), (folder/"executed.html").read_text()
    assert '"output_type": "error"' not in text and str(tmp_path) not in text and page.count("<html") == 1
    typo = CliRunner().invoke(app, ["run", "data=kaggle", f"data.rot={damaged}", f"paths.work={tmp_path}", "--engine", "papermill"])
    assert typo.exit_code == 3 and "did you mean data.root" in typo.output


def by_hand(name, overrides, folder, monkeypatch):
    "The cells of a notebook one after the other, in this process; what each of them ends on."
    folder.mkdir(parents=True)
    names, shown = dict(overrides=overrides, run_dir=str(folder)), []
    monkeypatch.setattr("IPython.display.display", shown.append)
    for cell in code_of(read_notebook(notebook_of(name)))[1:]:
        *body, last = ast.parse(cell.source).body
        value = isinstance(last, ast.Expr)
        exec(compile(ast.Module(body if value else [*body, last], []), name, "exec"), names)
        if value: shown.append(eval(compile(ast.Expression(last.value), name, "eval"), names))
    return [type(thing).__name__ for thing in shown if thing is not None]


def test_every_stage_shows_something_although_a_planet_is_bad(damaged, tmp_path, monkeypatch):
    monkeypatch.setenv("PLOTLY_RENDERER", "json")
    words = ["data=kaggle", "model=physics_only", "calib.persist=binned", f"data.root={damaged}", f"paths.work={tmp_path}", "executor=serial"]
    shown = {name: by_hand(name, words, tmp_path/"runs"/name, monkeypatch) for name in ("calibrate", "features", "fit", "train", "uncertainty", "predict", "diagnose", "submit")}
    assert all(names[0] == "Run" and names[-1] == "DataFrame" for names in shown.values()), shown
    assert {name: names.count("Figure") for name, names in shown.items()} == dict(calibrate=3, features=2, fit=2, train=0, uncertainty=0, predict=2, diagnose=0, submit=2)
    for name in shown:
        assert list((tmp_path/"runs"/name).glob("*.csv")) and json.loads((tmp_path/"runs"/name/"outcome.json").read_text())["exit_code"] == 0
    assert ",failed," in (tmp_path/"runs"/"fit"/"planets.csv").read_text()


def test_the_notebook_of_simulate(tmp_path, monkeypatch):
    shown = by_hand("simulate", ["data=smoke", "data.n_train=2", "data.n_test=1", f"paths.work={tmp_path}", "executor=serial"], tmp_path/"run", monkeypatch)
    assert shown == ["Run", "Figure", "Figure", "DataFrame"] and len((tmp_path/"run"/"planets.csv").read_text().splitlines()) == 4


def test_a_notebook_opened_by_hand_has_a_record_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY/"nbs"/"runs")
    run = notebook_run.opened("submit", [f"paths.work={tmp_path}"])
    run.do(lambda config, tell: dict(rows=3))
    assert "all settings" in run._repr_html_() and "submit" in repr(run)
    run.close()
    assert Path.cwd() == REPOSITORY                              # not where the notebook lies
    folder = next((tmp_path/"artifacts"/"runs"/"submit").iterdir())
    assert json.loads((folder/"status.json").read_text())["state"] == "done" and json.loads((tmp_path/"events.jsonl").read_text())["metrics"] == dict(rows=3)
    bad = notebook_run.opened("submit", [f"paths.work={tmp_path}"])
    with pytest.raises(DataError): bad.do(lambda config, tell: (_ for _ in ()).throw(DataError("a", "b", "c")))
    assert json.loads((bad.folder/"status.json").read_text())["state"] == "failed"
