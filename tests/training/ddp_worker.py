"What the tests of the trainer share: a small network, made-up planets, and processes that are killed or work together."
import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from spectramind.training.dataset import fit_scaling


class Tiny(torch.nn.Module):
    "A stand-in for the network with all that the phases ask for; unused heads in each phase, and dropout."
    def __init__(self, width=8, dropout=.1, seed=0):
        super().__init__()
        self.embed, self.drop = torch.nn.Linear(3, width), torch.nn.Dropout(dropout)
        self.guess, self.correct, self.twin = torch.nn.Linear(width, 2), torch.nn.Linear(width, 2), torch.nn.Linear(16, width)
        g = torch.Generator().manual_seed(seed)
        for p in self.parameters(): p.data = .3*torch.randn(p.shape, generator=g)
    def latents(self, nodes): return self.drop(torch.tanh(self.embed(nodes)))
    def forward(self, batch):
        h = self.latents(batch['nodes'])
        shift, log_scale = self.correct(h).unbind(-1)
        return {'mu': batch['mu'] + shift, 'sigma': batch['sigma']*log_scale.clamp(-3, 3).exp(), 'latent': h.mean(1)}
    def reconstruct(self, batch, hidden):
        value, log_sigma = self.guess(self.latents(batch['nodes']*~hidden[..., None])).unbind(-1)
        return {'value': value, 'log_sigma': log_sigma}
    def contrast(self, batch): return self.latents(batch['nodes']).mean(1), self.twin(batch['series'].mean(-1))


def made_up(n=32, seed=1):
    "Planets with a smooth spectrum and physics that is 100 ppm too deep."
    rng, x = np.random.default_rng(seed), np.linspace(0, 6, 283)
    truth = .01*(1 + .2*rng.standard_normal((n, 1))) + 2e-4*rng.standard_normal((n, 1))*np.sin(x + rng.uniform(0, 6, (n, 1)))
    sigma = np.full((n, 283), 5e-5)
    mu = truth + 1e-4 + sigma*rng.standard_normal((n, 283))
    nodes = np.stack([mu, sigma, np.broadcast_to(x, mu.shape)], axis=-1).astype(np.float32)
    return SimpleNamespace(planet_id=1000 + np.arange(n), series=rng.standard_normal((n, 16, 4)).astype(np.float32),
                           series_valid=np.ones((n, 16), bool), nodes=nodes, planet=rng.standard_normal((n, 5)).astype(np.float32),
                           mu=mu, sigma=sigma, label=truth)


TRAIN, VALID = np.arange(24), np.arange(24, 32)


def trainer_for(folder, model=None, tell=None, config=None, **kwargs):
    "A trainer on the planets above; `config` holds the settings that differ from small ones."
    from spectramind.training.settings import TrainConfig
    from spectramind.training.trainer import Trainer
    examples = kwargs.pop('examples', None) or made_up()
    settings = dict(epochs_mae=1, epochs_contrastive=1, epochs_supervised=3, batch_size=8, lr=.02, patience=0, accelerator='cpu')
    settings |= config or {}
    return Trainer(model or Tiny(), examples, kwargs.pop('train', TRAIN), kwargs.pop('valid', VALID), fit_scaling(examples, TRAIN), folder,
                   TrainConfig(**settings), tell=tell or (lambda event: None), **kwargs)


DDP = dict(epochs_mae=2, epochs_contrastive=0, epochs_supervised=3, batch_size=10)   # 24 planets: a last step of four
KILL = dict(checkpoint_every_steps=1, ema=.9)


def train(what, folder):
    "ddp: one of two processes; kill: says each step, waits at the seventh for the file `go`, is slow, and waits at the ninth to be killed."
    def tell(event):
        if event['event'] != 'step': return
        os.write(1, f'{event["done"]}\n'.encode())
        time.sleep(.1)
        for _ in range(2400):
            if event['done'] not in (7, 9) or event['done'] == 7 and Path(folder, 'go').exists(): break
            time.sleep(.05)
    if what == 'ddp': trainer_for(folder, config=DDP | dict(devices=2, strategy='ddp')).fit()
    else: trainer_for(folder, config=KILL, tell=tell).fit()


def main():
    "ddp_worker.py FOLDER PORT: import once, then fork two processes that train together and one to be killed."
    import lightning.fabric.strategies   # noqa: F401  before the fork, for speed
    import spectramind.training.trainer  # noqa: F401
    torch.set_num_threads(1)
    root, port = Path(sys.argv[1]), sys.argv[2]
    children = {}
    pair = [dict(LOCAL_RANK=str(r), NODE_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=port) for r in (0, 1)]
    for name, environment in (('kill', {}), ('ddp0', pair[0]), ('ddp1', pair[1])):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.environ.update(environment)
                train(name[:4].rstrip('01'), root/name.rstrip('01'))
                code = 0
            except BaseException: traceback.print_exc()
            finally: sys.stderr.flush(); os._exit(code)
        children[name] = pid
        if name == 'kill': os.write(1, f'{pid}\n'.encode())
    codes = {name: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for name, pid in children.items()}
    (root/'exit.json').write_text(json.dumps(codes))


if __name__ == '__main__': main()
