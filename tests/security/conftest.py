"A run on a very small sky in which everything foreign is hostile: names, cells, settings, the environment. Made once, looked at by many."
import os
import shutil

import pytest
from hostile_words import PLANTED, SCRIPT, SECRET, words
from typer.testing import CliRunner

from spectramind.__main__ import app
from spectramind.simulate.observatory import ProfileSpec, simulate_tree

@pytest.fixture(scope='session')
def small(tmp_path_factory):
    "Two labelled planets, two without. Nobody may write to it."
    folder = tmp_path_factory.mktemp('small')
    simulate_tree(folder/'tree', folder/'truth', profile=ProfileSpec(140, 1350, {'FGS1': 100, 'AIRS-CH0': 80}), n_train=2, n_test=2, seed=5)
    return folder/'tree'


@pytest.fixture(scope='session')
def hostile(small, tmp_path_factory):
    "tree, work folder, what was said; planets whose star row, label or folder holds a script, secrets in the environment and on the command line."
    folder = tmp_path_factory.mktemp('hostile')
    tree, work = shutil.copytree(small, folder/'tree', copy_function=shutil.copy2), folder/'work'
    (tree/'test'/SCRIPT.replace('/', '\\')).mkdir()
    rows = [r.split(',') for r in (tree/'test_star_info.csv').read_text().splitlines()]
    rows[1][rows[0].index('Ts')] = SCRIPT
    (tree/'test_star_info.csv').write_text('\n'.join([','.join(r) for r in rows] + [','.join([SCRIPT, *rows[2][1:]])]) + '\n')
    labels = (tree/'train.csv').read_text().splitlines()
    (tree/'train.csv').write_text('\n'.join([*labels, ','.join([SCRIPT, *labels[1].split(',')[1:]])]) + '\n')
    patch = pytest.MonkeyPatch()
    for name, value in PLANTED.items(): patch.setenv(name, value)
    try:
        said = CliRunner().invoke(app, ['run', *words(tree, work)])
        wrong = CliRunner().invoke(app, ['fit', *words(f'https://me:{SECRET}@host/tree', work)])
        again = CliRunner().invoke(app, ['submit', *words(tree, work, f"submit.out='{work}/token={SECRET}'")])
    finally: patch.undo()
    return tree, work, [said, wrong, again]


@pytest.fixture
def canary(tmp_path):
    "A file that hostile content would make, if anybody ran it; and the shell line for it."
    path = tmp_path/'something_was_called'
    yield path
    assert not path.exists(), 'hostile content was executed'


@pytest.fixture
def bomb(canary):
    "Bytes of a pickle that makes the canary."
    import pickle
    class Bomb:
        def __reduce__(self): return os.system, (f'touch {canary}',)
    return pickle.dumps(Bomb(), protocol=2)     # the one that torch reads
