"""Whole visits through `extract_visit`, against the independent scene of `synthetic_visit.py`."""
import json
from dataclasses import replace

import numba
import numpy as np
import pytest
from synthetic_visit import box_depth, make_visit

from spectramind.core.errors import ConfigError, UsageError
from spectramind.photometry.extract import PhotometryConfig, extract_visit

SMALL = dict(waves=24, n_airs=1125, n_fgs1=9000)


def depths(frames, config=PhotometryConfig()):
    curves = extract_visit(*frames[:2], 1, 0, config)
    return *box_depth(curves.flux, curves.variance, curves.valid, curves.time_h), curves


def test_without_noise_the_depth_is_right_whatever_the_optics_do():
    for seed, depth in [(1, .004), (2, .02)]:
        frames = make_visit(seed, depth=depth, noise=False, dead_core=True, drift=0., **SMALL)
        found, _, curves = depths(frames)
        assert abs(found[0] - depth)*1e6 < 10 and abs(found[1:] - depth).max()*1e6 < 10, (found - depth)*1e6
        assert abs(found[0] - depth) < .02*abs(depths(frames, PhotometryConfig(decorrelate=False))[0][0] - depth) + 3e-6
        assert curves.valid.mean() > .99


def test_a_deep_transit_survives_and_nothing_of_it_is_clipped():
    frames = make_visit(3, depth=.09, drift=0., **SMALL)
    found, error, curves = depths(frames)
    inside = abs(curves.time_h - 3.75) < 1.8
    assert curves.valid[inside].mean() > .995 and curves.fgs1_valid.mean() > .995
    assert abs((found[1:] - .09)/error[1:]).max() < 5 and abs(found[0] - .09) < 4*error[0]


def test_errors_are_honest():
    pulls = []
    for seed in range(4):
        found, error, curves = depths(make_visit(20 + seed, foreground=(.5, 4.), dead_core=True, **SMALL))
        pulls.append((found - .015)/error)
        for name in ('fgs1', 'airs'): assert abs(curves.meta[name]['after']['ratio'] - 1) < .1
    pulls = np.array(pulls)
    assert .8 < pulls.std() < 1.2 and abs(pulls.mean()) < .4 and abs(pulls[:, 0]).max() < 3.5


def test_scaling_the_frames_scales_the_flux():
    fgs1, airs, _ = make_visit(4, waves=8, n_airs=300, n_fgs1=1200)
    twice = [replace(f, frames=2*f.frames, variance=4*np.asarray(f.variance)) for f in (fgs1, airs)]
    once = [replace(f, variance=np.asarray(f.variance)) for f in (fgs1, airs)]
    a, b = extract_visit(*once, 1, 0), extract_visit(*twice, 1, 0)
    np.testing.assert_allclose(b.flux, 2*a.flux, rtol=1e-5)
    np.testing.assert_allclose(b.variance, 4*a.variance, rtol=1e-4)
    np.testing.assert_allclose(b.centroid, a.centroid, atol=1e-4)
    assert np.array_equal(a.valid, b.valid)


def test_memory_order_and_threads_do_not_matter():
    frames, copies = make_visit(5, **SMALL)[:2], make_visit(5, pixel_major=False, **SMALL)[:2]
    assert frames[0].frames.strides != copies[0].frames.strides
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = extract_visit(*frames, 1, 0)
    finally: numba.set_num_threads(before)
    many, other = extract_visit(*frames, 1, 0), extract_visit(*copies, 1, 0)
    for name in ('flux', 'variance', 'valid', 'fgs1_flux', 'fgs1_variance', 'centroid', 'jitter'):
        assert getattr(one, name).tobytes() == getattr(many, name).tobytes(), name
        np.testing.assert_allclose(getattr(other, name), getattr(many, name), rtol=1e-9, err_msg=name)


def test_negative_light_survives():
    fgs1, airs, _ = make_visit(6, waves=12, n_airs=400, n_fgs1=1600, light=1e-4, dead=False, foreground=(0, 0))
    curves = extract_visit(fgs1, airs, 1, 0, PhotometryConfig(background='none', decorrelate=False))
    assert (curves.flux[:, 1:][curves.valid[:, 1:]] < 0).mean() > .03 and np.isfinite(curves.flux).all()


def test_a_dead_wavelength_is_invalid_and_the_others_live():
    fgs1, airs, _ = make_visit(7, waves=12, n_airs=400, n_fgs1=1600)
    bad = np.asarray(airs.bad).copy()
    bad[:, :, 5] = True
    bad[100:103, :, 8] = True
    curves = extract_visit(fgs1, replace(airs, bad=bad), 1, 0)
    assert not curves.valid[:, 6].any() and np.isinf(curves.variance[:, 6]).all() and np.isfinite(curves.flux).all()
    assert not curves.valid[100:103, 9].any() and curves.valid[:, [1, 2, 3, 4, 5, 7, 8]].mean() > .99
    assert curves.meta['airs']['lost_columns'] == [5]


def test_a_burst_of_jitter_loses_credit_not_the_transit():
    found, error, curves = depths(make_visit(8, burst=5., dead_core=True, **SMALL))
    assert abs(found[0] - .015) < 4*error[0] and curves.valid[:, 1:].mean() > .98


def test_bins_shapes_and_log():
    fgs1, airs, _ = make_visit(9, waves=6, n_airs=1130, n_fgs1=9001)
    curves = extract_visit(fgs1, airs, 12, 1, PhotometryConfig(time_bins=226, fgs1_time_bins=1000, drop_first=5, drop_last=5))
    assert curves.flux.shape == (226, 7) and curves.fgs1_flux.shape == (900,) and curves.centroid.shape == curves.jitter.shape == (900, 2)
    assert (curves.planet_id, curves.visit) == (12, 1) and not curves.valid[0].any() and not curves.valid[-1].any() and curves.valid[1:-1].mean() > .99
    assert (np.diff(curves.time_h) > 0).all() and abs(curves.time_h[0] - 7.5*2.5/1130) < 1e-9
    assert json.loads(json.dumps(curves.meta, allow_nan=False)) == curves.meta


def test_what_does_not_fit_together_is_refused():
    fgs1, airs, _ = make_visit(10, waves=4, n_airs=60, n_fgs1=200)
    with pytest.raises(UsageError, match='AIRS-CH0'): extract_visit(airs, fgs1, 1, 0)
    with pytest.raises(UsageError, match='equal shapes'): extract_visit(fgs1, replace(airs, time_h=airs.time_h[1:]), 1, 0)
    with pytest.raises(UsageError, match='16'):
        extract_visit(fgs1, replace(airs, frames=airs.frames[:9], variance=np.asarray(airs.variance)[:9], bad=np.asarray(airs.bad)[:9], time_h=airs.time_h[:9]), 1, 0)
    for wrong in (dict(background='median'), dict(time_bins=0), dict(clip_sigma=-1)):
        with pytest.raises(ConfigError): PhotometryConfig(**wrong)
