"Checks: all is well here, and each of them finds what it is for."
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spectramind.core.errors import QualityGateError
from spectramind.core.paths import resource_dir
from spectramind.pipeline import actions, checks as C, parity as P
from spectramind.scoring.submission import check_document


def test_the_program_is_in_order():
    found = C.selftest()
    assert [c.name for c in found] == list(C.SELFTEST) and [c for c in found if not c.ok] == [] and all(c.detail and c.seconds >= 0 for c in found)


def test_a_planet_is_fitted_to_within_its_error_bars(monkeypatch):
    found = C.run_check("fit", C.check_fit)
    assert found.ok and "sigma" in found.detail
    from spectramind.lightcurve import fit as F
    whole = F.fit_planet
    for change in (dict(mean=lambda p: p.mean + 5e-4), dict(cov=lambda p: p.cov/9), dict(cov=lambda p: p.cov*9)):
        (name, how), = change.items()
        monkeypatch.setattr(F, "fit_planet", lambda *args: replace(post := whole(*args), **{name: how(post)}))
        assert not C.run_check("fit", C.check_fit).ok, name


# what each check is for

@pytest.fixture
def schemas(tmp_path, monkeypatch):
    "A copy of the schemas that may be damaged."
    for path in resource_dir("schemas").glob("*.schema.json"): (tmp_path/path.name).write_text(path.read_text())
    monkeypatch.setattr(C, "resource_dir", lambda name: tmp_path)
    return tmp_path


def change(path, how):
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


def test_a_broken_schema(schemas):
    assert C.check_schemas()[0]
    change(schemas/"event.schema.json", lambda d: d.update(type="objekt"))
    change(schemas/"run_event.schema.json", lambda d: d.update({"$id": "https://x/other.schema.json"}))
    (schemas/"doctor.schema.json").write_text("{")
    ok, detail = C.check_schemas()
    assert not ok and all(name in detail for name in ("event.schema.json: 'objekt'", "run_event.schema.json: its $id", "doctor.schema.json"))


def test_registries_that_have_come_apart(schemas, monkeypatch):
    assert C.check_registries()[0]
    change(schemas/"event.schema.json", lambda d: d["properties"]["exit"]["enum"].remove(4))
    without = {name: action for name, action in actions.ACTIONS.items() if name != "fit"} | {"Odd Name": print}
    monkeypatch.setattr(actions, "ACTIONS", without)
    ok, detail = C.check_registries()
    assert not ok and "Odd Name" in detail and "without a command: fit" in detail and "[0, 2, 3, 5, 6, 130]" in detail


@pytest.mark.parametrize("tags,name,found", [([["parameters"]], "fit", None), ([["parameters"], ["parameters"]], "fit", "2 cells"), ([[]], "fit", "0 cells"), ([["parameters"]], "fitt", "no command")])
def test_run_notebooks(tmp_path, monkeypatch, tags, name, found):
    path = tmp_path/f"{name}.ipynb"
    path.write_text(json.dumps(dict(cells=[dict(metadata=dict(tags=t)) for t in tags])))
    monkeypatch.setattr(C, "run_notebooks", lambda: [path])
    ok, detail = C.check_notebooks()
    assert (ok, found is None or found in detail) == (found is None, True)


def test_another_version(monkeypatch):
    monkeypatch.setattr(C, "installed", lambda name: "9.9")
    ok, detail = C.check_version()
    assert not ok and "metadata 9.9" in detail


def test_a_layout_that_loses_a_digit(monkeypatch):
    from spectramind.scoring import submission
    whole = submission.validate_submission
    def rounded(*args):
        spectra, layout = whole(*args)
        return replace(spectra, mu=np.round(spectra.mu, 6)), layout
    monkeypatch.setattr(submission, "validate_submission", rounded)
    assert C.check_submission() == (False, "wide as csv: other numbers came back")


def test_a_setting_that_does_not_compose(monkeypatch):
    from spectramind.pipeline import config
    monkeypatch.setattr(config, "lint", lambda: ["model=gru: unknown key"])
    assert C.check_settings() == (False, "model=gru: unknown key")


def test_a_record_that_leaves_its_schema(monkeypatch):
    whole = C.close_run
    monkeypatch.setattr(C, "close_run", lambda *args: {k: v for k, v in whole(*args).items() if k != "git_rev"})
    found = C.run_check("records", C.check_records)
    assert not found.ok and "git_rev" in found.detail


# the machine

@pytest.fixture(scope="module")
def report(): return C.doctor()


