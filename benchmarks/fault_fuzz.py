"""Random damage to files of every format, handed to their readers: values or a typed error, soon, and nothing else. See `proof_faults.py`.

A reader is given a whole file, made or taken from the healthy run, and the same file damaged at seeded places. What it may do with it: give values back, or raise one of the
project's own errors with code 2 or 3. Anything else is a fault: another exception, a crash of the process, an end that does not come, memory beyond 3 GB.
"""
import json
import random
import resource
import shutil
import time
import traceback
from pathlib import Path

READERS = {}     # name -> (makes the file: base, here -> path; reads it: path -> anything)
SLOW_S, MEMORY_MB = 20., 3000.


def reader(name, make):
    "Register a reader."
    def keep(read):
        READERS[name] = make, read
        return read
    return keep


def copied(*parts):
    "A file of the healthy run; `*` is the first match."
    def make(base, here):
        source = sorted(base.glob('/'.join(parts)))[0]
        return Path(shutil.copy2(source, here/source.name))
    return make


def steps(name):
    "All steps of a calibration; one of them is damaged."
    def make(base, here):
        for path in sorted((base/'net/artifacts/calibration').glob('*.json')): shutil.copy2(path, here/path.name)
        return here/name
    return make


def mutate(data, r, text=False):
    "Bytes with something done to them; the same seed does the same."
    data, kind, n = bytearray(data), r.randrange(9), len(data)
    at, width = r.randrange(max(1, n)), r.choice([1, 1, 2, 4, 16, 200])
    if kind < 3:
        for _ in range(r.choice([1, 1, 2, 8])): data[r.randrange(max(1, n))] ^= 1 << r.randrange(8)
    elif kind == 3: del data[at:]
    elif kind == 4: del data[at:at + width]
    elif kind == 5: data[at:at] = data[at:at + width]
    elif kind == 6: data[at:at + width] = bytes(r.randrange(256) for _ in range(width))
    elif kind == 7: data[at:at + width] = r.choice([b'\0', b'\xff', b'\x7f', b'9', b'-', b'[', b'"', b'\n', b','])*width
    else:
        other = r.randrange(max(1, n))
        data[at:at + width], data[other:other + width] = data[other:other + width], data[at:at + width]
    if text and r.random() < .4:
        words = [b'NaN', b'1e999', b'-0', b'null', b'true', b'{}', b'[]', b'""', b'1e-320', b'99999999999999999999', b'\xc3', b'\xe2\x80\xae', b'<b>', b'"\\ud800"', b'- ', b'!!python/name:os.system', b'&a *a', b'${a:b}', b'..', b'/']
        at = r.randrange(len(data) + 1)
        data[at:at + r.choice([0, 0, 1, 3])] = r.choice(words)
    return bytes(data)


def fuzz(name, base, here, seed, count, **_):
    "Damage and read `count` times."
    from spectramind.core.errors import SpectraMindError
    make, read = READERS[name]
    here.mkdir(parents=True)
    began, r, counts, wrong, slowest = time.perf_counter(), random.Random(f'{seed} {name}'), dict(tried=0, read=0, refused=0), [], 0.
    try:
        path = make(base, here)
        whole = path.read_bytes()
        read(path)                                                    # undamaged it can be read
        text = b'\0' not in whole[:2000]
        for i in range(count):
            data, start = mutate(whole, r, text), time.perf_counter()
            path.unlink()
            path.write_bytes(data)
            counts['tried'] += 1
            try:
                read(path)
                counts['read'] += 1
            except SpectraMindError as error:
                counts['refused'] += 1
                if error.exit_code not in (2, 3): wrong.append(f'mutation {i}: code {error.exit_code}: {error.message[:200]}')
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                wrong.append(f'mutation {i}: {type(error).__name__}: {str(error)[:160]} ({Path(where.filename).name}:{where.lineno})')
            slowest = max(slowest, time.perf_counter() - start)
    finally: shutil.rmtree(here, ignore_errors=True)
    if slowest > SLOW_S: wrong.append(f'one reading took {slowest:.0f} s')
    if (memory := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024) > MEMORY_MB: wrong.append(f'{memory:.0f} MB of memory')
    return counts | dict(wrong=wrong, code=None, said='\n'.join(wrong[:10]), seconds=time.perf_counter() - began, slowest_s=slowest)


# --- raw data ---------------------------------------------------------------------------------------------------------------------------

@reader('signal (parquet)', copied('tree/test/*/FGS1_signal_0.parquet'))
def read_signal(path):
    import numpy as np
    from spectramind.challenge.wide_parquet import read_columns
    return read_columns(path, 1350, 1024, np.uint16, np.arange(0, 1024, 8))


@reader('calibration map (parquet)', copied('tree/test/*/FGS1_calibration_0/flat.parquet'))
def read_flat(path):
    from spectramind.challenge.wide_parquet import read_map
    return read_map(path, (32, 32))


def in_tree(name):
    "The reader of a table of the tree, given its folder."
    def make(base, here):
        for table in ('axis_info.parquet', 'adc_info.csv', 'train.csv', 'test_star_info.csv', 'sample_submission.csv', 'wavelengths.csv', 'coadds.json'): shutil.copy2(base/'tree'/table, here/table)
        return here/name
    return make


@reader('axis_info.parquet', in_tree('axis_info.parquet'))
def read_axis(path):
    from spectramind.challenge.layout import read_axes
    return read_axes(path.parent)


@reader('adc_info.csv', in_tree('adc_info.csv'))
def read_converter(path):
    from spectramind.challenge.adc import read_adc
    return read_adc(path.parent)


@reader('coadds.json', in_tree('coadds.json'))
def read_ramps(path):
    from spectramind.challenge.adc import read_coadds
    return read_coadds(path.parent)


