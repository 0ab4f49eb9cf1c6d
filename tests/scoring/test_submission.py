"Submissions: lossless in every layout, refused with row and column, proof against hostile files."
import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from spectramind.challenge.planets import SampleSubmission, read_sample_submission
from spectramind.core.errors import DataError, SchemaError, UsageError
from spectramind.core.nouns import Spectra
from spectramind.core.paths import resource_dir
from spectramind.scoring.layouts import LAYOUTS, columns_of, detect_layout, parse_csv, table_schema
from spectramind.scoring.submission import (MANIFEST, check_document, clamp, complete, read_submission, validate_submission, write_package,
                                            write_submission)

N = 283


def spectra(n=3, seed=0):
    rng = np.random.default_rng(seed)
    return Spectra(np.arange(n)*11 + 1103775, rng.uniform(0, 0.03, (n, N)), rng.uniform(1e-5, 1e-3, (n, N)), ('physics',)*n)


def rows_of(s, layout='kaggle'):
    return [columns_of(layout)] + [[str(i), *map(repr, m), *map(repr, g)] for i, m, g in zip(s.planet_id.tolist(), s.mu.tolist(), s.sigma.tolist())]


def put(path, rows, join=','):
    path.write_text('\n'.join(join.join(row) for row in rows) + '\n', encoding='utf-8')
    return path


value = st.floats(0, 1.7e308, allow_nan=False) | st.floats(0, 1e-300) | st.floats(0, 0.1)


@settings(max_examples=8, deadline=None)
@given(arrays(float, (2, N), elements=value, fill=st.just(0.)), arrays(float, (2, N), elements=st.floats(1e-5, 1.7e308), fill=st.just(1e-5)), st.sampled_from(LAYOUTS), st.sampled_from(['csv', 'json', 'zip']))
def test_round_trip_is_lossless(tmp_path_factory, mu, sigma, layout, ending):
    path = tmp_path_factory.mktemp('s')/f's.{ending}'
    write_submission(path, Spectra(np.array([7, 3]), mu, sigma, ('physics', 'prior')), layout)
    back, found = validate_submission(path, [3, 7])
    assert found == ('sample_id' if ending == 'json' else layout) and back.planet_id.tolist() == [7, 3]
    assert back.mu.tobytes() == (mu + 0.).tobytes() and back.sigma.tobytes() == sigma.tobytes()


def test_other_readers_get_the_same_bits(tmp_path):
    s = spectra()
    write_submission(tmp_path/'s.csv', s, 'kaggle')
    frame = pd.read_csv(tmp_path/'s.csv')
    assert frame.columns.tolist() == columns_of('kaggle') and np.array_equal(frame.to_numpy()[:, 1:], np.hstack([s.mu, s.sigma]))


def test_writer_clamps_and_counts(tmp_path):
    s = spectra()
    mu, sigma = s.mu.copy(), s.sigma.copy()
    mu[0, :4], mu[1, 0], sigma[2, 0], sigma[2, 1:3] = (-1e-12, -3., -0.0, 0.), -1., 1e-7, 1e-6
    clamped, counts = clamp(Spectra(s.planet_id, mu, sigma))
    assert counts == dict(mu_clamped=3, sigma_floored_fgs1=1, sigma_floored_airs=2)
    assert clamped.mu.min() == 0 and not np.signbit(clamped.mu).any() and clamped.sigma[2, :4].tolist() == [1e-6, 1e-5, 1e-5, sigma[2, 3]]
    assert mu.min() == -3 and sigma.min() == 1e-7
    facts = write_submission(tmp_path/'s.csv', Spectra(s.planet_id, mu, sigma), sigma_floor=(2e-6, 1e-4))
    assert facts['mu_clamped'] == 3 and facts['sigma_floor'] == [2e-6, 1e-4]
    back, _ = validate_submission(tmp_path/'s.csv')
    assert back.sigma[:, 1:].min() == 1e-4 and back.sigma[:, 0].min() == 2e-6
    for floor in ((0, 1e-5), (1e-6,), (np.nan, 1e-5)):
        with pytest.raises(UsageError, match='sigma_floor'): clamp(s, floor)


