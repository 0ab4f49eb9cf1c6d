"The error budget against brute force, the Allan curve against its own statistics, draws against known distributions."
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import truncnorm

from spectramind.challenge.planets import StarRow
from spectramind.challenge.wavelength import default_wavelengths
from spectramind.core.errors import DataError, UsageError
from spectramind.core.nouns import DepthPosterior, LightCurves
from spectramind.lightcurve import budget as B
from spectramind.lightcurve import model as M
from spectramind.lightcurve import solve as F
from spectramind.lightcurve.foreground import correct_foreground
from spectramind.lightcurve.prior import fit_prior
from spectramind.physics.transit import projected_distance, quadratic_flux

UM = default_wavelengths()
LEVEL = np.r_[2.3e5, np.interp(UM[1:], [1.95, 2.1, 2.5, 3.0, 3.5, 3.9], [1e5, 1.4e5, 8e4, 4e4, 2.5e4, 6e3])]
PAIRS = np.r_[.4, np.full(282, 4.8)]
STAR = StarRow(7, 1.2, 1.1, 5800., 1., 0., 4., 9.2, 88.4)


def observe(seed, t0=3.7, n=60, read=3000., number=0, noise=1.):
    "Light curves of one visit with Poisson noise of their own flux, constant read variance, and nothing else."
    rng = np.random.default_rng(seed)
    t = (np.arange(n) + .5)*7.5/n
    transit = quadratic_flux(projected_distance(t, t0, 4., 9., 88.5), np.full(283, .11), np.full(283, .2), np.full(283, .12))
    exposures = 7.5*3600/n/PAIRS
    flux, variance = LEVEL*transit, noise**2*(LEVEL*transit + read)/exposures
    flux = flux + np.sqrt(variance)*rng.standard_normal(flux.shape)
    return LightCurves(7, number, flux, variance, np.ones(flux.shape, bool), t, flux[:, 0], variance[:, 0], np.ones(n, bool), t, np.zeros((n, 2)), np.zeros((n, 2)), {})


@pytest.fixture(scope="module")
def fitted():
    config = M.FitConfig(time_bins=60)
    curves = [observe(1), observe(2, t0=3.4, number=1, noise=2.)]
    visits = [M.prepare_visit(c, config) for c in curves]
    shared = M.shared_parameters(visits, STAR, UM, config)
    theta = shared.prior_mean.copy()
    theta[:2], theta[2], theta[3] = (3.7, 3.4), np.log(9.), (9*np.cos(np.radians(88.5)))**2
    return curves, visits, shared, M.State(np.ones((2, 283)), np.full(283, .0121), theta)


def test_freed_variance_is_the_difference_of_inverses():
    rng = np.random.default_rng(3)
    root, slope = rng.standard_normal((9, 12)), rng.standard_normal((5, 9))
    precision = root@root.T
    groups = dict(a=[4, 0], b=[8, 1, 2], c=[3, 5, 6, 7])
    parts, seen, before = B.freed_variance(slope, precision, groups), [], np.zeros(5)
    for name, index in groups.items():
        seen += index
        now = np.einsum("wi,ij,wj->w", slope[:, seen], np.linalg.inv(precision[np.ix_(seen, seen)]), slope[:, seen])
        assert np.allclose(parts[name], now - before, rtol=1e-9) and (parts[name] >= 0).all()
        before = now
    other = B.freed_variance(slope, precision, dict(c=groups["c"], b=groups["b"], a=groups["a"]))
    assert np.allclose(sum(other.values()), sum(parts.values())) and not np.allclose(other["a"], parts["a"])
    for wrong in (dict(a=[0, 1]), dict(a=[0], b=range(9))):
        with pytest.raises(UsageError): B.freed_variance(slope, precision, wrong)


def test_budget_is_the_laplace_covariance(fitted):
    curves, visits, shared, state = fitted
    cov, _ = F.depth_covariance(visits, shared, F.noise_free(visits, shared, state))
    totals = []
    for order in (("drift", "limb", "geometry"), ("geometry", "limb", "drift")):
        budget = B.error_budget(visits, shared, state, curves, order=order)
        assert np.allclose(budget["total"]**2, np.diag(cov), rtol=1e-9, atol=0)
        assert np.allclose(sum(budget[k]**2 for k in B.SOURCES if k in budget), budget["total"]**2, rtol=1e-12, atol=0)
        totals.append(budget)
    assert (totals[0]["geometry"] != totals[1]["geometry"]).any() and np.array_equal(totals[0]["photon"], totals[1]["photon"])
    rows = B.budget_table(totals[0])
    assert rows[-1]["source"] == "total" and abs(sum(r["fgs1_share"] for r in rows[:-1]) - 1) < 1e-9


