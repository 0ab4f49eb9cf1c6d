"Files made to do harm: each is refused by a typed error, and nothing in it runs."
import hashlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spectramind.__main__ import app
from spectramind.challenge.layout import Challenge, list_planets, planet_dir, signal_path
from spectramind.challenge.planets import read_sample_submission, scan_stars
from spectramind.core.errors import ConfigError, DataError, SchemaError, SpectraMindError, UsageError
from spectramind.core.nouns import Spectra
from spectramind.core.paths import inside, parse_planet_id
from spectramind.core.store import read_npz, write_npz
from spectramind.pipeline.config import compose_params, load_config, read_yaml
from spectramind.pipeline.products import Workplace, read_product
from spectramind.scoring.submission import read_submission, validate_submission, write_package, write_submission
from spectramind.symbolic.rules import Rule, compile_rule
from spectramind.symbolic.terms import spectral_grid
from spectramind.training.checkpoints import read_checkpoint, read_weights, write_checkpoint


# pickle

def test_the_bomb_is_a_bomb(tmp_path):
    "Otherwise the tests below would prove nothing."
    import pickle
    class Bomb:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/went_off',)
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path/'went_off').exists()


def member(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive: archive.writestr(name, data)
    return buffer.getvalue()


def object_array(bomb):
    "An .npy whose header says object: numpy would unpickle what follows."
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b' '*(63 - (10 + len(header)) % 64) + b'\n'
    return b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header + bomb


@pytest.mark.parametrize('name', ['flux.npy', 'flux', 'flux.pkl'])
@pytest.mark.parametrize('make', [object_array, bytes], ids=['object array', 'bare pickle'])
def test_no_pickle_in_arrays(tmp_path, bomb, canary, name, make):
    path = tmp_path/'planet_1.npz'
    path.write_bytes(member(name, make(bomb)))
    with pytest.raises(DataError): read_npz(path)
    with pytest.raises(DataError): read_npz(path, 'flux')


def test_a_pickle_instead_of_an_archive_of_arrays(tmp_path, bomb, canary):
    (tmp_path/'x.npz').write_bytes(bomb)
    with pytest.raises(DataError): read_npz(tmp_path/'x.npz')
    with pytest.raises(DataError): read_product(tmp_path/'x.npz', 'fit')


def test_objects_are_not_written_either(tmp_path):
    with pytest.raises(UsageError): write_npz(tmp_path/'x.npz', a=np.array([{}], object))
    assert not (tmp_path/'x.npz').exists()


def test_a_resume_file_runs_nothing(tmp_path, bomb, canary):
    (tmp_path/'last.ckpt').write_bytes(bomb)
    with pytest.raises(DataError): read_checkpoint(tmp_path/'last.ckpt')
    (tmp_path/'last.ckpt').write_bytes(member('archive/data.pkl', bomb))
    with pytest.raises(DataError): read_checkpoint(tmp_path/'last.ckpt')
    whole = write_checkpoint(tmp_path/'last.ckpt', dict(step=1, weights=torch.ones(3)))
    with zipfile.ZipFile(whole) as archive: parts = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(whole, 'w') as archive:
        for name, data in parts.items(): archive.writestr(name, bomb if name.endswith('data.pkl') else data)
    with pytest.raises(DataError): read_checkpoint(whole)


class Foreign: pass


def test_a_resume_file_with_an_object_of_ours_is_refused_too(tmp_path):
    torch.save(dict(x=Foreign()), tmp_path/'last.ckpt')
    with pytest.raises(DataError, match='damaged checkpoint'): read_checkpoint(tmp_path/'last.ckpt')


@pytest.mark.parametrize('kind', ['pickle', 'torch', 'header'])
def test_weights_are_safetensors_or_nothing(tmp_path, bomb, canary, kind):
    data = bomb
    if kind == 'torch':
        buffer = io.BytesIO()
        torch.save(dict(x=torch.ones(2)), buffer)
        data = buffer.getvalue()
    if kind == 'header': data = (1 << 60).to_bytes(8, 'little') + b'{}'
    (tmp_path/'model.safetensors').write_bytes(data)
    (tmp_path/'model.json').write_text(json.dumps(dict(sha256=hashlib.sha256(data).hexdigest())))    # even where the description vouches for it
    with pytest.raises(DataError, match='damaged weights'): read_weights(tmp_path)


# archives

@pytest.mark.parametrize('names', [['../../climbed.csv', 'submission.csv'], ['/tmp/abs.csv', 'submission.csv'], ['..\\climbed.csv', 'submission.csv'], ['a/../../b.csv', 'submission.csv']])
def test_an_archive_never_leaves_its_file(tmp_path, names):
    spectra = Spectra(np.array([7]), np.full((1, 283), .01), np.full((1, 283), 1e-4), ('physics',))
    write_package(tmp_path/'p', spectra, 'wide')
    table, path = (tmp_path/'p'/'submission.csv').read_bytes(), tmp_path/'in'/'deep'/'s.zip'
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, 'w') as archive:
        for name in names: archive.writestr(name, table)
    before = {p for p in tmp_path.rglob('*')}
    assert len(validate_submission(path)[0]) == 1
    assert {p for p in tmp_path.rglob('*')} == before and not Path('/tmp/abs.csv').exists()


