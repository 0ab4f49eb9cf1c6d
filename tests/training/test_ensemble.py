"The ensemble: mixtures, the gate, training that was interrupted, and folders that are not what they say."
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file

from spectramind.core.errors import ConfigError, DataError, QualityGateError, SchemaError, UsageError
from spectramind.network.features import Examples
from spectramind.network.spectramind import AIRS, FGS1, NetworkConfig, build_network
from spectramind.training.ensemble import LEAST_GAIN, SHARES, Ensemble, EnsembleConfig, Gate, cell_gll, corrected, fit_gate, let_in, mixture, read_ensemble, sources, train_ensemble
from spectramind.training.checkpoints import load_state
from spectramind.training.judging import halved, predict
from spectramind.training.settings import TrainConfig

torch.set_num_threads(1)
SMALL = NetworkConfig(width=4, dropout=0., fgs1=FGS1(kind="tcn"), airs=AIRS(kind="cnn", depth=1))
TRAIN = TrainConfig(epochs_supervised=5, lr=.1, batch_size=16, patience=0, accelerator="cpu", top_k=1, checkpoint_every_steps=1)


def toy(n=32, seed=0, first=1, useful=True):
    "Planets whose physics is off by what their first feature says, or by what nothing says."
    rng = np.random.default_rng(seed)
    feature = rng.standard_normal((n, 3)).astype(np.float32)
    label = .01 + 1e-3*rng.standard_normal((n, 1)) + np.zeros((n, 283))
    off = feature[:, :1] if useful else rng.standard_normal((n, 1))
    return Examples(np.arange(n) + first, rng.standard_normal((n, 8, 10)).astype(np.float32), np.ones((n, 8), bool), np.repeat(feature[:, None], 283, 1), feature,
                    label*(1 - 6e-3*off) + 2e-5*rng.standard_normal((n, 1)), np.full((n, 283), 7e-5), label, ("a", "b", "c"))


N = 32
DATA, FOLD = toy(), np.arange(N) % 2
def quiet(told): pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    return folder, *train_ensemble(DATA, FOLD, SMALL, TRAIN, folder, EnsembleConfig(seeds=2), tell=quiet)


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path/"copy")
    return tmp_path/"copy"


# ---------------------------------------------------------------- mixtures
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.floats(0, 10), st.integers(0, 99))
def test_moments_of_a_mixture(members, apart, seed):
    rng = np.random.default_rng(seed)
    mu, sigma = apart*rng.normal(size=(members, 2, 283)), rng.uniform(.5, 2, (members, 2, 283))
    mean, width = mixture(mu, sigma)
    np.testing.assert_allclose(mean, mu.mean(0))
    np.testing.assert_allclose(width**2, (sigma**2 + mu**2).mean(0) - mean**2, rtol=1e-9)       # the law of total variance
    assert (width >= np.sqrt((sigma**2).mean(0)) - 1e-12).all()
    one = mixture(mu[:1], sigma[:1])
    assert np.array_equal(one[0], mu[0]) and np.allclose(one[1], sigma[0], rtol=1e-15)


def test_moments_of_a_mixture_by_drawing():
    rng = np.random.default_rng(0)
    mu, sigma = rng.normal(0, 2, (3, 1, 283)), rng.uniform(.5, 3, (3, 1, 283))
    member = rng.integers(0, 3, 40_000)
    draws = mu[member, 0, :5] + sigma[member, 0, :5]*rng.standard_normal((40_000, 5))
    mean, width = mixture(mu, sigma)
    assert np.allclose(draws.mean(0), mean[0, :5], atol=.08) and np.allclose(draws.std(0), width[0, :5], rtol=.03)


# ---------------------------------------------------------------- the gate
def case(seed=0, n=150, better=.5, fgs1=None):
    "Truth, physics, and a network whose errors are `better` times those of physics (AIRS; FGS1 apart if given)."
    rng = np.random.default_rng(seed)
    truth, error = .01 + 1e-3*rng.standard_normal((n, 283)), 1e-4*rng.standard_normal((n, 283))
    share = np.r_[better if fgs1 is None else fgs1, np.full(282, better)]
    return truth, truth + error, np.full((n, 283), 1e-4), truth + share*error, np.full((n, 283), 1e-4)*share


