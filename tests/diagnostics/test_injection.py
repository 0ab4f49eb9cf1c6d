"Signals of known size: they go in as told, come back as theory says, and a table that is honest about honest and dishonest spectra."
from dataclasses import replace

import numpy as np
import pytest

from spectramind.challenge.layout import INSTRUMENTS, CalibrationFiles
from spectramind.core.determinism import rng_for
from spectramind.core.errors import QualityGateError, DataError, UsageError
from spectramind.core.nouns import DepthPosterior, LightCurves
from spectramind.diagnostics import injection as inj
from spectramind.diagnostics import injection_figures as pictures
from spectramind.diagnostics import signals as sig

N = 283
WRONG = [("amplitude", 0.), ("paired", 1), ("levels", []), ("levels", ["curves", "curves"]), ("levels", ["pixels"]), ("sizes", [3.]), ("sizes", [3., 2.]), ("false_alarms", .01), ("left_over", 0.)]


@pytest.mark.parametrize("name,value", WRONG, ids=[f"{name}_{i}" for i, (name, _) in enumerate(WRONG)])
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=name): inj.InjectSettings(**{name: value})


@pytest.fixture(scope="module")
def posterior():
    depth = .01 + 1e-4*np.sin(np.arange(N)/20)
    nuisance = dict(t0_h=[3.75], a_rs=9., b2=.04, dt_fgs1_h=0., period_d=3.5, u_fgs1=[.4, .15], u_airs_blue=[.15, .15], u_airs_red=[.1, .08])
    return DepthPosterior(1, depth, np.diag(np.full(N, 1e-4)**2), nuisance)


@pytest.fixture(scope="module")
def curves(posterior):
    rng, t, t_f = np.random.default_rng(1), np.linspace(.05, 7.45, 200), np.linspace(.02, 7.48, 800)
    level, every = rng.uniform(1e4, 1e5, N), np.arange(N)
    drift = 1 + np.multiply.outer(1e-3*(t/7.5)**2, np.r_[-1., np.linspace(.5, 1, 282)])
    flux = level*sig.transit_of(posterior, 0, t, posterior.mean, every)*drift*(1 + 1e-3*rng.standard_normal((200, N)))
    guide = level[0]*sig.transit_of(posterior, 0, t_f, posterior.mean[:1], np.array([0]))[:, 0]*(1 - 1e-3*(t_f/7.5)**2)*(1 + 1e-3*rng.standard_normal(800))
    jitter = .03*rng.standard_normal((800, 2))
    return LightCurves(1, 0, flux, (1e-3*level)**2*np.ones((200, N)), np.ones((200, N), bool), t, guide, np.full(800, (1e-3*level[0])**2), np.ones(800, bool), t_f, 15 + jitter, np.abs(jitter))


def test_weights_are_generalised_least_squares_and_blind_to_the_level():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(N, N))*1e-5
    cov = root@root.T + np.diag(rng.uniform(5e-5, 2e-4, N)**2)
    signals = sig.kept_signals(np.full(N, .01))
    for name, (w, error) in inj.measures(signals, cov).items():
        assert w@signals[name] == pytest.approx(1)
        if name not in ("whole depth", "FGS1"):
            assert w[0] == 0 and abs(w.sum()) < 1e-8*np.abs(w).sum()
            s, inverse = signals[name][1:], np.linalg.inv(cov[1:, 1:])
            free = np.stack([s, np.ones(282)], 1)
            assert error == pytest.approx(np.sqrt(np.linalg.inv(free.T@inverse@free)[0, 0]), rel=1e-6)
    assert inj.measures(signals, cov)["FGS1"][1] == pytest.approx(np.sqrt(cov[0, 0]))
    with pytest.raises(DataError, match="singular"): inj.matched_weights(signals["H2O"], np.zeros((N, N)))


def test_signals_have_peak_one_and_doubted_ones_exist():
    signals = sig.kept_signals(np.full(N, .01))
    assert set(sig.DOUBTED) < set(signals) and all(s.max() == pytest.approx(1) for s in signals.values())
    assert signals["line"][0] == 0 and (signals["line"] > .5).sum() == 9


