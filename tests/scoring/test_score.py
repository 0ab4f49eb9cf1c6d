"The official score, held to an independent transcription of the host's function."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest, norm

from spectramind.core.errors import SchemaError, UsageError
from spectramind.core.nouns import Spectra
from spectramind.scoring.shares import bootstrap_mean, expanded, share_interval, wilson
from spectramind.scoring.score import bin_weights, coverage, naive_statistics, score, score_cells, total_score

N = 283


def host_score(solution, submission, naive_mean, naive_sigma, fsg_sigma_true=1e-6, airs_sigma_true=1e-5, fgs_weight=57.846):
    "The host's recipe, with pandas and scipy, from its published description."
    solution, submission = solution.drop(columns='planet_id'), submission.drop(columns='planet_id')
    if submission.min().min() < 0: raise ValueError('Negative values in the submission')
    y_true, y_pred = solution.to_numpy(), submission.iloc[:, :N].to_numpy()
    s_pred = np.clip(submission.iloc[:, N:].to_numpy(), 1e-15, None)
    s_true = np.append(np.array([fsg_sigma_true]), np.ones(N - 1)*airs_sigma_true)*np.ones_like(y_true)
    gll_pred = norm.logpdf(y_true, loc=y_pred, scale=s_pred)
    gll_true = norm.logpdf(y_true, loc=y_true, scale=s_true)
    gll_mean = norm.logpdf(y_true, loc=naive_mean*np.ones_like(y_true), scale=naive_sigma*np.ones_like(y_true))
    ind = (gll_pred - gll_mean)/(gll_true - gll_mean)
    weights = np.append(np.array([fgs_weight]), np.ones(N - 1))*np.ones_like(ind)
    return float(np.clip(np.average(ind, weights=weights), 0., 1.))


def population(seed, n=9, error=1e-4):
    rng = np.random.default_rng(seed)
    truth = rng.lognormal(-4.4, 0.6, (n, 1)) + 2e-4*rng.normal(size=(n, N))
    truth = np.abs(truth)
    sigma = error*rng.lognormal(0, 0.5, (n, N))
    return np.arange(n)*7 + 5, truth, np.abs(truth + sigma*rng.normal(size=truth.shape)), sigma


def host_frames(ids, truth, mu, sigma):
    wl, sg = [f'wl_{k}' for k in range(1, N + 1)], [f'sigma_{k}' for k in range(1, N + 1)]
    left = pd.concat([pd.DataFrame({'planet_id': ids}), pd.DataFrame(truth, columns=wl)], axis=1)
    return left, pd.concat([pd.DataFrame({'planet_id': ids}), pd.DataFrame(np.hstack([mu, sigma]), columns=wl + sg)], axis=1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-6, 3e-3), st.floats(0.3, 3.))
def test_equals_the_hosts_function(seed, error, scale):
    ids, truth, mu, sigma = population(seed, error=error)
    sigma = sigma*scale
    naive = naive_statistics(truth)
    report = score((ids, truth), Spectra(ids, mu, sigma), *naive)
    assert report.total == pytest.approx(host_score(*host_frames(ids, truth, mu, sigma), *naive), rel=1e-12, abs=1e-12)
    share = 57.846/339.846
    assert report.unclipped == pytest.approx(share*report.fgs1 + (1 - share)*report.airs, rel=1e-12)
    assert report.unclipped == pytest.approx(report.per_planet.mean(), rel=1e-12)
    assert report.nll == -report.gll


def test_hand_computed_cells():
    depth, mu, sigma = np.full((1, N), 0.02), np.full((1, N), 0.0203), np.full((1, N), 1e-4)
    cells = score_cells(depth, mu, sigma, 0.01, 0.01)
    # e/sigma = 3, z = 1: 1 - (ln 10 + 4.5)/(ln 1000 + 0.5) and, for FGS1, 1 - (ln 100 + 4.5)/(ln 10000 + 0.5)
    assert cells[0, 1] == pytest.approx(1 - (2.302585092994046 + 4.5)/(6.907755278982137 + 0.5), rel=1e-12)
    assert cells[0, 0] == pytest.approx(1 - (4.605170185988092 + 4.5)/(9.210340371976184 + 0.5), rel=1e-12)
    assert cells[0, 1] == pytest.approx(0.081694, abs=1e-6) and cells[0, 0] == pytest.approx(0.062322, abs=1e-6)


def test_reference_submissions_score_zero_and_one():
    ids, truth, _, _ = population(1)
    mean, sd = naive_statistics(truth)
    ideal = np.broadcast_to(np.r_[1e-6, np.full(N - 1, 1e-5)], truth.shape)
    assert score((ids, truth), Spectra(ids, truth, ideal), mean, sd).total == pytest.approx(1, abs=1e-12)
    assert score((ids, truth), Spectra(ids, np.full(truth.shape, mean), np.full(truth.shape, sd)), mean, sd).total == pytest.approx(0, abs=1e-12)


def test_sigma_is_clipped_at_1e_15_and_only_the_average_is_clipped():
    truth = np.full((1, N), 0.01)
    zero, tiny = (score_cells(truth, truth, np.full((1, N), s), 0.015, 0.01) for s in (0., 1e-15))
    assert np.array_equal(zero, tiny) and zero.min() > 1
    wrong = score_cells(truth, truth + 1e-3, np.full((1, N), 1e-15), 0.015, 0.01)
    assert wrong.max() < -1e20 and total_score(wrong) == 0 and total_score(zero) == 1


