"""Figures of scanpaths show the numbers that they are given, in the image's frame."""

import numpy as np
import pytest
import xarray as xr

from neuroattn.analyses import plot_fixation_density, plot_found_curve, plot_scanpath, plot_transitions
from neuroattn.analyses.scanpath_study import MEMORY_FULL, PEOPLE
from neuroattn.datasets import ObjectScene
from neuroattn.results import Scanpath

SIZE = (120, 60)  # wider than high


@pytest.fixture(scope="module")
def scene():
    boxes = [[10, 10, 20, 20], [50, 10, 20, 20], [90, 30, 20, 20]]
    return ObjectScene(boxes, SIZE, labels=["cup", "fork", "cup"], target_label="fork")


def path(x, y, **more):
    return Scanpath(x, y, SIZE, **more)


def discs(figure):
    """Return the positions and areas of each path's discs."""
    drawn = figure.axes[0].collections
    return [np.asarray(one.get_offsets()) for one in drawn], [one.get_sizes() for one in drawn]


def test_fixations_are_drawn_where_they_fall_with_the_origin_at_the_top_left(scene):
    figure = plot_scanpath(scene, path([60, 20, 100], [30, 15, 45]))
    (axes,) = figure.axes
    np.testing.assert_array_equal(discs(figure)[0][0], [[60, 30], [20, 15], [100, 45]])
    assert (axes.get_xlim(), axes.get_ylim(), axes.get_aspect()) == ((0, 120), (60, 0), 1)
    numbers = [text.get_text() for text in axes.texts if text.get_text().isdecimal()]
    assert numbers == ["0", "1", "2"]


def test_a_first_fixation_that_was_chosen_has_number_one(scene):
    figure = plot_scanpath(scene, path([60, 20], [30, 15], first_fixation="free"))
    assert [t.get_text() for t in figure.axes[0].texts if t.get_text().isdecimal()] == ["1", "2"]


def test_the_area_of_a_disc_is_proportional_to_its_duration(scene):
    figure = plot_scanpath(scene, path([60, 20], [30, 15], duration=[0.2, 0.6]))
    (areas,) = discs(figure)[1]
    assert areas[1] == pytest.approx(3 * areas[0])


def test_fixations_at_one_place_are_drawn_apart_and_others_where_they_are(scene):
    paths = [
        path([20, 60], [20, 20], first_fixation="free"),
        path([20, 100], [20, 40], first_fixation="free"),
    ]
    (first, second), _ = discs(plot_scanpath(scene, paths))
    np.testing.assert_allclose([first[1], second[1]], [[60, 20], [100, 40]])
    assert np.hypot(*(first[0] - second[0])) > 4
    np.testing.assert_allclose((first[0] + second[0]) / 2, [20, 20])


def test_fixations_outside_the_image_widen_the_panel(scene):
    (axes,) = plot_scanpath(scene, path([60, 150], [30, -20])).axes
    assert axes.get_xlim() == (0, 150)
    assert axes.get_ylim() == (60, -20)


def test_boxes_are_drawn_and_that_of_the_target_is_thicker(scene):
    (axes,) = plot_scanpath(scene, path([60], [30])).axes
    boxes = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]
    np.testing.assert_array_equal(boxes, scene.boxes)
    widths = [patch.get_linewidth() for patch in axes.patches]
    assert widths[1] > widths[0] == widths[2]
    assert [t.get_text().strip() for t in axes.texts if not t.get_text().isdecimal()] == list(scene.labels)


def test_an_image_takes_the_place_of_labels(scene):
    pixels = np.zeros((60, 120, 3), np.uint8)
    shown = ObjectScene(scene.boxes, SIZE, labels=scene.labels, image=pixels)
    (axes,) = plot_scanpath(shown, path([60], [30])).axes
    assert axes.images[0].get_extent() == [0, 120, 60, 0]
    assert [t.get_text() for t in axes.texts] == ["0"]


def test_groups_have_panels_and_many_paths_no_numbers(scene):
    many = [path([60, 20 + i], [30, 15]) for i in range(4)]
    figure = plot_scanpath(scene, {"people": many[:1], "model": many, "none": []})
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["people", "model", "none"]
    assert not [t for t in figure.axes[1].texts if t.get_text().isdecimal()]
    np.testing.assert_array_equal(figure.axes[1].lines[3].get_xdata(), [60, 23])


def test_a_path_without_fixations_is_drawn_as_nothing(scene):
    empty = path([], [], first_fixation="free")
    assert not plot_scanpath(scene, empty).axes[0].collections
    assert not plot_scanpath(scene, [empty, path([60], [30])]).axes[0].collections[0].get_offsets().size


