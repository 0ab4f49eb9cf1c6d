"Coverage: planets are the unit, order does not matter, the gate closes."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest, kstest, norm

from spectramind.core.errors import QualityGateError, UsageError, exit_code_of
from spectramind.core.nouns import Spectra
from spectramind.scoring.score import bin_weights, score
from spectramind.uncertainty.coverage import (bootstrap_mean, check_coverage, check_fold, coverage_report, effective_number, gll, nll,
                                              pit_band, pit_values, planet_nll, reliability, share_interval, spread_skill, terciles,
                                              wilson, z_histogram, z_scores, z_summary)

N = 283


def made(n, seed=0, factor=1., shared=.7):
    rng = np.random.default_rng(seed)
    truth = rng.lognormal(-4.4, .5, (n, 1)) + 1e-4*rng.random((n, N))
    sigma = 5e-5*rng.lognormal(0, .4, (n, N))
    e = np.sqrt(shared)*rng.standard_normal((n, 1)) + np.sqrt(1 - shared)*rng.standard_normal((n, N))
    e[:, 0] = rng.standard_normal(n)
    return truth, truth + factor*sigma*e, sigma


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 30))
def test_the_order_of_planets_does_not_matter(seed, n):
    data, order = made(n, seed), np.random.default_rng(seed).permutation(n)
    depth = data[0].mean(1)
    a = coverage_report(*data, by={'depth': depth}, n_boot=50)
    b = coverage_report(*(d[order] for d in data), by={'depth': depth[order]}, n_boot=50)
    for r, s in zip(a.rows, b.rows):
        assert (r.part, r.level, r.n, r.method) == (s.part, s.level, s.n, s.method)
        assert np.allclose([r.share, r.low, r.high], [s.share, s.low, s.high], rtol=1e-12)
    assert np.array_equal(a.per_bin, b.per_bin) and a.nll == pytest.approx(b.nll, rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(1.01, 3.))
def test_wider_error_bars_and_higher_levels_never_cover_less(seed, k):
    truth, mu, sigma = made(12, seed)
    a, b = coverage_report(truth, mu, sigma, n_boot=20), coverage_report(truth, mu, sigma*k, n_boot=20)
    assert (np.diff(a.per_bin, axis=0) >= 0).all() and (b.per_bin >= a.per_bin).all()
    assert all(0 <= r.low <= r.share <= r.high <= 1 for r in a.rows if r.method == 'wilson')


def test_hand_counted_shares():
    truth = np.zeros((4, N)) + .01
    sigma = np.full((4, N), 1e-4)
    mu = truth + sigma*np.array([0., 1., 2., 3.])[:, None]
    mu[0, 0] += 5e-4
    r = coverage_report(truth, mu, sigma, levels=(.6827, .95), n_boot=50)
    assert r.find('fgs1', .6827).share == .25                                     # z = 1 lies just inside 68.27 %
    assert r.find('airs', .6827).share == .5 and r.find('airs', .95).share == .5 and r.find('airs_mean', .95).share == .5
    assert r.find('fgs1', .95).share == .25
    w = bin_weights()
    assert r.find('score', .95).share == pytest.approx((.25*w[0] + .5*282)/w.sum())
    assert r.metrics()['coverage@0.95'] == pytest.approx((.25 + .5*282)/N)
    assert len(r.table()) == len(r.rows) and 'airs | sigma' in r._repr_html_()


def test_wilson_is_scipys_and_one_bin_has_one_trial_per_planet():
    for k, n in ((0, 7), (3, 7), (50, 60), (60, 60)):
        theirs = binomtest(k, n).proportion_ci(method='wilson')
        assert np.allclose(wilson(k/n, n), (theirs.low, theirs.high), atol=1e-12)
    inside = np.arange(20) < 17
    assert share_interval(inside)[:3] == (.85, *wilson(.85, 20))
    assert share_interval(np.repeat(inside[:, None], 282, 1))[3] == 'bootstrap' and share_interval(np.ones((20, 282)))[3] == 'wilson'


def test_the_bootstrap_interval_holds_the_truth_as_often_as_it_says():
    hits = 0
    for seed in range(60):
        found = coverage_report(*made(60, seed), levels=(.6827,), n_boot=200).find('airs', .6827)
        hits += found.low <= .6827 <= found.high
    assert hits > 60*.95 - 4*np.sqrt(60*.95*.05)
    rows = (np.abs(z_scores(*made(60, 0))[:, 1:]) < 1)
    low, high = wilson(rows.mean(), rows.size)
    honest = share_interval(rows)
    assert honest[2] - honest[1] > 5*(high - low)


