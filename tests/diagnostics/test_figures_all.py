"Every picture: units on its axes, readable on both grounds and with any colour vision, small, foreign names shown as they are, the same bytes twice."
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from spectramind.core.errors import UsageError
from spectramind.core.nouns import DepthPosterior, Spectra
from spectramind.diagnostics import figures, theme
from spectramind.diagnostics.spectrum_figures import SOURCE_COLOURS
from spectramind.lightcurve.budget import SOURCES, allan_curve
from spectramind.scoring.score import score
from spectramind.uncertainty.coverage import pit_band, reliability, z_histogram

N, EVIL = 283, '<b>%{x}</b><a href="javascript:alert(1)">x</a>'
SHOWN = sorted(name for name in figures.__all__ if name.startswith('show_'))


def examples():
    "One call of each function, by name; the names in them are hostile where a name is an argument."
    rng = np.random.default_rng(0)
    truth = rng.lognormal(-4.4, .4, (12, 1))*np.ones(N)
    sigma = 1e-4*rng.lognormal(0, .3, (12, 1))*np.ones(N)
    mu, ids, um = truth + sigma*rng.normal(size=truth.shape), [EVIL, *range(11, 22)], np.linspace(1.95, 3.9, 282)
    hours, cov = np.linspace(0, 7.5, 120), np.full((N, N), 2e-9) + np.eye(N)*1e-8
    curves = {'visit_0': {key: dict(time_h=hours, flux=1 + 1e-3*rng.normal(size=120), model=np.ones(120)) for key in ('fgs1', 'airs')}}
    flux, z = 1 + 1e-3*rng.normal(size=(120, 282)), (mu - truth)/sigma
    frame, report = 500 + 100*rng.random((32, 60)), score((np.arange(12), truth), Spectra(np.arange(12), mu, sigma), .0146, .0107)
    budget = {name: np.full(N, (k + 1)*1e-5) for k, name in enumerate(SOURCES)}
    budget |= dict(total=np.sqrt(sum(v**2 for v in budget.values())), final=np.full(N, 3e-5))
    band = pit_band(rng.uniform(size=(12, 1)))
    rows = [dict(epoch=e, loss=1/(e + 1), unclipped=.5) for e in range(4)]
    noise, walk, jitter, draws = 1e-4*rng.standard_normal(120), rng.normal(size=(120, 2)), rng.random((120, 2)), rng.normal(size=(200, 2))
    return dict(
        show_raw_frame=lambda: figures.show_raw_frame({EVIL: frame}),
        show_calibration_steps=lambda: figures.show_calibration_steps({'raw': frame, EVIL: frame - 400, 'flat': frame}, {'raw': 'ADU', EVIL: 'e-', 'flat': 'e-'}),
        show_light_curve=lambda: figures.show_light_curve(curves),
        show_light_curve_map=lambda: figures.show_light_curve_map(hours, um, flux, np.ones_like(flux), 1e-3),
        show_residual_map=lambda: figures.show_residual_map(hours, um, flux, np.ones_like(flux), 1e-3),
        show_allan=lambda: figures.show_allan({EVIL: allan_curve(noise, hours)}),
        show_pointing=lambda: figures.show_pointing(hours, walk, jitter),
        show_corner=lambda: figures.show_corner(draws, (EVIL + ' (ppm)', 'b'), np.zeros(2)),
        show_spectrum=lambda: figures.show_spectrum(mu[0], sigma[0], truth[0], DepthPosterior(1, mu[0], cov), scale_height_ppm=80.),
        show_covariance=lambda: figures.show_covariance(cov),
        show_prior_posterior=lambda: figures.show_prior_posterior(truth[1], 2*sigma[0], mu[0], 2*sigma[0], mu[0], sigma[0], truth[0]),
        show_error_budget=lambda: figures.show_error_budget(budget),
        show_refinement=lambda: figures.show_refinement((mu[0], sigma[0]), (truth[0], sigma[0]), truth[0]),
        show_score=lambda: figures.show_score(report),
        show_coverage=lambda: figures.show_coverage(report),
        show_reliability=lambda: figures.show_reliability({EVIL: reliability(truth, mu, sigma)}),
        show_pit=lambda: figures.show_pit({'fgs1': band, EVIL: band}),
        show_z_histogram=lambda: figures.show_z_histogram(z_histogram(z)),
        show_sigma_error=lambda: figures.show_sigma_error(sigma, mu - truth),
        show_z_map=lambda: figures.show_z_map(z, ids),
        show_bias=lambda: figures.show_bias(mu, sigma, truth),
        show_wavelength_coverage=lambda: figures.show_wavelength_coverage(z),
        show_score_histogram=lambda: figures.show_score_histogram(report.per_planet, ids),
        show_violations=lambda: figures.show_violations(np.abs(z), ids, unit=EVIL),
        show_training=lambda: figures.show_training({EVIL: rows}),
        show_attention=lambda: figures.show_attention(np.full((2, N, N), 1/N)),
        show_embedding=lambda: figures.show_embedding(mu[:, :2], ids, [EVIL, 'white', None]*4, EVIL, (EVIL + ' (%)', 'component 2')),
        show_band_attribution=lambda: figures.show_band_attribution([EVIL, 'FGS1'], [1., -2.], [0, -3], [2, -1]),
        show_feature_attribution=lambda: figures.show_feature_attribution([EVIL, 'a'], [1., -2.]),
        show_rule_ranking=lambda: figures.show_rule_ranking([EVIL, 'a'], [1., 2.]))


