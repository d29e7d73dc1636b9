"""Contrast takes out what maps share, and no map earns a score that the centre of the image earns, too."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from neuroattn.analyses import contrastive_maps, plot_map_scores, score_maps
from neuroattn.results import Scanpath

SIDE = 8
REGIONS = ["FFA", "PPA", "V1"]


def centre(width=0.18):
    place = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    return np.exp(-(place[:, None] ** 2 + place**2) / (2 * width**2))


def labelled(values):
    values = np.asarray(values)
    return xr.DataArray(
        values,
        dims=("stimulus", "query", "y", "x"),
        coords={
            "roi": ("query", REGIONS[: values.shape[1]]),
            "hemisphere": ("query", ["left"] * values.shape[1]),
        },
    )


def normalised(values):
    return labelled(values / values.sum((-2, -1), keepdims=True))


@pytest.fixture(scope="module")
def planted():
    """The centre of the image, with a weak gain at the object of each of two regions, and without for a third."""
    rng = np.random.default_rng(0)
    objects = np.zeros((60, 3, SIDE * SIDE), bool)
    for one in objects:
        one[[0, 1], rng.choice(SIDE * SIDE, 2, replace=False)] = True
    objects = objects.reshape(60, 3, SIDE, SIDE)
    maps = centre() * (1 + 2 * objects) * rng.uniform(0.9, 1.1, objects.shape)
    return normalised(maps), labelled(objects)


def test_contrast_is_the_logarithm_of_a_ratio():
    maps = normalised(np.random.default_rng(0).random((2, 3, SIDE, SIDE)))
    values = maps.values
    np.testing.assert_allclose(contrastive_maps(maps), np.log(values / values.mean(1, keepdims=True)))
    against = contrastive_maps(maps, against=["V1", "PPA"])
    np.testing.assert_allclose(against, np.log(values / values[:, 1:].mean(1, keepdims=True)))
    assert against.attrs["units"] == "nat"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_all_maps_share_cancels(seed):
    rng = np.random.default_rng(seed)
    maps = labelled(rng.uniform(0.1, 1, (2, 3, 4, 5)))
    shared = rng.uniform(0.1, 10, (2, 1, 4, 5))
    np.testing.assert_allclose(contrastive_maps(maps * shared), contrastive_maps(maps), atol=1e-9)


def test_weights_of_zero_stay_finite():
    maps = labelled(np.eye(3)[None, :, None])
    assert np.isfinite(contrastive_maps(maps)).all()


def test_contrast_finds_objects_that_the_centre_hides(planted):
    result = score_maps(*planted)
    auc = result.score.sel(metric="auc", source="own image").isel(query=[0, 1])
    assert (auc.sel(kind="contrast") > 0.95).all()
    assert (auc.sel(kind="contrast") > auc.sel(kind="attention") + 0.1).all()
    low = result.advantage_interval.sel(kind="contrast", bound="low").isel(query=[0, 1])
    assert (low > 0).all()


def test_a_map_of_the_centre_has_no_advantage(planted):
    rng = np.random.default_rng(1)
    chance = centre(0.12).ravel() / centre(0.12).sum()
    objects = np.stack([rng.multinomial(1, chance, size=3) for _ in range(60)]).astype(bool)
    still = normalised(np.broadcast_to(centre(), (60, 3, SIDE, SIDE)))
    result = score_maps(still, labelled(objects.reshape(60, 3, SIDE, SIDE)))
    attention = result.sel(metric="auc", kind="attention")
    assert (attention.score.sel(source="own image") > 0.7).all()  # a good score, and worth nothing
    np.testing.assert_allclose(attention.advantage, 0, atol=1e-9)


def test_auc_and_nss_are_those_of_the_definition(planted):
    maps, objects = planted
    result = score_maps(maps, objects)
    for q in (0, 1):
        expected = [
            roc_auc_score(o.ravel(), m.ravel())
            for m, o in zip(maps.values[:, q], objects.values[:, q], strict=True)
        ]
        own = result.score.sel(source="own image", kind="attention").isel(query=q)
        np.testing.assert_allclose(own.sel(metric="auc"), np.mean(expected))
        values = (maps - maps.mean(("y", "x"))) / maps.std(("y", "x"))
        nss = values.isel(query=q).values[objects.values[:, q]].mean()
        np.testing.assert_allclose(own.sel(metric="nss"), nss)
    others = (maps.sum("stimulus") - maps) / (len(maps) - 1)
    expected = score_maps(others, objects).score.sel(source="own image", kind="attention")
    np.testing.assert_allclose(result.score.sel(source="mean of others", kind="attention"), expected)


def test_the_other_image_is_another_one(planted):
    maps, objects = planted
    other = score_maps(maps, objects).score.sel(metric="auc", source="other image", kind="contrast")
    assert (abs(other.isel(query=[0, 1]) - 0.5) < 0.1).all()


def test_regions_without_an_object_have_no_score(planted):
    result = score_maps(*planted)
    assert result.n_stimuli.values.tolist() == [60, 60, 0]
    assert result.score.isel(query=2).isnull().all()
    figure = plot_map_scores(result)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["FFA left", "PPA left"]


def test_objects_may_lie_on_a_finer_grid(planted):
    maps, objects = planted
    fine = labelled(objects.values.repeat(3, axis=2).repeat(2, axis=3))
    np.testing.assert_allclose(score_maps(maps, fine).score, score_maps(maps, objects).score)


def test_fixations_are_scaled_to_the_map_and_initial_ones_left_out(planted):
    maps, objects = planted
    width, height = 160, 80
    paths = []
    for mask in objects.values[:, 0]:
        y, x = np.argwhere(mask)[0] + 0.5
        at = {"x": [width / 2, x * width / SIDE, 1e4], "y": [height / 2, y * height / SIDE, 0]}
        paths.append([Scanpath(**at, image_size=(width, height))])
    gaze = score_maps(maps.isel(query=[0]), paths).score
    truth = score_maps(maps.isel(query=[0]), objects.isel(query=[0])).score
    np.testing.assert_allclose(gaze, truth)


def test_what_does_not_fit_is_refused(planted):
    maps, objects = planted
    with pytest.raises(ValueError, match="against must be one of 'FFA', 'PPA', 'V1', got 'MT'"):
        contrastive_maps(maps, against=["MT"])
    with pytest.raises(ValueError, match="targets must be bool"):
        score_maps(maps, objects.astype(float))
    with pytest.raises(ValueError, match="scanpaths of each of 60 stimuli, got 1"):
        score_maps(maps, [[]])
    with pytest.raises(ValueError, match="metric must be one of"):
        plot_map_scores(score_maps(maps, objects), "kl")
