"Loaders, scaling and splits."
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ddp_worker import TRAIN, made_up
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import DataError, QualityGateError, SchemaError, UsageError
from spectramind.training.dataset import (LIMIT, UNIT, Scaling, batches, check_examples, check_split, fit_scaling, load_plan, make_batch,
                                          plan_epoch)

torch.set_num_threads(1)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 12), accumulate=st.integers(1, 4), world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_every_planet_once_and_shares_sum_to_one(n, batch_size, accumulate, world, epoch):
    rows = 100 + np.arange(n)
    plans = [plan_epoch(rows, batch_size, seed=1, epoch=epoch, rank=r, world=world, accumulate=accumulate) for r in range(world)]
    assert len({tuple((m.step, m.last) for m in p) for p in plans}) == 1                        # all ranks make the same passes
    steps = -(-n//batch_size)
    whole = [np.sort(np.concatenate([m.rows for p in plans for m in p if m.step == s and m.share])) for s in range(steps)]
    assert np.array_equal(np.sort(np.concatenate(whole)), rows)
    order = plan_epoch(rows, batch_size, seed=1, epoch=epoch)
    assert all(np.array_equal(np.sort(m.rows), w) for m, w in zip(order, whole, strict=True))   # steps as one process has them
    for s in range(steps):
        assert abs(sum(m.share for p in plans for m in p if m.step == s) - 1) < 1e-12
        assert all([m.last for m in p if m.step == s].count(True) == 1 and [m for m in p if m.step == s][-1].last for p in plans)
    assert max(len(m.rows) for p in plans for m in p) <= -(-batch_size//(accumulate*world))


def test_starting_in_the_middle_gives_the_rest():
    whole, rest = plan_epoch(TRAIN, 5, seed=2, epoch=1), plan_epoch(TRAIN, 5, seed=2, epoch=1, start=3)
    assert [m.step for m in rest] == [3, 4]
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(whole[3:], rest, strict=True))
    ordered = plan_epoch(TRAIN, 5, shuffle=False)
    assert np.array_equal(np.concatenate([m.rows for m in ordered]), TRAIN)
    addresses = (dict(seed=2, epoch=1), dict(seed=2, epoch=2), dict(seed=3, epoch=1), dict(seed=2, epoch=1, name='mae'))
    others = [np.concatenate([m.rows for m in plan_epoch(TRAIN, 5, **k)]) for k in addresses]
    assert len({tuple(o) for o in others}) == 4


def test_augmentation_is_addressed_and_threads_change_nothing():
    examples = made_up()
    scaling = fit_scaling(examples, TRAIN)
    def augment(batch, generator): return {**batch, 'mu': batch['mu'] + torch.randn(batch['mu'].shape, generator=generator)}
    plan = plan_epoch(TRAIN, 5, seed=2)
    plain, threads = ([b['mu'] for _, b in load_plan(examples, plan, scaling, seed=2, augment=augment, workers=w)] for w in (0, 3))
    late = [b['mu'] for _, b in load_plan(examples, plan_epoch(TRAIN, 5, seed=2, start=3), scaling, seed=2, augment=augment)]
    assert len(plain) == len(threads) == 5 and all(torch.equal(a, b) for a, b in zip(plain, threads))
    assert all(torch.equal(a, b) for a, b in zip(plain[3:], late, strict=True))
    clean = [b['mu'] for _, b in load_plan(examples, plan, scaling)]
    assert .8 < torch.cat([a - b for a, b in zip(plain, clean)]).std() < 1.2
    for spoil in (lambda b, g: {**b, 'mu': b['mu'][:1]}, lambda b, g: None, lambda b, g: {k: v for k, v in b.items() if k != 'mu'}):
        with pytest.raises(SchemaError, match='augment'): list(load_plan(examples, plan, scaling, augment=spoil))


def test_a_failing_thread_is_heard_and_closing_early_is_clean():
    examples = made_up()
    scaling = fit_scaling(examples, TRAIN)
    def fail(batch, generator): raise ValueError('broken')
    with pytest.raises(ValueError, match='broken'): list(batches(examples, TRAIN, scaling, 4, augment=fail, workers=2, pin=False))
    found = batches(examples, TRAIN, scaling, 4, workers=2, pin=False)
    assert next(found)['mu'].shape == (4, 283)
    found.close()


def test_batch_values():
    examples = made_up()
    examples.label[3, 5] = np.nan
    examples.series_valid[2, 4] = False
    examples.series[2, 4] = np.nan
    scaling = fit_scaling(examples, TRAIN)
    before = {k: np.copy(v) for k, v in vars(examples).items()}
    batch = make_batch(examples, np.array([3, 2]), scaling)
    assert all(np.array_equal(before[k], v, equal_nan=True) for k, v in vars(examples).items())    # inputs untouched
    assert batch['planet_id'].tolist() == [1003, 1002] and torch.isnan(batch['label'][0, 5]) and not torch.isnan(batch['label'][1]).any()
    assert (batch['series'][1, 4] == 0).all() and all(torch.isfinite(batch[k]).all() for k in ('series', 'nodes', 'planet', 'target'))
    np.testing.assert_allclose(batch['sigma'].numpy(), .5, rtol=1e-6)
    wanted = (examples.nodes[3].astype(float) - scaling.centre['nodes'])/scaling.spread['nodes']
    np.testing.assert_allclose(batch['nodes'][0].numpy(), np.clip(wanted, -LIMIT, LIMIT), rtol=1e-5, atol=1e-6)
    assert np.abs(batch['target'].double().mean(1).numpy()).max() < .2 and UNIT == 1e-4


def test_scaling_knows_training_rows_only_and_survives_json():
    examples, other = made_up(), made_up()
    other.nodes[24:] += 5; other.planet[24:] *= 7; other.series[24:] = 3; other.mu[24:] = .5
    a, b = fit_scaling(examples, TRAIN), fit_scaling(other, TRAIN)
    assert a.to_dict() == b.to_dict() == Scaling.from_dict(a.to_dict()).to_dict()
    constant = made_up(); constant.planet[:, 2] = 4.
    scaling = fit_scaling(constant, TRAIN)
    assert scaling.spread['planet'][2] == 1 and (make_batch(constant, TRAIN[:3], scaling)['planet'][:, 2] == 0).all()
    far = made_up(); far.planet[0, 0] = 1e9
    assert make_batch(far, np.array([0]), a)['planet'][0, 0] == LIMIT


@pytest.mark.parametrize('change', [
    lambda d: d.pop('shape'), lambda d: d['spread'].pop('nodes'), lambda d: d['spread'].update(nodes=[0., 1., 1.]),
    lambda d: d['centre'].update(nodes=[0., 1.]), lambda d: d.update(limit='wide'), lambda d: d.update(shape=-1.),
    lambda d: d['centre'].update(planet=[float('nan')]*5)])
def test_damaged_scalings_are_refused(change):
    document = fit_scaling(made_up(), TRAIN).to_dict()
    change(document)
    with pytest.raises(SchemaError, match='scaling'): Scaling.from_dict(document)


def with_field(**fields): return SimpleNamespace(**{**vars(made_up(8)), **fields})


@pytest.mark.parametrize('fields, words', [
    (dict(mu=np.ones((8, 282))), 'examples.mu: found shape'), (dict(series=np.ones((8, 16))), 'examples.series'),
    (dict(nodes=np.ones((7, 283, 3))), 'examples.nodes'),
    (dict(sigma=np.zeros((8, 283))), 'examples.sigma: found 2264 values that are not positive'),
    (dict(planet=np.full((8, 5), np.nan)), 'examples.planet.*planet 1000'),
    (dict(label=np.full((8, 283), np.inf)), 'examples.label')])
def test_damaged_examples_are_refused(fields, words):
    with pytest.raises(SchemaError, match=words): check_examples(with_field(**fields))


def test_refusals():
    examples = made_up()
    scaling = fit_scaling(examples, TRAIN)
    for rows, words in (([0, 0], 'more than once'), ([40], '0 to 31'), ([-1], '0 to 31'), ([.5], 'whole numbers')):
        with pytest.raises(UsageError, match=words): list(batches(examples, np.array(rows), scaling, 4, pin=False))
    with pytest.raises(UsageError, match='rows'): fit_scaling(examples, np.zeros(0, int))
    with pytest.raises(DataError, match='series'): fit_scaling(with_field(series_valid=np.zeros((8, 16), bool)), np.arange(4))
    for k in (dict(batch_size=0), dict(accumulate=0), dict(rank=2, world=2), dict(world=0), dict(start=-1)):
        with pytest.raises(UsageError, match='wanted'): plan_epoch(TRAIN, **(dict(batch_size=4) | k))
    with pytest.raises(SchemaError, match='planet: found 5 channels'):
        make_batch(examples, TRAIN[:2], Scaling(scaling.centre | dict(planet=np.zeros(4)), scaling.spread | dict(planet=np.ones(4)), 1e-4))
    assert list(batches(examples, np.zeros(0, int), scaling, 4, pin=False)) == []


def test_leakage():
    check_split([1, 2], [3, 4], [1, 2, 5])
    with pytest.raises(QualityGateError, match='leakage'): check_split([1, 2, 3], ['3.0'])
    with pytest.raises(QualityGateError, match='pretraining.*4'): check_split([1, 2], [3, 4], np.array([4, 9]))
