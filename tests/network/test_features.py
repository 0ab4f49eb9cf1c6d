"Features: shapes, gaps, visits, units, and what has no business in them."
from dataclasses import fields, replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import DataError
from spectramind.lightcurve.fit import FitConfig, fit_planet
from spectramind.lightcurve.pointing import remove_pointing
from spectramind.network import features as F
from spectramind.simulate.curves import Leftovers, simulate_light_curves
from spectramind.simulate.population import draw_population
from spectramind.simulate.visit import Conditions

ROUGH = dict(time_bins=90, conditions=Conditions(jitter_scale=2.), left=Leftovers(jitter=1.))
ARRAYS = ("series", "series_valid", "nodes", "planet")


def made(planet, **more):
    curves = simulate_light_curves(planet, 11, **ROUGH | more)
    return planet, curves, fit_planet(curves, planet.star, FitConfig(pointing=False))


@pytest.fixture(scope="module")
def sample():
    "Planets with one, two and three visits."
    one, two, three = draw_population(3, 11)
    return [made(replace(p, t0_h=(p.t0_h[0],) + (p.t0_h[0] + .3,)*(n - 1))) for n, p in enumerate((one, two, three), 1)]


def examples(rows, labels=True):
    looks = [F.look_at_planet(post, curves, planet.star) for planet, curves, post in rows]
    mu = np.array([post.mean for _, _, post in rows])
    sigma = np.array([np.sqrt(np.diag(post.cov)) for _, _, post in rows])
    return F.stack_examples([post for _, _, post in rows], looks, mu, sigma, np.array([p.depth for p, _, _ in rows]) if labels else None)


def only(row, **more): return [(row[0], [replace(c, **{k: v(c) for k, v in more.items()}) for c in row[1]], row[2])]


def finite(e): return all(np.isfinite(getattr(e, k)).all() for k in ARRAYS)


# ---------------------------------------------------------------- shapes and visits
def test_shapes_types_and_names(sample):
    e = examples(sample)
    assert e.series.shape == (3, F.N_STEPS, len(F.CHANNELS)) and e.series_valid.shape == (3, F.N_STEPS) and e.nodes.shape == (3, 283, len(F.NODE_FEATURES))
    assert e.planet.shape == (3, len(e.names)) and len(set(e.names)) == len(e.names) and len(e) == 3
    assert e.series.dtype == e.nodes.dtype == e.planet.dtype == np.float32 and e.series_valid.dtype == bool and e.mu.dtype == e.label.dtype == np.float64
    assert finite(e) and (e.nodes[:, 0, 0] == 1).all() and (e.nodes[:, 1:, 0] == 0).all()
    assert e.planet[:, e.names.index("visits")].tolist() == [0, 1, 2]
    assert np.array_equal(e.label, [p.depth for p, _, _ in sample]) and "Examples(" in repr(e) and "<table>" in e._repr_html_()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_visit_gets_its_share_of_the_series(sample, n):
    e = examples(sample[n - 1:n])
    share, inside = F.N_STEPS//n, e.series[0, :, F.CHANNELS.index("inside")]
    bins = len(sample[n - 1][1][0].time_h)
    assert not e.series_valid[0, n*share:].any() and (e.series[0, ~e.series_valid[0]] == 0).all()
    for v in range(n):
        part = slice(v*share, (v + 1)*share)
        assert e.series_valid[0, part].sum() == min(share, bins) and (inside[part] > .5).sum() > 3
        time = e.series[0, part, F.CHANNELS.index("time")][e.series_valid[0, part]]
        assert (np.diff(time) > 0).all()


def test_later_visits_than_four_are_left_out_of_the_series_but_not_of_the_rest(sample):
    planet, curves, post = sample[0]
    looks = [F.look_at_visit(post, curves[0], 0)]*6
    series, valid = F.planet_series(looks, 3.)
    four = F.planet_series(looks[:4], 3.)
    assert np.array_equal(series, four[0]) and np.array_equal(valid, four[1])
    seen, single = F.combined(looks), F.combined(looks[:1])
    np.testing.assert_allclose(seen["noise"], single["noise"]/np.sqrt(6), rtol=1e-12)
    np.testing.assert_allclose(seen["shift"], single["shift"], rtol=1e-9)


