"Outliers: widening never narrows, usual planets are left alone, strange ones found, nobody is lost."
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import chi2 as chi2_distribution, false_discovery_control, kstest

from spectramind.core.errors import SchemaError, UsageError
from spectramind.core.nouns import DepthPosterior
from spectramind.uncertainty.coverage import planet_nll
from spectramind.uncertainty.outliers import (FLAG, SLOPE, START, apply_outliers, benjamini_hochberg, chi2_laws, combine_p, cross_fit_outliers,
                                              distance_law, distance_p, fit_chi2, fit_outliers, fit_slope, judge_planets, ledoit_wolf,
                                              outliers_from_dict, predictive_p, widen_sigma, widening)

N = 283


def made(n, seed=0, strange=0, width=12, excess=3.):
    rng = np.random.default_rng(seed)
    off = np.arange(n) >= n - strange
    mixing = np.random.default_rng(1).standard_normal((5, width))
    latents = np.tanh(rng.standard_normal((n, 5))@mixing/2) + .1*rng.standard_normal((n, width))
    latents[off] += 3*rng.choice([-1., 1.], (strange, width))
    e = .8*rng.standard_normal((n, 1)) + .6*rng.standard_normal((n, N))
    sigma = 5e-5*rng.lognormal(0, .3, (n, N))
    return latents, np.full((n, N), .01), .01 + sigma*e*np.where(off, excess, 1)[:, None], sigma, off


def ledoit_wolf_ref(x):
    "Straight from the paper's sums, one vector at a time."
    n, p = x.shape
    S = sum(np.outer(v, v) for v in x)/n
    m = np.trace(S)/p
    d2 = np.sum((S - m*np.eye(p))**2)/p
    b2 = min(d2, sum(np.sum((np.outer(v, v) - S)**2)/p for v in x)/n**2)
    return b2/d2*m*np.eye(p) + (d2 - b2)/d2*S


@pytest.mark.parametrize('n, p', [(10, 3), (30, 20), (15, 40), (400, 5)])
def test_shrinkage_is_the_papers(n, p):
    x = np.random.default_rng(n).standard_normal((n, p))*np.linspace(.5, 3, p)
    x -= x.mean(0)
    cov, weight = ledoit_wolf(x)
    assert np.allclose(cov, ledoit_wolf_ref(x), rtol=1e-10) and 0 <= weight <= 1 and np.linalg.eigvalsh(cov).min() > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 50), st.floats(1, 20))
def test_widening_never_narrows_is_bounded_and_ordered(p, slope, widest):
    p = np.sort(p)
    w = widening(p, slope, widest)
    assert (w >= 1).all() and (w <= widest).all() and (np.diff(w) <= 1e-12).all() and (w[p >= START] == 1).all()


def test_widening_is_smooth_at_its_start():
    p = START*np.exp(-np.array([-1e-6, 0, 1e-6, 1e-4]))
    w = widening(p)
    assert np.array_equal(w[:2], [1, 1]) and 0 <= w[2] - 1 < 1e-12 and w[3] - 1 < 2e-9
    assert widening(np.zeros(1))[0] > 2.9 and widening(np.array([1e-3]))[0] == pytest.approx(1.29, abs=.02)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(12, 40))
def test_order_and_units_of_latents_do_not_matter(seed, n):
    latents, truth, mu, sigma, _ = made(n, seed)
    rng = np.random.default_rng(seed)
    chi2, dof = rng.chisquare(200, n), np.full(n, 200.)
    order, scale = rng.permutation(n), rng.uniform(.1, 50, latents.shape[1])
    a = fit_outliers(latents, chi2, dof, truth, mu, sigma)
    b = fit_outliers((latents*scale + 7)[order], chi2[order], dof[order], truth[order], mu[order], sigma[order])
    x, y = apply_outliers(a, latents, chi2, dof), apply_outliers(b, latents*scale + 7, chi2, dof)
    assert np.allclose(x[1], y[1], rtol=1e-5, atol=1e-12) and np.allclose(x[2], y[2], rtol=1e-5) and a.slope == b.slope


def test_usual_planets_are_left_alone_and_strange_ones_found():
    alarms, found, p = [], [], []
    for seed in range(10):
        known = fit_outliers(made(120, seed)[0])
        flag, one, widen = apply_outliers(known, made(140, 50 + seed, 20)[0])
        alarms.append(flag[:120].mean()), found.append(flag[120:].mean()), p.append(one[:120])
        assert (widen >= 1).all() and widen[120:].mean() > widen[:120].mean()
    assert np.mean(alarms) < .03 and np.mean(found) > .95
    below = [np.mean(v < .1) for v in p]
    assert abs(np.mean(below) - .1) < 4*np.std(below)/np.sqrt(10) + .02


