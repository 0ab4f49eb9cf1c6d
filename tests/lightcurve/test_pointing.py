"Pointing: known sensitivities come back, calm data pass untouched, glitches are no motion, units and offsets do not matter."
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.nouns import LightCurves
from spectramind.lightcurve.pointing import SEEN, high_pass, pointing_terms, remove_pointing, resample, sensitivities
from spectramind.simulate.curves import Leftovers, simulate_light_curves
from spectramind.simulate.population import draw_population
from spectramind.simulate.visit import Conditions

ROUGH = dict(conditions=Conditions(jitter_scale=3.), left=Leftovers(jitter=1.))
PLANETS = draw_population(8, 11)
ARRAYS = ("flux", "variance", "valid", "time_h", "fgs1_flux", "fgs1_variance", "fgs1_valid", "fgs1_time_h", "centroid", "jitter")


def visit(seed=0, n=240, per=3, noise=1e-4, s_fgs1=(0., 0., 0., 0.), s_airs=0., level=2e5):
    "White noise and a random motion, with known sensitivities per px and px^2; AIRS answers to the row shift alone."
    rng = np.random.default_rng(seed)
    fine = (np.arange(n*per) + .5)*7.5/(n*per)
    centroid = 15.5 + .05*rng.standard_normal((n*per, 2)) + .1*np.sin(fine[:, None]*(.7, 1.1))
    jitter = .02*rng.lognormal(0, .5, (n*per, 2))
    terms, time_h = pointing_terms(centroid, jitter), fine.reshape(n, per).mean(1)
    coarse = resample(fine, terms, time_h)
    fgs1 = level*(1 + terms@s_fgs1)*(1 + noise*rng.standard_normal(n*per))
    flux = level*(1 + coarse[:, :1]*np.broadcast_to(s_airs, 283))*(1 + noise*rng.standard_normal((n, 283)))
    flux[:, 0] = fgs1.reshape(n, per).mean(1)
    return LightCurves(1, 0, flux, np.full(flux.shape, (level*noise)**2), np.ones(flux.shape, bool), time_h,
                       fgs1, np.full(n*per, (level*noise)**2), np.ones(n*per, bool), fine, centroid, jitter)


def same(a, b): return all(np.array_equal(getattr(a, k), getattr(b, k), equal_nan=True) for k in ARRAYS)


# ---------------------------------------------------------------- the parts
def test_known_sensitivities_come_back_within_their_stated_errors():
    wanted, z = np.array([.02, -.01, .3, -.2]), []
    for seed in range(12):
        c = visit(seed, s_fgs1=wanted)
        s, variance, gain = sensitivities(c.fgs1_time_h, (c.fgs1_flux/2e5)[:, None], np.ones((720, 1), bool), pointing_terms(c.centroid, c.jitter))
        assert s.shape == variance.shape == (4, 1) and gain[0] > 1000
        z.append((s[:, 0] - wanted)/np.sqrt(variance[:, 0]))
    z = np.array(z)
    assert np.abs(z).max() < 4.5 and .75 < np.sqrt((z**2).mean()) < 1.35 and np.abs(z.mean(0)).max() < 4/np.sqrt(12)


def test_terms_are_shifts_and_squares_about_their_means():
    centroid, jitter = np.array([[1., 5.], [2., 5.], [6., 5.]]), np.array([[0., .1], [0., .3], [1., .1]])
    rows, columns = np.array([-1., 0., 4.]), np.array([.01, .09, .01])                          # from the medians
    squares = rows**2 + [0., 0., 1.]
    wanted = np.column_stack([rows - 1, np.zeros(3), squares - squares.mean(), columns - columns.mean()])
    np.testing.assert_allclose(pointing_terms(centroid, jitter), wanted, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.integers(1, 6), st.integers(0, 99))
def test_means_around_coarser_times_keep_sums_and_straight_lines(n, per, seed):
    values = np.random.default_rng(seed).normal(size=(n*per, 2))
    fine = np.arange(n*per) + .5
    at = fine.reshape(n, per).mean(1)
    np.testing.assert_allclose(resample(fine, values, at), values.reshape(n, per, 2).mean(1), atol=1e-12)
    np.testing.assert_allclose(resample(fine, fine[:, None], at)[:, 0], at, rtol=1e-12)


