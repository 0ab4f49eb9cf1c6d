"""The fault matrix: everything that can be wrong with what the program is given, and what it has to do about it.

    python benchmarks/proof_faults.py [--workers 2] [--only WORDS] [--seed 1] [--mutations 150] [--expressions 6000] [--work DIR] [--out FILE.json] [--page FILE.md]

A tiny tree is simulated once (five labelled planets, three without labels, one of these seen twice) and taken through all stages: the healthy run. Each case of
`fault_cases.py` is given a place of its own, a copy by hard links of tree and work folder; it does its damage there, runs a real command, and is judged by what was
written down beforehand:

  exit code     the one that was expected; where something is refused the message says what was found and what was wanted, and there is no traceback
  rows          where a submission is due it is complete, valid and finite; undamaged planets have the healthy run's row byte for byte
  names         bad_planets.csv and lost_visits.csv name the damaged ones, and nobody else; a bad planet has the prior's row
  cleanliness   nothing is written into the tree, no temporary file is left, no error that nobody expected is logged
  time          a command that does not end within the limit has hung
  healing       (some cases) the damage is undone and the command run again: the healthy bytes, and only what was damaged is made again

Then `fault_fuzz.py` damages files of every format at random positions, many times each, and hands them to the reader: values or a typed error, within seconds; and
`fuzz_rules.py` throws expressions at the rules' language. Workers are processes; one that hangs is killed, and the case has failed.
Prints the table, writes docs/fault_matrix.md (without times: the same for everybody) and benchmarks/proof_faults.json; exit code 6 when anything failed.
"""
import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace

for _name in ('OMP', 'OPENBLAS', 'MKL', 'NUMBA', 'POLARS_MAX'): os.environ.setdefault(f'{_name}_NUM_THREADS' if _name != 'POLARS_MAX' else 'POLARS_MAX_THREADS', '1')
os.environ['SPECTRAMIND_QUIET'] = '1'
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
LIMIT_S = 90.        # a case that takes longer has hung; a healthy one takes a second or two
NOBODY = 65534


# --- the healthy run --------------------------------------------------------------------------------------------------------------------

FRAMES, SEED = (140, 1350, {'FGS1': 100, 'AIRS-CH0': 80}), 19
PLAIN = ('data=kaggle', 'model=physics_only', 'executor=serial', 'diag.explain=false')
NETWORK = ('data=kaggle', 'model=v50_fast', 'train=trainer_smoke', 'model.ensemble.folds=2', 'train.epochs_mae=0', 'train.epochs_contrastive=0', 'train.epochs_supervised=1',
           'executor=serial', 'diag.explain=false')


def command(words, page=True):
    "Run a command as the command line does; exit code and everything it said. Without its page it takes half the time."
    from unittest.mock import patch
    from typer.testing import CliRunner
    from spectramind.__main__ import app
    from spectramind.pipeline import run
    blank = patch.object(run, 'write_report', lambda config: SimpleNamespace(score=None, physics_score=None, page=None))
    with contextlib.nullcontext() if page else blank: said = CliRunner().invoke(app, list(words))
    text = said.output
    if said.exception is not None and not isinstance(said.exception, SystemExit):
        text += 'Traceback: ' + ''.join(traceback.format_exception(said.exception))
    return said.exit_code, text


def link_tree(source, target):
    "A copy by hard links: whoever changes a file there has to replace it."
    return shutil.copytree(source, target, copy_function=os.link, symlinks=True)


def build(base):
    "The healthy run, its checkpoint, and one of a network; kept in `base` while the code is the same."
    from spectramind.core.provenance import code_hash
    from spectramind.simulate.observatory import ProfileSpec, simulate_tree
    note, key = base/'base.json', code_hash() + repr((FRAMES, SEED, PLAIN, NETWORK))
    if note.is_file() and json.loads(note.read_text()) == key: return
    shutil.rmtree(base, ignore_errors=True)
    simulate_tree(base/'tree', base/'truth', profile=ProfileSpec(*FRAMES), n_train=5, n_test=3, seed=SEED)
    for step in (('run', *PLAIN, f'data.root={base}/tree', f'paths.work={base}/work'),):
        code, text = command(step)
        if code: sys.exit(f'the healthy run ended with code {code}:\n{text}')
    widen(base)
    code, text = command(('run', *NETWORK, f'data.root={base}/wide', f'paths.work={base}/net'))
    if code: sys.exit(f'the healthy run with a network ended with code {code}:\n{text}')
    told = base/'net'/'artifacts'/'checkpoints'/'members'/'ensemble.json'
    document = json.loads(told.read_text())
    document['gate'] |= dict(fgs1=1., airs=.5)                                  # so tiny a sky lets no network in; here it has to count
    told.write_text(json.dumps(document))
    code, text = command(('predict', 'submit.layout=kaggle', *NETWORK, f'data.root={base}/tree', f'paths.work={base}/refined', f'paths.products={base}/work',
                          f'predict.checkpoint={base}/net/artifacts/checkpoints'))
    if code: sys.exit(f'the healthy prediction with a network ended with code {code}:\n{text}')
    note.write_text(json.dumps(key))


