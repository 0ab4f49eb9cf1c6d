"Losses against references in numpy, and the phases' rules."
import numpy as np
import pytest
import torch
from ddp_worker import TRAIN, Tiny, made_up
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import ConfigError, SchemaError, UsageError
from spectramind.core.nouns import Spectra
from spectramind.scoring.score import FGS1_WEIGHT, bin_weights, ideal_sigma, log_normal, naive_statistics, score
from spectramind.symbolic.pack import SymbolicPack, SymbolicWeights
from spectramind.symbolic.terms import spectral_grid
from spectramind.training.curriculum import (MAE, MODES, Contrastive, Supervised, better, hide_bins, info_nce, loss_total, mae_loss, pinball_loss,
                                             score_loss, sigma_floor)
from spectramind.training.dataset import UNIT, fit_scaling, make_batch

torch.set_num_threads(1)


def t(a): return torch.tensor(np.asarray(a)/UNIT, dtype=torch.float32)


def spectra(n, seed, ppm):
    rng = np.random.default_rng(seed)
    y = .01*(1 + .2*rng.standard_normal((n, 1))) + 1e-4*rng.standard_normal((n, 283))
    s = 1e-6*ppm*np.exp(.3*rng.standard_normal((n, 283)))
    return y, y + s*rng.standard_normal((n, 283)), s


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), ppm=st.floats(15., 500.), n=st.integers(2, 6))
def test_losses_agree_with_float64_references(seed, ppm, n):
    y, m, s = spectra(n, seed, ppm)
    s = np.maximum(s, ideal_sigma())
    naive = naive_statistics(y)
    cells = -log_normal(y/UNIT, m/UNIT, s/UNIT)
    assert score_loss(t(m), t(s), t(y)).item() == pytest.approx(cells.mean(), abs=2e-3)
    weighted = np.average(cells, weights=np.broadcast_to(bin_weights(), cells.shape))
    assert score_loss(t(m), t(s), t(y), mode='weighted').item() == pytest.approx(weighted, abs=2e-3)
    official = score((np.arange(n), y), Spectra(np.arange(n), np.maximum(m, 0), s), *naive).unclipped
    assert 1 - score_loss(t(m), t(s), t(y), mode='score', naive=naive).item() == pytest.approx(official, abs=1e-3)


def test_perfect_is_zero_loss_and_floors_hold():
    y, _, _ = spectra(3, 0, 50)
    naive = naive_statistics(y)
    for claimed in (ideal_sigma(), 1e-9):
        assert score_loss(t(y), t(np.broadcast_to(claimed, y.shape)), t(y), mode='score', naive=naive).item() == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(sigma_floor(torch.zeros(283)).numpy()*UNIT, ideal_sigma(), rtol=1e-6)


@pytest.mark.parametrize('mode', MODES)
def test_missing_labels_are_left_out_without_a_trace(mode):
    y, m, s = spectra(4, 1, 60)
    naive = naive_statistics(y)
    holes = y.copy(); holes[1, 10:] = np.nan; holes[3] = np.nan
    mu, sigma = t(m).requires_grad_(), t(s).requires_grad_()
    loss = score_loss(mu, sigma, t(holes), mode=mode, naive=naive)
    loss.backward()
    for grad in (mu.grad, sigma.grad):
        assert torch.isfinite(grad).all() and (grad[1, 10:] == 0).all() and (grad[3] == 0).all() and (grad[0] != 0).any()
    parts = [score_loss(t(m[i:i + 1]), t(s[i:i + 1]), t(holes[i:i + 1]), mode=mode, naive=naive).item() for i in range(3)]
    assert loss.item() == pytest.approx(np.mean(parts), rel=1e-5)                                  # a mean over planets, so it can be cut


def test_the_loss_of_a_batch_is_the_shared_sum_of_its_parts():
    y, m, s = spectra(7, 3, 60)
    naive = naive_statistics(y)
    for mode in MODES:
        whole = score_loss(t(m), t(s), t(y), mode=mode, naive=naive).item()
        cut = sum(len(p)/7*score_loss(t(m[p]), t(s[p]), t(y[p]), mode=mode, naive=naive).item() for p in np.array_split(np.arange(7), 3))
        assert cut == pytest.approx(whole, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10000), share=st.floats(.02, .98), run=st.integers(1, 282))
def test_hidden_bins_leave_something_to_see(seed, share, run):
    hidden = hide_bins((16, 283), torch.Generator().manual_seed(seed), share, run)
    assert hidden.any(1).all() and not hidden.all(1).any()
    assert torch.equal(hidden, hide_bins((16, 283), torch.Generator().manual_seed(seed), share, run))


