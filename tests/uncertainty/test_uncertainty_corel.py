"COREL: the promise holds by Monte Carlo, the plain case is that of `crepes`, alpha orders the factors."
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm

from spectramind.challenge.wavelength import default_wavelengths
from spectramind.core.errors import SchemaError, UsageError
from spectramind.uncertainty.corel import (COST, POOLS, Corel, apply_corel, conformal_rank, corel_from_dict, corel_table, corel_verdict,
                                           cross_fit_corel, fit_corel, grouped_quantile, miss)
from spectramind.uncertainty.temperature import cross_fit_temperature

N = 283


def made(n, seed=0, shared=.5, tail=4):
    rng = np.random.default_rng(seed)
    truth = .01 + 1e-4*rng.random((n, N))
    sigma = 5e-5*rng.lognormal(0, .4, (n, N))
    e = np.sqrt(shared)*rng.standard_t(tail, (n, 1)) + np.sqrt(1 - shared)*rng.standard_t(tail, (n, N))
    return truth, truth + sigma*e*np.linspace(1, 2, N), sigma, np.arange(n) % 5


@pytest.fixture
def crepes():
    "A published implementation to compare with."
    with warnings.catch_warnings():                  # it changes the filters on import
        import crepes
    return crepes


@pytest.mark.parametrize('n, alpha', [(20, .1), (57, .2), (101, .05), (64, .3173)])
def test_the_plain_case_is_that_of_crepes(crepes, n, alpha):
    truth, mu, sigma, _ = made(n, n)
    c = fit_corel(truth, mu, sigma, alpha, pool='bin')
    half = apply_corel(c, sigma, 'raw')
    for b in (0, 1, 150, 282):
        theirs = crepes.ConformalRegressor().fit(truth[:, b] - mu[:, b], sigmas=sigma[:, b])
        interval = theirs.predict_int(mu[:, b], sigmas=sigma[:, b], confidence=1 - alpha)
        assert np.allclose(interval, np.column_stack([mu[:, b] - half[:, b], mu[:, b] + half[:, b]]), rtol=1e-12)


@pytest.mark.parametrize('n, alpha', [(19, .1), (25, .1), (40, .2)])
def test_exact_coverage_of_each_bin_by_monte_carlo(n, alpha):
    inside = []
    for seed in range(12):                                  # bins independent: 12 times 283 calibrations, 20 new planets each
        truth, mu, sigma, _ = made(n + 20, seed, shared=0.)
        c = fit_corel(truth[:n], mu[:n], sigma[:n], alpha, pool='bin')
        inside.append((np.abs(truth - mu) <= apply_corel(c, sigma, 'raw'))[n:].mean(0))
    inside = np.concatenate(inside)
    promise, error = conformal_rank(n, alpha)/(n + 1), inside.std()/np.sqrt(inside.size)
    assert abs(inside.mean() - promise) < 4*error and 1 - alpha <= promise + 1e-12 <= 1 - alpha + 1/(n + 1) + 2e-12


@pytest.mark.parametrize('pool', ['smooth', 'parts'])
def test_pooled_coverage_by_monte_carlo(pool):
    inside = []
    for seed in range(60 if pool == 'parts' else 20):       # errors shared by the bins of a planet: the planet is the unit
        truth, mu, sigma, _ = made(220, 100 + seed, shared=.8)
        c = fit_corel(truth[:20], mu[:20], sigma[:20], .1, pool=pool, window=5)
        inside.append((np.abs(truth - mu) <= apply_corel(c, sigma, 'raw'))[20:, 1:].mean())
    assert np.mean(inside) > .9 - 3*np.std(inside)/np.sqrt(len(inside))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(20, 40), st.floats(.06, .4), st.floats(1.05, 2.))
def test_order_alpha_and_scale(seed, n, alpha, k):
    truth, mu, sigma, _ = made(n, seed)
    order = np.random.default_rng(seed).permutation(n)
    for pool in POOLS:
        a = fit_corel(truth, mu, sigma, alpha, pool, window=2)
        assert np.array_equal(a.q_raw, fit_corel(truth[order], mu[order], sigma[order], alpha, pool, 2).q_raw)
        assert (fit_corel(truth, mu, sigma, min(.9, alpha*k), pool, 2).q_raw <= a.q_raw).all()
        assert np.allclose(fit_corel(truth, mu, sigma*k, alpha, pool, 2).q_raw*k, a.q_raw, rtol=1e-9)
        assert np.allclose(a.q_gauss*norm.ppf(1 - alpha/2), a.q_raw) and np.allclose(apply_corel(a, sigma), sigma*a.q_gauss)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.floats(.001, .999))