def test_other_visits_than_those_of_the_fit_are_refused(sample):
    planet, curves, post = sample[1]
    for wrong in (curves[:1], curves*2, []):
        with pytest.raises(DataError, match=f"planet {planet.planet_id}.*{len(wrong)} light curves for a fit of 2 visits"): F.look_at_planet(post, wrong, planet.star)


# ---------------------------------------------------------------- gaps
def test_gaps_and_numbers_that_are_none(sample):
    row = sample[0]
    plain = examples([row])
    gap = np.zeros(len(row[1][0].time_h), bool); gap[[5, 6, 7, 30, 77]] = True
    holes = np.zeros(row[1][0].flux.shape, bool); holes[::9, 40] = True
    gaps, said = [], []
    for value in (np.nan, np.inf, -1e9):
        e = examples(only(row, flux=lambda c: np.where(gap[:, None] | holes, value, c.flux), valid=lambda c: c.valid & ~gap[:, None] & ~holes))
        assert finite(e)
        gaps.append(e)
        e = examples(only(row, flux=lambda c: np.where(gap[:, None], np.nan, c.flux)))          # not even marked
        assert finite(e); said.append(e)
    assert all(np.array_equal(getattr(e, k), getattr(gaps[0], k)) for e in gaps for k in ARRAYS)
    moved = np.abs(gaps[0].planet - plain.planet)
    assert np.median(moved) < .05 and not np.array_equal(gaps[0].series, plain.series)
    assert all(np.array_equal(getattr(e, "series"), said[0].series) for e in said)


@pytest.mark.parametrize("lost", [[0], [100], list(range(1, 60)), [0, 7, 282]])
def test_wavelengths_without_any_data(sample, lost):
    dead = np.isin(np.arange(283), lost)
    e = examples(only(sample[0], flux=lambda c: np.where(dead, np.nan, c.flux), valid=lambda c: c.valid & ~dead, variance=lambda c: np.where(dead, np.nan, c.variance)))
    plain = examples(sample[:1])
    fit_only = [F.NODE_FEATURES.index(k) for k in ("wavelength", "shape", "pull", "log sigma fit", "log sigma")]
    assert finite(e) and np.array_equal(e.nodes[0][:, fit_only], plain.nodes[0][:, fit_only])
    light = F.NODE_FEATURES.index("log light")
    assert np.array_equal(e.nodes[0, ~dead, light], plain.nodes[0, ~dead, light]) and len(np.unique(e.nodes[0, dead, light])) == 1


@pytest.mark.parametrize("lost", [0, 100])
def test_a_wavelength_lost_in_one_of_two_visits(lost):
    "What the good visit saw is kept; numerical dust of the other one has no weight."
    planet = draw_population(3, 11)[1]
    planet, curves, post = made(replace(planet, t0_h=(planet.t0_h[0], planet.t0_h[0] + .3)))
    dead = np.arange(283) == lost
    bad = replace(curves[0], flux=np.where(dead, np.nan, curves[0].flux), valid=curves[0].valid & ~dead, variance=np.where(dead, np.nan, curves[0].variance))
    look, good = F.look_at_visit(post, bad, 0), F.look_at_visit(post, curves[1], 1)
    assert look["sd"][lost] == np.inf and np.isnan(look["statistics"][lost]).all() and np.isfinite(look["statistics"][~dead]).all()
    seen, both = F.combined([look, good]), F.combined([F.look_at_visit(post, curves[0], 0), good])
    for k in ("shift", "scatter", "level", "noise"):
        assert seen[k][lost] == pytest.approx(good[k][lost], rel=1e-12) and np.array_equal(seen[k][~dead], both[k][~dead])
    np.testing.assert_allclose(seen["statistics"][lost], good["statistics"][lost], rtol=1e-12)
    assert finite(examples([(planet, [bad, curves[1]], post)]))


def test_lost_pointing(sample):
    e = examples(only(sample[0], centroid=lambda c: np.full_like(c.centroid, np.nan), jitter=lambda c: np.full_like(c.jitter, np.nan)))
    channels = [F.CHANNELS.index(k) for k in ("row", "column", "row^2", "column^2")]
    beta = [i for i, name in enumerate(e.names) if name.startswith("beta") or name in ("pointing FGS1", "pointing AIRS")]
    assert finite(e) and (e.series[0][:, channels] == 0).all() and np.abs(e.planet[0, beta]).max() < 1e-6


