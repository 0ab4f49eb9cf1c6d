"The linear correction: ridge, bands, and what may not leak."
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import DataError
from spectramind.network.features import STEP, Examples
from spectramind.training.linear import BANDS, cross_linear, depth_unit, fit_linear, linear_from_dict, ridge, to_bins


def planets(n, strength=1., seed=0, features=12, first=1):
    "Fits whose error goes with the first feature, and honest error bars."
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, features)).astype(np.float32)
    label = .012 + 1e-3*rng.standard_normal((n, 1)) + np.zeros((n, 283))
    sigma = np.full((n, 283), 5e-5*np.sqrt(1 + strength**2))
    error = 5e-5*(strength*x[:, :1] + rng.standard_normal((n, 1))) + np.zeros(283)
    return Examples(np.arange(n) + first, np.zeros((n, 4, 10), np.float32), np.ones((n, 4), bool), np.zeros((n, 283, 4), np.float32), x, label - error, sigma, label, tuple(map(str, range(features))))


def rms(e, mu): return np.sqrt(((mu - e.label)**2).mean())


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 40), st.integers(1, 12), st.integers(0, 99), st.floats(.1, 300))
def test_ridge_is_the_textbooks(n, f, seed, alpha):
    rng = np.random.default_rng(seed)
    x, y, w = rng.standard_normal((n, f)), rng.standard_normal((n, 3)), rng.uniform(.2, 3, n)
    weight, offset, _, found = ridge(x, y, w, alphas=[alpha])
    v = w/w.mean()
    mx, my = w@x/w.sum(), w@y/w.sum()
    book = np.linalg.solve((x - mx).T@(v[:, None]*(x - mx)) + alpha*np.eye(f), (x - mx).T@(v[:, None]*(y - my)))
    assert found == alpha
    np.testing.assert_allclose(weight, book, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(offset, my - mx@book, rtol=1e-7, atol=1e-10)


def test_nothing_to_learn_is_strongest_ridge_and_no_harm():
    worse = []
    for seed in range(8):
        train, test = planets(40, 0., seed), planets(300, 0., seed + 100)
        found = fit_linear(train)
        worse.append(rms(test, found.predict(test)[0])/rms(test, test.mu))
    assert np.mean(worse) < 1.05 and max(worse) < 1.15


def test_what_is_there_is_found_and_error_bars_follow():
    train, test = planets(150, 2.), planets(400, 2., seed=5)
    mu, sigma = fit_linear(train).predict(test)
    assert rms(test, mu) < .55*rms(test, test.mu)
    z = (mu - test.label)/sigma
    assert .8 < z.std() < 1.25 and (sigma < test.sigma).all()


def test_a_held_out_planet_teaches_nothing():
    e, fold = planets(30), np.arange(30)%5
    mu, sigma = cross_linear(e, fold)
    other = replace(e, label=np.where((fold == 2)[:, None], e.label + 1e-3, e.label))
    mu2, sigma2 = cross_linear(other, fold)
    assert np.array_equal(mu[fold == 2], mu2[fold == 2]) and np.array_equal(sigma[fold == 2], sigma2[fold == 2])
    assert not np.array_equal(mu[fold == 1], mu2[fold == 1])


def test_one_wild_planet_does_not_turn_the_plane():
    e, test = planets(60), planets(200, seed=8)
    wild = replace(e, label=e.label.copy())
    wild.label[7] += 2e-2
    assert rms(test, fit_linear(wild).predict(test)[0]) < 1.2*rms(test, fit_linear(e).predict(test)[0])


def test_a_badly_measured_planet_teaches_little():
    e, test = planets(60), planets(200, seed=8)
    rng, bad = np.random.default_rng(0), np.arange(60) < 20
    noisy = replace(e, mu=np.where(bad[:, None], e.mu + 1e-3*rng.standard_normal((60, 1)), e.mu), sigma=np.where(bad[:, None], 1e-3, e.sigma))
    alike = replace(noisy, sigma=e.sigma)                                # the same planets, whose error bars do not say so
    assert rms(test, fit_linear(noisy).predict(test)[0]) < rms(test, fit_linear(alike).predict(test)[0])


def test_order_of_planets_and_scale_of_features_do_not_matter():
    e, test, order = planets(40), planets(5, seed=3), np.random.default_rng(0).permutation(40)
    a, b = fit_linear(e).predict(test), fit_linear(e.take(order)).predict(test)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-12)
    double = lambda x: replace(x, planet=(x.planet*4 + 1).astype(np.float32))
    np.testing.assert_allclose(fit_linear(double(e)).predict(double(test))[0], a[0], rtol=1e-6)


def test_bands_and_units():
    assert sum(map(len, BANDS)) == 283 and len(BANDS) == 25
    assert np.allclose(to_bins(np.full((2, 25), 3.)), 3.) and np.allclose(depth_unit(np.full((1, 283), .01)), STEP*.01)


def test_constant_features_and_strange_planets_stay_finite():
    e = planets(20)
    e.planet[:, 3] = 7.
    test = planets(4, seed=2)
    test.planet[0] = 1e6
    mu, sigma = fit_linear(e).predict(test)
    assert np.isfinite(mu).all() and (sigma > 0).all() and np.abs(mu[0] - test.mu[0]).max() < 3e-3


def test_round_trip_and_refusal():
    import json
    found, test = fit_linear(planets(20)), planets(4, seed=2)
    again = linear_from_dict(json.loads(json.dumps(found.to_dict())), 12)
    assert all(np.array_equal(a, b) for a, b in zip(found.predict(test), again.predict(test)))
    with pytest.raises(DataError, match="at least four"): fit_linear(planets(3))
