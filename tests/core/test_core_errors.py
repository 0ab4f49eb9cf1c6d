"""Every refusal carries its exit code, its three parts, a link to a heading that exists, and survives a process boundary."""
import json
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from spectramind.core import errors as E
from spectramind.core.paths import parse_planet_id

CODES = dict(SchemaError=2, ConfigError=3, DataError=3, UsageError=3, RuntimeLimitError=4, InternalError=5, QualityGateError=6)


def make(name):
    cls = getattr(E, name)
    return cls('a.csv', '3 rows', '4 rows', hint='add one') if name == 'DataError' else cls('found 3, wanted 4', hint='add one')


@pytest.mark.parametrize('name', CODES)
def test_code_text_and_pickle(name):
    error = make(name)
    assert isinstance(error, E.SpectraMindError) and E.exit_code_of(error) == CODES[name]
    lines = str(error).splitlines()
    assert '3' in lines[0] and '4' in lines[0] and lines[1] == 'what to do: add one'
    assert lines[2].endswith(f'troubleshooting.html#{name.lower()}')
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error) and str(back) == str(error) and back.__dict__ == error.__dict__


def test_no_other_class_escapes_the_table():
    defined = {n for n, c in vars(E).items() if isinstance(c, type) and issubclass(c, E.SpectraMindError)} - {'SpectraMindError'}
    assert defined == set(CODES)


def test_every_link_has_its_heading():
    notebook = json.loads((Path(__file__).parents[2]/'nbs/00_core/00_errors.ipynb').read_text(encoding='utf-8'))
    text = '\n'.join(''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == 'markdown')
    headings = {h.strip().lower() for h in re.findall(r'^#{2,3} (.+)$', text, re.M)}
    assert {c.slug for c in E.SpectraMindError.__subclasses__()} | {E.SpectraMindError.slug} <= headings


def test_a_worker_can_raise_it():
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        with pytest.raises(E.UsageError, match='one to twelve digits') as caught: pool.submit(parse_planet_id, '../x').result()
    assert caught.value.hint
