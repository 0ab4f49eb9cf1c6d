"What the package's code may not do, looked for in the code itself: run what a file says, unpack it where it wants to be, call a shell, or talk to the network."
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT/'spectramind').rglob('*.py'), *(ROOT/'scripts').glob('*.py'), ROOT/'setup.py'])
OWN_PIPES = {'spectramind/pipeline/workers.py', 'spectramind/pipeline/dask_crew.py'}   # between a run and the workers it has started itself: nothing from outside goes through them
PICKLERS = {'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'jsonpickle'}
ONLY_NAMES = {'spectramind/training/checkpoints.py'}                                   # imports pickle for the name of an exception
NETWORK = {'requests', 'httpx', 'aiohttp', 'ftplib', 'smtplib', 'telnetlib', 'urllib3', 'urllib.request', 'http.client', 'http.server', 'xmlrpc'}


def called(node):
    "The dotted name of what is called, as far as it is written out."
    parts, target = [], node.func
    while isinstance(target, ast.Attribute): parts, target = [target.attr, *parts], target.value
    return '.'.join([target.id, *parts]) if isinstance(target, ast.Name) else '.'.join(['?', *parts])


def keyword(node, name): return next((k.value for k in node.keywords if k.arg == name), None)


def is_constant(node, value): return isinstance(node, ast.Constant) and node.value is value


def faults_of(text, where):
    "What is wrong with a module's text: (line, what)."
    found = []
    def say(node, what): found.append((node.lineno, what))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or '', *(f'{node.module}.{a.name}' for a in node.names)]
            for name in names:
                if name.split('.')[0] in PICKLERS and where not in OWN_PIPES | ONLY_NAMES: say(node, f'imports {name}')
                if name in NETWORK or name.split('.')[0] in NETWORK: say(node, f'imports {name}')
            continue
        if not isinstance(node, ast.Call): continue
        name = called(node)
        last, first = name.rpartition('.')[2], name.partition('.')[0]
        if name in ('eval', 'exec', '__import__', 'compile'): say(node, f'calls {name}')
        if first in PICKLERS and last in ('load', 'loads', 'Unpickler', 'open') and where not in OWN_PIPES: say(node, f'calls {name}')
        if name in ('torch.load',) and not is_constant(keyword(node, 'weights_only'), True): say(node, 'torch.load without weights_only=True')
        if name in ('torch.jit.load', 'torch.hub.load', 'torch.package.PackageImporter'): say(node, f'calls {name}')
        if last in ('load', 'read_array', 'open_memmap') and first in ('np', 'numpy') and keyword(node, 'allow_pickle') is not None and not is_constant(keyword(node, 'allow_pickle'), False): say(node, 'allow_pickle')
        if last == 'read_array' and keyword(node, 'allow_pickle') is None: say(node, 'read_array without allow_pickle=False')
        if first == 'yaml' and last in ('load', 'load_all', 'unsafe_load', 'unsafe_load_all', 'full_load', 'full_load_all'): say(node, f'calls {name}')
        if is_constant(keyword(node, 'shell'), True) or name in ('os.system', 'os.popen', 'pty.spawn'): say(node, 'calls a shell')
        if last in ('extract', 'extractall', 'unpack_archive') and first not in ('re', 'pl', 'pd', '?'): say(node, f'unpacks an archive: {name}')
        if first in ('tarfile', 'shutil') and last in ('open', 'unpack_archive'): say(node, f'calls {name}')
        if name in ('tempfile.mktemp', 'socket.create_connection', 'urllib.request.urlopen'): say(node, f'calls {name}')
        if last in ('read_pickle', 'instantiate', 'register_new_resolver'): say(node, f'calls {name}')
    return found


@pytest.mark.parametrize('path', FILES, ids=[p.relative_to(ROOT).as_posix() for p in FILES])
def test_no_module_runs_what_it_reads(path):
    assert faults_of(path.read_text(encoding='utf-8'), path.relative_to(ROOT).as_posix()) == []


def test_every_module_is_looked_at():
    assert len(FILES) > 120 and {'store.py', 'checkpoints.py', 'workers.py', 'sbom.py'} <= {p.name for p in FILES}
    assert all((ROOT/name).is_file() for name in OWN_PIPES | ONLY_NAMES)


@pytest.mark.parametrize('text', [
    'import pickle', 'from pickle import loads', 'import joblib', 'from dill import load', 'import marshal', 'eval("1")', 'exec(text)', '__import__(name)', 'torch.load(path)', 'torch.load(path, weights_only=False)',
    'torch.load(path, weights_only=flag)', 'torch.jit.load(path)', 'np.load(path, allow_pickle=True)', 'np.lib.format.read_array(stream)', 'np.lib.format.read_array(stream, allow_pickle=True)', 'yaml.load(text)',
    'yaml.unsafe_load(text)', 'yaml.full_load(text)', 'subprocess.run("ls", shell=True)', 'os.system("ls")', 'os.popen("ls")', 'archive.extractall(folder)', 'z.extract(n)',
    'tarfile.open(path)', 'shutil.unpack_archive(path)', 'import requests', 'from urllib.request import urlopen', 'import http.client', 'tempfile.mktemp()', 'pd.read_pickle(path)', 'hydra.utils.instantiate(cfg)',
    'OmegaConf.register_new_resolver("x", f)'])
def test_the_search_finds_what_it_looks_for(text): assert faults_of(text, 'spectramind/core/store.py')


@pytest.mark.parametrize('text', ['model.eval()', 'np.load(path)', 'np.load(path, allow_pickle=False)', 'torch.load(p, map_location="cpu", weights_only=True)', 're.compile("x")', 'subprocess.run(["git", "log"])',
                                  'from urllib.parse import quote', 'yaml.scan(text, Loader=yaml.SafeLoader)', 'yaml.safe_load(text)'])
def test_and_nothing_else(text): assert faults_of(text, 'spectramind/core/store.py') == []


def test_what_goes_through_the_pipes_comes_from_the_workers():
    "The two modules that unpickle read from pipes and topics that the run itself has opened, never from a file."
    for name in OWN_PIPES:
        for node in ast.walk(ast.parse((ROOT/name).read_text())):
            if isinstance(node, ast.Call) and called(node).startswith('pickle.load'):
                argument = ast.unparse(node.args[0])
                assert called(node) == 'pickle.loads' and argument in ('order', 'data', 'worker.recv_bytes()'), f'{name}:{node.lineno}: {ast.unparse(node)}'
