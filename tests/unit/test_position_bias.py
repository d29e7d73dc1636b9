"""A bias for a place survives shuffled content, attention to content does not."""

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn._backbones import load_backbone
from neuroattn.analyses import (
    attention_patterns,
    attention_sinks,
    backbone_position_bias,
    plot_position_bias,
    position_bias,
)
from neuroattn.analyses.position import rollout
from neuroattn.encoding import BrainEncoder

GRID = (4, 6)
MARKED = 9


def test_rollout_is_the_mean_row_of_the_product_of_the_layers():
    weights = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(
        -1
    )
    mixed = (weights + torch.eye(5)) / 2
    torch.testing.assert_close(rollout(weights), (mixed[2] @ mixed[1] @ mixed[0]).mean(0))
    torch.testing.assert_close(rollout(torch.eye(5).expand(4, 5, 5)), torch.full((5,), 0.2))


class Subject:
    """A region that looks at a mark, which always lies in the centre."""

    def __init__(self, n=500, n_test=100, seed=0):
        rng = np.random.default_rng(seed)
        tokens = rng.normal(size=(n, 8, 24)).astype(np.float32)
        rows = np.arange(n)
        place = rng.choice([8, 9, 14, 15], size=n)  # the four tokens of the centre
        tokens[:, 0] *= 0.1
        tokens[rows, 0, place] = 5
        y = (tokens[rows, 1:5, place] @ rng.normal(size=(4, 5))).astype(np.float32)
        X = tokens.reshape(n, 8, *GRID)
        self.encoder = BrainEncoder({"content": np.ones(5, bool)}, heads=2, epochs=15, seed=seed)
        self.encoder.fit(X[:-n_test], y[:-n_test])
        self.X = X[-n_test:]


@pytest.fixture(scope="module")
def subject():
    return Subject()


@pytest.fixture(scope="module")
def bias(subject):
    return position_bias(subject.encoder, subject.X)


def test_content_in_the_centre_is_no_bias_for_the_centre(bias):
    content = bias.isel(query=0)
    assert content.roi == "content"
    assert content.profile.sel(content="intact")[0] > 2.5
    np.testing.assert_allclose(content.profile.sel(content="shuffled"), 1, atol=0.6)
    assert content.bias.sel(content="intact") > 4 * content.bias.sel(content="shuffled")
    low, high = content.profile_interval.sel(content="intact").isel(ring=0)
    assert 2 < low < content.profile.sel(content="intact")[0] < high


def test_a_place_that_is_looked_at_whatever_is_there_is_a_bias(subject):
    """One head looks at the first row, the other at the first column, for their position codes."""
    X = subject.X
    encoder = BrainEncoder({"corner": np.ones(5, bool)}, heads=2, epochs=1, position="learned")
    network = encoder.fit(X, np.zeros((len(X), 5), np.float32)).network_
    attention, code = network.layers[0].attention, network.learned_position
    with torch.no_grad():
        attention.in_proj_weight[:8] = 0
        attention.in_proj_bias[:8] = 1
        attention.in_proj_weight[8:16] = torch.eye(8)
        for axis in (code.rows, code.columns):
            axis.zero_()
            axis[0] = 3
    corner = position_bias(encoder, X).isel(query=0)
    weight = corner.weight
    assert [one.argmax() for one in weight.values] == [0, 0]
    assert (weight[:, 0, 0] > 3).all()
    assert (weight[:, 1:, 1:] < 0.5).all()
    assert (corner.bias > 10 * corner.bias_null).all()
    assert corner.agreement > 0.9
    assert (corner.profile.isel(ring=-1) > corner.profile.isel(ring=0)).all()


def test_weights_are_those_of_the_encoder_and_rings_average_them(subject, bias):
    maps = subject.encoder.attention(subject.X).values.mean(0) * 24
    np.testing.assert_allclose(bias.weight.sel(content="intact"), maps, rtol=1e-5)
    np.testing.assert_allclose(bias.weight.mean(("y", "x")), 1, rtol=1e-5)
    y, x = np.indices(GRID)
    away = np.hypot(y - 1.5, x - 2.5)
    inner = away <= away.max() * 2 / 5  # the innermost of five rings is empty
    np.testing.assert_allclose(bias.eccentricity[0], away[inner].mean())
    np.testing.assert_allclose(bias.profile.sel(content="intact")[:, 0], maps[:, inner].mean(-1), rtol=1e-5)
    degrees = position_bias(subject.encoder, subject.X, px_per_degree=10, image_size=(120, 80)).eccentricity
    np.testing.assert_allclose(degrees, 2 * bias.eccentricity)
    assert degrees.attrs["units"] == "deg"


