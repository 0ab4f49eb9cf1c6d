"""Limb-darkening laws, Kipping's coordinates and the prior."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import UsageError
from spectramind.physics.limb_darkening import LAWS, disc_light, is_physical, like_quadratic, limb_profile, q_to_quadratic, quadratic_prior, quadratic_to_q
from spectramind.physics.transit import law_powers

EXAMPLES = {'linear': [.5], 'quadratic': [.4, .15], 'power2': [.55, .63], 'claret4': [.5, -.1, .3, -.1]}


@pytest.mark.parametrize('law', LAWS)
def test_profile_centre_powers_and_light_agree(law):
    mu = np.linspace(0, 1, 41)
    profile = limb_profile(law, EXAMPLES[law], mu)
    powers, weights = law_powers(law, EXAMPLES[law])                    # written independently in physics.transit
    assert profile[-1] == pytest.approx(1, abs=1e-15) and np.all(np.diff(profile) > 0)
    assert np.allclose(profile, np.sum(weights*mu[:, None]**powers, -1), rtol=0, atol=1e-14)
    assert disc_light(law, EXAMPLES[law]) == pytest.approx(np.sum(weights*2*np.pi/(powers + 2)), rel=1e-14)


def test_profiles_of_many_wavelengths():
    c = np.tile(EXAMPLES['claret4'], (5, 1))
    assert limb_profile('claret4', c, np.linspace(0, 1, 7)).shape == (5, 7) and disc_light('claret4', c).shape == (5,)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.floats(1e-4, .999), st.floats(1e-3, .999))
def test_unit_square_round_trip(q1, q2):
    u = q_to_quadratic([q1, q2])
    assert np.allclose(quadratic_to_q(u), [q1, q2], rtol=1e-9) and is_physical(u)


def test_prior_is_anchored_smooth_and_physical():
    mean, sd = quadratic_prior(5800., np.array([.70, 2.92]))
    assert np.allclose(mean, [[.395, .175], [.104, .118]], atol=.003) and np.all(sd > .03)
    wave = np.linspace(.6, 4, 1000)
    every = quadratic_prior(np.linspace(3500, 8000, 40)[:, None], wave)[0]
    assert every.shape == (40, 1000, 2) and is_physical(every).all() and np.abs(np.diff(every, n=2, axis=1)).max() < 1e-4
    assert np.all(np.diff(every[..., 0], axis=0) < 0)                    # warmer stars are less darkened
    assert quadratic_prior(5800., 2.)[0].shape == (2,)


@pytest.mark.parametrize('law', LAWS)
def test_other_laws_resemble_the_quadratic_star_but_are_not_it(law):
    u = quadratic_prior(5500., np.linspace(.7, 3.9, 20))[0]
    mu = np.linspace(.02, 1, 50)
    coeffs = like_quadratic(law, u)
    gap = np.abs(limb_profile(law, coeffs, mu) - limb_profile('quadratic', u, mu)).max(-1)
    assert coeffs.shape == (20, LAWS[law]) and np.all(gap < .12)
    if law != 'quadratic': assert np.all(gap > .003)
    assert np.all(np.abs(disc_light(law, coeffs)/disc_light('quadratic', u) - 1) < .03)


def test_power2_meets_the_quadratic_star_at_the_limb_and_half_way():
    u = np.array([.4, .15])
    ours, theirs = (limb_profile(law, c, np.array([0., .5])) for law, c in (('power2', like_quadratic('power2', u)), ('quadratic', u)))
    assert np.allclose(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize('call,word', [
    (lambda: limb_profile('cubic', [.1], [.5]), 'cubic'), (lambda: limb_profile('quadratic', [.1], [.5]), 'wants 2'), (lambda: disc_light('claret4', .3), 'wants 4'),
    (lambda: quadratic_to_q([.1, -.2]), 'u1'), (lambda: q_to_quadratic([1.2, .5]), 'unit square'), (lambda: quadratic_prior(-5., .7), 'ts_k'),
    (lambda: quadratic_prior(5000., 0.), 'wavelength_um'), (lambda: like_quadratic('power2', [-.1, -.1]), 'limb'), (lambda: like_quadratic('cubic', [.1, .1]), 'cubic'),
])
def test_bad_input_is_refused_by_name(call, word):
    with pytest.raises(UsageError, match=word): call()
