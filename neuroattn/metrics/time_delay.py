"""Scanpaths compared by short pieces of their course: time-delay embedding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuroattn._checks import check_range
from neuroattn.metrics._fixations import Fixations, size_of, xy


def tde(a: Fixations, b: Fixations, *, window: int = 3) -> float:
    """Measure how far each piece of ``b`` is from the nearest piece of ``a``: time-delay embedding (TDE) [1]_.

    A piece is ``window`` fixations in a row. Two pieces are as far apart as their fixations are on average. The
    result is the mean over the pieces of ``b``.

    Parameters
    ----------
    a, b : Scanpath or mapping of arrays x, y, shape (fixation,)
        Px. The measure is not symmetric: ``a`` is the observed scanpath where ``b`` is a model's.
    window : int, default 3
        Fixations.

    Returns
    -------
    float
        Px. 0 where every piece of ``b`` is a piece of ``a``, NaN where either has fewer than ``window`` fixations.

    References
    ----------
    .. [1] Wang, Chen, Wang, Jiang, Fang & Yao (2011). Simulating human saccadic scanpaths on natural images. CVPR.

    Examples
    --------
    >>> a = {"x": [100, 200, 300], "y": [100, 100, 200]}
    >>> b = {"x": [100, 200, 300], "y": [130, 100, 240]}
    >>> round(tde(a, b, window=3), 3)
    23.333
    """
    check_range("window", window, 1)
    return _mean_distance(np.stack(xy("a", a), 1), np.stack(xy("b", b), 1), window)


def stde(a: Fixations, b: Fixations, *, image_size: tuple[int, int] | None = None) -> float:
    """Score two scanpaths by time-delay embeddings of all lengths: scaled time-delay embedding (STDE) [1]_.

    The mean of ``exp(-d)`` over windows of 1 to as many fixations as the shorter scanpath has, where ``d`` is
    `tde` in units of the longer side of the image.

    Parameters
    ----------
    a, b : Scanpath or mapping of arrays x, y, shape (fixation,)
        Px.
    image_size : tuple of int, (width, height), optional
        Px; by default that of the scanpaths.

    Returns
    -------
    float
        Above 0, and 1 for equal scanpaths. NaN where either is empty.

    References
    ----------
    .. [1] Zanca, Serchi, Piu, Rosini & Rufa (2018). FixaTons: a collection of human fixations datasets and metrics
       for scanpath similarity. arXiv:1802.02534.

    Examples
    --------
    >>> a = {"x": [100, 200, 300], "y": [100, 100, 200]}
    >>> b = {"x": [100, 200, 300], "y": [130, 100, 240]}
    >>> round(stde(a, b, image_size=(800, 600)), 4)
    0.9736
    """
    side = max(size_of(image_size, a=a, b=b))
    first, second = np.stack(xy("a", a), 1) / side, np.stack(xy("b", b), 1) / side
    shorter = min(len(first), len(second))
    if not shorter:
        return float("nan")
    return float(np.mean([np.exp(-_mean_distance(first, second, k)) for k in range(1, shorter + 1)]))


def _mean_distance(a: NDArray[np.float64], b: NDArray[np.float64], window: int) -> float:
    if min(len(a), len(b)) < window:
        return float("nan")
    others, pieces = (np.lib.stride_tricks.sliding_window_view(side, window, axis=0) for side in (a, b))
    distance = np.linalg.norm(pieces[:, None] - others[None], axis=-2).mean(-1)
    return float(distance.min(axis=1).mean())
