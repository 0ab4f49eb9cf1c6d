"""The cases of the fault matrix, each with what is expected of it. See `proof_faults.py`.

Where something in the program turned out to be wrong the program was changed, not the expectation.
"""
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from functools import partial

CASES = []
RUN = ('run', 'data=kaggle', 'model=physics_only', 'executor=serial', 'diag.explain=false', 'data.root={tree}', 'paths.work={work}')
TEST = (*RUN, 'predict.checkpoint={base}/work/artifacts/checkpoints/prior.json')     # only the planets to be predicted
NET = ('predict', 'data=kaggle', 'model=v50_fast', 'train=trainer_smoke', 'model.ensemble.folds=2', 'executor=serial', 'data.root={tree}', 'paths.work={work}',
       'predict.checkpoint={here}/ckpt/checkpoints')


@dataclass(frozen=True)
class Case:
    family:str
    title:str
    harm:object            # called with the Place
    words:tuple = TEST     # the command
    codes:tuple = (0,)     # exit codes that are right
    says:tuple = ()        # words of the message
    found:bool = True      # a refusal says found and wanted
    rows:tuple|None = ()   # planets that must have a row: () = A, B, C; None = no submission is looked at
    bad:tuple = ()         # planets that are named bad and have the prior's row; others may not be named
    may:tuple = ()         # planets that may be named as well, or not
    lost:tuple|None = ()   # (planet, visit) that are named lost; None = any
    changed:tuple = ()     # planets whose row may differ from the healthy one
    equal:bool = True      # the others' rows are the healthy run's byte for byte
    heal:bool = False      # undo the damage, run again
    nobody:bool = False    # run as a user without rights
    call:object = None     # instead of the command: called with the Place; code and text
    check:object = None    # called with the Place and what was said; a list of what is wrong
    reference:str = 'work' # whose submission the rows are compared with
    tree_kept:bool = True  # nothing may be written into the tree
    patience:int = 1       # times the limit
    name:str = field(default='')


def case(family, title, harm, **more):
    "Write down a case."
    CASES.append(Case(family, title, harm, name=f'{family}: {title}', **more))


def refused(family, title, harm, words=TEST, codes=(3,), says=(), **more): case(family, title, harm, words=words, codes=codes, says=says, rows=None, **more)


# --- damage to any file -----------------------------------------------------------------------------------------------------------------

