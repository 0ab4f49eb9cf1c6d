"Figures carry units on every axis, stay small, and draw what they were given."
import numpy as np
import pytest

from spectramind.core.errors import UsageError
from spectramind.diagnostics.figures import (add_up, credible_mass, show_allan, show_corner, show_error_budget, show_pit, show_refinement, show_reliability,
                                             show_residual_map, show_training, show_z_histogram)
from spectramind.lightcurve.budget import SOURCES, allan_curve

RNG = np.random.default_rng(2)
HOURS = np.linspace(0, 7.5, 300)
UM = np.linspace(1.95, 3.9, 282)


def titles(figure, axis):
    return [a.title.text for a in figure.select_xaxes() if a.title.text] if axis == 'x' else [a.title.text for a in figure.select_yaxes() if a.title.text]


def budget(**more):
    parts = {name: np.full(283, (k + 1)*1e-5) for k, name in enumerate(SOURCES)}
    return parts | dict(total=np.sqrt(sum(v**2 for v in parts.values()))) | more


def test_blocks_keep_white_noise_at_one_sigma_and_leave_gaps_out():
    z = RNG.standard_normal((300, 282))
    z[:6, :8] = np.nan
    z[100:103, 40:44] = np.nan
    found, rows, columns = add_up(z, 100, 71)
    assert found.shape == (100, 71) == (len(rows), len(columns)) and np.isnan(found[:2, :2]).all() and np.isfinite(found[2:, 2:]).sum() >= 98*69 - 1
    assert abs(np.nanstd(found) - 1) < .03
    assert np.allclose(add_up(np.ones((4, 6)), 2, 3)[0], 2.) and add_up(z[:5, :5], 100, 100)[0].shape == (5, 5)


def test_residual_map_in_sigma():
    data = 1 + 1e-3*RNG.standard_normal((300, 282))
    sigma = np.full((300, 282), 1e-3)
    sigma[:, 100] = np.inf
    figure = show_residual_map(HOURS, UM, data, np.ones((300, 282)), sigma, max_wave=300)
    heat = figure.data[0]
    assert heat.z.shape == (282, 100) and np.isnan(heat.z[100]).all() and abs(np.nanstd(heat.z) - 1) < .02
    assert titles(figure, 'x') == ['time (h)'] and titles(figure, 'y') == ['wavelength (µm)'] and heat.colorbar.title.text == 'residual (sigma)'
    assert np.isclose(heat.x[0], HOURS[:3].mean()) and np.allclose(heat.y, UM)
    assert len(show_residual_map(HOURS, UM, data, np.ones((300, 282)), 1e-3).to_json()) < 60_000
    with pytest.raises(UsageError, match='wanted'): show_residual_map(HOURS[1:], UM, data, data, 1e-3)
    with pytest.raises(UsageError, match='wanted'): show_residual_map(HOURS, UM, data, data[:, 1:], 1e-3)


@pytest.mark.parametrize('names', [['AIRS-CH0'], ['FGS1', 'AIRS-CH0']])
def test_allan_has_a_panel_for_each_series(names):
    curves = {name: allan_curve(1e-4*RNG.standard_normal(300), HOURS) for name in names}
    figure = show_allan(curves)
    assert len(figure.data) == 3*len(names) and titles(figure, 'x') == ['averaged over (h)']*len(names) and titles(figure, 'y') == ['rms of averages (ppm)']
    size_h, rms, _, band = curves[names[0]]
    assert np.allclose(figure.data[2].y, 1e6*rms) and figure.data[0].y.max() == np.float32(1e6*band.max())
    for axis in figure.select_yaxes():
        assert axis.type == 'log' and 10**axis.range[0] <= 1e6*band.min() and 10**axis.range[1] >= 1e6*rms.max() and len(axis.tickvals) >= 2
    with pytest.raises(UsageError): show_allan({})


def test_credible_regions_hold_what_they_say():
    counts = np.histogram2d(*RNG.standard_normal((2, 40_000)), bins=(np.linspace(-4, 4, 61),)*2)[0]
    mass = credible_mass(counts)
    for level in (39.3, 68, 95): assert abs(counts[mass < level].sum()/counts.sum() - level/100) < .02
    radius = np.hypot(*np.meshgrid(*[np.linspace(-3.93, 3.93, 60)]*2))
    assert abs(radius[np.abs(mass - 39.3) < 3].mean() - 1) < .1              # a Gaussian's one-sigma circle holds 39.3 %


