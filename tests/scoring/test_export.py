"Every format gives back the same bits, through readers that are not ours."
import errno
import subprocess
import sys

import numpy as np
import pytest

from spectramind.challenge.planets import StarRow
from spectramind.challenge.wavelength import default_wavelengths
from spectramind.core import store
from spectramind.core.errors import UsageError
from spectramind.core.nouns import DepthPosterior
from spectramind.scoring.export import (FORMATS, FinalSpectrum, bin_edges, describe, ecsv_table, ecsv_text, ending_of, taurex_rows, taurex_text,
                                        write_export, xarray_dataset)

ID = 4294092928   # more than 32 bits


def made_up(seed=0, origin="physics", **quality):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(283, 40))*1e-5
    cov = factor@factor.T + np.diag(rng.uniform(1e-5, 9e-5, 283)**2)
    posterior = DepthPosterior(ID, .0147 + 1e-4*rng.normal(size=283), 4*cov, dict(t0_h=[3.4, 3.9], t0_sd_h=[1e-4, 2e-4], a_rs=11.8, a_rs_sd=None, b2=.09, b2_sd=1e-5), {}, dict(reason="", **quality))
    star = StarRow(ID, rs=1.03, ms=1.01, ts_k=5745., mp=.8, e=0., period_d=4.31, a_rs=11.6, inc_deg=88.4)
    return FinalSpectrum(ID, .0147 + 1e-4*rng.normal(size=283), cov, origin, posterior, describe(posterior, star, origin, data="a\nb: \"µ\"", n_visits=2))


@pytest.fixture(scope="module")
def spectrum(): return made_up()


def test_bins_touch_hold_their_centres_and_leave_the_gap_between_the_instruments_open():
    um, edges = default_wavelengths(), bin_edges(default_wavelengths())
    assert edges.shape == (283, 2) and edges[0].tolist() == [.6, .8]
    assert (edges[1:-1, 1] == edges[2:, 0]).all() and ((edges[:, 0] < um) & (um < edges[:, 1])).all()
    assert edges[0, 1] < 1.94 < edges[1, 0] < um[1] - .004
    np.testing.assert_allclose(edges[1:].mean(1), um[1:], atol=4e-6)
    np.testing.assert_allclose(edges[1:].mean(1)[[0, -1]], um[[1, -1]], atol=1e-15)      # the ends reach as far to both sides
    for wrong in (um[1:], um[::-1], np.r_[.5, um[1:]], np.r_[um[:-1], np.nan]):
        with pytest.raises(UsageError, match="wanted 283 ascending"): bin_edges(wrong)


def test_ecsv_comes_back_bit_by_bit_with_units(spectrum, tmp_path):
    from astropy.table import QTable
    table = QTable.read(write_export(tmp_path/"x.ecsv", spectrum, "ecsv"))
    assert table.colnames == ["wavelength", "bin_low", "bin_high", "depth", "depth_err", "covariance"]
    assert [str(table[name].unit) for name in table.colnames] == ["um"]*3 + [""]*3
    np.testing.assert_array_equal(table["covariance"].value, spectrum.cov)
    np.testing.assert_array_equal(table["depth"].value, spectrum.mu)
    np.testing.assert_array_equal(table["depth_err"].value, np.sqrt(np.diag(spectrum.cov)))
    np.testing.assert_array_equal(np.stack([table["bin_low"].to_value("um"), table["bin_high"].to_value("um")], 1), bin_edges(default_wavelengths()))
    assert table.meta == spectrum.meta and table.meta["planet_id"] == str(ID) and table.meta["data"] == 'a\nb: "µ"'
    assert table["depth"].info.description == ecsv_table(spectrum)["depth"].info.description == "(Rp/Rs)^2"
    assert ecsv_text(spectrum).startswith("# %ECSV 1.0\n")