@pytest.mark.parametrize("draw", [plot_scanpath, plot_fixation_density, plot_transitions])
def test_paths_of_another_image_and_no_paths_are_refused(draw, scene):
    with pytest.raises(ValueError, match=r"image of \(120, 60\) px, got one of \(60, 120\)"):
        draw(scene, Scanpath([1], [1], (60, 120)))
    with pytest.raises(ValueError, match="paths must hold at least one scanpath, got none"):
        draw(scene, {"people": []})


def test_density_counts_chosen_fixations_inside_the_image(scene):
    paths = [path([60, 20, 20, 130], [30, 15, 15, 15]), path([60, 100], [30, 45])]
    density = plot_fixation_density(scene, paths, sigma=2).axes[0].images[-1].get_array()
    assert density.shape == (60, 120)
    assert np.unravel_index(density.argmax(), density.shape) == (15, 20)
    assert density[15, 20] == pytest.approx(2 * density[45, 100], rel=1e-3)
    assert density[30, 60] < 1e-6  # the initial fixations
    assert density.mean() == pytest.approx(1)


def test_densities_of_groups_share_their_colours(scene):
    groups = {"tight": [path([60, 20], [30, 15])], "wide": [path([60, 20, 100, 60], [30, 15, 45, 15])]}
    figure = plot_fixation_density(scene, groups, sigma=3)
    limits = {axes.images[-1].get_clim() for axes in figure.axes[:2]}
    assert len(limits) == 1
    assert limits.pop()[1] == pytest.approx(figure.axes[0].images[-1].get_array().max())
    with pytest.raises(ValueError, match="sigma must be at least 0, got -1"):
        plot_fixation_density(scene, groups, sigma=-1)


def test_the_default_blur_is_one_degree_or_a_share_of_the_diagonal(scene):
    degree = ObjectScene(scene.boxes, SIZE, px_per_degree=7)
    labels = [
        plot_fixation_density(one, path([60, 20], [30, 15])).axes[-1].get_ylabel() for one in (degree, scene)
    ]
    assert labels == ["Times uniform, σ 7 px", "Times uniform, σ 7 px"]
    wider = ObjectScene(scene.boxes, SIZE, px_per_degree=12)
    assert "σ 12 px" in plot_fixation_density(wider, path([60, 20], [30, 15])).axes[-1].get_ylabel()


def arrows(figure):
    """Return the width of each arrow by its ends."""
    from matplotlib.patches import FancyArrowPatch

    found = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    return {
        (
            tuple(map(float, patch._posA_posB[0])),
            tuple(map(float, patch._posA_posB[1])),
        ): patch.get_linewidth()
        for patch in found
    }


def test_arrows_are_as_wide_as_transitions_are_probable(scene):
    x, y = scene.x, scene.y
    seen = np.array([0, 1, 0, 1, 0, 2])
    one = path(x[seen], y[seen], objects=seen, first_fixation="free")
    widths = arrows(plot_transitions(scene, one))
    centres = list(zip(x.tolist(), y.tolist(), strict=True))
    assert set(widths) == {(centres[a], centres[b]) for a, b in ((0, 1), (1, 0), (0, 2))}
    assert widths[centres[1], centres[0]] > widths[centres[0], centres[1]] > widths[centres[0], centres[2]]
    assert set(arrows(plot_transitions(scene, one, at_least=0.5))) == {
        (centres[0], centres[1]),
        (centres[1], centres[0]),
    }


def test_background_and_initial_fixations_are_no_transitions(scene):
    seen = np.array([0, 1, -1, 2])
    one = path([20, 60, 5, 100], [20, 20, 5, 40], objects=seen)
    assert not arrows(plot_transitions(scene, one))
    with pytest.raises(ValueError, match="paths must have objects, got a path without"):
        plot_transitions(scene, path([20], [20]))


@pytest.fixture
def comparison():
    shares = np.array([[0.4, 0.7], [0.3, 0.6], [1 / 3, 2 / 3]])
    return xr.Dataset(
        {
            "found": (("source", "saccade"), shares),
            "found_interval": (("bound", "source", "saccade"), [shares - 0.1, shares + 0.1]),
        },
        {"source": [PEOPLE, "logit", MEMORY_FULL], "saccade": [1, 2], "bound": ["low", "high"]},
    )


def test_found_curves_show_shares_and_their_intervals(comparison):
    (axes,) = plot_found_curve(comparison).axes
    assert [line.get_label() for line in axes.lines] == [PEOPLE, "logit", MEMORY_FULL]
    for line, band, shares in zip(axes.lines, axes.collections, comparison.found.values, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), shares)
        corners = band.get_paths()[0].vertices[:, 1]
        assert (corners.min(), corners.max()) == pytest.approx((shares.min() - 0.1, shares.max() + 0.1))
    assert axes.lines[2].get_linestyle() == ":"


def test_found_curves_need_targets(comparison):
    with pytest.raises(ValueError, match="its scenes have no targets"):
        plot_found_curve(comparison.drop_vars("found"))
