"""Band models and the hydrostatic transmission spectrum."""

import numpy as np
import pytest

from spectramind.core.errors import ConfigError, UsageError
from spectramind.physics import atmosphere
from spectramind.physics.atmosphere import (BOLTZMANN, SUN_RADIUS_M, chord_columns, equilibrium_temperature_k, gas_opacity, gravity_ms2, hydrostatic_levels,
                                            mean_weight_amu, scale_height_m, taurex_depth, transmission_depth)
from spectramind.physics.molecules import BANDS, MASSES, band_shape, cia_coefficient, cross_section, rayleigh_cross_section

WAVES = np.concatenate([[.70], np.linspace(1.952, 3.895, 282)])
PLANET = dict(rp_rs0=.115, rs_rsun=1.2, mp_mjup=.9, temperature_k=1250.)
WATER = {'H2O': -3.3}


@pytest.mark.parametrize('name', BANDS)
@pytest.mark.parametrize('temperature_k', [600., 1000., 2200.])
def test_cross_sections_are_smooth_positive_and_keep_their_strength(name, temperature_k):
    nu = np.linspace(5, 25000, 250001)
    sigma = cross_section(name, 1e4/nu, temperature_k)
    assert np.all(sigma >= 0) and np.isfinite(sigma).all()
    assert np.trapezoid(sigma, nu) == pytest.approx(sum(row[1] for row in BANDS[name]), rel=2e-3)
    near = (nu > 2500) & (nu < 5200)                                    # the AIRS range, in steps of 0.1 cm^-1
    assert np.abs(np.diff(np.log(sigma[near]), n=2)).max() < 3e-4       # no steps, no corners


@pytest.mark.parametrize('name,centre', [('H2O', 2.66), ('CH4', 3.31), ('CO2', 2.70), ('CO', 2.35), ('NH3', 3.00)])
def test_bands_stand_at_their_published_places(name, centre):
    wave = np.linspace(1.95, 3.6, 1651)
    sigma = cross_section(name, wave, 1000.)
    assert abs(wave[np.argmax(sigma)] - centre) < .06 and sigma.max() > 10*np.median(sigma)


def test_band_shape_is_normalised():
    x = np.linspace(-60, 60, 40001)
    for q_share in (0., .3, .5):
        for temperature_k in (300., 1000., 9000.):
            g = band_shape(x, q_share, temperature_k)
            assert np.trapezoid(g, x) == pytest.approx(1, abs=1e-6) and np.all(g >= 0)


def test_rayleigh_and_collisions():
    assert rayleigh_cross_section(np.array([.5]))[0] == pytest.approx(8.14e-13/5000**4 + 1.28e-6/5000**6 + 1.61/5000**8)
    grid = np.linspace(1, 5, 4001)
    for temperature_k in (500., 2000.): assert abs(grid[np.argmax(cia_coefficient(grid, temperature_k))] - 2.35) < .1


def test_scale_height_gravity_and_temperature():
    assert scale_height_m(288., 28.97, 9.81) == pytest.approx(8.43e3, rel=.01)                   # the Earth
    assert gravity_ms2(1., 6.9911e7/SUN_RADIUS_M, 1.) == pytest.approx(25.9, rel=.01)            # Jupiter
    assert equilibrium_temperature_k(5772., 215.03, .3) == pytest.approx(255., abs=1.)           # the Earth
    assert mean_weight_amu({}) == pytest.approx(2.3) and mean_weight_amu({'CO2': -2}) == pytest.approx(2.3*.99 + .01*MASSES['CO2'])


def test_levels_are_hydrostatic():
    R, H = 8e7, 6e5
    radii, pressures = hydrostatic_levels(R, H, 10., 10., levels=4000)
    assert radii[0] == R and pressures[0] == pytest.approx(10) and pressures[-1] == pytest.approx(1e-8)
    local = H*(radii/R)**2                                                                       # gravity falls with distance
    slope = np.gradient(np.log(pressures), radii)
    assert np.abs(slope*local + 1)[5:-5].max() < 1e-4


def test_chord_of_a_uniform_shell_is_geometry():
    radii = np.linspace(1., 2., 501)
    N, M = chord_columns(radii, np.full(501, 3.))
    assert np.allclose(N, 3*2*np.sqrt(4 - radii**2)) and np.allclose(M, 3*N)


def test_grey_atmosphere_matches_the_analytic_radius():
    H = scale_height_m(1000., 2.3, gravity_ms2(20., .1, 1.))
    args = dict(rp_rs0=.1, rs_rsun=1., mp_mjup=20., temperature_k=1000., mu_amu=2.3, haze_power=0.)
    for strength in (1e2, 1e4):
        radius = np.sqrt(transmission_depth(np.array([3.]), **args, haze_strength=strength)[0])*SUN_RADIUS_M
        sigma = gas_opacity(np.array([3.]), 1000., {}, strength, 0.)[0][0]
        tau0 = sigma*1e6/(BOLTZMANN*1000)*np.sqrt(2*np.pi*.1*SUN_RADIUS_M*H)
        assert (radius - .1*SUN_RADIUS_M)/H == pytest.approx(np.euler_gamma + np.log(tau0), abs=.05)


