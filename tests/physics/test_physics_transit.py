"""The transit kernel: against batman, against a slow integration, its derivatives, its edges."""
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import ellipe, ellipk

from spectramind.core.errors import UsageError
from spectramind.physics.transit import (duration_h, elliptic_trio, law_flux, law_flux_ref, law_powers, occulted, occulted_integrals, occulted_ref,
                                         projected_distance, projected_distance_grad, quadratic_flux, quadratic_flux_grad, quadratic_weights, transit_flux)

with warnings.catch_warnings():
    warnings.simplefilter('ignore')                                    # batman's own source has an invalid escape sequence
    import batman
    from batman import _quadratic_ld

RADII = (1e-3, .01, .05, .1, .2, .35, .5)


def hard_distances(k):
    "Where such formulas break: the centre, the rim over the centre, both contacts, grazing, outside."
    eps = 1e-6
    return np.array(sorted({0., 1e-12, 1e-6, .3*k, k - eps, k, k + eps, .4, 1 - k - .01, 1 - k - eps, 1 - k, 1 - k + eps, 1 - k + .01,
                            1 - .3*k, 1., 1 + .3*k, 1 + k - .01*k, 1 + k - 1e-3*k, 1 + k, 1 + k + eps, 1.7} - {x for x in (k - eps,) if x < 0}))


@pytest.mark.parametrize('k', RADII)
@pytest.mark.parametrize('u', [(0., 0.), (.4, .15), (.1, .1), (.6, -.1), (1., 0.)])
def test_quadratic_agrees_with_batman(k, u):
    z = np.abs(np.linspace(-1 - 1.2*k, 1 + 1.2*k, 1501)) + 1e-9
    theirs = _quadratic_ld._quadratic_ld(z, k, *u, 1)
    ours = quadratic_flux(z, k, *u)
    worst = np.argmax(np.abs(ours - theirs))
    assert abs(ours[worst] - theirs[worst]) < 1e-7
    slow = law_flux_ref(z[worst:worst + 1], k, lambda mu: 1 - u[0]*(1 - mu) - u[1]*(1 - mu)**2)[0]
    assert abs(ours[worst] - slow) < 1e-11                             # where the two differ most, the difference is batman's


@pytest.mark.parametrize('k', RADII)
def test_integrals_agree_with_slow_integration_at_the_hard_places(k):
    for z in hard_distances(k):
        fast = occulted(z, k)[:3]
        slow = [occulted_ref(z, k, lambda mu, n=n: mu**n) if z < 1 + k else 0. for n in range(3)]
        assert np.allclose(fast, slow, rtol=0, atol=2e-10), (z, k)


def test_orbit_and_flux_agree_with_batman_over_time():
    time_h = np.linspace(0, 7.5, 800)
    params = batman.TransitParams()
    params.t0, params.per, params.rp, params.a, params.inc, params.ecc, params.w = 3.6, 4.4*24, .123, 9.5, 86.4, 0., 90.
    params.u, params.limb_dark = [.41, .17], 'quadratic'
    theirs = batman.TransitModel(params, time_h).light_curve(params)
    assert np.abs(transit_flux(time_h, 3.6, 4.4, 9.5, 86.4, .123, .41, .17) - theirs).max() < 2e-8


def test_claret_law_agrees_with_batman():
    params = batman.TransitParams()
    params.t0, params.per, params.rp, params.a, params.inc, params.ecc, params.w = 3.6, 4.4*24, .11, 9.5, 87.5, 0., 90.
    params.u, params.limb_dark = [.5, -.1, .3, -.1], 'nonlinear'
    time_h = np.linspace(1, 6, 300)
    theirs = batman.TransitModel(params, time_h, max_err=.05).light_curve(params)
    ours = law_flux(projected_distance(time_h, 3.6, 4.4, 9.5, 87.5), .11, 'claret4', [.5, -.1, .3, -.1])
    assert np.abs(ours - theirs).max() < 2e-7


@pytest.mark.parametrize('law,coeffs', [('linear', [.5]), ('quadratic', [.4, .15]), ('power2', [.6, .3]), ('power2', [.4, 1.7]), ('claret4', [.8, -.6, .7, -.3])])
@pytest.mark.parametrize('k', [.01, .1, .5])
def test_every_law_agrees_with_slow_integration(law, coeffs, k):
    z = hard_distances(k)
    powers, weights = law_powers(law, coeffs)
    slow = law_flux_ref(z, k, lambda mu: float(np.sum(weights*mu**powers)))
    assert np.abs(law_flux(z, k, law, coeffs) - slow).max() < 1e-9


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.floats(0, 1.6), st.floats(.002, .5))
def test_derivatives_agree_with_differences(z, k):
    step = 1e-6
    if min(abs(z - (1 - k)), abs(z - (1 + k)), z) < 1e-3: z = max(z, 2e-3) + 3e-3*(abs(z - (1 - k)) < 1e-3 or abs(z - (1 + k)) < 1e-3)
    exact = np.array(occulted(z, k))
    by_k = (np.array(occulted(z, k + step)[:3]) - occulted(z, k - step)[:3])/(2*step)
    by_z = (np.array(occulted(z + step, k)[:3]) - occulted(z - step, k)[:3])/(2*step)
    near = max(min(abs(z - (1 - k)), abs(z - (1 + k))), 1e-3)
    tolerance = 1e-9 + step**2*near**-1.5*2                        # the error of the difference quotient near a square root
    assert np.abs(exact[3:6] - by_k).max() < tolerance and np.abs(exact[6:] - by_z).max() < tolerance


