"Rules that speak of a planet's star and orbit: where the constants come from, what is refused, what reaches training and maps."
import dataclasses

import numpy as np
import pytest
import torch

from spectramind.core.errors import ConfigError, UsageError
from spectramind.core.nouns import Spectra
from spectramind.physics.atmosphere import equilibrium_temperature_k
from spectramind.pipeline.config import load_config
from spectramind.pipeline.learning import Penalty, rule_violations, supervised_phase, symbolic_pack
from spectramind.simulate.population import draw_population
from spectramind.symbolic.language import CATALOGUE, KNOWN_CONSTANTS, Rule
from spectramind.symbolic.pack import StarTable, SymbolicPack, SymbolicWeights
from spectramind.symbolic.rules import compile_rule, scale_height_depth
from spectramind.symbolic.terms import spectral_grid
from spectramind.training.dataset import UNIT

torch.set_num_threads(1)
PLANETS = draw_population(12, 31)
IDS, STARS = np.array([p.planet_id for p in PLANETS]), [p.star for p in PLANETS]
MU = torch.tensor(np.array([p.depth for p in PLANETS]), dtype=torch.float32)
OFF = SymbolicWeights(0, 0, 0, 0, 0, 0)
HOT = "[{name: hot, expr: 'x >= 0.02 or ts_k < 6000', units: depth}]"


def column(field): return np.array([getattr(s, field) for s in STARS])


def test_every_name_has_its_column_and_unit():
    found = StarTable(STARS).of(IDS[::-1].copy(), MU.flip(0))
    assert set(found) == set(KNOWN_CONSTANTS)
    for name, field in CATALOGUE.items(): np.testing.assert_allclose(found[name].numpy(), column(field)[::-1], rtol=1e-6)
    np.testing.assert_allclose(found["teq_k"].numpy()[::-1], equilibrium_temperature_k(column("ts_k"), column("a_rs")), rtol=1e-6)
    wanted = scale_height_depth(MU[:, 1:].mean(1).numpy()**.5, *(column(k) for k in ("rs", "ts_k", "a_rs", "mp")))
    np.testing.assert_allclose(found["scale_height"].numpy()[::-1], wanted, rtol=1e-5)


def test_order_of_the_stars_does_not_matter_and_unknown_ones_are_nan():
    one, other = StarTable(STARS), StarTable(STARS[::-1])
    assert one == other and one.describe() == other.describe() and one != StarTable(STARS[1:])
    found = StarTable(STARS[1:]).of([int(IDS[0]), int(IDS[1]), 3], MU[:3], ("ts_k", "scale_height"))
    for v in found.values(): assert v.isnan().tolist() == [True, False, True]
    assert StarTable([]).of([3], MU[:1], ("ts_k",))["ts_k"].isnan().all()


def test_a_planet_without_a_mass_has_a_finite_scale_height():
    star = dataclasses.replace(STARS[0], mp=0.)
    assert StarTable([star]).of([star.planet_id], MU[:1], ("scale_height",))["scale_height"].isfinite().all()


def test_no_gradient_passes_through_a_constant():
    mu = MU.clone().requires_grad_()
    assert not StarTable(STARS).of(IDS, mu)["scale_height"].requires_grad


@pytest.mark.parametrize("name", KNOWN_CONSTANTS)
def test_each_constant_may_stand_in_a_rule(name):
    pack = SymbolicPack(OFF, [Rule("mine", f"mean(x) >= {name}", units="depth")], constants=KNOWN_CONSTANTS)
    constants = StarTable(STARS).of(IDS, MU, pack.needs)
    value = pack(MU, constants=constants)["total"]
    assert pack.needs == (name,)
    torch.testing.assert_close(value, torch.relu(constants[name] - MU.mean(1)), rtol=1e-4, atol=1e-6)


