"Every command line of docs/commands.md, in order, on a small simulated sky."
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spectramind.__main__ import app
from spectramind.core.paths import project_root

ROOT = project_root(Path(__file__).parent)


def rows():
    "Command and exit code of each row."
    found = []
    for line in (ROOT/"docs"/"commands.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 5 or not cells[3].isdigit(): continue
        paper, here, code = cells[1:4]
        found.append((re.search("`(.+?)`", paper if here.startswith("as written") else here).group(1), int(code)))
    return found


@pytest.fixture(scope="module")
def place(wide, tmp_path_factory):
    "A folder in which a user stands: a tree at data/smoke, its planets observed and fitted."
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(wide[0], folder/"data"/"smoke", copy_function=shutil.copy2)
    return folder


def test_the_table_is_not_empty():
    assert len(rows()) >= 30


@pytest.mark.parametrize("command,code", rows(), ids=[r[0] for r in rows()])
def test_command(command, code, place, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(command)
    if words[:2] == ["bash", "scripts/validate_submission.sh"]: words = ["spectramind", "validate", *words[2:]]
    words = words[3:] if words[0] == "python" else words[1:]
    if words[0] in ("train", "predict", "calibrate", "preprocess", "fit"): words = [*words, "executor=serial"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == code, said.output
    assert "Traceback" not in said.output


def test_the_script_validates(place):
    "Run as a shell would, on what the commands above have left."
    import subprocess
    import sys
    done = subprocess.run(["bash", str(ROOT/"scripts"/"validate_submission.sh"), str(place/"dist"/"submission.json")], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable})
    assert done.returncode == 0 and "valid" in done.stdout, done.stderr
