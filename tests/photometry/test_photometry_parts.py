import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectramind.core.errors import UsageError
from spectramind.photometry.airs import edge_rows, optimal_weights, slit_templates, slit_weights, spatial_profile
from spectramind.photometry.background import regress_edge, smooth_foreground
from spectramind.photometry.binning import bin_edges, bin_series, bin_series_ref, find_outliers, find_outliers_ref, overlap_mean
from spectramind.photometry.fgs1 import aperture_weights, edge_weights, fill_holes, psf_templates, template_weights
from spectramind.photometry.jitter import (calm_frames, decorrelate, decorrelate_ref, fast_part, hold_last, hold_last_ref, running_mean, running_mean_ref,
                                           shift_polynomial)


def test_horne_weights_by_hand():
    profile, variance = np.array([[.2], [.5], [.3]]), np.array([[4.], [10.], [3.]])
    weights, left = optimal_weights(profile, variance, np.array([[False], [False], [False]]), share=1.)
    norm = .04/4 + .25/10 + .09/3
    np.testing.assert_allclose(weights[:, 0], np.array([.05, .05, .1])/norm)
    assert left == [1.]
    weights, left = optimal_weights(profile, variance, np.array([[False], [True], [False]]), share=1.)
    assert weights[1, 0] == 0 and np.isclose((weights*profile).sum(), 1) and np.isclose(left[0], .04/.065)


def test_no_other_unbiased_sum_has_less_noise():
    rng = np.random.default_rng(1)
    profile = rng.dirichlet(np.ones(32), 5).T
    variance, none = profile*1e4 + 338, np.zeros((32, 5), bool)
    weights, _ = optimal_weights(profile, variance, none, share=1.)
    best = (weights**2*variance).sum(0)
    for _ in range(20):
        other = weights*rng.uniform(.8, 1.2, weights.shape)
        other /= (other*profile).sum(0)
        assert ((other**2*variance).sum(0) > best).all()


def test_columns_and_frames_without_any_good_pixel():
    mean, bad = np.ones((32, 4)), np.zeros((32, 4), bool)
    bad[:, 2] = True
    profile = spatial_profile(np.where(bad, np.nan, mean), bad)
    assert np.isfinite(profile).all()
    weights, left = optimal_weights(profile, mean, bad)
    assert not weights[:, 2].any() and left[2] == 0 and weights[:, 1].any()
    rows, share = slit_weights(slit_templates(profile), mean, bad, np.ones(4))
    assert np.isfinite(rows).all() and (share[:, 2] == 0).all() and edge_rows(profile, mean, bad)[:, 2].sum() == 0
    with pytest.raises(UsageError): spatial_profile(mean, np.ones_like(bad))
    with pytest.raises(UsageError): aperture_weights(np.ones((32, 32))/1024, np.ones((32, 32)), np.ones((32, 32), bool))
    with pytest.raises(UsageError): fill_holes(np.ones((3, 3)), np.ones((3, 3), bool))
    assert edge_weights(np.ones((32, 32))/1024, np.ones((32, 32)), np.ones((32, 32), bool)).sum() == 0