def missing(p, path): p.clear(path)
def empty(p, path): p.put(path, b'')
def half(p, path): p.put(path, path.read_bytes()[:path.stat().st_size//2])
def without_its_end(p, path): p.put(path, path.read_bytes()[:-9])
def without_its_start(p, path): p.put(path, path.read_bytes()[9:])
def zeros(p, path): p.put(path, bytes(path.stat().st_size))
def words_instead(p, path): p.put(path, 'no such table\n'*40)
def noise(p, path): p.put(path, bytes((i*197 + 31*(i >> 8)) % 256 for i in range(20_000)))
def folder_instead(p, path): p.clear(path); path.mkdir()
def link_to_itself(p, path): p.clear(path); path.symlink_to(path.name)
def link_to_nothing(p, path): p.clear(path); path.symlink_to('nowhere')
def link_outside(p, path): target = p.here/'outside'; target.write_bytes(path.read_bytes()); p.clear(path); path.symlink_to(target)
def link_to_a_device(p, path): p.clear(path); path.symlink_to('/dev/zero')
def fifo(p, path): p.clear(path); os.mkfifo(path)
def gzipped(p, path): p.put(path, gzip.compress(path.read_bytes(), mtime=0))
def upper_case(p, path): path.rename(path.with_name(path.name.upper()))
def not_readable(p, path): data = path.read_bytes(); p.put(path, data); path.chmod(0)
def long_footer(p, path): data = path.read_bytes(); p.put(path, data[:-8] + b'\xff\xff\xff\x7f' + data[-4:])


def a_socket(p, path):
    p.clear(path)
    here = os.getcwd()
    os.chdir(path.parent)                                  # the name of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as s: s.bind(path.name)
    finally: os.chdir(here)


WHOLE = dict(missing=missing, empty=empty, half=half, without_its_end=without_its_end, without_its_start=without_its_start, all_zeros=zeros, words_instead=words_instead, noise=noise,
             a_folder=folder_instead, a_link_to_itself=link_to_itself, a_link_to_nothing=link_to_nothing, a_link_out_of_the_tree=link_outside, a_link_to_a_device=link_to_a_device,
             a_fifo=fifo, a_socket=a_socket, gzipped=gzipped, in_upper_case=upper_case, a_footer_that_is_too_long=long_footer)


# --- damage to tables of pixels ---------------------------------------------------------------------------------------------------------

def pl():
    import polars
    return polars


def cast(kind): return lambda df: df.cast(getattr(pl(), kind))
def filled(value): return lambda df: constant(df, value, df.dtypes[0])
def constant(df, value, kind): return pl().DataFrame({c: pl().Series(c, [value], dtype=kind).new_from_index(0, len(df)) for c in df.columns})
def inside(df): return df.columns[100 if len(df.columns) > 200 else 5]     # a pixel that counts
def times(factor): return lambda df: df*factor
def rows_cut(df): return df[:-2]
def rows_more(df): return pl().concat([df, df[:2]])
def rows_none(df): return df[:0]
def row_odd(df): return df[:-1]
def column_lost(df): return df.drop(df.columns[7])
def column_more(df): return df.with_columns(df.to_series(0).alias('column_99999'))
def renamed(df): return df.rename({c: c.replace('column', 'pixel') for c in df.columns})
def column_twice(df): return df.rename({df.columns[3]: 'column_3b'})
def reordered(df): return df.select(df.columns[::-1])
def a_gap(df): return df.with_columns(pl().when(pl().int_range(pl().len()) == 3).then(None).otherwise(pl().col(inside(df))).alias(inside(df)))
def frozen(df): return pl().concat([df[:2]]*(len(df)//2))
def dark_half(df): return pl().concat([(df[:len(df)//2]*0).cast(df.dtypes[0]), df[len(df)//2:]])
def saturated_half(df): return pl().concat([filled(65535)(df[:len(df)//2]), df[len(df)//2:]])
def reads_exchanged(df): return df[[i ^ 1 for i in range(len(df))]]
def backwards(df): return df[::-1]
def one_frame_saturated(df): return pl().concat([df[:20], filled(65535)(df[20:22]), df[22:]])
def nan_everywhere(df): return filled(float('nan'))(df)
def infinite(df): return filled(float('inf'))(df)
def one_nan(df): return df.with_columns(pl().when(pl().int_range(pl().len()) == 3).then(float('nan')).otherwise(pl().col(inside(df))).alias(inside(df)))


def random_counts(df):
    import numpy as np
    rng = np.random.default_rng(5)
    return pl().DataFrame({c: rng.integers(0, 65535, len(df), dtype=np.uint16) for c in df.columns})


def on_signal(letter, instrument, change, visit=0): return lambda p: p.frame(p.signal(letter, instrument, visit), change)
def on_map(letter, instrument, name, change, visit=0): return lambda p: p.frame(p.map(letter, instrument, name, visit), change)
def whole_signal(letter, instrument, damage, visit=0): return lambda p: damage(p, p.signal(letter, instrument, visit))
def whole_map(letter, instrument, name, damage, visit=0): return lambda p: damage(p, p.map(letter, instrument, name, visit))


FGS1, AIRS = 'FGS1', 'AIRS-CH0'
UNREADABLE = dict(values_as_numbers_with_a_point=cast('Float64'), values_as_text=cast('String'), values_as_int32=cast('Int32'), two_rows_too_few=rows_cut, two_rows_too_many=rows_more,
                  no_rows=rows_none, an_odd_number_of_rows=row_odd, a_column_lost=column_lost, a_column_too_many=column_more, columns_of_other_names=renamed, one_column_renamed=column_twice,
                  an_empty_cell=a_gap)
DARK = dict(no_light=filled(0), all_saturated=filled(65535), frozen=frozen, reads_exchanged=reads_exchanged)

spoken = lambda name: name.replace('_', ' ')   # noqa: E731
for instrument in (FGS1, AIRS):
    for word, damage in WHOLE.items():
        if instrument == FGS1 and word not in ('missing', 'empty', 'half', 'noise', 'a_folder', 'a_fifo', 'a_footer_that_is_too_long'): continue
        case('frames', f'{instrument} signal {spoken(word)}', whole_signal('A', instrument, damage), bad='A', heal=word in ('missing', 'half', 'a_folder'))
    for word, change in UNREADABLE.items():
        if instrument == AIRS or word in ('values_as_text', 'no_rows', 'two_rows_too_many', 'an_empty_cell'): case('frames', f'{instrument} signal, {spoken(word)}', on_signal('A', instrument, change), bad='A', heal=word == 'no_rows')
    for word, change in DARK.items(): case('frames', f'{instrument} signal, {spoken(word)}', on_signal('A', instrument, change), bad='A')
    case('frames', f'{instrument} signal, random counts: the row stays honest', on_signal('A', instrument, random_counts), changed='A', may='A', check=lambda p, text: honest(p, 'A'))
    case('frames', f'{instrument} signal not readable', whole_signal('A', instrument, not_readable), bad='A', nobody=True)
    case('frames', f'{instrument} signal, columns in another order', on_signal('A', instrument, reordered))
for word, change in dict(half_of_the_visit_dark=dark_half, half_of_the_visit_saturated=saturated_half, backwards_in_time=backwards, one_exposure_saturated=one_frame_saturated).items():
    case('frames', f'AIRS-CH0 signal, {spoken(word)}', on_signal('A', AIRS, change), changed='A', may='A', check=lambda p, text: honest(p, 'A'))
case('frames', 'one planet\'s signal in another\'s folder', lambda p: p.put(p.signal('A', AIRS), p.signal('C', AIRS).read_bytes()), changed='A', may='A')
case('frames', 'FGS1 and AIRS-CH0 exchanged', lambda p: exchange(p, p.signal('A', FGS1), p.signal('A', AIRS)), bad='A', heal=True)
case('frames', 'two planets exchanged', lambda p: exchange(p, p.signal('A', FGS1), p.signal('C', FGS1)), changed='AC', may='AC')
case('frames', 'two planets bad, one of them empty', lambda p: (missing(p, p.signal('A', FGS1)), [p.clear(x) for x in list(p.folder('C').iterdir())]), bad='AC', heal=True)
case('frames', 'written by another codec and in many groups', lambda p: recoded(p, p.signal('A', AIRS)))


def exchange(p, one, other):
    a, b = one.read_bytes(), other.read_bytes()
    p.put(one, b)
    p.put(other, a)


def recoded(p, path):
    table = pl().read_parquet(path)
    p.clear(path)
    table.write_parquet(path, compression='snappy', row_group_size=16)


# one visit of two: the planet is fitted from the other
for instrument in (FGS1, AIRS):
    for word in ('missing', 'empty', 'half', 'noise', 'a_folder', 'a_link_out_of_the_tree', 'a_fifo'):
        case('one visit of two', f'{instrument} signal {spoken(word)}', whole_signal('B', instrument, WHOLE[word], 1), lost=(('B', 1),), changed='B', heal=word == 'half')
    for word in ('values_as_text', 'no_rows', 'a_column_lost', 'an_empty_cell'):
        case('one visit of two', f'{instrument} signal, {spoken(word)}', on_signal('B', instrument, UNREADABLE[word], 1), lost=(('B', 1),), changed='B')
    for word in ('no_light', 'all_saturated'):
        case('one visit of two', f'{instrument} signal, {spoken(word)}', on_signal('B', instrument, DARK[word], 1), lost=(('B', 1),), changed='B')
    case('one visit of two', f'{instrument} signal, random counts: the row stays honest', on_signal('B', instrument, random_counts, 1), lost=None, changed='B', may='B', check=lambda p, text: honest(p, 'B'))
case('one visit of two', 'the first lost, the second sound', whole_signal('B', FGS1, half, 0), lost=(('B', 0),), changed='B', heal=True)
case('one visit of two', 'both lost', lambda p: (half(p, p.signal('B', FGS1, 0)), half(p, p.signal('B', AIRS, 1))), bad='B', heal=True)
case('one visit of two', 'a third, of which only a calibration folder is there', lambda p: (p.folder('B')/'FGS1_calibration_2').mkdir(), lost=(('B', 2),))
case('one visit of two', 'its number has too many digits', lambda p: exchange_names(p, 'B', '_1', '_1001'), changed='B')
case('one visit of two', 'the second not readable', whole_signal('B', AIRS, not_readable, 1), lost=(('B', 1),), changed='B', nobody=True)


def honest(p, letter):
    "The row of a planet whose damage cannot be refused agrees with the healthy one within both error bars."
    import numpy as np
    rows = [next(line for line in (place/'dist'/'submission.csv').read_text().splitlines() if line.startswith(str(p.ids[letter]))) for place in (p.work, p.base/'work')]
    (mu, sigma), (healthy, scatter) = (np.split(np.array(row.split(',')[1:], float), 2) for row in rows)
    z = np.abs(mu - healthy)/np.hypot(sigma, scatter)
    return [] if z.max() < 5 else [f'a row that is {z.max():.1f} error bars away from the healthy one']


def exchange_names(p, letter, old, new):
    for path in list(p.folder(letter).iterdir()):
        if old in path.name: path.rename(path.with_name(path.name.replace(old, new)))


# --- calibration files ------------------------------------------------------------------------------------------------------------------

for i, name in enumerate(('dark', 'dead', 'flat', 'linear_corr', 'read')):
    instrument = (FGS1, AIRS)[i % 2]
    for word in ('missing', 'empty', 'half', 'words_instead', 'a_folder', 'a_link_out_of_the_tree')[:6 if name == 'flat' else 3]:
        case('calibration files', f'{instrument} {name} {spoken(word)}', whole_map('A', instrument, name, WHOLE[word]), bad='A', heal=word == 'empty')
    for word in ('two_rows_too_few', 'values_as_text', 'a_column_lost', 'an_empty_cell')[:4 if name == 'flat' else 1]:
        case('calibration files', f'{instrument} {name}, {spoken(word)}', on_map('A', instrument, name, UNREADABLE[word]), bad='A')
    if name == 'dead': continue
    case('calibration files', f'{instrument} {name}, all NaN', on_map('A', instrument, name, nan_everywhere), bad='A')
    case('calibration files', f'{instrument} {name}, all infinite', on_map('A', instrument, name, infinite), bad='A')
    case('calibration files', f'{instrument} {name}, one NaN', on_map('A', instrument, name, one_nan), changed='A', may='A')
for instrument in (FGS1, AIRS):
    case('calibration files', f'{instrument} dead, every pixel', on_map('A', instrument, 'dead', filled(True)), bad='A')
    case('calibration files', f'{instrument} dead, no pixel', on_map('A', instrument, 'dead', filled(False)), changed='A', may='A')
    case('calibration files', f'{instrument} dead, as numbers', on_map('A', instrument, 'dead', cast('Float64')), bad='A')
    case('calibration files', f'{instrument} flat, zero', on_map('A', instrument, 'flat', filled(0.)), bad='A')
    case('calibration files', f'{instrument} flat, negative', on_map('A', instrument, 'flat', times(-1.)), bad='A')
    case('calibration files', f'{instrument} flat, 1e300', on_map('A', instrument, 'flat', filled(1e300)), bad='A')
    case('calibration files', f'{instrument} dark, 1e30', on_map('A', instrument, 'dark', filled(1e30)), bad='A')
    case('calibration files', f'{instrument} dark, a little wrong', on_map('A', instrument, 'dark', times(1.01)), changed='A', may='A')
    case('calibration files', f'{instrument} read noise, zero', on_map('A', instrument, 'read', filled(0.)), changed='A', may='A')
    case('calibration files', f'{instrument} read noise, negative', on_map('A', instrument, 'read', times(-1.)), changed='A', may='A')
    case('calibration files', f'{instrument} read noise, 1e30', on_map('A', instrument, 'read', filled(1e30)), bad='A')
    case('calibration files', f'{instrument} linearity, zero', on_map('A', instrument, 'linear_corr', filled(0.)), bad='A')
    case('calibration files', f'{instrument} linearity, 1e300', on_map('A', instrument, 'linear_corr', filled(1e300)), bad='A')
    case('calibration files', f'{instrument} calibration folder missing', lambda p, i=instrument: p.clear(p.map('A', i, 'dark').parent), bad='A', heal=True)
case('calibration files', 'of the other instrument', lambda p: p.put(p.map('A', FGS1, 'flat'), p.map('A', AIRS, 'flat').read_bytes()), bad='A')
case('calibration files', 'flat and dark exchanged', lambda p: exchange(p, p.map('A', AIRS, 'flat'), p.map('A', AIRS, 'dark')), changed='A', may='A')
case('calibration files', 'dark not readable', whole_map('A', AIRS, 'dark', not_readable), bad='A', nobody=True)
case('calibration files', 'of one visit of two', whole_map('B', FGS1, 'read', half, 1), lost=(('B', 1),), changed='B', heal=True)


# --- tables -----------------------------------------------------------------------------------------------------------------------------

def on_file(name, damage): return lambda p: damage(p, p.tree/name)
def on_table(name, change): return lambda p: p.table(p.tree/name, partial(change, p) if change.__code__.co_argcount > 1 else change)
def cell(row, column, value): return lambda rows: [*rows[:row], [value if k == (rows[0].index(column) if isinstance(column, str) else column) else v for k, v in enumerate(rows[row])], *rows[row + 1:]]
def of(letter, column, value): return lambda p, rows: [[value if k == rows[0].index(column) else v for k, v in enumerate(r)] if r[0].split('.')[0] == str(p.ids[letter]) else r for r in rows]
def without(letter): return lambda p, rows: [r for r in rows if r[0].split('.')[0] != str(p.ids[letter])]
def twice(letter): return lambda p, rows: rows + [r for r in rows if r[0].split('.')[0] == str(p.ids[letter])]
def no_column(name): return lambda rows: [[v for k, v in enumerate(r) if k != rows[0].index(name)] for r in rows]
def another_column(rows): return [r + ['note' if i == 0 else 'x'] for i, r in enumerate(rows)]
def same_column_twice(rows): return [r + [r[1]] for r in rows]
def header_only(rows): return rows[:1]
def last_first(rows): return [rows[0], *rows[:0:-1]]
def columns_turned(rows): return [[r[0], *r[:0:-1]] for r in rows]
def stranger(rows): return rows + [['424242', *rows[1][1:]]]
def no_id(rows): return rows + [['../../etc/passwd', *rows[1][1:]]]
def a_row_too_short(rows): return [*rows[:-1], rows[-1][:-1]]
def spaced(rows): return [[f' {v} ' if i else v for v in r] for i, r in enumerate(rows)]
def in_utf16(p, path): p.put(path, path.read_text().encode('utf-16'))
def in_latin1(p, path): p.put(path, path.read_bytes().replace(b'\n', b'\xe9\n', 1))
def with_mark(p, path): p.put(path, b'\xef\xbb\xbf' + path.read_bytes())
def with_crlf(p, path): p.put(path, path.read_bytes().replace(b'\n', b'\r\n'))
def with_nul(p, path): p.put(path, path.read_bytes()[:-20] + b'\0'*20)
def blank_lines(p, path): p.put(path, path.read_bytes().replace(b'\n', b'\n\n') + b'\n\n')
def open_quote(p, path): p.put(path, path.read_bytes() + b'"')
def long_cell(p, path): p.put(path, path.read_bytes() + b'x'*200_000)


STARS, LABELS, SAMPLE = 'test_star_info.csv', 'train.csv', 'sample_submission.csv'
for word in ('missing', 'empty', 'words_instead', 'noise', 'a_folder', 'a_link_to_itself', 'a_link_out_of_the_tree'):
    case('star table', f'{spoken(word)}', on_file(STARS, WHOLE[word]), bad='ABC', codes=(3,), heal=word == 'missing')
for word, damage in dict(in_UTF16=in_utf16, in_Latin_1=in_latin1, an_open_quote=open_quote, NUL_bytes_at_its_end=with_nul, a_cell_of_200_kB=long_cell).items():
    case('star table', spoken(word), on_file(STARS, damage), bad='ABC', codes=(3,), may='ABC' if word == 'an_open_quote' else '')
for word, damage in dict(a_byte_order_mark=with_mark, Windows_line_ends=with_crlf, blank_lines=blank_lines).items(): case('star table', spoken(word), on_file(STARS, damage))
for word, change in dict(columns_in_another_order=columns_turned, rows_in_another_order=last_first, a_column_too_many=another_column, a_planet_nobody_has=stranger, an_id_that_is_a_path=no_id,
                         spaces_round_every_cell=spaced).items():
    case('star table', spoken(word), on_table(STARS, change))
for word, change in dict(header_only=header_only, no_column_Ts=no_column('Ts'), no_column_planet_id=no_column('planet_id'), a_column_twice=same_column_twice, a_row_too_short=a_row_too_short).items():
    case('star table', spoken(word), on_table(STARS, change), bad='ABC', codes=(3,))
case('star table', 'one planet missing', on_table(STARS, without('A')), bad='A', heal=True)
case('star table', 'one planet twice', on_table(STARS, twice('A')), bad='A')
for column, value in (('Rs', 'nan'), ('Ms', 'inf'), ('Ts', '-5000'), ('Ts', '0'), ('P', ''), ('P', '1e300'), ('P', '1e-300'), ('sma', '0'), ('sma', '1e9'), ('sma', 'ten'), ('i', 'nan'), ('e', 'nan'),
                      ('i', '400'), ('i', '-90'), ('e', '2'), ('e', '-1'), ('Ts', '1e300'), ('Rs', '1e300'), ('Mp', '-7'), ('Ts', '٣٠٠٠x'), ('Rs', '=1+1'), ('Mp', '<script>alert(1)</script>')):
    case('star table', f'{column} = {value or "nothing"}', on_table(STARS, of('A', column, value)), bad='A')
for column, value in (('i', '45'), ('i', '91'), ('sma', '1.1'), ('P', '1000'), ('Mp', '0')):
    case('star table', f'{column} = {value}', on_table(STARS, of('A', column, value)), changed='A', may='A')
case('star table', 'not readable', on_file(STARS, not_readable), bad='ABC', codes=(3,), nobody=True)
case('star table', 'one labelled planet missing', on_table('train_star_info.csv', without('T')), words=RUN, bad='', may='T', equal=False, check=lambda p, text: named(p, 'T'))
case('star table', 'that of the labelled planets missing, with a checkpoint', on_file('train_star_info.csv', missing))


def named(p, *letters):
    "These planets are in bad_planets.csv."
    listed = (p.work/'artifacts'/'reports'/'bad_planets.csv').read_text()
    return [f'planet {x} is not named' for x in letters if str(p.ids[x]) not in listed]


for word in ('missing', 'empty', 'words_instead', 'noise', 'a_folder', 'a_link_out_of_the_tree'): refused('labels', spoken(word), on_file(LABELS, WHOLE[word]), RUN, says=('train.csv',))
for word, damage in dict(in_UTF16=in_utf16, in_Latin_1=in_latin1, a_cell_of_200_kB=long_cell).items(): refused('labels', spoken(word), on_file(LABELS, damage), RUN, says=('train.csv',))
for word, change in dict(header_only=header_only, no_column_wl_7=no_column('wl_7'), a_column_twice=same_column_twice, a_row_too_short=a_row_too_short).items():
    refused('labels', spoken(word), on_table(LABELS, change), RUN, says=('train.csv',))
for word, damage in dict(a_byte_order_mark=with_mark, Windows_line_ends=with_crlf, blank_lines=blank_lines).items(): case('labels', spoken(word), on_file(LABELS, damage), words=RUN)
case('labels', 'NUL bytes at its end (the last planet loses its label)', on_file(LABELS, with_nul), words=RUN, equal=False, may='TUVWX',
     check=lambda p, text: [] if (p.work/'artifacts'/'reports'/'bad_planets.csv').read_text().count('\n') == 2 else ['not one planet is named'])
case('labels', 'columns in another order', on_table(LABELS, columns_turned), words=RUN)
case('labels', 'a planet nobody has', on_table(LABELS, stranger), words=RUN, equal=False)
for value in ('nan', '', '-0.1', '1.5', '1e300', 'ten', '<b>'):
    case('labels', f'one cell is {value or "nothing"}', on_table(LABELS, of('T', 'wl_5', value)), words=RUN, equal=False, may='T', check=lambda p, text: named(p, 'T'))
case('labels', 'one planet twice', on_table(LABELS, twice('T')), words=RUN, equal=False, may='T', check=lambda p, text: named(p, 'T'))
case('labels', 'one planet missing', on_table(LABELS, without('T')), words=RUN, equal=False, may='T')
case('labels', 'all alike', on_table(LABELS, lambda rows: [rows[0], *([r[0], *rows[1][1:]] for r in rows[1:])]), words=RUN, equal=False)
case('labels', 'all zero', on_table(LABELS, lambda rows: [rows[0], *([r[0], *['0.0']*283] for r in rows[1:])]), words=RUN, equal=False)
case('labels', 'missing, with a checkpoint', on_file(LABELS, missing))
refused('labels', 'not readable', on_file(LABELS, not_readable), RUN, says=('train.csv',), nobody=True)

for word in ('missing', 'empty', 'words_instead', 'noise', 'a_folder'): refused('converter table', spoken(word), on_file('adc_info.csv', WHOLE[word]), says=('adc_info.csv',))
for column in ('FGS1_adc_gain', 'AIRS-CH0_adc_gain'):
    for value in ('0', '-1', 'nan', '', 'two'): refused('converter table', f'{column} = {value or "nothing"}', on_table('adc_info.csv', cell(1, column, value)), says=('adc_info.csv', column))
refused('converter table', 'offset NaN', on_table('adc_info.csv', cell(1, 'FGS1_adc_offset', 'nan')), says=('adc_info.csv',))
refused('converter table', 'two rows', on_table('adc_info.csv', lambda rows: [*rows, rows[1]]), says=('adc_info.csv',))
refused('converter table', 'no row', on_table('adc_info.csv', header_only), says=('adc_info.csv',))
refused('converter table', 'a column lost', on_table('adc_info.csv', no_column('AIRS-CH0_adc_gain')), says=('adc_info.csv',))
for word in ('missing', 'empty', 'half', 'without_its_end', 'words_instead', 'noise', 'a_folder', 'a_link_out_of_the_tree'):
    refused('axis table', spoken(word), on_file('axis_info.parquet', WHOLE[word]), says=('axis_info.parquet',) if word != 'a_link_out_of_the_tree' else ('outside',))


def axis(change): return lambda p: p.frame(p.tree/'axis_info.parquet', change)
def axis_value(name, row, value): return lambda df: df.with_columns(pl().when(pl().int_range(pl().len()) == row).then(value).otherwise(pl().col(name)).alias(name))


TIME = 'AIRS-CH0-axis0-h'
for word, change in {'a column lost': lambda df: df.drop('FGS1-axis0-h'), 'no rows': rows_none, 'a NaN among the stamps': axis_value(TIME, 9, float('nan')), 'a gap among the stamps': axis_value(TIME, 9, None),
                     'stamps out of order': axis_value(TIME, 9, -1.), 'two stamps alike': lambda df: axis_value(TIME, 9, df[TIME][8])(df), 'an infinite stamp': axis_value(TIME, 139, float('inf')),
                     'an odd number of reads': lambda df: df.with_columns(pl().when(pl().int_range(pl().len()) < 139).then(pl().col(TIME)).otherwise(None).alias(TIME)),
                     'stamps as text': lambda df: df.with_columns(pl().col(TIME).cast(pl().String)), 'integration times all alike and zero': lambda df: df.with_columns(pl().col('AIRS-CH0-integration_time')*0),
                     'integration times that do not alternate': axis_value('AIRS-CH0-integration_time', 4, 2.), 'wavelengths that ascend': lambda df: df.with_columns(-pl().col('AIRS-CH0-axis2-um')),
                     'wavelengths too few': axis_value('AIRS-CH0-axis2-um', 355, None)}.items():
    refused('axis table', word, axis(change), says=('axis_info.parquet',))
case('axis table', 'two reads fewer than the frames have', axis(lambda df: df.with_columns(pl().when(pl().int_range(pl().len()) < 138).then(pl().col(n)).otherwise(None).alias(n) for n in (TIME, 'AIRS-CH0-integration_time'))),
     codes=(3,), bad='ABC', found=True, says=('axis_info.parquet',), heal=True)
case('axis table', 'columns in another order', axis(reordered))
refused('axis table', 'not readable', on_file('axis_info.parquet', not_readable), says=('axis_info.parquet',), nobody=True)
for text in ('', '{', '[]', '{"FGS1": 0, "AIRS-CH0": 80}', '{"FGS1": true, "AIRS-CH0": 80}', '{"FGS1": NaN, "AIRS-CH0": 80}', '{"AIRS-CH0": 80}', '{"FGS1": 1e3, "AIRS-CH0": 80}'):
    refused('co-adds', f'coadds.json is {text or "empty"}', lambda p, t=text: p.put(p.tree/'coadds.json', t), says=('coadds.json',))
case('wavelengths', 'missing (nothing depends on the table)', on_file('wavelengths.csv', missing))
case('wavelengths', 'noise', on_file('wavelengths.csv', noise))

for word in ('empty', 'words_instead', 'noise', 'a_link_out_of_the_tree'): refused('sample submission', spoken(word), on_file(SAMPLE, WHOLE[word]), says=('sample_submission.csv',))
for word, damage in dict(in_UTF16=in_utf16, NUL_bytes_at_its_end=with_nul, an_open_quote=open_quote).items(): refused('sample submission', spoken(word), on_file(SAMPLE, damage), says=('sample_submission.csv',))
for word, change in dict(a_column_lost=no_column('sigma_283'), a_column_twice=same_column_twice, a_planet_twice=lambda rows: [*rows, rows[1]], a_row_too_short=a_row_too_short, an_id_that_is_a_path=no_id,
                         an_id_that_is_not_a_number=lambda rows: [*rows, ['nan', *rows[1][1:]]], a_negative_id=lambda rows: [*rows, ['-5', *rows[1][1:]]]).items():
    refused('sample submission', spoken(word), on_table(SAMPLE, change), says=('sample_submission.csv',))
for word, damage in dict(missing=missing, a_byte_order_mark=with_mark, Windows_line_ends=with_crlf, blank_lines=blank_lines, a_folder=folder_instead).items():
    case('sample submission', spoken(word), on_file(SAMPLE, damage), equal=word != 'missing' and word != 'a_folder', check=None if word not in ('missing', 'a_folder') else lambda p, text: whole_numbers(p))
case('sample submission', 'rows in another order', on_table(SAMPLE, last_first), check=lambda p, text: same_order(p))
case('sample submission', 'a planet without a folder', on_table(SAMPLE, stranger), rows=('A', 'B', 'C', 424242), bad=(424242,))
case('sample submission', 'a planet with a folder is not asked for', on_table(SAMPLE, without('A')))
case('sample submission', 'no row (every folder gets one)', on_table(SAMPLE, header_only), equal=False, check=lambda p, text: whole_numbers(p))
case('sample submission', 'ids as whole numbers', on_table(SAMPLE, lambda rows: [rows[0], *([r[0].removesuffix('.0'), *r[1:]] for r in rows[1:])]), equal=False, check=lambda p, text: whole_numbers(p))
refused('sample submission', 'not readable', on_file(SAMPLE, not_readable), says=('sample_submission.csv',), nobody=True)


def whole_numbers(p):
    "Rows as the healthy ones, ids without a point."
    lines = lambda place: [line.partition(',')[2] for line in (place/'dist'/'submission.csv').read_text().splitlines()]
    ids = [line.partition(',')[0] for line in (p.work/'dist'/'submission.csv').read_text().splitlines()[1:]]
    return [w for w, bad in (('other numbers', sorted(lines(p.work)) != sorted(lines(p.base/'work'))), ('ids with a point', any('.' in i for i in ids))) if bad]


def same_order(p):
    "The submission repeats the sample's rows."
    ids = lambda path: [line.partition(',')[0] for line in path.read_text().splitlines()]
    return [] if ids(p.work/'dist'/'submission.csv') == ids(p.tree/SAMPLE) else ['not in the order of the sample']


# --- folders of the tree ----------------------------------------------------------------------------------------------------------------

case('folders', 'a planet\'s folder empty', lambda p: [p.clear(x) for x in list(p.folder('A').iterdir())], bad='A', heal=True)
case('folders', 'a planet\'s folder missing, but asked for', lambda p: p.clear(p.folder('A')), bad='A', heal=True)
case('folders', 'a file in place of a planet\'s folder', lambda p: (p.clear(p.folder('A')), p.put(p.folder('A'), 'x')), bad='A')
case('folders', 'a planet\'s folder is a link out of the tree', lambda p: (p.folder('A').rename(p.here/'away'), (p.tree/'test'/str(p.ids['A'])).symlink_to(p.here/'away')), bad='A')
case('folders', 'a planet\'s folder is a link to itself', lambda p: link_to_itself(p, p.folder('A')), bad='A')
case('folders', 'a planet\'s folder not readable', lambda p: p.folder('A').chmod(0), bad='A', nobody=True)
case('folders', 'a calibration folder not readable', lambda p: p.map('A', AIRS, 'dark').parent.chmod(0), bad='A', nobody=True)
case('folders', 'strange names beside the planets', lambda p: [(p.tree/'test'/name).mkdir() for name in ('.ipynb_checkpoints', 'ünïcödé', '007', '1e5', '12 34', '<script>', 'x'*200, '1234567890123')])
case('folders', 'strange files beside a planet\'s', lambda p: [p.put(p.folder('A')/name, 'x') for name in ('.DS_Store', 'README', 'FGS1_signal_0.parquet.tmp', 'FGS1_signal_x.parquet')])
case('folders', 'no folder test: the rows of the prior', lambda p: p.clear(p.tree/'test'), bad='ABC', codes=(3,))
case('folders', 'the folder test is empty: the rows of the prior', lambda p: [p.clear(x) for x in list((p.tree/'test').iterdir())], bad='ABC', codes=(3,))
refused('folders', 'no test planet and nobody asked for', lambda p: (p.clear(p.tree/'test'), p.clear(p.tree/SAMPLE)), says=('test',))
refused('folders', 'no planet at all', lambda p: (p.clear(p.tree/'test'), p.clear(p.tree/'train'), p.clear(p.tree/SAMPLE)))
def in_both(p): os.rename(p.folder('T'), p.tree/'test'/str(p.ids['T'])); (p.tree/'train'/str(p.ids['T'])).mkdir()
refused('folders', 'a planet in train and in test', in_both, RUN, says=('{T}',))
case('folders', 'a planet in train and in test, with a checkpoint', in_both, rows=('A', 'B', 'C', 'T'), changed='T', may='T')      # train is not looked at
refused('folders', 'no root', lambda p: p.clear(p.tree), says=('tree',))
refused('folders', 'the root is a file', lambda p: (p.clear(p.tree), p.put(p.tree, 'x')), says=('tree',))
refused('folders', 'the root is not readable', lambda p: p.tree.chmod(0), nobody=True, tree_kept=False)
case('folders', 'no folder train, with a checkpoint', lambda p: p.clear(p.tree/'train'))
refused('folders', 'no folder train, without one', lambda p: p.clear(p.tree/'train'), RUN)
case('folders', 'all test planets damaged: the rows of the prior', lambda p: [half(p, p.signal(x, FGS1, v)) for x, v in (('A', 0), ('B', 0), ('B', 1), ('C', 0))], bad='ABC', codes=(3,), heal=True)
case('folders', 'one labelled planet damaged', whole_signal('T', FGS1, half), words=RUN, equal=False, may='T', check=lambda p, text: named(p, 'T'))
refused('folders', 'all labelled planets but one damaged', lambda p: [half(p, p.signal(x, FGS1)) for x in 'TUVW'], RUN, says=('labelled planets',))
case('folders', 'written over while it is read: nothing of the tree is kept open', lambda p: [p.put(x, x.read_bytes()) for x in sorted(p.folder('A').rglob('*.parquet'))], changed='')


# --- settings and the command line ------------------------------------------------------------------------------------------------------

def nothing(p): pass


SHOW = ('config', 'show')
for text in ('train.lrr=1', 'modl=v50', 'train.lr=fast', 'train.lr=nan', 'train.lr=-1', 'train.lr=1e999', 'seed=1.5', 'seed=true', 'seed=', 'seed=null', 'seed=[1]', 'seed={a:1}', 'calib.steps.hot=maybe',
             'executor.workers=-1', 'executor.workers=1e99', 'executor.workers=99999999999999999999', 'limits.hours=-1', 'limits.hours=nan', 'limits.margin=2', 'records.keep=0',
             'model=no_such', 'model=../../etc/passwd', 'model=/etc/passwd', 'data=', '=1', '=', 'novalue', 'a b=1', 'train..lr=1', '.train=1', 'train.=1', 'train.lr.x=1', 'train=5', '__class__=1',
             'env.__init__.x=1', 'hydra.run.dir=/tmp/x', '_target_=os.system', 'train._target_=os.system', 'seed=${oc.env:HOME}', 'seed=${oc.env:HOME,1}', 'seed=${hydra:runtime.cwd}',
             'submit.out=${oc.decode:1}', 'submit.out=${oc.create:1}', 'submit.out=${${a}:b}', 'seed=${nothing.like.this}', 'seed=${seed}', 'submit.layout=Wide', 'seed=٣', 'séed=1', 'seed=1;ls', '~seed',
             'train.lr=1e-3,2e-3', 'train.lr=range(1,5)', 'train.lr=glob(*)', 'search=lr', 'predict.checkpoint=[a,b]',
             'seed=' + '9'*5000, 'train.lr=' + '['*3000, 'a'*5000 + '=1', 'seed=1\x07', 'env.determinism=strict,off', 'model.ensemble.folds=1'):
    refused('settings', f'{text[:48]}{" ..." if len(text) > 48 else ""}'.replace('\x07', ' and a bell'), nothing, (*SHOW, text.replace('{', '{{').replace('}', '}}')), found=False)
for text in ('seed=7', '+seed=7', 'submit.out="a b, c"', "submit.out='ünï'", 'train.lr=1E-3', 'data=smoke', '+data=smoke', 'limits.hours=null', 'optimizer.lr=0.001', 'train.epochs=3'):
    case('settings', f'{text} (right)', nothing, words=(*SHOW, text), rows=None)
for title, data in {'a tag that would call a program': '!!python/object/apply:os.system ["touch {here}/called"]', 'a tag inside': 'seed: !!python/object/new:os.system ["touch {here}/called"]',
                    'a tag of an object': 'seed: !!python/name:os.system', 'a custom tag': 'seed: !thing 5', 'a billion laughs': ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"]*9) if i else "lol"}]\n' for i in range(14)),
                    'an alias of itself': 'seed: &x [*x]', 'tabs': 'seed:\t1\n\ttrain: 2', 'no YAML': '{{{{', 'a list': '- 1\n- 2', 'a word': 'seed', 'two documents': 'seed: 1\n---\nseed: 2', 'a key twice': 'seed: 1\nseed: 2',
                    'an unknown key': 'sed: 1', 'a wrong type': 'seed: [1]', 'a resolver': 'seed: ${{oc.env:HOME}}', 'keys that are no text': '1: 2', 'a merge key': '<<: {{seed: 1, x: 2}}', 'a date': 'seed: 2026-01-01',
                    'a section that is a value': 'train: 5', 'deep nesting': 'seed: ' + '['*4000 + ']'*4000, 'infinity': 'limits: {{hours: .inf}}', 'a NaN': 'train: {{lr: .nan}}', 'a null section': 'train: null'}.items():
    refused('settings', f'a file with {title}', lambda p, d=data: p.put(p.here/'own.yaml', d.format(here=p.here)), ('config', 'show', '--config-name', '{here}/own.yaml'), found=False,
            check=lambda p, text: ['something was called'] if (p.here/'called').exists() else [])
for title, data in {'bytes that are no text': b'\xff\xfe\x00seed', 'nothing in it': b'', 'NUL bytes': b'seed: \0'}.items():
    refused('settings', f'a file with {title}', lambda p, d=data: p.put(p.here/'own.yaml', d), ('config', 'show', '--config-name', '{here}/own.yaml'), found=False, codes=(3,) if data else (0, 3))
refused('settings', 'a file that is a folder', lambda p: (p.here/'own.yaml').mkdir(), ('config', 'show', '--config-name', '{here}/own.yaml'))
refused('settings', 'a file that is a link to itself', lambda p: link_to_itself(p, p.here/'own.yaml'), ('config', 'show', '--config-name', '{here}/own.yaml'))
refused('settings', 'parameters with choices that are no mapping', lambda p: p.put(p.here/'params.yaml', 'choices: [1]'), ('config', 'compose', '--params', '{here}/params.yaml'))
refused('settings', 'parameters that name a file elsewhere', lambda p: p.put(p.here/'params.yaml', 'config_name: ../../etc/passwd'), ('config', 'compose', '--params', '{here}/params.yaml'))
for title, words in {'no such command': ('fly',), 'an option that is none': ('run', '--colour'), 'an option without its value': ('predict', '--out-csv'), 'an engine that is none': ('run', '--engine', 'steam'),
                     'a planet that is a path': ('export', '../../etc/passwd', 'data.root={tree}', 'data=kaggle', 'paths.work={work}'), 'a planet nobody has': ('export', '7', 'data.root={tree}', 'data=kaggle', 'paths.work={work}'),
                     'a planet with a NUL': ('export', '7\0', 'data.root={tree}', 'data=kaggle', 'paths.work={work}'), 'a work folder with a NUL': ('features', 'data.root={tree}', 'data=kaggle', 'paths.work=a\0b'),
                     'a root with a NUL': ('features', 'data.root=a\0b', 'data=kaggle', 'paths.work={work}'), 'a name of 5,000 letters for a root': ('features', 'data.root=' + 'x'*5000, 'data=kaggle', 'paths.work={work}'),
                     'a name of 5,000 letters for a work folder': ('features', 'data.root={tree}', 'data=kaggle', 'paths.work=' + 'x'*5000), 'a work folder that is a file': ('features', 'data.root={tree}', 'data=kaggle', 'paths.work={tree}/train.csv'),
                     'a work folder below a file': ('features', 'data.root={tree}', 'data=kaggle', 'paths.work={tree}/train.csv/x'), 'a work folder in /proc': ('features', 'data.root={tree}', 'data=kaggle', 'paths.work=/proc/x'),
                     'an empty work folder': ('features', 'data.root={tree}', 'data=kaggle', 'paths.work='), 'a checkpoint that is not there': (*RUN, 'predict.checkpoint={here}/no'),
                     'a checkpoint with a NUL': (*RUN, 'predict.checkpoint=a\0b'), 'two folders to submit': ('submit', 'a', 'b'), 'a folder to submit that is not there': ('submit', '{here}/no', 'paths.work={work}'),
                     'keeping nothing': ('calibrate', 'data=kaggle', 'data.root={tree}', 'paths.work={work}', 'calib.persist=none'), 'simulating real data': ('simulate', 'data=kaggle', 'data.root={tree}', 'paths.work={work}'),
                     'an export in no format': ('export', '{A}', '--format', 'fits', 'data.root={tree}', 'data=kaggle', 'paths.work={work}'), 'a log where none is': ('analyze-log', 'paths.work={here}/none')}.items():
    refused('command line', title, nothing, words, found=False)
refused('command line', 'a work folder that may not be written', lambda p: (p.clear(p.here/'shut'), (p.here/'shut').mkdir(mode=0o500)), ('features', 'data=kaggle', 'data.root={tree}', 'paths.work={here}/shut'), nobody=True)


def shell(*words, **more):
    "A command in a process of its own, under unusual circumstances."
    def call(p):
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(x for x in sys.path if x)) | {k: v for k, v in more.get('env', {}).items() if v is not None}
        for name in [k for k, v in more.get('env', {}).items() if v is None]: env.pop(name, None)
        arguments = [w if isinstance(w, bytes) else w.format(tree=p.tree, work=p.work, base=p.base, here=p.here, **p.ids) for w in words]
        done = subprocess.run([sys.executable, '-m', 'spectramind', *arguments], env=env, cwd=more.get('cwd', p.here), capture_output=True, stdin=subprocess.DEVNULL, timeout=80)
        return done.returncode, (done.stdout + done.stderr).decode('utf-8', 'replace')
    return call


def broken_pipe(p):
    "Somebody stops listening."
    process = subprocess.Popen([sys.executable, '-m', 'spectramind', 'config', 'show'], env=dict(os.environ, PYTHONPATH=os.pathsep.join(x for x in sys.path if x)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=p.here)
    process.stdout.close()
    text = process.stderr.read().decode()
    return process.wait(80), text


def no_folder(p):
    "The current folder is deleted."
    gone = p.here/'gone'
    gone.mkdir()
    script = f'import os, sys; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); from spectramind.__main__ import main; sys.argv = ["spectramind", "validate", {str(p.work/"dist"/"submission.csv")!r}]; main()'
    done = subprocess.run([sys.executable, '-c', script], env=dict(os.environ, PYTHONPATH=os.pathsep.join(x for x in sys.path if x)), capture_output=True, text=True, timeout=80, cwd=p.here)
    return done.returncode, done.stdout + done.stderr


CHECK = ('validate', '{work}/dist/submission.csv')
case('command line', 'the letters of the C locale', nothing, call=shell(*CHECK, env=dict(LC_ALL='C', LANG='C', PYTHONUTF8='0')), rows=None)
case('command line', 'no HOME, no USER', nothing, call=shell(*CHECK, env=dict(HOME=None, USER=None, LOGNAME=None)), rows=None)
case('command line', 'a folder for temporary files that is not there', nothing, call=shell(*CHECK, env=dict(TMPDIR='/no/such/place')), rows=None)
case('command line', 'the current folder has been deleted', nothing, call=no_folder, rows=None)
case('command line', 'nobody listens to what is said', nothing, call=broken_pipe, rows=None, codes=(0, 1, 141))
refused('command line', 'an argument that is no text', nothing, call=shell('config', 'show', b'seed=\xff\xfe'), found=False)
refused('command line', 'a planet that is no text', nothing, call=shell('export', b'\xff\xfe', 'data=kaggle', 'data.root={tree}', 'paths.work={work}'), found=False)


# --- checkpoints ------------------------------------------------------------------------------------------------------------------------

OWN = (*RUN, 'predict.checkpoint={here}/prior.json')


def prior(change=None, data=None):
    "A prior that somebody has touched."
    def harm(p):
        document = json.loads((p.base/'work'/'artifacts'/'checkpoints'/'prior.json').read_text())
        p.put(p.here/'prior.json', data if data is not None else json.dumps(change(document)))
    return harm


def put_in(name, value): return lambda d: d | {name: value}


for title, data in dict(empty='', half='{"shapes": [[', a_list='[1]', a_number='5', nothing='null', bytes='\x00\x01', an_empty_object='{}').items():
    refused('prior', spoken(title), prior(data=data), OWN, codes=(2, 3), says=('prior.json',))
refused('prior', 'NaN in it', prior(data='{"kernel": NaN}'), OWN, codes=(3,), says=('prior.json',))
refused('prior', 'a folder of that name', lambda p: (p.here/'prior.json').mkdir(), OWN, says=('prior.json',))
refused('prior', 'nesting of 100,000 brackets', prior(data='['*100_000), OWN, codes=(2, 3), says=('prior.json',))
for title, change in {'without its kernel': lambda d: {k: v for k, v in d.items() if k != 'kernel'}, 'a kernel that is a word': put_in('kernel', 'matern'), 'an unknown key': put_in('colour', 'red'),
                      'shapes of 282 bins': lambda d: d | dict(shapes=[row[:-1] for row in d['shapes']]), 'shapes that are words': put_in('shapes', [['a']*283]), 'scale weights too few': lambda d: d | dict(scale_weight=d['scale_weight'][:-1]), 'scale weights all zero': lambda d: d | dict(scale_weight=[0.]*len(d['scale_weight'])),
                      'scale weights negative': lambda d: d | dict(scale_weight=[-1.]*len(d['scale_weight'])), 'naive_sd zero': put_in('naive_sd', 0.), 'naive_sd negative': put_in('naive_sd', -1e-3),
                      'naive_sd enormous': put_in('naive_sd', 1e300), 'naive_sd a word': put_in('naive_sd', 'wide'), 'a bias of one row': lambda d: d | dict(bias=d['bias'][:1]), 'a bias of 1e300': put_in('bias', [[1e300]*3]*2),
                      'a spread of 1e300': put_in('spread', [[1e300]*3]*3), 'a population that is a list': put_in('population', [1]), 'a foreground that is a list': put_in('foreground', [1]),
                      'a foreground that is empty': put_in('foreground', {}), 'a population with words': put_in('population', dict(a='b')), 'model_error negative': put_in('model_error', -1.),
                      'model_error a word': put_in('model_error', 'x'), 'n_labels a word': put_in('n_labels', 'many')}.items():
    refused('prior', title, prior(change), OWN, codes=(2,), says=('prior.json',))


def checkpoints(damage):
    "A folder of checkpoints that somebody has touched."
    def harm(p):
        import shutil
        shutil.copytree(p.base/'net'/'artifacts'/'checkpoints', p.here/'ckpt'/'checkpoints')
        shutil.copytree(p.base/'net'/'artifacts'/'calibration', p.here/'ckpt'/'calibration')
        damage(p, p.here/'ckpt'/'checkpoints')
    return harm


def member(folder, k=0): return sorted((folder/'members').glob('fold*'))[k]
def in_json(path, change):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def bomb():
    "A pickle that would leave a file behind."
    class Bomb:
        def __reduce__(self): return os.system, ('touch /tmp/spectramind_was_here',)
    import pickle
    return pickle.dumps(Bomb())


def nothing_called(p, text): return ['something was called'] if os.path.exists('/tmp/spectramind_was_here') else []


NETS = {
    'weights missing': (lambda p, f: (member(f)/'model.safetensors').unlink(), (3,)),
    'weights empty': (lambda p, f: (member(f)/'model.safetensors').write_bytes(b''), (3,)),
    'weights cut off': (lambda p, f: half(p, member(f)/'model.safetensors'), (3,)),
    'weights with one bit flipped': (lambda p, f: flip(member(f)/'model.safetensors'), (3,)),
    'weights of another member': (lambda p, f: (member(f)/'model.safetensors').write_bytes((member(f, 1)/'model.safetensors').read_bytes()), (3,)),
    'weights that are a pickle': (lambda p, f: (member(f)/'model.safetensors').write_bytes(bomb()), (3,)),
    'weights that are a pickle, and a description that agrees': (lambda p, f: (signed(member(f), bomb())), (3,)),
    'weights with an enormous header, and a description that agrees': (lambda p, f: signed(member(f), (1 << 62).to_bytes(8, 'little') + b'{}'), (3,)),
    'weights that are not finite, and a description that agrees': (lambda p, f: not_finite(member(f)), (0,)),
    'a description missing': (lambda p, f: (member(f)/'model.json').unlink(), (3,)),
    'a description cut off': (lambda p, f: half(p, member(f)/'model.json'), (3,)),
    'a description that is a list': (lambda p, f: (member(f)/'model.json').write_text('[]'), (3,)),
    'a description without its scaling': (lambda p, f: in_json(member(f)/'model.json', lambda d: d.pop('scaling') and None), (2,)),
    'a scaling that is a word': (lambda p, f: in_json(member(f)/'model.json', lambda d: d | dict(scaling='x')), (2, 3)),
    'a scaling of zero': (lambda p, f: in_json(member(f)/'model.json', lambda d: d | dict(scaling=zeroed(d['scaling']))), (0, 2, 3)),
    'ensemble.json cut off': (lambda p, f: half(p, f/'members'/'ensemble.json'), (3,)),
    'ensemble.json a list': (lambda p, f: (f/'members'/'ensemble.json').write_text('[]'), (2,)),
    'a gate of 7': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(gate=d['gate'] | dict(fgs1=7.))), (2,)),
    'a gate that is a word': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(gate='open')), (2,)),
    'no members': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(members=[])), (2,)),
    'a member outside the folder': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(members=[d['members'][0] | dict(folder='../../../etc')])), (2,)),
    'a member that is not there': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(members=[d['members'][0] | dict(folder='fold9')])), (3,)),
    'a network of another width': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(network=d['network'] | dict(width=16))), (3,)),
    'a network of 10^9 channels': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(network=d['network'] | dict(width=10**9))), (2, 3)),
    'a network of a width that is a word': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(network=d['network'] | dict(width='wide'))), (2, 3)),
    'other planet features': (lambda p, f: in_json(f/'members'/'ensemble.json', lambda d: d | dict(features=d['features'][::-1])), (2,)),
    'a temperature cut off': (lambda p, f: half(p, f.parent/'calibration'/'temperature.json'), (3,)),
    'a temperature that is a list': (lambda p, f: (f.parent/'calibration'/'temperature.json').write_text('[]'), (2,)),
    'COREL without its factors': (lambda p, f: in_json(f.parent/'calibration'/'corel.json', lambda d: dict(d, used=True, factors=None)), (2,)),
    'COREL with factors too few': (lambda p, f: in_json(f.parent/'calibration'/'corel.json', lambda d: dict(d, used=True, submit='gauss', factors=dict(kind='corel', version=1, q_raw=[1.]))), (2,)),
    'a temperature of -1': (lambda p, f: in_json(f.parent/'calibration'/'temperature.json', lambda d: dict(d, used=True, factors=negative(d.get('factors')))), (2,)),
    'outliers with a member that is a word': (lambda p, f: in_json(f.parent/'calibration'/'outliers.json', lambda d: dict(d, used=True, members=['x'])), (2,)),
    'prior.json missing': (lambda p, f: (f/'prior.json').unlink(), (3,)),
    'prior.json cut off': (lambda p, f: half(p, f/'prior.json'), (3,)),
    'oof.npz.json damaged': (lambda p, f: (f/'oof.npz.json').write_text('{"sha256"'), (0,)),
}


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(bytes(data))