@pytest.mark.parametrize('k', RADII)
def test_derivatives_integrate_back_across_the_contacts(k):
    "At a contact no difference quotient converges, but the integral of the derivative over the kink must give the change."
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for centre in (1 - k, 1 + k, k):
        for low, high in ((centre - 1e-4*k, centre), (centre, centre + 1e-4*k)):
            t = (nodes + 1)/2
            for z, jacobian in ((low + (high - low)*t**2, 2*t), (high - (high - low)*t**2, 2*t)):     # root-like at either end
                slope = np.array([occulted(at, k)[6:] for at in z])
                change = (weights/2*jacobian*(high - low)) @ slope
                assert np.allclose(change, np.subtract(occulted(high, k)[:3], occulted(low, k)[:3]), rtol=0, atol=3e-11)


@pytest.mark.parametrize('k', RADII)
def test_values_and_slopes_are_finite_and_continuous_at_every_edge(k):
    for z in hard_distances(k):
        here, near = np.array(occulted(z, k)), np.array(occulted(z + 1e-13, k))
        assert np.isfinite(here).all() and np.abs(here - near).max() < 1e-5
    assert np.allclose(occulted(0., k)[6:], 0, atol=1e-15)             # by symmetry


def test_gradient_matches_flux_and_differences_for_all_arguments():
    z, k = np.linspace(.01, 1.25, 57), np.array([.08, .12, .3])
    u1, u2 = np.array([.4, .1, .3]), np.array([.15, .1, -.05])
    flux, d_k, d_z, d_u1, d_u2 = quadratic_flux_grad(z, k, u1, u2)
    assert np.array_equal(flux, quadratic_flux(z, k, u1, u2)) and all(part.shape == (57, 3) for part in (d_k, d_z, d_u1, d_u2))
    h = 1e-4
    for part, plus, minus in ((d_u1, (u1 + h, u2), (u1 - h, u2)), (d_u2, (u1, u2 + h), (u1, u2 - h))):
        assert np.abs(part - (quadratic_flux(z, k, *plus) - quadratic_flux(z, k, *minus))/(2*h)).max() < 1e-8
    h = 1e-6
    away = (np.abs(z[:, None] - (1 - k)) > .01) & (np.abs(z[:, None] - (1 + k)) > .01)
    assert np.abs((d_k - (quadratic_flux(z, k + h, u1, u2) - quadratic_flux(z, k - h, u1, u2))/(2*h))[away]).max() < 1e-7
    assert np.abs((d_z - (quadratic_flux(z + h, k, u1, u2) - quadratic_flux(z - h, k, u1, u2))/(2*h))[away]).max() < 1e-7


def test_integrals_can_be_reused_for_any_coefficients():
    z, k = np.linspace(0, 1.3, 40), np.array([.1, .2])
    J, J_k, J_z = occulted_integrals(z, k)
    weights = quadratic_weights([.4, .1], [.15, .1])
    assert np.allclose(1 - np.sum(J*weights, -1), quadratic_flux(z, k, [.4, .1], [.15, .1]), rtol=0, atol=1e-15)
    assert J_k.shape == J_z.shape == (40, 2, 3) and occulted_integrals(z, .1)[0].shape == (40, 3)
    assert np.array_equal(occulted_integrals(z, .1)[0], J[:, 0])


def test_shapes_and_broadcasting():
    z = np.linspace(0, 1.2, 9)
    assert quadratic_flux(z, .1, .3, .1).shape == (9,)
    assert quadratic_flux(z, .1, np.array([.3, .2]), .1).shape == (9, 2)
    assert quadratic_flux(z, np.array([.1]), .3, .1).shape == (9, 1)
    one_by_one = np.stack([quadratic_flux(z, .1, u, .1) for u in (.3, .2)], 1)
    assert np.array_equal(quadratic_flux(z, .1, np.array([.3, .2]), .1), one_by_one)
    assert quadratic_flux(z[:0], np.array([.1, .2]), .3, .1).shape == (0, 2)
    assert law_flux(z, np.array([.1, .2, .3]), 'power2', [.5, .7]).shape == (9, 3)
    assert np.array_equal(law_flux(z, .1, 'power2', np.tile([.5, .7], (2, 1)))[:, 1], law_flux(z, .1, 'power2', [.5, .7]))