def test_features_scale_with_the_scale_height_and_clouds_flatten_them():
    def height(**change): return np.ptp(transmission_depth(WAVES[1:], **{**PLANET, **change}, log_abundances=WATER))
    assert height(mp_mjup=5., mu_amu=2.3)/height(mp_mjup=5., mu_amu=4.6) == pytest.approx(2, rel=.06)
    assert height(mp_mjup=5.)/height(mp_mjup=10.) == pytest.approx(2, rel=.06)
    tops = [height(cloud_top_bar=top) for top in (1., 1e-3, 1e-4, 1e-5, 1e-7)]
    assert np.all(np.diff(tops) < 0) and tops[-1] < .01*tops[0]


def test_spectra_respond_to_each_gas_where_its_band_is():
    clear = transmission_depth(WAVES, **PLANET)
    for name, centre in (('H2O', 2.66), ('CH4', 3.31), ('CO2', 2.72), ('CO', 2.37), ('NH3', 3.0)):
        rise = transmission_depth(WAVES, **PLANET, log_abundances={name: -4.}) - clear
        assert abs(WAVES[np.argmax(rise[1:]) + 1] - centre) < .16 and rise.max() > 5e-5
        assert np.all(transmission_depth(WAVES, **PLANET, log_abundances={name: -3.}, mu_amu=2.3) > transmission_depth(WAVES, **PLANET, log_abundances={name: -4.}, mu_amu=2.3) - 2e-6)


def test_levels_have_converged():
    coarse, fine = (transmission_depth(WAVES, **PLANET, log_abundances=WATER, levels=n) for n in (200, 1600))
    assert np.abs(coarse - fine).max() < 1.5e-6


def test_a_sum_over_rays_written_out_gives_the_same():
    "The same model as two plain loops, over rays and layers."
    wave, levels = np.array([.7, 2.0, 2.7, 3.3]), 60
    sigma, kappa = gas_opacity(wave, 1250., WATER, 10., 4.)
    H = scale_height_m(1250., mean_weight_amu(WATER), gravity_ms2(.9, .115, 1.2))
    r, p = hydrostatic_levels(.115*1.2*SUN_RADIUS_M, H, 10., 10., levels=levels)
    n = p*1e5/(BOLTZMANN*1250.)
    hidden = np.zeros((levels, 4))
    for i in range(levels):
        tau = np.zeros(4)
        for j in range(i, levels - 1):
            length = 2*(np.sqrt(r[j + 1]**2 - r[i]**2) - np.sqrt(r[j]**2 - r[i]**2))
            tau += length*(sigma*np.sqrt(n[j]*n[j + 1]) + kappa*n[j]*n[j + 1])
        hidden[i] = r[i]*(1 - np.exp(-tau))
    area = r[0]**2 + sum((hidden[i] + hidden[i + 1])*(r[i + 1] - r[i]) for i in range(levels - 1))
    fast = transmission_depth(wave, **PLANET, log_abundances=WATER, haze_strength=10., levels=levels)
    assert np.allclose(fast, area/(1.2*SUN_RADIUS_M)**2, rtol=1e-12)


@pytest.mark.parametrize('call,word', [
    (lambda: cross_section('TiO', WAVES, 1000.), 'TiO'), (lambda: cross_section('H2O', WAVES, 0.), 'temperature_k'), (lambda: cross_section('H2O', -WAVES, 900.), 'wavelength_um'),
    (lambda: transmission_depth(WAVES, .15, 1.2, .02, 2500.), 'scale height'), (lambda: transmission_depth(WAVES, -.1, 1.2, 1., 900.), 'rp_rs0'),
    (lambda: transmission_depth(WAVES, **PLANET, log_abundances={'H2O': .5}), 'log_abundances'),
    (lambda: transmission_depth(WAVES, **PLANET, cloud_top_bar=1e-30), 'base'),
])
def test_bad_input_is_refused_by_name(call, word):
    with pytest.raises(UsageError, match=word): call()


def test_taurex_hook_refuses_clearly_when_it_is_absent(monkeypatch):
    def absent(name): raise ImportError(name)
    monkeypatch.setattr(atmosphere.importlib, 'import_module', absent)
    with pytest.raises(ConfigError, match='TauREx 3 is not installed'): taurex_depth(WAVES, .115, 1.2, .9, 1250., WATER, 'opacities')
