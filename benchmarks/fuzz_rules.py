"""Random expressions against the rules language: each one compiles and gives finite values and gradients, or is refused by a typed error.

    python benchmarks/fuzz_rules.py [--count 100000] [--seed 0] [--cap 2] [--keep 5]

Three sources, a third each: sentences grown from a grammar (half of them valid), valid sentences with characters and tokens lost,
doubled or swapped, and hostile text (imports, attributes, lambda, comprehensions, deep nesting, huge numbers, unicode, null bytes,
                                      random bytes).
While an expression is read and evaluated an audit hook listens: nothing may be executed, imported, opened or started. (`compile` is not
on its list, for ast.parse asks for it; what it makes is a syntax tree.) An expression that takes longer than the cap is a failure.
Valid ones are evaluated on ordinary spectra and on nasty ones: zeros, negative, 1e-30, 1e30. Exit code 6 if anything failed.
"""
import argparse
import ast
import collections
import random
import signal
import sys
import time
import warnings

import torch

from spectramind.core.errors import ConfigError
from spectramind.symbolic.language import FUNCTIONS, LOSSES, UNITS, Rule
from spectramind.symbolic.rules import compile_rule
from spectramind.symbolic.terms import spectral_grid

FORBIDDEN = ('exec', 'import', 'open', 'os.', 'subprocess.', 'socket.', 'ctypes.', 'shutil.', 'pickle.', 'marshal.', 'code.', 'builtins.',
             'urllib.', 'tempfile.')
CONSTANTS = ('ts_k', 'scale_height')
WORDS = ['x', 'mu', 'sigma', 'snr', 'wavelength', 'depth', 'ts_k', 'H2O', 'CO2', 'CH4', 'CO', 'airs', 'fgs1', 'continuum', *FUNCTIONS,
         'and', 'or', 'not', 'if', 'else', 'lambda', 'for', 'in', 'is', 'None', 'True', 'await', 'yield', '(', ')', '[', ']', '{', '}',
         ',', ':', ':=', '.', '..',
         '+', '-', '*', '/', '//', '%', '**', '@', '<', '<=', '>', '>=', '==', '!=', '=', '&', '|', '~', '^', '<<', ';', '#', '\\', '\n',
         '\t', '"', "'", '`', '$',
         '0', '1', '5.0', '1e-3', '1e999', '0x10', '1_0', '1j', '007', '283', '-1', '2.5', '67:126', 'f"{x}"', 'b""', '\0', 'é', 'x²', '𝑥',
         '\u202e', '\ud800']
HOSTILE = ['__import__("os").system("true")', '__import__', '().__class__.__bases__[0].__subclasses__()', 'x.__class__', 'x.data',
           'mu.backward()', 'lambda: x',
           '(lambda x: x)(x) > 0', '[i for i in x] > 0', '{i: i for i in x}', '{x}', '(i for i in x)', 'eval("1")', 'exec("1")',
           'open("/etc/passwd")', 'compile', 'globals()',
           'x if x else x', '(y := x) > 0', 'print(x) > 0', 'getattr(x, "data") > 0', 'x[::2] > 0', 'x[..., 0] > 0', 'x[0, 1] > 0',
           'x[H2O][CO] > 0', 'x[[1, 2]] > 0', 'x[-1] > 0',
           'x[283] > 0', 'x[5:2] > 0', 'mean(*x) > 0', 'mean(**x) > 0', 'mean(x=x) > 0', 'max() > 0', 'x**x > 0', 'x**1e9 > 0',
           '9**9**9**9 > x', '10**400 > x', 'x > 1e400',
           'x > 9' + '9'*400, 'x > 1' + '0'*490, 'await x', 'yield x', 'x > 0 if 1 else x', 'x; y', 'import os', 'del x', 'x = 5',
           'assert x', 'x\0>0', '\0', '', ' ', '  x > 0', 'x > 0 # no',
           'x is None', 'x in mu', 'x != 0', '1 < 2', 'True', 'None > x', 'x > True', 'x > "a"', 'x > b"a"', 'f"{x}"', 'x > 1j', '...',
           'x > ...', 'not x', 'x and mu', '-(x > 0) > 0',
           '(x > 0) + (x > 0)', 'ｘ > 0', 'x ＞ 0', 'x > ٣', '\ufeffx > 0', 'x\u200b > 0', 'x > 0\r\nimport os', 'x >\t0', 'x @ x > 0',
           'x // 2 > 0', 'x % 2 > 0', 'x & 1 > 0', '~x > 0', 'x << 2 > 0']
NESTS = [('(', 'x', ')'), ('-', 'x', ''), ('not ', 'x > 0', ''), ('abs(', 'x', ')'), ('x[', '0', ']'), ('exp(', 'x', ')'), ('[', '', ']'),
         ('x+', 'x', ''), ('x**', '2', ''), ('x<', 'x', ''),
         ('1/(', 'x', ')'), ('lambda:', 'x', ''), ('x and ', 'x', ''), ('sqrt(', 'x', ')'), ('log(', 'x', ')'), ('min(x,', 'x', ')'),
         ('', 'x', '.a'), ('', 'x', '()'), ('', 'x', '[H2O]'), ('x if x else ', 'x', '')]


