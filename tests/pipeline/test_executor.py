"Failing, dying and orphaned units."
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from spectramind.core.errors import InternalError, UsageError
from spectramind.pipeline.executor import run_units

UNITS = '''
import os, signal, time
def unit(n):
    if n == 2: raise ValueError("planet 2 is corrupt")
    if n == 5: os.kill(os.getpid(), signal.SIGKILL)
    return n*n, {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
def deadly(n): os._exit(9)
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
