"The box: nothing goes out, nothing is changed, nobody stays."
import os
import time
from pathlib import Path

import pytest

from spectramind.core.errors import ConfigError
from spectramind.pipeline.isolation import closure, make_box, run_in, why_no_namespaces

KINDS = ["auto", "blocked"]      # auto: namespaces where the system allows them


@pytest.fixture(scope="module", params=KINDS)
def box(request, tmp_path_factory):
    found = make_box(tmp_path_factory.mktemp("box"), ["numpy", "psutil", "pip"], request.param)
    assert found.namespaces == (request.param == "auto" and not why_no_namespaces())
    (found.place/"kaggle"/"input"/"table.csv").write_text("1\n")
    return found


def test_its_python_has_what_was_named_and_no_more(box):
    ran = run_in(box, ["-c", "import numpy, importlib.metadata as m; print(numpy.zeros(2).sum(), sorted(d.metadata['Name'] for d in m.distributions()))\ntry: import spectramind\nexcept ImportError: print('not there')"], limit_s=60)
    assert ran.exit == 0 and "not there" in ran.log and "0.0 ['numpy', 'pip', 'psutil']" in ran.log


def test_connections_are_refused_and_noted(box):
    ran = run_in(box, ["-c", "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 5)\nexcept OSError as e: print('refused', e.errno)"], limit_s=60)
    assert ran.exit == 0 and "refused 101" in ran.log and any("192.0.2.1" in line for line in ran.outbound)


def test_neighbours_on_the_same_machine_are_reached(box):
    code = "import socket, threading\ns = socket.create_server(('127.0.0.1', 0))\nthreading.Thread(target=lambda: s.accept()[0].sendall(b'hello')).start()\nprint(socket.create_connection(s.getsockname()).recv(5))"
    ran = run_in(box, ["-c", code], limit_s=60)
    assert ran.exit == 0 and "b'hello'" in ran.log and not ran.outbound


def test_only_working_and_tmp_can_be_written(box):
    code = f"import tempfile, os\nopen('{box.inside('working')}/out', 'w').write('x'); tempfile.mkstemp()\nfor p in ('{box.inside('input')}/table.csv', '/usr/new', '/new'):\n    try: open(p, 'a'); print('open', p)\n    except OSError as e: print('shut', p)"
    if not box.namespaces: code = code.replace("'/usr/new', '/new'", "")
    ran = run_in(box, ["-c", code], limit_s=60)
    assert ran.exit == 0 and (box.place/"kaggle"/"working"/"out").read_text() == "x"
    if box.namespaces: assert ran.log.count("shut") == 3 and "open" not in ran.log
    else: assert "not proven" in box.told and "root may write" in box.told


def test_too_much_memory(box):
    ran = run_in(box, ["-c", "import time, numpy\nx = numpy.ones(40_000_000)\ntime.sleep(30)"], cap_mb=200, limit_s=60)
    assert ran.why == "memory" and ran.exit == -9 and 200 < ran.peak_mb < 600 and ran.seconds < 25


def test_memory_is_the_sum_of_all_processes(box):
    code = "import subprocess, sys\nps = [subprocess.Popen([sys.executable, '-c', 'import numpy, time; x = numpy.ones(12_000_000); time.sleep(4)']) for _ in range(3)]\n[p.wait() for p in ps]"
    ran = run_in(box, ["-c", code], cap_mb=5000, limit_s=60)
    assert ran.exit == 0 and 280 < ran.peak_mb < 700


def test_too_long_and_nobody_stays(box):
    mark = f"nobody-stays-{os.getpid()}-{box.namespaces}"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', '{mark}'])\ntime.sleep(300)"
    ran = run_in(box, ["-c", code], limit_s=3)
    assert ran.why == "time" and ran.exit == -9
    def left(): return [p for p in Path("/proc").iterdir() if p.name.isdigit() and mark.encode() in _words(p)]
    end = time.monotonic() + 10
    while left() and time.monotonic() < end: time.sleep(.2)
    assert not left()


def _words(process):
    try: return (process/"cmdline").read_bytes()
    except OSError: return b""                       # it has just ended


def test_killed_when_asked(box):
    ran = run_in(box, ["-c", "import time; open('started', 'w').close(); time.sleep(60)"], ask=(box.place/"kaggle"/"working"/"started").exists, limit_s=60)
    assert ran.why == "asked" and ran.seconds < 30


def test_what_is_not_installed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no-such-distribution"): closure(["numpy", "no-such-distribution"])
    if why_no_namespaces():
        with pytest.raises(ConfigError, match="no namespaces"): make_box(tmp_path, ["numpy"], "namespaces")
    else: assert make_box(tmp_path, ["numpy"], "namespaces").namespaces
