"""Pixels: Poisson numbers, the inverse of the polynomial, ramps against a plain reference."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numba import njit
from scipy.stats import chisquare, poisson

from spectramind.core.errors import UsageError
from spectramind.simulate.detector import ADC_GAIN, ADC_OFFSET, FULL_WELL, detected_charge, draw_counts, draw_hits, draw_maps, read_ramps


@njit
def _many(rng, mean, n):
    return np.array([draw_counts(rng, mean) for _ in range(n)])


@pytest.mark.parametrize('mean', [.2, 3., 15.99, 16.01, 40.])
def test_counts_follow_poisson(mean):
    n = 40_000
    x = _many(np.random.default_rng(7), mean, n).astype(int)
    assert (x >= 0).all()
    low, high = poisson.ppf([.0015, .9985], mean).astype(int)
    k = np.arange(low, high + 1)
    seen = np.array([np.sum(x < low), *[np.sum(x == i) for i in k], np.sum(x > high)])
    wanted = n*np.array([poisson.cdf(low - 1, mean), *poisson.pmf(k, mean), poisson.sf(high, mean)])
    keep = wanted > 5
    assert chisquare(seen[keep], wanted[keep]*seen[keep].sum()/wanted[keep].sum()).pvalue > 1e-4


def test_zero_light_gives_zero():
    assert _many(np.random.default_rng(0), 0., 100).max() == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 32*356 - 1), st.floats(0., FULL_WELL))
def test_detected_charge_inverts_the_polynomial(pixel, true):
    c = draw_maps('AIRS-CH0', 3).stored.linear_corr.reshape(6, -1)[:, pixel].copy()
    s = detected_charge(true, true, c)
    assert np.polynomial.polynomial.polyval(s, c) == pytest.approx(true, abs=2e-3)


@pytest.mark.parametrize('name', ['FGS1', 'AIRS-CH0'])
def test_maps(name):
    one, later, other = draw_maps(name, 1), draw_maps(name, 1, 2), draw_maps(name, 2)
    assert np.array_equal(one.flat, later.flat) and np.array_equal(one.stored.read, later.stored.read)
    assert later.stored.dead.sum() > one.stored.dead.sum() and (later.dark > .02).sum() > (one.dark > .02).sum()
    assert abs(np.corrcoef(one.flat.ravel(), other.flat.ravel())[0, 1]) < .15
    assert draw_maps(name, 1, dead_fraction=.3).stored.dead.mean() == pytest.approx(.3, abs=.06)
    assert (one.stored.read > 11).all() and np.isfinite(one.stored.linear_corr).all()
    assert one.response.reshape(32, 8, -1).mean() == pytest.approx(1., abs=1e-9)


def test_hits_stay_inside():
    hits = np.concatenate([draw_hits(np.random.default_rng(i), 200., 50, (4, 5)) for i in range(5)])
    assert hits[:, 0].min() >= 0 and hits[:, 0].max() < 20 and hits[:, 1].max() < 50
    assert draw_hits(np.random.default_rng(0), 0., 50, (4, 5)).shape == (0, 2)


def _setup(n_pair=3000, coadds=1):
    maps, images = draw_maps('FGS1', 4), np.zeros((1, 32, 32))
    images[0, 10, :] = np.linspace(0, 400_000, 32)
    still = dict(moments=np.ones((2, 1, n_pair)), star=np.ones((1, n_pair)), sky=np.array([20.]), times_s=(.1, .2), coadds=coadds, hits=np.empty((0, 2), np.int64))
    return maps, images, still


def _true_electrons(raw, maps):
    e = raw/ADC_GAIN + ADC_OFFSET
    return np.polynomial.polynomial.polyval(e, maps.stored.linear_corr.reshape(6, -1)[:, :, None], tensor=False)


@pytest.mark.parametrize('coadds', [1, 25])
def test_ramps_have_the_right_mean_and_variance(coadds):
    maps, images, still = _setup(coadds=coadds)
    true = _true_electrons(read_ramps(np.random.default_rng(0), maps, images, **still), maps)
    rate = (images[0]*maps.flat + 20.*maps.flat + maps.dark).ravel()
    read2 = maps.stored.read.ravel()**2/coadds
    usable = ~maps.stored.dead.ravel() & (rate*.2 < .9*FULL_WELL) & (maps.stored.read.ravel() < 40)
    first, cds = true[usable, 0::2], true[usable, 1::2] - true[usable, 0::2]
    assert cds.mean(1) == pytest.approx(.1*rate[usable], abs=6*np.sqrt((.1*rate.max()/coadds + 2*read2[usable].max())/3000))
    quantum = 1/ADC_GAIN**2/12
    slope = 1.12       # at most, from the polynomial, on the read noise of bright pixels
    for values, expected in ((cds, .1*rate[usable]/coadds + 2*read2[usable] + 2*quantum), (first, .1*rate[usable]/coadds + read2[usable] + quantum)):
        ratio = values.var(1)/expected
        assert np.median(ratio) == pytest.approx(1., abs=.01) and ratio.max() < 1.15*slope and ratio.min() > .85
    # one ramp: the second read contains the photon noise of the first
    bright = np.argmax(np.where(usable, rate, 0)[usable])
    shared = np.cov(first[bright], true[usable][bright, 1::2])[0, 1]
    assert shared == pytest.approx(.1*rate[usable][bright]/coadds, rel=.12)


def test_dead_pixels_and_full_wells():
    maps, images, still = _setup(64)
    dark_counts = read_ramps(np.random.default_rng(0), maps, images*100, **still)
    full = (images[0].ravel()*10*maps.flat.ravel() > 2*FULL_WELL) & ~maps.stored.dead.ravel()
    e = _true_electrons(dark_counts, maps)
    assert e[full, 1::2].mean(1) == pytest.approx(FULL_WELL, rel=2e-3)
    dead = maps.stored.dead.ravel()
    if dead.any(): assert abs((dark_counts[dead]/ADC_GAIN + ADC_OFFSET).mean(1)).max() < 60
    assert dark_counts.dtype == np.uint16 and dark_counts.shape == (1024, 128)


def test_cosmic_ray_fills_the_well_of_one_ramp_only():
    maps, images, still = _setup(64)
    pixel = 5*32 + 7 + int(maps.stored.dead[5, 7])
    hit = read_ramps(np.random.default_rng(0), maps, images, **{**still, 'hits': np.array([[pixel, 9]])})
    e = _true_electrons(hit, maps)[pixel]
    assert e[19] == pytest.approx(FULL_WELL, rel=5e-3) and abs(np.delete(e, 19)).max() < 300
    many = read_ramps(np.random.default_rng(0), maps, images, **{**still, 'hits': np.array([[pixel, 9]]), 'coadds': 25})
    assert _true_electrons(many, maps)[pixel][19] == pytest.approx(FULL_WELL/25, rel=.02)


def test_same_generator_same_bytes():
    maps, images, still = _setup(32)
    a, b, c = (read_ramps(np.random.default_rng(seed), maps, images, **still) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_refusals():
    maps, images, still = _setup(8)
    with pytest.raises(UsageError, match='images'): read_ramps(np.random.default_rng(0), maps, images[:, :30], **still)
    with pytest.raises(UsageError, match='ascending'): read_ramps(np.random.default_rng(0), maps, images, **{**still, 'times_s': (.2, .1)})
    with pytest.raises(UsageError, match='CH1'): draw_maps('CH1', 0)
