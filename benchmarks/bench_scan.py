"""Time and memory of the selective scan, forward and backward, against the plain loop, on one core, in the same run.

    python benchmarks/bench_scan.py [--rounds 3] [--length 1000] [--out FILE.json]

(a) plain: selective_scan_ref, a loop over steps in torch. (b) torch: ours, blocks of steps in torch. (c) numba: ours, on the processor.
For comparison, whole layers with their projections, both directions: (d) gru: a bidirectional GRU of 64 units each way.
(e) mamba: BidirectionalMamba, which scans twice as many channels in each direction.
Each measurement is a child process of its own, bound to one core, and the kinds take turns. Times are processor time, the best of a few
repeats. Memory is how far the peak of the process rises above what it was with the inputs made and the kernels compiled. Another child
compares the output and all eight gradients with the plain loop, in the same precision and in double. Ends with 6 when a bar is missed.
"""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

BARS = dict(speed=5., difference=1e-5)            # (a)/(c) at least; largest difference of (b) and (c) from (a) at most
THREADS = {f'{name}_NUM_THREADS': '1' for name in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA')}
BATCH, WIDTH, STATE = 16, 64, 16
KINDS = ('plain', 'torch', 'numba', 'gru', 'mamba')
REPEATS = 3


def scan_of(kind):
    "The scan, and the arguments that choose the way."
    from spectramind.network.scan_kernels import selective_scan_ref
    from spectramind.network.selective_scan import selective_scan
    return (selective_scan_ref, {}) if kind == 'plain' else (selective_scan, dict(backend=kind))


def prepare(kind, length):
    "A function that runs forward and backward once."
    import torch
    if kind in ('plain', 'torch', 'numba'):
        from spectramind.network.selective_scan import scan_example, scan_gradients
        (scan, more), example = scan_of(kind), scan_example(BATCH, WIDTH, length, STATE)
        return lambda: scan_gradients(scan, example, **more)
    torch.manual_seed(0)
    x, valid = torch.randn(BATCH, length, WIDTH, requires_grad=True), torch.ones(BATCH, length, dtype=torch.bool)
    if kind == 'gru':
        layer = torch.nn.GRU(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        def forward(): return layer(x)[0]
    else:
        from spectramind.network.fgs1_encoder import BidirectionalMamba
        layer = BidirectionalMamba(WIDTH, STATE, 'numba')
        def forward(): return layer(x, valid)
    leaves = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(forward().square().sum(), leaves)


def peak_mb():
    "Largest memory this process has had, MB; never what its parent had."
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'): return int(line.split()[1])/1024
    raise SystemExit('bench_scan.py: no VmHWM in /proc/self/status; it needs Linux')


def time_kind(kind, length):
    "Seconds and memory of one kind."
    import torch
    torch.set_num_threads(1)
    prepare(kind, 40)()                            # compiles kernels
    run, before, best = prepare(kind, length), peak_mb(), math.inf
    for _ in range(REPEATS):
        start = time.process_time()
        kept = run()
        best = min(best, time.process_time() - start)
        del kept
    return dict(kind=kind, seconds=best, memory_mb=peak_mb() - before)


def judge(length):
    "Largest differences from the plain loop in single and in double precision, as a share of the largest value."
    import torch
    from spectramind.network.scan_kernels import selective_scan_ref
    from spectramind.network.selective_scan import scan_difference, scan_example, scan_gradients
    torch.set_num_threads(1)
    example = scan_example(BATCH, WIDTH, length, STATE)
    made = {}
    for kind in ('plain', 'torch', 'numba'):
        scan, more = scan_of(kind)
        made[kind] = scan_gradients(scan, example, **more)
    exact = scan_gradients(selective_scan_ref, {k: x.double() for k, x in example.items()})
    single = {kind: scan_difference(made[kind], made['plain']) for kind in ('torch', 'numba')}
    return dict(kind='judge', single=single, double={kind: scan_difference(made[kind], exact) for kind in made})


def child(kind, length):
    "One measurement, printed as JSON."
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(json.dumps(judge(length) if kind == 'judge' else time_kind(kind, length)))


def measure(kind, length):
    "Run one child."
    command = [sys.executable, __file__, '--child', kind, '--length', str(length)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | THREADS)
    if done.returncode: raise SystemExit(f'{kind} failed:\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarise(runs, judged):
    "Best and median of each kind, ratios to the plain loop, and the bars."
    table = {kind: [r for r in runs if r['kind'] == kind] for kind in KINDS}
    best = {kind: min(r['seconds'] for r in rows) for kind, rows in table.items()}
    median = {kind: statistics.median(r['seconds'] for r in rows) for kind, rows in table.items()}
    memory = {kind: statistics.median(r['memory_mb'] for r in rows) for kind, rows in table.items()}
    worst = dict(speed=best['plain']/best['numba'], difference=max(v for row in judged['single'].values() for v in row.values()))
    met = dict(speed=worst['speed'] >= BARS['speed'], difference=worst['difference'] <= BARS['difference'])
    faster = {kind: best['plain']/s for kind, s in best.items()}
    return dict(seconds=best, median=median, memory_mb=memory, faster=faster, worst=worst, bars=BARS, met=met, differences=judged)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3, help='measurements of each kind')
    parser.add_argument('--length', type=int, default=1000, help='steps of the series')
    parser.add_argument('--out', default='', help='also write everything measured to this JSON file')
    parser.add_argument('--child', choices=[*KINDS, 'judge'], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child: return child(args.child, args.length)
    runs = [measure(kind, args.length) for _ in range(args.rounds) for kind in KINDS]
    report = summarise(runs, measure('judge', args.length))
    report |= dict(runs=runs, sizes=dict(batch=BATCH, width=WIDTH, state=STATE, length=args.length), cores=os.cpu_count(),
                   processor=platform.machine(), python=platform.python_version())
    print(f'batch {BATCH}, width {WIDTH}, state {STATE}, length {args.length}, forward and backward, one core')
    print(f'{"":10s}{"seconds":>10s}{"median":>10s}{"times as fast":>15s}{"memory, MB":>12s}')
    for kind in KINDS:
        seconds, median, faster, memory = (report[key][kind] for key in ('seconds', 'median', 'faster', 'memory_mb'))
        print(f'{kind:10s}{seconds:10.3f}{median:10.3f}{faster:15.2f}{memory:12.0f}')
    names = list(report['differences']['single']['numba'])
    print(f'\n{"largest difference":28s}' + ''.join(f'{n:>12s}' for n in names))
    for against, rows in (('from (a)', report['differences']['single']), ('from (a) in double', report['differences']['double'])):
        for kind, row in rows.items(): print(f'{kind + " " + against:28s}' + ''.join(f'{row[n]:12.0e}' for n in names))
    print()
    for key, sign in (('speed', 'at least'), ('difference', 'at most')):
        print(f'{key:12s}{report["worst"][key]:10.3g}  bar: {sign} {BARS[key]:g}, {"met" if report["met"][key] else "MISSED"}')
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(report, indent=1))
    return 0 if all(report['met'].values()) else 6


if __name__ == '__main__': sys.exit(main())
