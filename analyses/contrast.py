"""What one region looks at and others do not, and whether maps find things better than the centre of the image does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_option, check_range, check_seed, check_shape
from neuroattn.analyses.dots import Dots, draw_dots
from neuroattn.analyses.figures import query_names
from neuroattn.analyses.reading import N_SHUFFLES, other_rows
from neuroattn.analyses.style import WIDTH, styled
from neuroattn.metrics import auc, crossed_bootstrap, nss
from neuroattn.metrics.fixation_maps import pooled
from neuroattn.results import Scanpath, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("auc", "nss")
SOURCES = ("own image", "other image", "mean of others", "centre")
_SMALLEST = 1e-6  # of uniform attention, so that no logarithm is infinite
_DIMS = ("stimulus", "query", "y", "x")
_CENTRE = 0.25  # of the sides of the image: standard deviation of the centre model

Points = Mapping[str, NDArray[np.float64]]


def contrastive_maps(attention: xr.DataArray, *, against: Sequence[str] | None = None) -> xr.DataArray:
    """Take out of the map of each query what the maps of others share with it.

    ``log P_query - log mean P`` for every token of an image [1]_, with the mean over all queries or those of some
    regions, such as early visual ones. What draws all regions alike, above all the centre of the image, cancels.
    Differs from the paper, which divides by the map of a general question to a vision-language model: here other
    regions are the question.

    Parameters
    ----------
    attention : DataArray, dims (..., query, y, x)
        Weights that sum to one over y and x, for instance of ``BrainEncoder.attention``.
    against : sequence of str, optional
        Regions whose queries are the reference, by the coordinate ``roi`` along ``query``; default all queries.

    Returns
    -------
    DataArray, dims of ``attention``
        Nats, zero where a query attends as the reference does. Weights below a millionth of uniform attention count as
        that. The contrast is no share: it may be high where no query looks, so read it beside the map.

    References
    ----------
    .. [1] Ge et al. (2025). Focusing by contrastive attention: enhancing VLMs' visual reasoning. arXiv:2509.06461.

    Examples
    --------
    >>> maps = xr.DataArray([[[0.5, 0.5, 0.0]], [[0.5, 0.1, 0.4]]], dims=("query", "y", "x"),
    ...     coords={"roi": ("query", ["FFA", "V1"])})
    >>> contrastive_maps(maps, against=["V1"]).sel(query=0).values.round(1)
    array([[  0. ,   1.6, -14. ]])
    """
    for dim in ("query", "y", "x"):
        if dim not in attention.dims:
            raise ValueError(f"attention must have dims query, y and x, got {attention.dims}")
    n_tokens = attention.sizes["y"] * attention.sizes["x"]
    weight = attention.astype(np.float64).clip(min=_SMALLEST / n_tokens)
    reference = weight
    if against is not None:
        names = attention["roi"].values
        for region in against:
            check_option("against", region, list(dict.fromkeys(names.tolist())))
        check_range("number of regions in against", len(against), 1)
        reference = weight.isel(query=np.flatnonzero(np.isin(names, list(against))))
    contrast: xr.DataArray = xr.apply_ufunc(np.log, weight / reference.mean("query"))
    attrs = attention.attrs | {"units": "nat", "against": _named(against)}
    return contrast.transpose(*attention.dims).rename("contrast").assign_attrs(attrs)


def _named(against: Sequence[str] | None) -> str:
    return "all queries" if against is None else ", ".join(against)


def score_maps(
    attention: xr.DataArray,
    targets: xr.DataArray | Sequence[Sequence[Scanpath]],
    *,
    against: Sequence[str] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Score maps and their contrasts on where objects are, or where people look, beside the centre of the image.

    Objects and fixations gather in the centre of images, and so does attention: a map earns nothing by a score that a
    fixed blob in the middle reaches as well [1]_. Every score therefore stands beside that of the map of another image,
    of the mean map of all other images, and of a Gaussian in the centre.

    Parameters
    ----------
    attention : DataArray, dims (stimulus, query, y, x)
        With coordinates ``roi`` and ``hemisphere`` along ``query``.
    targets : DataArray of bool, dims (stimulus, query, y, x), or sequence of sequences of Scanpath
        Tokens of the object of each query, on any grid over the image; or the fixations on each image, the same for all
        queries, initial ones left out. Where there are none there is no score.
    against : sequence of str, optional
        As for :func:`contrastive_maps`.
    seed : int, default 0
        Of other images, drawn 5 times, and resamples.

    Returns
    -------
    Dataset, dims (metric, kind, source, control, query, bound)
        ``score`` (metric, kind, source, query) of the map ("attention") and its contrast ("contrast"): "auc" against
        all tokens without a target, .5 at chance, and "nss", 0 at chance, averaged over stimuli. Sources are the
        image's own map, that of another image, the mean over all other images, and a Gaussian in the centre with a
        standard deviation of a quarter of each side, the same for both kinds. ``advantage`` (metric, kind, control,
        query): the own map minus each other source. ``score_interval`` and ``advantage_interval``, with ``bound``:
        95 % over 1,000 resamples of stimuli. ``n_stimuli`` (query): those with a target. NaN for queries without any.

    Raises
    ------
    ValueError
        If targets do not fit the maps.

    References
    ----------
    .. [1] Tatler (2007). The central fixation bias in scene viewing. Journal of Vision 7(14).

    Examples
    --------
    >>> place = np.random.default_rng(0).integers(36, size=20)
    >>> found = np.zeros((20, 1, 36), bool)
    >>> found[np.arange(20), 0, place] = True
    >>> coords = {"roi": ("query", ["FFA"]), "hemisphere": ("query", ["left"])}
    >>> objects = xr.DataArray(found.reshape(20, 1, 6, 6), dims=("stimulus", "query", "y", "x"), coords=coords)
    >>> result = score_maps((objects + 0.1) / 4.6, objects)
    >>> result.score.sel(metric="auc", kind="attention", source="own image").values
    array([1.])
    >>> bool(result.advantage_interval.sel(metric="auc", kind="attention", bound="low").min() > 0)
    True
    """
    rng = check_seed(seed)
    if set(attention.dims) != set(_DIMS):
        raise ValueError(f"attention must have dims stimulus, query, y and x, got {attention.dims}")
    attention = attention.transpose(*_DIMS)
    n, n_queries, height, width = attention.shape
    check_range("number of stimuli", n, 2)
    points = (
        _points_of_masks(targets, attention)
        if isinstance(targets, xr.DataArray)
        else [[one] * n_queries for one in _points_of_scanpaths(targets, n, (height, width))]
    )
    kinds = {"attention": attention, "contrast": contrastive_maps(attention, against=against)}
    others = [other_rows(n, rng) for _ in range(N_SHUFFLES)]
    middle = _centre_model(height, width)
    values = np.full((len(METRICS), len(kinds), len(SOURCES), n, n_queries), np.nan)
    for k, maps in enumerate(kinds.values()):
        own = maps.values.astype(np.float64)
        mean_of_others = (own.sum(0) - own) / (n - 1)
        for s, q in np.ndindex(n, n_queries):
            at = points[s][q]
            if not len(at["x"]):
                continue
            elsewhere = np.mean([_scores(own[other[s], q], at) for other in others], axis=0)
            values[:, k, :, s, q] = np.transpose(
                [_scores(own[s, q], at), elsewhere, _scores(mean_of_others[s, q], at), _scores(middle, at)]
            )
    score = xr.DataArray(
        values,
        dims=("metric", "kind", "source", "stimulus", "query"),
        coords={
            "metric": list(METRICS),
            "kind": list(kinds),
            "source": list(SOURCES),
            "stimulus": np.arange(n),
            **{name: ("query", attention[name].values) for name in ("roi", "hemisphere")},
        },
    )
    controls = score.sel(source=list(SOURCES[1:])).rename(source="control")
    advantage = score.sel(source=SOURCES[0], drop=True) - controls
    result = xr.Dataset({"n_stimuli": score[0, 0, 0].notnull().sum("stimulus").reset_coords(drop=True)})
    for name, one in {"score": score, "advantage": advantage}.items():
        summary = crossed_bootstrap(one, units=("stimulus",), seed=seed)
        result[name] = summary["mean"].transpose("metric", "kind", ..., "query")
        result[f"{name}_interval"] = summary["interval"].transpose("metric", "kind", ..., "query", "bound")
    config = {"against": _named(against), "centre": _CENTRE}
    return result.assign_attrs(resampled="stimulus", **provenance(seed, config))