def test_limits():
    z = np.array([0., .3, .99, 1.5, np.inf])
    assert np.array_equal(quadratic_flux(z, 0., .4, .1), np.ones(5))
    assert quadratic_flux(np.array([.1]), 1.2, .4, .1)[0] == pytest.approx(0, abs=1e-15)
    assert law_flux(np.array([.1]), 1.2, 'claret4', [.5, -.1, .3, -.1])[0] == pytest.approx(0, abs=1e-15)
    assert quadratic_flux(np.array([.5]), .1, 0., 0.)[0] == pytest.approx(1 - .01, abs=1e-15)
    for z_at, k in ((.2, 1.2), (1.2 - 1, 1.2), (2.2, 1.2), (0., 1.), (1e-17, 1.), (2., 1.), (1 + 1e-16, .5)):
        assert np.isfinite(occulted(z_at, k)).all()


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.floats(0, .97), st.floats(.01, .99), st.floats(.01, .5))
def test_flux_falls_as_the_planet_grows_and_never_below_zero(q1, q2, k):
    u1, u2 = 2*math.sqrt(q1)*q2, math.sqrt(q1)*(1 - 2*q2)
    z = np.linspace(0, 1.6, 60)
    small, large = quadratic_flux(z, np.array([k, 1.01*k]), u1, u2).T
    assert np.all(large <= small + 1e-15) and np.all(large >= 0) and np.all(small <= 1)
    assert np.all(small[z >= 1 + k] == 1)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.floats(1e-9, 1 - 1e-9))
def test_elliptic_integrals_agree_with_scipy(m):
    B, D, general = elliptic_trio(1 - m, 1., 1., 1 - m)
    assert B + D == pytest.approx(ellipk(m), rel=1e-13) and B + (1 - m)*D == pytest.approx(ellipe(m), rel=1e-13)
    assert general == pytest.approx(ellipe(m), rel=1e-13)


def test_orbit():
    time_h = np.linspace(-60, 60, 2001)
    z = projected_distance(time_h, 1., 4., 10., 88.)
    assert z.min() == pytest.approx(10*math.cos(math.radians(88)), rel=1e-3) and np.isinf(z).mean() == pytest.approx(.5, abs=.15)
    assert np.array_equal(np.isinf(z), np.cos(2*np.pi*(time_h - 1)/96) < 0)
    p, h = np.array([1., 4., 10., 88.]), 1e-6
    _, slopes = projected_distance_grad(time_h, *p)
    near = np.abs(time_h - 1) < 20
    for n in range(4):
        step = np.eye(4)[n]*h
        numeric = (projected_distance(time_h[near], *(p + step)) - projected_distance(time_h[near], *(p - step)))/(2*h)
        assert np.abs(slopes[near, n] - numeric).max() < 1e-5
    assert np.isfinite(slopes).all() and np.isfinite(projected_distance_grad(np.array([1.]), 1., 4., 10., 90.)[1]).all()


@pytest.mark.parametrize('inc', [90., 87., 84.5])
def test_duration_is_the_time_inside_the_outer_contact(inc):
    time_h = np.linspace(-10, 10, 400001)
    inside = time_h[projected_distance(time_h, 0., 4., 10., inc) < 1.1]
    assert duration_h(4., 10., inc, .1) == pytest.approx(np.ptp(inside), abs=2e-4)
    assert duration_h(4., 10., 80., .1) == 0


@pytest.mark.parametrize('call,word', [
    (lambda z: quadratic_flux(z, -.1, .3, .1), 'rp_rs'), (lambda z: quadratic_flux(z, np.nan, .3, .1), 'rp_rs'),
    (lambda z: quadratic_flux(-z - 1, .1, .3, .1), 'z: found'), (lambda z: quadratic_flux(z*np.nan, .1, .3, .1), 'z: found'),
    (lambda z: quadratic_flux(z[:, None], .1, .3, .1), 'shape'), (lambda z: quadratic_flux(z, .1, 3., .1), 'without light'),
    (lambda z: law_flux(z, .1, 'cubic', [.1]), 'cubic'), (lambda z: law_flux(z, .1, 'claret4', [.1, .2]), 'wants 4'),
    (lambda z: law_flux(z, .1, 'power2', [.3, -2.5]), 'power'), (lambda z: projected_distance(z, 0., -1., 10., 88.), 'period_d'),
])
def test_bad_input_is_refused_by_name(call, word):
    with pytest.raises(UsageError, match=word): call(np.linspace(0, 1, 5))


def test_inputs_are_left_alone():
    z, k, u = np.linspace(0, 1.2, 5), np.array([.1, .2]), np.array([.3, .2])
    copies = z.copy(), k.copy(), u.copy()
    quadratic_flux_grad(z, k, u, .1), law_flux(z, k, 'power2', np.stack([u, u + .3], -1))
    assert all(np.array_equal(a, b) for a, b in zip((z, k, u), copies))
