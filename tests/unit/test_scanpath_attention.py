"""Attention along a path: the maps are the model's, planted shifts are found, planted memories are seen."""

import numpy as np
import pytest
import torch
import xarray as xr

from neuroattn.analyses import (
    attention_shifts,
    decoder_profile,
    path_attention,
    plot_attention_shifts,
    plot_decoder_profile,
)
from neuroattn.analyses.heads import head_readings
from neuroattn.datasets import ScanpathDataset, make_search_arrays
from neuroattn.metrics import auc, nss
from neuroattn.results import Scanpath
from neuroattn.scanpath import ObjectAttentionTransformer, sampled_scanpaths
from neuroattn.scanpath.base import object_paths

LAYERS, HEADS, DIM = 2, 2, 16


@pytest.fixture(scope="module")
def searches():
    return make_search_arrays(n_scenes=10, n_observers=3, seed=0)


def fit(searches, **options):
    sizes = {"dim": DIM, "heads": HEADS, "layers": LAYERS, "feedforward": 16, "epochs": 2}
    return ObjectAttentionTransformer(**{"target": "label", "appearance": "none"} | options, **sizes).fit(
        searches
    )


@pytest.fixture(scope="module")
def model(searches):
    return fit(searches)


@pytest.fixture(scope="module")
def maps(model, searches):
    return path_attention(model, searches)


# The maps of a model


def test_maps_are_shares_of_what_a_step_may_see(maps, searches):
    lengths = object_paths(searches)[1]
    n_steps = maps.sizes["step"]
    there = np.arange(n_steps) <= lengths[:, None]
    for total in (maps.scene.sum("object") + maps.cue, maps.path.sum("earlier")):
        total = total.transpose("trial", "step", "layer", "head").values
        np.testing.assert_allclose(total[there], 1, rtol=1e-5)
    missing = maps.path.isnull().transpose("trial", "step", "layer", "head", "earlier").values
    seen = there[..., None] & np.tril(np.ones((n_steps, n_steps), bool))
    np.testing.assert_array_equal(missing, ~np.broadcast_to(seen[:, :, None, None], missing.shape))
    assert maps.scene.isnull().transpose("trial", "step", ...).values[~there].all()
    assert (maps.image.values == searches.data.image.values).all()


def test_maps_are_what_the_heads_read_through(model, searches, maps):
    """Weights times the values of the scene are the readings of the heads."""
    trial = int(np.argmax(object_paths(searches)[1]))
    path, scene = object_paths(searches)[0][[trial]], searches.scene_of(trial)
    decoder = model.network_.core.decoder
    layers = {str(k): layer.multihead_attn for k, layer in enumerate(decoder)}
    memory = model._memory(scene)
    with head_readings(layers) as read:
        model._decode(scene, path, [None])
    for k in range(LAYERS):
        one = maps.isel(trial=trial, layer=k)
        weights = np.concatenate([one.scene.values, one.cue.values[..., None]], -1)
        expected = weights @ memory.layers[k][1][0].detach().numpy()
        np.testing.assert_allclose(read[str(k)][0][0].swapaxes(0, 1), expected, rtol=1e-4, atol=1e-6)


def test_a_decoder_that_asks_nothing_remembers_all_alike(searches):
    model = fit(searches)
    with torch.no_grad():
        first = model.network_.core.decoder[0].self_attn
        first.in_proj_weight[:DIM] = 0
        first.in_proj_bias[:DIM] = 0
    profile = decoder_profile(path_attention(model, searches))
    excess = profile.excess.isel(layer=0)
    assert (abs(excess.where(excess.notnull(), 0)) < 1e-6).all()
    other = profile.excess.isel(layer=1)
    assert (abs(other.where(other.notnull(), 0)) > 1e-4).any()


def test_without_a_target_there_is_no_cue(searches):
    free = path_attention(fit(searches, target="none", appearance="precomputed"), searches)
    assert free.cue.fillna(0).max() == 0
    assert free.scene.sum("object").max() == pytest.approx(1, rel=1e-5)


def test_paths_of_the_model_are_taken_as_those_of_people(model, searches):
    scenes = {name: searches.scenes[name] for name in list(searches.scenes)[:4]}
    paths = [
        path
        for scene in scenes.values()
        for path in sampled_scanpaths(model.sample(scene, n=20, seed=0), scene)
    ]
    sampled = ScanpathDataset.from_scanpaths(paths, scenes=scenes)
    maps = path_attention(model, sampled)
    assert maps.sizes["trial"] == 80
    assert set(maps.image.values) == set(scenes)
    shifts = attention_shifts(maps.scene.mean(("layer", "head")), sampled)
    assert np.isfinite(shifts.score.sel(metric="AUC")).all()
    assert np.isfinite(decoder_profile(maps).rollout.sel(order="lag", place=0))


# Shifts


