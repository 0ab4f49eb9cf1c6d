"Heads and network: physics at the start, bounds, gradients everywhere, export, mixed precision, refusals."
import copy
import io
import itertools
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import ConfigError, UsageError
from spectramind.network.features import CHANNELS, STEP
from spectramind.network.heads import SIGMA_KINDS, Z90, Bands, MuDecoder, SigmaHead, band_basis, corrected_mean
from spectramind.network.spectramind import AIRS, FGS1, Heads, NetworkConfig, build_network, example_batch

torch.set_num_threads(1)
C, F, G, WIDTH = len(CHANNELS), 17, 12, 8
FGS1_KINDS, AIRS_KINDS, FUSIONS = ("mamba", "gru", "tcn", "none"), ("gat", "cnn", "none"), ("concat", "cross_attend", "gated")


def settings_for(fgs1="tcn", airs="cnn", fusion="concat", backend="auto", scan="auto", dropout=0., **heads):
    return NetworkConfig(width=WIDTH, dropout=dropout, fusion=fusion, fgs1=FGS1(kind=fgs1, state=4, backend=scan), airs=AIRS(kind=airs, depth=1, backend=backend),
                         heads=Heads(**heads))


def batch_of(planets=3, steps=20, seed=0):
    random = torch.Generator().manual_seed(seed)
    def normal(*shape): return torch.randn(*shape, generator=random)
    out = dict(series=normal(planets, steps, C), series_valid=torch.ones(planets, steps, dtype=torch.bool), nodes=normal(planets, 283, F),
               planet=normal(planets, G), mu=120 + 10*normal(planets, 1) + normal(planets, 283), sigma=torch.exp(.5*normal(planets, 283) - .5))
    out["series_valid"][:, -3:] = False
    out["series"][..., CHANNELS.index("inside")] = (torch.arange(steps) % 8 > 3).float()
    return out


def awake(model, size=.3, seed=1):
    "The same network as if it had been trained: nothing is silent."
    model, random = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters(): p.add_(size*torch.randn(p.shape, generator=random))
    return model


# ---------------------------------------------------------------- the start
@pytest.mark.parametrize("fgs1, airs", [pair for pair in itertools.product(FGS1_KINDS, AIRS_KINDS) if pair != ("none", "none")])
def test_untrained_is_physics_for_every_pair_of_encoders(fgs1, airs):
    batch = batch_of()
    out = build_network(settings_for(fgs1, airs), C, F, G).eval()(batch)
    assert torch.equal(out["mu"], batch["mu"]) and torch.equal(out["sigma"], batch["sigma"]) and out["latent"].shape == (3, WIDTH)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("sigma", SIGMA_KINDS)
def test_untrained_is_physics_for_every_fusion_and_sigma_head(fusion, sigma):
    batch = batch_of()
    for fine, straight in ((True, True), (False, False)):
        out = build_network(settings_for(fusion=fusion, sigma=sigma, fine=fine, straight=straight), C, F, G).eval()(batch)
        assert torch.equal(out["mu"], batch["mu"]) and torch.allclose(out["sigma"], batch["sigma"], rtol=1e-5)
        if sigma in ("quantiles", "flow"):
            z = (out["quantiles"] - batch["mu"][:, None])/batch["sigma"][:, None]
            assert torch.allclose(z, torch.tensor([-Z90, 0., Z90])[:, None], atol=1e-3)
        else: assert "quantiles" not in out


def test_the_same_seed_is_the_same_network_and_the_global_state_is_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two, other = (build_network(settings_for("mamba", "gat"), C, F, G, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values())]
    assert all(same) and not all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    one, two, batch = awake(one), awake(two), batch_of()
    for a, b in zip(*(model.eval()(batch).values() for model in (one, two))): assert torch.equal(a, b)
    with torch.no_grad(): drop = awake(build_network(settings_for(dropout=.5), C, F, G))
    torch.manual_seed(1); first = drop.train()(batch)["mu"]
    torch.manual_seed(1); assert torch.equal(drop(batch)["mu"], first) and not torch.equal(drop(batch)["mu"], first)


