"""The networks behind the encoders: mixed layers, self-attention, convolution, Gaussian fields."""

import numpy as np
import pytest
import torch

from neuroattn.datasets import Rows
from neuroattn.encoding import (
    BrainEncoder,
    ConvolutionEncoder,
    FactorizedEncoder,
    FeatureDataset,
    GaussianEncoder,
    ProbeEncoder,
    extract_features,
    load_backbone,
    load_encoder,
)
from neuroattn.encoding.features import token_statistics
from neuroattn.encoding.network_encoders import _holdout
from neuroattn.encoding.networks import AttentionNetwork, ConvolutionNetwork, SelfAttentionLayer
from neuroattn.metrics import pearson_r
from neuroattn.results import label_rois

NETWORKS = [BrainEncoder, ConvolutionEncoder, FactorizedEncoder, GaussianEncoder, ProbeEncoder]


def make_layers(n=60, channels=8, grid=(3, 5), seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(n, channels, *grid)).astype(np.float32) for name in ("early", "late")}


@pytest.fixture(scope="module")
def two_layers():
    """Features of two layers, and responses of which one region follows each."""
    rng = np.random.default_rng(0)
    X = make_layers(400, grid=(2, 3))
    sources = [X["early"]] * 3 + [X["late"]] * 3
    y = np.stack([source.mean((2, 3)) @ rng.normal(size=8) for source in sources], 1).astype(np.float32)
    rois = label_rois({"V1": np.arange(6) < 3, "FFA": np.arange(6) > 2})
    return X, y, rois, BrainEncoder(rois, epochs=12, lr=1e-2).fit(X, y)


def test_regions_find_the_layer_they_follow(two_layers):
    *_, encoder = two_layers
    weights = encoder.layer_weights()
    assert weights.dims == ("query", "layer")
    np.testing.assert_allclose(weights.sum("layer"), 1, atol=1e-6)
    by_region = weights.set_index(query="roi")
    assert by_region.sel(query="V1", layer="early") > 0.7
    assert by_region.sel(query="FFA", layer="late") > 0.7


def test_mixed_layers_are_known_by_name(two_layers, tmp_path):
    X, _, _, encoder = two_layers
    predicted = encoder.predict(X)
    swapped = {"late": X["late"], "early": X["early"]}
    np.testing.assert_array_equal(encoder.predict(swapped), predicted)
    assert encoder.attention(swapped).shape == (400, 2, 2, 3)
    encoder.save(tmp_path / "model")
    again = load_encoder(tmp_path / "model")
    np.testing.assert_allclose(again.predict(swapped), predicted, atol=1e-5)
    np.testing.assert_array_equal(again.layer_weights(), encoder.layer_weights())
    for wrong in ({"early": X["early"]}, X | {"third": X["late"]}, X["early"]):
        with pytest.raises(ValueError, match=r"X must have the layers \['early', 'late'\] as in fit, got"):
            encoder.predict(wrong)


def test_a_single_layer_needs_no_mixture():
    X, y = make_layers()["early"], np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)
    plain, mixed = BrainEncoder(epochs=2).fit(X, y), BrainEncoder(epochs=2).fit({"early": X}, y)
    np.testing.assert_allclose(mixed.predict({"early": X}), plain.predict(X), atol=1e-5)
    with pytest.raises(ValueError, match="mapping of layers in fit to have layer weights"):
        plain.layer_weights()
    with pytest.raises(ValueError, match="X must have the layers None as in fit"):
        plain.predict({"early": X})


@pytest.mark.parametrize("cls", [n for n in NETWORKS if n is not BrainEncoder], ids=lambda c: c.__name__)
def test_a_mapping_of_layers_is_refused_in_one_line(cls):
    with pytest.raises(
        ValueError, match=f"{cls.__name__} needs features of one layer, got a mapping of 2"
    ) as e:
        cls(epochs=1).fit(make_layers(), np.zeros((60, 2)))
    assert "\n" not in str(e.value)


def test_layers_without_tokens_are_refused():
    flat = {name: X.mean((2, 3)) for name, X in make_layers().items()}
    with pytest.raises(ValueError, match=r"\(stimulus, channel, y, x\), got \(60, 2, 8\)"):
        BrainEncoder(epochs=1).fit(flat, np.zeros((60, 2)))


