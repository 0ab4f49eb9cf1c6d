"""The readers on the challenge's real files where they are at hand, and on a synthetic twin of them always; the same assertions on both."""
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from challenge_twin import PLANET, write_twin

from spectramind.challenge.layout import INSTRUMENTS, MAPS, Challenge, calibration_path
from spectramind.challenge.planets import read_stars
from spectramind.challenge.wavelength import airs_axis, bin_wavelengths, default_wavelengths, flip_columns
from spectramind.core.errors import DataError

REAL = Path(__file__).resolve().parents[2].parent/'shared'/'real'


@pytest.fixture(scope='module', params=['twin'] + ['real']*REAL.is_dir())
def tree(request, tmp_path_factory):
    return Challenge(REAL if request.param == 'real' else write_twin(tmp_path_factory.mktemp('twin')))


def test_axes(tree):
    axes = tree.axes
    assert axes.n_frames('FGS1') == 12*axes.n_frames('AIRS-CH0') and axes.n_frames('AIRS-CH0') % 2 == 0
    assert axes.read_times_s('AIRS-CH0') == (0.1, 4.6) and axes.read_times_s('FGS1') == (0.1, 0.2)
    for name, first_s, period_s, exposure in (('AIRS-CH0', 2.35, 4.8, 4.5), ('FGS1', 0.15, 0.4, 0.1)):
        mid_h, exposure_s = axes.pairs(name)
        assert mid_h.shape == exposure_s.shape == (axes.n_frames(name)//2,) and (exposure_s == exposure).all()
        np.testing.assert_allclose(mid_h*3600, first_s + period_s*np.arange(len(mid_h)), atol=1e-6)
    np.testing.assert_allclose(axes.airs_um, airs_axis(), atol=1e-13)


def test_axes_against_another_reader(tree):
    table = pq.read_table(tree.root/'axis_info.parquet').to_pandas()
    for name, values in (('AIRS-CH0-axis0-h', tree.axes.airs_stamp_h), ('AIRS-CH0-axis2-um', tree.axes.airs_um),
                         ('AIRS-CH0-integration_time', tree.axes.airs_integration_s), ('FGS1-axis0-h', tree.axes.fgs1_stamp_h)):
        np.testing.assert_array_equal(table[name].dropna().to_numpy(), values)


def test_wavelengths(tree):
    for other in (bin_wavelengths(tree.axes.airs_um), default_wavelengths()): np.testing.assert_allclose(tree.wavelengths, other, atol=1e-13)
    assert tree.wavelengths[0] == 0.7 and abs(tree.wavelengths[1] - tree.axes.airs_um[320]) < 1e-13 and flip_columns(tree.axes.airs_um)[0] == tree.axes.airs_um[320]


def test_adc_and_coadds(tree):
    assert tree.adc.gain == {'FGS1': 0.4369, 'AIRS-CH0': 0.4369} and tree.adc.offset == {'FGS1': -1000.0, 'AIRS-CH0': -1000.0}
    assert tree.coadds == {'FGS1': 1, 'AIRS-CH0': 1}


def test_stars(tree):
    train, test = read_stars(tree.root, 'train'), read_stars(tree.root, 'test')
    assert PLANET in train and 1103775 in test and not set(train) & set(test) and list(train) == sorted(train)
    assert tree.star('1103775.0') == test[1103775] and tree.star(PLANET) == train[PLANET]
    ratio = np.array([4.2066*(s.ms*s.period_d**2)**(1/3)/s.rs/s.a_rs for s in train.values()])
    assert 0.7 < ratio.min() and ratio.max() < 1.4 and {s.e for s in train.values()} == {0.0} and max(s.inc_deg for s in train.values()) <= 90
    with pytest.raises(DataError, match='no star row for planet 5'): tree.star(5)


def test_sample(tree):
    sample = tree.sample()
    assert len(sample.header) == 567 and sample.header[:2] == ['planet_id', 'wl_1'] and sample.header[-1] == 'sigma_283'
    assert sample.planet_ids == [1103775] and float(sample.ids[0]) == 1103775


def test_calibration(tree):
    for name, one in INSTRUMENTS.items():
        calib = tree.calibration('train', f'{PLANET}.0', name, 0)
        assert calib.dark.shape == calib.dead.shape == calib.flat.shape == calib.read.shape == one.shape and calib.linear_corr.shape == (6, *one.shape)
        assert calib.dead.dtype == bool and 0 < calib.dead.sum() < 0.02*one.n_pixels
        assert abs(np.median(calib.dark) - 0.0065) < 0.002 and abs(np.median(calib.flat) - 1.01) < 0.02 and abs(np.median(calib.read) - 13) < 1
        assert abs(np.median(calib.linear_corr[1]) - 1) < 1e-3 and abs(np.median(calib.linear_corr[2])) < 1e-7
        for what in MAPS:                                                       # pixel by pixel, against another reader
            table = pq.read_table(calibration_path(tree.root, 'train', PLANET, name, 0, what)).to_pandas().to_numpy()
            np.testing.assert_array_equal(getattr(calib, what), table.reshape(getattr(calib, what).shape))


def test_what_is_not_there_is_said(tree):
    assert tree.planets('train') == [PLANET]
    with pytest.raises(DataError, match='half of visit 0: FGS1_signal_0.parquet, AIRS-CH0_signal_0.parquet missing'): tree.visits('train', PLANET)
    with pytest.raises(DataError, match='no file'): tree.signal('train', PLANET, 'FGS1', 0)
    with pytest.raises(DataError, match='no file'): tree.calibration('train', PLANET, 'FGS1', 1)
    with pytest.raises(DataError, match='the folder of the test planets'): tree.planets('test')
    with pytest.raises(DataError, match='train.csv'): tree.labels()
