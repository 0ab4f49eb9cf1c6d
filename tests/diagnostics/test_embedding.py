"Maps: axes of the largest variance, the same on every machine, honest about what they lose. Periodograms: three names, given at the promised rates."
import sys
from collections import Counter

import numpy as np
import pytest

from spectramind.core.errors import ConfigError, UsageError
from spectramind.diagnostics import embedding, periodogram


def clumps(seed=0, n=15):
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(3), n)
    return rng.normal(size=(3, 12))[which]*3 + rng.normal(size=(3*n, 12)), which


def test_components_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA
    vectors, _ = clumps()
    found, scaled = embedding.principal_components(vectors), (vectors - vectors.mean(0))/vectors.std(0)
    theirs = PCA(2).fit(scaled)
    np.testing.assert_allclose(np.abs(found.place(vectors)), np.abs(theirs.transform(scaled)), rtol=1e-8)
    np.testing.assert_allclose(found.explained[:2], theirs.explained_variance_ratio_, rtol=1e-8)
    plain = embedding.principal_components(vectors*[1e3, *[1.]*11], scaled=False)
    assert np.abs(plain.axes[0, 0]) > .99                                                # left as they are, the loudest coordinate wins


def test_signs_are_settled_and_planets_are_placed_one_by_one():
    vectors, _ = clumps()
    found = embedding.principal_components(vectors)
    assert all(row[np.abs(row).argmax()] > 0 for row in found.axes)
    mirrored = embedding.principal_components(-vectors)
    np.testing.assert_allclose(mirrored.axes, found.axes, atol=1e-9)
    np.testing.assert_allclose(found.place(vectors[3:4])[0], found.place(vectors)[3])
    stuck = np.column_stack([vectors, np.full(len(vectors), 7.)])
    np.testing.assert_allclose(embedding.principal_components(stuck).place(stuck), found.place(vectors), atol=1e-9)


@pytest.mark.parametrize("vectors", [np.zeros((2, 5)), np.ones((6, 5)), np.full((6, 5), np.nan), np.zeros(5), np.zeros((9, 1))], ids=["two", "same", "nan", "flat", "narrow"])
def test_vectors_that_have_no_axes_are_refused(vectors):
    with pytest.raises(UsageError, match="vectors"): embedding.principal_components(vectors)


def test_members_are_put_side_by_side_and_spectra_lose_their_size():
    latent = np.arange(24.).reshape(2, 3, 4)
    assert embedding.side_by_side(latent)[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    for bad in (latent[0], latent*np.nan, np.zeros((0, 3, 4))):
        with pytest.raises(UsageError, match="latent"): embedding.side_by_side(bad)
    mu = np.random.default_rng(0).uniform(.009, .011, (4, 283))
    np.testing.assert_allclose(embedding.spectral_shapes(3*mu), embedding.spectral_shapes(mu))
    assert np.abs(embedding.spectral_shapes(mu)[:, 1:].mean(1)).max() < 1e-12


def test_what_a_page_keeps():
    vectors, _ = clumps()
    points = embedding.principal_components(vectors).place(vectors)
    shuffled = points[np.random.default_rng(1).permutation(len(points))]
    assert embedding.neighbours_kept(points, points) == 1 == embedding.neighbours_kept(points, 5*points + 1)
    assert embedding.neighbours_kept(vectors, points) > .35 > embedding.neighbours_kept(vectors, shuffled)
    assert embedding.neighbours_kept(vectors[:3], points[:3]) >= 0


def test_umap_keeps_clumps_together_and_the_seed_fixes_it(monkeypatch):
    vectors, which = clumps(n=10)
    state = np.random.get_state()[1].copy()
    drawn = embedding.umap_points(vectors, seed=3)
    np.testing.assert_array_equal(drawn, embedding.umap_points(vectors, seed=3))
    np.testing.assert_array_equal(np.random.get_state()[1], state)                       # nobody else's numbers are touched
    middle = np.array([drawn[which == c].mean(0) for c in range(3)])
    assert drawn.shape == (30, 2) and (np.linalg.norm(drawn[:, None] - middle, axis=2).argmin(1) == which).mean() > .95
    with pytest.raises(UsageError, match="found 3 planets"): embedding.umap_points(vectors[:3])
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match="umap-learn is not installed"): embedding.umap_points(vectors)


