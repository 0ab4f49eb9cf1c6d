"The dashboard is made from what lies on disk: whoever did the work, it has the same bytes."
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spectramind.challenge.layout import Challenge
from spectramind.core.errors import DataError
from spectramind.core.nouns import Spectra
from spectramind.core.provenance import code_hash, write_record
from spectramind.core.store import read_csv_rows, read_json, sha256_file, write_json
from spectramind.diagnostics.page import comparable
from spectramind.pipeline import report, stages, submitting
from spectramind.pipeline.cli import app
from spectramind.pipeline.config import load_config
from spectramind.pipeline.products import Made, Workplace, read_predictions
from spectramind.pipeline.run import closer_look, run

PAGE = Path("artifacts")/"reports"/"diagnostics_dashboard.html"


def alike(path): return comparable(path.read_text())      # without times and folders


@pytest.fixture(scope="module")
def known(sky, reference, tmp_path_factory):
    "The reference's products with the truth beside them: settings and work folder."
    work = shutil.copytree(reference[0], tmp_path_factory.mktemp("known")/"work", copy_function=shutil.copy2)
    shutil.copytree(sky.parent/"truth", work/"truth"/"smoke")
    return load_config(["data=smoke", "calib.persist=none", "model=physics_only", f"data.root={sky}", f"paths.work={work}", "executor=serial"]), work


def test_stage_by_stage_and_all_at_once_give_the_same_page(sky, reference, tmp_path):
    words = ["data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={tmp_path}", "executor=serial"]
    for stage in (["features"], ["fit"], ["predict"], ["diagnose", "dashboard"]):
        said = CliRunner().invoke(app, [*stage, *words])
        assert said.exit_code == 0, said.output
    assert f"page: {tmp_path/PAGE}" in said.output and alike(tmp_path/PAGE) == alike(reference[0]/PAGE)      # of another folder, made by `run`
    first = read_json(tmp_path/"artifacts"/"reports"/"score.json")
    assert first == read_json(reference[0]/"artifacts"/"reports"/"score.json") == dict(planets=2, planets_failed=0, rows_physics=2, visits_lost=0)


def test_the_score_is_that_of_the_submission_and_of_run(known):
    config, work = known
    closer_look(config)
    figures = report.diagnose_dashboard(config)
    page = alike(work/PAGE)
    told = submitting.score_file(work/"dist"/"submission.csv", stages.truth_of(config), stages.labels_of(config.data.root))
    assert {k: figures[k] for k in told.metrics()} == told.metrics()
    summary = run(config)
    assert summary.score.total == told.total and alike(summary.page) == page
    table = read_csv_rows(work/"artifacts"/"reports"/"plots"/"coverage.csv")
    assert table[0] == ["nominal", "honest", "fgs1", "airs"] and len(table[1]) == 19 and all(0 <= float(cell) <= 1 for row in table[1] for cell in row)
    assert (work/"artifacts"/"reports"/"plots"/"training.csv").read_text() == "epoch,loss,held_out_score\n"


def planets_of(path): # what the page packs of its planets
    import base64
    import gzip
    import json
    import re
    import struct
    data = gzip.decompress(base64.b64decode(re.search(r'id="planets">([^<]*)<', path.read_text()).group(1)))
    return json.loads(data[4:4 + struct.unpack("<I", data[:4])[0]])["document"]


def test_a_light_page_has_every_planet_but_few_pictures_and_goes_where_it_is_told(known, tmp_path):
    config, work = known
    report.diagnose_dashboard(config)
    small = load_config(["data=smoke", "calib.persist=none", "model=physics_only", f"data.root={config.data.root}", f"paths.work={config.paths.work}", "diag=light", f"diag.out={tmp_path/'x'/'page.html'}"])
    report.diagnose_dashboard(small)
    light, full = planets_of(tmp_path/"x"/"page.html"), planets_of(work/PAGE)
    assert light["ids"] == full["ids"] == [str(p) for p in Challenge(config.data.root).planets("test")]
    assert {c[0] for c in full["curves"]} == {0, 1} and len({c[0] for c in light["curves"]}) == 1 and len(full["images"]) > len(light["images"]) == 2
    assert "href=" not in (tmp_path/"x"/"page.html").read_text().split("What this page was made from")[1].split("</section>")[0]      # no links out of another folder