def signed(folder, data):
    import hashlib
    (folder/'model.safetensors').write_bytes(data)
    in_json(folder/'model.json', lambda d: d | dict(sha256=hashlib.sha256(data).hexdigest()))


def not_finite(folder):
    from safetensors.torch import load, save
    signed(folder, save({k: v*float('nan') if v.is_floating_point() else v for k, v in load((folder/'model.safetensors').read_bytes()).items()}))


def zeroed(node):
    if isinstance(node, dict): return {k: zeroed(v) for k, v in node.items()}
    if isinstance(node, list): return [zeroed(v) for v in node]
    return 0.*node if isinstance(node, (int, float)) and not isinstance(node, bool) else node


def negative(factors): return dict(factors, fgs1=-1.) if isinstance(factors, dict) else dict(kind='temperature', version=1, fgs1=-1., airs=-1.)


def physics_rows(p, text):
    "The network said nothing usable: rows of the physics, finite, and it is told."
    origins = (p.work/'artifacts'/'predictions'/'origin.csv').read_text()
    return nothing_called(p, text) + ([] if origins.count('physics') == 3 else [f'origins {origins.split()}']) + ([] if 'network' in text else ['nothing is said'])


for title, (damage, codes) in NETS.items():
    if codes == (0,): case('networks', title, checkpoints(damage), words=NET, rows=None, check=physics_rows if 'finite' in title else nothing_called)
    else: refused('networks', title, checkpoints(damage), NET, codes=codes, check=nothing_called, found=0 not in codes)
