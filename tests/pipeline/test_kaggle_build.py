"What is sent to Kaggle: the files of kaggle/, the dataset, and what is refused."
import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import numpy as np

from spectramind.__main__ import app
from spectramind.core.errors import ConfigError, DataError, QualityGateError
from spectramind.core.paths import project_root
from spectramind.core.store import read_json, sha256_file, write_json, write_text
from spectramind.pipeline import cli_kaggle, kaggle_dataset as dataset
from spectramind.pipeline.kaggle_kernels import find, install, kernel_files, kernel_metadata, run_words, verify
from spectramind.pipeline.kaggle_model import check_safetensors, copy_model, model_files

ROOT = project_root(Path(__file__).parent)


def wheel(folder, name="plotly", version="7.1.0", text="here = 1\n"):
    "A pure wheel of one module."
    folder.mkdir(parents=True, exist_ok=True)
    path = folder/f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in ((f"{name}.py", text), (f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
                             (f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
                             (f"{name}-{version}.dist-info/RECORD", f"{name}.py,,\n")):
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), data)
    return path


@pytest.fixture
def model(tmp_path):
    "A checkpoint folder with one member, and what stays at home beside it."
    place = tmp_path/"run"/"artifacts"
    for part, content in (("checkpoints/prior.json", {"level": 1}), ("checkpoints/members/ensemble.json", {"members": [{"folder": "fold0"}]}),
                          ("checkpoints/members/fold0/model.json", {}), ("checkpoints/oof.npz.json", {"sha256": "0"}), ("calibration/temperature.json", {"used": False, "oof": "0"})):
        write_json(place/part, content)
    save_file({"w": np.ones((2, 3), np.float32)}, place/"checkpoints"/"members"/"fold0"/"model.safetensors")
    (place/"checkpoints"/"members"/"fold0"/"last.ckpt").write_bytes(pickle.dumps({"optimizer": 1}))
    return place/"checkpoints"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    "Building without pip, and with weights that are only weights: wheels and model are tiny."
    monkeypatch.setattr(dataset, "check_network", lambda config: None)
    made = [wheel(tmp_path/"wheels"), wheel(tmp_path/"wheels", "hydra_core", "1.3.8")]
    monkeypatch.setattr(dataset, "fetch_wheels", lambda requirements, cache: made)
    monkeypatch.setattr(dataset, "project_wheel", lambda root, out: Path(shutil.copy(wheel(tmp_path/"own", "spectramind", "0.1.0"), (out.mkdir(parents=True), out)[1])))


def tree_of(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- the folder kaggle/
def test_committed_files_are_what_build_makes():
    stale = [name for name, text in dataset.committed(ROOT).items() if (ROOT/"kaggle"/name).read_text(encoding="utf-8") != text]
    assert not stale, f"run `spectramind kaggle build --refresh`: {stale}"


def test_refresh_writes_only_what_has_changed(tmp_path):
    shutil.copy(ROOT/"requirements.lock", tmp_path)
    assert len(dataset.refresh(tmp_path)) == 6
    assert dataset.refresh(tmp_path) == []
    (tmp_path/"kaggle"/"kernels"/"submit"/"submit.ipynb").write_text("{}")
    assert dataset.refresh(tmp_path) == ["kernels/submit/submit.ipynb"]


@pytest.mark.parametrize("kind", ["submit", "train"])
def test_kernel_is_a_short_notebook_with_one_parameter_cell(kind):
    book = nbformat.reads(kernel_files()[f"{kind}/{kind}.ipynb"], 4)
    nbformat.validate(book)
    assert [c.id for c in book.cells if "parameters" in c.metadata.get("tags", [])] == ["parameters"]
    assert sum(len(c.source.splitlines()) for c in book.cells if c.cell_type == "code") <= 80
    for cell in book.cells:
        if cell.cell_type == "code": compile(cell.source, cell.id, "exec")
    meta = kernel_metadata(kind, "me")
    assert meta["enable_internet"] is False and meta["code_file"] == f"{kind}.ipynb" and meta["dataset_sources"] == ["me/spectramind-v50"]
    assert meta["id"] == "me/" + meta["title"].lower().replace(" ", "-")      # Kaggle wants slug and title to agree


def test_slim_requirements_are_lines_of_the_lock():
    slim, lock = dataset.slim_requirements((ROOT/"requirements.lock").read_text()), (ROOT/"requirements.lock").read_text()
    assert all(line in lock for line in slim.splitlines()[1:])
    assert sum("==" in line for line in slim.splitlines()[1:]) == len(dataset.SENT) and slim.count("--hash=sha256:") >= len(dataset.SENT)
    with pytest.raises(ConfigError, match="no-such-thing"): dataset.slim_requirements(lock, ("no-such-thing",))


def test_what_is_sent_is_at_least_what_is_asked_for():
    "image.txt and the wheels together cover what the package requires, with bounds that are not below its own."
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version
    import configparser
    told = configparser.ConfigParser(delimiters=["="])
    told.read(ROOT/"settings.ini", encoding="utf-8")
    have = {canonicalize_name(n["name"]): n["least"] for n in dataset.image_needs((ROOT/"kaggle"/"image.txt").read_text()) if n["least"]}
    have |= dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+)", (ROOT/"kaggle"/"requirements-kaggle.txt").read_text(), re.M))
    for line in told["DEFAULT"]["requirements"].split() + told["DEFAULT"]["network_requirements"].split():
        need = Requirement(line)
        assert canonicalize_name(need.name) in have, f"{need.name} is neither sent nor counted on"
        lowest = [Version(s.version) for s in need.specifier if s.operator in (">=", "==")]
        assert all(Version(have[canonicalize_name(need.name)]) >= v for v in lowest), f"{need}: kaggle/image.txt or requirements-kaggle.txt says {have[canonicalize_name(need.name)]}"