@pytest.mark.parametrize("left", [0, 1, 39])
def test_very_few_bins_are_refused(sample, left):
    planet, curves, post = sample[0]
    few = np.arange(len(curves[0].time_h)) < left
    with pytest.raises(DataError, match=f"planet {planet.planet_id} visit 0.*{left} usable time bins.*at least 40"):
        F.look_at_visit(post, replace(curves[0], valid=curves[0].valid & few[:, None]), 0)
    few = np.arange(len(curves[0].time_h)) < 40
    look = F.look_at_visit(post, replace(curves[0], valid=curves[0].valid & few[:, None]), 0)
    assert len(look["time_h"]) == 40 and np.isfinite(look["series"]).all() and np.isfinite(look["shift"]).all()


def test_one_lost_visit_of_two_stops_the_planet_and_says_which(sample):
    planet, curves, post = sample[1]
    lost = replace(curves[1], valid=np.zeros_like(curves[1].valid))
    with pytest.raises(DataError, match=f"planet {planet.planet_id} visit 1.*0 usable time bins"): F.look_at_planet(post, [curves[0], lost], planet.star)


# ---------------------------------------------------------------- what must not matter
@lru_cache
def at_hand():
    "One planet and its features, for hypothesis, which shares no fixtures."
    row = made(draw_population(1, 5)[0])
    return row, examples([row])


@settings(max_examples=8, deadline=None)
@given(st.floats(.05, 20), st.floats(.05, 20))
def test_the_unit_of_flux_reaches_the_light_features_only(fgs1, airs):
    row, plain = at_hand()
    unit = np.r_[fgs1, np.full(282, airs)]
    e = examples(only(row, flux=lambda c: c.flux*unit, variance=lambda c: c.variance*unit**2, fgs1_flux=lambda c: c.fgs1_flux*fgs1, fgs1_variance=lambda c: c.fgs1_variance*fgs1**2))
    nodes = [i for i, k in enumerate(F.NODE_FEATURES) if "light" not in k]
    planet = [i for i, k in enumerate(e.names) if not k.startswith("light ")]
    assert len(nodes) == len(F.NODE_FEATURES) - 3 and len(planet) == len(e.names) - 1 - F.N_ARRANGE
    np.testing.assert_allclose(e.series, plain.series, atol=2e-4)
    np.testing.assert_allclose(e.nodes[..., nodes], plain.nodes[..., nodes], atol=2e-4, rtol=1e-4)
    np.testing.assert_allclose(e.planet[:, planet], plain.planet[:, planet], atol=2e-4, rtol=1e-4)
    light = F.NODE_FEATURES.index("log light")
    np.testing.assert_allclose((e.nodes - plain.nodes)[0, :, light], np.log(unit), atol=1e-5)


def test_a_planet_is_described_without_the_others(sample):
    together = examples(sample)
    for i in range(3):
        alone = examples(sample[i:i + 1])
        assert all(np.array_equal(getattr(alone, f.name)[0], getattr(together, f.name)[i], equal_nan=f.name == "label") for f in fields(alone) if f.name != "names")
    turned = examples(sample[::-1])
    assert all(np.array_equal(getattr(turned, k)[::-1], getattr(together, k)) for k in ARRAYS)


def test_no_label_enters(sample):
    rng = np.random.default_rng(0)
    with_truth, without = examples(sample), examples(sample, labels=False)
    wrong = [(replace(p, depth=p.depth*rng.uniform(.5, 2, 283)), c, post) for p, c, post in sample]
    other = examples(wrong)
    for e in (without, other): assert all(np.array_equal(getattr(e, k), getattr(with_truth, k)) for k in (*ARRAYS, "mu", "sigma"))
    assert np.isnan(without.label).all() and not np.array_equal(other.label, with_truth.label)


def test_nothing_is_changed_in_place(sample):
    planet, curves, post = sample[2]
    before = [{f.name: np.copy(getattr(c, f.name)) for f in fields(c) if f.name != "meta"} for c in curves], post.mean.copy(), post.cov.copy()
    first, again = examples(sample[2:]), examples(sample[2:])
    assert all(np.array_equal(getattr(first, k), getattr(again, k)) for k in ARRAYS)
    assert all(np.array_equal(b[k], getattr(c, k)) for b, c in zip(before[0], curves) for k in b) and np.array_equal(post.mean, before[1]) and np.array_equal(post.cov, before[2])