def test_centroid_weights_are_blind_to_flux_and_foreground():
    r, c = np.indices((32, 32)) - 15.4
    profile = np.exp(-(r**2/4 + c**2/3)/1.5)
    profile /= profile.sum()
    rows, _ = template_weights(psf_templates(profile), profile*2e5 + 338, np.zeros((32, 32), bool))
    for frame in (profile*1e5, np.full((32, 32), 40.)):
        measured = (rows*frame).sum((1, 2))
        assert abs(measured[2:]).max() < 1e-6*frame.sum()


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 200), st.integers(1, 60))
def test_running_mean_is_the_mean_and_keeps_lines(times, window):
    series = np.random.default_rng(times).normal(1e6, 1, times)
    half = np.minimum(np.minimum(np.arange(times), np.arange(times)[::-1]), window//2)
    np.testing.assert_allclose(running_mean(series, window), [series[t - h:t + h + 1].mean() for t, h in enumerate(half)], rtol=1e-12)
    line = np.linspace(-3, 5, times)
    assert abs(fast_part(line, window)).max() < 1e-9


def test_decorrelation_leaves_an_unrelated_transit_alone_and_ignores_wild_samples():
    rng = np.random.default_rng(3)
    n = 20_000
    phase = np.linspace(-1, 1, n)
    transit = 1 - .09*(abs(phase) < .4)
    shift = rng.normal(0, .1, (2, n)) + .1*np.exp(-phase**2)
    flux = 1e5*np.array([transit, transit*(1 + .05*shift[0])])
    flux[:, 500] *= 3
    valid = np.ones(flux.shape, bool)
    valid[1, 700:720] = False
    flux[1, 700:720] = np.nan
    clean, coefficients = decorrelate(flux, valid, shift_polynomial(shift, 2), 201, calm=calm_frames(flux[0], np.full(n, 1e2), 201))
    inside, outside = abs(phase) < .35, (abs(phase) > .45) & (np.arange(n) > 800)
    for series in clean: assert abs(1 - np.median(series[inside])/np.median(series[outside]) - .09) < 2e-6
    assert abs(coefficients[1, 0] - .05) < 5e-4 and abs(coefficients[0]).max() < 1e-4
    assert np.isnan(clean[1, 700:720]).all()


@settings(deadline=None, max_examples=10)
@given(st.floats(.01, .3), st.integers(0, 1000))
def test_no_transit_is_ever_an_outlier(depth, seed):
    rng = np.random.default_rng(seed)
    time = np.linspace(-3.7, 3.7, 1500)
    flux = (1 - depth*np.clip((1.5 - abs(time))/.1, 0, 1))*(1 + rng.normal(0, 1e-4, 1500))
    found = find_outliers(flux[None], np.full((1, 1500), 1e-8), np.ones((1, 1500), bool))
    contact = np.minimum(abs(abs(time) - 1.5), abs(abs(time) - 1.4))
    assert not found[0, contact > .02].any()


def test_bins_by_hand():
    assert bin_edges(10, 4).tolist() == [0, 4, 8, 10] and bin_edges(9, 4).tolist() == [0, 4, 8] and bin_edges(3, 1).tolist() == [0, 1, 2, 3]
    flux = np.array([[-1., 3., np.nan, 5.], [1., 1., 1., 1.]])
    valid = np.array([[True]*4, [False, False, True, True]])
    mean, variance, ok = bin_series(flux, np.full((2, 4), 2.), valid, np.array([0, 2, 4]))
    assert mean.tolist() == [[1., 5.], [1., 1.]] and variance.tolist() == [[1., 2.], [np.inf, 1.]] and ok.tolist() == [[True, True], [False, True]]


def test_overlap_mean_shares_straddling_samples():
    mean, variance, ok = overlap_mean(np.array([1., 2., 3., 4.]), np.ones(4), np.ones(4, bool), np.array([.5, 1.5, 2.5, 3.5]), np.array([0., 1.5]), np.array([1.5, 3.]))
    np.testing.assert_allclose(mean, [(1 + 1)/1.5, (1 + 3)/1.5])
    np.testing.assert_allclose(variance, 1/1.5)
    assert ok.all()


def test_foreground_is_never_negative_nor_brighter_than_the_edge():
    rng = np.random.default_rng(8)
    wavelength = np.linspace(1.95, 3.9, 50)
    for level in (-30., 0., 5., 500.):
        mean, spread = smooth_foreground(rng.normal(level, 2., 50), np.full(50, 2.), wavelength, np.full(50, 20.))
        assert mean.min() >= 0 and mean.max() <= 20 and (spread > 0).all()
    undecided = smooth_foreground(np.zeros(50), np.full(50, np.inf), wavelength, np.full(50, 12.))
    assert not undecided[0].any() and np.allclose(undecided[1], 12/np.sqrt(12))


def test_without_a_transit_nothing_is_taken_for_foreground():
    rng = np.random.default_rng(2)
    star, wing = 1e5, 1e-3
    core, edge = star + rng.normal(0, 300, (20, 900)), 100. + wing*star + rng.normal(0, 5, (20, 900))
    found, error = regress_edge(core, edge, np.full(20, 25.), np.full(20, 9e4), running_mean(core.sum(0), 51), np.full(20, 9.), np.ones(900, bool))
    mean, spread = smooth_foreground(found, error, np.linspace(2, 4, 20), edge.mean(1))
    assert (mean < 100).all() and (mean + 4*spread > 0).all() and (error > 20).all()
    with pytest.raises(UsageError): regress_edge(core, edge[:, 1:], np.ones(20), np.ones(20), core[0], np.ones(20), np.ones(900, bool))


def broken_series(seed, groups=5, times=400):
    "Series with outliers, gaps, infinite variances, one that never counts and one without noise."
    rng = np.random.default_rng(seed)
    flux = 1e5*(1 + rng.normal(0, 3e-3, (groups, times))*rng.choice([.1, 1., 5.], (groups, 1)))
    flux[rng.random(flux.shape) < .02] *= 1.2
    flux[rng.random(flux.shape) < .02] = np.nan
    flux[-1] = 7.
    variance = np.where(rng.random(flux.shape) < .02, np.inf, rng.choice([0., 1e2, 1e5], (groups, 1)))
    valid = rng.random(flux.shape) > .1
    valid[:, :rng.integers(0, 9)] = valid[1] = False
    return flux, variance, valid


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(7, 400), st.sampled_from([1., 3., 6., 18.]), st.integers(1, 3))
def test_outliers_and_bins_are_those_of_the_plain_versions(seed, times, sigma, half):
    flux, variance, valid = broken_series(seed, times=times)
    assert np.array_equal(find_outliers(flux, variance, valid, sigma, half), find_outliers_ref(flux, variance, valid, sigma, half))
    for size in (1, 5):
        fast, slow = (bins(flux, variance, valid, bin_edges(times, size)) for bins in (bin_series, bin_series_ref))
        for a, b in zip(fast, slow): np.testing.assert_allclose(a, b, rtol=1e-13)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from([1, 9, 51, 1001]))