def test_hidden_share_and_runs():
    hidden = hide_bins((4000, 283), torch.Generator().manual_seed(1), .3, 10)
    assert abs(hidden[:, 1:].float().mean() - .3) < .01 and abs(hidden[:, 0].float().mean() - .3) < .03
    assert abs(hidden[:, 1].float().mean() - .3) < .03 and abs(hidden[:, -1].float().mean() - .3) < .03    # edges are hidden as often
    starts = (hidden[:, 2:] & ~hidden[:, 1:-1]).sum()
    assert hidden[:, 1:].sum()/starts > 10                                                                   # runs, not single bins


def test_mae_loss_values():
    value, target = torch.zeros(2, 283), torch.ones(2, 283)
    hidden = torch.zeros(2, 283, dtype=torch.bool); hidden[0, :5] = True; hidden[1, 7] = True
    value[0, 0] = 3.
    assert mae_loss(value, target, hidden).item() == pytest.approx(.5*((4 + 4)/5 + 1)/2)
    expected = (.5*np.log(2*np.pi) + np.log(2) + .5*((4 + 4)/5)/4 + .5*np.log(2*np.pi) + np.log(2) + .5/4)/2
    assert mae_loss(value, target, hidden, torch.full_like(value, np.log(2))).item() == pytest.approx(expected, rel=1e-6)


def test_info_nce_reference_and_false_negatives():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=g), torch.randn(5, 7, generator=g)
    x, z = (v.double().numpy()/np.linalg.norm(v.numpy(), axis=1, keepdims=True) for v in (a, b))
    logits = x@z.T/.2
    rows = [-(l[np.arange(5), np.arange(5)] - np.log(np.exp(l).sum(1))).mean() for l in (logits, logits.T)]
    assert info_nce(a, b, .2).item() == pytest.approx(np.mean(rows), rel=1e-5)
    assert info_nce(a[:1], b[:1]).item() == 0
    twice = torch.cat([a[:1], a[:1]])
    assert info_nce(twice, twice, planet_id=torch.tensor([4, 4])).item() == 0
    assert info_nce(twice, twice).item() == pytest.approx(np.log(2), rel=1e-5)
    with pytest.raises(SchemaError, match='latents'): info_nce(a, b[:4])


def test_pinball_prefers_true_quantiles_and_skips_holes():
    g = torch.Generator().manual_seed(0)
    y = torch.randn(300, 283, generator=g)
    q = torch.tensor([-1.2816, 0., 1.2816])[None, :, None].expand(300, 3, 283)
    one = torch.ones_like(y)
    best = pinball_loss(q, y, one)
    assert all(best < pinball_loss(q + d, y, one) for d in (-.3, .3))
    holes = y.clone(); holes[:, 5:] = torch.nan
    assert pinball_loss(q, holes, one).item() == pytest.approx(pinball_loss(q[..., :5], y[:, :5], one[:, :5]).item(), rel=1e-5)


def test_supervised_adds_what_it_is_told():
    examples = made_up(8)
    batch = make_batch(examples, np.arange(8), fit_scaling(examples, np.arange(8)))
    model = Tiny().eval()
    plain, parts = Supervised(mode='nll').loss(model, batch, None)
    assert set(parts) == {'nll'}
    def penalty(out, b): return out['mu'].sum()*0 + 3., {'rule': torch.tensor(2.)}
    more, parts = Supervised(mode='nll', pull=.5, penalty=penalty).loss(model, batch, None)
    pull = .5*(((model(batch)['mu'] - batch['mu'])/batch['sigma'])**2).mean()
    assert more.item() == pytest.approx((plain + pull + 3).item(), rel=1e-5) and set(parts) == {'nll', 'pull', 'rule', 'penalty'}
    assert not any(v.requires_grad for v in parts.values())
    with pytest.raises(ConfigError, match='quantile'): Supervised(mode='nll', quantile=1.).loss(model, batch, None)
    class Three(Tiny):
        def forward(self, b):
            quantiles = b['mu'][:, None] + b['sigma'][:, None]*torch.tensor([-1.28, 0, 1.28])[:, None]
            return super().forward(b) | {'quantiles': quantiles}
    loss, parts = Supervised(mode='nll', quantile=1.).loss(Three().eval(), batch, None)
    assert 0 < parts['quantile'] < loss


def test_describe_is_stable_across_processes():
    def rule(out, batch): return out['mu'].sum(), {}
    class Pack:
        def __call__(self, out, batch): return out['mu'].sum(), {}
        def describe(self): return {'rules': 3}
    assert Supervised(penalty=rule).describe()['penalty'].endswith('rule')
    assert Supervised(penalty=Pack()).describe()['penalty'] == {'rules': 3}
    assert MAE().describe() == dict(phase='mae', share=.4, run=12, predict_sigma=True)
    assert Supervised(naive=(1., 2.)).describe()['naive'] == [1., 2.]