def test_layers_are_read_from_views_and_stores_alike(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), dtype=np.uint8)
    store = extract_features(images, load_backbone("test_vit", weights="random"), tmp_path)
    table = store[:]
    layers = {"store": store, "half": table.astype(np.float16), "view": Rows(table[::-1], np.arange(6))}
    rows = np.array([4, 1, 1])
    x, _ = FeatureDataset(layers, rows).__getitems__([0, 2])
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x, np.stack([table[[4, 1]], table[[4, 1]], table[[1, 4]]], 1), atol=2e-3)
    single, _ = FeatureDataset(layers, rows)[0]
    assert single.shape == (3, *table.shape[1:])
    for stacked, parts in zip(
        token_statistics(layers, [4, 1]),
        zip(*(token_statistics(layer, [4, 1]) for layer in layers.values()), strict=True),
        strict=True,
    ):
        np.testing.assert_array_equal(stacked, np.stack(parts))


def test_layers_of_unequal_shape_and_none_are_refused():
    with pytest.raises(ValueError, match=r"features\['b'\] must have shape \(5, 4\), got \(5, 3\)"):
        FeatureDataset({"a": np.zeros((5, 4)), "b": np.zeros((5, 3))}, [0])
    with pytest.raises(ValueError, match="features must hold at least one layer"):
        FeatureDataset({}, [0])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_self_attention_is_the_standard_layer(norm):
    torch.manual_seed(0)
    ours = SelfAttentionLayer(8, 2, 16, 0.1, norm).eval()
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm == "pre").eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict({k.replace("self_attn", "attention"): v for k, v in theirs.state_dict().items()})
    X = torch.randn(3, 7, 8)
    torch.testing.assert_close(ours(X, None), theirs(X))
    moved = ours(X, torch.randn(7, 8))
    assert not torch.allclose(moved, theirs(X), atol=1e-3)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("mixed", [False, True])
def test_tokens_exchange_what_they_hold_before_they_are_read(norm, mixed):
    X, y = make_layers(30), np.random.default_rng(1).normal(size=(30, 6)).astype(np.float32)
    encoder = BrainEncoder(encoder_layers=2, norm=norm, epochs=1, feedforward=16)
    encoder.fit(X if mixed else X["early"], y)
    network, features = encoder.network_, torch.from_numpy(np.stack(list(X.values()), 1))
    features = features if mixed else features[:, 0]
    elsewhere = features.clone()
    elsewhere[..., 0, 0] += 3

    def odds():
        """How much more a query looks at the second token than at the third."""
        maps = [network(x, return_attention=True).attention.detach() for x in (features, elsewhere)]
        np.testing.assert_allclose(maps[0].sum(-1), 1, atol=1e-5)
        return [m[..., 1] / m[..., 2] for m in maps]

    assert (network.encoder_norm is not None) == (norm == "pre")
    before, after = odds()
    assert not torch.allclose(before, after, rtol=1e-3)
    for layer in network.encoder:
        layer.attention.in_proj_weight.data[-8:] = 0  # without values tokens keep to themselves
    torch.testing.assert_close(*odds())


def test_the_convolution_keeps_place_and_stride():
    torch.manual_seed(0)
    network = ConvolutionNetwork(2, (5, 8), 3, width=4, stride=3)
    assert network.readout.weight.shape == (3, 4 * 2 * 3)
    X = torch.randn(6, 2, 5, 8)
    expected = network.conv(X).flatten(1) @ network.readout.weight.T + network.readout.bias
    torch.testing.assert_close(network(X), expected)
    assert network(X, return_attention=True).attention is None
    with pytest.raises(ValueError, match="convolved features must have shape"):
        network(torch.zeros(1, 2, 9, 8))


def test_the_penalty_shrinks_the_readout_and_is_not_watched():
    X, y = make_layers(), np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)
    free, held = (ConvolutionEncoder(group_norm=g, epochs=8, lr=1e-2).fit(X["early"], y) for g in (0.0, 1.0))
    assert held.network_.readout.weight.norm() < 0.8 * free.network_.readout.weight.norm()
    rows = _holdout(60, 0.1, 0, None)[1]
    error = ((held.predict(X["early"][rows]) - y[rows]) / held.target_scale_) ** 2
    assert error.mean() == pytest.approx(min(row["valid_loss"] for row in held.history_), rel=1e-4)


