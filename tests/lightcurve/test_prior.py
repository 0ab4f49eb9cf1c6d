"The spectral prior: conditioning against brute force, recovery of scales, cross-fitting, refusals."
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spectramind.core.errors import DataError, SchemaError
from spectramind.core.nouns import DepthPosterior
from spectramind.challenge.wavelength import default_wavelengths
from spectramind.lightcurve import prior as P

UM = default_wavelengths()


def population(n, seed=0):
    rng = np.random.default_rng(seed)
    bands = sum(rng.normal(size=(n, 1))*np.exp(-.5*((UM - c)/.15)**2) for c in (2.0, 2.4, 2.7, 3.3))
    bands -= bands[:, 1:].mean(1, keepdims=True)
    size = np.where(rng.random(n) < .5, 2e-5, 2.5e-4)[:, None]
    out = np.exp(rng.normal(np.log(.012), .5, (n, 1))) + size*bands
    out[:, 0] += size[:, 0]*rng.normal(0, 1.5, n)
    return out


@pytest.fixture(scope="module")
def prior(): return P.fit_prior(population(60), kernel=P.Kernel(blend=.4, nugget=.03))


def test_one_scale_is_plain_gaussian_conditioning(prior):
    only = P.SpectralPrior(**{**{k: getattr(prior, k) for k in prior.__dataclass_fields__}, "scale_weight": np.eye(17)[8] + 1e-300, "model_error": 0.})
    cov = np.diag(np.linspace(60e-6, 300e-6, 283)**2) + 40e-6**2
    y = population(1, 3)[0]
    mu, post = P.apply_prior(DepthPosterior(1, y, cov, {}, {}, {}), only)
    K = P.SCALES[8]**2*prior.covariance() + prior.level_sd**2
    gain = K@np.linalg.inv(K + cov)
    np.testing.assert_allclose(mu, prior.mean_level + gain@(y - prior.mean_level), rtol=1e-7)
    np.testing.assert_allclose(post, K - gain@K, atol=2e-13)


def test_flat_is_seen_as_flat_and_bands_are_kept(prior):
    cov = np.diag(np.full(283, 120e-6)**2)
    rng = np.random.default_rng(1)
    band = np.exp(-.5*((UM - 3.3)/.15)**2)
    for amplitude in (0., 1e-3):
        truth = .012 + amplitude*band
        mu, post = P.apply_prior(DepthPosterior(1, truth + 120e-6*rng.standard_normal(283), cov, {}, {}, {}), prior)
        assert np.std(mu[1:] - truth[1:]) < 45e-6
        if amplitude == 0: flat = np.sqrt(np.diag(post)[1:].mean())
        else: assert np.sqrt(np.diag(post)[1:].mean()) > 1.3*flat


@settings(max_examples=8, deadline=None)
@given(st.floats(20e-6, 1e-3), st.floats(0, 5e-4))
def test_a_prior_never_adds_uncertainty_beyond_the_data_or_breaks_symmetry(noise, common):
    prior = P.fit_prior(population(24), kernel=P.Kernel(blend=.4))
    cov = np.diag(np.full(283, noise**2)) + common**2
    mu, post = P.apply_prior(DepthPosterior(1, population(1, 5)[0], cov, {}, {}, {}), prior)
    assert np.isfinite(mu).all() and np.allclose(post, post.T)
    assert np.linalg.eigvalsh(post).min() > -1e-12


def test_recalibration_finds_bias_and_overconfidence():
    truth, rng = population(60, 2), np.random.default_rng(3)
    cov = np.diag(np.full(283, 100e-6)**2) + 50e-6**2
    seen = truth*1.01 + rng.multivariate_normal(np.zeros(283), cov, 60)
    folds = {i: i % 5 for i in range(60)}
    posts = [DepthPosterior(i, seen[i], cov/4, {}, {}, dict(flag=False)) for i in range(60)]
    learnt = P.learn_prior(posts, truth, folds)
    assert learnt.bias[:, 0] == pytest.approx((.01, .01), abs=.004)
    assert np.exp(learnt.spread[:, 0]).min() > 1.2
    fair = P.learn_prior([DepthPosterior(i, truth[i] + (seen - 1.01*truth)[i], cov, {}, {}, dict(flag=False)) for i in range(60)], truth, folds)
    assert np.abs(fair.bias).max() < .004 and np.abs(fair.spread[:, 0]).max() < .22


def test_rows_for_the_unknown_are_wide_and_counted(prior):
    table = P.predict_spectra([DepthPosterior(5, np.full(283, np.nan), np.eye(283), {}, {}, dict(flag=True, reason="x"))], prior)
    assert table.origin == ("prior",) and np.isfinite(table.mu).all()
    assert (table.sigma == 1.25*prior.naive_sd).all() and table.mu[0, 0] == prior.mean_level
    assert P.predict_spectra([], prior).mu.shape == (0, 283)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_few_labels_give_a_broad_prior(n):
    few, truth = P.fit_prior(population(n, 7)), population(1, 11)[0]
    cov = np.diag(np.full(283, 100e-6)**2)
    mu, post = P.apply_prior(DepthPosterior(1, truth + 100e-6*np.random.default_rng(n).standard_normal(283), cov, {}, {}, {}), few)
    z = (mu - truth)/np.sqrt(np.diag(post))
    assert np.abs(z).max() < 6 and np.sqrt((z**2).mean()) < 2
    learnt = P.learn_prior([DepthPosterior(i, np.full(283, .01), cov, {}, {}, dict(flag=False)) for i in range(n)], population(n, 7), {i: i % 5 for i in range(n)})
    assert np.isfinite(learnt.spread).all() and np.isfinite(learnt.bias).all() and P.prior_row(learnt)[1].min() > 1e-3


def test_json_round_trip_and_refusals(prior):
    again = P.SpectralPrior.from_dict(json.loads(json.dumps(prior.to_dict())))
    assert np.array_equal(again.covariance(), prior.covariance()) and again.foreground == prior.foreground
    broken = prior.to_dict(); broken.pop("level_sd")
    with pytest.raises(SchemaError, match="level_sd"): P.SpectralPrior.from_dict(broken)
    with pytest.raises(SchemaError): P.SpectralPrior.from_dict({**prior.to_dict(), "scale_weight": [1.]})
    labels = population(10); labels[3, 4] = np.nan
    with pytest.raises(DataError, match="1 values"): P.fit_prior(labels)
    with pytest.raises(DataError, match="at least one"): P.fit_prior(labels[:0])
    with pytest.raises(DataError, match="posteriors"): P.learn_prior([], population(5), {})


def test_a_level_that_the_prior_moves_far_is_widened(prior):
    cov = np.diag(np.full(283, 50e-6)**2)
    posterior = DepthPosterior(1, np.full(283, .012), cov, {}, {}, {})
    assert P.disagreement(posterior, posterior.mean) == 0
    level = np.sqrt(cov[1:, 1:].mean())
    assert P.disagreement(posterior, posterior.mean + 10*level) == pytest.approx(7*level, rel=1e-6)