def test_series_kernels_are_the_plain_versions(seed, times, window):
    flux, _, valid = broken_series(seed, times=times)
    valid &= np.isfinite(flux)
    held = hold_last(flux, valid)
    assert np.array_equal(held, hold_last_ref(flux, valid))
    for series in (held, held[0], held[None]): assert np.array_equal(running_mean(series, window), running_mean_ref(series, window))
    assert np.array_equal(running_mean(np.arange(times), window), running_mean_ref(np.arange(times)*1., window))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.booleans())
def test_decorrelation_is_the_plain_version(seed, calm):
    rng = np.random.default_rng(seed)
    flux, _, valid = broken_series(seed, times=700)
    args = flux, valid, shift_polynomial(rng.normal(0, .1, (2, 700)), 2), 51, 5., (rng.random(700) > .1 if calm else None)
    for a, b in zip(decorrelate(*args), decorrelate_ref(*args)): np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_series_kernels_give_the_same_bits_for_any_number_of_threads():
    flux, variance, valid = broken_series(8, groups=40, times=3000)
    terms = shift_polynomial(np.random.default_rng(8).normal(0, .1, (2, 3000)), 3)
    before, results = numba.get_num_threads(), []
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            held = hold_last(flux, valid & np.isfinite(flux))
            results.append([held, running_mean(held, 51), *decorrelate(flux, valid, terms, 51), find_outliers(flux, variance, valid, 3.),
                            *bin_series(flux, variance, valid, bin_edges(3000, 7))])
    finally: numba.set_num_threads(before)
    for a, b in zip(*results): assert np.array_equal(a, b, equal_nan=a.dtype == float)
