"""A small synthetic twin of the challenge's real files: the same names, columns, types, paddings and habits, other numbers.

`write_twin(root)` mirrors the folder of real files (metadata, calibration of one planet, no signals);
`write_visit` adds signals whose every cell can be predicted."""
import numpy as np
import polars as pl

from spectramind.challenge.layout import INSTRUMENTS, MAPS, calibration_path, signal_path
from spectramind.core.nouns import bin_columns
from spectramind.core.store import write_csv_rows, write_parquet

PLANET = 342072318
STARS = ['planet_id', 'Rs', 'Ms', 'Ts', 'Mp', 'e', 'P', 'sma', 'i']
UM = 4.07846314089887 - 4.43363406592966e-3*np.arange(356) - 6.91347214480173e-6*np.arange(356)**2


def _stamps(n, period_s): return (np.repeat(np.arange(n//2)*period_s, 2) + np.tile([0.1, 0.2], n//2))/3600


def _padded(values, n): return pl.Series(np.asarray(values, float)).extend(pl.Series([None]*(n - len(values)), dtype=pl.Float64))


def axis_table(n_airs=12):
    n = max(356, 12*n_airs)
    return pl.DataFrame({'AIRS-CH0-axis0-h': _padded(_stamps(n_airs, 4.8), n), 'AIRS-CH0-axis2-um': _padded(UM, n),
                         'AIRS-CH0-integration_time': _padded(np.tile([0.1, 4.5], n_airs//2), n), 'FGS1-axis0-h': _padded(_stamps(12*n_airs, 0.4), n)})


def star_row(rng, planet_id):
    rs, ms, period = rng.uniform(0.8, 1.8), rng.uniform(0.8, 1.3), rng.uniform(3, 7)
    a_rs = 4.2066*(ms*period**2)**(1/3)/rs*rng.normal(1, 0.05)       # Kepler's third law, with the tables' scatter
    return [planet_id, rs, ms, rng.uniform(5000, 6500), rng.uniform(0.2, 2), 0.0, period, a_rs, rng.uniform(87, 90)]


def write_tables(root, train=(34983, 1873185, PLANET), test=('1103775.0',), n_airs=12):
    rng = np.random.default_rng(1)
    write_parquet(root/'axis_info.parquet', axis_table(n_airs))
    write_csv_rows(root/'adc_info.csv', ['FGS1_adc_offset', 'FGS1_adc_gain', 'AIRS-CH0_adc_offset', 'AIRS-CH0_adc_gain'], [[-1000.0, 0.4369, -1000.0, 0.4369]])
    write_csv_rows(root/'wavelengths.csv', bin_columns(), [[0.7, *UM[39:321][::-1]]])
    write_csv_rows(root/'train_star_info.csv', STARS, [star_row(rng, i) for i in train])
    write_csv_rows(root/'test_star_info.csv', STARS, [star_row(rng, i) for i in test])
    write_csv_rows(root/'sample_submission.csv', ['planet_id', *bin_columns(), *bin_columns('sigma')], [[i, *[0.456]*566] for i in test])
    return root


def wide(values, names=None): return pl.DataFrame(values, schema=names or [f'column_{i}' for i in range(values.shape[1])])


def make_maps(shape, seed=0):
    rng, (h, w) = np.random.default_rng(seed), shape
    coefficients = np.stack([rng.normal(m, s, shape) for m, s in ((0.1, 0.4), (1, 0.005), (-6e-9, 1e-7), (1e-11, 1e-12), (-5e-17, 1e-18), (1e-22, 1e-23))])
    return dict(dark=rng.normal(0.0065, 0.001, shape), dead=np.arange(h*w).reshape(shape) % 400 == 7, flat=rng.normal(1.01, 0.0125, shape),
                linear_corr=coefficients, read=rng.normal(13, 1, shape))


def write_calibration(root, split='train', planet_id=PLANET, visit=0):
    for name, one in INSTRUMENTS.items():
        for what, values in make_maps(one.shape).items():
            write_parquet(calibration_path(root, split, planet_id, name, visit, what), wide(values.reshape(-1, one.shape[1])))


def write_twin(root):
    write_tables(root)
    write_calibration(root)
    return root


def counts(instrument, n, visit=0):
    "(time, pixel) uint16; each cell tells its pixel, its read and its visit."
    return (np.arange(INSTRUMENTS[instrument].n_pixels)[None] + 13*np.arange(n)[:, None] + 20_000*visit).astype(np.uint16)


def write_visit(root, split, planet_id, visit, n_airs=12):
    write_calibration(root, split, planet_id, visit)
    for name, n in (('FGS1', 12*n_airs), ('AIRS-CH0', n_airs)):
        write_parquet(signal_path(root, split, planet_id, name, visit), wide(counts(name, n, visit)))
    assert set(MAPS) == set(make_maps((2, 2)))