@pytest.mark.parametrize('spoil', [np.nan, np.inf, -np.inf])
def test_writer_refuses_what_is_no_number(tmp_path, spoil):
    s = spectra()
    s.mu[1, 9] = spoil
    with pytest.raises(SchemaError, match='planet 1103786 in bin 9'): write_submission(tmp_path/'s.csv', s)
    assert not any(tmp_path.iterdir())


def test_kaggle_layout_follows_the_sample(tmp_path):
    s = spectra(4)
    ids = s.planet_id.tolist()
    for tail in ('', '.0'):
        put(tmp_path/'sample_submission.csv', [columns_of('kaggle')] + [[f'{i}{tail}'] + ['0.456']*(2*N) for i in (ids[2], ids[0], ids[1])])
        write_submission(tmp_path/'s.csv', s, 'kaggle', tmp_path/'sample_submission.csv')
        lines = (tmp_path/'s.csv').read_text().splitlines()
        assert lines[0] == (tmp_path/'sample_submission.csv').read_text().splitlines()[0]
        assert [line.split(',')[0] for line in lines[1:]] == [f'{ids[k]}{tail}' for k in (2, 0, 1, 3)]
        assert float(lines[1].split(',')[5]) == s.mu[2, 4]
        back, _ = validate_submission(tmp_path/'s.csv', ids)
        assert np.array_equal(back.mu, s.mu[[2, 0, 1, 3]])
    with pytest.raises(SchemaError, match='such as 99'): write_submission(tmp_path/'s.csv', s, 'kaggle', SampleSubmission(columns_of('kaggle'), ['99'], [99]))
    with pytest.raises(SchemaError, match="found \\['mu_0'\\] as column 2"): write_submission(tmp_path/'s.csv', s, 'kaggle', SampleSubmission(columns_of('wide'), [str(ids[0])], ids[:1]))


def test_sample_of_the_real_challenge(tmp_path):
    real = Path(__file__).resolve().parents[3]/'shared/real'
    if not (real/'sample_submission.csv').is_file():
        real = tmp_path
        put(real/'sample_submission.csv', [columns_of('kaggle'), ['1103775'] + ['0.456']*(2*N)])
    sample = read_sample_submission(real)
    s = spectra(1)
    write_submission(tmp_path/'s.csv', s, 'kaggle', sample)
    read, layout = validate_submission(real/'sample_submission.csv', [1103775])
    assert layout == 'kaggle' and (read.mu == 0.456).all() and (tmp_path/'s.csv').read_text().split('\n')[0] == ','.join(sample.header)


def test_complete_gives_every_planet_a_row():
    s = spectra(4)
    s.mu[1, 5], s.sigma[2, 7] = np.nan, 0.
    ids = s.planet_id.tolist()
    prior_mu, prior_sigma = np.linspace(0.01, 0.02, N), np.full(N, 0.01)
    full = complete(s, [*reversed(ids), '42.0'], prior_mu, prior_sigma)
    assert full.planet_id.tolist() == ids[::-1] + [42] and full.origin == ('physics', 'prior', 'prior', 'physics', 'prior')
    assert np.array_equal(full.mu[0], s.mu[3]) and np.array_equal(full.mu[1], prior_mu) and np.array_equal(full.sigma[4], prior_sigma)
    assert complete(Spectra(np.array([], int), np.empty((0, N)), np.empty((0, N))), [5], 0.01, 0.01).origin == ('prior',)
    with pytest.raises(SchemaError, match='nobody asked for'): complete(s, ids[:2], 0.01, 0.01)
    with pytest.raises(SchemaError, match='more than once'): complete(s, ids + ids[:1], 0.01, 0.01)
    with pytest.raises(UsageError, match='usable prior'): complete(s, ids, 0.01, 0.)


@pytest.mark.parametrize('row, column, text, message', [
    (1, 3, 'abc', r'row 1 \(planet 1103775\), column wl_3: found abc'), (2, 284, '', r"row 2 \(planet 1103786\), column sigma_1: found ''"),
    (3, 5, 'nan', 'row 3 .*column wl_5: found nan'), (3, 5, '-inf', 'column wl_5: found -inf'), (1, 566, '0', 'row 1 .*column sigma_283: found 0.0, wanted a sigma > 0'),
    (1, 566, '-1e-5', 'column sigma_283: found -1e-05'), (2, 1, '-1e-300', 'column wl_1: found -1e-300, wanted a depth >= 0'), (1, 1, '1_0', 'found 1_0'),
    (1, 1, '0x1p-3', 'found 0x1p-3'), (1, 1, '1e999', 'found 1e999'), (1, 1, '١', 'wanted a finite number'), (2, 0, '1103775.0', 'planet of row 1 again'),
    (2, 0, '../etc', r'row 2, column planet_id: found ../etc, wanted one to twelve digits'), (2, 0, '1103775.5', 'wanted one to twelve digits'), (2, 0, '', 'one to twelve digits')])
