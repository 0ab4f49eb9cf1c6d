"The façade: the same products as the command line, lazily, by id; and its ways of showing itself."
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spectramind import SpectraMind, explore
from spectramind.core.errors import ConfigError, DataError, UsageError
from spectramind.pipeline import facade, stages, units
from spectramind.pipeline.products import read_predictions

QUIET = dict(tell=lambda line: None)
QUICK = ("model=physics_only", "executor=serial", "records.sample_s=0")


@pytest.fixture(scope="module")
def front(sky, tmp_path_factory):
    return SpectraMind(tmp_path_factory.mktemp("front")/"my run, [1]", *QUICK, root=sky, **QUIET)


def products(work): return {p.relative_to(work).as_posix(): p.read_bytes() for p in sorted(Path(work).glob("data/**/*.npz"))}


def test_one_planet_costs_one_planet(front):
    planet = next(iter(front.planets.only("test").values()))
    spectrum = planet.spectrum
    assert spectrum.origin == facade.ALONE and np.array_equal(spectrum.mu, planet.posterior.mean) and np.array_equal(spectrum.cov, planet.posterior.cov)
    made = list(products(front.config.paths.work))
    assert made and all(f"planet_{planet.planet_id}" in name for name in made)
    assert planet.truth is None and len(planet.curves) == len(planet.visits) and planet.raw("FGS1").shape == (32, 32)


def test_the_same_bytes_as_a_run(front, reference, monkeypatch):
    for planet in front.planets.values(): planet.posterior
    mine = {name: data for name, data in products(front.config.paths.work).items() if "calibrated" not in name}
    theirs = {name: data for name, data in products(reference[0]).items() if "calibrated" not in name}
    assert mine == theirs
    monkeypatch.setattr(units, "fit_planet", lambda *_: pytest.fail("a standing fit was done again"))
    monkeypatch.setattr(units, "calibrate_visit", lambda *_, **__: pytest.fail("standing light curves were made again"))
    assert all((planet.posterior.mean > 0).all() for planet in front.planets.values())


def test_verbs_do_what_is_missing_before_them(sky, tmp_path, reference):
    told = []
    sm = SpectraMind(tmp_path/"run", *QUICK, root=sky, tell=told.append)
    sm.submit()
    assert sm._done == {"features", "fit", "train", "predict", "submit"}
    assert (tmp_path/"run"/"dist"/"submission.csv").read_bytes() == (reference[0]/"dist"/"submission.csv").read_bytes()
    planet = next(iter(sm.planets.only("test").values()))
    row = list(read_predictions(tmp_path/"run"/"artifacts"/"predictions").planet_id).index(planet.planet_id)
    spectrum = planet.spectrum
    assert spectrum.origin in ("physics", "prior") and np.allclose(spectrum.mu, read_predictions(tmp_path/"run"/"artifacts"/"predictions").mu[row])
    with pytest.raises(DataError, match="no page"): sm.page
    figures = sm.report()
    assert sm.page.is_file() and "planets" in figures and "<table>" in figures._repr_html_()
    label = next(iter(sm.planets.only("train").values()))
    assert np.array_equal(label.truth, dict(zip(*stages.labels_of(sky)))[label.planet_id])


def test_steps_of_a_frame(front):
    planet = next(iter(front.planets.values()))
    steps = planet.steps("AIRS-CH0")
    assert list(steps) == ["raw frame", "gain and CDS", "linearity", "dark", "flat", "bad pixels filled"] and {f.shape for f in list(steps.values())[1:]} == {(32, 282)}
    frames = planet.frames()["AIRS-CH0"]
    assert any(np.array_equal(steps["bad pixels filled"], frame) for frame in np.asarray(frames.frames))
    before, after = steps["dark"], steps["flat"]
    known = np.isfinite(after)                                            # a dead pixel has no flat; the last step fills it
    assert known.mean() > .95 and np.isfinite(steps["bad pixels filled"]).all() and 0 < np.median(np.abs(after/before - 1)[known & (before > 100)]) < .2


def test_explore_is_complete_in_itself(front):
    planet = next(iter(front.planets.only("test").values()))
    figure = explore(planet)
    document = figure.to_json()
    slider = figure.layout.sliders[0]
    assert len(slider.steps) == 26 and len(figure.layout.updatemenus[0].buttons) == 2 and len(document) < 2e6
    for step in slider.steps:
        shown = step.args[0]["visible"]
        assert len(shown) == len(figure.data) and sum(shown) == sum(t.visible is not False for t in figure.data)
    ys, at = (figure.layout.updatemenus[0].buttons[1].args[k] for k in ((0, 1)))
    assert len(ys["y"]) == len(at) and all(len(y) == len(figure.data[i].x) for y, i in zip(ys["y"], at))
    box = explore(planet, live=True)
    assert {type(w).__name__ for w in box.children[0].children} == {"IntRangeSlider", "IntSlider", "Dropdown"}


def test_showing_oneself(front):
    planets = front.planets
    html, first = planets._repr_html_(most=3), next(iter(planets))
    assert html.count("<tr>") == 1 + 3 + 1 and f"and {len(planets) - 3} more" in html and "<svg" in html
    assert planets._ipython_key_completions_() == list(planets) and planets[str(first)].planet_id == planets[float(first)].planet_id == first
    assert first in planets and "../x" not in planets and 77 not in planets
    assert "5 with labels, 2 to predict" in front._repr_html_() and re.search(r"my run, \[1\]", front._repr_html_())
    assert "<script" not in facade.Figures({"<script>": "<script>"})._repr_html_()
    assert str(front.config.paths.work) not in repr(front)


def test_refusals(front, tmp_path, sky):
    with pytest.raises(UsageError, match="wanted one of the 7 planets"): front.planets[77]
    with pytest.raises(UsageError, match="wanted one to twelve digits"): front.planets["../7"]
    with pytest.raises(UsageError, match="wanted train or test"): front.planets.only("val")
    with pytest.raises(UsageError, match="AIRS-CH1"): next(iter(front.planets.values())).raw("AIRS-CH1")
    with pytest.raises(UsageError, match="visit: found 9"): next(iter(front.planets.values())).frames(9)
    with pytest.raises(UsageError, match="read in place"): front.simulate()
    with pytest.raises(ConfigError, match="unknown key modle"): SpectraMind(tmp_path, "modle=v50", root=sky)
    with pytest.raises(DataError, match="no folder"): SpectraMind(tmp_path, *QUICK, root=tmp_path/"nowhere").planets


def test_the_package_itself_stays_light():
    "The front door costs nothing until it is used."
    code = "import sys, spectramind; assert 'spectramind.pipeline' not in sys.modules; assert 'SpectraMind' in dir(spectramind); spectramind.SpectraMind; print('plotly' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]
    with pytest.raises(AttributeError, match="nothing_here"):
        import spectramind
        spectramind.nothing_here


def test_a_simulation_that_was_interrupted_is_gone_on_with(tmp_path):
    from spectramind.core.store import write_json
    from spectramind.pipeline.config import load_config
    config = load_config(["data=smoke", f"paths.work={tmp_path}"])
    assert facade._unfinished(config)                                        # there is no tree
    Path(config.data.root).mkdir(parents=True)
    assert not facade._unfinished(config)                                    # not made here: nobody's business
    note = tmp_path/"truth"/"smoke"/"tree.json"
    for complete in (False, True):
        write_json(note, dict(settings={}, complete=complete))
        assert facade._unfinished(config) is not complete