for title in ('weights cut off', 'a network of another width', 'ensemble.json a list', 'a temperature that is a list', 'COREL without its factors'):
    refused('networks', f'{title}: told before the long part', checkpoints(NETS[title][0]), ('run', *NET[1:]), codes=NETS[title][1],
            check=lambda p, text: ['the planets were worked on first'] if 'calibrate + features' in text else [])
case('networks', 'undamaged', checkpoints(lambda p, f: None), words=NET, rows=None, check=lambda p, text: [] if (p.work/'artifacts'/'predictions'/'mu.csv').read_bytes() == (p.base/'refined'/'artifacts'/'predictions'/'mu.csv').read_bytes() else ['not the healthy prediction'])
case('networks', 'no calibration at all', checkpoints(lambda p, f: [x.unlink() for x in list((f.parent/'calibration').iterdir())]), words=NET, rows=None)
case('networks', 'no members: physics alone', checkpoints(lambda p, f: (f/'members'/'ensemble.json').unlink()), words=NET, rows=None)
case('networks', 'last.ckpt that is a pickle bomb (nobody opens it)', checkpoints(lambda p, f: (member(f)/'last.ckpt').write_bytes(bomb())), words=NET, rows=None, check=nothing_called)


# --- what earlier stages have left ------------------------------------------------------------------------------------------------------

