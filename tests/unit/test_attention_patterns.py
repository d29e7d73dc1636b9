"""Distance, entropy and mutual information of maps with known answers, and the classes made of them."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroattn._backbones import load_backbone
from neuroattn.analyses import attention_patterns, backbone_patterns, plot_patterns
from neuroattn.analyses import backbone_attention as reader
from neuroattn.analyses.patterns import mutual_information
from neuroattn.encoding import BrainEncoder
from neuroattn.results import label_rois


def random_map(seed, rows, columns, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(rows, columns, generator=generator, dtype=torch.float64)).softmax(-1)


def test_identity_shares_all_information_and_uniform_attention_none():
    uniform, identity = torch.full((9, 9), 1 / 9).double(), torch.eye(9).double()
    nmi, entropy = mutual_information(torch.stack([identity, uniform]))
    np.testing.assert_allclose(nmi, [1, 0], atol=1e-12)
    np.testing.assert_allclose(entropy, [0, np.log2(9)], atol=1e-12)


def test_a_sink_that_all_queries_read_shares_nothing():
    sink = torch.zeros(9, 9, dtype=torch.float64)
    sink[:, 4] = 1
    nmi, entropy = mutual_information(sink)
    assert (nmi, entropy) == (0, 0)


def test_windows_share_what_their_width_leaves():
    """A circular window of w of N keys leaves log(N / w) of log N."""
    n, width = 32, 8
    window = sum(torch.eye(n).roll(shift, 1) for shift in range(width)).double() / width
    np.testing.assert_allclose(mutual_information(window)[0], 1 - np.log(width) / np.log(n))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), rows=st.integers(2, 12), columns=st.integers(2, 12), sharpness=st.floats(0, 8)
)
def test_information_is_a_share_and_does_not_depend_on_the_order_of_tokens(seed, rows, columns, sharpness):
    weights = random_map(seed, rows, columns, sharpness)
    nmi, entropy = mutual_information(weights)
    assert 0 <= nmi <= 1 + 1e-9
    assert 0 <= entropy <= np.log2(columns) + 1e-9
    mixed = weights[torch.randperm(rows)][:, torch.randperm(columns)]
    np.testing.assert_allclose(mutual_information(mixed)[0], nmi, atol=1e-9)


@pytest.fixture
def with_maps(monkeypatch):
    """A backbone whose blocks have given maps (block, head, query, key)."""

    def make(maps):
        def visit(backbone, x, look):
            for block, weights in enumerate(maps):
                look(block, weights.float(), torch.zeros(weights.shape[-1], 64))

        monkeypatch.setattr(reader, "visit_blocks", visit)
        return load_backbone("test_vit", weights="random")

    return make


def windows(grid, reach):
    """Maps that read all patches at most so many rows and columns away, and how far these are on average."""
    place = np.indices(grid).reshape(2, -1).T
    offset = place[:, None] - place
    near = (abs(offset) <= reach).all(-1)
    distance = np.linalg.norm(offset, axis=-1)
    return near / near.sum(-1, keepdims=True), np.mean(
        [row[mask].mean() for row, mask in zip(distance, near, strict=True)]
    )


def with_prefix(weights):
    """Add a class token that draws a third of every query's weight."""
    n = len(weights)
    full = np.zeros((n + 1, n + 1))
    full[1:, 1:], full[:, 0], full[0, 0] = weights * 2 / 3, 1 / 3, 1
    return torch.from_numpy(full)


