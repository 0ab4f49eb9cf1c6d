"A release is put together from a tag, twice the same; and is refused when something is not as the tag says."
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    "A small checkout with what a release is made of, a finished demo in it."
    place = tmp_path_factory.mktemp("release")/"checkout"
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "spectramind/core", "spectramind/__init__.py", "configs", "schemas", "scripts", "setup.py", "settings.ini",
                            "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "requirements.lock", "requirements-runtime.lock"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT/name).is_file():
            (place/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT/name, place/name)
    made = {"sbom.cdx.json": "{}", "sbom.spdx.json": "{}", "artifacts/reports/diagnostics_dashboard.html": "<p>page", "artifacts/runs/run/20260101_000000/manifest.json": "{}", "dist/submission_manifest.json": "{}"}
    (place/".gitignore").write_text("/sbom.*\n/artifacts/\n/dist/\n/one/\n/two/\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]): subprocess.run([*git, *words], cwd=place, check=True)
    for name, text in made.items():
        (place/name).parent.mkdir(parents=True, exist_ok=True)
        (place/name).write_text(text)
    return place


def release(place, tag, out):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(["bash", "scripts/release.sh", tag, out], cwd=place, capture_output=True, text=True, env=os.environ | dict(PATH=path), timeout=300)


def version(place): return next(line.partition("=")[2].strip() for line in (place/"settings.ini").read_text().splitlines() if line.startswith("version"))


def test_two_releases_of_one_commit_are_the_same(checkout):
    for out in ("one", "two"):
        found = release(checkout, f"v{version(checkout)}", out)
        assert found.returncode == 0, found.stderr
    sums = (checkout/"one"/"SHA256SUMS").read_text()
    names = {line.split("  ")[1] for line in sums.splitlines()}
    assert sums == (checkout/"two"/"SHA256SUMS").read_text()
    assert names == {path.name for path in (checkout/"one").iterdir()} - {"SHA256SUMS"} and f"spectramind-{version(checkout)}-py3-none-any.whl" in names
    assert {"requirements.lock", "requirements-runtime.lock", "sbom.cdx.json", "sbom.spdx.json", "sample_dashboard.html", "manifests.tar.gz", "NOTES.md", "CITATION.cff"} <= names
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=checkout/"one", check=True)
    with tarfile.open(checkout/"one"/"manifests.tar.gz") as archive: assert archive.getnames() == ["artifacts/runs/run/20260101_000000/manifest.json", "dist/submission_manifest.json"]
    assert (checkout/"one"/"NOTES.md").read_text().strip()


@pytest.mark.parametrize("hurt, tag, word", [
    (None, "v9.9.9", "found the tag v9.9.9"), ("sbom.spdx.json", None, "no sbom.spdx.json"), ("artifacts/reports/diagnostics_dashboard.html", None, "no dashboard"),
    ("CHANGELOG.md", None, "no section")], ids=["tag", "bill", "page", "notes"])
def test_what_is_missing_is_refused(checkout, tmp_path, hurt, tag, word):
    place = shutil.copytree(checkout, tmp_path/"checkout", ignore=shutil.ignore_patterns("one", "two"))
    if hurt == "CHANGELOG.md": (place/hurt).write_text("# Changes\n\n## 0.0.1\n\nold\n")
    elif hurt: (place/hurt).unlink()
    found = release(place, tag or f"v{version(place)}", "out")
    assert found.returncode == 3 and word in found.stderr and not (place/"out").exists()


def test_the_wheel_is_made_of_the_same_parts_wherever_it_is_made():
    "The release, the check and the dataset for Kaggle each copy the sources; they copy the same ones."
    from spectramind.pipeline.kaggle_dataset import PARTS
    for name in ("release.sh", "check_wheel.sh"):
        lists = re.findall(r"git ls-files [^|]* -- ([^|]+?) \|", (ROOT/"scripts"/name).read_text(encoding="utf-8"))
        assert [found.split() for found in lists] == [list(PARTS)], name