def test_tail_of_distances_on_the_safe_side():
    rng = np.random.default_rng(0)
    new = rng.chisquare(10, 20000)
    rates = [np.mean(distance_p(new, distance_law(rng.chisquare(10, 200))) < 1e-3) for _ in range(30)]
    assert np.mean(rates) < 1.5e-3                               # normal latents: at most about what p says
    heavy = rng.standard_t(3, 20000)**2
    rates = [np.mean(distance_p(heavy, distance_law(rng.standard_t(3, 200)**2)) < 1e-3) for _ in range(30)]
    assert np.mean(rates) < 4e-3 and np.mean(chi2_distribution.sf(heavy, 1) < 1e-3) > .02   # where chi2 cries wolf
    p = distance_p(np.linspace(0, 100, 5001), distance_law(new[:300]))
    assert p[0] == 1 and (np.diff(p) <= 0).all() and np.abs(np.diff(p)).max() < .01


def test_p_values():
    p = np.random.default_rng(0).uniform(size=50)**3
    for q in (.05, .2): assert np.array_equal(benjamini_hochberg(p, q), false_discovery_control(p) <= q)
    assert not benjamini_hochberg(np.ones(4)).any() and benjamini_hochberg(np.zeros(4)).all()
    both = combine_p(np.array([.01, .9]), np.array([.5, .8]))
    assert np.allclose(both, [.02, 1.]) and np.array_equal(combine_p(p), p)
    rng = np.random.default_rng(1)
    chi2, dof = rng.chisquare(56, (500, 2)), np.full((500, 2), 56.)
    one = predictive_p(chi2[:, 0], dof[:, 0])
    np.testing.assert_allclose(one, chi2_distribution.sf(chi2[:, 0], 56), rtol=1e-10)
    assert kstest(one, 'uniform').pvalue > .001
    assert np.array_equal(predictive_p(chi2, dof), combine_p(one, predictive_p(chi2[:, 1], dof[:, 1])))
    with pytest.raises(UsageError, match="wanted 1"): predictive_p(chi2, dof, chi2_laws(chi2[:, 0], dof[:, 0]))


def posterior(planet=1, times=(50, 40), **quality):
    curves = {f"visit_{i}": {k: dict(time_h=np.arange(n)) for k in ("fgs1", "airs")} for i, n in enumerate(times)}
    return DepthPosterior(planet, np.zeros(N), np.eye(N), {}, curves, dict(chi2_fgs1=1.1, chi2_airs=.9, white_noise_fgs1=1., white_noise_airs=2.) | quality)


def test_what_the_fit_says_of_itself():
    chi2, dof = fit_chi2([posterior(), posterior(times=(10,)), posterior(chi2_airs=np.nan, white_noise_fgs1=np.inf)])
    np.testing.assert_array_equal(dof[:2], [[90, 90*282, 90, 90], [10, 2820, 10, 10]])
    np.testing.assert_allclose(chi2[0]/dof[0], [1.1, .9, 1., 4.])
    assert (chi2[2]/dof[2]).tolist() == pytest.approx([1.1, 1e6, 1e6, 4.]) and predictive_p(chi2, dof)[2] == 0   # not finite: as bad as can be
    broken = posterior(7)
    del broken.quality["chi2_airs"]
    with pytest.raises(SchemaError, match="planet 7.*chi2_airs"): fit_chi2([broken])


def test_usual_fits_raise_few_flags_and_a_bad_one_is_seen_in_each_column():
    rates = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        dof = np.tile([190., 190*282, 190, 190], (240, 1))
        chi2 = dof*[1., 1., 1., 1.2]*rng.lognormal(0, [.11, .013, .05, .15], (240, 4))     # scatters as those of fitted planets do
        laws = chi2_laws(chi2[:120], dof[:120])
        p = predictive_p(chi2[120:], dof[120:], laws)
        rates.append([np.mean(p < .05), np.mean(p < .01)])
        for k, factor in enumerate((2.5, 1.25, 1.8, 5.)):
            worse = chi2[120:].copy()
            worse[:, k] *= factor
            assert np.median(predictive_p(worse, dof[120:], laws)) < .01
    assert np.mean(rates, 0)[0] < .06 and np.mean(rates, 0)[1] < .015