def test_row_order_does_not_matter_and_inputs_stay():
    ids, truth, mu, sigma = population(3)
    keep = mu.copy()
    a = score((ids, truth), Spectra(ids, mu, sigma), 0.0146, 0.0107)
    order = np.random.default_rng(0).permutation(len(ids))
    b = score((ids, truth), Spectra(ids[order], mu[order], sigma[order]), 0.0146, 0.0107)
    assert a.total == b.total and np.array_equal(a.per_planet, b.per_planet) and np.array_equal(mu, keep)
    c = score(Spectra(ids, truth, truth), Spectra(ids, mu, sigma), 0.0146, 0.0107)
    assert c.total == a.total


def test_naive_statistics_are_population_mean_and_std():
    _, truth, _, _ = population(4)
    assert naive_statistics(truth) == (truth.mean(), truth.std(ddof=0))
    with pytest.raises(UsageError, match='finite'): naive_statistics(np.array([[np.nan]]))


@pytest.mark.parametrize('spoil, message', [
    (lambda m, s: (np.where(m == m[2, 5], -1e-9, m), s), 'mu: found -1e-09 for planet 19 in bin 5'),
    (lambda m, s: (m, np.where(s == s[1, 0], np.nan, s)), 'sigma: found nan for planet 12 in bin 0'),
    (lambda m, s: (m, np.where(s == s[0, 0], np.inf, s)), 'sigma: found inf for planet 5'),
    (lambda m, s: (m[:, :282], s), r'mu: found shape \(9, 282\)'),
    (lambda m, s: (m.astype(str), s), 'wanted numbers'),
    (lambda m, s: (m, -s), 'sigma: found -')])
def test_refused_values(spoil, message):
    ids, truth, mu, sigma = population(5)
    mu, sigma = spoil(mu, sigma)
    with pytest.raises(SchemaError, match=message): score((ids, truth), Spectra(ids, mu, sigma), 0.0146, 0.0107)


def test_refused_rows_and_statistics():
    ids, truth, mu, sigma = population(6)
    found = Spectra(ids, mu, sigma)
    for wanted_ids, text in ((ids + 1, 'missing'), (np.r_[ids[:-1], ids[0]], 'times')):
        with pytest.raises(SchemaError, match=text): score((wanted_ids, truth), found, 0.0146, 0.0107)
    with pytest.raises(SchemaError, match='no planet'): score((ids[:0], truth[:0]), found, 0.0146, 0.0107)
    with pytest.raises(SchemaError, match='truth: found nan'): score((ids, np.where(truth == truth[0, 0], np.nan, truth)), found, 0.0146, 0.0107)
    for bad in (0., -1., np.nan):
        with pytest.raises(UsageError, match='naive'): score((ids, truth), found, 0.0146, bad)


def test_weights():
    assert bin_weights()[0] == 57.846 and bin_weights()[1:].sum() == 282


def test_coverage_counts_and_wilson():
    z = np.array([[0.5, 1.5], [2.5, 0.1]])
    found = coverage(z, np.ones_like(z), np.zeros_like(z), (0.5, 0.6827, 0.95))
    assert [c.fraction for c in found] == [0.5, 0.5, 0.75]
    assert found[2].fgs1 == 0.5 and found[2].airs == 1 and found[0].n_planets == 2
    assert all(c.low <= c.fraction <= c.high for c in found)


def test_wilson_is_scipys():
    for k, n in ((7, 10), (0, 5), (24, 24), (311, 1000)):
        both = binomtest(k, n).proportion_ci(0.95, method='wilson')
        assert wilson(k/n, n) == pytest.approx((both.low, both.high), abs=1e-12)
    assert wilson(0., 5)[0] == 0 and wilson(1., 5)[1] == 1


@pytest.mark.parametrize('n', [12, 40])
def test_the_interval_of_a_share_holds_and_can_refuse(n):
    "Errors that go together inside a planet: honest ones are held about 95 times in 100, error bars 40 % too small seldom."
    def holds(factor, trials=150):
        found = 0
        for seed in range(trials):
            rng = np.random.default_rng([n, seed])
            z = factor*(np.sqrt(.6)*rng.standard_normal((n, 1)) + np.sqrt(.4)*rng.standard_normal((n, 283)))
            c, = coverage(z, np.ones_like(z), np.zeros_like(z), (.6827,))
            found += c.low <= .6827 <= c.high
        return found/trials
    assert .88 <= holds(1.) <= .995 and holds(1/.6) < {12: .5, 40: .05}[n]


def test_one_planet_and_planets_that_do_not_differ():
    assert share_interval(np.ones((5, 3)))[3] == 'wilson' and share_interval(np.array([[1., 0.]]))[:3] == pytest.approx((.5, *wilson(.5, 1)))
    assert expanded(.95, 1) == 1 and expanded(.95, 10**7) == pytest.approx(.95, abs=1e-6)
    with pytest.raises(UsageError, match='one finite number'): bootstrap_mean([])


def test_metrics_are_json():
    from spectramind.core.store import json_text
    ids, truth, mu, sigma = population(8)
    report = score((ids, truth), Spectra(ids[::-1], mu[::-1], sigma[::-1], tuple('abcdefghi')), 0.0146, 0.0107)
    assert '"coverage_68.27_interval":[' in json_text(report.metrics()) and report.origin[0] == 'i'
    assert report.metrics()['rmse_fgs1_ppm'] == pytest.approx(1e6*np.sqrt(np.mean((mu - truth)[:, 0]**2)))