def widen(base):
    "A tree with every labelled planet twice, and the products of all: enough to train a network on."
    tree, work = link_tree(base/'tree', base/'wide'), base/'net'
    shutil.copytree(base/'work'/'data', work/'data', copy_function=shutil.copy2)
    for planet in sorted(p.name for p in (tree/'train').iterdir()):
        twin = str(int(planet) + 1)
        link_tree(tree/'train'/planet, tree/'train'/twin)
        for path in sorted((work/'data').glob(f'*/*/planet_{planet}*')) + sorted((work/'data').glob(f'*/planet_{planet}*')):
            shutil.copy2(path, path.with_name(path.name.replace(planet, twin)))
    for name in ('train.csv', 'train_star_info.csv'):
        header, *rows = (tree/name).read_text().splitlines()
        rows += [f'{int(row.partition(",")[0]) + 1},{row.partition(",")[2]}' for row in rows]
        (tree/name).unlink()
        (tree/name).write_text('\n'.join([header, *rows]) + '\n')


# --- a place for each case --------------------------------------------------------------------------------------------------------------

class Place:
    "A damaged world of one's own: `tree`, `work`, `here`; planets by the letters A (seen once), B (seen twice), C (seen once) and T (a labelled one)."
    def __init__(self, base, here):
        self.base, self.here, self.tree, self.work = base, here, here/'tree', here/'work'
        link_tree(base/'tree', self.tree)
        (self.work/'data').parent.mkdir(parents=True)
        shutil.copytree(base/'work'/'data', self.work/'data', copy_function=shutil.copy2)
        for name in ('artifacts/checkpoints', 'artifacts/predictions', 'dist'): shutil.copytree(base/'work'/name, self.work/name)
        test = sorted(int(p.name) for p in (self.tree/'test').iterdir())
        twice = [p for p in test if (self.tree/'test'/str(p)/'FGS1_signal_1.parquet').exists()]
        once = [p for p in test if p not in twice]
        train = sorted(int(p.name) for p in (self.tree/'train').iterdir())
        self.ids = dict(A=once[0], B=twice[0], C=once[1], T=train[0], U=train[1], V=train[2], W=train[3], X=train[4])
    def folder(self, letter): return self.tree/('test' if letter in 'ABC' else 'train')/str(self.ids[letter])
    def signal(self, letter, instrument, visit=0): return self.folder(letter)/f'{instrument}_signal_{visit}.parquet'
    def map(self, letter, instrument, name, visit=0): return self.folder(letter)/f'{instrument}_calibration_{visit}'/f'{name}.parquet'
    def put(self, path, data):
        "Replace a file; its other name keeps the old bytes."
        self.clear(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode('utf-8'))
    def clear(self, path):
        if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
        else: path.unlink(missing_ok=True)
    def frame(self, path, change):
        "Rewrite a parquet table."
        import polars as pl
        new = change(pl.read_parquet(path, glob=False, hive_partitioning=False))
        self.clear(path)
        new.write_parquet(path)
    def table(self, path, change):
        "Rewrite a CSV table, given as rows of text with the header first."
        rows = change([list(row) for row in csv.reader(path.read_text().splitlines())])
        self.put(path, ''.join(','.join(row) + '\n' for row in rows))
    def words(self, words): return [w.format(tree=self.tree, work=self.work, base=self.base, here=self.here, **self.ids) for w in words]


def listing(folder):
    "Everything below a folder with size and time of change."
    found = {}
    for path in sorted(Path(folder).rglob('*')):
        with contextlib.suppress(OSError):
            stat = path.lstat()
            found[str(path)] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def rows_of(path):
    "Planet id -> its line of a submission."
    with contextlib.suppress(OSError):
        return {int(float(line.partition(',')[0])): line for line in path.read_text().splitlines()[1:]}
    return {}


