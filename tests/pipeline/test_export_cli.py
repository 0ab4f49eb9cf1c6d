"What is exported is what was predicted, and what cannot be exported says why."
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spectramind.challenge.layout import Challenge
from spectramind.core.provenance import read_record
from spectramind.core.store import sha256_file
from spectramind.pipeline import stages, units
from spectramind.pipeline.cli import app
from spectramind.pipeline.products import Made, Workplace, posterior_arrays, read_predictions
from spectramind.scoring.export import FORMATS


@pytest.fixture
def shell(sky, tmp_path):
    "A function: words to (exit code, what was said on stdout, on stderr), with a work folder of its own below tmp_path."
    def run(*words, work=tmp_path/"work"):
        said = CliRunner().invoke(app, ["export", *map(str, words), "data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={work}", "executor=serial"])
        assert "Traceback" not in said.output
        return said.exit_code, said.stdout.strip(), said.stderr.strip()
    return run


@pytest.fixture
def own_work(reference, tmp_path): return shutil.copytree(reference[0], tmp_path/"work")


def read_back(path):
    "Depth, error and (where the format has it) covariance, by the reader of the format."
    if path.suffix == ".dat": return (*np.loadtxt(path)[::-1, 1:3].T, None)
    if path.suffix == ".ecsv":
        from astropy.table import QTable
        table = QTable.read(path)
        return tuple(table[name].value for name in ("depth", "depth_err", "covariance"))
    import xarray
    with xarray.open_dataset(path) as file: return tuple(file[name].values.copy() for name in ("depth", "depth_err", "covariance"))


@pytest.mark.parametrize("form", FORMATS)
def test_the_file_holds_the_prediction_to_the_last_bit(form, sky, own_work, shell):
    predicted = read_predictions(own_work/"artifacts"/"predictions")
    assert sorted(predicted.planet_id) == Challenge(sky).planets("test")
    for row, planet in enumerate(predicted.planet_id):
        code, out, err = shell(planet, "--format", form)
        path = own_work/"artifacts"/"exports"/f"{planet}{FORMATS[form]}"
        assert (code, out, err) == (0, str(path), "")
        depth, error, cov = read_back(path)
        np.testing.assert_array_equal(depth, predicted.mu[row])
        np.testing.assert_array_equal(error, predicted.sigma[row])
        if cov is None: continue
        np.testing.assert_array_equal(np.sqrt(np.diag(cov)), predicted.sigma[row])
        correlation = cov/error/error[:, None]
        assert abs(correlation[1, 2]) > .02 and np.linalg.eigvalsh(correlation).min() > 0


def test_a_labelled_planet_a_given_prior_a_chosen_file_and_the_facts(sky, own_work, shell, tmp_path, settings):
    from astropy.table import QTable
    prior = tmp_path/"prior.json"
    shutil.move(own_work/"artifacts"/"checkpoints"/"prior.json", prior)
    planet = Challenge(sky).planets("train")[1]
    wanted = tmp_path/"deep"/"er"/"spectrum.txt"
    assert shell(f"{planet}.0", "--out", wanted, f"predict.checkpoint={prior}")[:2] == (0, str(wanted))
    meta, star = QTable.read(wanted, format="ascii.ecsv").meta, Challenge(sky).star(planet)
    posterior = units.read_posterior(own_work, planet)
    assert meta["planet_id"] == str(planet) and meta["split"] == "train" and meta["origin"] == "physics" and meta["data"] == "Ariel Data Challenge"
    assert (meta["star_radius_rsun"], meta["listed_period_d"]) == (star.rs, star.period_d)
    assert (meta["t0_h"], meta["a_rs"], meta["n_visits"]) == (posterior.nuisance["t0_h"], posterior.nuisance["a_rs"], len(posterior.nuisance["t0_h"]))
    assert meta["b"]**2 == pytest.approx(max(posterior.nuisance["b2"], 0), abs=1e-15)
    config = settings(sky, own_work, f"predict.checkpoint={prior}")
    assert meta["prior_sha256"] == sha256_file(prior) and meta["config_sha256"] == stages.submission_info(config)["config_sha256"]
    assert shell(planet, "--format", "taurex", "--out", tmp_path, f"predict.checkpoint={prior}")[1] == str(tmp_path/f"{planet}.dat")   # a folder


def test_a_flagged_planet_gets_the_row_of_the_prior_and_says_so(sky, own_work, shell, settings):
    planet = Challenge(sky).planets("test")[0]
    product = Workplace(Path(own_work)).posterior(planet)
    record, posterior = read_record(product), units.read_posterior(own_work, planet)
    flagged = replace(posterior, quality=posterior.quality | dict(flag=True, reason="doubtful on purpose"))
    Made(record["inputs"], record["config_hash"]).keep(product, posterior_arrays(flagged), record["quality"])
    predicted, _ = stages.predict(settings(sky, own_work))
    row = list(predicted.planet_id).index(planet)
    assert predicted.origin[row] == "prior"
    code, out, err = shell(planet, "--format", "netcdf")
    assert code == 0 and "doubtful on purpose" in err and "prior" in err
    depth, error, cov = read_back(Path(out))
    np.testing.assert_array_equal(depth, predicted.mu[row])
    np.testing.assert_array_equal(error, predicted.sigma[row])
    assert np.count_nonzero(cov) == 283 == np.count_nonzero(np.diag(cov))
    import xarray
    with xarray.open_dataset(out) as file:
        assert file.attrs["origin"] == "prior" and file.attrs["flag_reason"] == "doubtful on purpose"
        np.testing.assert_array_equal(file["likelihood_depth"].values, posterior.mean)


def test_refusals_name_the_fault_and_what_to_do(sky, reference, own_work, shell, tmp_path, monkeypatch):
    one, two = Challenge(sky).planets("test")
    def refused(*words, **more):
        code, out, err = shell(*words, **more)
        assert out == "" and "what to do" in err and not list((tmp_path/"work").rglob("exports/*"))
        return code, err
    code, err = refused(987654)
    assert code == 3 and "found 987654, wanted one of the 7 planets" in err
    code, err = refused("kepler-9b")
    assert code == 3 and "kepler-9b" in err
    code, err = refused(one, "fit.starts=5")                                           # a fit, but of other settings
    assert code == 3 and "other settings" in err and "spectramind fit" in err
    code, err = refused(one, work=tmp_path/"empty")
    assert code == 3 and "spectramind fit" in err
    Workplace(own_work).checkpoint.unlink()
    code, err = refused(one)
    assert code == 3 and "no prior" in err and "spectramind predict" in err
    code, err = refused(one, f"predict.checkpoint={tmp_path/'nowhere.json'}")
    assert code == 3 and "nowhere.json" in err
    (tmp_path/"bad.json").write_text("{}")
    code, out, err = shell(one, f"predict.checkpoint={tmp_path/'bad.json'}")
    assert code == 2 and "no spectral prior" in err
    shutil.copy(reference[0]/"artifacts"/"checkpoints"/"prior.json", Workplace(own_work).checkpoint)
    monkeypatch.setitem(sys.modules, "xarray", None)
    code, err = refused(one, "--format", "netcdf")
    assert code == 3 and "spectramind[export]" in err
    curves = Workplace(own_work).airs_bins(two, 0)
    curves.write_bytes(curves.read_bytes() + b"x")                                     # other light curves than those that were fitted
    code, err = refused(two)
    assert code == 3 and "spectramind fit" in err
