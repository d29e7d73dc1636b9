"""Pearson correlation over stimuli, its bootstrap, shuffled null and significance, for many units at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from neuroattn._checks import check_range, check_seed, check_shape

_UNITS_AT_ONCE = 4096
_TIE = (
    1e-6  # rounding of float32 sums must not decide whether a permuted correlation reaches the observed one
)
_CACHED_VALUES = 2**17  # of one side, which stay in the processor's cache between the passes over a block


def pearson_r(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray[np.float64]:
    """Correlate measured and predicted responses over stimuli.

    Parameters
    ----------
    y_true, y_pred : array, shape (stimulus, unit)
        Accumulated in float64, a block of units at a time.

    Returns
    -------
    array, shape (unit,)
        NaN where either side is constant or holds a NaN.

    Examples
    --------
    >>> y = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> pearson_r(y, -y)
    array([-1., nan])
    """
    y_true, y_pred = _pair(y_true, y_pred)
    r = np.empty(y_true.shape[1])
    size = max(16, _CACHED_VALUES // max(len(y_true), 1))

    def correlate(start: int) -> None:
        units = slice(start, start + size)
        with np.errstate(invalid="ignore", divide="ignore"):
            (y, y_length), (p, p_length) = _centre(y_true[:, units]), _centre(y_pred[:, units])
            r[units] = np.einsum("su,su->u", y, p) / (y_length * p_length)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(correlate, range(0, len(r), size)))  # numpy lets go of the interpreter's lock
    return r


def bootstrap_correlation(
    y_true: ArrayLike, y_pred: ArrayLike, *, n_resamples: int = 1000, seed: int | np.random.Generator = 0
) -> NDArray[np.float32]:
    """Correlate over resampled stimuli.

    Parameters
    ----------
    y_true, y_pred : array, shape (stimulus, unit)
    n_resamples : int, default 1000
    seed : int or Generator, default 0
        Equal seeds draw equal stimuli, so that differences between models are paired.

    Returns
    -------
    array, shape (resample, unit)
        One correlation a resample; percentiles over the first axis are intervals whose resampling unit is the
        stimulus.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=(50, 1))
    >>> low, high = np.percentile(bootstrap_correlation(y, y + rng.normal(size=(50, 1))), [2.5, 97.5])
    >>> bool(0 < low < high < 1)
    True
    """
    check_range("n_resamples", n_resamples, 1)
    y_true, y_pred = _pair(y_true, y_pred)
    n = len(y_true)
    draws = check_seed(seed).integers(n, size=(n_resamples, n))
    weight = np.zeros((n_resamples, n), np.float32)
    np.add.at(weight, (np.arange(n_resamples)[:, None], draws), 1 / n)
    r = np.empty((n_resamples, y_true.shape[1]), np.float32)
    for units, y, p in _standardized_blocks(y_true, y_pred):
        # Standardized columns keep the moments of order one, so float32 sums are exact enough.
        y, p = y.astype(np.float32) * np.sqrt(n), p.astype(np.float32) * np.sqrt(n)
        mean_y, mean_p = weight @ y, weight @ p
        covariance = weight @ (y * p) - mean_y * mean_p
        variance = (weight @ (y * y) - mean_y**2) * (weight @ (p * p) - mean_p**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            r[:, units] = np.where(variance > 1e-12, covariance / np.sqrt(variance), np.nan)
    return r


def shuffled_correlation(
    y_true: ArrayLike, y_pred: ArrayLike, *, n_shuffles: int = 100, seed: int | np.random.Generator = 0
) -> NDArray[np.float32]:
    """Correlate after shuffling which stimulus each prediction belongs to.

    Parameters
    ----------
    y_true, y_pred : array, shape (stimulus, unit)
    n_shuffles : int, default 100
    seed : int or Generator, default 0

    Returns
    -------
    array, shape (shuffle, unit)
        The null of no relation between stimulus and prediction.

    Examples
    --------
    >>> y = np.random.default_rng(0).normal(size=(200, 3))
    >>> bool(abs(shuffled_correlation(y, y).mean()) < 0.02)
    True
    """
    check_range("n_shuffles", n_shuffles, 1)
    y_true, y_pred = _pair(y_true, y_pred)
    orders = _shuffled_orders(_exchangeable(len(y_true), None), n_shuffles, check_seed(seed))
    r = np.empty((n_shuffles, y_true.shape[1]), np.float32)
    for units, y, p in _standardized_blocks(y_true, y_pred):
        for i, order in enumerate(orders):
            r[i, units] = np.einsum("su,su->u", y, p[order])
    return r


def permutation_correlation(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    n_permutations: int = 1000,
    seed: int | np.random.Generator = 0,
    groups: ArrayLike | None = None,
    membership: xr.DataArray | None = None,
) -> xr.Dataset:
    """Test each unit's correlation against predictions that belong to other stimuli.

    One-sided (``r > 0``), ``p = (1 + number of permuted r at least as large) / (1 + n_permutations)`` [1]_. All units
    share the permutations, so that the maximum over units controls the family-wise error under their dependence [2]_.
    Memory does not grow with the number of permutations times units.

    Parameters
    ----------
    y_true, y_pred : array, shape (stimulus, unit)
        Held-out responses and their predictions.
    n_permutations : int, default 1000
    seed : int or Generator, default 0
    groups : array, shape (stimulus,), optional
        Stimulus identity of each row. Rows of one stimulus move together, and change places with those of a stimulus
        shown as often. None: every row is a stimulus of its own.
    membership : DataArray of bool, dims (roi, unit), optional
        Also return what the mean correlation of each region is under the same permutations.

    Returns
    -------
    Dataset, dims (unit,) or (unit, roi, permutation)
        ``correlation``; ``p``; ``p_fdr``, adjusted by Benjamini and Hochberg over units; ``p_fwe``, of the maximum over
        units; ``smallest_p``, the smallest that so many permutations can give. NaN where the correlation is NaN. With
        ``membership`` also ``roi_null`` (permutation, roi), means over the units of a region whose correlation is a
        number, NaN where there is none.

    Raises
    ------
    ValueError
        If the stimuli have fewer orders than are asked for.

    References
    ----------
    .. [1] Phipson & Smyth (2010). Permutation P-values should never be zero. Statistical Applications in Genetics and
       Molecular Biology 9.
    .. [2] Nichols & Holmes (2002). Nonparametric permutation tests for functional neuroimaging: a primer with examples.
       Human Brain Mapping 15, 1-25.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=(50, 2))
    >>> prediction = np.stack([y[:, 0], rng.normal(size=50)], axis=1)
    >>> test = permutation_correlation(y, prediction, n_permutations=99)
    >>> test.p_fwe[0].item(), test.p_fwe[1].item() > 0.05, test.smallest_p.item()
    (0.01, True, 0.01)
    """
    check_range("n_permutations", n_permutations, 1)
    y_true, y_pred = _pair(y_true, y_pred)
    tables = _exchangeable(len(y_true), groups)
    log_orders = sum(math.lgamma(len(table) + 1) for table in tables)
    if log_orders < math.log(n_permutations + 1) - 1e-9:
        raise ValueError(
            f"n_permutations must be below the {round(math.exp(log_orders))} orders of the stimuli, "
            f"got {n_permutations}"
        )
    orders = _shuffled_orders(tables, n_permutations, check_seed(seed))
    observed = pearson_r(y_true, y_pred)
    reached = np.zeros(y_true.shape[1])
    largest = np.full(n_permutations, -np.inf)
    known = np.isfinite(observed)
    share = np.zeros((len(observed), 0)) if membership is None else _shares(membership, known)
    means = np.zeros((n_permutations, share.shape[1]))
    for units, y, p in _standardized_blocks(y_true, y_pred):
        y, p = y.astype(np.float32), p.astype(np.float32)
        for i, order in enumerate(orders):
            # Not one product of matrices: each unit pairs its own response with its own prediction.
            r = np.einsum("su,su->u", y, p[order])
            reached[units] += r >= observed[units] - _TIE
            largest[i] = np.fmax.reduce(r, initial=largest[i])
            means[i] += np.where(known[units], r, 0) @ share[units]
    larger = n_permutations - np.searchsorted(np.sort(largest), observed - _TIE)
    p, p_fwe = (np.where(known, (1 + count) / (1.0 + n_permutations), np.nan) for count in (reached, larger))
    tested = xr.Dataset(
        {
            "correlation": ("unit", observed),
            "p": ("unit", p),
            "p_fdr": ("unit", adjusted_p(p)),
            "p_fwe": ("unit", p_fwe),
            "smallest_p": 1 / (1 + n_permutations),
        },
        attrs={"alternative": "greater", "n_permutations": n_permutations, "resampled": "stimulus"},
    )
    if membership is not None:
        tested["roi_null"] = ("permutation", "roi"), means
        tested.coords["roi"] = membership["roi"].values
    return tested


def region_p(observed: NDArray[np.float64], null: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the one-sided p of region means (roi,) among those of permutations (permutation, roi).

    Examples
    --------
    >>> region_p(np.array([0.5, np.nan]), np.array([[0.1, np.nan], [0.6, np.nan], [0.2, np.nan]]))
    array([0.5, nan])
    """
    reached = (null >= observed - _TIE).sum(0)
    return np.where(
        np.isfinite(observed) & np.isfinite(null).all(0), (1 + reached) / (1.0 + len(null)), np.nan
    )


