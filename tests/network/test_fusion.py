"Fusion: three kinds, absent channels, masks, refusals."
import pytest
import torch
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import ConfigError, UsageError
from spectramind.network.fusion import KINDS, build_fusion, weigh

torch.set_num_threads(1)
NAMES = ('h_fgs1', 'h_airs', 'planet', 'steps', 'valid', 'node_latents')
ABSENT = dict(fgs1=(0, 3), airs=(1, 5), planet=(2,), all=(0, 1, 2, 3, 5))


def latents(seed=0, width=12, planets=3, steps=9, nodes=20):
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(planets, steps, generator=g) > .3
    valid[:, 0] = True
    h = [torch.randn(planets, width, generator=g) for _ in range(3)]
    return [*h, torch.randn(planets, steps, width, generator=g), valid, torch.randn(planets, nodes, width, generator=g)]


def fusion_of(kind, width=12, seed=0):
    torch.manual_seed(seed)
    return build_fusion(kind, width)


def without(batch, channel): return [torch.zeros_like(x) if i in ABSENT[channel] else x for i, x in enumerate(batch)]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('channel', ABSENT)
def test_absent_channels_are_safe(kind, channel):
    fusion = fusion_of(kind)
    batch = [x.requires_grad_() if x.is_floating_point() else x for x in latents()]
    for no_steps in (False, True):
        given_ = without(batch, channel)
        if no_steps: given_[4] = torch.zeros_like(batch[4])
        fusion.zero_grad()
        out = fusion(*given_)
        out.square().sum().backward()
        assert out.shape == (3, 12) and torch.isfinite(out).all()
        assert all(torch.isfinite(x.grad).all() for x in [*fusion.parameters(), *batch] if torch.is_tensor(x) and x.grad is not None)
    if channel != 'all':
        with torch.no_grad(): assert (fusion(*batch) - fusion(*without(batch, channel))).abs().max() > 1e-3


def test_gate_is_convex_and_shared_by_those_present():
    fusion, batch = fusion_of('gated'), latents()
    with torch.no_grad():
        for channel, gone in dict(fgs1=0, airs=1, planet=2).items():
            g = fusion.weights(*without(batch, channel)[:3])
            assert (g[:, gone] == 0).all() and (g >= 0).all() and torch.allclose(g.sum(-1), torch.ones(3))
        assert (fusion.weights(*[torch.zeros(3, 12)]*3) == 0).all() and (fusion(*without(batch, 'all')) == 0).all()
        g = fusion.weights(*batch[:3])
        parts = torch.stack([value(norm(h)) for value, norm, h in zip(fusion.values, fusion.norms, batch)], 1)
        out = fusion(*batch)
    assert torch.allclose(out, (g[..., None]*parts).sum(1), atol=1e-6)
    assert (out <= parts.amax(1) + 1e-6).all() and (out >= parts.amin(1) - 1e-6).all()


def test_concat_ignores_the_scale_of_a_channel():
    fusion, batch = fusion_of('concat'), latents()
    with torch.no_grad(): same = fusion(batch[0]*50, *batch[1:])
    assert torch.allclose(same, fusion(*batch), atol=1e-3)


