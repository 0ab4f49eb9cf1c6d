"""The crash-safety promise: the old file or the new one, never half, never an orphan that stays; and the same bytes each time."""
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from spectramind.core import store as S
from spectramind.core.errors import DataError, UsageError


def no_space(*_): raise OSError(errno.ENOSPC, 'No space left on device')


WRITERS = dict(text=lambda p, k: S.write_text(p, f'content {k}'), json=lambda p, k: S.write_json(p, dict(k=k)),
               npz=lambda p, k: S.write_npz(p, x=np.full(1000, k)), csv=lambda p, k: S.write_csv_rows(p, ['k'], [[k]]),
               parquet=lambda p, k: S.write_parquet(p, pl.DataFrame(dict(k=[k]))))


@pytest.mark.parametrize('kind', WRITERS)
@pytest.mark.parametrize('broken', ['replace', 'fsync'])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, kind, broken):
    path = tmp_path/'product'
    WRITERS[kind](path, 1)
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, no_space)
        with pytest.raises(OSError, match='No space left'): WRITERS[kind](path, 2)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ['product']
    WRITERS[kind](path, 2)
    assert path.read_bytes() != old and os.listdir(tmp_path) == ['product']


def test_a_first_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'replace', no_space)
    with pytest.raises(OSError): S.write_text(tmp_path/'a'/'b', 'x')
    assert list((tmp_path/'a').iterdir()) == []


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_leaves_the_old_file(tmp_path, error):
    path = S.write_text(tmp_path/'a', 'old')
    with pytest.raises(error):
        with S.atomic_write(path) as temp:
            temp.write_text('half')
            raise error
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a']