EXAMPLES = examples()
UNIT = re.compile(r'\((ppm|px|h|um|µm|%|sigma|mpx|mpx rms|penalty|0 to 1|1 = average|ADU|e-)\)|FGS1 \(|scale heights')
BARE = {'FGS1', 'relative flux', 'score', 'score of the planet', 'share', 'observed share', 'nominal share, FGS1', 'nominal share, AIRS', 'predicted quantile', 'share below it − quantile', 'number of planets', 'planets, best first',
        'planet', 'gases', 'epoch', 'training loss', 'held-out score', 'b', 'component 1', 'component 2'}   # numbers without a unit, names, and the one bin at 0.7 µm


def axes(figure):
    "(name, axis) of every axis that something is drawn on and that is seen."
    used = {(getattr(t, d + 'axis') or d).replace(d, d + 'axis') for t in figure.data for d in 'xy'}
    return [(name, figure.layout[name]) for name in sorted(used) if figure.layout[name].visible is not False]


def test_every_picture_has_an_example_and_the_gallery_shows_it():
    assert SHOWN == sorted(EXAMPLES) and len(SHOWN) == 30
    gallery = json.loads((Path(__file__).parents[2]/'nbs/85_diagnostics/00_figures.ipynb').read_text(encoding='utf-8'))
    cells = [''.join(c['source']) for c in gallery['cells'] if c['cell_type'] == 'code' and '#| export' not in ''.join(c['source'])]
    pictures = [c for c in gallery['cells'] if c['cell_type'] == 'code' and any('plotly-graph-div' in ''.join(o.get('data', {}).get('text/html', '')) for o in c['outputs'])]
    for name in SHOWN: assert sum(len(re.findall(rf'\b{name}\(', cell)) for cell in cells) == 1, name
    assert len(pictures) == len(SHOWN)


@pytest.mark.parametrize('name', SHOWN)
def test_units_on_every_axis(name):
    figure = EXAMPLES[name]()
    by_row, seen = {}, axes(figure)
    for key, axis in seen:
        if axis.title.text: by_row.setdefault((key[0], tuple(axis.domain or (0, 1)) if key[0] == 'y' else None), []).append(axis.title.text)
    assert any(axis.title.text for key, axis in seen if key[0] == 'x') and by_row
    for key, axis in seen:
        title = axis.title.text
        if title: assert UNIT.search(title) or title in BARE, f'{name} {key}: {title!r}'
        elif key[0] == 'y':          # named by a panel beside it, or its labels are names, or (a corner plot's diagonal) it counts draws
            counts = name == 'show_corner' and axis.showticklabels is False
            assert by_row.get(('y', tuple(axis.domain or (0, 1)))) or axis.type == 'category' or counts, f'{name} {key}'
        else:
            named = all(isinstance(v, str) for t in figure.data if (t.xaxis or 'x') == key.replace('axis', '') for v in t.x)
            assert axis.showticklabels is False or named or axis.matches, f'{name} {key}'
    for trace in figure.data:
        if trace.type == 'heatmap' and trace.showscale is not False:
            told = trace.colorbar.title.text
            assert UNIT.search(told) or told in ('ADU', 'e-') or name == 'show_violations', f'{name}: {told!r}'


