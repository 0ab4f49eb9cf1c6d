"Foreign text in pages: a script in an id, a label, a rule's name or a reason stays text, and the page runs its own script alone."
import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
from hostile_words import SCRIPT

from spectramind.core.nouns import Spectra
from spectramind.diagnostics.dashboard import write_page
from spectramind.pipeline.leaderboard import PAIRED, Entry, Run, leaderboard, markdown_text
from spectramind.pipeline.leaderboard_page import write_page as write_leaderboard_page

EVIL = SCRIPT + '"\'><svg onload=alert(3)></title></style>`|[x](javascript:alert(4))'


class Page(HTMLParser):
    "What a browser would make elements of."
    def __init__(self, text):
        super().__init__()
        self.tags, self.handlers, self.links, self.scripts, self.inside = [], [], [], [], None
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith('on')]
        self.links += [value for name, value in attrs if name in ('href', 'src') and value]
        self.inside = dict(attrs) if tag == 'script' else None
    def handle_endtag(self, tag): self.inside = None
    def handle_data(self, data):
        if self.inside is not None: self.scripts.append((self.inside, data))


def look_at(text):
    "The page's own elements, and nothing of anybody else's."
    page = Page(text)
    assert not page.handlers and 'svg' not in [t for t in page.tags if t == 'svg'] and not [x for x in page.links if x.startswith('javascript')]
    assert not [s for attrs, s in page.scripts if s.startswith('alert(')] and not [t for t in page.tags if t == 'img']
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and 'unsafe-eval' not in policy
    return page


def test_the_dashboard_of_a_hostile_tree(hostile):
    "A run over planets whose names, star rows and labels hold scripts."
    tree, work, (said, *_) = hostile
    assert said.exit_code == 0, said.output
    text = (work/'artifacts'/'reports'/'diagnostics_dashboard.html').read_text()
    look_at(text)
    assert SCRIPT not in text and '<script>alert' not in text
    rows = list(csv.DictReader((work/'artifacts'/'reports'/'bad_planets.csv').read_text().splitlines()))
    assert any('<script>alert(1)' in row['message'] for row in rows)          # named as found; a table of text, not a page
    assert len((work/'dist'/'submission.csv').read_text().splitlines()) == 3


def test_the_dashboard_with_hostile_words_everywhere(tmp_path):
    spectra = Spectra(np.array([7, 8]), np.full((2, 283), .01), np.full((2, 283), 1e-4), (EVIL, 'physics'))
    path = write_page(tmp_path/'page.html', {'title': EVIL, 'subtitle': EVIL, EVIL: EVIL, 'nested': {EVIL: EVIL}}, spectra=spectra, notes={7: EVIL}, provenance=[dict(what=EVIL, path=EVIL, sha256=EVIL, href=EVIL)],
                      numbers=[dict(what=EVIL, path=EVIL, sha256=EVIL, href=None)])
    look_at(path.read_text())


def test_names_of_rules_and_their_words(tmp_path):
    from spectramind.diagnostics.model_views import rule_table
    row = dict(name=EVIL, kind=EVIL, weight=1., mean=.1, planets=1, worst_planet=7, trained=True)
    table, = rule_table(dict(made=True, unit=EVIL, rules=[row, dict(row, name='plain', worst_planet=None)]))
    page = Page(table)
    assert 'script' not in page.tags and 'img' not in page.tags and not page.handlers and page.links == ['#planet=7'] and '&lt;script&gt;' in table


def test_a_leaderboard_of_hostile_names(tmp_path):
    planets = np.arange(40)
    rng = np.random.default_rng(0)
    def run(k):
        values = {name: rng.random(40) for name in PAIRED}
        return Run(EVIL, k, {n: float(v.mean()) for n, v in values.items()}, planets, values, np.zeros(283), dict(train_s=1., parameters=5, seconds=1.), 'ab'*32, 'cd'*32)
    entries = [Entry(name, (f'{EVIL}={EVIL}',), ((EVIL, EVIL),), (run(k),)) for k, name in enumerate((EVIL, 'other' + EVIL))]
    failed = Entry('failed' + EVIL, (EVIL,), ((EVIL, EVIL),), (Run(EVIL, 0, error=dict(kind=EVIL, message=EVIL, code=5)),))
    board = leaderboard([*entries, failed])
    look_at(write_leaderboard_page(tmp_path/'board.html', board, entries).read_text())
    text = markdown_text(board)
    assert '<script' not in text and '<img' not in text and '<svg' not in text


def test_json_in_a_page_cannot_end_its_script():
    from spectramind.diagnostics.page import data_block
    block = data_block('x', json.dumps({'a': '</script><script>alert(1)</script><!--'}))
    assert block.count('<script') == 1 and block.count('</script') == 1 and '<!--' not in block
