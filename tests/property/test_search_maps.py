from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn.search import SearchConfig
from neuroattn.search.maps import best_open, choose, combine, correlate, enlarge

sizes = st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 40)))
seeds = st.integers(0, 2**32 - 1)


def enlarged_pixel(values, size, d):
    """Mix the places that a pixel lies in by the parts that lie in each."""
    scale = Fraction(size, len(values))
    place = int(Fraction(d) / scale)
    beyond = max(Fraction(d + 1) - (place + 1) * scale, Fraction(0))
    following = values[place + 1] if place + 1 < len(values) else 0
    return float(1 - beyond) * values[place] + float(beyond) * following


@given(sizes, sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_enlargement_is_its_definition(rows, columns, seed):
    small = np.random.default_rng(seed).random((rows[0], columns[0])).astype(np.float32)
    across = np.array(
        [[enlarged_pixel(row, columns[1], d) for d in range(columns[1])] for row in small.astype(float)]
    )
    both = np.array([[enlarged_pixel(c, rows[1], d) for d in range(rows[1])] for c in across.T]).T
    np.testing.assert_allclose(enlarge(small, (rows[1], columns[1])), both, atol=1e-6)


@given(sizes, seeds, st.floats(0.02, 1))
@settings(max_examples=60, deadline=None)
def test_choice_is_that_of_the_enlarged_map(size, seed, density):
    n, side = size
    rng = np.random.default_rng(seed)
    small = rng.permutation(n * n).reshape(n, n).astype(np.float32)
    is_open = rng.random((side, side)) < density
    is_open[tuple(rng.integers(side, size=2))] = True
    masked = np.where(is_open, enlarge(small, (side, side)) - small.min(), 0)
    first = np.unravel_index(masked.argmax(), masked.shape)
    choice = choose(small, is_open, SearchConfig.paper(), rng)
    assert (choice.row, choice.column) == first
    assert best_open(small, is_open) == pytest.approx(enlarge(small, (side, side))[is_open].max())


@given(sizes, seeds, st.floats(0.02, 1), st.sampled_from([0.0, 0.1, 5.0]))
@settings(max_examples=60, deadline=None)
def test_the_gaze_goes_to_open_places_only(size, seed, density, temperature):
    n, side = size
    rng = np.random.default_rng(seed)
    is_open = rng.random((side, side)) < density
    is_open[tuple(rng.integers(side, size=2))] = True
    small = rng.random((n, n)).astype(np.float32)
    choice = choose(small, is_open, SearchConfig(temperature=temperature), rng)
    assert is_open[choice.row, choice.column]
    assert choice.log_prob <= 1e-12
    assert (choice.log_prob == 0.0) or temperature > 0


def test_draws_follow_the_softmax_over_pixels():
    small = np.array([[0.0, 1.0], [0.5, 0.25]], np.float32)
    is_open = np.ones((8, 8), bool)
    is_open[:4, :4] = False
    is_open[0, 0] = True
    rng = np.random.default_rng(0)
    config = SearchConfig(temperature=0.5)
    draws = [choose(small, is_open, config, rng) for _ in range(3000)]
    weights = np.exp(enlarge(small, (8, 8)) / 0.5) * is_open
    expected = weights.reshape(2, 4, 2, 4).sum((1, 3)) / weights.sum()
    observed = np.zeros((2, 2))
    for choice in draws:
        place = choice.row // 4, choice.column // 4
        observed[place] += 1 / len(draws)
        assert np.exp(choice.log_prob) == pytest.approx(expected[place])
    np.testing.assert_allclose(observed, expected, atol=0.04)


@given(seeds, st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_the_map_does_not_depend_on_the_scale_of_features(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    matches = {tap: torch.rand(2, 9, 9, generator=generator) for tap in "ab"}
    config = SearchConfig()
    one = combine(matches, config, 2)
    other = combine({tap: scale * values for tap, values in matches.items()}, config, 2)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@given(st.integers(1, 6), st.integers(1, 6), seeds)
@settings(max_examples=30, deadline=None)
def test_correlation_is_its_definition(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(2, 3, 7, 8, generator=generator)
    kernels = torch.rand(2, 3, rows, columns, generator=generator)
    got = correlate(features, kernels)
    assert got.shape == (2, 7, 8)
    for i, y, x in ((0, 0, 0), (1, 6, 7), (0, 3, 4)):
        total = 0.0
        for r in range(rows):
            for c in range(columns):
                yy, xx = y + r - (rows - 1) // 2, x + c - (columns - 1) // 2
                if 0 <= yy < 7 and 0 <= xx < 8:
                    total += float((features[i, :, yy, xx] * kernels[i, :, r, c]).sum())
        assert float(got[i, y, x]) == pytest.approx(total, rel=1e-4)


def test_a_blank_image_has_a_blank_map():
    matches = {"a": torch.zeros(1, 9, 9), "b": torch.zeros(1, 9, 9)}
    assert torch.equal(combine(matches, SearchConfig(), 2), torch.zeros(1, 9, 9))
