"Temperature: the closed form is the best, a known factor is found, and held-out planets are not harmed."
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize_scalar

from spectramind.core.errors import SchemaError, UsageError
from spectramind.scoring.score import score_cells, bin_weights, naive_statistics
from spectramind.uncertainty.coverage import nll, planet_nll
from spectramind.uncertainty.temperature import (PRIOR_WIDTH, Temperature, apply_temperature, cross_fit_temperature, fit_temperature,
                                                 shrunk_factor, temperature_from_dict)

N = 283


def made(n, seed=0, fgs1=1., airs=1., shared=.7):
    rng = np.random.default_rng(seed)
    truth = rng.lognormal(-4.4, .5, (n, 1)) + 1e-4*rng.random((n, N))
    sigma = 5e-5*rng.lognormal(0, .4, (n, N))
    e = airs*(np.sqrt(shared)*rng.standard_normal((n, 1)) + np.sqrt(1 - shared)*rng.standard_normal((n, N)))
    e[:, 0] = fgs1*rng.standard_normal(n)
    return truth, truth + sigma*e, sigma, np.arange(n) % 5


@settings(max_examples=60, deadline=None)
@given(st.floats(.01, 100.), st.floats(.5, 1e5), st.floats(.02, 2.))
def test_the_closed_form_is_the_posterior_mode(mean_square, n, width):
    t = np.log(shrunk_factor(mean_square, n, width))
    def loss(t): return n*t + n*mean_square/2*np.exp(-2*t) + t*t/(2*width**2)
    best = minimize_scalar(loss, bounds=(-4, 4), method='bounded', options=dict(xatol=1e-10))
    assert t == pytest.approx(best.x, abs=2e-5) and abs(t) <= abs(np.log(mean_square)/2) + 1e-9 and t*np.log(mean_square) >= -1e-12


@settings(max_examples=40, deadline=None)
@given(st.floats(.05, 20.), st.floats(1., 1e4), st.floats(1.05, 4.))
def test_more_planets_and_larger_errors_move_it_further(mean_square, n, k):
    a = np.log(shrunk_factor(mean_square, n))
    assert abs(np.log(shrunk_factor(mean_square, n*k))) >= abs(a) - 1e-9 and np.log(shrunk_factor(mean_square*k, n)) > a
    assert shrunk_factor(1., n) == pytest.approx(1, abs=1e-9)
    assert shrunk_factor(mean_square, n, np.inf) == pytest.approx(np.sqrt(mean_square))


@pytest.mark.parametrize('fgs1, airs', [(1., 1.), (.5, 2.), (1.8, .7)])
def test_a_known_factor_is_found(fgs1, airs):
    found = np.array([[t.fgs1, t.airs] for t in (fit_temperature(*made(400, s, fgs1, airs)[:3], prior_width=np.inf) for s in range(6))])
    assert np.allclose(found.mean(0), (fgs1, airs), rtol=.05)          # the standard error of six times 400 planets is below 2 %
    t = fit_temperature(*made(400, 1, fgs1, airs)[:3])
    assert np.allclose(t.factors()[[0, 1, -1]], (t.fgs1, t.airs, t.airs)) and t.worth[0] <= 400 < t.worth[1] < 282*400


def test_no_other_factor_does_better():
    truth, mu, sigma, _ = made(40, 2, 1.5, .7)
    naive = naive_statistics(truth)
    w = np.broadcast_to(bin_weights(), truth.shape)
    def total(factors): return np.average(score_cells(truth, mu, sigma*factors, *naive), weights=w)
    t = fit_temperature(truth, mu, sigma, prior_width=np.inf)
    s = fit_temperature(truth, mu, sigma, objective='score', naive=naive, prior_width=np.inf)
    g = fit_temperature(truth, mu, sigma, mode='global', prior_width=np.inf)
    assert g.fgs1 == g.airs
    for k in (.97, 1.03):
        for which in (np.r_[k, np.ones(282)], np.r_[1, np.full(282, k)]):
            assert nll(truth, mu, sigma*t.factors()*which) > nll(truth, mu, sigma*t.factors())
            assert total(s.factors()*which) < total(s.factors())
        assert nll(truth, mu, sigma*g.fgs1*k) > nll(truth, mu, sigma*g.fgs1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(6, 30))