def test_cross_attention_equals_torch():
    fusion, batch = fusion_of('cross_attend'), latents()
    queries, steps, valid, nodes = torch.stack([batch[2], batch[0]], 1), *batch[3:]
    with torch.no_grad():
        torch.nn.init.normal_(fusion.mark)
        got, attention = fusion.attend(queries, steps, valid, nodes)
        keys = torch.cat([fusion.norm_keys(steps) + fusion.mark[0], fusion.norm_keys(nodes) + fusion.mark[1]], 1)
        asked = (fusion.query, queries), (fusion.key, keys), (fusion.value, keys)
        q, k, v = (linear(x).unflatten(-1, (4, 3)).transpose(1, 2) for linear, x in asked)
        counts = torch.cat([valid, torch.ones(3, 20, dtype=torch.bool)], 1)
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, counts[:, None, None]).transpose(1, 2).flatten(-2)
    assert torch.allclose(got, wanted, atol=1e-6)
    assert torch.allclose(attention.sum(-1), torch.ones(3, 4, 2)) and (attention.movedim(-1, 1)[~counts] == 0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_invalid_steps_are_not_seen(kind):
    fusion, batch = fusion_of(kind), latents()
    spoilt = [*batch]
    spoilt[3] = batch[3].masked_fill(~batch[4][..., None], float('nan'))
    assert torch.equal(fusion(*batch), fusion(*spoilt))
    fusion(*spoilt).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


def test_absent_steps_need_no_flag():
    fusion, batch = fusion_of('cross_attend'), without(latents(), 'fgs1')
    none_valid = [*batch[:4], torch.zeros_like(batch[4]), batch[5]]
    with torch.no_grad():
        torch.nn.init.normal_(fusion.mark)
        assert torch.equal(fusion(*batch), fusion(*none_valid)) and (fusion.attend(batch[1][:, None], *batch[3:])[1][..., :9] == 0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_planets_do_not_meet_and_runs_repeat(kind):
    batch, order = latents(planets=4), torch.tensor([2, 0, 3, 1])
    before = [x.clone() for x in batch]
    with torch.no_grad():
        out, again = fusion_of(kind, seed=5)(*batch), fusion_of(kind, seed=5)(*batch)
        moved = fusion_of(kind, seed=5)(*[x[order] for x in batch])
    assert torch.equal(out, again) and torch.allclose(out[order], moved, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, batch))


def test_cross_attend_sees_order_free_nodes():
    fusion, batch = fusion_of('cross_attend'), latents()
    turned = [*batch[:5], batch[5].flip(1)]
    other = [*batch[:5], batch[5] + 1.*torch.randn(batch[5].shape, generator=torch.Generator().manual_seed(3))]
    with torch.no_grad():
        assert torch.allclose(fusion(*batch), fusion(*turned), atol=1e-6) and (fusion(*batch) - fusion(*other)).abs().max() > 1e-4


@pytest.mark.parametrize('kind', KINDS)
def test_export_equals_eager(kind):
    fusion, dim = fusion_of(kind).eval(), torch.export.Dim('batch', min=2, max=64)
    program = torch.export.export(fusion, tuple(latents()), dynamic_shapes=({0: dim},)*6, strict=False)
    more = latents(seed=6, planets=7)
    with torch.no_grad(): assert torch.allclose(program.module()(*more), fusion(*more), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e4, 1e4, width=32), st.booleans()), min_size=1, max_size=8))
def test_weights_sum_to_one_over_the_valid(rows):
    score, valid = torch.tensor([a for a, _ in rows]), torch.tensor([b for _, b in rows])
    weight = weigh(score, valid)
    assert (weight[~valid] == 0).all() and (weight >= 0).all() and abs(float(weight.sum()) - bool(valid.any())) < 1e-5


@pytest.mark.parametrize('width', [1, 6, 9])
@pytest.mark.parametrize('kind', KINDS)
def test_any_width(kind, width):
    with torch.no_grad(): out = fusion_of(kind, width)(*latents(width=width))
    assert out.shape == (3, width) and torch.isfinite(out).all()


def test_building_refuses():
    with pytest.raises(ConfigError, match="'sum'; wanted one of concat, cross_attend, gated"): build_fusion('sum', 8)
    for width in (0, 8., True):
        with pytest.raises(ConfigError, match='width'): build_fusion('concat', width)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('at, change', [(0, lambda x: x[:, :5]), (1, lambda x: x[:2]), (2, lambda x: x[:, None]), (3, lambda x: x[:, 0]),
                                        (4, lambda x: x.float()), (4, lambda x: x[:, 1:]), (5, lambda x: x[..., :5])])
def test_shapes_refused(kind, at, change):
    batch = latents()
    batch[at] = change(batch[at])
    with pytest.raises(UsageError, match=f'^{NAMES[at]}: found'): fusion_of(kind)(*batch)
