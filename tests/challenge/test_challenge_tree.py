"""Signals, visits and bad input on a small tree whose every cell can be predicted."""
import os
import shutil
import time

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from challenge_twin import STARS, axis_table, counts, make_maps, star_row, wide, write_tables, write_visit
from hypothesis import given, settings, strategies as st

from spectramind.challenge import wide_parquet
from spectramind.challenge.folds import assert_no_leakage, group_kfold, read_folds, split_fold, write_folds
from spectramind.challenge.layout import (INSTRUMENTS, MAPS, Challenge, calibration_path, iter_signal_blocks, read_axes, read_calibration, read_signal,
                                          scan_planets, signal_path)
from spectramind.challenge.planets import read_labels, read_sample_submission, read_stars, read_wavelengths
from spectramind.challenge.wavelength import bin_wavelengths, flip_columns
from spectramind.core.errors import DataError, QualityGateError, UsageError
from spectramind.core.nouns import bin_columns
from spectramind.core.store import write_csv_rows, write_json, write_parquet


@pytest.fixture(scope='module')
def master(tmp_path_factory):
    root = write_tables(tmp_path_factory.mktemp('tree'))
    write_visit(root, 'train', 34983, 0)
    write_visit(root, 'train', 34983, 1)
    write_visit(root, 'test', 1103775, 0)
    return root


@pytest.fixture
def tree(master, tmp_path):
    "A copy to damage: hard links, so that it costs nothing; writers replace files and never write into them."
    shutil.copytree(master, tmp_path/'tree', copy_function=os.link)
    return Challenge(tmp_path/'tree')


def test_signals(tree):
    for visit in tree.visits('train', '34983.0'):
        for name, one in INSTRUMENTS.items():
            want = counts(name, tree.axes.n_frames(name), visit).T
            got = tree.signal('train', 34983, name, visit)
            assert got.dtype == np.uint16 and got.flags.c_contiguous and np.array_equal(got, want)
            some = np.random.default_rng(0).permutation(one.n_pixels)[:200]
            assert np.array_equal(tree.signal('train', 34983, name, visit, columns=some), want[some])
            whole, seen = np.zeros_like(want), 0
            for rows, block in tree.signal_blocks('train', 34983, name, visit, block_bytes=100_000):
                assert block.flags.c_contiguous and block.nbytes <= 100_000 and rows.start == seen
                whole[rows], seen = block, rows.stop
            assert np.array_equal(whole, want)


def test_marked_column_arrives_in_its_bin(tree):
    raw = tree.signal('train', 34983, 'AIRS-CH0', 0).reshape(32, 356, -1)
    marked = np.where(np.arange(356)[None, :, None] == 100, 60_000, raw)
    turned = flip_columns(marked[..., 0])
    column = int(turned[5].argmax())
    assert column == 320 - 100 and np.isclose(tree.wavelengths[1 + column], tree.axes.airs_um[100], rtol=0, atol=1e-12)
    assert np.array_equal(flip_columns(marked, axis=1)[..., 3], flip_columns(marked[..., 3]))
    assert np.array_equal(INSTRUMENTS['AIRS-CH0'].pixels().reshape(32, 282)[:, ::-1], flip_columns(np.arange(11392).reshape(32, 356)))


@pytest.mark.parametrize('writer', ['groups', 'snappy', 'gzip', 'plain', 'nullable', 'reversed', 'v2'])
def test_other_writers(tree, writer):
    path = signal_path(tree.root, 'train', 34983, 'FGS1', 0)
    table = pq.read_table(path)
    path.unlink()
    options = dict(groups=dict(row_group_size=37), snappy=dict(compression='snappy'), gzip=dict(compression='gzip'),
                   plain=dict(use_dictionary=False, compression='none'), nullable={}, reversed={}, v2=dict(data_page_version='2.0', version='2.6'))[writer]
    if writer == 'reversed': table = table.select(table.column_names[::-1])
    if writer == 'nullable': table = table.cast(pa.schema([pa.field(f.name, f.type, nullable=False) for f in table.schema]))
    pq.write_table(table, path, **options)
    assert np.array_equal(tree.signal('train', 34983, 'FGS1', 0), counts('FGS1', 144).T)


