"The trainer: killed, split, out of memory, tampered with, and the same every time."
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_worker import DDP, KILL, TRAIN, VALID, Tiny, made_up, trainer_for

from spectramind.core.errors import ConfigError, DataError, QualityGateError, RuntimeLimitError, SchemaError, UsageError
from spectramind.training.curriculum import Contrastive, Supervised
from spectramind.training.checkpoints import load_weights, read_checkpoint, read_weights, write_checkpoint, write_weights
from spectramind.training.settings import TrainConfig
from spectramind.training.judging import predict

torch.set_num_threads(1)
WORKER = Path(__file__).with_name('ddp_worker.py')
PRODUCTS = ('model.safetensors', 'model.json', 'top.json')
ONLY = dict(epochs_mae=0, epochs_contrastive=0)


@pytest.fixture(scope='module', autouse=True)
def processes(tmp_path_factory):
    "Two processes that train together and one to be killed, started early so that the tests wait less."
    root = tmp_path_factory.mktemp('processes')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = str(s.getsockname()[1])
    clean = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'NODE_RANK')}
    parent = subprocess.Popen([sys.executable, str(WORKER), str(root), port], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, start_new_session=True, env=clean | dict(OMP_NUM_THREADS='1'))
    yield root, parent
    if parent.poll() is None: os.killpg(parent.pid, signal.SIGKILL)
    parent.communicate()


@pytest.fixture(scope='module')
def untouched(tmp_path_factory):
    "A run that nothing disturbs."
    folder = tmp_path_factory.mktemp('untouched')
    return folder, trainer_for(folder, config=dict(top_k=1, checkpoint_every_s=0., workers=2)).fit()


def same_files(a, b): return all((Path(a)/f).read_bytes() == (Path(b)/f).read_bytes() for f in PRODUCTS)


@pytest.mark.parametrize('stop', (1, 3, 5, 8, 13))
def test_any_step_is_a_good_place_to_die(stop, untouched, tmp_path):
    class Stop(Exception): pass
    def tell(event):
        if event['event'] == 'step' and event['done'] == stop: raise Stop
    settings = dict(checkpoint_every_steps=2, top_k=1)
    with pytest.raises(Stop): trainer_for(tmp_path, config=settings, tell=tell).fit()
    assert (tmp_path/'last.ckpt').exists() == (stop > 1)
    assert trainer_for(tmp_path, config=settings).fit().history == untouched[1].history
    assert same_files(tmp_path, untouched[0])
    assert [p.name for p in (tmp_path/'top').iterdir()] == [p.name for p in (untouched[0]/'top').iterdir()]


def test_the_cut_of_a_batch_does_not_matter(tmp_path):
    runs = {}
    for accumulate in (1, 2, 5, 8):
        trainer = trainer_for(tmp_path/str(accumulate), model=Tiny(dropout=0.), config=ONLY | dict(accumulate=accumulate))
        trainer.fit()
        runs[accumulate] = trainer.model.state_dict()
    for accumulate in (2, 5, 8):
        for k, v in runs[1].items(): torch.testing.assert_close(runs[accumulate][k], v, rtol=0, atol=2e-5)


def test_a_step_is_what_plain_torch_does(tmp_path):
    from spectramind.training.dataset import fit_scaling, make_batch, plan_epoch
    from spectramind.training.settings import lr_at
    examples, model = made_up(), Tiny(dropout=0.)
    trainer = trainer_for(tmp_path, model=model, config=ONLY | dict(epochs_supervised=2, clip=.5, weight_decay=.1), valid=[])
    trainer.fit()
    scaling, phase = fit_scaling(examples, TRAIN), Supervised(naive=trainer.naive)
    matrices, vectors = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=.1), dict(params=vectors, weight_decay=0.)], lr=.02)
    for epoch in range(2):
        for micro in plan_epoch(TRAIN, 8, seed=2025, epoch=epoch):
            for g in optimizer.param_groups: g['lr'] = lr_at(epoch*3 + micro.step, 6, 0, .02, .01)
            optimizer.zero_grad()
            phase.loss(model, make_batch(examples, micro.rows, scaling), None)[0].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), .5)
            optimizer.step()
    for k, v in model.state_dict().items(): torch.testing.assert_close(trainer.model.state_dict()[k], v, rtol=0, atol=1e-7)