def column(path, *names):
    "Some columns of a report, as a set of tuples."
    if not path.is_file(): return set()
    return {tuple(row[n] for n in names) for row in csv.DictReader(path.read_text().splitlines())}


def judge(case, place, code, text, before):
    "What is wrong; empty when all is as it was written down."
    wrong = []
    def need(good, what):
        if not good: wrong.append(what)
    need(code in case.codes, f'exit code {code}, expected {" or ".join(map(str, case.codes))}')
    need('Traceback' not in text, 'a traceback')
    need(not list(place.here.rglob('error_*.log')), 'an error that nobody expected was logged')
    for word in case.says: need(word.format(**place.ids) in text, f'the message does not say {word.format(**place.ids)!r}')
    if code in (2, 3) and case.found: need('found' in text and 'wanted' in text, 'the message does not say what was found and wanted')
    if place.tree.is_dir() and case.tree_kept: need(listing(place.tree) == before, 'something was written into the tree')
    need(not [p for p in place.work.rglob('.*.tmp')], 'a temporary file was left')
    if case.check: wrong += case.check(place, text) or []
    if case.rows is not None: wrong += judge_rows(case, place)
    return wrong


def judge_rows(case, place):
    "The submission and the reports of the damaged."
    from spectramind.core.errors import SpectraMindError
    from spectramind.scoring.submission import validate_submission
    wrong, ids = [], place.ids
    wanted = [ids[x] if isinstance(x, str) else x for x in (case.rows or 'ABC')]
    try: spectra = validate_submission(place.work/'dist'/'submission.csv', wanted)[0]
    except SpectraMindError as error: return [f'the submission is not valid: {error.message}']
    if len(spectra) != len(wanted): wrong.append(f'{len(spectra)} rows, expected {len(wanted)}')
    healthy, found = rows_of(place.base/case.reference/'dist'/'submission.csv'), rows_of(place.work/'dist'/'submission.csv')
    told = dict((int(p), o) for p, o in column(place.work/'artifacts'/'predictions'/'origin.csv', 'planet_id', 'origin'))
    for p in wanted:
        letter = next((k for k, v in ids.items() if v == p), None)
        if letter in case.bad or (p not in ids.values()):
            if told.get(p) != 'prior': wrong.append(f'planet {letter or p} has a row of {told.get(p)}, expected prior')
        elif letter not in case.changed and case.equal and found.get(p) != healthy.get(p): wrong.append(f'the row of planet {letter}, which is undamaged, has changed')
        if letter in case.bad and found.get(p) == healthy.get(p): wrong.append(f'the row of the bad planet {letter} is the healthy one')
    reports = place.work/'artifacts'/'reports'
    bad = {int(p) for p, in column(reports/'bad_planets.csv', 'planet_id') if p.isdigit()}
    may = {ids.get(x, x) for x in case.may}
    expected = {ids.get(x, x) for x in case.bad}
    if not expected <= bad <= expected | may: wrong.append(f'bad_planets.csv names {sorted(bad)}, expected {sorted(expected)}')
    lost = {(int(p), int(v)) for p, v in column(reports/'lost_visits.csv', 'planet_id', 'visit')}
    if case.lost is not None and lost != {(ids[x], v) for x, v in case.lost}: wrong.append(f'lost_visits.csv names {sorted(lost)}, expected {[(ids[x], v) for x, v in case.lost]}')
    return wrong


@contextlib.contextmanager
def as_nobody(place, wanted):
    "As a user who may not read everything; where we are no root we are one already."
    if not wanted or os.geteuid(): yield; return
    for path in (place.here, *place.here.rglob('*')):
        if not path.is_symlink() and (path == place.here or path == place.work or place.work in path.parents): os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try: yield
    finally: os.seteuid(0)


