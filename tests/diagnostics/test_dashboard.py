"The page is one file, runs only its own scripts, and shows foreign text as text."
import base64
import gzip
import hashlib
import json
import re
import struct
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri

from spectramind.core.errors import RuntimeLimitError, UsageError
from spectramind.core.nouns import DepthPosterior, Spectra
from spectramind.diagnostics import catalogue_views, model_views
from spectramind.diagnostics.dashboard import PlanetView, fixed, planet_rows, planet_table, write_page
from spectramind.diagnostics.page import Html, Missing, Picture, comparable, data_block, inline, pack, packed_block, quantise, show_parts, side_by_side
from spectramind.diagnostics.planet_pages import Image, curve_tables, fact_tables, image_codes, pack_planets
from spectramind.scoring.score import naive_statistics, score

N, EVIL = 283, '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


def example(n=5, visits=2):
    rng = np.random.default_rng(0)
    truth = rng.lognormal(-4.4, 0.4, (n, 1))*np.ones(N)
    sigma = np.full((n, N), 1e-4)
    found = Spectra(np.arange(n) + 10, truth + sigma*rng.normal(size=truth.shape)*(truth > 0), sigma, ('physics',)*(n - 1) + (EVIL,))
    time_h = np.linspace(0, 7.5, 90)
    part = dict(time_h=time_h, flux=1 + 1e-3*rng.normal(size=90), model=np.ones(90))
    physics = DepthPosterior(10, truth[0], np.eye(N)*1e-8, {}, {f'visit_{k}': {'fgs1': part, 'airs': part} for k in range(visits)})
    view = PlanetView(10, found.mu[0], found.sigma[0], truth[0], physics, {'FGS1': rng.poisson(100, (32, 32)), 'AIRS-CH0': rng.poisson(100, (32, 356))}, {}, EVIL, EVIL, facts={EVIL: {EVIL: EVIL}})
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


def read(page):
    elements = Elements()
    elements.feed(page)
    return elements


def block(elements, name): return next(text for attrs, text in elements.scripts if attrs.get('id') == name)
def opened(letters): return gzip.decompress(base64.b64decode(letters))
def unpack(letters):
    data = opened(letters)
    n = struct.unpack('<I', data[:4])[0]
    head = json.loads(data[4:4 + n])
    return head['document'], {name: np.frombuffer(data, '<' + a['kind'], int(np.prod(a['shape'])), 4 + n + a['at']).reshape(a['shape']) for name, a in head['arrays'].items()}


def page_of(tmp_path, **more):
    found, report, view, _ = example()
    views = [view] + [PlanetView(int(p), m, s) for p, m, s in zip(found.planet_id[1:], found.mu[1:], found.sigma[1:])]
    tabs = dict(injection=[Missing(EVIL, EVIL)], model=[Picture(EVIL, go.Figure(go.Scatter(y=[1], name=EVIL)), EVIL, EVIL)])
    files = [dict(what=EVIL, path=EVIL, sha256=None, href=None)]
    card = {'title': EVIL, 'subtitle': EVIL, EVIL: EVIL, 'seed': 2025, 'failed': 0}
    path = write_page(tmp_path/'r/page.html', card, views, spectra=found, report=report, notes={11: EVIL}, tabs=tabs, compared=[dict(name=EVIL, what=EVIL, report=report)],
                      provenance=files, machine=dict(times=dict(head=['stage'], rows=[[EVIL]], lefts=1)), **more)
    return path.read_text(encoding='utf-8')


def test_foreign_text_stays_text_and_policy_names_the_scripts(tmp_path):
    elements = read(page_of(tmp_path))
    assert not [t for t, a in elements.tags if t in ('img', 'iframe', 'object', 'embed', 'base', 'form')]
    assert not [a for t, attrs in elements.tags for a in attrs if a.startswith('on')]
    assert not [attrs for t, attrs in elements.tags if 'src' in attrs or (t == 'link' and attrs['href'] != 'data:,')]
    policy = next(a['content'] for t, a in elements.tags if t == 'meta' and a.get('http-equiv') == 'Content-Security-Policy')
    assert policy.startswith("default-src 'none'") and 'unsafe-eval' not in policy and "script-src 'unsafe" not in policy and 'connect-src' not in policy
    run = [text for attrs, text in elements.scripts if 'type' not in attrs]
    packed = opened(block(elements, 'plotly')).decode()
    assert len(run) == 1 and [attrs['id'] for attrs, _ in elements.scripts if 'type' in attrs] == ['figures', 'planets', 'machine', 'plotly']
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (run[0], packed)]
    assert 'plotly.js v' in packed[:200] and '\r' not in run[0]
    assert not re.search(r'\beval\(|innerHTML|outerHTML|insertAdjacent|document\.write|new Function|localStorage|XMLHttpRequest|fetch\(', run[0])


