"""Predictions of labelled planets as if they were new: what of their own labels can reach them, and what cannot.

Reading the code, a row depends on labels in three ways. (1) The prior and the population are learnt from the other folds: no label of the planet's own fold enters.
(2) The kernel's four parts are chosen once, from all labels. (3) The recalibration's few numbers come from the errors of the other folds' planets; those errors are
the others' own, but the priors behind their predictions have seen this fold. The tests hold (1) to the bit and bound (3)."""
from dataclasses import replace

import numpy as np
import pytest

from spectramind.challenge.wavelength import default_wavelengths
from spectramind.core.errors import DataError
from spectramind.core.nouns import DepthPosterior
from spectramind.lightcurve import prior as P

UM, N, FOLDS = default_wavelengths(), 12, 3
SD = np.r_[60e-6, np.linspace(75e-6, 250e-6, 282)]
COV = np.diag(SD**2) + 30e-6**2


def made(seed=0, n=N, population=True):
    rng = np.random.default_rng(seed)
    band = np.exp(-.5*((UM - 3.3)/.12)**2) + .6*np.exp(-.5*((UM - 2.4)/.15)**2)*rng.normal(1, .3, (n, 1))
    truth = np.exp(rng.normal(np.log(.012), .4, n))[:, None] + np.where(rng.random(n) < .5, 2e-5, 3e-4)[:, None]*(band - band.mean(1, keepdims=True))
    seen = 1.003*truth + rng.multivariate_normal(np.zeros(283), COV, n)
    def shared():
        if not population: return {}
        return dict(population=dict(kinds=["limb"], sizes=[6], mean=rng.normal(0, .02, 6), cov=.03**2*np.eye(6), prior_sd=np.full(6, .05),
                                    cross=1e-7*rng.standard_normal((283, 6)), star=np.array([1., *rng.normal(size=2)])))
    posts = [DepthPosterior(100 + i, seen[i], COV, shared(), {}, dict(flag=False)) for i in range(n)]
    return posts, truth, {100 + i: i % FOLDS for i in range(n)}


@pytest.fixture
def pinned(monkeypatch):
    "The kernel that labels would choose is fixed: way (2) is closed, and the tests are quick."
    monkeypatch.setattr(P, "choose_kernel", lambda shapes, scale, start, folds: (replace(start, blend=.4), {}))