def test_every_number_is_in_a_file_and_every_file_has_its_hash(known):
    config, work = known
    found = report.write_report(config)
    place, page = work/"artifacts"/"reports", (work/PAGE).read_text()
    head, rows = read_csv_rows(place/"planets.csv")
    assert [int(r[0]) for r in rows] == list(map(int, found.spectra.planet_id)) and [float(r[head.index("score")]) for r in rows] == list(found.score.per_planet[[list(found.score.planet_id).index(p) for p in found.spectra.planet_id]])
    assert any(name.startswith("Fit of the light curves: ") for name in head) and any("scale height" in name for name in head)
    told = read_json(place/"catalogue.json")
    names = [c["name"] for c in told["compared"]]
    assert told["of"] == "test planets" and names == ["this run", "prior alone", "hindsight"] and told["compared"][0]["score"] == found.score.total
    run_, prior, hindsight = (c["report"] for c in report.compared(config, found))
    assert run_ is found.score and hindsight.unclipped > run_.unclipped and set(prior.per_planet) != set(run_.per_planet)
    assert len(read_csv_rows(place/"bias.csv")[1]) == 283 and len(read_csv_rows(place/"coverage_by_wavelength.csv")[1]) == 4*283
    for name in ("planets.csv", "catalogue.json", "bias.csv", "coverage_by_wavelength.csv", "score.json"): assert sha256_file(place/name) in page, name
    for name in ("mu.csv", "sigma.csv"): assert sha256_file(work/"artifacts"/"predictions"/name) in page and f'href="../predictions/{name}"' in page
    card = read_json(place/"run_card.json")
    assert card["card"]["planets"] == 2 and card["compared"][0]["score"] == found.score.total
    assert "Not made for this run; <code>spectramind diagnose inject</code> makes it." in page


