"Records: real output held to its schemas, secrets, collisions, kills, damage, sweeping, and what it all costs."
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from spectramind.core.errors import DataError, UsageError
from spectramind.core.provenance import list_records, standing, write_record
from spectramind.core.store import read_json, sha256_file, sha256_json, write_text
from spectramind.pipeline import environment as E, lines as L, records as R, run_record as RR, sampling as S
from spectramind.pipeline.config import config_hash, config_yaml, load_config
from spectramind.scoring.submission import check_document

YAML, HASH = "seed: 2025\ncalib:\n  persist: none\nuncertainty:\n  corel:\n    enabled: true\n", "ab"*32


def opened(work, stage="fit", text=YAML, **more): return R.open_run(work, stage, f"spectramind {stage}", text, HASH, 2025, **{"sample_s": 0, **more})
def ended(work, code=0, **more):
    record = opened(work, **more)
    R.close_run(record, code, {}, {})
    return record


def events_of(record): return L.read_lines(record.folder/"events.jsonl")[0]
def python(code, *args, **more): return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], capture_output=True, text=True, **more)


# what a run leaves

def test_real_output_follows_its_schemas(tmp_path):
    config = load_config(["data=smoke"])
    record = R.open_run(tmp_path, "fit", ["spectramind", "fit", "data=smoke"], config_yaml(config), config_hash(config), config.seed)
    check_document(read_json(record.folder/"status.json"), "run_status")
    with record.timer("fit", planets=np.int64(5)) as more: more["bad"] = 1
    with pytest.raises(ValueError), record.timer("plots"): raise ValueError("no colour")
    with R.timed("fit"): pass
    record.event("note", spread=np.array([1., np.nan]), where=tmp_path)
    (tmp_path/"artifacts"/"calibration").mkdir(parents=True)
    write_text(tmp_path/"artifacts"/"calibration"/"temperature.json", "{}")
    write_text(tmp_path/"dist"/"submission.csv", "a,b\n")
    made = R.close_run(record, 0, dict(score=np.float32(.5), parts=dict(fgs1=float("inf"))), dict(submission=tmp_path/"dist"/"submission.csv", page=tmp_path/"no.html"))
    root = R.append_root_event(tmp_path, "fit", "fit", exit_code=0, began=record.began, config_hash=record.config_hash, seed=2025, metrics=made["metrics"], record=record)
    check_document(root, "event")
    check_document(read_json(record.folder/"status.json"), "run_status")
    assert check_document(read_json(record.folder/"manifest.json"), "run_manifest") == json.loads(json.dumps(made))
    events = events_of(record)
    for event in events: check_document({k: v for k, v in event.items() if k != "line"}, "run_event")
    assert [e["event"] for e in events] == ["begin", "fit", "plots", "fit", "note", "end"]
    assert events[1]["figures"]["planets"] == 5 and events[1]["figures"]["bad"] == 1 and events[2]["figures"]["error"] == "ValueError: no colour"
    assert events[4]["figures"] == dict(spread=[1., None], where=str(tmp_path)) and events[4]["duration_ms"] is None
    assert made["metrics"] == {"score": .5, "parts.fgs1": None} and made["stages"] == ["fit"] and made["resources"]["spans"]["fit"]["times"] == 2
    assert made["artifacts"]["submission"] == dict(path="dist/submission.csv", sha256=sha256_file(tmp_path/"dist"/"submission.csv"), bytes=4)
    assert made["artifacts"]["page"]["sha256"] is None and set(made["calibration"]["fitted"]) == {"temperature"} and made["calibration"]["settings"]["calib"]["persist"] == config.calib.persist
    snapshot = tmp_path/made["hydra_config"]
    assert sha256_file(snapshot) == made["config_snapshot_sha256"] == events[0]["config_snapshot_sha256"] and snapshot.read_bytes() == (tmp_path/"artifacts"/"configs"/"run.yaml").read_bytes()
    assert load_config((), str(snapshot)) == config and made["config_hash"] == config_hash(config)
    assert events[-1]["artifacts"]["manifest"] == dict(path=f"artifacts/runs/{record.run_id}/manifest.json", sha256=sha256_file(record.folder/"manifest.json"))
    assert json.loads((tmp_path/"events.jsonl").read_text()) == root and root["run_id"] == record.run_id and R.current_run() is None