@pytest.mark.parametrize('name', SHOWN)
def test_small_repeatable_and_safe(name):
    first = EXAMPLES[name]().to_json()
    assert first == examples()[name]().to_json() and len(first) < 180_000
    assert '<a href' not in first and '<b>%{x}' not in first and '\\u003ca href' not in first
    layout = json.loads(first)['layout']
    assert layout['paper_bgcolor'] == layout['plot_bgcolor'] == 'rgba(0,0,0,0)' and layout['font']['color'] == theme.INK
    assert not [t['type'] for t in json.loads(first)['data'] if t['type'].endswith('gl')]


def test_maps_of_a_thousand_planets_stay_small():
    z = np.random.default_rng(0).normal(size=(1100, N))
    ids = np.arange(1100) + 3_000_000_000
    for draw in (figures.show_z_map, figures.show_violations): assert len(draw(np.abs(z), ids).to_json()) < 140_000


def test_every_calibration_picture_says_what_would_falsify_it():
    wanted = {'show_coverage', 'show_reliability', 'show_pit', 'show_z_histogram', 'show_sigma_error', 'show_z_map', 'show_bias', 'show_wavelength_coverage'}
    assert set(figures.FALSIFIES) == wanted <= set(SHOWN) and all(text.endswith('.') and len(text) > 40 for text in figures.FALSIFIES.values())


# Colours. WCAG 2.1 contrast; dichromats after Machado, Oliveira and Fernandes (2009), severity 1; distances in CIELAB (D65).