def test_a_lone_member_that_climbs_is_read_in_memory_only(tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'in'/'s.zip').write_bytes(member('../climbed.csv', 'no table'))
    with pytest.raises(SchemaError): validate_submission(tmp_path/'in'/'s.zip')
    assert not (tmp_path/'climbed.csv').exists()


def test_a_member_that_lies_about_its_size_or_is_enormous(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive: archive.writestr('submission.csv', b'\n'*50_000_000)
    (tmp_path/'s.zip').write_bytes(buffer.getvalue())
    with pytest.raises(SchemaError, match='at most 1000000'): read_submission(tmp_path/'s.zip', max_bytes=1_000_000)


def test_a_bundle_takes_plain_names_only(tmp_path):
    spectra = Spectra(np.array([7]), np.full((1, 283), .01), np.full((1, 283), 1e-4), ('physics',))
    (tmp_path/'x').write_text('x')
    for name in ('../x', '/x', 'a\\x', 'a/x'):
        with pytest.raises(UsageError, match='plain file names'): write_submission(tmp_path/'s.zip', spectra, bundle={name: tmp_path/'x'})
    assert not (tmp_path/'s.zip').exists()


# ids and paths

IDS = ['../../etc/passwd', '..', '.', '/etc/passwd', '7/../8', '7\\8', '7\0', '７', '٧', '-7', '+7', ' 7\n', '7e3', '0x7', '7.5', 'nan', '', '1'*13, '7;ls', '$(ls)', '<script>', '7\u202e']


@pytest.mark.parametrize('text', IDS, ids=[f'{k}' for k in range(len(IDS))])
def test_an_id_is_a_number_or_nothing(tmp_path, text):
    with pytest.raises(UsageError): parse_planet_id(text)
    with pytest.raises(UsageError): planet_dir(tmp_path, 'test', text)
    with pytest.raises(UsageError): signal_path(tmp_path, 'test', text, 'FGS1')
    with pytest.raises(UsageError): Workplace(tmp_path).posterior(text)


def test_hostile_ids_in_tables(small, tmp_path):
    tree = shutil.copytree(small, tmp_path/'tree', copy_function=shutil.copy2)
    for name, reader in (('test_star_info.csv', lambda: scan_stars(tree, 'test')), ('sample_submission.csv', lambda: read_sample_submission(tree))):
        header, first, *rest = (tree/name).read_text().splitlines()
        whole = (tree/name).read_text()
        (tree/name).write_text('\n'.join([header, first, ','.join(['../../etc/passwd', *first.split(',')[1:]]), *rest]) + '\n')
        if name.startswith('test'):
            stars, faults = reader()
            assert '../../etc/passwd' in faults and len(stars) == 2
        else:
            with pytest.raises(DataError, match='one to twelve digits'): reader()
        (tree/name).write_text(whole)


def test_links_do_not_lead_out_of_the_tree(small, tmp_path):
    tree = shutil.copytree(small, tmp_path/'tree', copy_function=shutil.copy2)
    planet = Challenge(tree).planets('test')[0]
    (tree/'test'/str(planet)).rename(tmp_path/'away')
    (tree/'test'/str(planet)).symlink_to(tmp_path/'away')
    with pytest.raises(SpectraMindError, match='outside'): list(Challenge(tree).signal_blocks('test', planet, 'FGS1', 0))
    with pytest.raises(UsageError): inside(tree, '..', 'x')
    with pytest.raises(UsageError): inside(tree, 'a\0b')
    (tree/'test'/'..evil').mkdir()
    assert planet not in ('..evil',) and all(isinstance(p, int) for p in list_planets(tree, 'test'))


def test_an_export_writes_below_its_folder_only(hostile, tmp_path):
    tree, work, _ = hostile
    for word in ('../../x', '/etc/passwd', '7/../../x'):
        said = CliRunner().invoke(app, ['export', word, 'data=kaggle', 'model=physics_only', f'data.root={tree}', f'paths.work={work}'])
        assert said.exit_code == 3 and 'found' in said.output and not list(tmp_path.rglob('*'))


# settings

TAGS = ['!!python/object/apply:os.system ["touch {canary}"]', 'seed: !!python/object/apply:os.system ["touch {canary}"]', 'seed: !!python/object/new:subprocess.Popen [["touch", "{canary}"]]', 'seed: !!python/name:os.system',
        'seed: !!python/module:os', 'a: &a [1]\nb: *a', 'seed: !!binary aGk=', 'seed: !own 1', '? !!python/object/apply:os.system ["touch {canary}"]\n: 1']


@pytest.mark.parametrize('text', TAGS, ids=[f'{k}' for k in range(len(TAGS))])
@pytest.mark.parametrize('read', [read_yaml, lambda p: load_config([], str(p)), compose_params], ids=['read_yaml', 'snapshot', 'params'])
def test_tags_anchors_and_aliases_are_refused(tmp_path, canary, text, read):
    path = tmp_path/'own.yaml'
    path.write_text(text.replace('{canary}', str(canary)))
    with pytest.raises(ConfigError): read(path)


def test_nested_aliases_end_at_once(tmp_path):
    "A billion laughs: ten lines that would fill the memory."
    path = tmp_path/'own.yaml'
    path.write_text(''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"]*9) if i else "lol"}]\n' for i in range(14)))
    with pytest.raises(ConfigError, match='anchor'): load_config([], str(path))


@pytest.mark.parametrize('word', ['seed=${oc.env:HOME}', 'seed=${oc.env:HOME,1}', 'submit.out=${oc.decode:x}', 'submit.out=${${x}:y}', 'train._target_=os.system', '_target_=os.system', 'hydra.run.dir=/tmp', '__class__=x', 'model=../../x',
                                  'seed=' + '9'*5000, 'k'*5000 + '=1'])
def test_settings_execute_and_read_nothing(word):
    with pytest.raises(ConfigError): load_config([word])


@pytest.mark.parametrize('name', ['../config_v50', '/etc/passwd', '..', 'config_v50/../x', '/etc/passwd.yaml', '../../etc/passwd.yaml'])
def test_an_entry_file_is_one_of_ours_or_a_snapshot(name):
    with pytest.raises(ConfigError): load_config([], name)


# rules

HOSTILE_RULES = ['__import__("os").system("touch {canary}")', 'x.__class__.__mro__', '(lambda: x)()', '[i for i in x]', 'open("/etc/passwd")', 'eval("1")', 'x if x else x', 'f"{x}"', 'x[::2] > 0', 'getattr(x, "data") > 0',
                 '9**9**9**9 > x', '('*400 + 'x' + ')'*400 + ' > 0', 'x; import os', 'x > 0\nimport os', '(y := x) > 0', 'x @ x > 0', '\0x > 0']


@pytest.mark.parametrize('text', HOSTILE_RULES, ids=[f'{k}' for k in range(len(HOSTILE_RULES))])
def test_a_rule_is_a_sentence_and_no_program(text, canary):
    with pytest.raises(ConfigError): compile_rule(Rule('evil', text.replace('{canary}', str(canary))), spectral_grid(), ())