def test_a_deeper_transit_is_deeper_by_the_signal(posterior, curves):
    signal = 1e-3*sig.kept_signals(posterior.mean)["H2O"]
    after = sig.inject_transit(curves, posterior, 0, signal)
    outside = sig.transit_of(posterior, 0, curves.time_h, np.array([.02]), np.array([0]))[:, 0] == 1      # of the largest planet here
    assert np.array_equal(after.flux[outside], curves.flux[outside]) and outside.sum() > 50
    middle = np.argmin(abs(curves.time_h - 3.75))
    lost = 1 - after.flux[middle]/curves.flux[middle]
    assert np.corrcoef(lost, signal)[0, 1] > .999 and .9 < lost.sum()/signal.sum() < 1.25          # limb darkening makes the middle deeper than (Rp/Rs)^2
    assert np.array_equal(sig.inject_transit(curves, posterior, 0, np.zeros(N)).fgs1_flux, curves.fgs1_flux)


def test_a_drift_is_exchanged_not_added(posterior, curves):
    new = sig.change_drift(curves, posterior, 0, 4e-3)
    own, guide = sig.drift_surface(new, posterior, 0)
    x = .5 + .5*(curves.time_h - curves.time_h.mean())/(np.ptp(curves.time_h)/2)
    wanted = 4e-3*np.multiply.outer(x**2, np.linspace(.5, 1, 282))
    got = own[:, 1:] - own[:, 1:].mean(0)
    slope = ((got*(wanted - wanted.mean(0))).sum()/((wanted - wanted.mean(0))**2).sum())
    assert slope == pytest.approx(1, abs=.05) and np.ptp(guide) == pytest.approx(4e-3, rel=.1) and guide[-1] < guide[0]


def test_observed_anew_keeps_the_noise_and_moves_it(posterior, curves):
    depth = posterior.mean + 5e-4
    new = sig.observe_anew(curves, posterior, 0, depth, .4)
    t, every = curves.time_h, np.arange(N)
    before = curves.flux/sig.transit_of(posterior, 0, t, posterior.mean, every)
    after = new.flux/sig.transit_of(posterior, 0, t, depth, every)
    assert np.std(after/after.mean(0), 0).mean() == pytest.approx(np.std(before/before.mean(0), 0).mean(), rel=.03)
    smooth = lambda a: a - np.polynomial.polynomial.polyval(t, np.polynomial.polynomial.polyfit(t, a, 4)).T
    a, b = smooth(before/before.mean(0)), smooth(after/after.mean(0))
    assert np.mean([np.corrcoef(np.roll(a[:, k], 80), b[:, k])[0, 1] for k in range(0, N, 20)]) > .9
    assert np.array_equal(np.roll(curves.centroid, 320, axis=0), new.centroid)


def small_detector(read=13., bend=2e-7):
    "Maps of an AIRS detector without faults, and the pixels inside of the cut."
    shape = INSTRUMENTS["AIRS-CH0"].shape
    straight = np.zeros((6, *shape))
    straight[1], straight[2] = 1., bend
    return CalibrationFiles(np.full(shape, .01), np.zeros(shape, bool), np.ones(shape), np.full(shape, read), straight), INSTRUMENTS["AIRS-CH0"].pixels()


CLOCK = (.4369, -1000., (.1, 4.6), 1)


def counts(pixel, rng, pairs=60, light=4500.):
    reads = np.tile([.1, 4.6], pairs)*light/4.5
    return np.clip((reads + 1000 + 13*rng.standard_normal((len(pixel), 2*pairs)))*.4369, 0, 65535).astype(np.uint16)


def electrons(block, bend=2e-7):
    charge = block/.4369 - 1000.
    true = charge + bend*charge**2
    return true[:, 1::2] - true[:, ::2]