DICHROMAT = dict(normal=np.eye(3),
                 protanopia=[[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
                 deuteranopia=[[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
                 tritanopia=[[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]])
XYZ = np.array([[.4124564, .3575761, .1804375], [.2126729, .7151522, .0721750], [.0193339, .1191920, .9503041]])


def linear(colour):
    value = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)])/255
    return np.where(value <= .04045, value/12.92, ((value + .055)/1.055)**2.4)


def contrast(a, b):
    dark, light = sorted(float(XYZ[1] @ linear(c)) for c in (a, b))
    return (light + .05)/(dark + .05)


def lab(rgb):
    t = XYZ @ np.clip(rgb, 0, 1)/XYZ.sum(1)
    f = np.where(t > (6/29)**3, np.cbrt(t), t/(3*(6/29)**2) + 4/29)
    return np.array([116*f[1] - 16, 500*(f[0] - f[1]), 200*(f[1] - f[2])])


def distance(a, b, eye): return float(np.linalg.norm(np.subtract(*(lab(np.array(DICHROMAT[eye]) @ linear(c)) for c in (a, b)))))


def test_the_measures_know_what_is_known():
    assert np.isclose(contrast('#000000', '#ffffff'), 21) and np.isclose(contrast('#777777', '#ffffff'), 4.48, atol=.01)     # WCAG's own examples
    np.testing.assert_allclose(lab(linear('#ff0000')), [53.24, 80.09, 67.20], atol=.05)
    assert distance('#1b9e77', '#d6604d', 'normal') > 80 and distance('#1b9e77', '#d6604d', 'protanopia') < 16                 # a red and a green that a protanope confuses


@pytest.mark.parametrize('name', sorted(theme.COLOURS))
def test_contrast_on_both_grounds(name):
    for ground in ('#ffffff', '#f7f8fa', '#1a2027', '#12161b', *(t['ground'] for t in theme.THEMES.values())): assert contrast(theme.COLOURS[name], ground) >= 3, ground


def test_texts_can_be_read():
    assert min(contrast(theme.INK, ground) for ground in ('#ffffff', '#1a2027')) >= 3.7
    assert all(contrast(t['ink'], t['ground']) >= 7 for t in theme.THEMES.values())


@pytest.mark.parametrize('eye', sorted(DICHROMAT))
def test_any_eye_tells_the_colours_apart(eye):
    least = min((distance(theme.COLOURS[a], theme.COLOURS[b], eye), a, b) for a, b in itertools.combinations(theme.COLOURS, 2))
    assert least[0] > 14, least
    core = [theme.COLOURS[name] for name in ('blue', 'orange', 'green', 'red', 'grey')]
    assert min(distance(a, b, eye) for a, b in itertools.combinations(core, 2)) > 17
    stack = [SOURCE_COLOURS[name] for name in SOURCES]
    assert min(distance(a, b, eye) for a, b in itertools.pairwise(stack)) > 14                     # neighbours in the error budget
    assert set(stack) == set(SOURCE_COLOURS.values()) and len(set(stack)) == len(stack)


@pytest.mark.parametrize('eye', sorted(DICHROMAT))
def test_diverging_maps_darken_evenly_to_two_different_ends(eye):
    light = [lab(np.array(DICHROMAT[eye]) @ linear(colour))[0] for _, colour in theme.DIVERGING]
    assert light[0] < light[1] < light[2] > light[3] > light[4] and distance(theme.DIVERGING[0][1], theme.DIVERGING[4][1], eye) > 40 and distance(theme.DIVERGING[1][1], theme.DIVERGING[3][1], eye) > 35


def test_templates_are_registered_and_a_theme_is_a_copy():
    import plotly.io as pio
    before = pio.templates.default
    try:
        assert figures.register_templates('dark') == ['spectramind_light', 'spectramind_dark'] and pio.templates.default == 'spectramind_dark'
        assert pio.templates['spectramind_dark'].layout.paper_bgcolor == theme.THEMES['dark']['ground'] and pio.templates['spectramind_light'].layout.colorway[0] == theme.COLOURS['blue']
    finally: pio.templates.default = before
    plain = EXAMPLES['show_score']()
    dark = figures.in_theme(plain, 'dark')
    assert dark.layout.paper_bgcolor == theme.THEMES['dark']['ground'] and plain.layout.paper_bgcolor == 'rgba(0,0,0,0)'
    with pytest.raises(UsageError, match='light, dark'): figures.in_theme(plain, 'sepia')


# What the new pictures draw.

def test_planet_maps_draw_means_of_neighbours():
    z = np.zeros((5, N))
    z[2, 0], z[3, 1:13] = 3, 2
    figure = figures.show_z_map(z, np.arange(5), cells=5*25)                    # blocks of twelve bins, tenths of sigma
    assert figure.data[0].z[:, 0].tolist() == [0, 0, 30, 0, 0] and figure.data[1].z[3, :2].tolist() == [20, 0] and figure.data[1].z.shape == (5, 24)
    violation = figures.show_violations(z, np.arange(5), cells=5*25).data[1]
    assert violation.z.max() == 100 and violation.z.dtype == np.int8 and violation.colorbar.ticktext[-1] == '≥ 2'
    assert list(figure.data[1].y) == [f'{k} ' for k in range(5)]
    for wrong in (np.zeros((5, 282)), np.zeros((4, N)), np.zeros((0, N)), np.full((5, N), np.nan)):
        with pytest.raises(UsageError, match='found'): figures.show_z_map(wrong, np.arange(5))


def test_bias_and_coverage_know_their_numbers():
    rng = np.random.default_rng(1)
    truth, sigma = np.full((400, N), .01), np.full((400, N), 1e-4)
    mu = truth + 2e-5 + sigma*rng.normal(size=truth.shape)
    table = figures.bias_table(mu, sigma, truth)
    assert abs(table['bias'].mean() - 20) < 1 and np.allclose(table['claimed'], 100) and abs((table['bias'] - 20).std()/table['bias_se'].mean() - 1) < .15
    spread = table['rmse'].std()/table['rmse_se'].mean()
    assert abs(table['rmse'].mean() - np.hypot(100, 20)) < 1 and .85 < spread < 1.15
    low, high = figures.binomial_band(400, .6827)
    honest = np.abs(rng.normal(size=(400, N))) <= 1
    assert .88 < ((honest.mean(0) >= low) & (honest.mean(0) <= high)).mean() <= 1 and figures.binomial_band(1, .5) == (0, 1)
    shares = next(t for t in figures.show_wavelength_coverage((mu - truth)/sigma).data if t.name == 'observed').y
    np.testing.assert_allclose(shares, 100*(np.abs(mu - truth) <= sigma).mean(0)[1:], atol=.6)
    with pytest.raises(UsageError, match='two planets'): figures.bias_table(mu[0], sigma[0], truth[0])
    with pytest.raises(UsageError, match='level'): figures.show_wavelength_coverage(mu, level=1.)


def test_sigma_against_error_finds_a_wrong_width_and_its_interval_holds_the_truth():
    rng = np.random.default_rng(2)
    sigma = 1e-4*rng.lognormal(0, .5, (200, 1))*np.ones(N)
    figure = figures.show_sigma_error(sigma, sigma*rng.normal(size=sigma.shape)*np.r_[2., np.ones(N - 1)])
    fgs1, airs = figure.data[1], figure.data[3]
    assert len(fgs1.x) == 8 and np.all(fgs1.y - fgs1.error_y.arrayminus > fgs1.x) and np.allclose(airs.y, airs.x, rtol=.1)
    assert np.mean((airs.y - airs.error_y.arrayminus <= airs.x) & (airs.x <= airs.y + airs.error_y.array)) >= .6
    with pytest.raises(UsageError, match='positive sigma'): figures.show_sigma_error(0*sigma, sigma)


def test_spectrum_gains_gases_and_scale_heights():
    from spectramind.symbolic.rules import scale_height_depth
    mu, sigma = np.full(N, .01), np.full(N, 5e-5)
    assert len(figures.show_spectrum(mu, sigma).data) == len(figures.show_spectrum(mu, sigma, windows={}).data) + 1 + len(figures.molecule_windows())
    windows = figures.molecule_windows()
    for name, ranges in windows.items(): assert all(1.95 <= a < b <= 3.9 for a, b in ranges) and all(b < c for (_, b), (c, _) in itertools.pairwise(ranges)), name
    figure = figures.show_spectrum(mu, sigma, scale_height_ppm=50.)
    axis, depth = figure.layout.yaxis99, figure.layout.yaxis2
    assert depth.range is not None and np.allclose(np.array(axis.range)*50 + 10_000, depth.range) and depth.fixedrange and axis.fixedrange
    args = (.1, 1.2, 6000., 9., .8)
    assert np.isclose(figures.scale_height_ppm(*args), 1e6*scale_height_depth(args[0], args[1], args[2], args[3], args[4]))
    with pytest.raises(UsageError, match='positive'): figures.show_spectrum(mu, sigma, scale_height_ppm=0.)


def test_covariance_is_drawn_as_correlation():
    sd = np.linspace(1e-5, 5e-5, N)
    figure = figures.show_covariance((.4 + .6*np.eye(N))*np.outer(sd, sd), most=282)
    assert figure.data[0].z.tolist() == [[100]] and set(np.unique(figure.data[3].z)) == {40, 100} and (figure.data[1].z == 40).all()
    with pytest.raises(UsageError, match='positive variances'): figures.show_covariance(np.zeros((N, N)))


def test_attention_adds_up():
    given = np.zeros((N, N))
    given[:, 100] = 1
    figure = figures.show_attention(given, most=282)
    line = next(t for t in figure.data if t.type == 'scatter' and t.mode == 'lines')
    assert line.y[99] == N and line.y.sum() == N and figure.data[2].z[:, 99].min() == 100
    with pytest.raises(UsageError, match='head'): figures.show_attention(given[:5])


def test_bars_are_sorted_and_lists_may_be_short():
    figure = figures.show_rule_ranking(['a', 'b', 'c'], [1, 3, 2], most=2)
    assert list(figure.data[0].y) == ['b ', 'c '] and list(figure.data[0].x) == [3, 2]
    for draw in (figures.show_band_attribution, figures.show_feature_attribution, figures.show_rule_ranking):
        with pytest.raises(UsageError, match='one for each of'): draw(['a'], [1., 2.])
    worst = figures.show_score_histogram(np.array([.9, .1, .5]), [7, 8, 9], worst=2)
    assert list(worst.data[1].y) == ['8 ', '9 '] and worst.data[0].y.sum() == 3


def test_embedding_says_what_is_unknown():
    points = np.arange(8.).reshape(4, 2)
    figure = figures.show_embedding(points, range(4), [.1, None, np.nan, .4], 'score')
    assert [len(t.x) for t in figure.data] == [2, 2] and figure.data[0].name == 'unknown' and list(figure.data[1].text) == ['0', '3']
    assert [t.name for t in figures.show_embedding(points, range(4), ['red', 'white', None, 'red'], 'class').data] == ['red', 'unknown', 'white']
    with pytest.raises(UsageError, match='as many colours'): figures.show_embedding(points, range(4), [1.], 'score')


def test_calibration_steps_say_what_changed():
    rng = np.random.default_rng(3)
    frame = 100 + rng.random((32, 20))
    broken = frame.copy()
    broken[4, 5] = np.nan
    figure = figures.show_calibration_steps({'raw': frame, 'dark': broken - 50, 'filled': frame - 50})
    assert np.isclose(figure.data[2].z[0, 0], -50) and figure.data[4].z[4, 5] == pytest.approx(frame[4, 5] - 50) and not figure.data[4].z[0].any()
    assert figures.show_calibration_steps({'raw': frame, 'cut': frame[:, 1:]}).layout.annotations[-1].text == 'another shape'
    with pytest.raises(UsageError, match='at least two'): figures.show_calibration_steps({'raw': frame})