@pytest.mark.parametrize("code,state", [(3, "failed"), (130, "interrupted"), (6, "failed")])
def test_how_it_ended(tmp_path, code, state):
    record, error = opened(tmp_path), UsageError("found a | pipe\nand `quotes`", hint="none")
    made = R.close_run(record, code, {}, {}, error)
    R.append_root_event(tmp_path, "fit", "fit a='`b`'", exit_code=code, began=time.time() - 4000, record=record, error=error)
    status = check_document(read_json(record.folder/"status.json"), "run_status")
    assert (status["state"], status["exit"], status["error"]) == (state, code, "UsageError: found a | pipe and `quotes`") == (made["state"], made["exit"], made["error"])
    entry = (tmp_path/"v50_debug_log.md").read_text()
    assert f"{state} (exit {code}) · 1 h 7 min" in entry and "- error: UsageError: found a | pipe" in entry and f"- run: artifacts/runs/{record.run_id}" in entry


def test_status_is_the_last_word(tmp_path, monkeypatch):
    record = opened(tmp_path)
    def full(*args, **more): raise OSError(28, "No space left on device")
    monkeypatch.setattr(RR, "write_json", full)
    with pytest.raises(OSError): R.close_run(record, 0, {}, {})
    assert R.read_status(record.folder)["state"] == "running" and not (record.folder/"manifest.json").exists()


def test_no_name_and_no_second_run_in_a_folder(tmp_path):
    for stage in ("../fit", "Fit", "", "fit/2", "1st"):
        with pytest.raises(UsageError, match="stage"): opened(tmp_path, stage)
    mine = opened(tmp_path, folder=tmp_path/"mine")
    assert mine.run_id == "fit/mine"
    with pytest.raises(UsageError, match="found a run in it"): opened(tmp_path, folder=tmp_path/"mine")
    R.close_run(mine, 0, {}, {})
    with pytest.raises(DataError, match="a run that is done"), R.join_run(mine.folder): pass


def test_another_process_joins_a_run(tmp_path):
    record = opened(tmp_path, "predict")
    done = python("""
        import sys
        from spectramind.pipeline.records import current_run, join_run, timed
        with join_run(sys.argv[1], sample_s=0) as record:
            assert current_run() is record
            with timed('predict', planets=3): pass
        assert current_run() is None
    """, record.folder)
    assert done.returncode == 0, done.stderr
    made = R.close_run(record, 0, {}, {})
    assert made["stages"] == ["predict"] and [e["event"] for e in events_of(record)] == ["begin", "predict", "end"]
    check_document({k: v for k, v in events_of(record)[1].items() if k != "line"}, "run_event")
    with (record.folder/"timings.csv").open(newline="") as stream: assert [row["name"] for row in csv.DictReader(stream)] == ["predict", "(run)"]


def test_artifacts_of_a_folder(tmp_path):
    folder = tmp_path/"data"/"posterior"
    for k in (1, 2): write_record(write_text(folder/f"planet_{k}.npz", str(k)), inputs={}, config_hash="c")
    write_text(folder/"more"/"note.txt", "x")
    (folder/".half.tmp").write_text("left over")
    about = RR.artifact(folder)
    lines = [["planet_1.npz", sha256_file(folder/"planet_1.npz")], ["planet_2.npz", sha256_file(folder/"planet_2.npz")], ["more/note.txt", sha256_file(folder/"more"/"note.txt")]]
    assert about == dict(sha256=sha256_json(lines), bytes=3, files=3)
    write_record(folder/"planet_2.npz", inputs={}, config_hash="c")                    # the same product, another time of day
    assert RR.artifact(folder) == about
    write_record(write_text(folder/"planet_2.npz", "3"), inputs={}, config_hash="c")
    assert RR.artifact(folder)["sha256"] != about["sha256"]
    assert RR.artifact(tmp_path/"nothing") == dict(sha256=None, bytes=0)