def _shares(membership: xr.DataArray, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weight of each unit in the mean of each region (unit, roi), NaN for a region without known units."""
    members = membership.transpose("unit", "roi").values.astype(bool)
    check_shape("membership", members.T, "roi", len(known))
    count = (members & known[:, None]).sum(0)
    return np.asarray(members / np.where(count > 0, count, np.nan))


def adjusted_p(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p values for the false discovery rate, over those that are not NaN."""
    known = np.isfinite(p)
    out = np.full(p.shape, np.nan)
    if known.any():
        out[known] = stats.false_discovery_control(p[known])
    return out


def _exchangeable(n: int, groups: ArrayLike | None) -> list[NDArray[np.intp]]:
    """Return tables (group, row) of rows whose groups may change places: one table for each size of group."""
    if groups is None:
        return [np.arange(n)[:, None]]
    group = np.asarray(groups)
    check_shape("groups", group, n)
    of_row, sizes = np.unique(group, return_inverse=True, return_counts=True)[1:]
    rows = np.argsort(of_row, kind="stable")
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    return [np.stack([part for part in parts if len(part) == size]) for size in np.unique(sizes)]


def _shuffled_orders(
    tables: list[NDArray[np.intp]], n_orders: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw orders (order, stimulus) that exchange whole rows of each table."""
    orders = np.empty((n_orders, sum(table.size for table in tables)), np.intp)
    for order in orders:
        for table in tables:
            order[table] = table[rng.permutation(len(table))]
    return orders


def _pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    shape = check_shape("y_true", y_true, "stimulus", "unit")
    check_shape("y_pred", y_pred, *shape)
    return y_true, y_pred


def _centre(x: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return columns of mean zero and their lengths (NaN where constant)."""
    x = x.astype(np.float64)
    mean = x.mean(0)
    x -= mean
    length = np.sqrt(np.einsum("su,su->u", x, x))
    # A constant column leaves rounding errors only; they must not become a correlation.
    length[length <= 1e-12 * np.abs(mean) * np.sqrt(len(x))] = np.nan
    return x, length


def _standardized_blocks(
    y_true: NDArray[Any], y_pred: NDArray[Any]
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield blocks of units whose columns have mean zero and length one (NaN where constant)."""

    def standardize(x: NDArray[Any]) -> NDArray[np.float64]:
        x, length = _centre(x)
        return np.asarray(x / length)

    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, y_true.shape[1], _UNITS_AT_ONCE):
            units = slice(start, start + _UNITS_AT_ONCE)
            yield units, standardize(y_true[:, units]), standardize(y_pred[:, units])
