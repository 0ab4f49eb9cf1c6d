"The joint fit against dense algebra, finite differences and known truths."
from dataclasses import replace

import numpy as np
import pytest

from spectramind.challenge.planets import StarRow
from spectramind.challenge.wavelength import default_wavelengths
from spectramind.core.errors import ConfigError, DataError
from spectramind.core.nouns import LightCurves
from spectramind.lightcurve import fit as F, model as M, solve as S
from spectramind.physics.transit import projected_distance, quadratic_flux

UM = default_wavelengths()
LEVEL = np.r_[2.3e5, np.interp(UM[1:], [1.95, 2.1, 2.5, 3.0, 3.5, 3.9], [1e5, 1.4e5, 8e4, 4e4, 2.5e4, 6e3])]


def visit(seed, t0=3.7, a=9.0, inc=88.5, period=4.0, depth=None, noise=1.0, n=281, number=0, rate=None):
    "Light curves of one visit, written independently of the fit's own model functions."
    rng = np.random.default_rng(seed)
    depth = np.full(283, .0121) if depth is None else depth
    t = (np.arange(n) + .5)*7.5/n
    u1, u2 = np.where(UM < 1, .41, .125 - .024*(UM - 2.9)), np.where(UM < 1, .15, .11 - .03*(UM - 2.9))
    z = projected_distance(t, t0, period, a, inc)
    transit = quadratic_flux(z, np.sqrt(depth), u1, u2)
    x = t/7.5
    drift = 8e-4*np.outer(x - .7*x**2 + .4*x**3, np.r_[-.8, np.linspace(.5, 1.1, 282)])
    mean = LEVEL*transit*(1 + drift)
    variance = (mean + 300.*np.r_[30, np.full(282, 12)])*n/5625/np.r_[12, np.ones(282)]
    flux = mean + noise*np.sqrt(variance)*rng.standard_normal(mean.shape)
    return LightCurves(7, number, flux, variance, np.ones(flux.shape, bool), t, flux[:, 0], variance[:, 0], np.ones(n, bool), t,
                       np.zeros((n, 2)), np.zeros((n, 2)), {})


def star(a=9.4, inc=88.2, period=4.0): return StarRow(7, 1.2, 1.1, 5800., 1., 0., period, a, inc)


@pytest.fixture(scope="module", params=["free", "rank one", "pulled"])
def linearised(request):
    config = M.FitConfig(time_bins=60)
    data = [M.prepare_visit(visit(s, n=60, number=s, t0=3.5 + .2*s), config) for s in (0, 1)]
    if request.param != "free": data = [replace(d, gauge=np.linalg.qr(np.random.default_rng(v).standard_normal((4, 4)))[0]) for v, d in enumerate(data)]
    shared = M.shared_parameters(data, star(), UM, config)
    rng = np.random.default_rng(5)
    theta = shared.prior_mean + .02*shared.prior_sd*rng.standard_normal(len(shared.prior_mean))
    theta[:2] = 3.5, 3.7
    if request.param == "pulled":
        along = rng.standard_normal(len(theta))/shared.prior_sd
        shared = replace(shared, pull=(along, along@theta + .3, .05))
    state = M.State(np.ones((2, 283)), np.full(283, .012) + 1e-4*rng.random(283), theta)
    return data, shared, state


def dense(H, C, corner):
    n_wave, m, p = C.shape
    A = np.zeros((n_wave*m + p,)*2)
    for w in range(n_wave): A[w*m:(w + 1)*m, w*m:(w + 1)*m] = H[w]
    A[:-p, -p:] = C.reshape(-1, p); A[-p:, :-p] = A[:-p, -p:].T; A[-p:, -p:] = corner
    return A