# ---------------------------------------------------------------- the table
def test_take(sample):
    e = examples(sample)
    for rows, wanted in (([2, 0], [2, 0]), (np.array([False, True, True]), [1, 2]), (slice(1, 3), [1, 2]), (np.array([], int), [])):
        part = e.take(rows)
        assert len(part) == len(wanted) and part.names == e.names
        assert all(np.array_equal(getattr(part, f.name), getattr(e, f.name)[wanted]) for f in fields(e) if f.name != "names")


def test_refused_tables(sample):
    planet, curves, post = sample[0]
    look, sigma = F.look_at_planet(post, curves, planet.star), np.sqrt(np.diag(post.cov))
    with pytest.raises(DataError, match="no planet"): F.stack_examples([], [], np.zeros((0, 283)), np.zeros((0, 283)))
    for mu, s in ((np.full(283, np.nan), sigma), (post.mean, 0*sigma), (post.mean, np.full(283, np.inf)), (post.mean, -sigma)):
        with pytest.raises(DataError, match="not finite"): F.stack_examples([post], [look], mu[None], s[None])


def test_light_curves_are_seen_as_the_fit_has_seen_them():
    planet = draw_population(8, 11)[3]
    curves = simulate_light_curves(planet, 11, time_bins=141, conditions=Conditions(jitter_scale=3.), left=Leftovers(jitter=1.))
    post = fit_planet(curves, planet.star)
    cleaned, told = remove_pointing(curves[0])
    assert told["fgs1"] and post.quality["pointing"] == [told]
    look = F.look_at_planet(post, curves, planet.star)
    by_hand = F.look_at_planet(replace(post, quality={k: v for k, v in post.quality.items() if k != "pointing"}), [cleaned], planet.star)
    raw = F.look_at_planet(replace(post, quality=dict(post.quality, pointing=[{}])), curves, planet.star)
    assert np.array_equal(look["series"], by_hand["series"]) and not np.array_equal(look["series"], raw["series"])
    assert abs(look["seen"]["shift"][0]) < .5*abs(raw["seen"]["shift"][0])


# ---------------------------------------------------------------- the parts
def test_pointing_shift_finds_the_depth_that_pointing_has_faked():
    rng, n, noise = np.random.default_rng(4), 400, 1e-5
    x = np.linspace(-1, 1, n)
    answer, drift = -.012*(np.abs(x) < .3), np.column_stack([x, x**2])
    pointing = np.column_stack([.05*np.sin(3*x) + .02*rng.standard_normal(n), .03*np.cos(5*x), np.zeros(n), .001*rng.standard_normal(n)])
    s = np.array([.004, -.01, 0., .2])
    ratio = 1 + (pointing@s)[:, None] + noise*rng.standard_normal((n, 200))
    found = F.pointing_shift(ratio, answer, drift, pointing)
    plain = np.column_stack([np.ones(n), drift, answer])
    full = np.column_stack([plain, pointing[:, [0, 1, 3]]])
    faked = np.linalg.lstsq(plain, ratio, rcond=None)[0][3]                         # the truth is no change of depth
    error = noise*np.sqrt(np.diag(np.linalg.inv(full.T@full))[3])
    z = (faked + found["shift"])/error
    assert np.abs(faked).min() > 20*error and abs(z.mean()) < 4/np.sqrt(200) and abs(z.std() - 1) < .2
    np.testing.assert_allclose(found["beta"]@s, faked.mean(), rtol=.01)
    np.testing.assert_allclose(found["scatter"], noise, rtol=.2)
    np.testing.assert_allclose((found["noise"]**2 + found["sd"]**2)**.5, error, rtol=.2)


def test_fitted_transit_answers_like_a_finite_difference(sample):
    planet, curves, post = sample[0]
    flux, answer, z = F.fitted_transit(post, 0, curves[0].time_h)
    deeper = F.fitted_transit(replace(post, mean=post.mean*1.01), 0, curves[0].time_h)[0]
    assert np.allclose((deeper - flux)/np.log(1.01), answer, atol=.01*np.abs(answer).max()) and (flux[z > 1.3] == 1).all()