# ---------------------------------------------------------------- bounds
@settings(max_examples=40, deadline=None)
@given(st.floats(.1, 8), st.floats(0, 1e4), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_a_correction_is_small_as_it_is_and_never_beyond_the_limit(limit, size, sigma, seed):
    random = torch.Generator().manual_seed(seed)
    c = size*torch.randn(2, 283, generator=random, dtype=torch.float64)
    mu, width, step = 120 + c.new_zeros(2, 283), sigma*torch.ones_like(c), torch.full((2, 1), .24, dtype=torch.float64)
    moved = corrected_mean(mu, width, c, step, limit) - mu
    assert (moved.abs() <= limit*width*(1 + 1e-9) + 1e-12).all() and (moved.abs() <= (c*step).abs()*(1 + 1e-9) + 1e-12).all()
    small = (c*step).abs() < .01*limit*width
    assert torch.allclose(moved[small], (c*step)[small], rtol=1e-4, atol=1e-12) and (moved*c >= 0).all()


@pytest.mark.parametrize("limit", [.5, 4.])
def test_the_whole_network_is_bounded(limit):
    batch = batch_of()
    model = awake(build_network(settings_for(limit=limit, reach=.7), C, F, G), 5.)
    out = model.eval()(batch)
    moved = ((out["mu"] - batch["mu"])/batch["sigma"]).abs()
    assert moved.max() <= limit*(1 + 1e-3) and moved.max() > .9*limit and torch.isfinite(out["mu"]).all()
    ratio = torch.log(out["sigma"]/batch["sigma"])
    assert .69 < ratio.abs().max() <= .7 + 1e-5


@pytest.mark.parametrize("kind", SIGMA_KINDS)
def test_sigma_stays_positive_and_quantiles_in_order(kind):
    random = torch.Generator().manual_seed(0)
    for size in (.1, 3., 30.):
        head = awake(SigmaHead(kind, WIDTH, G, reach=1.), size)
        mu, sigma = 120 + torch.randn(4, 283, generator=random), torch.full((4, 283), .5)
        out = head(mu, sigma, torch.randn(4, WIDTH, generator=random), torch.randn(4, 283, WIDTH, generator=random), torch.randn(4, G, generator=random))
        assert torch.isfinite(out["sigma"]).all() and (out["sigma"] > .5*np.exp(-2.) - 1e-6).all()
        if kind == "log_sigma": assert (out["sigma"] < .5*np.exp(1.) + 1e-6).all()
        if "quantiles" in out:
            low, middle, high = out["quantiles"].unbind(1)
            assert (low < middle).all() and (middle < high).all()


def test_the_flows_mean_and_spread_are_those_of_its_samples():
    head = awake(SigmaHead("flow", WIDTH, 0), .4, 3)
    random = torch.Generator().manual_seed(2)
    h, z = torch.randn(2, WIDTH, generator=random), torch.zeros(2, 283, WIDTH)
    mu, sigma = torch.full((2, 283), 120.), torch.full((2, 283), .5)
    out = head(mu, sigma, h, z, None)
    skew, tail = (.5*torch.tanh(head.shape(h))).unbind(1)
    draws = torch.sinh((torch.asinh(torch.randn(400_000, generator=random)) + skew[:, None])*torch.exp(tail)[:, None])
    base = sigma*torch.exp(torch.tanh(head.bands(h, None)[1] + head.fine(z).squeeze(-1)))
    assert skew.abs().max() > .05 and torch.allclose(out["sigma"], base*draws.std(1, keepdim=True), rtol=.02)
    for q, level in zip(out["quantiles"].unbind(1), (.1, .5, .9)):
        wanted = mu + base*(torch.quantile(draws, level, dim=1, keepdim=True) - draws.mean(1, keepdim=True))
        assert torch.allclose(q, wanted, atol=.01)


# ---------------------------------------------------------------- gradients
@pytest.mark.parametrize("kind", SIGMA_KINDS)
def test_gradients_of_the_sigma_head_agree_with_finite_differences(kind):
    head = awake(SigmaHead(kind, 4, 3, coarse=2), .3).double()
    random = torch.Generator().manual_seed(5)
    def normal(*shape): return torch.randn(*shape, generator=random, dtype=torch.float64)
    z, mu, sigma = normal(2, 283, 4), 120 + normal(2, 283), torch.exp(normal(2, 283))
    slope = {k: normal(2, *s) for k, s in (("sigma", (283,)), ("quantiles", (3, 283)))}
    def value(h, planet, scale):
        out = head(mu, sigma*scale, h, z, planet)
        return sum((out[k]*slope[k]).sum() for k in slope if k in out)
    assert torch.autograd.gradcheck(value, (normal(2, 4).requires_grad_(), normal(2, 3).requires_grad_(), torch.ones(2, 1, dtype=torch.float64, requires_grad=True)),
                                    rtol=1e-5, atol=1e-6)


def test_gradients_of_the_mean_decoder_agree_with_finite_differences():
    decoder, random = awake(MuDecoder(3, 2, 2, coarse=2, middle=3), .3).double(), torch.Generator().manual_seed(6)
    def normal(*shape): return torch.randn(*shape, generator=random, dtype=torch.float64)
    slope, z, nodes = normal(1, 283), normal(1, 283, 3), normal(1, 283, 2)
    def value(h, planet): return (corrected_mean(120 + 0*slope, 1 + 0*slope, decoder(h, z, planet, nodes), torch.full((1, 1), .2).double(), 4.)*slope).sum()
    assert torch.autograd.gradcheck(value, (normal(1, 3).requires_grad_(), normal(1, 2).requires_grad_()))


@pytest.mark.parametrize("fgs1, airs, fusion, sigma", [("mamba", "gat", "concat", "log_sigma"), ("gru", "cnn", "cross_attend", "quantiles"), ("tcn", "gat", "gated", "flow"),
                                                       ("none", "gat", "concat", "softplus"), ("mamba", "none", "cross_attend", "log_sigma")])
def test_every_parameter_is_learnt_somewhere(fgs1, airs, fusion, sigma):
    model, batch = awake(build_network(settings_for(fgs1, airs, fusion, sigma=sigma), C, F, G), .1), batch_of()
    out = model(batch)
    loss = ((out["mu"] - 100)**2).sum() + (out["sigma"]**2).sum() + (out["quantiles"].square().sum() if "quantiles" in out else 0)
    loss.backward()
    pretraining = {name for name, _ in model.named_parameters() if name.startswith(("guess", "hidden"))}
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    if airs != "none":
        hidden = torch.rand(3, 283, generator=torch.Generator().manual_seed(0)) < .4
        guess = model.reconstruct(batch, hidden)
        (guess["value"].square() + guess["log_sigma"].square()).sum().backward()
    if fgs1 != "none":
        inside, outside = model.contrast(batch)
        assert inside.shape == outside.shape == (3, WIDTH) and not torch.equal(inside, outside)
    after = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert pretraining <= silent and silent - pretraining <= unused(fgs1, airs)
    assert after <= unused(fgs1, airs) | (pretraining if airs == "none" else set())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def unused(fgs1, airs):
    "What a missing encoder, whose latents are zero, leaves without work: a norm's scale, and what multiplies the latents of nodes. A number added to all scores of a softmax has rounding errors for a slope, or none."
    return {"airs.pool.score.bias"} | ({"fusion.norms.0.weight"} if fgs1 == "none" else set()) | ({"fusion.norms.1.weight", "sigma_head.fine.weight"} if airs == "none" else set())


def test_the_first_step_moves_the_silent_layers_only_and_then_everything():
    model, batch = build_network(settings_for("mamba", "gat"), C, F, G), batch_of()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    for step in range(2):
        optimizer.zero_grad(set_to_none=False)
        for p in model.parameters(): p.grad = torch.zeros_like(p)
        out = model(batch)
        ((out["mu"] - batch["mu"] - 1)**2 + (out["sigma"] - 1)**2).sum().backward()
        moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad.abs().sum() > 0}
        assert moved == ({"mu_head", "sigma_head"} if step == 0 else {"mu_head", "sigma_head", "fgs1", "airs", "planet", "fusion"})
        optimizer.step()