def product(p, letter, kind='posterior', visit=0):
    name = f'planet_{p.ids[letter]}' + (f'_{visit}' if visit else '')
    return p.work/'data'/dict(posterior='posterior', white='features/fgs1_white', bins='features/airs_bins')[kind]/f'{name}.npz'


def record(p, letter, kind='posterior'): path = product(p, letter, kind); return path.with_name(path.name + '.json')


PRODUCTS = {
    'missing': lambda p, f: f.unlink(), 'empty': empty, 'cut off': half, 'one bit flipped': lambda p, f: flip_in(p, f), 'a folder': folder_instead, 'a pickle': lambda p, f: p.put(f, bomb()),
    'of another planet': lambda p, f: p.put(f, sorted(x for x in f.parent.glob('*.npz') if x != f)[0].read_bytes()), 'a link to itself': link_to_itself,
    'without its record': lambda p, f: f.with_name(f.name + '.json').unlink(), 'an empty record': lambda p, f: p.put(f.with_name(f.name + '.json'), ''),
    'a record that is a list': lambda p, f: p.put(f.with_name(f.name + '.json'), '[]'), 'a record without anything': lambda p, f: p.put(f.with_name(f.name + '.json'), '{}'),
    'a record that is half': lambda p, f: half(p, f.with_name(f.name + '.json')), 'a record of other settings': lambda p, f: in_record(p, f, lambda d: d | dict(config_hash='0'*64)),
    'a record with another hash': lambda p, f: in_record(p, f, lambda d: d | dict(sha256='0'*64)), 'a record that says failed': lambda p, f: in_record(p, f, lambda d: d | dict(status='failed', sha256=None)),
    'a record whose quality is null': lambda p, f: in_record(p, f, lambda d: d | dict(quality=None)), 'a record whose inputs are a word': lambda p, f: in_record(p, f, lambda d: d | dict(inputs='x')),
    'a record that is a folder': lambda p, f: folder_instead(p, f.with_name(f.name + '.json')), 'a record whose lost visits are a word': lambda p, f: in_record(p, f, lambda d: d | dict(quality=dict(lost_visits='x'))),
}


