"""Scanpaths compared as strings: sequence score, edit distances and ScanMatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn._checks import check_range
from neuroattn.metrics._fixations import Fixations, column, durations, size_of, xy


def sequence_score(
    a: Fixations | Sequence[Any] | NDArray[Any],
    b: Fixations | Sequence[Any] | NDArray[Any],
    *,
    duration_bin: float | None = None,
    gap: float = 0.0,
) -> float:
    """Score how much of two fixation sequences runs in the same order [1]_ [2]_.

    The best alignment of Needleman and Wunsch, a match counting 1, a mismatch 0 and a gap ``gap``, divided by the
    length of the longer sequence. With no cost of gaps it is the longest common subsequence.

    Parameters
    ----------
    a, b : Scanpath, mapping, or sequence of symbols, shape (fixation,)
        Scanpaths are compared by their ``objects``; background (-1) is a symbol like any other. Symbols may be
        the characters of a string, whole numbers (cluster or region) or names.
    duration_bin : float, optional
        Seconds. Each symbol is repeated once for every whole bin that its fixation lasts [2]_, at 0.05 in the
        literature; a fixation shorter than that vanishes. None: order only.
    gap : float, default 0.0
        Score of a gap, not above 0.

    Returns
    -------
    float
        1 for equal sequences, and at least 0 where ``gap`` is 0. 0 against an empty sequence, NaN between two
        empty ones.

    References
    ----------
    .. [1] Yang et al. (2020). Predicting goal-directed human attention using inverse reinforcement learning. CVPR.
    .. [2] Mondal et al. (2023). Gazeformer: scalable, effective and fast prediction of goal-directed human
       attention. CVPR.

    Examples
    --------
    >>> sequence_score("ABCD", "ACDD")
    0.75
    >>> brief = {"objects": [3, 5], "duration": [0.10, 0.20]}
    >>> long = {"objects": [3, 5], "duration": [0.30, 0.20]}
    >>> sequence_score(brief, long), sequence_score(brief, long, duration_bin=0.05)
    (1.0, 0.6)
    """
    check_range("gap", gap, high=0)
    first, second = _symbols("a", a, duration_bin), _symbols("b", b, duration_bin)
    if not len(first) and not len(second):
        return float("nan")
    score, _ = _align(_equal(first, second).astype(np.float64), gap)
    return score / max(len(first), len(second))


def edit_distance(
    a: Fixations | Sequence[Any] | NDArray[Any],
    b: Fixations | Sequence[Any] | NDArray[Any],
    *,
    duration_bin: float | None = None,
) -> int:
    """Count the insertions, deletions and substitutions that turn one fixation sequence into the other [1]_.

    Parameters
    ----------
    a, b : Scanpath, mapping, or sequence of symbols, shape (fixation,)
        As for `sequence_score`. With scanpaths this is the fixation edit distance (FED) [2]_.
    duration_bin : float, optional
        Seconds, as for `sequence_score`.

    Returns
    -------
    int
        Not divided by any length.

    References
    ----------
    .. [1] Levenshtein (1966). Binary codes capable of correcting deletions, insertions, and reversals. Soviet
       Physics Doklady 10, 707-710.
    .. [2] Mondal et al. (2023). Gazeformer: scalable, effective and fast prediction of goal-directed human
       attention. CVPR.

    Examples
    --------
    >>> edit_distance("kitten", "sitting"), edit_distance([4, 4, 7], [])
    (3, 3)
    """
    first, second = _symbols("a", a, duration_bin), _symbols("b", b, duration_bin)
    score, _ = _align(_equal(first, second).astype(np.float64) - 1, -1.0)
    return round(-score)


def grid_edit_distance(
    a: Fixations, b: Fixations, *, grid: tuple[int, int] = (5, 5), image_size: tuple[int, int] | None = None
) -> int:
    """Count the edits between two scanpaths written as cells of a grid: the string edit distance (SED) [1]_.

    Parameters
    ----------
    a, b : Scanpath or mapping of arrays x, y, shape (fixation,)
        Px. Fixations outside the image belong to the nearest cell.
    grid : tuple of int, (columns, rows), default (5, 5)
    image_size : tuple of int, (width, height), optional
        Px; by default that of the scanpaths.

    Returns
    -------
    int

    References
    ----------
    .. [1] Foulsham & Underwood (2008). What can saliency models predict about eye movements? Journal of Vision 8.

    Examples
    --------
    >>> a, b = {"x": [10, 90], "y": [10, 10]}, {"x": [12, 50, 90], "y": [11, 50, 10]}
    >>> grid_edit_distance(a, b, image_size=(100, 60))
    1
    """
    size = size_of(image_size, a=a, b=b)
    return edit_distance(_cells("a", a, grid, size), _cells("b", b, grid, size))


def scanmatch(
    a: Fixations,
    b: Fixations,
    *,
    grid: tuple[int, int] = (12, 8),
    temporal_bin: float | None = 0.1,
    threshold: float = 3.5,
    gap: float = 0.0,
    image_size: tuple[int, int] | None = None,
) -> float:
    """Score two scanpaths with ScanMatch [1]_: an alignment in which near cells count more than far ones.

    Each fixation becomes the cell that it falls in, repeated once a ``temporal_bin`` of its duration. Two cells
    score ``threshold`` minus their distance in cells. The best score of an alignment, of which the rest of both
    sequences may be left out, is divided by the best that the longer sequence could reach.

    Parameters
    ----------
    a, b : Scanpath or mapping of arrays x, y, duration, shape (fixation,)
        Px and seconds. Fixations outside the image belong to the nearest cell.
    grid : tuple of int, (columns, rows), default (12, 8)
        (16, 12) with bins of 0.05 s in Chen et al. [2]_.
    temporal_bin : float or None, default 0.1
        Seconds. A fixation is repeated ``round(duration / temporal_bin)`` times. None: durations do not count.
    threshold : float, default 3.5
        Above 0. Distance in cells at which a substitution is worth nothing.
    gap : float, default 0.0
        Score of a gap, not above 0.
    image_size : tuple of int, (width, height), optional
        Px; by default that of the scanpaths.

    Returns
    -------
    float
        1 for equal scanpaths. 0 against an empty one, NaN between two empty ones.

    Notes
    -----
    The published code begins its table with one gap more than there are, so that its scores lie ``gap / (threshold *
    length)`` below ours; there is no difference at the default.

    References
    ----------
    .. [1] Cristino, Mathôt, Theeuwes & Gilchrist (2010). ScanMatch: a novel method for comparing fixation
       sequences. Behavior Research Methods 42, 692-700.
    .. [2] Chen, Jiang & Zhao (2021). Predicting human scanpaths in visual question answering. CVPR.

    Examples
    --------
    >>> a = {"x": [100, 700], "y": [100, 500], "duration": [0.2, 0.3]}
    >>> b = {"x": [100, 640], "y": [100, 500], "duration": [0.2, 0.3]}
    >>> scanmatch(a, a, image_size=(800, 600)), round(scanmatch(a, b, image_size=(800, 600)), 3)
    (1.0, 0.829)
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be above 0 cells, got {threshold!r}")
    check_range("gap", gap, high=0)
    size = size_of(image_size, a=a, b=b)
    first, second = (
        _repeat(name, path, _cells(name, path, grid, size), temporal_bin, np.round)
        for name, path in (("a", a), ("b", b))
    )
    if not len(first) and not len(second):
        return float("nan")
    columns = grid[0]
    dx = first[:, None] % columns - second[None, :] % columns
    dy = first[:, None] // columns - second[None, :] // columns
    _, best = _align(threshold - np.hypot(dx, dy), gap)
    return best / (threshold * max(len(first), len(second)))