def test_corner_draws_pairs_below_the_diagonal():
    samples = RNG.standard_normal((3000, 4))*[1, 1e-3, 100, 0] + [9, .3, 12000, 1.]
    labels = ('a/Rs', 'b', 'depth (ppm)', 'fixed')
    figure = show_corner(samples, labels, truth=np.array([9.1, np.nan, 12010., np.nan]))
    assert [t.type for t in figure.data].count('contour') == 6 and [t.type for t in figure.data].count('scatter') == 4
    assert titles(figure, 'x') == list(labels) and titles(figure, 'y') == list(labels[1:])
    assert len(figure.layout.shapes) == 4 + 2 + 0 + 2                        # lines through the columns of two known truths and along one row's two panels
    assert any('± 1.0' in a.text for a in figure.layout.annotations) and len(figure.to_json()) < 80_000
    assert not show_corner(samples, labels).layout.shapes
    for wrong in (samples[:50], samples[:, :3], np.where(np.arange(4) == 1, np.nan, samples)):
        with pytest.raises(UsageError, match='finite draws'): show_corner(wrong, labels)


def test_error_budget_stacks_up_to_sigma():
    whole = budget(final=np.full(283, 3e-5))
    figure = show_error_budget(whole)
    stacked = [t for t in figure.data if t.type == 'scatter' and t.stackgroup]
    assert [t.name for t in stacked] == list(SOURCES.values()) and np.allclose(sum(t.y for t in stacked), 1e6*whole['total'][1:], rtol=1e-5)
    assert np.allclose(sum(t.y[0] for t in figure.data if t.type == 'bar'), 1e6*whole['total'][0], rtol=1e-5) and np.isclose(sum(t.customdata[0] for t in stacked), 100, rtol=1e-5)
    assert titles(figure, 'y') == ['sigma of the depth (ppm)'] and titles(figure, 'x') == ['wavelength (µm)']
    assert [t.name for t in figure.data if t.name and t.type == 'scatter' and not t.stackgroup] == ['with the prior']
    without = show_error_budget({k: v for k, v in budget(red=np.zeros(283)).items()})
    assert 'noise that does not average out' not in [t.name for t in without.data] and len(without.to_json()) < 60_000
    for wrong in ({}, dict(photon=np.ones(283)), dict(total=np.ones(283)), budget(drift=np.ones(282))):
        with pytest.raises(UsageError, match='wanted sources'): show_error_budget(wrong)


def test_refinement_is_drawn_about_the_physics_and_refuses_other_shapes():
    mu, sigma = np.full(283, .01), np.full(283, 5e-5)
    figure = show_refinement((mu, sigma), (mu + 2e-5, .5*sigma), mu + 3e-5)
    lines = {trace.hovertemplate.split("<extra>")[1].split("<")[0]: np.asarray(trace.y, float) for trace in figure.data if trace.mode == "lines" and trace.hovertemplate}
    np.testing.assert_allclose(lines["physics"], 0, atol=1e-3)
    np.testing.assert_allclose(lines["refined"], 20, atol=1e-3)
    np.testing.assert_allclose(lines["truth"], 30, atol=1e-3)
    np.testing.assert_allclose(figure.data[0].error_y.array, 50, rtol=1e-6)
    assert len(show_refinement((mu, sigma), (mu, sigma)).data) == 6
    with pytest.raises(UsageError, match="283"): show_refinement((mu[:5], sigma), (mu, sigma))


def test_training_draws_supervised_epochs_of_each_member():
    rows = [dict(phase="mae", epoch=1, loss=3.), dict(phase="supervised", epoch=0, unclipped=.5), dict(phase="supervised", epoch=1, loss=.4, unclipped=.6)]
    figure = show_training({"fold0_seed0": rows, "<b>": rows})
    assert [list(trace.x) for trace in figure.data] == [[1], [0, 1]]*2 and list(figure.data[1].y) == [.5, .6]
    with pytest.raises(UsageError, match="histories"): show_training({})


def test_calibration_pictures_hold_the_numbers_they_are_given():
    from spectramind.uncertainty.coverage import pit_band, reliability, z_histogram
    rng = np.random.default_rng(3)
    truth = .01 + 1e-4*rng.normal(size=(40, 283))
    tables = {name: reliability(truth, truth + 1e-4*rng.normal(size=truth.shape), np.full_like(truth, s)) for name, s in (("before", 5e-5), ("after", 1e-4))}
    figure = show_reliability(tables)
    np.testing.assert_allclose(figure.data[1].y, tables["before"]["fgs1"][:, 1], rtol=1e-6)
    assert len(figure.data) == 6 and np.mean(figure.data[2].y) > np.mean(figure.data[1].y)
    bands = dict(fgs1=pit_band(rng.uniform(size=(40, 1))), airs=pit_band(rng.uniform(size=(40, 282))))
    np.testing.assert_allclose(show_pit(bands).data[3].y, bands["airs"].ecdf - bands["airs"].u, atol=1e-6)
    z = z_histogram(rng.normal(size=(40, 283)))
    figure = show_z_histogram(z)
    np.testing.assert_allclose(figure.data[1].y, z["airs"], rtol=1e-6)
    assert len(figure.data[0].x) == len(z["edges"]) + 1
