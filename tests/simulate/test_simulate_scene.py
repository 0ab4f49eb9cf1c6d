"""Optics, pointing and drift: values that do not teach, but must hold."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import UsageError
from spectramind.simulate.scene import (OVERSAMPLE, bin_pixels, draw_drift, draw_optics, draw_pointing, nominal_throughput, planck_photons, shift_fine,
                                        shift_moments, stellar_rate, taylor_images, taylor_powers)


def test_planck_is_the_textbook_ratio():
    # photons per wavelength at 0.7 and 2.5 um for 5,000 K, worked out by hand: (2.5/.7)^4 * expm1(1.15102)/expm1(4.11079)
    assert planck_photons(np.array([.7]), 5000.)[0] == pytest.approx((2.5/.7)**4*np.expm1(14387.77/12500)/np.expm1(14387.77/3500), rel=1e-12)
    assert planck_photons(np.array([2.5]), 4200.)[0] == 1.


def test_throughput_reproduces_its_anchors():
    um = np.array([2.07, 3.06, 3.895])
    assert 4.5*nominal_throughput(um)*planck_photons(um, 4798.) == pytest.approx([139e3, 38.7e3, 5.5e3], rel=1e-9)


@pytest.mark.parametrize('name', ['FGS1', 'AIRS-CH0'])
def test_optics_are_normalised_and_differ_with_the_seed(name):
    one, two, again = draw_optics(name, 1), draw_optics(name, 2), draw_optics(name, 1)
    assert one.psf.sum() == pytest.approx(1. if name == 'FGS1' else 356., rel=1e-9)
    assert np.array_equal(one.psf, again.psf) and np.array_equal(one.throughput, again.throughput)
    assert abs(one.psf - two.psf).max() > 1e-4*one.psf.max() and not np.allclose(one.throughput, two.throughput, rtol=1e-3)
    assert stellar_rate(one, 5000., 2.) == pytest.approx(2*stellar_rate(one, 5000., 1.), rel=1e-12)


def test_airs_is_red_end_first():
    optics = draw_optics('AIRS-CH0', 1)
    assert optics.wavelength_um[0] > 4 and optics.wavelength_um[-1] < 1.7
    assert stellar_rate(optics, 5000., 1.)[300] > 5*stellar_rate(optics, 5000., 1.)[60]


@settings(deadline=None, max_examples=8)
@given(st.floats(-.2, .2), st.floats(-.2, .2))
def test_taylor_series_matches_the_shifted_image(x, y):
    optics = draw_optics('FGS1', 3)
    response = np.ones(optics.psf.shape)
    series = sum(image*x**i*y**j for image, (i, j) in zip(taylor_images(optics, response, np.array([1.]), 4), taylor_powers(4)))
    exact = bin_pixels(shift_fine(optics.psf, x, y))
    assert abs(series - exact).max() < 1e-3*exact.max() and series.sum() == pytest.approx(1., abs=1e-6)


def test_airs_series_moves_the_centre_of_light():
    optics = draw_optics('AIRS-CH0', 3)
    images = taylor_images(optics, np.ones(optics.psf.shape), np.ones(356), 2)
    rows = np.arange(32)[:, None]
    moved = images[0] + .1*images[1] + .01*images[3]
    # light that leaves the frame at one edge comes back at the other, so a little less than a tenth of a pixel
    assert ((rows*moved).sum(0)/moved.sum(0) - (rows*images[0]).sum(0)/images[0].sum(0)) == pytest.approx(.1, abs=.012)


def test_dispersion_shift_moves_light_to_higher_columns():
    optics = draw_optics('AIRS-CH0', 3)
    rate = np.exp(-.5*((np.arange(356) - 200)/8.)**2)
    images = taylor_images(optics, np.ones(optics.psf.shape), rate, 2).sum(1)
    moved = images[0] + .2*images[2] + .04*images[5]
    # `psf*rate` is what moves, so compare with the shifted curve (columns share nearly the same total)
    assert moved == pytest.approx(np.exp(-.5*((np.arange(356) - 200.2)/8.)**2), abs=2e-3)


def test_moments_equal_a_plain_loop():
    pointing = draw_pointing(np.random.default_rng(0), 4*3*5)
    fast = shift_moments(pointing, 5, 3, 4, 1, 4)
    for pair in range(5):
        for k, (i, j) in enumerate(taylor_powers(4)):
            steps = [[(pair*3 + ramp)*4 + which for ramp in range(3)] for which in (0, 1)]
            for which in (0, 1):
                assert fast[which, k, pair] == pytest.approx(np.mean([pointing[0, s]**i*pointing[1, s]**j for s in steps[which]]), rel=1e-9, abs=1e-15)


def test_pointing_statistics_and_bursts():
    calm = draw_pointing(np.random.default_rng(1), 270_000)
    assert calm.std(1) == pytest.approx([.111, .092], rel=.03)
    rough = draw_pointing(np.random.default_rng(1), 270_000, bursts=2)
    changed = (rough != calm).any(0)
    assert 600 < changed.sum() < 9000 and abs(rough[:, changed]).mean() > 1.6*abs(calm[:, changed]).mean()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(1e-5, 1e-2))
def test_drift_has_the_wanted_range_and_rank_one(seed, size):
    f, g = draw_drift(np.random.default_rng(seed), np.linspace(0, 1, 50), np.linspace(0, 1, 40), size)
    z = np.multiply.outer(f, g)
    assert np.ptp(z) == pytest.approx(size, rel=1e-9) and np.linalg.matrix_rank(z, tol=1e-9*size) == 1


def test_fgs1_drift_is_a_function_of_time():
    f, g = draw_drift(np.random.default_rng(0), np.linspace(0, 1, 50), np.zeros(1), 1e-3)
    assert np.ptp(f*g[0]) == pytest.approx(1e-3, rel=1e-9)


def test_unknown_instrument():
    with pytest.raises(UsageError, match='NIRSpec'): draw_optics('NIRSpec', 0)


def test_fine_grid():
    assert OVERSAMPLE == 8 and bin_pixels(np.ones((256, 256))).tolist() == [[64.]*32]*32