def test_a_good_network_is_let_in_and_each_instrument_is_judged_for_itself():
    gate = fit_gate(*case())
    assert gate.airs == gate.fgs1 == 1 and gate.n == 150 and gate.gain_airs > gate.error_airs > 0
    half = fit_gate(*case(better=.5, fgs1=4.))
    assert half.airs == 1 and half.fgs1 == 0 and half.gain_fgs1 == 0
    assert np.array_equal(half.shares, np.r_[0., np.ones(282)])


@pytest.mark.parametrize("harm", ["worse", "biased", "overconfident", "timid", "constant"])
def test_a_harmful_network_gets_nothing(harm):
    truth, mu0, sigma0, _, _ = case(1)
    rng = np.random.default_rng(9)
    mu, sigma = mu0.copy(), sigma0.copy()
    if harm == "worse": mu = mu0 + 2e-4*rng.standard_normal(mu.shape)
    if harm == "biased": mu = mu0 + 5e-4
    if harm == "overconfident": sigma = sigma0/4
    if harm == "timid": sigma = 20*sigma0
    if harm == "constant": mu, sigma = np.full_like(mu, truth.mean()), np.full_like(mu, truth.std())
    gate = fit_gate(truth, mu0, sigma0, mu, sigma)
    assert gate.airs == 0 and gate.fgs1 == 0 and (gate.shares == 0).all()
    mixed = let_in(gate.shares, mu0, sigma0, mu, sigma)
    assert np.array_equal(mixed[0], mu0) and np.allclose(mixed[1], sigma0, rtol=1e-14)


def test_a_gain_below_twice_its_error_is_no_gain():
    rng, (truth, mu0, sigma0, _, _) = np.random.default_rng(3), case(2, 60)
    naive = (truth.mean(), truth.std())
    decided = {True: 0, False: 0}
    for scale in np.linspace(0, 1.2e-4, 25):
        mu = mu0 + scale*rng.standard_normal((60, 1)) + .1*scale*np.sign(truth - mu0)
        gate = fit_gate(truth, mu0, sigma0, mu, sigma0)
        gains = [(cell_gll(truth, *let_in(g, mu0, sigma0, mu, sigma0), naive) - cell_gll(truth, mu0, sigma0, naive))[:, 1:].mean(1) for g in SHARES[1:]]
        gains = [np.minimum(x, np.quantile(x, .99)) for x in gains]
        allowed = [x.mean() for x in gains if x.mean() > max(2*x.std()/np.sqrt(60), LEAST_GAIN)]
        decided[bool(allowed)] += 1
        assert (gate.airs > 0) == bool(allowed) and gate.gain_airs == pytest.approx(max(allowed, default=0.), abs=1e-15)
    assert min(decided.values()) >= 3


def test_one_planet_in_a_hundred_does_not_decide():
    truth, mu0, sigma0, mu, sigma = case(4, 200, better=1.)
    mu0[7] += 1e-1                                                       # physics is lost on one planet, and the network finds it
    mu = mu0 + 1e-4*np.random.default_rng(0).standard_normal((200, 1)); mu[7] = truth[7]
    assert fit_gate(truth, mu0, sigma0, mu, sigma0).airs == 0


def test_shares_go_from_physics_to_network():
    _, mu0, sigma0, mu, sigma = case(5, 20)
    assert all(np.allclose(a, b, rtol=1e-14) for a, b in zip(let_in(0., mu0, sigma0, mu, sigma), (mu0, sigma0)))
    assert all(np.allclose(a, b, rtol=1e-14) for a, b in zip(let_in(1., mu0, sigma0, mu, sigma), (mu, sigma)))
    half = let_in(.5, mu0, sigma0, mu, sigma)
    assert np.allclose(half[0], (mu0 + mu)/2) and np.allclose(half[1], np.sqrt(sigma0*sigma)) and SHARES[0] == 0 and SHARES[-1] == 1


