"""Fixations and maps: density of fixations, and how well a map tells where people look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats

from neuroattn._checks import check_option, check_range, check_seed
from neuroattn.metrics._fixations import Fixations, as_list, is_one, size_of, xy
from neuroattn.results import Scanpath

EDGES = ("reflect", "cut")
AUC_KINDS = ("judd", "borji", "shuffled", "uniform")
FIRST_FIXATION_RULE = "initial fixations are left out"
_TRUNCATE = 4.0  # sigma


def fixation_map(
    paths: Fixations | Sequence[Fixations],
    *,
    sigma: float,
    edge: str,
    image_size: tuple[int, int] | None = None,
) -> xr.DataArray:
    """Blur fixations into a density over the pixels of the image.

    Fixations outside the image are left out, and so are initial ones, where the trial began; the attributes count
    both.

    Parameters
    ----------
    paths : Scanpath, mapping of arrays x, y, or a sequence of them
        Px. Every fixation weighs the same.
    sigma : float
        Px, standard deviation of the Gaussian, cut off at four of them; about one degree of visual angle in the
        literature. 0: counts of pixels.
    edge : {"reflect", "cut"}
        What happens to the blur beyond the border of the image: it is reflected, so that the map sums to 1, or
        lost, so that the map fades towards the border.
    image_size : tuple of int, (width, height), optional
        Px; by default that of the scanpaths.

    Returns
    -------
    DataArray, dims (y, x)
        Density a pixel. All parameters are in the attributes. 0 everywhere without fixations.

    Examples
    --------
    >>> density = fixation_map({"x": [20, 300], "y": [10, 10]}, sigma=2, edge="reflect", image_size=(40, 30))
    >>> density.shape, round(density.sum().item(), 6), density.attrs["n_outside"]
    ((30, 40), 1.0, 1)
    """
    check_range("sigma", sigma, 0)
    check_option("edge", edge, EDGES)
    items = _listed(paths)
    width, height = (
        round(side) for side in size_of(image_size, **{f"paths[{i}]": p for i, p in enumerate(items)})
    )
    x, y = pooled(items)
    inside = _inside(x, y, width, height)
    counts = np.zeros((height, width))
    np.add.at(counts, (y[inside].astype(np.int64), x[inside].astype(np.int64)), 1 / max(inside.sum(), 1))
    density = ndimage.gaussian_filter(
        counts, sigma, mode="reflect" if edge == "reflect" else "constant", truncate=_TRUNCATE
    )
    return xr.DataArray(
        density,
        dims=("y", "x"),
        name="density",
        attrs={
            "units": "1/px",
            "sigma_px": float(sigma),
            "cut_off_sigma": _TRUNCATE,
            "edge": edge,
            "first_fixation": FIRST_FIXATION_RULE,
            "n_fixations": int(inside.sum()),
            "n_outside": int((~inside).sum()),
        },
    )


def nss(saliency: ArrayLike, fixations: Fixations | Sequence[Fixations]) -> float:
    """Average a map, scaled to mean 0 and standard deviation 1, at the fixations: normalized scanpath saliency [1]_.

    Parameters
    ----------
    saliency : array, shape (y, x)
        A number for each pixel of the image.
    fixations : Scanpath, mapping of arrays x, y, or a sequence of them
        Px of the map. Initial fixations and those outside the image are left out.

    Returns
    -------
    float
        0 at chance. NaN where no fixation is left, or the map is constant.

    References
    ----------
    .. [1] Peters, Iyer, Itti & Koch (2005). Components of bottom-up gaze allocation in natural images. Vision
       Research 45, 2397-2416.

    Examples
    --------
    >>> round(nss([[0, 0, 0, 4]], {"x": [3.5], "y": [0.5]}), 6)
    1.732051
    """
    values = _map("saliency", saliency)
    at = _values_at(values, "fixations", fixations)
    spread = values.std()
    if not len(at) or spread <= 1e-12 * abs(values).max():
        return float("nan")
    return float((at.mean() - values.mean()) / spread)


def auc(
    saliency: ArrayLike,
    fixations: Fixations | Sequence[Fixations],
    *,
    kind: str,
    elsewhere: Fixations | Sequence[Fixations] | None = None,
    n_draws: int = 100,
    seed: int | np.random.Generator = 0,
) -> float:
    """Return the probability that a map is higher at a fixation than at a place that was not fixated.

    The area under the curve of hits over false alarms; ties count one half. The kinds differ in where the map is
    compared, their values differ accordingly, and none is the default.

    Parameters
    ----------
    saliency : array, shape (y, x)
        A number for each pixel of the image.
    fixations : Scanpath, mapping of arrays x, y, or a sequence of them
        Px of the map. Initial fixations and those outside the image are left out.
    kind : {"judd", "borji", "shuffled", "uniform"}
        Against all pixels that no fixation fell on [1]_; ``n_draws`` times as many random pixels as fixations [2]_;
        the places fixated on other images, which takes the common preference for the centre out [3]_; or all
        pixels.
    elsewhere : Scanpath, mapping of arrays x, y, or a sequence of them
        For "shuffled": fixations on other images, in px of this map. All are used.
    n_draws : int, default 100
        For "borji".
    seed : int or Generator, default 0
        For "borji".

    Returns
    -------
    float
        .5 at chance. NaN where no fixation, or no other place, is left.

    Notes
    -----
    Published implementations sum trapezes over some thresholds and may jitter the map; this is the exact area.

    References
    ----------
    .. [1] Judd, Ehinger, Durand & Torralba (2009). Learning to predict where humans look. ICCV.
    .. [2] Borji, Sihite & Itti (2013). Quantitative analysis of human-model agreement in visual saliency modeling.
       IEEE Transactions on Image Processing 22, 55-69.
    .. [3] Tatler, Baddeley & Gilchrist (2005). Visual correlates of fixation selection: effects of scale and time.
       Vision Research 45, 643-659.

    Examples
    --------
    >>> saliency = np.arange(12.0).reshape(3, 4)
    >>> fixations = {"x": [3, 2], "y": [2, 1]}
    >>> auc(saliency, fixations, kind="uniform"), auc(saliency, fixations, kind="judd")
    (0.75, 0.8)
    >>> auc(saliency, fixations, kind="shuffled", elsewhere={"x": [0, 3], "y": [0, 2]})
    0.625
    """
    check_option("kind", kind, AUC_KINDS)
    if (elsewhere is None) == (kind == "shuffled"):
        rule = "hold the fixations on other images" if kind == "shuffled" else "be left out"
        raise ValueError(f"elsewhere must {rule} for kind {kind!r}, got {type(elsewhere).__name__}")
    values = _map("saliency", saliency)
    at = np.sort(_values_at(values, "fixations", fixations))
    if kind == "shuffled":
        assert elsewhere is not None
        against = _values_at(values, "elsewhere", elsewhere)
    elif kind == "borji":
        check_range("n_draws", n_draws, 1)
        against = check_seed(seed).choice(values.ravel(), size=n_draws * len(at))
    else:
        free = np.ones(values.shape, bool)
        if kind == "judd":
            x, y = pooled(_listed(fixations))
            inside = _inside(x, y, *values.shape[::-1])
            free[y[inside].astype(np.int64), x[inside].astype(np.int64)] = False
        against = values[free]
    if not len(at) or not len(against):
        return float("nan")
    below = np.searchsorted(at, against, side="left") + np.searchsorted(at, against, side="right")
    return float(1 - below.mean() / (2 * len(at)))


def information_gain(
    density: ArrayLike, baseline: ArrayLike, fixations: Fixations | Sequence[Fixations]
) -> float:
    """Return how many bits a fixation a density tells more than a baseline [1]_.

    Parameters
    ----------
    density, baseline : array, shape (y, x)
        Not negative; each is divided by its sum.
    fixations : Scanpath, mapping of arrays x, y, or a sequence of them
        Px of the maps. Initial fixations and those outside the image are left out.

    Returns
    -------
    float
        Mean of ``log2(density / baseline)`` over the fixations; -inf where the density is 0 at one of them. NaN
        where no fixation is left, or both are 0 at one.

    References
    ----------
    .. [1] Kümmerer, Wallis & Bethge (2015). Information-theoretic model comparison unifies saliency metrics. PNAS
       112, 16054-16059.

    Examples
    --------
    >>> information_gain([[0.5, 0.25, 0.125, 0.125]], [[1, 1, 1, 1]], {"x": [0, 2], "y": [0, 0]})
    0.0
    """
    ours, theirs = _density("density", density), _density("baseline", baseline)
    if ours.shape != theirs.shape:
        raise ValueError(f"baseline must have shape {ours.shape}, got {theirs.shape}")
    p, q = (_values_at(values, "fixations", fixations) for values in (ours, theirs))
    if not len(p):
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(np.log2(p) - np.log2(q)))


def bits_per_fixation(log_prob: xr.DataArray, *, baseline: xr.DataArray | None = None) -> xr.DataArray:
    """Turn natural logarithms of probabilities into bits.

    Parameters
    ----------
    log_prob : DataArray, any dims, usually (trial, fixation)
        Under the model; NaN where there is nothing to predict.
    baseline : DataArray, optional
        The same under a baseline.

    Returns
    -------
    DataArray, dims of ``log_prob``
        Bits needed to code each fixation, or, with a baseline, bits gained over it. NaN stays NaN; `crossed_bootstrap`
        gives the mean over fixations with its interval.

    Examples
    --------
    >>> log_prob = xr.DataArray(np.log([[0.5, 0.25], [0.5, np.nan]]), dims=("trial", "fixation"))
    >>> bits_per_fixation(log_prob).values
    array([[ 1.,  2.],
           [ 1., nan]])
    """
    nats = -log_prob if baseline is None else log_prob - baseline
    bits: xr.DataArray = nats / np.log(2)
    return bits.rename("bits").assign_attrs(units="bits", gain=int(baseline is not None))


def cc(a: ArrayLike, b: ArrayLike) -> float:
    """Correlate two maps over their pixels.

    Parameters
    ----------
    a, b : array, shape (y, x)

    Returns
    -------
    float
        Pearson's r; NaN where either is constant.

    Examples
    --------
    >>> round(cc([[0, 1, 2]], [[0, 1, 4]]), 4)
    0.9608
    """
    first, second = _maps(a, b)
    if min(np.ptp(first), np.ptp(second)) == 0:
        return float("nan")
    return float(stats.pearsonr(first.ravel(), second.ravel()).statistic)


def sim(a: ArrayLike, b: ArrayLike) -> float:
    """Return the overlap of two densities: the sum of the smaller of both at each pixel.

    Parameters
    ----------
    a, b : array, shape (y, x)
        Not negative; each is divided by its sum.

    Returns
    -------
    float
        0 for none, 1 for equal densities.

    Examples
    --------
    >>> sim([[1, 1, 0, 0]], [[0, 1, 1, 0]])
    0.5
    """
    _maps(a, b)
    return float(np.minimum(_density("a", a), _density("b", b)).sum())


def pooled(paths: Sequence[Fixations]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coordinates of all chosen fixations of several scanpaths, those outside the image included."""
    parts = [tuple(at[_n_initial(path) :] for at in xy(f"paths[{i}]", path)) for i, path in enumerate(paths)]
    if not parts:
        return np.empty(0), np.empty(0)
    x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    return x, y


