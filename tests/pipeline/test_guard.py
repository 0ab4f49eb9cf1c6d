"The wall clock's own arithmetic: pace, forecasts, speeds learnt from earlier runs."
import json
import math

import pytest
from hypothesis import given, strategies as st

from spectramind.core.errors import RuntimeLimitError
from spectramind.pipeline.executor import run_units
from spectramind.pipeline.guard import FEWEST_UNITS, SPEED, Clock, Work, check_before, earlier_timings, estimate, own_speed, spell


class Hand:
    "A clock turned by hand."
    at = 0.
    def __call__(self): return self.at


@given(hours=st.floats(.05, 20), margin=st.floats(.1, 1), reserve=st.floats(0, 3000), planet_s=st.floats(.1, 300), planets=st.integers(1, 200))
def test_what_is_begun_comes_to_its_end_before_the_reserve_is_touched(hours, margin, reserve, planet_s, planets):
    now = Hand()
    clock, done = Clock(hours, margin, now=now), 0
    stop = clock.watch("fit", reserve)
    while done < planets and not stop():
        now.at += planet_s
        done += 1
    budget = 3600*hours*margin - reserve
    if done > 1: assert now.at <= budget + 1e-6                      # one planet's length is not known before the first has ended
    if done < planets:
        assert now.at + planet_s >= budget - 1e-6                    # nor was it stopped too soon
        assert [name for name, _ in clock.stopped] == ["fit"]
        with pytest.raises(RuntimeLimitError) as caught: clock.check_after()
        assert caught.value.exit_code == 4
    else: clock.check_after()


def test_the_pace_of_several_workers_is_that_of_one_planet():
    now = Hand()
    clock = Clock(1., 1., now=now)
    stop, handed = clock.watch("fit", 0., workers=4), 0
    free = [0.]*4
    while True:                                                      # four workers, 100 s a planet
        free.sort()
        now.at = free[0]
        if stop(): break
        handed, free[0] = handed + 1, now.at + 100.
    assert max(free) <= 3600. + 100. and handed >= 4*34


@given(share=st.floats(0, .9), rate=st.floats(1e-5, 1e-2), left=st.floats(100, 20_000), reserve=st.floats(0, 100))
def test_a_course_is_stopped_only_when_it_cannot_be_run(share, rate, left, reserve):
    now = Hand()
    clock = Clock(left/3600, 1., now=now)
    course = clock.course("train", reserve, least_s=60.)
    fits = (1 - share)/rate + reserve <= left*(1 - 1e-9)
    at, reason = share, None
    while at < 1 and reason is None:
        reason = course(at)
        if reason: break
        now.at += 30.
        at = min(1., share + rate*now.at)
    if fits: assert reason is None and not clock.stopped
    elif (1 - share)/rate + reserve > left*(1 + 1e-9) and reason is None: assert now.at <= 90      # it was over before there was any evidence
    if reason: assert "train" in reason and clock.stopped == [("train", reason)]


def test_without_a_limit_nobody_asks():
    clock = Clock()
    assert clock.watch("fit", 9.) is None and clock.course("train") is None and clock.enough("train", 1e9) and not clock.limited
    clock.check_after()
    assert math.isinf(clock.left_s) and "estimate" in check_before(estimate(Work(1, 1)), clock.left_s)


def test_a_stage_that_is_short_of_time_is_reported_by_the_executor():
    now = Hand()
    clock = Clock(10/3600, 1., now=now)
    def unit(n):
        now.at += 2.
        return n
    found = run_units(unit, [(n, n) for n in range(9)], stop=clock.watch("features", 3.))
    assert [o.ok for o in found] == [True]*3 + [False]*6 and {o.failure.kind for o in found[3:]} == {"TimeLimit"}
    assert found[3].failure.message == clock.stopped[0][1] and "3 s are kept" in found[3].failure.message


def test_speeds_are_learnt_from_events(tmp_path):
    def events(run, *lines):
        folder = tmp_path/"artifacts"/"runs"/"run"/run
        folder.mkdir(parents=True)
        (folder/"events.jsonl").write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    said = lambda stage, seconds, **figures: dict(event=stage, duration_ms=1000*seconds, figures=figures)
    events("20260101_000000", said("fit", 50, units=10, workers=1), said("features", 30, units=10, workers=2, frames=.5), "{torn", '"text"\n', "[1]\n", said("fit", 5))
    events("20260102_000000", said("fit", 30, units=30, workers=2, frames=.5), said("predict", 1, units=FEWEST_UNITS - 1, workers=1))
    timings = earlier_timings(tmp_path)
    assert [t["stage"] for t in timings] == ["fit", "features", "fit", "predict"]
    speed = own_speed(timings)
    assert speed["fit"] == pytest.approx(110/40) and speed["features"] == pytest.approx(60/5)
    assert {k: v for k, v in speed.items() if k not in ("fit", "features")} == {k: v for k, v in SPEED.items() if k not in ("fit", "features")}
    assert own_speed(timings, latest=1)["fit"] == pytest.approx(2.)
    assert own_speed([]) == SPEED and earlier_timings(tmp_path/"nowhere") == []
    work = Work(100, 100, frames=.5, workers=2)
    assert estimate(work, speed)["features"] == pytest.approx(100*12*.5/2)


def test_durations_for_people():
    assert [spell(s) for s in (.4, 90, 119.4, 600, 7000, 9000)] == ["0 s", "90 s", "119 s", "10 min", "117 min", "2.5 h"]