# secrets

SECRET = "s3cr3t-W0rd"


def test_no_planted_secret_is_written_anywhere(tmp_path, monkeypatch):
    for name in ("KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY", "CI_JOB_URL"): monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("SLURM_JOB_ID", f"token={SECRET}")                              # one of those that are looked at
    words = ["spectramind", "fit", f"logger.api_key={SECRET}", "--token", SECRET, f"data.root=https://me:{SECRET}@host/x", f"password='{SECRET} {SECRET}'"]
    error = RuntimeError(f"Authorization: Bearer {SECRET}\n unknown key wandb.secret: found '{SECRET}'")
    metrics = dict(api_key=SECRET, note=f"passwd: {SECRET}", deep=dict(credentials=SECRET))
    record = R.open_run(tmp_path, "fit", words, YAML, HASH, 1, sample_s=0)
    with pytest.raises(RuntimeError), record.timer("step", secret=SECRET): raise error
    record.event("note", text=f"--password {SECRET}", **metrics)
    R.close_run(record, 5, metrics, {}, error)
    R.append_root_event(tmp_path, "fit", words, exit_code=5, began=record.began, metrics=metrics, record=record, error=error)
    R.analyze_log(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path.name for path in files if SECRET.encode() in path.read_bytes()]
    event = json.loads((tmp_path/"events.jsonl").read_text())
    assert event["metrics"] == {"api_key": "***", "note": "passwd: ***", "deep.credentials": "***"} and "logger.api_key=***" in event["cmd"]


def test_an_old_log_is_redacted_when_it_is_summarised(tmp_path):
    R.append_root_event(tmp_path, "fit", "fit", exit_code=0, began=time.time())
    event = json.loads((tmp_path/"events.jsonl").read_text()) | dict(cmd=f"fit token={SECRET}")
    (tmp_path/"events.jsonl").write_text(json.dumps(event) + "\n")
    assert all(SECRET not in path.read_text() for path in R.analyze_log(tmp_path))