def _n_initial(path: Fixations) -> int:
    return int(isinstance(path, Scanpath) and path.first_fixation == "initial")


def _listed(paths: Fixations | Sequence[Fixations]) -> list[Fixations]:
    return [paths] if is_one(paths) else as_list("paths", paths)  # type: ignore[list-item, arg-type]


def _inside(x: NDArray[Any], y: NDArray[Any], width: int, height: int) -> NDArray[np.bool_]:
    return np.asarray((x >= 0) & (x < width) & (y >= 0) & (y < height))


def _map(name: str, given: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{name} must have shape (y, x), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]} among its values")
    return values


def _maps(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _map("a", a), _map("b", b)
    if first.shape != second.shape:
        raise ValueError(f"b must have shape {first.shape}, got {second.shape}")
    return first, second


def _density(name: str, given: ArrayLike) -> NDArray[np.float64]:
    values = _map(name, given)
    total = values.sum()
    if values.min() < 0 or total <= 0:
        raise ValueError(
            f"{name} must not be negative and must sum to more than 0, got {values.min()} and {total}"
        )
    return np.asarray(values / total)


def _values_at(
    values: NDArray[np.float64], name: str, fixations: Fixations | Sequence[Fixations]
) -> NDArray[np.float64]:
    """Return the map at the chosen fixations inside it."""
    height, width = values.shape
    items = _listed(fixations)
    for path in items:
        if isinstance(path, Scanpath) and tuple(path.image_size) != (width, height):
            raise ValueError(
                f"{name} must lie on an image of the size of the map, {(width, height)}, got {tuple(path.image_size)}"
            )
    x, y = pooled(items)
    inside = _inside(x, y, width, height)
    return values[y[inside].astype(np.int64), x[inside].astype(np.int64)]
