"""Many networks of one architecture trained together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone

from neuroattn.eeg.classifier import MotorImageryClassifier


def train_together(
    classifier: MotorImageryClassifier,
    X: Sequence[Any],
    y: Sequence[ArrayLike],
    *,
    seeds: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[MotorImageryClassifier]:
    """Fit one classifier to many sets of trials or labels, or with many seeds, at once.

    Parameters
    ----------
    classifier : MotorImageryClassifier
        Its settings are those of every fit; it is not fitted itself.
    X : sequence of float array, shape (trial, channel, time), or of mne.Epochs
        Trials of each fit, as for :meth:`MotorImageryClassifier.fit`. Name the same object again where fits share
        their trials, as in ``[X] * 200``: it is then filtered and standardised once.
    y : sequence of array, shape (trial,)
        Labels of each fit.
    seeds : sequence of int, optional
        Seed of each fit; by default that of ``classifier`` for all.
    progress : callable, optional
        Called with the number of fits done and of all fits.

    Returns
    -------
    list of MotorImageryClassifier
        In the order of ``X``. Each is what ``clone(classifier).set_params(seed=seed).fit(X, y)`` gives.

    Examples
    --------
    The null of a score, here with three permutations:

    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 3, 250)), np.array(["left", "right"] * 10)
    >>> labels = [rng.permutation(y) for _ in range(3)]
    >>> classifier = MotorImageryClassifier("eca", sfreq=125, n_epochs=5)
    >>> fitted = train_together(classifier, [X] * 3, labels, seeds=[0, 1, 2])
    >>> [one.seed for one in fitted], fitted[0].predict(X).shape
    ([0, 1, 2], (20,))
    """
    if seeds is None:
        seeds = [classifier.seed] * len(X)
    for name, values in (("y", y), ("seeds", seeds)):
        if len(values) != len(X):
            raise ValueError(f"{name} must have one entry for each of the {len(X)} of X, got {len(values)}")
    fitted = []
    for signals, labels, seed in zip(X, y, seeds, strict=True):
        fitted.append(clone(classifier).set_params(seed=seed).fit(signals, np.asarray(labels)))
        if progress is not None:
            progress(len(fitted), len(X))
    return fitted