def test_fits_that_are_bad_everywhere_make_nobody_strange():
    rng = np.random.default_rng(2)
    dof = np.full(150, 5000.)
    chi2 = 1.4*rng.chisquare(5000, 150)*rng.lognormal(0, .1, 150)              # nominal p of nearly all: below 1e-10
    latents = made(150, 3)[0]
    known = fit_outliers(latents, chi2, dof)
    assert np.median(predictive_p(chi2, dof)) < 1e-10 and len(known.chi2_laws) == 1
    flag, _, _ = apply_outliers(known, latents, 1.4*5000*rng.lognormal(0, .1, 150), dof)
    assert flag.mean() < .06
    flag, p, widen = apply_outliers(known, latents[:2], np.array([7000., 14000.]), dof[:2])
    assert list(flag) == [False, True] and widen[1] > 1.2 and p[1] < 1e-3
    good = fit_outliers(latents, rng.chisquare(5000, 150)*.5, dof)             # sigmas too large: still nobody is strange
    assert apply_outliers(good, latents, dof, dof)[1].min() > 1e-4 and np.median(predictive_p(dof, dof, good.chi2_laws)) > .4


def test_the_slope_learns_but_not_much():
    p = np.r_[np.linspace(.05, 1, 150), np.full(12, 1e-4)]
    def slope(excess):
        _, truth, mu, sigma, _ = made(162, 5, 12, excess=excess)
        return fit_slope(p, truth, mu, sigma)
    assert slope(1.) < SLOPE < 3*SLOPE < slope(3.) <= SLOPE*np.exp(2) + 1e-12
    _, truth, mu, sigma, _ = made(150, 1)
    assert fit_slope(np.ones(150), truth, mu, sigma) == pytest.approx(SLOPE)   # no outlier, nothing learnt


def test_judged_on_another_fold():
    latents, truth, mu, sigma, off = made(160, 4, 10)
    fold = np.random.default_rng(0).integers(0, 4, 160)
    a = cross_fit_outliers(latents, truth, mu, sigma, fold, n_boot=100)
    assert a.gain[0] > 0 and (a.widen >= 1).all() and a.widen[off].mean() > 1.2 > 1.02 > a.widen[~off].mean()
    changed = mu.copy()
    changed[fold == 1] += 1e-3
    b = cross_fit_outliers(latents, truth, changed, sigma, fold, n_boot=10)
    assert np.array_equal(a.widen[fold == 1], b.widen[fold == 1])
    rule = cross_fit_outliers(latents, truth, mu, sigma, fold, learn=False, n_boot=10)
    assert rule.final.slope == SLOPE and np.array_equal(rule.p, a.p)
    _, *plain, _ = made(160, 4)
    harm = cross_fit_outliers(latents, *plain, fold, n_boot=50).gain[0]       # strange in latents only: widening costs a little
    assert -.1 < harm < 0
    chi2 = np.random.default_rng(1).chisquare(300, 160)
    with_chi2 = cross_fit_outliers(latents, truth, mu, sigma, fold, chi2, np.full(160, 300.), n_boot=10)
    assert len(with_chi2.final.chi2_laws) == 1 and not a.final.chi2_laws
    four = cross_fit_outliers(latents, truth, mu, sigma, fold, np.tile(chi2[:, None], 4), np.full((160, 4), 300.), n_boot=10)
    assert len(four.final.chi2_laws) == 4 and (four.p >= with_chi2.p - 1e-12).all()      # four that say the same are not four times as sure


def test_planets_of_another_world_get_wider_bars_though_nobody_like_them_was_known():
    known, *_ = made(150, 0)
    members = [fit_outliers(known, truth=np.full((150, N), .01), mu=made(150, 0)[2], sigma=made(150, 0)[3]) for _ in range(3)]
    new, truth, mu, sigma, off = made(120, 9, 20)
    found = judge_planets(members, np.stack([new]*3))
    assert found["flag"][off].mean() > .9 and found["flag"][~off].mean() < .05 and found["listed"][off].all()
    before, after = planet_nll(truth, mu, sigma), planet_nll(truth, mu, widen_sigma(sigma, found["widen"]))
    assert before[off].mean() - after[off].mean() > .5 and abs(before[~off].mean() - after[~off].mean()) < .02
    assert np.isnan(found["p_predictive"]).all() and np.array_equal(found["flag"], found["p"] < FLAG)


def test_a_fit_that_is_bad_is_flagged_though_its_latents_are_usual_and_the_other_way_round():
    rng = np.random.default_rng(3)
    latents, chi2, dof = made(150, 0)[0], 300*rng.lognormal(0, .1, (150, 4)), np.full((150, 4), 300.)
    members = [fit_outliers(latents, chi2, dof)]*2
    new, worse = latents[:3].copy(), np.full((3, 4), 300.)
    new[1] += 9
    worse[2, 3] *= 4
    found = judge_planets(members, np.stack([new]*2), worse, dof[:3])
    assert found["flag"].tolist() == [False, True, True] and (found["p_latent"] < .01).tolist() == [False, True, False]
    assert (found["p_predictive"] < .01).tolist() == [False, False, True] and (found["widen"] > 1.1).tolist() == [False, True, True]
    deaf = judge_planets(members, np.stack([new]*2))
    assert deaf["flag"].tolist() == [False, True, False]                       # without the fit's word only the latents are heard
    lost = judge_planets(members, np.stack([new, np.where([[False], [True], [False]], np.nan, new)]), worse, dof[:3])
    assert lost["p_latent"][1] < 1e-3 and np.isfinite(lost["widen"]).all()
    with pytest.raises(UsageError, match="2 networks"): judge_planets(members[:1], np.stack([new]*2))


