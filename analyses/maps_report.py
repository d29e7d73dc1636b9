"""The report of attention maps over given images: where the regions look, and how far a map follows its image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn.analyses import figures
from neuroattn.analyses.encoder_report import PACKAGES, SIMULATED, seed_agreement
from neuroattn.analyses.report import (
    NO_INTERVALS,
    Block,
    Cell,
    Chart,
    Citations,
    Figures,
    Paragraph,
    Section,
    Table,
    installed_versions,
    listed,
    listed_versions,
    methods_section,
    number,
    plural,
    render_report,
    run_section,
    span,
)
from neuroattn.analyses.style import to_svg
from neuroattn.datasets import Images

N_IMAGES = 4  # that are drawn
N_QUERIES = 12  # that are drawn, three a figure
N_RESAMPLES = 1000
_ROW = 3


def write_maps_report(
    path: str | Path, maps: xr.DataArray, images: Images, *, source: str = "", command: str = ""
) -> None:
    """Write the report of attention maps over images that no response is known of.

    Parameters
    ----------
    path : str or Path
    maps : DataArray, dims (seed, stimulus, query, [head,] y, x)
        Of :func:`neuroattn.analyses.map_attention`; heads are averaged.
    images : Images
        Those of the maps, in their order.
    source, command : str
        Shown in the report.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.results import provenance
    >>> weights = np.random.default_rng(0).dirichlet(np.ones(16), (1, 5, 1)).reshape(1, 5, 1, 4, 4)
    >>> config = {"encoders": "fit", "recording": "subj01", "n_train": 90, "n_fits": 1, "backbone": "dinov2"}
    >>> maps = xr.DataArray(
    ...     weights, dims=("seed", "stimulus", "query", "y", "x"),
    ...     coords={"roi": ("query", ["FFA"]), "hemisphere": ("query", ["left"]), "stimulus": list("abcde")},
    ...     attrs={"model": "attention", "simulated": 0, **provenance(0, config)})
    >>> page = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_maps_report(page, maps, np.zeros((5, 32, 32, 3), np.uint8))
    >>> "Where the regions look" in page.read_text(encoding="utf-8")
    True
    """
    config = json.loads(maps.attrs["config"])
    n_heads = maps.sizes.get("head", 0)
    # The command stores them as float16, in which means over tokens would be inexact.
    mean = maps.astype(np.float32)
    mean = mean.mean("head").assign_attrs(maps.attrs) if n_heads else mean
    summary = describe_maps(mean, seed=maps.attrs["seed"])
    names = figures.query_names(mean)
    counts = [plural(len(names), "query", "queries"), plural(mean.sizes["stimulus"], "image")]
    render_report(
        path,
        title="Where the regions look",
        subtitle=" · ".join([maps.attrs["model"], *counts, plural(mean.sizes["seed"], "seed")]),
        banner=SIMULATED if maps.attrs["simulated"] else None,
        summary=[
            _finding(summary, names),
            "No responses to these images are known, so it is not tested here whether a map explains a prediction; "
            "the report of fit-encoder masks the attended tokens and tests that.",
        ],
        sections=[
            Section("Maps over images", _map_blocks(mean, images)),
            Section("How far a map follows its image", _summary_blocks(summary, mean, names)),
            run_section(
                [
                    ("Encoders", f"{config['encoders']}, {plural(config['n_fits'], 'fit')}"),
                    ("Fitted to", f"{config['recording']}, {plural(config['n_train'], 'image')}"),
                    ("Backbone", config["backbone"]),
                    ("Layer", config.get("layer")),
                    ("Images", f"{source}, {mean.sizes['stimulus']:,}" if source else mean.sizes["stimulus"]),
                    ("Regions", listed(dict.fromkeys(mean.roi.values))),
                    ("Tokens", f"{mean.sizes['y']} × {mean.sizes['x']}"),
                    ("Heads", f"{n_heads}, averaged here" if n_heads else "averaged"),
                    ("Seeds", listed(mean.seed.values) if "seed" in mean.coords else None),
                    ("Versions", listed_versions(installed_versions(*PACKAGES))),
                    ("Command", command),
                ]
            ),
            _methods(mean, config),
        ],
    )


def describe_maps(maps: xr.DataArray, *, seed: int = 0) -> xr.Dataset:
    """Measure how narrow maps are, and how much of them is one place in all images.

    Parameters
    ----------
    maps : DataArray, dims (seed, stimulus, query, y, x)
        Weights that sum to one over y and x.
    seed : int, default 0
        Of the bootstrap.

    Returns
    -------
    Dataset, dims (query, bound)
        ``extent``: tokens that would hold the attention if they shared it evenly, exp(entropy), as a share of all
        tokens; 1 is uniform. ``same_place``: correlation of a map with the mean map of the other images; 1 is a place
        that does not depend on the image, NaN with one image. ``agreement`` and ``other_image``: correlation of the
        maps of two seeds on one image, and on two, see :func:`neuroattn.analyses.seed_agreement`. ``extent_interval``
        and ``same_place_interval``: 95 % percentile bootstrap over images.

    Examples
    --------
    >>> maps = np.zeros((1, 3, 1, 2, 2))
    >>> maps[..., 0, :] = 0.5
    >>> table = describe_maps(xr.DataArray(maps, dims=("seed", "stimulus", "query", "y", "x")))
    >>> table.extent.values.round(3), table.same_place.values.round(3)
    (array([0.5]), array([1.]))
    """
    weights = maps.transpose("seed", "stimulus", "query", "y", "x").values.astype(np.float64)
    weights = weights.reshape(*weights.shape[:3], -1)
    safe = np.where(weights > 0, weights, 1)
    extent = np.exp(-(weights * np.log(safe)).sum(-1)).mean(0) / weights.shape[-1]
    n = weights.shape[1]
    place = np.full(extent.shape, np.nan)
    if n > 1:
        others = (weights.sum(1, keepdims=True) - weights) / (n - 1)
        place = _correlation(weights, others).mean(0)
    drawn = np.random.default_rng(seed).integers(0, n, (N_RESAMPLES, n))
    table = xr.Dataset(
        {
            "extent": ("query", extent.mean(0)),
            "same_place": ("query", place.mean(0)),
            "agreement": seed_agreement(maps),
            "other_image": seed_agreement(maps, different_images=True),
        },
        coords={"bound": ["low", "high"]},
        attrs={"resampled": "images"},
    )
    for name, values in (("extent", extent), ("same_place", place)):
        means = values[drawn].mean(1) if n > 1 else np.full((1, extent.shape[1]), np.nan)
        table[f"{name}_interval"] = (("query", "bound"), np.percentile(means, [2.5, 97.5], axis=0).T)
    return table


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation over the last axis; NaN where one is constant."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    length = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    r: NDArray[np.float64] = np.full(length.shape, np.nan)
    np.divide((a * b).sum(-1), length, out=r, where=length > 1e-15)
    return r


def _finding(summary: xr.Dataset, names: list[str]) -> str:
    widest, narrowest = int(summary.extent.values.argmax()), int(summary.extent.values.argmin())
    extremes = [f"{_percent(summary.extent[i])} ({names[i]})" for i in dict.fromkeys((narrowest, widest))]
    text = f"Attention spreads over {' to '.join(extremes)} of the tokens; evenly spread it would be 100 %."
    place = summary.same_place
    if np.isfinite(place).any():
        text += (
            f" A map correlates {span(place.min(), place.max())} with the mean map of the other images: at 1 a region "
            "looks at one place whatever the image shows, at 0 at another in each."
        )
    return text


def _map_blocks(maps: xr.DataArray, images: Images) -> list[Block]:
    n_images, n_queries = min(N_IMAGES, maps.sizes["stimulus"]), min(N_QUERIES, maps.sizes["query"])
    shown = maps.isel(query=slice(n_queries))
    over = shown.isel(stimulus=slice(n_images))
    pixels = np.stack([images[i] for i in range(n_images)])
    limit = figures.attention_limit(over)
    all_images = shown.mean("stimulus").expand_dims("stimulus", axis=1)
    limit_of_means = figures.attention_limit(all_images)
    charts: list[Chart] = []
    means: list[Chart] = []
    for first in range(0, n_queries, _ROW):
        some = slice(first, first + _ROW)
        names = listed(figures.query_names(over.isel(query=some)))
        svg = to_svg(
            figures.plot_attention(over.isel(query=some), images=pixels, limit=limit),
            f"Attention of {names} over images",
        )
        caption = (
            f"The first {n_images} of {plural(maps.sizes['stimulus'], 'image')}. Colour: mean over "
            f"{plural(maps.sizes['seed'], 'seed')} and over heads, as a multiple of uniform attention, clear at 1 or "
            "below."
        )
        if n_queries < maps.sizes["query"]:
            caption += f" The first {n_queries} of {maps.sizes['query']} queries; attention.zarr holds all."
        charts.append(
            Chart(
                svg, f"Attention of {names}.", "As in the figure before." if charts else caption, NO_INTERVALS
            )
        )
        svg = to_svg(
            figures.plot_attention(all_images.isel(query=some), limit=limit_of_means),
            f"Mean attention of {names} over all images",
        )
        means.append(
            Chart(
                svg,
                f"Mean map of {names}.",
                f"Mean over {plural(maps.sizes['stimulus'], 'image')}: the place that all images share.",
                NO_INTERVALS,
            )
        )
    return [Figures(charts), Figures(means)]


def _summary_blocks(summary: xr.Dataset, maps: xr.DataArray, names: list[str]) -> list[Block]:
    several = bool(np.isfinite(summary.agreement).any())
    rows = []
    for i, name in enumerate(names):
        one = summary.isel(query=i)
        extent = (
            span(*100 * one.extent_interval, digits=0)
            if np.isfinite(one.extent_interval).all()
            else "one image"
        )
        place = span(*one.same_place_interval) if np.isfinite(one.same_place_interval).all() else ""
        row = [Cell(name), Cell(_percent(one.extent), extent), Cell(number(one.same_place), place)]
        rows.append([*row, Cell(number(one.agreement)), Cell(number(one.other_image))] if several else row)
    caption = (
        "Tokens that hold the attention (100 % is uniform), and the correlation of a map with the mean map of the "
        "other images (1 is one place in all). In small print the 95 % percentile bootstrap over "
        f"{plural(maps.sizes['stimulus'], 'image')} ({N_RESAMPLES:,} resamples, fitted models held fixed)."
    )
    columns = ["Query", "Tokens attended to", "Same place in all images"]
    if several:
        caption += " Seeds: correlation of the maps of two seeds on one image, and, as its null, on two."
        columns += ["Seeds, same image", "Seeds, different images"]
    blocks: list[Block] = [Table(caption, columns, rows)]
    if several:
        svg = to_svg(
            figures.plot_seed_agreement(summary.agreement, summary.other_image),
            "Agreement of attention maps between seeds",
        )
        caption = (
            "Correlation between the maps of two seeds, mean over pairs and images. Hollow: maps of two different "
            "images. Where hollow and filled agree alike, the map is a place and not an answer to the image."
        )
        blocks.append(Figures([Chart(svg, "Agreement between seeds.", caption, NO_INTERVALS)]))
    else:
        blocks.append(Paragraph("With one seed or one image the agreement between seeds is unknown."))
    return blocks


def _methods(maps: xr.DataArray, config: dict[str, Any]) -> Section:
    cite = Citations()
    layer = f", layer {config['layer']}" if "layer" in config else ""
    text = [
        f"Attention maps of {listed(figures.query_names(maps), most=12)} over "
        f"{plural(maps.sizes['stimulus'], 'image')} were taken from transformer brain encoders {cite('adeli2025')} on "
        f"features of {config['backbone']}{layer}, fitted to {plural(config['n_train'], 'image')} of "
        f"{config['recording']}; weights were averaged over heads{' and seeds' if maps.sizes['seed'] > 1 else ''}.",
        "We report the share of tokens that hold the attention, exp(entropy) over the number of tokens, and the "
        "correlation of each map with the mean map of the other images, with 95 % percentile bootstraps over images "
        f"({N_RESAMPLES:,} resamples).",
        "Maps show what the fitted models read, not what a brain does.",
    ]
    return methods_section(text, cite, seeds=maps.attrs["seed"], versions=installed_versions(*PACKAGES))


def _percent(share: Any) -> str:
    return f"{100 * float(share):.0f} %"