def test_without_truth_nobody_is_judged_and_the_tables_say_so(sky, settings, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work", copy_function=shutil.copy2)
    config, place = settings(sky, work), work/"artifacts"/"reports"
    found = report.write_report(config)
    assert found.judged is None and report.compared(config, found) == []
    assert read_json(place/"catalogue.json") == dict(of="nobody", compared=[], numbers=None) and read_csv_rows(place/"bias.csv") == (["bin"], [])
    assert "Nobody knows the truth of these planets" in (work/PAGE).read_text()


def test_a_verdict_of_other_predictions_is_not_shown(known, tmp_path):
    from dataclasses import asdict
    from spectramind.pipeline import injecting, report_parts
    config, work = known
    row = dict(level="spectra", signal="H2O", measure="recovered", value=1., low=.9, high=1.1, least=.8, most=1.2, unit="recovered/injected", rule="interval within", planets=2, verdict="holds", passed=True)
    document = dict(rows=[row], completeness=[], passed=True, code=code_hash(*injecting.CODE), config_hash=stages.submission_info(config)["config_sha256"], seed=config.seed, split="test", settings=asdict(config.diag.inject),
                    inputs=injecting.injected_into(config), planets=[1, 2], left_out=[], median_error={}, response={})
    path = Workplace(work).reports/"injection.json"
    for change, shown in (({}, True), (dict(inputs=document["inputs"] | dict(mu="0"*64)), False), (dict(seed=1), False), (dict(code="0"*64), False), (dict(settings=document["settings"] | dict(amplitude=50.)), False)):
        write_json(path, document | change)
        parts = report_parts.injection_tab(config)
        assert any("Verdict" in str(part) for part in parts) is shown and any("anew" in str(part) for part in parts) is not shown
    path.unlink()


def test_a_judgement_against_the_run_costs_nobody_the_page(known, monkeypatch):
    from spectramind.pipeline import actions, injecting
    config, work = known
    def refused(*_, **__): raise DataError("injection", "1 planet with a sound fit", "at least two")
    monkeypatch.setattr(injecting, "inject", refused)
    monkeypatch.setattr(config.diag.inject, "enabled", True)
    page, told = work/PAGE, []
    page.unlink(missing_ok=True)
    with pytest.raises(DataError, match="at least two"): actions.diagnose(config, told.append)
    assert page.is_file() and any("injection" in line for line in told)


def test_times_and_folders_of_runs_stand_in_one_element(sky, settings, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work", copy_function=shutil.copy2)
    words = ["data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={work}", "executor=serial"]
    pages = []
    for _ in range(2):
        assert CliRunner().invoke(app, ["diagnose", "dashboard", *words, "diag.explain=false"]).exit_code == 0
        pages.append((work/PAGE).read_text())
    assert pages[0] != pages[1] and comparable(pages[0]) == comparable(pages[1])
    runs = sorted(p.name for p in (work/"artifacts"/"runs"/"diagnose").iterdir())
    assert len(runs) == 2 and all(name in pages[1] and name not in comparable(pages[1]) for name in runs)
    assert "makes this page" in pages[1] and "makes this page" not in comparable(pages[1])
    about = report.machine(settings(sky, work))
    manifest = read_json(work/"artifacts"/"runs"/"diagnose"/runs[0]/"manifest.json")
    assert about["runs"]["rows"][1][4:6] == [(manifest["git_rev"] or "–")[:12], manifest["config_hash"]]
    assert [r[0] for r in about["runs"]["rows"]] == [f"artifacts/runs/diagnose/{name}" for name in reversed(runs)] and all(r[1] == "done" for r in about["runs"]["rows"])


def test_the_page_of_a_run_opens_in_a_browser(known, chromium):
    from browser import looked_at
    config, work = known
    report.diagnose_dashboard(config)
    planet = int(read_predictions(work/"artifacts"/"predictions").planet_id[1])
    with looked_at(chromium) as look:
        look.open(work/PAGE, f"#planet={planet}", f"html[data-drawn='{planet}']")
        assert look.page.inner_text("#planet-name") == f"Planet {planet}" and look.page.is_visible("#planet-curves")
        for tab in ("overview", "catalogue", "model", "rules", "provenance"):
            look.page.click(f"#{tab}-tab")
            assert look.page.is_visible(f"#{tab}-panel")
        look.page.click("#catalogue-tab")
        look.page.wait_for_selector("#catalogue-panel .main-svg")
        assert look.faults() == []


def test_each_failure_is_told_by_the_records_whatever_the_last_stage_listed(own_sky, settings, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work", copy_function=shutil.copy2)
    config, place = settings(own_sky, work), Workplace(work)
    (planet, other), spectra = Challenge(own_sky).planets("test"), read_predictions(place.predictions)
    assert report.faults_of(config, spectra) == {} and report.fault_of(config, "test", planet) is None
    record = read_json(str(place.posterior(planet)) + ".json")
    write_json(str(place.posterior(planet)) + ".json", record | dict(quality=record["quality"] | dict(flag=True, reason="a grazing transit", lost_visits={"1": "empty"})))
    assert report.faults_of(config, spectra) == {planet: ("predict", "the fit is not trusted: a grazing transit")}
    found, _ = report.judge(config)
    assert found.lost == {planet: {"1": "empty"}} and found.figures()["visits_lost"] == 1
    Made({}, "").fail(place.posterior(planet), "it has no ingress")
    assert report.fault_of(config, "test", planet) == ("fit", "it has no ingress")
    for visit in Challenge(own_sky).visits("test", planet): write_record(place.airs_bins(planet, visit), inputs={}, config_hash="", status="failed", quality=dict(error="no star"))
    assert report.fault_of(config, "test", planet) == ("features", "no star")        # the first stage, although the fit has a word of its own
    place.posterior(other).with_name(place.posterior(other).name + ".json").unlink()
    assert report.fault_of(config, "test", other) == ("fit", "there is no posterior")
    listed = work/"artifacts"/"reports"/"bad_planets.csv"
    listed.write_text(f"planet_id,split,stage,error,message\n{planet},test,predict,DataError,a later word\n")
    report.diagnose_dashboard(config)
    text = (work/PAGE).read_text()
    assert "features: no star" in text and "a later word" not in text and "fit: there is no posterior" in text
    rows = {row["planet_id"]: row["status"] for row in report.product_rows(config, "posterior")}
    assert rows[planet] == "failed" and rows[other] == "missing" and sorted(rows.values()) == ["failed", "missing"] + ["ok"]*5
    assert [row["reason"] for row in report.product_rows(config, "curves") if row["planet_id"] == planet] == ["no star"]*len(Challenge(own_sky).visits("test", planet))
    shutil.rmtree(own_sky/"test"/str(other))
    assert "no such folder" in report.faults_of(config, spectra)[other][1]


def test_what_only_the_prediction_noticed_comes_from_its_list(sky, settings, reference, tmp_path):
    work = shutil.copytree(reference[0], tmp_path/"work", copy_function=shutil.copy2)
    planet = Challenge(sky).planets("test")[0]
    (work/"artifacts"/"reports"/"bad_planets.csv").write_text(f"planet_id,split,stage,error,message\n{planet},test,predict,Network,cannot be applied\n9,train,train,DataError,x\n")
    config = settings(sky, work)
    assert report.faults_of(config, read_predictions(work/"artifacts"/"predictions")) == {planet: ("predict", "cannot be applied")}


def test_figures_of_planets_held_out_are_those_of_training(sky, tmp_path):
    from spectramind.pipeline.learning import _scores
    rng, n = np.random.default_rng(0), 12
    truth = .01 + 1e-3*rng.random((n, 1)) + 1e-5*rng.normal(size=(n, 283))
    oof = dict(planet_id=np.arange(n), label=truth, physics_mu=truth + 1e-4, physics_sigma=np.full((n, 283), 1e-4), network_mu=truth + 5e-5, network_sigma=np.full((n, 283), 8e-5), mu=truth + 6e-5, sigma=np.full((n, 283), 9e-5))
    folder = Workplace(tmp_path).checkpoints
    write_json(folder/"members"/"ensemble.json", dict(gate=dict(fgs1=.5, airs=1.)))
    write_json(folder/"history.json", dict(a=[dict(epoch=0, unclipped=.7, phase="supervised"), dict(epoch=1, loss=2., unclipped=.8), dict(epoch=9, loss=1., phase="mae")], b=[dict(epoch=1, loss=4.)]))
    Made({}, "").keep(folder/"oof.npz", oof)
    config = load_config(["data=kaggle", f"data.root={sky}", f"paths.work={tmp_path}"])
    found, arrays = report.held_out(config)
    assert found == {f"held_out_{k}": v for k, v in _scores(oof).items()} | dict(share_fgs1=.5, share_airs=1.) and set(arrays) == set(oof)
    assert report.training_rows(read_json(folder/"history.json")) == [(0, "", .7), (1, 3., .8)]
    assert list(report.learning_figures(config)) and report.learning_figures(load_config(["data=kaggle", "model=physics_only", f"data.root={sky}", f"paths.work={tmp_path}"])) == {}
    for words in (["train.phase=mae"], [f"predict.checkpoint={tmp_path}"]): assert report.held_out(load_config(["data=kaggle", f"data.root={sky}", f"paths.work={tmp_path}", *words])) == ({}, {})


def test_without_predictions_there_is_nothing_to_show(sky, settings, tmp_path):
    said = CliRunner().invoke(app, ["diagnose", "dashboard", "data=kaggle", f"data.root={sky}", f"paths.work={tmp_path}"])
    assert said.exit_code == 3 and "mu.csv: found no file" in said.output and not (tmp_path/PAGE).exists()
    with pytest.raises(DataError): report.judge(settings(sky, tmp_path))


def test_best_median_and_worst_are_drawn_when_the_truth_is_known():
    class Report: planet_id, per_planet = np.array([11, 12, 13, 14, 15]), np.array([.1, .9, .5, .3, .7])
    spectra = Spectra(np.arange(11, 16), np.ones((5, 283)), np.ones((5, 283)), ("physics",)*5)
    assert report.chosen(spectra, Report, 3) == [12, 13, 11] and report.chosen(spectra, None, 2) == [11, 12]


def test_every_picture_names_a_table_that_holds_what_it_draws(known, monkeypatch):
    import re
    from spectramind.diagnostics.page import Picture
    config, work = known
    seen, real, place = {}, report.write_page, work/"artifacts"/"reports"
    (place/"drawn").mkdir(parents=True, exist_ok=True)
    (place/"drawn"/"of-an-older-page.csv").write_text("x\n")
    monkeypatch.setattr(report, "write_page", lambda *a, tabs, **more: seen.update(tabs) or real(*a, tabs=tabs, **more))
    report.write_report(config)
    page, pictures = (work/PAGE).read_text(), [part for parts in seen.values() for part in parts if isinstance(part, Picture)]
    assert len(pictures) >= 8
    named = [re.search(r"Numbers: `drawn/([a-z0-9-]+\.csv)`", picture.caption).group(1) for picture in pictures]
    assert len(set(named)) == len(named) and {p.name for p in (place/"drawn").iterdir()} == set(named)
    for picture, name in zip(pictures, named):
        head, rows = read_csv_rows(place/"drawn"/name)
        assert f'href="drawn/{name}"' in page and sha256_file(place/"drawn"/name) in page and head == ["trace", "x_axis", "y_axis", "x", "y", "low", "high", "value", "told"]
        drawn = [(column, value) for trace in picture.figure.data for column, values in [("value", np.ravel(trace.z)) if trace.type in ("heatmap", "contour") else ("y", trace.y)] for value in values]
        assert len(drawn) == len(rows)
        for (column, value), row in zip(drawn, rows):
            cell = row[head.index(column)]
            if isinstance(value, str): assert cell == value.strip()
            elif value is None or not np.isfinite(value): assert cell == ""
            else: assert float(cell) == pytest.approx(float(value), rel=1e-6), name
    head, rows = read_csv_rows(place/"z.csv")
    spectra, truth = read_predictions(work/"artifacts"/"predictions"), report.judge(config)[0].truth
    z = np.array([[float(cell) for cell in row[1:]] for row in rows])
    np.testing.assert_allclose(z, [(m - truth[int(p)])/s for p, m, s in zip(spectra.planet_id, np.maximum(spectra.mu, 0), spectra.sigma)], rtol=1e-4, atol=1e-6)
    for name in ("z.csv", "explain.json"): assert not (place/name).is_file() or f'href="{name}"' in page


def test_a_bar_a_map_and_an_error_bar_become_rows():
    import plotly.graph_objects as go
    from spectramind.core.errors import UsageError
    from spectramind.pipeline.report_tables import drawn_rows, file_name
    figure = go.Figure([go.Bar(x=["a", "b"], y=[1., None], name="bars", text=["one", "two"]), go.Scatter(x=[1.], y=[5.], error_y=dict(array=[2.], arrayminus=[1.])),
                        go.Bar(x=[3.], y=["c"], orientation="h", error_x=dict(array=[.5])), go.Scatter(y=[7., 8.], customdata=[[1, 2.5], [3, 4.]])])
    figure.update_xaxes(title_text="a <b>bold</b> axis")
    axis = "a  bold  axis"
    assert drawn_rows(figure) == [("bars", axis, "y", "a", 1., "", "", "", "one"), ("bars", axis, "y", "b", "", "", "", "", "two"), ("1", axis, "y", 1., 5., 4., 7., "", ""),
                                  ("2", axis, "y", 3., "c", 2.5, 3.5, "", ""), ("3", axis, "y", 0, 7., "", "", "", "1 2.5"), ("3", axis, "y", 1, 8., "", "", "", "3 4.0")]
    image = go.Figure(go.Heatmap(z=[[1, 2], [3, np.nan]], x=[.7, .8], y=["p ", "q"], hovertemplate="planet %{y}<br>%{z:.2f} ppm<extra></extra>"))
    assert drawn_rows(image) == [("0", "x", "y", .7, "p", "", "", 1., "ppm"), ("0", "x", "y", .8, "p", "", "", 2., "ppm"), ("0", "x", "y", .7, "q", "", "", 3., "ppm"), ("0", "x", "y", .8, "q", "", "", "", "ppm")]
    assert file_name("rules", "<script>../x</script>", []) == "rules-script-x-script.csv" and file_name("a", "b", ["a-b.csv", "a-b-2.csv"]) == "a-b-3.csv"
    with pytest.raises(UsageError, match="pie"): drawn_rows(go.Figure(go.Pie(values=[1])))