def test_a_running_mean_without_the_points_that_do_not_count():
    rng = np.random.default_rng(2)
    x, valid, half = rng.normal(size=(90, 2)), rng.random((90, 2)) < .7, 6
    wanted = np.zeros_like(x)
    for i in range(90):
        for k in range(2):
            near = [x[j, k] for j in range(max(i - half, 0), min(i + half + 1, 90)) if valid[j, k]]
            if valid[i, k]: wanted[i, k] = x[i, k] - np.mean(near)
    np.testing.assert_allclose(high_pass(np.where(valid, x, np.nan), 2*half, valid), wanted, atol=1e-12)
    np.testing.assert_array_equal(high_pass(x, 2*half, np.ones_like(valid)), high_pass(x, 2*half))


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 200), st.integers(3, 25), st.floats(-3, 3), st.floats(-3, 3))
def test_constants_vanish_everywhere_and_lines_away_from_the_ends(n, width, a, b):
    out = high_pass(np.column_stack([np.full(n, a), a + b*np.arange(n)]), width)
    assert np.abs(out[:, 0]).max() < 1e-9 and np.abs(out[width:-width, 1]).max(initial=0) < 1e-9


# ---------------------------------------------------------------- what is removed
def test_known_motion_is_divided_out_of_both_instruments():
    s_airs = np.r_[0., np.linspace(.01, .04, 282)]
    c = visit(3, s_fgs1=(.05, -.02, .5, 0.), s_airs=s_airs)
    after, report = remove_pointing(c)
    assert report["fgs1"] and report["airs"] and report["fgs1_gain"] > 1000 and report["airs_excess"] > 100
    assert np.std(after.fgs1_flux)/2e5 == pytest.approx(1e-4, rel=.08) and np.std(c.fgs1_flux)/2e5 > 1e-3
    assert np.std(after.flux[:, 1:]/2e5) == pytest.approx(1e-4, rel=.08) and np.std(c.flux[:, 1:]/2e5) > 8e-4
    assert np.std(after.flux[:, 0])/2e5 < 1e-4 and np.array_equal(after.variance, c.variance) and np.array_equal(after.valid, c.valid)


def test_nothing_is_changed_in_place():
    c = visit(3, s_fgs1=(.05, 0., 0., 0.), s_airs=.3)
    before = {k: getattr(c, k).copy() for k in ARRAYS}
    remove_pointing(c)
    assert all(np.array_equal(before[k], getattr(c, k)) for k in ARRAYS)


@pytest.mark.parametrize("planet", [0, 2, 5])
def test_a_rough_visit_improves_and_airs_is_not_harmed(planet):
    rough, still = (simulate_light_curves(PLANETS[planet], 11, conditions=Conditions(jitter_scale=3.), left=Leftovers(jitter=j))[0] for j in (1., 0.))
    after, report = remove_pointing(rough)
    def error(a, b): return (a/b/np.median(a/b, 0) - 1).std(0)
    assert report["fgs1"] and error(after.fgs1_flux, still.fgs1_flux) < .3*error(rough.fgs1_flux, still.fgs1_flux)
    assert error(after.flux[:, 0], still.flux[:, 0]) < .5*error(rough.flux[:, 0], still.flux[:, 0])
    was, now = (np.sqrt((error(c.flux[:, 1:], still.flux[:, 1:])**2).mean()) for c in (rough, after))
    assert now <= 1.02*was


@pytest.mark.parametrize("planet", range(4))
def test_calm_visits_pass_bit_for_bit(planet):
    calm = simulate_light_curves(PLANETS[planet], 20 + planet, time_bins=141, left=Leftovers(jitter=0.))[0]
    after, report = remove_pointing(calm)
    assert not report["fgs1"] and not report["airs"] and after is calm


def test_white_noise_hardly_ever_looks_like_motion():
    gains, excesses = [], []
    for seed in range(60):
        c = visit(1000 + seed, n=187)
        after, report = remove_pointing(c)
        assert after is c, seed
        gains.append(report["fgs1_gain"]); excesses.append(report["airs_excess"])
    assert 3.2 < np.mean(gains) < 5 and max(gains) < SEEN/1.5             # chi2 with four degrees of freedom
    assert abs(np.mean(excesses)) < 2 and np.max(excesses) < 6            # without the running mean's share of the noise it is 3.5 on average