def test_same_seed_same_bytes_and_nothing_outside_changes(tmp_path):
    examples, model = made_up(), Tiny()
    before, weights = {k: v.copy() for k, v in vars(examples).items()}, {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5); state = torch.get_rng_state()
    a = trainer_for(tmp_path/'a', model=model, examples=examples).fit()
    assert torch.equal(torch.get_rng_state(), state) and model.training
    torch.manual_seed(99)
    b = trainer_for(tmp_path/'b', model=model, examples=examples, config=dict(workers=1)).fit()
    assert same_files(tmp_path/'a', tmp_path/'b') and a.history == b.history
    assert all(np.array_equal(before[k], v) for k, v in vars(examples).items())
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    trainer_for(tmp_path/'c', model=model, config=dict(seed=1)).fit()
    assert (tmp_path/'c'/'model.safetensors').read_bytes() != (tmp_path/'a'/'model.safetensors').read_bytes()


class Hungry(Tiny):
    most, text = 3, 'CUDA out of memory. Tried to allocate (pretended)'
    def forward(self, batch):
        if self.training and len(batch['mu']) > self.most: raise (torch.OutOfMemoryError if self.most else RuntimeError)(self.text)
        return super().forward(batch)


def test_out_of_memory_keeps_the_effective_batch(tmp_path):
    trainer = trainer_for(tmp_path/'a', model=Hungry(dropout=0.), config=ONLY)
    report = trainer.fit()
    assert [(e['accumulate'], e['micro_batch'], e['step']) for e in report.events] == [(2, 4, 0), (4, 2, 0)] and report.accumulate == 4
    plain = trainer_for(tmp_path/'b', model=Tiny(dropout=0.), config=ONLY | dict(accumulate=4))
    plain.fit()
    for k, v in plain.model.state_dict().items(): assert torch.equal(trainer.model.state_dict()[k], v)
    class Nothing(Hungry): most = 0
    with pytest.raises(RuntimeLimitError, match='micro-batches of 1'): trainer_for(tmp_path/'c', model=Nothing(), config=ONLY).fit()
    class Other(Hungry): most, text = 0, 'something else'
    with pytest.raises(RuntimeError, match='something else'): trainer_for(tmp_path/'d', model=Other(), config=ONLY).fit()


def test_early_stopping_and_the_best_few(tmp_path):
    report = trainer_for(tmp_path, config=ONLY | dict(epochs_supervised=40, patience=2, lr=.9, top_k=2)).fit()
    values = [h['unclipped'] for h in report.history]
    assert report.stopped == 'patience' and len(values) < 41
    assert report.best == max(values) and report.best_epoch == report.history[int(np.argmax(values))]['epoch']
    assert report.history[-1]['epoch'] == report.best_epoch + 2
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:2]
    assert [t['value'] for t in report.top] == [values[i] for i in order]
    assert [t['epoch'] for t in report.top] == [report.history[i]['epoch'] for i in order]
    assert sorted(p.name for p in (tmp_path/'top').iterdir()) == sorted(Path(t['file']).name for t in report.top)
    assert (tmp_path/report.top[0]['file']).read_bytes() == (tmp_path/'model.safetensors').read_bytes()


@pytest.mark.parametrize('monitor, pick', [('gll', max), ('nll', min)])
def test_other_monitors_know_their_direction(monitor, pick, tmp_path):
    report = trainer_for(tmp_path, config=ONLY | dict(monitor=monitor, epochs_supervised=5)).fit()
    assert report.best == pick(h[monitor] for h in report.history) == report.top[0]['value']