def test_only_listed_variables_are_read(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HOME_OF_SECRETS", "x")
    about = R.environment()
    assert set(about["variables"]) <= set(E.VARIABLES) and about["variables"]["OMP_NUM_THREADS"] == "1"
    assert about["fingerprint"] == R.environment()["fingerprint"] and about["packages"]["numpy"] == np.__version__


# git, torch, dvc

def test_git_never_fails(monkeypatch, tmp_path):
    state = E.git_state.__wrapped__
    here = state()
    assert here["commit"] == subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    nobody = dict(commit=None, dirty=None, branch=None)
    monkeypatch.setenv("PATH", str(tmp_path))                                          # no git
    assert state() == nobody
    (tmp_path/"git").write_text("#!/bin/sh\necho fatal >&2\nexit 128\n")
    (tmp_path/"git").chmod(0o755)
    assert state() == nobody
    monkeypatch.setattr(E, "project_root", lambda start: tmp_path)                     # no checkout
    assert state() == nobody
    monkeypatch.setattr(E, "git_state", lambda: nobody)
    assert E.code_version() == E.__version__


def test_a_slow_git_is_given_up(monkeypatch, tmp_path):
    def slow(*args, timeout, **more): raise subprocess.TimeoutExpired(args[0], timeout)
    monkeypatch.setattr(E.subprocess, "run", slow)
    assert E.git_state.__wrapped__()["commit"] is None


def test_torch_is_described_without_loading_it(monkeypatch):
    done = python("import sys; from spectramind.pipeline.environment import environment; t = environment()['torch']; print(t['version'], t['cuda'], t['loaded'], 'torch' in sys.modules)", check=True)
    import torch
    version, *rest = done.stdout.split()
    assert torch.__version__.split("+")[0] == version.split("+")[0] and rest == [str(torch.version.cuda), "False", "False"]      # a wheel's metadata may leave the build out
    state = E.torch_state()
    assert state["loaded"] and state["devices"] == [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    monkeypatch.setattr(E, "installed", lambda package: None)
    monkeypatch.setattr(E.shutil, "which", lambda name: None)
    assert E.torch_on_disk.__wrapped__() is None and E.environment()["dvc"] == "unavailable"


# several processes at once

def test_two_processes_of_one_second_get_folders_of_their_own(tmp_path):
    code = """
        import sys, time
        from spectramind.pipeline.records import close_run, open_run
        while time.time() < float(sys.argv[2]): pass
        for k in range(12):
            record = open_run(sys.argv[1], 'fit', 'fit', sys.argv[3], 'ab'*32, k, began=1.8e9, sample_s=0)
            record.event('mine', who=sys.argv[3])
            close_run(record, 0, {}, {})
            print(record.folder.name)
    """
    start = time.time() + 2.5
    both = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), tmp_path, str(start), who], stdout=subprocess.PIPE, text=True) for who in ("anna", "bert")]
    names = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(names[0] + names[1]) == sorted(["20270115_080000", *(f"20270115_080000-{n}" for n in range(1, 24))])
    for who, mine in zip(("anna", "bert"), names):
        for name in mine:
            folder = tmp_path/"artifacts"/"runs"/"fit"/name
            events, damaged = L.read_lines(folder/"events.jsonl")
            assert (folder/"config.snapshot.yaml").read_text() == who == events[1]["figures"]["who"] and not damaged and R.read_status(folder)["state"] == "done"


def test_lines_of_several_writers_stay_whole_and_none_is_lost(tmp_path):
    code = """
        import sys
        from spectramind.pipeline.lines import append_line
        for k in range(150): append_line(sys.argv[1], sys.argv[2]*3000 + f' {k}', int(sys.argv[3]))
    """
    for limit in (0, 100_000):
        log = tmp_path/str(limit)/"log.md"
        both = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), log, who, str(limit)]) for who in "ab"]
        assert [process.wait(60) for process in both] == [0, 0]
        lines = [line for path in log.parent.iterdir() for line in path.read_text().splitlines()]
        assert sorted(lines) == sorted(f"{who*3000} {k}" for who in "ab" for k in range(150))
        assert (len(list(log.parent.iterdir())) > 5) == bool(limit)