def test_windows_have_the_distance_they_were_given(with_maps):
    grid = (4, 6)
    small, small_distance = windows(grid, 1)
    large, large_distance = windows(grid, 2)
    n = grid[0] * grid[1]
    sink = np.zeros((n, n))
    sink[:, 7] = 1
    heads = [np.eye(n), small, large, np.full((n, n), 1 / n), sink]
    backbone = with_maps([torch.stack([with_prefix(head) for head in heads])] * 6)
    images = np.zeros((2, 64, 96, 3), np.uint8)
    patterns = backbone_patterns(backbone, images)
    distance = patterns.distance.values
    np.testing.assert_allclose(
        distance[:, :3], [[0, small_distance, large_distance]] * 6, rtol=1e-6, atol=1e-7
    )
    assert patterns.distance.attrs["units"] == "patches"
    degrees = backbone_patterns(backbone, images, px_per_degree=8).distance
    np.testing.assert_allclose(degrees, 2 * distance, rtol=1e-6)  # patches are 16 px wide
    assert degrees.attrs["units"] == "deg"
    np.testing.assert_allclose(patterns.nmi[0, [0, 3, 4]], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(patterns.entropy[0, [0, 3, 4]], [0, np.log2(n), 0], atol=1e-5)
    assert patterns.entropy.attrs["uniform"] == np.log2(n)
    assert patterns.pattern.values[0].tolist() == ["local", "local", "hybrid", "global", "global"]


def test_the_control_keeps_how_sharp_maps_are_and_loses_where_they_point(with_maps):
    identity = with_prefix(np.eye(24))[None]
    patterns = backbone_patterns(with_maps([identity] * 6), np.zeros((2, 64, 96, 3), np.uint8))
    place = np.indices((4, 6)).reshape(2, -1).T
    chance = np.linalg.norm(place[:, None] - place, axis=-1).mean()
    np.testing.assert_allclose(patterns.distance_shuffled, chance, rtol=0.3)
    assert (patterns.nmi_shuffled > 0.8).all()


def test_sharp_attention_to_far_places_is_not_local(with_maps):
    far = with_prefix(np.eye(24)[np.roll(np.arange(24), 12)])[None]
    patterns = backbone_patterns(with_maps([far] * 6), np.zeros((2, 64, 96, 3), np.uint8))
    assert (patterns.nmi > 0.99).all()
    assert set(patterns.pattern.values.ravel()) == {"hybrid"}


def test_intervals_hold_the_mean_and_a_seed_fixes_the_result():
    backbone = load_backbone("test_vit", weights="random")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    first, second, other = (backbone_patterns(backbone, images, seed=seed) for seed in (0, 0, 1))
    xr.testing.assert_identical(first, second)
    assert not first.equals(other)
    for name in ("distance", "nmi", "entropy"):
        bounds = first[f"{name}_interval"]
        assert (bounds.sel(bound="low") <= first[name] + 1e-12).all()
        assert (first[name] <= bounds.sel(bound="high") + 1e-12).all()
    with pytest.raises(ValueError, match=r"thresholds\[1\] must be between 0.3 and 1, got 0.2"):
        backbone_patterns(backbone, images, thresholds=(0.3, 0.2))


class Maps(BrainEncoder):
    """An encoder with given maps (stimulus, query, head, token)."""

    def attention(self, X, *, per_head=False):
        maps = super().attention(X, per_head=per_head)
        return maps.copy(data=self.planted.reshape(maps.shape).astype(np.float32))


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    n, grid = 60, (4, 6)
    X, y = rng.normal(size=(n, 8, *grid)).astype("f4"), rng.normal(size=(n, 6)).astype("f4")
    rois = label_rois(
        {
            "routed": np.arange(6) < 2,
            "fixed": (np.arange(6) > 1) & (np.arange(6) < 4),
            "rest of it": np.arange(6) > 3,
        }
    )
    encoder = Maps(rois, heads=2, epochs=1).fit(X, y)
    maps = np.full((n, 3, 2, 24), 1 / 24)
    maps[:, 0] = np.eye(24)[rng.integers(24, size=n)][:, None]
    maps[:, 1] = np.eye(24)[3]
    encoder.planted = maps
    return encoder, X


def test_queries_are_told_apart_by_whether_they_look_elsewhere_on_each_image(planted):
    encoder, X = planted
    patterns = attention_patterns(encoder, X)
    assert patterns.roi.values.tolist() == ["routed", "fixed", "rest of it"]
    assert patterns.pattern.values.tolist() == [["routed"] * 2, ["fixed"] * 2, ["fixed"] * 2]
    np.testing.assert_allclose(patterns.distance[:2], 0, atol=1e-6)
    place = np.indices((4, 6)).reshape(2, -1).T
    spread = np.linalg.norm(place - place.mean(0), axis=-1).mean()
    np.testing.assert_allclose(patterns.distance[2], spread, rtol=1e-5)
    degrees = attention_patterns(encoder, X, px_per_degree=10, image_size=(120, 80)).distance[2]
    np.testing.assert_allclose(degrees, 2 * spread, rtol=1e-5)
    counts = np.bincount(encoder.planted[:, 0, 0].argmax(-1), minlength=24) / len(X)
    keys = -(counts[counts > 0] * np.log(counts[counts > 0])).sum()
    np.testing.assert_allclose(patterns.nmi[0], np.sqrt(keys / np.log(len(X))), rtol=1e-6)
    low, high = patterns.nmi_interval[0].values.T
    assert (low < patterns.nmi[0]).all()
    assert (patterns.nmi[0] < high).all()
    assert (patterns.nmi_shuffled[1] > 0.5).all()  # sharp maps at random places


def test_degrees_of_features_need_the_size_of_the_images(planted):
    encoder, X = planted
    with pytest.raises(ValueError, match="image_size must be given with px_per_degree where X is features"):
        attention_patterns(encoder, X, px_per_degree=10)
    with pytest.raises(ValueError, match="number of stimuli must be at least 2, got 1"):
        attention_patterns(BrainEncoder(heads=2, epochs=1).fit(X, np.zeros((60, 2), "f4")), X[:1])


def test_figure_has_a_row_a_query_and_block(planted):
    encoder, X = planted
    figure = plot_patterns(attention_patterns(encoder, X))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["routed", "fixed", "rest of it"]
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    backbone = load_backbone("test_vit", weights="random")
    figure = plot_patterns(backbone_patterns(backbone, images, px_per_degree=10))
    assert figure.axes[1].get_xlabel() == "Distance, deg"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "local",
        "hybrid",
        "global",
        "places shuffled",
    ]
