"""Ids and paths pass one narrow gate, or not at all."""
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import InternalError, UsageError
from spectramind.core.paths import inside, parse_planet_id, project_root, resource_dir


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**12 - 1))
def test_every_spelling_of_an_id(n):
    for spelling in (n, str(n), f'{n}.0', f' {n} ', np.int64(n), float(n), np.float64(n), f'{n:012d}'): assert parse_planet_id(spelling) == n


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=string.printable + '٣४\u2028\0', max_size=14))
def test_an_id_is_digits_or_refused(text):
    try: assert str(parse_planet_id(text)) == (text.strip(' ').partition('.')[0].lstrip('0') or '0')
    except UsageError: pass
    else: assert set(text.strip(' ')) <= set('0123456789.')


@pytest.mark.parametrize('value', ['', '.', '.0', '1.', '1.5', '1e3', '+1', '-1', '0x1', '1_000', '1\n', '1/2', '..', '٣', '1'*13, 1e12, 1.5,
                                   float('nan'), float('inf'), True, np.True_, None, b'1', [1], 10**12, -1], ids=repr)
def test_no_id(value):
    with pytest.raises(UsageError, match='wanted one to twelve digits'): parse_planet_id(value)


@pytest.mark.parametrize('parts', [('..',), ('a', '..', '..', 'b'), ('/etc',), ('link', 'x'), ('a\0b',), ('inner', 'out')], ids=str)
def test_outside_is_refused(tmp_path, parts):
    root = tmp_path/'root'
    (root/'inner').mkdir(parents=True)
    (tmp_path/'root2').mkdir()
    (root/'link').symlink_to('/')
    (root/'inner'/'out').symlink_to(tmp_path/'root2')     # a sibling that begins with the same letters
    with pytest.raises(UsageError): inside(root, *parts)


def test_inside_is_taken(tmp_path):
    (tmp_path/'a').mkdir()
    (tmp_path/'alias').symlink_to(tmp_path/'a')
    assert inside(tmp_path, 'alias', 'x') == tmp_path.resolve()/'a'/'x'
    assert inside(tmp_path) == tmp_path.resolve() == inside(tmp_path, 'a', '..')


def test_checkout_and_resources(tmp_path):
    checkout = Path(__file__).resolve().parents[2]
    assert project_root(Path(__file__).parent) == checkout and project_root(tmp_path) == tmp_path.resolve()
    for name in ('configs', 'schemas'): assert resource_dir(name) == checkout/name
    with pytest.raises(InternalError, match='_nothing'): resource_dir('nothing', package=tmp_path/'spectramind')
    (tmp_path/'spectramind'/'_nothing').mkdir(parents=True)
    assert resource_dir('nothing', package=tmp_path/'spectramind').name == '_nothing'
    for name in ('../configs', '', 'Configs', 'a/b'):
        with pytest.raises(UsageError): resource_dir(name)