def test_kept_weights_give_the_reported_score_and_learn(tmp_path):
    trainer = trainer_for(tmp_path, config=ONLY | dict(epochs_supervised=30, ema=.8, lr=.05))
    report = trainer.fit()
    fresh = Tiny(seed=9)
    info = load_weights(fresh, tmp_path)
    examples, truth = made_up(), made_up().label[VALID]
    found = predict(fresh, examples, VALID, trainer.scaling, batch_size=3)
    from spectramind.core.nouns import Spectra
    from spectramind.scoring.score import score
    ids = examples.planet_id[VALID]
    assert score((ids, truth), Spectra(ids, found['mu'], found['sigma']), *trainer.naive).total == pytest.approx(report.score, abs=1e-6)
    assert report.best > report.history[0]['unclipped'] + .2 and info['selected']['score'] == report.score
    assert found['latent'].shape == (8, 8)
    assert np.abs((found['mu'] - truth).mean()) < 5e-5 and not trainer.model.training and fresh.training


def test_pretraining_alone_and_no_validation_keep_the_last_weights(tmp_path):
    other = made_up(20, seed=5); other.planet_id = 5000 + np.arange(20); other.label[:] = np.nan
    settings = dict(epochs_mae=8, epochs_contrastive=0, epochs_supervised=0, lr_pretrain=.02)
    report = trainer_for(tmp_path/'a', config=settings, pretrain=(other, np.arange(20))).fit()
    assert report.best is None and [h['phase'] for h in report.history] == ['mae']*8
    assert report.history[-1]['loss'] < report.history[0]['loss']
    assert read_weights(tmp_path/'a')[1]['selected'] == dict(by='last', value=None, score=None, epoch=None)
    last = trainer_for(tmp_path/'b', config=ONLY, valid=[])
    last.fit()
    assert all(torch.equal(v, read_checkpoint(tmp_path/'b'/'last.ckpt')['model'][k]) for k, v in last.model.state_dict().items())


def test_non_finite_names_the_planet(tmp_path):
    class Fragile(Tiny):
        slope = False
        def forward(self, batch):
            out = super().forward(batch)
            bad = batch['planet_id'] == 1007
            if not bad.any(): return out
            mu = out['mu'].clone()
            # finite without a slope, or infinite
            mu[bad] = mu[bad] + 0.*torch.sqrt(mu[bad] - mu[bad].detach()) if self.slope else mu[bad]*torch.inf
            return {**out, 'mu': mu}
    for name in ('loss', 'slope'):
        Fragile.slope = name == 'slope'
        words = 'found a gradient of norm (nan|inf)' if Fragile.slope else 'found a loss of (nan|inf)'
        with pytest.raises(QualityGateError, match=words + r' in supervised, epoch 1, step [123], for planets 1007, wanted') as found:
            trainer_for(tmp_path/name, model=Fragile(), config=ONLY).fit()
        assert 'train.anomaly' in found.value.hint
    with pytest.raises(QualityGateError, match='SqrtBackward0.*returned nan values.*test_training_trainer.py.*for planets 1007,'):
        trainer_for(tmp_path/'anomaly', model=Fragile(), config=ONLY | dict(anomaly=True)).fit()
    assert not torch.is_anomaly_enabled()


def test_profiler_progress_and_mixed_precision(tmp_path, capsys):
    said = []
    report = trainer_for(tmp_path/'a', config=ONLY | dict(profiler=True, amp='bf16', epochs_supervised=4), tell=said.append).fit()
    assert 'aten::' in report.profile and 'Self CPU' in report.profile
    steps = [e for e in said if e['event'] == 'step']
    assert [e['done'] for e in steps] == list(range(1, 13)) and all(e['total'] == 12 for e in steps)
    assert steps[-1]['left_s'] == 0 < steps[0]['left_s']
    assert capsys.readouterr().out == ''
    full = trainer_for(tmp_path/'b', config=ONLY | dict(epochs_supervised=4)).fit()
    assert report.history[-1]['loss'] == pytest.approx(full.history[-1]['loss'], rel=.1)
    assert report.history[-1]['loss'] != full.history[-1]['loss'] and full.profile is None