def cut(path, keep): data = path.read_bytes(); path.unlink(); path.write_bytes(data[:keep] if keep >= 0 else data[:keep])
def as_table(change): return lambda path: write_parquet(path, change(pl.read_parquet(path)))


def with_null(t): return t.with_columns(pl.Series('column_7', [None] + [1]*(t.height - 1), dtype=pl.UInt16))


DAMAGE = {'missing': (lambda p: p.unlink(), 'no file'),
          'empty': (lambda p: cut(p, 0), 'an empty file'),
          'truncated': (lambda p: cut(p, -1000), 'damaged or truncated'),
          'beginning only': (lambda p: cut(p, 4), 'damaged or truncated'),
          'not parquet': (lambda p: (p.unlink(), p.write_text('planet_id,wl_1\n')), 'damaged or truncated'),
          'folder': (lambda p: (p.unlink(), p.mkdir()), 'a folder'),
          'rows': (as_table(lambda t: t.head(143)), '143 rows, wanted 144 rows'),
          'no rows': (as_table(lambda t: t.head(0)), '0 rows, wanted 144 rows'),
          'columns': (as_table(lambda t: t.select(t.columns[:-1])), '1023 columns .*wanted 1024 columns'),
          'names': (as_table(lambda t: t.rename({f'column_{i}': str(i) for i in range(1024)})), r'columns named 0, 1, 2, \.\.\., 1023, wanted column_0 to column_1023'),
          'one column': (lambda p: write_parquet(p, pl.DataFrame({'0': np.zeros(144*1024, np.uint16)})), r'1 columns \(0\), wanted 1024 columns'),
          'float': (as_table(lambda t: t.cast(pl.Float64)), 'Float64 in 1024 columns .*wanted uint16'),
          'signed': (as_table(lambda t: t.with_columns(pl.col('column_9').cast(pl.Int32))), r'Int32 in 1 columns \(column_9\)'),
          'null': (as_table(with_null), '1 empty cells in column_7')}


@pytest.mark.parametrize('damage', DAMAGE)
def test_damaged_signal(tree, damage):
    path = signal_path(tree.root, 'train', 34983, 'FGS1', 0)
    act, message = DAMAGE[damage]
    act(path)
    for read in (lambda: tree.signal('train', 34983, 'FGS1', 0), lambda: list(tree.signal_blocks('train', 34983, 'FGS1', 0))):
        with pytest.raises(DataError, match=message) as caught: read()
        assert caught.value.path == str(path) and caught.value.exit_code == 3
    assert tree.signal('train', 34983, 'FGS1', 1).shape == (1024, 144)        # the other visit is as it was


def test_signal_of_another_tree(tree):
    write_parquet(tree.root/'axis_info.parquet', axis_table(14))
    with pytest.raises(DataError, match='144 rows, wanted 168 rows'): tree.signal('train', 34983, 'FGS1', 0)


@pytest.mark.parametrize('columns', [[-1], [1024], [3, 3], [1.0], [[1]], [True]], ids=str)
def test_wrong_pixels(tree, columns):
    with pytest.raises(UsageError, match='columns: found'): tree.signal('train', 34983, 'FGS1', 0, columns=np.array(columns))


def test_flipped_bits_never_crash_or_change_the_shape(tmp_path):
    "Bytes of the data pages and the footer, flipped one at a time (the page headers are left out: there the reader may ask for 2 EB and die)."
    x = np.arange(60*8, dtype=np.uint16).reshape(60, 8)
    path = write_parquet(tmp_path/'a.parquet', wide(x), compression='uncompressed')
    raw, refused = path.read_bytes(), 0
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], 'little')
    for i in list(range(footer, len(raw), 5)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 16]) + raw[i + 1:])
        try: assert wide_parquet.read_columns(path, 60, 8).shape == (8, 60)
        except DataError: refused += 1
    assert refused > 10


