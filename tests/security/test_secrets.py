"Secrets planted in the environment, on the command line, in addresses and in errors are in nothing that a run leaves behind."
import json

import pytest
from hostile_words import PLANTED, SECRET, words
from typer.testing import CliRunner

from spectramind.__main__ import app
from spectramind.pipeline import actions

KNOWN = [SECRET, SECRET.replace('-', '')]


def leaks(folder):
    "Files that hold a secret."
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file() and any(secret.encode() in path.read_bytes() for secret in KNOWN))


def test_nothing_a_run_leaves_holds_a_secret(hostile):
    tree, work, (said, wrong, again) = hostile
    assert said.exit_code == 0 and wrong.exit_code == 3 and again.exit_code == 3
    for refused in (wrong, again): assert 'looks like a secret' in refused.output and SECRET not in refused.output     # a snapshot would have kept it
    files = [p for p in work.rglob('*') if p.is_file()]
    assert {'events.jsonl', 'v50_debug_log.md', 'manifest.json', 'config.snapshot.yaml', 'status.json', 'diagnostics_dashboard.html'} <= {p.name for p in files}
    assert leaks(work) == []
    lines = [json.loads(line) for line in (work/'events.jsonl').read_text().splitlines()]
    assert lines[0]['exit'] == 0       # others may have looked at this run since
    assert SECRET not in said.output


@pytest.mark.parametrize('error', [RuntimeError(f'https://me:{SECRET}@host refused; Authorization: Bearer {SECRET}'), OSError(28, f'api_key={SECRET}', 'x'), ValueError(f"unknown key wandb.api_key: found '{SECRET}'")],
                         ids=['RuntimeError', 'OSError', 'ValueError'])
def test_an_exception_that_quotes_a_secret(small, tmp_path, monkeypatch, error):
    for name, value in PLANTED.items(): monkeypatch.setenv(name, value)
    def fail(config, tell): raise error
    monkeypatch.setitem(actions.ACTIONS, 'fit', fail)
    said = CliRunner().invoke(app, ['fit', *words(small, tmp_path/'w')])
    assert said.exit_code in (3, 5) and leaks(tmp_path) == []
    assert [p for p in tmp_path.rglob('error_*.log')] or said.exit_code == 3


def test_an_executed_notebook(hostile, tmp_path, monkeypatch):
    "papermill keeps the notebook of a stage, its parameters and its output."
    tree, work, _ = hostile
    for name, value in PLANTED.items(): monkeypatch.setenv(name, value)
    said = CliRunner().invoke(app, ['submit', str(work/'artifacts'/'predictions'), '--engine', 'papermill', *words(tree, tmp_path/'w')])
    assert said.exit_code == 0, said.output
    kept = [p for p in (tmp_path/'w').rglob('executed.*')]
    assert kept and leaks(tmp_path/'w') == []


def test_the_machine_is_described_without_its_secrets(monkeypatch):
    from spectramind.pipeline.environment import environment
    for name, value in PLANTED.items(): monkeypatch.setenv(name, value)
    told = json.dumps(environment(), default=str)
    assert not [secret for secret in KNOWN if secret in told]