def test_starting_over_and_checkpoints_of_others(tmp_path):
    first = trainer_for(tmp_path, config=ONLY).fit()
    bytes_ = (tmp_path/'model.safetensors').read_bytes()
    assert not trainer_for(tmp_path, config=ONLY).fit(resume=False).resumed and (tmp_path/'model.safetensors').read_bytes() == bytes_
    other = made_up(); other.mu = other.mu + 1e-6
    for change in (dict(config=ONLY | dict(lr=.1)), dict(config=ONLY, model=Tiny(seed=1)), dict(config=ONLY, examples=other),
                   dict(config=ONLY, train=TRAIN[:-1]), dict(config=ONLY, phases=(Supervised(pull=.1),)),
                   dict(config=ONLY, augment=lambda b, g: b)):
        with pytest.raises(ConfigError, match='checkpoint of a run with other settings'): trainer_for(tmp_path, **change).fit()
    assert trainer_for(tmp_path, config=ONLY | dict(workers=1, profiler=True)).fit().best == first.best


def test_tampered_files(tmp_path):
    trainer_for(tmp_path, config=ONLY | dict(epochs_supervised=1)).fit()
    path = tmp_path/'last.ckpt'
    data = path.read_bytes()
    for damage in (data[:len(data)//2], b'', b'nonsense', data[:200] + b'\0'*50 + data[250:]):
        path.write_bytes(damage)
        with pytest.raises(DataError, match='last.ckpt'): trainer_for(tmp_path, config=ONLY | dict(epochs_supervised=1)).fit()
    class Evil:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/executed',)
    torch.save({'model': Evil(), 'digest': 'x'}, path)
    with pytest.raises(DataError, match='damaged'): read_checkpoint(path)
    assert not (tmp_path/'executed').exists()
    torch.save({'model': 1}, path)
    with pytest.raises(DataError, match='digest'): read_checkpoint(path)
    with pytest.raises(DataError, match='no file'): read_checkpoint(tmp_path/'none.ckpt')
    document = {'a': torch.ones(3), 'b': [1, 2.5, None, True]}
    write_checkpoint(path, document)
    for change in ({'a': torch.ones(3).double()}, {'b': [1, 2.5, None, 1]}, {'a': torch.ones(3, 1)}, {'c': 0}):
        torch.save(document | change | {'digest': torch.load(path, weights_only=True)['digest']}, tmp_path/'changed.ckpt')
        with pytest.raises(DataError, match='digest'): read_checkpoint(tmp_path/'changed.ckpt')


def test_weights_files(tmp_path):
    model = Tiny()
    write_weights(tmp_path, model.state_dict(), dict(note=1))
    assert read_weights(tmp_path)[1]['note'] == 1
    with pytest.raises(DataError, match='found correct.weight'): load_weights(Tiny(width=4), tmp_path)
    with pytest.raises(DataError, match='weight'): load_weights(torch.nn.Linear(3, 8), tmp_path)
    data = bytearray((tmp_path/'model.safetensors').read_bytes()); data[-1] ^= 1
    (tmp_path/'model.safetensors').write_bytes(data)
    with pytest.raises(DataError, match='SHA-256'): read_weights(tmp_path)
    (tmp_path/'model.safetensors').unlink()
    with pytest.raises(DataError, match='no file'): read_weights(tmp_path)
    tied = torch.nn.Linear(2, 2); tied.other = tied.weight
    write_weights(tmp_path, tied.state_dict(), {})
    assert torch.equal(read_weights(tmp_path)[0]['other'], tied.weight)


@pytest.mark.parametrize('setting', [
    dict(lr=0.), dict(lr=float('nan')), dict(batch_size=0), dict(batch_size=True), dict(amp='fp8'), dict(accumulate=9, batch_size=8),
    dict(devices=2), dict(amp='16', accelerator='cpu'), dict(monitor='loss'), dict(warmup=1.), dict(anomaly=1), dict(ema=1.),
    dict(epochs_mae=-1), dict(strategy='fsdp')])
def test_settings_are_checked(setting):
    with pytest.raises(ConfigError, match='train.'): TrainConfig(**setting)


def test_refusals(tmp_path):
    def refused(error, words, **kwargs):
        with pytest.raises(error, match=words): trainer_for(tmp_path, **kwargs).fit()
    holes = made_up(); holes.label[3] = np.nan
    part = made_up(); part.label[25, 7] = np.nan
    flat = made_up(); flat.label[:] = .01
    twice = made_up(); twice.planet_id[5] = twice.planet_id[30]
    other = made_up(4); other.planet_id[:] = [1, 2, 3, 1030]
    refused(SchemaError, 'training planets .1003', examples=holes)
    refused(SchemaError, 'validation planets .1025', examples=part)
    refused(SchemaError, 'same depth', examples=flat)
    refused(QualityGateError, 'leakage.*1030', examples=twice)
    refused(QualityGateError, 'pretraining.*1030', pretrain=(other, np.arange(4)))
    assert trainer_for(tmp_path, pretrain=(other, np.arange(3))) is not None
    refused(UsageError, 'valid_rows: found 1 rows more', valid=[30, 30])
    refused(UsageError, 'train_rows: found none', train=[])
    refused(ConfigError, '0 for every phase', config=ONLY | dict(epochs_supervised=0))
    refused(ConfigError, 'epochs_mae', phases=(Supervised(),))
    refused(ConfigError, 'phases', phases=('mae',))
    refused(ConfigError, 'at least 2 for contrastive', config=dict(batch_size=1))
    class Half(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.zeros(1))
        def forward(self, batch): return {'mu': batch['mu'] + self.w}
    refused(ConfigError, "'reconstruct'", model=Half())
    refused(SchemaError, 'nothing for sigma', model=Half(), config=ONLY)
    refused(ConfigError, 'no parameter', model=torch.nn.Identity(), config=ONLY)
    class Vector(Contrastive):
        def loss(self, model, batch, generator): return torch.zeros(2), {}
    refused(SchemaError, 'loss of shape', phases=(Vector(),), config=dict(epochs_mae=0, epochs_supervised=0))
    if not torch.cuda.is_available(): refused(ConfigError, 'CUDA', config=dict(accelerator='cuda'))
    assert replace(TrainConfig(), lr=.5).lr == .5


def test_killed_in_mid_epoch_and_resumed(processes, tmp_path):
    root, parent = processes
    whole = trainer_for(tmp_path/'whole', config=KILL).fit()
    victim = int(parent.stdout.readline())
    (root/'kill').mkdir(exist_ok=True)
    (root/'kill'/'go').touch()
    for line in parent.stdout:
        if int(line) >= 8: break                                    # 3 steps per epoch: in the middle of a supervised one
    os.kill(victim, signal.SIGKILL)
    assert parent.stdout.read().splitlines()[-1:] in ([], ['9'], ['10'])
    state = read_checkpoint(root/'kill'/'last.ckpt')['state']
    assert state['phase'] == 2 and state['step'] > 0 and state['stopped'] == ''
    resumed = trainer_for(root/'kill', config=KILL).fit()
    assert resumed.resumed and not whole.resumed and resumed.history == whole.history and same_files(root/'kill', tmp_path/'whole')
    a, b = (read_checkpoint(f/'last.ckpt') for f in (root/'kill', tmp_path/'whole'))
    assert all(torch.equal(a['model'][k], b['model'][k]) and torch.equal(a['ema'][k], b['ema'][k]) for k in b['model'])
    assert trainer_for(root/'kill', config=KILL).fit().history == whole.history                 # a finished run is not trained again


def test_two_processes_equal_one(processes, tmp_path):
    root, parent = processes
    # parts are numbered over micro-batches and processes alike, so dropout and hidden bins are the same draws
    one = trainer_for(tmp_path, config=DDP | dict(accumulate=2))
    report = one.fit()
    error = parent.stderr.read()
    assert parent.wait(60) == 0, error[-3000:]
    assert json.loads((root/'exit.json').read_text()) == dict(kill=-signal.SIGKILL, ddp0=0, ddp1=0), error[-3000:]
    found, info = read_weights(root/'ddp')
    for k, v in one.model.state_dict().items(): torch.testing.assert_close(found[k], v, rtol=0, atol=1e-5)
    assert info['selected']['epoch'] == report.best_epoch and abs(info['selected']['value'] - report.best) < 1e-5
    assert any((found[k] - v).abs().max() > 1e-3 for k, v in Tiny().state_dict().items())