def test_the_rank(n, alpha):
    if (n + 1)*(1 - alpha) > n + 1e-9:
        with pytest.raises(UsageError, match='at least'): conformal_rank(n, alpha)
    else:
        rank = conformal_rank(n, alpha)
        assert 1 <= rank <= n and rank >= (n + 1)*(1 - alpha) - 1e-8 and rank - 1 < (n + 1)*(1 - alpha) + 1e-8


def test_ranks_that_floats_spoil():
    assert [conformal_rank(n, a) for n, a in ((9, .1), (19, .05), (99, .01), (29, .3), (99, .07))] == [9, 19, 99, 21, 93]


def test_grouped_quantile_by_hand():
    scores = np.arange(1., 21).reshape(10, 2)                # sorted, rows are planets
    assert grouped_quantile(scores, .2) == 18.               # share 0.8*11/10 = 0.88: the 18th of 20
    assert grouped_quantile(scores, .2, np.array([1., 0.])) == 17. and grouped_quantile(scores[:, :1], .2) == 17.
    with pytest.raises(UsageError): grouped_quantile(np.ones((8, 50)), .1)      # pooling bins adds no planets


def test_pools():
    truth, mu, sigma, _ = made(60, 3)
    smooth, plain, parts = (fit_corel(truth, mu, sigma, pool=p) for p in ('smooth', 'bin', 'parts'))
    assert smooth.q_raw[0] == plain.q_raw[0] == parts.q_raw[0] and np.ptp(parts.q_raw[1:]) == 0
    assert np.abs(np.diff(smooth.q_raw[1:])).mean() < .3*np.abs(np.diff(plain.q_raw[1:])).mean()
    assert np.array_equal(fit_corel(truth, mu, sigma, window=0).q_raw, plain.q_raw)
    moved = mu.copy()
    moved[:, 0] += 1.                                        # FGS1 never leaks into AIRS
    assert np.array_equal(fit_corel(truth, moved, sigma).q_raw[1:], smooth.q_raw[1:])


def test_judged_on_another_fold():
    truth, mu, sigma, fold = made(80, 5)
    a = cross_fit_corel(truth, mu, sigma, fold, n_boot=100)
    changed = mu.copy()
    changed[fold == 1] += 1.
    b = cross_fit_corel(truth, changed, sigma, fold, n_boot=20)
    assert np.array_equal(a.sigma[fold == 1], b.sigma[fold == 1])
    assert a.parts['airs']['after'][0] > a.parts['airs']['before'][0] and a.gain[0] > 0
    assert np.allclose(a.half_width, a.sigma*norm.ppf(.95))
    inside = np.abs(truth - mu) <= a.half_width
    assert np.array_equal(a.coverage_after, inside.mean(0)) and a.parts['fgs1']['after'][0] == inside[:, 0].mean()
    rows = corel_table(a)
    assert list(rows[0]) == ['bin', 'wavelength_um', 'n', 'q_raw', 'q_gauss', 'coverage_before', 'coverage_after'] and len(rows) == N
    assert rows[5]['wavelength_um'] == default_wavelengths()[5] and rows[7]['q_raw'] == a.final.q_raw[7] and rows[0]['n'] == 80
    with pytest.raises(UsageError): corel_table(a, np.ones(3))


def test_after_temperature():
    truth, mu, sigma, fold = made(80, 6, tail=30)
    t = cross_fit_temperature(truth, mu, sigma/3, fold, n_boot=50)
    after = cross_fit_corel(truth, mu, t.sigma, fold, n_boot=100).parts
    for part in ('fgs1', 'airs'): assert after[part]['after'][1] <= .9 <= after[part]['after'][2]