def planted_trials(n_trials=30, n_steps=5, n_objects=6, seed=0):
    """Paths over objects in a row, and maps whose peak goes to the next fixation in time."""
    rng = np.random.default_rng(seed)
    objects = np.stack([rng.permutation(n_objects)[:n_steps] for _ in range(n_trials)])
    maps = np.full((n_trials, n_steps, n_objects), 0.1) + 0.01 * rng.random((n_trials, n_steps, n_objects))
    np.put_along_axis(maps, objects[..., None], 1.0, -1)
    paths = [
        Scanpath(row * 10 + 5, np.full(n_steps, 5), (n_objects * 10, 10), objects=row, first_fixation="free",
                 attrs={"image": str(i), "observer": str(i % 5)})
        for i, row in enumerate(objects)
    ]  # fmt: skip
    return xr.DataArray(maps, dims=("trial", "step", "object")), paths


def test_attention_that_moves_to_the_next_fixation_is_found():
    maps, paths = planted_trials()
    result = attention_shifts(maps, paths)
    score = result.score.sel(metric="AUC")
    assert score.sel(map="shift") == 1
    assert score.sel(map="map") == 1
    assert score.sel(map="earlier map") < 0.55  # the peak of the step before lies on what is no more the next
    assert score.sel(map="other steps") < 0.5
    assert abs(score.sel(map="another trial") - 0.5) < 0.1
    low = result.excess_interval.sel(bound="low", metric="AUC")
    assert (low.sel(control=["earlier map", "other steps", "another trial"]) > 0.3).all()
    assert result.excess.sel(metric="AUC", control="map") == 0
    assert result.attrs["n_fixations"] == 30 * 4
    assert result.attrs["resampled"] == "image x observer"


def test_maps_that_know_nothing_are_at_chance():
    maps, paths = planted_trials(n_trials=150)
    random = maps.copy(data=np.random.default_rng(1).random(maps.shape))
    result = attention_shifts(random, paths)
    assert (abs(result.score.sel(metric="AUC") - 0.5) < 0.06).all()
    assert (abs(result.score.sel(metric="NSS")) < 0.15).all()
    inside = (result.excess_interval.sel(bound="low") < 0) & (result.excess_interval.sel(bound="high") > 0)
    assert inside.mean() > 0.7


def test_shifts_that_are_the_same_in_all_trials_tell_no_more_than_those_of_another():
    maps, paths = planted_trials(n_trials=8)
    same = maps.copy(data=np.broadcast_to(maps.values[:1], maps.shape))
    objects = paths[0].objects
    paths = [
        Scanpath(path.x, path.y, path.image_size, objects=objects, first_fixation="free", attrs=path.attrs)
        for path in paths
    ]
    result = attention_shifts(same, paths)
    assert result.score.sel(metric="AUC", map="shift") == 1
    assert (result.excess.sel(control="another trial") == 0).all()


def test_scores_are_those_of_the_metrics_on_the_image():
    """A grid of 2 x 3 cells over an image of 60 x 40 px; the first fixation is initial and no target."""
    rng = np.random.default_rng(0)
    maps = xr.DataArray(rng.random((1, 3, 2, 3)), dims=("trial", "step", "y", "x"))
    path = Scanpath([30, 5, 45, 70, 25], [20, 5, 35, 5, 10], (60, 40))
    result = attention_shifts(maps, [path])
    shift = np.maximum(maps.values[0, 1] - maps.values[0, 0], 0)
    at = {"x": [2.5], "y": [1.5]}  # the second chosen fixation; the third is outside
    expected = [nss(shift, at), auc(shift, at, kind="judd")]
    np.testing.assert_allclose(result.score.sel(map="shift"), expected)
    np.testing.assert_allclose(
        result.score.sel(map="earlier map"),
        [nss(maps.values[0, 0], at), auc(maps.values[0, 0], at, kind="judd")],
    )
    assert result.attrs["n_fixations"] == 1
    assert result.score.sel(map=["other steps", "another trial"]).isnull().all()


def test_layers_and_heads_are_scored_one_by_one(maps, searches):
    every = attention_shifts(maps.scene, searches)
    assert every.attrs["n_fixations"] == np.maximum(object_paths(searches)[1] - 1, 0).sum()
    assert dict(every.score.sizes) == {"metric": 2, "map": 5, "layer": LAYERS, "head": HEADS}
    one = attention_shifts(maps.scene.isel(layer=1, head=0), searches)
    xr.testing.assert_allclose(
        every.score.isel(layer=1, head=0).sel(map=["shift", "map"]), one.score.sel(map=["shift", "map"])
    )


def test_fixations_of_the_background_are_no_targets():
    maps, paths = planted_trials(n_trials=2, n_steps=4)
    first = paths[0]
    objects = np.insert(first.objects, 2, -1)
    x, y = np.insert(first.x, 2, 0), np.insert(first.y, 2, 0)
    beside = Scanpath(x, y, first.image_size, objects=objects, first_fixation="free", attrs=first.attrs)
    xr.testing.assert_identical(attention_shifts(maps, paths), attention_shifts(maps, [beside, paths[1]]))