def test_order_of_the_four_steps(tmp_path, monkeypatch):
    "Written, synced, renamed, folder synced: in this order, or a power cut can leave an empty file under the true name."
    steps, true_sync, true_replace = [], S._sync, os.replace
    monkeypatch.setattr(S, '_sync', lambda p: (steps.append(('sync', 'folder' if Path(p).is_dir() else Path(p).read_text())), true_sync(p)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (steps.append(('replace', Path(b).name)), true_replace(a, b)))
    S.write_text(tmp_path/'a', 'x')
    assert steps == [('sync', 'x'), ('replace', 'a'), ('sync', 'folder')]


def test_temporary_lies_in_the_same_folder_and_is_unique(tmp_path):
    with S.atomic_write(tmp_path/'a') as one, S.atomic_write(tmp_path/'a') as two:
        assert one.parent == two.parent == tmp_path and one != two and one.name.startswith('.')
        one.write_text('1'), two.write_text('2')
    assert (tmp_path/'a').read_text() == '1'              # the outer block ends last


CHILD = '''
import sys, numpy as np
from spectramind.core.store import write_npz
k = 0
while True:
    write_npz(sys.argv[1], x=np.full(300_000, k))
    k += 1
    if k == 3: print('going', flush=True)
'''


def test_kill_9_never_leaves_half_a_file(tmp_path):
    path = tmp_path/'product.npz'
    for delay in (0.0, 0.013, 0.031):
        child = subprocess.Popen([sys.executable, '-c', CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout.readline() == 'going\n'
            time.sleep(delay)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
        x = S.read_npz(path)['x']
        assert x.shape == (300_000,) and (x == x[0]).all()
        orphans = [p for p in tmp_path.iterdir() if p != path]
        assert S.sweep_temporaries(tmp_path) == orphans and os.listdir(tmp_path) == ['product.npz']


def test_sweep_spares_the_living_strangers_and_other_files(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    def temp(host, pid): return tmp_path/f'.a.b.npz.{host}.{pid}.0123abcd.tmp'
    gone = temp(S._host(), dead.pid)
    kept = [temp(S._host(), os.getpid()), temp(S._host(), 1), temp('elsewhere', dead.pid), tmp_path/'.swp.tmp', tmp_path/'a.tmp', tmp_path/'data.npz']
    for path in (gone, *kept): path.touch()
    assert S.sweep_temporaries(tmp_path) == [gone]
    assert sorted(tmp_path.iterdir()) == sorted(kept) and S.sweep_temporaries(tmp_path/'nowhere') == []


ARRAYS = st.dictionaries(st.from_regex(r'[a-z_]{1,8}', fullmatch=True).filter(lambda n: n not in ('path', 'compress')),
                         hnp.arrays(st.sampled_from([np.float64, np.float32, np.int64, np.uint16, np.bool_, '<U3']), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
                         max_size=4)


@settings(deadline=None, max_examples=40)
@given(ARRAYS, st.booleans())
def test_npz_round_trip_and_same_bytes(tmp_path_factory, arrays, compress):
    folder = tmp_path_factory.mktemp('npz')
    one = S.write_npz(folder/'1.npz', compress=compress, **arrays)
    two = S.write_npz(folder/'2.npz', compress=compress, **dict(reversed(arrays.items())))
    assert one.read_bytes() == two.read_bytes()
    back = S.read_npz(one)
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)
    with np.load(one, allow_pickle=False) as other: assert sorted(other.files) == sorted(arrays)     # any numpy can open it


def test_npz_golden_bytes(tmp_path):
    path = S.write_npz(tmp_path/'a.npz', x=np.arange(5), y=np.zeros((), bool))
    assert S.sha256_file(path) == 'c06dac15142f47e3040bc3bf0db905f2bcad896d3eb817f5dd1deea711d7b85d'


def test_npz_ignores_memory_order(tmp_path):
    x = np.arange(6.).reshape(2, 3)
    assert S.write_npz(tmp_path/'a', x=x).read_bytes() == S.write_npz(tmp_path/'b', x=np.asfortranarray(x)).read_bytes()


def test_npz_refuses_objects_and_pickles(tmp_path):
    with pytest.raises(UsageError, match='objects'): S.write_npz(tmp_path/'a.npz', x=np.array([None]))
    assert not (tmp_path/'a.npz').exists()
    np.savez(tmp_path/'b.npz', x=np.array([None]))
    with pytest.raises(DataError, match='pickle'): S.read_npz(tmp_path/'b.npz')


def test_npz_flipped_and_cut_anywhere(tmp_path):
    "A single flipped bit is either harmless (padding, time stamps) or refused; never other numbers."
    x = np.random.default_rng(0).normal(size=40)
    raw = S.write_npz(tmp_path/'a.npz', x=x).read_bytes()
    path, refused = tmp_path/'b.npz', 0
    for i in range(0, len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ (1 << i % 8)]) + raw[i + 1:])
        try: back = S.read_npz(path, 'x')
        except DataError: refused += 1
        else: assert np.array_equal(back['x'], x)
    assert refused > 0.6*len(raw)
    for n in range(0, len(raw), 7):
        path.write_bytes(raw[:n])
        with pytest.raises(DataError): S.read_npz(path)


def test_npz_says_what_it_has(tmp_path):
    path = S.write_npz(tmp_path/'a.npz', mean=np.zeros(2))
    with pytest.raises(DataError, match='arrays mean, wanted also cov') as caught: S.read_npz(path, 'mean', 'cov')
    assert caught.value.path == str(path) and caught.value.exit_code == 3
    with zipfile.ZipFile(tmp_path/'c.npz', 'w') as archive: archive.writestr('x.npy', b'no array')
    with pytest.raises(DataError): S.read_npz(tmp_path/'c.npz')


JSON = st.recursive(st.none() | st.booleans() | st.integers(-2**60, 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8)


@settings(deadline=None, max_examples=60)
@given(JSON)
def test_json_round_trip(tmp_path_factory, obj):
    path = S.write_json(tmp_path_factory.mktemp('json')/'a.json', obj)
    back = S.read_json(path)
    assert back == obj and S.json_text(back) == S.json_text(obj)


@pytest.mark.parametrize('obj, where', [(dict(a=[1, float('nan')]), r'\$\.a\[1\]'), (dict(b=np.array([np.inf])), r'\$\.b\[0\]'), (dict(c=object()), r'\$\.c'),
                                        ({(1, 2): 3}, r'\$'), ({1: 'a', '1': 'b'}, 'spelt alike'), ([{1}], r'\$\[0\]')], ids=['nan', 'inf', 'object', 'tuple', 'alike', 'set'])
def test_json_refuses(tmp_path, obj, where):
    with pytest.raises(UsageError, match=where): S.write_json(tmp_path/'a.json', obj)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('text', ['', '{"a": 1', '{"a": NaN}', '[Infinity]', 'null null', '\udcff', '['*100_000], ids=lambda t: repr(t[:12]))
def test_json_damaged(tmp_path, text):
    (tmp_path/'a.json').write_bytes(text.encode('utf-8', 'surrogateescape'))
    with pytest.raises(DataError, match='a.json'): S.read_json(tmp_path/'a.json')


def test_json_hash_is_of_the_content():
    assert S.sha256_json(dict(b=1, a=np.float64(0.5))) == hashlib.sha256(b'{"a":0.5,"b":1}').hexdigest()
    assert S.sha256_json(dict(a=1)) != S.sha256_json(dict(a=1.0))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**40), st.floats(allow_nan=False), st.text(alphabet='a,"\n ;é', min_size=1, max_size=5)), min_size=1, max_size=4))