# ---------------------------------------------------------------- what enters and what does not
def test_steps_that_do_not_count_and_other_planets_have_no_say():
    for fgs1, airs, fusion in (("mamba", "gat", "cross_attend"), ("gru", "cnn", "concat"), ("tcn", "gat", "gated")):
        model, batch = awake(build_network(settings_for(fgs1, airs, fusion), C, F, G), .1).eval(), batch_of()
        plain = model(batch)
        holes = batch | dict(series=batch["series"].masked_fill(~batch["series_valid"][..., None], torch.nan))
        assert all(torch.equal(v, plain[k]) for k, v in model(holes).items())
        alone = model({k: v[1:2] for k, v in batch.items()})
        assert all(torch.allclose(alone[k][0], plain[k][1], rtol=1e-5, atol=1e-5) for k in plain)


def test_hidden_bins_are_hidden():
    model, batch = awake(build_network(settings_for("tcn", "gat"), C, F, G), .1).eval(), batch_of()
    hidden = torch.zeros(3, 283, dtype=torch.bool); hidden[:, 40:60] = True; hidden[:, 0] = True
    other = batch | dict(nodes=batch["nodes"].masked_fill(hidden[..., None], 1e3))
    plain = model.reconstruct(batch, hidden)
    assert all(torch.equal(v, plain[k]) for k, v in model.reconstruct(other, hidden).items())
    assert not torch.equal(model.reconstruct(batch, ~hidden)["value"], plain["value"])