def test_json():
    c = fit_corel(*made(30, 1)[:3])
    again = corel_from_dict(json.loads(json.dumps(c.to_dict(), allow_nan=False)))
    assert np.array_equal(again.q_raw, c.q_raw)
    assert (again.alpha, again.pool, again.window, again.n_planets) == (c.alpha, c.pool, c.window, c.n_planets)
    good = c.to_dict()
    for wrong in (dict(q_raw=good['q_raw'][1:]), dict(q_raw=[-1.]*N), dict(q_raw=[np.nan]*N), dict(q_raw=['1']*N), dict(q_raw=None),
                  dict(alpha=0.), dict(alpha='x'), dict(pool='none'), dict(window=-1), dict(window=1.5), dict(n_planets=-2),
                  dict(kind='x'), dict(version=0), dict(more=1)):
        with pytest.raises(SchemaError): corel_from_dict(good | wrong)
    for wrong in ([], None, {}):
        with pytest.raises(SchemaError): corel_from_dict(wrong)


def test_refusals():
    truth, mu, sigma, fold = made(12)
    spoilt = sigma.copy()
    spoilt[3, 3] = -1e-5
    for data in ((truth, mu, spoilt), (truth*np.nan, mu, sigma), (truth, mu[:, 1:], sigma), (truth, mu, sigma[1:])):
        with pytest.raises(UsageError): fit_corel(*data)
        with pytest.raises(UsageError): cross_fit_corel(*data, fold)
    for wrong in (dict(alpha=0.), dict(alpha=1.), dict(pool='none'), dict(window=-1), dict(window=1.5), dict(alpha=.05)):
        with pytest.raises(UsageError): fit_corel(truth, mu, sigma, **wrong)
    with pytest.raises(UsageError, match='at least 9'): cross_fit_corel(truth[:10], mu[:10], sigma[:10], fold[:10])   # 8 are left to fit on
    c = Corel(.1, 'bin', 0, 12, np.ones(N))
    with pytest.raises(UsageError): apply_corel(c, sigma, 'both')
    with pytest.raises(UsageError): apply_corel(c, spoilt)


def shaped(draw, seed, n=200, factor=1.):
    "Errors of a shape, partly shared, with a sigma of their root mean square over `factor`."
    rng = np.random.default_rng(seed)
    e = draw(rng, (n, 1))*np.ones(N)
    sigma = np.full((n, N), 1e-4)
    return cross_fit_corel(np.full((n, N), .01) + factor*sigma*e/e.std(), np.full((n, N), .01), sigma, np.arange(n) % 5, n_boot=200)


def test_coverage_decides_whether_the_factors_are_used():
    light = [shaped(lambda r, k: r.uniform(-1, 1, k), seed, n=500) for seed in range(4)]
    used = [corel_verdict(j)[0] for j in light]
    assert sum(used) >= 3 and max(j.gain[0] for j in light) < 0              # the likelihood alone would refuse every one
    assert all(miss(j)["after"] < .02 < miss(j)["before"] for j, u in zip(light, used) if u)
    normal = [shaped(lambda r, k: r.standard_normal(k), seed) for seed in range(12)]
    taken = [j for j in normal if corel_verdict(j)[0]]
    assert len(taken) <= 2 and all(j.gain[0] > -COST for j in taken)         # right intervals are left alone, but for chance
    wrong = [shaped(lambda r, k: r.standard_normal(k), seed, factor=1.6) for seed in range(4)]
    assert all(corel_verdict(j)[0] and j.gain[0] > .05 for j in wrong)


def test_right_intervals_have_a_price_limit_and_must_be_nearer():
    j = shaped(lambda r, k: r.uniform(-1, 1, k), 0)
    assert corel_verdict(j)[0]
    dear = replace(j, gain=(-COST - .001, -.1, .1))
    assert corel_verdict(dear) == (False, f"right intervals would cost {COST + .001:.3f} nats per cell, more than {COST:g}")
    swapped = replace(j, parts={k: dict(before=v["before"], after=v["before"]) for k, v in j.parts.items()})
    used, why = corel_verdict(swapped)
    assert not used and "no nearer" in why
    lucky = replace(swapped, gain=(.01, 0., .02), parts={k: dict(before=v["after"], after=v["before"]) for k, v in j.parts.items()})
    assert not corel_verdict(lucky)[0]                                        # more probable, but coverage would suffer