def test_figures_planets_and_size(tmp_path):
    page = page_of(tmp_path)
    elements, (found, _, view, _) = read(page), example()
    figures = json.loads(opened(block(elements, 'figures')))
    assert sorted(figures) == sorted(a['data-figure'] for t, a in elements.tags if 'data-figure' in a) == ['figure-1']
    document, tables = unpack(block(elements, 'planets'))
    assert document['ids'] == ['10', '11', '12', '13', '14'] and [c[:3] for c in document['curves']] == [[0, v, i] for v in (0, 1) for i in ('FGS1', 'AIRS')]
    back = tables['mu_low'][:, None] + (tables['mu'].astype(float) - 1)*tables['mu_step'][:, None]
    assert np.allclose(1e6*back, 1e6*found.mu, atol=.02) and (tables['fit'][1:] == 0).all() and (tables['fit'][0] > 0).all() and 'before' not in tables
    image = document['images'][1]
    codes = tables['images'][image['at']:image['at'] + image['rows']*image['columns']].reshape(image['rows'], image['columns'])
    raw = view.raw['AIRS-CH0']
    assert image['title'] == 'AIRS-CH0, raw' and image['wide'] and np.abs(image['low'] + (codes.astype(float) - 1)*(image['high'] - image['low'])/254 - np.clip(raw, image['low'], image['high'])).max() <= (image['high'] - image['low'])/500
    assert len(page.encode()) < 2_600_000 and sum(t == 'tr' for t, _ in elements.tags) == 6 + 2 + 2
    assert re.search(r'FGS1 part -?\d\.\d{3}, AIRS part', page) and 'honest is 68.3 %' in page
    assert document['notes'][0] == EVIL and document['facts'][0][:2] == [EVIL, EVIL]


def test_same_input_same_bytes_but_for_the_machine(tmp_path):
    first = page_of(tmp_path/'a')
    assert first == page_of(tmp_path/'b') and comparable(first) != first and 'id="machine"' not in comparable(first) and len(first) - len(comparable(first)) < 400
    assert comparable('no page') == 'no page'


def test_a_card_alone_is_a_page(tmp_path):
    page = write_page(tmp_path/'p.html', {'planets': 3, 'score': 0.5, 'score_fgs1': 0.4, 'score_airs': 0.52}, figures={'words': go.Figure()}).read_text()
    assert '0.5000' in page and '<table>' not in page and 'role="tab"' not in page and 'data-figure="figure-1"' in page and 'id="planets"' not in page
    with pytest.raises(UsageError, match='run_card'): write_page(tmp_path/'q.html', [])
    with pytest.raises(RuntimeLimitError, match='dashboard: found'): write_page(tmp_path/'q.html', {}, max_bytes=1000)
    assert not (tmp_path/'q.html').exists()


def test_planet_rows_and_their_table():
    found, report, _, truth = example()
    rows = planet_rows(found, report, {12: 'late'}, dict(zip(range(10, 15), truth)))
    assert [row['planet'] for row in rows] == [10, 11, 12, 13, 14] and rows[2]['note'] == 'late'
    assert rows[1]['score'] == pytest.approx(report.per_planet[1]) and abs(rows[3]['fgs1_error_ppm']) == pytest.approx(report.rmse_ppm[3, 0]) and rows[3]['airs_rmse_ppm'] == pytest.approx(report.rmse_ppm[3, 1])
    assert rows[0]['largest_z'] == pytest.approx(np.abs((found.mu - truth)/found.sigma)[0].max())
    assert planet_rows(found)[0]['score'] is None
    table, plain = planet_table(rows), planet_table(planet_rows(found))
    assert table.count('<tr ') == 5 and 'data-key="score"' in table and 'data-key="score"' not in plain and 'data-key="score_physics"' not in table
    assert EVIL not in table and '&lt;/script&gt;' in table and 'id="filter-noted"' in table and 'id="filter-noted"' not in plain


def test_numbers_to_read():
    assert [fixed(v, 1) for v in (-1234.56, -.04, 0., 9.96)] == ['−1,234.6', '0.0', '0.0', '10.0']


