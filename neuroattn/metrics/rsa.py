"""Representational similarity: dissimilarities of patterns, how alike two geometries are, and the noise ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import rankdata

from neuroattn._checks import check_option

DISSIMILARITIES = ("correlation", "euclidean", "crossvalidated")
SIMILARITIES = ("pearson", "spearman", "cosine", "whitened-pearson", "whitened-cosine")

Floats = NDArray[np.float64]


def dissimilarities(patterns: xr.DataArray, *, method: str = "correlation") -> xr.DataArray:
    """Return how different the patterns of each pair of conditions are.

    Parameters
    ----------
    patterns : DataArray, dims (condition, unit), or (repeat, condition, unit) for "crossvalidated"
        Responses or features, one pattern a condition, say an image.
    method : {"correlation", "euclidean", "crossvalidated"}, default "correlation"
        "correlation": one minus Pearson's r over units. "euclidean": squared distance, divided by the number of units.
        "crossvalidated": the same with the difference of one repeat times that of another, averaged over all pairs of
        repeats; its expectation is zero where conditions do not differ, so it may be negative [1]_. Whiten the units
        by their noise beforehand to have the cross-validated Mahalanobis distance.

    Returns
    -------
    DataArray, dims (pair)
        The upper triangle row by row, with coordinates ``condition_a`` and ``condition_b``.

    Raises
    ------
    ValueError
        If dims do not fit, a value is not finite, there are fewer than three conditions, or a pattern is constant
        ("correlation").

    References
    ----------
    .. [1] Walther, Nili, Ejaz, Alink, Kriegeskorte & Diedrichsen (2016). Reliability of dissimilarity measures for
       multi-voxel pattern analysis. NeuroImage 137.

    Examples
    --------
    >>> patterns = xr.DataArray([[0.0, 1, 2], [2, 1, 0], [0, 1, 2]], dims=("condition", "unit"))
    >>> dissimilarities(patterns).values.round(6)
    array([2., 0., 2.])
    """
    check_option("method", method, DISSIMILARITIES)
    dims = ("repeat", "condition", "unit") if method == "crossvalidated" else ("condition", "unit")
    if set(patterns.dims) != set(dims):
        raise ValueError(f"patterns must have dims {dims} for method {method!r}, got {patterns.dims}")
    patterns = patterns.transpose(*dims)
    n = patterns.sizes["condition"]
    if n < 3:
        raise ValueError(f"patterns must hold at least 3 conditions, got {n}")
    x = patterns.values.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"patterns must be finite, got {int((~np.isfinite(x)).sum())} values that are not")
    first, second = np.triu_indices(n, 1)
    if method == "correlation":
        x = x - x.mean(1, keepdims=True)
        norm = np.sqrt((x**2).sum(1, keepdims=True))
        if (norm == 0).any():
            raise ValueError(
                f"patterns must vary over units, condition {int(np.argmin(norm))} does not: it has no correlation"
            )
        x /= norm
        values = 1 - (x @ x.T)[first, second]
    elif method == "euclidean":
        square = (x**2).sum(1)
        values = np.maximum(square[first] + square[second] - 2 * (x @ x.T)[first, second], 0) / x.shape[1]
    else:
        if len(x) < 2:
            raise ValueError(
                f"patterns must hold at least 2 repeats for method 'crossvalidated', got {len(x)}"
            )
        # The sum over pairs of different repeats is that over all pairs less that of each repeat with itself.
        total = x.sum(0)
        inner = total @ total.T - np.einsum("rcu,rdu->cd", x, x)
        inner /= len(x) * (len(x) - 1) * x.shape[2]
        values = inner[first, first] + inner[second, second] - 2 * inner[first, second]
    names = patterns["condition"].values if "condition" in patterns.coords else np.arange(n)
    return xr.DataArray(
        values,
        dims="pair",
        coords={"condition_a": ("pair", names[first]), "condition_b": ("pair", names[second])},
        name="dissimilarity",
        attrs={"method": method, "n_conditions": n},
    )


def rdm_similarity(a: xr.DataArray, b: xr.DataArray, *, method: str = "spearman") -> xr.DataArray:
    """Say how alike two sets of dissimilarities are.

    Parameters
    ----------
    a, b : DataArray, dims (..., pair)
        Of the same conditions in the same order, see :func:`dissimilarities`. Other dims are kept; those that both
        have are matched, the others crossed.
    method : {"pearson", "spearman", "cosine", "whitened-pearson", "whitened-cosine"}, default "spearman"
        "spearman" asks for the order of dissimilarities only. Dissimilarities that share a condition are correlated
        even where nothing differs; the whitened ones weigh pairs by the inverse of that covariance, which is more
        sensitive [1]_. Cosines keep zero where it is: use them with "crossvalidated" dissimilarities.

    Returns
    -------
    DataArray
        NaN where a set does not vary (or, for cosines, is zero).

    References
    ----------
    .. [1] Diedrichsen, Berlot, Mur, Schütt, Shahbazi & Kriegeskorte (2021). Comparing representational geometries
       using whitened unbiased-distance-matrix similarity. Neurons, Behavior, Data Analysis, and Theory.

    Examples
    --------
    >>> a = xr.DataArray([0.1, 0.4, 0.5, 0.9, 0.7, 0.2], dims="pair")
    >>> [round(rdm_similarity(a, a**2, method=name).item(), 3) for name in ("spearman", "cosine")]
    [1.0, 0.964]
    """
    project = projection(method, _n_conditions(a, b))
    left, right = (
        xr.apply_ufunc(project, x.astype(np.float64), input_core_dims=[["pair"]], output_core_dims=[["pair"]])
        for x in (a.drop_vars(["condition_a", "condition_b"], errors="ignore"), b)
    )
    right = right.drop_vars(["condition_a", "condition_b"], errors="ignore")
    similarity: xr.DataArray = xr.dot(left, right, dim="pair").rename("similarity")
    return similarity


def rdm_noise_ceiling(rdms: xr.DataArray, *, method: str = "spearman") -> xr.Dataset:
    """Return between which bounds the best possible model lies, given how subjects differ.

    Parameters
    ----------
    rdms : DataArray, dims (subject, pair)
        Dissimilarities of at least two subjects.
    method : str, default "spearman"
        As in :func:`rdm_similarity`.

    Returns
    -------
    Dataset
        ``lower``: the mean similarity of each subject with the mean of the others. ``upper``: with the mean of all,
        the subject included, which no model can exceed in sample (after each subject's dissimilarities are
        normalised as the method does; for ranks this mean is the best up to ties) [1]_.

    References
    ----------
    .. [1] Nili, Wingfield, Walther, Su, Marslen-Wilson & Kriegeskorte (2014). A toolbox for representational
       similarity analysis. PLoS Computational Biology 10.

    Examples
    --------
    >>> rdms = xr.DataArray([[0.1, 0.4, 0.5], [0.2, 0.4, 0.6], [0.1, 0.6, 0.5]], dims=("subject", "pair"))
    >>> ceiling = rdm_noise_ceiling(rdms, method="pearson")
    >>> bool(ceiling.lower < ceiling.upper <= 1)
    True
    """
    if set(rdms.dims) != {"subject", "pair"} or rdms.sizes["subject"] < 2:
        raise ValueError(
            f"rdms must have dims (subject, pair) and at least 2 subjects, got {dict(rdms.sizes)}"
        )
    project = projection(method, _n_conditions(rdms, rdms))
    x = project(rdms.transpose("subject", "pair").values.astype(np.float64))
    total = x.sum(0)

    def similarity(means: Floats) -> float:
        """Mean over subjects with one mean each, which is in the space of the method already."""
        best = (
            project(means) if method == "spearman" else means / np.linalg.norm(means, axis=1, keepdims=True)
        )
        return float((x * best).sum(1).mean())

    upper = similarity(np.broadcast_to(total, x.shape))
    lower = similarity(total - x)
    return xr.Dataset({"lower": lower, "upper": upper}, attrs={"method": method, "n": len(x)})


def _n_conditions(a: xr.DataArray, b: xr.DataArray) -> int:
    for name, x in (("a", a), ("b", b)):
        if "pair" not in x.dims:
            raise ValueError(f"{name} must have the dim pair, got {x.dims}")
    if a.sizes["pair"] != b.sizes["pair"]:
        raise ValueError(f"b must have the {a.sizes['pair']} pairs of a, got {b.sizes['pair']}")
    for name in ("condition_a", "condition_b"):
        if name in a.coords and name in b.coords and (a[name].values != b[name].values).any():
            raise ValueError(f"b must have the pairs of a in the same order, its {name} differs")
    n = (1 + math.isqrt(1 + 8 * a.sizes["pair"])) // 2
    if n * (n - 1) // 2 != a.sizes["pair"]:
        raise ValueError(f"a must hold all pairs of some conditions, got {a.sizes['pair']} pairs")
    return n


def projection(method: str, n: int) -> Callable[[Floats], Floats]:
    """Return a function after which the similarity of two sets (..., pair) of n conditions is their inner product.

    Examples
    --------
    >>> project = projection("pearson", 3)
    >>> a, b = np.array([1.0, 2, 4]), np.array([3.0, 3, 9])
    >>> round(float(project(a) @ project(b) - np.corrcoef(a, b)[0, 1]), 12)
    0.0
    """
    check_option("method", method, SIMILARITIES)
    whitened = method.startswith("whitened")

    def project(x: Floats) -> Floats:
        if method == "spearman":
            x = rankdata(x, axis=-1)
        ones = np.ones(x.shape[-1])
        if whitened:
            x, ones = _whiten(x, n), _whiten(ones, n)
        size = np.linalg.norm(x, axis=-1, keepdims=True)
        if not method.endswith("cosine"):
            x = x - (x @ ones / (ones @ ones))[..., None] * ones
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        # What is left of a constant is rounding.
        unit: Floats = np.divide(x, norm, out=np.full_like(x, np.nan), where=norm > 1e-12 * size)
        return unit

    return project


def _whiten(x: Floats, n: int) -> Floats:
    """Multiply by the inverse root of the covariance of dissimilarities of n conditions that do not differ.

    Two pairs covary by 4 if they are the same, by 1 if they share a condition. With A, which says whether a condition
    is in a pair, that is 2 I + A A', and A' A = (n - 2) I + J: there are three eigenspaces, and sums over the pairs of
    each condition are all that it takes to project on them.
    """
    first, second = np.triu_indices(n, 1)
    square = np.zeros((*x.shape[:-1], n, n))
    square[..., first, second] = x
    sums = square.sum(-1) + square.sum(-2)
    weights = (sums - sums.sum(-1, keepdims=True) / (2 * n - 2)) / (n - 2)
    of_conditions = weights[..., first] + weights[..., second]
    mean = x.mean(-1, keepdims=True)
    whitened: Floats = (
        (x - of_conditions) / np.sqrt(2) + (of_conditions - mean) / np.sqrt(n) + mean / np.sqrt(2 * n)
    )
    return whitened
