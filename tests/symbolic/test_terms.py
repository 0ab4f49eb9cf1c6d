"The six terms and the pack: gradients against finite differences, invariances, agreement with the slow reference, refusals."
import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import ConfigError, UsageError
from spectramind.symbolic.pack import SymbolicOptions, SymbolicPack, SymbolicWeights
from spectramind.symbolic.language import Rule
from spectramind.symbolic.rules import RULES
from spectramind.symbolic.terms import (band_areas, band_ratios, coherence, nonnegativity, quantile_order, seam_continuity, smoothness,
                                        smoothness_weights, spectral_grid, terms_ref)

torch.set_num_threads(1)
GRID = spectral_grid(dtype=torch.float64)
WEIGHT = smoothness_weights(GRID)
TERMS = dict(sm=lambda mu: smoothness(mu, WEIGHT), nn=nonnegativity, coh=lambda mu: coherence(mu, GRID), seam=seam_continuity,
             ratio=lambda mu: band_ratios(mu, GRID))
seeds = st.integers(0, 2**32 - 1)


def spectra(seed, planets=2, level=40., spread=3.):
    "Rough standardised spectra, some with a strong band, some partly negative."
    g = torch.Generator().manual_seed(seed)
    mu = level + spread*torch.randn(planets, 283, generator=g, dtype=torch.float64)
    mu[0, GRID.windows[1]] *= 2.
    mu[-1, 60:90] -= 2*level
    return mu