def test_the_unit_of_depth_does_not_matter():
    model, batch = awake(build_network(settings_for(), C, F, G), .2).eval(), batch_of()
    plain, scaled = model(batch), model(batch | dict(mu=4*batch["mu"], sigma=4*batch["sigma"]))
    assert torch.allclose(scaled["mu"], 4*plain["mu"], rtol=1e-6) and torch.allclose(scaled["sigma"], 4*plain["sigma"], rtol=1e-6)
    assert (plain["mu"] - batch["mu"]).abs().max() > STEP


def test_bands_add_up():
    for n in (2, 6, 24, 282):
        basis = band_basis(n)
        assert basis.shape == (n + 1, 283) and torch.allclose(basis.sum(0), torch.ones(283), atol=1e-6) and (basis >= 0).all()
        assert basis[0].nonzero().tolist() == [[0]] and (basis[1:, 0] == 0).all()
    values, curve = awake(Bands(3, 0, 5))(torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), None)
    assert torch.equal(curve[:, 0], values[:, 0]) and torch.allclose(curve[:, 1], values[:, 1]) and torch.allclose(curve[:, -1], values[:, -1])


# ---------------------------------------------------------------- saving, exporting, mixed precision
def test_state_dict_round_trip_and_the_backends_share_it():
    batch = batch_of()
    model = awake(build_network(settings_for("mamba", "gat", backend="dense", scan="torch"), C, F, G), .1).eval()
    stream = io.BytesIO(); torch.save(model.state_dict(), stream); stream.seek(0)
    state, wanted = torch.load(stream, weights_only=True), model(batch)
    for backend, scan in (("dense", "torch"), ("pyg", "numba")):
        again = build_network(settings_for("mamba", "gat", backend=backend, scan=scan), C, F, G, seed=99).eval()
        again.load_state_dict(state)
        found = again(batch)
        close = torch.equal if backend == "dense" else lambda a, b: torch.allclose(a, b, rtol=1e-4, atol=1e-4)
        assert all(close(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("config", [replace(NetworkConfig(), fgs1=FGS1(backend="torch"), airs=AIRS(backend="dense")), settings_for(fusion="gated", sigma="flow"),
                                    settings_for(fusion="cross_attend", sigma="quantiles")], ids=["default", "flow", "quantiles"])
def test_an_exported_graph_gives_what_the_network_gives_for_any_number_of_planets(config):
    model = awake(build_network(config, C, F, G), .05).eval()
    planets = torch.export.Dim("planets", min=2, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.export.export(model, (batch_of(2, 48),), dynamic_shapes=({k: {0: planets} for k in batch_of()},), strict=False).module()
    batch = batch_of(5, 48, 3)
    with torch.no_grad(): found, wanted = graph(batch), model(batch)
    assert found.keys() == wanted.keys()
    for k in wanted: torch.testing.assert_close(found[k], wanted[k], rtol=1e-5, atol=1e-4)
    assert (wanted["mu"] - batch["mu"]).abs().max() > .05


@pytest.mark.parametrize("sigma", SIGMA_KINDS)
def test_mixed_precision_keeps_depths_in_float32(sigma):
    model, batch = awake(build_network(settings_for("mamba", "gat", "cross_attend", sigma=sigma), C, F, G), .1).eval(), batch_of()
    with torch.no_grad():
        plain = model(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16): mixed = model(batch)
    for k in ("mu", "sigma", *(["quantiles"] if "quantiles" in plain else [])): assert mixed[k].dtype == torch.float32
    moved = (plain["mu"] - batch["mu"]).abs()
    assert (mixed["mu"] - plain["mu"]).abs().max() < .05*moved.max() + .05*batch["sigma"].max() and moved.max() > .1
    assert torch.allclose(mixed["sigma"], plain["sigma"], rtol=.05)


# ---------------------------------------------------------------- refused
@pytest.mark.parametrize("made, text", [
    (lambda: settings_for("lstm"), "lstm.*mamba, gru, tcn"), (lambda: settings_for(airs="mlp"), "mlp.*gat, cnn"), (lambda: settings_for(fusion="sum"), "sum.*concat"),
    (lambda: settings_for(sigma="laplace"), "laplace.*log_sigma, softplus, quantiles, flow"), (lambda: settings_for(reach=0.), "sigma reach: found 0"),
    (lambda: settings_for(coarse=1), "bands: found 1"), (lambda: settings_for(middle=0), "bands: found 0"), (lambda: settings_for(limit=0.), "heads.limit"),
    (lambda: settings_for(dropout=1.), "dropout: found 1"), (lambda: settings_for("none", "none"), "found none for both"),
    (lambda: replace(settings_for(airs="gat"), width=9), "multiple of heads"), (lambda: settings_for("mamba", scan="cuda"), "scan backend 'cuda'"),
    (lambda: settings_for(airs="gat", backend="dgl"), "dgl")])
def test_refused_settings(made, text):
    with pytest.raises(ConfigError, match=text): build_network(made(), C, F, G)


def test_refused_shapes():
    model, batch = build_network(settings_for("mamba", "gat"), C, F, G), batch_of()
    for name, value, text in (("mu", batch["mu"][:, 1:], r"mu: found shape \(3, 282\)"), ("mu", batch["mu"][0], r"mu: found shape \(283,\)"),
                              ("series", batch["series"][..., 1:], rf"series: found torch.float32 \(3, 20, {C - 1}\)"), ("series_valid", batch["series_valid"][:, 1:], "valid: found"),
                              ("series_valid", batch["series_valid"].float(), "wanted torch.bool"), ("nodes", batch["nodes"][:, 1:], "found"), ("nodes", batch["nodes"][..., 1:], "found")):
        with pytest.raises(UsageError, match=text): model(batch | {name: value})
    with pytest.raises(UsageError, match="masked phase needs an AIRS"): build_network(settings_for(airs="none"), C, F, G).reconstruct(batch, batch["mu"] > 0)
    with pytest.raises(UsageError, match="contrastive phase needs an FGS1"): build_network(settings_for("none"), C, F, G).contrast(batch)


def test_an_example_batch_fits_and_the_config_is_plain():
    model = build_network(settings_for(), C, F, G).eval()
    out = model(example_batch(C, F, G, planets=4, steps=7))
    assert out["mu"].shape == (4, 283) and torch.equal(out["mu"], torch.full((4, 283), 120.))
    told = asdict(settings_for("gru", "gat"))
    assert NetworkConfig(**(told | dict(fgs1=FGS1(**told["fgs1"]), airs=AIRS(**told["airs"]), heads=Heads(**told["heads"])))) == settings_for("gru", "gat")