def test_inline_code_and_parts():
    assert inline('a `b <c>` & d') == 'a <code>b &lt;c&gt;</code> &amp; d'
    store = {}
    both = show_parts([Missing('t', 'w'), Picture('p', go.Figure(), 'c', 'never', full=True)], store)
    assert list(store) == ['figure-1'] and both.count('class="card') == 2 and 'What would falsify it' in both and show_parts([], {}) == ''
    from plotly.subplots import make_subplots
    assert side_by_side(make_subplots(1, 2)) and not side_by_side(make_subplots(2, 1)) and not side_by_side(go.Figure()) and not side_by_side(make_subplots(1, 2, column_widths=[.1, .9]))


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, (3, 7), elements=st.one_of(st.floats(-1e6, 1e6), st.just(np.nan), st.just(np.inf))))
def test_quantised_numbers_come_back_within_half_a_step(values):
    q = quantise(values)
    back = np.where(q['code'] > 0, q['low'][:, None].astype(float) + (q['code'] - 1.)*q['step'][:, None], np.nan)
    assert np.array_equal(np.isnan(back), ~np.isfinite(values))
    spread = np.nanmax(np.where(np.isfinite(values), values, np.nan), axis=1, initial=-np.inf) - np.nanmin(np.where(np.isfinite(values), values, np.nan), axis=1, initial=np.inf)
    for row in np.flatnonzero(np.isfinite(values).any(1)):
        worst = np.nanmax(np.abs(back[row] - values[row]))
        assert worst <= .51*max(spread[row], 0)/65533 + 4e-7*np.nanmax(np.abs(values[row])) + 1e-30


def test_what_cannot_be_packed_is_refused():
    for call in (lambda: quantise(np.zeros(3)), lambda: pack({}, {'a': np.array(['x'])}), lambda: packed_block('x', '<b>'), lambda: pack_planets([example()[2]]*2),
                 lambda: image_codes(Image('i', np.full((2, 2), np.nan), '')), lambda: pack_planets([PlanetView(1, np.zeros(3), np.ones(3))])):
        with pytest.raises(UsageError, match='found'): call()


def test_short_and_uneven_curves_keep_their_times():
    time_h = np.r_[np.linspace(0, 1, 20), np.linspace(2, 3, 20)]
    curves = {'visit_0': dict(airs=dict(time_h=time_h, flux=np.arange(40.), model=np.arange(40.)))}
    index, tables = curve_tables([PlanetView(1, np.zeros(N), np.ones(N), curves=curves)], points=50)
    k, visit, name, first, last, points = index[0]
    even = first + (last - first)*np.arange(points)/(points - 1)
    assert (k, visit, name, points) == (0, 0, 'AIRS', 40) and np.allclose(even + tables['bend'][0, :40], time_h, atol=1e-6) and np.isnan(tables['flux'][0, 40:]).all()
    assert np.abs(tables['bend'][0, :40]).max() > .1


def test_facts_keep_their_units_and_order():
    views = [PlanetView(1, np.zeros(N), np.ones(N), facts=dict(a={'x (ppm)': 1.23456789, 'y': np.nan})), PlanetView(2, np.zeros(N), np.ones(N), facts=dict(b={'z': True}, a={'y': np.int64(3)}))]
    names, values = fact_tables(views)
    assert names == [['a', 'x', 'ppm'], ['a', 'y', ''], ['b', 'z', '']] and values == [[1.23457, None, None], [None, 3, 'yes']]


def test_catalogue_tables_are_the_numbers():
    found, report, _, truth = example(8)
    header, rows = catalogue_views.bias_rows(truth, found.mu, found.sigma)
    error = 1e6*(found.mu - truth)
    assert np.allclose([r[header.index('bias_ppm')] for r in rows], error.mean(0)) and np.allclose([r[header.index('rmse_ppm')] for r in rows], np.sqrt((error**2).mean(0))) and rows[5][2] == 8
    header, rows = catalogue_views.coverage_rows(truth, found.mu, found.sigma)
    one = [r for r in rows if r[0] == .6827]
    assert len(one) == N and np.allclose([r[4] for r in one], (np.abs(found.mu - truth) <= ndtri(.5 + .6827/2)*found.sigma).mean(0)) and all(r[5] <= r[4] <= r[6] for r in rows)
    numbers = catalogue_views.catalogue_numbers(found.planet_id, truth, found.mu, found.sigma, report)
    assert numbers['worst'][0]['planet_id'] == int(report.planet_id[np.argmin(report.per_planet)]) and numbers['rmse_ppm']['airs'] == pytest.approx(report.metrics()['rmse_airs_ppm']) and json.dumps(numbers)
    pictures = catalogue_views.catalogue_pictures(found.planet_id, truth, found.mu, found.sigma, report)
    assert len(pictures) == 8 and all(p.falsifies for p in pictures[:7]) and len({p.title for p in pictures}) == 8
    assert [type(p) for p in catalogue_views.catalogue_pictures(found.planet_id[:1], truth[:1], found.mu[:1], found.sigma[:1])] == [Missing]


