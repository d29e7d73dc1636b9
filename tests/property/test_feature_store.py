"""The order of items and the storage of rows, for any sizes."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from neuroattn.encoding import features
from neuroattn.encoding.features import ChunkShuffleSampler, FeatureDataset, FeatureStore, token_statistics


class Chunked(np.ndarray):
    """An array that says it is stored in chunks."""

    chunk = 1


def make_dataset(n, chunk, rows):
    table = np.zeros((n, 1)).view(Chunked)
    table.chunk = chunk
    return FeatureDataset(table, rows)


@given(n=st.integers(1, 300), chunk=st.integers(1, 40), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_every_item_comes_once(n, chunk, seed, epoch):
    rows = np.random.default_rng(seed).permutation(2 * n)[:n]
    sampler = ChunkShuffleSampler(make_dataset(2 * n, chunk, rows), seed=seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(n)) == list(range(len(sampler)))
    assert order == list(sampler)


@given(n=st.integers(30, 300), chunk=st.integers(1, 8), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_epochs_and_seeds_differ(n, chunk, seed, epoch):
    data = make_dataset(n, chunk, np.arange(n))
    orders = []
    for pair in [(seed, epoch), (seed, epoch + 1), (seed + 1, epoch)]:
        sampler = ChunkShuffleSampler(data, seed=pair[0])
        sampler.set_epoch(pair[1])
        orders.append(tuple(sampler))
    assert len(set(orders)) == 3


@given(n=st.integers(1, 500), chunk=st.integers(2, 9), seed=st.integers(0, 99))
def test_a_chunk_is_visited_in_one_window(n, chunk, seed):
    rows = np.random.default_rng(seed).permutation(n)
    order = np.array(list(ChunkShuffleSampler(make_dataset(n, chunk, rows), seed=seed)))
    visited = rows[order] // chunk
    first = {c: i for i, c in reversed(list(enumerate(visited)))}
    last = {c: i for i, c in enumerate(visited)}
    change = np.zeros(n + 1, int)
    for c in first:
        change[first[c]] += 1
        change[last[c] + 1] -= 1
    assert change.cumsum().max() <= features._WINDOW


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    chunk=st.integers(1, 13),
    dtype=st.sampled_from(["float32", "float16"]),
    data=st.data(),
)
def test_store_equals_the_array(shape, chunk, dtype, data):
    table = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    rows = data.draw(st.lists(st.integers(-shape[0], shape[0] - 1), max_size=20))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        array = features._create(path, shape, chunk, dtype, {"format": 1})
        array[:] = table
        store = FeatureStore(path)
        assert store.chunk == chunk
        assert_array_equal(store[rows], table[rows])
        if rows:
            positive = np.asarray(rows) % shape[0]
            mean, std = token_statistics(store, positive)
            block = table[positive].astype(np.float64)
            np.testing.assert_allclose(mean, block.mean((0, 2, 3)), atol=1e-12)
            np.testing.assert_allclose(std, block.std((0, 2, 3)), atol=1e-7)