def test_validation_names_row_and_column(tmp_path, row, column, text, message):
    rows = rows_of(spectra())
    rows[row][column] = text
    with pytest.raises(SchemaError, match=message) as error: validate_submission(put(tmp_path/'s.csv', rows))
    assert error.value.exit_code == 2


def test_validation_counts_all_and_shows_few(tmp_path):
    rows = rows_of(spectra())
    rows[1][1:] = ['x']*(2*N)
    rows[2][1:N + 1] = ['-1']*N
    with pytest.raises(SchemaError, match='s.csv: 849 faults') as error: validate_submission(put(tmp_path/'s.csv', rows))
    assert str(error.value).count('\n  row') == 5 and '… and 844 more' in str(error.value)


def test_expected_planets(tmp_path):
    s = spectra()
    path = tmp_path/'s.csv'
    write_submission(path, s, 'wide')
    assert validate_submission(path, [float(i) for i in s.planet_id])[1] == 'wide'
    with pytest.raises(SchemaError, match='2 faults(.|\n)*row 3 .planet 1103797.: found a planet that was not asked for(.|\n)*no row for planet 5'): validate_submission(path, [*s.planet_id[:2], 5])


@pytest.mark.parametrize('change, message', [
    (lambda h: h[:-1], 'no column sigma_283'), (lambda h: h + ['extra'], 'unknown column extra'), (lambda h: [h[0], h[2], h[1], *h[3:]], 'found wl_2 as column 2, wanted wl_1'),
    (lambda h: [h[0], h[1], *h[1:]], 'column wl_1 more than once'), (lambda h: ['id', *h[1:]], 'no column planet_id'), (lambda h: [';'.join(h)], 'no column planet_id')])
def test_wrong_headers(tmp_path, change, message):
    rows = rows_of(spectra())
    rows[0] = change(rows[0])
    with pytest.raises(SchemaError, match=message): read_submission(put(tmp_path/'s.csv', rows))


def test_harmless_oddities_are_read(tmp_path):
    s, path = spectra(), tmp_path/'s.anything'
    rows = rows_of(s)
    text = '\r\n'.join(', '.join(f'"{cell}"' if k % 7 == 0 else f' {cell}  ' for k, cell in enumerate(row)) for row in rows).replace(', "', ',"')
    path.write_bytes(b'\xef\xbb\xbf' + text.encode() + b'\r\n\r\n  \r\n')
    back, layout = validate_submission(path, s.planet_id)
    assert layout == 'kaggle' and np.array_equal(back.mu, s.mu) and np.array_equal(back.sigma, s.sigma)
    path.write_text('\r'.join(','.join(row) for row in rows), newline='')
    assert np.array_equal(read_submission(path)[0].mu, s.mu)


def test_blocks_do_not_matter():
    s = spectra(7)
    lines = [','.join(row) + '\n' for row in rows_of(s)]
    lines[6] = lines[6].replace(repr(s.mu[5, 3].item()), 'bad')
    for block in (1, 2, 3, 512):
        table = parse_csv(lines, 'x', block_rows=block)
        assert table.faults.total == 1 and table.faults.first == ['row 6 (planet 1103830), column wl_4: found bad, wanted a finite number']
        assert np.array_equal(table.mu[:5], s.mu[:5]) and np.isnan(table.mu[5, 3])


