"""Time of one training step of the AIRS encoders: torch_geometric's GATv2, our dense twin and the convolution, on one core.

    python benchmarks/bench_graph.py [--rounds 5] [--batch 32] [--width 32] [--depth 2] [--out FILE.json]

A step is forward and backward. (a) pyg: the graph encoder with torch_geometric's GATv2Conv on one large graph of all planets.
(b) dense: the same encoder with the layer in plain torch. (c) cnn: the encoder of dilated convolutions. All are built by
build_airs_encoder; (a) and (b) hold the same weights.
Each measurement is a child process of its own, bound to one core, and the kinds take turns. Times are processor time: one thread,
nothing read or written, so that a neighbour on the core counts for little. Another child compares outputs and gradients of (a)
and (b) at the same size. The bar: backend 'auto' takes (b), so it must not be the slower one, and it must give the same numbers.
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

BARS = dict(dense_vs_pyg=1., difference=1e-5)   # step of (b)/(a); difference of (a) and (b) over the largest output, or gradient
THREADS = {f'{name}_NUM_THREADS': '1' for name in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA')}
KINDS = dict(pyg=('gat', 'pyg'), dense=('gat', 'dense'), cnn=('cnn', 'auto'))
FEATURES, HEADS, REPEATS = 8, 4, 8


def made(kind, batch, width, depth):
    "An encoder, and planets for it."
    import torch
    from spectramind.network.airs_encoder import build_airs_encoder
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, backend = KINDS[kind]
    encoder = build_airs_encoder(name, FEATURES, width, depth, HEADS, backend)
    return encoder, torch.randn(batch, 283, FEATURES, generator=torch.Generator().manual_seed(1))


def loss_of(encoder, nodes):
    "A number that every output takes part in."
    pooled, latents, _ = encoder(nodes)
    return pooled.sin().sum() + latents.sin().sum()/latents.shape[1]


def time_kind(kind, *size):
    "Seconds of processor time, forward and backward: the best of a few steps."
    encoder, nodes = made(kind, *size)
    forward, step = math.inf, math.inf
    for _ in range(REPEATS + 2):
        encoder.zero_grad()
        start = time.process_time()
        loss = loss_of(encoder, nodes)
        middle = time.process_time()
        loss.backward()
        forward, step = min(forward, middle - start), min(step, time.process_time() - start)
    return dict(kind=kind, forward=forward, step=step, parameters=sum(p.numel() for p in encoder.parameters()))


def judge(*size):
    "Largest difference of outputs and gradients between (a) and (b), relative to the largest output and gradient."
    import torch
    found = {}
    for kind in ('pyg', 'dense'):
        encoder, nodes = made(kind, *size)
        loss_of(encoder, nodes).backward()
        with torch.no_grad(): pooled, latents, _ = encoder(nodes)
        gradients = torch.cat([p.grad.flatten() for p in encoder.parameters()])
        found[kind] = dict(outputs=torch.cat([pooled.flatten(), latents.flatten()]), gradients=gradients)
    def apart(name): return float((found['pyg'][name] - found['dense'][name]).abs().max()/found['pyg'][name].abs().max())
    return dict(kind='judge', outputs=apart('outputs'), gradients=apart('gradients'))


# ---------------------------------------------------------------- one child, all children
def child(kind, *size):
    "One measurement, printed as JSON."
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(json.dumps(judge(*size) if kind == 'judge' else time_kind(kind, *size)))


def measure(kind, *size):
    "Run one child."
    command = [sys.executable, __file__, '--child', kind]
    for name, value in zip(('batch', 'width', 'depth'), size): command += [f'--{name}', str(value)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | THREADS)
    if done.returncode: raise SystemExit(f'{kind} failed:\n{done.stderr[-3000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarise(runs, judged):
    "Best and median of each kind in milliseconds, ratios to (a), and the bars."
    table = {kind: {f'{what}_{name}': 1e3*choose([run[what] for run in runs if run['kind'] == kind])
                    for what in ('forward', 'step') for name, choose in (('best', min), ('median', statistics.median))} for kind in KINDS}
    ratios = {kind: {key: value/table['pyg'][key] for key, value in row.items()} for kind, row in table.items()}
    worst = dict(dense_vs_pyg=ratios['dense']['step_best'], difference=max(judged['outputs'], judged['gradients']))
    return dict(ms=table, ratios=ratios, parameters={run['kind']: run['parameters'] for run in runs}, judged=judged, worst=worst, bars=BARS,
                met={key: bool(worst[key] <= bar) for key, bar in BARS.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=5, help='measurements of each kind')
    parser.add_argument('--batch', type=int, default=32, help='planets')
    parser.add_argument('--width', type=int, default=32, help='size of the latents')
    parser.add_argument('--depth', type=int, default=2, help='layers')
    parser.add_argument('--out', default='', help='also write everything measured to this JSON file')
    parser.add_argument('--child', choices=[*KINDS, 'judge'], help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = args.batch, args.width, args.depth
    if args.child: return child(args.child, *size)
    runs = [measure(kind, *size) for _ in range(args.rounds) for kind in KINDS]
    report = summarise(runs, measure('judge', *size))
    report |= dict(runs=runs, size=dict(zip(('batch', 'width', 'depth'), size)))
    report |= dict(cores=os.cpu_count(), processor=platform.machine(), python=platform.python_version())
    print(f'{"":8s}{"forward ms":>12s}{"step ms":>12s}{"median":>10s}{"forward/pyg":>13s}{"step/pyg":>10s}{"parameters":>12s}')
    for kind, row in report['ms'].items():
        r = report['ratios'][kind]
        print(f'{kind:8s}{row["forward_best"]:12.1f}{row["step_best"]:12.1f}{row["step_median"]:10.1f}'
              f'{r["forward_best"]:13.2f}{r["step_best"]:10.2f}{report["parameters"][kind]:12d}')
    print()
    for key, value in report['worst'].items():
        print(f'{key:16s}{value:10.2g}  bar {BARS[key]:g}: {"met" if report["met"][key] else "MISSED"}')
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(json.dumps(report, indent=1))
    return 0 if all(report['met'].values()) else 1


if __name__ == '__main__': sys.exit(main())
