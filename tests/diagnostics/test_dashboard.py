"The page is one file, runs only its own scripts, and shows foreign text as text."
import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from spectramind.core.errors import RuntimeLimitError, UsageError
from spectramind.core.nouns import DepthPosterior, Spectra
from spectramind.diagnostics.dashboard import PlanetView, planet_rows, write_page
from spectramind.diagnostics.figures import bin_series, show_coverage, show_light_curve, show_raw_frame, show_score, show_spectrum
from spectramind.diagnostics.page import data_block
from spectramind.scoring.score import score

N, EVIL = 283, '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


def example(n=5, visits=2):
    rng = np.random.default_rng(0)
    truth = rng.lognormal(-4.4, 0.4, (n, 1))*np.ones(N)
    sigma = np.full((n, N), 1e-4)
    found = Spectra(np.arange(n) + 10, truth + sigma*rng.normal(size=truth.shape)*(truth > 0), sigma, ('physics',)*(n - 1) + (EVIL,))
    time_h = np.linspace(0, 7.5, 90)
    part = dict(time_h=time_h, flux=1 + 1e-3*rng.normal(size=90), model=np.ones(90))
    physics = DepthPosterior(10, truth[0], np.eye(N)*1e-8, {}, {f'visit_{k}': {'fgs1': part, 'airs': part} for k in range(visits)})
    view = PlanetView(10, found.mu[0], found.sigma[0], truth[0], physics, {'FGS1': rng.poisson(100, (32, 32)), 'AIRS-CH0': rng.poisson(100, (32, 356))}, {}, EVIL, EVIL)
    return found, score((found.planet_id, truth), found, 0.0146, 0.0107), view, truth


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], None
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'script': self.scripts.append((dict(attrs), ''))
        self.inside = tag
    def handle_endtag(self, tag): self.inside = None
    def handle_data(self, data):
        if self.inside == 'script': self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def page_of(tmp_path, **more):
    found, report, view, _ = example()
    path = write_page(tmp_path/'r/page.html', {'title': EVIL, 'subtitle': EVIL, EVIL: EVIL, 'seed': 2025, 'failed': 0} | more.pop('card', {}), [view], spectra=found, report=report, notes={11: EVIL}, **more)
    return path.read_text(encoding='utf-8')


def test_foreign_text_stays_text_and_policy_names_the_scripts(tmp_path):
    page = page_of(tmp_path)
    elements = Elements()
    elements.feed(page)
    assert not [t for t, a in elements.tags if t in ('img', 'iframe', 'object', 'embed', 'base', 'form')]
    assert not [a for t, attrs in elements.tags for a in attrs if a.startswith('on')]
    assert not [attrs for t, attrs in elements.tags if 'src' in attrs or (t == 'link' and attrs['href'] != 'data:,')]
    policy = next(a['content'] for t, a in elements.tags if t == 'meta' and a.get('http-equiv') == 'Content-Security-Policy')
    assert policy.startswith("default-src 'none'") and 'unsafe-eval' not in policy and "script-src 'unsafe" not in policy
    run = [text for attrs, text in elements.scripts if 'type' not in attrs]
    assert len(run) == 2 and len(elements.scripts) == 3
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert '\r' not in run[0] + run[1]


def test_figures_tables_and_size(tmp_path):
    page = page_of(tmp_path)
    elements = Elements()
    elements.feed(page)
    figures = json.loads(elements.scripts[0][1])
    wanted = [a['data-figure'] for t, a in elements.tags if a.get('class') == 'plot']
    assert sorted(figures) == sorted(wanted) and len(wanted) == 2 + 1 + 2 + 1
    assert len(page.encode()) < 6_000_000 and page.count('plotly.js v') >= 1
    for figure in figures.values():
        for axis, layout in figure['layout'].items():
            if axis.startswith('yaxis') and layout.get('anchor', 'x') == 'x': assert layout.get('title', {}).get('text'), axis
    assert page.count('<th scope="col"') >= 8 and page.count('<tbody>') == 1 and sum(t == 'tr' for t, _ in elements.tags) == 6
    assert re.search(r'FGS1 part -?\d\.\d{3}, AIRS part', page) and 'honest is 68.3 %' in page


