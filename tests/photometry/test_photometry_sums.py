import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectramind.core.errors import UsageError
from spectramind.photometry.sums import flux_variance, pixel_means, pixel_means_ref, pixel_rows, weighted_sums, weighted_sums_ref


def scene(seed, groups=3, places=7, times=331, flagged=.01):
    rng = np.random.default_rng(seed)
    rows = rng.normal(200, 30, (groups*places + 4, times)).astype(np.float32)
    index = rng.permutation(len(rows))[:groups*places].reshape(groups, places)
    index[0, -1] = -1
    weights = rng.uniform(.2, 1.2, (groups, 4, places))
    profile = rng.uniform(.05, 1, (groups, places))
    profile[0, -1] = 0
    weights[:, 0] /= (weights[:, 0]*profile).sum(1, keepdims=True)
    events = np.argwhere(rng.random(rows.shape) < flagged)
    for at in map(tuple, events[::3]): rows[at] = np.nan
    return rows, events, index, weights, profile


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 9001), st.sampled_from([0., .003, .2]))
def test_fast_kernels_agree_with_the_plain_ones(seed, times, flagged):
    rows, events, index, weights, profile = scene(seed, times=times, flagged=flagged)
    fast, slow = pixel_means(rows, events), pixel_means_ref(rows, events)
    np.testing.assert_allclose(fast[0], slow[0], rtol=1e-9)
    assert np.array_equal(fast[1], slow[1])
    fast, slow = weighted_sums(rows, events, index, weights, profile), weighted_sums_ref(rows, events, index, weights, profile)
    np.testing.assert_allclose(fast[1], slow[1], atol=1e-12)
    np.testing.assert_allclose(fast[0], slow[0], rtol=1e-9, atol=1e-7)


def test_same_bits_for_any_number_of_threads():
    args = scene(5, groups=9, places=32, times=9000)
    before, results = numba.get_num_threads(), []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results.append((*pixel_means(*args[:2]), *weighted_sums(*args)))
    finally: numba.set_num_threads(before)
    for a, b in zip(results[0], results[-1]): assert a.tobytes() == b.tobytes()


def test_a_pixel_that_is_never_good_has_no_mean_and_a_frame_that_is_never_good_no_flux():
    rows = np.ones((4, 20), np.float32)
    rows[1] = np.nan
    mean, events = pixel_means(rows, np.array([[2, 3]]))
    assert np.isnan(mean[1]) and mean[0] == mean[2] == 1 and len(events) == 21
    events = np.array([[p, 7] for p in range(4)])
    sums, lost = weighted_sums(np.ones((4, 20), np.float32), events, np.arange(4)[None], np.ones((1, 1, 4)), np.full((1, 4), .25))
    assert np.isnan(sums[0, 0, 7]) and lost[0, 7] == 1 and np.allclose(np.delete(sums[0, 0], 7), 4)


def test_rows_are_a_view_when_time_is_last_in_memory_and_a_copy_otherwise():
    stored = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    frames = np.moveaxis(stored, -1, 0)
    assert np.shares_memory(pixel_rows(frames), stored)
    assert np.array_equal(pixel_rows(np.ascontiguousarray(frames)), stored.reshape(12, 5))
    with pytest.raises(UsageError, match='3, 4'): pixel_rows(stored[..., 0])


def test_inputs_are_not_changed():
    args = scene(9)
    before = [a.copy() for a in args]
    pixel_means(*args[:2])
    weighted_sums(*args)
    for a, b in zip(args, before): np.testing.assert_array_equal(a, b)


def test_variance_of_a_sum_by_hand():
    variance = flux_variance(np.array([[1., 2.]]), np.array([[.5, .25]]), np.array([[3., 5.]]), np.array([[1., 1.]]), np.array([[100., 100.]]), np.array([[0., .5]]))
    assert variance.tolist() == [[3 + 20 + 50 + 100, 4*173]]
