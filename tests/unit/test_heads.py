"""What heads read must move with what they are made to depend on, and with nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.exceptions import NotFittedError

from neuroattn.analyses import heads as module
from neuroattn.analyses import plot_driven_heads, stimulus_driven_heads, target_driven_heads
from neuroattn.analyses.heads import _read_paths, _without_target, encoder_layers
from neuroattn.datasets import ScanpathDataset, make_search_arrays
from neuroattn.encoding import BrainEncoder
from neuroattn.scanpath import ObjectAttentionTransformer
from neuroattn.scanpath.transformer import MATCH, OBJECT

HEADS, DIM = 4, 8


def rows_of(head, part):
    """Rows of the input projection of one head: part 0 makes queries, 1 keys, 2 values."""
    width = DIM // HEADS
    return slice(part * DIM + head * width, part * DIM + (head + 1) * width)


@pytest.fixture(scope="module")
def stimuli():
    rng = np.random.default_rng(0)
    return rng.normal(size=(30, DIM, 3, 4)).astype("f4"), rng.normal(size=(30, 10)).astype("f4")


def fit_encoder(stimuli, **options):
    rois = {"V1": np.arange(10) < 5, "FFA": np.arange(10) >= 5}
    return BrainEncoder(rois, heads=HEADS, epochs=1, **options).fit(*stimuli)


@pytest.fixture(scope="module")
def planted(stimuli):
    """Head 0 reads a constant, head 1 the mean of all tokens; the others are as they were trained."""
    encoder = fit_encoder(stimuli)
    layer = encoder_layers(encoder)["decoder 1"]
    with torch.no_grad():
        layer.in_proj_weight[rows_of(0, 2)] = 0
        layer.in_proj_bias[rows_of(0, 2)] = 1
        layer.in_proj_weight[rows_of(1, 0)] = 0
        layer.in_proj_bias[rows_of(1, 0)] = 0
    return encoder


# The stimulus


def test_a_head_that_reads_a_constant_is_not_driven_and_one_that_reads_the_mean_survives_the_shuffle(
    planted, stimuli
):
    driven = stimulus_driven_heads(planted, stimuli[0])
    assert dict(driven.distance.sizes) == {"comparison": 2, "layer": 1, "head": HEADS, "query": 2}
    assert driven.roi.values.tolist() == ["V1", "FFA"]
    constant, pooled, free = (driven.sel(head=head) for head in (0, 1, 2))
    assert (constant.distance < 1e-7).all()
    assert (constant.noise < 1e-7).all()
    assert (pooled.distance.sel(comparison="shuffled") < 1e-6).all()
    assert (pooled.distance.sel(comparison="mean") > 0.1).all()
    assert (free.distance > 0.01).all()


def test_distances_are_those_of_the_definition(planted, stimuli):
    """What a head reads is its map times its values. Of three stimuli the two others are known."""
    X = stimuli[0][:3]
    network, layer = planted.network_, encoder_layers(planted)["decoder 1"]
    mean, scale = (x.numpy()[:, None, None] for x in (network.input_mean, network.input_scale))

    def readings(x, head):
        tokens = ((x - mean) / scale).reshape(len(x), DIM, -1).swapaxes(1, 2)
        parameters = layer.in_proj_weight, layer.in_proj_bias
        weight, bias = (p[rows_of(head, 2)].detach().numpy() for p in parameters)
        maps = planted.attention(x, per_head=True).sel(head=head).values.reshape(len(x), 2, -1)
        return maps @ (tokens @ weight.T + bias)

    def distance(a, b):
        apart, *sizes = (np.linalg.norm(x, axis=-1) for x in (a - b, a, b))
        return (apart / sum(sizes)).mean(0)

    driven = stimulus_driven_heads(planted, X)
    for head in (1, 2, 3):
        own, of_mean = readings(X, head), readings(X.mean(0, keepdims=True), head)
        got = driven.sel(head=head).isel(layer=0)
        np.testing.assert_allclose(got.distance.sel(comparison="mean"), distance(own, of_mean), rtol=1e-4)
        np.testing.assert_allclose(got.noise, distance(own[[0, 0, 1]], own[[1, 2, 2]]), rtol=1e-4)


def test_intervals_excess_and_seed(planted, stimuli):
    driven, again, other = (stimulus_driven_heads(planted, stimuli[0], seed=seed) for seed in (0, 0, 1))
    xr.testing.assert_identical(driven, again)
    assert not driven.equals(other)
    np.testing.assert_allclose(driven.excess, driven.distance - driven.noise, atol=1e-12)
    for name in ("distance", "noise", "excess"):
        low, high = driven[f"{name}_interval"].transpose("bound", ...)
        assert (low <= driven[name]).all()
        assert (driven[name] <= high).all()
    assert driven.attrs["resampled"] == "stimulus"
    assert driven.attrs["seed"] == 0


def test_reading_in_blocks_changes_nothing_and_leaves_no_hook(planted, stimuli, monkeypatch):
    before = planted.predict(stimuli[0])
    whole = stimulus_driven_heads(planted, stimuli[0])
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    xr.testing.assert_allclose(whole, stimulus_driven_heads(planted, stimuli[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(before, planted.predict(stimuli[0]))
    assert not encoder_layers(planted)["decoder 1"].out_proj._forward_pre_hooks


def test_layers_among_tokens_are_read_too(stimuli):
    encoder = fit_encoder(stimuli, encoder_layers=2, layers=2)
    driven = stimulus_driven_heads(encoder, stimuli[0])
    assert driven.layer.values.tolist() == ["encoder 1", "encoder 2", "decoder 1", "decoder 2"]
    first = driven.distance.sel(layer="encoder 1")
    np.testing.assert_array_equal(first.isel(query=0), first.isel(query=1))
    assert (first > 0.01).all()
    last = driven.distance.sel(layer="decoder 2")
    assert (abs(last.isel(query=0) - last.isel(query=1)) > 1e-4).any()
    linear = fit_encoder(stimuli, encoder_layers=1, encoder_attention="manar")
    assert stimulus_driven_heads(linear, stimuli[0]).layer.values.tolist() == ["decoder 1"]


def test_wrong_encoders_and_stimuli_are_refused(planted, stimuli):
    with pytest.raises(ValueError, match="number of stimuli must be at least 3, got 2"):
        stimulus_driven_heads(planted, stimuli[0][:2])
    with pytest.raises(NotFittedError):
        stimulus_driven_heads(BrainEncoder(), stimuli[0])
    mixed = BrainEncoder(epochs=1).fit({"a": stimuli[0], "b": stimuli[0]}, stimuli[1])
    with pytest.raises(ValueError, match="encoder must read features of one layer"):
        stimulus_driven_heads(mixed, {"a": stimuli[0], "b": stimuli[0]})
    with pytest.raises(ValueError, match=r"X must hold features of one layer, got \['a', 'b'\]"):
        stimulus_driven_heads(planted, {"a": stimuli[0], "b": stimuli[0]})


# The target


@pytest.fixture(scope="module")
def searches():
    return make_search_arrays(n_scenes=10, n_observers=2, seed=0)


def fit_searcher(searches, target="label", appearance="none", **options):
    sizes = {"dim": 16, "heads": 2, "layers": 1, "feedforward": 16, "epochs": 2}
    return ObjectAttentionTransformer(target=target, appearance=appearance, **sizes, **options).fit(searches)


@pytest.fixture(scope="module")
def searcher(searches):
    return fit_searcher(searches)


def test_a_decoder_that_is_told_the_target_through_the_scene_alone_shows_it_there_alone(searches):
    model = fit_searcher(searches)
    with torch.no_grad():
        # No object is marked: what is searched for is known from the cue, which no path goes through.
        model.network_.kind.weight[MATCH] = model.network_.kind.weight[OBJECT]
        scene = model.network_.core.decoder[0].multihead_attn
        scene.in_proj_weight[2 * 16 : 2 * 16 + 8] = 0  # head 0 reads a constant
    driven = target_driven_heads(model, searches)
    assert driven.layer.values.tolist() == ["encoder 1", "decoder 1 path", "decoder 1 scene"]
    assert (driven.distance.sel(layer="decoder 1 path") == 0).all()
    assert (driven.distance.sel(layer="decoder 1 scene", head=0) < 1e-6).all()
    assert (driven.distance.sel(layer="decoder 1 scene", head=1) > 1e-4).all()
    assert (driven.distance.sel(layer="encoder 1") > 1e-4).all()
    assert (driven.noise.sel(layer="encoder 1") > 1e-5).all()
    assert driven.attrs["resampled"] == "image x observer"


@pytest.mark.parametrize(
    ("target", "appearance"), [("label", "none"), ("oracle", "precomputed"), ("exemplar", "precomputed")]
)
def test_without_a_target_nothing_of_it_is_left(searches, target, appearance):
    model = fit_searcher(searches, target, appearance)
    scene = searches.scene_of(0)
    other = module._other_targets(scene, searches, target, np.random.default_rng(0))[0]
    layers = module._path_layers(model.network_)
    versions = [model._inputs(one) for one in (scene, other)]
    path = np.array([[0, 2, 1]])
    given = _read_paths(model, layers, versions, path, [None])
    hidden = _read_paths(model, layers, [_without_target(one) for one in versions], path, [None])
    for name in layers:
        assert np.abs(given[name][0] - given[name][1]).max() > 1e-5 or name == "decoder 1 path"
        np.testing.assert_array_equal(hidden[name][0], hidden[name][1])
    driven = target_driven_heads(model, searches)
    assert (driven.distance.sel(layer="decoder 1 scene") > 1e-5).all()
    assert (driven.noise.sel(layer="decoder 1 scene") > 1e-5).all()


def test_trials_count_alike_whatever_the_length_of_those_beside_them(searcher, searches):
    lengths = searches.data.length.values
    rows = np.flatnonzero(searches.data.scene.values == searches.data.scene.values[np.argmax(lengths)])
    assert lengths[rows[0]] != lengths[rows[1]]
    alone = [target_driven_heads(searcher, searches[[row]]).distance.sel(comparison="none") for row in rows]
    together = target_driven_heads(searcher, searches[rows]).distance.sel(comparison="none")
    np.testing.assert_allclose(together, (alone[0] + alone[1]) / 2, rtol=1e-5, atol=1e-7)


def test_scenes_without_two_other_targets_are_left_out_and_counted(searcher, searches):
    name = searches.data.scene.values[0]
    scene = searches.scenes[name]
    labels = tuple("disc" if match else "square" for match in scene.matches_target)
    poor = {**searches.scenes, name: replace(scene, labels=labels, target_label="disc")}
    driven = target_driven_heads(searcher, ScanpathDataset(searches.data, poor))
    assert driven.attrs["n_left_out"] == 2
    assert np.isfinite(driven.distance).all()
    with pytest.raises(ValueError, match="dataset must have scenes with two other targets, got none"):
        target_driven_heads(searcher, ScanpathDataset(searches.data, poor)[:2])


def test_models_without_a_target_are_refused(searches):
    model = fit_searcher(searches, "none", "precomputed")
    with pytest.raises(ValueError, match="model must know a target to lose it, got target='none'"):
        target_driven_heads(model, searches)
    with pytest.raises(NotFittedError):
        target_driven_heads(ObjectAttentionTransformer(target="label"), searches)


def test_figures_show_every_head_and_the_noise(planted, stimuli, searcher, searches):
    for result, n_rows in (
        (stimulus_driven_heads(planted, stimuli[0]), HEADS),
        (target_driven_heads(searcher, searches), 6),
    ):
        axes = plot_driven_heads(result).axes[0]
        assert len(axes.get_yticklabels()) == n_rows
        noise = next(line for line in axes.lines if line.get_label() == "noise level")
        expected = result.noise.mean("query") if "query" in result.dims else result.noise
        np.testing.assert_allclose(noise.get_xdata(), expected.transpose("layer", "head").values.ravel())
