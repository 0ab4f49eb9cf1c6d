"""Versions below which a dependency is known to be dangerous: no lock file pins one, and no declared floor allows one.

The table holds advisories whose fixed version was known for certain to whoever wrote it (2026-11, from memory, without a network); it is a floor, not an audit.
`make sbom` asks pip-audit where its data can be reached. Lightning's two releases are from the project's own notes on its dependencies.
"""
import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FIXED = {  # distribution: (first sound version, advisory, what it was)
    'torch': ('2.6.0', 'CVE-2025-32434', 'torch.load with weights_only=True executed code'),
    'jinja2': ('3.1.6', 'CVE-2025-27516', 'escape from the sandbox through |attr'),
    'urllib3': ('2.5.0', 'CVE-2025-50181', 'redirects not disabled where they should be'),
    'requests': ('2.32.4', 'CVE-2024-47081', 'leak of .netrc credentials'),
    'tornado': ('6.5', 'CVE-2025-47287', 'denial of service by multipart forms'),
    'jupyterlab': ('4.2.5', 'CVE-2024-43805', 'HTML injection through notebooks'),
    'jupyter-core': ('5.8.1', 'CVE-2025-30167', 'configuration read from a folder anybody may write to (Windows)'),
    'nbconvert': ('6.5.1', 'CVE-2021-32862', 'scripts of a notebook in its HTML'),
    'pyarrow': ('14.0.1', 'CVE-2023-47248', 'code executed while a parquet file was read'),
    'pyyaml': ('5.4', 'CVE-2020-14343', 'code executed by full_load'),
    'setuptools': ('78.1.1', 'CVE-2025-47273', 'path traversal in PackageIndex'),
    'pip': ('25.3', 'CVE-2025-8869', 'links in source archives that lead outside'),
    'certifi': ('2024.7.4', 'CVE-2024-39689', 'a root that is no longer trusted'),
    'idna': ('3.7', 'CVE-2024-3651', 'quadratic time'),
    'zipp': ('3.19.1', 'CVE-2024-5569', 'endless loop on an archive'),
    'aiohttp': ('3.12.14', 'CVE-2025-53643', 'request smuggling'),
    'gitpython': ('3.1.41', 'CVE-2024-22190', 'code executed from an untrusted search path (Windows)'),
    'distributed': ('2021.10.0', 'CVE-2021-42343', 'workers that listened to everybody'),
    'pillow': ('10.3.0', 'CVE-2024-28219', 'buffer overflow'),
    'fonttools': ('4.43.0', 'CVE-2023-45139', 'external entities in SVG tables'),
    'h11': ('0.16.0', 'CVE-2025-43859', 'request smuggling'),
    'virtualenv': ('20.26.6', 'CVE-2024-53899', 'commands injected by names of environments'),
    'tqdm': ('4.66.3', 'CVE-2024-34062', 'code executed by command-line options'),
    'scikit-learn': ('1.5.0', 'CVE-2024-5206', 'words of the training text kept'),
    'mistune': ('2.0.3', 'CVE-2022-34749', 'endless regular expression'),
    'numpy': ('1.22.0', 'CVE-2021-41496', 'buffer overflow'),
}
WITHDRAWN = {'lightning': ('2.6.2', '2.6.3')}


def normal(name): return re.sub(r'[-_.]+', '-', name).lower()


def pinned(path):
    "(distribution, version) of every pin of a lock file."
    return [(normal(m[1]), Version(m[2])) for m in re.finditer(r'^([A-Za-z0-9_.\-]+)(?:\[[^\]]*\])?==([^\s;\\]+)', path.read_text(), re.M)]


def below(pins): return [f'{name} {version}, sound from {FIXED[name][0]} ({FIXED[name][1]})' for name, version in pins if name in FIXED and version < Version(FIXED[name][0])]


def withdrawn(pins): return [f'{name} {version}' for name, version in pins if str(version) in WITHDRAWN.get(name, ())]


@pytest.mark.parametrize('name', ['requirements.lock', 'requirements-runtime.lock'])
def test_no_lock_pins_a_dangerous_version(name):
    pins = pinned(ROOT/name)
    assert len(pins) > 15 and 'numpy' in dict(pins)
    assert below(pins) == [] and withdrawn(pins) == []


def declared():
    "Every requirement of settings.ini: (group, Requirement)."
    parser = configparser.ConfigParser(delimiters=['='])
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return [(key, Requirement(line)) for key, value in parser['DEFAULT'].items() if key.endswith('requirements') for line in value.split('\n') if line.strip()]


def test_declared_floors_allow_no_dangerous_version():
    found, asked = [], declared()
    assert len(asked) > 40
    for group, requirement in asked:
        fixed = FIXED.get(normal(requirement.name))
        if fixed is None: continue
        floors = [Version(s.version) for s in requirement.specifier if s.operator in ('>=', '==', '~=')]
        if not floors or max(floors) < Version(fixed[0]): found.append(f'{group}: {requirement} allows what {fixed[1]} is about; wanted >={fixed[0]}')
    assert found == []


def test_withdrawn_releases_cannot_be_chosen():
    for group, requirement in declared():
        for version in WITHDRAWN.get(normal(requirement.name), ()): assert not requirement.specifier.contains(version), f'{group}: {requirement} allows {version}'


def test_the_installed_versions_are_sound():
    from importlib.metadata import distributions
    there = [(normal(d.metadata['Name']), Version(d.version)) for d in distributions() if d.metadata['Name']]
    assert below(there) == [] and withdrawn(there) == []


def test_the_look_finds_what_it_looks_for():
    assert below([('torch', Version('2.5.1')), ('numpy', Version('2.0'))]) == ['torch 2.5.1, sound from 2.6.0 (CVE-2025-32434)']
    assert withdrawn([('lightning', Version('2.6.3'))]) == ['lightning 2.6.3']