def test_likelihood_is_the_scores():
    truth, mu, sigma = made(9, 3)
    ids = np.arange(9)
    report = score((ids, truth), Spectra(ids, mu, sigma), .01, .01)
    assert gll(truth, mu, sigma) == pytest.approx(report.gll, rel=1e-12) and nll(truth, mu, sigma) == -gll(truth, mu, sigma)
    plain = -norm.logpdf(truth, mu, sigma).mean(1)
    assert np.allclose(planet_nll(truth, mu, sigma, fgs1_weight=1.), plain, rtol=1e-12)
    assert np.allclose(planet_nll(truth, mu, sigma, fgs1_weight=0.), -norm.logpdf(truth, mu, sigma)[:, 1:].mean(1), rtol=1e-12)


def test_pit_distance_is_kolmogorovs_and_the_band_holds():
    p = pit_values(*made(80, 1))[:, 0]
    band = pit_band(p)
    assert band.distance == pytest.approx(kstest(p, 'uniform').statistic, rel=1e-9)
    passed = [pit_band(np.random.default_rng(s).uniform(size=40)).passed for s in range(400)]
    assert np.mean(passed) > .95 - 3*np.sqrt(.95*.05/400)
    assert not pit_band(pit_values(*made(300, 1, 2.))[:, 0]).passed


def correlated(n, seed, factor=1.):
    "PIT values of AIRS whose z go together along wavelength, lag-5 autocorrelation 0.74, with a level of their own."
    rng, k = np.random.default_rng(seed), np.arange(282)
    root = np.linalg.cholesky(.3 + .7*.65**(np.abs(k[:, None] - k)/5) + 1e-9*np.eye(282))
    return norm.cdf(factor*rng.standard_normal((n, 282))@root.T)


def test_pooled_quantiles_leave_their_band_as_often_as_they_should_and_small_sigmas_nearly_always():
    left = np.mean([not pit_band(correlated(100, s)).passed for s in range(120)])
    assert 0 < left < .05 + 3*np.sqrt(.05*.95/120)
    assert np.mean([not pit_band(correlated(100, s, 1/.8)).passed for s in range(20)]) > .8
    assert np.mean([not pit_band(correlated(12, s)).passed for s in range(120)]) < .05 + 3*np.sqrt(.05*.95/120)
    one, band = correlated(100, 1), np.sqrt(np.log(2/.05)/200)
    assert pit_band(one).limit < .8*band and pit_band(one[:, :1]).limit == pytest.approx(band)       # the band for single values is no band for pooled ones
    assert pit_band(one).limit == pit_band(one).limit and pit_band(one[::-1]).distance == pytest.approx(pit_band(one).distance)


def test_far_errors_are_counted_with_planets_as_trials():
    z = z_scores(*made(200, 3))
    told, wide = z_summary(z), z_summary(1.5*z)
    for part in ('fgs1', 'airs'):
        assert told[part]['rms_low'] < 1 < told[part]['rms_high'] and wide[part]['rms_low'] > 1 and told[part]['beyond_low'] <= told['honest'] <= told[part]['beyond_high']
        assert told[part]['beyond'] == pytest.approx(np.mean(np.abs(z[:, :1] if part == 'fgs1' else z[:, 1:]) > 3))
    assert wide['airs']['beyond_low'] > wide['honest'] == pytest.approx(.0027, abs=1e-5)
    h = z_histogram(z)
    for part in ('fgs1', 'airs'):
        inside = (h[f'{part}_low'] <= h['normal']) & (h['normal'] <= h[f'{part}_high'])
        assert inside.mean() >= .7 and (h[f'{part}_high'] > h[f'{part}_low']).all()


def test_effective_number():
    assert np.mean([effective_number((z_scores(*made(200, s, shared=0.))[:, 1:]**2).mean(1), 282) for s in range(5)]) > 200
    found = [effective_number((z_scores(*made(200, s, shared=1.))[:, 1:]**2).mean(1), 282) for s in range(20)]
    assert np.mean(found) == pytest.approx(1, abs=.25)
    assert effective_number(np.array([1., 1., 400.]), 1) < 1 and effective_number(np.ones(2), 5) == 1
    assert effective_number(np.ones(9), 5) == 5


def test_tables():
    truth, mu, sigma = made(300, 4, 1.5)
    r = reliability(truth, mu, sigma, n_boot=50)
    assert r['fgs1'].shape == (19, 4) and (r['fgs1'][8:, 1] < r['fgs1'][8:, 0]).all() and (np.diff(r['airs'][:, 1]) >= 0).all()
    s = spread_skill(truth, mu, sigma, 3)
    assert s['fgs1'][:, 0].sum() == 300 and np.allclose(s['airs'][:, 2]/s['airs'][:, 1], 1.5, atol=.3)
    h = z_histogram(z_scores(truth, mu, sigma), np.array([-1., 1.]))
    assert np.allclose([h['fgs1'].sum(), h['airs'].sum(), h['normal'].sum()], 1) and h['normal'][1] == pytest.approx(.6827, abs=1e-4)
    assert h['airs'][1] == pytest.approx(np.mean((z_scores(truth, mu, sigma)[:, 1:] >= -1) & (z_scores(truth, mu, sigma)[:, 1:] < 1)))
    assert {k: int(v.sum()) for k, v in terciles(np.arange(9.)).items()} == dict(low=3, mid=3, high=3)
    assert list(terciles(np.ones(5))) == ['low']


