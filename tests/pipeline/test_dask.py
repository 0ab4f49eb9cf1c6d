"Planets on a dask cluster whose scheduler and workers are processes of their own, started by hand."
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spectramind.core.errors import ConfigError, InternalError
from spectramind import __version__
from spectramind.pipeline import dask_crew, executor, stages, units
from spectramind.pipeline.executor import run_units

UNITS = '''
import logging, os, signal, threading, time
def unit(n):
    if n == 2: raise ValueError("planet 2 is corrupt")
    if n == 4: os.kill(os.getpid(), signal.SIGKILL)
    if n == 6: time.sleep(600)
    logging.getLogger("spectramind.toy").info("unit %s speaking", n)
    return n*n, os.environ["NUMBA_NUM_THREADS"], os.getpid()
def deadly(n): os._exit(9)
def odd(n): return threading.Lock() if n == 1 else n
def slow(n):
    time.sleep(.1)
    return os.getpid()
def mark(job):
    folder, n = job
    with open(os.path.join(folder, str(n)), "a") as stream: stream.write(f"{os.getpid()}\\n")
    time.sleep(.2)
    return n
'''


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dask_units")
    (folder/"toy_units_for_dask.py").write_text(UNITS)
    sys.path.insert(0, str(folder))
    import toy_units_for_dask
    yield toy_units_for_dask
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def place(toy, tmp_path_factory):
    "A function that starts parts of a cluster, and the scheduler's file."
    folder, started = tmp_path_factory.mktemp("cluster"), []
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([os.path.dirname(toy.__file__), str(Path(executor.__file__).parents[2])]))
    def start(part, *options):
        with open(folder/"log.txt", "a") as log:
            started.append(subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{part}", "--scheduler-file", str(folder/"scheduler.json"), *options],
                                            stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True))
        return started[-1]
    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-dashboard")
    until = time.monotonic() + 60
    while not (folder/"scheduler.json").is_file() and time.monotonic() < until: time.sleep(.05)
    yield start, str(folder/"scheduler.json")
    for process in started:
        try: os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        process.wait()


@pytest.fixture(scope="module")
def cluster(place):
    "Three workers, one of them without a nanny; the scheduler's file."
    start, file = place
    for options in ((), (), ("--no-nanny",)): start("worker", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--memory-limit", "0", *options)
    return file


def test_a_scheduler_without_workers_is_waited_for_and_then_refused(place, toy, monkeypatch):
    monkeypatch.setattr(dask_crew, "WORKERS_S", 1.)
    with pytest.raises(ConfigError, match="found no worker at"): run_units(toy.unit, [(1, 1)], kind="dask", scheduler=place[1])


def test_planets_that_raise_kill_and_hang_leave_the_others_alone(cluster, toy, caplog, monkeypatch):
    monkeypatch.setattr(executor, "START_S", 9.)
    logger = logging.getLogger("spectramind")
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, "spectramind"):
        found = run_units(toy.unit, [(n, n) for n in range(30)], kind="dask", scheduler=cluster, timeout_s=1., warm=True)
    assert [o.key for o in found] == list(range(30))
    assert {o.key: o.failure.kind for o in found if not o.ok} == {2: "ValueError", 4: "WorkerDied", 6: "Timeout"}
    assert found[6].failure.exit_code == 4 and "within 1 s, twice" in found[6].failure.message and "twice" in found[4].failure.message
    assert all(o.value[:2] == (o.key**2, "1") for o in found if o.ok) and len({o.value[2] for o in found if o.ok}) >= 2
    assert {r.getMessage() for r in caplog.records if r.name == "spectramind.toy"} >= {f"unit {n} speaking" for n in (0, 1, 3, 5, 29)}   # workers' log lines arrive here


def test_a_worker_killed_and_one_stopped_from_outside_lose_nothing(cluster, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "START_S", 9.)
    hurt = []
    def pids(): return list(dict.fromkeys(int(line) for path in sorted(tmp_path.iterdir()) for line in path.read_text().split()))
    def hurt_two():
        until = time.monotonic() + 60
        while len(pids()) < 2 and time.monotonic() < until: time.sleep(.02)
        for pid, what in zip(pids(), (signal.SIGKILL, signal.SIGSTOP)):
            os.kill(pid, what)
            hurt.append(pid)
    thread = threading.Thread(target=hurt_two)
    thread.start()
    found = run_units(toy.mark, [(n, (str(tmp_path), n)) for n in range(60)], kind="dask", scheduler=cluster, timeout_s=2.)
    thread.join()
    assert [o.value for o in found] == list(range(60)) and len(hurt) == 2
    times = [len(path.read_text().split()) for path in tmp_path.iterdir()]
    assert len(times) == 60 and max(times) <= 2 and sum(times) <= 60 + 4      # only what was in hand was done again


def test_products_are_those_of_a_serial_run(cluster, sky, settings, reference, tmp_path):
    config = settings(sky, tmp_path)
    for function, orders in ((units.observe, stages.observe_orders), (units.fit, stages.fit_orders)):
        assert all(o.ok for o in run_units(function, orders(config), kind="dask", scheduler=cluster, warm=True))
    names = sorted(p.relative_to(reference[0]) for p in (reference[0]/"data").rglob("planet_*.npz"))
    assert len(names) >= 21 and names == sorted(p.relative_to(tmp_path) for p in (tmp_path/"data").rglob("planet_*.npz"))
    assert all((tmp_path/name).read_bytes() == (reference[0]/name).read_bytes() for name in names)


def test_a_result_that_cannot_be_sent_is_that_planets_failure(cluster, toy):
    found = run_units(toy.odd, [(n, n) for n in range(3)], kind="dask", scheduler=cluster)
    assert [o.ok for o in found] == [True, False, True] and "cannot be sent back" in found[1].failure.message


@pytest.mark.parametrize("told, what", [(("0.0.0", "x"), "found a dask worker with spectramind"), ((__version__, "x"), "other code of the same version")])
def test_a_worker_with_other_code_is_refused(cluster, toy, monkeypatch, told, what):
    monkeypatch.setattr(dask_crew, "_own_code", lambda: told)
    with pytest.raises(ConfigError, match=what): run_units(toy.slow, [(n, n) for n in range(3)], kind="dask", scheduler=cluster)


def test_a_cluster_of_our_own(toy):
    asked = []
    def stop():
        asked.append(1)
        return "time is up" if len(asked) > 20 else None
    found = run_units(toy.slow, [(n, n) for n in range(60)], kind="dask", workers=2, chunk=2, stop=stop)
    assert {o.failure.kind for o in found if not o.ok} == {"TimeLimit"} and [o.ok for o in found] == [True]*40 + [False]*20
    assert len({o.value for o in found if o.ok}) == 2
    with pytest.raises(InternalError, match="every worker died"): run_units(toy.deadly, [(n, n) for n in range(9)], kind="dask", workers=1)


def test_what_is_missing_is_said(monkeypatch, toy):
    monkeypatch.setattr(dask_crew, "CONNECT_S", 1.)
    with pytest.raises(ConfigError, match="found nobody at 127.0.0.1:9"): run_units(toy.unit, [(1, 1)], kind="dask", scheduler="127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError) as caught: run_units(toy.unit, [(1, 1)], kind="dask")
    assert 'pip install "spectramind[dask]"' in caught.value.hint
