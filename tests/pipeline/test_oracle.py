"The oracle: right when it is told the truth, never asked about anything else, and cheap to ask again."
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spectramind.core.determinism import single_threaded_blas
from spectramind.core.errors import DataError, QualityGateError, SchemaError, UsageError
from spectramind.core.store import read_csv_rows, read_json, read_npz, write_csv_rows, write_json
from spectramind.pipeline import asking, report, stages
from spectramind.pipeline.config import load_config
from spectramind.pipeline.products import Made, Workplace, read_predictions, write_predictions
from spectramind.scoring import oracle
from spectramind.scoring.submission import check_document
from spectramind.simulate.curves import simulate_light_curves
from spectramind.simulate.population import draw_population
from spectramind.simulate.visit import PROFILES, Conditions

SKY = ("data=smoke", "calib.persist=none", "model=physics_only", "executor=serial", "seed=11", "data.n_train=5", "data.n_test=2")


# ---------------------------------------------------------------------------------------------------------- alone

def exact(planet, depth, conditions, seed):
    "Light curves of a planet with other depths, without noise."
    made = simulate_light_curves(planet, seed, time_bins=71, conditions=conditions)
    factor = lambda c: oracle.oracle_drift(c, planet, seed, conditions.drift_scale, PROFILES["science"])*oracle.oracle_transit(c, planet, depth)[0]
    return [replace(c, flux=np.median(c.flux, axis=0)*factor(c)) for c in made]


@pytest.mark.parametrize("law, more", [("quadratic", {}), ("power2", {}), ("quadratic", dict(drift_scale=3.)), ("quadratic", dict(partial=True))], ids=["quadratic", "power2", "drift", "partial"])
def test_without_noise_it_finds_the_depths_wherever_it_starts(law, more):
    conditions = Conditions(law=law, **more)
    planet = replace(draw_population(1, 3, law=law, partial=conditions.partial)[0])
    curves = exact(planet, planet.depth*1.05, conditions, 3)
    with single_threaded_blas(): found = oracle.oracle_posterior(curves, planet, 3, conditions)
    assert np.abs(found.mean - planet.depth*1.05).max() < 1e-8
    off = oracle.oracle_posterior(curves, replace(planet, a_rs=1.1*planet.a_rs), 3, conditions)     # told another orbit
    assert np.abs(off.mean - planet.depth*1.05).max() > 1e-5