# ---------------------------------------------------------------- what must not matter
def test_glitches_do_not_pass_for_motion():
    for sign in (1, -1):
        c = visit(5)
        at = np.argsort(np.abs(c.centroid[:, 0] - 15.5))[-6:]              # where the telescope moved most
        flux = c.fgs1_flux.copy(); flux[at] *= 1 + sign*.02
        airs = c.flux.copy(); airs[at//3, 1:] *= 1 + sign*.02
        spoiled = replace(c, fgs1_flux=flux, flux=airs)
        after, report = remove_pointing(spoiled)
        assert not report["fgs1"] and not report["airs"] and after is spoiled


def test_a_glitch_does_not_hide_or_change_real_motion():
    c = visit(6, s_fgs1=(.05, 0., 0., 0.))
    flux = c.fgs1_flux.copy(); flux[300] *= 1.02
    clean, spoiled = remove_pointing(c)[0], remove_pointing(replace(c, fgs1_flux=flux))[0]
    keep = np.abs(np.arange(720) - 300) > 40                              # the running mean spreads it over half an hour
    ratio = spoiled.fgs1_flux/clean.fgs1_flux
    assert np.abs(ratio[keep] - 1).max() < 1e-4 and ratio[300] == pytest.approx(1.02, rel=1e-4)


def test_lost_centroids():
    c = visit(7, s_fgs1=(.05, 0., 0., 0.))
    assert remove_pointing(replace(c, centroid=np.full_like(c.centroid, np.nan)))[0].fgs1_flux is c.fgs1_flux
    lost = np.arange(720) % 7 == 0
    for name in ("centroid", "jitter"):
        holes = getattr(c, name).copy(); holes[lost, 1] = np.nan           # one coordinate is enough
        spoiled = replace(c, **{name: holes})
        assert (pointing_terms(spoiled.centroid, spoiled.jitter)[lost] == 0).all()
        after, report = remove_pointing(spoiled)
        assert report["fgs1"] and np.isfinite(after.fgs1_flux).all() and np.array_equal(after.fgs1_flux[lost], c.fgs1_flux[lost])
        assert np.std(after.fgs1_flux[~lost]) < .4*np.std(c.fgs1_flux[~lost])   # not all of it: a lost time counts as the mean motion


def test_points_that_do_not_count_have_no_say():
    c = visit(8, s_fgs1=(.05, 0., 0., 0.), s_airs=.3)
    bad_fine, bad = np.arange(720) % 11 == 3, np.zeros((240, 283), bool)
    bad[5::17] = True
    results = []
    for value in (np.nan, -1e9, 1e12):
        spoiled = replace(c, fgs1_flux=np.where(bad_fine, value, c.fgs1_flux), fgs1_valid=~bad_fine,
                          flux=np.where(bad, value, c.flux), valid=~bad)
        after, report = remove_pointing(spoiled)
        assert report["fgs1"] and report["airs"]
        results.append((after.fgs1_flux[~bad_fine], after.flux[~bad], report))
    assert all(np.array_equal(r[0], results[0][0]) and np.array_equal(r[1], results[0][1]) and r[2] == results[0][2] for r in results[1:])
    assert np.std(results[0][0])/2e5 < 1.1e-4


def test_a_flux_that_counts_but_is_no_number_costs_only_itself():
    c = visit(8, s_fgs1=(.05, 0., 0., 0.))
    flux = c.fgs1_flux.copy(); flux[100] = np.nan
    after, report = remove_pointing(replace(c, fgs1_flux=flux))
    assert report["fgs1"] and np.isnan(after.fgs1_flux).sum() == 1 and np.nanstd(after.fgs1_flux)/2e5 < 1.1e-4


@settings(max_examples=15, deadline=None)
@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(1e-3, 1e6), st.integers(0, 5))
def test_neither_the_origin_of_the_centroid_nor_the_unit_of_flux_matters(row, column, unit, seed):
    c = visit(seed, n=100, s_fgs1=(.03, -.02, .4, 0.), s_airs=.2)
    plain, report = remove_pointing(c)
    assert report["fgs1"] and report["airs"]
    moved, told = remove_pointing(replace(c, centroid=c.centroid + (row, column)))
    assert told["fgs1"] and np.allclose(moved.fgs1_flux, plain.fgs1_flux, rtol=1e-9) and np.allclose(moved.flux, plain.flux, rtol=1e-9)
    scaled, told = remove_pointing(replace(c, flux=c.flux*unit, fgs1_flux=c.fgs1_flux*unit))
    assert told == report and np.allclose(scaled.fgs1_flux, unit*plain.fgs1_flux, rtol=1e-9) and np.allclose(scaled.flux, unit*plain.flux, rtol=1e-9)


def test_short_and_dark_visits_are_left_alone():
    short = visit(9, n=19, s_fgs1=(.05, 0., 0., 0.))
    assert remove_pointing(short) == (short, dict(fgs1_gain=0., airs_excess=0., fgs1=False, airs=False))
    c = visit(9, s_fgs1=(.05, 0., 0., 0.), s_airs=.3)
    blind = replace(c, fgs1_valid=np.zeros(720, bool))
    after, report = remove_pointing(blind)
    assert not report["fgs1"] and report["airs"] and after.fgs1_flux is c.fgs1_flux and np.array_equal(after.flux[:, 0], c.flux[:, 0])
    dark = replace(c, flux=np.zeros_like(c.flux), fgs1_flux=np.zeros_like(c.fgs1_flux))
    assert same(remove_pointing(dark)[0], dark)