@pytest.fixture(scope="module")
def base():
    "Planets, their cross-fitted predictions, and what was found on the way, with the pinned kernel."
    posts, labels, folds = made(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(P, "choose_kernel", lambda shapes, scale, start, folds: (replace(start, blend=.4), {}))
        return posts, labels, folds, P.cross_fit(posts, labels, folds), P._learn(posts, labels, folds)


def moved(labels, rows, seed=5):
    "Other, believable labels for some planets."
    rng, out = np.random.default_rng(seed), labels.copy()
    out[rows] = out[rows]*(1 + .1*rng.standard_normal((len(rows), 1))) + 1e-4*np.sin(5*UM)*rng.standard_normal((len(rows), 1))
    return out


def test_without_recalibration_no_label_of_its_fold_reaches_a_planet(pinned, base, monkeypatch):
    monkeypatch.setattr(P, "recalibrate", lambda found, level: {})               # way (3) is closed
    posts, labels, folds, _, (_, _, parts, fold) = base
    plain = {f: P.predict_spectra([posts[i] for i in np.flatnonzero(fold == f)], part) for f, part in parts.items()}
    _, mu, sigma = P.cross_fit(posts, moved(labels, np.flatnonzero(fold == 2)), folds)      # its own label and all others of its fold
    assert np.array_equal(mu[fold == 2], plain[2].mu) and np.array_equal(sigma[fold == 2], plain[2].sigma)
    assert all((mu[fold == f] != plain[f].mu).any(1).all() for f in (0, 1))                 # the others have seen it


def test_the_priors_of_a_fold_have_not_seen_it(pinned, base):
    posts, labels, folds, _, (_, _, parts, fold) = base
    again = P._learn(posts, moved(labels, np.flatnonzero(fold == 1)), folds)[2]
    assert parts.keys() == {0, 1, 2} and again[1].to_dict() == parts[1].to_dict()
    assert all(again[f].to_dict() != parts[f].to_dict() for f in (0, 2))
    assert all(part.n_labels == 8 and (part.bias == 0).all() and (part.spread == 0).all() for part in parts.values())


def test_what_comes_back_through_the_recalibration_is_small(pinned, base):
    posts, labels, folds, (_, mu, sigma), _ = base
    other = moved(labels, [6])
    _, again, width = P.cross_fit(posts, other, folds)
    assert np.abs(other[6] - labels[6]).max() > 2*sigma[6].min()
    assert np.abs((again - mu)/sigma)[6].max() < .02 and np.abs(np.log(width/sigma))[6].max() < .03


def test_a_planets_own_error_does_not_recalibrate_it(base):
    posts, labels, _, (_, mu, sigma), (_, found, parts, fold) = base
    for i in (0, 7, 11):
        others = {j: v for j, v in found.items() if fold[j] != fold[i]}
        assert i not in others and len(others) == 8
        prior = replace(parts[fold[i]], **P.recalibrate(others, labels[:, 1:].mean(1)))
        row = P.predict_spectra([posts[i]], prior)
        assert np.array_equal(row.mu[0], mu[i]) and np.array_equal(row.sigma[0], sigma[i])


def test_another_kernel_is_another_answer(base, monkeypatch):
    posts, labels, folds, (_, mu, _), _ = base
    monkeypatch.setattr(P, "choose_kernel", lambda shapes, scale, start, folds: (replace(start, blend=.93), {}))
    assert (P.cross_fit(posts, labels, folds)[1] != mu).any(1).all()


def test_the_prior_is_that_of_learn_prior_and_predictions_keep_their_promise(monkeypatch):
    monkeypatch.setattr(P, "CHOICES", dict(length_um=(.12,), blend=(.4, .75), fine=(.08,), nugget=(1e-3,)))
    posts, labels, folds = made(5)
    prior, mu, sigma = P.cross_fit(posts, labels, folds)
    assert prior.to_dict() == P.learn_prior(posts, labels, folds).to_dict()
    z = (mu - labels)/sigma
    assert mu.shape == sigma.shape == (N, 283) and (sigma > 0).all() and .45 < (np.abs(z) < 1).mean() < .9 and np.abs(z.mean()) < .5
    assert np.sqrt(((mu - labels)[:, 1:]**2).mean()) < .6*np.sqrt(np.mean([(p.mean - t)[1:]**2 for p, t in zip(posts, labels)]))


def test_order_does_not_matter_and_nothing_is_changed_in_place(pinned, base):
    posts, labels, folds, (_, mu, sigma), _ = base
    before = labels.copy()
    order = np.random.default_rng(0).permutation(N)
    _, again, width = P.cross_fit([posts[i] for i in order], labels[order], folds)
    assert np.array_equal(labels, before)
    np.testing.assert_allclose(again, mu[order], rtol=1e-6); np.testing.assert_allclose(width, sigma[order], rtol=1e-4)


def test_a_flagged_planet_gets_the_wide_row_of_its_folds_prior(pinned, base):
    posts, labels, folds, _, (_, _, _, fold) = base
    posts = [*posts[:3], replace(posts[3], mean=np.full(283, np.nan), quality=dict(flag=True, reason="no transit")), *posts[4:]]
    _, mu, sigma = P.cross_fit(posts, labels, folds)
    level, width = P.prior_row(P.fit_prior(labels[fold != fold[3]]))
    assert np.array_equal(mu[3], level) and np.array_equal(sigma[3], width) and np.isfinite(mu).all()
    assert sigma[3].min() > 5*np.delete(sigma, 3, 0).max()


def test_refused(pinned):
    posts, labels, folds = made(8)
    with pytest.raises(DataError, match="12 posteriors and 11 labels"): P.cross_fit(posts, labels[:-1], folds)
    with pytest.raises(DataError, match="with a sound fit, wanted 8 or more"): P.cross_fit(posts, labels, dict.fromkeys(folds, 0))
    with pytest.raises(DataError, match="with a sound fit, wanted 8 or more"): P.cross_fit(posts[:7], labels[:7], folds)
    flagged = [replace(p, quality=dict(flag=True)) for p in posts[:6]] + posts[6:]
    with pytest.raises(DataError, match="6 with a sound fit"): P.cross_fit(flagged, labels, folds)
    lopsided = {k: 0 if i < 10 else 1 for i, k in enumerate(folds)}               # two planets cannot teach a prior to the other ten
    with pytest.raises(DataError, match="two folds or more"): P.cross_fit(posts, labels, lopsided)
    labels[4, 7] = np.nan
    with pytest.raises(DataError, match="1 values that are not finite"): P.cross_fit(posts, labels, folds)