def test_the_penalty_counts_each_hemisphere():
    network = ConvolutionNetwork(2, (3, 3), 5, n_left=2, width=4, stride=2, group_norm=0.5)
    weight, bias = network.readout.weight.detach().numpy(), network.readout.bias.detach().numpy()
    norms = [np.linalg.norm(p) for p in (weight[:2], weight[2:], bias[:2], bias[2:])]
    assert network.penalty().item() == pytest.approx(0.5 * sum(norms))


def test_gaussian_fields_are_found_on_an_oblong_grid():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3, 6, 10)).astype(np.float32)
    planted = np.array([(0.25, 0.25, 0.1), (0.7, 0.6, 0.15)])  # x, y, size
    row, column = np.mgrid[:6, :10] + 0.5
    fields = np.stack(
        [np.exp(-((column - 10 * x) ** 2 + (row - 6 * y) ** 2) / (2 * (10 * s) ** 2)) for x, y, s in planted]
    )
    y = np.einsum("nyx,uyx->nu", X[:, 0] - X[:, 2], fields / fields.sum((1, 2), keepdims=True))
    encoder = GaussianEncoder({"V1": np.array([True, False])}, epochs=25).fit(X, y.astype(np.float32))
    found = encoder.receptive_fields()
    assert found.roi.values.tolist() == ["V1", "rest"]
    assert {name: found[name].attrs["units"] for name in ("x", "y", "size")} == {
        "x": "share of width", "y": "share of height", "size": "share of longer side",
    }  # fmt: skip
    np.testing.assert_allclose(np.stack([found.x, found.y, found["size"]], 1), planted, atol=0.04)
    np.testing.assert_allclose(encoder.spatial_maps().sum(("y", "x")), 1, atol=1e-5)


@pytest.mark.parametrize("cls", NETWORKS, ids=lambda c: c.__name__)
def test_validation_correlation_is_that_of_the_watched_stimuli(cls, tmp_path):
    X = make_layers()["early"]
    y = (X.mean((2, 3)) @ np.random.default_rng(1).normal(size=(8, 4))).astype(np.float32)
    y[:, 3] = 2
    encoder = cls(epochs=2, validation_fraction=0.3, seed=3).fit(X, y, groups=np.arange(60) // 2)
    rows = _holdout(60, 0.3, 3, np.arange(60) // 2)[1]
    r = encoder.validation_correlation_
    assert (r.shape, r.dtype) == ((4,), np.float64)
    assert np.isnan(r).tolist() == [False, False, False, True]
    np.testing.assert_allclose(r, pearson_r(y[rows], encoder.predict(X[rows])), atol=1e-5)
    encoder.save(tmp_path / "model")
    np.testing.assert_array_equal(load_encoder(tmp_path / "model").validation_correlation_, r)


def test_an_untrained_network_refuses_bad_options_before_long_work():
    with pytest.raises(ValueError, match="encoder_layers must be at least 0, got -1"):
        AttentionNetwork(8, 3, encoder_layers=-1)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        ConvolutionEncoder(stride=0).build_network(8, (3, 3), 4)
    network = BrainEncoder().build_network(8, (3, 3), 4, ["a", "b"])
    assert network(torch.zeros(2, 2, 8, 3, 3)).shape == (2, 4)


def test_a_stored_encoder_keeps_every_label_of_its_regions(tmp_path):
    rois = label_rois(
        {"V1": np.arange(4) < 3, "FFA": np.arange(4) > 1},
        hemisphere=["left", "left", "right", "right"],
        unit_kind="vertex",
        vertex_index=[5, 9, 5, 7],
    ).assign_coords(source=("roi", ["prf", "floc"]))
    X, y = make_layers()["early"], np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    encoder = BrainEncoder(rois, epochs=1).fit(X, y)
    encoder.save(tmp_path / "model")
    assert load_encoder(tmp_path / "model").rois.identical(rois)