def test_the_drift_it_is_told_is_the_simulations_own():
    "Against `star_factor`, from which the light curves are made."
    from spectramind.challenge.wavelength import flip_columns
    from spectramind.simulate.visit import ProfileSpec, pair_times, star_factor
    planet, spec = draw_population(1, 5)[0], ProfileSpec(2*70, 2*210, {"FGS1": 12*80//3, "AIRS-CH0": 80})
    curves, = simulate_light_curves(planet, 5, time_bins=71)[:1]
    flat = replace(planet, depth=np.full(283, 1e-12))                                                # a planet too small to be seen leaves the drift
    factor = star_factor(flat, 0, "AIRS-CH0", pair_times(spec, "AIRS-CH0")[1], 5)
    drift = oracle.oracle_drift(curves, planet, 5, 1., spec)
    assert len(curves.time_h) == 70 and np.abs(drift[:, 1:] - flip_columns(factor, axis=0).T).max() < 1e-9 and np.ptp(drift[:, 0]) > 1e-5


def test_it_knows_how_well_it_knows():
    planets = draw_population(6, 9)
    z = []
    for p in planets:
        found = oracle.oracle_posterior(simulate_light_curves(p, 9, time_bins=141), p, 9)
        z.append((found.mean - p.depth)/np.sqrt(np.diag(found.cov)))
    assert abs((np.array(z)**2).mean() - 1) < .12 and np.abs(z).max() < 5.5


def test_a_wavelength_without_data_learns_nothing():
    planet = draw_population(1, 9)[0]
    curves = [replace(c, valid=c.valid & (np.arange(283) != 40)) for c in simulate_light_curves(planet, 9, time_bins=71)]
    found = oracle.oracle_posterior(curves, planet, 9)
    sd = np.sqrt(np.diag(found.cov))
    assert found.mean[40] == planet.depth[40] and sd[40] > 1000*sd[[39, 41]].max()


def test_its_labels_are_other_planets_and_more_of_them_begin_with_the_same():
    few, many = oracle.oracle_planets(120, 4), oracle.oracle_planets(230, 4)
    assert [p.planet_id for p in many[:120]] == [p.planet_id for p in few] and len(many) == 230
    assert not {p.planet_id for p in many} & {p.planet_id for p in draw_population(60, 4)} and few[0].planet_id != oracle.oracle_planets(1, 5)[0].planet_id
    with pytest.raises(UsageError, match="found 0"): oracle.oracle_planets(0, 4)


def test_what_it_cannot_answer_is_refused():
    planet = draw_population(1, 9)[0]
    with pytest.raises(UsageError, match="found none"): oracle.oracle_posterior([], planet, 9)
    with pytest.raises(UsageError, match="guessed"): oracle.oracle_posterior([None], planet, 9, noise="guessed")
    broken = oracle.DepthPosterior(7, np.full(283, np.nan), np.eye(283))
    with pytest.raises(DataError, match="not finite"): oracle.oracle_spectra([broken], oracle.oracle_prior(8, 4))


# ---------------------------------------------------------------------------------------------------------- of a run

@pytest.fixture(scope="module", autouse=True)
def quick():
    "A prior of few labels, to save seconds."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "ORACLE_LABELS", 40)
        yield


@pytest.fixture(scope="module")
def asked(sky, reference, tmp_path_factory):
    "The reference's products with the truth beside them, asked: work folder, figures, lines."
    work, said = shutil.copytree(reference[0], tmp_path_factory.mktemp("asked")/"work", copy_function=shutil.copy2), []
    shutil.copytree(sky.parent/"truth", work/"truth"/"smoke")
    figures = asking.ask_oracle(load_config([*SKY, f"data.root={sky}", f"paths.work={work}"]), said.append)
    return work, figures, said


@pytest.fixture
def own(sky, asked, tmp_path):
    "A copy of that: a function from settings to a Config, and its work folder."
    work = shutil.copytree(asked[0], tmp_path/"work", copy_function=shutil.copy2)
    return (lambda *more: load_config([*SKY, f"data.root={sky}", f"paths.work={work}", *more])), work


def files(work): return {p.relative_to(work).as_posix(): p.read_bytes() for part in ("data/oracle", "artifacts/reports") for p in sorted((work/part).glob("*")) if p.name.startswith(("planet_", "prior", "oracle")) and not p.with_suffix("").is_file()}    # but records, which know times


def test_it_is_asked_about_every_test_planet_and_beats_the_run(asked):
    work, figures, said = asked
    document = check_document(read_json(work/"artifacts"/"reports"/"oracle.json"), "oracle")
    ids = [int(p) for p in read_predictions(work/"artifacts"/"predictions").planet_id]
    assert document["planets"] == sorted(ids) and document["left_out"] == [] and document["told"] == ["orbit", "limb darkening", "drift"] and document["labels"] == 40
    assert figures == dict(oracle_planets=2, score_oracle=document["oracle"]["score"], lost_to_oracle=document["gap"]) and document["gap"] > 0
    low, high = document["gap_interval"]
    assert low <= document["gap"] <= high and "told orbit, limb darkening, drift of 2 planets" in said[-1]
    head, rows = read_csv_rows(work/"artifacts"/"reports"/"oracle.csv")
    assert head == list(asking.COLUMNS) and [int(r[0]) for r in rows] == document["planets"]
    lost = np.array([[float(x) for x in r[1:4]] for r in rows])
    np.testing.assert_allclose(lost[:, 0] - lost[:, 1], lost[:, 2], atol=1e-12)
    assert lost[:, 2].mean() == pytest.approx(document["gap"], abs=1e-12)


def test_its_answers_are_the_depths_within_their_errors(asked, sky):
    "The light curves of frames: the noise is measured, and the truth lies where it says."
    truth = dict(zip(*stages.truth_of(load_config([*SKY, f"data.root={sky}", f"paths.work={asked[0]}"]))))
    for p, depth in truth.items():
        found = read_npz(asked[0]/"data"/"oracle"/f"planet_{p}.npz")
        z = (found["mean"] - depth)/np.sqrt(found["variance"])
        assert .8 < np.sqrt((z[1:]**2).mean()) < 1.25 and abs(z[0]) < 4


def test_what_stands_is_not_asked_again_and_what_is_damaged_is(own, monkeypatch):
    make, work = own
    before, real = files(work), asking.oracle_posterior
    monkeypatch.setattr(asking, "oracle_posterior", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr(asking, "oracle_prior", lambda *_: pytest.fail("learnt again"))
    asking.ask_oracle(make())
    assert files(work) == before and len(before) == 5
    calls = []
    monkeypatch.setattr(asking, "oracle_posterior", lambda curves, planet, *more: calls.append(planet.planet_id) or real(curves, planet, *more))
    victim = sorted((work/"data"/"oracle").glob("planet_*.npz"))[0]
    victim.write_bytes(b"damaged")
    asking.ask_oracle(make())
    assert [f"planet_{p}.npz" for p in calls] == [victim.name] and files(work) == before


def test_other_light_curves_are_asked_about_anew(own, monkeypatch):
    make, work = own
    place, calls, real = Workplace(work), [], asking.oracle_posterior
    p = int(read_predictions(place.predictions).planet_id[0])
    record = read_json(str(place.airs_bins(p, 0)) + ".json")
    arrays = read_npz(place.airs_bins(p, 0))
    Made(record["inputs"], record["config_hash"]).keep(place.airs_bins(p, 0), arrays | dict(variance=arrays["variance"]*4))
    monkeypatch.setattr(asking, "oracle_posterior", lambda curves, planet, *more: calls.append(planet.planet_id) or real(curves, planet, *more))
    asking.ask_oracle(make())
    assert calls == [p]


def test_nobody_is_told_anything_about_real_planets_or_another_sky(own, settings, sky, monkeypatch):
    make, work = own
    monkeypatch.setattr(asking, "oracle_posterior", lambda *_: pytest.fail("asked"))
    said = []
    assert asking.ask_oracle(settings(sky, work), said.append) == {} and "real planets" in said[-1]
    assert not (work/"artifacts"/"reports"/"oracle.json").exists() and asking.read_oracle(settings(sky, work))[0] is None
    for change in ("seed=12", "data.n_train=6"):
        assert asking.ask_oracle(make(change), said.append) == {} and "none of 2 planets could be asked about" in said[-1] and "depths that seed" in said[-1], change
    write_json(work/"truth"/"smoke"/"tree.json", dict(settings=stages.simulation_of(make()), complete=True))
    assert asking.ask_oracle(make("data.law=power2"), said.append) == {} and "law=quadratic (now power2)" in said[-1]     # the depths are the same
    (work/"truth"/"smoke"/"test_truth.csv").unlink()
    assert asking.ask_oracle(make(), said.append) == {} and "truth of the test planets is not known" in said[-1]


def test_a_truth_that_is_off_in_its_last_digit_is_not_this_sky(own):
    make, work = own
    head, rows = read_csv_rows(work/"truth"/"smoke"/"test_truth.csv")
    rows[0][5] = repr(float(rows[0][5])*(1 + 1e-12))
    write_csv_rows(work/"truth"/"smoke"/"test_truth.csv", head, rows)
    said = []
    assert asking.ask_oracle(make(), said.append)["oracle_planets"] == 1
    document = read_json(work/"artifacts"/"reports"/"oracle.json")
    assert [o["planet_id"] for o in document["left_out"]] == [int(rows[0][0])] and any(f"planet {rows[0][0]}: test_truth.csv" in line for line in said)


def test_a_visit_that_the_fit_did_without_is_not_shown_to_it(own):
    make, work = own
    (_, order), *_ = asking.ask_orders(make())[0]
    assert asking.visits_seen(order.fit) == [0]
    path = Path(str(Workplace(work).posterior(order.fit.planet_id)) + ".json")
    record = read_json(path)
    write_json(path, record | dict(quality=record["quality"] | dict(lost_visits={"0": "empty", "1": "half"})))
    assert asking.visits_seen(order.fit) == [0]                         # better one that is not trusted than none
    path.unlink()
    assert asking.visits_seen(order.fit) == [0]


def test_a_planet_of_the_tree_is_no_label_of_its_prior(own, monkeypatch):
    make, work = own
    (work/"data"/"oracle"/"prior.json").unlink()
    mine = int(read_predictions(work/"artifacts"/"predictions").planet_id[0])
    real = asking.oracle_planets
    monkeypatch.setattr(asking, "oracle_planets", lambda n, seed: (replace(real(n, seed)[0], planet_id=mine), *real(n, seed)[1:]))
    with pytest.raises(QualityGateError, match="leakage"): asking.ask_oracle(make())


def test_workers_change_no_byte(own, sky, reference, tmp_path):
    make, work = own
    again = shutil.copytree(reference[0], tmp_path/"two", copy_function=shutil.copy2)
    shutil.copytree(sky.parent/"truth", again/"truth"/"smoke")
    asking.ask_oracle(load_config([*SKY, f"data.root={sky}", f"paths.work={again}", "executor=processes", "executor.workers=2"]))
    assert files(again) == files(work)


# ---------------------------------------------------------------------------------------------------------- on the page

def test_the_page_and_its_files_have_the_oracles_score(own):
    make, work = own
    config, place = make(), work/"artifacts"/"reports"
    found = report.write_report(config)
    page, document = (place/"diagnostics_dashboard.html").read_text(), read_json(place/"oracle.json")
    line = report.compared(config, found)[-1]
    assert line["name"] == "oracle" and line["figures"] == document["oracle"] and "as nobody is told of a real one" in line["what"] and "40 true spectra" in line["what"]
    assert line["what"].replace("’", "’") in page and f"the oracle {document['oracle']['score']:.4f}" in page and "lost to the oracle" in page
    score, catalogue, card = (read_json(place/f"{name}.json") for name in ("score", "catalogue", "run_card"))
    assert score["score_oracle"] == document["oracle"]["score"] == card["card"]["score_oracle"] and score["oracle"]["score_fgs1"] == document["oracle"]["score_fgs1"]
    assert [c["name"] for c in catalogue["compared"]] == [c["name"] for c in card["compared"]] == ["this run", "prior alone", "hindsight", "oracle"]
    head, rows = read_csv_rows(place/"planets.csv")
    told = asking.oracle_scores(config)
    assert {int(r[0]): float(r[head.index("score_oracle")]) for r in rows} == told and len(told) == 2
    assert 'href="oracle.json"' in page and "score_oracle" in page


def test_a_verdict_about_some_planets_stands_beside_the_run_on_the_same(own):
    make, work = own
    config = make("diag.oracle_planets=1")
    asking.ask_oracle(config)
    found = report.write_report(config)
    run, oracle_line = report.compared(config, found)[-2:]
    assert (run["name"], oracle_line["name"]) == ("this run, 1 planets", "oracle, 1 planets") and run["figures"]["planets"] == 1
    assert run["figures"]["score_fgs1"] == read_json(work/"artifacts"/"reports"/"oracle.json")["run"]["score_fgs1"] != found.score.fgs1
    card = read_json(work/"artifacts"/"reports"/"run_card.json")["card"]
    assert "score_oracle" not in card and any("1 of 2 planets" in str(v) for v in card.values())


def test_a_verdict_about_other_predictions_is_not_shown(own):
    make, work = own
    config, place = make(), Workplace(work)
    spectra = read_predictions(place.predictions)
    write_predictions(place.predictions, replace(spectra, sigma=spectra.sigma*1.1))
    document, reason = asking.read_oracle(config)
    assert document is None and "other predictions" in reason
    found = report.write_report(config)
    assert found.oracle is None and all("oracle" not in c["name"] for c in report.compared(config, found))
    assert "about other predictions" in (place.reports/"diagnostics_dashboard.html").read_text()
    write_json(place.reports/"oracle.json", dict(seed="seven"))
    with pytest.raises(SchemaError, match="oracle.json"): asking.read_oracle(config)