def test_windows_are_the_agreed_bins():
    wanted = dict(CO2=[*range(1, 18), *range(86, 113)], CH4=[*range(24, 60), *range(155, 210)], H2O=[*range(67, 126)], CO=[*range(42, 54)])
    assert {name: row.nonzero().flatten().tolist() for name, row in zip(GRID.names, GRID.windows)} == wanted
    assert not (GRID.continuum & GRID.windows.any(0)).any() and not GRID.continuum[0]
    torch.testing.assert_close(GRID.templates.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert (GRID.templates >= 0).all() and (GRID.templates[~GRID.windows] == 0).all()
    assert (GRID.dl > 0).all() and abs(GRID.dl[1:].sum().item() - np.ptp(GRID.wavelength_um[1:].numpy())) < .02


@settings(max_examples=12, deadline=None)
@given(seeds)
def test_terms_agree_with_the_reference_and_maps_add_up(seed):
    mu = spectra(seed, 3)
    q = torch.randn(3, 283, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    slow = terms_ref(mu.numpy(), GRID, q.numpy())
    found = {name: term(mu) for name, term in TERMS.items()} | dict(qm=quantile_order(q))
    for name, (value, bins) in found.items():
        assert value.shape == (3,) and bins.shape == (3, 283) and (bins >= 0).all()
        np.testing.assert_allclose(value.numpy(), slow[name], rtol=1e-9, atol=1e-12, err_msg=name)
        torch.testing.assert_close(bins.sum(-1), value)
    assert all(slow[name].sum() > 0 for name in slow)


@pytest.mark.parametrize('name', TERMS)
def test_gradients_are_finite_differences(name):
    mu = spectra(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: TERMS[name](m), mu, atol=1e-6, rtol=1e-4, eps=1e-6, fast_mode=True)
    direction = torch.randn(2, 283, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    value = lambda t: TERMS[name](mu.detach() + t*direction)[0].sum()  # noqa: E731
    gradient, = torch.autograd.grad(TERMS[name](mu)[0].sum(), mu)
    assert abs((gradient*direction).sum() - (value(1e-5) - value(-1e-5))/2e-5) < 1e-5*max(1, abs(gradient*direction).sum())
    assert gradient.abs().max() > 0


def test_full_gradcheck_of_coherence_and_quantiles():
    faint = (10 + torch.randn(1, 283, generator=torch.Generator().manual_seed(2), dtype=torch.float64)*.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: coherence(m, GRID)[0], faint, eps=1e-7, atol=1e-6)
    q = torch.randn(1, 283, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(quantile_order, q, fast_mode=True)


@settings(max_examples=25, deadline=None)
@given(st.floats(-100, 100), st.floats(-1, 1), st.floats(-1e3, 1e3))
def test_a_straight_line_is_smooth_whatever_fgs1_does(start, slope, fgs1):
    mu = (start + slope*torch.arange(283, dtype=torch.float64))[None]
    mu[0, 0] = fgs1
    assert smoothness(mu, WEIGHT)[0].item() < 1e-18


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(.5, 1e3))
def test_invariances(seed, factor):
    mu = spectra(seed)
    norms = [(torch.relu(mu - mu[:, 1:].quantile(.2, dim=1, keepdim=True))*w).norm(dim=1).min() for w in GRID.windows]
    assert min(norms) > 6                                     # every molecule counts as present, at half the size too
    torch.testing.assert_close(coherence(factor*mu, GRID)[0], coherence(mu, GRID)[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(coherence(mu + 17, GRID)[0], coherence(mu, GRID)[0], rtol=1e-9, atol=1e-12)
    kept = mu[:1]                                             # the last planet's water is negative
    torch.testing.assert_close(band_ratios(factor*kept, GRID)[0], band_ratios(kept, GRID)[0])
    torch.testing.assert_close(smoothness(factor*mu, WEIGHT)[0], factor**2*smoothness(mu, WEIGHT)[0])
    assert (nonnegativity(mu.abs())[0] == 0).all() and (nonnegativity(-mu.abs())[0] > 0).all()
    torch.testing.assert_close(nonnegativity(mu, squared=True)[1], nonnegativity(mu)[1]**2)


def test_a_flat_spectrum_costs_nothing_and_is_pushed_nowhere():
    for level in (0., 3., 1e4):
        flat = torch.full((2, 283), level, dtype=torch.float64, requires_grad=True)
        for name, term in TERMS.items():
            value, _ = term(flat)
            gradient, = torch.autograd.grad(value.sum(), flat)
            assert gradient.isfinite().all(), name
            if level: assert (value == 0).all() and gradient.abs().max() < 1e-9, name


def test_a_band_without_its_partner_is_found_where_it_is_missing():
    ch4 = GRID.templates[1]
    whole, half = 40 + 30*ch4[None], (40 + 30*ch4)[None].clone()
    half[0, 155:210] = 40.
    assert coherence(whole, GRID)[0] == 0
    value, bins = coherence(half, GRID)
    assert value > .2 and bins[0, 155:210].sum() > .9*value


@pytest.mark.parametrize('seams', [(1,), (1, 120), ()])
def test_seams_are_data(seams):
    grid = spectral_grid(seams=seams, dtype=torch.float64)
    weight = smoothness_weights(grid, airs_only=False)
    off = {0, 282} | {b for s in seams for b in (s - 1, s)}
    assert set((weight == 0).nonzero().flatten().tolist()) == off
    step = torch.zeros(1, 283, dtype=torch.float64)
    for s in seams: step[0, s:] += 10.
    assert smoothness(step, weight)[0] == 0 and seam_continuity(step, seams)[0] == 100*len(seams)


def test_band_areas_are_mean_depths():
    torch.testing.assert_close(band_areas(torch.full((1, 283), 7., dtype=torch.float64), GRID), torch.full((1, 4), 7., dtype=torch.float64))


def test_ratio_penalty_is_the_distance_to_the_envelope():
    mu = torch.ones(1, 283, dtype=torch.float64)*50
    mu[0, GRID.windows[1]] = 100.                             # CH4 does not overlap H2O
    value, bins = band_ratios(mu, GRID, (('CH4', 'H2O', .7, 1.4),))
    assert abs(value.item() - .6) < 1e-9 and abs(bins[0, GRID.windows[0]].sum() - .3) < 1e-9


@pytest.mark.parametrize('wrong', [torch.zeros(283), torch.zeros(2, 282), torch.zeros(2, 283, dtype=torch.long), np.zeros((2, 283))])
def test_wrong_shapes_are_refused(wrong):
    for term in TERMS.values():
        with pytest.raises(UsageError, match='mu: found'): term(wrong)
    with pytest.raises(UsageError, match='quantiles'): quantile_order(wrong)


def test_bad_grids_are_refused():
    um = GRID.wavelength_um.numpy()
    for bad in (um[:-1], um[::-1].copy(), np.where(um > 3, np.nan, um)):
        with pytest.raises(UsageError, match='wavelength_um'): spectral_grid(bad)
    with pytest.raises(UsageError, match='window CO2: no AIRS bin'): spectral_grid(windows=dict(CO2=((4.2, 4.4),)))
    for seams in ((0,), (283,), (1, 1), (1.5,)):
        with pytest.raises(UsageError, match='seams'): spectral_grid(seams=seams)
    with pytest.raises(UsageError, match='NH3'): band_ratios(torch.ones(1, 283), GRID, (('NH3', 'H2O', 0, 1),))


# ---------------------------------------------------------------- the pack
def depths(seed=0, planets=4): return 2.5e-4*spectra(seed, planets).float()


def test_parts_add_up_and_maps_belong_to_them():
    mu, sigma, q = depths(), torch.full((4, 283), 2e-3), torch.randn(4, 283, 3, generator=torch.Generator().manual_seed(1))*1e-4
    pack = SymbolicPack()
    out, maps = pack(mu, sigma, 2.5e-4, q), pack.violations(mu, sigma, 2.5e-4, q)
    assert set(out['parts']) == set(maps) == {'sm', 'nn', 'coh', 'seam', 'ratio', 'qm'} | {r.name for r in RULES if r.enabled}
    torch.testing.assert_close(sum(out['parts'].values()), out['total'])
    for name, part in out['parts'].items():
        assert maps[name].shape == (4, 283)
        torch.testing.assert_close(maps[name].sum(-1)*pack.record[name]['weight'], part)
    assert 'qm' not in pack(mu, sigma, 2.5e-4)['parts']


def test_a_scale_per_planet_is_the_same_as_one_by_one():
    mu, sigma, scale = depths(), torch.full((4, 283), 2e-3), torch.tensor([1e-4, 2e-4, 3e-4, 4e-4])
    pack = SymbolicPack()
    together = pack(mu, sigma, scale)['total']
    alone = torch.cat([pack(mu[i:i + 1], sigma[i:i + 1], float(scale[i]))['total'] for i in range(4)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(pack(mu, sigma, scale[:, None])['total'], together)


def test_weights_switch_off_and_are_recorded():
    pack = SymbolicPack(SymbolicWeights(sm=0, coh=0, ratio=0),
                        [Rule('off', 'x > 0', enabled=False), Rule('zero', 'x > 0', weight=0.), Rule('keys', 'x > 0')])
    assert set(pack(depths(), scale=1e-3)['parts']) == {'nn', 'seam', 'keys'}
    assert {k: v['on'] for k, v in pack.record.items()} == dict(sm=False, nn=True, coh=False, seam=True, ratio=False, qm=True, off=False,
                                                                zero=False, keys=True)
    empty = SymbolicPack(SymbolicWeights(0, 0, 0, 0, 0, 0), [])
    assert empty(depths())['total'].tolist() == [0]*4 and empty(depths())['parts'] == {}


def test_total_has_a_gradient_that_descends():
    mu, sigma, pack = depths().requires_grad_(), torch.full((4, 283), 5e-5), SymbolicPack()
    before = pack(mu, sigma, 2.5e-4)['total'].sum()
    gradient, = torch.autograd.grad(before, mu)
    after = pack(mu - 1e-4*gradient/gradient.norm(), sigma, 2.5e-4)['total'].sum()
    assert gradient.isfinite().all() and after < before


def test_pack_is_a_module_that_copies_casts_and_pickles():
    pack, mu, sigma = SymbolicPack(), depths(), torch.full((4, 283), 5e-5)
    total = pack(mu, sigma, 2.5e-4)['total']
    for other in (copy.deepcopy(pack), pickle.loads(pickle.dumps(pack))): assert other(mu, sigma, 2.5e-4)['total'].equal(total)
    torch.testing.assert_close(pack.double()(mu.double(), sigma.double(), 2.5e-4)['total'], total.double(), rtol=1e-3, atol=1e-4)
    half = SymbolicPack()(mu.bfloat16(), sigma.bfloat16(), 2.5e-4)['total']
    assert half.dtype == torch.float32 and half.isfinite().all() and not SymbolicPack().state_dict()


@pytest.mark.parametrize('scale', [0., -1., float('nan'), torch.ones(3)])
def test_bad_scales_are_refused(scale):
    with pytest.raises(UsageError, match='scale'): SymbolicPack()(depths(), torch.ones(4, 283), scale)


def test_bad_settings_are_refused():
    for bad in (-1, float('nan'), True, '1'):
        with pytest.raises(ConfigError, match='weight coh'): SymbolicWeights(coh=bad)
    for bad in (dict(relax=2.), dict(coh_eps=0.), dict(ch4_h2o=(2., 1.)), dict(co2_h2o=(1.,))):
        with pytest.raises(ConfigError, match=next(iter(bad))): SymbolicOptions(**bad)
    with pytest.raises(ConfigError, match='name of a term'): SymbolicPack(rules=[Rule('seam', 'x > 0')])
    with pytest.raises(ConfigError, match='column 1'): SymbolicPack(rules=[Rule('mine', 'y > 0', enabled=False)])
    with pytest.raises(ConfigError, match='weight ratio'): SymbolicPack(grid=spectral_grid(windows=dict(CO=((2.3, 2.4),))), rules=[])
    with pytest.raises(UsageError, match='sigma missing'): SymbolicPack()(depths())