def test_less_starlight_in_counts_is_less_charge():
    calib, pixel = small_detector()
    pixel, rng = pixel[:1500], np.random.default_rng(3)
    raw = counts(pixel, rng)
    factor = np.repeat(1 - np.linspace(0, .01, 282)[:, None], 60, 1)
    sky = np.full(282, 100.)
    after = sig.change_counts(raw, pixel, "AIRS-CH0", calib, CLOCK, sig.Change(factor=factor, sky=sky))
    lost, bins = (electrons(raw) - electrons(after)).mean(1), sig.bins_of("AIRS-CH0", pixel)
    wanted = (1 - factor[:, 0])[bins]*(electrons(raw).mean(1) - .01*4.5 - 450)              # dark current and sky stay
    assert lost.sum()/wanted.sum() == pytest.approx(1, abs=.01) and after.dtype == np.uint16
    assert abs(lost - wanted).mean() < 1.                                                   # a fifth of a count is not rounded away


def test_counts_without_a_change_stay_and_dead_pixels_too():
    calib, pixel = small_detector()
    pixel, rng = pixel[:300], np.random.default_rng(4)
    dead = calib.dead.copy()
    dead.ravel()[pixel[:100]] = True
    raw = counts(pixel, rng)
    everything = sig.Change(np.full((282, 60), .9), np.zeros(282), np.full(dead.size, .1), np.full(dead.size, 50.), np.ones(60), np.full(dead.size, 30.), np.stack([pixel[:150], np.arange(150) % 60], 1))
    run = lambda change: sig.change_counts(raw, pixel, "AIRS-CH0", replace(calib, dead=dead), CLOCK, change)
    assert np.array_equal(run(sig.Change()), raw)
    assert np.array_equal(run(everything)[:100], raw[:100]) and (run(everything)[100:] != raw[100:]).mean() > .5
    half = sig.change_counts(raw[150:], pixel[150:], "AIRS-CH0", replace(calib, dead=dead), CLOCK, everything)
    assert np.array_equal(run(everything)[150:], half)                                      # blocks of pixels know nothing of each other


def test_a_change_below_one_count_is_not_rounded_away():
    calib, pixel = small_detector(bend=0.)
    raw, dark = np.full((400, 200), 3000, np.uint16), np.full(calib.dead.size, .002)         # 0.009 e- in a second read: one count in 250 reads
    after = sig.change_counts(raw, pixel[:400], "AIRS-CH0", calib, CLOCK, sig.Change(dark=dark))
    assert after[:, 1::2].mean() - 3000 == pytest.approx(.002*4.6*.4369, rel=.03) and set(np.unique(after)) == {3000, 3001}
    assert abs(np.diff(after[:, 1::2].mean(0).reshape(10, 10).mean(1))).max() < 3e-3         # and it begins at once


def test_faults_are_where_they_were_put():
    calib, pixel = small_detector()
    pixel, rng = pixel[:300], np.random.default_rng(6)
    raw, size = counts(pixel, rng), calib.dead.size
    dark, response = np.zeros(size), np.zeros(size)
    dark[pixel[7]], response[pixel[9]] = 12., .05
    hot = electrons(sig.change_counts(raw, pixel, "AIRS-CH0", calib, CLOCK, sig.Change(dark=dark))) - electrons(raw)
    assert hot[7].mean() == pytest.approx(12*4.5, abs=1) and not np.delete(hot, 7, 0).any()
    uneven = electrons(sig.change_counts(raw, pixel, "AIRS-CH0", calib, CLOCK, sig.Change(response=response)))/electrons(raw)
    assert uneven[9].mean() == pytest.approx(1.05, abs=1e-3)
    ray = sig.change_counts(raw, pixel, "AIRS-CH0", calib, CLOCK, sig.Change(hits=np.array([[pixel[3], 20]])))
    assert (ray != raw).sum() == 1 and ray[3, 41] == pytest.approx((sig.FULL_WELL + 1000)*.4369, abs=2)


def test_an_answer_to_motion_is_learnt_from_the_motion():
    rng = np.random.default_rng(7)
    motion, truth = .04*rng.standard_normal((3000, 2)), rng.normal(size=(2, 4, 5))*100
    frames = 1000 + 200*np.linspace(0, 1, 3000)[:, None, None]**2 + np.einsum("tk,kij->tij", motion, truth) + 3*rng.standard_normal((3000, 4, 5))
    assert np.abs(sig.answers(frames, motion, 25) - truth).max() < 12


