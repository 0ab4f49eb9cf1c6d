"The selective scan: parity of its ways, gradients, steps that do not count, refusals, export."
import sys
import types
import warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from spectramind.core.accelerators import fall_back
from spectramind.core.errors import ConfigError, UsageError
from spectramind.core.logs import get_logger
from spectramind.network import selective_scan as room
from spectramind.network.scan_kernels import exp32, selective_scan_ref
from spectramind.network.selective_scan import (MambaBlock, choose_backend, cuda_scan, parity_report, scan_difference, scan_example,
                                                scan_gradients, selective_scan)

torch.set_num_threads(1)
WAYS = ('numba', 'torch')


def distance(example, **more):
    "Largest difference of our scan, output and gradients, from the plain loop; `more` chooses the way."
    counts = {k: more[k] for k in more if k == 'valid'}
    wanted = scan_gradients(selective_scan_ref, example, **counts)
    return max(scan_difference(scan_gradients(selective_scan, example, **more), wanted).values())


def holes(batch, length, seed, share=.6):
    "Random valid steps."
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize('how', WAYS)
@pytest.mark.parametrize('sizes', [(1, 1, 1, 1), (2, 5, 31, 3), (2, 70, 33, 16), (3, 64, 130, 2)])   # about the borders of blocks and lanes
def test_same_as_the_loop(how, sizes):
    example, valid = scan_example(*sizes), holes(sizes[0], sizes[2], 3)
    for counts in (None, valid): assert distance(example, valid=counts, backend=how) < 1e-5


@pytest.mark.parametrize('how', WAYS)
def test_double_precision_is_exact(how):
    example = scan_example(2, 9, 70, 3, dtype=torch.float64)
    assert distance(example, backend=how) < 1e-13


@pytest.mark.parametrize('how', WAYS)
def test_gradcheck(how):
    example = {k: x.requires_grad_() for k, x in scan_example(2, 3, 37, 2, dtype=torch.float64).items()}
    valid = holes(2, 37, 5, .8)
    assert torch.autograd.gradcheck(lambda *args: selective_scan(*args, valid=valid, backend=how), tuple(example.values()))


def test_loop_is_the_formula():
    "The reference against numbers worked out by hand, in numpy and without torch's softplus."
    example = scan_example(1, 2, 4, 3, dtype=torch.float64)
    u, delta, A, B, C, D, z, bias = (x.numpy() for x in example.values())
    h, wanted = np.zeros((2, 3)), np.zeros((1, 2, 4))
    for t in range(4):
        dt = np.log(1 + np.exp(delta[0, :, t] + bias))[:, None]
        h = np.exp(dt*A)*h + dt*B[0, None, :, t]*u[0, :, t, None]
        wanted[0, :, t] = (h@C[0, :, t] + D*u[0, :, t])*z[0, :, t]/(1 + np.exp(-z[0, :, t]))
    np.testing.assert_allclose(selective_scan_ref(**example).numpy(), wanted, rtol=1e-13)


@pytest.mark.parametrize('left_out', [('D',), ('z',), ('delta_bias',), ('D', 'z', 'delta_bias')])
@pytest.mark.parametrize('how', WAYS)
def test_optional_arguments(how, left_out):
    example = {k: x for k, x in scan_example().items() if k not in left_out}
    assert distance(example, backend=how) < 1e-5