def test_the_gate():
    good, bad = coverage_report(*made(300, 7), n_boot=100), coverage_report(*made(300, 7, 1.6), n_boot=100)
    assert [r['part'] for r in check_coverage(good, .9, .05)] == ['fgs1', 'airs']
    with pytest.raises(QualityGateError, match='fgs1 .* planets') as e: check_coverage(bad, .9, .05)
    assert exit_code_of(e.value) == 6
    few = coverage_report(*made(6, 18, 1.3), n_boot=100)
    assert few.find('fgs1', .9).share < .85 and check_coverage(few, .9, .05, parts=('fgs1',), certain=True)   # six planets prove nothing
    with pytest.raises(QualityGateError): check_coverage(few, .9, .05, parts=('fgs1',))
    truth, mu, sigma = made(300, 7)
    with pytest.raises(QualityGateError): check_coverage(coverage_report(truth, mu, 3*sigma, n_boot=50), .9, .05, above=.05)
    for wrong in (dict(parts=()), dict(parts=('moon',)), dict(tolerance=-1.), dict(tolerance=np.nan), dict(target=.8)):
        with pytest.raises(UsageError): check_coverage(good, **dict(target=.9, tolerance=.05) | wrong)


@pytest.mark.parametrize('spoil', ['nan truth', 'inf mu', 'zero sigma', 'negative sigma', 'columns', 'rows', 'text', 'empty', 'nan sigma'])
def test_refusals(spoil):
    truth, mu, sigma = made(5)
    if spoil == 'nan truth': truth[2, 3] = np.nan
    if spoil == 'inf mu': mu[0, 0] = np.inf
    if spoil == 'zero sigma': sigma[1, 1] = 0
    if spoil == 'negative sigma': sigma[1, 1] = -1e-5
    if spoil == 'nan sigma': sigma[1, 1] = np.nan
    if spoil == 'columns': mu = mu[:, :-1]
    if spoil == 'rows': sigma = sigma[:-1]
    if spoil == 'text': truth = truth.astype(str)
    if spoil == 'empty': truth, mu, sigma = truth[:0], mu[:0], sigma[:0]
    for function in (coverage_report, planet_nll, pit_values, z_scores, reliability, spread_skill):
        with pytest.raises(UsageError, match='found .* wanted'): function(truth, mu, sigma)


def test_refused_settings():
    data = made(5)
    for wrong in (dict(levels=(1.,)), dict(levels=()), dict(by={'depth': np.ones(4)}), dict(by={'depth': np.full(5, np.nan)}),
                  dict(airs_mean_sigma=np.zeros(5)), dict(airs_mean_sigma=np.ones(3))):
        with pytest.raises(UsageError): coverage_report(*data, **wrong)
    for wrong in (np.zeros(5, int), np.zeros(4, int), np.arange(5.), np.arange(10).reshape(5, 2)):
        with pytest.raises(UsageError): check_fold(wrong, 5)
    for wrong in (np.array([]), np.array([np.nan]), np.ones((2, 2))):
        with pytest.raises(UsageError): bootstrap_mean(wrong)
    with pytest.raises(UsageError): pit_band(np.array([.1, 1.2]))
    with pytest.raises(UsageError): nll(*data, fgs1_weight=-1)
    with pytest.raises(UsageError): z_histogram(z_scores(*data), np.array([1., 0.]))


def test_inputs_are_not_changed():
    data = made(6)
    copies = [d.copy() for d in data]
    coverage_report(*data, n_boot=10), reliability(*data, n_boot=10), pit_band(pit_values(*data))
    assert all(np.array_equal(a, b) for a, b in zip(data, copies))


def test_one_share_has_one_interval():
    "The score's report and the coverage report say the same of the same planets."
    from spectramind.scoring.score import coverage
    rng = np.random.default_rng(4)
    truth, sigma = rng.lognormal(-4.4, .5, (12, 283)), np.full((12, 283), 5e-5)
    mu = truth + 5e-5*(.8*rng.standard_normal((12, 1)) + .6*rng.standard_normal((12, 283)))
    here = {r.level: (r.share, r.low, r.high) for r in coverage_report(truth, mu, sigma).rows if r.part == 'all'}
    for c in coverage(mu, sigma, truth): assert here[c.level] == (c.fraction, c.low, c.high)