def flip_in(p, path):
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 16
    p.put(path, bytes(data))


def in_record(p, path, change):
    where = path.with_name(path.name + '.json')
    p.put(where, json.dumps(change(json.loads(where.read_text()))))


for kind in ('posterior', 'bins', 'white'):
    for title, damage in PRODUCTS.items():
        if kind == 'white' and 'record' in title or kind == 'bins' and title in ('a pickle', 'a link to itself', 'a record that is half', 'a folder'): continue
        what, name = dict(posterior='posterior', bins='AIRS light curves', white='FGS1 light curves')[kind], title in ('a folder', 'a record that is a folder')
        case('products', f'{what} {title}: ' + ('the planet is named, nobody\'s folder is removed' if name else 'made again'), lambda p, k=kind, d=damage: d(p, product(p, 'A', k)), bad='A' if name else ())
case('products', 'whole folder of posteriors missing', lambda p: p.clear(p.work/'data'/'posterior'))
case('products', 'everything missing', lambda p: p.clear(p.work/'data'))
case('products', 'temporaries of writers that are dead', lambda p: [p.put(p.work/'data'/'posterior'/f'.planet_1.npz.{host_name()}.{pid}.0a1b2c3d.tmp', 'x') for pid in (999_999_998, 999_999_999)])
case('products', 'predictions of another run', lambda p: [p.put(p.work/'artifacts'/'predictions'/f'{n}.csv', 'planet_id\n') for n in ('mu', 'sigma', 'origin')])
case('products', 'the prior that stands is cut off: learnt again', lambda p: half(p, p.work/'artifacts'/'checkpoints'/'prior.json'), words=RUN)
case('products', 'the record of the prior is empty', lambda p: p.put(p.work/'artifacts'/'checkpoints'/'prior.json.json', ''), words=RUN)
case('products', 'the prior that stands has one digit changed', lambda p: p.put(p.work/'artifacts'/'checkpoints'/'prior.json', (p.work/'artifacts'/'checkpoints'/'prior.json').read_text().replace('1', '2', 1)), words=RUN)
case('products', 'folds damaged', lambda p: p.put(p.work/'data'/'splits'/'groupkfold.json', '{'), words=RUN)
case('products', 'a log that is damaged', lambda p: p.put(p.work/'events.jsonl', b'\xff\xfe{"ts": 1\n[]\nnull\n'), words=RUN)
case('products', 'timings of earlier runs damaged', lambda p: p.put(p.work/'artifacts'/'runs'/'run'/'20260101_000000'/'events.jsonl', b'\xff{"event": "fit", "figures": []}\n{"event": "fit"}\n5\n'), words=RUN)
case('products', 'run folders that are none', lambda p: (p.put(p.work/'artifacts'/'runs'/'run'/'x'/'status.json', '['), p.put(p.work/'artifacts'/'runs'/'fit', 'x'), (p.work/'artifacts'/'runs'/'loop').symlink_to('.')))
case('products', 'an old submission, damaged', lambda p: p.put(p.work/'dist'/'submission.csv', 'planet_id\n1'))
refused('products', 'a folder in place of the submission', lambda p: folder_instead(p, p.work/'dist'/'submission.csv'), says=('submission.csv',))
refused('products', 'a file in place of the folder of posteriors', lambda p: (p.clear(p.work/'data'/'posterior'), p.put(p.work/'data'/'posterior', 'x')), codes=(3,))
for title, damage in {'missing': missing, 'cut off': half, 'of another planet': lambda p, f: p.put(f, product(p, 'C').read_bytes()), 'one bit flipped': flip_in}.items():
    case('products', f'predict alone, posterior {title}: the prior\'s row', lambda p, d=damage: d(p, product(p, 'A')), words=('predict', *TEST[1:]), rows=None, check=lambda p, text: named(p, 'A') + one_prior(p))