def test_uniform_maps_have_no_bias(subject):
    blind = BrainEncoder(subject.encoder.rois, heads=2, epochs=1).fit(
        subject.X, np.ones((100, 5), np.float32)
    )
    with torch.no_grad():
        blind.network_.layers[0].attention.in_proj_weight.zero_()
    bias = position_bias(blind, subject.X, n_bins=3)
    np.testing.assert_allclose(bias.profile, 1, rtol=1e-5)
    np.testing.assert_allclose(bias.bias, 0, atol=1e-6)
    assert np.isnan(bias.agreement).all()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)


def test_a_backbone_whose_keys_prefer_a_place_is_biased_for_it(images):
    backbone = load_backbone("test_vit", weights="random")

    def prefer(module, inputs, output):
        output = output.clone()
        output[..., :64] += 1
        output[:, 1 + MARKED, 64:128] += 4
        return output

    handle = backbone.model.blocks[3].attn.qkv.register_forward_hook(prefer)
    bias = backbone_position_bias(backbone, images)
    handle.remove()
    place = np.unravel_index(MARKED, GRID)
    marked = bias.weight[:, :, place[0], place[1]]
    assert (marked[:, :3] < 1.2).all()
    assert (marked[:, 3] > 2).all()
    assert (bias.bias[:, 3:] > bias.bias_null[:, 3:]).all()
    assert (bias.agreement[3:] > 0.9).all()


def test_a_backbone_that_attends_to_what_a_patch_shows_is_not_biased(images):
    """One block reads white patches, which lie on the left; shuffled, they lie anywhere."""
    backbone = load_backbone("test_vit", weights="random")
    n = len(images)
    images = np.zeros((n, 64, 96, 3), np.uint8)
    images[:, :, :32] = 255
    seen = []
    handles = [
        backbone.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
    ]

    def prefer(module, inputs, output):
        output = output.clone()
        white = torch.nn.functional.avg_pool2d(seen[-1], 16).mean(1).flatten() > 0
        output[..., :64] += 1
        output[:, 1:][:, white, 64:128] += 4
        return output

    handles.append(backbone.model.blocks[0].attn.qkv.register_forward_hook(prefer))
    bias = backbone_position_bias(backbone, images)
    for handle in handles:
        handle.remove()
    first = bias.isel(layer=0)
    left = first.weight[:, :, :2].mean(("y", "x"))
    assert left.sel(content="intact") > 1.5
    np.testing.assert_allclose(left.sel(content="shuffled"), 1, atol=0.3)
    assert first.bias.sel(content="intact") > 3 * first.bias.sel(content="shuffled")
    assert sum(one.sum() for one in seen[:n]) == pytest.approx(
        float(sum(one.sum() for one in seen[n:])), rel=1e-4
    )


def test_images_give_what_their_features_give_and_know_their_size():
    backbone = load_backbone("test_vit", weights="random")
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 64, 3), dtype=np.uint8)
    y = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    encoder = BrainEncoder(backbone=backbone, epochs=1, device="cpu").fit(images, y)
    of_images = [
        analysis(encoder, images, px_per_degree=8) for analysis in (position_bias, attention_patterns)
    ]
    sinks = attention_sinks(encoder, images, y, n_random=1, deviations=1)
    encoder.backbone, features = None, backbone.extract(images)
    size = {"px_per_degree": 8, "image_size": (64, 32)}
    xr.testing.assert_allclose(of_images[0], position_bias(encoder, features, **size))
    xr.testing.assert_allclose(of_images[1], attention_patterns(encoder, features, **size))
    xr.testing.assert_allclose(sinks, attention_sinks(encoder, features, y, n_random=1, deviations=1))
    assert of_images[0].eccentricity.max() == np.hypot(1, 3)  # 2 x 4 patches of 2 degrees


def test_a_seed_fixes_the_result_and_options_are_checked(subject):
    first, second, other = (position_bias(subject.encoder, subject.X[:20], seed=seed) for seed in (0, 0, 1))
    xr.testing.assert_identical(first, second)
    assert not first.equals(other)
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        position_bias(subject.encoder, subject.X[:20], n_bins=0)
    with pytest.raises(ValueError, match="image_size must be given with px_per_degree"):
        position_bias(subject.encoder, subject.X[:20], px_per_degree=10)


def test_figure_has_a_panel_a_query_and_block(bias, images):
    figure = plot_position_bias(bias)
    assert [axes.get_title() for axes in figure.axes] == ["content"]
    figure = plot_position_bias(backbone_position_bias(load_backbone("test_vit", weights="random"), images))
    assert [axes.get_title() for axes in figure.axes][:2] == ["block0", "block1"]