def heal(case, place):
    "Undo the damage, run again: the healthy bytes, and only the damaged ones made again."
    shutil.rmtree(place.tree)
    link_tree(place.base/'tree', place.tree)
    code, text = command(place.words(case.words), page=False)
    wrong = [] if code == 0 else [f'after healing: exit code {code}']
    if (place.work/'dist'/'submission.csv').read_bytes() != (place.base/'work'/'dist'/'submission.csv').read_bytes(): wrong.append('after healing: not the healthy submission')
    made = [int(line.split(' planets, ')[1].split(' made')[0]) for line in text.splitlines() if line.startswith(('calibrate + features:', 'fit:'))]
    touched = len(set(case.bad) | {x for x, _ in case.lost} | set(case.changed))
    if any(n > touched for n in made): wrong.append(f'after healing: {made} planets made again, expected {touched} at most')
    return wrong


def drawn(case): return case.heal or zlib.crc32(case.name.encode()) % 5 == 0    # whose page is written as well


def do_case(case, base, here):
    "One case, from damage to judgement."
    began, cwd = time.perf_counter(), os.getcwd()
    place = Place(base, here)
    try:
        os.chdir(place.here)
        if case.nobody: command(place.words(case.words))         # whatever is imported on the way may be out of nobody's reach
        case.harm(place)
        before = listing(place.tree)
        with as_nobody(place, case.nobody): code, text = case.call(place) if case.call else command(place.words(case.words), drawn(case))
        wrong = judge(case, place, code, text, before)
        if case.heal and not wrong: wrong = heal(case, place)
    finally:
        os.chdir(cwd)
        subprocess.run(['chmod', '-R', 'u+rwX', str(here)], capture_output=True)
        shutil.rmtree(here, ignore_errors=True)
    return dict(wrong=wrong, code=code, said=text[-1500:] if wrong else '', seconds=time.perf_counter() - began)


# --- workers that may hang --------------------------------------------------------------------------------------------------------------

def serve(pipe, base, scratch):
    "A worker: does cases and fuzzers by name until told to stop."
    import warnings
    warnings.simplefilter('ignore')
    import fault_cases
    import fault_fuzz
    cases = {c.name: c for c in fault_cases.CASES}
    for i, order in enumerate(iter(pipe.recv, None)):
        kind, name, arguments = order
        try:
            if kind == 'case': found = do_case(cases[name], base, Path(scratch)/f'{os.getpid()}_{i}')
            else: found = fault_fuzz.fuzz(name, base, Path(scratch)/f'{os.getpid()}_{i}', **arguments)
        except BaseException as error: found = dict(wrong=[f'the harness itself failed: {type(error).__name__}: {error}'], said=traceback.format_exc(), seconds=0., code=None)
        pipe.send(found | dict(memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024))


def do_all(orders, workers, base, scratch, tell):
    "Every order done by some worker; one that hangs is killed and replaced. name -> result."
    context, results, waiting, crew = multiprocessing.get_context('spawn'), {}, list(orders), {}
    def hire():
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, base, str(scratch)), daemon=True)
        process.start()
        theirs.close()
        return ours, process
    def give(pipe):
        if waiting:
            order = waiting.pop(0)
            crew[pipe][1:] = [order, time.monotonic()]
            pipe.send(order)
        else:
            pipe.send(None)
            crew.pop(pipe)[0].join()
    def fire(pipe, why):
        process, order, _ = crew.pop(pipe)
        process.kill()
        process.join()
        results[order[1]] = dict(wrong=[why], code=None, said='', seconds=LIMIT_S, memory_mb=0.)
        tell(order, results[order[1]])
        start()
    def start():
        pipe, process = hire()
        crew[pipe] = [process, None, 0.]
        give(pipe)
    for _ in range(min(workers, len(waiting))): start()
    while crew:
        for pipe in wait(list(crew), timeout=1.):
            try: found = pipe.recv()
            except (EOFError, ConnectionError): fire(pipe, 'the process died'); continue
            order = crew[pipe][1]
            results[order[1]] = found
            tell(order, found)
            give(pipe)
        for pipe in list(crew):
            _, order, began = crew[pipe]
            if order and time.monotonic() - began > LIMIT_S*order[2].get('patience', 1): fire(pipe, f'it did not end within {LIMIT_S:g} s')
    return results


# --- the table --------------------------------------------------------------------------------------------------------------------------

EXPECTED = {0: 'done', 2: 'refused: schema', 3: 'refused: input or settings', 4: 'time limit', 5: 'internal error', 6: 'quality gate', 130: 'interrupted'}