def test_an_event_shorter_than_an_exposure_fills_a_part_of_it():
    t = np.arange(100)*.1
    for middle, length in ((5., 90.), (5.03, 360.), (4.98, 1800.)):
        assert sig.event_course(t, middle, length).sum()*.1*3600 == pytest.approx(length, rel=.02)
    assert sig.event_course(t, 5., 1e3).max() == 1


def test_student_intervals_hold_what_they_promise():
    rng = np.random.default_rng(8)
    held = np.mean([low <= 1 <= high for _, low, high in (inj.student(1 + rng.standard_normal(4)) for _ in range(2000))])
    assert abs(held - .95) < .02
    with pytest.raises(DataError, match="at least two"): inj.student([1.])


def test_half_are_found_where_a_normal_error_says():
    z, sizes = np.random.default_rng(9).standard_normal((4000, 1)), np.array([1., 2., 3., 4., 6.])
    assert inj.half_found(sizes, (z + sizes > 3).mean(0)) == pytest.approx(3, abs=.1)
    assert inj.half_found(sizes, np.full(5, .4)) == float("inf") and inj.half_found(sizes, np.ones(5)) == .5


def probes(sigma=1., ratio=1., left=.05, share=0., leak=.01, n=12):
    "What planets would say, were their error bars `sigma` of the right ones."
    rng = np.random.default_rng(10)
    sizes = np.r_[0., inj.InjectSettings().sizes]
    out = []
    for i in range(n):
        kept = {"H2O": dict(ratio=ratio + .005*rng.standard_normal(), leak=(leak, 3*leak), response=np.zeros(N)), "line": dict(ratio=ratio, leak=(leak, 2*leak), response=np.zeros(N))}
        gone = {"drift": dict(depth=left*rng.standard_normal(8), flux={"FGS1": share + .01*rng.standard_normal()})}
        out.append(dict(planet_id=i, kept=dict(curves=kept) if i < 4 else {}, removed=dict(curves=gone) if i < 4 else {}, zero=dict(curves=rng.standard_normal((3, 4))/sigma),
                        found=rng.standard_normal((3, 1))/sigma + sizes/sigma))
    return out


CURVES = inj.InjectSettings(levels=["curves"])
FAULTS = {"sigma halved": (dict(sigma=.5), {"errors beyond two sigma", "error over sigma", "half are found"}), "signal eaten": (dict(ratio=.8), {"recovered"}),
          "nuisance left": (dict(left=3.), {"left in the depths"}), "fault in the flux": (dict(share=1.), {"left in the flux of FGS1"}),
          "leak": (dict(leak=.2), {"leak outside the band, largest", "leak into neighbours, largest"})}


def failures(**fault):
    table = inj.injection_table(probes(**fault), CURVES, rng_for(1, "test"))
    assert table["passed"] == all(r["passed"] for r in table["rows"])
    return {r["measure"] for r in table["rows"] if not r["passed"]}


def test_an_honest_table_passes(): assert failures() == set()


@pytest.mark.parametrize("fault", FAULTS, ids=list(FAULTS))
def test_each_fault_fails_in_its_own_row(fault):
    settings, wanted = FAULTS[fault]
    assert failures(**settings) == wanted


def test_a_table_needs_two_planets_and_repeats_itself():
    with pytest.raises(DataError, match="at least two"): inj.injection_table(probes(n=1), CURVES, rng_for(1, "test"))
    assert inj.injection_table(probes(), CURVES, rng_for(1, "test")) == inj.injection_table(probes(), CURVES, rng_for(1, "test"))


def test_a_level_of_which_nothing_is_known_is_no_pass():
    with pytest.raises(QualityGateError, match="level of counts, spectra"): inj.injection_table(probes(), inj.InjectSettings(), rng_for(1, "test"))