def test_arrow_equals_dense_algebra(linearised):
    data, shared, state = linearised
    H, C, corner, g, g_theta = S.assemble(data, shared, state)
    A = dense(H, C, corner)
    scale = 1/np.sqrt(np.diag(A))                                    # the blocks' units differ by 12 orders of magnitude
    inverse = scale[:, None]*np.linalg.inv(A*scale*scale[:, None])*scale
    full = inverse@np.r_[g.ravel(), g_theta]
    own, step, _, _ = S.solve_arrow(H, C, corner, g, g_theta)
    np.testing.assert_allclose(own.ravel(), full[:-len(step)], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(step, full[-len(step):], rtol=1e-6, atol=1e-12)
    cov, cov_theta = S.depth_covariance(data, shared, state)
    depth = np.arange(283)*3 + 2
    np.testing.assert_allclose(cov, inverse[np.ix_(depth, depth)], rtol=1e-6, atol=1e-16)
    np.testing.assert_allclose(cov_theta, inverse[-len(step):, -len(step):], rtol=1e-5, atol=1e-14)


def test_gradient_is_that_of_chi2(linearised):
    data, shared, state = linearised
    _, _, _, g, g_theta = S.assemble(data, shared, state)
    for i in range(len(state.theta)):
        h = 1e-4*shared.prior_sd[i]
        move = np.zeros(len(state.theta)); move[i] = h
        up, down = (M.chi2(data, shared, replace(state, theta=state.theta + s*move)) for s in (1, -1))
        assert -(up - down)/(4*h)*shared.prior_sd[i] == pytest.approx(g_theta[i]*shared.prior_sd[i], rel=2e-4, abs=2e-3), i
    for w in (0, 1, 150, 282):
        h = 1e-7
        move = np.zeros(283); move[w] = h
        up, down = (M.chi2(data, shared, replace(state, depth=state.depth + s*move)) for s in (1, -1))
        assert -(up - down)/(4*h) == pytest.approx(g[w, -1], rel=1e-4, abs=50.)


def test_noise_free_depths_come_back():
    depth = .0121 + 3e-4*np.exp(-.5*((UM - 3.3)/.1)**2)
    depth[0] = .0125
    posterior = F.fit_planet([visit(1, depth=depth, noise=0.)], star())
    error = posterior.mean - depth
    # what remains is the pull of the star table's and limb darkening's priors, far inside the stated covariance
    assert np.abs(error/np.sqrt(np.diag(posterior.cov))).max() < .6
    assert np.std(error[1:]) < 1.2e-5


@pytest.mark.parametrize("a, inc, t0", [(9., 90., 3.7), (6., 88.5, 4.4), (15., 87.2, 3.1), (8., 85.2, 3.9), (5., 89., 3.)])
def test_errors_are_inside_the_covariance(a, inc, t0):
    depth = np.full(283, .0096)
    posterior = F.fit_planet([visit(3, t0=t0, a=a, inc=inc, depth=depth)], star(a*1.06, min(90., inc + .4)))
    assert not posterior.quality["flag"], posterior.quality["reason"]
    chol = np.linalg.cholesky(posterior.cov)
    assert .7 < np.mean(np.linalg.solve(chol, posterior.mean - depth)**2) < 1.4
    airs = posterior.cov[1:, 1:].mean()**.5
    assert abs((posterior.mean - depth)[1:].mean()) < 4*airs and abs(posterior.mean[0] - depth[0]) < 4*posterior.cov[0, 0]**.5


def test_second_visit_helps():
    one = F.fit_planet([visit(4)], star())
    two = F.fit_planet([visit(4), visit(5, number=1, t0=4.1)], star())
    assert two.quality["n_visits"] == 2 and len(two.nuisance["t0_h"]) == 2
    ratio = np.sqrt(np.diag(two.cov)/np.diag(one.cov))
    assert .6 < np.median(ratio) < .8
    assert two.nuisance["t0_h"] == pytest.approx([3.7, 4.1], abs=.01)


def test_outliers_and_gaps_do_not_matter():
    clean, dirty = visit(6), visit(6)
    rng = np.random.default_rng(0)
    flux, valid = dirty.flux.copy(), dirty.valid.copy()
    flux[rng.integers(0, 281, 60), rng.integers(1, 283, 60)] *= 1.5
    valid[100:110] = False
    flux[100:110] = np.nan
    a, b = F.fit_planet([clean], star()), F.fit_planet([replace(dirty, flux=flux, valid=valid)], star())
    assert b.quality["clipped"] >= 55
    assert np.abs(a.mean - b.mean)[1:].mean() < .5*np.sqrt(np.diag(b.cov)).mean()


def test_a_star_without_a_planet_is_flagged():
    curves = visit(8, depth=np.full(283, 1e-9))
    posterior = F.fit_planet([curves], star())
    assert posterior.quality["flag"] and posterior.quality["reason"]


def test_same_input_same_bytes():
    a, b = (F.fit_planet([visit(9)], star()) for _ in range(2))
    assert a.mean.tobytes() == b.mean.tobytes() and a.cov.tobytes() == b.cov.tobytes()


def test_refusals():
    with pytest.raises(DataError, match="no visit"): F.fit_planet([], star())
    empty = replace(visit(1), valid=np.zeros((281, 283), bool))
    with pytest.raises(DataError, match="usable"): F.fit_planet([empty], star())
    with pytest.raises(ConfigError, match="time_bins"): M.FitConfig(time_bins=3)
    with pytest.raises(ConfigError, match="drift_scale"): M.FitConfig(drift_scale=-1.)


@pytest.mark.parametrize("law", ["power2", "linear"])
def test_a_star_that_does_not_follow_the_assumed_law(law):
    from spectramind.simulate.curves import simulate_light_curves
    from spectramind.simulate.population import draw_population
    z = []
    for planet in draw_population(6, 77, law=law):
        posterior = F.fit_planet(simulate_light_curves(planet, 77, time_bins=141), planet.star)
        error, cov = posterior.mean - planet.depth, posterior.cov
        if not posterior.quality["flag"]: z.append([error[0]/cov[0, 0]**.5, error[1:].mean()/cov[1:, 1:].mean()**.5])
    z = np.array(z)
    assert len(z) >= 4 and np.abs(z).max() < 5 and np.sqrt((z**2).mean()) < 2


def drifting(rank):
    "A grey transit under a drift of the given rank, strong enough to tell."
    t = np.linspace(0, 7.5, 281)
    curves, x, y = visit(21), np.linspace(-1, 1, 281), (UM - 2.9)/.97
    z = np.zeros((281, 283))
    for j in range(rank): z += 2e-3*np.outer((x, x*x - .3)[j], (1 + .5*y, y**2 - .8*y)[j])
    assert len(t) == len(curves.flux)
    return replace(curves, flux=curves.flux*(1 + z))


def test_evidence_chooses_the_drift():
    one, two = F.fit_planet([drifting(1)], star()), F.fit_planet([drifting(2)], star())
    assert one.quality["drift"] == "rank_one" and one.quality["rank_one_gain"] > 5
    assert two.quality["drift"] == "free" and two.quality["rank_one_gain"] < -5
    forced = F.fit_planet([drifting(1)], star(), M.FitConfig(drift="free"))
    assert forced.cov[1:, 1:].mean() > one.cov[1:, 1:].mean() and np.abs(forced.mean - one.mean)[1:].mean() < 4*forced.cov[1:, 1:].mean()**.5
    with pytest.raises(ConfigError, match="drift"): M.FitConfig(drift="rank two")


def test_stretches_that_are_no_transit_lose_their_weight():
    clean, broken = visit(22), visit(22)
    t = broken.time_h
    flux = broken.flux*(1 - .012*np.exp(-t/.2) + .004*((t > 5.6) & (t < 6.)))[:, None]
    good, bad = F.fit_planet([clean], star()), F.fit_planet([replace(broken, flux=flux)], star())
    assert good.quality["masked"] == 0 and .05 < bad.quality["masked"] < .3 and not bad.quality["flag"]
    assert abs((bad.mean - good.mean)[1:].mean()) < 3*bad.cov[1:, 1:].mean()**.5


def test_a_grazing_planet_is_walked_and_a_central_one_is_not():
    from dataclasses import replace as change
    from spectramind.simulate.curves import simulate_light_curves
    from spectramind.simulate.population import draw_population
    planet = next(p for p in draw_population(60, 3) if p.n_visits == 1 and .012 < p.depth[1] < .02)
    found = {}
    for b in (.2, .97):
        inc = float(np.degrees(np.arccos(b/planet.a_rs)))
        p = change(planet, inc_deg=inc, star=change(planet.star, inc_deg=inc, a_rs=planet.a_rs))
        found[b] = F.fit_planet(simulate_light_curves(p, 1, time_bins=141), p.star)
    assert "slices" not in found[.2].quality and found[.2].quality["not_gaussian"] < 1
    q = found[.97]
    assert "slices" in q.quality and sum(q.quality["slices"]) == pytest.approx(1, abs=1e-3) and np.linalg.eigvalsh(q.cov).min() > 0
    if not q.quality["flag"]: assert abs((q.mean - planet.depth)[1:].mean()) < 4*q.cov[1:, 1:].mean()**.5