def test_cells_are_the_scores_own():
    from spectramind.core.nouns import Spectra
    from spectramind.scoring.score import FGS1_WEIGHT, score
    truth, mu, sigma, _, _ = case(6, 30)
    naive = (float(truth.mean()), float(truth.std()))
    cells, ids = cell_gll(truth, mu, sigma, naive), np.arange(30)
    w = np.r_[FGS1_WEIGHT, np.ones(282)]
    assert (cells@w).sum()/(30*w.sum()) == pytest.approx(score((ids, truth), Spectra(ids, mu, sigma), *naive).unclipped, rel=1e-9)


def test_refused_shapes():
    truth, mu0, sigma0, mu, sigma = case(0, 10)
    with pytest.raises(UsageError, match="gate: found shapes"): fit_gate(truth, mu0, sigma0, mu[:-1], sigma[:-1])


# ---------------------------------------------------------------- training
def test_members_folds_and_the_error_they_remove(trained):
    folder, ensemble, held, reports = trained
    assert [(f, s) for f, s, _, _ in ensemble.members] == [(0, 0), (0, 1), (1, 0), (1, 1)] and len(reports) == 4
    told = json.loads((folder/"ensemble.json").read_text())
    assert told["features"] == ["a", "b", "c"] and told["network"] == asdict(SMALL) and len(told["members"]) == 4
    for member in told["members"]:
        info = json.loads((folder/member["folder"]/"model.json").read_text())
        assert info["valid_planets"] == DATA.planet_id[FOLD == member["fold"]].tolist() and info["train_planets"] == N//2
    def rms(mu): return np.sqrt(((mu - DATA.label)**2).mean())
    assert rms(held["network_mu"]) < .9*rms(DATA.mu) and rms(held["mu"]) <= rms(DATA.mu) and ensemble.gate.n == N
    found = corrected(ensemble.gate, DATA.mu, DATA.sigma, sources((held["network_mu"], held["network_sigma"]), (held["linear_mu"], held["linear_sigma"])))
    assert np.array_equal(found[0], held["mu"]) and np.array_equal(found[1], held["sigma"])
    seeds = [load_file(folder/f"fold0_seed{s}"/"model.safetensors") for s in (0, 1)]
    assert not all(torch.equal(a, b) for a, b in zip(*(s.values() for s in seeds)))


def test_a_held_out_planet_does_not_teach_its_members(trained, tmp_path):
    "With validation out of the way (one epoch, whose weights are kept only if they are better), what the fold's members learn comes from the other fold."
    folder, *_ = trained
    other = replace(DATA, mu=np.where((FOLD == 0)[:, None], DATA.mu[::-1], DATA.mu))
    scalings = []
    for data, name in ((DATA, "a"), (other, "b")):
        ensemble, _, _ = train_ensemble(data, FOLD, SMALL, replace(TRAIN, epochs_supervised=1), tmp_path/name, tell=quiet)
        last = torch.load(tmp_path/name/"fold0_seed0"/"last.ckpt", weights_only=True)["model"]
        scalings.append((ensemble.members[0][3].to_dict(), last))
    assert scalings[0][0] == scalings[1][0]
    assert all(torch.equal(scalings[0][1][k], scalings[1][1][k]) for k in scalings[0][1])


def test_predictions_are_the_gated_mixture_and_leave_the_examples_alone(trained):
    _, ensemble, _, _ = trained
    new = toy(5, 3, first=900)
    before = new.mu.copy(), new.sigma.copy()
    out = ensemble.predict(new)
    assert out["mu"].shape == out["sigma"].shape == (5, 283) and out["latent"].shape == (4, 5, SMALL.width)
    mixed = corrected(ensemble.gate, new.mu, new.sigma, sources((out["network_mu"], out["network_sigma"]), ensemble.linear.predict(new)))
    assert np.array_equal(out["mu"], mixed[0]) and np.array_equal(out["sigma"], mixed[1])
    assert np.array_equal(new.mu, before[0]) and np.array_equal(new.sigma, before[1])
    closed = Ensemble(ensemble.members, Gate()).predict(new)
    assert np.array_equal(closed["mu"], new.mu) and np.allclose(closed["sigma"], new.sigma, rtol=1e-14)
    unlabelled = ensemble.predict(replace(new, label=np.full_like(new.label, np.nan)))
    assert np.array_equal(unlabelled["mu"], out["mu"])