@pytest.mark.parametrize("left,passed", [((2., 1.9, 2.1, 2.), False), ((6., .5, .5, .5), False), ((.2, .35, .25, .3), True)], ids=["too much", "too uncertain", "not refuted"])
def test_few_planets_cannot_hide_a_nuisance_behind_their_scatter(left, passed):
    some = [dict(p, removed=dict(curves=dict(drift=dict(depth=[left[i]], flux={})))) if i < 4 else p for i, p in enumerate(probes())]
    (row,) = [r for r in inj.injection_table(some, CURVES, rng_for(1, "test"))["rows"] if r["measure"] == "left in the depths"]
    assert row["passed"] is passed


def test_pictures_name_their_units_and_refuse_nothing_at_all():
    table = inj.injection_table(probes(sigma=.5), CURVES, rng_for(1, "test"))
    evil = dict(table["rows"][0], signal='<a href="x">')
    figures = [pictures.show_recovery([*table["rows"], evil]), pictures.show_completeness(table["completeness"]), pictures.show_response(dict(curves=np.ones(N)), "line")]
    titles = [{t for t in (f.layout[a].title.text for a in f.layout if a.startswith(("xaxis", "yaxis"))) if t} for f in figures]
    assert titles == [{"recovered / injected", "value / most allowed"}, {"size (standard errors of the light curves)", "found (%)"}, {"FGS1", "wavelength (µm)", "response (injected peak = 1)"}]
    text = figures[0].to_json()
    assert "<a href" not in text and "\\u003ca href" not in text and len(text) < 60_000
    assert {t.name for t in figures[0].data} == {"holds", "beyond its bounds"}
    with pytest.raises(UsageError, match="found none"): pictures.show_recovery([])
    with pytest.raises(UsageError, match="found none"): pictures.show_recovery([inj.row("spectra", "line", "leak into neighbours, largest", (1., .9, 1.1), None, "x", 3)])
    with pytest.raises(UsageError, match="found none"): pictures.show_completeness([])
    with pytest.raises(UsageError, match="signal"): pictures.show_response({}, "gold")


@pytest.mark.parametrize("found,bounds,within,verdict,passed", [((1., .9, 1.1), (.8, 1.2), True, "holds", True), ((1., .7, 1.1), (.8, 1.2), True, "open", False), ((1., .7, 1.1), (.8, 1.2), False, "open", True),
                         ((.6, .5, .7), (.8, 1.2), False, "beyond", False), ((.6, .5, .7), None, True, "reported", True), ((float("inf"), 3., float("inf")), (2., 4.), False, "beyond", False)],
                         ids=["holds", "open where it must hold", "open", "beyond", "reported", "never"])
def test_a_verdict_says_what_the_interval_says(found, bounds, within, verdict, passed):
    row = inj.row("spectra", "line", "recovered", found, bounds, "", 5, within)
    assert (row["verdict"], row["passed"]) == (verdict, passed) and (row["most"] is None) is (bounds is None)


def final(gain=1., names=("H2O", "CO2"), n=12):
    "Planets whose final spectra give back `gain` of what is expected of CO2."
    rng, out = np.random.default_rng(4), []
    for p in probes(n=n):
        kept = {}
        for name in names:
            expected, sd = (.67, .6) if name == "CO2" else (.92, .9)
            ratio = expected*(gain if name == "CO2" else 1.) + .02*rng.standard_normal()
            kept[name] = dict(ratio=ratio, expected=expected, off=5*(ratio - expected)/sd, leak=(.2, .6), response=np.zeros(N))
        out.append(dict(p, kept=p["kept"] | dict(spectra=kept)))
    return out


def test_what_a_prior_doubts_is_reported_and_its_removal_is_beyond():
    rows = lambda gain: {(r["signal"], r["measure"]): r for r in inj.kept_rows(final(gain), inj.InjectSettings()) if r["level"] == "spectra"}
    honest, removed = rows(1.), rows(0.)
    for table in (honest, removed): assert table["CO2", "recovered"]["verdict"] == "reported" and table["CO2", "recovered"]["least"] is None and table["CO2", "recovered"]["expected"] == .67
    assert honest["CO2", "recovered, less expected"]["verdict"] == "holds" and honest["H2O", "recovered"]["verdict"] == "holds"
    assert removed["CO2", "recovered, less expected"]["verdict"] == "beyond" and not removed["CO2", "recovered, less expected"]["passed"]
    assert honest["CO2", "leak outside the band, largest"]["verdict"] == "reported" and honest["H2O", "leak outside the band, largest"]["verdict"] == "holds"


