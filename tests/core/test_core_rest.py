"""Records, seeds, logs and nouns."""
import io
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import zlib
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from spectramind.core import determinism, logs, nouns, provenance
from spectramind.core.determinism import rng_for, set_determinism, set_seed, single_threaded_blas
from spectramind.core.errors import DataError, UsageError
from spectramind.core.provenance import code_hash, fingerprint_inputs, is_done, list_records, read_record, record_path, standing, write_record
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


# many products

def test_standing_gives_the_verdicts_of_is_done(tmp_path):
    damages = [None, _touch_bytes, _remove, _remove_record, _half_record, _list_record, _failed]
    inputs = {}
    for k, damage in enumerate(damages*11):
        path = write_npz(tmp_path/f'planet_{k}.npz', x=np.arange(k))
        inputs[path.name] = dict(a='1')
        write_record(path, inputs=inputs[path.name], config_hash='c')
        if damage: damage(path)
    inputs['planet_7.npz'], inputs['planet_999.npz'] = dict(a='2'), dict(a='1')       # another input; never made
    for threads in (1, 3): assert standing(tmp_path, inputs, 'c', threads) == {name for name in inputs if is_done(tmp_path/name, inputs[name], 'c')}
    assert len(standing(tmp_path, inputs, 'c')) == 10 and standing(tmp_path, inputs, 'd') == set() == standing(tmp_path/'nowhere', inputs, 'c')
    records = list_records(tmp_path)
    assert list(records) == sorted(records) and records['planet_0.npz'] == read_record(tmp_path/'planet_0.npz') and records['planet_4.npz'] is records['planet_5.npz'] is None
    assert 'planet_3.npz' not in records and list_records(tmp_path/'nowhere') == {}


def test_a_large_product_is_compared_to_its_last_byte(tmp_path):
    path = tmp_path/'planet_1.npz'
    path.write_bytes(bytes((1 << 24) + 1))
    write_record(path, inputs={}, config_hash='c')
    assert standing(tmp_path, {path.name: {}}, 'c') == {path.name}
    with open(path, 'r+b') as stream:
        stream.seek(1 << 24)
        stream.write(b'x')
    assert standing(tmp_path, {path.name: {}}, 'c') == set()


# the hash of the code

def test_code_hash_is_of_code_and_not_of_comments(tmp_path, monkeypatch):
    files = {name: tmp_path/f'{name}.py' for name in ('one.a', 'one.b', 'onerous.a')}
    monkeypatch.setattr(provenance, '_module_files', lambda: files)
    def hashes(**texts):
        for name, path in files.items(): path.write_text(texts.get(name.replace('.', '_'), 'x = 1\n'))
        provenance._text_hash.cache_clear()
        return code_hash.__wrapped__('one'), code_hash.__wrapped__('one.a'), code_hash.__wrapped__('onerous'), code_hash.__wrapped__()
    plain = hashes()
    assert hashes(one_a='# %% cell 7\nx = 1   \n  # a remark\n') == plain and len(set(plain)) == 4
    changed = hashes(one_b='x = 2\n')
    assert [a == b for a, b in zip(plain, changed)] == [False, True, True, False]
    provenance._text_hash.cache_clear()
    for wrong in ('on', '', 'one.c', '../one'):
        with pytest.raises(UsageError, match='code_hash'): code_hash.__wrapped__(wrong)


def test_code_hash_of_this_package_is_the_same_in_another_process():
    code = "from spectramind.core.provenance import code_hash; print(code_hash('detector', 'core.store'))"
    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=os.environ | dict(PYTHONHASHSEED='5'))
    assert other.stdout.strip() == code_hash('core.store', 'detector') != code_hash('detector')


# determinism

