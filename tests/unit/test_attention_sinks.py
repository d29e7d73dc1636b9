"""Sinks that are planted in a backbone are found with their blocks; outliers that mislead an encoder are undone."""

import contextlib

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn._backbones import load_backbone
from neuroattn.analyses import attention_sinks, backbone_sinks, plot_attention_sinks, plot_backbone_sinks
from neuroattn.analyses.sinks import hidden_tokens
from neuroattn.encoding import BrainEncoder, FactorizedEncoder
from neuroattn.metrics import pearson_r
from neuroattn.results import label_rois

CLASS, SECONDARY, OUTLIER = 0, 5, 9


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("test_vit", weights="random")


@contextlib.contextmanager
def planted(backbone, *, keys=None, outputs=None):
    """Let keys {block: tokens} match every query, and change what leaves blocks {block: function}."""
    handles = []
    for block, tokens in (keys or {}).items():

        def attract(module, inputs, output, tokens=tokens):
            output = output.clone()
            output[..., :64] += 1  # what all queries share
            output[:, tokens, 64:128] += 4
            return output

        handles.append(backbone.model.blocks[block].attn.qkv.register_forward_hook(attract))
    for block, change in (outputs or {}).items():
        handles.append(
            backbone.model.blocks[block].register_forward_hook(
                lambda module, inputs, output, change=change: change(output.clone())
            )
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_planted_sinks_are_found_in_their_blocks(backbone, images):
    keys = {block: [CLASS, SECONDARY] if block in (2, 3) else [CLASS] for block in range(6)}
    with planted(backbone, keys=keys):
        sinks = backbone_sinks(backbone, images, deviations=50)
    names = ("place", "role", "first", "last")
    found = set(zip(*(sinks[name].values.tolist() for name in names), strict=True))
    assert found == {(CLASS, "primary", 0, 5), (SECONDARY, "secondary", 2, 3)}
    n_tokens = 1 + 4 * 6
    by_place = sinks.weight.assign_coords(sink=sinks.place.values)
    assert n_tokens / 3 < by_place.sel(sink=SECONDARY) < by_place.sel(sink=CLASS) < n_tokens
    assert (sinks.weight_interval.sel(bound="low") <= sinks.weight).all()
    assert (sinks.weight <= sinks.weight_interval.sel(bound="high")).all()
    assert sinks.kind.values[[CLASS, SECONDARY]].tolist() == ["class", "patch"]
    np.testing.assert_allclose(sinks.incoming.mean("token"), 1, rtol=1e-6)
    assert (sinks.draws.isel(token=SECONDARY).values > 0.5).tolist() == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_without_a_planted_sink_there_is_none(backbone, images):
    sinks = backbone_sinks(backbone, images, deviations=50)
    assert sinks.sizes["sink"] == 0
    assert not sinks.draws.any()
    assert np.isfinite(sinks.outlier_weight).all()
    assert plot_backbone_sinks(sinks).axes[0].get_ylabel() == "Attention drawn, × uniform"


def test_norm_outliers_are_found_and_counted(backbone, images):
    def raise_norm(tokens):
        tokens[:, OUTLIER] *= 30
        return tokens

    def lower_norm(tokens):
        tokens[:, OUTLIER] /= 30
        return tokens

    with planted(backbone, outputs={1: raise_norm, 4: lower_norm}):
        sinks = backbone_sinks(backbone, images, multiple=1e9)
    assert (sinks.place.item(), sinks.role.item()) == (OUTLIER, "secondary")
    assert (sinks["first"].item(), sinks["last"].item()) == (1, 3)
    np.testing.assert_allclose(sinks.outliers.values[1:4], 1)
    assert sinks.outliers[0] < 1
    assert np.isnan(sinks.alignment).all()  # there is no primary sink
    share = sinks.outlier_weight[2] * 25
    np.testing.assert_allclose(share, sinks.incoming[2, OUTLIER])


def test_outliers_that_change_places_are_counted_though_no_place_is_a_sink(backbone, images):
    places = iter([3, 7, 12, 20] * 2)

    def raise_norm(tokens):
        tokens[:, next(places)] *= 30
        return tokens

    with planted(backbone, outputs={5: raise_norm}):
        sinks = backbone_sinks(backbone, images, multiple=1e9)
    assert sinks.sizes["sink"] == 0
    assert sinks.outliers[5] == 1
    np.testing.assert_allclose(sinks.outlies[5, [3, 7, 12, 20]], 0.25)


def test_a_secondary_sink_that_copies_the_primary_one_is_aligned_with_it(backbone, images):
    def copy(tokens):
        tokens[:, SECONDARY] = tokens[:, CLASS]
        return tokens

    keys = {block: [CLASS, SECONDARY] if block in (2, 3) else [CLASS] for block in range(6)}
    with planted(backbone, keys=keys, outputs={2: copy, 3: copy}):
        sinks = backbone_sinks(backbone, images, deviations=50)
    same = sinks.isel(sink=sinks.place.values.tolist().index(SECONDARY))
    assert same.alignment > 0.9
    assert same.alignment_others < 0.8
    with planted(backbone, keys=keys):
        sinks = backbone_sinks(backbone, images, deviations=50)
    other = sinks.isel(sink=sinks.place.values.tolist().index(SECONDARY))
    assert other.alignment < same.alignment - 0.1


def test_sinks_of_too_few_images_are_refused(backbone, images):
    with pytest.raises(ValueError, match="number of images must be at least 2, got 1"):
        backbone_sinks(backbone, images[:1])
    with pytest.raises(ValueError, match="frequency must be between 0 and 1, got 2"):
        backbone_sinks(backbone, images, frequency=2)


GRID = (4, 6)
SINK = 13  # where outliers are planted


class Subject:
    """A region that reads the marked token of each image, and one that reads the mean of all tokens."""

    def __init__(self, n=400, n_test=120, seed=0):
        rng = np.random.default_rng(seed)
        tokens = rng.normal(size=(n, 8, 24)).astype(np.float32)
        place = rng.integers(12, size=n)  # never where outliers are planted
        rows = np.arange(n)
        tokens[:, 0] *= 0.1
        tokens[rows, 0, place] = 5
        read = np.stack([tokens[rows, 1:5, place], 4 * tokens[:, 1:5].mean(-1)], axis=1)
        y = np.einsum("nrc,rcu->nru", read, rng.normal(size=(2, 4, 5)))
        y = (y + 0.5 * rng.normal(size=y.shape)).reshape(n, 10).astype(np.float32)
        X = tokens.reshape(n, 8, *GRID)
        self.X, self.y, self.place = X[-n_test:], y[-n_test:], place[-n_test:]
        self.rois = label_rois({"routed": np.arange(10) < 5, "everywhere": np.arange(10) >= 5})
        self.encoder = BrainEncoder(self.rois, heads=2, epochs=20, seed=seed).fit(X[:-n_test], y[:-n_test])
        # The outlier calls the routed query louder than the mark does and tells nothing.
        self.misled = self.X.copy()
        flat = self.misled.reshape(n_test, 8, 24)
        flat[:, :, SINK] *= 3
        flat[:, 0, SINK] = 25


@pytest.fixture(scope="module")
def subject():
    return Subject()


@pytest.fixture(scope="module")
def sinks(subject):
    return attention_sinks(subject.encoder, subject.misled, subject.y, n_random=3)


def test_masking_planted_outliers_restores_the_planted_accuracy(subject, sinks):
    assert (sinks.outlier.values.reshape(-1, 24).nonzero()[1] == SINK).all()
    assert sinks.outlier.sum() == len(subject.X)
    clean = pearson_r(subject.y, subject.encoder.predict(subject.X)).reshape(2, 5).mean(1)
    routed = sinks.isel(query=0)
    assert routed.roi == "routed"
    assert routed.correlation < clean[0] - 0.3
    np.testing.assert_allclose(routed.correlation + routed.change.sel(mask="outliers"), clean[0], atol=0.03)
    assert routed.excess.sel(control="random") > 0.3
    assert routed.excess_interval.sel(control="random", bound="low") > 0.2
    assert abs(routed.change.sel(mask="random")) < 0.1
    np.testing.assert_allclose(routed.excess, routed.change[0] - routed.change[1:])


def test_share_of_a_map_on_outliers_is_beside_that_of_uniform_attention(subject, sinks):
    maps = subject.encoder.attention(subject.misled).values.reshape(-1, 2, 24)
    np.testing.assert_allclose(sinks.share.sel(mask="outliers"), maps[..., SINK].mean(0), rtol=1e-5)
    np.testing.assert_allclose(sinks.area, 1 / 24)
    assert sinks.share[0, 0] > 10 * sinks.area
    low, high = sinks.share_interval.sel(bound="low"), sinks.share_interval.sel(bound="high")
    assert (low <= sinks.share + 1e-9).all()
    assert (sinks.share <= high + 1e-9).all()
    # Outliers that stand at one place on all images are those of another image, too.
    np.testing.assert_allclose(sinks.share[0], sinks.share.sel(mask="shuffled"))
    np.testing.assert_allclose(sinks.change[0], sinks.change.sel(mask="shuffled"), atol=1e-6)
    np.testing.assert_allclose(sinks.share.sel(mask="random"), 1 / 24, rtol=0.5)


def test_outliers_of_another_image_draw_less_where_they_move(subject):
    X = subject.X.copy()
    X.reshape(-1, 8, 24)[np.arange(len(X)), 0, subject.place] = 25
    moving = attention_sinks(subject.encoder, X, subject.y, n_random=1)
    routed = moving.share.isel(query=0)
    assert routed.sel(mask="outliers") > 3 * routed.sel(mask="shuffled")
    assert (moving.excess[:, 0] < -0.15).all()  # these were worth reading


def test_hidden_weight_goes_to_the_others_in_proportion(subject):
    encoder, X = subject.encoder, subject.X
    hidden = np.random.default_rng(0).random((len(X), 24)) < 0.3
    before = encoder.attention(X, per_head=True).values.reshape(len(X), 2, 2, 24)
    with hidden_tokens(encoder.network_, hidden):
        after = encoder.attention(X, per_head=True).values.reshape(len(X), 2, 2, 24)
    want = np.where(hidden[:, None, None], 0, before)
    np.testing.assert_allclose(after, want / want.sum(-1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(encoder.attention(X, per_head=True).values.reshape(before.shape), before)


def test_hiding_reaches_every_layer_of_a_decoder(subject):
    deep = BrainEncoder(subject.rois, heads=2, layers=2, epochs=1).fit(subject.X, subject.y)
    hidden = np.arange(24)[None].repeat(len(subject.X), 0) == SINK
    with hidden_tokens(deep.network_, hidden):
        one = deep.predict(subject.X)
    with hidden_tokens(deep.network_, hidden):
        other = deep.predict(subject.misled)
    np.testing.assert_allclose(one, other, atol=1e-5)  # what the hidden token holds does not matter
    assert abs(deep.predict(subject.X) - deep.predict(subject.misled)).max() > 1e-3


def test_without_outliers_nothing_changes_and_a_seed_fixes_the_result(subject):
    args = subject.encoder, subject.X, subject.y
    none = attention_sinks(*args, deviations=30, n_random=1)
    assert not none.outlier.any()
    np.testing.assert_allclose(none.change, 0, atol=1e-9)
    np.testing.assert_array_equal(none.share, 0)
    first, second, other = (
        attention_sinks(*args, deviations=1.5, n_random=1, seed=seed) for seed in (0, 0, 1)
    )
    xr.testing.assert_identical(first, second)
    assert not first.equals(other)


def test_figures_show_every_region_and_sink(backbone, images, sinks):
    figure = plot_attention_sinks(sinks)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["routed", "everywhere"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "outlier tokens",
        "those of another image",
        "random tokens",
    ]
    with planted(backbone, keys={block: [CLASS] for block in range(6)}):
        figure = plot_backbone_sinks(backbone_sinks(backbone, images, deviations=50))
    assert [text.get_text() for text in figure.axes[0].texts] == ["class"]


def test_what_cannot_be_hidden_is_refused(subject):
    X, y, encoder = subject.X, subject.y, subject.encoder
    bright = X.copy()
    bright[0] = 100
    with pytest.raises(
        ValueError, match="hidden must leave a token of every stimulus, got none of stimulus 0"
    ):
        attention_sinks(encoder, bright, y, n_random=1)
    with pytest.raises(ValueError, match=r"y must have shape \(120, 10\), got \(119, 10\)"):
        attention_sinks(encoder, X, y[1:])
    with pytest.raises(TypeError, match="encoder must be a BrainEncoder, got FactorizedEncoder"):
        attention_sinks(FactorizedEncoder(epochs=1).fit(X, y), X, y)
    per_unit = BrainEncoder(readout="unit", epochs=1, heads=2).fit(X, y)
    with pytest.raises(ValueError, match="readout must be 'roi' or 'hemisphere' to tell regions, got 'unit'"):
        attention_sinks(per_unit, X, y)
    layers = {"block3": X, "block7": X}
    with pytest.raises(
        ValueError, match=r"encoder must read features of one layer, got \['block3', 'block7'\]"
    ):
        attention_sinks(BrainEncoder(epochs=1, heads=2).fit(layers, y), layers, y)


def test_unread_network_is_left_alone_after_an_error(subject):
    network = subject.encoder.network_
    with pytest.raises(RuntimeError, match="stop"), hidden_tokens(network, np.zeros((1, 24), bool)):
        raise RuntimeError("stop")
    assert not any(layer.attention._forward_pre_hooks for layer in network.layers)
    assert torch.is_grad_enabled()