def _scores(saliency: NDArray[np.float64], at: Points) -> tuple[float, float]:
    return auc(saliency, at, kind="judd"), nss(saliency, at)


def _centre_model(height: int, width: int) -> NDArray[np.float64]:
    """Return a Gaussian in the middle of the image."""
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * _CENTRE**2))


def _points_of_masks(masks: xr.DataArray, attention: xr.DataArray) -> list[list[Points]]:
    """Return the middles of the masks' cells in px of the map, by stimulus and query."""
    if set(masks.dims) != set(_DIMS) or masks.dtype != bool:
        raise ValueError(
            f"targets must be bool with dims stimulus, query, y and x, got {masks.dtype} with {masks.dims}"
        )
    masks = masks.transpose(*_DIMS)
    n, _, rows, columns = check_shape("targets", masks, *attention.shape[:2], "y", "x")
    height, width = attention.shape[2:]
    found: list[list[Points]] = []
    for s in range(n):
        cells = [np.nonzero(mask) for mask in masks.values[s]]
        found.append([{"x": (x + 0.5) * width / columns, "y": (y + 0.5) * height / rows} for y, x in cells])
    return found


def _points_of_scanpaths(paths: Sequence[Sequence[Scanpath]], n: int, size: tuple[int, int]) -> list[Points]:
    """Return the chosen fixations on each image in px of the map."""
    if len(paths) != n:
        raise ValueError(f"targets must hold the scanpaths of each of {n} stimuli, got {len(paths)}")
    found: list[Points] = []
    for on_image in paths:
        parts: dict[str, list[Any]] = {"x": [np.empty(0)], "y": [np.empty(0)]}
        for path in on_image:
            x, y = pooled([path])
            inside = (x >= 0) & (x < path.image_size[0]) & (y >= 0) & (y < path.image_size[1])
            parts["x"].append(x[inside] * size[1] / path.image_size[0])
            parts["y"].append(y[inside] * size[0] / path.image_size[1])
        found.append({name: np.concatenate(values) for name, values in parts.items()})
    return found