@pytest.mark.parametrize('how', WAYS)
@pytest.mark.parametrize('delta', [-60., 30., 90.])
def test_extreme_step_sizes(how, delta):
    "Steps so short that nothing happens, and so long that everything is forgotten."
    example = scan_example() | dict(delta=torch.full((2, 8, 50), delta))
    found, wanted = scan_gradients(selective_scan, example, backend=how), scan_gradients(selective_scan_ref, example)
    assert all(x.isfinite().all() for x in found.values()) and max(scan_difference(found, wanted).values()) < 1e-5


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 70), share=st.floats(0, 1), how=st.sampled_from([*WAYS, 'loop']))
def test_steps_that_do_not_count_might_as_well_not_be_there(seed, length, share, how):
    example, valid = scan_example(1, 3, length, 2, seed), holes(1, length, seed, share)
    dirty = {k: x.masked_fill(~valid[:, None], torch.nan) if x.ndim == 3 else x for k, x in example.items()}
    def scan(**args): return selective_scan_ref(**args) if how == 'loop' else selective_scan(**args, backend=how)
    found = scan_gradients(lambda **args: scan(**args, valid=valid), dirty)
    assert found['y'][~valid[:, None].expand(-1, 3, -1)].eq(0).all() and all(x.isfinite().all() for x in found.values())
    for name in ('u', 'delta', 'B', 'C', 'z'): assert found[name].masked_select(~valid[:, None]).eq(0).all()
    if valid.any():
        bare = selective_scan_ref(**{k: x[..., valid[0]] if x.ndim == 3 else x for k, x in example.items()})
        torch.testing.assert_close(found['y'][..., valid[0]], bare, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('how', WAYS)
def test_nan_is_not_hidden(how):
    for name in ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias'):
        example = scan_example()
        example[name].view(-1)[0] = torch.nan
        assert selective_scan(**example, backend=how).isnan().any(), name


@pytest.mark.parametrize('how', WAYS)
def test_deterministic_and_arguments_unchanged(how):
    example = scan_example(3, 20, 100, 5)
    before = {k: x.clone() for k, x in example.items()}
    once, again = (scan_gradients(selective_scan, example, backend=how) for _ in range(2))
    assert all(torch.equal(once[k], again[k]) for k in once) and all(torch.equal(example[k], before[k]) for k in example)


def test_threads_change_no_bit():
    example = scan_example(5, 20, 100, 5)
    once = scan_gradients(selective_scan, example, backend='numba')
    torch.set_num_threads(2)
    try: shared = scan_gradients(selective_scan, example, backend='numba')
    finally: torch.set_num_threads(1)
    for k in ('y', 'u', 'A', 'B', 'C'): assert torch.equal(once[k], shared[k]), k


@pytest.mark.parametrize('how', WAYS)
def test_layout_in_memory_does_not_matter(how):
    example = scan_example(2, 6, 40, 3)
    turned = {k: x.transpose(1, 2).contiguous().transpose(1, 2) if x.ndim == 3 else x for k, x in example.items()}
    turned['A'] = example['A'].t().contiguous().t()
    torch.testing.assert_close(selective_scan(**example, backend=how), selective_scan(**turned, backend=how), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('how', WAYS)
def test_memory_grows_with_length_not_with_states(how):
    "What is kept for the backward pass is far smaller than (batch, width, time, state)."
    example, kept = scan_example(2, 32, 640, 16), []
    leaves = {k: x.requires_grad_() for k, x in example.items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x): selective_scan(**leaves, backend=how)
    assert 0 < sum(kept) < .7*2*32*640*16


@pytest.mark.parametrize('how', WAYS)
def test_mixed_precision_scans_in_single(how):
    example = scan_example(2, 8, 60, 4)
    plain = selective_scan(**example, backend=how)
    with torch.autocast('cpu', dtype=torch.bfloat16): mixed = selective_scan(**example, backend=how)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)
    half = selective_scan(**{k: x.bfloat16() if x.ndim == 3 else x for k, x in example.items()}, backend=how)
    rounded = selective_scan(**{k: x.bfloat16().float() if x.ndim == 3 else x for k, x in example.items()}, backend=how)
    assert half.dtype == torch.bfloat16 and torch.equal(half, rounded.bfloat16())


def test_joined_steps_are_the_loop():
    "The path of exported graphs, over a border between two runs of joined steps."
    example = scan_example(2, 4, 150, 3, dtype=torch.float64)
    dt = torch.nn.functional.softplus(example['delta'] + example['delta_bias'][:, None])
    u, dt, B, C = (x.permute(2, 0, 1) for x in (example['u'], dt, example['B'], example['C']))
    y = room._joined_scan(u, dt, example['A'].t(), B, C).permute(1, 2, 0)
    y = (y + example['D'][:, None]*example['u'])*torch.nn.functional.silu(example['z'])
    torch.testing.assert_close(y, selective_scan_ref(**example), rtol=1e-12, atol=1e-12)


def test_torchscript_of_the_loop():
    example, valid = scan_example(length=20), holes(2, 20, 1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        scripted = torch.jit.script(selective_scan_ref)
    torch.testing.assert_close(scripted(**example, valid=valid), selective_scan_ref(**example, valid=valid), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('backend', ['auto', 'torch'])
def test_exported_block_is_the_block(backend):
    torch.manual_seed(0)
    block, x, valid = MambaBlock(8, 4, backend=backend).eval(), torch.randn(2, 140, 8), holes(2, 140, 2)
    graph = torch.export.export(block, (x, valid), strict=False)
    with torch.no_grad(): torch.testing.assert_close(graph.module()(x, valid), block(x, valid), rtol=1e-5, atol=1e-6)
    names = {str(node.target) for node in graph.graph.nodes if node.op == 'call_function'}
    assert names and all(n.startswith(('aten.', '<built-in function getitem>')) for n in names), names


def test_block_has_mambas_parameters():
    "Names and shapes as mamba_ssm.Mamba(d_model=40, d_state=16, d_conv=4, expand=2) has them."
    torch.manual_seed(3)
    block = MambaBlock(40)
    assert {k: tuple(x.shape) for k, x in block.state_dict().items()} == {
        'A_log': (80, 16), 'D': (80,), 'in_proj.weight': (160, 40), 'conv1d.weight': (80, 1, 4), 'conv1d.bias': (80,),
        'x_proj.weight': (35, 80), 'dt_proj.weight': (80, 3), 'dt_proj.bias': (80,), 'out_proj.weight': (40, 80)}
    steps = torch.nn.functional.softplus(block.dt_proj.bias.detach())
    assert .00099 < steps.min() and steps.max() < .101 and block.dt_proj.weight.abs().max() <= 3**-.5
    torch.testing.assert_close(torch.exp(block.A_log.detach()), torch.arange(1., 17).expand(80, 16))
    assert block.D.detach().eq(1).all()


def test_block_is_the_published_sequence():
    "The block's forward pass put together again from its parameters, with the reference scan."
    torch.manual_seed(1)
    block, x = MambaBlock(6, 3), torch.randn(2, 25, 6)
    with torch.no_grad():
        inside, z = (x@block.in_proj.weight.T).transpose(1, 2).chunk(2, 1)
        padded = torch.nn.functional.pad(inside, (3, 0))
        inside = sum(block.conv1d.weight[:, 0, k, None]*padded[..., k:k + 25] for k in range(4)) + block.conv1d.bias[:, None]
        inside = inside*torch.sigmoid(inside)
        made = torch.einsum('ed,bdt->bet', block.x_proj.weight, inside)
        delta = torch.einsum('dr,brt->bdt', block.dt_proj.weight, made[:, :1])
        y = selective_scan_ref(inside, delta, -torch.exp(block.A_log), made[:, 1:4], made[:, 4:], block.D, z, block.dt_proj.bias)
        torch.testing.assert_close(block(x), y.transpose(1, 2)@block.out_proj.weight.T, rtol=1e-5, atol=1e-6)


def test_padding_a_block_changes_nothing():
    torch.manual_seed(2)
    block, x, valid = MambaBlock(8, 4), torch.randn(2, 50, 8), torch.ones(2, 50, dtype=torch.bool)
    before = torch.cat([torch.full((2, 9, 8), torch.nan), x], 1), torch.cat([~valid[:, :9], valid], 1)
    after = torch.cat([x, torch.full((2, 9, 8), torch.nan)], 1), torch.cat([valid, ~valid[:, :9]], 1)
    with torch.no_grad():
        bare, leading, trailing = block(x), block(*before), block(*after)
    torch.testing.assert_close(leading[:, 9:], bare, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(trailing[:, :50], bare, rtol=1e-6, atol=1e-6)
    assert leading[:, :9].eq(0).all() and trailing[:, 50:].eq(0).all()


@pytest.fixture
def fake_kernels(monkeypatch):
    "A stand-in for mamba_ssm that follows its calling convention, softplus and all, by the plain loop."
    calls = []
    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
        contiguous, dtypes = all(x.stride(-1) == 1 for x in (u, delta, B, C)), {x.dtype for x in (u, delta, A, B, C)}
        calls.append(dict(softplus=delta_softplus, contiguous=contiguous, dtypes=dtypes))
        return selective_scan_ref(u, delta, A, B, C, D, z, delta_bias)
    package = {name: types.ModuleType(name) for name in ('mamba_ssm', 'mamba_ssm.ops', 'mamba_ssm.ops.selective_scan_interface')}
    package['mamba_ssm.ops.selective_scan_interface'].selective_scan_fn = selective_scan_fn
    for name, module in package.items(): monkeypatch.setitem(sys.modules, name, module)
    cuda_scan.cache_clear()
    yield calls
    cuda_scan.cache_clear()


def test_what_the_cuda_kernel_is_given(fake_kernels, monkeypatch):
    "Not the kernel (there is no card here): that it is called as its interface wants, closed steps included."
    assert choose_backend('auto', 'cuda') == choose_backend('mamba_ssm', 'cuda') == 'mamba_ssm'
    assert choose_backend('mamba_ssm', 'cuda', traced=True) == 'torch'
    monkeypatch.setattr(room, 'choose_backend', lambda *args: 'mamba_ssm')
    example, valid = scan_example(), holes(2, 50, 4)
    found = scan_gradients(selective_scan, example, valid=valid)
    assert max(scan_difference(found, scan_gradients(selective_scan_ref, example, valid=valid)).values()) < 1e-6
    assert fake_kernels == [dict(softplus=True, contiguous=True, dtypes={torch.float32})]


def test_backends(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, 'mamba_ssm', None)    # as if it were not installed
    cuda_scan.cache_clear()
    try:
        assert [choose_backend('auto', d) for d in ('cpu', 'cuda', 'mps')] == ['numba', 'torch', 'torch']
        assert choose_backend('torch', 'cpu') == 'torch' and choose_backend('auto', 'cpu', traced=True) == 'torch'
        with pytest.raises(ConfigError, match='wanted one of auto'): choose_backend('triton', 'cpu')
        fall_back.cache_clear()
        caplog.clear()
        monkeypatch.setattr(get_logger(), 'handlers', [caplog.handler])      # each line once, whatever other tests have left
        monkeypatch.setattr(get_logger(), 'propagate', False)
        with caplog.at_level('WARNING', logger='spectramind'):
            for _ in range(2):
                assert [choose_backend(*wanted) for wanted in (('numba', 'cuda'), ('mamba_ssm', 'cpu'), ('mamba_ssm', 'cuda'))] == ['torch', 'numba', 'torch']
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 3 and 'wanted cpu' in said[0] and 'wanted cuda; numba is used instead' in said[1] and 'cannot be imported; torch' in said[2]
    finally: cuda_scan.cache_clear()


def test_parity_report_pretends_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UsageError, match='found no CUDA device'): parity_report()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(room, 'cuda_scan', lambda: None)
    with pytest.raises(UsageError, match='mamba_ssm cannot be imported'): parity_report()


@pytest.mark.parametrize('name,value', [
    ('u', torch.ones(2, 8)), ('u', torch.ones(2, 8, 0)), ('delta', torch.ones(2, 8, 49)), ('A', torch.ones(7, 4)),
    ('B', torch.ones(2, 5, 50)), ('C', torch.ones(1, 4, 50)), ('D', torch.ones(7)),
    ('z', torch.ones(2, 50, 8)), ('delta_bias', torch.ones(8, 1)),
    ('valid', torch.ones(2, 49, dtype=torch.bool)), ('valid', torch.ones(2, 50)), ('B', torch.ones(2, 4, 50, dtype=torch.int64)),
    ('A', torch.ones(8, 4, dtype=torch.complex64))])
def test_refused_arguments(name, value):
    with pytest.raises(UsageError, match=f'{name}: found'): selective_scan(**scan_example() | {name: value})


@pytest.mark.parametrize('settings_', [
    dict(d_model=0), dict(d_model=8, d_state=0), dict(d_model=8, d_conv=2.5), dict(d_model=8, dt_rank=0), dict(d_model=8, dt_rank='full'),
    dict(d_model=8, backend='cuda')])
def test_refused_blocks(settings_):
    with pytest.raises(ConfigError, match='wanted'): MambaBlock(**settings_)


def test_refused_series():
    block = MambaBlock(8)
    with pytest.raises(UsageError, match=r'found shape \(2, 10, 7\), wanted \(batch, time, 8\)'): block(torch.ones(2, 10, 7))
    with pytest.raises(UsageError, match='valid: found torch.float32'): block(torch.ones(2, 10, 8), torch.ones(2, 10))


def test_fast_exponential():
    x = np.linspace(-200, 88, 20_001, dtype=np.float32)
    ours, exact = np.array([exp32(v) for v in x]), np.exp(x.astype(float))
    normal = exact > 1.5e-37
    assert exp32(np.float32(0)) == 1
    assert np.abs(ours/exact - 1)[normal].max() < 1.5e-7 and np.abs(ours[~normal]).max() < 2e-37