@pytest.mark.parametrize('what', MAPS)
@pytest.mark.parametrize('damage', ['missing', 'rows', 'columns', 'type', 'cut'])
def test_damaged_maps(tree, what, damage):
    path = calibration_path(tree.root, 'train', 34983, 'FGS1', 0, what)
    table = pl.read_parquet(path)
    if damage == 'missing': path.unlink()
    if damage == 'cut': cut(path, -100)
    if damage == 'rows': write_parquet(path, table.head(31))
    if damage == 'columns': write_parquet(path, table.select(table.columns[1:]))
    if damage == 'type': write_parquet(path, table.cast(pl.Float64 if what == 'dead' else pl.String))
    with pytest.raises(DataError) as caught: tree.calibration('train', 34983, 'FGS1', 0)
    assert caught.value.path == str(path)


@pytest.mark.parametrize('what', ['dark', 'flat', 'read', 'linear_corr'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_nan_in_maps(tree, what, value):
    path = calibration_path(tree.root, 'train', 34983, 'AIRS-CH0', 0, what)
    values = make_maps((32, 356))[what]
    values[..., 5, 77] = value
    write_parquet(path, wide(values.reshape(-1, 356)))
    with pytest.raises(DataError, match=r'NaN or infinite, the first at \((0, )?5, 77\)') as caught: tree.calibration('train', 34983, 'AIRS-CH0', 0)
    assert caught.value.path == str(path)
    kept = getattr(read_calibration(tree.root, 'train', 34983, 'AIRS-CH0', 0, allow_nan=True), what)
    np.testing.assert_array_equal(kept, values)


def test_float32_maps_are_taken(tree):
    path = calibration_path(tree.root, 'train', 34983, 'FGS1', 0, 'dark')
    write_parquet(path, pl.read_parquet(path).cast(pl.Float32))
    dark = tree.calibration('train', 34983, 'FGS1', 0).dark
    assert dark.dtype == np.float64 and np.allclose(dark, make_maps((32, 32))['dark'], rtol=1e-6, atol=0)


def test_planets_visits_and_strange_neighbours(tree):
    for name in ('notes', '007', '1e5', '34983.0', '.cache'): (tree.root/'train'/name).mkdir()
    (tree.root/'train'/'99').write_text('a file')
    assert scan_planets(tree.root, 'train') == ([34983], ['.cache', '007', '1e5', '34983.0', 'notes']) and tree.planets('train') == [34983]
    (tree.root/'train'/'34983'/'README').write_text('hello')
    assert tree.visits('train', 34983) == [0, 1] and tree.visits('test', 1103775.0) == [0]


PARTS = [f'{name}_signal_1.parquet' for name in INSTRUMENTS] + [f'{name}_calibration_1/{what}.parquet' for name in INSTRUMENTS for what in MAPS]


@pytest.mark.parametrize('part', PARTS)
def test_half_a_visit(tree, part):
    (tree.root/'train'/'34983'/part).unlink()
    with pytest.raises(DataError, match=f'half of visit 1: {part} missing'): tree.visits('train', 34983)


def test_several_planets_the_others_go_on(tree):
    write_visit(tree.root, 'train', 7, 0)
    (tree.root/'train'/'8').mkdir()
    cut(signal_path(tree.root, 'train', 7, 'AIRS-CH0', 0), -50)
    good, bad = [], {}
    for planet_id in tree.planets('train'):
        try:
            for visit in tree.visits('train', planet_id): tree.signal('train', planet_id, 'AIRS-CH0', visit)
            good.append(planet_id)
        except DataError as error: bad[planet_id] = error.found
    assert good == [34983] and list(bad) == [7, 8] and 'truncated' in bad[7] and bad[8] == 'no visit'


@pytest.mark.parametrize('planet_id, error', [('nobody', UsageError), ('../test/1103775', UsageError), ('/etc', UsageError), (-5, UsageError), (1.5, UsageError),
                                              (None, UsageError), (424242, DataError), ('424242.0', DataError)], ids=repr)
def test_unknown_ids(tree, planet_id, error):
    with pytest.raises(error, match='planet'): tree.visits('train', planet_id)
    with pytest.raises(error): tree.signal('train', planet_id, 'FGS1', 0)
    with pytest.raises(error): tree.calibration('train', planet_id, 'FGS1', 0)
    with pytest.raises(error): tree.star(planet_id)


@pytest.mark.parametrize('arguments', [('valid', 34983, 'FGS1', 0), ('..', 34983, 'FGS1', 0), ('train', 34983, 'FGS2', 0), ('train', 34983, 'FGS1', '0'),
                                       ('train', 34983, 'FGS1', -1), ('train', 34983, 'FGS1', True)], ids=str)
def test_wrong_arguments(tree, arguments):
    with pytest.raises(UsageError): tree.signal(*arguments)
    with pytest.raises(UsageError): signal_path(tree.root, *arguments)
    with pytest.raises(UsageError): calibration_path(tree.root, *arguments)


def test_links_out_of_the_root(tree, tmp_path):
    outside = tmp_path/'outside'
    shutil.move(tree.root/'train'/'34983', outside)
    (tree.root/'train'/'34983').symlink_to(outside)
    for read in (lambda: tree.visits('train', 34983), lambda: tree.signal('train', 34983, 'FGS1', 0), lambda: tree.calibration('train', 34983, 'FGS1', 0)):
        with pytest.raises(UsageError, match='leads outside'): read()
    path = signal_path(tree.root, 'test', 1103775, 'FGS1', 0)
    path.unlink()
    path.symlink_to(outside/'FGS1_signal_0.parquet')
    with pytest.raises(DataError, match='a link out of the tree'): tree.visits('test', 1103775)     # one visit's trouble, not the tree's
    (tree.root/'adc_info.csv').unlink()
    (tree.root/'adc_info.csv').symlink_to('/etc/hostname')
    with pytest.raises(UsageError, match='leads outside'): Challenge(tree.root).adc
    (tmp_path/'alias').symlink_to(tree.root)                     # the root itself may be a link
    assert Challenge(tmp_path/'alias').root == tree.root


def test_root_with_a_pattern_in_its_name(master, tmp_path):
    root = tmp_path/'data=[1]*?'
    shutil.copytree(master, root, copy_function=os.link)
    assert np.array_equal(Challenge(root).signal('train', 34983, 'AIRS-CH0', 0), counts('AIRS-CH0', 12).T)
    with pytest.raises(DataError, match='the root of a challenge tree'): Challenge(tmp_path/'nowhere')


def _axis(**change): return lambda t: t.with_columns(**change)


AXES = {'column': (lambda t: t.drop('FGS1-axis0-h'), 'wanted also FGS1-axis0-h'),
        'type': (_axis(**{'FGS1-axis0-h': pl.col('FGS1-axis0-h').cast(pl.String)}), 'String in FGS1-axis0-h'),
        'gap': (_axis(**{'FGS1-axis0-h': pl.Series([0.0, None] + [0.1]*354)}), 'a gap in FGS1-axis0-h'),
        'nan': (_axis(**{'FGS1-axis0-h': pl.Series([0.0, np.nan] + [None]*354)}), 'NaN'),
        'nothing': (_axis(**{'FGS1-axis0-h': pl.Series([None]*356, dtype=pl.Float64)}), 'no values'),
        'order': (_axis(**{'AIRS-CH0-axis0-h': pl.col('AIRS-CH0-axis0-h')*-1}), 'do not ascend'),
        'odd': (_axis(**{'FGS1-axis0-h': pl.Series(list(np.arange(143.0)) + [None]*213)}), '143 FGS1 reads, wanted an even number'),
        'integration': (_axis(**{'AIRS-CH0-integration_time': pl.Series(list(np.arange(1.0, 13)) + [None]*344)}), 'do not alternate'),
        'too few': (_axis(**{'AIRS-CH0-integration_time': pl.Series([0.1, 4.5] + [None]*354)}), '2 integration times, wanted 12'),
        'mirrored': (_axis(**{'AIRS-CH0-axis2-um': pl.col('AIRS-CH0-axis2-um').reverse()}), 'descending')}


@pytest.mark.parametrize('case', AXES)
def test_wrong_axes(tmp_path, case):
    change, message = AXES[case]
    path = write_parquet(tmp_path/'axis_info.parquet', change(axis_table()))
    with pytest.raises(DataError, match=message) as caught: read_axes(tmp_path)
    assert caught.value.path == str(path)


TABLES = {'stars: column': ('train_star_info.csv', STARS[:-1], [], lambda r: read_stars(r), 'missing i'),
          'stars: twice': ('train_star_info.csv', [*STARS, 'P'], [], lambda r: read_stars(r), 'each once'),
          'stars: text': ('train_star_info.csv', STARS, [[5, 'x', *[1]*7]], lambda r: read_stars(r), "'x' in row 1, column Rs"),
          'stars: nan': ('train_star_info.csv', STARS, [[5, *[1]*7, 'nan']], lambda r: read_stars(r), "'nan' in row 1, column i"),
          'stars: radius': ('train_star_info.csv', STARS, [[5, 0, *[1]*7]], lambda r: read_stars(r), 'rs = 0.0 for planet 5'),
          'stars: id': ('test_star_info.csv', STARS, [['../5', *[1]*8]], lambda r: read_stars(r, 'test'), "planet_id '../5' in row 1"),
          'stars: id twice': ('train_star_info.csv', STARS, [[5, *[1]*8], ['5.0', *[1]*8]], lambda r: read_stars(r), 'planet 5 twice'),
          'labels: column': ('train.csv', ['planet_id', *bin_columns()[:-1]], [], read_labels, 'missing wl_283'),
          'labels: cell': ('train.csv', ['planet_id', *bin_columns()], [[5, *[0.01]*282, '']], read_labels, "'' in row 1, column wl_283"),
          'sample: column': ('sample_submission.csv', ['planet_id', *bin_columns()], [], read_sample_submission, 'missing sigma_1'),
          'wavelengths: rows': ('wavelengths.csv', bin_columns(), [], read_wavelengths, '0 rows of 283 columns'),
          'wavelengths: order': ('wavelengths.csv', bin_columns(), [[*range(283, 0, -1)]], read_wavelengths, 'do not ascend')}


@pytest.mark.parametrize('case', TABLES)
def test_wrong_tables(tmp_path, case):
    name, header, rows, read, message = TABLES[case]
    write_csv_rows(tmp_path/name, header, rows)
    with pytest.raises(DataError, match=message) as caught: read(tmp_path)
    assert caught.value.path == str(tmp_path/name)
    (tmp_path/name).write_bytes(b'')
    with pytest.raises(DataError, match='an empty file'): read(tmp_path)
    (tmp_path/name).unlink()
    with pytest.raises(DataError, match='no file'): read(tmp_path)


def test_labels_and_columns_in_any_order(tmp_path):
    rng = np.random.default_rng(2)
    depths = rng.lognormal(-4.3, 0.5, (3, 283))
    header, ids = ['note', *bin_columns()[::-1], 'planet_id'], [5, '9.0', 7]
    write_csv_rows(tmp_path/'train.csv', header, [['x', *row[::-1], i] for i, row in zip(ids, depths)])
    got_ids, got = read_labels(tmp_path)
    assert got_ids.tolist() == [5, 9, 7] and got_ids.dtype == np.int64 and np.array_equal(got, depths)
    row = star_row(rng, '12.0')
    write_csv_rows(tmp_path/'train_star_info.csv', STARS[::-1], [row[::-1]])
    star = read_stars(tmp_path)[12]
    assert [star.rs, star.ms, star.ts_k, star.mp, star.e, star.period_d, star.a_rs, star.inc_deg] == row[1:]


@pytest.mark.parametrize('document', [{'FGS1': 25}, {'FGS1': 25, 'AIRS-CH0': 0}, {'FGS1': True, 'AIRS-CH0': 1}, {'FGS1': 1.0, 'AIRS-CH0': 1}, 7, []], ids=str)
def test_coadds(tree, document):
    write_json(tree.root/'coadds.json', document)
    with pytest.raises(DataError, match='coadds.json'): Challenge(tree.root).coadds
    write_json(tree.root/'coadds.json', {'FGS1': 25, 'AIRS-CH0': 20})
    assert Challenge(tree.root).coadds == {'FGS1': 25, 'AIRS-CH0': 20}


@pytest.mark.parametrize('axis', [np.zeros(356), np.linspace(4, 1, 282), np.full(356, np.nan), np.linspace(1, 4, 356)], ids=['flat', 'short', 'nan', 'blue first'])
def test_wrong_wavelength_axis(axis):
    with pytest.raises(UsageError, match='axis_um'): bin_wavelengths(axis)


def test_flip_refuses_too_few_columns():
    for array, axis in ((np.zeros((32, 282)), -1), (np.zeros((356, 32)), 1), (np.zeros(()), -1), (np.zeros(356), 1)):
        with pytest.raises(UsageError, match='flip_columns'): flip_columns(array, axis)


@settings(deadline=None, max_examples=40)
@given(st.sets(st.integers(0, 10**9), min_size=5, max_size=60), st.integers(2, 5), st.integers(0, 100), st.randoms())
def test_folds(tmp_path_factory, ids, n_splits, seed, shuffler):
    visits = [*ids, *list(ids)[:2]]                     # some planets have two visits
    shuffler.shuffle(visits)
    folds = group_kfold(visits, n_splits, seed)
    assert folds == group_kfold(sorted(ids), n_splits, seed) and set(folds) == ids
    sizes = np.bincount(list(folds.values()), minlength=n_splits)
    assert len(sizes) == n_splits and sizes.max() - sizes.min() <= 1
    assert read_folds(write_folds(tmp_path_factory.mktemp('folds')/'groupkfold.json', folds, seed)) == folds
    held_out = [p for k in range(n_splits) for p in split_fold(folds, k)[1]]
    assert sorted(held_out) == sorted(ids)


def test_golden_folds_and_refusals(tmp_path):
    assert group_kfold(range(10), 5) == {0: 2, 1: 0, 2: 2, 3: 1, 4: 0, 5: 3, 6: 4, 7: 3, 8: 1, 9: 4}
    for ids, n in ((range(3), 5), (range(9), 1)):
        with pytest.raises(UsageError, match='n_splits'): group_kfold(ids, n)
    with pytest.raises(QualityGateError, match='1 planets in both sets'): assert_no_leakage([1, 2], ['2.0', 3])
    with pytest.raises(UsageError, match='fold: found 9'): split_fold({1: 0, 2: 1}, 9)
    for wrong in ({}, [], {'n_splits': 2, 'folds': {'1': 0}}, {'n_splits': 2, 'folds': {'x': 0, '2': 1}}, {'n_splits': 2, 'folds': {'1': 0, '1.0': 1}},
                  {'n_splits': 2, 'folds': {'1': None, '2': 1}}):
        write_json(tmp_path/'f.json', wrong)
        with pytest.raises(DataError, match='f.json'): read_folds(tmp_path/'f.json')


def test_memory_of_a_block_is_bounded(tree, monkeypatch):
    "Blocks ask the file for no more columns than fit, and never for the whole."
    asked, axes, true_read = [], tree.axes, wide_parquet.ParquetFile.read
    monkeypatch.setattr(wide_parquet.ParquetFile, 'read', lambda file, names: (asked.append(len(names)), true_read(file, names))[1])
    read_signal(tree.root, 'train', 34983, 'FGS1', 0, axes)
    assert asked == [1024]
    asked.clear()
    for _ in iter_signal_blocks(tree.root, 'train', 34983, 'FGS1', 0, tree.axes, block_bytes=100*144*2): pass
    assert asked == [100]*10 + [24]


def test_reading_ahead_neither_spoils_a_block_nor_hides_an_error(tree, monkeypatch):
    "The block in hand stays as it is while the next one is read; a block may be the last one wanted; an error comes with its own block."
    whole = read_signal(tree.root, 'train', 34983, 'FGS1', 0, tree.axes)
    blocks = iter_signal_blocks(tree.root, 'train', 34983, 'FGS1', 0, tree.axes, block_bytes=100*144*2)
    for rows, block in blocks:
        time.sleep(.01)                        # long enough for the next block to be there
        assert np.array_equal(block, whole[rows])
        if rows.start == 300: break
    blocks.close()
    axes, true_read, calls = tree.axes, wide_parquet.ParquetFile.read, []
    def breaks(file, names):
        calls.append(names[0])
        if len(calls) == 3: raise DataError(file.path, 'a broken page', 'a whole one')
        return true_read(file, names)
    monkeypatch.setattr(wide_parquet.ParquetFile, 'read', breaks)
    seen = []
    with pytest.raises(DataError, match='a broken page'):
        for rows, _ in iter_signal_blocks(tree.root, 'train', 34983, 'FGS1', 0, axes, block_bytes=100*144*2): seen.append(rows.start)
    assert seen == [0, 100] and len(calls) == 3