def test_units_of_a_scale_height():
    pack = SymbolicPack(OFF, [Rule("mine", "max(x) - min(x) <= 2", where="airs", units="scale_height")], constants=KNOWN_CONSTANTS)
    height = StarTable(STARS).of(IDS, MU, pack.needs)["scale_height"]
    assert pack.needs == ("scale_height",)
    torch.testing.assert_close(pack(MU, constants=dict(scale_height=height))["total"], torch.relu((MU[:, 1:].amax(1) - MU[:, 1:].amin(1))/height - 2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("expr, says", [("x >= 0 or t_k < 6000", "did you mean ts_k"), ("ts_k > 5000", "never looks at the spectrum"), ("x >= ts_k[H2O]", "only a value per bin"),
                                        ("x >= 0 or star.ts_k < 6000", "a dot"), ("mean(ts_k) < x", "needs a value per bin")])
def test_what_is_refused(expr, says):
    with pytest.raises(ConfigError, match=says): symbolic_pack(load_config(["loss=none", "loss.symbolic.enabled=true", f"loss.symbolic.rules=[{{name: mine, expr: '{expr}'}}]"]).loss)


def test_a_constant_that_is_not_given_is_refused_by_name():
    rule = compile_rule(Rule("mine", "x >= 0 or ts_k < 6000"), spectral_grid(), KNOWN_CONSTANTS)
    with pytest.raises(UsageError, match="ts_k is not given"): rule(MU)
    with pytest.raises(UsageError, match="has 3 values, wanted one per planet, 12"): rule(MU, constants=dict(ts_k=[1., 2., 3.]))


def loss(*more): return load_config(["loss=none", "loss.symbolic.enabled=true", f"loss.symbolic.rules={HOT}", *more]).loss


def batch(rows): return dict(planet_id=torch.tensor(IDS[rows]), mu=MU[rows]/UNIT)


def test_the_supervised_phase_looks_stars_up_by_the_planets_ids():
    penalty = supervised_phase(loss(), 1e-4, StarTable(STARS)).penalty
    hot = np.flatnonzero(column("ts_k") >= 6000)
    assert 0 < len(hot) < 12
    for rows in (np.arange(12), np.array([5, 2, 9]), hot):
        out = dict(mu=MU[rows]/UNIT, sigma=torch.ones(len(rows), 283))
        wanted = torch.minimum(torch.relu(.02 - MU[rows]), torch.relu(torch.tensor(column("ts_k")[rows, None] - 6000., dtype=torch.float32))).mean()
        torch.testing.assert_close(penalty(out, batch(rows))[0], wanted, rtol=1e-4, atol=1e-8)


def test_training_without_the_star_is_refused():
    out = dict(mu=MU[:2]/UNIT, sigma=torch.ones(2, 283))
    with pytest.raises(ConfigError, match="nothing is known of the stars"): supervised_phase(loss(), 1e-4).penalty(out, batch(np.arange(2)))
    with pytest.raises(ConfigError, match=f"planet {IDS[0]}"): supervised_phase(loss(), 1e-4, StarTable(STARS[1:])).penalty(out, batch(np.arange(2)))


def test_a_checkpoint_knows_the_stars_only_where_rules_speak_of_them():
    with_stars, without = supervised_phase(loss(), 1e-4, StarTable(STARS)).penalty.describe(), supervised_phase(load_config().loss, 1e-4, StarTable(STARS)).penalty.describe()
    assert with_stars["stars"] == StarTable(STARS).describe() and "stars" not in without
    assert isinstance(supervised_phase(load_config().loss, 1e-4).penalty, Penalty)


def test_maps_leave_out_planets_whose_star_is_not_known():
    pack = symbolic_pack(loss("loss.nonneg.enabled=true"))
    spectra = Spectra(IDS, -MU.double().numpy(), np.full((12, 283), 1e-4), ("physics",)*12)
    maps, silent = rule_violations(pack, spectra, 1e-4, STARS[:-2])
    hot = column("ts_k") >= 6000
    assert silent == [int(p) for p in IDS[-2:]] and set(maps) == {"nn", "hot"}
    assert ((maps["hot"].sum(1) > 0) == (hot & (np.arange(12) < 10))).all() and (maps["nn"].sum(1) > 0).all()
    assert rule_violations(symbolic_pack(load_config().loss), spectra, 1e-4, [])[1] == []