def test_csv_round_trip_to_the_last_bit(tmp_path_factory, rows):
    path = S.write_csv_rows(tmp_path_factory.mktemp('csv')/'a.csv', ['planet_id', 'depth', 'note'], rows)
    header, back = S.read_csv_rows(path)
    assert header == ['planet_id', 'depth', 'note'] and [(int(a), float(b), c) for a, b, c in back] == [tuple(row) for row in rows]


def test_csv_refuses(tmp_path):
    with pytest.raises(UsageError, match='row 1'): S.write_csv_rows(tmp_path/'a.csv', ['a'], [[1], [1, 2]])
    (tmp_path/'b.csv').write_text('a,b\n1,2\n3\n')
    with pytest.raises(DataError, match='1 values in row 2, wanted 2'): S.read_csv_rows(tmp_path/'b.csv')
    (tmp_path/'c.csv').write_bytes(b'PAR1\xff\xfe\x00')
    with pytest.raises(DataError, match='no CSV text'): S.read_csv_rows(tmp_path/'c.csv')
    (tmp_path/'d.csv').write_bytes('\ufeffa\r\n1\r\n\r\n'.encode())
    assert S.read_csv_rows(tmp_path/'d.csv') == (['a'], [['1']])


@pytest.mark.parametrize('reader', [S.read_json, S.read_npz, S.read_csv_rows, S.read_parquet, S.parquet_schema, S.parquet_rows, S.sha256_file, S.fingerprint_file],
                         ids=lambda f: f.__name__)
def test_no_file_and_a_folder(tmp_path, reader):
    with pytest.raises(DataError, match='no file'): reader(tmp_path/'nowhere')
    with pytest.raises(DataError, match='a folder'): reader(tmp_path)


def test_parquet_in_a_folder_with_a_pattern_in_its_name(tmp_path):
    path = S.write_parquet(tmp_path/'run[1]*'/'visit=0'/'a?.parquet', pl.DataFrame(dict(x=[1, 2])))
    assert S.read_parquet(path).columns == ['x'] and S.parquet_rows(path) == 2
    with pytest.raises(DataError, match='columns x, wanted also y'): S.read_parquet(path, ['x', 'y'])


def test_fingerprint_notices_both_ends_and_the_clock(tmp_path):
    path = tmp_path/'big'
    path.write_bytes(b'a'*5000)
    os.utime(path, ns=(0, 10**18))
    seen = {S.fingerprint_file(path, block=100)}
    for change in (b'b' + b'a'*4999, b'a'*4999 + b'b', b'a'*5001):
        path.write_bytes(change)
        os.utime(path, ns=(0, 10**18))
        seen.add(S.fingerprint_file(path, block=100))
    os.utime(path, ns=(0, 10**18 + 1))
    seen.add(S.fingerprint_file(path, block=100))
    assert len(seen) == 5
    assert S.sha256_file(path) == hashlib.sha256(b'a'*5001).hexdigest()