def test_levels_set_what_they_say():
    import torch
    try:
        for level in ('strict', 'off', 'standard'):
            report, b = set_determinism(level, 11), torch.backends
            assert {k: report['torch'][k] for k in determinism.LEVELS[level]} == determinism.LEVELS[level]
            assert (b.cudnn.deterministic, b.cudnn.benchmark, b.cuda.matmul.allow_tf32, torch.are_deterministic_algorithms_enabled()) == (level != 'off', False, False, level == 'strict')
            assert report['generators'] == ['random', 'numpy', 'torch'] and report['seed'] == 11 and json.loads(json.dumps(report)) == report
            first = torch.rand(3), np.random.random()
            set_determinism(level, 11)
            assert torch.equal(first[0], torch.rand(3)) and first[1] == np.random.random()
    finally: set_determinism('off', 0)
    with pytest.raises(UsageError, match='off, standard, strict'): set_determinism('on', 1)


def _report(level, more='', **variables):
    code = f"import json; from spectramind.core.determinism import set_determinism; import os, sys; print(json.dumps([set_determinism({level!r}, 7{more}), 'torch' in sys.modules, os.environ.get('PYTHONHASHSEED')]))"
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONHASHSEED', 'CUBLAS_WORKSPACE_CONFIG')} | variables
    return json.loads(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=env).stdout)


def test_what_could_not_be_set_is_told():
    report, torch, salt = _report('strict')
    assert not torch and salt == '7' and report['variables'] == dict(PYTHONHASHSEED='7', CUBLAS_WORKSPACE_CONFIG=':4096:8') and report['torch'] is None
    assert [line.split(':')[0] for line in report['not_set']] == ['torch', 'PYTHONHASHSEED'] and 'started without it' in report['not_set'][1]
    report, _, salt = _report('strict', PYTHONHASHSEED='3', CUBLAS_WORKSPACE_CONFIG=':0:0')
    assert salt == '3' and [line.split(':')[0] for line in report['not_set']] == ['torch', 'CUBLAS_WORKSPACE_CONFIG']
    report, _, salt = _report('standard', PYTHONHASHSEED='random')
    assert salt == '7' and 'CUBLAS_WORKSPACE_CONFIG' not in report['variables'] and len(report['not_set']) == 2
    report, _, salt = _report('off')
    assert salt is None and report['variables'] == {} and [line.split(':')[0] for line in report['not_set']] == ['torch']
    report, torch, _ = _report('standard', ', torch=True', PYTHONHASHSEED='3')
    assert torch and report['not_set'] == [] and report['torch']['cudnn_deterministic']


def test_without_torch_that_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    report = set_determinism('standard', 7, torch=True)
    assert report['torch'] is None and report['generators'] == ['random', 'numpy'] and 'cannot be imported' in report['not_set'][0]


# secrets in the log

@pytest.mark.parametrize('line,shown', [
    ('fit api_key=abc123 x=1', 'fit api_key=*** x=1'), ('MY_TOKEN: "a b c", next', 'MY_TOKEN: ***, next'), ("password='it\\'s'", 'password=***'),
    ('--token abc --fast', '--token *** --fast'), ("['--api-key', 'abc']", "['--api-key', ***]"), ('?a=b&access_key=abc&c=d', '?a=b&access_key=***&c=d'),
    ('https://me:pw@host/x s3://h/y', 'https://***@host/x s3://h/y'), ('Authorization: Basic YWJjOmRlZg==', 'Authorization: ***'), ('sent Bearer abcdefghijklmnop', 'sent Bearer ***'),
    ('ghp_0123456789abcdefXYZ and hf_0123456789abcdefXYZ', '*** and ***'), ('AKIA0123456789ABCD', '***'), ("wandb.secret: found 'abc', wanted none", 'wandb.secret: found ***, wanted none'),
    ('-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----', '***'), ('{"client_secret":"a\\"b"}', '{"client_secret":***}'), ('api_key=*** again', 'api_key=*** again')])
def test_secrets_become_stars(line, shown):
    assert logs.redact(line) == shown and logs.redact(shown) == shown


@pytest.mark.parametrize('line', ['planet 34983: half a visit', 'author=me keyword=x', 'risk-averse-planet-with-a-long-name', 'data=smoke seed=2025', 'a basic information', 'monkey=5 keys: 3', 'https://host/a@b'])
def test_other_words_stay(line): assert logs.redact(line) == line