# ---------------------------------------------------------------- building
def test_build_twice_gives_the_same_bytes(offline, model, tmp_path):
    lines = []
    built = dataset.build(tmp_path/"a", ("model=v50_fast",), model, "me", tell=lines.append)
    again = dataset.build(tmp_path/"b", ("model=v50_fast",), model, "me", tell=lines.append)
    first = tree_of(built.folder)
    assert first == tree_of(again.folder)
    told = json.loads(first["dataset/spectramind.json"])
    assert set(told["files"]) == {n.removeprefix("dataset/") for n in first if n.startswith("dataset/")} - {"spectramind.json", "dataset-metadata.json"}
    assert told["settings"] == ["model=v50_fast"] and [w["name"] for w in told["wheels"]] == ["hydra-core", "plotly", "spectramind"]
    assert "model/checkpoints/members/fold0/model.safetensors" in told["model"] and not any(n.endswith((".ckpt", ".npz")) for n in first)
    assert verify(built.dataset) == told
    assert len(told["config_sha256"]["submit"]) == 64 and told["config_sha256"]["submit"] != told["config_sha256"]["train"]


def test_build_replaces_whole_or_not_at_all(offline, model, tmp_path):
    before = tree_of(dataset.build(tmp_path, (), model, tell=print).folder)
    with pytest.raises(QualityGateError, match="found a dataset of"): dataset.build(tmp_path, ("model=v50_fast",), model, bar_mb=.001, tell=print)
    with pytest.raises(ConfigError): dataset.build(tmp_path, ("model=nonsense",), model, tell=print)
    assert tree_of(tmp_path/"dist"/"kaggle") == before
    assert [p.name for p in (tmp_path/"dist").iterdir()] == ["kaggle"]


def test_build_by_command(offline, model, tmp_path):
    done = CliRunner().invoke(app, ["kaggle", "build", f"checkpoint={model}", f"paths.work={tmp_path}", "model=v50_fast", "--user", "me"])
    assert done.exit_code == 0, done.output
    assert read_json(tmp_path/"dist"/"kaggle"/"dataset"/"spectramind.json")["settings"] == ["model=v50_fast"]
    assert read_json(tmp_path/"dist"/"kaggle"/"submit"/"kernel-metadata.json")["id"] == "me/spectramind-v50-submit"


@pytest.mark.parametrize("words,code", [(["build", "--user", "../me"], 3), (["build", "checkpoint=nowhere"], 3), (["build", "checkpoint=a", "--checkpoint", "b"], 3), (["build", "model=nonsense"], 3),
                                        (["rehearse"], 3), (["rehearse", "--kernel", "other"], 3), (["rehearse", "--isolation", "none"], 3)],
                         ids=["user", "no model", "two models", "settings", "nothing built", "kernel", "isolation"])
def test_refusals_by_command(offline, words, code, tmp_path):
    assert cli_kaggle.kaggle is not None
    done = CliRunner().invoke(app, ["kaggle", *words, f"paths.work={tmp_path}"])
    assert done.exit_code == code and "found" in done.stderr and "Traceback" not in done.output