def test_wrong_maps_and_paths_are_refused():
    maps, paths = planted_trials(n_trials=3)
    with pytest.raises(ValueError, match="maps must have dims trial, step and object"):
        attention_shifts(maps.rename(object="place"), paths)
    with pytest.raises(ValueError, match="paths must be one for each of 3 trials, got 2"):
        attention_shifts(maps, paths[:2])
    bare = [Scanpath(path.x, path.y, path.image_size, first_fixation="free") for path in paths]
    with pytest.raises(ValueError, match="paths must have objects for maps over objects, got none"):
        attention_shifts(maps, bare)
    short = [Scanpath([5], [5], (60, 10), objects=[0], first_fixation="free")] * 3
    with pytest.raises(ValueError, match="paths must have a second fixation that the maps cover, got none"):
        attention_shifts(maps, short)


# Memory of the path


def path_maps(layers, lengths=(4, 2, 3)):
    """Label the maps (step, earlier) of layers with one head, cut to the lengths of some paths."""
    n = len(layers[0])
    values = np.broadcast_to(np.stack(layers)[:, None], (len(lengths), len(layers), 1, n, n)).copy()
    values[..., ~np.tril(np.ones((n, n), bool))] = np.nan
    for row, length in zip(values, lengths, strict=True):
        row[..., length + 1 :, :] = np.nan
    return xr.Dataset(
        {"path": (("trial", "layer", "head", "step", "earlier"), values)},
        {"image": ("trial", list("abc")), "observer": ("trial", list("112"))},
    )


def weights_on(n, earlier_of):
    weights = np.zeros((n, n))
    weights[np.arange(n), [max(earlier_of(t), 0) for t in range(n)]] = 1
    return weights


UNIFORM = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]


@pytest.mark.parametrize(
    ("earlier_of", "order", "place"),
    [(lambda t: t, "lag", 0), (lambda t: t - 1, "lag", 1), (lambda t: 0, "position", 0)],
    ids=["present", "one before", "start"],
)
def test_planted_memories_are_seen(earlier_of, order, place):
    profile = decoder_profile(path_maps([weights_on(5, earlier_of)]))
    weight = profile.weight.sel(order=order).isel(layer=0, head=0)
    assert weight[place] == 1
    assert (weight.drop_isel(place=place) == 0).all()
    assert (profile.excess.sel(order=order)[0, 0, place] > 0.3).all()
    assert (profile.excess_interval.sel(order=order, bound="low")[0, 0, place] > 0.2).all()
    assert profile.attrs["resampled"] == "image x observer"


def test_uniform_attention_has_no_excess_and_its_average_is_that_of_the_steps():
    profile = decoder_profile(path_maps([UNIFORM, UNIFORM]))
    assert (abs(profile.excess) < 1e-12).all()
    assert (abs(profile.rollout_excess) < 1e-12).all()
    # Steps 1 to 4, 1 to 2 and 1 to 3 of three paths see the start.
    shares = [1 / (t + 1) for length in (4, 2, 3) for t in range(1, length + 1)]
    assert float(profile.uniform.sel(order="position")[0]) == pytest.approx(np.mean(shares))
    assert float(profile.uniform.sel(order="lag")[4]) == pytest.approx(1 / 5)


def test_rollout_is_the_product_over_layers():
    rng = np.random.default_rng(0)
    layers = [np.tril(rng.random((5, 5))) for _ in range(2)]
    layers = [weights / weights.sum(1, keepdims=True) for weights in layers]
    profile = decoder_profile(path_maps(layers, lengths=(4, 4, 4)))
    eye = np.eye(5)
    expected = (layers[1] + eye) / 2 @ (layers[0] + eye) / 2
    np.testing.assert_allclose(profile.rollout.sel(order="position")[0], expected[1:, 0].mean())
    np.testing.assert_allclose(profile.rollout.sel(order="lag")[0], np.diag(expected)[1:].mean())
    uniform = (UNIFORM + eye) / 2 @ (UNIFORM + eye) / 2
    np.testing.assert_allclose(profile.rollout_uniform.sel(order="position")[4], uniform[4, 4])
    np.testing.assert_allclose(profile.rollout_excess, profile.rollout - profile.rollout_uniform, atol=1e-12)


def test_a_path_without_fixations_has_no_memory():
    with pytest.raises(ValueError, match="maps must hold a path with a fixation, got none"):
        decoder_profile(path_maps([UNIFORM], lengths=(0, 0, 0)))


def test_figures_show_what_was_measured(maps, searches):
    shifts = attention_shifts(maps.scene.mean(("layer", "head")), searches)
    axes = plot_attention_shifts(shifts).axes[1]
    points = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(np.concatenate(points), shifts.score.sel(metric="AUC"))
    several = plot_attention_shifts(attention_shifts(maps.scene, searches)).axes[0]
    assert [len(line.get_xdata()) for line in several.lines if line.get_marker() == "o"] == [4] * 5
    profile = decoder_profile(maps)
    _, *heads, rollout = plot_decoder_profile(profile).axes[1].lines
    assert len(heads) == LAYERS * HEADS
    np.testing.assert_allclose(heads[0].get_ydata(), profile.excess.sel(order="position")[0, 0])
    np.testing.assert_allclose(rollout.get_ydata(), profile.rollout_excess.sel(order="position"))
