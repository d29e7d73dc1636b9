"""Figures show what the arrays hold, and their SVG fits into any page."""

import re

import matplotlib
import numpy as np
import pytest
import xarray as xr

from neuroattn.analyses import figures
from neuroattn.analyses.style import THEME, to_svg

ROIS = ["all", "V1", "FFA", "gap"]


def make_scores():
    """Two models in three regions, one of them empty."""
    value = np.array([[0.4, 0.3, 0.6, np.nan], [0.35, 0.4, 0.4, np.nan]])
    difference = np.array([[0.05, -0.1, 0.2, np.nan], [np.nan] * 4])
    return xr.Dataset(
        {
            "n_units": ("roi", [30, 20, 10, 0]),
            "correlation": (("model", "roi"), value),
            "correlation_ci": (("model", "roi", "bound"), np.stack([value - 0.1, value + 0.05], -1)),
            "correlation_shuffled": (("model", "roi"), value * 0 + 0.01),
            "difference": (("model", "roi"), difference),
            "difference_ci": (("model", "roi", "bound"), np.stack([difference - 0.1, difference + 0.05], -1)),
            "best_baseline": ("roi", ["ridge"] * 4),
        },
        {"model": ["attention", "ridge"], "roi": ROIS, "bound": ["low", "high"]},
    )


def make_attention(n_queries=2, side=6):
    weights = np.random.default_rng(0).random((2, 3, n_queries, side, side))
    return xr.DataArray(
        weights / weights.sum((-2, -1), keepdims=True),
        dims=("seed", "stimulus", "query", "y", "x"),
        coords={"roi": ("query", ["V1", "FFA"][:n_queries]), "hemisphere": ("query", ["left"] * n_queries)},
    )


