"Shares add up, are the derivative's integral, ignore what is the same for all, and find a dependence that was put in; Shapley values are those of the definition and of shap."
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from spectramind.core.errors import ConfigError, UsageError
from spectramind.diagnostics import attribution as room
from spectramind.network.features import CHANNELS, NODE_FEATURES, Examples
from spectramind.network.spectramind import AIRS, FGS1, Heads, NetworkConfig, build_network
from spectramind.network.wavelength_graph import build_graph
from spectramind.symbolic.terms import WINDOWS
from spectramind.training.dataset import fit_scaling, make_batch
from spectramind.training.ensemble import Ensemble, Gate

NAMES = ("log depth", "rs", "ts", "b")


def made_up(planets=5, kinds=("tcn", "cnn"), members=2, wake=True, seed=0, **network):
    "Networks that have something to say, and planets to say it about."
    rng = np.random.default_rng(seed)
    nodes = np.repeat(rng.normal(size=(1, 283, 17)), planets, 0)
    nodes[..., 4:] += .5*rng.normal(size=(planets, 283, 13))
    valid = np.ones((planets, 24), bool)
    valid[:, -3:] = False
    examples = Examples(np.arange(100, 100 + planets), rng.normal(size=(planets, 24, 10)).astype(np.float32), valid, nodes.astype(np.float32),
                        rng.normal(size=(planets, 4)).astype(np.float32), np.full((planets, 283), .01) + 1e-4*rng.normal(size=(planets, 283)),
                        np.full((planets, 283), 1e-4), np.full((planets, 283), np.nan), NAMES)
    scaling, found = fit_scaling(examples, np.arange(planets)), []
    for fold in range(members):
        model = build_network(NetworkConfig(width=8, fgs1=FGS1(kind=kinds[0]), airs=AIRS(kind=kinds[1], heads=2), **network), 10, 17, 4, seed=fold)
        torch.manual_seed(fold)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if wake and "head" in name: weight.add_(.05*torch.randn_like(weight))
        found.append((fold, 0, model.eval(), scaling))
    return Ensemble(tuple(found), Gate()), examples


def test_bands_are_a_partition_that_knows_every_window():
    names, of_bin = room.bin_bands()
    assert of_bin.shape == (283,) and of_bin[0] == 0 and (of_bin[1:] > 0).all() and set(of_bin) == set(range(len(names)))
    um = build_graph().wavelength_um
    for molecule, ranges in WINDOWS.items():                                # the windows of the rules are those of the graph, to the bin
        inside = np.any([(um >= low) & (um <= high) for low, high in ranges], axis=0)
        assert {molecule in names[k].split(" + ") for k in of_bin[inside]} == {True}
        assert not any(molecule in names[k].split(" + ") for k in of_bin[~inside])


@pytest.mark.parametrize("kinds", [("tcn", "cnn"), ("gru", "gat"), ("mamba", "none")])
def test_shares_add_up_for_every_encoder(kinds):
    shares = room.attribute(*made_up(3, kinds, members=1), steps=16)
    assert np.abs(shares.change).max() > 1e-3 and shares.completeness.max() < .02
    groups = shares.groups(room.bin_bands()[1])
    np.testing.assert_allclose(groups.sum(-1), shares.by_feature.sum(-1), rtol=1e-9, atol=1e-12)
    nodes = [part == "nodes" for part, _ in shares.features]
    np.testing.assert_allclose(shares.by_bin.sum(-1), shares.by_feature[..., nodes].sum(-1), rtol=1e-9, atol=1e-12)


def test_too_few_points_show_in_the_completeness():
    ensemble, examples = made_up(4, members=1)
    rough, fine = (room.attribute(ensemble, examples, steps=steps).completeness.max() for steps in (1, 16))
    assert rough > 3*fine


def test_the_integral_is_the_one_of_the_definition():
    "A thousand small steps in plain torch."
    ensemble, examples = made_up(3, members=1)
    model, batch, of_bin = ensemble.members[0][2], make_batch(examples, np.arange(3), ensemble.members[0][3]), room.bin_bands()[1]
    found, _ = room.integrated_gradients(model, batch, of_bin, steps=16)
    base, total, n = room.mean_planet(batch), None, 300
    for k in range(n):
        x = {part: (base[part] + (k + .5)/n*(batch[part] - base[part])).requires_grad_() for part in room.PARTS}
        out = room.band_outputs(model(batch | x), batch["mu"], batch["sigma"], of_bin)[:, 3].sum()
        slopes = torch.autograd.grad(out, [x[part] for part in room.PARTS])
        total = [s/n if total is None else t + s/n for s, t in zip(slopes, total or slopes)]
    for part, slope in zip(room.PARTS, total):
        wanted = (slope*(batch[part] - base[part])).double().numpy()
        np.testing.assert_allclose(found[part][3], wanted, atol=2e-3*np.abs(wanted).max())


