"""Planets: same seed same planets, and properties that hold for any seed."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import UsageError
from spectramind.physics.limb_darkening import LAWS, limb_profile
from spectramind.physics.transit import duration_h
from spectramind.simulate.population import KINDS, SHARES, WINDOW_H, draw_orbit, draw_population, draw_stars


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**40))
def test_every_planet_is_sound(seed):
    planets = draw_population(12, seed)
    ids = [p.planet_id for p in planets]
    assert ids == sorted(set(ids)) and 30_000 <= ids[0] and ids[-1] < 4_290_000_000
    assert sum(p.n_visits == 2 for p in planets) == 1
    for p in planets:
        assert p.depth.shape == (283,) and np.isfinite(p.depth).all() and .002 < p.depth.min() and p.depth.max() < .11
        assert p.coeffs.shape == (283, 2) and (p.coeffs > 0).all() and (p.coeffs.sum(1) < 1).all()
        assert all(3 <= t <= 4.5 for t in p.t0_h) and p.star.inc_deg <= 90 and p.star.e == 0 and p.star.planet_id == p.planet_id
        assert duration_h(p.period_d, p.a_rs, p.inc_deg, p.depth.mean()**.5) > .5        # it does cross its star
        assert p.kind in KINDS and .4 < p.brightness < 2.5


def test_seed_decides_everything():
    a, b, c = draw_population(6, 1), draw_population(6, 1), draw_population(6, 2)
    assert all(np.array_equal(x.depth, y.depth) and x.star == y.star and x.t0_h == y.t0_h for x, y in zip(a, b))
    assert {p.planet_id for p in a}.isdisjoint(p.planet_id for p in c)


@pytest.mark.parametrize('law', sorted(LAWS))
def test_laws(law):
    planet = draw_population(2, 3, law=law)[0]
    same = draw_population(2, 3)[0]
    assert planet.law == law and planet.coeffs.shape == (283, LAWS[law]) and np.array_equal(planet.depth, same.depth)
    mu = np.array([.3, .6, .9])
    assert limb_profile(law, planet.coeffs, mu) == pytest.approx(limb_profile('quadratic', same.coeffs, mu), abs=.06)


def test_partial_transits_hang_over_an_edge():
    for p in draw_population(30, 4, partial=True):
        half = duration_h(p.period_d, p.a_rs, p.inc_deg, p.depth.mean()**.5)/2
        assert all(t - half < 0 or t + half > WINDOW_H for t in p.t0_h)


def test_orbit_scatter():
    rng = np.random.default_rng(0)
    orbits = [draw_orbit(rng, 10.) for _ in range(6000)]
    true, listed = (np.log([o[name] for o in orbits]) for name in ('a_rs', 'listed_a_rs'))
    for values in (true, listed, true - listed): assert values.std() == pytest.approx(.065, rel=.05)
    assert np.mean([o['listed_inc_deg'] == 90 for o in orbits]) == pytest.approx(.076, abs=.012)


def test_kepler_for_the_sun_and_a_year():
    stars = draw_stars(500, np.random.default_rng(0))
    assert stars['a_rs']*stars['rs']/stars['ms']**(1/3)/stars['period_d']**(2/3) == pytest.approx(4.2083, rel=1e-9)
    assert 4.2083*365.25**(2/3) == pytest.approx(215.03, rel=1e-3)      # one astronomical unit in solar radii
    assert sum(SHARES) == pytest.approx(1)


def test_refusals():
    with pytest.raises(UsageError, match='cubic'): draw_population(3, 1, law='cubic')
    with pytest.raises(UsageError, match='planets'): draw_population(0, 1)