@reader('star table (csv)', in_tree('test_star_info.csv'))
def read_star_table(path):
    from spectramind.challenge.planets import scan_stars
    return scan_stars(path.parent, 'test')


@reader('labels (csv)', in_tree('train.csv'))
def read_label_table(path):
    from spectramind.challenge.planets import scan_labels
    return scan_labels(path.parent, limits=(0, 1))


@reader('sample_submission.csv', in_tree('sample_submission.csv'))
def read_sample(path):
    from spectramind.challenge.planets import read_sample_submission
    return read_sample_submission(path.parent)


# --- what stages leave ------------------------------------------------------------------------------------------------------------------

@reader('posterior (npz)', copied('work/data/posterior/*.npz'))
def read_fit(path):
    from spectramind.core.errors import DataError
    from spectramind.core.store import read_npz
    from spectramind.pipeline.products import posterior_from
    arrays = read_npz(path)
    if not {'mean', 'cov', 'nuisance', 'curves', 'quality'} <= set(arrays): raise DataError(path, 'other arrays', 'those of a posterior')
    return posterior_from(1, arrays)                                 # in a run the hash of the record is compared before that


@reader('light curves (npz)', copied('work/data/features/airs_bins/*.npz'))
def read_curves(path):
    from spectramind.core.store import read_npz
    return read_npz(path, 'flux', 'variance', 'valid', 'time')


def with_product(base, here):
    source = sorted((base/'work'/'data'/'posterior').glob('*.npz'))[0]
    shutil.copy2(source, here/source.name)
    return Path(shutil.copy2(source.with_name(source.name + '.json'), here/f'{source.name}.json'))


@reader('record of a product (json)', with_product)
def read_with_record(path):
    from spectramind.core.provenance import is_done
    from spectramind.pipeline.products import read_product
    product = path.with_name(path.name.removesuffix('.json'))
    is_done(product, {}, '')
    return read_product(product, 'fit')


@reader('prior (json)', copied('work/artifacts/checkpoints/prior.json'))
def read_a_prior(path):
    from spectramind.pipeline.stages import read_prior
    return read_prior(path)


@reader('calibration of error bars (json)', steps('corel.json'))
def read_corel(path):
    from spectramind.pipeline.calibration import read_calibration
    return read_calibration(path.parent)


@reader('temperature (json)', steps('temperature.json'))
def read_temperature(path):
    from spectramind.pipeline.calibration import read_calibration
    return read_calibration(path.parent)


@reader('outliers (json)', steps('outliers.json'))
def read_outliers(path):
    from spectramind.pipeline.calibration import read_calibration
    return read_calibration(path.parent)


@reader('weights (safetensors)', copied('net/artifacts/checkpoints/members/*/model.safetensors'))
def read_model(path):
    import hashlib
    from spectramind.training.checkpoints import read_weights
    (path.parent/'model.json').write_text(json.dumps(dict(sha256=hashlib.sha256(path.read_bytes()).hexdigest())))   # a description that agrees
    return read_weights(path.parent)


@reader('resume file (last.ckpt)', copied('net/artifacts/checkpoints/members/*/last.ckpt'))
def read_resume(path):
    from spectramind.training.checkpoints import read_checkpoint
    return read_checkpoint(path)


def whole_ensemble(name):
    def make(base, here):
        shutil.copytree(base/'net'/'artifacts'/'checkpoints'/'members', here/'members')
        return here/'members'/name
    return make


@reader('ensemble (json)', whole_ensemble('ensemble.json'))
def read_members(path):
    from spectramind.training.ensemble import read_ensemble
    return read_ensemble(path.parent)


@reader('description of weights (json)', lambda base, here: whole_ensemble(sorted(p.parent.name for p in base.glob('net/artifacts/checkpoints/members/*/model.json'))[0] + '/model.json')(base, here))
def read_description(path):
    from spectramind.training.ensemble import read_ensemble
    return read_ensemble(path.parent.parent)


@reader('predictions (csv)', lambda base, here: Path(shutil.copytree(base/'work'/'artifacts'/'predictions', here/'predictions'))/'sigma.csv')
def read_rows(path):
    from spectramind.pipeline.products import read_predictions
    return read_predictions(path.parent)


# --- submissions, settings, logs --------------------------------------------------------------------------------------------------------

@reader('submission (csv)', copied('work/dist/submission.csv'))
def read_csv(path):
    from spectramind.scoring.submission import validate_submission
    return validate_submission(path)


@reader('submission (json)', copied('work/dist/submission.json'))
def read_json_form(path):
    from spectramind.scoring.submission import validate_submission
    return validate_submission(path)


@reader('submission (zip)', copied('work/dist/submission.zip'))
def read_zip(path):
    from spectramind.scoring.submission import validate_submission
    return validate_submission(path)


@reader('snapshot (yaml)', copied('work/artifacts/configs/run.yaml'))
def read_snapshot(path):
    from spectramind.pipeline.config import load_config
    return load_config([], str(path))


def log(base, here):
    (here/'events.jsonl').write_bytes((base/'work'/'events.jsonl').read_bytes()*3)
    return here/'events.jsonl'


@reader('events.jsonl', log)
def read_events(path):
    from spectramind.pipeline.records import analyze_log
    return analyze_log(path.parent, path.parent/'out')


@reader('status of a run (json)', copied('work/artifacts/runs/run/*/status.json'))
def read_state(path):
    from spectramind.pipeline.records import read_status
    return read_status(path.parent)


@reader('folds (json)', copied('work/data/splits/groupkfold.json'))
def read_split(path):
    from spectramind.challenge.folds import read_folds
    return read_folds(path)
