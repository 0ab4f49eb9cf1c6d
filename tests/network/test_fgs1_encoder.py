"The FGS1 encoders: one interface, steps that do not count, time reversal, refusals, export."
import copy
import pytest
import torch
from hypothesis import given, settings, strategies as st
from spectramind.core.accelerators import fall_back
from spectramind.core.errors import ConfigError, UsageError
from spectramind.core.logs import get_logger
from spectramind.network.fgs1_encoder import KINDS, BidirectionalGRU, BidirectionalMamba, Pool, build_fgs1_encoder, window, window_mean

torch.set_num_threads(1)
SETTINGS = [dict(), dict(pool='mean_max'), dict(stride=3), dict(stride=3, stem='conv', pool='mean_max')]


def planets(batch=3, length=40, channels=5, seed=0, share=.7):
    "Series and valid steps, at least one per planet."
    random = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, length, generator=random) < share
    valid[:, length//2] = True
    return torch.randn(batch, length, channels, generator=random), valid


def encoder_of(kind, **more):
    "A small one, always the same."
    torch.manual_seed(1)
    return build_fgs1_encoder(kind, 5, 12, depth=2, state=4, **more).eval()


@pytest.mark.parametrize('more', SETTINGS)
@pytest.mark.parametrize('kind', KINDS)
def test_what_stands_in_invalid_steps_does_not_matter(kind, more):
    encoder, (series, valid) = encoder_of(kind, **more), planets()
    pooled, steps = encoder(series, valid)
    assert pooled.shape == (3, 12) and steps.shape == (3, 40, 12) and steps[~valid].eq(0).all() and steps[valid].abs().sum(-1).gt(0).all()
    dirty = series.masked_fill(~valid[..., None], torch.nan).requires_grad_()
    again = encoder(dirty, valid)
    assert torch.equal(pooled, again[0]) and torch.equal(steps, again[1])
    grads = torch.autograd.grad(again[0].square().sum() + again[1].square().sum(), [dirty, *encoder.parameters()])
    assert all(g.isfinite().all() for g in grads) and grads[0][~valid].eq(0).all() and grads[0][valid].abs().sum(-1).gt(0).all()
    assert all(g.abs().sum() > 0 for g in grads)       # every parameter takes part


@pytest.mark.parametrize('more', SETTINGS)
@pytest.mark.parametrize('kind', KINDS)
def test_padding_at_the_end_changes_nothing(kind, more):
    encoder, (series, valid) = encoder_of(kind, **more), planets()
    with torch.no_grad():
        longer = torch.cat([series, torch.full((3, 8, 5), torch.inf)], 1), torch.cat([valid, torch.zeros(3, 8, dtype=torch.bool)], 1)
        wanted, found = encoder(series, valid), encoder(*longer)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1][:, :40], wanted[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('more', SETTINGS)
@pytest.mark.parametrize('kind', KINDS)
def test_planets_do_not_know_of_each_other(kind, more):
    encoder, (series, valid) = encoder_of(kind, **more), planets()
    with torch.no_grad():
        pooled, steps = encoder(series, valid)
        for i in range(3):
            alone = encoder(series[i:i + 1], valid[i:i + 1])
            torch.testing.assert_close(alone[0][0], pooled[i], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(alone[1][0], steps[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('more', SETTINGS)
@pytest.mark.parametrize('kind', KINDS)
def test_a_planet_without_any_step_gives_finite_numbers(kind, more):
    encoder, (series, valid) = encoder_of(kind, **more), planets()
    valid[1] = False
    pooled, steps = encoder(series, valid)
    assert pooled.isfinite().all() and steps[1].eq(0).all() and (more.get('pool') == 'mean_max' or pooled[1].eq(0).all())
    assert all(g.isfinite().all() for g in torch.autograd.grad(pooled.sum() + steps.sum(), list(encoder.parameters())))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 30), share=st.floats(.1, 1))
def test_scans_skip_steps(seed, length, share):
    "Without the convolution a Mamba layer, and always a GRU layer, gives what it gives for the valid steps alone."
    series, valid = planets(1, length, 6, seed, share)
    torch.manual_seed(0)
    layers = [BidirectionalGRU(6), BidirectionalMamba(6, 3)]
    for block in (layers[1].forwards, layers[1].backwards):
        with torch.no_grad(): block.conv1d.weight[..., :-1] = 0
    for layer in layers:
        with torch.no_grad(): found, wanted = layer(series, valid)[valid], layer(series[:, valid[0]], valid[:, valid[0]])[0]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('backend', ['numba', 'torch'])
def test_reversal(backend):
    encoder, (series, valid) = encoder_of('mamba', shared=True, backend=backend), planets()
    with torch.no_grad(): (pooled, steps), (turned, turned_steps) = encoder(series, valid), encoder(series.flip(1), valid.flip(1))
    torch.testing.assert_close(turned, pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(turned_steps.flip(1), steps, rtol=1e-5, atol=1e-6)
    apart = encoder_of('mamba')
    with torch.no_grad(): change = apart(series.flip(1), valid.flip(1))[0] - apart(series, valid)[0]
    assert change.abs().max() > 1e-4      # weights of their own tell the direction


def test_shared_weights_are_the_same_block_twice():
    torch.manual_seed(0)
    shared, apart, (x, valid) = BidirectionalMamba(6, 3, shared=True), BidirectionalMamba(6, 3), planets(channels=6)
    apart.load_state_dict(shared.state_dict() | {k.replace('forwards', 'backwards'): v for k, v in shared.state_dict().items()})
    torch.testing.assert_close(shared(x, valid), apart(x, valid), rtol=1e-5, atol=1e-6)


def test_backends_agree():
    encoder, (series, valid) = encoder_of('mamba', backend='numba'), planets(length=100)
    other = encoder_of('mamba', backend='torch')
    made = [(*m(series, valid), *torch.autograd.grad(m(series, valid)[0].square().sum(), list(m.parameters()))) for m in (encoder, other)]
    for a, b in zip(*made): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_every_step_can_reach_the_summary(kind):
    "The first and the last step change the latent vectors at the other end (mamba, gru) or as far as the convolutions look (tcn)."
    encoder, (series, _) = encoder_of(kind), planets()
    valid, reach = torch.ones(3, 40, dtype=torch.bool), 3 if kind == 'tcn' else 39
    moved = series.clone()
    moved[:, 0] += 5
    with torch.no_grad(): change = (encoder(moved, valid)[1] - encoder(series, valid)[1]).abs().amax((0, 2))
    assert change[:reach + 1].gt(0).all() and change[reach + 1:].eq(0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_deterministic(kind):
    series, valid = planets()
    made = []
    for encoder in (encoder_of(kind), encoder_of(kind)):
        pooled, steps = encoder(series, valid)
        made.append([pooled, steps, *torch.autograd.grad(pooled.sum(), list(encoder.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*made))


@pytest.mark.parametrize('kind', KINDS)
def test_recomputing_changes_no_gradient(kind):
    encoder, (series, valid) = encoder_of(kind).train(), planets()
    frugal = copy.deepcopy(encoder)
    frugal.recompute = True
    made = [torch.autograd.grad(m(series, valid)[0].square().sum(), list(m.parameters())) for m in (encoder, frugal)]
    assert all(torch.equal(a, b) for a, b in zip(*made))


def test_recomputing_keeps_less():
    kept = {}
    series, valid = planets(length=200)
    for recompute in (False, True):
        encoder, sizes = encoder_of('mamba', recompute=recompute).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x): encoder(series, valid)
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False]/3


@pytest.mark.parametrize('kind', KINDS)
def test_mixed_precision(kind):
    encoder, (series, valid) = encoder_of(kind), planets()
    with torch.no_grad():
        plain = encoder(series, valid)
        with torch.autocast('cpu', dtype=torch.bfloat16): mixed = encoder(series, valid)
    for a, b in zip(mixed, plain): torch.testing.assert_close(a.float(), b, rtol=.05, atol=.05)


@pytest.mark.filterwarnings('ignore:The tensor attribute')     # torch.nn.GRU keeps a list of its weights, which tracing touches
@pytest.mark.parametrize('kind', KINDS)
def test_exported_is_the_encoder(kind):
    encoder, (series, valid) = encoder_of(kind, stride=2), planets()
    batch = torch.export.Dim('batch', min=1, max=512)
    graph = torch.export.export(encoder, (series, valid), dynamic_shapes=({0: batch}, {0: batch}), strict=False).module()
    more, counts = planets(7, seed=5)
    with torch.no_grad():
        for a, b in zip(graph(more, counts), encoder(more, counts)): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('stride', [1, 2, 3, 7, 40, 100])
def test_windows(stride):
    series, valid = planets()
    mean, short = window_mean(series.masked_fill(~valid[..., None], torch.nan), valid, stride)
    assert mean.shape == (3, -(-40//stride), 5) and window(valid, stride).sum() == valid.sum()
    for b in range(3):
        for w, t in enumerate(range(0, 40, stride)):
            counts = valid[b, t:t + stride]
            wanted = series[b, t:t + stride][counts].mean(0) if counts.any() else torch.zeros(5)
            torch.testing.assert_close(mean[b, w], wanted)
            assert short[b, w] == counts.any()


def test_short_steps_are_the_steps():
    encoder, (series, valid) = encoder_of('mamba', stride=7), planets()
    with torch.no_grad(): (pooled, steps), (same, few, short) = encoder(series, valid), encoder.encode_short(series, valid)
    assert torch.equal(pooled, same) and few.shape == (3, 6, 12) and torch.equal(short, window(valid, 7).any(2))
    for t in range(40): assert torch.equal(steps[:, t][valid[:, t]], few[:, t//7][valid[:, t]])


def test_attention_is_a_weighted_mean():
    torch.manual_seed(0)
    pool, (x, valid) = Pool(5), planets()
    with torch.no_grad():
        weights = pool.weights(x, valid)
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        assert weights[~valid].eq(0).all()
        torch.testing.assert_close(pool(x, valid)[0], sum(w*s for w, s in zip(weights[0], x[0])))


def test_training_on_series_lowers_the_loss():
    series, valid = planets(16, 50)
    wanted = series.masked_fill(~valid[..., None], 0.)[..., 0].sum(1)/5
    for kind in KINDS:
        encoder = encoder_of(kind).train()
        head = torch.nn.Linear(12, 1)
        adam, losses = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-2), []
        for _ in range(15):
            loss = (head(encoder(series, valid)[0])[:, 0] - wanted).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        assert losses[-1] < .5*losses[0], kind


@pytest.mark.parametrize('args,more', [
    (('lstm', 5, 12), {}), (('mamba', 0, 12), {}), (('mamba', 5, 12.), {}), (('gru', 5, 12, 0), {}), (('mamba', 5, 12, 1, 0), {}),
    (('tcn', 5, 12), dict(stride=0)), (('tcn', 5, 12), dict(stem='max')), (('gru', 5, 12), dict(pool='sum')),
    (('mamba', 5, 12), dict(backend='triton')), (('mamba', True, 12), {})])
def test_refused_settings(args, more):
    with pytest.raises(ConfigError, match='wanted'): build_fgs1_encoder(*args, **more)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('series,valid,words', [
    ((2, 10, 4), (2, 10), r'series: found torch.float32 \(2, 10, 4\), wanted real numbers \(batch, time, 5\)'),
    ((10, 5), (10,), 'series: found'), ((2, 0, 5), (2, 0), 'series: found'), ((2, 10, 5), (2, 9), r'valid: found torch.bool \(2, 9\)')])
def test_refused_shapes(kind, series, valid, words):
    with pytest.raises(UsageError, match=words): encoder_of(kind)(torch.zeros(series), torch.ones(valid, dtype=torch.bool))


def test_refused_kinds_of_numbers():
    encoder, valid = encoder_of('gru'), torch.ones(2, 10, dtype=torch.bool)
    with pytest.raises(UsageError, match='series: found torch.int64'): encoder(torch.ones(2, 10, 5, dtype=torch.int64), valid)
    with pytest.raises(UsageError, match='valid: found torch.float32'): encoder(torch.ones(2, 10, 5), torch.ones(2, 10))


def test_the_cuda_kernel_is_not_replaced_behind_ones_back(monkeypatch, caplog):
    "A network that learnt with it computes the same without it, and the log says so."
    monkeypatch.setattr(get_logger(), 'handlers', [caplog.handler])      # each line once, whatever other tests have left
    monkeypatch.setattr(get_logger(), 'propagate', False)
    fall_back.cache_clear()
    with caplog.at_level('WARNING', logger='spectramind'): encoder = encoder_of('mamba', backend='mamba_ssm')
    (series, valid), plain = planets(), encoder_of('mamba', backend='auto')
    with torch.no_grad(): assert all(torch.equal(a, b) for a, b in zip(encoder(series, valid), plain(series, valid)))
    assert [r.getMessage() for r in caplog.records] == ['scan backend mamba_ssm: found tensors on cpu, wanted cuda; numba is used instead']