def test_knowing_a_group_removes_its_last_place(fitted):
    curves, visits, shared, state = fitted
    free = B.error_budget(visits, shared, state, curves, order=("drift", "limb", "geometry"))
    sd = shared.prior_sd.copy()
    sd[shared.geometry] = 1e-9                                            # an orbit known beforehand
    known, _ = F.depth_covariance(visits, replace(shared, prior_sd=sd), F.noise_free(visits, shared, state))
    assert np.allclose(free["total"]**2 - free["geometry"]**2, np.diag(known), rtol=1e-5)


def test_white_shares_of_a_known_mixture(fitted):
    curves, visits, _, _ = fitted
    truth = LEVEL/(LEVEL + 3000)
    shares = B.white_shares(curves[0], replace(visits[0], ratio=np.ones(283)))
    assert np.allclose(shares.sum(0), 1) and np.allclose(shares[0], truth, rtol=.02) and (np.abs(shares[2]) < 1e-12).all()
    shares = B.white_shares(curves[0], replace(visits[0], ratio=np.full(283, 2.)))
    assert np.allclose(shares[0], truth/2, rtol=.02) and np.allclose(shares[2], .5)
    for ratio in (.9, .3):                                                # less scatter than promised: no negative excess
        shares = B.white_shares(curves[0], replace(visits[0], ratio=np.full(283, ratio)))
        assert (shares >= 0).all() and np.allclose(shares.sum(0), 1) and (shares[2] < 1e-12).all()
    with pytest.raises(DataError, match="electrons"): B.white_shares(replace(curves[0], variance=curves[0].variance/50), visits[0])
    assert np.allclose(B.white_shares(curves[0], visits[0], pair_s=(.2, 2.4))[0], np.clip(B.white_shares(curves[0], visits[0])[0]/2, 0, 1))


def test_visits_weigh_by_what_they_know(fitted):
    curves, visits, shared, state = fitted
    information = B.visit_information(visits, shared, state)
    H = F.assemble(visits, shared, state)[0]
    assert np.allclose(1/information.sum(0), np.linalg.inv(H)[:, -1, -1], rtol=1e-8)
    assert .15 < np.median(information[1]/information[0]) < .4            # four times the variance, a quarter of the information
    dark = [replace(v, weight=np.where(np.arange(283) == 50, 0., v.weight)) for v in visits]
    blind = [replace(c, valid=c.valid & (np.arange(283) != 50)) for c in curves]
    budget = B.error_budget(dark, shared, state, blind)
    assert all(np.isfinite(v).all() for v in budget.values()) and budget["total"][50] > 1e3*budget["total"][51]


def test_red_foreground_and_final(fitted):
    curves, visits, shared, state = fitted
    cov, _ = F.depth_covariance(visits, shared, F.noise_free(visits, shared, state))
    root = np.r_[1.5, np.ones(282)]
    told = dict(precision=np.diag([4., 1., 1.]).tolist(), pull=[8., 0., 0.], dilution=np.linspace(1e-6, 1e-5, 282).tolist(), subtracted=[0.]*282)
    posterior = DepthPosterior(7, F.linear_depths(visits, shared, state)[0].depth, cov*root*root[:, None], dict(foreground=[told]), {}, dict(inflate_fgs1=2.25, inflate_airs=1.))
    prior = fit_prior(.012 + 1e-4*np.random.default_rng(1).standard_normal((3, 1))*np.ones(283))
    budget = B.error_budget(visits, shared, state, curves, posterior, prior)
    assert np.isclose(budget["red"][0]**2, 1.25*cov[0, 0], rtol=1e-6) and (budget["red"][1:] == 0).all()
    corrected = correct_foreground(posterior, prior.foreground).cov
    assert budget["foreground"][0] == 0 and (budget["foreground"][1:] > 0).all() and np.allclose(budget["total"]**2, np.diag(corrected), rtol=1e-8)
    assert budget["final"].shape == (283,) and np.median(budget["final"][1:]) < np.median(budget["total"][1:])
    assert "final" not in B.error_budget(visits, shared, state, curves, posterior)
    for wrong in (replace(posterior, mean=posterior.mean + 1e-4), replace(posterior, cov=cov/2)):
        with pytest.raises(DataError): B.error_budget(visits, shared, state, curves, wrong)