def expectation(case):
    "A case's expectation in words."
    parts = [f'code {" or ".join(map(str, case.codes))}']
    if case.bad: parts.append(f'{len(case.bad)} bad, named' if len(case.bad) < 4 else 'all bad, named')
    if case.lost: parts.append(f'{len(case.lost)} visit lost, named')
    if case.rows is not None: parts.append(f'{len(case.rows or "ABC")} rows' + (', the others byte for byte' if case.equal and (case.bad or case.lost or case.changed) else ', byte for byte' if case.equal else ''))
    if case.heal: parts.append('healed when undone')
    return '; '.join(parts)


def page(cases, results, fuzzers, rules):
    "docs/fault_matrix.md."
    families = {}
    for case in cases: families.setdefault(case.family, []).append(case)
    good = lambda name: not results[name]['wrong']
    lines = ['# Fault matrix', '', '> what was broken on purpose, and what the program did about it', '',
             'Written by `make proof` (`benchmarks/proof_faults.py`); the expectations stand in `benchmarks/fault_cases.py` and were written before the cases were run. Do not edit.', '',
             'A tiny simulated tree has five labelled planets and three without labels: A and C were seen once, B twice. Each case damages a copy of the tree or of what a run has left, '
             'runs a real command and is judged: the exit code, a message that says what was found and what was wanted, no traceback, an end within the time limit; where a submission '
             'is due, a finite row for every planet, the damaged ones named in `bad_planets.csv` or `lost_visits.csv`, and the rows of the others equal to the healthy run\'s byte for byte. '
             'Nothing may be written into the tree, and no temporary file may be left. Every fifth run, and every one that is healed, writes its page as well.', '',
             'Not judged here: whether a number made from damage that cannot be seen is right (another planet\'s frames in this planet\'s folder, a dark map that is a little wrong). '
             'Such rows are finite and complete, and no more is claimed.', '',
             '| family | cases | as expected | undone and healed |', '|---|---:|---:|---:|']
    for family, members in families.items():
        lines.append(f'| {family} | {len(members)} | {sum(good(c.name) for c in members)} | {sum(c.heal for c in members) or ""} |')
    lines += [f'| **all** | **{len(cases)}** | **{sum(good(c.name) for c in cases)}** | **{sum(c.heal for c in cases)}** |', '',
              '## Random damage to files', '',
              'Bytes flipped, cut out, doubled, overwritten or cut off at seeded random positions, and the file handed to its reader. *read*: values came back (the damage hit a place that does '
              'not matter, or one that no format without checksums can notice); *refused*: a typed error; anything else is a fault.', '',
              '| reader | mutations | read | refused | faults |', '|---|---:|---:|---:|---:|']
    for name, found in fuzzers.items(): lines.append(f'| {name} | {found["tried"]} | {found["read"]} | {found["refused"]} | {len(found["wrong"])} |')
    lines += [f'| expressions of the rules\' language | {rules["tried"]} | {rules["compiled"]} | {rules["refused"]} | {rules["failed"]} |', '']
    for family, members in families.items():
        lines += [f'## {family[:1].upper()}{family[1:]}', '', '| case | expected | found |', '|---|---|---|']
        for c in members:
            found = 'as expected' if good(c.name) else '**' + '; '.join(results[c.name]['wrong']).replace('|', '\\|').replace('<', '&lt;')[:200] + '**'
            lines.append(f'| {c.title.replace("|", chr(92) + "|").replace("$", chr(92) + "$").replace("<", "&lt;")} | {expectation(c)} | {found} |')
        lines.append('')
    return '\n'.join(lines)