def test_same_input_same_bytes(tmp_path):
    assert page_of(tmp_path/'a') == page_of(tmp_path/'b')


def test_a_card_alone_is_a_page(tmp_path):
    page = write_page(tmp_path/'p.html', {'planets': 3, 'score': 0.5, 'score_fgs1': 0.4, 'score_airs': 0.52}).read_text()
    assert '0.5000' in page and '<table>' not in page
    with pytest.raises(UsageError, match='run_card'): write_page(tmp_path/'q.html', [])
    with pytest.raises(RuntimeLimitError, match='dashboard: found'): write_page(tmp_path/'q.html', {}, max_bytes=1000)
    assert not (tmp_path/'q.html').exists()


def test_planet_rows():
    found, report, _, truth = example()
    rows = planet_rows(found, report, {12: 'late'})
    assert [row['planet'] for row in rows] == [10, 11, 12, 13, 14] and rows[2]['note'] == 'late'
    assert rows[1]['score'] == pytest.approx(report.per_planet[1]) and rows[3]['FGS1 error (ppm)'] == pytest.approx(1e6*abs(found.mu[3, 0] - truth[3, 0]))
    assert 'score' not in planet_rows(found)[0]


def test_figures_hold_the_numbers():
    found, report, view, truth = example()
    spectrum = show_spectrum(view.mu, view.sigma, view.truth, view.physics)
    line = next(t for t in spectrum.data if t.name == 'found' and t.mode == 'lines')
    assert np.allclose(line.y, view.mu[1:]*1e6, rtol=1e-6) and np.allclose(line.customdata, view.sigma[1:]*1e6)
    strip = [t for t in spectrum.data if t.yaxis in ('y3', 'y4')]
    assert np.allclose(np.concatenate([t.y for t in strip]), (view.mu - view.truth)/view.sigma, atol=1e-2)
    assert len(show_spectrum(view.mu, view.sigma).data) == 5
    assert np.allclose(show_score(report).data[0].y, [report.total, report.fgs1, report.airs])
    assert np.allclose(show_coverage(report).data[1].y, [100*c.fraction for c in report.coverage])
    curve = view.physics.curves['visit_0']['airs']
    residual = next(t for t in show_light_curve(view.physics.curves).data if t.yaxis == 'y4')
    assert np.allclose(residual.y, (curve['flux'] - curve['model'])*1e6, atol=1e-2)
    assert np.array_equal(show_raw_frame(view.raw).data[1].z, view.raw['AIRS-CH0'])


def test_figures_refuse():
    for call in (lambda: show_raw_frame({}), lambda: show_raw_frame({'FGS1': np.zeros(3)}), lambda: show_light_curve({}), lambda: show_light_curve({'visit_0': {}}), lambda: show_spectrum(np.zeros(3), np.zeros(3))):
        with pytest.raises(UsageError, match='wanted'): call()


def test_bin_series_keeps_the_mean():
    values = np.random.default_rng(1).normal(size=1000)
    assert bin_series(values, 40).mean() == pytest.approx(values.mean()) and len(bin_series(values, 40)) == 40
    assert len(bin_series(np.arange(281.), 40)) == 35 and np.array_equal(bin_series(values, 5000), values)


def test_data_block_survives_any_text():
    for text in (EVIL, '<!--', ']]>', '\u2028', '& \\u003c'):
        block = data_block('x', json.dumps({'a': text}, ensure_ascii=False))
        inner = block.split('>', 1)[1].rsplit('<', 1)[0]
        assert '<' not in inner and json.loads(inner) == {'a': text}