def test_an_untrained_network_has_nothing_to_divide():
    shares = room.attribute(*made_up(3, wake=False), steps=2)
    assert np.abs(shares.change).max() == 0 and np.abs(shares.by_feature).max() < 1e-12


def test_a_dependence_that_was_put_in_is_found_and_what_is_common_gets_no_credit():
    ensemble, examples = made_up(6, members=1, wake=False)
    model = ensemble.members[0][2]
    with torch.no_grad():
        model.mu_head.coarse.straight.weight[:, NAMES.index("ts")] = .05      # FGS1 and AIRS move with the star's temperature ...
        model.sigma_head.bands.straight.weight[:, NAMES.index("b")] = .1      # ... and the error bars with the impact parameter
        model.mu_head.airs_straight.weight[0, NODE_FEATURES.index("shape")] = .05
    shares = room.attribute(ensemble, examples, steps=8)
    first = lambda k: room.ranked(shares.features, shares.by_feature[k], most=3)
    named = {name: k for k, (name, *_) in enumerate(shares.outputs)}
    assert first(named["mu, FGS1"])[0]["name"] == ("planet", "ts") and first(named["sigma, AIRS"])[0]["name"] == ("planet", "b")
    assert {row["name"] for row in first(named["mu, H2O"])[:2]} == {("planet", "ts"), ("nodes", "shape")}
    assert first(named["sigma, FGS1"])[1]["value"] < 1e-6
    assert np.abs(shares.by_feature[..., [name in ("is FGS1", "wavelength") for _, name in shares.features]]).max() < 1e-9
    of_bin, band = room.bin_bands()[1], room.bin_bands()[0].index("H2O")
    away = np.abs(shares.by_bin[named["mu, H2O"]])[:, of_bin != band].max()
    assert np.abs(shares.by_bin[named["mu, H2O"]])[:, of_bin == band].max() > 10*away         # a straight path: each bin speaks for itself


def test_members_count_alike():
    "The shares of an ensemble are the mean of those of its members."
    ensemble, examples = made_up(3)
    both = room.attribute(ensemble, examples, 4)
    alone = [room.attribute(Ensemble((member,), Gate()), examples, 4) for member in ensemble.members]
    np.testing.assert_allclose(both.by_feature, np.mean([a.by_feature for a in alone], 0), rtol=1e-6, atol=1e-12)


def test_planets_do_not_disturb_each_other_and_samples_that_do_not_count_get_nothing():
    ensemble, examples = made_up(4, members=1)
    batch, of_bin = make_batch(examples, np.arange(4), ensemble.members[0][3]), room.bin_bands()[1]
    whole, _ = room.integrated_gradients(ensemble.members[0][2], batch, of_bin, 4, at_once=8)
    other, _ = room.integrated_gradients(ensemble.members[0][2], batch, of_bin, 4, at_once=1000)
    for part in room.PARTS: np.testing.assert_allclose(whole[part], other[part], rtol=1e-4, atol=1e-7)
    assert np.abs(whole["series"][:, :, -3:]).max() == 0 and np.abs(whole["series"][:, :, :-3]).max() > 0


def test_one_planet_alone_is_refused_and_a_missing_library_is_named(monkeypatch):
    ensemble, examples = made_up(2, members=1)
    with pytest.raises(UsageError, match="found 1 planet"): room.attribute(ensemble, examples.take(np.array([0])))
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match="no captum"): room.attribute(ensemble, examples)


@pytest.mark.parametrize("fusion", ["concat", "gated", "cross_attend"])
@pytest.mark.parametrize("kinds", [("tcn", "gat"), ("none", "cnn"), ("gru", "none")])
def test_the_network_that_remembers_answers_as_the_whole_one(fusion, kinds):
    ensemble, examples = made_up(3, kinds, members=2, fusion=fusion, heads=Heads(sigma="quantiles"))
    of_bin = room.bin_bands()[1]
    wanted = 0.
    for _, _, model, scaling in ensemble.members:
        batch = make_batch(examples, np.array([1]), scaling)
        with torch.inference_mode(): wanted = wanted + room.band_outputs(model(batch), batch["mu"], batch["sigma"], of_bin).double().numpy()[0]/2
    numbers = np.repeat(examples.planet[[1]].astype(float), 4, 0)
    np.testing.assert_allclose(room.tabular(ensemble, examples, 1, of_bin)(numbers), np.repeat(wanted[None], 4, 0), rtol=2e-4, atol=2e-5)      # the depths themselves are 100 steps high
    assert ensemble.members[0][2](make_batch(examples, np.arange(3), ensemble.members[0][3]))["mu"].shape == (3, 283)       # the network itself is as it was


def pairs(x): return np.stack([2*x[:, 0] - x[:, 1] + x[:, 0]*x[:, 2], x[:, 3]**3 + x[:, 1]*x[:, 3]], 1)


