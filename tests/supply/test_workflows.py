"Workflows: clean as they are, and each kind of carelessness is caught."
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FLOWS = ROOT/".github"/"workflows"


def lint(folder):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(["bash", str(ROOT/"scripts"/"workflows.sh"), str(folder)], capture_output=True, text=True, env=os.environ | dict(PATH=path), timeout=120)


def test_all_workflows_are_clean():
    found = lint(FLOWS)
    assert found.returncode == 0, found.stderr
    assert {path.stem for path in FLOWS.glob("*.yml")} == {"ci", "docs", "nightly", "release", "sbom-refresh"}


@pytest.mark.parametrize("name, before, after, word", [
    ("ci.yml", "actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2", "actions/checkout@v4", "unpinned-uses"),
    ("ci.yml", "permissions: {contents: read}", "permissions: write-all", "excessive-permissions"),
    ("ci.yml", "- run: make determinism", "- run: echo ${{ github.event.pull_request.title }}", "template-injection"),
    ("ci.yml", "with: {persist-credentials: false}", "with: {fetch-depth: 1}", "artipacked"),
    ("ci.yml", "  pull_request:", "  pull_request_target:", "dangerous-triggers"),
    ("ci.yml", "runs-on: ubuntu-24.04", "runs-of: ubuntu-24.04", "runs-on"),
    ("nightly.yml", "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02 # v4.6.2", "someone/upload@ea165f8d65b6e75b540449e92b4886f43607fa02 # v4.6.2", "wanted actions/NAME@HASH"),
    ("sbom-refresh.yml", "a26af69be951a213d495a4c3e4e4022e16d87065", "a26af69be951a213d495a4c3e4e4022e16d87066", "another hash or version than elsewhere"),
    ("sbom-refresh.yml", "    timeout-minutes: 30\n", "", "no timeout-minutes"),
    ("nightly.yml", "    timeout-minutes: 120\n", "    timeout-minutes: 120\n    permissions:\n      contents: write   # to push\n", "may write, and runs what it has checked out")],
    ids=["unpinned", "broad", "injection", "credentials", "trigger", "schema", "owner", "two hashes", "no limit", "write beside code"])
def test_carelessness_is_caught(tmp_path, name, before, after, word):
    text = (FLOWS/name).read_text(encoding="utf-8")
    assert before in text
    shutil.copytree(FLOWS, tmp_path/"flows")
    (tmp_path/"flows"/name).write_text(text.replace(before, after), encoding="utf-8")
    found = lint(tmp_path/"flows")
    assert found.returncode != 0 and word in found.stdout + found.stderr, found.stdout + found.stderr


def test_what_workflows_call_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT/"Makefile").read_text(encoding="utf-8"), re.M))
    for path in FLOWS.glob("*.yml"):
        flow = yaml.safe_load(path.read_text(encoding="utf-8"))
        words = [step.get("run", "") for job in flow["jobs"].values() for step in job["steps"]]
        words += [f"make {target}" for job in flow["jobs"].values() for target in job.get("strategy", {}).get("matrix", {}).get("target", [])]
        for text in words:
            for line in re.findall(r"(?m)^\s*(?:PATH=\S+ )?make ([a-z][a-z -]*)$", text): assert set(line.split()) <= targets, (path.name, line)
            for file in re.findall(r"(?:python|bash) ((?:scripts|benchmarks|\.ci)/[\w./-]+)", text): assert (ROOT/file).is_file(), (path.name, file)


def test_both_pythons_and_the_weekly_hour():
    ci, refresh = (yaml.safe_load((FLOWS/name).read_text(encoding="utf-8")) for name in ("ci.yml", "sbom-refresh.yml"))
    assert ci["jobs"]["check-and-test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert refresh[True] == {"push": {"branches": ["main"]}, "schedule": [{"cron": "0 7 * * 2"}], "workflow_dispatch": None}