class TooSlow(Exception): pass


def number(r): return r.choice(['0', '1', '2', '0.5', '5.0', '1e-3', '1e6', '1e-12', '250', '.1', f'{r.uniform(0, 10):.3f}',
                                f'{r.uniform(0, 1e6):.0f}'])


def value(r, depth):
    "A value of the grammar, per bin or per planet."
    if depth <= 0 or r.random() < .2:
        return r.choice([number(r), r.choice(['x', 'x', 'x', 'mu', 'sigma', 'snr', 'wavelength', 'depth', 'ts_k']), selected(r, 'x')])
    kind = r.randrange(8)
    if kind < 3: return f'{value(r, depth - 1)} {r.choice("+-*/")} {value(r, depth - 1)}'
    if kind == 3: return f'({value(r, depth - 1)})'
    if kind == 4: return f'{r.choice(["abs", "exp", "log", "sqrt", "diff", "-", "+"])}({value(r, depth - 1)})'
    if kind == 5:
        inner = r.choice(['x', 'mu', 'sigma', f'({value(r, depth - 1)})'])
        return f'{r.choice(["mean", "sum", "std", "median", "area", "min", "max"])}({selected(r, inner)})'
    if kind == 6: return f'({value(r, depth - 1)})**{r.choice(["2", "3", "4", "0.5", "-1", "-2.5", "0", "1", "-4"])}'
    if r.random() < .4: return f'clip({value(r, depth - 1)}, {number(r)}, {number(r)})'
    return f'{r.choice(["min", "max"])}({value(r, depth - 1)}, {value(r, depth - 1)})'


def selected(r, text):
    "A value with a selector, or without."
    low = r.randrange(0, 260)
    return text + r.choice(['', '[H2O]', '[CO]', '[CH4]', '[CO2]', '[airs]', '[fgs1]', '[continuum]', '[all]',
                            f'[{low}:{low + r.randrange(1, 30)}]', f'[{low}]', '[2.5:2.95]', '[:3.0]', '[100:]'])


def truth(r, depth):
    "A sentence of the grammar."
    if depth <= 0 or r.random() < .6:
        text = f'{value(r, depth)} {r.choice(["<", "<=", ">", ">=", "=="])} {value(r, depth)}'
        return text if r.random() < .85 else f'{number(r)} < {text}'
    return r.choice([f'({truth(r, depth - 1)}) and ({truth(r, depth - 1)})', f'{truth(r, depth - 1)} or {truth(r, depth - 1)}',
                     f'not ({truth(r, depth - 1)})'])


def mutated(r, text):
    "Valid text with a few things done to it."
    for _ in range(r.choice([1, 1, 1, 2, 4])):
        at = r.randrange(len(text) + 1)
        end = min(len(text), at + r.choice([1, 1, 2, 5, 20]))
        head, piece, tail, words = text[:at], text[at:end], text[end:], text.split()
        text = r.choice([head + tail, head + r.choice(WORDS) + piece + tail, head + piece*2 + tail, tail + piece + head,
                         head + r.choice('x+-*/()<>=[]:. 0123456789') + text[at + 1:], head + chr(r.randrange(0x110000)) + piece + tail,
                         ' '.join(r.sample(words, len(words)))])
    return text


def hostile(r):
    "Text that should not be run."
    kind = r.randrange(6)
    if kind == 0: return r.choice(HOSTILE)
    if kind == 1: return ' '.join(r.choice(WORDS) for _ in range(r.randrange(1, 25)))
    if kind == 2:
        (head, core, tail), n = r.choice(NESTS), r.choice([2, 5, 10, 23, 24, 25, 60, 120, 499, 3000])
        return head*n + core + tail*n + r.choice(['', ' > 0'])
    if kind == 3: return ''.join(chr(r.randrange(r.choice([128, 256, 0x110000]))) for _ in range(r.randrange(0, 60)))
    if kind == 4: return truth(r, 2) + r.choice([' and ', ' + ', ', ', ' or ', '; ', '\n', '.', '(', '[', ' if ']) + r.choice(HOSTILE)
    return mutated(r, r.choice(HOSTILE))


def spectra():
    "Ordinary and nasty planets: mu, sigma (7, 283), requiring gradients."
    g = torch.Generator().manual_seed(0)
    mu = .01 + 1e-4*torch.randn(7, 283, generator=g)
    sigma = 5e-5*(1 + torch.rand(7, 283, generator=g))
    for row, level in zip(range(1, 6), (0., -1., 1e-30, 1e30, -1e30)): mu[row] = level
    for row, level in zip(range(2, 6), (0., 1e30, 1e-30, -1.)): sigma[row] = level
    return mu, sigma