def fuzz_rules(count, seed):
    "The language of rules, by its own fuzzer."
    said = subprocess.run([sys.executable, str(HERE/'fuzz_rules.py'), '--count', str(count), '--seed', str(seed)], capture_output=True, text=True)
    numbers = dict(compiled=0, refused=0, FAILED=0)
    for line in said.stdout.splitlines():
        words = line.split()
        for number, word in zip(words, words[1:]):
            if word in numbers and number.isdigit(): numbers[word] += int(number)
    whole = sum(numbers.values()) == count
    return dict(tried=count, compiled=numbers['compiled'], refused=numbers['refused'], failed=numbers['FAILED'] or int(said.returncode != 0 or not whole), said=said.stdout[-800:] + said.stderr[-800:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--only', default='', help='cases whose name or family holds one of these words, comma between; writes nothing')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--mutations', type=int, default=150, help='of each reader\'s file')
    parser.add_argument('--expressions', type=int, default=6000)
    parser.add_argument('--work', type=Path, help='where to work; kept, and the healthy run used again while the code is the same')
    parser.add_argument('--out', type=Path, default=HERE/'proof_faults.json')
    parser.add_argument('--page', type=Path, default=HERE.parent/'docs'/'fault_matrix.md')
    args = parser.parse_args()
    import fault_cases
    import fault_fuzz
    began, work = time.perf_counter(), Path(args.work or tempfile.mkdtemp(prefix='faults_')).resolve()
    os.chmod(work, 0o755) if work.is_dir() else work.mkdir(parents=True)
    names = [c.name for c in fault_cases.CASES]
    if len(set(names)) != len(names): sys.exit(f'two cases are called {next(n for n in names if names.count(n) > 1)}')
    wanted = [w for w in args.only.split(',') if w]
    chosen = [c for c in fault_cases.CASES if not wanted or any(w in c.name or w in c.family for w in wanted)]
    readers = [n for n in fault_fuzz.READERS if not wanted or any(w in f'fuzz {n}' for w in wanted)]
    base, scratch = work/'base', work/'places'
    scratch.mkdir(exist_ok=True)
    os.chmod(scratch, 0o755)
    try:
        process = multiprocessing.get_context('spawn').Process(target=build, args=(base,))   # so that this process stays small
        process.start()
        process.join()
        if process.exitcode: sys.exit(5)
        print(f'the healthy run: {time.perf_counter() - began:.0f} s', flush=True)
        def tell(order, found):
            with open(work/'log.txt', 'a') as stream: stream.write(f'{found["seconds"]:7.1f} s  {"FAILED" if found["wrong"] else "ok    "} {order[1]}\n')
            if found['wrong']: print(f'FAILED {order[1]}: {"; ".join(map(str, found["wrong"][:6]))}' + (f'\n    {found["said"]}' if wanted and found.get('said') else ''), flush=True)
        orders = [('fuzz', n, dict(seed=args.seed, count=args.mutations, patience=2)) for n in readers] + [('case', c.name, dict(patience=c.patience)) for c in chosen]
        results = do_all(orders, args.workers, base, scratch, tell)
        fuzzers = {n: results[n] if 'tried' in results[n] else dict(results[n], tried=0, read=0, refused=0) for n in readers}
        rules = fuzz_rules(args.expressions, args.seed) if not wanted or 'rules' in wanted else dict(tried=0, compiled=0, refused=0, failed=0, said='')
    finally:
        if args.work is None: shutil.rmtree(work, ignore_errors=True)
    failed = [c.name for c in chosen if results[c.name]['wrong']] + [n for n in readers if fuzzers[n]['wrong']] + (['rules'] if rules['failed'] else [])
    if rules['failed']: print(rules['said'])
    seconds = sorted(((results[c.name]['seconds'], c.name) for c in chosen), reverse=True)
    spent = time.perf_counter() - began
    mutations = sum(f['tried'] for f in fuzzers.values())
    print(f'{len(chosen)} cases, {mutations} mutations of {len(readers)} readers\' files, {rules["tried"]} expressions in {spent:.0f} s: {len(failed)} failed; '
          f'slowest {", ".join(f"{n} {s:.0f} s" for s, n in seconds[:3])}; memory at most {max([results[n]["memory_mb"] for n in results], default=0):.0f} MB')
    if not wanted:
        args.page.write_text(page(chosen, results, fuzzers, rules), encoding='utf-8')
        document = dict(machine=dict(system=platform.system(), machine=platform.machine(), cores=os.cpu_count(), python=platform.python_version()), seconds=round(spent, 1), workers=args.workers,
                        seed=args.seed, cases=len(chosen), failed=failed, limit_s=LIMIT_S, memory_mb=round(max(results[n]['memory_mb'] for n in results)),
                        slowest=[dict(case=n, seconds=round(s, 1)) for s, n in seconds[:5]],
                        families={f: sum(c.family == f for c in chosen) for f in dict.fromkeys(c.family for c in chosen)},
                        readers={n: {k: f[k] for k in ('tried', 'read', 'refused')} | dict(faults=len(f['wrong'])) for n, f in fuzzers.items()},
                        rules={k: rules[k] for k in ('tried', 'compiled', 'refused', 'failed')})
        args.out.write_text(json.dumps(document, indent=1) + '\n')
    sys.exit(6 if failed else 0)


if __name__ == '__main__': main()