@pytest.mark.parametrize('data, message', [
    (b'', 'empty file'), (b' \n\t ', 'empty file'), (b'\xef\xbb\xbf', 'empty file'), (','.join(columns_of('wide')).encode(), 'no rows'), (b'\xff\xfe\x00p\x00l', 'no UTF-8|no column'), (b'\x00'*100, 'no column'),
    (b'PK\x03\x04 not a zip', 'zip archive that cannot be read'), (b'[', 'no JSON'), (b'[' * 200_000, 'no JSON'), (b'{"a": 1}', 'JSON dict'), (b'[]', 'no rows'), (b'[1, "a", null]', 'an object with exactly'),
    (b'[{"sample_id": 1, "mu": [NaN], "sigma": []}]', 'NaN is not JSON'), (b'[{"sample_id": 1, "mu": "x", "sigma": {}}]', 'a list of 283'), (b'[{"sample_id": 1, "sample_id": 2}]', 'twice'), (b'[\xff]', 'no UTF-8'),
    (b'[' + b'9'*6000 + b']', 'no JSON'), (('"' + 'a'*200_000 + '"').encode(), 'no CSV'), (','.join(columns_of('wide')).encode() + b'\n"1', 'no CSV')])
def test_hostile_files(tmp_path, data, message):
    path = tmp_path/'h'
    path.write_bytes(data)
    for read in (read_submission, validate_submission):
        with pytest.raises(SchemaError, match=message) as error: read(path)
        assert len(str(error.value)) < 3000


def test_json_faults(tmp_path):
    s = spectra(1)
    item = dict(sample_id='1103775', mu=s.mu[0].tolist(), sigma=s.sigma[0].tolist())
    for change, message in ((dict(mu=[True, *item['mu'][1:]]), r'mu\[0\]: found true'), (dict(sigma=item['sigma'][:-1]), '282 values'), (dict(mu=['1', *item['mu'][1:]]), r'mu\[0\]'), (dict(mu=[10**400, *item['mu'][1:]]), r'mu\[0\]'),
                            (dict(mu=[1e999, *item['mu'][1:]]), 'no JSON'), (dict(sigma=[0, *item['sigma'][1:]]), 'column sigma_0: found 0.0'), (dict(sample_id=True), 'sample_id: found true'), (dict(sample_id=None), 'one to twelve'), (dict(more=1), 'exactly sample_id')):
        (tmp_path/'s.json').write_text(json.dumps([item | change]))
        with pytest.raises(SchemaError, match=message): validate_submission(tmp_path/'s.json')
    (tmp_path/'s.json').write_text(json.dumps([item | dict(sample_id=1103775, mu=[0, 1, *item['mu'][2:]])]))
    assert validate_submission(tmp_path/'s.json', [1103775])[0].mu[0, 1] == 1


def test_schema_and_code_agree(tmp_path):
    good = [dict(sample_id='5', mu=[0.01]*N, sigma=[1e-4]*N)]
    check_document(good, 'submission')
    for bad in ([], {}, [dict(good[0], mu=[0.01]*282)], [dict(good[0], mu=[-1.] + [0.01]*282)], [dict(good[0], sigma=[0.] + [0.01]*282)], [dict(good[0], sigma=['1'] + [0.01]*282)], [dict(good[0], extra=1)],
                [dict(mu=[0.01]*N, sigma=[1e-4]*N)], [dict(good[0], sample_id='x')], [dict(good[0], mu=[True] + [0.01]*282)]):
        with pytest.raises(SchemaError): check_document(bad, 'submission')
        (tmp_path/'b.json').write_text(json.dumps(bad))
        with pytest.raises(SchemaError): validate_submission(tmp_path/'b.json')
    on_disk = json.loads((resource_dir('schemas')/'submission.tableschema.sample_id.json').read_text())
    assert on_disk == table_schema() and [f['name'] for f in on_disk['fields']] == columns_of('sample_id')


def test_all_schemas_are_schemas_and_hold_real_records(tmp_path):
    from jsonschema import Draft202012Validator
    from spectramind.core.provenance import read_record, write_record
    for file in resource_dir('schemas').glob('*.schema.json'): Draft202012Validator.check_schema(json.loads(file.read_text()))
    (tmp_path/'p.npz').write_bytes(b'x')
    from spectramind.core.store import fingerprint_file
    write_record(tmp_path/'p.npz', inputs={'raw': fingerprint_file(tmp_path/'p.npz'), 'x': 'ab'*32}, config_hash='cd', quality=dict(chi2=1.), code_version='0.1')
    record = check_document(read_record(tmp_path/'p.npz'), 'product_record')
    for change in (dict(status='done'), dict(sha256=None), dict(inputs={'a': 'b'}), dict(product='../x')):
        with pytest.raises(SchemaError): check_document(record | change, 'product_record')
    event = dict(ts='2026-01-31T12:00:00Z', sha=None, cfg='ab'*32, cmd='spectramind score', dur_ms=12.5, host='h', seed=2025, metrics={'score': 0.5}, exit=0, run_id='score/20260131_120000')
    check_document(event, 'event')
    for change in (dict(exit=7), dict(seed='x'), dict(ts='yesterday'), dict(dur_ms=-1)):
        with pytest.raises(SchemaError): check_document(event | change, 'event')
    with pytest.raises(SchemaError, match="'run_id' is a required property"): check_document({k: v for k, v in event.items() if k != 'run_id'}, 'event')


