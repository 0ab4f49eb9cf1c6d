"Every command of README.md, ARCHITECTURE.md and the site's first pages, in the order in which they stand, on a small simulated sky."
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "ARCHITECTURE.md", "docs/start.md", "docs/troubleshooting.md")
PROGRAMS = ("spectramind", "make", "dvc", "python", "git", "cd", "source", "jupyter", "nbdev_export", "lint-imports", "bash", "pip", "pytest")
TREE, RESULTS = "/path/to/ariel-data-challenge-2025", "/path/to/results"
STAGES = ("data", "features", "fit", "train", "uncertainty", "predict", "submit")
# What takes long, and where it is done on a small sky instead: a file, and what stands in it.
ELSEWHERE = {
    "spectramind diagnose determinism": ("tests/pipeline/test_gate.py", '"diagnose", "determinism"'),
    "spectramind diagnose inject": ("tests/pipeline/test_injecting.py", "inject("),
    "spectramind calibrate-temp": ("docs/commands.md", "| `spectramind calibrate-temp +model=v50_fast"),      # they need a network
    "spectramind calibrate-corel": ("docs/commands.md", "| `spectramind calibrate-corel +model=v50_fast"),
    "spectramind pretrain": ("tests/pipeline/test_pretrain.py", '"pretrain"'),                                 # thousands of planets
    "spectramind ablate show": ("tests/pipeline/test_ablation.py", '["ablate", "show"'),
    "spectramind ablate run": ("docs/commands.md", "| `spectramind ablate run model=v50_fast,physics_only"),
    "spectramind kaggle build": ("tests/pipeline/test_kaggle_build.py", "build("),                             # wheels, a box and minutes
    "spectramind selftest --acceptance": ("tests/pipeline/test_acceptance.py", "acceptance("),             # on a finished run of the small sky
    "spectramind kaggle rehearse": ("tests/pipeline/test_kaggle_rehearsal.py", "rehearse("),
}
QUICK = ["model=physics_only", "executor=serial", "diag=light", "diag.inject.enabled=false"]   # where nothing else is said


def words_of(line): return re.sub(r"\s{2,}#.*$|\s+# .*$", "", line).strip()


def commands_of(page):
    "Lines of fenced blocks, and inline code, that begin with a program's name; a line of several is several."
    text, found = (ROOT/page).read_text(encoding="utf-8"), []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language not in ("text", "sh"): continue
        for line in block.splitlines():
            for part in words_of(line).split("; "):
                if part.strip(): found.append(part.strip())
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose):
        for part in code.split("; "):
            head = part.split(" ")[0]
            if head in PROGRAMS and (" " in part or head in ("nbdev_export", "lint-imports")) or part == "spectramind": found.append(part)
    return found


ALL = list(dict.fromkeys(command for page in PAGES for command in commands_of(page) if command != "spectramind"))
OTHERS = {m[1] for m in re.finditer(r"\| `([^`]+)`[^|]*\| 0 \|$", (ROOT/"docs"/"commands.md").read_text(encoding="utf-8"), re.M)} | \
         {m[1] for m in re.finditer(r"^\| `([^`]+)` \| as written[^|]*\| 0 \|$", (ROOT/"docs"/"commands.md").read_text(encoding="utf-8"), re.M)}


def test_there_are_commands_and_nothing_else_in_their_blocks():
    assert len(ALL) > 50
    for command in ALL: assert command.split()[0] in PROGRAMS, command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder in which a user stands: a challenge tree, and results that the first command of the README makes."
    from spectramind.simulate.observatory import ProfileSpec, simulate_tree
    folder = tmp_path_factory.mktemp("user")
    simulate_tree(folder/"tree", folder/"truth", profile=ProfileSpec(140, 1350, {"FGS1": 100, "AIRS-CH0": 80}), n_train=5, n_test=1, seed=11)
    said = run_spectramind(f"spectramind run data=kaggle data.root={TREE} paths.work={RESULTS}", folder)
    assert said.exit_code == 0, said.output
    return folder


def substituted(words, folder):
    "What stands for something: a tree, a folder of results, a run, a planet, a file."
    runs = sorted((folder/"results"/"artifacts"/"runs"/"run").glob("*/")) if (folder/"results").is_dir() else []
    planet = next(iter(sorted((folder/"tree"/"test").iterdir()))).name
    stand_in = {"COMMAND": "run", "FILE": "results/dist/submission.csv", "SUBMISSION": "results/dist/submission.csv", "TRUTH": "truth/test_truth.csv", "PLANET": planet, "RUN": str(runs[-1]) if runs else "", "NAME": "none"}
    done = []
    for word in words:
        word = word.replace(TREE, str(folder/"tree")).replace(RESULTS, str(folder/"results"))
        word = re.sub(r"artifacts/runs/run/\d{8}_\d{6}", lambda m: str(runs[-1]), word)
        done.append(stand_in.get(word, word))
    return done