def test_one_order_and_its_reverse_are_exact_for_pairs():
    rng = np.random.default_rng(3)
    x, others = rng.normal(size=4), rng.normal(size=(6, 4))
    one, many = (room.shapley_values(pairs, x, others, np.random.default_rng(7), orders) for orders in (1, 50))
    np.testing.assert_allclose(one, many, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(one.sum(1), pairs(x[None])[0] - pairs(others).mean(0), rtol=1e-10)
    np.testing.assert_allclose(one[0, 1], -(x[1] - others[:, 1].mean()), rtol=1e-10)             # alone and straight: its own difference


def test_shapley_values_are_those_of_shap():
    "In a process of its own, where shap's kernels are interpreted: compiling them takes longer than this file."
    rng = np.random.default_rng(3)
    x, others = rng.normal(size=4), rng.normal(size=(6, 4))
    script = ("import sys, json, numpy as np, shap\n"
              "x, others = (np.array(v) for v in json.load(sys.stdin))\n"
              "pairs = lambda x: np.stack([2*x[:, 0] - x[:, 1] + x[:, 0]*x[:, 2], x[:, 3]**3 + x[:, 1]*x[:, 3]], 1)\n"
              "told = shap.PermutationExplainer(pairs, shap.maskers.Independent(others), seed=1)(x[None], max_evals=18, silent=True)\n"
              "print(json.dumps(told.values[0].T.tolist()))")
    done = subprocess.run([sys.executable, "-c", script], input=json.dumps([x.tolist(), others.tolist()]), capture_output=True, text=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(room.shapley_values(pairs, x, others, np.random.default_rng(0)), json.loads(done.stdout.splitlines()[-1]), rtol=1e-9)


def test_shapley_values_of_the_ensemble_add_up_and_do_not_depend_on_company():
    ensemble, examples = made_up(5)
    both = room.sampled_shapley(ensemble, examples, np.array([0, 3]), np.array([1, 2, 4]), seed=5)
    alone = room.sampled_shapley(ensemble, examples, np.array([3]), np.array([1, 2, 4]), seed=5)
    assert both.by_feature.shape == (len(both.outputs), 2, 4) and both.completeness.max() < 1e-5 and np.abs(both.change).max() > 1e-3
    np.testing.assert_array_equal(both.by_feature[:, 1], alone.by_feature[:, 0])


def test_shapley_and_gradients_agree_where_the_answer_is_straight():
    ensemble, examples = made_up(6, members=1, wake=False)
    with torch.no_grad(): ensemble.members[0][2].sigma_head.bands.straight.weight[:] = .02*torch.arange(1, 5)
    everyone = np.arange(6)
    slopes, values = room.attribute(ensemble, examples, 4), room.sampled_shapley(ensemble, examples, everyone, everyone)
    k = [name for name, *_ in slopes.outputs].index("sigma, FGS1")
    np.testing.assert_allclose(slopes.by_feature[k][:, :4], values.by_feature[k], atol=.03*np.abs(values.by_feature[k]).max())


def test_a_table_ranks_and_carries_its_interval():
    shares = np.random.default_rng(0).normal(size=(200, 3))*[1, 3, 2] + [0, 0, 1]
    rows = room.ranked("abc", shares, seed=1, most=2)
    assert [row["name"] for row in rows] == ["b", "c"] and all(row["low"] < row["value"] < row["high"] for row in rows)
    assert room.ranked("abc", shares, seed=1)[0]["name"] == "a" and rows == room.ranked("abc", shares, seed=1, most=2)
    assert abs(rows[1]["signed"] - 1) < .5 and abs(rows[0]["signed"]) < .7


def test_attention_of_each_bin_adds_up_and_uneven_ears_are_heard():
    ensemble, examples = made_up(3, ("none", "gat"))
    weight, graph, (names, of_bin) = room.attention_of(ensemble, examples), build_graph(), room.bin_bands()
    assert weight.shape == graph.edge_index.shape[1:]
    np.testing.assert_allclose(np.bincount(graph.edge_index[1], weight), 1, atol=1e-5)
    table = room.share_heard(of_bin[graph.edge_index[1]], of_bin[graph.edge_index[0]], weight, len(names))
    np.testing.assert_allclose(table.sum(1), 1)
    assert room.attention_of(*made_up(2, ("tcn", "cnn"), members=1)) is None
    loud = np.where(graph.edge_index[0] == 0, 1., 0.)                                           # everybody listens to FGS1 alone
    heard = room.share_heard(of_bin[graph.edge_index[1]], of_bin[graph.edge_index[0]], loud, len(names))
    assert heard[:, 0].min() == 1 and heard[:, 1:].max() == 0


def test_channels_and_features_are_named_in_the_order_of_the_arrays():
    ensemble, examples = made_up(3, members=1, wake=False)
    with torch.no_grad(): ensemble.members[0][2].mu_head.fgs1_straight.weight[0, NODE_FEATURES.index("log light")] = .2
    shares = room.attribute(ensemble, examples, 4)
    best = shares.features[int(np.abs(shares.by_feature[0]).mean(0).argmax())]
    assert best == ("nodes", "log light") and [n for p, n in shares.features if p == "series"] == list(CHANNELS)