def test_outside_of_a_checkout(tmp_path):
    with pytest.raises(ConfigError, match="wanted a checkout"): dataset.build(tmp_path, root=tmp_path)
    with pytest.raises(ConfigError, match="wanted a checkout"): dataset.project_wheel(tmp_path, tmp_path)


def test_project_wheel_is_the_same_each_time(tmp_path):
    one, two = (dataset.project_wheel(ROOT, tmp_path/name) for name in "ab")
    assert sha256_file(one) == sha256_file(two)
    names = zipfile.ZipFile(one).namelist()
    assert "spectramind/pipeline/kaggle_kernels.py" in names and "spectramind/_configs/config_v50.yaml" in names and not any("__pycache__" in n for n in names)


def test_wheels_are_fetched_once(tmp_path, monkeypatch):
    calls = []
    def pip(words, what):
        calls.append(words)
        wheel(Path(words[words.index("-w") + 1]))
    monkeypatch.setattr(dataset, "_pip", pip)
    first = dataset.fetch_wheels("plotly==7.1.0 --hash=sha256:aa\n", tmp_path)
    assert dataset.fetch_wheels("plotly==7.1.0 --hash=sha256:aa\n", tmp_path) == first and len(calls) == 1
    first[0].write_bytes(b"changed")
    dataset.fetch_wheels("plotly==7.1.0 --hash=sha256:aa\n", tmp_path)
    dataset.fetch_wheels("plotly==7.1.1 --hash=sha256:bb\n", tmp_path)
    assert len(calls) == 3


def test_without_an_index_it_says_so(tmp_path, monkeypatch):
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_CONFIG_FILE", "/dev/null")): monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="pip ended with 1") as caught: dataset.fetch_wheels(f"nothing-of-this-name==1.0 --hash=sha256:{'0'*64}\n", tmp_path)
    assert "needs a package index" in caught.value.hint and caught.value.exit_code == 3


# ---------------------------------------------------------------- models
def test_only_what_cannot_run_leaves_the_house(model, tmp_path):
    assert copy_model(model, tmp_path/"out") == ["calibration/temperature.json", "checkpoints/members/ensemble.json", "checkpoints/members/fold0/model.json",
                                                 "checkpoints/members/fold0/model.safetensors", "checkpoints/oof.npz.json", "checkpoints/prior.json"]
    assert copy_model(tmp_path/"out", tmp_path/"again") == copy_model(model/"prior.json", tmp_path/"third")
    assert check_safetensors(model/"members"/"fold0"/"model.safetensors") == {"w": (2, 3)}


class Bomb:
    def __reduce__(self): raise AssertionError("it was unpickled")


