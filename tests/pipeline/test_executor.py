"Failing, dying and orphaned units."
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from spectramind.core import logs
from spectramind.core.errors import ConfigError, InternalError, RuntimeLimitError, UsageError
from spectramind.pipeline import executor, workers
from spectramind.pipeline.executor import run_units
from spectramind.pipeline.workers import choose_chunk

UNITS = '''
import logging, os, signal, threading, time
def unit(n):
    if n == 2: raise ValueError("planet 2 is corrupt")
    if n == 5: os.kill(os.getpid(), signal.SIGKILL)
    return n*n, {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
def deadly(n): os._exit(9)
def odd(n):
    logging.getLogger("spectramind.toy").warning("unit %s speaking", n)
    return threading.Lock() if n == 1 else n
def mark(job):
    folder, n, kind = job
    with open(os.path.join(folder, str(n)), "a") as stream: stream.write("x")
    if kind == "hang": time.sleep(600)
    if kind == "stop": os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "die": os._exit(9)
    if kind == "once" and os.path.getsize(os.path.join(folder, str(n))) == 1: os._exit(9)
    time.sleep(.05)
    return n
def slow(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(60)
'''


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    (folder/"toy_units_for_tests.py").write_text(UNITS)
    sys.path.insert(0, str(folder))
    import toy_units_for_tests
    yield toy_units_for_tests
    sys.path.remove(str(folder))


def test_dead_workers_and_failing_units_leave_the_others_alone(toy):
    found = run_units(toy.unit, [(n, n) for n in range(9)], kind="processes", workers=2, warm=True)
    assert [o.key for o in found] == list(range(9))
    assert {o.key: o.failure.kind for o in found if not o.ok} == {2: "ValueError", 5: "WorkerDied"}
    assert all(o.value == (o.key**2, {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}) for o in found if o.ok)
    assert found[2].failure.message == "ValueError: planet 2 is corrupt" and "Traceback" in found[2].failure.detail


def test_when_every_worker_dies_the_run_stops(toy):
    with pytest.raises(InternalError, match="every worker died"): run_units(toy.deadly, [(n, n) for n in range(9)], kind="processes", workers=2)


def test_serial_is_the_same_loop(toy):
    found = run_units(toy.unit, [(n, n) for n in (3, 2, 1)])
    assert [o.key for o in found] == [3, 2, 1] and [o.ok for o in found] == [True, False, True]
    assert run_units(toy.unit, []) == []
    with pytest.raises(UsageError): run_units(toy.unit, [(1, 1), (1, 2)])


def test_workers_leave_with_a_killed_parent(toy, tmp_path):
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.path.dirname(toy.__file__)!r})
        import toy_units_for_tests as toy
        from spectramind.pipeline.executor import run_units
        if __name__ == '__main__': run_units(toy.slow, [(n, {str(tmp_path)!r}) for n in range(2)], kind='processes', workers=2)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until: time.sleep(.05)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def alive(pid):
        try: return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError): return False
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until: time.sleep(.05)
    assert not any(map(alive, workers))


def test_a_hung_worker_is_replaced_and_nobody_else_works_twice(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "START_S", 20.)
    kinds = {3: "hang", 5: "stop", 6: "die", 8: "once"}
    found = run_units(toy.mark, [(n, (str(tmp_path), n, kinds.get(n))) for n in range(12)], kind="processes", workers=3, warm=True, timeout_s=.8)
    assert {o.key: (o.failure.kind, o.failure.exit_code) for o in found if not o.ok} == {3: ("Timeout", 4), 5: ("Timeout", 4), 6: ("WorkerDied", 5)}
    assert [o.value for o in found if o.ok] == [n for n in range(12) if n not in (3, 5, 6)]
    assert {n: (tmp_path/str(n)).stat().st_size for n in range(12)} == {n: 2 if n in kinds else 1 for n in range(12)}   # twice are done only those at fault


def test_no_second_try_when_none_is_wanted(toy, tmp_path):
    found = run_units(toy.mark, [(n, (str(tmp_path), n, "die" if n == 4 else None)) for n in range(5)], kind="processes", workers=2, retries=0)
    assert [o.ok for o in found] == [True]*4 + [False] and found[4].failure.message == "its worker process died once (killed, or out of memory)"
    assert (tmp_path/"4").read_text() == "x"


def test_a_limit_that_nobody_can_keep_is_refused(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "START_S", 5.)
    with pytest.raises(RuntimeLimitError, match="none of the first"):
        run_units(toy.mark, [(n, (str(tmp_path), n, "hang")) for n in range(9)], kind="processes", workers=1, timeout_s=.1, retries=0)


@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_what_the_time_does_not_allow_is_not_started(toy, tmp_path, kind):
    asked = []
    def stop():
        asked.append(1)
        return "3 h are spent" if len(asked) > 4 else None
    found = run_units(toy.mark, [(n, (str(tmp_path), n, None)) for n in range(9)], kind=kind, workers=2, stop=stop)
    assert [o.ok for o in found] == [True]*4 + [False]*5 and len(asked) == 5
    assert {(o.failure.kind, o.failure.message, o.failure.exit_code) for o in found[4:]} == {("TimeLimit", "3 h are spent", 4)}
    assert sorted(p.name for p in tmp_path.iterdir()) == list("0123")


def test_at_most_so_many_are_in_hand(toy, tmp_path):
    found = run_units(toy.mark, [(n, (str(tmp_path), n, None)) for n in range(4)], kind="processes", workers=3, max_tasks=1)
    assert [o.value for o in found] == list(range(4))
    assert choose_chunk(10, 2, 0.) == 1 and choose_chunk(1000, 2, 1e-6) == workers.LARGEST and choose_chunk(7, 1, 1e-6, asked=9) == 7


def test_workers_log_into_the_parents_file(toy, tmp_path):
    logs.setup_logging(tmp_path)
    try: found = run_units(toy.odd, [(n, n) for n in range(3)], kind="processes", workers=2)
    finally: logs.close_logging()
    lines = (tmp_path/"logs"/"spectramind.log").read_text().splitlines()
    assert sorted(line.partition(" WARNING ")[2] for line in lines) == [f"spectramind.toy: unit {n} speaking" for n in range(3)]
    assert [o.ok for o in found] == [True, False, True] and "cannot be sent back" in found[1].failure.message   # a lock cannot be pickled


def test_a_function_that_workers_cannot_import_is_refused(tmp_path, monkeypatch):
    (tmp_path/"gone_tomorrow.py").write_text("def unit(n): return n\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import gone_tomorrow
    (tmp_path/"gone_tomorrow.py").unlink()
    with pytest.raises(ConfigError, match="cannot load the work"): run_units(gone_tomorrow.unit, [(1, 1)], kind="processes", workers=1)


def test_negative_numbers_and_unknown_kinds_are_refused(toy):
    for bad in (dict(kind="threads"), dict(timeout_s=-1), dict(retries=-1), dict(chunk=-1)):
        with pytest.raises(UsageError): run_units(toy.unit, [(1, 1)], **bad)


def test_the_log_of_the_parent_is_left_as_it_was(toy):
    before = list(logging.getLogger("spectramind").handlers)
    run_units(toy.unit, [(n, n) for n in range(2)], kind="processes", workers=1)
    assert logging.getLogger("spectramind").handlers == before