def test_an_interrupted_ensemble_goes_on_to_the_same_result(trained, tmp_path):
    folder, ensemble, held, _ = trained
    class Killed(Exception): pass
    steps = []
    def kill(told):
        steps.append(told["event"] == "step")
        if sum(steps) == 17: raise Killed                                  # one member is done, the second half-way
    arguments = (DATA, FOLD, SMALL, TRAIN, tmp_path, EnsembleConfig(seeds=2))
    with pytest.raises(Killed): train_ensemble(*arguments, tell=kill)
    assert not (tmp_path/"ensemble.json").exists()
    again, found, reports = train_ensemble(*arguments, tell=quiet)
    assert any(r.resumed for r in reports) and again.gate == ensemble.gate
    assert all(np.array_equal(found[k], held[k]) for k in held)
    for path in sorted(p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        assert (folder/path).read_bytes() == (tmp_path/path).read_bytes(), path


def test_pretrained_weights_are_where_training_starts(tmp_path):
    start = {k: v + .01*torch.randn(v.shape, generator=torch.Generator().manual_seed(4)) for k, v in build_network(SMALL, 10, 3, 3, seed=77).state_dict().items()}
    still = replace(TRAIN, epochs_supervised=1, lr=1e-12, weight_decay=0.)
    for name, weights in (("with", start), ("without", None)):
        train_ensemble(DATA, FOLD, SMALL, still, tmp_path/name, pretrained=weights, tell=quiet)
    for f in (0, 1):
        with_, without = (load_file(tmp_path/name/f"fold{f}_seed0"/"model.safetensors") for name in ("with", "without"))
        assert all(torch.allclose(with_[k], start[k], atol=1e-6) for k in start)
        assert not all(torch.allclose(without[k], start[k], atol=1e-4) for k in start)


def test_planets_without_labels_are_pretrained_on_and_held_out_ones_never(tmp_path):
    config, seen = replace(TRAIN, epochs_mae=1, epochs_contrastive=1, epochs_supervised=1), []
    others = replace(toy(14, 5, first=500), label=np.full((14, 283), np.nan))
    def listen(told):
        if told["event"] == "epoch": seen.append(told["phase"])
    train_ensemble(DATA, FOLD, SMALL, config, tmp_path/"a", pretrain=others, tell=listen)
    assert seen[:2] == ["mae", "contrastive"] and seen.count("mae") == 2
    with pytest.raises(QualityGateError, match="leak|fold|both"): train_ensemble(DATA, FOLD, SMALL, config, tmp_path/"b", pretrain=DATA, tell=quiet)


@pytest.mark.parametrize("fold", [np.zeros(N, int), np.r_[0, np.ones(N - 1, int)]])
def test_too_few_folds_or_planets_are_refused(fold, tmp_path):
    with pytest.raises(DataError, match="two folds or more"): train_ensemble(DATA, fold, SMALL, TRAIN, tmp_path, tell=quiet)
    assert not list(tmp_path.iterdir())


def test_refused_numbers():
    for wrong in (dict(folds=1), dict(seeds=0)):
        with pytest.raises(ConfigError, match="ensemble: found"): EnsembleConfig(**wrong)


# ---------------------------------------------------------------- reading
def test_round_trip(trained):
    folder, ensemble, _, _ = trained
    again, names = read_ensemble(folder)
    new, other = toy(6, 4, first=700), read_ensemble(str(folder))[0]
    assert names == ("a", "b", "c") and again.gate == ensemble.gate and [m[:2] for m in again.members] == [m[:2] for m in ensemble.members]
    for k, v in ensemble.predict(new).items(): assert np.array_equal(again.predict(new)[k], v) and np.array_equal(other.predict(new)[k], v)


def edit(folder, change):
    told = json.loads((folder/"ensemble.json").read_text())
    change(told)
    (folder/"ensemble.json").write_text(json.dumps(told))


@pytest.mark.parametrize("name", ["../copy/fold0_seed0", "/etc", "fold0_seed0/..", "a/b"])
def test_a_member_outside_the_folder_is_refused(copied, name):
    edit(copied, lambda told: told["members"][1].update(folder=name))
    with pytest.raises(SchemaError, match="lies outside the folder"): read_ensemble(copied)


@pytest.mark.parametrize("key", ["members", "gate", "network", "sizes"])
def test_missing_keys_are_refused(copied, key):
    edit(copied, lambda told: told.pop(key))
    with pytest.raises(SchemaError, match="not an ensemble"): read_ensemble(copied)


@pytest.mark.parametrize("change", [lambda t: t["gate"].update(share=1), lambda t: t["network"].update(colour="red"), lambda t: t["network"]["fgs1"].update(layers=2),
                                    lambda t: t["members"][0].pop("fold"), lambda t: t.update(members=3)])
def test_other_keys_than_those_known_are_refused(copied, change):
    edit(copied, change)
    with pytest.raises(SchemaError, match="not an ensemble"): read_ensemble(copied)


def test_settings_out_of_range_are_refused(copied):
    edit(copied, lambda told: told["network"].update(dropout=2.))
    with pytest.raises(ConfigError, match="dropout"): read_ensemble(copied)


def test_tampered_lost_and_foreign_weights_are_refused(copied, trained):
    path = copied/"fold1_seed0"/"model.safetensors"
    data = bytearray(path.read_bytes()); data[-5] ^= 1; path.write_bytes(data)
    with pytest.raises(DataError, match="SHA-256"): read_ensemble(copied)
    path.unlink()
    with pytest.raises(DataError, match="no file"): read_ensemble(copied)
    shutil.rmtree(copied/"fold1_seed0"); shutil.copytree(trained[0]/"fold1_seed0", copied/"fold1_seed0")
    edit(copied, lambda told: told["network"].update(width=6))
    with pytest.raises(DataError, match="as the model has it"): read_ensemble(copied)
    with pytest.raises(DataError): read_ensemble(Path(copied)/"nowhere")


# ---------------------------------------------------------------- no planet has a say in its own prediction
def test_each_half_is_predicted_by_the_epoch_that_the_other_half_chose(tmp_path):
    "Every epoch's weights are kept here, so that the choice can be made again by hand."
    ensemble, held, reports = train_ensemble(DATA, FOLD, SMALL, replace(TRAIN, top_k=99), tmp_path, tell=quiet)
    differ = 0
    for f, _, model, scaling in ensemble.members:
        outside = np.flatnonzero(FOLD == f)
        half, info = halved(DATA.planet_id[outside]), json.loads((tmp_path/f"fold{f}_seed0"/"model.json").read_text())
        assert sorted(np.bincount(half).tolist()) == [8, 8]
        epochs = []
        for file in sorted((tmp_path/f"fold{f}_seed0"/"top").glob("*.safetensors")):
            load_state(model, load_file(file), file)
            epochs.append(predict(model, DATA, outside, scaling))
        assert len(epochs) == TRAIN.epochs_supervised + 1
        value = np.array([cell_gll(DATA.label[outside], e["mu"], e["sigma"], info["naive"]) @ np.r_[57.846, np.ones(282)] for e in epochs])
        chosen = [int(value[:, half == h].mean(1).argmax()) for h in (0, 1)]
        differ += chosen[0] != chosen[1]
        for h in (0, 1):
            rows = outside[half != h]
            np.testing.assert_allclose(held["network_mu"][rows], epochs[chosen[h]]["mu"][half != h], rtol=1e-12)
            np.testing.assert_allclose(held["network_sigma"][rows], epochs[chosen[h]]["sigma"][half != h], rtol=1e-12)
    assert differ, "both halves chose the same epoch everywhere: this shows nothing"


def test_a_network_that_learnt_nothing_is_let_in_by_chance_only(tmp_path):
    "Nothing to learn, twenty labels, many epochs to choose from: what the gate sees must not flatter."
    gains, open_ = [], 0
    for seed in range(6):
        data = toy(20, seed=100 + seed, useful=False)
        data = replace(data, mu=data.label + 7e-5*np.random.default_rng(seed).standard_normal((20, 1)))
        ensemble, held, _ = train_ensemble(data, np.arange(20) % 4, SMALL, replace(TRAIN, epochs_supervised=8, lr=3e-2, checkpoint_every_steps=0), tmp_path/str(seed), tell=quiet)
        naive = (data.label.mean(), data.label.std())
        gains.append((cell_gll(data.label, held["network_mu"], held["network_sigma"], naive) - cell_gll(data.label, data.mu, data.sigma, naive)).mean())
        open_ += (ensemble.gate.fgs1 > 0) + (ensemble.gate.airs > 0)
    assert np.mean(gains) < 1e-3 and open_ <= 2, (gains, open_)


def test_half_of_two_planets():
    assert halved(np.array([9, 4])).tolist() == [1, 0] and halved(np.array([3])).tolist() == [0]


# ---------------------------------------------------------------- the linear correction beside the networks
def test_the_better_source_is_let_in_for_each_instrument():
    truth, mu0, sigma0, _, _ = case(6, 150)
    error = mu0 - truth
    knows = np.where(np.arange(283) == 0, truth + .2*error, truth + .9*error), np.where(np.arange(283) == 0, .2, .9)*sigma0
    other = np.where(np.arange(283) == 0, truth + .9*error, truth + .2*error), np.where(np.arange(283) == 0, .9, .2)*sigma0
    gate = fit_gate(truth, mu0, sigma0, *knows, other)
    assert (gate.fgs1_by, gate.airs_by, gate.fgs1, gate.airs) == ("network", "linear", 1., 1.) and gate.of_network() == (1., 0.)
    mu, sigma = corrected(gate, mu0, sigma0, sources(knows, other))
    np.testing.assert_allclose(mu - truth, .2*error, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(sigma, .2*sigma0, rtol=1e-9)
    assert "linear" in gate.words() and "the network" in gate.words()
    assert fit_gate(truth, mu0, sigma0, *knows) == fit_gate(truth, mu0, sigma0, *knows, knows) or fit_gate(truth, mu0, sigma0, *knows).airs_by == "network"


def test_both_are_better_than_one_when_their_errors_differ():
    rng, truth = np.random.default_rng(0), case(7, 200)[0]
    s = 1e-4*np.ones_like(truth)
    one, two = (truth + 7e-5*rng.standard_normal((200, 1)), 7e-5*np.ones_like(truth)), (truth + 7e-5*rng.standard_normal((200, 1)), 7e-5*np.ones_like(truth))
    gate = fit_gate(truth, truth + 1e-4*rng.standard_normal((200, 1)), s, *one, two)
    assert gate.airs_by == "both" and gate.of_network() == (.5*gate.fgs1, .5*gate.airs)


def test_without_the_linear_correction(tmp_path):
    ensemble, held, _ = train_ensemble(DATA, FOLD, SMALL, TRAIN, tmp_path, EnsembleConfig(linear=False), tell=quiet)
    assert ensemble.linear is None and "linear_mu" not in held and (ensemble.gate.fgs1_by, ensemble.gate.airs_by) == ("network", "network")
    assert read_ensemble(tmp_path)[0].linear is None


@pytest.mark.parametrize("change, said", [
    (lambda d: d["linear"].update(alpha="much"), "linear"), (lambda d: d["linear"].pop("weight"), "keys"), (lambda d: d["linear"]["offset"].pop(), "offset"),
    (lambda d: d["linear"]["scale"].__setitem__(0, 0.), "above 0"), (lambda d: d["linear"]["factor"].__setitem__(0, "1e999"), "finite"),
    (lambda d: d["gate"].update(airs_by="luck"), "luck"), (lambda d: d.update(linear=None) or d["gate"].update(airs_by="linear"), "lets in")])
def test_a_damaged_linear_correction_is_refused(copied, change, said):
    told = json.loads((copied/"ensemble.json").read_text())
    change(told)
    (copied/"ensemble.json").write_text(json.dumps(told))
    with pytest.raises(SchemaError, match=said): read_ensemble(copied)