def test_redaction_is_quick_on_long_lines():
    from time import perf_counter
    began = perf_counter()
    for line in ('x'*100_000, 'token'*20_000, 'a=b '*20_000, '"'*50_000, '-'*50_000): logs.redact(line)
    assert perf_counter() - began < 5


def test_the_log_file_holds_no_secret(tmp_path):
    try:
        logs.setup_logging(tmp_path)
        try: raise RuntimeError('token=abc123')
        except RuntimeError: logs.get_logger('test').exception('with %s', 'password=abc123')
    finally: logs.close_logging()
    text = (tmp_path/'logs'/'spectramind.log').read_text()
    assert 'abc123' not in text and 'RuntimeError: token=***' in text and 'with password=***' in text


# lines from workers

WORKER = """
    import logging, os, time
    from spectramind.core.logs import get_logger
    def tell(k):
        log = get_logger('worker')
        log.debug('not worth it')
        for n in range(20): log.info('unit %d line %02d token=abc123 %s', k, n, 'x'*1500)
        try: 1/0
        except ZeroDivisionError: log.exception('unit %d failed', k)
        return os.getpid()
    def die(k):
        get_logger('worker').warning('unit %d dies', k)
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path/'code').mkdir()
    (tmp_path/'code'/'worker_for_log_test.py').write_text(textwrap.dedent(WORKER))
    monkeypatch.syspath_prepend(str(tmp_path/'code'))
    import worker_for_log_test
    yield worker_for_log_test
    del sys.modules['worker_for_log_test']


def test_lines_of_workers_arrive_whole(tmp_path, worker):
    import concurrent.futures as futures
    from multiprocessing import get_context
    try:
        logs.setup_logging(tmp_path)
        with logs.listen() as queue, futures.ProcessPoolExecutor(2, get_context('spawn'), logs.worker_logging, (queue,)) as pool:
            assert os.getpid() not in list(pool.map(worker.tell, range(6)))
    finally: logs.close_logging()
    text = (tmp_path/'logs'/'spectramind.log').read_text()
    lines = [line for line in text.splitlines() if ' line ' in line]
    assert 'abc123' not in text and 'not worth it' not in text and text.count('ZeroDivisionError: division by zero') == 6 and text.count(' failed\n') == 6
    for k in range(6):
        mine = [line.partition('INFO spectramind.worker: ')[2] for line in lines if f'unit {k} ' in line]
        assert mine == [f'unit {k} line {n:02d} token=*** {"x"*1500}' for n in range(20)]


def test_a_killed_worker_silences_nobody(tmp_path, worker):
    import concurrent.futures as futures
    from multiprocessing import get_context
    try:
        logs.setup_logging(tmp_path)
        with logs.listen() as queue:
            for work in (worker.die, worker.tell):
                with futures.ProcessPoolExecutor(1, get_context('spawn'), logs.worker_logging, (queue,)) as pool:
                    if work is worker.tell: pool.submit(work, 1).result()
                    else:
                        with pytest.raises(futures.process.BrokenProcessPool): pool.submit(work, 0).result()
    finally: logs.close_logging()
    text = (tmp_path/'logs'/'spectramind.log').read_text()
    assert 'WARNING spectramind.worker: unit 0 dies' in text and text.count('unit 1 line') == 20


def test_half_a_line_is_dropped():
    "A worker died between two pieces, and another got its process id."
    pipe = logs.LogPipe()
    try:
        pipe._writer.send_bytes(b'77 0 0 {"msg": "half of')
        pipe._writer.send_bytes(b'77 456 1  another"')                                # a stray end
        pipe._writer.send_bytes(b'77 0 0 {"msg": "ha')
        pipe._writer.send_bytes(b'77 0 1 {"name": "spectramind.x", "msg": "whole"}')
        pipe.put_nowait(None)
        first, last = pipe.get(), pipe.get()
        assert (first.getMessage(), last) == ('whole', None)
    finally: pipe.close()


def test_nobody_listens_any_more(tmp_path, capsys):
    pipe = logs.LogPipe()
    logger = logs.get_logger()
    logs.worker_logging(pipe)
    try:
        pipe.close()
        logger.info('into the void')
        assert capsys.readouterr().err == ''
    finally: logs.close_logging()
