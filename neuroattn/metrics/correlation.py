"""Pearson correlation over stimuli, its bootstrap and its shuffled null, for many units at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_range, check_seed, check_shape

_UNITS_AT_ONCE = 4096
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
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, len(r), size):
            units = slice(start, start + size)
            (y, y_length), (p, p_length) = _centre(y_true[:, units]), _centre(y_pred[:, units])
            r[units] = np.einsum("su,su->u", y, p) / (y_length * p_length)
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
    rng = check_seed(seed)
    orders = np.stack([rng.permutation(len(y_true)) for _ in range(n_shuffles)])
    r = np.empty((n_shuffles, y_true.shape[1]), np.float32)
    for units, y, p in _standardized_blocks(y_true, y_pred):
        for i, order in enumerate(orders):
            r[i, units] = np.einsum("su,su->u", y, p[order])
    return r


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
