"""What people's own scanpaths reach under a metric, and intervals over images and observers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neuroattn._checks import check_range, check_seed
from neuroattn.metrics._fixations import Fixations, as_list, labels
from neuroattn.metrics.fixation_maps import FIRST_FIXATION_RULE, fixation_map, pooled
from neuroattn.results import Scanpath

PairMetric: TypeAlias = Callable[[Any, Any], Any]
MapMetric: TypeAlias = Callable[[NDArray[np.float64], Fixations, Fixations], float]


def inter_observer(
    paths: Sequence[Scanpath], metric: PairMetric, *, by: Sequence[str] = ("image",), batched: bool = False
) -> xr.DataArray:
    """Score each scanpath against those of the other observers of its image: inter-observer consistency.

    Parameters
    ----------
    paths : sequence of Scanpath
        ``attrs`` of each names its image and its observer; a data set of scanpaths is such a sequence.
    metric : callable
        Takes two scanpaths and returns a number, or a DataArray such as that of `multimatch`. The scanpath of the
        trial comes second.
    by : sequence of str, default ("image",)
        Attributes that two scanpaths must share to be compared, ("image", "target") in search.
    batched : bool, default False
        Whether ``metric`` takes two lists of scanpaths and returns one score a pair, as `multimatch_pairs` does.

    Returns
    -------
    DataArray, dims (trial, ...)
        Mean over the scanpaths of the other observers, never of the same one; NaN scores are left out, and NaN is
        the score of a trial without others. Coordinates ``image``, ``observer``, ``n_pairs``.

    Notes
    -----
    Scanpaths are compared as they are. Where all began at one place, leave that fixation out beforehand, lest they
    agree on what nobody chose.

    Examples
    --------
    >>> from neuroattn.metrics import sequence_score
    >>> def path(observer, objects):
    ...     attrs = {"image": "shelf", "observer": observer}
    ...     return Scanpath([9] * 3, [9] * 3, (20, 20), objects=objects, attrs=attrs)
    >>> paths = [path("a", [0, 1, 2]), path("b", [0, 1, 3]), path("c", [0, 3, 3])]
    >>> inter_observer(paths, sequence_score).values.round(2)
    array([0.5 , 0.67, 0.5 ])
    """
    items = list(paths)
    scene, observer = _scenes(items, by), labels("paths", items, "observer")
    others = [np.flatnonzero((scene == scene[i]) & (observer != observer[i])) for i in range(len(items))]
    drawn = [[items[j] for j in rows] for rows in others]
    return _means("inter-observer consistency", items, drawn, metric, batched, by=list(by))


def same_observer(
    paths: Sequence[Scanpath],
    metric: PairMetric,
    *,
    seed: int | np.random.Generator,
    n_draws: int = 5,
    by: Sequence[str] = ("image",),
    batched: bool = False,
) -> xr.DataArray:
    """Score each scanpath against those of the same observer on other images: what habits alone reach.

    Parameters
    ----------
    paths : sequence of Scanpath
        ``attrs`` of each names its image and its observer.
    metric : callable
        As for `inter_observer`.
    seed : int or Generator
    n_draws : int, default 5
        Other scanpaths a trial, drawn without replacement; all where there are fewer.
    by : sequence of str, default ("image",)
        Attributes that make an image another one.
    batched : bool, default False
        As for `inter_observer`.

    Returns
    -------
    DataArray, dims (trial, ...)
        As `inter_observer`.

    Examples
    --------
    >>> from neuroattn.metrics import sequence_score
    >>> def path(image, objects):
    ...     return Scanpath([9] * 3, [9] * 3, (20, 20), objects=objects, attrs={"image": image, "observer": "a"})
    >>> paths = [path("shelf", [0, 1, 2]), path("desk", [0, 1, 3])]
    >>> same_observer(paths, sequence_score, seed=0).values.round(2)
    array([0.67, 0.67])
    """
    check_range("n_draws", n_draws, 1)
    rng = check_seed(seed)
    items = list(paths)
    scene, observer = _scenes(items, by), labels("paths", items, "observer")
    others = [np.flatnonzero((scene != scene[i]) & (observer == observer[i])) for i in range(len(items))]
    drawn = [
        [items[j] for j in rng.choice(rows, size=min(n_draws, len(rows)), replace=False)] for rows in others
    ]
    return _means("same observer, another image", items, drawn, metric, batched, by=list(by), n_draws=n_draws)


def length_matched(
    paths: Sequence[Scanpath],
    metric: PairMetric,
    *,
    seed: int | np.random.Generator,
    n_draws: int = 5,
    n_objects: int | None = None,
    batched: bool = False,
) -> xr.DataArray:
    """Score random scanpaths of the same length against each scanpath: what chance alone reaches.

    Every chosen fixation is drawn evenly from the image, and its object evenly from all objects, apart from each
    other; an initial fixation and the durations stay.

    Parameters
    ----------
    paths : sequence of Scanpath
        ``attrs`` of each names its image and its observer.
    metric : callable
        As for `inter_observer`.
    seed : int or Generator
    n_draws : int, default 5
        Random scanpaths a trial.
    n_objects : int, optional
        Objects of a scene; must be given where the scanpaths hold ``objects``.
    batched : bool, default False
        As for `inter_observer`.

    Returns
    -------
    DataArray, dims (trial, ...)
        As `inter_observer`.

    Examples
    --------
    >>> from neuroattn.metrics import sequence_score
    >>> attrs = {"image": "shelf", "observer": "a"}
    >>> path = Scanpath([9] * 4, [9] * 4, (20, 20), objects=[0, 1, 2, 3], attrs=attrs)
    >>> length_matched([path], sequence_score, seed=0, n_objects=80).values < 0.5
    array([ True])
    """
    check_range("n_draws", n_draws, 1)
    rng = check_seed(seed)
    items = list(paths)
    if n_objects is None and any(path.objects is not None for path in items):
        raise ValueError("n_objects must be given where the scanpaths hold objects, got none")
    drawn = [[_random_like(path, n_objects, rng) for _ in range(n_draws)] for path in items]
    return _means(
        "length-matched random", items, drawn, metric, batched, n_draws=n_draws, n_objects=n_objects or 0
    )


def map_consistency(
    paths: Sequence[Scanpath],
    metrics: Mapping[str, MapMetric],
    *,
    sigma: float,
    edge: str,
) -> xr.Dataset:
    """Score fixation maps of the other observers, and of other images, at each observer's fixations.

    The map of the other observers of an image is its inter-observer consistency. The map of all observers on other
    images knows nothing of the image: the centre prior. Images are split in two halves, every second by name; the
    prior of one half is made from the other, and the metrics get the fixations on the remaining images of the same
    half. Were these in the prior, it would know the clusters that they form, and the shuffled `auc` of the prior
    would be below .5; they are the same only where a half has no other image. Between images of different sizes,
    positions are shares of width and height.

    Parameters
    ----------
    paths : sequence of Scanpath
        ``attrs`` of each names its image and its observer.
    metrics : mapping of str to callable
        Each takes the map, shape (y, x), the observer's fixations on the image, and the fixations of all observers
        on the other images of its half (a mapping of x and y in px of this image), and returns a number.
    sigma, edge
        Of the maps, as for `fixation_map`.

    Returns
    -------
    Dataset
        ``inter_observer`` and ``prior`` (metric, trial), with coordinates ``image`` and ``observer``, ready for
        `crossed_bootstrap`; all parameters in the attributes. NaN where an image has no other observer, or there
        is no other image.

    Examples
    --------
    >>> from neuroattn.metrics import auc, nss
    >>> rng = np.random.default_rng(0)
    >>> def path(image, observer):
    ...     at = rng.normal([[10, 20], [30, 20]][image], 2, (8, 2)).T
    ...     attrs = {"image": image, "observer": observer}
    ...     return Scanpath(*at, (40, 40), first_fixation="free", attrs=attrs)
    >>> paths = [path(image, observer) for image in (0, 1) for observer in "abc"]
    >>> metrics = {
    ...     "NSS": lambda saliency, fixations, elsewhere: nss(saliency, fixations),
    ...     "AUC": lambda saliency, fixations, elsewhere: auc(saliency, fixations, kind="uniform"),
    ... }
    >>> result = map_consistency(paths, metrics, sigma=3, edge="reflect")
    >>> bool((result.inter_observer > result.prior).all())
    True
    """
    items: list[Scanpath] = as_list("paths", paths)  # type: ignore[assignment]
    image, observer = (labels("paths", items, name) for name in ("image", "observer"))
    values = np.full((2, len(metrics), len(items)), np.nan)
    chosen = [pooled([path]) for path in items]
    n_outside = sum(
        int(path.outside[len(path) - len(x) :].sum()) for path, (x, _) in zip(items, chosen, strict=True)
    )
    names = np.unique(image)
    half = np.searchsorted(names, image) % 2
    for name in names:
        here = np.flatnonzero(image == name)
        size = items[here[0]].image_size
        own = half == half[here[0]]
        rest = own & (image != name)
        for_prior, elsewhere = (
            _rescaled(np.flatnonzero(rows), items, chosen, size)
            for rows in (~own, rest if rest.any() else ~own)
        )
        prior = fixation_map(for_prior, sigma=sigma, edge=edge, image_size=size).values
        for i in here:
            people = [items[j] for j in here if observer[j] != observer[i]]
            consistent = fixation_map(people, sigma=sigma, edge=edge, image_size=size).values
            for row, saliency, known in ((0, consistent, people), (1, prior, for_prior["x"])):
                if len(known):
                    values[row, :, i] = [metric(saliency, items[i], elsewhere) for metric in metrics.values()]
    return xr.Dataset(
        {"inter_observer": (("metric", "trial"), values[0]), "prior": (("metric", "trial"), values[1])},
        coords={"metric": list(metrics), "image": ("trial", image), "observer": ("trial", observer)},
        attrs={
            "sigma_px": float(sigma),
            "edge": edge,
            "first_fixation": FIRST_FIXATION_RULE,
            "inter_observer": "map of the other observers of the image",
            "prior": "map of all fixations on the half of the images that the image is not in",
            "elsewhere": "fixations on the other images of its own half",
            "n_images": len(names),
            "n_observers": len(np.unique(observer)),
            "n_fixations": sum(len(x) for x, _ in chosen),
            "n_outside": n_outside,
        },
    )


def crossed_bootstrap(
    values: xr.DataArray,
    *,
    units: Sequence[str] = ("image", "observer"),
    pool: Sequence[str] = (),
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> xr.Dataset:
    """Return a mean with an interval over images and observers, both resampled at once [1]_.

    Each resample draws images with replacement and, apart from them, observers; a value counts as often as its
    image was drawn times its observer. The interval so speaks of other images and other observers.

    Parameters
    ----------
    values : DataArray
        Either with one dimension, usually ``trial``, along which coordinates name the units of each value, or with
        each unit as a dimension of its own. Differences between two models are best formed before. NaN is left
        out; infinite values, such as the bits of what a model deems impossible, are not.
    units : sequence of str, default ("image", "observer")
        What is resampled.
    pool : sequence of str
        Further dimensions whose values are averaged together with the trials, such as "fixation" of
        `bits_per_fixation`. All others are kept.
    n_resamples : int, default 1000
    confidence : float, default 0.95
    seed : int or Generator, default 0

    Returns
    -------
    Dataset
        ``mean``, ``interval`` (bound: low, high; percentiles) over the kept dimensions, and the number of each unit,
        such as ``n_image``. A unit of which there is one is not resampled in effect. ``attrs["resampled"]`` names
        the units.

    References
    ----------
    .. [1] Owen (2007). The pigeonhole bootstrap. Annals of Applied Statistics 1, 386-411.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> image, observer = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    >>> score = 0.5 + rng.normal(0, 0.1, 20)[image] + rng.normal(0, 0.1, 10)[observer]
    >>> values = xr.DataArray(score, dims="trial", coords={"image": ("trial", image), "observer": ("trial", observer)})
    >>> result = crossed_bootstrap(values)
    >>> low, high = result.interval.values
    >>> bool(low < 0.5 < high), result.n_image.item(), result.attrs["resampled"]
    (True, 20, 'image x observer')
    """
    check_range("n_resamples", n_resamples, 1)
    check_range("confidence", confidence, 0, 1)
    for name in units:
        if name not in values.coords or values[name].ndim != 1:
            raise ValueError(
                f"values must have a coordinate {name!r} along one dimension, got {list(values.coords)}"
            )
    row_dims: list[Hashable] = list(dict.fromkeys(values[name].dims[0] for name in units))
    kept = [dim for dim in values.dims if dim not in row_dims and dim not in pool]
    table = values.transpose(*row_dims, *kept, *pool)
    grid = np.indices(table.shape[: len(row_dims)]).reshape(len(row_dims), -1)
    shape = tuple(table.sizes[dim] for dim in kept)
    x = table.values.reshape(grid.shape[1], int(np.prod(shape)), -1)
    total, count = np.nansum(x, axis=-1), (~np.isnan(x)).sum(-1)
    rng = check_seed(seed)
    weight = np.ones((n_resamples, len(x)))
    n_units: dict[str, int] = {}
    for name in units:
        along = grid[row_dims.index(values[name].dims[0])]
        names, code = np.unique(values[name].values, return_inverse=True)
        n_units[f"n_{name}"] = len(names)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / max(len(names), 1)), size=n_resamples)
        weight *= drawn[:, code[along]]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total.sum(0) / count.sum(0)
        resampled = (weight @ np.where(np.isfinite(total), total, 0)) / (weight @ count)
    for infinite in (
        -np.inf,
        np.inf,
    ):  # 0 times infinity is no value, but an infinite one not drawn is no loss
        resampled[(weight @ (total == infinite)) > 0] = infinite
    interval = np.full((2, len(mean)), np.nan)
    known = ~np.isnan(mean)
    tail = (1 - confidence) / 2
    interval[:, known] = np.nanquantile(resampled[:, known], [tail, 1 - tail], axis=0, method="inverted_cdf")
    return xr.Dataset(
        {
            "mean": (kept, mean.reshape(shape)),
            "interval": (("bound", *kept), interval.reshape(2, *shape)),
            **n_units,
        },
        coords={
            "bound": ["low", "high"],
            **{name: c for name, c in values.coords.items() if set(c.dims) <= set(kept)},
        },
        attrs={"resampled": " x ".join(units), "confidence": confidence, "n_resamples": n_resamples},
    )


def _rescaled(
    rows: NDArray[np.intp],
    paths: Sequence[Scanpath],
    chosen: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    size: tuple[int, int],
) -> dict[str, NDArray[np.float64]]:
    """Return the chosen fixations of some scanpaths together, in px of an image of another size."""
    return {
        axis: np.concatenate(
            [np.empty(0), *(chosen[j][k] * (size[k] / paths[j].image_size[k]) for j in rows)]
        )
        for k, axis in enumerate("xy")
    }


def _scenes(paths: Sequence[Scanpath], by: Sequence[str]) -> NDArray[np.intp]:
    """Return a number for each scanpath, equal where all attributes are."""
    names = np.stack([labels("paths", paths, name) for name in by])
    return np.unique(names, axis=1, return_inverse=True)[1].reshape(-1)


def _random_like(path: Scanpath, n_objects: int | None, rng: np.random.Generator) -> Scanpath:
    start = len(path) - path.n_saccades
    drawn: dict[str, Any] = {"log_prob": None, "found": None}
    for k, axis in enumerate("xy"):
        drawn[axis] = getattr(path, axis).copy()
        drawn[axis][start:] = rng.uniform(0, path.image_size[k], path.n_saccades)
    if path.objects is not None and n_objects is not None:
        drawn["objects"] = path.objects.copy()
        drawn["objects"][start:] = rng.integers(n_objects, size=path.n_saccades)
    return replace(path, **drawn)


def _means(
    name: str,
    paths: Sequence[Scanpath],
    others: Sequence[Sequence[Scanpath]],
    metric: PairMetric,
    batched: bool,
    **config: Any,
) -> xr.DataArray:
    """Average the scores of the other scanpaths of each trial against that of the trial."""
    n_pairs = np.array([len(group) for group in others], dtype=np.int64)
    trial = np.repeat(np.arange(len(paths)), n_pairs)
    first, second = [path for group in others for path in group], [paths[i] for i in trial.tolist()]
    scores = metric(first, second) if batched else [metric(a, b) for a, b in zip(first, second, strict=True)]
    one = scores[0] if len(first) else None
    kept: tuple[Hashable, ...] = one.dims if isinstance(one, xr.DataArray) else ()
    x = np.asarray([np.asarray(score) for score in scores], dtype=np.float64)
    total, count = np.zeros((len(paths), *x.shape[1:])), np.zeros((len(paths), *x.shape[1:]))
    np.add.at(total, trial, np.nan_to_num(x, posinf=np.inf, neginf=-np.inf))
    np.add.at(count, trial, ~np.isnan(x))
    with np.errstate(invalid="ignore"):
        mean = np.asarray(total / count)
    return xr.DataArray(
        mean,
        dims=("trial", *kept),
        coords={
            **{dim: one[dim].values for dim in kept if one is not None and dim in one.coords},
            "image": ("trial", labels("paths", paths, "image")),
            "observer": ("trial", labels("paths", paths, "observer")),
            "n_pairs": ("trial", n_pairs),
        },
        name=getattr(metric, "__name__", "score"),
        attrs={"anchor": name, **config},
    )