def run_spectramind(command, folder):
    from spectramind.__main__ import app
    words = substituted(shlex.split(command)[1:], folder)
    here, more = [f"data.root={folder/'tree'}", f"paths.work={folder/'results'}"], []
    if words[:1] == ["demo"]: more = [*here, *QUICK]
    elif words[:1] == ["simulate"]: more = [f"paths.work={folder/'simulated'}", "data.n_train=1", "data.n_test=0"]
    elif words[:1] == ["run"] and "--config-name" not in words: more = [*([] if any(w.startswith("data.root=") for w in words) else ["data=kaggle", *here]), *QUICK]
    elif words[:1] == ["calibrate"]: more = ["data=kaggle", *here[:1], f"paths.work={folder/'frames'}", "data.split=test", "calib.persist=binned", *QUICK]
    elif words[:1] in [[s] for s in (*STAGES, "export", "diagnose", "sweep-runs", "analyze-log", "calibrate-temp", "calibrate-corel")]: more = ["data=kaggle", *here, *QUICK]
    elif words[:2] == ["config", "compose"]: words = [w if w != "results/dist/submission.csv" else str(folder/"composed.yaml") for w in words]; words[words.index("--params") + 1] = str(ROOT/"params.yaml")
    if "papermill" in words: words = [w for w in words if w != "papermill" and w != "--engine"] + ["--engine", "papermill"]
    old = os.getcwd()
    os.chdir(folder)
    try: return CliRunner().invoke(app, [*words, *more])
    finally: os.chdir(old)


def dry(target, folder=ROOT):
    "What make would do, with an environment that is there already."
    said = subprocess.run(["make", "-n", "-o", "dev", "-o", ".venv/.installed", target], cwd=folder, capture_output=True, text=True, env={**os.environ, "MAKEFLAGS": ""})
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.parametrize("command", [c for c in ALL if c.startswith("spectramind ")], ids=lambda c: c)
def test_command(command, place):
    if command in OTHERS: return check_elsewhere("tests/pipeline/test_commands.py", "docs\"/\"commands.md")
    if command in ELSEWHERE: return check_elsewhere(*ELSEWHERE[command])
    said = run_spectramind(command, place)
    wanted = (0, 3) if command == "spectramind diagnose calibration" else (0,)      # one labelled planet too few for an interval is a refusal with its reason
    assert said.exit_code in wanted and "Traceback" not in said.output, said.output
    if said.exit_code: assert "what to do" in said.output


def check_elsewhere(path, words): assert words in (ROOT/path).read_text(encoding="utf-8"), f"{path} no longer does it"


@pytest.mark.parametrize("command", [c for c in ALL if c.startswith("make ")], ids=lambda c: c)
def test_make(command):
    "Every target exists, and every program, file and command that it would call exists, too."
    from spectramind.__main__ import app
    text = dry(command.split()[1])
    for line in text.replace("\\\n", " ").splitlines():
        for file in re.findall(r"(?<![\w./-])((?:scripts|benchmarks|tests)/[\w./-]+)", line): assert (ROOT/file).exists(), file
        for words in re.findall(r"(?:^|[;&|] *)spectramind ((?:[a-z][a-z-]*)(?: (?:dashboard|calibration|inject|determinism))?)", line):
            assert CliRunner().invoke(app, [*words.split(), "--help"]).exit_code == 0, words
    assert text.strip() or command == "make dev"


def test_make_demo_is_the_demo(place):
    "What `make demo` types is typed, on the small sky."
    line = next(line for line in dry("demo").splitlines() if line.startswith("spectramind demo"))
    said = run_spectramind(re.sub(r'"paths\.work=[^"]*"', "", line), place)
    assert said.exit_code == 0, said.output
    copies = list((place/"results"/"artifacts"/"runs"/"demo").glob("*/executed.ipynb"))
    assert len(copies) == 1