def test_a_torn_line_costs_no_other(tmp_path):
    log = tmp_path/"events.jsonl"
    log.write_bytes(b'{"a": 1}\n{"b"')
    L.append_line(log, '{"c": 3}')
    assert L.read_lines(log) == ([dict(a=1, line=1), dict(c=3, line=3)], [(2, "no JSON")])


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(L.os, "write", lambda handle, data: len(data)//2)
    with pytest.raises(OSError, match="No space left"): L.append_line(tmp_path/"log", "x")


# killed

KILLED = """
    import os, sys
    from spectramind.pipeline.records import open_run
    open_run(sys.argv[1], 'train', 'spectramind train', sys.argv[2], 'ab'*32, 1, sample_s=0)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_run_is_known_as_killed(tmp_path):
    assert python(KILLED, tmp_path, YAML).returncode == -9
    folder = next((tmp_path/"artifacts"/"runs"/"train").iterdir())
    assert R.read_status(folder)["state"] == "killed"
    status = read_json(folder/"status.json")
    for change, state in ((dict(pid=os.getpid(), process_began=RR.process_began(os.getpid())), "running"), (dict(pid=os.getpid(), process_began=1), "killed"),
                          (dict(host="elsewhere"), "running"), (dict(state="odd"), "unknown"), (dict(pid="x"), "unknown")):
        (folder/"status.json").write_text(json.dumps(status | change))
        assert R.read_status(folder)["state"] == state, change
    (folder/"status.json").write_text('{"state": ')
    assert R.read_status(folder) == dict(state="unknown") == R.read_status(tmp_path)


def test_a_process_that_nobody_has_asked_about_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    until = time.monotonic() + 20
    while RR.alive(child.pid) and time.monotonic() < until: time.sleep(.02)
    assert not RR.alive(child.pid) and Path(f"/proc/{child.pid}").exists()             # a zombie
    assert child.wait() == 0 and not RR.alive(child.pid)


# sampling

def test_sampling_sees_children_and_spans():
    sampler = S.Sampler(.05)
    span, until = sampler.begin(), time.monotonic() + 20
    child = subprocess.Popen([sys.executable, "-c", "import time; x = bytearray(150_000_000); x[::4096] = b'x'*len(x[::4096]); time.sleep(60)"])
    try:
        while sampler.spans[span].rss_peak - sampler.spans[span].began["rss_mb"] < 120 and time.monotonic() < until: time.sleep(.05)
        inner = sampler.begin()
    finally:
        child.kill()
        child.wait()
    seen, short = sampler.end(span), sampler.end(inner)
    sampler.close()
    assert seen["rss_mb_peak"] > sampler.look()["rss_mb"] + 100 and seen["looks"] > 2 and seen["seconds"] > short["seconds"] and sampler.fault is None
    assert not sampler._thread.is_alive()


def test_without_psutil_the_peak_of_the_system_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    record = opened(tmp_path, sample_s=.05)
    with record.timer("fit"): time.sleep(.2)
    made = R.close_run(record, 0, {}, {})
    check_document(made, "run_manifest")
    assert made["resources"]["method"].startswith("getrusage") and made["resources"]["run"]["rss_mb_peak"] > 20 and made["resources"]["spans"]["fit"]["seconds"] >= .2


def test_a_watcher_that_fails_says_so(tmp_path, monkeypatch):
    record = opened(tmp_path, sample_s=.02)
    look, main = record.sampler.look, __import__("threading").main_thread()
    def broken():
        if __import__("threading").current_thread() is main: return look()
        raise PermissionError("no /proc")
    monkeypatch.setattr(record.sampler, "look", broken)
    until = time.monotonic() + 10
    while record.sampler.fault is None and time.monotonic() < until: time.sleep(.01)
    assert R.close_run(record, 0, {}, {})["resources"]["fault"] == "PermissionError: no /proc"


def test_gpu_memory_is_asked_where_it_can_be(monkeypatch):
    from types import SimpleNamespace as N
    class NVMLError(Exception): pass
    fake = N(NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=lambda k: k, nvmlDeviceGetMemoryInfo=lambda k: N(used=(k + 1)*2**20))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    sampler = S.Sampler(0)
    span = sampler.begin()
    assert sampler.end(span)["gpu_mb_peak"] == 3. and sampler.gpu.told.startswith("pynvml:")
    def no_driver(): raise NVMLError("Driver Not Loaded")
    fake.nvmlInit = no_driver
    assert S.GpuMemory().mb() is None and S.GpuMemory().told == "pynvml: Driver Not Loaded"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert S.GpuMemory().told == "pynvml is not installed"


def test_what_a_record_costs(tmp_path):
    ended(tmp_path)                                                                    # what is read once in a process
    began = time.perf_counter()
    for _ in range(5):
        record = opened(tmp_path, sample_s=2.)
        for _ in range(20): record.event("step")
        R.close_run(record, 0, {}, {})
        R.append_root_event(tmp_path, "fit", "fit", exit_code=0, began=record.began, record=record)
    assert (time.perf_counter() - began)/5 < 1


# sweeping

def old(folder):
    for path in [*folder.iterdir(), folder]: os.utime(path, (1, 1))


def test_sweeping_spares_what_runs_and_what_is_referred_to(tmp_path):
    first = ended(tmp_path, began=1.7e9)
    assert python(KILLED, tmp_path, "seed: 7\n").returncode == -9
    done = [ended(tmp_path, began=1.7e9 + k, text=f"seed: {k}\n", code=k % 3 and 3) for k in range(1, 6)]
    running = opened(tmp_path, began=1.6e9, text="seed: 8\n")
    elsewhere = opened(tmp_path, began=1.6e9 + 1)
    status = read_json(elsewhere.folder/"status.json") | dict(host="another", pid=2**22 + 5)
    (elsewhere.folder/"status.json").write_text(json.dumps(status))
    runs = first.folder.parent
    young, stale, odd = runs/"20200101_000000", runs/"20200101_000001", runs/"notes"
    for folder in (young, stale, odd): folder.mkdir()
    old(stale)
    (runs/".20190101_000000.swept").mkdir()
    (tmp_path/"away").mkdir()
    (runs.parent/"link").symlink_to(tmp_path/"away")
    (tmp_path/"away"/"20200101_000002").mkdir()
    (runs/"20200101_000003").symlink_to(tmp_path/"away")
    write_text(tmp_path/"artifacts"/"configs"/"run.yaml", YAML)                        # the settings of `first`, which is the oldest that has ended
    shutil.copy(first.folder/"config.snapshot.yaml", elsewhere.folder/"config.snapshot.yaml")
    before = sorted(tmp_path.rglob("*"))
    would = R.sweep_runs(tmp_path, 2, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    gone = R.sweep_runs(tmp_path, 2)
    assert gone == would and set(gone) == {stale, *(r.folder for r in done[:3])}
    kept = {first.folder, running.folder, elsewhere.folder, young, odd, *(r.folder for r in done[3:]), runs/"20200101_000003"}
    assert set(runs.iterdir()) == kept and (tmp_path/"away"/"20200101_000002").is_dir()
    assert len(R.run_folders(tmp_path)["train"]) == 1                                  # the killed one is the only one of its stage
    assert R.sweep_runs(tmp_path, 2) == []
    for record in (running, elsewhere): R.close_run(record, 0, {}, {})
    with pytest.raises(UsageError, match="1 run or more"): R.sweep_runs(tmp_path, 0)
    assert R.sweep_runs(tmp_path/"nowhere", 1) == []


def test_the_number_in_a_name_counts_as_a_number(tmp_path):
    records = [ended(tmp_path, began=1.7e9, text=f"seed: {k}\n") for k in range(12)]
    assert R.sweep_runs(tmp_path, 1) == [r.folder for r in records[:11]]


def test_a_sweeper_that_comes_too_late(tmp_path, monkeypatch):
    records = [ended(tmp_path, began=1.7e9 + k, text=f"seed: {k}\n") for k in range(3)]
    rename = Path.rename
    def late(self, target):
        shutil.rmtree(self)
        return rename(self, target)
    monkeypatch.setattr(Path, "rename", late)
    assert R.sweep_runs(tmp_path, 1) == [r.folder for r in records[:2]] and records[2].folder.is_dir()


# the summary

def root_line(k, **more):
    event = dict(ts=f"2026-01-{1 + k//1000:02d}T{k//60 % 24:02d}:{k % 60:02d}:00.000Z", sha="c"*40, cfg=HASH, cmd=f"fit x={k}", dur_ms=10.*(k % 100), host="h", seed=1, metrics={}, exit=0, run_id=f"fit/{k}")
    return event | more


def test_ten_thousand_lines_with_damage(tmp_path):
    lines = [json.dumps(root_line(k, **(dict(run_id=f"run/{k}", metrics=dict(score=k/1e4, score_fgs1=.1)) if k % 100 == 0 else dict(exit=[0, 3, 6][k % 3])))) for k in range(10_000)]
    lines[17], lines[99], lines[200] = "not json", "[1, 2]", json.dumps(dict(root_line(1), dur_ms="long"))
    (tmp_path/"events.jsonl").write_text("\n".join(lines) + "\n" + lines[3][:50])
    began = time.perf_counter()
    page, table = R.analyze_log(tmp_path)
    assert time.perf_counter() - began < 5
    with table.open(newline="") as stream: rows = list(csv.DictReader(stream))
    text = page.read_text()
    assert page == tmp_path/"artifacts"/"reports"/"log_summary.md" and len(rows) == 9_997 and tuple(rows[0]) == R.COLUMNS
    assert "**Damaged and left out: 4** (line 18: no JSON; line 100: not an object; line 201: not the event of a command; line 10001: torn off: no line end)" in text
    best = max((row for row in rows if row["score"]), key=lambda row: float(row["score"]))
    assert f"Best 0.9900 ({best['run_id']}), latest 0.9900." in text and best["run_id"] == "run/9900" and best["line"] == "9901"
    failed = sum(row["state"] == "failed" for row in rows)
    assert f"{len(rows) - failed} done, {failed} failed, 0 interrupted" in text and "| 3 | settings, usage or missing input |" in text and "| 6 | quality gate |" in text
    assert [row["ts"] for row in rows] == sorted(row["ts"] for row in rows)


def test_killed_runs_and_slow_steps_are_told(tmp_path):
    record = opened(tmp_path)
    with record.timer("calibrate"): time.sleep(.06)
    with record.timer("fit"): pass
    R.close_run(record, 0, {}, {})
    R.append_root_event(tmp_path, "fit", "fit", exit_code=0, began=record.began, record=record)
    assert python(KILLED, tmp_path, YAML).returncode == -9
    going = opened(tmp_path, "predict")
    damaged = ended(tmp_path, began=1.7e9)
    (damaged.folder/"manifest.json").write_text('{"resources": 1}')
    page, table = R.analyze_log(tmp_path, tmp_path/"out")
    R.close_run(going, 0, {}, {})
    text = page.read_text()
    assert page.parent == tmp_path/"out" and "1 done, 0 failed, 0 interrupted, 1 killed, 1 running" in text and "train/" in text.split("## Killed runs")[1].split("## Slowest")[0]
    assert text.index("| calibrate | 1 |") < text.index("| fit | 1 | 0") and f"{damaged.run_id}/manifest.json: TypeError" in text
    with table.open(newline="") as stream: assert sorted(row["state"] for row in csv.DictReader(stream)) == ["done", "killed", "running"]


@pytest.mark.parametrize("content,found", [(None, "no file"), (b"", "an empty log"), (b"\n\n", "an empty log"), (b"\xff\xfe\n{", r"no sound line \(2 damaged\)")])
def test_no_log_no_summary(tmp_path, content, found):
    if content is not None: (tmp_path/"events.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=found) as caught: R.analyze_log(tmp_path)
    assert caught.value.exit_code == 3 and caught.value.hint and not (tmp_path/"artifacts").exists()


# scale

def test_ten_thousand_products(tmp_path):
    "Listing, the resume check (every byte compared) and the manifest's hash: together well below 10 s and 500 MB."
    folder, inputs = tmp_path/"data"/"posterior", {}
    folder.mkdir(parents=True)
    import hashlib
    for k in range(10_000):
        data, name = b"%d" % k*200, f"planet_{k}.npz"
        inputs[name] = {f"part_{i}": f"{k:064d}" for i in range(4)}
        (folder/name).write_bytes(data)
        record = dict(product=name, sha256=hashlib.sha256(data).hexdigest(), inputs=inputs[name], config_hash="c", status="ok", quality={}, code_version="", time_utc="2026-01-31T12:00:00Z")
        (folder/f"{name}.json").write_text(json.dumps(record))
    (folder/"planet_77.npz").write_bytes(b"other")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    assert len(list_records(folder)) == 10_000
    assert set(inputs) - standing(folder, inputs, "c") == {"planet_77.npz"}
    record = opened(tmp_path)
    assert R.close_run(record, 0, {}, dict(posteriors=folder))["artifacts"]["posteriors"]["files"] == 10_000
    assert time.perf_counter() - began < 10 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
