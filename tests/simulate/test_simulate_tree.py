"""A whole tree: layout, bytes, resume after kill -9, switches, and the light-curve path against the real pipeline."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from spectramind.challenge.adc import AdcInfo, read_adc, read_coadds
from spectramind.challenge.layout import INSTRUMENTS, list_planets, list_visits, read_axes, read_calibration, read_signal
from spectramind.challenge.planets import read_labels, read_sample_submission, read_stars
from spectramind.core.errors import UsageError
from spectramind.core.store import sha256_file
from spectramind.detector.chain import calibrate_visit
from spectramind.detector.setup import CalibConfig
from spectramind.photometry.extract import PhotometryConfig, extract_visit
from spectramind.simulate.curves import Leftovers, simulate_light_curves
from spectramind.simulate.observatory import PROFILES, Conditions, ProfileSpec, axis_table, simulate_tree, sweep_unfinished
from spectramind.simulate.population import draw_population
from spectramind.simulate.statistics import compare_statistics
from spectramind.simulate.visit import epoch_of, instrument_of_seed, mean_transit, pair_times, simulate_signal, star_factor, transit_curve

REAL = Path(__file__).resolve().parents[3]/'shared'/'real'
TINY = ProfileSpec(40, 400, {'FGS1': 300, 'AIRS-CH0': 250})


def _bytes(root):
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(root.rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp('sky')
    assert simulate_tree(root/'tree', root/'truth', profile=TINY, n_train=3, n_test=2, seed=9) == {'written': 5, 'present': 0}
    return root


def test_readers_accept_every_file(tree):
    root, axes = tree/'tree', read_axes(tree/'tree')
    assert read_coadds(root) == TINY.coadds and read_adc(root).gain['FGS1'] == .4369 and read_adc(root).offset['AIRS-CH0'] == -1000
    visits = 0
    for split, n in (('train', 3), ('test', 2)):
        planets = list_planets(root, split)
        assert len(planets) == n and sorted(read_stars(root, split)) == planets
        for planet in planets:
            for visit in list_visits(root, split, planet):
                visits += 1
                for name in INSTRUMENTS:
                    raw = read_signal(root, split, planet, name, visit, axes)
                    maps = read_calibration(root, split, planet, name, visit)
                    assert raw.shape == (INSTRUMENTS[name].n_pixels, axes.n_frames(name)) and raw[~maps.dead.ravel()].mean() > 430
                    assert np.median(maps.read) == pytest.approx(13.1/TINY.coadds[name]**.5, rel=.03)
    assert visits == 6
    assert not (root/'.building').exists()


def test_labels_and_truth(tree):
    root = tree/'tree'
    ids, depth = read_labels(root)
    truth_ids, truth = read_labels(tree/'truth', 'test_truth.csv')
    planets = {p.planet_id: p for p in draw_population(5, 9)}
    assert ids.tolist() == list_planets(root, 'train') and truth_ids.tolist() == list_planets(root, 'test')
    for one, spectrum in (*zip(ids, depth), *zip(truth_ids, truth)): assert np.array_equal(spectrum, planets[int(one)].depth)
    held = [repr(float(v)) for v in truth[0, :3]]
    for path in root.rglob('*.csv'): assert not any(v in path.read_text() for v in held), path.name


def test_ids_are_spelt_like_the_real_ones(tree):
    root = tree/'tree'
    test_ids = list_planets(root, 'test')
    assert [line.split(',')[0] for line in (root/'test_star_info.csv').read_text().splitlines()[1:]] == [f'{i}.0' for i in test_ids]
    assert [line.split(',')[0] for line in (root/'train.csv').read_text().splitlines()[1:]] == [str(i) for i in list_planets(root, 'train')]
    sample = read_sample_submission(root)
    assert sample.planet_ids == test_ids and len(sample.header) == 567
    assert set((root/'sample_submission.csv').read_text().splitlines()[1].split(',')[1:]) == {'0.456'}


def _twin(tree):
    "The real metadata where they are at hand, otherwise what is written down about them."
    if (REAL/'axis_info.parquet').is_file():
        return {'axes': pl.read_parquet(REAL/'axis_info.parquet'), 'wavelengths': (REAL/'wavelengths.csv').read_text(), 'adc': (REAL/'adc_info.csv').read_text(),
                'stars': (REAL/'test_star_info.csv').read_text(), 'sample': (REAL/'sample_submission.csv').read_text()}
    padded = lambda n, values: pl.Series('', np.concatenate([values, np.zeros(n - len(values))])).scatter(list(range(len(values), n)), None) if len(values) < n else pl.Series(values)
    pairs = lambda period_s, n: (np.stack([period_s*np.arange(n) + .1, period_s*np.arange(n) + .2], 1).ravel())/3600
    um = 4.07846314089887 - 4.43363406592966e-3*np.arange(356) - 6.91347214480173e-6*np.arange(356)**2
    axes = pl.DataFrame({'AIRS-CH0-axis0-h': padded(135000, pairs(4.8, 5625)), 'AIRS-CH0-axis2-um': padded(135000, um),
                         'AIRS-CH0-integration_time': padded(135000, np.tile([.1, 4.5], 5625)), 'FGS1-axis0-h': pl.Series(pairs(.4, 67500))})
    return {'axes': axes, 'wavelengths': ','.join(f'wl_{i}' for i in range(1, 284)) + '\n' + ','.join(map(repr, [.7, *um[39:321][::-1].tolist()])) + '\n',
            'adc': 'FGS1_adc_offset,FGS1_adc_gain,AIRS-CH0_adc_offset,AIRS-CH0_adc_gain\n-1000.0,0.4369,-1000.0,0.4369\n',
            'stars': 'planet_id,Rs,Ms,Ts,Mp,e,P,sma,i\n', 'sample': ','.join(['planet_id', *(f'wl_{i}' for i in range(1, 284)), *(f'sigma_{i}' for i in range(1, 284))]) + '\n'}


def test_metadata_match_the_challenge(tree):
    real, root = _twin(tree), tree/'tree'
    ours = axis_table(PROFILES['science'])
    assert ours.columns == real['axes'].columns and ours.dtypes == real['axes'].dtypes and ours.null_count().row(0) == real['axes'].null_count().row(0)
    for name in ours.columns: assert ours[name].drop_nulls().to_numpy() == pytest.approx(real['axes'][name].drop_nulls().to_numpy(), abs=2e-12)
    assert (root/'adc_info.csv').read_text().split() == real['adc'].split()
    ours_um, real_um = (np.array(text.splitlines()[1].split(','), float) for text in ((root/'wavelengths.csv').read_text(), real['wavelengths']))
    assert ours_um == pytest.approx(real_um, abs=1e-12)
    for file, key in (('wavelengths.csv', 'wavelengths'), ('test_star_info.csv', 'stars'), ('sample_submission.csv', 'sample')):
        assert (root/file).read_text().splitlines()[0] == real[key].splitlines()[0]


def test_coadded_stamps_are_means():
    axes, (first_h, mid_h) = axis_table(PROFILES['smoke']), pair_times(PROFILES['smoke'], 'AIRS-CH0')
    full, _ = pair_times(PROFILES['science'], 'AIRS-CH0')
    assert first_h == pytest.approx(full[:5620].reshape(-1, 20).mean(1)) and mid_h.mean(1) == pytest.approx(first_h + 2.25/3600)
    assert axes['AIRS-CH0-axis0-h'].drop_nulls().len() == 562


def test_killed_run_resumes_to_the_same_bytes(tree, tmp_path):
    code = ('from spectramind.simulate.observatory import simulate_tree\nfrom spectramind.simulate.visit import ProfileSpec\nimport sys\n'
            'if __name__ == "__main__": simulate_tree(sys.argv[1] + "/tree", sys.argv[1] + "/truth", profile=ProfileSpec(40, 400, {"FGS1": 300, "AIRS-CH0": 250}), n_train=3, n_test=2, seed=9)')
    script = tmp_path/'run.py'
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**os.environ, 'SPECTRAMIND_QUIET': '1'})
    began = time.time()
    while not list((tmp_path/'tree').glob('t*/[0-9]*')) and time.time() - began < 120 and process.poll() is None: time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list((tmp_path/'tree').glob('t*/[0-9]*')))
    assert there >= 1
    done = simulate_tree(tmp_path/'tree', tmp_path/'truth', profile=TINY, n_train=3, n_test=2, seed=9)
    assert done == {'written': 5 - there, 'present': there}
    assert _bytes(tmp_path/'tree') == _bytes(tree/'tree') and _bytes(tmp_path/'truth') == _bytes(tree/'truth')


def test_sweep_keeps_what_a_living_process_builds(tmp_path):
    mine, dead = tmp_path/'.building'/f'train-7-{os.getpid()}', tmp_path/'.building'/'train-8-999999999'
    for folder in (mine, dead): folder.mkdir(parents=True)
    sweep_unfinished(tmp_path)
    assert mine.exists() and not dead.exists()


def test_refusals(tree, tmp_path):
    again = lambda **change: simulate_tree(tree/'tree', tree/'truth', **{**dict(profile=TINY, n_train=3, n_test=2, seed=9), **change})
    before = _bytes(tree/'tree')
    assert again() == {'written': 0, 'present': 5}
    for change in (dict(seed=10), dict(n_train=2), dict(profile='smoke')):
        with pytest.raises(UsageError, match='another simulation'): again(**change)
    assert _bytes(tree/'tree') == before
    with pytest.raises(UsageError, match='inside the tree'): simulate_tree(tmp_path/'t', tmp_path/'t'/'truth')
    with pytest.raises(UsageError, match='profile'): simulate_tree(tmp_path/'t', tmp_path/'u', profile='huge')
    with pytest.raises(UsageError, match='workers'): simulate_tree(tmp_path/'t', tmp_path/'u', workers=0)
    with pytest.raises(UsageError, match='frames'): ProfileSpec(561, 5400)
    assert not (tmp_path/'t').exists()


def test_switches_reach_the_light():
    planet, (_, mid_h) = draw_population(3, 5)[0], pair_times(PROFILES['smoke'], 'AIRS-CH0')
    calm, wild = (star_factor(planet, 0, 'AIRS-CH0', mid_h, 5, scale) for scale in (0., 4.))
    assert calm.max() == 1. and 8e-4 < np.ptp(wild/calm) < 1.01e-2
    other = draw_population(3, 5, law='claret4')[0]
    claret, plain = (transit_curve(p, 0, mid_h.mean(1), np.array([0])) for p in (other, planet))
    assert 1e-5 < abs(claret - plain).max() < .1*planet.depth[0]
    many = simulate_signal(planet, 0, 'FGS1', TINY, 5, Conditions(dead_fraction=.2))
    core = many[:, 1].reshape(32, 32)[11:20, 11:20] - many[:, 0].reshape(32, 32)[11:20, 11:20].astype(int)
    assert .05 < (abs(core) < 8).mean() < .4
    assert not np.array_equal(simulate_signal(planet, 0, 'FGS1', TINY, 5), simulate_signal(planet, 0, 'FGS1', TINY, 5, Conditions(jitter_bursts=2)))
    assert np.array_equal(simulate_signal(planet, 0, 'FGS1', TINY, 5), simulate_signal(planet, 0, 'FGS1', TINY, 5))


def test_mean_transit_matches_a_fine_average():
    planet = draw_population(3, 5)[0]
    _, mid_h = pair_times(PROFILES['smoke'], 'AIRS-CH0')
    bins = np.array([0, 100])
    fine = transit_curve(planet, 0, mid_h.ravel(), bins).reshape(*mid_h.shape, 2).mean(1)
    assert abs(mean_transit(planet, 0, mid_h, bins) - fine).max() < 1.5e-6


def test_light_curves_agree_with_pixels_calibration_and_extraction(tmp_path):
    planet, spec, seed = draw_population(8, 5)[5], PROFILES['smoke'], 5
    axis_table(spec).write_parquet(tmp_path/'axis_info.parquet')
    axes, adc, frames = read_axes(tmp_path), AdcInfo({n: .4369 for n in INSTRUMENTS}, {n: -1000. for n in INSTRUMENTS}), {}
    for name in INSTRUMENTS:
        stored = instrument_of_seed(name, seed, epoch_of(planet, 0, seed))[1].stored
        frames[name] = calibrate_visit(simulate_signal(planet, 0, name, spec, seed), name, adc, replace(stored, read=stored.read/spec.coadds[name]**.5), axes,
                                       CalibConfig(coadds=spec.coadds[name]))
    pixels = extract_visit(frames['FGS1'], frames['AIRS-CH0'], planet.planet_id, 0, PhotometryConfig(time_bins=282, fgs1_time_bins=900))
    direct = simulate_light_curves(planet, seed)[0]
    assert pixels.flux.shape == direct.flux.shape == (281, 283) and pixels.time_h == pytest.approx(direct.time_h, abs=1e-9)
    good = pixels.valid.mean(0) > .9
    assert good.mean() > .95
    def noise(flux): return 1.4826*np.median(abs(np.diff(flux, 2, axis=0))/6**.5, 0)
    ratio = (noise(pixels.flux)/noise(direct.flux))[good]
    assert np.median(ratio) == pytest.approx(1., abs=.04) and np.percentile(ratio, [10, 90]) == pytest.approx([1., 1.], abs=.25)
    assert np.median((pixels.variance/direct.variance)[:, good]) == pytest.approx(1., abs=.04)
    level = np.median(pixels.flux/direct.flux, 0)[good]
    assert np.median(level) == pytest.approx(1., abs=.01)
    # the same drift and transit: what is left after division is noise
    white = [(c.flux[:, 1:]*good[1:]).sum(1) for c in (pixels, direct)]
    left = white[0]/white[1]/np.median(white[0]/white[1])
    expected = (2*np.median(direct.variance[:, 1:][:, good[1:]].sum(1)))**.5/np.median(white[1])
    assert left.std() < 1.35*expected and np.polyfit(direct.time_h, left, 1)[0]*7.5 < 6*expected/281**.5*3.5


def test_light_curves_are_reproducible_and_bin_consistently():
    planet = next(p for p in draw_population(8, 5) if p.n_visits == 2)
    one, two = simulate_light_curves(planet, 5), simulate_light_curves(planet, 5)
    assert len(one) == 2 and all(np.array_equal(a.flux, b.flux) for a, b in zip(one, two))
    assert not np.array_equal(one[0].flux, one[1].flux)
    for curve in one:
        assert curve.flux[:, 0] == pytest.approx(curve.fgs1_flux.reshape(-1, 3).mean(1), rel=1e-12)
        assert curve.centroid.shape == curve.jitter.shape == (843, 2) and json.dumps(curve.meta)
    fine = simulate_light_curves(planet, 5, time_bins=1125)[0]
    assert fine.flux.shape == (1125, 283)
    assert np.median(fine.variance/4) == pytest.approx(np.median(one[0].variance), rel=.01)


def test_leftovers_add_noise():
    planet = draw_population(4, 5)[0]
    clean, shaky = (simulate_light_curves(planet, 5, left=Leftovers(jitter=eta, sky=0.))[0] for eta in (0., 1.))
    assert (shaky.fgs1_flux/clean.fgs1_flux).std() > 1e-4 and np.array_equal(clean.variance, shaky.variance)


def test_curve_refusals():
    planet = draw_population(4, 5)[0]
    with pytest.raises(UsageError, match='time_bins'): simulate_light_curves(planet, 5, time_bins=3)
    with pytest.raises(UsageError, match='fgs1_per_bin'): simulate_light_curves(planet, 5, fgs1_per_bin=7)
    with pytest.raises(UsageError, match='found no value'): compare_statistics({})