def test_make_test_is_pytest(tmp_path):
    "What `make test` types, on one small file."
    line = next(line for line in dry("test").splitlines() if "pytest" in line)
    (tmp_path/"test_one.py").write_text("def test_one(): assert 1 + 1 == 2\n")
    words = re.sub(r"-n logical", "-n 1", line.partition("pytest")[2])
    said = subprocess.run([sys.executable, "-m", "pytest", *shlex.split(words), "-p", "no:cacheprovider", str(tmp_path/"test_one.py")], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0 and "1 passed" in said.stdout, said.stdout + said.stderr


def test_make_docs_is_the_site(capsys):
    "What `make docs` types is understood; conftest.py makes its project, test_plain.py its pages."
    import site_build
    words = shlex.split(next(line for line in dry("docs").splitlines() if "site_build" in line))
    assert words[:2] == ["python", "scripts/site_build.py"]
    with pytest.raises(SystemExit) as left: site_build.main([*words[2:], "--help"])
    assert left.value.code == 0 and "--renderer" in capsys.readouterr().out


def test_the_rest(tmp_path):
    "Commands of other programs: a clone of this repository stands for that of its address."
    handled = set()
    for command in sorted(ALL, key=lambda c: not c.startswith("git ")):
        head = command.split()[0]
        if head in ("spectramind", "make"): continue
        words, cwd = shlex.split(command), tmp_path
        if head == "git": words = ["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(tmp_path/words[-1].rpartition("/")[2])]
        elif head == "cd": assert (tmp_path/words[1]/"Makefile").is_file(); handled.add(command); continue
        elif head == "source": words = ["bash", "-c", f"source {shlex.quote(str(Path(sys.prefix)/'bin'/'activate'))} && spectramind --version"]
        elif head == "jupyter": words = [sys.executable, "-m", "jupyterlab", "--version"]
        elif head == "nbdev_export": words, cwd = [str(Path(sys.executable).parent/"nbdev_export")], tmp_path/"spectramind"
        elif head == "lint-imports":                                # `make check` does it
            assert re.search(r"; +lint-imports$", (ROOT/"scripts"/"check.sh").read_text(), re.M)
            words = [str(Path(sys.executable).parent/"lint-imports"), "--help"]
        elif head == "dvc": words, cwd = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"], ROOT      # minutes long; the workflow ci.yml does it, tests/pipeline/test_dvc.py looks at each stage
        elif head == "python": words, cwd = [sys.executable, *words[1:], *(["--help"] if words[1].endswith(".py") or words[1:] == ["-m", "spectramind"] else [])], ROOT
        else: pytest.fail(f"{command}: nobody has said how it is tried")
        said = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env={**os.environ, "CORE_ANALYTICS": "false"})
        assert said.returncode == 0, (command, said.stdout[-600:], said.stderr[-600:])
        handled.add(command)
    assert handled == {c for c in ALL if c.split()[0] not in ("spectramind", "make")}
    shutil.rmtree(tmp_path/"spectramind", ignore_errors=True)


def python_blocks():
    for page in ("README.md", "docs/start.md"):
        for k, block in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT/page).read_text(encoding="utf-8"), re.M | re.S)): yield pytest.param(block, id=f"{page}-{k}")


@pytest.mark.parametrize("block", list(python_blocks()))
def test_python(block, place, monkeypatch):
    "The lines of Python, with the small tree in the place of the simulated one or of the reader's own."
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    more = ", ".join(f"'{w}'" for w in QUICK)
    code = re.sub(r"SpectraMind\('my_run', (?:data='smoke'|root='[^']*')\)", f"SpectraMind('results', {more}, root='tree')", block, count=1)
    assert code != block
    monkeypatch.chdir(place)
    seen = {}
    exec(compile(code, "page", "exec"), seen)
    spectrum = seen["planet"].spectrum
    assert spectrum.mu.shape == spectrum.sigma.shape == (283,) and (spectrum.sigma > 0).all()
    if "explore" in block: assert seen["planet"].explore().data


def settings_in(page):
    "Inline code that is nothing but settings."
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", (ROOT/page).read_text(encoding="utf-8"), flags=re.M | re.S)):
        words = code.split()
        if all(re.fullmatch(r"[a-z][a-z_]*(\.[a-z_]+)*=[\w.:/-]+", w) for w in words) and not code.startswith(("group=", "key=", "g=")): yield code


@pytest.mark.parametrize("page", PAGES)
def test_settings(page):
    "Every setting in the prose is one."
    from spectramind.pipeline.config import load_config
    for code in settings_in(page):
        if code.split("=")[0] in ("resume",): continue
        words = ["data=kaggle", "data.root=x", *(w.replace("DIR", "x") for w in code.split())]
        load_config(words)