def test_hindsight_scores_at_least_as_well_as_any_other_factor():
    rng = np.random.default_rng(2)
    truth = rng.lognormal(-4.4, .4, (30, 1)) + 1e-5*rng.normal(size=(30, N))
    sigma = np.full((30, N), 4e-5)
    mu, naive = truth + sigma*rng.normal(size=truth.shape)*np.r_[2., np.full(N - 1, .6)], naive_statistics(truth)
    fgs1, airs = catalogue_views.hindsight_factors(truth, mu, sigma, *naive)
    def total(a, b): return score((np.arange(30), truth), Spectra(np.arange(30), mu, sigma*np.r_[a, np.full(N - 1, b)]), *naive).unclipped
    assert fgs1 == pytest.approx(2, rel=.3) and airs == pytest.approx(.6, rel=.05)
    assert all(total(fgs1, airs) >= total(fgs1*a, airs*b) for a in (.9, 1., 1.1) for b in (.9, 1., 1.1))


def test_what_was_not_made_says_why():
    off = dict(made=False, reason='no `network` here')
    parts = [*model_views.attribution_parts(off), *model_views.shapley_parts(off), *model_views.attention_parts(off), *model_views.embedding_parts(off, {}), *model_views.residual_parts(off), *model_views.rule_parts(off, None, ())]
    assert len(parts) == 6 and all(isinstance(p, Missing) and 'no `network` here' in p.why for p in parts) and model_views.rule_table(off) == []


def test_injection_rows_say_what_was_wanted():
    row = dict(level='counts', signal=EVIL, measure='left', value=.3, low=.2, high=.4, least=0., most=.1, unit=EVIL, rule='', planets=4, verdict='beyond', passed=False)
    told = row | dict(measure='recovered', value=.28, least=None, most=None, verdict='reported', rule='reported', passed=True, expected=.27)
    failing = row | dict(low=.05, verdict='open', rule='interval within')
    verdict, *pictures, table = model_views.injection_parts(dict(rows=[row, told, failing], planets=[1, 2, 3, 4], split=EVIL))
    assert isinstance(verdict, Html) and [type(p) for p in pictures] == [Picture]*2 and '0 to 0.1' in table and 'beyond</b>' in table and '<img' not in verdict + table
    assert '2 rows judged: 0 hold, 1 are open, 1 lie beyond their bounds. 1 are only reported. 2 of them fail.' in verdict and model_views.AFTERWARDS[:40] in verdict
    assert '0.27 expected' in table and table.count(', fails') == 1 and 'only reported' in {t.name for t in pictures[0].figure.data}


def test_every_answer_is_drawn_with_its_intervals():
    feature = lambda k: dict(name=f'ring AIRS {k}', value=.01*k, low=.005*k, high=.02*k)
    outputs = [dict(quantity=q, band=b, unit='sigma', groups=[feature(k) for k in range(3)], features=[feature(k) for k in range(20)]) for q, b in (*(('mu', f'band {k}') for k in range(7)), ('sigma', 'FGS1'), ('sigma', 'AIRS'))]
    part = dict(made=True, method='gradients', baseline='zero', completeness=.01, planets=[1, 2], outputs=outputs, background=3)
    drawn = [p for p in model_views.attribution_parts(part) if isinstance(p, Picture)]
    assert [p.title for p in drawn] == [*(f'The depth, band {k}' for k in range(7)), 'Sigma, FGS1', 'Sigma, AIRS']
    shap = model_views.shapley_parts(part)
    assert len(shap) == 9 and len({p.title for p in shap}) == 9
    for p in (*drawn, *shap):
        bars, = p.figure.data
        assert bars.error_x.array is not None and len(bars.error_x.array) == len(bars.x)
    top = shap[0].figure.data[0]
    assert top.y[0].strip() == 'residual at star ring 19, AIRS' and top.error_x.array[0] == pytest.approx(.19) and top.error_x.arrayminus[0] == pytest.approx(.095)
    points = dict(planet_id=[1, 2, 3, 4], split=['test']*4, x=[0, 1, 2, 3], y=[0, 1, 0, 1])
    planets = dict(planet_id=[1, 2, 3, 4], score=[.1, .2, .3, .4], violation=[1, 2, 3, 4], fft_class=['white', 'red', 'white', 'red'], entropy=[1., 2., 3., 4.])
    maps = model_views.embedding_parts(dict(made=True, points=points, axes=['a', 'b'], space='latents', kept=.66), planets)
    assert [p.title.rpartition('by ')[2] for p in maps] == ['score', 'violation', 'class of the residual', 'entropy per bin'] and all('66 % of the nearest neighbours' in p.caption for p in maps)


def test_data_block_survives_any_text():
    for text in (EVIL, '<!--', ']]>', '\u2028', '& \\u003c'):
        inner = data_block('x', json.dumps({'a': text}, ensure_ascii=False)).split('>', 1)[1].rsplit('<', 1)[0]
        assert '<' not in inner and json.loads(inner) == {'a': text}
