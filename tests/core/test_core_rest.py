"""Records, seeds, logs and nouns."""
import io
import logging
import os
import re
import subprocess
import sys
import zlib
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from spectramind.core import logs, nouns
from spectramind.core.determinism import rng_for, set_seed, single_threaded_blas
from spectramind.core.errors import DataError, UsageError
from spectramind.core.provenance import fingerprint_inputs, is_done, read_record, record_path, write_record
from spectramind.core.store import sha256_file, write_json, write_npz, write_text


@pytest.fixture
def product(tmp_path):
    path = write_npz(tmp_path/'planet_1.npz', x=np.arange(3))
    write_record(path, inputs=dict(a='1'), config_hash='c', quality=dict(chi2=np.float64(1.5)), code_version='1', extra=[1])
    return path


def test_record_content(product):
    record = read_record(product)
    assert record_path(product).name == 'planet_1.npz.json' and record['sha256'] == sha256_file(product)
    assert (record['status'], record['inputs'], record['quality'], record['extra']) == ('ok', dict(a='1'), dict(chi2=1.5), [1])
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', record['time_utc']) and is_done(product, dict(a='1'), 'c')


def _touch_bytes(p): p.write_bytes(p.read_bytes()[:-1] + b'\1')
def _remove(p): p.unlink()
def _remove_record(p): record_path(p).unlink()
def _half_record(p): record_path(p).write_bytes(record_path(p).read_bytes()[:40])
def _list_record(p): write_json(record_path(p), [1])
def _failed(p): write_record(p, inputs=dict(a='1'), config_hash='c', status='failed')


@pytest.mark.parametrize('damage', [_touch_bytes, _remove, _remove_record, _half_record, _list_record, _failed], ids=lambda f: f.__name__)
def test_not_done_after(product, damage):
    damage(product)
    assert not is_done(product, dict(a='1'), 'c')


def test_not_done_for_other_inputs_or_settings(product):
    assert not is_done(product, dict(a='2'), 'c') and not is_done(product, dict(a='1', b='1'), 'c') and not is_done(product, {}, 'c')
    assert not is_done(product, dict(a='1'), 'd')


def test_no_record_of_a_product_that_is_not_there(tmp_path):
    with pytest.raises(DataError): write_record(tmp_path/'x.npz', inputs={}, config_hash='c')
    with pytest.raises(UsageError): write_record(tmp_path/'x.npz', inputs={}, config_hash='c', status='done')
    assert list(tmp_path.iterdir()) == []
    write_record(tmp_path/'x.npz', inputs={}, config_hash='c', status='failed', quality=dict(reason='half a visit'))
    assert read_record(tmp_path/'x.npz')['sha256'] is None


def test_inputs(tmp_path):
    path = write_text(tmp_path/'a', 'x')
    assert fingerprint_inputs(dict(a=path), full=True) == dict(a=sha256_file(path))
    assert fingerprint_inputs(dict(a=path))['a'].startswith('quick:1:')


GOLDEN = [0.8285707740273187, 0.11211961508420787, 0.8432232387275479]  # rng_for(2025, 'golden', 7).random(3)


def test_golden_numbers_in_this_process_and_another():
    code = "from spectramind.core.determinism import rng_for; print(rng_for(2025, 'golden', 7).random(3).tolist())"
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=os.environ | dict(PYTHONHASHSEED='77'))
    assert rng_for(2025, 'golden', 7).random(3).tolist() == GOLDEN == eval(other.stdout)
    words = np.random.SeedSequence([2, 2025, 0, 1, zlib.crc32(b'golden'), 6, 2, 7, 0])                # the recipe, spelt out
    assert np.random.default_rng(words).random(3).tolist() == GOLDEN


def test_names_do_not_collide():
    names = [(), (7,), ('7',), (7, 7), ('7', 7), (7, '7'), (77,), ('a', 'b'), ('ab',), ('b', 'a'), (2**32,), (1,), (0,), ('',), (0, 0), (2**63,)]
    firsts = {rng_for(seed, *name).integers(2**62) for seed in (1, 2) for name in names}
    assert len(firsts) == 2*len(names)
    assert rng_for(1, np.int64(7)).random() == rng_for(np.uint8(1), 7).random()


@pytest.mark.parametrize('name', [1.0, -1, 2**64, None, b'a', True, ('a',)], ids=repr)
def test_no_name(name):
    with pytest.raises(UsageError): rng_for(1, name)


def test_set_seed_and_blas():
    from threadpoolctl import threadpool_info
    set_seed(3); a = np.random.random()
    set_seed(3); assert a == np.random.random()
    before = [i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas']
    with single_threaded_blas(): assert {i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas'} <= {1}
    assert before == [i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas']


def test_log_file_rotates_and_is_not_doubled(tmp_path):
    try:
        for _ in range(2): logs.setup_logging(tmp_path, max_bytes=2000, backups=2)
        for k in range(60): logs.get_logger('test').info('line %03d with some length to it', k)
    finally: logs.close_logging()
    files = sorted(p.name for p in (tmp_path/'logs').iterdir())
    assert files == ['spectramind.log', 'spectramind.log.1', 'spectramind.log.2']
    lines = [line for name in files[::-1] for line in (tmp_path/'logs'/name).read_text().splitlines()]
    numbers = [int(re.search(r'line (\d+)', line)[1]) for line in lines]
    assert numbers == list(range(numbers[0], 60)) and all(re.match(r'\S+Z INFO spectramind\.test: ', line) for line in lines)
    assert logging.getLogger('spectramind').handlers == []


def test_progress_lines_silence_and_terminal():
    class Terminal(io.StringIO):
        def isatty(self): return True
    plain, silent, terminal = io.StringIO(), io.StringIO(), Terminal()
    assert list(logs.progress(range(3), 'fit', stream=plain, silent=False)) == [0, 1, 2]
    assert re.fullmatch(r'fit: 3/3 in \d+ s, about 0 s left\n', plain.getvalue())           # one line: the last
    assert list(logs.progress(iter('ab'), 'fit', stream=silent)) == ['a', 'b'] and silent.getvalue() == ''   # pytest is quiet by nature
    with logs.progress(2, 'fit', stream=terminal, silent=False) as bar: bar.advance(2)
    assert 'fit' in terminal.getvalue() and '2/2' in terminal.getvalue()


def test_progress_closes_when_the_loop_breaks():
    out = io.StringIO()
    loop = logs.progress(range(5), 'fit', stream=out, silent=False)
    for k in loop:
        if k == 2: break
    loop.close()
    assert out.getvalue().startswith('fit: 2/5')


def _noun(cls):
    kinds = {'int': 1, 'str': '<b>x</b>', 'dict': dict(a=1), 'tuple': ('physics',)}
    return cls(**{f.name: kinds.get(getattr(f.type, '__name__', f.type), np.zeros((2, 283))) for f in fields(cls)})


@pytest.mark.parametrize('cls', [nouns.Frames, nouns.LightCurves, nouns.DepthPosterior, nouns.Spectra])
def test_nouns(cls):
    noun = _noun(cls)
    assert noun != _noun(cls) and len({noun, noun}) == 1                     # by identity, hashable
    assert len(repr(noun)) < 1500 and 'float64 (2, 283)' in repr(noun)
    assert '<b>x' not in noun._repr_html_() and cls.__name__ in noun._repr_html_()
    with pytest.raises(FrozenInstanceError): setattr(noun, fields(cls)[0].name, None)