BAD = dict(pickle=pickle.dumps({"w": 1}, 4), zip=b"PK\x03\x04" + bytes(60), empty=b"", text=b"weights", huge=(1 << 60).to_bytes(8, "little") + b"{}",
           tail=None, gap=(60).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'.ljust(60) + bytes(8))


@pytest.mark.parametrize("kind", sorted(BAD))
def test_weights_that_are_none(kind, model):
    path = model/"members"/"fold0"/"model.safetensors"
    path.write_bytes(path.read_bytes() + pickle.dumps([1]) if BAD[kind] is None else BAD[kind])
    with pytest.raises(DataError, match="not safetensors"): model_files(model)


def header(described, data=b""):
    text = json.dumps(described).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("described,data", [({"w": dict(dtype="F32", shape=[1], data_offsets=[0, 40])}, pickle.dumps("x"*25)[:40]), ({"w": dict(dtype="F32", shape=[-4], data_offsets=[0, 0])}, b""),
                                            ({"w": dict(dtype="F32", shape="abc", data_offsets=[0, 4])}, bytes(4)), ({"w": dict(dtype="F32", shape=[1], data_offsets=[0., 4.])}, bytes(4))],
                         ids=["bytes behind the numbers", "negative", "no shape", "no places"])
def test_weights_that_their_own_library_would_refuse(described, data, model):
    (model/"members"/"fold0"/"model.safetensors").write_bytes(header(described, data))
    with pytest.raises(DataError, match="not safetensors"): model_files(model)


@pytest.mark.parametrize("part", ["checkpoints/members/fold0/model.json", "checkpoints/members/fold0", "checkpoints/prior.json", "calibration/temperature.json", "calibration"])
def test_links_are_not_followed_into_an_upload(part, model, tmp_path):
    path = model.parent/part
    path.rename(tmp_path/"secret")
    path.symlink_to(tmp_path/"secret")
    with pytest.raises(DataError, match="a link"): copy_model(model, tmp_path/"out")


def test_a_network_is_sent_with_its_own_calibration_only(model, tmp_path):
    shutil.copytree(model, tmp_path/"copied"/"checkpoints")
    with pytest.raises(DataError, match="no calibration"): model_files(tmp_path/"copied")
    write_json(model.parent/"calibration"/"temperature.json", {"used": True, "oof": "of another"})
    with pytest.raises(DataError, match="of another ensemble"): model_files(model)
    write_json(model/"members"/"ensemble.json", {"members": []})
    with pytest.raises(DataError, match="without members"): model_files(model)


def test_a_network_is_read_before_it_is_sent(offline, model, tmp_path, monkeypatch):
    from spectramind.core.errors import SchemaError
    monkeypatch.undo()
    monkeypatch.setattr(dataset, "fetch_wheels", lambda requirements, cache: [])
    monkeypatch.setattr(dataset, "project_wheel", lambda root, out: wheel(out, "spectramind", "0.1.0"))
    with pytest.raises(SchemaError, match="what is not an ensemble"): dataset.build(tmp_path, (), model, tell=print)
    assert not (tmp_path/"dist"/"kaggle").exists()


@pytest.mark.parametrize("profile,code", [("smoke", 3), (None, 3), ("kaggle", 0)])
def test_a_model_that_nobody_named(profile, code, offline, model, tmp_path):
    "One that was learnt from simulated planets is not sent unless it is named."
    work = model.parent.parent
    if profile: write_text(work/"artifacts"/"runs"/"run"/"20260101_000000"/"config.snapshot.yaml", f"data: {{profile: {profile}}}\npredict: {{checkpoint: null}}\n")
    done = CliRunner().invoke(app, ["kaggle", "build", f"paths.work={work}"])
    assert done.exit_code == code and str(model) in done.output, done.output
    if code: assert ("data=smoke" if profile else "nobody knows") in done.stderr and "--checkpoint" in done.stderr
    assert CliRunner().invoke(app, ["kaggle", "build", f"paths.work={work}", "--checkpoint", str(model)]).exit_code == 0


@pytest.mark.parametrize("name", ["../fold0", "", ".", "..", "/etc"])
def test_members_stay_inside(name, model):
    write_json(model/"members"/"ensemble.json", {"members": [{"folder": name}]})
    with pytest.raises(DataError, match="outside"): model_files(model)


def test_a_calibration_that_is_no_json(model):
    (model.parent/"calibration"/"temperature.json").write_bytes(pickle.dumps(1))
    with pytest.raises(DataError, match="damaged JSON"): model_files(model)


# ---------------------------------------------------------------- inside the notebook
def test_find_prefers_the_folder_with_planets(tmp_path):
    for name in ("a", "b/test", "c/deeper/d"): (tmp_path/name).mkdir(parents=True)
    for name in ("a", "b"): write_text(tmp_path/name/"sample_submission.csv", "planet_id\n")
    write_text(tmp_path/"c"/"deeper"/"d"/"spectramind.json", "{}")
    assert find("sample_submission.csv", str(tmp_path)) == tmp_path/"b" and find("spectramind.json", str(tmp_path)) == tmp_path/"c"/"deeper"/"d"
    with pytest.raises(FileNotFoundError, match="attached"): find("nothing.csv", str(tmp_path))


@pytest.mark.parametrize("files,found", [
    (["decoy/sample_submission.csv", "competitions/ariel/sample_submission.csv", "competitions/ariel/test/x"], "competitions/ariel"),
    (["a/b/c/d/e/f/sample_submission.csv"], "a/b/c/d/e/f"), (["old/sample_submission.csv", "datasets/me/new/sample_submission.csv"], None)], ids=["decoy", "deep", "two"])
def test_find_looks_everywhere_before_it_chooses(files, found, tmp_path):
    for name in files: write_text(tmp_path/name, "planet_id\n")
    if found: assert find("sample_submission.csv", str(tmp_path)) == tmp_path/found
    else:
        with pytest.raises(RuntimeError, match="wanted one: detach"): find("sample_submission.csv", str(tmp_path))


def test_verify_notices_every_change(offline, model, tmp_path):
    folder = dataset.build(tmp_path, (), model, tell=print).dataset
    for name in verify(folder)["files"]:
        held = (folder/name).read_bytes()
        (folder/name).write_bytes(held[:-1] + b"!")
        with pytest.raises(RuntimeError, match="wanted those of the manifest"): verify(folder)
        (folder/name).write_bytes(held)
    (folder/"LICENSE").unlink()
    with pytest.raises(RuntimeError, match="LICENSE: found no file.*dir-mode zip"): verify(folder)


@pytest.fixture
def place(tmp_path, monkeypatch):
    "Where `install` may change paths."
    import sys
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    return tmp_path


def row_of(folder, name, version): return dict(name=name.replace("_", "-"), version=version, file=wheel(folder, name, version, f"here = {version!r}\n").name, sha256="x")


def test_install_brings_all_that_was_sent_once(place, capsys):
    "The image's own version may be too new: antlr4 4.13 cannot read what Hydra 1.3 brings."
    import os
    import sys
    wheel(place/"image", "antlr4_python3_runtime", "4.13.2", "here = '4.13.2'\n")
    with zipfile.ZipFile(next((place/"image").glob("*.whl"))) as archive:
        for name in archive.namelist(): write_text(place/"have"/name, archive.read(name).decode())
    sys.path.insert(0, str(place/"have"))
    manifest = dict(image=[dict(name="numpy", least="1.0")], wheels=[row_of(place/"set", "antlr4_python3_runtime", "4.9.3"), row_of(place/"set", "there_it_is", "1.0")], python=[3, 11])
    assert install(place/"set", manifest, str(place/"site")) == []
    assert capsys.readouterr().out == "installed | antlr4-python3-runtime 4.9.3 | there-it-is 1.0\n"
    import antlr4_python3_runtime as antlr
    assert antlr.here == "4.9.3" and os.environ["PYTHONPATH"] == f"{place/'site'}{os.pathsep}before"
    stamp = (place/"site"/"there_it_is.py").stat().st_mtime_ns
    sys.modules.pop("antlr4_python3_runtime")
    install(place/"set", manifest, str(place/"site"))
    assert (place/"site"/"there_it_is.py").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name,least,settings,said", [("numpy", "99", [], "is older than counted on (99); it is used all the same"),
                                                      ("not-there", "1", ["model=physics_only"], "going on without: physics alone"), ("numpy", "1", [], "")], ids=["older", "missing", "there"])
