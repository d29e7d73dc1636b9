"""Decoding of a running recording, sample by sample as an offline pipeline would."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.signal import sosfilt, sosfilt_zi
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from neuroattn._checks import check_option, check_range, check_shape
from neuroattn.datasets.eeg import band_filter, standard_names
from neuroattn.eeg.classifier import MotorImageryClassifier


class Decision(NamedTuple):
    """What was decided at one moment.

    Parameters
    ----------
    time : float
        End of the window, in seconds since the first sample.
    label : object
        Most probable class.
    probabilities : array, shape (class,)
    latency : float
        Seconds that filtering the last samples and running the network took.

    Examples
    --------
    >>> Decision(4.0, "left", np.array([0.75, 0.25]), 0.004).label
    'left'
    """

    time: float
    label: Any
    probabilities: NDArray[np.float64]
    latency: float


@dataclass(frozen=True, eq=False)
class Replay:
    """A recording that was decoded as if it were running.

    Parameters
    ----------
    decisions : DataFrame, one row a decision
        ``time``, ``label``, ``latency``, ``rest``, and the probability of each class in a column named after it.
    latency : dict of float
        Seconds a decision: "median", "p95", "max".
    false_positives_per_minute : float
        How often, in a minute of rest, the largest probability rose above ``threshold``; NaN without rest.
    threshold : float

    Examples
    --------
    >>> Replay(pd.DataFrame({"time": [4.0]}), {"median": 0.004}, float("nan"), 0.8).threshold
    0.8
    """

    decisions: pd.DataFrame
    latency: dict[str, float]
    false_positives_per_minute: float
    threshold: float


class StreamingDecoder:
    """Decode the last window of a running recording, again and again.

    The band-pass filter keeps its state from chunk to chunk, the filtered signal goes into a buffer as long as the
    network's window, and every ``every`` seconds the whole window is standardised and classified. Probabilities are
    those of the causal offline pipeline: the filter over the whole recording, then windows, then the network. They do
    not depend on how the samples arrive.

    Parameters
    ----------
    classifier : MotorImageryClassifier
        Fitted with ``causal=True``, or with ``band=None`` if the samples need no filter or come filtered.
    every : float, default 0.1
        Seconds between two decisions, at least one sample.
    refit : {"causal"}, optional
        Fit a copy of a classifier that was trained behind a zero-phase filter again, behind the causal one.
    X, y : arrays, as for `MotorImageryClassifier.fit`, optional
        Trials of the training; needed by, and only for, ``refit``.

    Attributes
    ----------
    classifier : MotorImageryClassifier
        The one that decides, fitted again or as given.

    Raises
    ------
    ValueError
        If the classifier was trained behind a zero-phase filter, which would have to see the future, and there is no
        ``refit``.

    Notes
    -----
    A trial's filter starts at its first sample, a running filter has long settled. Give ``lead_seconds`` to the
    classifier, so that training leaves out the time in which the two differ. With ``standardize="sample"`` each time
    sample of the window has its own mean and scale, learnt from windows locked to a cue; "channel" fits windows that
    are locked to nothing.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(8, 3, 250)), np.array(["left", "right"] * 4)
    >>> classifier = MotorImageryClassifier(sfreq=125, causal=True, n_epochs=2, standardize="channel").fit(X, y)
    >>> decoder = StreamingDecoder(classifier)
    >>> len(decoder.push(rng.normal(size=(3, 249)))), len(decoder.push(rng.normal(size=(3, 26))))
    (0, 3)
    """

    def __init__(
        self,
        classifier: MotorImageryClassifier,
        *,
        every: float = 0.1,
        refit: str | None = None,
        X: Any = None,
        y: ArrayLike | None = None,
    ) -> None:
        check_is_fitted(classifier, "network_")
        if refit is not None:
            check_option("refit", refit, ("causal",))
            if X is None or y is None:
                raise ValueError("X and y must be the trials of the training to refit, got none")
            classifier = clone(classifier).set_params(causal=True).fit(X, y)
        if classifier.band is not None and not classifier.causal:
            raise ValueError(
                "classifier must have been fitted with causal=True, since a zero-phase filter needs later samples; "
                'give refit="causal" with X and y of its training'
            )
        self.classifier = classifier
        self._step = round(every * classifier.sfreq_)
        check_range("every", self._step / classifier.sfreq_, 1 / classifier.sfreq_)
        self._sos = None if classifier.band is None else band_filter(*classifier.band, classifier.sfreq_)
        n_times = classifier.n_times_ - round(classifier.lead_seconds * classifier.sfreq_)
        self._window = np.zeros((classifier.n_chans_, n_times))
        self.reset()

    def reset(self) -> None:
        """Forget all samples, as at the start of another recording."""
        self._seen = 0
        self._state: NDArray[np.float64] | None = None

    def push(self, samples: ArrayLike) -> list[Decision]:
        """Take the next samples and return the decisions that became due.

        Parameters
        ----------
        samples : float array, shape (channel, time)
            Microvolt; any number of samples.

        Returns
        -------
        list of Decision
            Empty until a window is full, and between two decisions.

        Raises
        ------
        ValueError
            If a sample is not finite. It is not taken: the decoder goes on as if the chunk had not been there.
        """
        chunk = np.asarray(samples, dtype=np.float64)
        check_shape("samples", chunk, self._window.shape[0], "time")
        if not np.isfinite(chunk).all():  # which the filter would never forget
            channel = int(np.flatnonzero(~np.isfinite(chunk).all(axis=1))[0])
            raise ValueError(f"samples must be finite, got NaN or infinity in channel {channel}")
        decisions = []
        while chunk.shape[1]:
            # Up to the next decision: when the first window is full, and then every step.
            due = self._window.shape[1] - self._seen
            if due <= 0:
                due = self._step - (-due % self._step)
            part, chunk = chunk[:, :due], chunk[:, due:]
            start = time.perf_counter()
            self._append(self._filter(part))
            self._seen += part.shape[1]
            if part.shape[1] == due:
                decisions.append(self._decide(start))
        return decisions

    def replay(
        self, recording: Any, *, rest: Sequence[str] | ArrayLike | None = None, threshold: float = 0.8
    ) -> Replay:
        """Decode a recording as if it were running, from its beginning.

        Parameters
        ----------
        recording : mne.io.Raw or float array, shape (channel, time)
            Arrays in microvolt; of Raw the channels of training are taken, from volts.
        rest : sequence of str, or bool array of shape (time,), optional
            Annotations of Raw during which nothing is imagined, such as ``["T0"]``; for arrays the samples at which
            nothing is.
        threshold : float, default 0.8
            Probability from which on a decision would be acted upon.

        Returns
        -------
        Replay
            A decision is at rest if its whole window is.
        """
        signals, resting = self._read(recording, rest)
        self.reset()
        decisions = [
            d
            for part in range(0, signals.shape[1], self._step)
            for d in self.push(signals[:, part : part + self._step])
        ]
        n_times = self._window.shape[1]
        if not decisions:
            raise ValueError(
                f"recording must be at least as long as a window, {n_times} samples, got {signals.shape[1]}"
            )
        sfreq = self.classifier.sfreq_
        ends = np.asarray([round(d.time * sfreq) for d in decisions])
        at_rest = np.concatenate([[0], np.cumsum(resting)])
        quiet = at_rest[ends] - at_rest[ends - n_times] == n_times
        probabilities = np.stack([d.probabilities for d in decisions])
        above = probabilities.max(axis=1) >= threshold
        rising = above & ~np.concatenate([[False], above[:-1] & quiet[:-1]])
        minutes = quiet.sum() * self._step / sfreq / 60
        latency = np.asarray([d.latency for d in decisions])
        table = pd.DataFrame({"time": [d.time for d in decisions], "label": [d.label for d in decisions]})
        table["latency"], table["rest"] = latency, quiet
        for i, label in enumerate(self.classifier.classes_.tolist()):
            table[str(label)] = probabilities[:, i]
        return Replay(
            table,
            {
                "median": float(np.median(latency)),
                "p95": float(np.quantile(latency, 0.95)),
                "max": float(latency.max()),
            },
            float((rising & quiet).sum() / minutes) if minutes else float("nan"),
            threshold,
        )

    def _read(self, recording: Any, rest: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return signals in microvolt and which samples are at rest."""
        resting: NDArray[np.bool_]
        if not hasattr(recording, "annotations"):
            signals = np.asarray(recording, dtype=np.float64)
            check_shape("recording", signals, self._window.shape[0], "time")
            resting = np.zeros(signals.shape[1], dtype=bool) if rest is None else np.asarray(rest, dtype=bool)
            check_shape("rest", resting, signals.shape[1])
            return signals, resting
        import mne

        classifier = self.classifier
        if recording.info["sfreq"] != classifier.sfreq_:
            raise ValueError(
                f"recording must be sampled at {classifier.sfreq_:g} Hz as in training, "
                f"got {recording.info['sfreq']:g} Hz"
            )
        raw = recording.copy().rename_channels(standard_names(recording.ch_names))
        wanted = raw.copy().pick("eeg").ch_names if classifier.ch_names_ is None else classifier.ch_names_
        missing = sorted(set(wanted) - set(raw.ch_names))
        if missing or len(wanted) != classifier.n_chans_:
            raise ValueError(
                f"recording must have the {classifier.n_chans_} channels of training, got {len(raw.ch_names)}; "
                f"missing: {', '.join(missing) or 'unknown, since the classifier was fitted on arrays'}"
            )
        signals = 1e6 * raw.get_data(picks=wanted)
        resting = np.zeros(signals.shape[1], dtype=bool)
        marked = [a for a in raw.annotations if a["description"] in (rest or ())]
        if rest and not marked:
            present = ", ".join(sorted(set(raw.annotations.description)))
            raise ValueError(
                f"rest must name annotations of recording, got {rest!r}; it has {present or 'none'}"
            )
        if marked:
            codes = dict.fromkeys((a["description"] for a in marked), 1)
            starts = mne.events_from_annotations(raw, codes, verbose="error")[0][:, 0] - raw.first_samp
            for start, annotation in zip(starts, marked, strict=True):
                resting[start : start + round(annotation["duration"] * classifier.sfreq_)] = True
        return signals, resting

    def _filter(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._sos is None:
            return part
        if self._state is None:
            # As if the first sample had always been there.
            self._state = sosfilt_zi(self._sos)[:, None, :] * part[None, :, :1]
        filtered: NDArray[np.float64]
        filtered, self._state = sosfilt(self._sos, part, zi=self._state)
        return filtered

    def _append(self, part: NDArray[np.float64]) -> None:
        n_new = part.shape[1]
        self._window[:, :-n_new] = self._window[:, n_new:]
        self._window[:, -n_new:] = part

    def _decide(self, start: float) -> Decision:
        scaled = self.classifier._scale(self._window[None])
        probabilities = self.classifier._probabilities(scaled)[0]
        label = self.classifier.classes_[probabilities.argmax()]
        return Decision(
            self._seen / self.classifier.sfreq_, label, probabilities, time.perf_counter() - start
        )