def host_name():
    from spectramind.core import store
    return store._host()


def one_prior(p):
    origins = (p.work/'artifacts'/'predictions'/'origin.csv').read_text()
    return [] if origins.count('prior') == 1 and f'{p.ids["A"]},prior' in origins else [f'origins {origins.split()}']


# --- predictions and submissions --------------------------------------------------------------------------------------------------------

SUBMIT = ('submit', '{here}/predictions', 'data=kaggle', 'model=physics_only', 'data.root={tree}', 'paths.work={here}/fresh')


def predictions(name, change):
    def harm(p):
        import shutil
        shutil.copytree(p.base/'work'/'artifacts'/'predictions', p.here/'predictions')
        path = p.here/'predictions'/f'{name}.csv'
        change(p, path) if callable(change) and change.__code__.co_argcount == 2 and change.__code__.co_varnames[:2] == ('p', 'path') else p.table(path, partial(change, p) if change.__code__.co_argcount > 1 else change)
    return harm


def unwritten(p, text): return ['a submission was written'] if (p.here/'fresh'/'dist'/'submission.csv').exists() else []


for name in ('mu', 'sigma'):
    for word in ('missing', 'empty', 'half', 'words_instead', 'a_folder', 'noise'): refused('predictions', f'{name}.csv {spoken(word)}', predictions(name, WHOLE[word]), SUBMIT, codes=(2, 3), check=unwritten)
    for title, change in {'a NaN': cell(1, 5, 'nan'), 'an infinity': cell(1, 5, '-inf'), 'a word': cell(1, 5, 'deep'), 'nothing in a cell': cell(1, 5, ''), 'a planet lost': lambda rows: rows[:-1], 'a planet twice': lambda rows: [*rows, rows[1]],
                          'a bin lost': lambda rows: [r[:-1] for r in rows], 'a bin too many': lambda rows: [r + ['0.1'] for r in rows], 'an id that is a path': cell(1, 0, '../../x'), 'rows in another order': last_first}.items():
        refused('predictions', f'{name}.csv with {title}', predictions(name, change), SUBMIT, codes=(2, 3), check=unwritten)
for value in ('0', '-1e-4', '-0.0'): refused('predictions', f'a sigma of {value}', predictions('sigma', cell(1, 5, value)), SUBMIT, codes=(2,), check=unwritten)
refused('predictions', 'an origin table of other columns', predictions('origin', lambda rows: [['a', 'b'], *rows[1:]]), SUBMIT, codes=(2,), check=unwritten)
case('predictions', 'a depth below zero is raised to zero and counted', predictions('mu', cell(1, 5, '-0.001')), words=SUBMIT, says=('1 depths raised',), rows=None)
case('predictions', 'a sigma below the floor is raised and counted', predictions('sigma', cell(1, 5, '1e-9')), words=SUBMIT, says=('1 error bars raised',), rows=None)
case('predictions', 'no origin table', predictions('origin', missing), words=SUBMIT, rows=None)


def submission(change, name='s.csv'):
    "The healthy submission, touched."
    def harm(p):
        text = (p.base/'work'/'dist'/'submission.csv').read_text()
        data = change(text)
        p.put(p.here/name, data)
    return harm


def csv_rows(change):
    import csv as tables
    def out(text):
        stream = io.StringIO()
        tables.writer(stream, lineterminator='\n').writerows(change([list(r) for r in tables.reader(text.splitlines())]))
        return stream.getvalue()
    return out


def zipped(*members, **more):
    "An archive of names and contents."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', more.get('how', zipfile.ZIP_DEFLATED)) as archive:
        for name, data in members: archive.writestr(name, data)
    return buffer.getvalue()


VALIDATE = ('validate', '{here}/s.csv')
for title, change in {'empty': lambda t: '', 'words': lambda t: 'some words', 'only the header': lambda t: t.splitlines()[0] + '\n', 'cut off in a row': lambda t: t[:len(t) - 3000], 'a NaN': csv_rows(cell(1, 5, 'nan')),
                      'an infinity': csv_rows(cell(1, 300, 'inf')), 'a word': csv_rows(cell(2, 5, 'x')), 'an empty cell': csv_rows(cell(2, 5, '')), 'a depth below zero': csv_rows(cell(1, 5, '-1e-9')),
                      'a sigma of zero': csv_rows(cell(1, 400, '0')), 'a sigma below zero': csv_rows(cell(1, 400, '-1')), 'a planet twice': csv_rows(lambda r: [*r, r[1]]), 'an id that is a path': csv_rows(cell(1, 0, '../../etc/passwd')),
                      'an id that is a script': csv_rows(cell(1, 0, '<script>alert(1)</script>')), 'a negative id': csv_rows(cell(1, 0, '-1')), 'an id of 40 digits': csv_rows(cell(1, 0, '1'*40)),
                      'a column lost': csv_rows(lambda r: [x[:-1] for x in r]), 'a column too many': csv_rows(lambda r: [x + ['1'] for x in r]), 'two columns exchanged': csv_rows(lambda r: [[r[0][0], r[0][2], r[0][1], *r[0][3:]], *r[1:]]),
                      'a column twice': csv_rows(lambda r: [[*r[0][:-1], r[0][1]], *r[1:]]), 'no header': lambda t: '\n'.join(t.splitlines()[1:]), 'UTF-16': lambda t: t.encode('utf-16'), 'Latin-1': lambda t: t.encode() + b'\xe9',
                      'an open quote': lambda t: t + '"', 'a NUL': lambda t: t.replace(',', ',\0', 1), 'semicolons': lambda t: t.replace(',', ';'), 'a hexadecimal number': csv_rows(cell(1, 5, '0x10')), 'a number with a comma': csv_rows(cell(1, 5, '0,01')),
                      'Arabic digits': csv_rows(cell(1, 5, '٠.١')), 'a number with underlines': csv_rows(cell(1, 5, '0.0_1')), 'a million columns': lambda t: ','*1_000_000, 'JSON that is no list': lambda t: '{"a": 1}', 'JSON of other keys': lambda t: '[{"id": 1}]',
                      'JSON nested 100,000 deep': lambda t: '['*100_000, 'JSON with NaN': lambda t: '[{"sample_id": "1", "mu": [NaN], "sigma": [1]}]', 'JSON with a key twice': lambda t: '[{"sample_id": "1", "sample_id": "2", "mu": [], "sigma": []}]'}.items():
    refused('submissions', title, submission(change), VALIDATE, codes=(2,))