def _symbols(name: str, path: Any, duration_bin: float | None) -> NDArray[Any]:
    """Return the symbols (symbol,) of a scanpath or of a plain sequence."""
    if isinstance(path, str):
        path = list(path)
    if isinstance(path, Sequence | np.ndarray):
        if duration_bin is not None:
            raise ValueError(
                f"{name} must be a scanpath with durations where duration_bin is given, got symbols"
            )
        symbols = np.asarray(path)
        if symbols.ndim != 1:
            raise ValueError(f"{name} must have shape (fixation,), got {symbols.shape}")
        return symbols
    objects = column(name, path, "objects")
    if objects is None:
        raise ValueError(f"{name} must hold the fixated 'objects', got none; assign them first")
    return _repeat(name, path, objects, duration_bin, np.floor)


def _repeat(
    name: str, path: Fixations, symbols: NDArray[Any], bin_s: float | None, whole: np.ufunc | Any
) -> NDArray[Any]:
    """Repeat each symbol for the duration of its fixation."""
    if bin_s is None:
        return symbols
    if not bin_s > 0:
        raise ValueError(f"a bin of duration must be above 0 s, got {bin_s!r}")
    # A duration of 0.15 s holds three bins of 0.05 s, whatever their rounding in binary.
    bins = np.round(durations(name, path, len(symbols)) / bin_s, 9)
    return np.repeat(symbols, whole(bins).astype(np.int64))


def _cells(name: str, path: Fixations, grid: tuple[int, int], size: tuple[float, float]) -> NDArray[np.int64]:
    """Return the cell of each fixation, counted along rows of the grid (columns, rows)."""
    if min(grid) < 1:
        raise ValueError(f"grid must be (columns, rows), at least one each, got {grid!r}")
    cells = [
        np.clip(np.floor(at * n / extent), 0, n - 1).astype(np.int64)
        for at, n, extent in zip(xy(name, path), grid, size, strict=True)
    ]
    return np.asarray(cells[0] + grid[0] * cells[1])


def _equal(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(a[:, None] == b[None, :])


def _align(score: NDArray[np.float64], gap: float) -> tuple[float, float]:
    """Return the score of the best alignment of all symbols, and the best of any two beginnings; score (a, b).

    A row needs no loop: with gaps of one price, the best way to end at b is the best of all earlier ends plus the
    gaps since, a running maximum.
    """
    price = gap * np.arange(score.shape[1] + 1)
    row, best = price, 0.0
    for i, scores in enumerate(score, start=1):
        ends = row + gap
        ends[1:] = np.maximum(ends[1:], row[:-1] + scores)
        ends[0] = gap * i
        row = np.maximum.accumulate(ends - price) + price
        best = max(best, float(row.max()))
    return float(row[-1]), best