def test_order_and_scale_do_not_matter(seed, n):
    truth, mu, sigma, fold = made(n, seed, 1.3, 1.3)
    order = np.random.default_rng(seed).permutation(n)
    a, b = fit_temperature(truth, mu, sigma), fit_temperature(truth[order], mu[order], sigma[order])
    assert np.allclose((a.fgs1, a.airs), (b.fgs1, b.airs), rtol=1e-9)
    free = dict(prior_width=np.inf)
    assert fit_temperature(truth, mu, 2*sigma, **free).airs == pytest.approx(fit_temperature(truth, mu, sigma, **free).airs/2, rel=1e-9)
    x = cross_fit_temperature(truth, mu, sigma, fold, n_boot=20)
    y = cross_fit_temperature(truth[order], mu[order], sigma[order], fold[order], n_boot=20)
    assert np.allclose(x.sigma[order], y.sigma, rtol=1e-9) and np.allclose(x.gain, y.gain, atol=1e-9)


def test_held_out_means_held_out():
    truth, mu, sigma, fold = made(60, 1, 1.5, 1.5)
    a = cross_fit_temperature(truth, mu, sigma, fold, n_boot=20)
    changed = mu.copy()
    changed[fold == 2] += 20*sigma[fold == 2]                      # a disaster in fold 2 must not change fold 2's own error bars
    b = cross_fit_temperature(truth, changed, sigma, fold, n_boot=20)
    assert np.array_equal(a.sigma[fold == 2], b.sigma[fold == 2]) and (b.sigma[fold != 2] > a.sigma[fold != 2]).all()
    assert a.nested and set(a.by_fold) == set(range(5)) and a.gain[0] == pytest.approx(a.nll_before - a.nll_after)
    assert a.gain[0] == pytest.approx(np.mean(planet_nll(truth, mu, sigma) - planet_nll(truth, mu, a.sigma)))
    w = bin_weights()
    assert a.gain[0] == pytest.approx((w[0]*a.gain_fgs1[0] + 282*a.gain_airs[0])/w.sum())
    two = cross_fit_temperature(truth, mu, sigma, fold % 2, n_boot=20)
    assert not two.nested and set(two.by_fold) == {0, 1}


def test_the_rule_too_is_decided_without_the_held_out_fold():
    flipped = 0
    for seed in range(6):
        truth, mu, sigma, fold = made(40, seed)
        changed = mu.copy()
        changed[fold == 2] += 6*sigma[fold == 2]
        a, b = (cross_fit_temperature(truth, m, sigma, fold, n_boot=20) for m in (mu, changed))
        flipped += a.kept != b.kept
        assert np.array_equal(a.sigma[fold == 2], b.sigma[fold == 2])
    assert flipped >= 2


def test_what_the_rules_ask():
    seen = set()
    for seed in range(12):
        data = made(40, seed, 1 + seed/20, 1)
        always = cross_fit_temperature(*data, rule='always', n_boot=300)
        mean, certain = (cross_fit_temperature(*data, rule=rule, n_boot=300).kept for rule in ('mean', 'certain'))
        for part, gain in enumerate((always.gain_fgs1, always.gain_airs)):
            assert mean[part] == (gain[0] > 0) and certain[part] <= mean[part] and certain[part] >= (gain[1] > 0)
            seen.add((mean[part], certain[part]))
    assert seen == {(False, False), (True, False), (True, True)}


