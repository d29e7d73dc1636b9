"""Transformers of trials (trial, channel, time) for scikit-learn pipelines: filters, control features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from neuroattn._checks import check_range, check_shape
from neuroattn.datasets.eeg import band_filter, filter_signals


def check_trials(X: Any) -> NDArray[np.floating[Any]]:
    """Return trials as float32 or float64, shape (trial, channel, time)."""
    trials: NDArray[Any] = np.asarray(X)
    if trials.dtype != np.float32:
        trials = trials.astype(np.float64)
    check_shape("X", trials, "trial", "channel", "time")
    return trials


class TrialTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of transformers that learn nothing and take trials (trial, channel, time)."""

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Check the shape of ``X``; nothing is learnt."""
        self.n_features_in_ = check_trials(X).shape[1]
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = False
        return tags


class BandPass(TrialTransformer):
    """Filter every trial by itself with a Butterworth filter of order four.

    Parameters
    ----------
    low, high : float or None
        Pass band in hertz; None leaves that side open.
    sfreq : float
        Sampling rate in hertz.
    causal : bool, default False
        Filter forwards only, as online decoding must, started as if the first sample had always been there. By default
        the filter runs forwards and backwards: no delay, but twice the order, and later samples leak into earlier ones.

    Notes
    -----
    A trial has edges: within about ``1 / low`` seconds of its ends the result is not that of the continuous recording.
    :func:`neuroattn.datasets.load_eeg` filters before it cuts and has none.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(2, 3, 500))
    >>> BandPass(8, 30, sfreq=250).fit_transform(X).shape
    (2, 3, 500)
    """

    def __init__(self, low: float | None, high: float | None, sfreq: float, *, causal: bool = False) -> None:
        self.low = low
        self.high = high
        self.sfreq = sfreq
        self.causal = causal

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the filtered trials, of the type of ``X`` where that is float32 or float64."""
        trials = check_trials(X)
        sos = band_filter(self.low, self.high, self.sfreq)
        return filter_signals(trials, sos, causal=self.causal).astype(trials.dtype, copy=False)


class LateralDifferences(TrialTransformer):
    """Average slow differences between the hemispheres over short time bins.

    A cue on the left or right of a screen moves the eyes and evokes slow lateral waves. What a classifier finds in
    these features is not motor imagery, so a decoder of imagery is shown beside them.

    Parameters
    ----------
    ch_names : sequence of str
        Names of the 10-05 system. A pair is an odd electrode and its even neighbour: C3 and C4, F7 and F8.
    sfreq : float
        Sampling rate in hertz.
    high : float, default 4
        Low-pass edge in hertz.
    bin_seconds : float, default 0.25
        Length of a time bin; what remains at the end of a trial is left out.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(2, 3, 500))
    >>> LateralDifferences(["C3", "Cz", "C4"], sfreq=250).fit_transform(X).shape
    (2, 8)
    """

    def __init__(
        self, ch_names: Sequence[str], sfreq: float, *, high: float = 4.0, bin_seconds: float = 0.25
    ) -> None:
        self.ch_names = ch_names
        self.sfreq = sfreq
        self.high = high
        self.bin_seconds = bin_seconds

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return right minus left, shape (trial, pair * bin), in microvolt."""
        trials = check_trials(X)
        check_shape("X", trials, "trial", len(self.ch_names), "time")
        left, right = map(list, zip(*lateral_pairs(self.ch_names), strict=True))
        difference = trials[:, right].astype(np.float64) - trials[:, left]
        slow = filter_signals(difference, band_filter(None, self.high, self.sfreq), causal=False)
        width = round(self.bin_seconds * self.sfreq)
        check_range("bin_seconds", self.bin_seconds, 1 / self.sfreq, slow.shape[2] / self.sfreq)
        n_bins = slow.shape[2] // width
        bins = slow[:, :, : n_bins * width].reshape(*slow.shape[:2], n_bins, width)
        means: NDArray[np.float64] = bins.mean(axis=3).reshape(len(slow), -1)
        return means


def lateral_pairs(ch_names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the indices of each left electrode and its right counterpart.

    Examples
    --------
    >>> lateral_pairs(["Fz", "C4", "C3", "T7"])
    [(2, 1)]
    """
    place = {name.lower(): i for i, name in enumerate(ch_names)}
    pairs = []
    for name, i in place.items():
        match = re.fullmatch(r"([a-z]+)(\d*[13579])", name)
        partner = place.get(f"{match[1]}{int(match[2]) + 1}") if match else None
        if partner is not None:
            pairs.append((i, partner))
    if not pairs:
        raise ValueError(
            f"ch_names must hold a left and a right electrode, such as C3 and C4, got {', '.join(ch_names)}"
        )
    return pairs