def test_no_row_is_lost():
    latents = made(60, 1)[0]
    latents[:, 3] = 2.                                                       # a latent that never varies
    known = fit_outliers(latents)
    new = made(8, 2)[0]
    new[5, 0] = np.nan
    with pytest.raises(UsageError, match='not finite'): apply_outliers(known, new)
    flag, p, widen = apply_outliers(known, new, missing='flag')
    assert flag[5] and p[5] == 0 and widen[5] == 3 and len(flag) == 8 and np.isfinite(p).all() and (widen >= 1).all()
    assert apply_outliers(known, new, missing='flag', method='bh', threshold=.1)[0][5]
    alone = [apply_outliers(known, new[k:k + 1])[1][0] for k in (0, 7)]       # company does not matter
    assert np.allclose(alone, p[[0, 7]], rtol=1e-9)


def test_json():
    latents = made(40, 1)[0]
    latents[:, 3] = 2.
    chi2 = np.random.default_rng(0).chisquare(50, 40)
    a = fit_outliers(latents, chi2, np.full(40, 50.))
    b = outliers_from_dict(json.loads(json.dumps(a.to_dict(), allow_nan=False)))
    both = [apply_outliers(o, latents, chi2, np.full(40, 50.)) for o in (a, b)]
    for x, y in zip(*both): assert np.array_equal(x, y)
    good = a.to_dict()
    for wrong in (dict(centre=[1.]), dict(scale=[0.]*12), dict(scale=['x']*12), dict(precision=[[1.]]), dict(slope=-1.), dict(widest=.5),
                  dict(law=[1, 2]), dict(law=[1, 2, 3, -4]), dict(law=None), dict(chi2_laws=[[1, 2]]), dict(chi2_laws='x'), dict(chi2_laws=[[1, 2, 3, np.nan]]),
                  dict(n_planets=1.5), dict(kind='x'), dict(version=1), dict(more=0)):
        with pytest.raises(SchemaError): outliers_from_dict(good | wrong)
    for wrong in ([], None, {}):
        with pytest.raises(SchemaError): outliers_from_dict(wrong)


def test_refusals():
    latents, truth, mu, sigma, _ = made(20)
    known, ones = fit_outliers(latents), np.ones(20)
    nan = latents.copy()
    nan[1, 1] = np.nan
    zero = sigma.copy()
    zero[0, 0] = 0
    for wrong in (dict(latents=nan), dict(latents=latents[:5]), dict(latents=latents[0]), dict(latents=np.ones((20, 3))),
                  dict(latents=latents.astype(str)), dict(chi2=ones), dict(chi2=ones, dof=0*ones), dict(chi2=-ones, dof=ones),
                  dict(chi2=ones[1:], dof=ones[1:]), dict(chi2=ones*np.nan, dof=ones), dict(truth=truth),
                  dict(truth=truth, mu=mu, sigma=zero), dict(truth=truth[1:], mu=mu[1:], sigma=sigma[1:]), dict(widest=.5)):
        with pytest.raises(UsageError): fit_outliers(**dict(latents=latents) | wrong)
    for wrong in (dict(latents=latents[:, 1:]), dict(chi2=ones, dof=ones), dict(chi2=ones), dict(threshold=0.), dict(method='x'),
                  dict(missing='x')):
        with pytest.raises(UsageError): apply_outliers(known, **dict(latents=latents) | wrong)
    with pytest.raises(UsageError): apply_outliers(fit_outliers(latents, ones, ones), latents)
    for wrong in (ones*.9, ones[1:], ones*np.nan):
        with pytest.raises(UsageError): widen_sigma(sigma, wrong)
    for wrong in (np.array([1.1]), np.array([np.nan]), np.array([]), np.ones((2, 2))):
        with pytest.raises(UsageError): widening(wrong)
        with pytest.raises(UsageError): benjamini_hochberg(wrong)
    with pytest.raises(UsageError): widening(ones, -1.)
    with pytest.raises(UsageError): combine_p()
    with pytest.raises(UsageError): benjamini_hochberg(ones, 0.)
    with pytest.raises(UsageError): cross_fit_outliers(latents[1:], truth, mu, sigma, np.arange(20) % 2)