def test_the_report_follows_its_schema_and_all_is_well(report):
    check_document(json.loads(json.dumps(report, allow_nan=False)), "doctor")
    assert report["ok"] and report["device"] == "cpu" and all(10*row["difference"] <= row["limit"] for row in report["parity"])
    names = {row["name"] for row in report["parity"]}
    assert {"detector frames", "transit flux", "weighted sums", "selective scan, numba, float32", "wavelength graph"} <= names
    assert {"packages", "disk", "memory", "linear algebra", "kernel cache", "PYTHONHASHSEED", "dvc", "quarto", "jupyter kernel", "torch", "cuda", "bf16", "mamba_ssm"} <= {row["name"] for row in report["checks"]}
    assert C.doctor_lines(report)[-1] == "all is well" and sum(line.startswith("FAIL") for line in C.doctor_lines(report)) == 0
    P.require_parity(report["parity"])


def test_a_kernel_that_computes_something_else(monkeypatch, report):
    from spectramind.physics import transit
    whole = transit.quadratic_flux
    monkeypatch.setattr(transit, "quadratic_flux", lambda *args: whole(*args)*(1 + 1e-8))
    row, = P.compare_kernels(P.transit_parity)
    assert not row["ok"] and 5e-9 < row["difference"] < 2e-8 and row["limit"] == 1e-9
    monkeypatch.setattr(transit, "quadratic_flux", lambda *args: whole(*args)*np.nan)
    nan, = P.compare_kernels(P.transit_parity)
    monkeypatch.setattr(transit, "quadratic_flux", lambda *args: 1/0)
    raised, = P.compare_kernels(P.transit_parity)
    assert (nan["ok"], nan["difference"], raised["ok"], raised["detail"]) == (False, None, False, "ZeroDivisionError: division by zero")
    monkeypatch.setattr(C, "parity", lambda cuda: [row, nan, raised])
    found = C.doctor()
    check_document(json.loads(json.dumps(found, allow_nan=False)), "doctor")
    assert not found["ok"] and C.doctor_lines(found)[-1].startswith("not well")
    with pytest.raises(QualityGateError, match="3 of 3 kernels") as caught: P.require_parity(found["parity"])
    assert caught.value.exit_code == 6 and "transit flux on cpu: differs by" in caught.value.message
    monkeypatch.setattr(C, "doctor", lambda: found)
    assert C.check_doctor() == (False, "not well: transit flux, transit flux, transit parity")


def test_another_threads_other_bits(monkeypatch):
    from spectramind.detector import chain
    whole = chain.calibrate_visit
    def racing(*args, threads):
        frames = whole(*args, threads=1)
        return replace(frames, frames=np.nextafter(frames.frames, np.float32(np.inf))) if threads == 2 else frames
    monkeypatch.setattr(chain, "calibrate_visit", racing)
    rows = P.compare_kernels(P.detector_parity)
    assert [row["ok"] for row in rows] == [True, True, False]


def test_a_library_of_another_version(monkeypatch):
    asked = ["numpy>=99", "scipy>=1.0", "no-such-package>=1; extra == 'more'", 'polars>=1; extra == "some"']
    monkeypatch.setattr(C.importlib.metadata, "requires", lambda name: asked)
    rows = {row["name"]: row for row in C.package_rows()}
    assert not rows["packages"]["ok"] and rows["packages"]["needed"] and "wanted >=99" in rows["packages"]["detail"]
    assert not rows["packages [more]"]["ok"] and not rows["packages [more]"]["needed"] and rows["packages [some]"]["ok"]
    monkeypatch.setattr(C.importlib.metadata, "requires", lambda name: None)
    assert C.package_rows() == [dict(name="packages", ok=False, needed=True, detail="no metadata of the package: is it installed?")]


def test_little_room_is_noted_and_no_card_is_a_complaint_if_one_is_wanted(monkeypatch, tmp_path):
    monkeypatch.setattr(C.shutil, "disk_usage", lambda work: SimpleNamespace(free=1e9))
    monkeypatch.setattr(C, "_available_mb", lambda: 1000)
    rows = {row["name"]: row for row in C.machine_rows(tmp_path)}
    assert not rows["disk"]["ok"] and not rows["memory"]["ok"] and not rows["disk"]["needed"] and rows["kernel cache"]["ok"]
    import torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for wanted in (False, True):
        row = {row["name"]: row for row in C.torch_rows(wanted)}["cuda"]
        assert (row["ok"], row["needed"]) == (not wanted, wanted)
    monkeypatch.setattr(C, "installed", lambda name: None)
    assert C.torch_rows(False) == [dict(name="torch", ok=True, needed=False, detail="not installed: model=physics_only is left")] and not C.torch_rows(True)[0]["ok"]


def test_without_torch_the_other_kernels_are_compared(monkeypatch):
    monkeypatch.setattr(P, "installed", lambda name: None)
    assert {row["name"] for row in P.parity()} == {"detector frames", "detector variance", "detector, one and two threads", "weighted sums", "running mean", "bins", "transit flux",
                                                "numpy twin, detector", "numpy twin, transit and slopes", "numpy twin, weighted sums"}
