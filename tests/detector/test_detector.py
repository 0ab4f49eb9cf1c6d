"""The detector floor: fast against reference, variance against Monte Carlo, switches, bad input."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.challenge.layout import INSTRUMENTS, AdcInfo, Axes, CalibrationFiles
from spectramind.core.errors import UsageError
from spectramind.detector.bad_pixels import find_hot
from spectramind.detector.chain import CalibConfig, bin_frames, calibrate_ref, calibrate_visit
from spectramind.detector.compact import CompactBad, CompactVariance, split_bad, variance_terms
from spectramind.detector.cosmic_rays import find_cosmic_rays, running_median
from spectramind.detector.interpolation import fill_values, find_donors
from spectramind.detector.linearity import correct_linearity

GAIN, OFFSET = .4369, -1000.
ADC = AdcInfo({name: GAIN for name in INSTRUMENTS}, {name: OFFSET for name in INSTRUMENTS})
REAL = Path(__file__).parents[3]/'shared'/'real'


def make_axes(n_airs, n_fgs1):
    def stamps(n, period): return (np.repeat(np.arange(n//2)*period, 2) + np.tile([.1, .2], n//2))/3600
    c = np.arange(356)
    um = 4.07846314089887 - 4.43363406592966e-3*c - 6.91347214480173e-6*c**2
    return Axes(stamps(n_airs, 4.8), np.tile([.1, 4.5], n_airs//2), um, stamps(n_fgs1, .4))


def make_maps(rng, shape, dead=.002):
    typical, spread = np.array([.14, 1., -6e-9, 1.17e-11, -6e-17, 1.3e-22]), np.array([.4, .005, 1e-7, 1.7e-12, 1.7e-17, 2e-23])
    broken = rng.random(shape) < dead
    return CalibrationFiles(np.where(rng.random(shape) < .01, rng.uniform(.1, 12, shape), rng.uniform(.003, .009, shape)), broken,
                            np.where(broken, 0, rng.normal(1, .0125, shape)), rng.uniform(12, 16, shape),
                            typical[:, None, None] + spread[:, None, None]*rng.standard_normal((6, *shape)))


def detect(charge, maps):
    "The detector's answer to a charge: the inverse of the polynomial, by Newton's steps."
    s = charge.copy()
    for _ in range(8):
        value, slope, _ = correct_linearity(s, maps.linear_corr, np.ones_like(s))
        s -= (value - charge)/np.sqrt(slope)
    return s


def make_visit(rng, instrument, pairs, axes, maps, rate, hits=0, dip=None):
    "Raw counts (pixel, read) of a scene of `rate` e-/s per pixel, and the light between the reads."
    shape = INSTRUMENTS[instrument].shape
    dip = np.ones(pairs) if dip is None else dip
    even_s, odd_s = axes.read_times_s(instrument)
    light, dark = dip[:, None, None]*rate*maps.flat, maps.dark
    first = rng.poisson((light + dark)*even_s).astype(float)
    charge = np.stack([first, first + rng.poisson((light + dark)*(odd_s - even_s))], axis=1).reshape(2*pairs, *shape)
    at = np.stack([rng.integers(0, n, hits) for n in (pairs, *shape)], axis=1)
    charge[2*at[:, 0] + 1, at[:, 1], at[:, 2]] += 7e4
    counts = np.floor((detect(charge, maps) + maps.read*rng.standard_normal(charge.shape) - OFFSET)*GAIN)
    raw = np.clip(counts, 0, 65535).astype(np.uint16).reshape(2*pairs, -1).T
    return np.ascontiguousarray(raw), dip[:, None, None]*rate*(odd_s - even_s), at


def scene(instrument):
    y, x = np.mgrid[:32, :INSTRUMENTS[instrument].shape[1]]
    if instrument == 'FGS1': return 2.2e6*np.exp(-.5*((y - 15.4)**2 + (x - 15.3)**2)/1.7**2)/(2*np.pi*1.7**2) + 40
    return 6000*np.exp(-.5*((y - 15.6)/2.2)**2)*(.2 + x/356) + 2


@pytest.fixture(scope='module', params=['FGS1', 'AIRS-CH0'])
def both(request):
    "One visit with everything that can go wrong in it, through both chains."
    instrument, rng = request.param, np.random.default_rng(5)
    pairs = 700 if instrument == 'FGS1' else 130
    axes = make_axes(260, 1400)
    maps = make_maps(rng, INSTRUMENTS[instrument].shape)
    raw, _, _ = make_visit(rng, instrument, pairs, axes, maps, scene(instrument), hits=40)
    maps.dark[2, 100 % maps.dark.shape[1]] = np.nan
    width = maps.dark.shape[1]
    raw[5*width + 60 % width] = 65535                # always clipped
    raw[9*width + 80 % width, 41] = 65535            # clipped once
    at = 10*width + width//3 if width > 32 else 10*width
    raw[at:at + 64, 51] += 9000    # a twitch: 64 pixels in one frame
    args = (raw, instrument, ADC, maps, axes)
    return args, calibrate_ref(*args), calibrate_visit(*args)


def test_fast_equals_reference(both):
    args, slow, fast = both
    relative = np.abs(fast.frames - slow.frames)/np.abs(slow.frames)
    assert np.median(relative) <= 1e-6 and np.allclose(fast.frames, slow.frames, rtol=1e-6, atol=2e-3)
    assert np.array_equal(np.asarray(fast.bad), slow.bad)
    assert fast.meta['counts'] == slow.meta['counts']
    ratio = np.abs(np.asarray(fast.variance)/slow.variance - 1)
    assert np.median(ratio) <= 2e-5 and ratio[~slow.bad].max() <= 1e-3 and np.mean(ratio[slow.bad] > .05) < .01
    assert np.array_equal(fast.time_h, slow.time_h) and np.array_equal(fast.wavelength_um, slow.wavelength_um)
    assert [s['step'] for s in fast.meta['steps']] == [s['step'] for s in slow.meta['steps']]


def test_classes_are_counted(both):
    args, slow, fast = both
    counts, steps = fast.meta['counts'], {s['step']: s for s in fast.meta['steps']}
    assert counts['nan'] >= 1 and counts['saturated_pixels'] == 1 and counts['saturated_samples'] == 1
    assert counts['cosmic_samples'] >= 25 and steps['cosmic_rays']['crowded_frames'] == 1
    json.dumps(fast.meta, allow_nan=False)
    json.dumps(slow.meta, allow_nan=False)


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_threads_change_no_bit(both, threads):
    args, _, fast = both
    other = calibrate_visit(*args, threads=threads)
    assert np.array_equal(other.frames, fast.frames)
    assert np.array_equal(np.asarray(other.variance), np.asarray(fast.variance))
    assert np.array_equal(np.asarray(other.bad), np.asarray(fast.bad))


def test_blocks_equal_whole(both):
    args, _, fast = both
    raw = args[0]
    def blocks(step):
        buffer = np.empty((step, raw.shape[1]), np.uint16)    # a reader that overwrites its buffer
        for a in range(0, len(raw), step):
            part = raw[a:a + step]
            buffer[:len(part)] = part
            yield slice(a, a + len(part)), buffer[:len(part)]
    other = calibrate_visit(blocks(700), *args[1:])
    assert np.array_equal(other.frames, fast.frames) and np.array_equal(np.asarray(other.bad), np.asarray(fast.bad))


def test_only_the_wanted_columns(both):
    args, _, fast = both
    columns = INSTRUMENTS[args[1]].pixels()
    other = calibrate_visit(args[0][columns], *args[1:], columns=columns)
    assert np.array_equal(other.frames, fast.frames) and np.array_equal(np.asarray(other.bad), np.asarray(fast.bad))
    assert np.array_equal(np.asarray(other.variance), np.asarray(fast.variance))
    for wrong in (columns[:-1], np.append(columns[:-1], columns[0])):
        with pytest.raises(UsageError, match='columns'): calibrate_visit(args[0][wrong], *args[1:], columns=wrong)
    with pytest.raises(UsageError, match='raw of shape'): calibrate_visit(args[0][columns[1:]], *args[1:], columns=columns)


def test_input_is_not_changed(both):
    args, _, _ = both
    before = args[0].copy(), args[3].flat.copy(), args[3].dark.copy()
    args[0].flags.writeable = False
    calibrate_visit(*args)
    assert np.array_equal(args[0], before[0]) and np.array_equal(args[3].flat, before[1]) and np.array_equal(args[3].dark, before[2], equal_nan=True)


@pytest.mark.parametrize('off', [dict(cosmic=False), dict(saturated=False), dict(interpolate=False), dict(linearity=False), dict(dark=False),
                                 dict(flat=False), dict(hot=True), dict(coadds=7)])
def test_switches_agree_and_are_recorded(both, off):
    args, _, default = both
    config = CalibConfig(**off)
    slow, fast = calibrate_ref(*args, config), calibrate_visit(*args, config)
    same = np.isclose(fast.frames, slow.frames, rtol=1e-4, atol=1e-3, equal_nan=True)
    assert same.all() and np.array_equal(np.asarray(fast.bad), slow.bad) and fast.meta['counts'] == slow.meta['counts']
    assert fast.meta['config'] | off == fast.meta['config']
    name = {'cosmic': 'cosmic_rays', 'interpolate': 'interpolation'}.get(next(iter(off)), next(iter(off)))
    if off in [dict(coadds=7), dict(hot=True)]: assert np.asarray(fast.variance).sum() != np.asarray(default.variance).sum()
    else: assert next(s for s in fast.meta['steps'] if s['step'] == name)['switched_on'] is False


@pytest.mark.parametrize('instrument,pairs', [('FGS1', 1600), ('AIRS-CH0', 300)])
def test_variance_against_monte_carlo(instrument, pairs):
    rng = np.random.default_rng(11)
    axes = make_axes(600, 3200)
    maps = make_maps(rng, INSTRUMENTS[instrument].shape, dead=0)
    raw, light, _ = make_visit(rng, instrument, pairs, axes, maps, scene(instrument))
    frames = calibrate_visit(raw, instrument, ADC, maps, axes, CalibConfig(cosmic=False))
    if instrument != 'FGS1': light = light[:, :, 39:321][:, :, ::-1]
    measured, promised = (frames.frames - light).var(axis=0, dtype=float), np.asarray(frames.variance).mean(axis=0)
    level = light.mean(axis=0)
    group = np.unique(np.digitize(level, [5, 50, 300, 2000, 8000]), return_inverse=True)[1].reshape(level.shape)
    ratio = np.array([measured[group == g].sum()/promised[group == g].sum() for g in range(group.max() + 1)])
    assert len(ratio) >= 4
    assert np.abs(ratio - 1).max() < .05, ratio
    pull = (frames.frames.mean(axis=0, dtype=float) - level)/np.sqrt(promised/pairs)
    assert abs(pull.mean()) < .1 and abs(pull.std() - 1) < .05


def test_coadds_scale_the_photon_noise():
    rng = np.random.default_rng(12)
    m, axes, instrument = 10, make_axes(8, 2000), 'FGS1'
    maps = make_maps(rng, (32, 32), dead=0)
    rate, reads = scene(instrument), np.array([.1, .2])
    first = rng.poisson((rate*maps.flat + maps.dark)*.1*m, (1000, 32, 32))/m
    second = first + rng.poisson((rate*maps.flat + maps.dark)*.1*m, (1000, 32, 32))/m
    charge = np.stack([first, second], axis=1).reshape(2000, 32, 32)
    stored = replace(maps, read=maps.read/np.sqrt(m))
    counts = np.floor((detect(charge, maps) + stored.read*rng.standard_normal(charge.shape) + 1000)*GAIN)
    raw = np.ascontiguousarray(np.clip(counts, 0, 65535).astype(np.uint16).reshape(2000, -1).T)
    frames = calibrate_visit(raw, instrument, ADC, stored, axes, CalibConfig(coadds=m))
    ratio = (frames.frames - rate*.1).var(axis=0, dtype=float).sum()/np.asarray(frames.variance).mean(axis=0).sum()
    assert abs(ratio - 1) < .05 and len(reads) == 2


def test_deep_transit_survives():
    rng = np.random.default_rng(13)
    pairs, axes = 3000, make_axes(8, 6000)
    maps = make_maps(rng, (32, 32), dead=0)
    dip = 1 - .09*np.clip(4*(.6 - np.abs(np.linspace(-1, 1, pairs))), 0, 1)
    raw, light, at = make_visit(rng, 'FGS1', pairs, axes, maps, scene('FGS1'), hits=20, dip=dip)
    frames = calibrate_visit(raw, 'FGS1', ADC, maps, axes)
    events = {tuple(e) for e in frames.bad.events.tolist()}
    assert events == {tuple(h) for h in at.tolist()}
    total = frames.frames.sum(axis=(1, 2), dtype=float)
    depth = 1 - total[1300:1700].mean()/total[:500].mean()
    assert abs(depth - .09*light[0].sum()/light[0].sum()) < 5e-4


def test_a_marked_column_lands_in_its_bin():
    rng = np.random.default_rng(14)
    axes = make_axes(40, 8)
    maps = replace(make_maps(rng, (32, 356), dead=0), linear_corr=np.stack([np.full((32, 356), float(k == 1)) for k in range(6)]))
    raw, _, _ = make_visit(rng, 'AIRS-CH0', 20, axes, maps, np.where(np.arange(356) == 50, 8000., 1.)*np.ones((32, 1)))
    frames = calibrate_visit(raw, 'AIRS-CH0', ADC, maps, axes)
    white = frames.frames.mean(axis=(0, 1))
    assert white.argmax() == 320 - 50 and frames.frames.shape == (20, 32, 282) and (np.diff(frames.wavelength_um) > 0).all()
    assert np.isclose(frames.wavelength_um[270], axes.airs_um[50]) and np.isclose(white[270], 36000, rtol=.01)
    assert np.allclose(frames.exposure_s, 4.5) and frames.frames.transpose(1, 2, 0).flags.c_contiguous


def test_negative_values_are_kept():
    rng = np.random.default_rng(15)
    axes, maps = make_axes(8, 2000), make_maps(rng, (32, 32), dead=0)
    raw, light, _ = make_visit(rng, 'FGS1', 1000, axes, maps, np.full((32, 32), 1.))
    frames = calibrate_visit(raw, 'FGS1', ADC, maps, axes)
    assert .4 < (frames.frames < 0).mean() < .6 and abs(frames.frames.mean() - .1) < .1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(3, 70), st.integers(1, 9))
def test_running_median_is_the_middle_of_its_window(seed, n, half):
    x = np.random.default_rng(seed).normal(size=n)
    h = min(half, (n - 1)//2)
    start = np.clip(np.arange(n) - h, 0, n - 2*h - 1)
    assert np.array_equal(running_median(x, half), [np.median(x[s:s + 2*h + 1]) for s in start])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(3, 1400), st.sampled_from([3., 5., 8.]))
def test_kernel_finds_what_the_plain_search_finds(seed, n, sigma):
    rng = np.random.default_rng(seed)
    counts = np.clip(np.round(5000 + np.cumsum(rng.normal(0, 3, 2*n)) + 10*rng.standard_normal(2*n)), 1, 60000)
    counts[rng.integers(0, 2*n, 5)] += rng.choice([-400, 300, 20000], 5)
    raw = np.broadcast_to(counts.astype(np.uint16), (1024, 2*n))
    axes = make_axes(8, 2*n)
    unit = np.zeros((6, 32, 32)); unit[1] = 1
    dead = np.ones((32, 32), bool); dead[7, 7] = False
    maps = CalibrationFiles(np.zeros((32, 32)), dead, np.ones((32, 32)), np.full((32, 32), 13.), unit)
    config = CalibConfig(cosmic_sigma=sigma, interpolate=False)
    fast = calibrate_visit(raw, 'FGS1', ADC, maps, axes, config)
    cds = (counts[1::2] - counts[0::2])[:, None, None]/GAIN
    plain, _ = find_cosmic_rays(cds, np.array([[13*np.sqrt(2)]]), sigma=sigma)
    assert np.array_equal(np.asarray(fast.bad)[:, 7, 7], plain[:, 0, 0])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31))
def test_lazy_arrays_behave(seed):
    rng = np.random.default_rng(seed)
    cube = rng.normal(100, 30, (9, 3, 4)).astype(np.float32)
    events = np.unique(np.stack([rng.integers(0, n, 5) for n in cube.shape], axis=1), axis=0)
    variance = CompactVariance(cube, rng.uniform(300, 400, (3, 4)), rng.uniform(.9, 1.1, (3, 4)), events)
    bad = CompactBad(9, rng.random((3, 4)) < .2, events)
    for lazy in (variance, bad):
        whole = np.asarray(lazy)
        assert whole.shape == lazy.shape and whole.dtype == lazy.dtype and len(lazy) == 9 and lazy.size == whole.size
        for key in (0, slice(2, 8, 3), (slice(None), 1), (..., 2), (slice(7, 0, -2), 0, slice(1, 3)), [0, 3], whole > whole.mean()):
            assert np.array_equal(lazy[key], whole[key])
        assert np.array_equal(lazy.sum(axis=0), whole.sum(axis=0)) and np.array_equal(np.moveaxis(lazy, 0, -1), np.moveaxis(whole, 0, -1))
    static, found = split_bad(np.asarray(bad))
    again = CompactBad(9, static, found)
    assert np.array_equal(np.asarray(again), np.asarray(bad))
    assert np.allclose(variance_terms(cube, np.asarray(variance))[0], np.asarray(variance).mean(axis=0))
    with pytest.raises(TypeError): variance[0] = 1


def test_donors_prefer_the_nearest_and_know_when_there_is_none():
    bad = np.ones((2, 5), bool); bad[0, [0, 4]] = False
    target, donor, weight = find_donors(bad, ('wave',))
    assert np.allclose(weight[:3].sum(axis=1), 1) and (weight[3:] == 0).all()
    both_ways = find_donors(bad, ('spatial', 'wave'))[2]
    assert np.isclose(both_ways[3].sum(), 1)
    assert fill_values(np.array([[1., 2, 3]]), np.array([0, 0, 0]), np.array([0, 1, 2]), 1).tolist() == [2, 2, 2]


def test_binning_averages_and_propagates(both):
    args, _, fast = both
    binned = bin_frames(fast, 13)
    m = len(fast.time_h)//13
    assert np.allclose(binned.frames, np.asarray(fast.frames[:13*m]).reshape(m, 13, *fast.frames.shape[1:]).mean(axis=1, dtype=float), rtol=1e-5, atol=1e-3)
    assert np.allclose(binned.variance, np.asarray(fast.variance)[:13*m].reshape(m, 13, *fast.frames.shape[1:]).sum(axis=1, dtype=float)/169, rtol=1e-5)
    assert np.array_equal(binned.bad[0], np.asarray(fast.bad)[0]) or binned.bad[0].sum() <= np.asarray(fast.bad)[:13].any(axis=0).sum()
    assert binned.meta['time_bin'] == 13 and bin_frames(binned, 2).meta['time_bin'] == 26
    for n in (0, len(fast.time_h) + 1):
        with pytest.raises(UsageError): bin_frames(fast, n)


def test_bad_input_is_refused(both):
    args, _, _ = both
    raw, instrument, adc, maps, axes = args
    for wrong in (raw[:, :-2], raw[:-1], iter([(slice(0, 10), raw[:10])])):
        with pytest.raises(UsageError, match='raw of shape'): calibrate_visit(wrong, instrument, adc, maps, axes)
    with pytest.raises(UsageError, match='raw of shape'): calibrate_ref(raw[:, :-2], instrument, adc, maps, axes)
    with pytest.raises(UsageError, match='instrument'): calibrate_visit(raw, 'FGS2', adc, maps, axes)
    with pytest.raises(UsageError, match='not flagged'): calibrate_visit(raw, instrument, adc, maps, axes, CalibConfig(nan=False))
    with pytest.raises(UsageError, match='maps'): calibrate_visit(raw, instrument, adc, replace(maps, flat=maps.flat[:, :-1]), axes)
    for wrong in (dict(cosmic_half=0), dict(coadds=0), dict(cosmic_sigma=-1.), dict(saturated_fraction=0.), dict(inflation=float('nan'))):
        with pytest.raises(UsageError): CalibConfig(**wrong)


def real_or_twin_maps():
    "The real dark maps where they are, and a twin with the same statistics elsewhere."
    import polars as pl
    path = REAL/'train'/'342072318'/'AIRS-CH0_calibration_0'/'dark.parquet'
    if path.exists(): return pl.read_parquet(path).to_numpy(), 82
    rng = np.random.default_rng(3)
    dark = rng.normal(.00633, .0015, (32, 356))
    dark.ravel()[rng.choice(dark.size, 82, replace=False)] = rng.uniform(.05, 12, 82)
    return dark, 82


def test_hot_pixels_of_the_real_map():
    dark, wanted = real_or_twin_maps()
    assert abs(int(find_hot(dark).sum()) - wanted) <= 4
