"The wavelength graph and its encoders: two backends, masks, batches, refusals."
import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from spectramind.challenge.wavelength import default_wavelengths
from spectramind.core.accelerators import fall_back
from spectramind.core.errors import ConfigError, UsageError
from spectramind.core.logs import get_logger
from spectramind.network import airs_encoder
from spectramind.network.airs_encoder import EdgeTables, build_airs_encoder, build_conv, choose_backend, gatv2_ref, pyg_messages
from spectramind.network.wavelength_graph import EDGE_KINDS, MOLECULE_WINDOWS_UM, build_graph, molecule_membership

torch.set_num_threads(1)
SMALL = build_graph(np.r_[.7, np.linspace(1.96, 3.88, 40)])
GRAPH = build_graph()


def encoder_of(kind='gat', backend='dense', features=5, width=16, depth=2, heads=4, graph=SMALL, seed=0):
    torch.manual_seed(seed)
    return build_airs_encoder(kind, features, width, depth, heads, backend, graph)


def planets_of(count=3, features=5, graph=SMALL, seed=1):
    g = torch.Generator().manual_seed(seed)
    nodes = torch.randn(count, len(graph.wavelength_um), features, generator=g)
    valid = torch.rand(nodes.shape[:2], generator=g) > .3
    return nodes, valid


BOTH = [('gat', 'dense'), ('gat', 'pyg'), ('cnn', 'auto')]