for title, change in {'a byte-order mark': lambda t: b'\xef\xbb\xbf' + t.encode(), 'Windows line ends': lambda t: t.replace('\n', '\r\n'), 'blank lines': lambda t: t.replace('\n', '\n\n'), 'ids as whole numbers': lambda t: t.replace('.0,', ',', 3),
                      'numbers with an exponent': csv_rows(cell(1, 5, '1e-2')), 'spaces': lambda t: t.replace(',', ', ')}.items():
    case('submissions', f'{title} (right)', submission(change), words=VALIDATE, says=('valid: 3 planets',), rows=None)
for title, make in {'not an archive': lambda t: b'PK\x03\x04' + b'x'*500, 'an archive cut off': lambda t: zipped(('submission.csv', t))[:-40], 'an archive of nothing': lambda t: zipped(('readme.txt', 'x')), 'an archive of two tables': lambda t: zipped(('a.csv', t), ('b.csv', t)),
                    'a table of 600 MB in 600 kB': lambda t: zipped(('submission.csv', t + '\n'*600_000_000)), 'an archive in an archive': lambda t: zipped(('submission.csv', zipped(('submission.csv', t))))}.items():
    refused('submissions', title, submission(make, 's.zip'), ('validate', '{here}/s.zip'), codes=(2,))
case('submissions', 'an archive with a member that climbs out (nothing is unpacked)', submission(lambda t: zipped(('../../../climbed.csv', 'x'), ('/abs.csv', 'x'), ('submission.csv', t)), 's.zip'), words=('validate', '{here}/s.zip'),
     says=('valid: 3 planets',), rows=None, check=lambda p, text: [f'{x} was written' for x in (p.here.parent/'climbed.csv', p.here/'climbed.csv') if x.exists()])
for title, words, codes in (('not there', ('validate', '{here}/no.csv'), (3,)), ('a folder', ('validate', '{here}'), (3,)), ('a name with a NUL', ('validate', 'a\0b'), (3,)), ('a fifo', ('validate', '{here}/fifo'), (3,))):
    refused('submissions', title, lambda p: os.mkfifo(p.here/'fifo'), words, codes=codes)
refused('submissions', 'of other planets than the sample', submission(csv_rows(cell(1, 0, '424242'))), (*VALIDATE, '--sample', '{tree}/sample_submission.csv'), codes=(2,))
refused('submissions', 'a score against a truth of other planets', submission(lambda t: t), ('score', '{here}/s.csv', '{tree}/train.csv', 'data=kaggle', 'data.root={tree}', 'paths.work={here}/fresh'), codes=(2, 3))
refused('submissions', 'a score against a truth that is noise', lambda p: (submission(lambda t: t)(p), noise(p, p.here/'truth.csv')), ('score', '{here}/s.csv', '{here}/truth.csv', 'data=kaggle', 'data.root={tree}', 'paths.work={here}/fresh'), codes=(2, 3))
refused('submissions', 'a score without a submission', nothing, ('score', '{here}/no.csv', '{tree}/train.csv', 'data=kaggle', 'data.root={tree}', 'paths.work={here}/fresh'), codes=(3,))


# --- how many planets -------------------------------------------------------------------------------------------------------------------

def crowd(p, n, sound):
    "A hidden test set of n planets: `sound` of them, evenly, are C under another name, products and all; the others are damaged, each in one of five ways."
    import shutil
    ids, like, folder = [3_000_000_000 + 7*i for i in range(n)], p.ids['C'], p.folder('C')
    for x in 'AB': p.clear(p.folder(x))
    (p.tree/'test').mkdir(exist_ok=True)
    keep = set(ids[:: max(1, n//sound)][:sound])
    for i, planet in enumerate(ids):
        there = p.tree/'test'/str(planet)
        if planet in keep:
            shutil.copytree(folder, there, copy_function=os.link)
            for path in [*(p.work/'data').glob(f'*/*/planet_{like}.npz*'), *(p.work/'data').glob(f'*/planet_{like}.npz*')]: os.link(path, path.with_name(path.name.replace(str(like), str(planet))))
            continue
        kind = i % 5
        if kind == 0: there.mkdir()
        elif kind == 1: there.mkdir(); os.link(folder/'FGS1_signal_0.parquet', there/'FGS1_signal_0.parquet')
        elif kind == 2: shutil.copytree(folder, there, copy_function=os.link); p.put(there/'AIRS-CH0_signal_0.parquet', b'PAR1')
        elif kind == 3: shutil.copytree(folder, there, copy_function=os.link); p.clear(there/'FGS1_calibration_0'/'flat.parquet')
    p.clear(folder)
    sample = (p.tree/SAMPLE).read_text().splitlines()
    p.put(p.tree/SAMPLE, '\n'.join([sample[0], *(f'{i}.0,{sample[1].partition(",")[2]}' for i in ids)]) + '\n')
    stars = [r for r in (p.tree/STARS).read_text().splitlines() if not r.startswith((str(p.ids['A']), str(p.ids['B'])))]
    row = next(r for r in stars if r.startswith(str(like))).partition(',')[2]
    p.put(p.tree/STARS, '\n'.join([stars[0], *(f'{i}.0,{row}' for i in ids)]) + '\n')
    p.crowd, p.sound = ids, keep
    from spectramind.challenge.planets import scan_stars
    from spectramind.core.store import sha256_json
    rows = scan_stars(p.tree, 'test')[0]
    for planet in keep:                                              # a posterior is signed with its planet's row
        where = p.work/'data'/'posterior'/f'planet_{planet}.npz.json'
        told = json.loads(where.read_text())
        p.put(where, json.dumps(told | dict(inputs=told['inputs'] | dict(star=sha256_json(vars(rows[planet]))))))


def whole_crowd(p, text):
    "Every planet has a finite row; the sound ones that of C, the others the prior's; each damaged one is listed."
    from spectramind.scoring.submission import validate_submission
    import csv as tables
    spectra = validate_submission(p.work/'dist'/'submission.csv', p.crowd)[0]
    healthy = next(line for line in (p.base/'work'/'dist'/'submission.csv').read_text().splitlines() if line.startswith(str(p.ids['C']))).partition(',')[2]
    rows = {int(float(line.partition(',')[0])): line.partition(',')[2] for line in (p.work/'dist'/'submission.csv').read_text().splitlines()[1:]}
    listed = {int(r['planet_id']) for r in tables.DictReader((p.work/'artifacts'/'reports'/'bad_planets.csv').read_text().splitlines())}
    wrong = [] if len(spectra) == len(p.crowd) else [f'{len(spectra)} rows']
    if any(rows[i] != healthy for i in p.sound): wrong.append('a sound planet has another row')
    if any(rows[i] == healthy for i in p.crowd if i not in p.sound): wrong.append('a damaged planet has the row of a sound one')
    if len({rows[i] for i in p.crowd if i not in p.sound}) > 1: wrong.append('the damaged planets have different rows')
    if listed != set(p.crowd) - p.sound: wrong.append(f'{len(listed)} planets are listed, expected {len(set(p.crowd) - p.sound)}')
    return wrong


case('numbers of planets', '1 planet, sound', lambda p: crowd(p, 1, 1), rows=None, check=whole_crowd)
case('numbers of planets', '1 planet, damaged: the row of the prior', lambda p: lonely(p), rows=None, codes=(3,), check=whole_crowd)
case('numbers of planets', '1,100 planets, 220 of them sound', lambda p: crowd(p, 1100, 220), rows=None, check=whole_crowd, patience=4)
case('numbers of planets', '1,100 planets, one of them sound', lambda p: crowd(p, 1100, 1), rows=None, check=whole_crowd, patience=4)
case('numbers of planets', '1,100 planets, all sound', lambda p: crowd(p, 1100, 1100), rows=None, check=whole_crowd, patience=5)


def lonely(p):
    "One planet, and its folder is empty."
    crowd(p, 1, 1)
    for path in list((p.tree/'test'/str(p.crowd[0])).iterdir()): p.clear(path)
    p.sound.clear()


# --- what has to be told before hours of work, and handed in all the same ----------------------------------------------------------------

HOURS = (*TEST, 'limits.hours=1')
case('complete before better', 'the axis table missing, with a limit on hours: the rows of the prior are handed in', lambda p: (missing(p, p.tree/'axis_info.parquet'), p.clear(p.work/'dist')), words=HOURS, codes=(3,),
     says=('axis_info.parquet',), rows=None, check=lambda p, text: all_prior(p))
case('complete before better', 'the converter table empty, with a limit on hours: the rows of the prior are handed in', lambda p: (empty(p, p.tree/'adc_info.csv'), p.clear(p.work/'dist')), words=HOURS, codes=(3,),
     says=('adc_info.csv',), rows=None, check=lambda p, text: all_prior(p))
case('complete before better', 'a network cut off, with a limit on hours: the rows of the prior are handed in', lambda p: (checkpoints(NETS['weights cut off'][0])(p), p.clear(p.work/'dist')), words=('run', *NET[1:], 'limits.hours=1'),
     codes=(3,), says=('model.safetensors',), rows=None, check=lambda p, text: all_prior(p))
case('complete before better', 'a better submission that stands is not replaced by the prior\'s', on_file('adc_info.csv', empty), words=HOURS, codes=(3,), rows=None,
     check=lambda p, text: [] if (p.work/'dist'/'submission.csv').read_bytes() == (p.base/'work'/'dist'/'submission.csv').read_bytes() else ['it was replaced'])
refused('complete before better', 'a rule with a call in it', nothing, ('train', *NET[1:-1], 'loss.symbolic.rules=[{{name: x, expr: "__import__(\'os\').system(\'touch /tmp/spectramind_was_here\')"}}]'), says=('rule', 'column'), found=False, check=nothing_called)   # it points at the column
case('prior', 'no shapes (a prior of few labels)', prior(put_in('shapes', [])), words=OWN, changed='ABC')


def all_prior(p):
    "A complete submission of prior rows."
    from spectramind.scoring.submission import validate_submission
    spectra = validate_submission(p.work/'dist'/'submission.csv', [p.ids[x] for x in 'ABC'])[0]
    return [] if len(spectra) == 3 and len({tuple(row) for row in spectra.mu.tolist()}) == 1 else ['not the rows of the prior']