def test_errors_along_doubted_signals_have_a_row_of_their_own():
    rng = np.random.default_rng(6)
    def spoilt(factor): return [dict(p, zero=dict(counts=rng.standard_normal(9)*np.where(np.isin(inj.EVERY, inj.DOUBTED), factor, 1.))) for p in probes()]
    assert inj.EVERY == tuple(sig.kept_signals(np.full(N, .01)))
    def verdict(factor): return next(r for r in inj.honest_rows(spoilt(factor), CURVES, rng_for(1, "test")) if "along CO2, CO, line" in r["measure"])["verdict"]
    assert verdict(3.) == "beyond" and verdict(.5) == "holds"


def test_the_posterior_moves_as_its_covariance_says_and_a_mean_that_does_not_is_seen():
    from spectramind.lightcurve.prior import apply_prior, fit_prior
    from spectramind.simulate.population import draw_population
    *known, other = draw_population(31, seed=3)
    prior, cov = fit_prior(np.array([p.depth for p in known])), np.diag(np.r_[3e-5, np.full(282, 1e-4)]**2) + 4e-10
    fit = DepthPosterior(1, other.depth + np.random.default_rng(0).multivariate_normal(np.zeros(N), cov), cov, {}, {}, dict(inflate_airs=1.))
    signals, spread = sig.kept_signals(fit.mean), replace(prior, spread=np.full((3, 3), .3))
    meter, before = inj.measures(signals, cov), apply_prior(fit, prior)
    for name in ("H2O", "CO", "line"):
        moved = replace(fit, mean=fit.mean + 5*meter[name][1]*signals[name])
        after, expected = apply_prior(moved, prior), inj.expected_change(fit, moved, prior)
        got = inj.came_back(name, meter, signals[name], 5., after[0] - before[0], before[1], expected)
        assert got["ratio"] == pytest.approx(got["expected"], abs=.01) and abs(got["off"]) < .05
        assert inj.came_back(name, meter, signals[name], 5., .5*(after[0] - before[0]), before[1], expected)["off"] < -.3
        assert np.allclose(expected, inj.expected_change(fit, moved, spread))                # recalibrated error bars change nothing


def test_a_leak_is_measured_where_the_signal_was_not_put():
    signals, error = sig.kept_signals(np.full(N, .01)), np.full(N, 1e-4)
    assert not inj.beside("whole depth", signals["whole depth"]).any() and not inj.beside("H2O", signals["H2O"])[signals["H2O"] > .1].any()
    cov, where = np.diag(error**2), inj.beside("H2O", signals["H2O"])
    meter, change = inj.measures(signals, cov), np.where(where, 3e-4, 0.)
    size = 5*meter["H2O"][1]
    got = inj.came_back("H2O", meter, signals["H2O"], 5., size*signals["H2O"] + change, cov)
    assert got["leak"] == pytest.approx((3., 3.)) and where[0] and where[-1]
    assert inj.came_back("H2O", meter, signals["H2O"], 5., size*signals["H2O"], cov)["leak"] == pytest.approx((0., 0.), abs=1e-9)
    assert "leak" not in inj.came_back("whole depth", meter, signals["whole depth"], 5., change, cov)


def test_shares_have_intervals_that_hold_and_none_is_not_never():
    assert inj.share_of([np.zeros(3, bool)]*12)[1:] == pytest.approx((0., 1 - .025**(1/12))) and inj.share_of([np.ones(3, bool)]*12)[2] == 1
    rng = np.random.default_rng(11)
    def held(correlated):
        hits = 0
        for _ in range(400):
            z = rng.standard_normal((12, 3)) if not correlated else np.repeat(rng.standard_normal((12, 1)), 3, 1)
            _, low, high = inj.share_of(list(np.abs(z) > 1))
            hits += low <= .3173 <= high
        return hits/400
    assert held(False) > .92 and held(True) > .92