def test_never_harm():
    right = [cross_fit_temperature(*made(50, s), n_boot=50) for s in range(30)]
    assert np.mean([r.gain[0] for r in right]) > -.01                        # nothing to gain, next to nothing lost
    for r in right:
        for part, kept in zip(('fgs1', 'airs'), r.kept): assert kept or getattr(r.final, part) == 1
    assert any(not all(r.kept) for r in right)
    sure = [cross_fit_temperature(*made(50, s), n_boot=200, rule='certain') for s in range(30)]
    assert sum(sum(r.kept) for r in sure) < sum(sum(r.kept) for r in right)
    wrong = [cross_fit_temperature(*made(50, s, 2., 2.), n_boot=50) for s in range(10)]
    assert np.mean([r.gain[0] for r in wrong]) > .3 and all(r.kept == (True, True) for r in wrong)
    mode = cross_fit_temperature(*made(50, 1, 2., 2.), mode='global', n_boot=50)
    assert mode.final.fgs1 == mode.final.airs > 1.4 and mode.kept == (True, True)
    assert cross_fit_temperature(*made(50, 1), rule='always', n_boot=20).kept == (True, True)


def test_one_disaster_counts_for_less_than_its_square():
    truth, mu, sigma, _ = made(50, 3)
    mu[0] += 30*sigma[0]
    free, shrunk = fit_temperature(truth, mu, sigma, prior_width=np.inf), fit_temperature(truth, mu, sigma)
    assert free.fgs1 > 3.5 and shrunk.fgs1 < .7*free.fgs1 and shrunk.worth[0] < 25


def test_json():
    for t in (fit_temperature(*made(20, 1)[:3]), Temperature(1., 1.), Temperature(2., 2., 'global', 'score', np.inf, 3, (3., 1.5))):
        assert temperature_from_dict(json.loads(json.dumps(t.to_dict(), allow_nan=False))) == t
    good = Temperature(1.2, .9).to_dict()
    for wrong in (dict(fgs1=0.), dict(airs=-1), dict(airs=np.nan), dict(airs=np.inf), dict(fgs1='1'), dict(fgs1=True), dict(mode='both'),
                  dict(objective='x'), dict(kind='corel'), dict(version=2), dict(n_planets=-1), dict(n_planets=1.5), dict(worth=[1]),
                  dict(worth='ab'), dict(worth=[1, np.nan]), dict(mode='global'), dict(prior_width=0), dict(extra=1)):
        with pytest.raises(SchemaError): temperature_from_dict(good | wrong)
    for wrong in ([], None, {}, {k: v for k, v in good.items() if k != 'airs'}):
        with pytest.raises(SchemaError): temperature_from_dict(wrong)


def test_refusals():
    truth, mu, sigma, fold = made(10)
    spoilt = sigma.copy()
    spoilt[0, 0] = 0
    for data in ((truth, mu, spoilt), (truth*np.nan, mu, sigma), (truth, mu[:, 1:], sigma), (truth[1:], mu, sigma)):
        with pytest.raises(UsageError): fit_temperature(*data)
        with pytest.raises(UsageError): cross_fit_temperature(*data, fold)
    for wrong in (dict(mode='both'), dict(objective='x'), dict(objective='score'), dict(objective='score', naive=(.01, 0.)),
                  dict(prior_width=0.), dict(prior_width=-1), dict(objective='score', naive=(np.nan, 1.))):
        with pytest.raises(UsageError): fit_temperature(truth, mu, sigma, **wrong)
    for wrong in (np.zeros(10, int), fold[1:], fold*1.):
        with pytest.raises(UsageError): cross_fit_temperature(truth, mu, sigma, wrong)
    with pytest.raises(UsageError): cross_fit_temperature(truth, mu, sigma, fold, rule='never')
    with pytest.raises(UsageError): apply_temperature(Temperature(1., 1.), spoilt)
    for wrong in ((0., 1.), (1., 0.), (np.nan, 1.), (np.inf, 1.)):
        with pytest.raises(UsageError): shrunk_factor(*wrong)
    assert PRIOR_WIDTH == .2 and np.array_equal(apply_temperature(Temperature(2., 3.), sigma), sigma*np.r_[2., np.full(282, 3.)])
