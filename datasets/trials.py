"""Single trials: standardized within their session, summed by stimulus."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_N_UNITS = 4096  # columns at a time in double precision


def standardize(trials: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Standardize each unit over the trials of one session.

    Returns
    -------
    z : shape (trial, unit)
        Mean 0 and variance 1; NaN for units with a value that is not a number, or without variation.
    deviation : shape (unit,)
        Standard deviation before.
    """
    x = np.asarray(trials)
    z, deviation = np.empty(x.shape, np.float32), np.empty(x.shape[1], np.float32)
    for start in range(0, x.shape[1], _N_UNITS):
        part = slice(start, start + _N_UNITS)
        block = x[:, part].astype(np.float64)
        finite = np.isfinite(block).all(0)
        block[:, ~finite] = np.nan
        spread = block.std(0)
        spread[spread == 0] = np.nan
        z[:, part] = (block - block.mean(0)) / spread
        deviation[part] = spread
    return z, deviation


def add_trials(total: NDArray[np.float32], trials: NDArray[np.float32], rows: NDArray[np.intp]) -> None:
    """Add each trial to its row of ``total`` (row, unit); trials of row -1 are left out."""
    for trial, row in enumerate(rows):
        if row >= 0:
            total[row] += trials[trial]


def divide_rows(total: NDArray[np.float32], counts: NDArray[np.intp]) -> None:
    """Turn sums into means, a few rows at a time."""
    for start in range(0, len(total), 256):
        total[start : start + 256] /= counts[start : start + 256, None].astype(np.float32)