class Fuzzer:
    def __init__(self, cap):
        self.cap, self.grid, (self.mu, self.sigma) = cap, spectral_grid(), spectra()
        self.constants = dict(ts_k=torch.full((7,), 5000.), scale_height=torch.tensor([1e-5, 0, 1e-30, -1, 1e30, 1e-5, 1e-5]))
        self.listening, self.heard = False, []
        sys.addaudithook(self.hear)
        signal.signal(signal.SIGALRM, self.ring)

    def ring(self, *_): raise TooSlow

    def hear(self, event, args):
        if self.listening and event.startswith(FORBIDDEN): self.heard.append((event, str(args)[:100]))

    def try_one(self, rule):
        "'compiled' or 'refused', or what went wrong; seconds."
        start, self.heard[:] = time.perf_counter(), []
        signal.setitimer(signal.ITIMER_REAL, self.cap)
        self.listening = True
        try:
            outcome = self.run(rule)
        except ConfigError as error:
            named = f'rule {rule.name!r}' in str(error) and error.exit_code == 3
            outcome = 'refused' if named else f'a refusal that does not name its rule: {error}'
        except TooSlow: outcome = 'too slow'
        except Exception as error: outcome = f'{type(error).__name__}: {str(error)[:200]}'  # whatever escapes is the finding
        finally:
            self.listening = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.heard: outcome = f'executed something: {self.heard[:3]}'
        return outcome, time.perf_counter() - start

    def run(self, rule):
        compiled = compile_rule(rule, self.grid, CONSTANTS)
        mu, sigma = self.mu.clone().requires_grad_(), self.sigma.clone().requires_grad_()
        penalty, bins = compiled(mu, sigma, 2.5e-4, self.constants)
        if penalty.shape != (7,) or bins.shape != (7, 283): return f'shapes {tuple(penalty.shape)}, {tuple(bins.shape)}'
        if not bool(penalty.isfinite().all() and bins.isfinite().all()): return 'a value that is not finite'
        if bool((bins < 0).any()): return 'a negative penalty'
        if penalty.requires_grad:
            penalty.sum().backward()
            for name, tensor in (('mu', mu), ('sigma', sigma)):
                if tensor.grad is not None and not bool(tensor.grad.isfinite().all()): return f'a gradient of {name} that is not finite'
        return 'compiled'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--count', type=int, default=100_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--cap', type=float, default=2., help='seconds per expression')
    parser.add_argument('--keep', type=int, default=5, help='failures to print')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('error')
    r, fuzzer = random.Random(args.seed), Fuzzer(args.cap)
    calls = [f'{f}(x, 1, 2)' if f == 'clip' else f'{f}(x)' for f in FUNCTIONS]
    everything = ' + '.join(f'abs({c})**0.5' for c in calls) + ' + x[H2O]/sigma*snr - depth > ts_k and (x < 1 or x > 2)'
    for units in UNITS:   # what torch imports on first use is imported before anyone listens
        for loss in LOSSES:
            fuzzer.run(Rule('warm', everything, loss=loss, units=units, where='2.0:3.0'))
    for text in ('x.a > 0', 'x >', 'y > 0', '(' * 100):
        fuzzer.try_one(Rule('warm', text))
    assert ast.parse('1', mode='eval')
    counts, slowest, failures, valid, began = collections.Counter(), (0., ''), [], ['x >= 0', 'abs(x) < 5.0'], time.perf_counter()
    for i in range(args.count):
        source = ('grammar', 'mutation', 'hostile')[i % 3]
        text = truth(r, r.randrange(0, 4)) if source == 'grammar' else mutated(r, r.choice(valid)) if source == 'mutation' else hostile(r)
        target = r.choice(['mu', 'mu', 'sigma', 'snr'])
        units = 'scale' if target == 'snr' else r.choice([u for u in UNITS if u != target])
        rule = Rule(f'fuzz_{i}', text, target=target, units=units, loss=r.choice(LOSSES),
                    where=r.choice(['all', 'all', 'airs', 'H2O', '67:126', '2.5:2.95']))
        outcome, seconds = fuzzer.try_one(rule)
        counts[source, outcome if outcome in ('compiled', 'refused') else 'FAILED'] += 1
        if outcome not in ('compiled', 'refused'): failures.append((outcome, rule))
        if source == 'grammar' and outcome == 'compiled': valid = [*valid[-999:], text]
        if seconds > slowest[0]: slowest = (seconds, text)
    total = sum(counts.values())
    print(f'{total} expressions in {time.perf_counter() - began:.0f} s, seed {args.seed}')
    for source in ('grammar', 'mutation', 'hostile'):
        print(f'  {source:9s}' + ''.join(f'{counts[source, what]:8d} {what}' for what in ('compiled', 'refused', 'FAILED')))
    print(f'  slowest {slowest[0]*1e3:.0f} ms: {ascii(slowest[1])[:120]}')
    for outcome, rule in failures[:args.keep]: print(f'FAILED {outcome}\n    {ascii(rule)[:700]}')
    nothing = [source for source in ('grammar', 'mutation') if not counts[source, 'compiled']]   # then the rest would prove nothing
    if nothing: print(f'FAILED nothing compiled from {nothing}')
    sys.exit(6 if failures or nothing else 0)


if __name__ == '__main__': main()