def test_zip_is_deterministic_and_limited(tmp_path):
    s = spectra()
    (tmp_path/'c.yaml').write_text('seed: 1\n')
    for name, when in (('a', '2026-01-01T00:00:00Z'), ('b', '2026-02-02T00:00:00Z')):
        manifest = write_package(tmp_path/name, s, 'kaggle', info=dict(git_rev='1', time_utc=when), bundle={'config.snapshot.yaml': tmp_path/'c.yaml'})
        check_document(manifest, 'submission_manifest')
        assert manifest['time_utc'] == when and sorted(manifest['files']) == ['submission.csv', 'submission.json', 'submission.zip']
    for file in ('submission.csv', 'submission.json', 'submission.zip'): assert (tmp_path/'a'/file).read_bytes() == (tmp_path/'b'/file).read_bytes()
    with zipfile.ZipFile(tmp_path/'a/submission.zip') as archive:
        inside = check_document(json.loads(archive.read(MANIFEST)), 'submission_manifest')
        assert archive.namelist() == ['config.snapshot.yaml', 'submission.csv', MANIFEST] and 'time_utc' not in inside
        from hashlib import sha256
        for name, facts in inside['files'].items(): assert sha256(archive.read(name)).hexdigest() == facts['sha256']
    with pytest.raises(SchemaError, match='wanted at most 1000'): read_submission(tmp_path/'a/submission.csv', max_bytes=1000)
    with zipfile.ZipFile(tmp_path/'bomb.zip', 'w', zipfile.ZIP_DEFLATED) as archive: archive.writestr('submission.csv', b'0'*10_000_000)
    with pytest.raises(SchemaError, match='a member of 10000000 bytes'): read_submission(tmp_path/'bomb.zip', max_bytes=1_000_000)
    for names in ((), ('a.csv', 'b.csv')):
        with zipfile.ZipFile(tmp_path/'n.zip', 'w') as archive:
            archive.writestr('readme.txt', 'x')
            for name in names: archive.writestr(name, 'x')
        with pytest.raises(SchemaError, match=f'found {len(names)} tables'): read_submission(tmp_path/'n.zip')
    data = bytearray((tmp_path/'a/submission.zip').read_bytes())
    data[len(data)//2] ^= 0xff
    (tmp_path/'flip.zip').write_bytes(bytes(data))
    with pytest.raises(SchemaError, match='cannot be read'): read_submission(tmp_path/'flip.zip')


def test_usage_errors(tmp_path):
    s = spectra()
    with pytest.raises(DataError, match='no file'): read_submission(tmp_path/'none.csv')
    with pytest.raises(DataError, match='a folder'): read_submission(tmp_path)
    with pytest.raises(UsageError, match='ending'): write_submission(tmp_path/'s.txt', s)
    with pytest.raises(UsageError, match='layout'): write_submission(tmp_path/'s.csv', s, 'tall')
    with pytest.raises(UsageError, match='plain file names'): write_submission(tmp_path/'s.zip', s, bundle={'../x': __file__})
    with pytest.raises(SchemaError, match='more than once'): write_submission(tmp_path/'s.csv', Spectra(np.array([1, 1, 2]), s.mu, s.sigma))
    with pytest.raises(SchemaError, match='no planet'): write_submission(tmp_path/'s.csv', Spectra(s.planet_id[:0], s.mu[:0], s.sigma[:0]))
    with pytest.raises(SchemaError): detect_layout(list(csv.reader(io.StringIO('a,b')))[0], 'x')
    assert not list(tmp_path.iterdir())