def lines(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def labels(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def test_dots_and_lines_are_the_scores_and_their_intervals():
    scores = make_scores()
    axes = figures.plot_roi_scores(scores).axes[0]
    assert labels(axes) == ROIS
    for collection, model in zip(axes.collections, ["attention", "ridge"], strict=True):
        np.testing.assert_array_equal(lines(axes, model).get_xdata(), scores.correlation.sel(model=model))
        spans = np.array([segment[:, 0] for segment in collection.get_segments() if len(segment)])
        np.testing.assert_allclose(spans, scores.correlation_ci.sel(model=model)[:3])


def test_null_is_marked_where_it_is_given():
    with_null = figures.plot_roi_scores(make_scores())
    without = figures.plot_roi_scores(make_scores().drop_vars("correlation_shuffled"))
    names = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in (with_null, without)]
    assert names == [["attention", "ridge", "shuffled images"], ["attention", "ridge"]]


def test_empty_regions_say_why():
    scores = make_scores()
    scores["correlation"].loc[{"roi": "V1"}] = np.nan
    texts = [text.get_text() for text in figures.plot_roi_scores(scores).axes[0].texts]
    assert texts == ["no usable ceiling", "no units"]


def test_differences_are_sorted_with_all_first_and_coloured_by_the_winner():
    axes = figures.plot_differences(make_scores(), "attention").axes[0]
    assert labels(axes) == ["all", "FFA", "V1"]
    # Each row in the colour of the model that wins it, hollow grey where none does.
    neither, attention, ridge = axes.lines[:3]
    np.testing.assert_allclose([line.get_xdata()[0] for line in axes.lines[:3]], [0.05, 0.2, -0.1])
    theme = {role: light for role, (light, _) in THEME.items()}
    assert attention.get_markerfacecolor() == theme["model-0"]
    assert ridge.get_markerfacecolor() == theme["model-1"]
    assert neither.get_markerfacecolor() == theme["paper"]


def test_surfaces_show_values_only_on_their_vertices():
    values = xr.DataArray(
        [1.0, 1.0, 1.0],
        dims="unit",
        coords={"hemisphere": ("unit", ["left", "none", "right"]), "vertex_index": ("unit", [3, 4, 99999])},
    )
    figure = figures.plot_surfaces(values, label="r", limit=1.0)
    yellow = matplotlib.colormaps["viridis"](1.0)
    painted = []
    for axes in figure.axes[:6]:
        colours = axes.collections[0].get_facecolor()
        painted.append(int(np.isclose(colours, yellow, atol=0.02).all(1).sum()))
    # A vertex of the first icosahedron's subdivision has five or six faces.
    assert painted[:3] == [painted[0]] * 3
    assert painted[0] in (5, 6)
    assert painted[3:] == [0, 0, 0]


def test_surfaces_refuse_units_without_a_place():
    coords = {"hemisphere": ("unit", ["left"]), "vertex_index": ("unit", [-1])}
    with pytest.raises(ValueError, match="values must have units on fsaverage5"):
        figures.plot_surfaces(xr.DataArray([1.0], dims="unit", coords=coords), label="r")


def test_units_are_drawn_against_the_root_of_their_ceiling():
    r = xr.DataArray([[0.2, 0.5]], dims=("model", "unit"), coords={"model": ["ridge"]})
    axes = figures.plot_unit_scores(r, xr.DataArray([0.25, 0.64], dims="unit")).axes[0]
    np.testing.assert_allclose(lines(axes, "ridge").get_xydata(), [[0.5, 0.2], [0.8, 0.5]])


def test_units_without_ceiling_become_a_distribution():
    r = xr.DataArray([[0.21, 0.22, np.nan]], dims=("model", "unit"), coords={"model": ["ridge"]})
    axes = figures.plot_unit_scores(r, xr.DataArray([np.nan] * 3, dims="unit")).axes[0]
    assert axes.get_ylabel() == "Units"
    assert axes.patches[0].get_xy()[:, 1].max() == 2


def test_relative_attention_has_mean_one():
    relative = figures.relative_attention(make_attention())
    np.testing.assert_allclose(relative.mean((2, 3)), 1)


def test_attention_lies_over_the_places_it_weights():
    weights = np.zeros((1, 1, 1, 4, 4))
    weights[..., 0, 3] = 1
    attention = xr.DataArray(
        weights,
        dims=("seed", "stimulus", "query", "y", "x"),
        coords={"roi": ("query", ["FFA"]), "hemisphere": ("query", ["none"])},
    )
    figure = figures.plot_attention(attention, images=np.zeros((1, 8, 8, 3), np.uint8), limit=16)
    opacity = figure.axes[1].images[1].get_array()[..., 3]
    assert opacity[0, 3] > 0.8
    assert np.count_nonzero(opacity) == 1
    assert figure.axes[1].get_title() == "FFA"


def test_outlines_are_drawn_only_where_given():
    outlines = np.zeros((3, 2, 12, 12), bool)
    outlines[0, 1, 2:6, 2:6] = True
    figure = figures.plot_attention(
        make_attention(), images=np.zeros((3, 12, 12, 3), np.uint8), outlines=outlines, notes=["a", "b"]
    )
    outlined = [bool(axes.collections) for axes in figure.axes[:9]]
    assert outlined == [False, False, True, *[False] * 6]
    corners = figure.axes[2].collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([corners.min(), corners.max()], [2 / 12, 6 / 12], atol=0.01)


def test_constant_attention_can_be_drawn():
    attention = make_attention() * 0 + 1 / 36
    to_svg(figures.plot_attention(attention, images=np.zeros((3, 12, 12, 3), np.uint8)), "flat")
    to_svg(figures.plot_attention(attention), "flat without images")


def test_caller_keeps_its_settings():
    before = dict(matplotlib.rcParams)
    to_svg(figures.plot_roi_scores(make_scores()), "dots")
    assert dict(matplotlib.rcParams) == before


def test_svg_is_inline_and_follows_the_theme():
    svg = to_svg(figures.plot_roi_scores(make_scores()), 'dots "of" <regions>')
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert 'aria-label="dots &quot;of&quot; &lt;regions&gt;"' in svg
    for light, _ in THEME.values():
        assert light not in svg
    assert {"var(--ink)", "var(--muted)", "var(--model-0)"} <= set(re.findall(r"var\(--[\w-]+\)", svg))
    assert not re.search(r"<metadata|<style|<!--|\bheight=\"[\d.]+pt", svg)
    assert "correlation" not in svg.lower().replace("correlation r", "")


def test_svg_is_the_same_every_time():
    one, two = (to_svg(figures.plot_roi_scores(make_scores()), "dots") for _ in range(2))
    assert one == two


def test_theme_colours_differ():
    light = [light for light, _ in THEME.values()]
    assert len(set(light)) == len(light)


def test_names_are_text_never_mathematics():
    scores = make_scores().assign_coords(roi=["all", "$V_1$ <b>", "x" * 40, "gap"])
    svg = to_svg(figures.plot_roi_scores(scores), "hostile")
    assert "$V_1$ &lt;b&gt;" in svg
    assert f"{'x' * 19}…" in svg


def test_unknown_score_is_refused():
    with pytest.raises(ValueError, match=r"score must be one of 'correlation', .*, got 'r'"):
        figures.plot_roi_scores(make_scores(), "r")