def test_netcdf_comes_back_bit_by_bit_and_follows_the_conventions(spectrum, tmp_path):
    import xarray
    from scipy.io import netcdf_file
    path = write_export(tmp_path/"x.nc", spectrum, "netcdf")
    with xarray.open_dataset(path, decode_coords="all") as file: back = file.load()
    for name, value in dict(depth=spectrum.mu, depth_err=spectrum.sigma, covariance=spectrum.cov, likelihood_depth=spectrum.likelihood.mean,
                            likelihood_covariance=spectrum.likelihood.cov, wavelength=default_wavelengths(), wavelength_bounds=bin_edges(default_wavelengths())).items():
        np.testing.assert_array_equal(back[name].values, value)
    assert back.covariance.dims == back.likelihood_covariance.dims == ("bin", "bin_") and set(back.coords) == {"bin", "bin_", "wavelength", "wavelength_bounds"}
    assert float(back.depth.sel(bin=0)) == spectrum.mu[0] and back.attrs["planet_id"] == str(ID) and list(back.attrs["t0_h"]) == [3.4, 3.9]
    xarray.testing.assert_equal(back, xarray_dataset(spectrum).set_coords("wavelength_bounds"))
    with netcdf_file(path, mmap=False) as raw:                                            # as another library sees it
        found = {name: variable._attributes for name, variable in raw.variables.items()}
        assert raw.version_byte == 2 and raw._attributes["Conventions"] == b"CF-1.8"
    assert found["wavelength"] == dict(long_name=b"centre of the bin", units=b"um", standard_name=b"radiation_wavelength", bounds=b"wavelength_bounds")
    assert found["wavelength_bounds"] == {}                                               # limits take their attributes from the coordinate
    assert found["depth"]["coordinates"] == b"wavelength" and found["depth"]["ancillary_variables"] == b"depth_err covariance"
    assert all(a["units"] == b"1" and a["long_name"] for name, a in found.items() if not name.startswith("wavelength"))
    assert not any("_FillValue" in a for a in found.values())


def test_taurex_reads_its_columns_and_order(spectrum, tmp_path):
    from taurex.data.spectrum.observed import ObservedSpectrum
    path = write_export(tmp_path/"x.dat", spectrum, "taurex")
    assert path.read_bytes().isascii()
    um, edges = default_wavelengths(), bin_edges(default_wavelengths())
    observed = ObservedSpectrum(str(path))
    np.testing.assert_array_equal(np.loadtxt(path), taurex_rows(spectrum))
    np.testing.assert_array_equal(observed.rawData, taurex_rows(spectrum))                # it had nothing left to sort
    for found, value in ((observed.wavelengthGrid, um), (observed.spectrum, spectrum.mu), (observed.errorBar, spectrum.sigma)): np.testing.assert_array_equal(found, value[::-1])
    np.testing.assert_allclose(1e4/observed.binEdges.reshape(-1, 2)[::-1, ::-1], edges, atol=4e-6)
    assert f'# planet_id: "{ID}"' in taurex_text(spectrum).splitlines()


@pytest.mark.parametrize("form", FORMATS)
def test_same_bytes_twice_and_nothing_left_of_a_failure(form, spectrum, tmp_path, monkeypatch):
    path = tmp_path/f"x{ending_of(form)}"
    first = write_export(path, spectrum, form).read_bytes()
    assert write_export(tmp_path/"again", spectrum, form).read_bytes() == first
    (tmp_path/"again").unlink()
    def no_space(*_): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(store, "_sync", no_space)
    with pytest.raises(OSError, match="No space left"): write_export(path, made_up(1), form)
    assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("form, module", [("ecsv", "astropy"), ("netcdf", "xarray")])
def test_a_missing_library_is_named_and_nothing_is_written(form, module, spectrum, tmp_path, monkeypatch):
    for name in [m for m in sys.modules if m.partition(".")[0] == module]: monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"no library {module}") as caught: write_export(tmp_path/"x", spectrum, form)
    assert "spectramind[export]" in caught.value.hint and caught.value.exit_code == 3 and not list(tmp_path.iterdir())
    assert ending_of("taurex") == ".dat" and write_export(tmp_path/"y.dat", spectrum, "taurex").is_file()


def test_what_cannot_be_a_result_is_refused():
    good = made_up()
    cov = good.cov.copy()
    cov[3, 4] *= 1.001
    negative = good.cov - np.diag(np.r_[2*good.cov[0, 0], np.zeros(282)])
    for mu, wrong, message in ((good.mu[1:], good.cov, "wanted 283 bins"), (good.mu, good.cov[1:], "wanted 283 bins"), (np.r_[np.nan, good.mu[1:]], good.cov, "not finite"),
                               (good.mu, cov, "not symmetric"), (good.mu, negative, "not symmetric")):
        with pytest.raises(UsageError, match=message): FinalSpectrum(ID, mu, wrong, "physics", good.likelihood)
    with pytest.raises(UsageError, match="origin: found 'guess'"): describe(good.likelihood, None, "guess")
    with pytest.raises(UsageError, match="wanted one of ecsv, netcdf, taurex"): ending_of("fits")


def test_facts_say_what_is_known_and_leave_out_what_is_not():
    meta = made_up().meta
    assert meta["b"] == .3 and meta["star_temperature_k"] == 5745. and meta["listed_a_rs"] == 11.6 and meta["a_rs"] == 11.8
    assert "a_rs_sd" not in meta and meta["origin"] == "physics" and meta["flag_reason"] == "none"
    assert "not trusted" in made_up(origin="prior").meta["origin_note"]


def test_the_package_imports_without_the_optional_libraries():
    code = "import sys, spectramind.scoring.export, spectramind.pipeline.stages; print(sorted({'astropy', 'xarray', 'taurex', 'pandas', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