def test_what_can_be_spared(name, least, settings, said, place, capsys):
    "What the kernel does with it is what it says: an old library is used, without one the run is told so at once."
    need = dict(name=name, least=least, spare="physics alone", settings=["model=physics_only"])
    manifest = dict(image=[need], wheels=[row_of(place/"set", "there_it_is", "1.0")], python=[3, 11])
    assert install(place/"set", manifest, str(place/"site")) == settings
    assert said in capsys.readouterr().out
    cells = json.loads(kernel_files()["submit/submit.ipynb"])["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells}
    assert "lacks = install(dataset, manifest)" in code["set-up"] and "*overrides, *lacks" in code["call"]


def test_network_libraries_are_marked(offline, model, tmp_path):
    needs = {need["name"]: need for need in read_json(dataset.build(tmp_path, (), model, tell=print).dataset/"spectramind.json")["image"]}
    assert needs["torch"]["settings"] == ["model=physics_only"] and needs["numba"]["settings"] == [] and "settings" not in needs["numpy"]


@pytest.mark.parametrize("manifest", [dict(image=[dict(name="numpy", least="99")], python=[3, 11]), dict(image=[dict(name="not-there", least="1")], python=[3, 11]), dict(image=[], python=[9, 0])],
                         ids=["older", "missing", "python"])
def test_an_image_with_less_than_counted_on(manifest, tmp_path):
    with pytest.raises(RuntimeError, match="less than it was counted on"): install(tmp_path, manifest | dict(wheels=[]), str(tmp_path/"site"))


def test_words_of_a_run():
    words = run_words("/in put/a", "/w", "/m", "+diag=full", "executor.workers=3", fast=True)
    assert "+diag=full" in words and "diag=light" not in words and "model=v50_fast" in words and "executor.workers=3" in words and len({w.lstrip('+').partition('=')[0] for w in words}) == len(words)
    from spectramind.pipeline.config import load_config
    config = load_config(words)
    assert config.data.root == "/in put/a" and config.predict.checkpoint == "/m" and config.limits.hours == 9 and config.limits.force and config.diag.profile == "full"