@styled
def plot_map_scores(result: xr.Dataset, metric: str = "auc") -> Figure:
    """Draw how well maps and contrasts find their targets, beside the same for other images and for the centre.

    Parameters
    ----------
    result : Dataset
        Of :func:`score_maps`. Queries without a target are left out.
    metric : {"auc", "nss"}

    Returns
    -------
    Figure

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> coords = {"roi": ("query", ["FFA", "V1"]), "hemisphere": ("query", ["left", "left"])}
    >>> maps = xr.DataArray(rng.random((9, 2, 4, 4)), dims=("stimulus", "query", "y", "x"), coords=coords)
    >>> figure = plot_map_scores(score_maps(maps, (maps > 0.8) & (coords["roi"][1][0] == maps.roi)))
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['FFA left']
    """
    from matplotlib.figure import Figure

    check_option("metric", metric, METRICS)
    shown = result.isel(query=np.flatnonzero(result.n_stimuli.values)).sel(metric=metric)
    figure = Figure(figsize=(WIDTH, 1.5 + 0.42 * max(shown.sizes["query"], 1)))
    axes = figure.add_subplot()
    series = []
    for kind, colour in (("attention", 1), ("contrast", 0)):
        one = shown.sel(kind=kind)
        own = {"source": "own image"}
        series.append(Dots(kind, one.score.sel(own), one.score_interval.sel(own), colour))
        series.append(
            Dots(f"{kind}, other image", one.score.sel(source="other image"), None, colour, filled=False)
        )
    series.append(
        Dots("Gaussian in the centre", shown.score.sel(kind="attention", source="centre"), None, None)
    )
    draw_dots(axes, query_names(shown.n_stimuli), series, chance={"auc": 0.5, "nss": 0.0}[metric])
    axes.set_xlabel({"auc": "Area under the ROC curve (chance .5)", "nss": "NSS (chance 0)"}[metric])
    figure.legend(loc="outside upper left", ncols=2, handletextpad=0.2, columnspacing=1.2, borderaxespad=0)
    return figure