T = np.arange(280)*.0267


def residuals(kind, rng, n=2):
    white = rng.normal(size=(n, len(T)))
    walk = rng.normal(size=white.shape).cumsum(1)
    walk = (walk - walk.mean(1, keepdims=True))/walk.std(1, keepdims=True)
    more = dict(white=0, red=.6*walk, steep=2*walk, periodic=.7*np.sin(2*np.pi*T/.8 + rng.uniform(0, 6)))[kind]
    return [(T, row) for row in white + more]


def test_power_is_that_of_the_fast_transform_and_has_mean_one_for_white_noise():
    rng, means = np.random.default_rng(0), []
    for _ in range(20):
        r = rng.normal(3, 5, size=280)
        frequency, power = periodogram.periodogram(T, r)
        centred = r - r.mean()
        np.testing.assert_allclose(power, np.abs(np.fft.rfft(centred))[1:140]**2/(centred**2).sum(), rtol=1e-8, atol=1e-10)
        means.append(power.mean())
    np.testing.assert_allclose(frequency, np.fft.rfftfreq(280, .0267)[1:140])
    assert abs(np.mean(means) - 1) < .02


@pytest.mark.parametrize("kind,wanted", [("white", "white"), ("red", "red"), ("steep", "red"), ("periodic", "periodic")])
def test_each_kind_gets_its_name(kind, wanted):
    rng = np.random.default_rng(1)
    assert Counter(periodogram.noise_class(residuals(kind, rng)).name for _ in range(60))[wanted] >= 57


def test_white_noise_is_seldom_called_something_else():
    rng = np.random.default_rng(2)
    found = Counter(periodogram.noise_class(residuals("white", rng)).name for _ in range(1500))
    assert found["white"] >= 1488                                                        # promised: 2 in 1,000, and twice that for the peak


def test_the_period_is_found_and_the_unit_does_not_matter():
    rng = np.random.default_rng(3)
    rows = residuals("periodic", rng)
    found, scaled = periodogram.noise_class(rows), periodogram.noise_class([(t, 1e-6*r) for t, r in rows])
    assert found.name == scaled.name == "periodic" and abs(found.period_h - .8) < .06 and found.p_period < 1e-6
    np.testing.assert_allclose([found.p_red, found.red], [scaled.p_red, scaled.red], rtol=1e-6)


def test_a_slow_wave_is_red_not_periodic():
    rng = np.random.default_rng(4)
    slow = [(T, r + 1.5*np.sin(2*np.pi*T/T[-1]*2)) for _, r in residuals("white", rng)]    # twice in a visit
    assert periodogram.noise_class(slow).name == "red"


def test_gaps_do_not_make_a_period():
    rng = np.random.default_rng(5)
    keep = np.ones(280, bool); keep[100:120] = False; keep[::37] = False
    found = Counter(periodogram.noise_class([(t[keep], r[keep]) for t, r in residuals("white", rng)]).name for _ in range(200))
    assert found["white"] >= 195
    assert periodogram.noise_class([(t[keep], r[keep]) for t, r in residuals("periodic", rng)]).name == "periodic"


def test_one_bad_visit_among_many_is_enough_and_more_residuals_ask_for_more():
    rng = np.random.default_rng(6)
    rows = residuals("white", rng, 5) + residuals("red", rng, 1)
    assert periodogram.noise_class(rows).name == "red"
    few, many = periodogram.noise_class(rows[-1:]), periodogram.noise_class(rows)
    np.testing.assert_allclose(many.p_red, 6*few.p_red)


@pytest.mark.parametrize("bad", [[], [(T[:20], np.ones(20))], [(T, np.ones(280))], [(T, np.full(280, np.nan))], [(T[:100], np.ones(280))]], ids=["none", "short", "constant", "nan", "shapes"])
def test_residuals_that_cannot_be_named_are_refused(bad):
    with pytest.raises(UsageError, match="residual"): periodogram.noise_class(bad)
