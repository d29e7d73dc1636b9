"""Euclidean alignment of subjects and sessions."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroattn._checks import check_shape
from neuroattn.eeg.pipelines import TrialTransformer, check_trials


class EuclideanAlignment(TrialTransformer):
    """Whiten each subject's or session's trials by their mean covariance [1]_.

    ``X_i -> R^-1/2 X_i`` with ``R = mean_i X_i X_i' / n_times`` over the trials of one group. Afterwards the mean
    covariance of every group is the identity, which removes much of what differs between heads and caps.

    Attributes
    ----------
    whiteners_ : dict of array, shape (channel, channel)
        ``R^-1/2`` of each group that was fitted.

    Notes
    -----
    A group that ``fit`` has seen is aligned with the covariance found there. A group that it has not seen, a new
    subject for instance, is aligned with the mean covariance of the trials that ``transform`` is given. This uses no
    labels, but it is transductive: it needs a whole test session at once, so its scores are not those of a decoder that
    meets one trial after the other. Align for all pipelines of a comparison or for none.

    References
    ----------
    .. [1] He & Wu (2020). Transfer learning for brain-computer interfaces: a Euclidean space data alignment approach.
       IEEE Transactions on Biomedical Engineering 67(2).

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(6, 2, 100)) * [[[1.0], [5.0]]]
    >>> aligned = EuclideanAlignment().fit_transform(X, groups=["s1"] * 3 + ["s2"] * 3)
    >>> (aligned[3:] @ aligned[3:].transpose(0, 2, 1) / 100).mean(0).round(6) + 0
    array([[1., 0.],
           [0., 1.]])
    """

    def fit(self, X: ArrayLike, y: object = None, groups: ArrayLike | None = None) -> Self:
        """Find the whitening matrix of each group.

        Parameters
        ----------
        X : float array, shape (trial, channel, time)
        y : ignored
        groups : array, shape (trial,), optional
            Subject or session of each trial; None: all trials are of one.
        """
        trials = check_trials(X)
        super().fit(trials)
        self.whiteners_ = {
            group: _whitener(trials[rows], group) for group, rows in _rows(groups, len(trials)).items()
        }
        return self

    def transform(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[Any]:
        """Align trials, each group with its own matrix.

        Parameters
        ----------
        X : float array, shape (trial, channel, time)
        groups : array, shape (trial,), optional

        Returns
        -------
        array, shape (trial, channel, time)
            Without unit; of the type of ``X`` where that is float32 or float64.
        """
        trials = check_trials(X)
        check_shape("X", trials, "trial", self.n_features_in_, "time")
        aligned = np.empty_like(trials)
        for group, rows in _rows(groups, len(trials)).items():
            whitener = self.whiteners_.get(group)
            if whitener is None:
                whitener = _whitener(trials[rows], group)
            aligned[rows] = whitener @ trials[rows]
        return aligned

    def fit_transform(self, X: ArrayLike, y: object = None, groups: ArrayLike | None = None) -> NDArray[Any]:
        """Align each group with its own mean covariance, and keep the matrices."""
        return self.fit(X, y, groups).transform(X, groups)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        return tags


def _rows(groups: ArrayLike | None, n_trials: int) -> dict[Any, NDArray[np.intp]]:
    labels = np.zeros(n_trials, dtype=int) if groups is None else np.asarray(groups)
    check_shape("groups", labels, n_trials)
    return {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}


def _whitener(trials: NDArray[Any], group: object) -> NDArray[np.float64]:
    x = trials.astype(np.float64)
    covariance = np.einsum("nct,ndt->cd", x, x) / (x.shape[0] * x.shape[2])
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= values[-1] * len(values) * np.finfo(np.float64).eps:
        raise ValueError(
            f"X must have channels that are linearly independent, but those of group {group!r} are not; "
            "leave one out of an average reference"
        )
    whitener: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return whitener