# ---------------------------------------------------------------- the graph
def test_windows_are_these_bins():
    inside = molecule_membership(default_wavelengths())
    wanted = dict(CO2=[(1, 17), (86, 112)], CH4=[(24, 59), (155, 209)], H2O=[(67, 125)], CO=[(42, 53)])
    assert list(MOLECULE_WINDOWS_UM) == list(wanted)
    for row, runs in zip(inside, wanted.values()):
        assert np.flatnonzero(row).tolist() == [i for a, b in runs for i in range(a, b + 1)]


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 60))
def test_graph_of_any_size_is_whole(n):
    graph = build_graph(np.r_[.7, np.linspace(1.95, 3.9, n - 1)])
    source, target = graph.edge_index
    pairs = list(zip(source.tolist(), target.tolist()))
    assert len(set(pairs)) == len(pairs) and set(pairs) == {(j, i) for i, j in pairs}
    assert pairs == sorted(pairs, key=lambda p: p[::-1]) and {(i, i) for i in range(n)} <= set(pairs)
    assert np.array_equal(graph.neighbours.flat[graph.edge_slot], source)
    assert np.array_equal(graph.edge_slot//graph.neighbours.shape[1], target)
    assert graph.slot_valid.sum() == len(source) and graph.slot_valid.flat[graph.edge_slot].all()
    assert np.array_equal(graph.neighbours[~graph.slot_valid], np.nonzero(~graph.slot_valid)[0])
    assert np.isfinite(graph.edge_attr).all()
    assert graph.edge_attr.dtype == np.float32 and graph.edge_attr.shape[1] == 3 + len(MOLECULE_WINDOWS_UM)


def test_edges_carry_what_they_should():
    source, target = GRAPH.edge_index
    wave = GRAPH.wavelength_um
    assert np.allclose(GRAPH.edge_attr[:, 0], wave[source] - wave[target], atol=1e-6)
    inside = molecule_membership(wave)
    assert np.array_equal(GRAPH.edge_attr[:, 2:-1].T == 1, inside[:, source] & inside[:, target])
    seam = (source == 0) != (target == 0)
    assert np.array_equal(GRAPH.edge_attr[:, -1] == 1, seam) and np.array_equal(GRAPH.edge_kind == EDGE_KINDS.index('seam'), seam)
    assert (0, 1) in zip(source, target)                                             # the seam itself
    molecule = GRAPH.edge_kind == EDGE_KINDS.index('molecule')
    assert (GRAPH.edge_attr[molecule, 2:-1].sum(1) >= 1).all()
    close = (np.abs(source - target) <= 2) & (source > 0) & (target > 0) & (source != target)
    assert np.array_equal(GRAPH.edge_kind == EDGE_KINDS.index('adjacent'), close)
    assert 7 < np.bincount(target).mean() < 12
    for tag, (a, b) in zip((2, 3), (((1, 17), (86, 112)), ((24, 59), (155, 209)))):   # CO2 and CH4 join their two windows
        joined = (source >= a[0]) & (source <= a[1]) & (target >= b[0]) & (target <= b[1])
        assert joined.sum() >= a[1] - a[0] + 1 and GRAPH.edge_attr[joined, tag].all()


def test_white_light_is_in_no_window():
    graph = build_graph(windows={'everything': ((.5, 4.),)})
    white = (graph.edge_index == 0).any(0)
    assert not graph.edge_attr[white, 2].any() and graph.edge_attr[~white, 2].all() and not graph.node_attr[0, 2:].any()
    assert np.array_equal(np.unique(graph.edge_kind[white]), [EDGE_KINDS.index('self'), EDGE_KINDS.index('seam')])


@pytest.mark.parametrize('wave, words', [(np.ones(283), 'ascending'), (np.zeros((2, 8)), r'\(2, 8\)'), (np.arange(5.), 'at least 6')])
def test_graph_refuses(wave, words):
    with pytest.raises(UsageError, match=words): build_graph(wave)


def test_membership_refuses_an_empty_window():
    with pytest.raises(UsageError, match='from < to'): molecule_membership(default_wavelengths(), {'CO': ((2.4, 2.3),)})


# ---------------------------------------------------------------- backends
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('graph', [SMALL, GRAPH])
def test_backends_agree_forward_and_backward(masked, graph):
    found = {}
    for backend in ('dense', 'pyg'):
        encoder = encoder_of(backend=backend, graph=graph, depth=3)
        nodes, valid = planets_of(graph=graph)
        nodes.requires_grad_()
        pooled, latents, maps = encoder(nodes, valid if masked else None, return_attention=True)
        (pooled.sin().sum() + latents.square().mean() + maps.square().mean()).backward()
        found[backend] = dict(pooled=pooled.detach(), latents=latents.detach(), maps=maps.detach(), nodes=nodes.grad,
                              **{name: p.grad for name, p in encoder.named_parameters()})
    assert found['dense'].keys() == found['pyg'].keys()
    for name, ours in found['dense'].items():
        assert ours.shape == found['pyg'][name].shape and (ours - found['pyg'][name]).abs().max() <= 1e-5, name
    assert all(found['dense'][f'convs.{i}.lin_edge.weight'].abs().max() > 0 for i in range(3))


def test_state_dicts_are_exchanged():
    ours, theirs = encoder_of(backend='dense', seed=0), encoder_of(backend='pyg', seed=1)
    nodes, valid = planets_of()
    with torch.no_grad():
        assert (ours(nodes)[0] - theirs(nodes)[0]).abs().max() > 1e-3
        theirs.load_state_dict(ours.state_dict())
        assert (ours(nodes, valid)[1] - theirs(nodes, valid)[1]).abs().max() <= 1e-5
    names = 'lin_l.weight', 'lin_l.bias', 'lin_r.weight', 'lin_r.bias', 'att', 'lin_edge.weight', 'bias'
    assert {name for name in ours.state_dict() if name.startswith('convs.0.')} == {'convs.0.' + name for name in names}


def test_same_seed_same_start_and_same_draws_after():
    left = {}
    for backend in ('dense', 'pyg'):
        encoder = encoder_of(backend=backend, seed=7)
        left[backend] = encoder.state_dict(), torch.rand(3)
    assert torch.equal(left['dense'][1], left['pyg'][1])
    assert all(torch.equal(value, left['pyg'][0][name]) for name, value in left['dense'][0].items())


def test_both_follow_the_formula():
    edges = EdgeTables(SMALL).double()
    for backend in ('dense', 'pyg'):
        torch.manual_seed(2)
        conv = build_conv(8, 2, SMALL.edge_attr.shape[1], backend).double()
        torch.nn.init.normal_(conv.bias)
        x = torch.randn(2, len(SMALL.wavelength_um), 8, dtype=torch.float64)
        with torch.no_grad():
            got = conv(x, edges, None)[0] if backend == 'dense' else pyg_messages(conv, x, edges, None)[0]
            wanted = torch.stack([gatv2_ref(conv, one, SMALL) for one in x])
        assert (got - wanted).abs().max() < 1e-12


def test_gradients_of_dense_by_differences():
    edges = EdgeTables(build_graph(np.r_[.7, np.linspace(1.96, 3.88, 7)])).double()
    torch.manual_seed(0)
    conv = build_conv(4, 2, edges.edge_attr.shape[1], 'dense').double()
    valid = torch.ones(2, 8, dtype=torch.bool)
    valid[0, 3] = valid[1, 5:] = False
    x = torch.randn(2, 8, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: conv(x, edges, valid)[0], (x,))


def test_auto_and_the_missing_package(monkeypatch, caplog):
    assert choose_backend('auto') == 'dense' and choose_backend('pyg') == 'pyg'
    monkeypatch.setenv('SPECTRAMIND_WITHOUT', 'torch-geometric')
    fall_back.cache_clear()
    monkeypatch.setattr(get_logger(), 'handlers', [caplog.handler])      # each line once, whatever other tests have left
    monkeypatch.setattr(get_logger(), 'propagate', False)
    with caplog.at_level('WARNING', logger='spectramind'): encoder = build_airs_encoder('gat', 5, 16, 2, backend='pyg')
    assert choose_backend('auto') == encoder.backend == 'dense' and 'dense is used instead' in caplog.text


def test_batches_are_kept_and_forgotten():
    edges = EdgeTables(SMALL)
    first = edges.batched(2)[0]
    assert edges.batched(2)[0] is first
    for planets in range(3, 3 + airs_encoder.KEPT_SIZES): edges.batched(planets)
    assert edges.batched(2)[0] is not first and torch.equal(edges.batched(2)[0], first)
    assert len(edges._large) == airs_encoder.KEPT_SIZES
    n, e = len(SMALL.wavelength_um), SMALL.edge_index.shape[1]
    assert torch.equal(first[:, e:] - n, first[:, :e])


# ---------------------------------------------------------------- attention and masks
@pytest.mark.parametrize('backend', ['dense', 'pyg'])
def test_attention_sums_to_one(backend):
    encoder, (nodes, valid) = encoder_of(backend=backend), planets_of()
    valid[2] = False                                                                  # a planet that has nothing
    with torch.no_grad(): free, masked = encoder(nodes, return_attention=True)[2], encoder(nodes, valid, True)[2]
    source, target = (torch.tensor(x) for x in SMALL.edge_index)
    assert free.shape == (2, 3, len(source), 4) and free.min() >= 0
    def rows(maps): return torch.zeros(2, 3, len(SMALL.wavelength_um), 4).index_add(2, target, maps)
    assert (rows(free) - 1).abs().max() < 1e-5
    speaks = valid[:, source]
    assert (masked[:, ~speaks] == 0).all()
    hears = torch.zeros(3, len(SMALL.wavelength_um)).index_add(1, target, speaks.float()) > 0
    assert (rows(masked)[:, hears] - 1).abs().max() < 1e-5 and (rows(masked)[:, ~hears] == 0).all() and not hears[2].any()


@pytest.mark.parametrize('kind, backend', BOTH)
def test_attention_only_on_request(kind, backend):
    encoder, (nodes, _) = encoder_of(kind, backend), planets_of()
    assert encoder(nodes)[2] is None
    assert (encoder(nodes, return_attention=True)[2] is None) == (kind == 'cnn')


@pytest.mark.parametrize('kind, backend', BOTH)
def test_invalid_nodes_are_not_heard(kind, backend):
    encoder, (nodes, valid) = encoder_of(kind, backend), planets_of()
    valid[0] = False
    spoilt = torch.where(valid[..., None], nodes, float('nan'))
    with torch.no_grad(): plain, other = encoder(nodes, valid), encoder(spoilt, valid)
    assert torch.equal(plain[0], other[0]) and torch.equal(plain[1], other[1])
    assert torch.isfinite(other[1]).all() and (other[0][0] == 0).all() and other[0][1].abs().max() > 0
    encoder(spoilt, valid)[0].square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize('kind, backend', BOTH)
def test_not_even_the_place_of_an_invalid_node_is_heard(kind, backend):
    encoder, (nodes, valid) = encoder_of(kind, backend), planets_of()
    valid[:, 20] = False
    with torch.no_grad():
        plain = encoder(nodes, valid)
        encoder.embed.node_attr[20] += 1
        other = encoder(nodes, valid)
    rest = torch.arange(nodes.shape[1]) != 20
    assert torch.equal(plain[0], other[0]) and torch.equal(plain[1][:, rest], other[1][:, rest])
    assert not torch.equal(plain[1][:, 20], other[1][:, 20])


@pytest.mark.parametrize('kind, backend', BOTH)
def test_all_valid_is_no_mask(kind, backend):
    encoder, (nodes, valid) = encoder_of(kind, backend), planets_of()
    with torch.no_grad(): free, masked = encoder(nodes), encoder(nodes, torch.ones_like(valid))
    assert torch.allclose(free[0], masked[0], atol=1e-6) and torch.allclose(free[1], masked[1], atol=1e-6)


def test_a_removed_node_is_as_if_its_edges_were_gone():
    encoder = encoder_of(depth=1)
    nodes, _ = planets_of(1)
    valid = torch.ones(1, nodes.shape[1], dtype=torch.bool)
    valid[0, 20] = False
    source, target = SMALL.edge_index
    with torch.no_grad(): change = (encoder(nodes, valid)[1] - encoder(nodes)[1]).abs().amax((0, 2)) > 1e-6
    assert set(np.flatnonzero(change)) == set(target[source == 20])


def test_no_convolution_crosses_the_seam():
    encoder, (nodes, _) = encoder_of('cnn'), planets_of(1)
    moved = nodes.clone()
    moved[:, 0] += 1
    with torch.no_grad(): change = (encoder(moved)[1] - encoder(nodes)[1]).abs().amax((0, 2))
    assert change[0] > 1e-3 and (change[1:] == 0).all()


# ---------------------------------------------------------------- batches, repeats, export
@pytest.mark.parametrize('kind, backend', BOTH)
def test_planets_do_not_meet(kind, backend):
    encoder, (nodes, valid) = encoder_of(kind, backend), planets_of(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        whole, moved, alone = encoder(nodes, valid, True), encoder(nodes[order], valid[order], True), encoder(nodes[2:3], valid[2:3], True)
    for i in (0, 1): assert torch.allclose(whole[i][order], moved[i], atol=1e-6) and torch.allclose(whole[i][2:3], alone[i], atol=1e-6)
    if kind == 'gat': assert torch.allclose(whole[2][:, order], moved[2], atol=1e-6)


@pytest.mark.parametrize('kind, backend', BOTH)
def test_repeats_bit_for_bit_and_leaves_inputs(kind, backend):
    found = []
    for _ in range(2):
        encoder, (nodes, valid) = encoder_of(kind, backend, seed=4), planets_of()
        before = nodes.clone(), valid.clone()
        encoder(nodes, valid)[0].sin().sum().backward()
        assert torch.equal(nodes, before[0]) and torch.equal(valid, before[1])
        found.append([p.grad for p in encoder.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found)) and len(found[0]) > 8


def test_copies_keep_nothing_in_common():
    encoder, (nodes, _) = encoder_of(backend='pyg'), planets_of()
    encoder(nodes)
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        for p in twin.parameters(): p.zero_()
        assert encoder(nodes)[0].abs().max() > 0 and (twin(nodes)[0] == 0).all()


@pytest.mark.parametrize('kind', ['gat', 'cnn'])
def test_export_equals_eager(kind):
    encoder = encoder_of(kind, 'auto').eval()
    nodes, valid = planets_of(3)
    batch = torch.export.Dim('batch', min=2, max=64)
    program = torch.export.export(encoder, (nodes, valid), dynamic_shapes=({0: batch}, {0: batch}), strict=False)
    more, more_valid = planets_of(6, seed=8)
    with torch.no_grad(): eager, exported = encoder(more, more_valid), program.module()(more, more_valid)
    for i in (0, 1): assert torch.allclose(eager[i], exported[i], atol=1e-6)
    assert exported[2] is None


@pytest.mark.parametrize('kind, backend', BOTH)
def test_half_precision_stays_close(kind, backend):
    encoder, (nodes, valid) = encoder_of(kind, backend), planets_of()
    with torch.no_grad(): whole = encoder(nodes, valid)
    with torch.autocast('cpu', torch.bfloat16): pooled, latents, _ = encoder(nodes, valid)
    assert (pooled.float() - whole[0]).abs().max() < .05 and (latents.float() - whole[1]).abs().max() < .2
    pooled.float().sin().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize('changes, words', [
    (dict(kind='gcn'), "'gcn'; wanted one of gat, cnn"), (dict(backend='jax'), 'auto, pyg, dense'), (dict(width=18), 'multiple of heads'),
    (dict(depth=0), 'depth=0'), (dict(features=2.), r'features=2\.0'), (dict(heads=True), 'heads=True')])
def test_building_refuses(changes, words):
    asked = dict(kind='gat', features=5, width=16, depth=2, graph=SMALL) | changes
    with pytest.raises(ConfigError, match=words): build_airs_encoder(**asked)


@pytest.mark.parametrize('kind, backend', BOTH)
def test_shapes_refused(kind, backend):
    encoder, (nodes, valid) = encoder_of(kind, backend), planets_of()
    for bad in (nodes[:, 1:], nodes[..., :4], nodes[0]):
        with pytest.raises(UsageError, match=r'wanted \(planet, 41, 5\)'): encoder(bad)
    for bad in (valid[:, 1:], valid[:1], valid.float()):
        with pytest.raises(UsageError, match='node_valid'): encoder(nodes, bad)
