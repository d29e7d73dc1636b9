"""The training recipe of the channel-attention study: learning rate, augmentation, standardisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from neuroattn._checks import check_option, check_range, check_seed, check_shape


def warmup_cosine(epoch: int, n_warmup: int, n_epochs: int) -> float:
    """Return the factor on the learning rate: a linear rise from 0, then half a cosine down to 0 [1]_.

    Parameters
    ----------
    epoch : int
        From 0, whose factor is 0 if there is a warm-up.
    n_warmup, n_epochs : int
        Epochs of the rise, and of the whole training; 20 and 1000 in the paper.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative analysis
       with channel attention mechanisms. J. Neural Eng.

    Examples
    --------
    >>> [round(warmup_cosine(epoch, 2, 6), 2) for epoch in range(7)]
    [0.0, 0.5, 1.0, 0.85, 0.5, 0.15, 0.0]

    For torch.optim.lr_scheduler.LambdaLR, stepped once per epoch:

    >>> from functools import partial
    >>> partial(warmup_cosine, n_warmup=20, n_epochs=1000)(10)
    0.5
    """
    check_range("n_warmup", n_warmup, 0, n_epochs)
    if epoch < n_warmup:
        return epoch / n_warmup
    progress = (epoch - n_warmup) / max(n_epochs - n_warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))


def trial_orders(n_trials: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield the order of the trials in each epoch, without end; it depends on the seed alone."""
    rng = np.random.default_rng([seed, n_trials])  # another stream than that of the augmentation
    while True:
        yield rng.permutation(n_trials)


def recombine_segments(
    x: ArrayLike, y: ArrayLike, seed: int | np.random.Generator, n_segments: int = 8
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Double a batch with trials put together from segments of trials of the same class [1]_.

    Every new trial takes each of its segments from a randomly drawn trial of its class, at the same place in time.

    Parameters
    ----------
    x : array, shape (trial, channel, time)
        The number of samples is a multiple of ``n_segments``.
    y : array, shape (trial,)
        Classes.
    seed : int or Generator
        Of the draws and of the order.
    n_segments : int, default 8
        The paper uses 7 where the samples are not a multiple of 8.

    Returns
    -------
    x : ndarray, shape (2 * trial, channel, time)
        The trials and as many new ones of each class, shuffled.
    y : ndarray, shape (2 * trial,)

    References
    ----------
    .. [1] Lotte (2015). Signal processing approaches to minimize or suppress calibration time in oscillatory
       activity-based brain-computer interfaces. Proc. IEEE.

    Examples
    --------
    >>> x, y = recombine_segments(np.zeros((4, 3, 16)), [0, 1, 0, 1], seed=0)
    >>> x.shape, np.bincount(y).tolist()
    ((8, 3, 16), [4, 4])
    """
    x, y = np.asarray(x), np.asarray(y)
    n_trials, _, n_times = check_shape("x", x, "trial", "channel", "time")
    check_shape("y", y, n_trials)
    check_range("n_segments", n_segments, 1)
    if n_times % n_segments:
        raise ValueError(f"n_segments must divide the {n_times} samples of x, got {n_segments}")
    rng = check_seed(seed)
    counts = np.unique(y, return_counts=True)[1]
    draws = [rng.integers(count, size=(count, n_segments)) for count in counts]
    return _recombine(x, y, draws, rng.permutation(2 * n_trials))


def _recombine(
    x: NDArray[Any], y: NDArray[Any], draws: Sequence[NDArray[Any]], order: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Recombine by draws (new trial, segment) among the trials of each class, then put all in an order."""
    new_x, new_y = [x], [y]
    for label, donors in zip(np.unique(y), draws, strict=True):
        segments = np.stack(
            np.split(x[y == label], donors.shape[1], axis=-1)
        )  # (segment, trial, channel, time)
        chosen = segments[np.arange(donors.shape[1]), donors]  # (new trial, segment, channel, time)
        new_x.append(np.concatenate(list(chosen.swapaxes(0, 1)), axis=-1))
        new_y.append(np.full(len(donors), label))
    return np.concatenate(new_x)[order], np.concatenate(new_y)[order]


class Standardizer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Bring trials to mean 0 and standard deviation 1, as learned from the training trials.

    Parameters
    ----------
    per : {"sample", "channel"}, default "sample"
        "sample": for every channel and time sample across trials, as the published code does [1]_. "channel": for
        every channel across trials and time, as its text says; the evoked response stays in the signal.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski & Yang (2024). EEG motor imagery decoding: a framework for comparative analysis
       with channel attention mechanisms. J. Neural Eng.

    Examples
    --------
    >>> x = np.arange(24.0).reshape(4, 2, 3)
    >>> z = Standardizer(per="channel").fit_transform(x)
    >>> z.mean((0, 2)).round(6).tolist(), z.std((0, 2)).round(6).tolist()
    ([0.0, 0.0], [1.0, 1.0])
    """

    def __init__(self, per: str = "sample") -> None:
        self.per = per

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn mean and scale of X (trial, channel, time); what does not vary is centred only."""
        check_option("per", self.per, ("sample", "channel"))
        X = np.asarray(X)
        check_shape("X", X, "trial", "channel", "time")
        axes = (0,) if self.per == "sample" else (0, 2)
        self.mean_ = X.mean(axes, dtype=np.float64, keepdims=True)[0]
        scale = X.std(axes, dtype=np.float64, keepdims=True)[0]
        self.scale_ = np.where(scale > 0, scale, 1.0)
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return X (trial, channel, time) standardised, in its own floating type."""
        check_is_fitted(self)
        X = np.asarray(X)
        n_times = self.mean_.shape[1] if self.per == "sample" else "time"
        check_shape("X", X, "trial", self.mean_.shape[0], n_times)
        z: NDArray[Any] = (X - self.mean_) / self.scale_
        return z.astype(X.dtype) if np.issubdtype(X.dtype, np.floating) else z