def test_a_posterior_that_was_walked_keeps_its_own_variance(fitted):
    curves, visits, shared, state = fitted
    cov, _ = F.depth_covariance(visits, shared, F.noise_free(visits, shared, state))
    factor = np.linspace(.9, 3, 283)                                      # narrower than the Laplace approximation in places, wider in others
    posterior = DepthPosterior(7, state.depth*1.02, cov*np.sqrt(factor*factor[:, None])*1.44, {}, {}, dict(inflate_fgs1=1.44, inflate_airs=1.44, slices=[.2, .6, .2]))
    budget, plain = B.error_budget(visits, shared, state, curves, posterior), B.error_budget(visits, shared, state, curves)
    white = sum(plain[k]**2 for k in ("photon", "read", "jitter"))
    above = factor*np.diag(cov) > white
    assert np.allclose(budget["total"][above]**2, np.diag(posterior.cov)[above], rtol=1e-9) and above[factor > 1].all()
    assert (budget["curved"][factor > 1] > 0).all() and np.allclose(budget["red"]**2, .44*factor*np.diag(cov))
    assert np.array_equal(budget["photon"], plain["photon"]) and (budget["geometry"][factor < 1] < plain["geometry"][factor < 1]).all()


def test_allan_band_holds_white_noise_as_often_as_it_says():
    rng, time_h = np.random.default_rng(8), np.linspace(0, 7.5, 256)
    inside = []
    for _ in range(300):
        size_h, rms, white, band = B.allan_curve(rng.standard_normal(256), time_h, level=.9)
        inside.append((band[:, 0] < rms) & (rms < band[:, 1]))
    assert np.isclose(rms[0], white[0]) and len(size_h) == len(rms) == len(band) and np.isclose(size_h[-1], 32*7.5/255)
    share = np.mean(inside, axis=0)                                       # short averages share the noise that the band is made of, so they leave it less often
    assert (share > .85).all() and np.abs(share[5:] - .9).max() < .05
    slow = np.sin(time_h) + .1*rng.standard_normal(256)
    _, rms, _, band = B.allan_curve(slow, time_h)
    assert (rms[3:] > band[3:, 1]).all()
    for wrong in (np.ones(10), np.full(256, np.nan)):
        with pytest.raises(DataError): B.allan_curve(wrong, time_h[:len(wrong)])
    with pytest.raises(DataError): B.allan_curve(slow, time_h[1:])


def test_draws_have_the_fit_s_moments(fitted):
    curves, visits, shared, state = fitted
    cov, cov_theta, cross = F.laplace_covariance(visits, shared, state)
    samples, labels = B.sample_nuisance(visits, shared, state, n=20_000, seed=4)
    assert samples.shape == (20_000, len(labels)) and np.isfinite(samples).all()
    sd = np.sqrt(np.diag(cov_theta))
    assert abs(samples[:, 2].std()/3600/sd[0] - 1) < .03
    assert abs(np.corrcoef(np.log(samples[:, 0]), samples[:, 6])[0, 1] - cross[1:, 2].mean()/sd[2]/np.sqrt(cov[1:, 1:].mean())) < .05
    u = shared.limb_darkening(state.theta)[0]
    assert np.abs(samples[:, 4:6].mean(0) - u).max() < .01


def test_negative_b_squared_is_drawn_from_what_is_left_above_zero(fitted):
    curves, visits, shared, state = fitted
    probe = shared.n_visits + 1
    for shift in (.3, -1., -8.):
        theta = state.theta.copy()
        sd = np.sqrt(F.laplace_covariance(visits, shared, M.State(state.level, state.depth, theta))[1][probe, probe])
        theta[probe] = shift*sd
        here = M.State(state.level, state.depth, theta)
        sd = np.sqrt(F.laplace_covariance(visits, shared, here)[1][probe, probe])
        b = B.sample_nuisance(visits, shared, here, n=20_000)[0][:, 1]
        wanted = truncnorm(-theta[probe]/sd, np.inf, loc=theta[probe], scale=sd)
        assert np.isfinite(b).all() and abs((b**2).mean()/wanted.mean() - 1) < .03 and abs((b**2).std()/wanted.std() - 1) < .05


def test_refusals(fitted):
    curves, visits, shared, state = fitted
    with pytest.raises(DataError): B.error_budget(visits, shared, state, curves[:1])
    with pytest.raises(UsageError): B.error_budget(visits, shared, state, curves, prior=object())
    with pytest.raises(UsageError): B.error_budget(visits, shared, state, curves, order=("drift", "drift", "limb"))