def test_directions():
    nan = float('nan')
    assert better('gll', 2, 1) and not better('gll', 1, 1) and better('nll', 1, 2) and better('score', 0, nan)
    assert not better('nll', nan, 0) and not better('score', nan, nan)
    with pytest.raises(UsageError, match='loss'): better('loss', 1, 2)


def test_refusals():
    y, m, s = spectra(2, 0, 50)
    with pytest.raises(ConfigError, match='loss.gll.mode'): score_loss(t(m), t(s), t(y), mode='gll')
    with pytest.raises(ConfigError, match='naive'): score_loss(t(m), t(s), t(y), mode='score')
    with pytest.raises(SchemaError, match='shapes'): score_loss(t(m), t(s[:1]), t(y))
    with pytest.raises(UsageError, match='label'): score_loss(t(m), t(s), t(np.full_like(y, np.nan)))
    for make in (lambda: MAE(share=0.), lambda: MAE(run=283), lambda: Contrastive(temperature=0.), lambda: Supervised(mode='x'),
                 lambda: Supervised(pull=-1.),
                 lambda: Supervised(fgs_weight=float('nan')), lambda: hide_bins((2, 283), torch.Generator(), share=1.),
                 lambda: hide_bins((2, 283), torch.Generator(), run=0)):
        with pytest.raises(ConfigError): make()
    assert FGS1_WEIGHT == 57.846 and len(TRAIN) == 24


GRID = spectral_grid(dtype=torch.float64)
BINS = {name: torch.nonzero(w)[:, 0] for name, w in zip(GRID.names, GRID.windows)}
SHAPES = {name: template[BINS[name]] for name, template in zip(GRID.names, GRID.templates)}


def whole(mu, sigma, y, valid=None, lmbd=SymbolicWeights(), **more):
    return loss_total(mu, sigma, y, torch.ones(283, dtype=torch.bool) if valid is None else valid, 1, BINS, SHAPES, GRID.dl, lmbd, **more)


def drawn(seed, n=3):
    rng = np.random.default_rng(seed)
    return [torch.tensor(a) for a in (rng.normal(1., 2., (n, 283)), .5 + rng.random((n, 283)), rng.normal(1., 2., (n, 283)))]


@pytest.mark.parametrize("name", ["sm", "nn", "coh", "seam", "ratio"])
def test_loss_total_is_the_likelihood_and_each_term_of_the_pack(name):
    mu, sigma, y = drawn(4)
    only = SymbolicWeights(**dict.fromkeys(("sm", "nn", "coh", "seam", "ratio", "qm"), 0.) | {name: .7})
    likelihood = whole(mu, sigma, y, lmbd=SymbolicWeights(0, 0, 0, 0, 0, 0))
    torch.testing.assert_close(likelihood, -torch.distributions.Normal(mu, sigma).log_prob(y).sum(1).mean())
    term = SymbolicPack(only, (), GRID)(mu)["total"].mean()
    assert term > 0
    torch.testing.assert_close(whole(mu, sigma, y, lmbd=only) - likelihood, term)


def test_loss_total_is_score_loss_and_pack_in_one():
    mu, sigma, y = (a.float() for a in drawn(5))
    pack = SymbolicPack(rules=())
    torch.testing.assert_close(whole(mu, sigma, y), 283*score_loss(mu, sigma, y) + pack(mu)["total"].mean(), rtol=1e-5, atol=1e-3)


def test_loss_total_counts_valid_cells_keeps_sigma_off_zero_and_has_a_gradient():
    mu, sigma, y = drawn(6)
    valid = torch.ones(3, 283, dtype=torch.bool)
    valid[:, 100:] = False
    other = y.clone()
    other[:, 100:] = 1e6
    assert torch.equal(whole(mu, sigma, y, valid), whole(mu, sigma, other, valid)) and whole(mu, sigma*0, y, sigma_min=.1).isfinite()
    mu.requires_grad_()
    whole(mu, sigma, y).backward()
    assert mu.grad.isfinite().all() and mu.grad.abs().min() > 0


def test_loss_total_refuses_a_template_that_is_not_its_windows():
    mu, sigma, y = drawn(7)
    with pytest.raises(SchemaError, match="H2O"): loss_total(mu, sigma, y, torch.ones(283, dtype=torch.bool), 1, BINS, SHAPES | dict(H2O=SHAPES["H2O"][:-1]), GRID.dl)
    with pytest.raises(SchemaError, match="CO2"): loss_total(mu, sigma, y, torch.ones(283, dtype=torch.bool), 1, BINS, {k: v for k, v in SHAPES.items() if k != "CO2"}, GRID.dl)
